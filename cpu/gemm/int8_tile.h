// The register tile of the x86 vector variants, one source: R rows of a' broadcast four bytes at a time against V vectors of a
// panel of b'. The including file defines Vec, LANES, TILE_ROWS, TILE_VECTORS, B_BYTES (of one vector of b'), the macros
// LOAD_B(pointer), BROADCAST_A(pointer), DOT(sum, a, b), ZERO(), ADD(x, y), STORE(pointer, x), and includes
// int8_epilogue.h before. Rows are spread evenly over tiles, so that M = 7 runs as 4 + 3 and not 6 + 1.
#pragma once

namespace whittle {
namespace {

// Few rows leave few independent sums: U sets of them hide the latency of the multiply-add. A: how many bytes ahead to
// prefetch b', where it is read once and comes from memory; 0 where row after row of tiles finds it in a cache.
template <int R, int V, int U, int A>
static inline void tile(const uint8_t* a, int64_t stride, const int8_t* b, int64_t steps, int32_t* out) {
  Vec acc[U][R][V];
#pragma GCC unroll 8
  for (int u = 0; u < U; u++)
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
      for (int v = 0; v < V; v++) acc[u][r][v] = ZERO();
  int64_t s = 0;
  for (; s + U <= steps; s += U) {
#pragma GCC unroll 8
    for (int u = 0; u < U; u++) {
      Vec bv[V];
#pragma GCC unroll 8
      for (int v = 0; v < V; v++) {
        bv[v] = LOAD_B(b + v * B_BYTES);
        if (A && v * B_BYTES % 64 == 0) _mm_prefetch(reinterpret_cast<const char*>(b + v * B_BYTES + A), _MM_HINT_T0);
      }
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) {
        const Vec av = BROADCAST_A(a + r * stride + u * 4);
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) acc[u][r][v] = DOT(acc[u][r][v], av, bv[v]);
      }
      b += V * B_BYTES;
    }
    a += U * 4;
  }
  for (; U > 1 && s < steps; s++) {
    Vec bv[V];
#pragma GCC unroll 8
    for (int v = 0; v < V; v++) bv[v] = LOAD_B(b + v * B_BYTES);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const Vec av = BROADCAST_A(a + r * stride);
#pragma GCC unroll 8
      for (int v = 0; v < V; v++) acc[0][r][v] = DOT(acc[0][r][v], av, bv[v]);
    }
    b += V * B_BYTES;
    a += 4;
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 8
    for (int v = 0; v < V; v++) {
      Vec sum = acc[0][r][v];
#pragma GCC unroll 8
      for (int u = 1; u < U; u++) sum = ADD(sum, acc[u][r][v]);
      STORE(out + (r * V + v) * LANES, sum);
    }
}

typedef void (*TileFn)(const uint8_t* a, int64_t stride, const int8_t* b, int64_t steps, int32_t* out);

#define WHITTLE_TILE_ROW(V, A)                                                                                       \
  {                                                                                                                 \
    tile<1, V, (V <= TILE_VECTORS / 2 ? 4 : 12 / TILE_VECTORS), A>, tile<2, V, (TILE_VECTORS >= 4 ? 3 : 2), A>,     \
        tile<3, V, 1, A>, tile<4, V, 1, A>, tile<5, V, 1, A>, tile<6, V, 1, A>                                      \
  }

// Of a whole panel that few tiles of rows read: the first of them brings it in.
const TileFn kStreaming[TILE_ROWS] = WHITTLE_TILE_ROW(TILE_VECTORS, 4096);

const TileFn kTiles[TILE_VECTORS][TILE_ROWS] = {
    WHITTLE_TILE_ROW(1, 0),
    WHITTLE_TILE_ROW(2, 0),
#if TILE_VECTORS > 2
    WHITTLE_TILE_ROW(3, 0),
    WHITTLE_TILE_ROW(4, 0),
#endif
};

static void panel(const GemmInt8Panel* p) {
  const int64_t vectors = (p->columns + LANES - 1) / LANES;
  const int64_t tiles = (p->rows + TILE_ROWS - 1) / TILE_ROWS;
#if defined(_MSC_VER)
  __declspec(align(64))
#else
  __attribute__((aligned(64)))
#endif
  int32_t acc[TILE_ROWS * TILE_COLUMNS];
  int64_t row = 0;
  for (int64_t t = 0; t < tiles; t++) {
    const int64_t rows = (p->rows - row + (tiles - t) - 1) / (tiles - t);
    const uint8_t* a = static_cast<const uint8_t*>(p->a) + row * p->a_stride;
    const TileFn fn = t == 0 && vectors == TILE_VECTORS && tiles <= 3 ? kStreaming[rows - 1] : kTiles[vectors - 1][rows - 1];
    fn(a, p->a_stride, p->b, p->steps, acc);
    epilogue_tile(p, row, rows, acc, vectors * LANES);
    row += rows;
  }
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
  t->pack = pack_panel;
  t->panel = panel;
  t->peak = peak;
}

}  // namespace
}  // namespace whittle
