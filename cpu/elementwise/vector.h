// The operations that vectors do better, over lanes_<isa>.h and the activations, which the including file has chosen.
// The others stay scalar's. Tails go through part loads, so nothing outside of n is touched.

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
WHITTLE_VECTOR(round, false, v_round(x))

static void install_vector(whittle::ElementwiseKernels* t) {
#define WHITTLE_SLOT(name) t->apply[whittle::kElementwise_##name] = op_##name
  WHITTLE_SLOT(add), WHITTLE_SLOT(sub), WHITTLE_SLOT(mul), WHITTLE_SLOT(div), WHITTLE_SLOT(min), WHITTLE_SLOT(max);
  WHITTLE_SLOT(prelu), WHITTLE_SLOT(affine), WHITTLE_SLOT(neg), WHITTLE_SLOT(abs), WHITTLE_SLOT(square);
  WHITTLE_SLOT(reciprocal), WHITTLE_SLOT(sqrt), WHITTLE_SLOT(exp), WHITTLE_SLOT(clip), WHITTLE_SLOT(hardswish);
  WHITTLE_SLOT(hardsigmoid), WHITTLE_SLOT(sigmoid), WHITTLE_SLOT(tanh), WHITTLE_SLOT(silu), WHITTLE_SLOT(gelu);
  WHITTLE_SLOT(gelu_tanh), WHITTLE_SLOT(leaky), WHITTLE_SLOT(round);
}
