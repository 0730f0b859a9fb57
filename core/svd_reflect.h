// Householder reflections H_i = I - tau_i v_i v_i^T, and products of them as I - V T V^T with the v's as rows.
#pragma once
#include "core/svd_dense.h"

namespace whittle {

constexpr int64_t kReflectBlock = 64;  // most reflections in a block

// x becomes v with v[0] = 1, so that (I - tau v v^T) x = beta e_0. Answers tau, 0 where x is on the axis already.
double reflect(const SvdKernels& kernels, int64_t n, double* x, double* beta);

// Rows of Z (count x len, ldz) times H_0 H_1 ... H_(width - 1), or times its transpose (the reverse order). V is width x len,
// rows ldv apart, zeros before each first element. `work` holds (2 count + 2 kReflectBlock) * kReflectBlock doubles.
WhittleStatus apply_block(bool transpose, int64_t width, int64_t len, const double* v, int64_t ldv, const double* tau,
                          int64_t count, double* z, int64_t ldz, double* work, int threads);

}  // namespace whittle
