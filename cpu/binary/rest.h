// The end of a row that fills no vector; of scalar, all of it. Included by kernels alone: static, no std.
#pragma once
#define WHITTLE_ISA_FILE
#include "core/binary.h"

namespace whittle {

// Elements [p, k) of BinaryKernels::pack on top of the eight sums so far; words are zero from p on.
static inline double binary_rest(const float* x, int64_t p, int64_t k, uint32_t* words, double* s) {
  for (; p < k; p++) {
    if (x[p] < 0) words[p / 32] |= static_cast<uint32_t>(1) << (p % 32);
    s[p % 8] += x[p] < 0 ? -static_cast<double>(x[p]) : static_cast<double>(x[p]);
  }
  return ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
}

}  // namespace whittle
