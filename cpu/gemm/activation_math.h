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

// e^-a, a from 0 to 88.2, is power (even - odd) / (even + odd): even and odd in what is left of the exponent after its integer, so
// that a division for what is made of it does for it as well. Within a unit in the last place; 0 below the normal range.
struct ActDecay {
  vf power, even, odd;
};
static inline ActDecay act_decay(vf a) {
  const vf magic = v_set(12582912.0f + 127);
  const vf count = v_fma(a, v_set(-1.44269504f), magic);
  vf r = v_fma(a, v_set(1.44269504f), v_sub(count, magic));
  r = v_fma(a, v_set(1.92596299e-8f), r);
  const vf u = v_mul(r, r);
  ActDecay e;
  e.power = v_power(count);
  e.even = v_add(u, v_set(20.818924f));
  e.odd = v_mul(r, v_fma(u, v_set(0.0576900728f), v_set(7.21528912f)));
  return e;
}

static inline vf act_sigmoid(vf x) {
  const ActDecay e = act_decay(v_min(v_set(88.2f), v_abs(x)));
  const vf more = v_add(e.even, e.odd), less = v_mul(e.power, v_sub(e.even, e.odd));
  const vf z = v_mul(less, v_inverse(v_add(more, less)));
  return v_select(v_negative(x), z, v_sub(v_set(1.0f), z));
}

// (1 - e^-2a) / (1 + e^-2a), arranged so that nothing cancels. Beyond 9.28 it is 1: that limit was chosen for a fraction that is so
// to the last bit however v_inverse rounds.
static inline vf act_tanh(vf x) {
  const vf a = v_min(v_set(9.28212166f), v_abs(x)), one = v_set(1.0f);
  const ActDecay e = act_decay(v_add(a, a));
  const vf up = v_add(one, e.power), down = v_sub(one, e.power);
  const vf part = v_fma(e.even, down, v_mul(e.odd, up)), whole = v_fma(e.even, up, v_mul(e.odd, down));
  return v_copysign(v_min(one, v_mul(part, v_inverse(whole))), x);
}

// max(x, 0) - a e^-a / (1 + e^-a) with a = |x|. e^-a is 2^n (E - O) / (E + O), E even and O odd in the rest: one division does.
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
