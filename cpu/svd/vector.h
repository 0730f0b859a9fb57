// The float64 kernels over a vector `vd` of kLanes doubles, which the including file defines with vd_load, vd_store, vd_set,
// vd_widen (from floats),
// vd_zero, vd_add, vd_sub, vd_mul, vd_div, vd_fma(x, y, z) = x y + z, vd_fnma = z - x y, vd_fma_into(z, x, y), vd_sum and
// vd_load_part/vd_store_part for the first n lanes (others read as 0); and kMr x kVectors, the register tile.
#pragma once
#include "core/svd.h"

using namespace whittle;

static const int kNr = kVectors * kLanes;

template <int R>
INLINE void tile_rows(int64_t k, const double* a, const double* b, double alpha, bool add, int64_t cols, double* c,
                      int64_t ldc) {
  vd acc[R][kVectors];
  UNROLL for (int i = 0; i < R; i++)
    UNROLL for (int v = 0; v < kVectors; v++) acc[i][v] = vd_zero();
  for (int64_t p = 0; p < k; p++, a += kMr, b += kNr) {
    vd x[kVectors];
    UNROLL for (int v = 0; v < kVectors; v++) x[v] = vd_load(b + v * kLanes);
    UNROLL for (int i = 0; i < R; i++) {
      const vd y = vd_set(a[i]);
      UNROLL for (int v = 0; v < kVectors; v++) vd_fma_into(acc[i][v], x[v], y);
    }
  }
  const vd f = vd_set(alpha);
  UNROLL for (int i = 0; i < R; i++)
    UNROLL for (int v = 0; v < kVectors; v++) {
      const int64_t left = cols - v * kLanes;
      double* to = c + i * ldc + v * kLanes;
      if (left >= kLanes) vd_store(to, add ? vd_fma(f, acc[i][v], vd_load(to)) : vd_mul(f, acc[i][v]));
      else if (left > 0)
        vd_store_part(to, add ? vd_fma(f, acc[i][v], vd_load_part(to, left)) : vd_mul(f, acc[i][v]), left);
    }
}

static void tile_full(int64_t k, const double* a, const double* b, double alpha, bool add, int64_t cols, double* c, int64_t ldc) {
  tile_rows<kMr>(k, a, b, alpha, add, cols, c, ldc);
}
static void tile_half(int64_t k, const double* a, const double* b, double alpha, bool add, int64_t cols, double* c, int64_t ldc) {
  tile_rows<kMr / 2>(k, a, b, alpha, add, cols, c, ldc);
}

static void tile(int64_t k, const double* a, const double* b, double alpha, bool add, int64_t rows, int64_t cols, double* c,
                 int64_t ldc) {
  if (rows == kMr) return tile_full(k, a, b, alpha, add, cols, c, ldc);
  if (rows == kMr / 2) return tile_half(k, a, b, alpha, add, cols, c, ldc);
  // Rows that are not there go to memory that is.
  double part[kMr * kNr];
  if (rows < kMr / 2) tile_half(k, a, b, alpha, false, kNr, part, kNr);
  else tile_full(k, a, b, alpha, false, kNr, part, kNr);
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < cols; j += kLanes) {
      const int64_t left = cols - j < kLanes ? cols - j : kLanes;
      double* to = c + i * ldc + j;
      const vd x = vd_load(part + i * kNr + j);
      vd_store_part(to, add ? vd_add(x, vd_load_part(to, left)) : x, left);
    }
}

static double dot(int64_t n, const double* x, const double* y) {
  vd s[4];
  UNROLL for (int u = 0; u < 4; u++) s[u] = vd_zero();
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes)
    UNROLL for (int u = 0; u < 4; u++) s[u] = vd_fma(vd_load(x + i + u * kLanes), vd_load(y + i + u * kLanes), s[u]);
  for (; i + kLanes <= n; i += kLanes) s[0] = vd_fma(vd_load(x + i), vd_load(y + i), s[0]);
  if (i < n) s[1] = vd_fma(vd_load_part(x + i, n - i), vd_load_part(y + i, n - i), s[1]);
  return vd_sum(vd_add(vd_add(s[0], s[1]), vd_add(s[2], s[3])));
}

static double squares(int64_t n, const float* x) {
  vd s[4];
  UNROLL for (int u = 0; u < 4; u++) s[u] = vd_zero();
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes)
    UNROLL for (int u = 0; u < 4; u++) {
      const vd v = vd_widen(x + i + u * kLanes);
      s[u] = vd_fma(v, v, s[u]);
    }
  double rest = 0;
  for (; i < n; i++) rest += (double)x[i] * (double)x[i];
  return vd_sum(vd_add(vd_add(s[0], s[1]), vd_add(s[2], s[3]))) + rest;
}

static void axpy(int64_t n, double alpha, const double* x, double* y) {
  const vd f = vd_set(alpha);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) vd_store(y + i, vd_fma(f, vd_load(x + i), vd_load(y + i)));
  if (i < n) vd_store_part(y + i, vd_fma(f, vd_load_part(x + i, n - i), vd_load_part(y + i, n - i)), n - i);
}

template <int R>
INLINE void gemv_rows(int64_t cols, const double* a, int64_t lda, const double* x, double alpha, double* y) {
  vd s[R];
  UNROLL for (int r = 0; r < R; r++) s[r] = vd_zero();
  int64_t j = 0;
  for (; j + kLanes <= cols; j += kLanes) {
    const vd v = vd_load(x + j);
    UNROLL for (int r = 0; r < R; r++) s[r] = vd_fma(vd_load(a + r * lda + j), v, s[r]);
  }
  if (j < cols) {
    const vd v = vd_load_part(x + j, cols - j);
    UNROLL for (int r = 0; r < R; r++) s[r] = vd_fma(vd_load_part(a + r * lda + j, cols - j), v, s[r]);
  }
  UNROLL for (int r = 0; r < R; r++) y[r] += alpha * vd_sum(s[r]);
}

