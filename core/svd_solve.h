// Singular value decompositions A = U diag(s) V^T of row-major float32 or float64 matrices, one or a stack of them.
//
// Both methods compute in float64 apart from the power steps of `randomized`, which are float32 products for float32
// input. `full`: eigenvectors of the Gram matrix of the shorter side, then A times these; singular values are the norms of
// the products, so that small ones lose nothing to the squaring; what is too small to be orthogonal on its own account
// (below 2e-5 of the largest for float32 input, everything for float64) is orthogonalized by one-sided Jacobi rotations.
// `randomized`: block Krylov space of the rows (Musco & Musco 2015), then the same on its projection.
//
// Signs: of each column of U the element of largest magnitude is positive (the first of equals). Results depend on the
// variant and the seed, not on the number of threads.
#pragma once
#include <stdint.h>

#include "core/status.h"

namespace whittle {

enum SvdMethod : int32_t { kSvdFull = 0, kSvdRandomized = 1 };

struct SvdProblem {
  int64_t batch = 1, m = 0, n = 0;   // m, n >= 1
  const void* a = nullptr;           // float or double
  bool wide = false;                 // double
  bool vectors = true;
  SvdMethod method = kSvdFull;
  int64_t max_rank = 0;              // 1 ... min(m, n)
  // Smallest rank whose squared error is at most (1 - energy) and tolerance^2 of the squared norm; negative: not asked.
  double energy = -1, tolerance = -1;
  int64_t iterations = 0, oversampling = -1;  // not given: as many as it takes; 0.75 rank, at least 32
  uint64_t seed = 0;
  int threads = 0;
  // m x rank, rank, n x rank for each of the batch, matrices max_rank columns apart. With one matrix u and v are written
  // with `rank` columns, in a batch with max_rank (zeros past a matrix's own rank).
  void *u = nullptr, *s = nullptr, *v = nullptr;
  void* spectrum = nullptr;          // optional, batch x min(m, n): all singular values known, zeros past them
};

struct SvdOutcome {
  int64_t rank = 0;          // the largest of the batch
  double error = 0;          // Frobenius norm of A - U diag(s) V^T over the whole batch
  double norm = 0;           // of A
  double improvement = 0;    // randomized: bound on how much the last iteration lowered the error, relative; the largest
  int64_t iterations = 0;    // the most of any matrix
  bool converged = true;     // all of them
  bool full = true;          // any of them was computed by kSvdFull
};

// WHITTLE_NONFINITE where a NaN or an infinity was found.
WhittleStatus svd_solve(const SvdProblem& problem, SvdOutcome* outcome);

// out (m x n) = A L with L L^T = moments + damping * mean(diagonal) * I, of which the lower triangle is read. Damping grows
// by tens until the sum is positive definite, WHITTLE_RANGE where 1 does not do. Element (i, j) of A lies at a[i * row + j * col].
struct SvdWhiten {
  int64_t m, n, row, col;
  const double* moments;
  double damping;
  double* l;     // n x n, written
  double* used;  // the damping that did
};
WhittleStatus svd_whiten(const SvdWhiten& w, const float* a, float* out, int threads);
WhittleStatus svd_whiten(const SvdWhiten& w, const double* a, double* out, int threads);
// Rows of B (rank x n) times the inverse of L, in place.
WhittleStatus svd_unwhiten(int64_t rank, int64_t n, const double* l, double* b, int threads);

}  // namespace whittle
