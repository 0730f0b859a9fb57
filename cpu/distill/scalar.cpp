// Distillation kernels, the reference: double precision inside, one rounding at the end, libm's exp and log.
// Layout: rows are contiguous. Trick: none. Limit: none beyond memory.
#include <float.h>
#include <math.h>
#include <string.h>

#define WHITTLE_ISA_FILE
#include "core/distill.h"

namespace whittle {
namespace {

bool finite(float x) { return fabsf(x) <= FLT_MAX; }

bool soft_sums_scalar(const float* x, int64_t n, float inv_t, SoftSums* sums) {
  float max = sums->max;
  for (int64_t i = 0; i < n; i++) {
    if (!finite(x[i])) return false;
    if (x[i] > max) max = x[i];
  }
  double sum = sums->sum * exp((double(sums->max) - max) * inv_t);
  for (int64_t i = 0; i < n; i++) sum += exp((double(x[i]) - max) * inv_t);
  sums->max = max;
  sums->sum = sum;
  return true;
}

bool pair_sums_scalar(const float* s, const float* t, int64_t n, float inv_t, PairSums* sums) {
  float s_max = sums->s_max, t_max = sums->t_max;
  for (int64_t i = 0; i < n; i++) {
    if (!finite(s[i]) || !finite(t[i])) return false;
    if (s[i] > s_max) s_max = s[i];
    if (t[i] > t_max) t_max = t[i];
  }
  // What was summed against the old maxima moves to the new ones; before the first element there is nothing to move.
  double s_sum = 0, t_sum = 0, cross = 0;
  if (sums->s_sum > 0) {
    const double ds = (double(sums->s_max) - s_max) * inv_t, dt = (double(sums->t_max) - t_max) * inv_t;
    s_sum = sums->s_sum * exp(ds);
    t_sum = sums->t_sum * exp(dt);
    cross = exp(dt) * (sums->cross + sums->t_sum * (dt - ds));
  }
  for (int64_t i = 0; i < n; i++) {
    const double ds = (double(s[i]) - s_max) * inv_t, dt = (double(t[i]) - t_max) * inv_t, e = exp(dt);
    s_sum += exp(ds);
    t_sum += e;
    cross += e * (dt - ds);
  }
  *sums = {s_max, t_max, s_sum, t_sum, cross};
  return true;
}

void pair_grad_scalar(const float* s, const float* t, int64_t n, float inv_t, float s_max, float t_max, float a, float b,
                      float* g) {
  for (int64_t i = 0; i < n; i++)
    g[i] = float(a * exp((double(s[i]) - s_max) * inv_t) - b * exp((double(t[i]) - t_max) * inv_t));
}

void pair_terms_scalar(const float* s, const float* t, int64_t n, float inv_t, float s_max, float t_max, float s_log,
                       float t_log, float k, float* out) {
  for (int64_t i = 0; i < n; i++) {
    const double lp = (double(t[i]) - t_max) * inv_t - t_log, lq = (double(s[i]) - s_max) * inv_t - s_log;
    out[i] = float(k * exp(lp) * (lp - lq));
  }
}

void soft_grad_scalar(const float* x, int64_t n, float inv_t, float max, float a, const float* w, float k, bool add, float* g) {
  for (int64_t i = 0; i < n; i++) {
    const double v = a * exp((double(x[i]) - max) * inv_t) - double(k) * (w ? w[i] : 1.0f);
    g[i] = float(add ? g[i] + v : v);
  }
}

double soft_dot_scalar(const float* x, int64_t n, float max, const float* w) {
  double sum = 0;
  for (int64_t i = 0; i < n; i++) sum += (w ? w[i] : 1.0) * (double(x[i]) - max);
  return sum;
}

// log(q/m), m = (p+q)/2, for q > 0: as log1p where q and p nearly agree, as a difference where q is far below p and
// (q-p)/(q+p) would round to -1.
double log_share(double q, double p) {
  const double d = (q - p) / (q + p);
  return fabs(d) < 0.5 ? log1p(d) : log(q) + 0.69314718055994530942 - log(p + q);
}

void js_sums_scalar(const float* s, const float* t, int64_t n, float inv_t, float s_max, float t_max, float s_scale,
                    float t_scale, double* q_log, double* p_log) {
  double a = 0, b = 0;
  for (int64_t i = 0; i < n; i++) {
    const double q = s_scale * exp((double(s[i]) - s_max) * inv_t), p = t_scale * exp((double(t[i]) - t_max) * inv_t);
    if (q > 0) a += q * log_share(q, p);
    if (p > 0) b += p * log_share(p, q);
  }
  *q_log = a;
  *p_log = b;
}

void js_grad_scalar(const float* s, const float* t, int64_t n, float inv_t, float s_max, float t_max, float s_scale,
                    float t_scale, float centre, float k, float* g) {
  for (int64_t i = 0; i < n; i++) {
    const double q = s_scale * exp((double(s[i]) - s_max) * inv_t), p = t_scale * exp((double(t[i]) - t_max) * inv_t);
    g[i] = q > 0 ? float(k * q * (log_share(q, p) - centre)) : 0;
  }
}

void mix_scalar(const float* x, int64_t n, float inv_t, float max, float k, bool add, float* p) {
  for (int64_t i = 0; i < n; i++) {
    const double v = k * exp((double(x[i]) - max) * inv_t);
    p[i] = float(add ? p[i] + v : v);
  }
}

double mix_grad_scalar(const float* p, const float* s, int64_t n, float inv_t, float max, float log_sum, float k,
                       float term_scale, float* terms, float* g) {
  double sum = 0;
  for (int64_t i = 0; i < n; i++) {
    const double lq = (double(s[i]) - max) * inv_t - log_sum, v = p[i] > 0 ? p[i] * (log(double(p[i])) - lq) : 0;
    sum += v;
    if (terms) terms[i] = float(term_scale * v);
    g[i] = float(k * (exp(lq) - p[i]));
  }
  return sum;
}

double squared_error_scalar(const float* s, const float* t, int64_t n, float k, float* g) {
  double sum = 0;
  for (int64_t i = 0; i < n; i++) {
    const double d = double(s[i]) - t[i];
    sum += d * d;
    g[i] = float(k * d);
  }
  return sum;
}

double power_of(double x, int32_t power) {
  double y = 1;
  for (int32_t i = 0; i < power; i++) y *= x;
  return y;
}

void attention_map_scalar(const float* a, int64_t channels, int64_t n, int32_t power, float* q) {
  for (int64_t i = 0; i < n; i++) {
    double sum = 0;
    for (int64_t c = 0; c < channels; c++) sum += power_of(fabs(double(a[c * n + i])), power);
    q[i] = float(sum);
  }
}

void attention_grad_scalar(const float* a, int64_t channels, int64_t n, int32_t power, const float* dq, float* g) {
  for (int64_t c = 0; c < channels; c++)
    for (int64_t i = 0; i < n; i++) {
      const double x = a[c * n + i], v = power * power_of(fabs(x), power - 1) * dq[i];
      g[c * n + i] = float(x > 0 ? v : x < 0 ? -v : 0);
    }
}

void matmul64_scalar(int64_t m, int64_t n, int64_t k, const double* a, int64_t lda, const double* b, int64_t b_row,
                     int64_t b_column, double* c, int64_t ldc, bool add) {
  for (int64_t i = 0; i < m; i++)
    for (int64_t j = 0; j < n; j++) {
      double sum = add ? c[i * ldc + j] : 0;
      for (int64_t l = 0; l < k; l++) sum += a[i * lda + l] * b[l * b_row + j * b_column];
      c[i * ldc + j] = sum;
    }
}

void widen_scalar(const uint16_t* x, int64_t n, float* out) {
  for (int64_t i = 0; i < n; i++) {
    const uint32_t bits = uint32_t(x[i]) << 16;
    memcpy(out + i, &bits, sizeof bits);
  }
}

double clip(double x, double delta) { return x > delta ? delta : x < -delta ? -delta : x; }

void distance_row_scalar(double* g, const double* diagonal, double g_ii, int64_t n, double* sums) {
  double total = 0, count = 0;
  for (int64_t j = 0; j < n; j++) {
    const double size = g_ii + diagonal[j], square = size - 2 * g[j], d = square > size * 0x1p-48 ? sqrt(square) : 0;
    g[j] = d;
    total += d;
    count += d > 0;
  }
  sums[0] = total;
  sums[1] = count;
}

void huber_row_scalar(const double* s, const double* t, int64_t n, double fs, double ft, double delta, double* sums) {
  double loss = 0, by_scale = 0;
  for (int64_t j = 0; j < n; j++) {
    const double a = s[j] * fs, e = a - t[j] * ft, h = clip(e, delta);
    loss += h * (e - 0.5 * h);
    by_scale += h * a;
  }
  sums[0] = loss;
  sums[1] = by_scale;
}

double distance_pull_scalar(const double* s, const double* t, int64_t n, double fs, double ft, double delta, double shift, double k,
                            float* m) {
  double total = 0;
  for (int64_t j = 0; j < n; j++) {
    const double w = s[j] > 0 ? k * (clip(s[j] * fs - t[j] * ft, delta) - shift) / s[j] : 0;
    m[j] = float(-w);
    total += w;
  }
  return total;
}

void gap_row_scalar(const float* s, const float* t, int64_t n, double fs, double ft, double* sums) {
  double square = 0, along = 0;
  for (int64_t j = 0; j < n; j++) {
    const double a = s[j] * fs, e = a - t[j] * ft;
    square += e * e;
    along += e * a;
  }
  sums[0] = square;
  sums[1] = along;
}

double series_row_scalar(float* s, const float* t, int64_t n, const double* factors, int32_t order, double base, double k) {
  double sum = 0;
  for (int64_t j = 0; j < n; j++) {
    double value = 1, slope = 0, other = 1;
    for (int32_t p = order - 1; p >= 0; p--) {
      slope = factors[p] * (value + s[j] * slope);
      value = 1 + factors[p] * s[j] * value;
      other = 1 + factors[p] * t[j] * other;
    }
    const double d = base * (value - other);
    sum += d * d;
    s[j] = float(k * d * base * slope);
  }
  return sum;
}
double square_sum_scalar(const float* x, int64_t n) {
  double sum = 0;
  for (int64_t j = 0; j < n; j++) sum += double(x[j]) * x[j];
  return sum;
}

void blend_row_scalar(const float* s, const float* t, int64_t n, double fs, double ft, float* out) {
  for (int64_t j = 0; j < n; j++) out[j] = float(fs * s[j] + ft * t[j]);
}

void angle_row_scalar(const AngleRow* r, int64_t n, double* p, AngleSums* sums) {
  double loss = 0, cosine = 0, pull = 0;
  for (int64_t k = 0; k < n; k++) {
    const double s = (r->gs_j[k] - (r->gs_i[k] + r->qs)) * r->rs_i[k] * r->rs_ij;
    const double t = (r->gt_j[k] - (r->gt_i[k] + r->qt)) * r->rt_i[k] * r->rt_ij;
    const double d = s - t, h = d > r->delta ? r->delta : d < -r->delta ? -r->delta : d;
    const double w = h * r->rs_i[k];
    loss += h * (d - 0.5 * h);
    cosine += h * s;
    pull += w;
    p[k] += w * r->rs_ij;
  }
  *sums = {loss, cosine, pull};
}

}  // namespace
}  // namespace whittle

extern "C" void distill_install_scalar(whittle::DistillKernels* t) {
  using namespace whittle;
  t->soft_sums = soft_sums_scalar;
  t->pair_sums = pair_sums_scalar;
  t->pair_grad = pair_grad_scalar;
  t->pair_terms = pair_terms_scalar;
  t->soft_grad = soft_grad_scalar;
  t->soft_dot = soft_dot_scalar;
  t->js_sums = js_sums_scalar;
  t->js_grad = js_grad_scalar;
  t->mix = mix_scalar;
  t->mix_grad = mix_grad_scalar;
  t->squared_error = squared_error_scalar;
  t->attention_map = attention_map_scalar;
  t->attention_grad = attention_grad_scalar;
  t->matmul64 = matmul64_scalar;
  t->widen = widen_scalar;
  t->distance_row = distance_row_scalar;
  t->huber_row = huber_row_scalar;
  t->distance_pull = distance_pull_scalar;
  t->gap_row = gap_row_scalar;
  t->series_row = series_row_scalar;
  t->square_sum = square_sum_scalar;
  t->blend_row = blend_row_scalar;
  t->angle_row = angle_row_scalar;
}
