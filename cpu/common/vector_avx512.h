// One vector of 16 floats or 8 doubles: the operations that kernels written once for every ISA stand on.
// Include in files built with AVX-512 only. v_max(a, x) and v_min(a, x) answer x where x is NaN.
#pragma once
#include <immintrin.h>

typedef __m512 vf;
typedef __mmask16 vm;
static inline vf v_set(float x) { return _mm512_set1_ps(x); }
static inline vf v_add(vf a, vf b) { return _mm512_add_ps(a, b); }
static inline vf v_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
static inline vf v_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
static inline vf v_div(vf a, vf b) { return _mm512_div_ps(a, b); }
// 1 / x within a unit in the last place, for 2^-60 < x < 2^60: a third of the time of a division here.
static inline vf v_inverse(vf x) {
  const vf y = _mm512_rcp14_ps(x);
  return _mm512_fmadd_ps(y, _mm512_fnmadd_ps(x, y, _mm512_set1_ps(1.0f)), y);
}
static inline vf v_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
static inline vf v_fnma(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a, b, c); }
static inline vf v_max(vf a, vf x) { return _mm512_max_ps(a, x); }
static inline vf v_min(vf a, vf x) { return _mm512_min_ps(a, x); }
static inline vf v_abs(vf x) { return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), x); }
// |x|, or limit where that is less; either where x is NaN
static inline vf v_within(vf limit, vf x) { return _mm512_range_ps(x, limit, 0x0a); }
static inline vf v_copysign(vf x, vf s) { return _mm512_or_ps(v_abs(x), _mm512_and_ps(s, _mm512_set1_ps(-0.0f))); }
static inline vf v_round(vf x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
static inline vf v_ldexp(vf x, vf n) { return _mm512_scalef_ps(x, n); }
// 2^n, where count = 1.5 * 2^23 + 127 + n and -127 <= n <= 0; 0 for -127
static inline vf v_power(vf count) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(count), 23)); }
// 1 / x to 5 %, the same number everywhere; x > 0
static inline vf v_seed(vf x) { return _mm512_castsi512_ps(_mm512_sub_epi32(_mm512_set1_epi32(0x7ef31000), _mm512_castps_si512(x))); }
static inline vm v_less(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
static inline vm v_negative(vf x) { return _mm512_movepi32_mask(_mm512_castps_si512(x)); }
static inline vf v_select(vm m, vf yes, vf no) { return _mm512_mask_blend_ps(m, no, yes); }
static inline vf v_sqrt(vf x) { return _mm512_sqrt_ps(x); }
static inline vf v_neg(vf x) { return _mm512_xor_ps(x, _mm512_set1_ps(-0.0f)); }
static inline vm v_same(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
