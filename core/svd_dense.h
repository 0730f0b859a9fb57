// Dense float64 algebra on several threads, for the families svd and factor: products, triangular and orthogonal
// factorizations, symmetric eigenvalues. Everything is row-major; results do not depend on the number of threads
// (0: the limit). Nothing here looks for NaN: callers refuse it first, and every loop ends whatever the numbers are.
#pragma once
#include <stdint.h>

#include "core/status.h"
#include "core/svd.h"

namespace whittle {

// A matrix to read: element (i, j) at base[i * row + j * col]. Transposing swaps the strides.
template <class T>
struct Strided {
  const T* base;
  int64_t row, col;
};
template <class T>
Strided<T> rows_of(const T* base, int64_t row) {
  return {base, row, 1};
}
template <class T>
Strided<T> columns_of(const T* base, int64_t row) {
  return {base, 1, row};
}
template <class T>
Strided<T> transposed(Strided<T> a) {
  return {a.base, a.col, a.row};
}

// C (m x n, rows ldc apart) = alpha A B, or C + alpha A B where `add`. float32 operands are widened exactly. With
// `lower` only elements on and below the diagonal are promised; those above are overwritten or kept, unspecified.
struct DenseProduct {
  int64_t m, n, k;
  double alpha = 1;
  bool add = false, lower = false;
};
WhittleStatus dense_gemm(const DenseProduct& p, Strided<double> a, Strided<double> b, double* c, int64_t ldc, int threads);
WhittleStatus dense_gemm(const DenseProduct& p, Strided<float> a, Strided<float> b, double* c, int64_t ldc, int threads);
WhittleStatus dense_gemm(const DenseProduct& p, Strided<float> a, Strided<double> b, double* c, int64_t ldc, int threads);
WhittleStatus dense_gemm(const DenseProduct& p, Strided<double> a, Strided<float> b, double* c, int64_t ldc, int threads);

// Lower triangle of a symmetric positive definite A -> L with A = L L^T, in place. Answers the first column whose pivot
// is not positive, or -1; columns before it are done.
int64_t dense_cholesky(int64_t n, double* a, int64_t lda, int threads);
// Rows of B (m x n) times the inverse of L^T, in place: solves X L^T = B. And of L: X L = B.
WhittleStatus dense_solve_lt(int64_t m, int64_t n, const double* l, int64_t ldl, double* b, int64_t ldb, int threads);
WhittleStatus dense_solve_l(int64_t m, int64_t n, const double* l, int64_t ldl, double* b, int64_t ldb, int threads);

// Rows of Q: an orthonormal basis of the rows of A (m rows of length n, m <= n), in place, by Householder reflections, so
// that Q is orthonormal whatever the rank. `r` (m x m, ldr, may be null) gets the lower triangle with A = R Q, zeros above.
WhittleStatus dense_lq(int64_t m, int64_t n, double* a, int64_t lda, double* r, int64_t ldr, int threads);

// Eigenvalues (ascending) of a symmetric matrix, of which the lower triangle is read and destroyed, and with
// `vectors` (rows ldv apart, else null) the eigenvectors of the `wanted` largest of them, one a row, ascending.
struct Eigen {
  WhittleStatus status;
  int64_t iterations;  // of the slowest eigenvalue
  bool converged;      // false: some eigenvalue was left at the limit of iterations
};
Eigen dense_eigen(int64_t n, double* a, int64_t lda, double* values, int64_t wanted, double* vectors, int64_t ldv, int threads);
inline Eigen dense_eigen(int64_t n, double* a, int64_t lda, double* values, double* vectors, int64_t ldv, int threads) {
  return dense_eigen(n, a, lda, values, n, vectors, ldv, threads);
}

// Same for a tridiagonal matrix: diagonal d (becomes the eigenvalues) and n - 1 elements beside it in e (n long, destroyed).
Eigen tridiagonal_eigen(int64_t n, double* d, double* e, int64_t wanted, double* vectors, int64_t ldv, int threads);
Eigen tridiagonal_values(int64_t n, double* d, double* e);

// Memory that a call needs; `take` answers null where memory is out, and ok() stays false from then on. Given back, a block
// waits for the thread's next call, since fresh pages cost more than a small decomposition; at most kKept bytes do, and no large one.
class Workspace {
 public:
  Workspace() = default;
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  double* take(int64_t count) { return static_cast<double*>(bytes(count * 8)); }
  void* bytes(int64_t count);
  bool ok() const { return ok_; }

 private:
  static constexpr int kMost = 32;
  void* blocks_[kMost];
  int64_t sizes_[kMost];
  int count_ = 0;
  bool ok_ = true;
};

}  // namespace whittle
