// Rows on vectors: four chains a sum, one exponential an element (softmax writes it, then scales).
#include <math.h>

#include "cpu/gemm/activation_math.h"

#define WHITTLE_FOLD(name, first, step)                                              \
  static inline vf name##_all(int64_t n, const float* x, vf k) {                     \
    vf s[4] = {first, first, first, first};                                          \
    int64_t i = 0;                                                                   \
    (void)k;                                                                         \
    for (; i + 4 * VF_LANES <= n; i += 4 * VF_LANES)                                 \
      for (int c = 0; c < 4; c++) {                                                  \
        const vf a = s[c], v = v_load(x + i + c * VF_LANES);                         \
        s[c] = step;                                                                 \
      }                                                                              \
    for (; i < n; i += VF_LANES) {                                                   \
      const vf a = s[0];                                                             \
      if (i + VF_LANES <= n) {                                                       \
        const vf v = v_load(x + i);                                                  \
        s[0] = step;                                                                 \
      } else {                                                                       \
        const vf v = v_load_part(x + i, n - i, k);                                   \
        s[0] = step;                                                                 \
      }                                                                              \
    }                                                                                \
    for (int c = 1; c < 4; c++) {                                                    \
      const vf a = s[0];                                                             \
      s[0] = name##_join(a, s[c]);                                                   \
    }                                                                                \
    return s[0];                                                                     \
  }
#define sum_join v_add
#define square_join v_add
#define abs_join v_add
#define top_join row_max
#define bottom_join row_min
#define most_join v_max

// NaN of either side wins.
static inline vf row_max(vf a, vf v) { return v_select(v_less(v, a), a, v_select(v_less(a, v), v, v_select(v_same(a, v), v, v_add(a, v)))); }
static inline vf row_min(vf a, vf v) { return v_select(v_less(a, v), a, v_select(v_less(v, a), v, v_select(v_same(a, v), v, v_add(a, v)))); }

// k is what lanes beyond the row hold, chosen so that they change nothing.
WHITTLE_FOLD(sum, v_set(0.0f), v_add(a, v))
WHITTLE_FOLD(square, v_set(0.0f), v_fma(v_sub(v, k), v_sub(v, k), a))
WHITTLE_FOLD(abs, v_set(0.0f), v_add(a, v_abs(v)))
WHITTLE_FOLD(top, v_set(-INFINITY), row_max(a, v))
WHITTLE_FOLD(bottom, v_set(INFINITY), row_min(a, v))

static float best_lane(vf v, int up) {
  float lanes[VF_LANES];
  v_store(lanes, v);
  float m = lanes[0];
  for (int i = 1; i < VF_LANES; i++)
    if (m == m && (lanes[i] != lanes[i] || (up ? lanes[i] > m : lanes[i] < m))) m = lanes[i];
  return m;
}

static float row_sum(int64_t n, const float* x) { return v_sum(sum_all(n, x, v_set(0.0f))); }
static float row_squares(int64_t n, const float* x) { return v_sum(square_all(n, x, v_set(0.0f))); }
static float row_abs(int64_t n, const float* x) { return v_sum(abs_all(n, x, v_set(0.0f))); }
static float row_top(int64_t n, const float* x) { return best_lane(top_all(n, x, v_set(-INFINITY)), 1); }
static float row_bottom(int64_t n, const float* x) { return best_lane(bottom_all(n, x, v_set(INFINITY)), 0); }

// e^x, and 0 where that is below the smallest normal float: sums of such numbers are slow.
static inline vf normal_exp(vf x) { return v_select(v_less(x, v_set(-87.3f)), v_set(0.0f), act_exp(x)); }

// NaN or not: where there is one, every exponential of the row ends in a sum that is NaN.
WHITTLE_FOLD(most, v_set(-INFINITY), v_max(a, v))

