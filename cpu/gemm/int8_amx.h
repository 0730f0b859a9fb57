// AMX: 32 rows x 32 columns as 2 x 2 tiles of 16 x 16 sums, 64 values of k a step: tdpbusd of a' (rows as they lie) by panels
// [k / 4][32][4], which are tiles of b' as the instruction wants them. The includer supplies TILE_* macros: the real
// instructions in the amx tier, plain C in the native check. Rows are padded by masking the tile's own row count; sums start
// from the offsets by a load of stride 0. Tiles are configured once for a run of panels, and released after it.
#pragma once
#define TILE_COLUMNS 32
#define TILE_VECTOR 16
#define K_STEP 4
#define K_PAD 64
#include "cpu/gemm/int8_epilogue.h"
#include "cpu/gemm/int8_pack.h"

namespace whittle {
namespace {

// What ldtilecfg reads. Tiles 0-3 sums (row half * 2 + column half), 4-5 a', 6-7 b'.
struct AmxConfig {
  uint8_t palette, start_row, reserved[14];
  uint16_t bytes[16];
  uint8_t rows[16];
};

static void amx_configure(int64_t rows) {
  AmxConfig c;
  memset(&c, 0, sizeof c);
  c.palette = 1;
  const uint8_t top = static_cast<uint8_t>(rows < 16 ? rows : 16), bottom = static_cast<uint8_t>(rows > 16 ? rows - 16 : 1);
  for (int i = 0; i < 8; i++) c.bytes[i] = 64;
  c.rows[0] = c.rows[1] = c.rows[4] = top;
  c.rows[2] = c.rows[3] = c.rows[5] = bottom;
  c.rows[6] = c.rows[7] = 16;
  TILE_CONFIGURE(&c);
}

static void amx_begin() { amx_configure(32); }
static void amx_end() { TILE_RELEASE(); }

static void amx_panel(const GemmInt8Panel* p) {
#if defined(_MSC_VER)
  __declspec(align(64))
#else
  __attribute__((aligned(64)))
#endif
  int32_t acc[32 * TILE_COLUMNS];
  const GemmInt8Epilogue* e = p->epilogue;
  const CodeStep step = epilogue_step(e);
  const bool wide = p->columns > 16;
  const bool straight = e->out_type == kOutInt32 && !e->b_zero && p->columns == (wide ? 32 : 16);
  const int64_t b_row = wide ? TILE_COLUMNS * 4 : 64, b_step = b_row * 16;
  // One tile of rows needs no blocks of k: it reads b' once.
  const int64_t most = p->rows > 32 && p->block < p->steps ? p->block : p->steps;
  int64_t configured = 32, s = 0;
  do {
    const int64_t steps = p->steps - s < most ? p->steps - s : most;
    const bool first = s == 0, last = s + steps == p->steps;
    for (int64_t row = 0; row < p->rows; row += 32) {
      const int64_t rows = p->rows - row < 32 ? p->rows - row : 32;
      if (rows != configured) amx_configure(configured = rows);
      const uint8_t* a = static_cast<const uint8_t*>(p->a) + row * p->a_stride + s * 64;
      const uint8_t* a2 = a + 16 * p->a_stride;
      const int8_t* b = p->b + s * b_step;
      const bool tall = rows > 16;
      int32_t* kept = p->sums + row * TILE_COLUMNS;
      // Rows of the offsets all alike: a stride of 0.
      const int32_t* from = first ? e->offset + p->column : kept;
      const int64_t from_row = first ? 0 : TILE_COLUMNS;
      TILE_LOAD(0, from, from_row * 4);
      if (wide) TILE_LOAD(1, from + 16, from_row * 4);
      if (tall) TILE_LOAD(2, from + 16 * from_row, from_row * 4);
      if (tall && wide) {
        TILE_LOAD(3, from + 16 * from_row + 16, from_row * 4);
        for (int64_t i = 0; i < steps; i++, b += b_step) {
          TILE_LOAD(6, b, b_row);
          TILE_LOAD(4, a + i * 64, p->a_stride);
          TILE_DOT(0, 4, 6);
          TILE_LOAD(5, a2 + i * 64, p->a_stride);
          TILE_DOT(2, 5, 6);
          TILE_LOAD(7, b + 64, b_row);
          TILE_DOT(1, 4, 7);
          TILE_DOT(3, 5, 7);
        }
      } else {
        for (int64_t i = 0; i < steps; i++, b += b_step) {
          TILE_LOAD(4, a + i * 64, p->a_stride);
          TILE_LOAD(6, b, b_row);
          TILE_DOT(0, 4, 6);
          if (tall) {
            TILE_LOAD(5, a2 + i * 64, p->a_stride);
            TILE_DOT(2, 5, 6);
          }
          if (wide) {
            TILE_LOAD(7, b + 64, b_row);
            TILE_DOT(1, 4, 7);
          }
        }
      }
      int32_t* to = !last ? kept : straight ? static_cast<int32_t*>(p->out) + row * p->out_stride + p->column : acc;
      const int64_t to_row = last && straight ? p->out_stride : TILE_COLUMNS;
      TILE_STORE(0, to, to_row * 4);
      if (wide) TILE_STORE(1, to + 16, to_row * 4);
      if (tall) TILE_STORE(2, to + 16 * to_row, to_row * 4);
      if (tall && wide) TILE_STORE(3, to + 16 * to_row + 16, to_row * 4);
      if (last && !straight) epilogue_tile(p, row, rows, acc, TILE_COLUMNS, &step);
    }
    s += steps;
  } while (s < p->steps);
  if (configured != 32) amx_configure(32);
}

static void amx_convert(const GemmInt8Convert* p) { convert_bytes<uint8_t>(p, p->is_signed ? 0x80 : 0); }

// As many independent sums as the kernel keeps, no loads.
static double amx_peak(int64_t iterations) {
  amx_configure(32);
  TILE_ZERO(0);
  TILE_ZERO(1);
  TILE_ZERO(2);
  TILE_ZERO(3);
  TILE_ZERO(4);
  TILE_ZERO(5);
  TILE_ZERO(6);
  TILE_ZERO(7);
  for (int64_t i = 0; i < iterations; i++) {
    TILE_DOT(0, 4, 6);
    TILE_DOT(1, 4, 7);
    TILE_DOT(2, 5, 6);
    TILE_DOT(3, 5, 7);
  }
  TILE_RELEASE();
  return static_cast<double>(iterations) * 4 * 16 * 16 * 64 * 2;
}

static void install_amx(GemmInt8Kernels* t) {
  t->rows = 32;
  t->columns = t->widest = TILE_COLUMNS;
  t->vector = TILE_VECTOR;
  t->k_step = K_PAD;
  t->step_bytes = TILE_COLUMNS * K_PAD;
  t->a_bytes = 1;
  t->shift_u8 = 0;
  t->shift_s8 = 128;
  t->pack = pack_panel;
  t->convert = amx_convert;
  t->panel = amx_panel;
  t->begin = amx_begin;
  t->end = amx_end;
  t->codes = epilogue_codes;
  t->peak = amx_peak;
}

}  // namespace
}  // namespace whittle
