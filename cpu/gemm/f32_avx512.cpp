// float32 products, AVX-512. Register tile 14 x 32: 28 accumulators, two vectors of B and one broadcast of A fill the
// 32 registers; 16 loads feed 28 FMAs. Rows of A lie at a constant distance, so that one pointer reaches all of them.
// Column tails use masks. `dot` keeps one accumulator per pair and four pairs to a row of y.
#define WHITTLE_ISA_FILE
#include "core/gemm.h"
#include "cpu/gemm/activation_avx512.h"
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

// acc += x * y. Left to itself g++ 12 mixes in the forms that overwrite a factor, rotates the accumulators and spills.
INLINE void fma_into(__m512& acc, __m512 x, __m512 y) {
#if defined(__GNUC__)
  __asm__("vfmadd231ps %2, %1, %0" : "+v"(acc) : "v"(x), "v"(y));
#else
  acc = _mm512_fmadd_ps(x, y, acc);
#endif
}

// The compiler must take x for a new number: else it keeps a pointer to every row and spills them.
INLINE void opaque(int64_t& x) {
#if defined(__GNUC__)
  __asm__("" : "+r"(x));
#else
  (void)x;
#endif
}

static const int kMr = 14, kNr = 32;
static const int64_t kLead = 512;  // floats between packed B in use and what is prefetched of it


INLINE __mmask16 head_mask(int64_t n) { return n >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << (n < 0 ? 0 : n)) - 1); }

// What a tile does with its sums.
struct Tail {
  __m512 alpha, beta, lo, hi;
  bool add;           // beta is not 0
  bool one;           // alpha and beta are 1 (or beta 0)
  bool plain;         // and nothing follows
  bool scaled;        // alpha and a bias, nothing else
  const float* bias;  // of the panel, or null
  // Lines to prefetch meanwhile, spread over the steps: a burst would hold up the loads of B.
  const float* near;
  int64_t near_step, near_count;
  int64_t far;        // floats from a step's B to what kFar prefetches of it
};

// Rows of A from one pointer to three rows: a stride times 0, 1 or 2 is part of an x86 address.
template <int R, int V, bool kMask, bool kFar>
INLINE void step(__m512 (&acc)[R][V], const float* const (&a)[(R + 2) / 3], int64_t a_row, int64_t at, const float* b, int64_t far,
                 __mmask16 mask) {
  __m512 x[V];
  UNROLL for (int v = 0; v < V; v++)
    x[v] = kMask && v == V - 1 ? _mm512_maskz_loadu_ps(mask, b + 16 * v) : _mm512_loadu_ps(b + 16 * v);
  if (kFar) UNROLL for (int v = 0; v < V; v++) _mm_prefetch((const char*)(b + far + 16 * v), _MM_HINT_T1);
  UNROLL for (int i = 0; i < R; i++) {
    const __m512 y = _mm512_set1_ps(*(a[i / 3] + i % 3 * a_row + at));
    UNROLL for (int v = 0; v < V; v++) fma_into(acc[i][v], y, x[v]);
  }
}

