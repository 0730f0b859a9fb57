// The register tile of the x86 vector variants, one source: R rows of a' broadcast four bytes at a time against V vectors of a
// panel of b'. The including file defines Vec, LANES, TILE_VECTORS, ROWS_OF(V), B_BYTES (of one vector of b'), the macros
// LOAD_B(pointer), BROADCAST_A(pointer), DOT(sum, a, b), ADD(x, y), LOAD(pointer), ZERO(), STORE(pointer, x), and includes
// int8_epilogue.h before. WIDE_BYTES and LOAD_WIDE(pointer), where given, say that b' is widened once for many rows;
// WIDEST_VECTORS that the last panel may be wider than the others. Rows are spread evenly over tiles, so that M = 7 runs as
// 4 + 3 and not 6 + 1; k goes by in blocks that stay in L1. Loads from afar are asked for a line at a time, among the steps.
#pragma once

#ifndef WIDE_BYTES
#define WIDE_BYTES 0
#define LOAD_WIDE(p) LOAD_B(p)
#endif
#ifndef WIDEST_VECTORS
#define WIDEST_VECTORS TILE_VECTORS
#endif

// Whether sums in registers are a vector of the epilogue's.
#if VF_LANES == 16 && LANES == 16
#define WHITTLE_STRAIGHT_FLOATS 1
#define FLOATS_OF(sum) _mm512_cvtepi32_ps(sum)
#elif VF_LANES == 8 && LANES == 8
#define WHITTLE_STRAIGHT_FLOATS 1
#define FLOATS_OF(sum) _mm256_cvtepi32_ps(sum)
#else
#define WHITTLE_STRAIGHT_FLOATS 0
#endif

namespace whittle {
namespace {

struct Tile {
  const uint8_t* a;
  int64_t a_stride;
  const int8_t* b;
  int64_t steps;
  const int32_t* from;  // what the sums start at, from_stride apart by row (0: the same for all)
  int64_t from_stride;
  int32_t* to;
  int64_t to_stride;
  // Where to is not read again: the sums become floats at once, of `floats`' scale and bias from `column` on, plus `residual`
  // (laid out as the floats are) unless that is null.
  const GemmInt8Epilogue* floats;
  int64_t column;
  const float* residual;
  // Prefetched to the second level: `lines` every group of steps, ahead_step bytes on by the next (0 where there is nothing).
  const char* ahead;
  int64_t ahead_step, lines;
  // Rows of the result, prefetched to the first level.
  const char* touch;
  int64_t touch_stride, touch_bytes;
};

// Steps in a row without a branch. Where a compiler may part the two instructions of a multiply-add, more than one costs spilled registers.
#ifndef GROUP_STEPS
#define GROUP_STEPS 4
#endif
enum { kGroup = GROUP_STEPS };

// Few rows leave few independent sums: U sets of them hide the latency of the multiply-add. Where b' itself comes from memory
// and is read once (Once), its own lines are prefetched.
template <int R, int V, int U, bool Once, bool W>
static inline void tile(const Tile* t) {
  constexpr int kBytes = W ? WIDE_BYTES : B_BYTES;
  const uint8_t* a = t->a;
  const int64_t stride = t->a_stride, steps = t->steps;
  const int8_t* b = t->b;
  const char *ahead = t->ahead, *touch = t->touch;
  const int64_t ahead_step = t->ahead_step, lines = t->lines * 64;
  Vec acc[U][R][V];
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 8
    for (int v = 0; v < V; v++) {
      acc[0][r][v] = LOAD(t->from + r * t->from_stride + v * LANES);
#pragma GCC unroll 8
      for (int u = 1; u < U; u++) acc[u][r][v] = ZERO();
    }
  int64_t left = steps / kGroup;
  const int64_t share = left / R;
  for (int i = 0; i <= R; i++) {
    int64_t groups = share;
    if (i < R) {
      for (int64_t j = 0; j < t->touch_bytes; j += 64) _mm_prefetch(touch + j, _MM_HINT_T0);
      touch += t->touch_stride;
    } else {
      groups = left;
    }
    left -= groups;
    for (; groups > 0; groups--) {
      if (!Once) {
        _mm_prefetch(ahead, _MM_HINT_T1);
#pragma GCC unroll 1
        for (int64_t j = 64; j < lines; j += 64) _mm_prefetch(ahead + j, _MM_HINT_T1);
        ahead += ahead_step;
      }
#pragma GCC unroll 4
      for (int g = 0; g < kGroup; g++) {
        Vec bv[V];
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) {
          bv[v] = W ? LOAD_WIDE(b + (g * V + v) * kBytes) : LOAD_B(b + (g * V + v) * kBytes);
          if (Once && (g * V + v) * kBytes % 64 == 0)
            _mm_prefetch(reinterpret_cast<const char*>(b + (g * V + v) * kBytes + 4096), _MM_HINT_T0);
        }
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
          const Vec av = BROADCAST_A(a + r * stride + g * 4);
#pragma GCC unroll 8
          for (int v = 0; v < V; v++) acc[g % U][r][v] = DOT(acc[g % U][r][v], av, bv[v]);
        }
      }
      a += kGroup * 4;
      b += kGroup * V * kBytes;
    }
  }
  for (int64_t s = steps / kGroup * kGroup; s < steps; s++) {
    Vec bv[V];
#pragma GCC unroll 8
    for (int v = 0; v < V; v++) bv[v] = W ? LOAD_WIDE(b + v * kBytes) : LOAD_B(b + v * kBytes);
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
      const Vec av = BROADCAST_A(a + r * stride);
#pragma GCC unroll 8
      for (int v = 0; v < V; v++) acc[0][r][v] = DOT(acc[0][r][v], av, bv[v]);
    }
    b += V * kBytes;
    a += 4;
  }
