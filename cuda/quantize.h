// What kernels that quantize share: where the elements of a scale lie, and how values are rounded to codes.
#pragma once
#include "cuda/backend.h"

namespace whittle {

// Where the elements of a scale lie, in 32 bits: divisions by 64 would cost more than the memory.
struct Geometry {
  uint32_t size, axis, inner, block, blocks, outer;
  uint32_t scales;
  bool whole;  // one scale for all
};

inline Geometry geometry(const QuantizeShape& s) {
  Geometry g;
  g.size = static_cast<uint32_t>(s.size());
  g.outer = static_cast<uint32_t>(s.outer);
  g.axis = static_cast<uint32_t>(s.axis);
  g.inner = static_cast<uint32_t>(s.inner);
  g.block = static_cast<uint32_t>(s.block);
  g.blocks = static_cast<uint32_t>(s.blocks());
  g.scales = static_cast<uint32_t>(s.scales());
  g.whole = !s.block && s.axis == 1;
  return g;
}

__device__ inline uint32_t scale_of(const Geometry& g, uint32_t element) {
  if (g.whole) return 0;
  const uint32_t row = element / g.inner, a = row % g.axis;
  if (!g.block) return a;
  return (row / g.axis * g.blocks + a / g.block) * g.inner + element % g.inner;
}

struct CodeForm {
  int32_t bits, sign, qmin, qmax, rounding;
  uint32_t key0, key1;
};

__device__ inline bool finite(float v) { return (__float_as_uint(v) & 0x7f800000u) != 0x7f800000u; }

__device__ inline uint32_t mix(uint32_t h) {
  h ^= h >> 16;
  h *= 0x7feb352du;
  h ^= h >> 15;
  h *= 0x846ca68bu;
  return h ^ h >> 16;
}

__device__ inline int32_t rounded(float v, const CodeForm& f, uint32_t index) {
  if (f.rounding == kNearestEven) return __float2int_rn(v);
  int32_t i = __float2int_rz(v);
  if (f.rounding == kStochastic) {
    const uint32_t h = mix(mix(index * 0x9e3779b9u + f.key0) ^ f.key1);
    i -= static_cast<float>(i) > v;
    i += __fmul_rn(static_cast<float>(static_cast<int32_t>(h >> 8)), 0x1p-24f) < v - static_cast<float>(i);
  }
  return i;
}

inline CodeForm form(const QuantizeOptions& o) {
  return {o.code.bits, o.code.sign, o.qmin, o.qmax, o.rounding, o.key0, o.key1};
}

inline bool fits(const QuantizeShape& s) {
  return s.outer >= 0 && s.axis >= 0 && s.inner >= 0 && s.size() <= kMostElements && s.scales() <= kMostElements;
}

constexpr uint32_t kMostUnits = 1 << 16; // beyond as many warps or blocks a device is full

// Pieces to cut each scale's `members` into.
inline uint32_t slices_for(uint32_t members, uint32_t each, uint32_t scales) {
  const uint32_t wanted = (members + each - 1) / each, room = kMostUnits / (scales ? scales : 1);
  return wanted < 1 || room < 1 ? 1 : wanted < room ? wanted : room;
}

}  // namespace whittle
