// Rows that are normalized or summed: softmax, layer normalization, reductions along contiguous memory. float32.
//
// Numbers: softmax subtracts the row's maximum first; its result is within (n + 16) * 2^-23 relative of the exact one, and
// log_softmax keeps the small difference and the log apart. Means and variances accumulate in double where scalar does it
// and in four or more float chains where vectors do: within n/8 * 2^-23 of the sum of magnitudes. NaN in a row makes the
// row NaN.
#pragma once
#include <stdint.h>

namespace whittle {

struct NormKernels {
  // out may be x. log: the logarithm of the softmax.
  void (*softmax)(int64_t n, const float* x, int32_t log, float* out);
  // softmax of each of `rows` rows, `stride` floats apart, in place. `factors`, unless null: exponentials are left as they are,
  // at most 1, and a row's factor is what makes them a softmax.
  void (*softmax_rows)(int64_t rows, int64_t n, float* x, int64_t stride, float* factors);
  // Row i times factors[i], in place.
  void (*scale_rows)(int64_t rows, int64_t n, float* x, int64_t stride, const float* factors);
  // (x - mean) / sqrt(variance + epsilon) * gamma + beta of each of `rows` rows, variance over n; where `centered` is 0, the mean is
  // taken to be 0 (RMS normalization). gamma and beta may be null. out may be x. `range`, unless null, is lowered and raised to hold what is written, and NaN twice where that is not finite.
  void (*layer)(int64_t rows, int64_t n, int32_t centered, const float* x, const float* gamma, const float* beta, float epsilon, float* out,
                float* range);
  float (*sum)(int64_t n, const float* x);
  float (*sum_squares)(int64_t n, const float* x);
  float (*sum_abs)(int64_t n, const float* x);
  float (*top)(int64_t n, const float* x);     // maximum; NaN wins
  float (*bottom)(int64_t n, const float* x);  // minimum; NaN wins
};

}  // namespace whittle

#ifndef WHITTLE_ISA_FILE
#include "core/variants.h"

namespace whittle {

VariantList<NormKernels> norm_variants();
const NormKernels& norm_kernels();
Tier norm_tier();

// `rows` rows of n, contiguous.
void softmax_rows(int64_t rows, int64_t n, const float* x, bool log, float* out, int threads);
// `range`: null, or two floats that become the lowest and highest result, 0 among them; NaN twice where one is not finite.
void layer_rows(int64_t rows, int64_t n, bool centered, const float* x, const float* gamma, const float* beta, float epsilon, float* out,
                float* range, int threads);

enum ReduceKind : int32_t { kReduceSum = 0, kReduceMean, kReduceMax, kReduceMin, kReduceL1, kReduceL2, kReduceSumSquare, kReduceLogSum, kReduceLogSumExp, kReduceProd };
// x as [outer][n][inner]: reduces n, out [outer][inner].
bool reduce_middle(ReduceKind kind, int64_t outer, int64_t n, int64_t inner, const float* x, float* out, int threads);

}  // namespace whittle
#endif