template <int R, int V, bool kMask, bool kFar>
static void micro(int64_t k, const float* a, int64_t a_row, const float* b, int64_t b_row, float* c, int64_t ldc, const Tail* s,
                  __mmask16 mask) {
  __m512 acc[R][V];
  UNROLL for (int i = 0; i < R; i++)
    UNROLL for (int v = 0; v < V; v++) acc[i][v] = _mm512_setzero_ps();
  constexpr int kBases = (R + 2) / 3;
  const float* base[kBases];
  UNROLL for (int i = 0; i < kBases; i++) base[i] = a + 3 * i * a_row;
  const int64_t row = kFar ? b_row : kNr, far = s->far;
  const float* to = c;
  const float* near = s->near;
  int64_t near_left = s->near_count, rows_left = R;
  // Rows of C to ask for in 16 steps: short sums have few of these.
  const int64_t lines = (near_left + k / 16 - 1) / (k / 16 + (k < 16));
  const int64_t soon = k >= 16 * R ? 1 : (R + k / 16 - 1) / (k / 16 + (k < 16));
  int64_t p = 0;
  for (; p + 16 <= k; p += 16) {
    // Spread out: a burst of prefetches would hold up the loads of B.
    for (int64_t i = soon; i > 0 && rows_left > 0; i--) {
      _mm_prefetch((const char*)to, _MM_HINT_T0);
      _mm_prefetch((const char*)(to + 31), _MM_HINT_T0);
      to += ldc;
      rows_left--;
    }
    for (int64_t i = lines; i > 0 && near_left > 0; i--, near_left--, near += s->near_step) _mm_prefetch((const char*)near, _MM_HINT_T1);
    for (int g = 0; g < 4; g++) {
      opaque(a_row);
      UNROLL for (int u = 0; u < 4; u++) step<R, V, kMask, kFar>(acc, base, a_row, u, b + u * row, far, mask);
      UNROLL for (int i = 0; i < kBases; i++) base[i] += 4;
      b += 4 * row;
    }
  }
  for (; p < k; p++, b += row) {
    step<R, V, kMask, kFar>(acc, base, a_row, 0, b, far, mask);
    UNROLL for (int i = 0; i < kBases; i++) base[i]++;
  }
  if (!kMask && s->plain) {
    UNROLL for (int i = 0; i < R; i++)
      UNROLL for (int v = 0; v < V; v++) {
        float* to = c + i * ldc + 16 * v;
        _mm512_storeu_ps(to, s->add ? _mm512_add_ps(acc[i][v], _mm512_loadu_ps(to)) : acc[i][v]);
      }
    return;
  }
  if (!kMask && !kFar && R > 6 && s->scaled) {
    UNROLL for (int v = 0; v < V; v++) {
      const __m512 b = s->bias ? _mm512_loadu_ps(s->bias + 16 * v) : _mm512_setzero_ps();
      UNROLL for (int i = 0; i < R; i++) _mm512_storeu_ps(c + i * ldc + 16 * v, _mm512_fmadd_ps(s->alpha, acc[i][v], b));
    }
    return;
  }
  if (!kMask && s->one) {
    UNROLL for (int v = 0; v < V; v++) {
      const __m512 bias = s->bias ? _mm512_loadu_ps(s->bias + 16 * v) : _mm512_set1_ps(-0.0f);
      UNROLL for (int i = 0; i < R; i++) {
        float* to = c + i * ldc + 16 * v;
        const __m512 y = s->add ? _mm512_add_ps(acc[i][v], _mm512_loadu_ps(to)) : acc[i][v];
        _mm512_storeu_ps(to, _mm512_min_ps(s->hi, _mm512_max_ps(s->lo, _mm512_add_ps(y, bias))));
      }
    }
    return;
  }
  __m512 bias[V];
  UNROLL for (int v = 0; v < V; v++)
    bias[v] = !s->bias ? _mm512_setzero_ps()
              : kMask && v == V - 1 ? _mm512_maskz_loadu_ps(mask, s->bias + 16 * v) : _mm512_loadu_ps(s->bias + 16 * v);
  UNROLL for (int i = 0; i < R; i++) {
    UNROLL for (int v = 0; v < V; v++) {
      float* to = c + i * ldc + 16 * v;
      const bool partial = kMask && v == V - 1;
      __m512 y = _mm512_mul_ps(s->alpha, acc[i][v]);
      if (s->add) y = _mm512_fmadd_ps(s->beta, partial ? _mm512_maskz_loadu_ps(mask, to) : _mm512_loadu_ps(to), y);
      if (s->bias) y = _mm512_add_ps(y, bias[v]);
      y = _mm512_min_ps(s->hi, _mm512_max_ps(s->lo, y));
      if (partial) _mm512_mask_storeu_ps(to, mask, y);
      else _mm512_storeu_ps(to, y);
    }
  }
}

