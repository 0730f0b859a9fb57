// One rectangle of a float32 product, along each of the ways to compute it: gemm.cpp chooses and cuts, gemm_paths.cpp computes.
#pragma once
#include "core/gemm.h"

namespace whittle {

enum class GemmPath { empty, packed, direct, dot_rows, dot_cols, narrow_rows, narrow_cols, axpy_row, axpy_col };

constexpr int64_t kGemmSmallB = 16 << 10;  // floats of a row-major B that stays in L2 where it lies

struct GemmRect {
  int64_t row, rows, col, cols;
};

// One matrix of the batch, ready to be computed.
struct GemmMatrix {
  const GemmProblem* g;
  const GemmEngine* e;
  const float *a, *b, *source;
  float* c;
};

inline int64_t gemm_ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Piece `index` of `pieces` equal ones of [0, count), cut at multiples of unit.
inline void gemm_piece(int64_t count, int64_t unit, int64_t pieces, int64_t index, int64_t* begin, int64_t* length) {
  const int64_t units = gemm_ceil_div(count, unit), end = units * (index + 1) / pieces * unit;
  *begin = units * index / pieces * unit;
  if (*begin > count) *begin = count;
  *length = (end < count ? end : count) - *begin;
}

// False where scratch memory is short.
bool gemm_run_path(GemmPath path, const GemmMatrix& m, const GemmRect& r);

}  // namespace whittle
