// float32 products, AVX2 with FMA. Register tile 6 x 16: 12 accumulators, two vectors of B and one broadcast of A.
// Rows of A lie at a constant distance, so that one pointer reaches all of them. Column tails use masked loads.
#define WHITTLE_ISA_FILE
#include "core/gemm.h"
#include "cpu/gemm/activation_avx2.h"
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

static const int kMr = 6, kNr = 16;

static const int32_t kMaskBits[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};

// The first n of 8 lanes; n may be out of range.
INLINE __m256i head_mask(int64_t n) {
  n = n < 0 ? 0 : n > 8 ? 8 : n;
  return _mm256_loadu_si256((const __m256i*)(kMaskBits + 8 - n));
}

// acc += x * y, in the form that overwrites the sum: g++ 12 otherwise rotates the accumulators and spills.
INLINE void fma_into(__m256& acc, __m256 x, __m256 y) {
#if defined(__GNUC__)
  __asm__("vfmadd231ps %2, %1, %0" : "+x"(acc) : "x"(x), "x"(y));
#else
  acc = _mm256_fmadd_ps(x, y, acc);
#endif
}

// What a tile does with its sums.
struct Tail {
  __m256 alpha, beta, lo, hi;
  __m256i mask[2];    // of a panel that is not full
  bool add;           // beta is not 0
  const float* bias;  // of the panel, or null
};

// The compiler must take x for a new number: else it keeps a pointer to every row and spills them.
INLINE void opaque(int64_t& x) {
#if defined(__GNUC__)
  __asm__("" : "+r"(x));
#else
  (void)x;
#endif
}

// Rows of A from one pointer to three rows: a stride times 0, 1 or 2 is part of an x86 address.
template <int R, bool kMask, bool kDirect>
INLINE void step(__m256 (&acc)[R][2], const float* const (&a)[(R + 2) / 3], int64_t a_row, int64_t at, const float* b, const Tail* s) {
  const __m256 x0 = kMask ? _mm256_maskload_ps(b, s->mask[0]) : _mm256_loadu_ps(b);
  const __m256 x1 = kMask ? _mm256_maskload_ps(b + 8, s->mask[1]) : _mm256_loadu_ps(b + 8);
  // In place B advances a whole matrix row per step, which no hardware prefetcher follows for long.
  if (kDirect) _mm_prefetch((const char*)(b + 64), _MM_HINT_T1);
  UNROLL for (int i = 0; i < R; i++) {
    const __m256 y = _mm256_broadcast_ss(a[i / 3] + i % 3 * a_row + at);
    fma_into(acc[i][0], y, x0);
    fma_into(acc[i][1], y, x1);
  }
}

template <int R, bool kMask, bool kDirect>
static void micro(int64_t k, const float* a, int64_t a_row, const float* b, int64_t b_row, float* c, int64_t ldc, const Tail* s) {
  __m256 acc[R][2];
  UNROLL for (int i = 0; i < R; i++) acc[i][0] = acc[i][1] = _mm256_setzero_ps();
  for (int i = 0; i < R; i++) _mm_prefetch((const char*)(c + i * ldc), _MM_HINT_T0);
  constexpr int kBases = (R + 2) / 3;
  const float* base[kBases];
  UNROLL for (int i = 0; i < kBases; i++) base[i] = a + 3 * i * a_row;
  const int64_t row = kDirect ? b_row : kNr;
  int64_t p = 0;
  for (; p + 4 <= k; p += 4) {
    opaque(a_row);
    UNROLL for (int u = 0; u < 4; u++) step<R, kMask, kDirect>(acc, base, a_row, u, b + u * row, s);
    UNROLL for (int i = 0; i < kBases; i++) base[i] += 4;
    b += 4 * row;
  }
  for (; p < k; p++, b += row) {
    step<R, kMask, kDirect>(acc, base, a_row, 0, b, s);
    UNROLL for (int i = 0; i < kBases; i++) base[i]++;
  }
  UNROLL for (int i = 0; i < R; i++) {
    UNROLL for (int v = 0; v < 2; v++) {
      float* to = c + i * ldc + 8 * v;
      __m256 y = _mm256_mul_ps(s->alpha, acc[i][v]);
      if (s->add) y = _mm256_fmadd_ps(s->beta, kMask ? _mm256_maskload_ps(to, s->mask[v]) : _mm256_loadu_ps(to), y);
      if (s->bias)
        y = _mm256_add_ps(y, kMask ? _mm256_maskload_ps(s->bias + 8 * v, s->mask[v]) : _mm256_loadu_ps(s->bias + 8 * v));
      y = _mm256_min_ps(s->hi, _mm256_max_ps(s->lo, y));
      if (kMask) _mm256_maskstore_ps(to, s->mask[v], y);
      else _mm256_storeu_ps(to, y);
    }
  }
}

