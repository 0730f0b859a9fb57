// Activations on one vector, written once over the operations of cpu/common/vector_{avx2,avx512,neon}.h: each ISA file
// includes exactly one of those, through activation_<isa>.h.
// Polynomials: Chebyshev interpolation of (tanh/x-1)/x^2; of silu and the gelus, minimax in the error of the result.
#include "cpu/common/vector_exp.h"

static inline vf act_exp(vf x) {
  x = v_min(v_set(89.0f), v_max(v_set(-105.0f), x));
  vf n;
  const vf p = v_exp_reduced(x, &n);
  return v_ldexp(p, n);
}

// What follows is arranged so that next to no argument makes a number below the normal range, on which arithmetic takes a hundred
// times as long: exponentials carry a factor of 2^24 until the last step, and what would end there is 0.

// e^-a * 2^24, a from 0 to 103
static inline vf act_decay(vf a) {
  const vf magic = v_set(12582912.0f + 24);
  const vf count = v_fma(a, v_set(-1.44269504f), magic), n = v_sub(count, magic);
  // The leading half of ln(2) is short enough for exact products.
  vf r = v_fma(n, v_set(0.693145752f), a);
  r = v_fma(n, v_set(1.42860677e-6f), r);
  vf p = v_fma(r, v_set(0.001392617612f), v_set(-0.008363173075f));
  p = v_fma(p, r, v_set(0.04166655466f));
  p = v_fma(p, r, v_set(-0.1666657703f));
  p = v_fma(p, r, v_set(0.5f));
  p = v_fma(p, r, v_set(-1.0f));
  return v_raise(v_fma(p, r, v_set(1.0f)), count);
}

// 1 / (1 + decay / 2^24)
static inline vf act_part(vf decay) { return v_inverse(v_fma(decay, v_set(0x1p-24f), v_set(1.0f))); }

static inline vf act_sigmoid(vf x) {
  const vf a = v_min(v_set(103.0f), v_abs(x)), e = act_decay(a), s = act_part(e);
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
  const vf e = act_decay(v_min(v_set(20.0f), v_add(a, a)));
  const vf large = v_fnma(v_mul(e, act_part(e)), v_set(0x1p-23f), v_set(1.0f));
  return v_copysign(v_select(v_less(v_set(0.6f), a), large, small), x);
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
