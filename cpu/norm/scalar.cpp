// The reference: sums in double.
#include <math.h>

#define WHITTLE_ISA_FILE
#include "core/norm.h"

namespace {

float top(int64_t n, const float* x) {
  float m = -INFINITY;
  for (int64_t i = 0; i < n; i++) m = x[i] > m || x[i] != x[i] ? x[i] : m;
  return m;
}

float bottom(int64_t n, const float* x) {
  float m = INFINITY;
  for (int64_t i = 0; i < n; i++) m = x[i] < m || x[i] != x[i] ? x[i] : m;
  return m;
}

void softmax(int64_t n, const float* x, int32_t log_, float* out) {
  const double m = top(n, x);
  double sum = 0;
  for (int64_t i = 0; i < n; i++) sum += exp(x[i] - m);
  const double l = log(sum);
  for (int64_t i = 0; i < n; i++) out[i] = static_cast<float>(log_ ? (x[i] - m) - l : exp(x[i] - m) / sum);
}

void softmax_rows(int64_t rows, int64_t n, float* x, int64_t stride, float* factors) {
  for (int64_t i = 0; i < rows; i++, x += stride) {
    if (!factors) {
      softmax(n, x, 0, x);
      continue;
    }
    const double m = top(n, x);
    double sum = 0;
    for (int64_t j = 0; j < n; j++) {
      const double e = exp(x[j] - m);
      sum += e;
      x[j] = static_cast<float>(e);
    }
    factors[i] = static_cast<float>(1 / sum);
  }
}

void scale_rows(int64_t rows, int64_t n, float* x, int64_t stride, const float* factors) {
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < n; j++) x[i * stride + j] *= factors[i];
}

void layer_row(int64_t n, int32_t centered, const float* x, const float* gamma, const float* beta, float epsilon, float* out) {
  double mean = 0, variance = 0;
  for (int64_t i = 0; i < n && centered; i++) mean += x[i];
  mean /= static_cast<double>(n);
  for (int64_t i = 0; i < n; i++) variance += (x[i] - mean) * (x[i] - mean);
  const double r = 1 / sqrt(variance / static_cast<double>(n) + epsilon);
  for (int64_t i = 0; i < n; i++) out[i] = static_cast<float>((x[i] - mean) * r * (gamma ? gamma[i] : 1.0) + (beta ? beta[i] : 0.0));
}

void layer(int64_t rows, int64_t n, int32_t centered, const float* x, const float* gamma, const float* beta, float epsilon, float* out,
           float* range) {
  for (int64_t i = 0; i < rows; i++) layer_row(n, centered, x + i * n, gamma, beta, epsilon, out + i * n);
  if (!range) return;
  for (int64_t i = 0; i < rows * n; i++) {
    if (!(fabsf(out[i]) < INFINITY)) {
      range[0] = range[1] = NAN;
      return;
    }
    range[0] = out[i] < range[0] ? out[i] : range[0];
    range[1] = out[i] > range[1] ? out[i] : range[1];
  }
}

float sum(int64_t n, const float* x) {
  double s = 0;
  for (int64_t i = 0; i < n; i++) s += x[i];
  return static_cast<float>(s);
}

float sum_squares(int64_t n, const float* x) {
  double s = 0;
  for (int64_t i = 0; i < n; i++) s += static_cast<double>(x[i]) * x[i];
  return static_cast<float>(s);
}

float sum_abs(int64_t n, const float* x) {
  double s = 0;
  for (int64_t i = 0; i < n; i++) s += fabs(x[i]);
  return static_cast<float>(s);
}

}  // namespace

extern "C" void norm_install_scalar(whittle::NormKernels* t) { *t = {softmax, softmax_rows, scale_rows, layer, sum, sum_squares, sum_abs, top, bottom}; }
