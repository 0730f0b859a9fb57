// The operations that vectors do better, over lanes_<isa>.h and the activations, which the including file has chosen.
// The others stay scalar's. Tails go through part loads, so nothing outside of n is touched.
#include <math.h>

#define WHITTLE_VECTOR(name, with_b, expression)                                                          \
  static void op_##name(int64_t n, const float* a, const float* b, float p, float q, float* out) {        \
    const vf vp = v_set(p), vq = v_set(q), zero = v_set(0.0f);                                            \
    (void)b, (void)vp, (void)vq, (void)zero;                                                              \
    int64_t i = 0;                                                                                        \
    for (; i + VF_LANES <= n; i += VF_LANES) {                                                            \
      const vf x = v_load(a + i);                                                                         \
      const vf y = with_b ? v_load(b + i) : x;                                                            \
      (void)y;                                                                                            \
      v_store(out + i, expression);                                                                       \
    }                                                                                                     \
    if (i < n) {                                                                                          \
      const vf x = v_load_part(a + i, n - i, v_set(1.0f));                                                \
      const vf y = with_b ? v_load_part(b + i, n - i, v_set(1.0f)) : x;                                   \
      (void)y;                                                                                            \
      v_store_part(out + i, expression, n - i);                                                           \
    }                                                                                                     \
  }

// e^x - 1 for x below 0.
static inline vf expm1_below(vf x) {
  vf n;
  const vf p = v_expm1_reduced(v_max(v_set(-30.0f), x), &n), power = v_ldexp(v_set(1.0f), n);
  return v_fma(p, power, v_sub(power, v_set(1.0f)));
}

// sin(x + shift * pi) for |x| <= kWaveTop, in double: x less the nearest multiple of pi, by its Taylor series, the sign by the multiple's
// parity. `shift` 0 or a half.
static const float kWaveTop = 1e6f;
static inline vd wave(vd x, double shift) {
  const vd magic = d_set(6755399441055744.0), half = d_set(0.5);
  const vd whole = d_sub(d_add(d_fma(x, d_set(0.31830988618379067), d_set(shift)), magic), magic), k = d_sub(whole, d_set(shift));
  vd r = d_fnma(k, d_set(3.141592653589793), x);
  r = d_fnma(k, d_set(1.2246467991473532e-16), r);
  const vd u = d_mul(r, r);
  vd p = d_fma(u, d_set(-7.647163731819816e-13), d_set(1.6059043836821613e-10));
  p = d_fma(p, u, d_set(-2.505210838544172e-8));
  p = d_fma(p, u, d_set(2.7557319223985893e-6));
  p = d_fma(p, u, d_set(-1.984126984126984e-4));
  p = d_fma(p, u, d_set(8.333333333333333e-3));
  p = d_fma(p, u, d_set(-0.16666666666666666));
  p = d_fma(d_mul(p, u), r, r);
  const vd odd = d_sub(d_mul(whole, half), d_sub(d_add(d_mul(whole, half), magic), magic));
  return d_mul(p, d_fnma(d_mul(odd, odd), d_set(8.0), d_set(1.0)));
}

// erf(x) / x over x^2 up to 16, Chebyshev interpolation to 4e-10; beyond, it is 1 in float32.
static inline vd erf_wide(vd x) {
  x = d_max(d_set(-4.0), d_min(d_set(4.0), x));
  const vd s = d_fma(d_mul(x, x), d_set(0.125), d_set(-1.0));
  vd p = d_fma(s, d_set(9.403816578637098e-05), d_set(-0.000246422017593623));
  p = d_fma(p, s, d_set(0.0001732295034487736));
  p = d_fma(p, s, d_set(-0.0003255196142593992));
  p = d_fma(p, s, d_set(0.0014101528933356117));
  p = d_fma(p, s, d_set(-0.0029097129787577338));
  p = d_fma(p, s, d_set(0.004774946220279435));
  p = d_fma(p, s, d_set(-0.008384044254958969));
  p = d_fma(p, s, d_set(0.014381038744725426));
  p = d_fma(p, s, d_set(-0.02256255830424042));
  p = d_fma(p, s, d_set(0.03305329169588628));
  p = d_fma(p, s, d_set(-0.04574431267171725));
  p = d_fma(p, s, d_set(0.059887829583056336));
  p = d_fma(p, s, d_set(-0.07473048679757296));
  p = d_fma(p, s, d_set(0.0902089413427898));
  p = d_fma(p, s, d_set(-0.10771029288637649));
  p = d_fma(p, s, d_set(0.13167511777583008));
  p = d_fma(p, s, d_set(-0.1765762358003929));
  p = d_fma(p, s, d_set(0.3535309956434049));
  return d_mul(x, p);
}

