// float32 products, AArch64. Register tile 8 x 8: 16 accumulators, two vectors of B; A comes four steps of k at a time,
// one vector a row, and FMLA picks the lane. Partial panels go through a small copy of their columns of C.
#define WHITTLE_ISA_FILE
#include <string.h>

#include "core/gemm.h"
#include "cpu/gemm/activation_neon.h"
#include "cpu/gemm/few.h"
#include "cpu/gemm/finish.h"

using namespace whittle;

#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")
#else
#define INLINE static __forceinline
#define UNROLL
#endif

static const int kMr = 8, kNr = 8;

template <int R>
static void accumulate(int64_t k, const float* a, int64_t a_row, const float* b, int64_t b_row, float32x4_t (&acc)[R][2]) {
  UNROLL for (int i = 0; i < R; i++) acc[i][0] = acc[i][1] = vdupq_n_f32(0);
  int64_t p = 0;
  for (; p + 4 <= k; p += 4) {
    float32x4_t x[R];
    UNROLL for (int i = 0; i < R; i++) x[i] = vld1q_f32(a + i * a_row + p);
#define STEP(lane)                                                          \
  {                                                                         \
    const float32x4_t b0 = vld1q_f32(b), b1 = vld1q_f32(b + 4);             \
    b += b_row;                                                             \
    UNROLL for (int i = 0; i < R; i++) {                                    \
      acc[i][0] = vfmaq_laneq_f32(acc[i][0], b0, x[i], lane);               \
      acc[i][1] = vfmaq_laneq_f32(acc[i][1], b1, x[i], lane);               \
    }                                                                       \
  }
    STEP(0) STEP(1) STEP(2) STEP(3)
#undef STEP
  }
  for (; p < k; p++, b += b_row) {
    const float32x4_t b0 = vld1q_f32(b), b1 = vld1q_f32(b + 4);
    UNROLL for (int i = 0; i < R; i++) {
      const float x = a[i * a_row + p];
      acc[i][0] = vfmaq_n_f32(acc[i][0], b0, x);
      acc[i][1] = vfmaq_n_f32(acc[i][1], b1, x);
    }
  }
}

// `t` describes one panel here: its columns begin at b, c and bias.
template <int R>
static void micro(const GemmTile* t, const float* a, const float* b, float* c, int64_t ldc, const float* bias) {
  float32x4_t acc[R][2];
  accumulate<R>(t->k, a, t->a_row, b, t->b_row, acc);
  const float32x4_t lo = vdupq_n_f32(t->lo), hi = vdupq_n_f32(t->hi);
  UNROLL for (int i = 0; i < R; i++) {
    UNROLL for (int v = 0; v < 2; v++) {
      float* to = c + i * ldc + 4 * v;
      float32x4_t y = vmulq_n_f32(acc[i][v], t->alpha);
      if (t->beta != 0) y = vfmaq_n_f32(y, vld1q_f32(to), t->beta);
      if (bias) y = vaddq_f32(y, vld1q_f32(bias + 4 * v));
      vst1q_f32(to, v_min(hi, v_max(lo, y)));
    }
  }
}

typedef void (*Micro)(const GemmTile*, const float*, const float*, float*, int64_t, const float*);
static const Micro kMicro[kMr + 1] = {0, micro<1>, micro<2>, micro<3>, micro<4>, micro<5>, micro<6>, micro<7>, micro<8>};

static void tile(const GemmTile* t) {
  const int64_t groups = t->rows <= kMr ? 1 : (t->rows + kMr - 1) / kMr;
  const float* b = t->b;
  for (int64_t j = 0; j < t->cols; j += kNr, b += t->b_panel) {
    const int64_t width = t->cols - j;
    const float* bias = t->bias ? t->bias + j : nullptr;
    if (width >= kNr) {
      for (int64_t g = 0, i = 0; g < groups; g++) {
        const int64_t end = g + 1 == groups ? t->rows : t->rows * (g + 1) / groups;
        kMicro[end - i](t, t->a + i * t->a_row, b, t->c + i * t->ldc + j, t->ldc, bias);
        i = end;
      }
      continue;
    }
    // The last panel: B padded into a copy where it may not be read past its columns, C and bias in copies.
    float wide_b[kGemmMaxK * 8], wide_c[8 * 8], wide_bias[8] = {0};
    GemmTile s = *t;
    if (!t->b_padded) {
      for (int64_t p = 0; p < t->k; p++)
        for (int64_t n = 0; n < kNr; n++) wide_b[p * kNr + n] = n < width ? b[p * t->b_row + n] : 0;
      s.b_row = kNr;
    }
    if (bias) memcpy(wide_bias, bias, (size_t)width * 4);
    for (int64_t g = 0, i = 0; g < groups; g++) {
      const int64_t end = g + 1 == groups ? t->rows : t->rows * (g + 1) / groups;
      memset(wide_c, 0, sizeof wide_c);
      if (t->beta != 0)
        for (int64_t r = i; r < end; r++) memcpy(wide_c + (r - i) * kNr, t->c + r * t->ldc + j, (size_t)width * 4);
      kMicro[end - i](&s, t->a + i * t->a_row, t->b_padded ? b : wide_b, wide_c, kNr, bias ? wide_bias : nullptr);
      for (int64_t r = i; r < end; r++) memcpy(t->c + r * t->ldc + j, wide_c + (r - i) * kNr, (size_t)width * 4);
      i = end;
    }
  }
}

