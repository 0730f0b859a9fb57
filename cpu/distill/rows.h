// Softmax losses over one row, written once over the operations of vector_<isa>.h, which the including file has chosen.
// Trick: the row is read in blocks that stay in L1, each first for its maximum, then for its exponentials; sums of a
// block move to double, so 128256 classes lose no more digits than 1024. The second pass over the row (the gradient)
// takes the exponentials again instead of storing them: cheaper than memory. Limit: none.
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "core/distill.h"
#include "cpu/common/vector_exp.h"

#define kBlock 1024

// e^x for x <= 0; 0 below the cut, so that no subnormal slows the sums. 3 units in the last place.
static inline vf v_exp_down(vf x) {
  const vf cut = v_set(whittle::kDistillExpCut);
  vf n;
  const vf p = v_exp_reduced(v_max(cut, x), &n);
  return v_select(v_less(x, cut), v_set(0.0f), v_scale(p, n));
}

// log x for normal x > 0: e*log 2 + 2 atanh(s), s = (m-1)/(m+1), the series up to s^9. 3 units in the last place where
// |log x| >= 0.3, 4 * 2^-24 * |x - 1| near 1.
static inline vf v_log(vf x) {
  vf e;
  const vf m = v_split(x, &e), one = v_set(1.0f);
  const vf s = v_div(v_sub(m, one), v_add(m, one)), z = v_mul(s, s);
  vf p = v_fma(z, v_set(0.222222222f), v_set(0.285714286f));
  p = v_fma(p, z, v_set(0.4f));
  p = v_fma(p, z, v_set(0.666666667f));
  const vf tail = v_fma(v_mul(s, z), p, v_add(s, s));
  return v_fma(e, v_set(0.693359375f), v_fma(e, v_set(-2.12194440e-4f), tail));
}

static inline vf v_zero(void) { return v_set(0.0f); }

static inline void widen_simd(const uint16_t* x, int64_t n, float* out) {
  int64_t i = 0;
  for (; i + VF_LANES <= n; i += VF_LANES) v_store(out + i, v_widen(x + i));
  for (; i < n; i++) {
    const uint32_t bits = (uint32_t)x[i] << 16;
    memcpy(out + i, &bits, sizeof bits);
  }
}

// The maximum of x[0..n) and *max; 0 * x is added up in *bad: NaN for what is not finite.
static inline float block_top(const float* x, int64_t n, float max, vf* bad) {
  vf a = v_set(max), b = a, bad0 = *bad, bad1 = v_zero();
  int64_t i = 0;
  for (; i + 2 * VF_LANES <= n; i += 2 * VF_LANES) {
    const vf p = v_load(x + i), q = v_load(x + i + VF_LANES);
    bad0 = v_fma(p, v_zero(), bad0);
    bad1 = v_fma(q, v_zero(), bad1);
    a = v_max(a, p);
    b = v_max(b, q);
  }
  for (; i < n; i += VF_LANES) {
    const vf p = i + VF_LANES <= n ? v_load(x + i) : v_load_part(x + i, n - i, a);
    bad0 = v_fma(p, v_zero(), bad0);
    a = v_max(a, p);
  }
  *bad = v_add(bad0, bad1);
  return v_top(v_max(a, b));
}

static inline bool soft_sums_simd(const float* x, int64_t n, float inv_t, whittle::SoftSums* sums) {
  vf bad = v_zero();
  const vf scale = v_set(inv_t);
  for (int64_t at = 0; at < n; at += kBlock, x += kBlock) {
    const int64_t m = n - at < kBlock ? n - at : kBlock;
    const float top = block_top(x, m, sums->max, &bad);
    if (!(v_sum(bad) == 0)) return false;
    if (top > sums->max) {
      if (sums->sum > 0) sums->sum *= exp(((double)sums->max - top) * inv_t);
      sums->max = top;
    }
    const vf max = v_set(sums->max);
    vf a = v_zero(), b = v_zero();
    int64_t i = 0;
    for (; i + 2 * VF_LANES <= m; i += 2 * VF_LANES) {
      a = v_add(a, v_exp_down(v_mul(v_sub(v_load(x + i), max), scale)));
      b = v_add(b, v_exp_down(v_mul(v_sub(v_load(x + i + VF_LANES), max), scale)));
    }
    for (; i + VF_LANES <= m; i += VF_LANES) a = v_add(a, v_exp_down(v_mul(v_sub(v_load(x + i), max), scale)));
    if (i < m) {
      const vf e = v_exp_down(v_mul(v_sub(v_load_part(x + i, m - i, max), max), scale));
      b = v_add(b, v_keep(e, m - i));
    }
    sums->sum += v_sum(v_add(a, b));
  }
  return true;
}

