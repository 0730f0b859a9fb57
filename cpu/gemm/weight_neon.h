// Vectors of 4 columns for compressed weights. AArch64.
#pragma once
#include <string.h>

#define WHITTLE_ISA_FILE
#include "core/gemm_weight.h"
#include "cpu/common/lanes_neon.h"

#define LANES 4
#if defined(__GNUC__)
#define PREFETCH(p) __builtin_prefetch(p)
#else
#define PREFETCH(p) ((void)(p))
#endif
#define DIGIT_ROWS 2
#define DIGIT_WIDE 4
#define DIGIT_NARROW 4
typedef int32x4_t Vi;
static inline Vi vi_load(const uint8_t* p) { return vreinterpretq_s32_u8(vld1q_u8(p)); }
static inline Vi vi_low(Vi x) { return vandq_s32(x, vdupq_n_s32(0x0f0f0f0f)); }
static inline Vi vi_high(Vi x) { return vreinterpretq_s32_u8(vshrq_n_u8(vreinterpretq_u8_s32(x), 4)); }
static inline Vi vi_digits(const int8_t* p) {
  int32_t v;
  memcpy(&v, p, 4);
  return vdupq_n_s32(v);
}
static inline vf vi_float(Vi x) { return vcvtq_f32_s32(x); }
