#include "core/svd_solve.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "core/svd_parts.h"
#include "core/threads.h"

namespace whittle {

namespace {

constexpr int64_t kScanPiece = 64 << 10, kWritePiece = 64 << 10;

// Largest magnitude, or a negative number where one is not finite.
template <class T>
double largest(int64_t count, const T* a, int threads) {
  std::atomic<bool> bad{false};
  std::atomic<double> most{0};
  parallel_for(count, kScanPiece, threads, [&](int64_t b, int64_t e) {
    // Not the exponent's rule but arithmetic: the sum of x - x is NaN or 0.
    T sum = 0, max = 0;
    for (int64_t i = b; i < e; i++) {
      sum += a[i] - a[i];
      const T x = a[i] < 0 ? -a[i] : a[i];
      max = x > max ? x : max;
    }
    if (!(sum == 0)) bad = true;
    double old = most.load();
    while (old < max && !most.compare_exchange_weak(old, max)) {
    }
  });
  return bad ? -1 : most.load();
}

// Sum of squares, false where an element is not finite. Squares of float32 fit float64 whatever they are.
bool scan(int64_t count, const float* a, int*, double* norm2, int threads) {
  const SvdKernels& kernels = svd_kernels();
  const int64_t pieces = (count + kScanPiece - 1) / kScanPiece;
  std::vector<double> sums(static_cast<size_t>(pieces));
  parallel_for(pieces, 1, threads, [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; i++)
      sums[static_cast<size_t>(i)] = kernels.squares(std::min(kScanPiece, count - i * kScanPiece), a + i * kScanPiece);
  });
  for (double s : sums) *norm2 += s;
  return *norm2 < INFINITY;
}

// Squares of float64 may overflow or vanish: asks for a scaling by 2^-exponent first, which changes no digit.
bool scan(int64_t count, const double* a, int* exponent, double* norm2, int threads) {
  const double most = largest(count, a, threads);
  if (most < 0) return false;
  if (most > 0) frexp(most, exponent);
  if (abs(*exponent) < 200) *exponent = 0;
  const SvdKernels& kernels = svd_kernels();
  if (*exponent == 0)
    for (int64_t i = 0; i < count; i += kScanPiece) *norm2 += kernels.dot(std::min(kScanPiece, count - i), a + i, a + i);
  return true;
}

// Squared Frobenius norm of what the triplets leave of X.
template <class T>
WhittleStatus measure(const SvdView<T>& view, const SvdTriplets& t, double* error2) {
  const SvdKernels& kernels = svd_kernels();
  constexpr int64_t kRows = 128;
  Workspace work;
  double* rest = work.take(kRows * view.thin);
  double* scaled = work.take(t.count * view.thin);
  if (!work.ok()) return WHITTLE_OUT_OF_MEMORY;
  for (int64_t k = 0; k < t.count; k++)
    for (int64_t j = 0; j < view.thin; j++) scaled[k * view.thin + j] = t.values[k] * t.right[k * view.thin + j];
  *error2 = 0;
  for (int64_t i = 0; i < view.tall; i += kRows) {
    const int64_t rows = std::min(kRows, view.tall - i);
    for (int64_t r = 0; r < rows; r++)
      for (int64_t j = 0; j < view.thin; j++)
        rest[r * view.thin + j] = static_cast<double>(view.x.base[(i + r) * view.x.row + j * view.x.col]);
    const WhittleStatus s = dense_gemm({rows, view.thin, t.count, -1, true}, columns_of<double>(t.left + i, view.tall),
                                       rows_of<double>(scaled, view.thin), rest, view.thin, view.threads);
    if (s != WHITTLE_OK) return s;
    *error2 += kernels.dot(rows * view.thin, rest, rest);
  }
  return WHITTLE_OK;
}

// Columns of `out` (len x rank, rows `row` apart) from rows of `from`, times signs.
template <class T>
void write_columns(int64_t rank, int64_t len, const double* from, const double* signs, T* out, int64_t row, int threads) {
  parallel_for(len, std::max<int64_t>(1, kWritePiece / rank), threads, [&](int64_t b, int64_t e) {
    for (int64_t r = 0; r < rank; r += 8) {
      const int64_t end = std::min(r + 8, rank);
      for (int64_t i = b; i < e; i++)
        for (int64_t k = r; k < end; k++) out[i * row + k] = static_cast<T>(signs[k] * from[k * len + i]);
    }
  });
}

template <class T>
void column_signs(int64_t rank, int64_t len, const double* from, double* signs) {
  for (int64_t k = 0; k < rank; k++) {
    const double* x = from + k * len;
    int64_t at = 0;
    for (int64_t i = 1; i < len; i++)
      if (fabs(static_cast<double>(static_cast<T>(x[i]))) > fabs(static_cast<double>(static_cast<T>(x[at])))) at = i;
    signs[k] = x[at] < 0 ? -1 : 1;
  }
}

struct One {
  int64_t rank = 0, iterations = 0;
  double error2 = 0, norm2 = 0, improvement = 0;
  bool converged = true, full = true;
};

template <class T>
WhittleStatus solve_one(const SvdProblem& p, int64_t index, int threads, One* out) {
  const int64_t m = p.m, n = p.n, thin = std::min(m, n), tall = std::max(m, n);
  const T* a = static_cast<const T*>(p.a) + index * m * n;
  Workspace work;
  double* spectrum = work.take(thin);
  double* tail = work.take(thin + 1);
  if (!work.ok()) return WHITTLE_OUT_OF_MEMORY;
  int exponent = 0;
  double norm2 = 0;
  if (!scan(m * n, a, &exponent, &norm2, threads)) return WHITTLE_NONFINITE;
  if (exponent) {
    double* copy = work.take(m * n);
    if (!work.ok()) return WHITTLE_OUT_OF_MEMORY;
    for (int64_t i = 0; i < m * n; i++) copy[i] = ldexp(static_cast<double>(a[i]), -exponent);
    norm2 = svd_kernels().dot(m * n, copy, copy);
    a = reinterpret_cast<const T*>(copy);
  }
  const SvdView<T> view = {tall, thin, m >= n ? rows_of<T>(a, n) : columns_of<T>(a, n), threads};
  SvdTriplets t;
  std::fill(spectrum, spectrum + thin, 0.0);
  WhittleStatus s;
  out->full = p.method == kSvdFull;
  if (out->full) s = svd_full(p, view, &work, &t, spectrum, &norm2);
  else s = svd_randomized(p, view, &work, &t, spectrum, norm2, &out->improvement, &out->full);
  if (s != WHITTLE_OK) return s;
  svd_tails(thin, spectrum, tail);
  double error2 = tail[t.count];
  if (!out->full) {
    error2 = norm2;
    for (int64_t i = 0; i < t.count; i++) error2 -= t.values[i] * t.values[i];
    // What the subtraction cannot resolve is measured.
    if (!(error2 > norm2 * (sizeof(T) == 4 ? 1e-4 : 1e-9)) && p.vectors) s = measure(view, t, &error2);
    if (s != WHITTLE_OK) return s;
    error2 = std::max(0.0, error2);
  }
  out->rank = t.count;
  out->iterations = t.iterations;
  out->converged = t.converged;
  out->error2 = ldexp(error2, 2 * exponent);
  out->norm2 = ldexp(norm2, 2 * exponent);
  const int64_t columns = p.batch > 1 ? p.max_rank : t.count;
  T* values = static_cast<T*>(p.s) + index * p.max_rank;
  for (int64_t i = 0; i < p.max_rank; i++) values[i] = i < t.count ? static_cast<T>(ldexp(t.values[i], exponent)) : 0;
  if (p.spectrum)
    for (int64_t i = 0; i < thin; i++) static_cast<T*>(p.spectrum)[index * thin + i] = static_cast<T>(ldexp(spectrum[i], exponent));
  if (!p.vectors) return WHITTLE_OK;
  double* signs = work.take(t.count);
  if (!work.ok()) return WHITTLE_OUT_OF_MEMORY;
  const double *left = m >= n ? t.left : t.right, *right = m >= n ? t.right : t.left;
  column_signs<T>(t.count, m, left, signs);
  write_columns(t.count, m, left, signs, static_cast<T*>(p.u) + index * m * p.max_rank, columns, threads);
  write_columns(t.count, n, right, signs, static_cast<T*>(p.v) + index * n * p.max_rank, columns, threads);
  return WHITTLE_OK;
}

}  // namespace

