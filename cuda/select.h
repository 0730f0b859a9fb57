// What kernels that score weights share: terms of a sum, and keys in the order of the floats.
#pragma once
#include "cuda/backend.h"

namespace whittle {

__device__ inline double select_term(int norm, double x, double g) {
  if (norm == kSelectSum) return x;
  if (norm == kSelectL2 || norm == kSelectSquare) return x * x;
  if (norm == kSelectSensitivity) return fabs(g * x);
  if (norm == kSelectTaylor) return g * x;
  return fabs(x);
}

__device__ inline double select_join(int norm, double sum, double t) {
  if (norm != kSelectMax) return sum + t;
  return t > sum || t != t ? t : sum;
}

// The score of a whole group.
__device__ inline float select_finish(int norm, double sum) {
  return static_cast<float>(norm == kSelectL2 ? sqrt(sum) : norm == kSelectTaylor ? sum * sum : sum);
}

__device__ inline uint32_t select_key_of(float x) {
  const uint32_t u = __float_as_uint(__fadd_rn(x, 0.f));  // -0 becomes +0
  return u & 0x80000000u ? ~u : u | 0x80000000u;
}

}  // namespace whittle
