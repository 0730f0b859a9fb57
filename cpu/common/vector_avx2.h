// One vector of 8 floats or 4 doubles: the operations that kernels written once for every ISA stand on.
// Include in files built with AVX2 and FMA. v_max(a, x) and v_min(a, x) answer x where x is NaN.
#pragma once
#include <immintrin.h>

typedef __m256 vf;
typedef __m256 vm;
static inline vf v_set(float x) { return _mm256_set1_ps(x); }
static inline vf v_add(vf a, vf b) { return _mm256_add_ps(a, b); }
static inline vf v_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
static inline vf v_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
static inline vf v_div(vf a, vf b) { return _mm256_div_ps(a, b); }
// 1 / x for 2^-60 < x < 2^60.
static inline vf v_inverse(vf x) { return _mm256_div_ps(_mm256_set1_ps(1.0f), x); }
static inline vf v_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
static inline vf v_fnma(vf a, vf b, vf c) { return _mm256_fnmadd_ps(a, b, c); }
static inline vf v_max(vf a, vf x) { return _mm256_max_ps(a, x); }
static inline vf v_min(vf a, vf x) { return _mm256_min_ps(a, x); }
static inline vf v_abs(vf x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }
// |x|, or limit where that is less; either where x is NaN
static inline vf v_within(vf limit, vf x) { return _mm256_min_ps(limit, v_abs(x)); }
static inline vf v_copysign(vf x, vf s) { return _mm256_or_ps(v_abs(x), _mm256_and_ps(s, _mm256_set1_ps(-0.0f))); }
static inline vf v_round(vf x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
// Two factors, so that results below the normal range round once and n = 128 does not overflow early.
static inline vf v_ldexp(vf x, vf n) {
  const __m256i i = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(i, 1), bias = _mm256_set1_epi32(127);
  const vf one = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
  const vf two = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(i, half), bias), 23));
  return v_mul(v_mul(x, one), two);
}
// 2^n, where count = 1.5 * 2^23 + 127 + n and -127 <= n <= 0; 0 for -127
static inline vf v_power(vf count) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(count), 23)); }
// 1 / x to 5 %, the same number everywhere; x > 0
static inline vf v_seed(vf x) { return _mm256_castsi256_ps(_mm256_sub_epi32(_mm256_set1_epi32(0x7ef31000), _mm256_castps_si256(x))); }
static inline vm v_less(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
static inline vm v_negative(vf x) { return x; }
static inline vf v_select(vm m, vf yes, vf no) { return _mm256_blendv_ps(no, yes, m); }
static inline vf v_sqrt(vf x) { return _mm256_sqrt_ps(x); }
static inline vf v_neg(vf x) { return _mm256_xor_ps(x, _mm256_set1_ps(-0.0f)); }
static inline vm v_same(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