#if WHITTLE_STRAIGHT_FLOATS
  if (U == 1 && t->floats) {
    const float *scale = t->floats->scale + t->column, *bias = t->floats->bias + t->column, *residual = t->residual;
    float* to = reinterpret_cast<float*>(t->to);
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
#pragma GCC unroll 8
      for (int v = 0; v < V; v++) {
        vf x = v_add(v_mul(FLOATS_OF(acc[0][r][v]), v_load(scale + v * LANES)), v_load(bias + v * LANES));
        if (residual) x = v_add(x, v_load(residual + v * LANES));
        v_store(to + v * LANES, x);
      }
      to += t->to_stride;
      if (residual) residual += t->to_stride;
    }
    return;
  }
#endif
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 8
    for (int v = 0; v < V; v++) {
      Vec sum = acc[0][r][v];
#pragma GCC unroll 8
      for (int u = 1; u < U; u++) sum = ADD(sum, acc[u][r][v]);
      STORE(t->to + r * t->to_stride + v * LANES, sum);
    }
}

typedef void (*TileFn)(const Tile*);

// Sets of sums by rows: about as many chains as the latency times the rate of the multiply-add asks for. No more rows than the
// registers hold.
#define WHITTLE_SETS(R, V) ((R) * (V) >= 10 ? 1 : (R) * (V) >= 4 ? 2 : 4)
#define WHITTLE_TILE(R, V, O, W) tile<((R) < ROWS_OF(V) ? (R) : ROWS_OF(V)), V, WHITTLE_SETS(R, V), O, W>
#define WHITTLE_TILES(V, O, W)                                                                                       \
  {                                                                                                                  \
    WHITTLE_TILE(1, V, O, W), WHITTLE_TILE(2, V, O, W), WHITTLE_TILE(3, V, O, W), WHITTLE_TILE(4, V, O, W),          \
        WHITTLE_TILE(5, V, O, W), WHITTLE_TILE(6, V, O, W), WHITTLE_TILE(7, V, O, W), WHITTLE_TILE(8, V, O, W),      \
        WHITTLE_TILE(9, V, O, W), WHITTLE_TILE(10, V, O, W), WHITTLE_TILE(11, V, O, W), WHITTLE_TILE(12, V, O, W)    \
  }

// Lines of b' in a group, of V vectors.
static inline int64_t lines_of(int64_t vectors) { return kGroup * vectors * B_BYTES > 64 ? kGroup * vectors * B_BYTES / 64 : 1; }