typedef void (*Micro)(int64_t, const float*, int64_t, const float*, int64_t, float*, int64_t, const Tail*, __mmask16);
#define ROWS(A, ...) micro<A + 1, __VA_ARGS__>, micro<A + 2, __VA_ARGS__>, micro<A + 3, __VA_ARGS__>, micro<A + 4, __VA_ARGS__>
#define FEW(...) ROWS(0, __VA_ARGS__), micro<5, __VA_ARGS__>, micro<6, __VA_ARGS__>
#define MANY(...) ROWS(6, __VA_ARGS__), ROWS(10, __VA_ARGS__)
// By panel (full, up to 16 columns, up to 31), whether B is prefetched, and rows. Asking for lines in vain costs tall tiles 4 %
// and narrow ones as much, so these have code of their own; the others save the compiler's time.
static const Micro kMicro[3][2][kMr + 1] = {
    {{0, FEW(2, false, true), MANY(2, false, false)}, {0, FEW(2, false, true), MANY(2, false, true)}},
    {{0, FEW(1, true, false), MANY(1, true, false)}, {0, FEW(1, true, true), MANY(1, true, true)}},
    {{0, FEW(2, true, true), MANY(2, true, true)}, {0, FEW(2, true, true), MANY(2, true, true)}},
};

// Up to three rows against four panels of cold B at once: one stream alone does not reach the bandwidth of memory.
static const int kThin = 3, kAbreast = 4;

template <int R>
static void thin(const GemmTile* t, const float* b, float* c, const float* bias) {
  __m512 acc[R][2 * kAbreast];
  UNROLL for (int i = 0; i < R; i++)
    UNROLL for (int v = 0; v < 2 * kAbreast; v++) acc[i][v] = _mm512_setzero_ps();
  for (int64_t p = 0; p < t->k; p++, b += kNr) {
    __m512 x[R];
    UNROLL for (int i = 0; i < R; i++) x[i] = _mm512_set1_ps(t->a[i * t->a_row + p]);
    UNROLL for (int v = 0; v < 2 * kAbreast; v++) {
      const float* at = b + v / 2 * t->b_panel + v % 2 * 16;
      const __m512 y = _mm512_loadu_ps(at);
      _mm_prefetch((const char*)(at + kLead), _MM_HINT_T0);
      UNROLL for (int i = 0; i < R; i++) fma_into(acc[i][v], x[i], y);
    }
  }
  const __m512 alpha = _mm512_set1_ps(t->alpha), beta = _mm512_set1_ps(t->beta), lo = _mm512_set1_ps(t->lo), hi = _mm512_set1_ps(t->hi);
  UNROLL for (int i = 0; i < R; i++)
    UNROLL for (int v = 0; v < 2 * kAbreast; v++) {
      float* to = c + i * t->ldc + 16 * v;
      __m512 y = _mm512_mul_ps(alpha, acc[i][v]);
      if (t->beta != 0) y = _mm512_fmadd_ps(beta, _mm512_loadu_ps(to), y);
      if (bias) y = _mm512_add_ps(y, _mm512_loadu_ps(bias + 16 * v));
      _mm512_storeu_ps(to, _mm512_min_ps(hi, _mm512_max_ps(lo, y)));
    }
}

