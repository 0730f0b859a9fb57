// NEON matrix multiply: smmla takes 2 rows x 8 of k by 8 of k x 2 columns; 8 rows x 8 columns are 16 sums of 2 x 2, laid straight
// at the end. Panels [k / 8][8][8]. Signed by signed, so unsigned a is turned to signed by its top bit.
#define TILE_ROWS 8
#define TILE_COLUMNS 8
#define TILE_VECTOR 8
#define K_STEP 8
#define K_PAD 8
#define A_BYTES 1
#define SHIFT_U8 -128
#include "cpu/gemm/int8_epilogue.h"
#include "cpu/gemm/int8_pack.h"
#include "cpu/gemm/int8_neon.h"

namespace whittle {
namespace {

// R rows in pairs; where R is odd, the last pair's first row stands in for its second, whose sums go beyond the R rows of `out`.
template <int R>
void tile(const uint8_t* a, int64_t stride, const int8_t* b, int64_t steps, const int32_t* from, int32_t* out) {
  constexpr int P = (R + 1) / 2;
  int32x4_t acc[P][4];
  const int8_t* first[P];
  const int8_t* second[P];
#pragma GCC unroll 4
  for (int i = 0; i < P; i++) {
    first[i] = reinterpret_cast<const int8_t*>(a) + 2 * i * stride;
    second[i] = first[i] + (2 * i + 1 < R ? stride : 0);
#pragma GCC unroll 4
    for (int v = 0; v < 4; v++) {
      const int32x2_t start = vld1_s32(from + v * 2);
      acc[i][v] = vcombine_s32(start, start);
    }
  }
  for (int64_t s = 0; s < steps; s++, b += 64) {
    int8x16_t bv[4];
#pragma GCC unroll 4
    for (int v = 0; v < 4; v++) bv[v] = vld1q_s8(b + v * 16);
#pragma GCC unroll 4
    for (int i = 0; i < P; i++) {
      const int8x16_t av = vcombine_s8(vld1_s8(first[i] + s * 8), vld1_s8(second[i] + s * 8));
#pragma GCC unroll 4
      for (int v = 0; v < 4; v++) acc[i][v] = vmmlaq_s32(acc[i][v], av, bv[v]);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < P; i++)
#pragma GCC unroll 4
    for (int v = 0; v < 4; v++) {
      vst1_s32(out + (2 * i) * TILE_COLUMNS + v * 2, vget_low_s32(acc[i][v]));
      vst1_s32(out + (2 * i + 1) * TILE_COLUMNS + v * 2, vget_high_s32(acc[i][v]));
    }
}

const TileFn kTiles[TILE_ROWS] = {tile<1>, tile<2>, tile<3>, tile<4>, tile<5>, tile<6>, tile<7>, tile<8>};
void panel(const GemmInt8Panel* p) { run_tiles(p, kTiles); }

#define WHITTLE_STEP(sum) vmmlaq_s32(sum, vdupq_n_s8(5), vdupq_n_s8(3))
WHITTLE_NEON_PEAK(16, WHITTLE_STEP, 32 * 2)

}  // namespace
}  // namespace whittle

extern "C" void gemm_int8_install_neoni8mm(whittle::GemmInt8Kernels* t) { whittle::install_neon(t, whittle::panel, whittle::peak); }
