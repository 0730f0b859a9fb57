// codebook on NEON: 16 entries of a table in four registers, looked up by TBL with the bytes of a float's place.
// Four levels of the search (16 centroids) touch no memory; deeper ones load lane by lane.
#include <arm_neon.h>

#include "cpu/codebook/vector.h"

namespace whittle {
namespace {

struct Neon {
  typedef float32x4_t F;
  typedef uint32x4_t I;
  typedef float64x2_t D;
  typedef uint8x16x4_t Nodes;
  static constexpr int kWidth = 4, kGroup = 4, kTop = 4, kValueLevels = 4;
  static inline D zero() { return vdupq_n_f64(0); }
  static inline I seti(int32_t v) { return vdupq_n_u32((uint32_t)v); }
  static inline F load(const float* p) { return vld1q_f32(p); }
  static inline void store(float* p, F v) { vst1q_f32(p, v); }
  static inline F subf(F a, F b) { return vsubq_f32(a, b); }
  static inline I sub(I a, I b) { return vsubq_u32(a, b); }
  static inline void add_square(F d, D* low, D* high) {
    const D a = vcvt_f64_f32(vget_low_f32(d)), b = vcvt_high_f64_f32(d);
    *low = vfmaq_f64(*low, a, a);
    *high = vfmaq_f64(*high, b, b);
  }
  static inline double total(D v) { return vaddvq_f64(v); }
  static inline F gather(const float* p, I at) {
    F v = vld1q_dup_f32(p + vgetq_lane_u32(at, 0));
    v = vld1q_lane_f32(p + vgetq_lane_u32(at, 1), v, 1);
    v = vld1q_lane_f32(p + vgetq_lane_u32(at, 2), v, 2);
    return vld1q_lane_f32(p + vgetq_lane_u32(at, 3), v, 3);
  }
  static inline Nodes load_nodes(const float* p) {
    const uint8_t* b = (const uint8_t*)p;
    return {{vld1q_u8(b), vld1q_u8(b + 16), vld1q_u8(b + 32), vld1q_u8(b + 48)}};
  }
  static inline I step(I node, F x, F t) {
    return vsubq_u32(vaddq_u32(vaddq_u32(node, node), vdupq_n_u32(1)), vcgtq_f32(x, t));
  }
  static inline F look(const Nodes& r, I at) {
    // bytes 4 * at + 0 to 3
    const I bytes = vmlaq_u32(vdupq_n_u32(0x03020100u), at, vdupq_n_u32(0x04040404u));
    return vreinterpretq_f32_u8(vqtbl4q_u8(r, vreinterpretq_u8_u32(bytes)));
  }
  template <int kLevel>
  static inline F node(const Nodes& r, I at) {
    return look(r, at);
  }
  template <int kLevels>
  static inline F value(const Nodes& r, I at) {
    return look(r, at);
  }
  static inline void put(uint8_t* to, const I* v) {
    const uint16x8_t a = vcombine_u16(vmovn_u32(v[0]), vmovn_u32(v[1])), b = vcombine_u16(vmovn_u32(v[2]), vmovn_u32(v[3]));
    vst1q_u8(to, vcombine_u8(vmovn_u16(a), vmovn_u16(b)));
  }
  static inline void put(uint16_t* to, const I* v) {
    for (int g = 0; g < kGroup; g += 2) vst1q_u16(to + g * 4, vcombine_u16(vmovn_u32(v[g]), vmovn_u32(v[g + 1])));
  }
  static inline void get(const uint8_t* from, I* v) {
    const uint8x16_t b = vld1q_u8(from);
    const uint16x8_t low = vmovl_u8(vget_low_u8(b)), high = vmovl_u8(vget_high_u8(b));
    v[0] = vmovl_u16(vget_low_u16(low));
    v[1] = vmovl_u16(vget_high_u16(low));
    v[2] = vmovl_u16(vget_low_u16(high));
    v[3] = vmovl_u16(vget_high_u16(high));
  }
  static inline void get(const uint16_t* from, I* v) {
    for (int g = 0; g < kGroup; g++) v[g] = vmovl_u16(vld1_u16(from + g * 4));
  }
};

}  // namespace
}  // namespace whittle

extern "C" void codebook_install_neon(whittle::CodebookKernels* t) { whittle::Codebook<whittle::Neon>::install(t); }