static void tile(const GemmTile* t) {
  Tail s = {_mm512_set1_ps(t->alpha), _mm512_set1_ps(t->beta), _mm512_set1_ps(t->lo), _mm512_set1_ps(t->hi), t->beta != 0, false, false, false, nullptr, nullptr, 0, 0, 0};
  const bool open = t->lo < -3.4028235e38f && t->hi > 3.4028235e38f;
  s.one = t->alpha == 1 && (t->beta == 0 || t->beta == 1);
  s.plain = s.one && !t->bias && open;
  s.scaled = t->beta == 0 && open;
  const int64_t groups = t->rows <= kMr ? 1 : (t->rows + kMr - 1) / kMr;
  // In place B advances a whole matrix row per step, which no hardware prefetcher follows for long.
  const bool direct = t->b_panel == kNr;
  // A few rows more than a tile has: better a whole tile at the speed of memory, and what is left out of L2.
  const bool tall = t->cold && groups == 2 && t->rows <= kMr + kMr / 2;
  const float* b = t->b;
  // The lines of `ahead` spread over the panels: along a strip where strips are long, else from strip to strip.
  const int64_t lines = (t->ahead_length + 15) / 16;
  int64_t strip = 0, line = 0, left = t->ahead ? t->ahead_strips * lines : 0;
  int64_t first = 0;
  if (t->cold && t->rows <= kThin)
    for (; first + kAbreast * kNr <= t->cols; first += kAbreast * kNr, b += kAbreast * t->b_panel)
      (t->rows == 1 ? thin<1> : t->rows == 2 ? thin<2> : thin<3>)(t, b, t->c + first, t->bias ? t->bias + first : nullptr);
  for (int64_t j = first; j < t->cols; j += kNr, b += t->b_panel) {
    s.near = b;
    s.near_step = s.near_count = 0;
    if (left > 0) {
      const int64_t panels = (t->cols - j + kNr - 1) / kNr, want = (left + panels - 1) / panels;
      s.near = t->ahead + strip * t->ahead_stride + line * 16;
      if (lines > 1) {
        s.near_step = 16;
        s.near_count = want < lines - line ? want : lines - line;
        if ((line += s.near_count) == lines) line = 0, strip++;
      } else {
        s.near_step = t->ahead_stride;
        s.near_count = want < t->ahead_strips - strip ? want : t->ahead_strips - strip;
        strip += s.near_count;
      }
      left -= s.near_count;
    }
    const int64_t width = t->cols - j;
    const int kind = width >= kNr ? 0 : width <= 16 ? 1 : 2;
    const __mmask16 mask = head_mask(kind == 2 ? width - 16 : width);
    s.bias = t->bias ? t->bias + j : nullptr;
    for (int64_t g = 0, i = 0; g < groups; g++) {
      const int64_t end = g + 1 == groups ? t->rows : tall ? kMr : t->rows * (g + 1) / groups;
      // Cold panels: a lone group, or a tall first one, brings what follows soon; of equal groups the last brings the next panel.
      const bool far = direct || (t->cold && (tall ? g == 0 : g + 1 == groups));
      s.far = direct ? 64 : !t->cold ? 0 : groups > 1 && !tall ? t->b_panel : kLead;
      kMicro[kind][far][end - i](t->k, t->a + i * t->a_row, t->a_row, b, t->b_row, t->c + i * t->ldc + j, t->ldc, &s, mask);
      i = end;
    }
  }
}

INLINE void transpose16(__m512 r[16]) {
  __m512 t[16];
  UNROLL for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
  }
  UNROLL for (int i = 0; i < 16; i += 4) {
    const __m512d a = _mm512_castps_pd(t[i]), b = _mm512_castps_pd(t[i + 1]), c = _mm512_castps_pd(t[i + 2]), d = _mm512_castps_pd(t[i + 3]);
    r[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
    r[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
    r[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
    r[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
  }
  UNROLL for (int i = 0; i < 4; i++) {
    t[i] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xdd);
  }
  UNROLL for (int i = 0; i < 4; i++) {
    r[i] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0x88);
    r[i + 4] = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0x88);
    r[i + 8] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0xdd);
    r[i + 12] = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0xdd);
  }
}

// rows x cols floats (each at most 16) of `from`, transposed to `to`; rows past the last read as zero, and all 16 are
// written where `pad` says so.
INLINE void transpose_block(const float* from, int64_t stride, int64_t rows, int64_t cols, float* to, int64_t to_stride, bool pad) {
  __m512 r[16];
  const __mmask16 read = head_mask(cols);
  UNROLL for (int i = 0; i < 16; i++) r[i] = i < rows ? _mm512_maskz_loadu_ps(read, from + i * stride) : _mm512_setzero_ps();
  transpose16(r);
  const __mmask16 write = pad ? (__mmask16)0xffff : head_mask(rows);
  UNROLL for (int i = 0; i < 16; i++)
    if (i < cols) _mm512_mask_storeu_ps(to + i * to_stride, write, r[i]);
}

static void pack_a(int64_t rows, int64_t k, const float* a, int64_t row, int64_t col, float* out) {
  if (col == 1) {
    for (int64_t i = 0; i < rows; i++) {
      const float* from = a + i * row;
      float* to = out + i * kGemmRowStride;
      int64_t p = 0;
      for (; p + 16 <= k; p += 16) _mm512_storeu_ps(to + p, _mm512_loadu_ps(from + p));
      if (p < k) _mm512_mask_storeu_ps(to + p, head_mask(k - p), _mm512_maskz_loadu_ps(head_mask(k - p), from + p));
    }
    return;
  }
  for (int64_t i = 0; i < rows; i += 16)
    for (int64_t p = 0; p < k; p += 16)
      transpose_block(a + i + p * col, col, k - p < 16 ? k - p : 16, rows - i < 16 ? rows - i : 16,
                      out + i * kGemmRowStride + p, kGemmRowStride, false);
}

