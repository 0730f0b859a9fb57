// NEON dot products: sdot by lane on 6 rows x 16 columns, 24 sums of 4, one load of a' serving 16 values of k. Panels
// [k / 4][16][4]. sdot is signed by signed, so unsigned a is turned to signed by its top bit.
#define TILE_ROWS 6
#define TILE_COLUMNS 16
#define TILE_VECTOR 16
#define K_STEP 4
#define K_PAD 16
#define A_BYTES 1
#define SHIFT_U8 -128
#include "cpu/gemm/int8_epilogue.h"
#include "cpu/gemm/int8_pack.h"
#include "cpu/gemm/int8_neon.h"

namespace whittle {
namespace {

template <int R>
void tile(const uint8_t* a, int64_t stride, const int8_t* b, int64_t steps, const int32_t* from, int32_t* out) {
  int32x4_t acc[R][4];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int v = 0; v < 4; v++) acc[r][v] = vld1q_s32(from + v * 4);
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
    for (int v = 0; v < 4; v++) vst1q_s32(out + r * TILE_COLUMNS + v * 4, acc[r][v]);
}

const TileFn kTiles[TILE_ROWS] = {tile<1>, tile<2>, tile<3>, tile<4>, tile<5>, tile<6>};
void panel(const GemmInt8Panel* p) { run_tiles(p, kTiles); }

#define WHITTLE_STEP(sum) vdotq_laneq_s32(sum, vdupq_n_s8(3), vdupq_n_s8(5), 1)
WHITTLE_NEON_PEAK(24, WHITTLE_STEP, 16 * 2)

}  // namespace
}  // namespace whittle

extern "C" void gemm_int8_install_neondot(whittle::GemmInt8Kernels* t) { whittle::install_neon(t, whittle::panel, whittle::peak); }
