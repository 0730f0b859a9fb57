// NEON without dot products: bytes widened to 16 bits (a' when its rows are copied, b' at the load), vmlal by lane on 4 rows x
// 16 columns: 16 sums of 4. Panels [k][16]. Products are at most 32640 in magnitude; every sum has 32 bits.
#include <arm_neon.h>
#define TILE_COLUMNS 16
#define TILE_VECTOR 16
#define K_STEP 1
#define K_PAD 4
#include "cpu/gemm/int8_epilogue.h"
#include "cpu/gemm/int8_pack.h"

namespace whittle {
namespace {

template <int R>
void tile(const uint8_t* a, int64_t stride, const int8_t* b, int64_t steps, int32_t* out) {
  int32x4_t acc[R][4];
#pragma GCC unroll 4
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int v = 0; v < 4; v++) acc[r][v] = vdupq_n_s32(0);
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
    for (int v = 0; v < 4; v++) vst1q_s32(out + r * 16 + v * 4, acc[r][v]);
}

void panel(const GemmInt8Panel* p) {
  int32_t acc[4 * TILE_COLUMNS];
  for (int64_t row = 0; row < p->rows; row += 4) {
    const int64_t rows = p->rows - row < 4 ? p->rows - row : 4;
    const uint8_t* a = static_cast<const uint8_t*>(p->a) + row * p->a_stride;
    if (rows == 4) tile<4>(a, p->a_stride, p->b, p->steps, acc);
    else if (rows == 3) tile<3>(a, p->a_stride, p->b, p->steps, acc);
    else if (rows == 2) tile<2>(a, p->a_stride, p->b, p->steps, acc);
    else tile<1>(a, p->a_stride, p->b, p->steps, acc);
    epilogue_tile(p, row, rows, acc, TILE_COLUMNS);
  }
}

double peak(int64_t iterations) {
  int32x4_t acc[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; i++) acc[i] = vdupq_n_s32(0);
  int16x8_t b = vdupq_n_s16(3);
  int16x4_t a = vdup_n_s16(5);
  for (int64_t n = 0; n < iterations; n++) {
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) {
      __asm__ volatile("" : "+w"(a));
      acc[i] = vmlal_high_lane_s16(acc[i], b, a, 1);
      __asm__ volatile("" : "+w"(acc[i]));
    }
  }
  volatile int32_t sink = vaddvq_s32(acc[3]);
  (void)sink;
  return static_cast<double>(iterations) * 16 * 4 * 2;
}

}  // namespace
}  // namespace whittle

extern "C" void gemm_int8_install_neon(whittle::GemmInt8Kernels* t) {
  using namespace whittle;
  t->rows = 4;
  t->columns = TILE_COLUMNS;
  t->vector = TILE_VECTOR;
  t->k_step = K_PAD;
  t->a_bytes = 2;
  t->shift_u8 = 0;
  t->shift_s8 = 0;
  t->pack = pack_panel;
  t->convert = convert_wide;
  t->panel = panel;
  t->peak = peak;
}
