// NEON without dot products: bytes widened to 16 bits (a' when its rows are copied, b' at the load), vmlal by lane on 4 rows x
// 16 columns: 16 sums of 4. Panels [k][16]. Products are at most 32640 in magnitude; every sum has 32 bits.
#define TILE_ROWS 4
#define TILE_COLUMNS 16
#define TILE_VECTOR 16
#define K_STEP 1
#define K_PAD 4
#define A_BYTES 2
#define SHIFT_U8 0
#include "cpu/gemm/int8_epilogue.h"
#include "cpu/gemm/int8_pack.h"
#include "cpu/gemm/int8_neon.h"

namespace whittle {
namespace {

template <int R>
void tile(const uint8_t* a, int64_t stride, const int8_t* b, int64_t steps, const int32_t* from, int32_t* out) {
  int32x4_t acc[R][4];
#pragma GCC unroll 4
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int v = 0; v < 4; v++) acc[r][v] = vld1q_s32(from + v * 4);
  for (int64_t s = 0; s < steps; s++, b += 64) {
    int16x4_t av[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) av[r] = vld1_s16(reinterpret_cast<const int16_t*>(a + r * stride) + s * 4);
#define WHITTLE_LANE(i)                                                        \
  {                                                                            \
    const int8x16_t w = vld1q_s8(b + (i) * 16);                                \
    const int16x8_t lo = vmovl_s8(vget_low_s8(w)), hi = vmovl_high_s8(w);      \
    _Pragma("GCC unroll 4") for (int r = 0; r < R; r++) {                      \
      acc[r][0] = vmlal_lane_s16(acc[r][0], vget_low_s16(lo), av[r], i);       \
      acc[r][1] = vmlal_high_lane_s16(acc[r][1], lo, av[r], i);                \
      acc[r][2] = vmlal_lane_s16(acc[r][2], vget_low_s16(hi), av[r], i);       \
      acc[r][3] = vmlal_high_lane_s16(acc[r][3], hi, av[r], i);                \
    }                                                                          \
  }
    WHITTLE_LANE(0)
    WHITTLE_LANE(1)
    WHITTLE_LANE(2)
    WHITTLE_LANE(3)
#undef WHITTLE_LANE
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int v = 0; v < 4; v++) vst1q_s32(out + r * TILE_COLUMNS + v * 4, acc[r][v]);
}

const TileFn kTiles[TILE_ROWS] = {tile<1>, tile<2>, tile<3>, tile<4>};
void panel(const GemmInt8Panel* p) { run_tiles(p, kTiles); }

#define WHITTLE_STEP(sum) vmlal_high_lane_s16(sum, vdupq_n_s16(3), vdup_n_s16(5), 1)
WHITTLE_NEON_PEAK(16, WHITTLE_STEP, 4 * 2)

}  // namespace
}  // namespace whittle

extern "C" void gemm_int8_install_neon(whittle::GemmInt8Kernels* t) { whittle::install_neon(t, whittle::panel, whittle::peak); }
