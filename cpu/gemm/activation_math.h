// Activations on one vector, written once over the operations of cpu/common/vector_{avx2,avx512,neon}.h: each ISA file
// includes exactly one of those, through activation_<isa>.h.
// Polynomials: Chebyshev interpolation of (tanh/x-1)/x^2, and of Phi(-x) e^(x^2/2) / t in t = 1/(1+x/4).
#include "cpu/common/vector_exp.h"

static inline vf act_exp(vf x) {
  x = v_min(v_set(89.0f), v_max(v_set(-105.0f), x));
  vf n;
  const vf p = v_exp_reduced(x, &n);
  return v_ldexp(p, n);
}

static inline vf act_sigmoid(vf x) {
  const vf e = act_exp(v_sub(v_set(0.0f), v_abs(x)));
  const vf s = v_inverse(v_add(v_set(1.0f), e));
  return v_select(v_negative(x), v_mul(e, s), s);
}

static inline vf act_tanh(vf x) {
  const vf a = v_abs(x), u = v_mul(x, x);
  vf p = v_fma(u, v_set(-0.006269119714f), v_set(0.02111095904f));
  p = v_fma(p, u, v_set(-0.05387394885f));
  p = v_fma(p, u, v_set(0.1333291537f));
  p = v_fma(p, u, v_set(-0.3333333033f));
  const vf small = v_fma(v_mul(a, u), p, a);
  // Beyond 10 it is 1.
  const vf e = act_exp(v_min(v_set(20.0f), v_add(a, a)));
  const vf large = v_fnma(v_set(2.0f), v_inverse(v_add(v_set(1.0f), e)), v_set(1.0f));
  return v_copysign(v_select(v_less(a, v_set(0.6f)), small, large), x);
}

static inline vf act_gelu(vf x) {
  // Past 13.2 the lower tail is below the smallest normal float, and arithmetic on what lies there is slow.
  const vf low = v_max(v_set(-20.0f), x);
  const vf a = v_min(v_set(13.2f), v_abs(x));
  const vf t = v_inverse(v_fma(a, v_set(0.25f), v_set(1.0f)));
  vf q = v_fma(t, v_set(0.01607147336f), v_set(-0.06022585286f));
  q = v_fma(q, t, v_set(0.04611993723f));
  q = v_fma(q, t, v_set(0.0350751543f));
  q = v_fma(q, t, v_set(0.007866203337f));
  q = v_fma(q, t, v_set(0.08885935964f));
  q = v_fma(q, t, v_set(0.07138857119f));
  q = v_fma(q, t, v_set(0.09561157545f));
  q = v_fma(q, t, v_set(0.09948556838f));
  q = v_fma(q, t, v_set(0.09974801271f));
  // a*a loses half an ulp, which the exponential would blow up by a*a/2: the lost part goes back in as a factor.
  const vf half = v_mul(a, v_set(-0.5f)), square = v_mul(half, a), lost = v_fma(half, a, v_sub(v_set(0.0f), square));
  vf n;
  vf e = v_exp_reduced(square, &n);
  e = v_scale(v_fma(lost, e, e), n);
  e = v_select(v_less(a, v_set(13.18f)), e, v_set(0.0f));
  const vf tail = v_mul(e, v_mul(q, t));
  return v_select(v_negative(x), v_mul(low, tail), v_mul(x, v_sub(v_set(1.0f), tail)));
}

static inline vf act_gelu_tanh(vf x) {
  const vf low = v_max(v_set(-20.0f), x);
  const vf cube = v_mul(v_mul(low, low), v_mul(low, v_set(0.044715f)));
  return v_mul(low, act_sigmoid(v_mul(v_add(low, cube), v_set(1.59576912f))));
}

static inline vf act_apply(vf x, int32_t kind, vf lo, vf hi) {
  switch (kind) {
    case whittle::kActivationClip:
      return v_min(hi, v_max(lo, x));
    case whittle::kActivationHardswish: {
      const vf t = v_min(v_set(6.0f), v_max(v_set(0.0f), v_add(x, v_set(3.0f))));
      return v_mul(v_max(v_set(-3.0f), x), v_mul(t, v_set(0.166666672f)));
    }
    case whittle::kActivationHardswishAffine: {
      const vf t = v_min(v_set(6.0f), v_max(v_set(0.0f), v_add(x, v_set(3.0f))));
      return v_add(v_mul(v_mul(v_max(v_set(-3.0f), x), v_mul(t, v_set(0.166666672f))), lo), hi);
    }
    case whittle::kActivationSigmoid:
      return act_sigmoid(x);
    case whittle::kActivationTanh:
      return act_tanh(x);
    case whittle::kActivationSilu:
      return v_mul(v_max(v_set(-120.0f), x), act_sigmoid(x));
    case whittle::kActivationGelu:
      return act_gelu(x);
    case whittle::kActivationGeluTanh:
      return act_gelu_tanh(x);
    default:
      return x;
  }
}