static void gemv(int64_t rows, int64_t cols, const double* a, int64_t lda, const double* x, double alpha, double* y) {
  int64_t i = 0;
  for (; i + 8 <= rows; i += 8) gemv_rows<8>(cols, a + i * lda, lda, x, alpha, y + i);
  for (; i < rows; i++) gemv_rows<1>(cols, a + i * lda, lda, x, alpha, y + i);
}

template <int R>
INLINE void gemv_t_rows(int64_t cols, const double* a, int64_t lda, const double* x, double alpha, double* y) {
  vd f[R];
  UNROLL for (int r = 0; r < R; r++) f[r] = vd_set(alpha * x[r]);
  int64_t j = 0;
  for (; j + kLanes <= cols; j += kLanes) {
    vd s = vd_load(y + j);
    UNROLL for (int r = 0; r < R; r++) s = vd_fma(f[r], vd_load(a + r * lda + j), s);
    vd_store(y + j, s);
  }
  if (j < cols) {
    vd s = vd_load_part(y + j, cols - j);
    UNROLL for (int r = 0; r < R; r++) s = vd_fma(f[r], vd_load_part(a + r * lda + j, cols - j), s);
    vd_store_part(y + j, s, cols - j);
  }
}

static void gemv_t(int64_t rows, int64_t cols, const double* a, int64_t lda, const double* x, double alpha, double* y) {
  int64_t i = 0;
  for (; i + 8 <= rows; i += 8) gemv_t_rows<8>(cols, a + i * lda, lda, x + i, alpha, y);
  for (; i < rows; i++) gemv_t_rows<1>(cols, a + i * lda, lda, x + i, alpha, y);
}

// Rows i … i + R of the lower triangle: what lies left of column i in one pass, both ways.
template <int R>
INLINE void symv_rows(int64_t i, const double* a, int64_t lda, const double* x, double* y) {
  vd s[R], f[R];
  UNROLL for (int r = 0; r < R; r++) {
    s[r] = vd_zero();
    f[r] = vd_set(x[i + r]);
  }
  const double* row = a + i * lda;
  int64_t j = 0;
  for (; j + kLanes <= i; j += kLanes) {
    const vd v = vd_load(x + j);
    vd w = vd_load(y + j);
    UNROLL for (int r = 0; r < R; r++) {
      const vd e = vd_load(row + r * lda + j);
      s[r] = vd_fma(e, v, s[r]);
      w = vd_fma(e, f[r], w);
    }
    vd_store(y + j, w);
  }
  if (j < i) {
    const vd v = vd_load_part(x + j, i - j);
    vd w = vd_load_part(y + j, i - j);
    UNROLL for (int r = 0; r < R; r++) {
      const vd e = vd_load_part(row + r * lda + j, i - j);
      s[r] = vd_fma(e, v, s[r]);
      w = vd_fma(e, f[r], w);
    }
    vd_store_part(y + j, w, i - j);
  }
  for (int r = 0; r < R; r++) {
    const double* at = row + r * lda + i;
    double sum = vd_sum(s[r]) + at[r] * x[i + r];
    for (int q = 0; q < r; q++) {
      sum += at[q] * x[i + q];
      y[i + q] += at[q] * x[i + r];
    }
    y[i + r] += sum;
  }
}

static void symv(int64_t begin, int64_t end, const double* a, int64_t lda, const double* x, double* y) {
  int64_t i = begin;
  for (; i + 4 <= end; i += 4) symv_rows<4>(i, a, lda, x, y);
  for (; i < end; i++) symv_rows<1>(i, a, lda, x, y);
}

static void rotate(int64_t n, double c, double s, double* x, double* y) {
  const vd cv = vd_set(c), sv = vd_set(s);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const vd u = vd_load(x + i), v = vd_load(y + i);
    vd_store(x + i, vd_fma(cv, u, vd_mul(sv, v)));
    vd_store(y + i, vd_fnma(sv, u, vd_mul(cv, v)));
  }
  if (i < n) {
    const vd u = vd_load_part(x + i, n - i), v = vd_load_part(y + i, n - i);
    vd_store_part(x + i, vd_fma(cv, u, vd_mul(sv, v)), n - i);
    vd_store_part(y + i, vd_fnma(sv, u, vd_mul(cv, v)), n - i);
  }
}

static void poles(int64_t n, const double* gap, const double* z2, double tau, double* sums) {
  const vd one = vd_set(1), at = vd_set(tau);
  vd f = vd_zero(), d = vd_zero();
  int64_t j = 0;
  for (; j + kLanes <= n; j += kLanes) {
    const vd r = vd_div(one, vd_sub(vd_load(gap + j), at)), t = vd_mul(vd_load(z2 + j), r);
    f = vd_add(f, t);
    d = vd_fma(t, r, d);
  }
  double fs = vd_sum(f), ds = vd_sum(d);
  for (; j < n; j++) {
    const double r = 1 / (gap[j] - tau), t = z2[j] * r;
    fs += t;
    ds += t * r;
  }
  sums[0] = fs;
  sums[1] = ds;
}

static void install_simd(SvdKernels* t) {
  t->mr = kMr;
  t->nr = kNr;
  t->tile = tile;
  t->gemv = gemv;
  t->gemv_t = gemv_t;
  t->symv = symv;
  t->dot = dot;
  t->squares = squares;
  t->axpy = axpy;
  t->rotate = rotate;
  t->poles = poles;
}
