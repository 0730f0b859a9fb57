// The exponential of one vector, over the operations of vector_<isa>.h, which the including file has chosen.
// Polynomial: Chebyshev interpolation of (e^r-1-r)/r^2 on |r| <= ln(2)/2.

// e^x = (1 + result) * 2^n, n an integer.
static inline vf v_expm1_reduced(vf x, vf* n) {
  *n = v_round(v_mul(x, v_set(1.44269504f)));
  vf r = v_fnma(*n, v_set(0.693145752f), x);
  r = v_fnma(*n, v_set(1.42860677e-6f), r);
  vf p = v_fma(r, v_set(0.001392617612f), v_set(0.008363173075f));
  p = v_fma(p, r, v_set(0.04166655466f));
  p = v_fma(p, r, v_set(0.1666657703f));
  p = v_fma(p, r, v_set(0.5f));
  return v_fma(v_mul(r, r), p, r);
}

// e^x = result * 2^n; the result lies between 0.7 and 1.42 within 2 units in the last place.
static inline vf v_exp_reduced(vf x, vf* n) { return v_add(v_set(1.0f), v_expm1_reduced(x, n)); }