enum { kMostRows = 12 };
typedef TileFn OfRows[kMostRows];
// By whether b' is read once.
const OfRows kFull[2] = {WHITTLE_TILES(TILE_VECTORS, false, false), WHITTLE_TILES(TILE_VECTORS, true, false)};
#if WIDE_BYTES
const OfRows kWidened = WHITTLE_TILES(TILE_VECTORS, false, true);
#endif
#if WIDEST_VECTORS > TILE_VECTORS
const OfRows kWidest[2] = {WHITTLE_TILES(WIDEST_VECTORS, false, false), WHITTLE_TILES(WIDEST_VECTORS, true, false)};
#endif
const OfRows kNarrow[TILE_VECTORS] = {
    WHITTLE_TILES(1, false, false),
#if TILE_VECTORS > 2
    WHITTLE_TILES(2, false, false),
#endif
#if TILE_VECTORS > 3
    WHITTLE_TILES(3, false, false),
#endif
};

#if defined(_MSC_VER)
#define WHITTLE_ALIGN64 __declspec(align(64))
#else
#define WHITTLE_ALIGN64 __attribute__((aligned(64)))
#endif

// Sums of a tile of any width.
enum { kTileSums = 12 * 4 * LANES };

static void panel(const GemmInt8Panel* p) {
  const int64_t vectors = (p->columns + LANES - 1) / LANES, width = vectors * LANES;
  const int64_t most_rows = vectors == 1 ? ROWS_OF(1) : vectors == 2 ? ROWS_OF(2) : vectors == 3 ? ROWS_OF(3) : ROWS_OF(4);
  const int64_t tiles = (p->rows + most_rows - 1) / most_rows;
  const int64_t tile_rows = p->rows / tiles, taller = p->rows % tiles;
  const GemmInt8Epilogue* e = p->epilogue;
  const CodeStep step = epilogue_step(e);
  const int64_t size = e->out_type == kOutInt32 || e->out_type == kOutFloat32 ? 4 : 1;
  const bool straight = e->out_type == kOutInt32 && !e->b_zero && p->columns == width;
  // Floats of whole vectors, that nothing follows.
  const bool floats = WHITTLE_STRAIGHT_FLOATS && e->out_type == kOutFloat32 && e->activation.kind == kActivationNone && !e->b_zero &&
                      !p->range && !e->added.codes && p->columns == width;
  WHITTLE_ALIGN64 int32_t acc[kTileSums];
  const TileFn* of_rows = kNarrow[vectors < TILE_VECTORS ? vectors - 1 : 0];
  if (vectors == TILE_VECTORS) of_rows = kFull[tiles == 1];
#if WIDEST_VECTORS > TILE_VECTORS
  if (vectors == WIDEST_VECTORS) of_rows = kWidest[tiles == 1];
#endif
#if WIDE_BYTES
  WHITTLE_ALIGN64 int8_t wide[kGemmInt8Block];
  const bool widen = vectors == TILE_VECTORS && tiles >= 4;
  if (widen) of_rows = kWidened;
#else
  const bool widen = false;
#endif
  // With many rows the second level feeds b' as well, and fewer blocks move fewer sums.
  const int64_t most = widen || tiles < 4 ? p->block : 4 * p->block;
  // One tile of rows needs no blocks: it reads b' once.
  const int64_t blocks = tiles == 1 ? 1 : (p->steps + most - 1) / most;
  const int64_t block = blocks > 0 ? (p->steps + blocks - 1) / blocks : 0;
  Tile t;
  // What is to come passes within all tiles where a line a group does it, else within four of them, or two.
  t.lines = 1;
  if (vectors >= TILE_VECTORS) {
    const int64_t groups = tiles * (p->steps / kGroup), wanted = p->ahead_bytes / 64, quarter = (lines_of(vectors) + 3) / 4;
    t.lines = wanted <= groups ? 1 : wanted <= groups * quarter ? quarter : (lines_of(vectors) + 1) / 2;
  }
  const char *ahead = static_cast<const char*>(p->ahead), *ahead_end = ahead + p->ahead_bytes;
  const int8_t* b = p->b;
  t.a_stride = p->a_stride;
  t.touch_stride = p->out_stride * size;
  int64_t s = 0;
  do {
    t.steps = p->steps - s < block ? p->steps - s : block;
    const bool first = s == 0, last = s + t.steps == p->steps;
    t.b = b;
#if WIDE_BYTES
    if (widen) {
      for (int64_t i = 0; i < t.steps * TILE_VECTORS; i++) WIDEN(wide + i * WIDE_BYTES, b + i * B_BYTES);
      t.b = wide;
    }
#endif
    t.from = e->offset + p->column;
    t.from_stride = first ? 0 : width;
    t.column = p->column;
    t.touch_bytes = last ? p->columns * size : 0;
    const int64_t pass = t.steps / kGroup * t.lines * 64;
    const uint8_t* a = static_cast<const uint8_t*>(p->a) + s * 4;
    char* out = static_cast<char*>(p->out) + p->column * size;
    int64_t row = 0;
    for (int64_t i = 0; i < tiles; i++) {
      const int64_t rows = tile_rows + (i < taller);
      int32_t* kept = p->sums + i * most_rows * width;
      t.a = a;
      if (!first) t.from = kept;
      // Few rows have several sets of sums, which the epilogue joins.
      const bool here = last && floats && rows * vectors >= 10;
      t.floats = here ? e : nullptr;
      t.residual = here && e->residual ? e->residual + (reinterpret_cast<const float*>(out) - static_cast<const float*>(e->out_base)) : nullptr;
      t.to = !last ? kept : straight || here ? reinterpret_cast<int32_t*>(out) : acc;
      t.to_stride = last && (straight || here) ? p->out_stride : width;
      t.touch = out;
      // At its end there is nothing left to ask for, and the line asked for again and again is at hand.
      const bool more = ahead < ahead_end;
      t.ahead = more ? ahead : reinterpret_cast<const char*>(a);
      t.ahead_step = more ? t.lines * 64 : 0;
      if (more) ahead += pass;
      of_rows[rows - 1](&t);
      if (last && !straight && !here) epilogue_tile(p, row, rows, acc, width, &step);
      row += rows;
      a += rows * p->a_stride;
      out += rows * t.touch_stride;
    }
    b += t.steps * vectors * B_BYTES;
    s += t.steps;
  } while (s < p->steps);
}

