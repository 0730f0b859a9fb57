// Singular triplets that the Gram matrix cannot tell apart: LQ factorization of A V, then one-sided Jacobi rotations of
// the triangle (Hestenes 1958), in tournament order so that the pairs of a round are independent.
#include <float.h>
#include <math.h>
#include <string.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "core/svd_parts.h"
#include "core/threads.h"

namespace whittle {

namespace {

constexpr int kSweeps = 40;  // 2 to 6 are usual
constexpr int64_t kPairsPiece = 4;

// rows -= (rows base^T) base, twice: the second time removes what rounding left.
WhittleStatus project_out(int64_t have, const double* base, int64_t count, int64_t len, double* rows, double* work, int threads) {
  for (int pass = 0; pass < 2; pass++) {
    WhittleStatus s = dense_gemm({count, have, len}, rows_of<double>(rows, len), columns_of<double>(base, len), work, have, threads);
    if (s == WHITTLE_OK)
      s = dense_gemm({count, len, have, -1, true}, rows_of<double>(work, have), rows_of<double>(base, len), rows, len, threads);
    if (s != WHITTLE_OK) return s;
  }
  return WHITTLE_OK;
}

// Rotates rows of r (and of z alike) until they are orthogonal. Rows of norm <= negligible are left alone.
bool jacobi(int64_t n, int64_t len, double* r, int64_t thin, double* z, double loose, double negligible, double* norms, int threads,
            int64_t* sweeps) {
  const SvdKernels& kernels = svd_kernels();
  for (int64_t i = 0; i < n; i++) norms[i] = kernels.dot(len, r + i * len, r + i * len);
  const double floor = negligible * negligible;
  const int64_t seats = n + (n & 1), pairs = seats / 2;
  std::vector<int64_t> seat(static_cast<size_t>(seats));
  for (int64_t i = 0; i < seats; i++) seat[static_cast<size_t>(i)] = i;
  for (int sweep = 0; sweep < kSweeps; sweep++) {
    std::atomic<bool> moved{false};
    for (int64_t round = 0; round + 1 < seats; round++) {
      parallel_for(pairs, kPairsPiece, threads, [&](int64_t b, int64_t e) {
        for (int64_t k = b; k < e; k++) {
          int64_t i = seat[static_cast<size_t>(k)], j = seat[static_cast<size_t>(seats - 1 - k)];
          if (i > j) std::swap(i, j);
          if (j >= n || norms[i] <= floor || norms[j] <= floor) continue;
          double *x = r + i * len, *y = r + j * len;
          const double dot = kernels.dot(len, x, y);
          if (fabs(dot) <= loose * sqrt(norms[i]) * sqrt(norms[j])) continue;
          moved = true;
          // The larger of the angle's two solutions would swap the rows: take the smaller.
          const double zeta = (norms[i] - norms[j]) / (2 * dot), t = 1 / (zeta + copysign(sqrt(1 + zeta * zeta), zeta));
          const double c = 1 / sqrt(1 + t * t), s = c * t;
          kernels.rotate(len, c, s, x, y);
          kernels.rotate(thin, c, s, z + i * thin, z + j * thin);
          // The differences of close numbers would lose the small norm.
          norms[i] = kernels.dot(len, x, x);
          norms[j] = kernels.dot(len, y, y);
        }
      });
      std::rotate(seat.begin() + 1, seat.end() - 1, seat.end());
    }
    *sweeps = sweep + 1;
    if (!moved) return true;
  }
  return false;
}

}  // namespace

WhittleStatus svd_complete(int64_t have, int64_t want, int64_t len, double* x, int threads) {
  const int64_t count = want - have;
  if (count <= 0) return WHITTLE_OK;
  double* rows = x + have * len;
  uint64_t state = 0x5eed;
  for (int64_t i = 0; i < count * len; i++) rows[i] = svd_uniform(&state);
  if (have > 0) {
    Workspace work;
    double* inner = work.take(count * have);
    if (!work.ok()) return WHITTLE_OUT_OF_MEMORY;
    const WhittleStatus s = project_out(have, x, count, len, rows, inner, threads);
    if (s != WHITTLE_OK) return s;
  }
  WhittleStatus s = dense_lq(count, len, rows, len, nullptr, 0, threads);
  if (s != WHITTLE_OK || have == 0) return s;
  // A nearly singular draw leaves its rounding in the basis: once more from rows that are close to orthonormal.
  Workspace work;
  double* inner = work.take(count * have);
  if (!work.ok()) return WHITTLE_OUT_OF_MEMORY;
  s = project_out(have, x, count, len, rows, inner, threads);
  return s == WHITTLE_OK ? dense_lq(count, len, rows, len, nullptr, 0, threads) : s;
}

WhittleStatus svd_refine(int64_t from, double scale, double loose, int64_t tall, int64_t thin, SvdTriplets* t, int threads) {
  const SvdKernels& kernels = svd_kernels();
  const int64_t count = t->count - from;
  if (count <= 0) return WHITTLE_OK;
  Workspace work;
  double* inner = work.take(count * std::max(from, count));
  double* r = work.take(count * count);
  double* q = work.take(count * tall);
  double* norms = work.take(count);
  if (!work.ok()) return WHITTLE_OUT_OF_MEMORY;
  double* rows = t->left + from * tall;
  double* right = t->right + from * thin;
  WhittleStatus s = WHITTLE_OK;
  if (from > 0) {
    s = project_out(from, t->left, count, tall, rows, inner, threads);
    if (s != WHITTLE_OK) return s;
  }
  // Rows that are nothing but rounding get values of exactly 0 and vectors from the complement.
  const double negligible = scale * DBL_EPSILON * std::max(4.0, sqrt(static_cast<double>(thin)));
  int64_t kept = 0;
  for (int64_t i = 0; i < count; i++) {
    const double norm = sqrt(kernels.dot(tall, rows + i * tall, rows + i * tall));
    if (!(norm > negligible)) continue;
    if (kept < i) {
      for (int64_t j = 0; j < tall; j++) std::swap(rows[kept * tall + j], rows[i * tall + j]);
      for (int64_t j = 0; j < thin; j++) std::swap(right[kept * thin + j], right[i * thin + j]);
    }
    kept++;
  }
  std::fill(t->values + from, t->values + t->count, 0.0);
  if (kept > 0) {
    memcpy(q, rows, static_cast<size_t>(kept * tall) * 8);
    s = dense_lq(kept, tall, q, tall, r, kept, threads);
    if (s != WHITTLE_OK) return s;
    if (from > 0) {
      // Rows of small norm came out of the projection with its rounding, which the factorization magnified.
      s = project_out(from, t->left, kept, tall, q, inner, threads);
      if (s == WHITTLE_OK) s = dense_lq(kept, tall, q, tall, inner, kept, threads);
      if (s != WHITTLE_OK) return s;
      // The second triangle is the identity up to rounding and signs.
      for (int64_t j = 0; j < kept; j++)
        if (inner[j * kept + j] < 0)
          for (int64_t p = 0; p < tall; p++) q[j * tall + p] = -q[j * tall + p];
    }
    int64_t sweeps = 0;
    if (!jacobi(kept, kept, r, thin, right, loose, negligible, norms, threads, &sweeps)) t->converged = false;
    t->iterations = std::max(t->iterations, sweeps);
    // Rows of r are sigma times the rows that combine q; what became negligible goes last.
    int64_t good = 0;
    for (int64_t i = 0; i < kept; i++) {
      const double norm = sqrt(norms[i]);
      if (!(norm > negligible)) continue;
      if (good < i) {
        for (int64_t j = 0; j < kept; j++) std::swap(r[good * kept + j], r[i * kept + j]);
        for (int64_t j = 0; j < thin; j++) std::swap(right[good * thin + j], right[i * thin + j]);
        std::swap(norms[good], norms[i]);
      }
      t->values[from + good] = norm;
      for (int64_t j = 0; j < kept; j++) r[good * kept + j] /= norm;
      good++;
    }
    s = dense_gemm({good, tall, kept}, rows_of<double>(r, kept), rows_of<double>(q, tall), rows, tall, threads);
    if (s != WHITTLE_OK) return s;
    kept = good;
  }
  return svd_complete(from + kept, t->count, tall, t->left, threads);
}

WhittleStatus svd_sort(int64_t tall, int64_t thin, SvdTriplets* t) {
  bool sorted = true;
  for (int64_t i = 1; i < t->count; i++) sorted = sorted && t->values[i - 1] >= t->values[i];
  if (sorted) return WHITTLE_OK;
  Workspace work;
  const int64_t longest = t->left ? std::max(tall, thin) : thin;
  double* copy = work.take(t->count * longest);
  if (!work.ok()) return WHITTLE_OUT_OF_MEMORY;
  std::vector<int64_t> order(static_cast<size_t>(t->count));
  for (size_t i = 0; i < order.size(); i++) order[i] = static_cast<int64_t>(i);
  std::stable_sort(order.begin(), order.end(), [&](int64_t x, int64_t y) { return t->values[x] > t->values[y]; });
  const auto permute = [&](double* rows, int64_t len) {
    if (!rows) return;
    for (size_t i = 0; i < order.size(); i++)
      memcpy(copy + static_cast<int64_t>(i) * len, rows + order[i] * len, static_cast<size_t>(len) * 8);
    memcpy(rows, copy, static_cast<size_t>(t->count * len) * 8);
  };
  permute(t->values, 1);
  permute(t->left, tall);
  permute(t->right, thin);
  return WHITTLE_OK;
}

}  // namespace whittle
