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

// What follows is arranged so that no step makes a number below the normal range, on which arithmetic takes a hundred times
// as long: exponentials carry a factor of 2^24 until the last step, and what would end there is 0.

// e^-(u + v) * 2^24, u + v from 0 to 103 and about `whole`; u is a * b, exactly
static inline vf act_decay(vf a, vf b, vf whole) {
  const vf magic = v_set(12582912.0f + 24);
  const vf count = v_fma(whole, v_set(-1.44269504f), magic), n = v_sub(count, magic);
  // The leading half of ln(2) is short enough for exact products.
  vf r = v_fma(a, b, v_mul(n, v_set(0.693145752f)));
  r = v_fma(n, v_set(1.42860677e-6f), r);
  vf p = v_fma(r, v_set(0.001392617612f), v_set(-0.008363173075f));
  p = v_fma(p, r, v_set(0.04166655466f));
  p = v_fma(p, r, v_set(-0.1666657703f));
  p = v_fma(p, r, v_set(0.5f));
  p = v_fma(p, r, v_set(-1.0f));
  return v_raise(v_fma(p, r, v_set(1.0f)), count);
}

// max(x, 0) - w decay / 2^24
static inline vf act_less(vf x, vf w, vf decay) {
  vf z = v_mul(w, decay);
  z = v_select(v_less(z, v_set(0x1p-102f)), v_set(0.0f), z);
  return v_fnma(z, v_set(0x1p-24f), v_max(v_set(-0.0f), x));
}

// 1 / (1 + decay / 2^24)
static inline vf act_part(vf decay) { return v_inverse(v_fma(decay, v_set(0x1p-24f), v_set(1.0f))); }

static inline vf act_sigmoid(vf x) {
  const vf a = v_min(v_set(103.0f), v_abs(x)), e = act_decay(a, v_set(1.0f), a), s = act_part(e);
  vf z = v_mul(e, s);
  z = v_select(v_less(z, v_set(0x1p-102f)), v_set(0.0f), z);
  // a * 0 brings NaN through, which integer steps lose.
  return v_fma(a, v_set(0.0f), v_select(v_negative(x), v_mul(z, v_set(0x1p-24f)), s));
}

static inline vf act_tanh(vf x) {
  const vf a = v_abs(x), u = v_mul(x, x);
  vf p = v_fma(u, v_set(-0.006269119714f), v_set(0.02111095904f));
  p = v_fma(p, u, v_set(-0.05387394885f));
  p = v_fma(p, u, v_set(0.1333291537f));
  p = v_fma(p, u, v_set(-0.3333333033f));
  const vf small = v_fma(v_mul(a, u), p, a);
  // Beyond 10 it is 1.
  const vf twice = v_min(v_set(20.0f), v_add(a, a)), e = act_decay(twice, v_set(1.0f), twice);
  const vf large = v_fnma(v_mul(e, act_part(e)), v_set(0x1p-23f), v_set(1.0f));
  return v_copysign(v_select(v_less(v_set(0.6f), a), large, small), x);
}

static inline vf act_silu(vf x) {
  const vf a = v_min(v_set(103.0f), v_abs(x)), e = act_decay(a, v_set(1.0f), a);
  return act_less(x, v_mul(a, act_part(e)), e);
}

static inline vf act_gelu(vf x) {
  // At -14 it is 0 already.
  const vf a = v_min(v_set(14.0f), v_abs(x));
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
  const vf half = v_mul(a, v_set(0.5f));
  return act_less(x, v_mul(a, v_mul(q, t)), act_decay(a, half, v_mul(a, half)));
}

static inline vf act_gelu_tanh(vf x) {
  const vf a = v_min(v_set(12.0f), v_abs(x));
  const vf z = v_mul(a, v_fma(v_mul(a, a), v_set(0.0713548163f), v_set(1.59576912f)));
  const vf u = v_min(v_set(103.0f), z), e = act_decay(u, v_set(1.0f), u);
  return act_less(x, v_mul(a, act_part(e)), e);
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
      return act_silu(x);
    case whittle::kActivationGelu:
      return act_gelu(x);
    case whittle::kActivationGeluTanh:
      return act_gelu_tanh(x);
    default:
      return x;
  }
}
