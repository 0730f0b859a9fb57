// Transpositions of bytes on AVX-512.
#pragma once
#include <immintrin.h>
#include <stdint.h>

namespace whittle {
namespace {

// Sixteen rows of sixteen bytes transposed in each lane: four rounds of a perfect shuffle.
static inline void turn_lanes(__m512i* r) {
  __m512i t[16];
#pragma GCC unroll 4
  for (int round = 0; round < 2; round++) {
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
      t[2 * i] = _mm512_unpacklo_epi8(r[i], r[i + 8]);
      t[2 * i + 1] = _mm512_unpackhi_epi8(r[i], r[i + 8]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
      r[2 * i] = _mm512_unpacklo_epi8(t[i], t[i + 8]);
      r[2 * i + 1] = _mm512_unpackhi_epi8(t[i], t[i + 8]);
    }
  }
}

// 64 lines of 64 bytes transposed: line(j) answers one, store(l, j, v) takes line 16 l + j of the result.
template <class Line, class Store>
static inline void turn_square(const Line& line, const Store& store) {
  alignas(64) uint8_t near[64 * 64];
  for (int u = 0; u < 4; u++) {
    __m512i r[16];
#pragma GCC unroll 16
    for (int j = 0; j < 16; j++) r[j] = line(u * 16 + j);
    turn_lanes(r);
#pragma GCC unroll 16
    for (int j = 0; j < 16; j++) _mm512_store_si512(near + (u * 16 + j) * 64, r[j]);
  }
  for (int j = 0; j < 16; j++) {
    const auto at = [&](int u) { return _mm512_load_si512(near + (u * 16 + j) * 64); };
    const __m512i a = _mm512_shuffle_i64x2(at(0), at(1), 0x44), b = _mm512_shuffle_i64x2(at(2), at(3), 0x44);
    const __m512i c = _mm512_shuffle_i64x2(at(0), at(1), 0xee), d = _mm512_shuffle_i64x2(at(2), at(3), 0xee);
    store(0, j, _mm512_shuffle_i64x2(a, b, 0x88));
    store(1, j, _mm512_shuffle_i64x2(a, b, 0xdd));
    store(2, j, _mm512_shuffle_i64x2(c, d, 0x88));
    store(3, j, _mm512_shuffle_i64x2(c, d, 0xdd));
  }
}

}  // namespace
}  // namespace whittle
