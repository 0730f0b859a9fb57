// bfloat16 weights by tdpbf16ps: 32 rows x 32 columns as 2 x 2 tiles, 32 values of k a step. Each float32 of a is the exact
// sum of three bfloat16 numbers (its mantissa cut at 8 and 16 bits), so nothing is rounded before the sums: 12 tile products
// for 8 tile loads. The includer supplies TILE_* macros: the instructions in the amx tier, plain C in the native check. The
// instruction takes denormals as 0. Tile state is released before returning.
#pragma once
#include <stdint.h>
#include <string.h>

#define WHITTLE_ISA_FILE
#include "core/gemm_weight.h"

namespace whittle {
namespace {

// What ldtilecfg reads. Tiles 0-3 sums (row half * 2 + group), 4-5 a, 6-7 weights.
struct WeightTiles {
  uint8_t palette, start_row, reserved[14];
  uint16_t bytes[16];
  uint8_t rows[16];
};

static void split_rows(const WeightSplit* s) {
  const int64_t steps = (s->k + 31) / 32;
  for (int64_t step = 0; step < steps; step++) {
    uint16_t* out = s->out + step * 3 * 1024;
    const int64_t n = s->k - step * 32 < 32 ? s->k - step * 32 : 32;
    if (n < 32 || s->rows < 32) memset(out, 0, 3 * 1024 * 2);
    for (int64_t r = 0; r < s->rows; r++, out += 32) {
      const float* from = s->a + r * s->lda + step * 32;
      for (int64_t i = 0; i < n; i++) {
        float x = from[i];
        uint32_t bits;
        for (int t = 0; t < 3; t++) {
          memcpy(&bits, &x, 4);
          out[t * 1024 + i] = (uint16_t)(bits >> 16);
          bits &= 0xffff0000u;
          float high;
          memcpy(&high, &bits, 4);
          x -= high;
        }
      }
    }
  }
}

static void weight_tile(const WeightTile* t) {
#if defined(_MSC_VER)
  __declspec(align(64))
#else
  __attribute__((aligned(64)))
#endif
  float room[32 * 32];
  const bool tall = t->rows > 16, wide = t->columns > 16;
  const int64_t width = wide ? 32 : 16;
  WeightTiles config;
  memset(&config, 0, sizeof config);
  config.palette = 1;
  for (int i = 0; i < 8; i++) {
    config.bytes[i] = 64;
    config.rows[i] = 16;
  }
  // Whole tiles are read and computed (rows past the last hold zeros); only C has an edge, and passes through `room` there.
  const bool edge = t->columns != width || t->rows % 16 != 0;
  float* c = edge ? room : t->c;
  const int64_t ldc = edge ? 32 : t->ldc, c_bytes = ldc * 4;
  if (edge) {
    memset(room, 0, sizeof room);
    if (t->add)
      for (int64_t r = 0; r < t->rows; r++) memcpy(room + r * 32, t->c + r * t->ldc, (size_t)t->columns * 4);
  }
  TILE_CONFIGURE(&config);
  if (t->add) {
    TILE_LOAD(0, c, c_bytes);
    if (wide) TILE_LOAD(1, c + 16, c_bytes);
    if (tall) TILE_LOAD(2, c + 16 * ldc, c_bytes);
    if (tall && wide) TILE_LOAD(3, c + 16 * ldc + 16, c_bytes);
  } else {
    TILE_ZERO(0);
    TILE_ZERO(1);
    TILE_ZERO(2);
    TILE_ZERO(3);
  }
  const uint8_t* b = t->w->data + t->group * t->w->group_bytes + t->step * 1024;
  const uint8_t* b2 = b + t->w->group_bytes;
  const uint16_t* a = t->terms;
  for (int64_t s = 0; s < t->steps; s++, b += 1024, b2 += 1024, a += 3 * 1024) {
    TILE_LOAD(6, b, 64);
    if (wide) TILE_LOAD(7, b2, 64);
    // Least terms first would be no better: sums are rounded to float32 at every pair of k.
    for (int term = 0; term < 3; term++) {
      TILE_LOAD(4, a + term * 1024, 64);
      TILE_DOT(0, 4, 6);
      if (wide) TILE_DOT(1, 4, 7);
      if (tall) {
        TILE_LOAD(5, a + term * 1024 + 512, 64);
        TILE_DOT(2, 5, 6);
        if (wide) TILE_DOT(3, 5, 7);
      }
    }
  }
  TILE_STORE(0, c, c_bytes);
  if (wide) TILE_STORE(1, c + 16, c_bytes);
  if (tall) TILE_STORE(2, c + 16 * ldc, c_bytes);
  if (tall && wide) TILE_STORE(3, c + 16 * ldc + 16, c_bytes);
  TILE_RELEASE();
  if (edge)
    for (int64_t r = 0; r < t->rows; r++) memcpy(t->c + r * t->ldc, room + r * 32, (size_t)t->columns * 4);
}

static void install_tiles(WeightKernels* t) {
  t->bf16_rows = 32;
  t->split = split_rows;
  t->tile = weight_tile;
}

}  // namespace
}  // namespace whittle