// Whole rows of B at a time, prefetched a few rows ahead: reads are the slow side.
static void pack_b_rows(int64_t k, int64_t cols, const float* b, int64_t row, float* out, int64_t panel) {
  const int64_t full = cols / kNr, rest = cols % kNr;
  const __mmask16 m0 = head_mask(rest), m1 = head_mask(rest - 16);
  for (int64_t p = 0; p < k; p++) {
    const float* from = b + p * row;
    const float* ahead = from + 6 * row;
    float* to = out + p * kNr;
    for (int64_t q = 0; q < full; q++, to += panel) {
      _mm_prefetch((const char*)(ahead + q * kNr), _MM_HINT_T0);
      _mm_prefetch((const char*)(ahead + q * kNr + 16), _MM_HINT_T0);
      _mm512_storeu_ps(to, _mm512_loadu_ps(from + q * kNr));
      _mm512_storeu_ps(to + 16, _mm512_loadu_ps(from + q * kNr + 16));
    }
    if (rest) {
      _mm512_storeu_ps(to, _mm512_maskz_loadu_ps(m0, from + full * kNr));
      _mm512_storeu_ps(to + 16, _mm512_maskz_loadu_ps(m1, from + full * kNr + 16));
    }
  }
}

static void pack_b(int64_t k, int64_t cols, const float* b, int64_t row, int64_t col, float* out, int64_t panel) {
  if (col == 1) return pack_b_rows(k, cols, b, row, out, panel);
  for (int64_t j = 0; j < cols; j += kNr, out += panel)
    for (int64_t p = 0; p < k; p += 16)
      for (int64_t h = 0; h < kNr; h += 16) {
        const int64_t left = cols - j - h, rows = left < 0 ? 0 : left < 16 ? left : 16;
        transpose_block(b + (j + h) * col + p, col, rows, k - p < 16 ? k - p : 16, out + p * kNr + h, kNr, true);
      }
}

template <int F, int M>
INLINE void dot_block(const GemmDot* d, int64_t j) {
  __m512 acc[F][M];
  UNROLL for (int f = 0; f < F; f++)
    UNROLL for (int m = 0; m < M; m++) acc[f][m] = _mm512_setzero_ps();
  const float* x = d->x;
  const float* y = d->y + j * d->y_row;
  for (int64_t p = 0; p < d->k; p += 16) {
    const __mmask16 mask = head_mask(d->k - p);
    __m512 u[F];
    UNROLL for (int f = 0; f < F; f++) u[f] = _mm512_maskz_loadu_ps(mask, x + f * d->x_row + p);
    UNROLL for (int m = 0; m < M; m++) {
      const __m512 w = _mm512_maskz_loadu_ps(mask, y + m * d->y_row + p);
      _mm_prefetch((const char*)(y + m * d->y_row + p + 128), _MM_HINT_T0);
      UNROLL for (int f = 0; f < F; f++) acc[f][m] = _mm512_fmadd_ps(u[f], w, acc[f][m]);
    }
  }
  UNROLL for (int f = 0; f < F; f++)
    UNROLL for (int m = 0; m < M; m++) {
      float* c = d->c + f * d->c_i + (j + m) * d->c_j;
      const float v = d->alpha * _mm512_reduce_add_ps(acc[f][m]);
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
    default: return dot_few<4, 6>(d);
  }
}

