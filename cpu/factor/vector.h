// The factor kernels once, over the operations of cpu/common/lanes_<isa>.h.
// hals takes four rows at a time: their sums over the old x share its loads, then each row's step corrects the sums of
// the rows after it. Columns go two vectors at a time, a tail by one partial vector. g lies in the nearest caches.
#pragma once
#define WHITTLE_ISA_FILE
#include <float.h>

#include "core/factor.h"

#define kRows 4

// kVectors vectors of columns from x, or the first `part` columns where part > 0.
template <int kVectors>
static inline void hals_columns(int64_t rank, int64_t part, const float* g, const float* b, int64_t b_row, float* x, int64_t x_row) {
  const vf zero = v_set(0.0f);
  for (int64_t j = 0; j < rank; j += kRows) {
    const int64_t rows = rank - j < kRows ? rank - j : kRows;
    vf rest[kRows][kVectors];
    for (int r = 0; r < kRows; r++)
      for (int v = 0; v < kVectors; v++) {
        const float* from = b + (j + (r < rows ? r : 0)) * b_row + v * VF_LANES;
        rest[r][v] = part ? v_load_part(from, part, zero) : v_load(from);
      }
    const float* g0 = g + j * rank;
    const float* g1 = g + (j + (rows > 1 ? 1 : 0)) * rank;
    const float* g2 = g + (j + (rows > 2 ? 2 : 0)) * rank;
    const float* g3 = g + (j + (rows > 3 ? 3 : 0)) * rank;
    for (int64_t k = 0; k < rank; k++) {
      const vf a0 = v_set(g0[k]), a1 = v_set(g1[k]), a2 = v_set(g2[k]), a3 = v_set(g3[k]);
      for (int v = 0; v < kVectors; v++) {
        const float* from = x + k * x_row + v * VF_LANES;
        const vf y = part ? v_load_part(from, part, zero) : v_load(from);
        rest[0][v] = v_fnma(a0, y, rest[0][v]);
        rest[1][v] = v_fnma(a1, y, rest[1][v]);
        rest[2][v] = v_fnma(a2, y, rest[2][v]);
        rest[3][v] = v_fnma(a3, y, rest[3][v]);
      }
    }
    for (int64_t r = 0; r < rows; r++) {
      const float own = g[(j + r) * rank + j + r];
      if (!(own > 0)) continue;
      const vf inverse = v_set(1.0f / own);
      for (int v = 0; v < kVectors; v++) {
        float* at = x + (j + r) * x_row + v * VF_LANES;
        const vf old = part ? v_load_part(at, part, zero) : v_load(at);
        // v_max(a, x) answers x where x is NaN: nothing is hidden.
        const vf next = v_max(zero, v_fma(rest[r][v], inverse, old));
        if (part) v_store_part(at, next, part);
        else v_store(at, next);
        const vf moved = v_sub(next, old);
        for (int64_t s = r + 1; s < rows; s++) rest[s][v] = v_fnma(v_set(g[(j + s) * rank + j + r]), moved, rest[s][v]);
      }
    }
  }
}

static void hals_simd(int64_t rank, int64_t cols, const float* g, const float* b, int64_t b_row, float* x, int64_t x_row) {
  int64_t c = 0;
  for (; c + 2 * VF_LANES <= cols; c += 2 * VF_LANES) hals_columns<2>(rank, 0, g, b + c, b_row, x + c, x_row);
  if (c + VF_LANES <= cols) {
    hals_columns<1>(rank, 0, g, b + c, b_row, x + c, x_row);
    c += VF_LANES;
  }
  if (c < cols) hals_columns<1>(rank, cols - c, g, b + c, b_row, x + c, x_row);
}

static void ratio_simd(int64_t n, const float* num, const float* den, float* x) {
  const vf least = v_set(FLT_MIN), zero = v_set(0.0f);
  for (int64_t i = 0; i < n; i += VF_LANES) {
    const int64_t k = n - i < VF_LANES ? n - i : VF_LANES;
    const bool part = k < VF_LANES;
    const vf a = part ? v_load_part(num + i, k, zero) : v_load(num + i), d = part ? v_load_part(den + i, k, zero) : v_load(den + i);
    const vf y = part ? v_load_part(x + i, k, zero) : v_load(x + i);
    const vf next = v_select(v_less(d, least), zero, v_mul(y, v_div(a, d)));
    if (part) v_store_part(x + i, next, k);
    else v_store(x + i, next);
  }
}

static double squares_simd(int64_t n, const float* x) {
  double sum = 0;
  for (int64_t at = 0; at < n; at += 512) {
    const int64_t size = n - at < 512 ? n - at : 512;
    vf acc = v_set(0.0f);
    for (int64_t i = 0; i < size; i += VF_LANES) {
      const vf v = size - i < VF_LANES ? v_load_part(x + at + i, size - i, v_set(0.0f)) : v_load(x + at + i);
      acc = v_fma(v, v, acc);
    }
    sum += v_sum(acc);
  }
  return sum;
}

static void mul64_simd(int64_t n, const double* a, const double* b, double* out) {
  int64_t i = 0;
  for (; i + VD_LANES <= n; i += VD_LANES) d_store(out + i, d_mul(d_load(a + i), d_load(b + i)));
  if (i < n) d_store_part(out + i, d_mul(d_load_part(a + i, n - i), d_load_part(b + i, n - i)), n - i);
}

static void fma64_simd(int64_t n, const double* a, const double* b, double* out) {
  int64_t i = 0;
  for (; i + VD_LANES <= n; i += VD_LANES) d_store(out + i, d_fma(d_load(a + i), d_load(b + i), d_load(out + i)));
  if (i < n)
    d_store_part(out + i, d_fma(d_load_part(a + i, n - i), d_load_part(b + i, n - i), d_load_part(out + i, n - i)), n - i);
}

static void install_simd(whittle::FactorKernels* t) {
  t->hals = hals_simd;
  t->ratio = ratio_simd;
  t->squares = squares_simd;
  t->mul64 = mul64_simd;
  t->fma64 = fma64_simd;
}