WhittleStatus svd_solve(const SvdProblem& p, SvdOutcome* outcome) {
  std::atomic<int32_t> status{WHITTLE_OK};
  Workspace work;
  One* ones = static_cast<One*>(work.bytes(p.batch * static_cast<int64_t>(sizeof(One))));
  if (!work.ok()) return WHITTLE_OUT_OF_MEMORY;
  // A stack uses the threads side by side, one matrix uses them inside.
  const auto solve = [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; i++) {
      ones[i] = One();
      const WhittleStatus s = p.wide ? solve_one<double>(p, i, p.threads, ones + i) : solve_one<float>(p, i, p.threads, ones + i);
      if (s != WHITTLE_OK) status = s;
    }
  };
  if (p.batch == 1) solve(0, 1);
  else parallel_for(p.batch, 1, p.threads, solve);
  if (status != WHITTLE_OK) return static_cast<WhittleStatus>(status.load());
  double error2 = 0, norm2 = 0;
  for (int64_t i = 0; i < p.batch; i++) {
    outcome->rank = std::max(outcome->rank, ones[i].rank);
    outcome->iterations = std::max(outcome->iterations, ones[i].iterations);
    outcome->improvement = std::max(outcome->improvement, ones[i].improvement);
    outcome->converged = outcome->converged && ones[i].converged;
    outcome->full = i == 0 ? ones[i].full : outcome->full || ones[i].full;
    error2 += ones[i].error2;
    norm2 += ones[i].norm2;
  }
  outcome->error = sqrt(error2);
  outcome->norm = sqrt(norm2);
  return WHITTLE_OK;
}

}  // namespace whittle
