// What weight_float.h asks for, on AVX-512.
#pragma once
#include "cpu/gemm/weight_avx512.h"

#define FLOAT_ROWS 8
#define FLOAT_STREAM 32
#define FLOAT_WIDE 4
#define FLOAT_NARROW 2
static inline vf wf_int8(const uint8_t* p) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p))); }
static inline vf wf_even(Vi x) { return _mm512_castsi512_ps(_mm512_slli_epi32(x, 16)); }
static inline vf wf_odd(Vi x) { return _mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32((int)0xffff0000))); }
// A table look-up reads only the low four bits of each index.
static inline vf wf_nibble(Vi x, unsigned shift) {
  const __m512 table = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
  return _mm512_permutexvar_ps(_mm512_srli_epi32(x, shift), table);
}
#include "cpu/gemm/weight_float.h"
