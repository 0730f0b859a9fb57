// What the NEON variants share: rows spread over tiles, sums that start at the offsets, the ceiling. The including file defines
// TILE_ROWS, K_PAD, A_BYTES, SHIFT_U8, includes int8_epilogue.h and int8_pack.h, and a template
//   tile<R>(a, stride, b, steps, from, out)   // out: R rows of TILE_COLUMNS sums; from: one row of them
#pragma once
#include <arm_neon.h>

namespace whittle {
namespace {

typedef void (*TileFn)(const uint8_t* a, int64_t stride, const int8_t* b, int64_t steps, const int32_t* from, int32_t* out);

static inline void run_tiles(const GemmInt8Panel* p, const TileFn* tiles_of) {
  int32_t acc[(TILE_ROWS + 1) * TILE_COLUMNS];
  const CodeStep step = epilogue_step(p->epilogue);
  const int64_t tiles = (p->rows + TILE_ROWS - 1) / TILE_ROWS;
  int64_t row = 0;
  for (int64_t t = 0; t < tiles; t++) {
    const int64_t rows = (p->rows - row + (tiles - t) - 1) / (tiles - t);
    const uint8_t* a = static_cast<const uint8_t*>(p->a) + row * p->a_stride;
    tiles_of[rows - 1](a, p->a_stride, p->b, p->steps, p->epilogue->offset + p->column, acc);
    epilogue_tile(p, row, rows, acc, TILE_COLUMNS, &step);
    row += rows;
  }
}

// CHAINS independent sums of STEP(sum), nothing from memory.
#define WHITTLE_NEON_PEAK(CHAINS, STEP, OPS)                  \
  static double peak(int64_t iterations) {                    \
    int32x4_t acc[CHAINS];                                    \
    _Pragma("GCC unroll 24") for (int i = 0; i < CHAINS; i++) acc[i] = vdupq_n_s32(0); \
    for (int64_t n = 0; n < iterations; n++) {                \
      _Pragma("GCC unroll 24") for (int i = 0; i < CHAINS; i++) { \
        acc[i] = STEP(acc[i]);                                \
        __asm__ volatile("" : "+w"(acc[i]));                  \
      }                                                       \
    }                                                         \
    volatile int32_t sink = vaddvq_s32(acc[3]);               \
    (void)sink;                                               \
    return static_cast<double>(iterations) * CHAINS * (OPS);  \
  }

#if A_BYTES == 1
static void convert(const GemmInt8Convert* p) { convert_bytes<int8_t>(p, p->is_signed ? 0 : 0x80); }
#else
static void convert(const GemmInt8Convert* p) { convert_wide(p); }
#endif

static inline void install_neon(GemmInt8Kernels* t, void (*panel)(const GemmInt8Panel*), double (*peak)(int64_t)) {
  t->rows = TILE_ROWS;
  t->columns = t->widest = TILE_COLUMNS;
  t->vector = TILE_VECTOR;
  t->k_step = K_PAD;
  t->a_bytes = A_BYTES;
  t->step_bytes = TILE_COLUMNS * K_PAD;
  t->shift_u8 = SHIFT_U8;
  t->shift_s8 = 0;
  t->pack = pack_panel;
  t->convert = convert;
  t->panel = panel;
  t->begin = t->end = nullptr;
  t->codes = epilogue_codes;
  t->peak = peak;
}

}  // namespace
}  // namespace whittle
