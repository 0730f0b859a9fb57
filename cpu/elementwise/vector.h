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

#define WHITTLE_WAVE(name, shift)                                                                         \
  static void op_##name(int64_t n, const float* a, const float* b, float p, float q, float* out) {        \
    (void)b, (void)p, (void)q;                                                                            \
    for (int64_t i = 0; i < n; i += VD_LANES) {                                                           \
      const int64_t left = n - i < VD_LANES ? n - i : VD_LANES;                                           \
      bool moderate = true;                                                                               \
      for (int64_t j = 0; j < left; j++) moderate &= fabsf(a[i + j]) <= kWaveTop;                          \
      if (!moderate)                                                                                      \
        for (int64_t j = 0; j < left; j++) out[i + j] = (float)name((double)a[i + j]);                    \
      else if (left == VD_LANES) d_to_floats(out + i, wave(d_from_floats(a + i), shift));                 \
      else d_to_floats_part(out + i, wave(d_from_floats_part(a + i, left), shift), left);                 \
    }                                                                                                     \
  }

WHITTLE_WAVE(sin, 0.0)
WHITTLE_WAVE(cos, 0.5)

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
WHITTLE_VECTOR(round, false, v_round(x))

static void install_vector(whittle::ElementwiseKernels* t) {
#define WHITTLE_SLOT(name) t->apply[whittle::kElementwise_##name] = op_##name
  WHITTLE_SLOT(add), WHITTLE_SLOT(sub), WHITTLE_SLOT(mul), WHITTLE_SLOT(div), WHITTLE_SLOT(min), WHITTLE_SLOT(max);
  WHITTLE_SLOT(prelu), WHITTLE_SLOT(affine), WHITTLE_SLOT(neg), WHITTLE_SLOT(abs), WHITTLE_SLOT(square);
  WHITTLE_SLOT(reciprocal), WHITTLE_SLOT(sqrt), WHITTLE_SLOT(exp), WHITTLE_SLOT(clip), WHITTLE_SLOT(hardswish);
  WHITTLE_SLOT(hardsigmoid), WHITTLE_SLOT(sigmoid), WHITTLE_SLOT(tanh), WHITTLE_SLOT(silu), WHITTLE_SLOT(gelu);
  WHITTLE_SLOT(gelu_tanh), WHITTLE_SLOT(leaky), WHITTLE_SLOT(elu), WHITTLE_SLOT(selu), WHITTLE_SLOT(sin), WHITTLE_SLOT(cos), WHITTLE_SLOT(round);
}
