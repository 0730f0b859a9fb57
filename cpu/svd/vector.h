// The kernels of core/svd.h once for every ISA, over the operations of cpu/common/lanes_<isa>.h. The including file also defines
// d_fma_into(z, x, y): z += x y; kMr x kVectors, the register tile of doubles; and kPanelRows, kPanelColumns: how many rows and
// columns of a matrix the narrow float products take at once.
#pragma once
#include <string.h>

#include "core/svd.h"

using namespace whittle;

static const int kNr = kVectors * VD_LANES;

template <int R>
INLINE void tile_rows(int64_t k, const double* a, const double* b, double alpha, bool add, int64_t cols, double* c,
                      int64_t ldc) {
  vd acc[R][kVectors];
  UNROLL for (int i = 0; i < R; i++)
    UNROLL for (int v = 0; v < kVectors; v++) acc[i][v] = d_set(0);
  for (int64_t p = 0; p < k; p++, a += kMr, b += kNr) {
    vd x[kVectors];
    UNROLL for (int v = 0; v < kVectors; v++) x[v] = d_load(b + v * VD_LANES);
    UNROLL for (int i = 0; i < R; i++) {
      const vd y = d_set(a[i]);
      UNROLL for (int v = 0; v < kVectors; v++) d_fma_into(acc[i][v], x[v], y);
    }
  }
  const vd f = d_set(alpha);
  UNROLL for (int i = 0; i < R; i++)
    UNROLL for (int v = 0; v < kVectors; v++) {
      const int64_t left = cols - v * VD_LANES;
      double* to = c + i * ldc + v * VD_LANES;
      if (left >= VD_LANES) d_store(to, add ? d_fma(f, acc[i][v], d_load(to)) : d_mul(f, acc[i][v]));
      else if (left > 0)
        d_store_part(to, add ? d_fma(f, acc[i][v], d_load_part(to, left)) : d_mul(f, acc[i][v]), left);
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
    for (int64_t j = 0; j < cols; j += VD_LANES) {
      const int64_t left = cols - j;
      double* to = c + i * ldc + j;
      const vd x = d_load(part + i * kNr + j);
      if (left >= VD_LANES) d_store(to, add ? d_add(x, d_load(to)) : x);
      else d_store_part(to, add ? d_add(x, d_load_part(to, left)) : x, left);
    }
}

static double dot(int64_t n, const double* x, const double* y) {
  vd s[4];
  UNROLL for (int u = 0; u < 4; u++) s[u] = d_set(0);
  int64_t i = 0;
  for (; i + 4 * VD_LANES <= n; i += 4 * VD_LANES)
    UNROLL for (int u = 0; u < 4; u++) s[u] = d_fma(d_load(x + i + u * VD_LANES), d_load(y + i + u * VD_LANES), s[u]);
  for (; i + VD_LANES <= n; i += VD_LANES) s[0] = d_fma(d_load(x + i), d_load(y + i), s[0]);
  if (i < n) s[1] = d_fma(d_load_part(x + i, n - i), d_load_part(y + i, n - i), s[1]);
  return d_sum(d_add(d_add(s[0], s[1]), d_add(s[2], s[3])));
}

static double squares(int64_t n, const float* x) {
  vd s[4];
  UNROLL for (int u = 0; u < 4; u++) s[u] = d_set(0);
  int64_t i = 0;
  for (; i + 4 * VD_LANES <= n; i += 4 * VD_LANES)
    UNROLL for (int u = 0; u < 4; u++) {
      const vd v = d_from_floats(x + i + u * VD_LANES);
      s[u] = d_fma(v, v, s[u]);
    }
  double rest = 0;
  for (; i < n; i++) rest += (double)x[i] * (double)x[i];
  return d_sum(d_add(d_add(s[0], s[1]), d_add(s[2], s[3]))) + rest;
}

static void axpy(int64_t n, double alpha, const double* x, double* y) {
  const vd f = d_set(alpha);
  int64_t i = 0;
  for (; i + VD_LANES <= n; i += VD_LANES) d_store(y + i, d_fma(f, d_load(x + i), d_load(y + i)));
  if (i < n) d_store_part(y + i, d_fma(f, d_load_part(x + i, n - i), d_load_part(y + i, n - i)), n - i);
}

template <int R>
INLINE void gemv_rows(int64_t cols, const double* a, int64_t lda, const double* x, double alpha, double* y) {
  vd s[R];
  UNROLL for (int r = 0; r < R; r++) s[r] = d_set(0);
  int64_t j = 0;
  for (; j + VD_LANES <= cols; j += VD_LANES) {
    const vd v = d_load(x + j);
    UNROLL for (int r = 0; r < R; r++) s[r] = d_fma(d_load(a + r * lda + j), v, s[r]);
  }
  if (j < cols) {
    const vd v = d_load_part(x + j, cols - j);
    UNROLL for (int r = 0; r < R; r++) s[r] = d_fma(d_load_part(a + r * lda + j, cols - j), v, s[r]);
  }
  UNROLL for (int r = 0; r < R; r++) y[r] += alpha * d_sum(s[r]);
}

static void gemv(int64_t rows, int64_t cols, const double* a, int64_t lda, const double* x, double alpha, double* y) {
  int64_t i = 0;
  for (; i + 8 <= rows; i += 8) gemv_rows<8>(cols, a + i * lda, lda, x, alpha, y + i);
  for (; i < rows; i++) gemv_rows<1>(cols, a + i * lda, lda, x, alpha, y + i);
}

template <int R>
INLINE void gemv_t_rows(int64_t cols, const double* a, int64_t lda, const double* x, double alpha, double* y) {
  vd f[R];
  UNROLL for (int r = 0; r < R; r++) f[r] = d_set(alpha * x[r]);
  int64_t j = 0;
  for (; j + VD_LANES <= cols; j += VD_LANES) {
    vd s = d_load(y + j);
    UNROLL for (int r = 0; r < R; r++) s = d_fma(f[r], d_load(a + r * lda + j), s);
    d_store(y + j, s);
  }
  if (j < cols) {
    vd s = d_load_part(y + j, cols - j);
    UNROLL for (int r = 0; r < R; r++) s = d_fma(f[r], d_load_part(a + r * lda + j, cols - j), s);
    d_store_part(y + j, s, cols - j);
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
    s[r] = d_set(0);
    f[r] = d_set(x[i + r]);
  }
  const double* row = a + i * lda;
  int64_t j = 0;
  for (; j + VD_LANES <= i; j += VD_LANES) {
    const vd v = d_load(x + j);
    vd w = d_load(y + j);
    UNROLL for (int r = 0; r < R; r++) {
      const vd e = d_load(row + r * lda + j);
      s[r] = d_fma(e, v, s[r]);
      w = d_fma(e, f[r], w);
    }
    d_store(y + j, w);
  }
  if (j < i) {
    const vd v = d_load_part(x + j, i - j);
    vd w = d_load_part(y + j, i - j);
    UNROLL for (int r = 0; r < R; r++) {
      const vd e = d_load_part(row + r * lda + j, i - j);
      s[r] = d_fma(e, v, s[r]);
      w = d_fma(e, f[r], w);
    }
    d_store_part(y + j, w, i - j);
  }
  for (int r = 0; r < R; r++) {
    const double* at = row + r * lda + i;
    double sum = d_sum(s[r]) + at[r] * x[i + r];
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
  const vd cv = d_set(c), sv = d_set(s);
  int64_t i = 0;
  for (; i + VD_LANES <= n; i += VD_LANES) {
    const vd u = d_load(x + i), v = d_load(y + i);
    d_store(x + i, d_fma(cv, u, d_mul(sv, v)));
    d_store(y + i, d_fnma(sv, u, d_mul(cv, v)));
  }
  if (i < n) {
    const vd u = d_load_part(x + i, n - i), v = d_load_part(y + i, n - i);
    d_store_part(x + i, d_fma(cv, u, d_mul(sv, v)), n - i);
    d_store_part(y + i, d_fnma(sv, u, d_mul(cv, v)), n - i);
  }
}

static void poles(int64_t n, const double* gap, const double* z2, double tau, double* sums) {
  const vd one = d_set(1), at = d_set(tau);
  vd f = d_set(0), d = d_set(0);
  int64_t j = 0;
  for (; j + VD_LANES <= n; j += VD_LANES) {
    const vd r = d_div(one, d_sub(d_load(gap + j), at)), t = d_mul(d_load(z2 + j), r);
    f = d_add(f, t);
    d = d_fma(t, r, d);
  }
  double fs = d_sum(f), ds = d_sum(d);
  for (; j < n; j++) {
    const double r = 1 / (gap[j] - tau), t = z2[j] * r;
    fs += t;
    ds += t * r;
  }
  sums[0] = fs;
  sums[1] = ds;
}

// Narrow products: a panel is 16 columns wide, so that a row of it is one vector of 16 floats or two of 8.
static const int kPanel = (int)kSvdPanel / VF_LANES;

template <int R>
INLINE void panel_step(const float* a, int64_t lda, const float* k, vf (*acc)[kPanel]) {
  vf x[kPanel];
  UNROLL for (int v = 0; v < kPanel; v++) x[v] = v_load(k + v * VF_LANES);
  UNROLL for (int r = 0; r < R; r++) {
    const vf e = v_set(a[r * lda]);
    UNROLL for (int v = 0; v < kPanel; v++) acc[r][v] = v_fma(e, x[v], acc[r][v]);
  }
}

template <int R>
INLINE void panel_rows(int64_t cols, const float* a, int64_t lda, const float* k, bool add, float* y) {
  vf acc[R][kPanel];
  UNROLL for (int r = 0; r < R; r++)
    UNROLL for (int v = 0; v < kPanel; v++) acc[r][v] = add ? v_load(y + r * kSvdPanel + v * VF_LANES) : v_set(0);
  int64_t j = 0;
  for (; j + 4 <= cols; j += 4)
    UNROLL for (int u = 0; u < 4; u++) panel_step<R>(a + j + u, lda, k + (j + u) * kSvdPanel, acc);
  for (; j < cols; j++) panel_step<R>(a + j, lda, k + j * kSvdPanel, acc);
  UNROLL for (int r = 0; r < R; r++)
    UNROLL for (int v = 0; v < kPanel; v++) v_store(y + r * kSvdPanel + v * VF_LANES, acc[r][v]);
}

static void panel(int64_t rows, int64_t cols, const float* a, int64_t lda, const float* k, bool add, float* y) {
  int64_t i = 0;
  for (; i + kPanelRows <= rows; i += kPanelRows) panel_rows<kPanelRows>(cols, a + i * lda, lda, k, add, y + i * kSvdPanel);
  for (; i < rows; i++) panel_rows<1>(cols, a + i * lda, lda, k, add, y + i * kSvdPanel);
}

template <int C>
INLINE void panel_t_columns(int64_t rows, const float* a, int64_t lda, const float* y, float* w) {
  vf acc[C][kPanel];
  UNROLL for (int c = 0; c < C; c++)
    UNROLL for (int v = 0; v < kPanel; v++) acc[c][v] = v_load(w + c * kSvdPanel + v * VF_LANES);
  for (int64_t i = 0; i < rows; i++, a += lda, y += kSvdPanel) panel_step<C>(a, 1, y, acc);
  UNROLL for (int c = 0; c < C; c++)
    UNROLL for (int v = 0; v < kPanel; v++) v_store(w + c * kSvdPanel + v * VF_LANES, acc[c][v]);
}

// Rows of a lie far apart, often a power of two, and a few columns of them would come from L2 a line at a time: blocks are
// copied to where lines follow one another (1.4 times the speed).
static void panel_t(int64_t rows, int64_t cols, const float* a, int64_t lda, const float* y, float* w) {
  const int kRows = 32, kStrips = 64 / kPanelColumns, kBlock = kStrips * kPanelColumns;
  alignas(64) float block[kRows * kBlock];
  for (int64_t from = 0; from < rows; from += kRows, a += kRows * lda, y += kRows * kSvdPanel) {
    const int64_t n = rows - from < kRows ? rows - from : kRows;
    int64_t j = 0;
    if (lda != kSvdPanel)
      for (; j + kBlock <= cols; j += kBlock) {
        for (int64_t i = 0; i < n; i++)
          for (int s = 0; s < kStrips; s++) memcpy(block + (s * kRows + i) * kPanelColumns, a + i * lda + j + s * kPanelColumns, kPanelColumns * 4);
        for (int s = 0; s < kStrips; s++)
          panel_t_columns<kPanelColumns>(n, block + s * kRows * kPanelColumns, kPanelColumns, y, w + (j + s * kPanelColumns) * kSvdPanel);
      }
    for (; j + kPanelColumns <= cols; j += kPanelColumns) panel_t_columns<kPanelColumns>(n, a + j, lda, y, w + j * kSvdPanel);
    for (; j + 4 <= cols; j += 4) panel_t_columns<4>(n, a + j, lda, y, w + j * kSvdPanel);
    for (; j < cols; j++) panel_t_columns<1>(n, a + j, lda, y, w + j * kSvdPanel);
  }
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
  t->panel = panel;
  t->panel_t = panel_t;
}