INLINE void transpose4(const float* from, int64_t stride, float* to, int64_t to_stride) {
  const float32x4_t a = vld1q_f32(from), b = vld1q_f32(from + stride), c = vld1q_f32(from + 2 * stride), d = vld1q_f32(from + 3 * stride);
  const float64x2_t ab0 = vreinterpretq_f64_f32(vtrn1q_f32(a, b)), ab1 = vreinterpretq_f64_f32(vtrn2q_f32(a, b));
  const float64x2_t cd0 = vreinterpretq_f64_f32(vtrn1q_f32(c, d)), cd1 = vreinterpretq_f64_f32(vtrn2q_f32(c, d));
  vst1q_f32(to, vreinterpretq_f32_f64(vtrn1q_f64(ab0, cd0)));
  vst1q_f32(to + to_stride, vreinterpretq_f32_f64(vtrn1q_f64(ab1, cd1)));
  vst1q_f32(to + 2 * to_stride, vreinterpretq_f32_f64(vtrn2q_f64(ab0, cd0)));
  vst1q_f32(to + 3 * to_stride, vreinterpretq_f32_f64(vtrn2q_f64(ab1, cd1)));
}

// to[j * to_stride + i] = from[i * stride + j].
INLINE void transpose_block(const float* from, int64_t stride, int64_t rows, int64_t cols, float* to, int64_t to_stride) {
  int64_t i = 0;
  for (; i + 4 <= rows; i += 4) {
    int64_t j = 0;
    for (; j + 4 <= cols; j += 4) transpose4(from + i * stride + j, stride, to + j * to_stride + i, to_stride);
    for (; j < cols; j++)
      for (int64_t u = 0; u < 4; u++) to[j * to_stride + i + u] = from[(i + u) * stride + j];
  }
  for (; i < rows; i++)
    for (int64_t j = 0; j < cols; j++) to[j * to_stride + i] = from[i * stride + j];
}

static void pack_a(int64_t rows, int64_t k, const float* a, int64_t row, int64_t col, float* out) {
  if (col != 1) return transpose_block(a, col, k, rows, out, kGemmRowStride);
  for (int64_t i = 0; i < rows; i++) memcpy(out + i * kGemmRowStride, a + i * row, (size_t)k * 4);
}

static void pack_b(int64_t k, int64_t cols, const float* b, int64_t row, int64_t col, float* out, int64_t panel) {
  for (int64_t j = 0; j < cols; j += kNr, out += panel) {
    const int64_t width = cols - j < kNr ? cols - j : kNr;
    if (width < kNr) memset(out, 0, (size_t)(k * kNr) * 4);
    if (col != 1) {
      transpose_block(b + j * col, col, width, k, out, kNr);
    } else if (width == kNr) {
      for (int64_t p = 0; p < k; p++) {
        vst1q_f32(out + p * kNr, vld1q_f32(b + p * row + j));
        vst1q_f32(out + p * kNr + 4, vld1q_f32(b + p * row + j + 4));
      }
    } else {
      for (int64_t p = 0; p < k; p++) memcpy(out + p * kNr, b + p * row + j, (size_t)width * 4);
    }
  }
}

