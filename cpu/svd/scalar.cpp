// Dense float64 kernels, plain loops: the definition of right.
#define WHITTLE_ISA_FILE
#include "core/svd.h"

using namespace whittle;

static const int kMr = 4, kNr = 4;

static void tile(int64_t k, const double* a, const double* b, double alpha, bool add, int64_t rows, int64_t cols, double* c,
                 int64_t ldc) {
  double acc[kMr][kNr] = {};
  for (int64_t p = 0; p < k; p++)
    for (int i = 0; i < kMr; i++)
      for (int j = 0; j < kNr; j++) acc[i][j] += a[p * kMr + i] * b[p * kNr + j];
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < cols; j++) c[i * ldc + j] = alpha * acc[i][j] + (add ? c[i * ldc + j] : 0);
}

static double dot(int64_t n, const double* x, const double* y) {
  double s = 0;
  for (int64_t i = 0; i < n; i++) s += x[i] * y[i];
  return s;
}

static double squares(int64_t n, const float* x) {
  double s = 0;
  for (int64_t i = 0; i < n; i++) s += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return s;
}

static void axpy(int64_t n, double alpha, const double* x, double* y) {
  for (int64_t i = 0; i < n; i++) y[i] += alpha * x[i];
}

static void gemv(int64_t rows, int64_t cols, const double* a, int64_t lda, const double* x, double alpha, double* y) {
  for (int64_t i = 0; i < rows; i++) y[i] += alpha * dot(cols, a + i * lda, x);
}

static void gemv_t(int64_t rows, int64_t cols, const double* a, int64_t lda, const double* x, double alpha, double* y) {
  for (int64_t i = 0; i < rows; i++) axpy(cols, alpha * x[i], a + i * lda, y);
}

static void symv(int64_t begin, int64_t end, const double* a, int64_t lda, const double* x, double* y) {
  for (int64_t i = begin; i < end; i++) {
    const double* row = a + i * lda;
    double s = row[i] * x[i];
    for (int64_t j = 0; j < i; j++) {
      s += row[j] * x[j];
      y[j] += row[j] * x[i];
    }
    y[i] += s;
  }
}

static void rotate(int64_t n, double c, double s, double* x, double* y) {
  for (int64_t i = 0; i < n; i++) {
    const double t = c * x[i] + s * y[i];
    y[i] = c * y[i] - s * x[i];
    x[i] = t;
  }
}

static void poles(int64_t n, const double* gap, const double* z2, double tau, double* sums) {
  double f = 0, d = 0;
  for (int64_t j = 0; j < n; j++) {
    const double r = 1 / (gap[j] - tau), t = z2[j] * r;
    f += t;
    d += t * r;
  }
  sums[0] = f;
  sums[1] = d;
}

static void panel(int64_t rows, int64_t cols, const float* a, int64_t lda, const float* k, bool add, float* y) {
  for (int64_t i = 0; i < rows; i++, y += kSvdPanel) {
    for (int64_t c = 0; c < kSvdPanel && !add; c++) y[c] = 0;
    for (int64_t j = 0; j < cols; j++)
      for (int64_t c = 0; c < kSvdPanel; c++) y[c] += a[i * lda + j] * k[j * kSvdPanel + c];
  }
}

static void panel_t(int64_t rows, int64_t cols, const float* a, int64_t lda, const float* y, float* w) {
  for (int64_t i = 0; i < rows; i++, y += kSvdPanel)
    for (int64_t j = 0; j < cols; j++)
      for (int64_t c = 0; c < kSvdPanel; c++) w[j * kSvdPanel + c] += a[i * lda + j] * y[c];
}

extern "C" void svd_install_scalar(SvdKernels* t) {
  t->mr = kMr;
  t->nr = kNr;
  t->tile = tile;
  t->gemv = gemv;
  t->gemv_t = gemv_t;
  t->symv = symv;
  t->dot = dot;
  t->squares = squares;
  t->axpy = axpy;
  t->rotate = rotate;
  t->poles = poles;
  t->panel = panel;
  t->panel_t = panel_t;
}
