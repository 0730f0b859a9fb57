// Dense linear algebra in float64 for the families svd and factor: kernels here, drivers in svd_dense.h (products,
// factorizations, eigenvalues) and svd_solve.h (singular values).
//
// A kernel is single-threaded over a contiguous piece; any alignment; sizes >= 0. Sums are chains or trees of fused
// multiply-adds whose shape depends on the variant and the sizes only. |error| of a sum of n products is at most
// gamma_n * sum |x||y|, gamma_n = n u / (1 - n u), u = 2^-53. NaN and infinities follow IEEE arithmetic.
#pragma once
#include <stdint.h>

namespace whittle {

constexpr int64_t kSvdPanel = 16;  // columns of `panel`
constexpr int64_t kSvdMaxK = 192;  // longest block of k that `tile` sees

struct SvdKernels {
  int32_t mr, nr;  // rows and columns of the register tile, mr <= kSvdMaxRows, nr <= kSvdMaxCols
  // c[i * ldc + j] = alpha * sum_p a[p * mr + i] b[p * nr + j] (+ c where `add`), i < rows <= mr, j < cols <= nr.
  // a and b are read to the full mr and nr; a and b 64-byte aligned.
  void (*tile)(int64_t k, const double* a, const double* b, double alpha, bool add, int64_t rows, int64_t cols, double* c,
               int64_t ldc);
  // y[i] += alpha * sum_j a[i * lda + j] x[j]
  void (*gemv)(int64_t rows, int64_t cols, const double* a, int64_t lda, const double* x, double alpha, double* y);
  // y[j] += alpha * sum_i a[i * lda + j] x[i]
  void (*gemv_t)(int64_t rows, int64_t cols, const double* a, int64_t lda, const double* x, double alpha, double* y);
  // The part of y += A x that rows [begin, end) of the lower triangle of a symmetric A give, both of a_ij and of a_ji:
  // y[i] += sum_(j <= i) a[i * lda + j] x[j], y[j] += a[i * lda + j] x[i] for j < i. Touches y[0, end).
  void (*symv)(int64_t begin, int64_t end, const double* a, int64_t lda, const double* x, double* y);
  double (*dot)(int64_t n, const double* x, const double* y);
  // sum_i x[i]^2: not finite where an x is not, and never else.
  double (*squares)(int64_t n, const float* x);
  void (*axpy)(int64_t n, double alpha, const double* x, double* y);
  // (x, y) = (c x + s y, c y - s x)
  void (*rotate)(int64_t n, double c, double s, double* x, double* y);
  // sums[0] = sum_j z2[j] / (gap[j] - tau), sums[1] = sum_j z2[j] / (gap[j] - tau)^2
  void (*poles)(int64_t n, const double* gap, const double* z2, double tau, double* sums);
  // Narrow float32 products with matrices 16 columns wide, k (cols x 16), y (rows x 16) and w (cols x 16), rows side by side:
  // y (+)= A k, of which y is set where not `add`, and w += A^T y. Chains of fused multiply-adds in order.
  void (*panel)(int64_t rows, int64_t cols, const float* a, int64_t lda, const float* k, bool add, float* y);
  void (*panel_t)(int64_t rows, int64_t cols, const float* a, int64_t lda, const float* y, float* w);
};
constexpr int64_t kSvdMaxRows = 16, kSvdMaxCols = 32;

}  // namespace whittle

#ifndef WHITTLE_ISA_FILE
#include "core/status.h"
#include "core/variants.h"

namespace whittle {

VariantList<SvdKernels> svd_variants();
Tier svd_tier();
const SvdKernels& svd_kernels();  // the strongest variant allowed

}  // namespace whittle
#endif
