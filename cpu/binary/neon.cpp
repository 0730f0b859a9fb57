// binary on NEON: four registers of 4 columns, bits of bytes counted by vcnt, bytes widened every 24 words.
#include <arm_neon.h>
#include <string.h>

#include "cpu/binary/rest.h"

namespace whittle {
namespace {

static inline void put(const BinaryTile* t, int64_t row, const uint32x4_t* differ) {
  int32_t sums[kBinaryLanes];
  float values[kBinaryLanes];
  for (int q = 0; q < 4; q++) {
    const int32x4_t d = vreinterpretq_s32_u32(differ[q]);
    const int32x4_t sum = vsubq_s32(vdupq_n_s32(static_cast<int32_t>(t->k)), vaddq_s32(d, d));
    float32x4_t v = vcvtq_f32_s32(sum);
    if (t->scale) v = vmulq_f32(v, vld1q_f32(t->scale + 4 * q));
    if (t->row_scale) v = vmulq_n_f32(v, t->row_scale[row]);
    vst1q_s32(sums + 4 * q, sum);
    vst1q_f32(values + 4 * q, v);
  }
  memcpy(static_cast<char*>(t->c) + 4 * row * t->ldc, t->is_float ? static_cast<const void*>(values) : sums,
         static_cast<size_t>(t->columns) * 4);
}

void multiply(const BinaryTile* t) {
  constexpr int64_t kFlush = 24;  // words; a byte then holds 192 at most
  for (int64_t i = 0; i < t->rows; i++) {
    const uint32_t* a = t->a + i * t->words;
    uint32x4_t total[4] = {vdupq_n_u32(0), vdupq_n_u32(0), vdupq_n_u32(0), vdupq_n_u32(0)};
    for (int64_t from = 0; from < t->words; from += kFlush) {
      const int64_t to = t->words - from < kFlush ? t->words : from + kFlush;
      uint8x16_t bytes[4] = {vdupq_n_u8(0), vdupq_n_u8(0), vdupq_n_u8(0), vdupq_n_u8(0)};
      for (int64_t word = from; word < to; word++) {
        const uint32x4_t x = vdupq_n_u32(a[word]);
        const uint32_t* w = t->group + word * kBinaryLanes;
        for (int q = 0; q < 4; q++)
          bytes[q] = vaddq_u8(bytes[q], vcntq_u8(vreinterpretq_u8_u32(veorq_u32(x, vld1q_u32(w + 4 * q)))));
      }
      for (int q = 0; q < 4; q++) total[q] = vpadalq_u16(total[q], vpaddlq_u8(bytes[q]));
    }
    put(t, i, total);
  }
}

double pack(const float* x, int64_t k, uint32_t* words) {
  memset(words, 0, static_cast<size_t>(binary_words(k)) * 4);
  float64x2_t sum[4] = {vdupq_n_f64(0), vdupq_n_f64(0), vdupq_n_f64(0), vdupq_n_f64(0)};
  const uint32_t weights[4] = {1, 2, 4, 8};
  const uint32x4_t bit = vld1q_u32(weights);
  int64_t p = 0;
  for (; p + 8 <= k; p += 8) {
    const float32x4_t a = vld1q_f32(x + p), b = vld1q_f32(x + p + 4);
    const uint32_t low = vaddvq_u32(vandq_u32(vcltzq_f32(a), bit)), high = vaddvq_u32(vandq_u32(vcltzq_f32(b), bit));
    words[p / 32] |= (low | high << 4) << (p % 32);
    const float32x4_t p0 = vabsq_f32(a), p1 = vabsq_f32(b);
    sum[0] = vaddq_f64(sum[0], vcvt_f64_f32(vget_low_f32(p0)));
    sum[1] = vaddq_f64(sum[1], vcvt_high_f64_f32(p0));
    sum[2] = vaddq_f64(sum[2], vcvt_f64_f32(vget_low_f32(p1)));
    sum[3] = vaddq_f64(sum[3], vcvt_high_f64_f32(p1));
  }
  double s[8];
  for (int q = 0; q < 4; q++) vst1q_f64(s + 2 * q, sum[q]);
  return binary_rest(x, p, k, words, s);
}

}  // namespace
}  // namespace whittle

extern "C" void binary_install_neon(whittle::BinaryKernels* table) {
  table->pack = whittle::pack;
  table->multiply = whittle::multiply;
}