static void row_softmax(int64_t n, const float* x, int32_t log_, float* out) {
  const float m = v_top(most_all(n, x, v_set(-INFINITY)));
  const vf top = v_set(m);
  vf s = v_set(0.0f);
  int64_t i = 0;
  for (; i + VF_LANES <= n; i += VF_LANES) {
    const vf d = v_sub(v_load(x + i), top), e = normal_exp(d);
    s = v_add(s, e);
    v_store(out + i, log_ ? d : e);
  }
  if (i < n) {
    const vf d = v_sub(v_load_part(x + i, n - i, v_set(-INFINITY)), top), e = normal_exp(d);
    s = v_add(s, v_keep(e, n - i));
    v_store_part(out + i, log_ ? d : e, n - i);
  }
  const float total = v_sum(s);
  const vf f = v_set(log_ ? -(float)log((double)total) : 1.0f / total);
  for (i = 0; i + VF_LANES <= n; i += VF_LANES) {
    const vf e = v_load(out + i);
    v_store(out + i, log_ ? v_add(e, f) : v_mul(e, f));
  }
  if (i < n) {
    const vf e = v_load_part(out + i, n - i, v_set(0.0f));
    v_store_part(out + i, log_ ? v_add(e, f) : v_mul(e, f), n - i);
  }
}

// e^x for x <= 0, by one addition that rounds the exponent of 2 into place: 0 from -88 on, NaN of NaN. Within 1e-7 + 2e-8 |x|, relative.
static inline vf falling_exp(vf x) {
  const vf magic = v_set(12582912.0f + 127), base = v_set(1.44269504f);
  x = v_max(v_set(-88.0f), x);
  const vf count = v_fma(x, base, magic);
  // What is left of the exponent, within a half: the product is not rounded before the integer is taken off.
  const vf r = v_fma(x, base, v_sub(magic, count));
  vf p = v_fma(r, v_set(0.001326472615f), v_set(0.009671512991f));
  p = v_fma(p, r, v_set(0.05550733581f));
  p = v_fma(p, r, v_set(0.2402224243f));
  p = v_fma(p, r, v_set(0.6931470037f));
  return v_mul(v_fma(p, r, v_set(1.0f)), v_power(count));
}

// kRows rows abreast: what one waits for (its maximum, its sum) hides behind the others.
enum { kSoftmaxRows = 4 };
template <int kRows>
static inline void softmax_abreast(int64_t n, float* x, int64_t stride, float* factors) {
  const int64_t whole = n - n % VF_LANES, left = n - whole;
  const vf least = v_set(-INFINITY);
  vf s[kRows], top[kRows];
  for (int r = 0; r < kRows; r++) top[r] = least;
  for (int64_t i = 0; i < whole; i += VF_LANES)
    for (int r = 0; r < kRows; r++) top[r] = v_max(top[r], v_load(x + r * stride + i));
  for (int r = 0; r < kRows; r++) {
    if (left) top[r] = v_max(top[r], v_load_part(x + r * stride + whole, left, least));
    top[r] = v_set(v_top(top[r]));
    s[r] = v_set(0.0f);
  }
  for (int64_t i = 0; i < whole; i += VF_LANES)
    for (int r = 0; r < kRows; r++) {
      const vf e = falling_exp(v_sub(v_load(x + r * stride + i), top[r]));
      s[r] = v_add(s[r], e);
      v_store(x + r * stride + i, e);
    }
  for (int r = 0; r < kRows; r++) {
    if (left) {
      const vf e = falling_exp(v_sub(v_load_part(x + r * stride + whole, left, least), top[r]));
      s[r] = v_add(s[r], v_keep(e, left));
      v_store_part(x + r * stride + whole, e, left);
    }
    const float factor = 1.0f / v_sum(s[r]);
    if (factors) factors[r] = factor;
    s[r] = v_set(factor);
  }
  if (factors) return;
  for (int64_t i = 0; i < whole; i += VF_LANES)
    for (int r = 0; r < kRows; r++) v_store(x + r * stride + i, v_mul(v_load(x + r * stride + i), s[r]));
  if (left)
    for (int r = 0; r < kRows; r++)
      v_store_part(x + r * stride + whole, v_mul(v_load_part(x + r * stride + whole, left, s[r]), s[r]), left);
}

static void rows_softmax(int64_t rows, int64_t n, float* x, int64_t stride, float* factors) {
  int64_t i = 0;
  for (; i + kSoftmaxRows <= rows; i += kSoftmaxRows) softmax_abreast<kSoftmaxRows>(n, x + i * stride, stride, factors ? factors + i : nullptr);
  x += i * stride;
  if (factors) factors += i;
  switch (rows - i) {
    case 1: return softmax_abreast<1>(n, x, stride, factors);
    case 2: return softmax_abreast<2>(n, x, stride, factors);
    case 3: return softmax_abreast<3>(n, x, stride, factors);
    default: return;
  }
}

