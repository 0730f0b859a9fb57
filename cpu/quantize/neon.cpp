// quantize on NEON: 16 elements a group, narrowed to bytes in two steps.
#include <arm_neon.h>

#include "cpu/quantize/vector.h"

namespace whittle {
namespace {

struct Neon {
  typedef float32x4_t F;
  typedef int32x4_t I;
  typedef uint32x4_t Bad;
  static constexpr int kWidth = 4, kGroup = 4;
  static inline F set(float v) { return vdupq_n_f32(v); }
  static inline I seti(int32_t v) { return vdupq_n_s32(v); }
  static inline F load(const float* p) { return vld1q_f32(p); }
  static inline I loadi(const int32_t* p) { return vld1q_s32(p); }
  static inline void store(float* p, F v) { vst1q_f32(p, v); }
  static inline F div(F a, F b) { return vdivq_f32(a, b); }
  static inline F mul(F a, F b) { return vmulq_f32(a, b); }
  static inline F sub(F a, F b) { return vsubq_f32(a, b); }
  static inline F min(F a, F b) { return vminq_f32(a, b); }
  static inline F max(F a, F b) { return vmaxq_f32(a, b); }
  static inline I nearest(F v) { return vcvtnq_s32_f32(v); }
  static inline I truncate(F v) { return vcvtq_s32_f32(v); }
  static inline F to_float(I v) { return vcvtq_f32_s32(v); }
  static inline I greater(F a, F b) { return vreinterpretq_s32_u32(vcgtq_f32(a, b)); }
  static inline I add(I a, I b) { return vaddq_s32(a, b); }
  static inline I sub(I a, I b) { return vsubq_s32(a, b); }
  static inline I mul(I a, I b) { return vmulq_s32(a, b); }
  static inline I exclusive(I a, I b) { return veorq_s32(a, b); }
  template <int kBits>
  static inline I right(I a) { return vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(a), kBits)); }
  static inline I iota() {
    const int32_t steps[4] = {0, 1, 2, 3};
    return vld1q_s32(steps);
  }
  static inline Bad good() { return vdupq_n_u32(0); }
  static inline void watch(Bad* bad, F v) {
    const uint32x4_t infinity = vdupq_n_u32(0x7f800000u);
    *bad = vorrq_u32(*bad, vceqq_u32(vandq_u32(vreinterpretq_u32_f32(v), infinity), infinity));
  }
  static inline int is_bad(Bad bad) { return vmaxvq_u32(bad) != 0; }
  static inline float least(F v) { return vminvq_f32(v); }
  static inline float most(F v) { return vmaxvq_f32(v); }
  static inline void store_bytes(const I* c, uint8_t* q) {
    const int16x8_t a = vcombine_s16(vmovn_s32(c[0]), vmovn_s32(c[1])), b = vcombine_s16(vmovn_s32(c[2]), vmovn_s32(c[3]));
    vst1q_u8(q, vreinterpretq_u8_s8(vcombine_s8(vmovn_s16(a), vmovn_s16(b))));
  }
  static inline void load_bytes(const uint8_t* q, int sign, I* c) {
    const uint8x16_t b = vld1q_u8(q);
    const int16x8_t lo = sign ? vmovl_s8(vreinterpret_s8_u8(vget_low_u8(b))) : vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(b)));
    const int16x8_t hi = sign ? vmovl_s8(vreinterpret_s8_u8(vget_high_u8(b))) : vreinterpretq_s16_u16(vmovl_u8(vget_high_u8(b)));
    c[0] = vmovl_s16(vget_low_s16(lo));
    c[1] = vmovl_s16(vget_high_s16(lo));
    c[2] = vmovl_s16(vget_low_s16(hi));
    c[3] = vmovl_s16(vget_high_s16(hi));
  }
};

}  // namespace
}  // namespace whittle

extern "C" void quantize_install_neon(whittle::QuantizeKernels* t) {
  whittle::Quantizer<whittle::Neon>::install(t);
}
