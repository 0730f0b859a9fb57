// The reference of factor: sums in double, rounded once.
#include <float.h>
#include <math.h>

#include "core/factor.h"

namespace whittle {
namespace {

void hals(int64_t rank, int64_t cols, const float* g, const float* b, int64_t b_row, float* x, int64_t x_row) {
  for (int64_t j = 0; j < rank; j++) {
    const float* gj = g + j * rank;
    if (!(gj[j] > 0)) continue;
    for (int64_t c = 0; c < cols; c++) {
      double rest = b[j * b_row + c];
      for (int64_t k = 0; k < rank; k++) rest -= static_cast<double>(gj[k]) * x[k * x_row + c];
      const float next = static_cast<float>(x[j * x_row + c] + rest / gj[j]);
      x[j * x_row + c] = next > 0 ? next : 0;
    }
  }
}

void ratio(int64_t n, const float* num, const float* den, float* x) {
  for (int64_t i = 0; i < n; i++) x[i] = den[i] >= FLT_MIN ? x[i] * (num[i] / den[i]) : 0;
}

double squares(int64_t n, const float* x) {
  double sum = 0;
  for (int64_t i = 0; i < n; i++) sum += static_cast<double>(x[i]) * x[i];
  return sum;
}

void mul64(int64_t n, const double* a, const double* b, double* out) {
  for (int64_t i = 0; i < n; i++) out[i] = a[i] * b[i];
}

void fma64(int64_t n, const double* a, const double* b, double* out) {
  for (int64_t i = 0; i < n; i++) out[i] = fma(a[i], b[i], out[i]);
}

}  // namespace
}  // namespace whittle

extern "C" void factor_install_scalar(whittle::FactorKernels* t) {
  t->hals = whittle::hals;
  t->ratio = whittle::ratio;
  t->squares = whittle::squares;
  t->mul64 = whittle::mul64;
  t->fma64 = whittle::fma64;
}
