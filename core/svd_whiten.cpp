// Activation-aware factors (SVD-LLM 2024): what L L^T = C + damping I does to a weight, and back.
#include <math.h>

#include <algorithm>

#include "core/paged.h"
#include "core/svd_dense.h"
#include "core/svd_solve.h"

namespace whittle {

namespace {

constexpr double kMostDamping = 1;
// Elements of the product in float64 that are held at a time, and elements that are copied before pages of mapped memory go back.
constexpr int64_t kPart = 1 << 20, kCopied = 4 << 20;

template <class T>
WhittleStatus whiten(const SvdWhiten& w, const T* a, T* out, int threads) {
  const int64_t n = w.n;
  double mean = 0;
  for (int64_t i = 0; i < n; i++) mean += w.moments[i * n + i];
  mean /= static_cast<double>(n);
  // Rounding may have made a semidefinite matrix indefinite: more damping until it is not.
  for (double damping = w.damping;; damping = std::max(10 * damping, 1e-12)) {
    if (!(damping <= kMostDamping)) return WHITTLE_RANGE;
    for (int64_t i = 0, copied = 0; i < n; i++) {
      std::copy(w.moments + i * n, w.moments + i * n + i + 1, w.l + i * n);
      std::fill(w.l + i * n + i + 1, w.l + (i + 1) * n, 0.0);
      w.l[i * n + i] += damping * mean;
      if ((copied += n) < kCopied) continue;
      paged_release();
      copied = 0;
    }
    *w.used = damping;
    if (dense_cholesky(n, w.l, n, threads) < 0) break;
  }
  // Above the diagonal the products of the factorization have left numbers.
  for (int64_t i = 0; i < n; i++) std::fill(w.l + i * n + i + 1, w.l + (i + 1) * n, 0.0);
  Workspace work;
  const int64_t part = std::min(w.m, std::max<int64_t>(1, kPart / n));
  double* product = work.take(part * n);
  if (!work.ok()) return WHITTLE_OUT_OF_MEMORY;
  for (int64_t r = 0, made = 0; r < w.m; r += part) {
    const int64_t rows = std::min(part, w.m - r);
    const WhittleStatus s = dense_gemm({rows, n, n}, Strided<T>{a + r * w.row, w.row, w.col}, rows_of<double>(w.l, n), product, n, threads);
    if (s != WHITTLE_OK) return s;
    T* to = out + r * n;
    for (int64_t i = 0; i < rows * n; i++) {
      to[i] = static_cast<T>(product[i]);
      if (!(fabs(static_cast<double>(to[i])) < INFINITY)) return WHITTLE_NONFINITE;
    }
    if ((made += rows * n) < kCopied) continue;
    paged_release();
    made = 0;
  }
  return WHITTLE_OK;
}

}  // namespace

WhittleStatus svd_whiten(const SvdWhiten& w, const float* a, float* out, int threads) { return whiten(w, a, out, threads); }
WhittleStatus svd_whiten(const SvdWhiten& w, const double* a, double* out, int threads) { return whiten(w, a, out, threads); }

WhittleStatus svd_unwhiten(int64_t rank, int64_t n, const double* l, double* b, int threads) {
  return dense_solve_l(rank, n, l, n, b, n, threads);
}

}  // namespace whittle
