// What CP and Tucker share: unfoldings of a dense tensor, their Gram matrices and leading vectors. Private to core.
#pragma once
#include <math.h>
#include <string.h>

#include "core/factor.h"
#include "core/svd_dense.h"
#include "core/threads.h"

namespace whittle {

inline int64_t product_of(const int64_t* dims, int begin, int end) {
  int64_t n = 1;
  for (int i = begin; i < end; i++) n *= dims[i];
  return n;
}

// Rows of `out` are the slices along the middle of x [outer, dim, inner]: out[i][p * inner + q] = x[p][i][q].
template <class T>
void unfold(const T* x, int64_t outer, int64_t dim, int64_t inner, T* out, int threads) {
  parallel_for(dim, 1 + 65536 / (outer * inner), threads, [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; i++)
      for (int64_t p = 0; p < outer; p++)
        memcpy(out + (i * outer + p) * inner, x + (p * dim + i) * inner, static_cast<size_t>(inner) * sizeof(T));
  });
}

// The unfolding of mode k as a matrix of dims[k] rows: x itself where strides can say it, else a copy in `space`.
template <class T>
bool unfolded(const T* x, const int64_t* dims, int order, int k, Workspace* space, Strided<T>* out, int threads) {
  const int64_t outer = product_of(dims, 0, k), inner = product_of(dims, k + 1, order);
  if (outer == 1) {
    *out = {x, inner, 1};
  } else if (inner == 1) {
    *out = {x, 1, dims[k]};
  } else {
    T* copy = static_cast<T*>(space->bytes(outer * dims[k] * inner * static_cast<int64_t>(sizeof(T))));
    if (!copy) return false;
    unfold(x, outer, dims[k], inner, copy, threads);
    *out = {copy, outer * inner, 1};
  }
  return true;
}

// Spectrum of a rows x cols matrix through its smaller Gram matrix in double: `squares` (min(rows, cols), descending,
// never negative) and, one a row of `vectors` (count x rows), the left singular vectors of the largest `count`.
// A vector whose singular value is below 1e-7 of the largest is some vector orthogonal to the others.
template <class T>
WhittleStatus left_vectors(Strided<T> a, int64_t rows, int64_t cols, int64_t count, double* squares, double* vectors,
                           bool* converged, int threads) {
  const bool tall = rows > cols;
  const int64_t n = tall ? cols : rows, kept = count < n ? count : n;
  Workspace space;
  double *gram = space.take(n * n), *found = space.take(kept * n), *values = space.take(n);
  if (!space.ok()) return WHITTLE_OUT_OF_MEMORY;
  DenseProduct p;
  p.m = p.n = n;
  p.k = tall ? rows : cols;
  p.lower = true;
  const Strided<T> left = tall ? transposed(a) : a;
  WhittleStatus s = dense_gemm(p, left, transposed(left), gram, n, threads);
  if (s != WHITTLE_OK) return s;
  const Eigen e = dense_eigen(n, gram, n, values, kept, found, n, threads);
  if (e.status != WHITTLE_OK) return e.status;
  *converged = *converged && e.converged;
  for (int64_t i = 0; i < n; i++) squares[i] = values[n - 1 - i] > 0 ? values[n - 1 - i] : 0;
  if (!tall) {
    for (int64_t i = 0; i < kept; i++)
      memcpy(vectors + i * rows, found + (kept - 1 - i) * n, static_cast<size_t>(rows) * sizeof(double));
    return WHITTLE_OK;
  }
  // Left vectors are A v, made orthonormal: exact where the singular value is not lost beside the largest.
  double* right = space.take(kept * n);
  if (!space.ok()) return WHITTLE_OUT_OF_MEMORY;
  for (int64_t i = 0; i < kept; i++) memcpy(right + i * n, found + (kept - 1 - i) * n, static_cast<size_t>(n) * sizeof(double));
  DenseProduct q;
  q.m = kept;
  q.n = rows;
  q.k = cols;
  s = dense_gemm(q, rows_of(static_cast<const double*>(right), n), transposed(a), vectors, rows, threads);
  if (s != WHITTLE_OK) return s;
  for (int64_t i = kept; i < count; i++) memset(vectors + i * rows, 0, static_cast<size_t>(rows) * sizeof(double));
  return dense_lq(count, rows, vectors, rows, nullptr, 0, threads);
}

}  // namespace whittle
