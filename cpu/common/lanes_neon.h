// Loads, tails and sums of vector_neon.h, and vectors of doubles. AArch64 only.
#pragma once
#include <stdint.h>
#include <string.h>

#include "cpu/common/vector_neon.h"

#define VF_LANES 4
static inline vf v_load(const float* p) { return vld1q_f32(p); }
static inline vf v_widen(const uint16_t* p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16)); }
static inline void v_store(float* p, vf v) { vst1q_f32(p, v); }
// The first n < VF_LANES elements; the others are those of `fill`.
static inline vf v_load_part(const float* p, int64_t n, vf fill) {
  float lanes[4];
  vst1q_f32(lanes, fill);
  for (int64_t i = 0; i < n; i++) lanes[i] = p[i];
  return vld1q_f32(lanes);
}
// p[index[lane]]
static inline vf v_pick(const float* p, const int32_t* index, int64_t) {
  return vf{p[index[0]], p[index[1]], p[index[2]], p[index[3]]};
}
static inline void v_store_part(float* p, vf v, int64_t n) {
  float lanes[4];
  vst1q_f32(lanes, v);
  for (int64_t i = 0; i < n; i++) p[i] = lanes[i];
}
// The first n <= VF_LANES bytes, `flip` changed in each, as numbers; unspecified beyond.
static inline vf v_from_bytes(const uint8_t* p, int flip, int64_t n) {
  uint32_t four = 0;
  memcpy(&four, p, (size_t)(n < VF_LANES ? n : VF_LANES));
  const uint8x8_t bytes = veor_u8(vreinterpret_u8_u32(vdup_n_u32(four)), vdup_n_u8((uint8_t)flip));
  return vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(bytes))));
}
// Whole numbers as integers, the first n <= VF_LANES.
static inline void v_store_whole(int32_t* p, vf v, int64_t n) {
  const int32x4_t i = vcvtq_s32_f32(v);
  int32_t lanes[4];
  if (n >= VF_LANES) {
    vst1q_s32(p, i);
    return;
  }
  vst1q_s32(lanes, i);
  for (int64_t j = 0; j < n; j++) p[j] = lanes[j];
}
static inline vf v_keep(vf v, int64_t n) {
  const uint32_t places[4] = {0, 1, 2, 3};
  const uint32x4_t m = vcltq_u32(vld1q_u32(places), vdupq_n_u32((uint32_t)n));
  return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(v), m));
}
static inline float v_sum(vf v) { return vaddvq_f32(v); }
static inline float v_top(vf v) { return vmaxvq_f32(v); }
// x * 2^n for a normal result
static inline vf v_scale(vf x, vf n) {
  return vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(x), vshlq_n_s32(vcvtnq_s32_f32(n), 23)));
}
// x > 0 and normal: x = m * 2^e, m from sqrt(1/2) to sqrt(2)
static inline vf v_split(vf x, vf* e) {
  const int32x4_t bits = vreinterpretq_s32_f32(x);
  const int32x4_t n = vshrq_n_s32(vsubq_s32(bits, vdupq_n_s32(0x3f3504f3)), 23);
  *e = vcvtq_f32_s32(n);
  return vreinterpretq_f32_s32(vsubq_s32(bits, vshlq_n_s32(n, 23)));
}

typedef float64x2_t vd;
#define VD_LANES 2
static inline vd d_set(double x) { return vdupq_n_f64(x); }
static inline vd d_load(const double* p) { return vld1q_f64(p); }
static inline void d_store(double* p, vd v) { vst1q_f64(p, v); }
// n is 0 or 1 here
static inline vd d_load_part(const double* p, int64_t n) { return vsetq_lane_f64(n > 0 ? p[0] : 0, vdupq_n_f64(0), 0); }
static inline void d_store_part(double* p, vd v, int64_t n) {
  if (n > 0) p[0] = vgetq_lane_f64(v, 0);
}
static inline vd d_add(vd a, vd b) { return vaddq_f64(a, b); }
static inline vd d_sub(vd a, vd b) { return vsubq_f64(a, b); }
static inline vd d_mul(vd a, vd b) { return vmulq_f64(a, b); }
static inline vd d_fma(vd a, vd b, vd c) { return vfmaq_f64(c, a, b); }
static inline vd d_fnma(vd a, vd b, vd c) { return vfmsq_f64(c, a, b); }
static inline vd d_max(vd a, vd b) { return vmaxq_f64(a, b); }
static inline vd d_min(vd a, vd b) { return vminq_f64(a, b); }
static inline double d_sum(vd v) { return vaddvq_f64(v); }
static inline vd d_div(vd a, vd b) { return vdivq_f64(a, b); }
static inline vd d_sqrt(vd x) { return vsqrtq_f64(x); }
// v where x > limit, else 0
static inline vd d_above(vd x, vd limit, vd v) {
  return vreinterpretq_f64_u64(vandq_u64(vcgtq_f64(x, limit), vreinterpretq_u64_f64(v)));
}
// infinity in the lanes past the first n, else 0
static inline vd d_past(int64_t n) {
  const double inf = __builtin_inf();
  return vsetq_lane_f64(n > 0 ? 0 : inf, vdupq_n_f64(inf), 0);
}
static inline vd d_from_floats(const float* p) { return vcvt_f64_f32(vld1_f32(p)); }
static inline vd d_from_floats_part(const float* p, int64_t n) { return vsetq_lane_f64(n > 0 ? (double)p[0] : 0, vdupq_n_f64(0), 0); }
static inline void d_to_floats(float* p, vd v) { vst1_f32(p, vcvt_f32_f64(v)); }
static inline void d_to_floats_part(float* p, vd v, int64_t n) {
  if (n > 0) p[0] = (float)vgetq_lane_f64(v, 0);
}
