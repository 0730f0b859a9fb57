// The register tile of the x86 vector variants, one source: R rows of a' broadcast four bytes at a time against V vectors of a
// panel of b'. The including file defines Vec, LANES, TILE_ROWS, TILE_VECTORS, B_BYTES (of one vector of b'), the macros
// LOAD_B(pointer), BROADCAST_A(pointer), DOT(sum, a, b), ADD(x, y), LOAD(pointer), ZERO(), STORE(pointer, x), and includes
// int8_epilogue.h before. WIDE_BYTES and LOAD_WIDE(pointer), where given, say that b' is widened once for many rows. Rows
// are spread evenly over tiles, so that M = 7 runs as 4 + 3 and not 6 + 1; k goes by in blocks that stay in L1.
#pragma once

#ifndef WIDE_BYTES
#define WIDE_BYTES 0
#define LOAD_WIDE(p) LOAD_B(p)
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
  const int8_t* ahead;  // for kNext
};

// What a tile prefetches: nothing; its own b', which comes from memory and is read once; or the block of b' that the next
// call of the tile reads, one line a step or two, towards the second level.
enum Ahead { kNone, kOwn, kNext, kNextTwo };

// Few rows leave few independent sums: U sets of them hide the latency of the multiply-add.
template <int R, int V, int U, Ahead A, bool W>
static inline void tile(const Tile* t) {
  constexpr int kBytes = W ? WIDE_BYTES : B_BYTES;
  const uint8_t* a = t->a;
  const int64_t stride = t->a_stride, steps = t->steps;
  const int8_t* b = t->b;
  const int8_t* ahead = t->ahead;
  Vec acc[U][R][V];
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 8
    for (int v = 0; v < V; v++) {
      acc[0][r][v] = LOAD(t->from + r * t->from_stride + v * LANES);
#pragma GCC unroll 8
      for (int u = 1; u < U; u++) acc[u][r][v] = ZERO();
    }
  int64_t s = 0;
  for (; s + U <= steps; s += U) {
#pragma GCC unroll 8
    for (int u = 0; u < U; u++) {
      Vec bv[V];
#pragma GCC unroll 8
      for (int v = 0; v < V; v++) {
        bv[v] = W ? LOAD_WIDE(b + v * kBytes) : LOAD_B(b + v * kBytes);
        if (A == kOwn && v * kBytes % 64 == 0) _mm_prefetch(reinterpret_cast<const char*>(b + v * kBytes + 4096), _MM_HINT_T0);
      }
      if (A == kNext || A == kNextTwo) {
        _mm_prefetch(reinterpret_cast<const char*>(ahead), _MM_HINT_T1);
        if (A == kNextTwo) _mm_prefetch(reinterpret_cast<const char*>(ahead + 64), _MM_HINT_T1);
        ahead += A == kNextTwo ? 128 : 64;
      }
#pragma GCC unroll 16
      for (int r = 0; r < R; r++) {
        const Vec av = BROADCAST_A(a + r * stride + u * 4);
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) acc[u][r][v] = DOT(acc[u][r][v], av, bv[v]);
      }
      b += V * kBytes;
    }
    a += U * 4;
  }
  for (; U > 1 && s < steps; s++) {
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

// Sets of sums by rows: about as many chains as the latency times the rate of the multiply-add asks for.
#define WHITTLE_SETS(R, V) ((R) * (V) >= 8 ? 1 : (R) * (V) >= 4 ? 2 : 4)
#define WHITTLE_TILE(R, V, A, W) tile<R, V, WHITTLE_SETS(R, V), A, W>
#define WHITTLE_TILE_ROW(V, A, W)                                                                                   \
  {                                                                                                                 \
    WHITTLE_TILE(1, V, A, W), WHITTLE_TILE(2, V, A, W), WHITTLE_TILE(3, V, A, W), WHITTLE_TILE(4, V, A, W),         \
        WHITTLE_TILE(5, V, A, W), WHITTLE_TILE(6, V, A, W)                                                          \
  }

const TileFn kOwnTiles[TILE_ROWS] = WHITTLE_TILE_ROW(TILE_VECTORS, kOwn, false);
const TileFn kNextTiles[TILE_ROWS] = WHITTLE_TILE_ROW(TILE_VECTORS, kNext, false);
const TileFn kNextTwoTiles[TILE_ROWS] = WHITTLE_TILE_ROW(TILE_VECTORS, kNextTwo, false);
#if WIDE_BYTES
const TileFn kWideTiles[TILE_ROWS] = WHITTLE_TILE_ROW(TILE_VECTORS, kNone, true);
const TileFn kWideNextTiles[TILE_ROWS] = WHITTLE_TILE_ROW(TILE_VECTORS, kNext, true);
#endif
const TileFn kTiles[TILE_VECTORS][TILE_ROWS] = {
    WHITTLE_TILE_ROW(1, kNone, false),
    WHITTLE_TILE_ROW(2, kNone, false),
#if TILE_VECTORS > 2
    WHITTLE_TILE_ROW(3, kNone, false),
    WHITTLE_TILE_ROW(4, kNone, false),
#endif
};

#if defined(_MSC_VER)
#define WHITTLE_ALIGN64 __declspec(align(64))
#else
#define WHITTLE_ALIGN64 __attribute__((aligned(64)))
#endif

enum { kTileSums = TILE_ROWS * TILE_COLUMNS, kTileLines = (TILE_VECTORS * B_BYTES + 63) / 64 };

static void panel(const GemmInt8Panel* p) {
  const int64_t vectors = (p->columns + LANES - 1) / LANES, width = vectors * LANES;
  const int64_t tiles = (p->rows + TILE_ROWS - 1) / TILE_ROWS;
  const GemmInt8Epilogue* e = p->epilogue;
  const bool full = vectors == TILE_VECTORS, few = tiles < kTileLines;
  const int64_t size = e->out_type == kOutInt32 || e->out_type == kOutFloat32 ? 4 : 1;
  const bool straight = e->out_type == kOutInt32 && !e->b_zero && p->columns == width;
  WHITTLE_ALIGN64 int32_t acc[kTileSums];
#if WIDE_BYTES
  WHITTLE_ALIGN64 int8_t wide[kGemmInt8Block];
  const bool widen = full && tiles >= 4;
#else
  const bool widen = false;
#endif
  // With many rows the second level feeds b' as well, and fewer blocks move fewer sums.
  const int64_t most = widen || tiles < 4 ? p->block : 4 * p->block;
  // One tile of rows needs no blocks: it reads b' once.
  const int64_t blocks = tiles == 1 ? 1 : (p->steps + most - 1) / most;
  const int64_t block = blocks > 0 ? (p->steps + blocks - 1) / blocks : 0;
  const int8_t* b = p->b;
  Tile t;
  t.a_stride = p->a_stride;
  int64_t s = 0;
  do {
    t.steps = p->steps - s < block ? p->steps - s : block;
    const int64_t bytes = t.steps * vectors * B_BYTES;
    const bool first = s == 0, last = s + t.steps == p->steps;
    t.b = b;
#if WIDE_BYTES
    if (widen) {
      for (int64_t i = 0; i < t.steps * TILE_VECTORS; i++) WIDEN(wide + i * WIDE_BYTES, b + i * B_BYTES);
      t.b = wide;
    }
#endif
    int64_t row = 0;
    for (int64_t i = 0; i < tiles; i++) {
      const int64_t rows = (p->rows - row + (tiles - i) - 1) / (tiles - i);
      int32_t* kept = p->sums + i * kTileSums;
      t.a = static_cast<const uint8_t*>(p->a) + row * p->a_stride + s * 4;
      t.from = first ? e->offset + p->column : kept;
      t.from_stride = first ? 0 : width;
      t.to = !last ? kept : straight ? static_cast<int32_t*>(p->out) + row * p->out_stride + p->column : acc;
      t.to_stride = last && straight ? p->out_stride : width;
      t.ahead = b + bytes + i * t.steps * (few ? 128 : 64);
      TileFn fn = kTiles[vectors - 1][rows - 1];
      if (full && tiles == 1) fn = kOwnTiles[rows - 1];
#if WIDE_BYTES
      else if (widen) fn = i < kTileLines ? kWideNextTiles[rows - 1] : kWideTiles[rows - 1];
#endif
      else if (full && few && 2 * i < kTileLines) fn = kNextTwoTiles[rows - 1];
      else if (full && !few && i < kTileLines) fn = kNextTiles[rows - 1];
      if (last)
        for (int64_t r = 0; r < rows; r++) {
          const char* y = static_cast<const char*>(p->out) + ((row + r) * p->out_stride + p->column) * size;
          for (int64_t j = 0; j < p->columns * size; j += 64) _mm_prefetch(y + j, _MM_HINT_T0);
        }
      fn(&t);
      if (last && !straight) epilogue_tile(p, row, rows, acc, width);
      row += rows;
    }
    b += bytes;
    s += t.steps;
  } while (s < p->steps);
}

// As many chains as the tile has sums, nothing but the multiply-add.
static double peak(int64_t iterations) {
  enum { kChains = TILE_ROWS * TILE_VECTORS };
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
  t->rows = TILE_ROWS;
  t->columns = TILE_COLUMNS;
  t->vector = TILE_VECTOR;
  t->k_step = K_STEP;
  t->step_bytes = TILE_VECTORS * (WIDE_BYTES ? WIDE_BYTES : B_BYTES);
  t->begin = t->end = nullptr;
  t->pack = pack_panel;
  t->panel = panel;
  t->peak = peak;
}

}  // namespace
}  // namespace whittle
