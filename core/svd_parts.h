// Pieces that the ways to a singular value decomposition share. Vectors are rows of float64 matrices here; X is the
// matrix as seen from its long side: `tall` x `thin`, tall >= thin.
#pragma once
#include "core/svd_dense.h"
#include "core/svd_rules.h"
#include "core/svd_solve.h"

namespace whittle {

template <class T>
struct SvdView {
  int64_t tall, thin;
  Strided<T> x;
  int threads;
};

// A decomposition in the making: `count` triplets, values descending, rows of left (count x tall) and right (count x thin).
struct SvdTriplets {
  int64_t count = 0;
  double *values = nullptr, *left = nullptr, *right = nullptr;
  bool converged = true;
  int64_t iterations = 0;
};

// SplitMix64 to [-1, 1): a start for what any vector would do for.
inline double svd_uniform(uint64_t* state) {
  uint64_t z = (*state += 0x9e3779b97f4a7c15ull);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  z ^= z >> 31;
  return static_cast<double>(static_cast<int64_t>(z)) * 0x1p-63;
}

// Squared errors by rank from singular values: tail[r] = sum of squares past the r-th.
void svd_tails(int64_t count, const double* values, double* tail);

// Rows [from, count) of left, which are right_i X^T, are of vectors too small or too close to be orthogonal: makes triplets of
// them. Rows before `from` of left are orthonormal, and stay. `scale` is the largest singular value; `loose` is the cosine
// that counts as orthogonal.
WhittleStatus svd_refine(int64_t from, double scale, double loose, int64_t tall, int64_t thin, SvdTriplets* t, int threads);

// Rows [have, want) of x (rows ldx long `len`) become an orthonormal complement's to the orthonormal rows before them.
WhittleStatus svd_complete(int64_t have, int64_t want, int64_t len, double* x, int threads);

// Triplets in descending order of value.
WhittleStatus svd_sort(int64_t tall, int64_t thin, SvdTriplets* t);

template <class T>
WhittleStatus svd_full(const SvdProblem& p, const SvdView<T>& view, Workspace* work, SvdTriplets* t, double* spectrum, double* norm2);

// `full` says that the space would have been the whole, and svd_full has answered instead.
template <class T>
WhittleStatus svd_randomized(const SvdProblem& p, const SvdView<T>& view, Workspace* work, SvdTriplets* t, double* spectrum,
                             double norm2, double* improvement, bool* full);

}  // namespace whittle
