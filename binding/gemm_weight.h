// Weights as lib/kernels/gemm_weight.ts describes them, for those who pack them.
#pragma once
#include <stdint.h>

#include "binding/call.h"
#include "core/gemm_weight.h"

namespace whittle {

constexpr int64_t kWeightParams = 14;

// The format that the numbers ask for.
int32_t weight_format(const double* numbers);
// Reads codes, scales and zero points, each checked to reach over the k x n matrix.
bool read_weight_source(Args& args, const double* numbers, int32_t format, int64_t k, int64_t n, int64_t blocks, WeightSource* source);

}  // namespace whittle