static void rows_scale(int64_t rows, int64_t n, float* x, int64_t stride, const float* factors) {
  for (int64_t r = 0; r < rows; r++, x += stride) {
    const vf f = v_set(factors[r]);
    int64_t i = 0;
    for (; i + VF_LANES <= n; i += VF_LANES) v_store(x + i, v_mul(v_load(x + i), f));
    if (i < n) v_store_part(x + i, v_mul(v_load_part(x + i, n - i, f), f), n - i);
  }
}

// What was written so far: its lowest and highest numbers by lane, and NaN where one was not finite.
struct Written {
  vf lowest, highest, bad;
};
static inline void written(Written* w, vf y) {
  w->lowest = v_min(w->lowest, y);
  w->highest = v_max(w->highest, y);
  w->bad = v_fma(y, v_set(0.0f), w->bad);
}

// kRows rows abreast, for the same reason as above.
enum { kLayerRows = 4 };
template <int kRows>
static inline void layer_abreast(int64_t n, int32_t centered, const float* x, const float* gamma, const float* beta, float epsilon, float* out,
                                 Written* w) {
  const vf one = v_set(1.0f), zero = v_set(0.0f);
  vf s[kRows], center[kRows], r[kRows];
  for (int k = 0; k < kRows; k++) center[k] = s[k] = zero;
  if (centered) {
    for (int k = 0; k < kRows; k++) s[k] = sum_all(n, x + k * n, zero);
    for (int k = 0; k < kRows; k++) center[k] = v_set(v_sum(s[k]) / (float)n);
  }
  for (int k = 0; k < kRows; k++) s[k] = square_all(n, x + k * n, center[k]);
  for (int k = 0; k < kRows; k++) r[k] = v_set(1.0f / sqrtf(v_sum(s[k]) / (float)n + epsilon));
  int64_t i = 0;
  for (; i + VF_LANES <= n; i += VF_LANES) {
    const vf g = gamma ? v_load(gamma + i) : one, b = beta ? v_load(beta + i) : zero;
    for (int k = 0; k < kRows; k++) {
      const vf y = v_fma(v_mul(v_sub(v_load(x + k * n + i), center[k]), r[k]), g, b);
      v_store(out + k * n + i, y);
      if (w) written(w, y);
    }
  }
  if (i < n) {
    const int64_t left = n - i;
    const vf g = gamma ? v_load_part(gamma + i, left, one) : one, b = beta ? v_load_part(beta + i, left, zero) : zero;
    for (int k = 0; k < kRows; k++) {
      const vf y = v_fma(v_mul(v_sub(v_load_part(x + k * n + i, left, zero), center[k]), r[k]), g, b);
      v_store_part(out + k * n + i, y, left);
      if (w) written(w, v_keep(y, left));
    }
  }
}

static void rows_layer(int64_t rows, int64_t n, int32_t centered, const float* x, const float* gamma, const float* beta, float epsilon, float* out,
                       float* range) {
  const vf zero = v_set(0.0f);
  Written w = {zero, zero, zero};
  int64_t i = 0;
  for (; i + kLayerRows <= rows; i += kLayerRows) layer_abreast<kLayerRows>(n, centered, x + i * n, gamma, beta, epsilon, out + i * n, range ? &w : nullptr);
  for (; i < rows; i++) layer_abreast<1>(n, centered, x + i * n, gamma, beta, epsilon, out + i * n, range ? &w : nullptr);
  if (!range) return;
  const float bad = v_sum(w.bad), lowest = -v_top(v_neg(w.lowest)), highest = v_top(w.highest);
  if (bad != bad) {
    range[0] = range[1] = NAN;
    return;
  }
  range[0] = lowest < range[0] ? lowest : range[0];
  range[1] = highest > range[1] ? highest : range[1];
}

static void install_vector(whittle::NormKernels* t) {
  *t = {row_softmax, rows_softmax, rows_scale, rows_layer, row_sum, row_squares, row_abs, row_top, row_bottom};
}