typedef void (*Micro)(int64_t, const float*, int64_t, const float*, int64_t, float*, int64_t, const Tail*);
#define ROWS(M, D) {0, micro<1, M, D>, micro<2, M, D>, micro<3, M, D>, micro<4, M, D>, micro<5, M, D>, micro<6, M, D>}
// By full or partial panel, use in place, and rows.
static const Micro kMicro[2][2][kMr + 1] = {{ROWS(false, false), ROWS(false, true)}, {ROWS(true, false), ROWS(true, true)}};

static void tile(const GemmTile* t) {
  Tail s;
  s.alpha = _mm256_set1_ps(t->alpha), s.beta = _mm256_set1_ps(t->beta);
  s.lo = _mm256_set1_ps(t->lo), s.hi = _mm256_set1_ps(t->hi);
  s.mask[0] = head_mask(t->cols % kNr), s.mask[1] = head_mask(t->cols % kNr - 8);
  s.add = t->beta != 0;
  const int64_t groups = t->rows <= kMr ? 1 : (t->rows + kMr - 1) / kMr;
  const int direct = t->b_panel == kNr;
  const float* b = t->b;
  // The lines of `ahead` spread evenly over the panels.
  const int64_t lines = (t->ahead_length + 15) / 16, total = t->ahead ? t->ahead_strips * lines : 0;
  const int64_t each = total ? (total * kNr + t->cols - 1) / t->cols : 0;
  int64_t strip = 0, line = 0;
  for (int64_t j = 0; j < t->cols; j += kNr, b += t->b_panel) {
    for (int64_t n = 0; n < each && strip < t->ahead_strips; n++) {
      _mm_prefetch((const char*)(t->ahead + strip * t->ahead_stride + line * 16), _MM_HINT_T1);
      if (++line == lines) line = 0, strip++;
    }
    s.bias = t->bias ? t->bias + j : nullptr;
    for (int64_t g = 0, i = 0; g < groups; g++) {
      const int64_t end = g + 1 == groups ? t->rows : t->rows * (g + 1) / groups;
      kMicro[t->cols - j < kNr][direct][end - i](t->k, t->a + i * t->a_row, t->a_row, b, t->b_row, t->c + i * t->ldc + j, t->ldc, &s);
      i = end;
    }
  }
}

// rows x cols floats (each at most 8) of `from`, transposed to `to`; rows past the last read as zero, and all 8 columns
// of `to` are written where `pad` says so.
INLINE void transpose_block(const float* from, int64_t stride, int64_t rows, int64_t cols, float* to, int64_t to_stride, bool pad) {
  __m256 r[8], t[8];
  const __m256i read = head_mask(cols);
  UNROLL for (int i = 0; i < 8; i++) r[i] = i < rows ? _mm256_maskload_ps(from + i * stride, read) : _mm256_setzero_ps();
  UNROLL for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
  UNROLL for (int i = 0; i < 8; i += 4) {
    r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
    r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
    r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
  }
  UNROLL for (int i = 0; i < 4; i++) {
    t[i] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x20);
    t[i + 4] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x31);
  }
  const __m256i write = head_mask(pad ? 8 : rows);
  UNROLL for (int i = 0; i < 8; i++)
    if (i < cols) _mm256_maskstore_ps(to + i * to_stride, write, t[i]);
}

static void pack_a(int64_t rows, int64_t k, const float* a, int64_t row, int64_t col, float* out) {
  if (col == 1) {
    for (int64_t i = 0; i < rows; i++) {
      const float* from = a + i * row;
      float* to = out + i * kGemmRowStride;
      int64_t p = 0;
      for (; p + 8 <= k; p += 8) _mm256_storeu_ps(to + p, _mm256_loadu_ps(from + p));
      for (; p < k; p++) to[p] = from[p];
    }
    return;
  }
  for (int64_t i = 0; i < rows; i += 8)
    for (int64_t p = 0; p < k; p += 8)
      transpose_block(a + i + p * col, col, k - p < 8 ? k - p : 8, rows - i < 8 ? rows - i : 8, out + i * kGemmRowStride + p,
                      kGemmRowStride, false);
}

