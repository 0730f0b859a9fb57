// Loads, tails and sums of vector_avx2.h, and vectors of doubles. AVX2 and FMA.
#pragma once
#include <stdint.h>

#include "cpu/common/vector_avx2.h"

#define VF_LANES 8
// All ones in the first n < 8 lanes.
static inline __m256i v_first(int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
static inline vf v_load(const float* p) { return _mm256_loadu_ps(p); }
static inline vf v_widen(const uint16_t* p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16));
}
static inline void v_store(float* p, vf v) { _mm256_storeu_ps(p, v); }
// The first n < VF_LANES elements; the others are those of `fill`.
static inline vf v_load_part(const float* p, int64_t n, vf fill) {
  const __m256i m = v_first(n);
  return _mm256_blendv_ps(fill, _mm256_maskload_ps(p, m), _mm256_castsi256_ps(m));
}
// p[index[lane]]: indices that do not fall, below `span`, which p has.
static inline vf v_pick(const float* p, const int32_t* index, int64_t span) {
  const int32_t from = index[0];
  if (index[7] >= from + VF_LANES)
    return _mm256_setr_ps(p[from], p[index[1]], p[index[2]], p[index[3]], p[index[4]], p[index[5]], p[index[6]], p[index[7]]);
  const vf v = span - from >= VF_LANES ? _mm256_loadu_ps(p + from) : _mm256_maskload_ps(p + from, v_first(span - from));
  return _mm256_permutevar8x32_ps(v, _mm256_sub_epi32(_mm256_loadu_si256((const __m256i*)index), _mm256_set1_epi32(from)));
}
static inline void v_store_part(float* p, vf v, int64_t n) { _mm256_maskstore_ps(p, v_first(n), v); }
// The first n <= VF_LANES bytes, `flip` changed in each, as numbers; unspecified beyond.
static inline vf v_from_bytes(const uint8_t* p, int flip, int64_t n) {
  __m128i bytes;
  if (n < VF_LANES) {
    uint8_t part[8] = {0};
    for (int64_t i = 0; i < n; i++) part[i] = p[i];
    bytes = _mm_loadl_epi64((const __m128i*)part);
  } else {
    bytes = _mm_loadl_epi64((const __m128i*)p);
  }
  return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_xor_si128(bytes, _mm_set1_epi8((char)flip))));
}
// Whole numbers as integers, the first n <= VF_LANES.
static inline void v_store_whole(int32_t* p, vf v, int64_t n) {
  const __m256i i = _mm256_cvttps_epi32(v);
  if (n < VF_LANES) _mm256_maskstore_epi32(p, v_first(n), i);
  else _mm256_storeu_si256((__m256i*)p, i);
}
static inline vf v_keep(vf v, int64_t n) { return _mm256_and_ps(v, _mm256_castsi256_ps(v_first(n))); }
static inline float v_sum(vf v) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
static inline float v_top(vf v) {
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
// x * 2^n for a normal result
static inline vf v_scale(vf x, vf n) {
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23)));
}
// x > 0 and normal: x = m * 2^e, m from sqrt(1/2) to sqrt(2)
static inline vf v_split(vf x, vf* e) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i n = _mm256_srai_epi32(_mm256_sub_epi32(bits, _mm256_set1_epi32(0x3f3504f3)), 23);
  *e = _mm256_cvtepi32_ps(n);
  return _mm256_castsi256_ps(_mm256_sub_epi32(bits, _mm256_slli_epi32(n, 23)));
}

typedef __m256d vd;
#define VD_LANES 4
static inline __m256i d_first(int64_t n) {
  return _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3));
}
static inline vd d_set(double x) { return _mm256_set1_pd(x); }
static inline vd d_load(const double* p) { return _mm256_loadu_pd(p); }
static inline void d_store(double* p, vd v) { _mm256_storeu_pd(p, v); }
static inline vd d_load_part(const double* p, int64_t n) { return _mm256_maskload_pd(p, d_first(n)); }
static inline void d_store_part(double* p, vd v, int64_t n) { _mm256_maskstore_pd(p, d_first(n), v); }
static inline vd d_add(vd a, vd b) { return _mm256_add_pd(a, b); }
static inline vd d_sub(vd a, vd b) { return _mm256_sub_pd(a, b); }
static inline vd d_mul(vd a, vd b) { return _mm256_mul_pd(a, b); }
static inline vd d_fma(vd a, vd b, vd c) { return _mm256_fmadd_pd(a, b, c); }
static inline vd d_fnma(vd a, vd b, vd c) { return _mm256_fnmadd_pd(a, b, c); }
static inline vd d_max(vd a, vd b) { return _mm256_max_pd(a, b); }
static inline vd d_min(vd a, vd b) { return _mm256_min_pd(a, b); }
static inline double d_sum(vd v) {
  const __m128d s = _mm_add_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd(v, 1));
  return _mm_cvtsd_f64(_mm_add_sd(s, _mm_unpackhi_pd(s, s)));
}
static inline vd d_div(vd a, vd b) { return _mm256_div_pd(a, b); }
static inline vd d_sqrt(vd x) { return _mm256_sqrt_pd(x); }
// v where x > limit, else 0
static inline vd d_above(vd x, vd limit, vd v) { return _mm256_and_pd(_mm256_cmp_pd(x, limit, _CMP_GT_OQ), v); }
// infinity in the lanes past the first n, else 0
static inline vd d_past(int64_t n) {
  return _mm256_andnot_pd(_mm256_castsi256_pd(d_first(n)), _mm256_set1_pd(__builtin_inf()));
}
static inline vd d_from_floats(const float* p) { return _mm256_cvtps_pd(_mm_loadu_ps(p)); }
static inline __m128i d_first_floats(int64_t n) { return _mm_cmpgt_epi32(_mm_set1_epi32((int)n), _mm_setr_epi32(0, 1, 2, 3)); }
static inline vd d_from_floats_part(const float* p, int64_t n) { return _mm256_cvtps_pd(_mm_maskload_ps(p, d_first_floats(n))); }
static inline void d_to_floats(float* p, vd v) { _mm_storeu_ps(p, _mm256_cvtpd_ps(v)); }
static inline void d_to_floats_part(float* p, vd v, int64_t n) { _mm_maskstore_ps(p, d_first_floats(n), _mm256_cvtpd_ps(v)); }
