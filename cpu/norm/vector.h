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

static void row_layer(int64_t n, const float* x, const float* gamma, const float* beta, float epsilon, float* out) {
  const float mean = row_sum(n, x) / (float)n;
  const vf center = v_set(mean);
  const float variance = v_sum(square_all(n, x, center)) / (float)n;
  const vf r = v_set(1.0f / sqrtf(variance + epsilon)), one = v_set(1.0f), zero = v_set(0.0f);
  int64_t i = 0;
  for (; i + VF_LANES <= n; i += VF_LANES) {
    const vf y = v_mul(v_sub(v_load(x + i), center), r);
    v_store(out + i, v_fma(y, gamma ? v_load(gamma + i) : one, beta ? v_load(beta + i) : zero));
  }
  if (i < n) {
    const int64_t left = n - i;
    const vf y = v_mul(v_sub(v_load_part(x + i, left, zero), center), r);
    v_store_part(out + i, v_fma(y, gamma ? v_load_part(gamma + i, left, one) : one, beta ? v_load_part(beta + i, left, zero) : zero), left);
  }
}

static void install_vector(whittle::NormKernels* t) {
  *t = {row_softmax, row_layer, row_sum, row_squares, row_abs, row_top, row_bottom};
}