// As many chains as the tile has sums, nothing but the multiply-add.
static double peak(int64_t iterations) {
  enum { kChains = ROWS_OF(TILE_VECTORS) * TILE_VECTORS };
  Vec acc[kChains];
#pragma GCC unroll 32
  for (int i = 0; i < kChains; i++) acc[i] = ZERO();
  static const uint8_t seed[128] = {3, 1, 200, 0, 7, 90, 1, 5, 9, 14, 77, 2};
  Vec a = BROADCAST_A(seed);
  const Vec b = LOAD_B(reinterpret_cast<const int8_t*>(seed));
  for (int64_t n = 0; n < iterations; n++) {
#pragma GCC unroll 32
    for (int i = 0; i < kChains; i++) {
      OPAQUE(a);  // or a compiler hoists the product
      acc[i] = DOT(acc[i], a, b);
      OPAQUE(acc[i]);
    }
  }
  Vec sum = acc[0];
#pragma GCC unroll 32
  for (int i = 1; i < kChains; i++) sum = ADD(sum, acc[i]);
  int32_t out[LANES];
  STORE(out, sum);
  volatile int32_t sink = out[0];
  (void)sink;
  return static_cast<double>(iterations) * kChains * B_BYTES * 2;
}

static inline void install(GemmInt8Kernels* t) {
  t->rows = ROWS_OF(TILE_VECTORS);
  t->columns = TILE_VECTORS * LANES;
  t->widest = WIDEST_VECTORS * LANES;
  t->vector = TILE_VECTOR;
  t->k_step = K_STEP;
  t->step_bytes = TILE_VECTORS * (WIDE_BYTES ? WIDE_BYTES : B_BYTES);
  t->begin = t->end = nullptr;
  t->pack = pack_panel;
  t->panel = panel;
  t->codes = epilogue_codes;
  t->peak = peak;
}

}  // namespace
}  // namespace whittle