// atan(z) / z over z^2 up to 1, Chebyshev interpolation to 2e-11; a larger x goes by 1 / x.
static inline vd atan_wide(vd x) {
  const vd zero = d_set(0.0), one = d_set(1.0), a = d_max(x, d_sub(zero, x)), z = d_min(a, d_div(one, a));
  const vd s = d_fma(d_mul(z, z), d_set(2.0), d_set(-1.0));
  vd p = d_fma(s, d_set(1.0235203580963182e-07), d_set(-3.320596692183189e-07));
  p = d_fma(p, s, d_set(7.520015073709182e-07));
  p = d_fma(p, s, d_set(-2.4925007920279273e-06));
  p = d_fma(p, s, d_set(8.768357571140902e-06));
  p = d_fma(p, s, d_set(-2.972520955591348e-05));
  p = d_fma(p, s, d_set(0.00010226961650882142));
  p = d_fma(p, s, d_set(-0.00036095980296257945));
  p = d_fma(p, s, d_set(0.0013155868256299447));
  p = d_fma(p, s, d_set(-0.005030866470199314));
  p = d_fma(p, s, d_set(0.020851851175689575));
  p = d_fma(p, s, d_set(-0.10187654224951163));
  p = d_fma(p, s, d_set(0.8704197513671037));
  const vd y = d_mul(z, p), all = d_add(y, d_above(a, one, d_fnma(y, d_set(2.0), d_set(1.5707963267948966))));
  return d_mul(all, d_sub(one, d_above(d_sub(zero, x), zero, d_set(2.0))));
}

// log(1 + x) for x from 1/sqrt(2) - 1 to 1, where 1 + x need not be a float: twice the inverse hyperbolic tangent of x / (2 + x).
static inline vf log_above(vf x) {
  const vf t = v_div(x, v_add(v_set(2.0f), x)), s = v_mul(t, t);
  vf p = v_fma(s, v_set(2.0f / 17), v_set(2.0f / 15));
  p = v_fma(p, s, v_set(2.0f / 13));
  p = v_fma(p, s, v_set(2.0f / 11));
  p = v_fma(p, s, v_set(2.0f / 9));
  p = v_fma(p, s, v_set(2.0f / 7));
  p = v_fma(p, s, v_set(2.0f / 5));
  p = v_fma(p, s, v_set(2.0f / 3));
  return v_fma(v_mul(t, s), p, v_add(t, t));
}
static inline vf log_normal(vf x) {
  vf e;
  const vf m = v_split(x, &e), l = log_above(v_sub(m, v_set(1.0f)));
  return v_fma(e, v_set(0.693359375f), v_fma(e, v_set(-2.12194440e-4f), l));
}
// tanh(log(1 + e^x)) x = x n / (n + 2), n = e^x (e^x + 2)
static inline vf mish_of(vf x) {
  const vf w = act_exp(v_min(v_set(20.0f), x)), n = v_mul(w, v_add(w, v_set(2.0f)));
  return v_mul(x, v_div(n, v_add(n, v_set(2.0f))));
}
static inline vf softplus_of(vf x) { return v_add(v_max(v_set(0.0f), x), log_above(act_exp(v_neg(v_abs(x))))); }

#define WHITTLE_WIDE(name, top, expression)                                                               \
  static void op_##name(int64_t n, const float* a, const float* b, float p, float q, float* out) {        \
    (void)b, (void)p, (void)q;                                                                            \
    for (int64_t i = 0; i < n; i += VD_LANES) {                                                           \
      const int64_t left = n - i < VD_LANES ? n - i : VD_LANES;                                           \
      bool moderate = true;                                                                               \
      for (int64_t j = 0; j < left; j++) moderate &= fabsf(a[i + j]) <= top;                                \
      if (!moderate)                                                                                      \
        for (int64_t j = 0; j < left; j++) out[i + j] = (float)name((double)a[i + j]);                    \
      else {                                                                                              \
        const vd x = left == VD_LANES ? d_from_floats(a + i) : d_from_floats_part(a + i, left);           \
        if (left == VD_LANES) d_to_floats(out + i, expression);                                           \
        else d_to_floats_part(out + i, expression, left);                                                 \
      }                                                                                                   \
    }                                                                                                     \
  }

WHITTLE_WIDE(sin, kWaveTop, wave(x, 0.0))
WHITTLE_WIDE(cos, kWaveTop, wave(x, 0.5))
WHITTLE_WIDE(erf, 3e38f, erf_wide(x))
WHITTLE_WIDE(atan, 3e38f, atan_wide(x))

static void op_log(int64_t n, const float* a, const float* b, float p, float q, float* out) {
  (void)b, (void)p, (void)q;
  for (int64_t i = 0; i < n; i += VF_LANES) {
    const int64_t left = n - i < VF_LANES ? n - i : VF_LANES;
    bool normal = true;
    for (int64_t j = 0; j < left; j++) normal &= a[i + j] >= 1.17549435e-38f && a[i + j] <= 3.4e38f;
    if (!normal)
      for (int64_t j = 0; j < left; j++) out[i + j] = (float)log((double)a[i + j]);
    else if (left == VF_LANES) v_store(out + i, log_normal(v_load(a + i)));
    else v_store_part(out + i, log_normal(v_load_part(a + i, left, v_set(1.0f))), left);
  }
}

