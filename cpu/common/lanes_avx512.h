// Loads, tails and sums of vector_avx512.h, and vectors of doubles. AVX-512 only.
#pragma once
#include <stdint.h>

#include "cpu/common/vector_avx512.h"

#define VF_LANES 16
static inline __mmask16 v_first(int64_t n) { return (__mmask16)((1u << n) - 1); }
static inline vf v_load(const float* p) { return _mm512_loadu_ps(p); }
static inline vf v_widen(const uint16_t* p) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16));
}
static inline void v_store(float* p, vf v) { _mm512_storeu_ps(p, v); }
// The first n < VF_LANES elements; the others are those of `fill`.
static inline vf v_load_part(const float* p, int64_t n, vf fill) { return _mm512_mask_loadu_ps(fill, v_first(n), p); }
static inline void v_store_part(float* p, vf v, int64_t n) { _mm512_mask_storeu_ps(p, v_first(n), v); }
// p[index[lane]]: indices that do not fall, below `span`, which p has; span <= VF_LANES.
static inline vf v_pick(const float* p, const int32_t* index, int64_t span) {
  const __m512 v = span >= VF_LANES ? _mm512_loadu_ps(p) : _mm512_maskz_loadu_ps(v_first(span), p);
  return _mm512_permutexvar_ps(_mm512_loadu_si512(index), v);
}
// The first n <= VF_LANES bytes, `flip` changed in each, as numbers; 0 beyond.
static inline vf v_from_bytes(const uint8_t* p, int flip, int64_t n) {
  const __m128i bytes = n < VF_LANES ? _mm_maskz_loadu_epi8(v_first(n), p) : _mm_loadu_si128((const __m128i*)p);
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_xor_si128(bytes, _mm_set1_epi8((char)flip))));
}
// Whole numbers as integers, the first n <= VF_LANES.
static inline void v_store_whole(int32_t* p, vf v, int64_t n) {
  const __m512i i = _mm512_cvttps_epi32(v);
  if (n < VF_LANES) _mm512_mask_storeu_epi32(p, v_first(n), i);
  else _mm512_storeu_si512(p, i);
}
static inline vf v_keep(vf v, int64_t n) { return _mm512_maskz_mov_ps(v_first(n), v); }
static inline float v_sum(vf v) { return _mm512_reduce_add_ps(v); }
static inline float v_top(vf v) { return _mm512_reduce_max_ps(v); }
// x * 2^n for a normal result
static inline vf v_scale(vf x, vf n) { return _mm512_scalef_ps(x, n); }
// x > 0 and normal: x = m * 2^e, m from sqrt(1/2) to sqrt(2)
static inline vf v_split(vf x, vf* e) {
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i n = _mm512_srai_epi32(_mm512_sub_epi32(bits, _mm512_set1_epi32(0x3f3504f3)), 23);
  *e = _mm512_cvtepi32_ps(n);
  return _mm512_castsi512_ps(_mm512_sub_epi32(bits, _mm512_slli_epi32(n, 23)));
}

typedef __m512d vd;
#define VD_LANES 8
static inline __mmask8 d_first(int64_t n) { return (__mmask8)((1u << n) - 1); }
static inline vd d_set(double x) { return _mm512_set1_pd(x); }
static inline vd d_load(const double* p) { return _mm512_loadu_pd(p); }
static inline void d_store(double* p, vd v) { _mm512_storeu_pd(p, v); }
static inline vd d_load_part(const double* p, int64_t n) { return _mm512_maskz_loadu_pd(d_first(n), p); }
static inline void d_store_part(double* p, vd v, int64_t n) { _mm512_mask_storeu_pd(p, d_first(n), v); }
static inline vd d_add(vd a, vd b) { return _mm512_add_pd(a, b); }
static inline vd d_sub(vd a, vd b) { return _mm512_sub_pd(a, b); }
static inline vd d_mul(vd a, vd b) { return _mm512_mul_pd(a, b); }
static inline vd d_fma(vd a, vd b, vd c) { return _mm512_fmadd_pd(a, b, c); }
static inline vd d_fnma(vd a, vd b, vd c) { return _mm512_fnmadd_pd(a, b, c); }
static inline vd d_max(vd a, vd b) { return _mm512_max_pd(a, b); }
static inline vd d_min(vd a, vd b) { return _mm512_min_pd(a, b); }
static inline double d_sum(vd v) { return _mm512_reduce_add_pd(v); }
static inline vd d_div(vd a, vd b) { return _mm512_div_pd(a, b); }
static inline vd d_sqrt(vd x) { return _mm512_sqrt_pd(x); }
// v where x > limit, else 0
static inline vd d_above(vd x, vd limit, vd v) { return _mm512_maskz_mov_pd(_mm512_cmp_pd_mask(x, limit, _CMP_GT_OQ), v); }
// infinity in the lanes past the first n, else 0
static inline vd d_past(int64_t n) { return _mm512_maskz_mov_pd((__mmask8)~d_first(n), _mm512_set1_pd(__builtin_inf())); }
static inline vd d_from_floats(const float* p) { return _mm512_cvtps_pd(_mm256_loadu_ps(p)); }
static inline vd d_from_floats_part(const float* p, int64_t n) {
  return _mm512_cvtps_pd(_mm512_castps512_ps256(_mm512_maskz_loadu_ps(d_first(n), p)));
}
static inline void d_to_floats(float* p, vd v) { _mm256_storeu_ps(p, _mm512_cvtpd_ps(v)); }
static inline void d_to_floats_part(float* p, vd v, int64_t n) {
  _mm512_mask_storeu_ps(p, d_first(n), _mm512_castps256_ps512(_mm512_cvtpd_ps(v)));
}
