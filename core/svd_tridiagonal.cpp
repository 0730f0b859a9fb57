// Symmetric matrix -> tridiagonal by Householder reflections in panels: half the work is A v (each element of the lower
// triangle read once), half the product that updates the rest. The reflectors are kept in the rows of the upper triangle
// and applied to the tridiagonal's eigenvectors in blocks I - V T V^T.
#include <math.h>
#include <string.h>

#include <algorithm>

#include "core/paged.h"
#include "core/svd_dense.h"
#include "core/svd_reflect.h"
#include "core/threads.h"

namespace whittle {

namespace {

constexpr int64_t kPanel = 32;
constexpr int64_t kSlabElements = 64 << 10, kMostSlabs = 16;

// y = A x over the lower triangle, cut into slabs of equal area; the slabs' parts are added in order.
struct Symv {
  const SvdKernels& kernels;
  double* parts;  // kMostSlabs rows of n
  int64_t n;
  int threads;

  void run(int64_t m, const double* a, int64_t lda, const double* x, double* y) {
    const int64_t slabs = std::max<int64_t>(1, std::min(kMostSlabs, m * m / 2 / kSlabElements));
    int64_t ends[kMostSlabs + 1] = {0};
    for (int64_t s = 1; s <= slabs; s++) {
      const int64_t end = static_cast<int64_t>(static_cast<double>(m) * sqrt(static_cast<double>(s) / static_cast<double>(slabs)));
      ends[s] = s == slabs ? m : std::min(m, end / 4 * 4);
    }
    parallel_for(slabs, 1, threads, [&](int64_t begin, int64_t end) {
      for (int64_t s = begin; s < end; s++) {
        double* part = s == slabs - 1 ? y : parts + s * n;
        std::fill(part, part + ends[s + 1], 0.0);
        kernels.symv(ends[s], ends[s + 1], a, lda, x, part);
      }
    });
    for (int64_t s = 0; s + 1 < slabs; s++) kernels.axpy(ends[s + 1], 1, parts + s * n, y);
  }
};

WhittleStatus tridiagonalize(int64_t n, double* a, int64_t lda, double* d, double* e, double* tau, int threads) {
  const SvdKernels& kernels = svd_kernels();
  Workspace work;
  // V, W and V again, so that [V W] and [W V] are both contiguous.
  double* v = work.take(3 * kPanel * n);
  double* parts = work.take(kMostSlabs * n);
  double* x = work.take(n);
  if (!work.ok()) return WHITTLE_OUT_OF_MEMORY;
  double* w = v + kPanel * n;
  double t[2 * kPanel];
  Symv symv = {kernels, parts, n, threads};
  for (int64_t p = 0; p < n; p += kPanel) {
    const int64_t width = std::min(kPanel, n - p);
    for (int64_t l = 0; l < width; l++) {
      const int64_t j = p + l, m = n - j - 1;
      for (int64_t i = j; i < n; i++) x[i] = a[i * lda + j];
      for (int64_t q = 0; q < l; q++) {
        t[q] = w[q * n + j];
        t[kPanel + q] = v[q * n + j];
      }
      kernels.gemv_t(l, m + 1, v + j, n, t, -1, x + j);
      kernels.gemv_t(l, m + 1, w + j, n, t + kPanel, -1, x + j);
      d[j] = x[j];
      if (m == 0) break;
      double *vj = v + l * n, *wj = w + l * n;
      tau[j] = reflect(kernels, m, x + j + 1, e + j);
      // The panel's product reads rows from column p + width on: all of it is written here, for j < p + width.
      memcpy(vj + j + 1, x + j + 1, static_cast<size_t>(m) * 8);
      memcpy(a + j * lda + j + 1, x + j + 1, static_cast<size_t>(m) * 8);
      if (tau[j] == 0) {
        std::fill(wj + j + 1, wj + n, 0.0);
        continue;
      }
      symv.run(m, a + (j + 1) * lda + j + 1, lda, vj + j + 1, wj + j + 1);
      std::fill(t, t + 2 * kPanel, 0.0);
      kernels.gemv(l, m, w + j + 1, n, vj + j + 1, 1, t);
      kernels.gemv(l, m, v + j + 1, n, vj + j + 1, 1, t + kPanel);
      kernels.gemv_t(l, m, v + j + 1, n, t, -1, wj + j + 1);
      kernels.gemv_t(l, m, w + j + 1, n, t + kPanel, -1, wj + j + 1);
      const double half = -0.5 * tau[j] * tau[j] * kernels.dot(m, wj + j + 1, vj + j + 1);
      for (int64_t i = j + 1; i < n; i++) wj[i] *= tau[j];
      kernels.axpy(m, half, vj + j + 1, wj + j + 1);
    }
    const int64_t from = p + width, rest = n - from;
    if (rest <= 0) break;
    for (int64_t l = 0; l < width; l++) memcpy(v + (2 * kPanel + l) * n + from, v + l * n + from, static_cast<size_t>(rest) * 8);
    DenseProduct update = {rest, rest, 2 * kPanel, -1, true, true};
    const WhittleStatus s = dense_gemm(update, columns_of<double>(v + from, n), rows_of<double>(w + from, n),
                                       a + from * lda + from, lda, threads);
    if (s != WHITTLE_OK) return s;
  }
  return WHITTLE_OK;
}

// Rows z of Z become (Q z)^T, Q = H_0 H_1 ... with the reflectors in the rows of a's upper triangle.
WhittleStatus apply_reflectors(int64_t n, const double* a, int64_t lda, const double* tau, int64_t count, double* z, int64_t ldz,
                               int threads) {
  Workspace work;
  double* v = work.take(kReflectBlock * n);
  double* block = work.take((2 * count + 2 * kReflectBlock) * kReflectBlock);
  if (!work.ok()) return WHITTLE_OUT_OF_MEMORY;
  const int64_t reflectors = n - 2;
  for (int64_t p = (reflectors - 1) / kReflectBlock * kReflectBlock; reflectors > 0 && p >= 0; p -= kReflectBlock) {
    const int64_t width = std::min(kReflectBlock, reflectors - p), from = p + 1, len = n - from;
    for (int64_t l = 0; l < width; l++) {
      std::fill(v + l * len, v + l * len + l, 0.0);
      memcpy(v + l * len + l, a + (p + l) * lda + from + l, static_cast<size_t>(len - l) * 8);
    }
    const WhittleStatus s = apply_block(true, width, len, v, len, tau + p, count, z + from, ldz, block, threads);
    if (s != WHITTLE_OK) return s;
  }
  return WHITTLE_OK;
}

}  // namespace

Eigen dense_eigen(int64_t n, double* a, int64_t lda, double* values, int64_t wanted, double* vectors, int64_t ldv, int threads) {
  if (n <= 0) return {WHITTLE_OK, 0, true};
  Workspace work;
  double* e = work.take(n);
  double* tau = work.take(n);
  if (!work.ok()) return {WHITTLE_OUT_OF_MEMORY, 0, false};
  WhittleStatus s = tridiagonalize(n, a, lda, values, e, tau, threads);
  if (s != WHITTLE_OK) return {s, 0, false};
  if (!vectors) return tridiagonal_values(n, values, e);
  // The reflectors wait: what lies in a file need not be in memory meanwhile.
  paged_release();
  const Eigen r = tridiagonal_eigen(n, values, e, wanted, vectors, ldv, threads);
  if (r.status != WHITTLE_OK) return r;
  s = apply_reflectors(n, a, lda, tau, wanted, vectors, ldv, threads);
  return {s, r.iterations, r.converged};
}

}  // namespace whittle