static inline bool pair_sums_simd(const float* s, const float* t, int64_t n, float inv_t, whittle::PairSums* sums) {
  vf bad = v_zero();
  const vf scale = v_set(inv_t);
  for (int64_t at = 0; at < n; at += kBlock, s += kBlock, t += kBlock) {
    const int64_t m = n - at < kBlock ? n - at : kBlock;
    const float s_top = block_top(s, m, sums->s_max, &bad), t_top = block_top(t, m, sums->t_max, &bad);
    if (!(v_sum(bad) == 0)) return false;
    if (s_top > sums->s_max) {
      if (sums->s_sum > 0) {
        const double by = ((double)sums->s_max - s_top) * inv_t;
        sums->s_sum *= exp(by);
        sums->cross -= sums->t_sum * by;
      }
      sums->s_max = s_top;
    }
    if (t_top > sums->t_max) {
      if (sums->t_sum > 0) {
        const double by = ((double)sums->t_max - t_top) * inv_t, f = exp(by);
        sums->cross = f * (sums->cross + sums->t_sum * by);
        sums->t_sum *= f;
      }
      sums->t_max = t_top;
    }
    const vf s_max = v_set(sums->s_max), t_max = v_set(sums->t_max);
    vf es0 = v_zero(), et0 = v_zero(), c0 = v_zero(), es1 = v_zero(), et1 = v_zero(), c1 = v_zero();
    int64_t i = 0;
    for (; i + 2 * VF_LANES <= m; i += 2 * VF_LANES) {
      const vf ds0 = v_mul(v_sub(v_load(s + i), s_max), scale), dt0 = v_mul(v_sub(v_load(t + i), t_max), scale);
      const vf ds1 = v_mul(v_sub(v_load(s + i + VF_LANES), s_max), scale);
      const vf dt1 = v_mul(v_sub(v_load(t + i + VF_LANES), t_max), scale);
      const vf e0 = v_exp_down(dt0), e1 = v_exp_down(dt1);
      et0 = v_add(et0, e0);
      et1 = v_add(et1, e1);
      c0 = v_fma(e0, v_sub(dt0, ds0), c0);
      c1 = v_fma(e1, v_sub(dt1, ds1), c1);
      es0 = v_add(es0, v_exp_down(ds0));
      es1 = v_add(es1, v_exp_down(ds1));
    }
    for (; i < m; i += VF_LANES) {
      const int64_t k = m - i < VF_LANES ? m - i : VF_LANES;
      const bool part = k < VF_LANES;
      const vf x = part ? v_load_part(s + i, k, s_max) : v_load(s + i), y = part ? v_load_part(t + i, k, t_max) : v_load(t + i);
      const vf ds = v_mul(v_sub(x, s_max), scale), dt = v_mul(v_sub(y, t_max), scale);
      vf es = v_exp_down(ds), et = v_exp_down(dt);
      if (part) {
        es = v_keep(es, k);
        et = v_keep(et, k);
      }
      es0 = v_add(es0, es);
      et0 = v_add(et0, et);
      c0 = v_fma(et, v_sub(dt, ds), c0);
    }
    sums->s_sum += v_sum(v_add(es0, es1));
    sums->t_sum += v_sum(v_add(et0, et1));
    sums->cross += v_sum(v_add(c0, c1));
  }
  return true;
}

// EACH(n, body) walks a row: the body sees i and k (elements, VF_LANES but in the tail) and loads by LOAD(p, fill), stores by STORE.
#define LOAD(p, fill) (k == VF_LANES ? v_load((p) + i) : v_load_part((p) + i, k, fill))
#define STORE(p, v)                               \
  do {                                            \
    if (k == VF_LANES) v_store((p) + i, v);       \
    else v_store_part((p) + i, v, k);             \
  } while (0)
#define EACH(n, ...)                             \
  do {                                           \
    int64_t i = 0;                               \
    for (; i + VF_LANES <= (n); i += VF_LANES) { \
      const int64_t k = VF_LANES;                \
      __VA_ARGS__                                \
    }                                            \
    if (i < (n)) {                               \
      const int64_t k = (n) - i;                 \
      __VA_ARGS__                                \
    }                                            \
  } while (0)

static inline void pair_grad_simd(const float* s, const float* t, int64_t n, float inv_t, float s_max, float t_max, float a,
                                  float b, float* g) {
  const vf scale = v_set(inv_t), sm = v_set(s_max), tm = v_set(t_max), va = v_set(a), vb = v_set(b);
  EACH(n, {
    const vf es = v_exp_down(v_mul(v_sub(LOAD(s, sm), sm), scale));
    const vf et = v_exp_down(v_mul(v_sub(LOAD(t, tm), tm), scale));
    STORE(g, v_fnma(vb, et, v_mul(va, es)));
  });
}

static inline void pair_terms_simd(const float* s, const float* t, int64_t n, float inv_t, float s_max, float t_max,
                                   float s_log, float t_log, float factor, float* out) {
  const vf scale = v_set(inv_t), sm = v_set(s_max), tm = v_set(t_max), shift = v_set(s_log - t_log), f = v_set(factor);
  const vf tl = v_set(t_log);
  EACH(n, {
    const vf ds = v_mul(v_sub(LOAD(s, sm), sm), scale), dt = v_mul(v_sub(LOAD(t, tm), tm), scale);
    const vf p = v_exp_down(v_sub(dt, tl));
    STORE(out, v_mul(v_mul(f, p), v_add(v_sub(dt, ds), shift)));
  });
}