// R rows of y side by side, each with the 16 sums of its lanes.
template <int R>
INLINE void narrow_rows(const GemmDot* d, int64_t j) {
  __m512 acc[R];
  const float* y[R];
  UNROLL for (int r = 0; r < R; r++) {
    acc[r] = _mm512_setzero_ps();
    y[r] = d->y + (j + r) * d->y_row;
  }
  const float* x = d->x;
  for (int64_t p = 0; p < d->k; p++, x += kGemmNarrow) {
    const __m512 v = _mm512_loadu_ps(x);
    UNROLL for (int r = 0; r < R; r++) acc[r] = _mm512_fmadd_ps(_mm512_set1_ps(y[r][p]), v, acc[r]);
  }
  float sums[R * 16];
  UNROLL for (int r = 0; r < R; r++) _mm512_storeu_ps(sums + 16 * r, acc[r]);
  put_few(d, j, R, sums, false);
}

static void narrow(const GemmDot* d) {
  int64_t j = 0;
  for (; j + 8 <= d->many; j += 8) narrow_rows<8>(d, j);
  for (; j < d->many; j++) narrow_rows<1>(d, j);
}

// The same for at most eight rows of x: two steps of k to a vector, whose halves of a sum lie side by side.
template <int R>
INLINE void pair_rows(const GemmDot* d, int64_t j) {
  __m512 acc[R];
  const float* y[R];
  UNROLL for (int r = 0; r < R; r++) {
    acc[r] = _mm512_setzero_ps();
    y[r] = d->y + (j + r) * d->y_row;
  }
  const float* x = d->x;
  int64_t p = 0;
  for (; p + 2 <= d->k; p += 2, x += 16) {
    // A row often ends with its page, where hardware prefetchers stop.
    if (p % 16 == 0) UNROLL for (int r = 0; r < R; r++) _mm_prefetch((const char*)(y[r] + R * d->y_row + p), _MM_HINT_T1);
    const __m512 v = _mm512_loadu_ps(x);
    UNROLL for (int r = 0; r < R; r++)
      acc[r] = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_broadcastq_epi64(_mm_loadl_epi64((const __m128i*)(y[r] + p)))), v, acc[r]);
  }
  if (p < d->k) {
    const __m512 v = _mm512_loadu_ps(x);
    UNROLL for (int r = 0; r < R; r++)
      acc[r] = _mm512_fmadd_ps(_mm512_castpd_ps(_mm512_broadcastsd_pd(_mm_castps_pd(_mm_set_ss(y[r][p])))), v, acc[r]);
  }
  float sums[R * 16];
  UNROLL for (int r = 0; r < R; r++) _mm512_storeu_ps(sums + 16 * r, acc[r]);
  put_few(d, j, R, sums, true);
}

static void pairs(const GemmDot* d) {
  int64_t j = 0;
  for (; j + 8 <= d->many; j += 8) pair_rows<8>(d, j);
  for (; j < d->many; j++) pair_rows<1>(d, j);
}

// Eight rows of B pass over the whole of y, which stays in L1 or L2.
template <int K>
INLINE void axpy_rows(const GemmAxpy* g, int64_t p, bool first) {
  __m512 x[K];
  UNROLL for (int i = 0; i < K; i++) x[i] = _mm512_set1_ps(g->x[p + i]);
  const float* b = g->b + p * g->b_row;
  for (int64_t j = 0; j < g->cols; j += 16) {
    const __mmask16 mask = head_mask(g->cols - j);
    __m512 y = first ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(mask, g->y + j);
    UNROLL for (int i = 0; i < K; i++) {
      const float* at = b + i * g->b_row + j;
      _mm_prefetch((const char*)(at + 128), _MM_HINT_T0);
      y = _mm512_fmadd_ps(x[i], _mm512_maskz_loadu_ps(mask, at), y);
    }
    _mm512_mask_storeu_ps(g->y + j, mask, y);
  }
}

static void axpy(const GemmAxpy* g) {
  int64_t p = 0;
  for (; p + 8 <= g->k; p += 8) axpy_rows<8>(g, p, p == 0);
  for (; p < g->k; p++) axpy_rows<1>(g, p, p == 0);
}

extern "C" void gemm_install_avx512(GemmKernels* t) {
  t->mr = kMr;
  t->nr = kNr;
  t->pack_a = pack_a;
  t->pack_b = pack_b;
  t->tile = tile;
  t->dot = dot;
  t->narrow = narrow;
  t->pairs = pairs;
  t->axpy = axpy;
  t->finish = finish;
}
