// One run of floats to bytes: saturate(roundHalfEven(x / step) + zero), as QuantizeLinear has it; NaN gives the lowest code. The same
// codes as QuantizeKernels::codes8, by a product with the reciprocal wherever that decides, in a third of the time out of L1.
#pragma once
#include <stdint.h>

namespace whittle {

void bytes_of_floats(const float* x, int64_t n, float step, int32_t zero, bool sign, uint8_t* out);

}  // namespace whittle
