// NEON matrix multiply: smmla takes 2 rows x 8 of k by 8 of k x 2 columns; 8 rows x 8 columns are 16 sums of 2 x 2, laid straight
// at the end. Panels [k / 8][8][8]. Signed by signed, so unsigned a is turned to signed by its top bit.
#include <arm_neon.h>
#define TILE_COLUMNS 8
#define TILE_VECTOR 8
#define K_STEP 8
#include "cpu/gemm/int8_epilogue.h"
#include "cpu/gemm/int8_pack.h"

namespace whittle {
namespace {

// P pairs of rows; where the last row of a pair is missing (odd), the pair's first row stands in and is not used.
template <int P>
void tile(const uint8_t* a, int64_t stride, int64_t rows, const int8_t* b, int64_t steps, int32_t* out) {
  int32x4_t acc[P][4];
  const int8_t* first[P];
  const int8_t* second[P];
#pragma GCC unroll 4
  for (int i = 0; i < P; i++) {
    first[i] = reinterpret_cast<const int8_t*>(a) + 2 * i * stride;
    second[i] = first[i] + (2 * i + 1 < rows ? stride : 0);
#pragma GCC unroll 4
    for (int v = 0; v < 4; v++) acc[i][v] = vdupq_n_s32(0);
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
      vst1_s32(out + (2 * i) * 8 + v * 2, vget_low_s32(acc[i][v]));
      vst1_s32(out + (2 * i + 1) * 8 + v * 2, vget_high_s32(acc[i][v]));
    }
}

void panel(const GemmInt8Panel* p) {
  int32_t acc[8 * TILE_COLUMNS];
  for (int64_t row = 0; row < p->rows; row += 8) {
    const int64_t rows = p->rows - row < 8 ? p->rows - row : 8;
    const uint8_t* a = static_cast<const uint8_t*>(p->a) + row * p->a_stride;
    if (rows > 6) tile<4>(a, p->a_stride, rows, p->b, p->steps, acc);
    else if (rows > 4) tile<3>(a, p->a_stride, rows, p->b, p->steps, acc);
    else if (rows > 2) tile<2>(a, p->a_stride, rows, p->b, p->steps, acc);
    else tile<1>(a, p->a_stride, rows, p->b, p->steps, acc);
    epilogue_tile(p, row, rows, acc, TILE_COLUMNS);
  }
}

void convert(const GemmInt8Convert* p) { convert_bytes<int8_t>(p, p->is_signed ? 0 : 0x80); }

double peak(int64_t iterations) {
  int32x4_t acc[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; i++) acc[i] = vdupq_n_s32(0);
  int8x16_t a = vdupq_n_s8(5);
  const int8x16_t b = vdupq_n_s8(3);
  for (int64_t n = 0; n < iterations; n++) {
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) {
      __asm__ volatile("" : "+w"(a));
      acc[i] = vmmlaq_s32(acc[i], a, b);
      __asm__ volatile("" : "+w"(acc[i]));
    }
  }
  volatile int32_t sink = vaddvq_s32(acc[3]);
  (void)sink;
  return static_cast<double>(iterations) * 16 * 32 * 2;
}

}  // namespace
}  // namespace whittle

extern "C" void gemm_int8_install_neoni8mm(whittle::GemmInt8Kernels* t) {
  using namespace whittle;
  t->rows = 8;
  t->columns = TILE_COLUMNS;
  t->vector = TILE_VECTOR;
  t->k_step = K_STEP;
  t->a_bytes = 1;
  t->shift_u8 = -128;
  t->shift_s8 = 0;
  t->pack = pack_panel;
  t->convert = convert;
  t->panel = panel;
  t->peak = peak;
}