template <int F, int M>
INLINE void dot_block(const GemmDot* d, int64_t j) {
  float32x4_t acc[F][M];
  float rest[F][M];
  UNROLL for (int f = 0; f < F; f++)
    UNROLL for (int m = 0; m < M; m++) acc[f][m] = vdupq_n_f32(0), rest[f][m] = 0;
  const float* x = d->x;
  const float* y = d->y + j * d->y_row;
  int64_t p = 0;
  for (; p + 4 <= d->k; p += 4) {
    float32x4_t u[F];
    UNROLL for (int f = 0; f < F; f++) u[f] = vld1q_f32(x + f * d->x_row + p);
    UNROLL for (int m = 0; m < M; m++) {
      const float32x4_t w = vld1q_f32(y + m * d->y_row + p);
      UNROLL for (int f = 0; f < F; f++) acc[f][m] = vfmaq_f32(acc[f][m], u[f], w);
    }
  }
  for (; p < d->k; p++)
    UNROLL for (int f = 0; f < F; f++)
      UNROLL for (int m = 0; m < M; m++) rest[f][m] += x[f * d->x_row + p] * y[m * d->y_row + p];
  UNROLL for (int f = 0; f < F; f++)
    UNROLL for (int m = 0; m < M; m++) {
      float* c = d->c + f * d->c_i + (j + m) * d->c_j;
      const float v = d->alpha * (vaddvq_f32(acc[f][m]) + rest[f][m]);
      *c = d->beta != 0 ? v + d->beta * *c : v;
    }
}

template <int F, int M>
INLINE void dot_few(const GemmDot* d) {
  int64_t j = 0;
  for (; j + M <= d->many; j += M) dot_block<F, M>(d, j);
  for (; j < d->many; j++) dot_block<F, 1>(d, j);
}

static void dot(const GemmDot* d) {
  switch (d->few) {
    case 1: return dot_few<1, 8>(d);
    case 2: return dot_few<2, 6>(d);
    case 3: return dot_few<3, 6>(d);
    default: return dot_few<4, 4>(d);
  }
}

// R rows of y side by side, each with the 16 sums of its lanes.
template <int R>
INLINE void narrow_rows(const GemmDot* d, int64_t j) {
  float32x4_t acc[R][4];
  UNROLL for (int r = 0; r < R; r++)
    UNROLL for (int v = 0; v < 4; v++) acc[r][v] = vdupq_n_f32(0);
  const float* x = d->x;
  const float* y = d->y + j * d->y_row;
  for (int64_t p = 0; p < d->k; p++, x += kGemmNarrow) {
    float32x4_t u[4];
    UNROLL for (int v = 0; v < 4; v++) u[v] = vld1q_f32(x + 4 * v);
    UNROLL for (int r = 0; r < R; r++) {
      const float w = y[r * d->y_row + p];
      UNROLL for (int v = 0; v < 4; v++) acc[r][v] = vfmaq_n_f32(acc[r][v], u[v], w);
    }
  }
  float sums[R * 16];
  UNROLL for (int r = 0; r < R; r++)
    UNROLL for (int v = 0; v < 4; v++) vst1q_f32(sums + 16 * r + 4 * v, acc[r][v]);
  put_few(d, j, R, sums, false);
}

static void narrow(const GemmDot* d) {
  int64_t j = 0;
  for (; j + 4 <= d->many; j += 4) narrow_rows<4>(d, j);
  for (; j < d->many; j++) narrow_rows<1>(d, j);
}

// A few rows of B pass over the whole of y, which stays in cache.
template <int K>
INLINE void axpy_rows(const GemmAxpy* g, int64_t p, bool first) {
  const float* b = g->b + p * g->b_row;
  const float* x = g->x + p;
  int64_t j = 0;
  for (; j + 4 <= g->cols; j += 4) {
    float32x4_t y = first ? vdupq_n_f32(0) : vld1q_f32(g->y + j);
    UNROLL for (int i = 0; i < K; i++) y = vfmaq_n_f32(y, vld1q_f32(b + i * g->b_row + j), x[i]);
    vst1q_f32(g->y + j, y);
  }
  // The same fused steps for the tail, so that no result depends on where a piece ends.
  for (; j < g->cols; j++) {
    float32x2_t y = vdup_n_f32(first ? 0 : g->y[j]);
    UNROLL for (int i = 0; i < K; i++) y = vfma_n_f32(y, vdup_n_f32(b[i * g->b_row + j]), x[i]);
    g->y[j] = vget_lane_f32(y, 0);
  }
}

static void axpy(const GemmAxpy* g) {
  int64_t p = 0;
  for (; p + 8 <= g->k; p += 8) axpy_rows<8>(g, p, p == 0);
  for (; p < g->k; p++) axpy_rows<1>(g, p, p == 0);
}

extern "C" void gemm_install_neon(GemmKernels* t) {
  t->mr = kMr;
  t->nr = kNr;
  t->pack_a = pack_a;
  t->pack_b = pack_b;
  t->tile = tile;
  t->dot = dot;
  t->narrow = narrow;
  t->axpy = axpy;
  t->finish = finish;
}