static void pack_b(int64_t k, int64_t cols, const float* b, int64_t row, int64_t col, float* out, int64_t panel) {
  if (col == 1) {
    // Whole rows at a time, prefetched a few rows ahead: reads are the slow side.
    const int64_t full = cols / kNr, rest = cols % kNr;
    const __m256i m0 = head_mask(rest), m1 = head_mask(rest - 8);
    for (int64_t p = 0; p < k; p++) {
      const float* from = b + p * row;
      float* to = out + p * kNr;
      for (int64_t q = 0; q < full; q++, to += panel) {
        _mm_prefetch((const char*)(from + 6 * row + q * kNr), _MM_HINT_T0);
        _mm256_storeu_ps(to, _mm256_loadu_ps(from + q * kNr));
        _mm256_storeu_ps(to + 8, _mm256_loadu_ps(from + q * kNr + 8));
      }
      if (rest) {
        _mm256_storeu_ps(to, _mm256_maskload_ps(from + full * kNr, m0));
        _mm256_storeu_ps(to + 8, _mm256_maskload_ps(from + full * kNr + 8, m1));
      }
    }
    return;
  }
  for (int64_t j = 0; j < cols; j += kNr, out += panel)
    for (int64_t p = 0; p < k; p += 8)
      for (int64_t h = 0; h < kNr; h += 8) {
        const int64_t left = cols - j - h, rows = left < 0 ? 0 : left < 8 ? left : 8;
        transpose_block(b + (j + h) * col + p, col, rows, k - p < 8 ? k - p : 8, out + p * kNr + h, kNr, true);
      }
}

INLINE float sum_of(__m256 x) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

template <int F, int M>
INLINE void dot_block(const GemmDot* d, int64_t j) {
  __m256 acc[F][M];
  UNROLL for (int f = 0; f < F; f++)
    UNROLL for (int m = 0; m < M; m++) acc[f][m] = _mm256_setzero_ps();
  const float* x = d->x;
  const float* y = d->y + j * d->y_row;
  int64_t p = 0;
  for (; p + 8 <= d->k; p += 8) {
    __m256 u[F];
    UNROLL for (int f = 0; f < F; f++) u[f] = _mm256_loadu_ps(x + f * d->x_row + p);
    UNROLL for (int m = 0; m < M; m++) {
      const __m256 w = _mm256_loadu_ps(y + m * d->y_row + p);
      _mm_prefetch((const char*)(y + m * d->y_row + p + 128), _MM_HINT_T0);
      UNROLL for (int f = 0; f < F; f++) acc[f][m] = _mm256_fmadd_ps(u[f], w, acc[f][m]);
    }
  }
  if (p < d->k) {
    const __m256i mask = head_mask(d->k - p);
    UNROLL for (int m = 0; m < M; m++) {
      const __m256 w = _mm256_maskload_ps(y + m * d->y_row + p, mask);
      UNROLL for (int f = 0; f < F; f++)
        acc[f][m] = _mm256_fmadd_ps(_mm256_maskload_ps(x + f * d->x_row + p, mask), w, acc[f][m]);
    }
  }
  UNROLL for (int f = 0; f < F; f++)
    UNROLL for (int m = 0; m < M; m++) {
      float* c = d->c + f * d->c_i + (j + m) * d->c_j;
      const float v = d->alpha * sum_of(acc[f][m]);
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
    case 2: return dot_few<2, 5>(d);
    case 3: return dot_few<3, 3>(d);
    default: return dot_few<4, 2>(d);
  }
}

// R rows of y side by side, each with the 16 sums of its lanes.
template <int R>
INLINE void narrow_rows(const GemmDot* d, int64_t j) {
  __m256 acc[R][2];
  const float* y[R];
  UNROLL for (int r = 0; r < R; r++) {
    acc[r][0] = acc[r][1] = _mm256_setzero_ps();
    y[r] = d->y + (j + r) * d->y_row;
  }
  const float* x = d->x;
  for (int64_t p = 0; p < d->k; p++, x += kGemmNarrow) {
    const __m256 v0 = _mm256_loadu_ps(x), v1 = _mm256_loadu_ps(x + 8);
    UNROLL for (int r = 0; r < R; r++) {
      const __m256 w = _mm256_broadcast_ss(y[r] + p);
      fma_into(acc[r][0], w, v0);
      fma_into(acc[r][1], w, v1);
    }
  }
  float sums[R * 16];
  UNROLL for (int r = 0; r < R; r++)
    UNROLL for (int v = 0; v < 2; v++) _mm256_storeu_ps(sums + 16 * r + 8 * v, acc[r][v]);
  put_few(d, j, R, sums, false);
}

