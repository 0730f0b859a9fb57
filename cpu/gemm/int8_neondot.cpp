// NEON dot products: sdot by lane on 6 rows x 16 columns, 24 sums of 4, one load of a' serving 16 values of k. Panels
// [k / 4][16][4]. sdot is signed by signed, so unsigned a is turned to signed by its top bit.
#include <arm_neon.h>
#define TILE_COLUMNS 16
#define TILE_VECTOR 16
#define K_STEP 4
#define K_PAD 16
#include "cpu/gemm/int8_epilogue.h"
#include "cpu/gemm/int8_pack.h"

namespace whittle {
namespace {

template <int R>
void tile(const uint8_t* a, int64_t stride, const int8_t* b, int64_t steps, int32_t* out) {
  int32x4_t acc[R][4];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int v = 0; v < 4; v++) acc[r][v] = vdupq_n_s32(0);
  for (int64_t s = 0; s < steps; s++, b += 256) {
    const int8_t* at = reinterpret_cast<const int8_t*>(a) + s * 16;
#define WHITTLE_LANE(i)                                                        \
  {                                                                            \
    const int8x16_t b0 = vld1q_s8(b + (i) * 64), b1 = vld1q_s8(b + (i) * 64 + 16); \
    const int8x16_t b2 = vld1q_s8(b + (i) * 64 + 32), b3 = vld1q_s8(b + (i) * 64 + 48); \
    _Pragma("GCC unroll 8") for (int r = 0; r < R; r++) {                      \
      const int8x16_t av = vld1q_s8(at + r * stride);                          \
      acc[r][0] = vdotq_laneq_s32(acc[r][0], b0, av, i);                       \
      acc[r][1] = vdotq_laneq_s32(acc[r][1], b1, av, i);                       \
      acc[r][2] = vdotq_laneq_s32(acc[r][2], b2, av, i);                       \
      acc[r][3] = vdotq_laneq_s32(acc[r][3], b3, av, i);                       \
    }                                                                          \
  }
    WHITTLE_LANE(0)
    WHITTLE_LANE(1)
    WHITTLE_LANE(2)
    WHITTLE_LANE(3)
#undef WHITTLE_LANE
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int v = 0; v < 4; v++) vst1q_s32(out + r * 16 + v * 4, acc[r][v]);
}

typedef void (*TileFn)(const uint8_t*, int64_t, const int8_t*, int64_t, int32_t*);
const TileFn kTiles[6] = {tile<1>, tile<2>, tile<3>, tile<4>, tile<5>, tile<6>};

void panel(const GemmInt8Panel* p) {
  int32_t acc[6 * TILE_COLUMNS];
  const int64_t tiles = (p->rows + 5) / 6;
  int64_t row = 0;
  for (int64_t t = 0; t < tiles; t++) {
    const int64_t rows = (p->rows - row + (tiles - t) - 1) / (tiles - t);
    kTiles[rows - 1](static_cast<const uint8_t*>(p->a) + row * p->a_stride, p->a_stride, p->b, p->steps, acc);
    epilogue_tile(p, row, rows, acc, TILE_COLUMNS);
    row += rows;
  }
}

void convert(const GemmInt8Convert* p) { convert_bytes<int8_t>(p, p->is_signed ? 0 : 0x80); }

double peak(int64_t iterations) {
  int32x4_t acc[24];
#pragma GCC unroll 24
  for (int i = 0; i < 24; i++) acc[i] = vdupq_n_s32(0);
  int8x16_t a = vdupq_n_s8(5);
  const int8x16_t b = vdupq_n_s8(3);
  for (int64_t n = 0; n < iterations; n++) {
#pragma GCC unroll 24
    for (int i = 0; i < 24; i++) {
      __asm__ volatile("" : "+w"(a));
      acc[i] = vdotq_laneq_s32(acc[i], b, a, 1);
      __asm__ volatile("" : "+w"(acc[i]));
    }
  }
  volatile int32_t sink = vaddvq_s32(acc[3]);
  (void)sink;
  return static_cast<double>(iterations) * 24 * 16 * 2;
}

}  // namespace
}  // namespace whittle

extern "C" void gemm_int8_install_neondot(whittle::GemmInt8Kernels* t) {
  using namespace whittle;
  t->rows = 6;
  t->columns = TILE_COLUMNS;
  t->vector = TILE_VECTOR;
  t->k_step = K_PAD;
  t->a_bytes = 1;
  t->shift_u8 = -128;
  t->shift_s8 = 0;
  t->pack = pack_panel;
  t->convert = convert;
  t->panel = panel;
  t->peak = peak;
}
