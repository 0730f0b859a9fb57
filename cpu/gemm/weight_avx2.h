// Vectors of 8 columns for compressed weights. AVX2 and FMA.
#pragma once
#include <string.h>

#define WHITTLE_ISA_FILE
#include "core/gemm_weight.h"
#include "cpu/common/lanes_avx2.h"

#define LANES 8
#define PREFETCH(p) _mm_prefetch((const char*)(p), _MM_HINT_T0)
#define DIGIT_ROWS 2
#define DIGIT_WIDE 2
#define DIGIT_NARROW 2
typedef __m256i Vi;
static inline Vi vi_load(const uint8_t* p) { return _mm256_loadu_si256((const __m256i*)p); }
static inline Vi vi_low(Vi x) { return _mm256_and_si256(x, _mm256_set1_epi32(0x0f0f0f0f)); }
static inline Vi vi_high(Vi x) { return vi_low(_mm256_srli_epi32(x, 4)); }
static inline Vi vi_digits(const int8_t* p) {
  int32_t v;
  memcpy(&v, p, 4);
  return _mm256_set1_epi32(v);
}
static inline vf vi_float(Vi x) { return _mm256_cvtepi32_ps(x); }
