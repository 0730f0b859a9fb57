// What follows exact 32-bit sums of bytes, to the CPU's bit (core/gemm_int8.h): shared by dense and sparse weights.
#pragma once
#include "cuda/activation.h"
#include "cuda/backend.h"

namespace whittle {

// A column's share: where sums start, its zero point among signed bytes, its scale and bias. Aligned, so that it is read at once.
struct alignas(16) Column {
  int32_t offset, zero;
  float scale, bias;
};

struct Epilogue {
  uint32_t m, n, columns, k;
  bool a_signed, b_unsigned;
  int32_t a_zero, b_zero;
  const uint8_t* b_zeros;
  float a_scale, b_scale;
  const float* b_scales;
  const int32_t* bias_int;
  const float* bias_float;
  Activation activation;
  int32_t out_type;
  float out_scale;
  int32_t out_zero;
};

// Fills the `e.n` columns from the sums of their weights, and raises kFlagSum, kFlagScale and kFlagNonfinite.
void int8_columns(Work& work, const Epilogue& e, const int32_t* sums, Column* out);

// Rows of `row` signed bytes (a multiple of 16), `all` of them: out[r][p] = w[r][p], or w[p][r] unless by_rows, less 128 where
// `flip`; 0 beyond `rows` and k.
void int8_rows(Work& work, const uint8_t* w, bool flip, bool by_rows, int64_t k, int64_t rows, int64_t all, int64_t row, int8_t* out);

namespace {

// Writes element t of the result, a float or a code.
__device__ inline void put_float(int32_t out_type, float out_scale, int32_t out_zero, float x, void* y, uint64_t t) {
  if (out_type == kOutFloat32) {
    static_cast<float*>(y)[t] = x;
    return;
  }
  const int32_t least = out_type == kOutInt8 ? -128 : 0;
  // A bound is an integer, so clamping first gives what rounding first would; NaN cannot come out of finite numbers.
  const float low = static_cast<float>(least - out_zero), high = static_cast<float>(least + 255 - out_zero);
  static_cast<uint8_t*>(y)[t] = static_cast<uint8_t>(__float2int_rn(v_min(high, v_max(low, __fdiv_rn(x, out_scale)))) + out_zero);
}

// The same of a sum.
__device__ inline void put_sum(const Epilogue& e, const Column& c, int32_t sum, void* y, uint64_t t) {
  if (e.out_type == kOutInt32) {
    static_cast<int32_t*>(y)[t] = sum;
    return;
  }
  const float x = __fadd_rn(__fmul_rn(static_cast<float>(sum), c.scale), c.bias);
  put_float(e.out_type, e.out_scale, e.out_zero, act_apply(x, e.activation.kind, e.activation.lo, e.activation.hi), y, t);
}

}  // namespace
}  // namespace whittle
