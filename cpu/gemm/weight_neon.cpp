// Compressed weights on NEON. int4: widening 8-bit products added in pairs to 32 bits, three digits of the activations; int8
// and bfloat16 in float32. Limits as in weight_digits.h.
#include "cpu/gemm/weight_neon.h"

#define FLOAT_ROWS 4
#define FLOAT_STREAM 8
#define FLOAT_WIDE 4
#define FLOAT_NARROW 4
static inline vf wf_int8(const uint8_t* p) {
  int32_t v;
  memcpy(&v, p, 4);
  return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(v))))));
}
static inline vf wf_even(Vi x) { return vreinterpretq_f32_s32(vshlq_n_s32(x, 16)); }
static inline vf wf_odd(Vi x) { return vreinterpretq_f32_s32(vandq_s32(x, vdupq_n_s32((int32_t)0xffff0000))); }
static inline vf wf_nibble(Vi x, unsigned shift) {
  const uint32x4_t q = vandq_u32(vshlq_u32(vreinterpretq_u32_s32(x), vdupq_n_s32(-(int32_t)shift)), vdupq_n_u32(15));
  return vcvtq_f32_s32(vsubq_s32(vreinterpretq_s32_u32(q), vdupq_n_s32(8)));
}
static inline Vi dot4(Vi acc, Vi w, Vi d) {
  const int8x16_t x = vreinterpretq_s8_s32(w), y = vreinterpretq_s8_s32(d);
  const int16x8_t low = vmull_s8(vget_low_s8(x), vget_low_s8(y)), high = vmull_s8(vget_high_s8(x), vget_high_s8(y));
  return vpadalq_s16(acc, vpaddq_s16(low, high));
}
#define DOT_BEGIN(init) vdupq_n_s32(init)
#define DOT(acc, w, d) acc = dot4(acc, w, d)
#define DOT_END(acc, init) acc
#include "cpu/gemm/weight_float.h"
#include "cpu/gemm/weight_digits.h"

extern "C" void gemm_weight_install_neon(whittle::WeightKernels* t) {
  whittle::install_float(t);
  t->tile_rows[whittle::kWeightInt4] = DIGIT_ROWS;
  t->stream_rows[whittle::kWeightInt4] = 4;
  t->stream[whittle::kWeightInt4] = whittle::digits_stream;
  t->digits = whittle::digits_of_row;
}
