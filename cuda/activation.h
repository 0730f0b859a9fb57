// The activations of cpu/gemm/activation_math.h on a GPU: the same source over the same operations on one float, so that codes
// of products have the CPU's bits. Multiply-adds are fused where it says so and nowhere else.
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "core/activation.h"
#include "cuda/device.h"

namespace whittle {
namespace {
#define inline __device__ inline
#include "cpu/common/vector_scalar.h"

// As cpu/gemm/int8_epilogue.h has it.
static inline vf v_quotient(vf x) {
  const vf y = v_seed(x), r = v_fnma(x, y, v_set(1.0f)), z = v_fma(y, v_fma(r, r, r), y);
  return v_fma(z, v_fnma(x, z, v_set(1.0f)), z);
}
#define v_inverse v_quotient
#include "cpu/gemm/activation_math.h"
#undef v_inverse
#undef inline
}  // namespace
}  // namespace whittle
