// One vector of 4 floats or 2 doubles: the operations that kernels written once for every ISA stand on.
// AArch64 only. v_max(a, x) and v_min(a, x) answer x where x is NaN.
#pragma once
#include <arm_neon.h>

typedef float32x4_t vf;
typedef uint32x4_t vm;
static inline vf v_set(float x) { return vdupq_n_f32(x); }
static inline vf v_add(vf a, vf b) { return vaddq_f32(a, b); }
static inline vf v_sub(vf a, vf b) { return vsubq_f32(a, b); }
static inline vf v_mul(vf a, vf b) { return vmulq_f32(a, b); }
static inline vf v_div(vf a, vf b) { return vdivq_f32(a, b); }
// 1 / x for 2^-60 < x < 2^60.
static inline vf v_inverse(vf x) { return vdivq_f32(vdupq_n_f32(1.0f), x); }
static inline vf v_fma(vf a, vf b, vf c) { return vfmaq_f32(c, a, b); }
static inline vf v_fnma(vf a, vf b, vf c) { return vfmsq_f32(c, a, b); }
// FMAX of equal zeros answers +0 whatever their order; a compare keeps x, as on x86.
static inline vf v_max(vf a, vf x) { return vbslq_f32(vcgtq_f32(a, x), a, x); }
static inline vf v_min(vf a, vf x) { return vbslq_f32(vcltq_f32(a, x), a, x); }
static inline vf v_abs(vf x) { return vabsq_f32(x); }
// |x|, or limit where that is less; either where x is NaN
static inline vf v_within(vf limit, vf x) { return vminq_f32(limit, vabsq_f32(x)); }
static inline vf v_copysign(vf x, vf s) { return vbslq_f32(vdupq_n_u32(0x80000000u), s, x); }
static inline vf v_round(vf x) { return vrndnq_f32(x); }
static inline vf v_ldexp(vf x, vf n) {
  const int32x4_t i = vcvtq_s32_f32(n), half = vshrq_n_s32(i, 1), bias = vdupq_n_s32(127);
  const vf one = vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(half, bias), 23));
  const vf two = vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vsubq_s32(i, half), bias), 23));
  return vmulq_f32(vmulq_f32(x, one), two);
}
// 2^n, where count = 1.5 * 2^23 + 127 + n and -127 <= n <= 0; 0 for -127
static inline vf v_power(vf count) { return vreinterpretq_f32_s32(vshlq_n_s32(vreinterpretq_s32_f32(count), 23)); }
// 1 / x to 5 %, the same number everywhere; x > 0
static inline vf v_seed(vf x) { return vreinterpretq_f32_s32(vsubq_s32(vdupq_n_s32(0x7ef31000), vreinterpretq_s32_f32(x))); }
static inline vm v_less(vf a, vf b) { return vcltq_f32(a, b); }
static inline vm v_negative(vf x) { return vreinterpretq_u32_s32(vshrq_n_s32(vreinterpretq_s32_f32(x), 31)); }
static inline vf v_select(vm m, vf yes, vf no) { return vbslq_f32(m, yes, no); }
static inline vf v_sqrt(vf x) { return vsqrtq_f32(x); }
static inline vf v_neg(vf x) { return vnegq_f32(x); }
static inline vm v_same(vf a, vf b) { return vceqq_f32(a, b); }
