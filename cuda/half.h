// Floats of 16 bits in memory, as cpu/quantize/scalar.cpp has them: widened exactly, narrowed to nearest even.
#pragma once
#include <type_traits>

#include "core/quantize.h"
#include "cuda/device.h"

namespace whittle {

template <FloatType kType>
__device__ float load(const void* x, uint32_t i) {
  if (kType == kFloat32) return static_cast<const float*>(x)[i];
  const uint32_t h = static_cast<const uint16_t*>(x)[i];
  if (kType == kBfloat16) return __uint_as_float(h << 16);
  const uint32_t sign = (h & 0x8000u) << 16, exponent = h >> 10 & 31, fraction = h & 0x3ffu;
  if (exponent == 31) return __uint_as_float(sign | 0x7f800000u | fraction << 13);
  if (exponent) return __uint_as_float(sign | (exponent + 112) << 23 | fraction << 13);
  return __uint_as_float(sign | __float_as_uint(__fmul_rn(static_cast<float>(fraction), 0x1p-24f)));
}

template <FloatType kType>
__device__ void store(void* y, uint32_t i, float v) {
  const uint32_t b = __float_as_uint(v);
  if (kType == kFloat32) {
    static_cast<float*>(y)[i] = v;
  } else if (kType == kBfloat16) {
    static_cast<uint16_t*>(y)[i] = static_cast<uint16_t>((b + 0x7fffu + (b >> 16 & 1)) >> 16);
  } else {
    const uint32_t sign = b >> 16 & 0x8000u, a = b & 0x7fffffffu;
    const uint32_t h = a >= 0x477ff000u   ? 0x7c00u
                       : a >= 0x38800000u ? (a - 0x38000000u + 0xfffu + (a >> 13 & 1)) >> 13
                                          : __float_as_uint(__fadd_rn(__uint_as_float(a), 0.5f)) - 0x3f000000u;
    static_cast<uint16_t*>(y)[i] = static_cast<uint16_t>(sign | h);
  }
}

// Calls body with the element type as a constant.
template <class Body>
void by_type(FloatType type, const Body& body) {
  if (type == kFloat16) body(std::integral_constant<FloatType, kFloat16>());
  else if (type == kBfloat16) body(std::integral_constant<FloatType, kBfloat16>());
  else body(std::integral_constant<FloatType, kFloat32>());
}

}  // namespace whittle
