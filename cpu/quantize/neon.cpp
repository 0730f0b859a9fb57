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
  static inline void storei(int32_t* p, I v) { vst1q_s32(p, v); }
  static inline I either(I a, I b) { return vorrq_s32(a, b); }
  static inline F pick(I mask, F yes, F no) { return vbslq_f32(vreinterpretq_u32_s32(mask), yes, no); }
  static inline bool all_within(F v, F lo, F hi) { return vminvq_u32(vandq_u32(vcgeq_f32(v, lo), vcltq_f32(v, hi))) != 0; }
  typedef float64x2_t D;
  static inline D dset(double v) { return vdupq_n_f64(v); }
  static inline D dload(const double* p) { return vld1q_f64(p); }
  static inline void dstore(double* p, D v) { vst1q_f64(p, v); }
  static inline D dadd(D a, D b) { return vaddq_f64(a, b); }
  static inline D dsub(D a, D b) { return vsubq_f64(a, b); }
  static inline D dmul(D a, D b) { return vmulq_f64(a, b); }
  static inline D dfma(D a, D b, D c) { return vfmaq_f64(c, a, b); }
  static inline double dsum(D v) { return vaddvq_f64(v); }
  // Lower (0) or upper (1) half, exactly.
  static inline D half(F v, int h) { return h ? vcvt_high_f64_f32(v) : vcvt_f64_f32(vget_low_f32(v)); }
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

// Loads and stores that deal elements out to 2 or 4 vectors do the packing.
static void pack4(const uint8_t* codes, int64_t n, uint8_t* packed) {
  int64_t i = 0;
  for (; i + 32 <= n; i += 32) {
    const uint8x16x2_t c = vld2q_u8(codes + i);
    vst1q_u8(packed + i / 2, vsliq_n_u8(vandq_u8(c.val[0], vdupq_n_u8(15)), c.val[1], 4));
  }
  for (; i < n; i += 2)
    packed[i / 2] = static_cast<uint8_t>((codes[i] & 15) | (i + 1 < n ? (codes[i + 1] & 15) << 4 : 0));
}

static void unpack4(const uint8_t* packed, int sign, int64_t n, uint8_t* codes) {
  const uint8x16_t top = vdupq_n_u8(sign ? 8 : 0);
  int64_t i = 0;
  for (; i + 32 <= n; i += 32) {
    const uint8x16_t b = vld1q_u8(packed + i / 2);
    uint8x16x2_t c;
    c.val[0] = vsubq_u8(veorq_u8(vandq_u8(b, vdupq_n_u8(15)), top), top);
    c.val[1] = vsubq_u8(veorq_u8(vshrq_n_u8(b, 4), top), top);
    vst2q_u8(codes + i, c);
  }
  for (; i < n; i++) {
    const int v = packed[i / 2] >> (i % 2 * 4) & 15;
    codes[i] = static_cast<uint8_t>(sign ? (v ^ 8) - 8 : v);
  }
}

static void pack2(const uint8_t* codes, int64_t n, uint8_t* packed) {
  int64_t i = 0;
  for (; i + 64 <= n; i += 64) {
    const uint8x16x4_t c = vld4q_u8(codes + i);
    uint8x16_t byte = vandq_u8(c.val[0], vdupq_n_u8(3));
    byte = vorrq_u8(byte, vshlq_n_u8(vandq_u8(c.val[1], vdupq_n_u8(3)), 2));
    byte = vorrq_u8(byte, vshlq_n_u8(vandq_u8(c.val[2], vdupq_n_u8(3)), 4));
    vst1q_u8(packed + i / 4, vsliq_n_u8(byte, c.val[3], 6));
  }
  for (; i < n; i += 4) {
    int byte = 0;
    for (int64_t j = i; j < i + 4 && j < n; j++) byte |= (codes[j] & 3) << ((j - i) * 2);
    packed[i / 4] = static_cast<uint8_t>(byte);
  }
}

static void unpack2(const uint8_t* packed, int sign, int64_t n, uint8_t* codes) {
  const uint8x16_t top = vdupq_n_u8(sign ? 2 : 0), mask = vdupq_n_u8(3);
  int64_t i = 0;
  for (; i + 64 <= n; i += 64) {
    const uint8x16_t b = vld1q_u8(packed + i / 4);
    uint8x16x4_t c;
    c.val[0] = vsubq_u8(veorq_u8(vandq_u8(b, mask), top), top);
    c.val[1] = vsubq_u8(veorq_u8(vandq_u8(vshrq_n_u8(b, 2), mask), top), top);
    c.val[2] = vsubq_u8(veorq_u8(vandq_u8(vshrq_n_u8(b, 4), mask), top), top);
    c.val[3] = vsubq_u8(veorq_u8(vshrq_n_u8(b, 6), top), top);
    vst4q_u8(codes + i, c);
  }
  for (; i < n; i++) {
    const int v = packed[i / 4] >> (i % 4 * 2) & 3;
    codes[i] = static_cast<uint8_t>(sign ? (v ^ 2) - 2 : v);
  }
}

}  // namespace
}  // namespace whittle

extern "C" void quantize_install_neon(whittle::QuantizeKernels* t) {
  using namespace whittle;
  Quantizer<Neon>::install(t);
  t->pack4 = pack4;
  t->unpack4 = unpack4;
  t->pack2 = pack2;
  t->unpack2 = unpack2;
}
