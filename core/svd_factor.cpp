// Triangular and orthogonal factorizations in panels; the rest of the matrix is updated by products.
#include <math.h>
#include <string.h>

#include <algorithm>

#include "core/svd_dense.h"
#include "core/svd_reflect.h"
#include "core/threads.h"

namespace whittle {

namespace {

constexpr int64_t kPanel = 48, kRowsPiece = 16;

}  // namespace

double reflect(const SvdKernels& kernels, int64_t n, double* x, double* beta) {
  const double first = x[0], rest = n > 1 ? sqrt(kernels.dot(n - 1, x + 1, x + 1)) : 0;
  *beta = first;
  x[0] = 1;
  if (rest == 0) return 0;
  const double norm = hypot(first, rest), b = first > 0 ? -norm : norm, scale = 1 / (first - b);
  *beta = b;
  for (int64_t i = 1; i < n; i++) x[i] *= scale;
  return (b - first) / b;
}

WhittleStatus apply_block(bool transpose, int64_t width, int64_t len, const double* v, int64_t ldv, const double* tau,
                          int64_t count, double* z, int64_t ldz, double* work, int threads) {
  constexpr int64_t kB = kReflectBlock;
  const SvdKernels& kernels = svd_kernels();
  double *inner = work, *t = work + kB * kB, *zv = t + kB * kB, *zvt = zv + count * kB;
  WhittleStatus s = dense_gemm({width, width, len}, rows_of<double>(v, ldv), columns_of<double>(v, ldv), inner, kB, threads);
  if (s != WHITTLE_OK) return s;
  std::fill(t, t + kB * kB, 0.0);
  for (int64_t i = 0; i < width; i++) {
    for (int64_t r = 0; r < i; r++) t[r * kB + i] = -tau[i] * kernels.dot(i - r, t + r * kB + r, inner + i * kB + r);
    t[i * kB + i] = tau[i];
  }
  s = dense_gemm({count, width, len}, rows_of<double>(z, ldz), columns_of<double>(v, ldv), zv, kB, threads);
  if (s != WHITTLE_OK) return s;
  const Strided<double> factor = transpose ? columns_of<double>(t, kB) : rows_of<double>(t, kB);
  s = dense_gemm({count, width, width}, rows_of<double>(zv, kB), factor, zvt, kB, threads);
  if (s != WHITTLE_OK) return s;
  return dense_gemm({count, len, width, -1, true}, rows_of<double>(zvt, kB), rows_of<double>(v, ldv), z, ldz, threads);
}

int64_t dense_cholesky(int64_t n, double* a, int64_t lda, int threads) {
  const SvdKernels& kernels = svd_kernels();
  for (int64_t p = 0; p < n; p += kPanel) {
    const int64_t end = std::min(p + kPanel, n);
    for (int64_t j = p; j < end; j++) {
      double* row = a + j * lda;
      for (int64_t q = p; q < j; q++) row[q] = (row[q] - kernels.dot(q - p, row + p, a + q * lda + p)) / a[q * lda + q];
      const double pivot = row[j] - kernels.dot(j - p, row + p, row + p);
      if (!(pivot > 0)) return j;
      row[j] = sqrt(pivot);
    }
    if (end == n) break;
    parallel_for(n - end, kRowsPiece, threads, [&](int64_t b, int64_t e) {
      for (int64_t i = end + b; i < end + e; i++) {
        double* row = a + i * lda;
        for (int64_t q = p; q < end; q++) row[q] = (row[q] - kernels.dot(q - p, row + p, a + q * lda + p)) / a[q * lda + q];
      }
    });
    double* below = a + end * lda + p;
    // Out of memory would leave a matrix that is not positive definite: report it as such a pivot.
    if (dense_gemm({n - end, n - end, end - p, -1, true, true}, rows_of<double>(below, lda), columns_of<double>(below, lda),
                   a + end * lda + end, lda, threads) != WHITTLE_OK)
      return end;
  }
  return -1;
}

WhittleStatus dense_solve_lt(int64_t m, int64_t n, const double* l, int64_t ldl, double* b, int64_t ldb, int threads) {
  const SvdKernels& kernels = svd_kernels();
  for (int64_t p = 0; p < n; p += kPanel) {
    const int64_t end = std::min(p + kPanel, n);
    if (p > 0) {
      const WhittleStatus s =
          dense_gemm({m, end - p, p, -1, true}, rows_of<double>(b, ldb), columns_of<double>(l + p * ldl, ldl), b + p, ldb, threads);
      if (s != WHITTLE_OK) return s;
    }
    parallel_for(m, kRowsPiece, threads, [&](int64_t begin, int64_t stop) {
      for (int64_t i = begin; i < stop; i++) {
        double* row = b + i * ldb;
        for (int64_t j = p; j < end; j++) row[j] = (row[j] - kernels.dot(j - p, row + p, l + j * ldl + p)) / l[j * ldl + j];
      }
    });
  }
  return WHITTLE_OK;
}

WhittleStatus dense_solve_l(int64_t m, int64_t n, const double* l, int64_t ldl, double* b, int64_t ldb, int threads) {
  const SvdKernels& kernels = svd_kernels();
  for (int64_t p = (n - 1) / kPanel * kPanel; n > 0 && p >= 0; p -= kPanel) {
    const int64_t end = std::min(p + kPanel, n);
    if (end < n) {
      const WhittleStatus s = dense_gemm({m, end - p, n - end, -1, true}, rows_of<double>(b + end, ldb),
                                         rows_of<double>(l + end * ldl + p, ldl), b + p, ldb, threads);
      if (s != WHITTLE_OK) return s;
    }
    parallel_for(m, kRowsPiece, threads, [&](int64_t begin, int64_t stop) {
      for (int64_t i = begin; i < stop; i++) {
        double* row = b + i * ldb;
        for (int64_t j = end - 1; j >= p; j--) {
          row[j] /= l[j * ldl + j];
          kernels.axpy(j - p, -row[j], l + j * ldl + p, row + p);
        }
      }
    });
  }
  return WHITTLE_OK;
}

WhittleStatus dense_lq(int64_t m, int64_t n, double* a, int64_t lda, double* r, int64_t ldr, int threads) {
  if (m <= 0) return WHITTLE_OK;
  const SvdKernels& kernels = svd_kernels();
  Workspace work;
  double* v = work.take(m * n);
  double* tau = work.take(m);
  double* block = work.take((2 * m + 2 * kReflectBlock) * kReflectBlock);
  if (!work.ok()) return WHITTLE_OUT_OF_MEMORY;
  for (int64_t p = 0; p < m; p += kReflectBlock) {
    const int64_t end = std::min(p + kReflectBlock, m);
    for (int64_t i = p; i < end; i++) {
      double *row = a + i * lda, *vi = v + i * n;
      if (r) {
        memcpy(r + i * ldr, row, static_cast<size_t>(i) * 8);
        std::fill(r + i * ldr + i, r + i * ldr + m, 0.0);
      }
      std::fill(vi, vi + i, 0.0);
      memcpy(vi + i, row + i, static_cast<size_t>(n - i) * 8);
      double beta;
      tau[i] = reflect(kernels, n - i, vi + i, &beta);
      if (r) r[i * ldr + i] = beta;
      for (int64_t q = i + 1; q < end; q++) {
        double* other = a + q * lda + i;
        kernels.axpy(n - i, -tau[i] * kernels.dot(n - i, other, vi + i), vi + i, other);
      }
    }
    if (end < m) {
      const WhittleStatus s = apply_block(false, end - p, n - p, v + p * n + p, n, tau + p, m - end, a + end * lda + p, lda, block, threads);
      if (s != WHITTLE_OK) return s;
    }
  }
  for (int64_t i = 0; i < m; i++) {
    std::fill(a + i * lda, a + i * lda + n, 0.0);
    a[i * lda + i] = 1;
  }
  // Rows before p are still unit vectors there, on which the block does nothing.
  for (int64_t p = (m - 1) / kReflectBlock * kReflectBlock; p >= 0; p -= kReflectBlock) {
    const int64_t end = std::min(p + kReflectBlock, m);
    const WhittleStatus s = apply_block(true, end - p, n - p, v + p * n + p, n, tau + p, m - p, a + p * lda + p, lda, block, threads);
    if (s != WHITTLE_OK) return s;
  }
  return WHITTLE_OK;
}

}  // namespace whittle
