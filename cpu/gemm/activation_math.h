// Activations on one vector, written once over the operations of cpu/common/vector_{avx2,avx512,neon}.h: each ISA file
// includes exactly one of those, through activation_<isa>.h.
// Polynomials and fractions are minimax, those of silu and the gelus in the error of the result.
#include "cpu/common/vector_exp.h"

static inline vf act_exp(vf x) {
  x = v_min(v_set(89.0f), v_max(v_set(-105.0f), x));
  vf n;
  const vf p = v_exp_reduced(x, &n);
  return v_ldexp(p, n);
}

// e^-a / (1 + e^-a) with a = |x|, or what is missing to 1. e^-a is 2^n (E - O) / (E + O), E even and O odd in the rest: one
// division does. The constant is one whose inverse makes the value at 0 exactly a half, however v_inverse rounds.
static inline vf act_sigmoid(vf x) {
  const vf a = v_min(v_set(88.2f), v_abs(x)), magic = v_set(12582912.0f + 127);
  const vf count = v_fma(a, v_set(-1.44269504f), magic);
  vf r = v_fma(a, v_set(1.44269504f), v_sub(count, magic));
  r = v_fma(a, v_set(1.92596299e-8f), r);
  const vf even = v_fma(r, r, v_set(25.0391026f)), power = v_power(count);
  const vf less = v_mul(power, v_fma(r, v_set(-8.67783742f), even)), more = v_fma(r, v_set(8.67783742f), even);
  const vf z = v_mul(less, v_inverse(v_add(more, less)));
  return v_select(v_negative(x), z, v_sub(v_set(1.0f), z));
}

// x P(x^2) / Q(x^2) to 2.3e-8 where tanh is not 1; beyond, the fraction stays that of 9.1 and the product passes 1.
static inline vf act_tanh(vf x) {
  const vf u = v_min(v_set(82.81f), v_mul(x, x)), one = v_set(1.0f);
  vf p = v_fma(u, v_set(1.31781618e-08f), v_set(2.04816909e-05f));
  vf q = v_fma(u, v_set(7.70432025e-07f), v_set(0.000327297212f));
  p = v_fma(p, u, v_set(0.00348784369f));
  q = v_fma(q, u, v_set(0.0258475151f));
  p = v_fma(p, u, v_set(0.133745035f));
  q = v_fma(q, u, v_set(0.467078173f));
  p = v_fma(p, u, one);
  q = v_fma(q, u, one);
  return v_max(v_set(-1.0f), v_min(one, v_mul(v_mul(x, p), v_inverse(q))));
}

// max(x, 0) - a e^-a / (1 + e^-a) with a = |x|, as above.
static inline vf act_silu(vf x) {
  const vf a = v_within(v_set(88.2f), x), magic = v_set(12582912.0f + 127);
  const vf count = v_fma(a, v_set(-1.44269504f), magic), r = v_fma(a, v_set(1.44269504f), v_sub(count, magic));
  const vf even = v_fma(r, r, v_set(25.0391064f)), power = v_power(count);
  const vf less = v_fma(r, v_set(-8.67783928f), even), more = v_fma(r, v_set(8.67783928f), even);
  const vf share = v_mul(less, v_inverse(v_fma(power, less, more)));
  return v_fnma(v_mul(a, power), share, v_max(v_set(-0.0f), x));
}

// max(x, 0) - a q^4, where a is |x| or 6, and q(6) = 0 to the last bit. The fourth power makes light of errors where q is small,
// so that few terms do.
static inline vf act_bump(vf x, vf a, vf q) {
  q = v_mul(q, q);
  return v_fnma(v_mul(a, q), q, v_max(v_set(-0.0f), x));
}

static inline vf act_gelu(vf x) {
  const vf a = v_within(v_set(6.0f), x);
  vf q = v_fma(a, v_set(1.68238145e-07f), v_set(-6.26705651e-06f));
  q = v_fma(q, a, v_set(7.83928408e-05f));
  q = v_fma(q, a, v_set(-0.000381121266f));
  q = v_fma(q, a, v_set(0.000120436009f));
  q = v_fma(q, a, v_set(0.00360569125f));
  q = v_fma(q, a, v_set(0.00477808062f));
  q = v_fma(q, a, v_set(-0.0502407178f));
  q = v_fma(q, a, v_set(-0.167728543f));
  q = v_fma(q, a, v_set(0.840896308f));
  return act_bump(x, a, q);
}

static inline vf act_gelu_tanh(vf x) {
  const vf a = v_within(v_set(6.0f), x);
  vf q = v_fma(a, v_set(-6.95190536e-08f), v_set(1.43684565e-06f));
  q = v_fma(q, a, v_set(-1.06723737e-05f));
  q = v_fma(q, a, v_set(2.56258991e-05f));
  q = v_fma(q, a, v_set(8.01619462e-05f));
  q = v_fma(q, a, v_set(-0.000553001766f));
  q = v_fma(q, a, v_set(0.000331739022f));
  q = v_fma(q, a, v_set(0.00349622499f));
  q = v_fma(q, a, v_set(0.00498300232f));
  q = v_fma(q, a, v_set(-0.0502475947f));
  q = v_fma(q, a, v_set(-0.167728916f));
  q = v_fma(q, a, v_set(0.840896308f));
  return act_bump(x, a, q);
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