WHITTLE_VECTOR(add, true, v_add(x, y))
WHITTLE_VECTOR(sub, true, v_sub(x, y))
WHITTLE_VECTOR(mul, true, v_mul(x, y))
WHITTLE_VECTOR(div, true, v_div(x, y))
// A compare with NaN is false: where x is NaN, x + x is; where only y is, v_less keeps y.
WHITTLE_VECTOR(min, true, v_select(v_less(x, y), x, v_select(v_less(y, x), y, v_select(v_same(x, y), y, v_add(x, y)))))
WHITTLE_VECTOR(max, true, v_select(v_less(y, x), x, v_select(v_less(x, y), y, v_select(v_same(x, y), y, v_add(x, y)))))
WHITTLE_VECTOR(prelu, true, v_select(v_less(x, zero), v_mul(x, y), x))
WHITTLE_VECTOR(affine, false, v_add(v_mul(x, vp), vq))
WHITTLE_VECTOR(neg, false, v_neg(x))
WHITTLE_VECTOR(abs, false, v_abs(x))
WHITTLE_VECTOR(square, false, v_mul(x, x))
WHITTLE_VECTOR(reciprocal, false, v_div(v_set(1.0f), x))
WHITTLE_VECTOR(sqrt, false, v_sqrt(x))
WHITTLE_VECTOR(exp, false, act_exp(x))
WHITTLE_VECTOR(clip, false, act_apply(x, whittle::kActivationClip, vp, vq))
WHITTLE_VECTOR(hardswish, false, act_apply(x, whittle::kActivationHardswish, vp, vq))
WHITTLE_VECTOR(hardsigmoid, false, v_min(v_set(1.0f), v_max(zero, v_add(v_mul(x, vp), vq))))
WHITTLE_VECTOR(sigmoid, false, act_sigmoid(x))
WHITTLE_VECTOR(tanh, false, act_tanh(x))
WHITTLE_VECTOR(silu, false, act_apply(x, whittle::kActivationSilu, vp, vq))
WHITTLE_VECTOR(gelu, false, act_gelu(x))
WHITTLE_VECTOR(gelu_tanh, false, act_gelu_tanh(x))
WHITTLE_VECTOR(leaky, false, v_select(v_less(x, zero), v_mul(x, vp), x))
WHITTLE_VECTOR(elu, false, v_select(v_less(x, zero), v_mul(vp, expm1_below(x)), x))
WHITTLE_VECTOR(selu, false, v_mul(vq, v_select(v_less(x, zero), v_mul(vp, expm1_below(x)), x)))
WHITTLE_VECTOR(celu_up, false, v_select(v_less(x, zero), v_mul(vp, expm1_below(v_div(x, vp))), x))
static void op_celu(int64_t n, const float* a, const float* b, float p, float q, float* out) {
  if (p > 0) return op_celu_up(n, a, b, p, q, out);
  for (int64_t i = 0; i < n; i++) out[i] = a[i] < 0 ? (float)((double)p * expm1((double)a[i] / p)) : a[i];
}
WHITTLE_VECTOR(thresholded, false, v_select(v_less(vp, x), x, v_select(v_same(x, x), zero, x)))
WHITTLE_VECTOR(shrink, false, v_select(v_less(x, v_neg(vp)), v_add(x, vq), v_select(v_less(vp, x), v_sub(x, vq), v_select(v_same(x, x), zero, x))))
WHITTLE_VECTOR(softplus, false, softplus_of(x))
WHITTLE_VECTOR(softsign, false, v_div(x, v_add(v_set(1.0f), v_abs(x))))
WHITTLE_VECTOR(mish, false, mish_of(x))
WHITTLE_VECTOR(round, false, v_round(x))

static void install_vector(whittle::ElementwiseKernels* t) {
#define WHITTLE_SLOT(name) t->apply[whittle::kElementwise_##name] = op_##name
  WHITTLE_SLOT(add), WHITTLE_SLOT(sub), WHITTLE_SLOT(mul), WHITTLE_SLOT(div), WHITTLE_SLOT(min), WHITTLE_SLOT(max);
  WHITTLE_SLOT(prelu), WHITTLE_SLOT(affine), WHITTLE_SLOT(neg), WHITTLE_SLOT(abs), WHITTLE_SLOT(square);
  WHITTLE_SLOT(reciprocal), WHITTLE_SLOT(sqrt), WHITTLE_SLOT(exp), WHITTLE_SLOT(clip), WHITTLE_SLOT(hardswish);
  WHITTLE_SLOT(hardsigmoid), WHITTLE_SLOT(sigmoid), WHITTLE_SLOT(tanh), WHITTLE_SLOT(silu), WHITTLE_SLOT(gelu);
  WHITTLE_SLOT(gelu_tanh), WHITTLE_SLOT(leaky), WHITTLE_SLOT(elu), WHITTLE_SLOT(selu), WHITTLE_SLOT(sin), WHITTLE_SLOT(cos), WHITTLE_SLOT(round);
  WHITTLE_SLOT(erf), WHITTLE_SLOT(log), WHITTLE_SLOT(softplus), WHITTLE_SLOT(softsign), WHITTLE_SLOT(mish);
  WHITTLE_SLOT(atan), WHITTLE_SLOT(celu), WHITTLE_SLOT(thresholded), WHITTLE_SLOT(shrink);
}
