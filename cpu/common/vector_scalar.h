// A vector of one float: the operations of vector_<isa>.h and lanes_<isa>.h in plain C, to the bit (fmaf is a fused step
// everywhere, in hardware or not). For references that must agree with kernels written over those.
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

#define VF_LANES 1
typedef float vf;
typedef bool vm;
static inline int32_t v_bits(vf x) {
  int32_t i;
  memcpy(&i, &x, 4);
  return i;
}
static inline vf v_of_bits(int32_t i) {
  vf x;
  memcpy(&x, &i, 4);
  return x;
}
static inline vf v_set(float x) { return x; }
static inline vf v_add(vf a, vf b) { return a + b; }
static inline vf v_sub(vf a, vf b) { return a - b; }
static inline vf v_mul(vf a, vf b) { return a * b; }
static inline vf v_div(vf a, vf b) { return a / b; }
static inline vf v_inverse(vf x) { return 1.0f / x; }
static inline vf v_fma(vf a, vf b, vf c) { return fmaf(a, b, c); }
static inline vf v_fnma(vf a, vf b, vf c) { return fmaf(-a, b, c); }
static inline vf v_max(vf a, vf x) { return a > x ? a : x; }
static inline vf v_min(vf a, vf x) { return a < x ? a : x; }
static inline vf v_abs(vf x) { return v_of_bits(v_bits(x) & 0x7fffffff); }
// |x|, or limit where that is less; either where x is NaN
static inline vf v_within(vf limit, vf x) { return v_min(limit, v_abs(x)); }
static inline vf v_copysign(vf x, vf s) { return v_of_bits((v_bits(x) & 0x7fffffff) | (v_bits(s) & INT32_MIN)); }
// Half to even, for |x| < 2^22.
static inline vf v_round(vf x) { return (x + 12582912.0f) - 12582912.0f; }
static inline vf v_ldexp(vf x, vf n) {
  const int32_t i = (int32_t)n, half = i >> 1;
  return x * v_of_bits((half + 127) << 23) * v_of_bits((i - half + 127) << 23);
}
// x * 2^n for a normal result
static inline vf v_scale(vf x, vf n) { return v_ldexp(x, n); }
// 2^n, where count = 1.5 * 2^23 + 127 + n and -127 <= n <= 0; 0 for -127
static inline vf v_power(vf count) { return v_of_bits((int32_t)((uint32_t)v_bits(count) << 23)); }
// 1 / x to 5 %, the same number everywhere; x > 0
static inline vf v_seed(vf x) { return v_of_bits(0x7ef31000 - v_bits(x)); }
static inline vm v_less(vf a, vf b) { return a < b; }
static inline vm v_negative(vf x) { return v_bits(x) < 0; }
static inline vf v_select(vm m, vf yes, vf no) { return m ? yes : no; }
static inline vf v_load(const float* p) { return *p; }
static inline void v_store(float* p, vf v) { *p = v; }
static inline vf v_load_part(const float*, int64_t, vf fill) { return fill; }
static inline void v_store_part(float*, vf, int64_t) {}
