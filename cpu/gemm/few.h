// The end of `narrow` and `pairs`, written once: rows of 16 sums to C. Plain C, shared by the float32 files of all ISAs.
#pragma once
#include "core/gemm.h"

// `sums` holds 16 for each of `rows` rows of y from row j on: one of each row of x, or where `pairs` two that belong together.
#if defined(__GNUC__)
__attribute__((noinline))
#endif
static void put_few(const whittle::GemmDot* d, int64_t j, int64_t rows, const float* sums, bool pairs) {
  for (int64_t r = 0; r < rows; r++, sums += 16)
    for (int64_t i = 0; i < d->few; i++) {
      const float v = d->alpha * (pairs ? sums[2 * i] + sums[2 * i + 1] : sums[i]);
      float* c = d->c + i * d->c_i + (j + r) * d->c_j;
      *c = d->beta != 0 ? v + d->beta * *c : v;
    }
}
