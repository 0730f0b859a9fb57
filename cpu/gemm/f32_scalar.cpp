// float32 products in plain loops: the reference and the portable fallback. Register tile 4 x 8, which compilers turn
// into whatever vectors the baseline has. Accumulates in float32, one product after the other, without fused steps.
#define WHITTLE_ISA_FILE
#include "core/gemm.h"
#include "cpu/gemm/activation_scalar.h"

using namespace whittle;

static const int64_t kMr = 4, kNr = 8;

static inline float clip(float x, float lo, float hi) {
  x = lo > x ? lo : x;
  return hi < x ? hi : x;
}

static void pack_a(int64_t rows, int64_t k, const float* a, int64_t row, int64_t col, float* out) {
  for (int64_t i = 0; i < rows; i++)
    for (int64_t p = 0; p < k; p++) out[i * kGemmRowStride + p] = a[i * row + p * col];
}

static void pack_b(int64_t k, int64_t cols, const float* b, int64_t row, int64_t col, float* out, int64_t panel) {
  for (int64_t q = 0; q < cols; q += kNr, out += panel) {
    float* to = out;
    const int64_t width = cols - q < kNr ? cols - q : kNr;
    for (int64_t p = 0; p < k; p++, to += kNr) {
      for (int64_t j = 0; j < width; j++) to[j] = b[p * row + (q + j) * col];
      for (int64_t j = width; j < kNr; j++) to[j] = 0;
    }
  }
}

// Accumulates rows x width of one panel; a full tile has constant trip counts.
static inline void accumulate(int64_t rows, int64_t width, int64_t k, const float* a, int64_t a_row, const float* b,
                              int64_t b_row, float acc[4][8]) {
  for (int64_t i = 0; i < kMr; i++)
    for (int64_t j = 0; j < kNr; j++) acc[i][j] = 0;
  if (rows == kMr && width == kNr) {
    for (int64_t p = 0; p < k; p++)
      for (int64_t i = 0; i < kMr; i++)
        for (int64_t j = 0; j < kNr; j++) acc[i][j] += a[i * a_row + p] * b[p * b_row + j];
    return;
  }
  for (int64_t p = 0; p < k; p++)
    for (int64_t i = 0; i < rows; i++)
      for (int64_t j = 0; j < width; j++) acc[i][j] += a[i * a_row + p] * b[p * b_row + j];
}

static void tile(const GemmTile* t) {
  for (int64_t j0 = 0, q = 0; j0 < t->cols; j0 += kNr, q++) {
    const int64_t width = t->cols - j0 < kNr ? t->cols - j0 : kNr;
    for (int64_t i0 = 0; i0 < t->rows; i0 += kMr) {
      const int64_t rows = t->rows - i0 < kMr ? t->rows - i0 : kMr;
      float acc[4][8];
      accumulate(rows, width, t->k, t->a + i0 * t->a_row, t->a_row, t->b + q * t->b_panel, t->b_row, acc);
      for (int64_t i = 0; i < rows; i++) {
        float* c = t->c + (i0 + i) * t->ldc + j0;
        for (int64_t j = 0; j < width; j++) {
          float v = t->alpha * acc[i][j];
          if (t->beta != 0) v += t->beta * c[j];
          if (t->bias) v += t->bias[j0 + j];
          c[j] = clip(v, t->lo, t->hi);
        }
      }
    }
  }
}

static void dot(const GemmDot* d) {
  for (int64_t j = 0; j < d->many; j++)
    for (int64_t i = 0; i < d->few; i++) {
      const float* x = d->x + i * d->x_row;
      const float* y = d->y + j * d->y_row;
      float sum = 0;
      for (int64_t p = 0; p < d->k; p++) sum += x[p] * y[p];
      float* c = d->c + i * d->c_i + j * d->c_j;
      const float v = d->alpha * sum;
      *c = d->beta != 0 ? v + d->beta * *c : v;
    }
}

static void narrow(const GemmDot* d) {
  for (int64_t j = 0; j < d->many; j++) {
    float sum[kGemmNarrow] = {0};
    for (int64_t p = 0; p < d->k; p++)
      for (int64_t i = 0; i < kGemmNarrow; i++) sum[i] += d->x[p * kGemmNarrow + i] * d->y[j * d->y_row + p];
    for (int64_t i = 0; i < d->few; i++) {
      float* c = d->c + i * d->c_i + j * d->c_j;
      const float v = d->alpha * sum[i];
      *c = d->beta != 0 ? v + d->beta * *c : v;
    }
  }
}

static void axpy(const GemmAxpy* g) {
  for (int64_t j = 0; j < g->cols; j++) g->y[j] = 0;
  for (int64_t p = 0; p < g->k; p++)
    for (int64_t j = 0; j < g->cols; j++) g->y[j] += g->x[p] * g->b[p * g->b_row + j];
}

static void finish(int64_t rows, int64_t cols, float* c, int64_t ldc, const float* bias, const Activation* act) {
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < cols; j++) {
      const float x = c[i * ldc + j];
      c[i * ldc + j] = act_apply_scalar(bias ? x + bias[j] : x, act->kind, act->lo, act->hi);
    }
}

extern "C" void gemm_install_scalar(GemmKernels* t) {
  t->mr = static_cast<int32_t>(kMr);
  t->nr = static_cast<int32_t>(kNr);
  t->pack_a = pack_a;
  t->pack_b = pack_b;
  t->tile = tile;
  t->dot = dot;
  t->narrow = narrow;
  t->axpy = axpy;
  t->finish = finish;
}