static inline void soft_grad_simd(const float* x, int64_t n, float inv_t, float max, float a, const float* w, float factor,
                                  bool add, float* g) {
  const vf m = v_set(max), scale = v_set(inv_t), va = v_set(a), f = v_set(factor), one = v_set(1.0f);
  EACH(n, {
    vf v = v_mul(va, v_exp_down(v_mul(v_sub(LOAD(x, m), m), scale)));
    v = v_fnma(f, w ? LOAD(w, one) : one, v);
    if (add) v = v_add(v, LOAD(g, m));
    STORE(g, v);
  });
}

static inline double soft_dot_simd(const float* x, int64_t n, float max, const float* w) {
  const vf m = v_set(max), one = v_set(1.0f);
  double sum = 0;
  for (int64_t at = 0; at < n; at += kBlock, x += kBlock) {
    const int64_t size = n - at < kBlock ? n - at : kBlock;
    const float* wb = w ? w + at : 0;
    vf acc = v_zero();
    EACH(size, {
      const vf d = v_sub(LOAD(x, m), m);
      acc = v_fma(w ? LOAD(wb, one) : one, d, acc);
    });
    sum += v_sum(acc);
  }
  return sum;
}

// log(q/m) = log(2q/(p+q)); where both vanish the ratio is taken as the smallest number, and so is 0.
static inline vf log_share(vf q, vf sum) {
  const vf tiny = v_set(FLT_MIN);
  return v_log(v_max(tiny, v_div(v_add(q, q), v_max(tiny, sum))));
}

static inline void js_sums_simd(const float* s, const float* t, int64_t n, float inv_t, float s_max, float t_max,
                                float s_scale, float t_scale, double* q_log, double* p_log) {
  const vf scale = v_set(inv_t), sm = v_set(s_max), tm = v_set(t_max), sf = v_set(s_scale), tf = v_set(t_scale);
  double a = 0, b = 0;
  for (int64_t at = 0; at < n; at += kBlock, s += kBlock, t += kBlock) {
    const int64_t size = n - at < kBlock ? n - at : kBlock;
    vf va = v_zero(), vb = v_zero();
    EACH(size, {
      vf q = v_mul(sf, v_exp_down(v_mul(v_sub(LOAD(s, sm), sm), scale)));
      vf p = v_mul(tf, v_exp_down(v_mul(v_sub(LOAD(t, tm), tm), scale)));
      if (k < VF_LANES) {
        q = v_keep(q, k);
        p = v_keep(p, k);
      }
      const vf sum = v_add(p, q);
      va = v_fma(q, log_share(q, sum), va);
      vb = v_fma(p, log_share(p, sum), vb);
    });
    a += v_sum(va);
    b += v_sum(vb);
  }
  *q_log = a;
  *p_log = b;
}

static inline void js_grad_simd(const float* s, const float* t, int64_t n, float inv_t, float s_max, float t_max,
                                float s_scale, float t_scale, float centre, float factor, float* g) {
  const vf scale = v_set(inv_t), sm = v_set(s_max), tm = v_set(t_max), sf = v_set(s_scale), tf = v_set(t_scale);
  const vf c = v_set(centre), f = v_set(factor);
  EACH(n, {
    const vf q = v_mul(sf, v_exp_down(v_mul(v_sub(LOAD(s, sm), sm), scale)));
    const vf p = v_mul(tf, v_exp_down(v_mul(v_sub(LOAD(t, tm), tm), scale)));
    STORE(g, v_mul(v_mul(f, q), v_sub(log_share(q, v_add(p, q)), c)));
  });
}

static inline void mix_simd(const float* x, int64_t n, float inv_t, float max, float factor, bool add, float* p) {
  const vf scale = v_set(inv_t), m = v_set(max), f = v_set(factor);
  EACH(n, {
    const vf e = v_exp_down(v_mul(v_sub(LOAD(x, m), m), scale));
    STORE(p, add ? v_fma(f, e, LOAD(p, m)) : v_mul(f, e));
  });
}

static inline double mix_grad_simd(const float* p, const float* s, int64_t n, float inv_t, float max, float log_sum,
                                   float factor, float term_scale, float* terms, float* g) {
  const vf scale = v_set(inv_t), m = v_set(max), l = v_set(log_sum), f = v_set(factor), ts = v_set(term_scale);
  const vf tiny = v_set(FLT_MIN);
  double sum = 0;
  for (int64_t at = 0; at < n; at += kBlock, p += kBlock, s += kBlock, g += kBlock) {
    const int64_t size = n - at < kBlock ? n - at : kBlock;
    float* out = terms ? terms + at : 0;
    vf acc = v_zero();
    EACH(size, {
      const vf lq = v_sub(v_mul(v_sub(LOAD(s, m), m), scale), l), pv = LOAD(p, v_zero());
      const vf v = v_mul(pv, v_sub(v_log(v_max(tiny, pv)), lq));
      acc = v_add(acc, v);
      if (out) STORE(out, v_mul(ts, v));
      STORE(g, v_mul(f, v_sub(v_exp_down(lq), pv)));
    });
    sum += v_sum(acc);
  }
  return sum;
}