static void narrow(const GemmDot* d) {
  int64_t j = 0;
  for (; j + 6 <= d->many; j += 6) narrow_rows<6>(d, j);
  for (; j < d->many; j++) narrow_rows<1>(d, j);
}

// The same for at most eight rows of x: two steps of k to a vector pair, whose halves of a sum lie side by side.
template <int R>
INLINE void pair_rows(const GemmDot* d, int64_t j) {
  __m256 acc[R][2];
  const float* y[R];
  UNROLL for (int r = 0; r < R; r++) {
    acc[r][0] = acc[r][1] = _mm256_setzero_ps();
    y[r] = d->y + (j + r) * d->y_row;
  }
  const float* x = d->x;
  int64_t p = 0;
  for (; p + 2 <= d->k; p += 2, x += 16) {
    // A row often ends with its page, where hardware prefetchers stop.
    if (p % 16 == 0) UNROLL for (int r = 0; r < R; r++) _mm_prefetch((const char*)(y[r] + R * d->y_row + p), _MM_HINT_T1);
    const __m256 v0 = _mm256_loadu_ps(x), v1 = _mm256_loadu_ps(x + 8);
    UNROLL for (int r = 0; r < R; r++) {
      const __m256 w = _mm256_castsi256_ps(_mm256_broadcastq_epi64(_mm_loadl_epi64((const __m128i*)(y[r] + p))));
      fma_into(acc[r][0], w, v0);
      fma_into(acc[r][1], w, v1);
    }
  }
  if (p < d->k) {
    const __m256 v0 = _mm256_loadu_ps(x), v1 = _mm256_loadu_ps(x + 8);
    UNROLL for (int r = 0; r < R; r++) {
      const __m256 w = _mm256_castpd_ps(_mm256_broadcastsd_pd(_mm_castps_pd(_mm_set_ss(y[r][p]))));
      fma_into(acc[r][0], w, v0);
      fma_into(acc[r][1], w, v1);
    }
  }
  float sums[R * 16];
  UNROLL for (int r = 0; r < R; r++)
    UNROLL for (int v = 0; v < 2; v++) _mm256_storeu_ps(sums + 16 * r + 8 * v, acc[r][v]);
  put_few(d, j, R, sums, true);
}

static void pairs(const GemmDot* d) {
  int64_t j = 0;
  for (; j + 6 <= d->many; j += 6) pair_rows<6>(d, j);
  for (; j < d->many; j++) pair_rows<1>(d, j);
}

// A few rows of B pass over the whole of y, which stays in L1 or L2.
template <int K>
INLINE void axpy_rows(const GemmAxpy* g, int64_t p, bool first) {
  __m256 x[K];
  UNROLL for (int i = 0; i < K; i++) x[i] = _mm256_broadcast_ss(g->x + p + i);
  const float* b = g->b + p * g->b_row;
  int64_t j = 0;
  for (; j + 8 <= g->cols; j += 8) {
    __m256 y = first ? _mm256_setzero_ps() : _mm256_loadu_ps(g->y + j);
    UNROLL for (int i = 0; i < K; i++) {
      _mm_prefetch((const char*)(b + i * g->b_row + j + 128), _MM_HINT_T0);
      y = _mm256_fmadd_ps(x[i], _mm256_loadu_ps(b + i * g->b_row + j), y);
    }
    _mm256_storeu_ps(g->y + j, y);
  }
  if (j < g->cols) {
    const __m256i mask = head_mask(g->cols - j);
    __m256 y = first ? _mm256_setzero_ps() : _mm256_maskload_ps(g->y + j, mask);
    UNROLL for (int i = 0; i < K; i++) y = _mm256_fmadd_ps(x[i], _mm256_maskload_ps(b + i * g->b_row + j, mask), y);
    _mm256_maskstore_ps(g->y + j, mask, y);
  }
}

static void axpy(const GemmAxpy* g) {
  int64_t p = 0;
  for (; p + 8 <= g->k; p += 8) axpy_rows<8>(g, p, p == 0);
  for (; p < g->k; p++) axpy_rows<1>(g, p, p == 0);
}

extern "C" void gemm_install_avx2(GemmKernels* t) {
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
