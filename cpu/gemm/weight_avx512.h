// Vectors of 16 columns for compressed weights. Include in files built with AVX-512 only.
#pragma once
#include <string.h>

#define WHITTLE_ISA_FILE
#include "core/gemm_weight.h"
#include "cpu/common/lanes_avx512.h"

#define LANES 16
#define PREFETCH(p) _mm_prefetch((const char*)(p), _MM_HINT_T0)
typedef __m512i Vi;
static inline Vi vi_load(const uint8_t* p) { return _mm512_loadu_si512(p); }
static inline Vi vi_low(Vi x) { return _mm512_and_si512(x, _mm512_set1_epi32(0x0f0f0f0f)); }
static inline Vi vi_high(Vi x) { return vi_low(_mm512_srli_epi32(x, 4)); }
static inline Vi vi_digits(const int8_t* p) {
  int32_t v;
  memcpy(&v, p, 4);
  return _mm512_set1_epi32(v);
}
static inline vf vi_float(Vi x) { return _mm512_cvtepi32_ps(x); }
