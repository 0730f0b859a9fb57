// Sums of four products at a time: vpdpbusd on vectors of X and four weights of a row, which every lane meets.
#pragma once
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

namespace whittle {
namespace {

// In this form: left to itself g++ 12 copies accumulators.
static inline int32_t four_weights(const void* p) {
  int32_t v;
  memcpy(&v, p, 4);
  return v;
}

static inline void meet(__m512i& sum, __m512i x, __m512i w) {
#if defined(__GNUC__)
  __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(w));
#else
  sum = _mm512_dpbusd_epi32(sum, x, w);
#endif
}
// Four weights for every lane, straight from memory.
static inline void meet_word(__m512i& sum, __m512i x, const int8_t* w) {
#if defined(__GNUC__)
  __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(x), "m"(*reinterpret_cast<const int8_t(*)[4]>(w)));
#else
  sum = _mm512_dpbusd_epi32(sum, x, _mm512_set1_epi32(four_weights(w)));
#endif
}

// Two rows of four vectors at once: operand by operand g++ 12 copies sums around.
static inline void meet_rows(__m512i* sum, __m512i* other, const __m512i* v, const int8_t* w) {
#if defined(__GNUC__)
  __m512i a, b;
  __asm__("vpbroadcastd %14, %8\n\tvpbroadcastd %15, %9\n\t"
          "vpdpbusd %8, %10, %0\n\tvpdpbusd %8, %11, %1\n\tvpdpbusd %8, %12, %2\n\tvpdpbusd %8, %13, %3\n\t"
          "vpdpbusd %9, %10, %4\n\tvpdpbusd %9, %11, %5\n\tvpdpbusd %9, %12, %6\n\tvpdpbusd %9, %13, %7"
          : "+v"(sum[0]), "+v"(sum[1]), "+v"(sum[2]), "+v"(sum[3]), "+v"(other[0]), "+v"(other[1]), "+v"(other[2]), "+v"(other[3]), "=&v"(a), "=&v"(b)
          : "v"(v[0]), "v"(v[1]), "v"(v[2]), "v"(v[3]), "m"(*reinterpret_cast<const int8_t(*)[4]>(w)), "m"(*reinterpret_cast<const int8_t(*)[4]>(w + 4)));
#else
  for (int r = 0; r < 2; r++)
    for (int u = 0; u < 4; u++) meet(r == 0 ? sum[u] : other[u], v[u], _mm512_set1_epi32(four_weights(w + r * 4)));
#endif
}

// One row of aligned bundles, 64 columns of X.
static inline void row_sums(int64_t count, const uint16_t* index, const int8_t* values, const uint8_t* x, __m512i* sum) {
  int64_t b = 0;
  if (count >= 8) {
    __m512i other[4];
#pragma GCC unroll 4
    for (int u = 0; u < 4; u++) other[u] = _mm512_setzero_si512();
    for (; b + 2 <= count; b += 2) {
      const uint8_t *from = x + index[b] * size_t(256), *next = x + index[b + 1] * size_t(256);
      const __m512i w = _mm512_set1_epi32(four_weights(values + b * 4)), z = _mm512_set1_epi32(four_weights(values + b * 4 + 4));
#pragma GCC unroll 4
      for (int u = 0; u < 4; u++) meet(sum[u], _mm512_loadu_si512(from + u * 64), w);
#pragma GCC unroll 4
      for (int u = 0; u < 4; u++) meet(other[u], _mm512_loadu_si512(next + u * 64), z);
    }
#pragma GCC unroll 4
    for (int u = 0; u < 4; u++) sum[u] = _mm512_add_epi32(sum[u], other[u]);
  }
  for (; b < count; b++) {
    const uint8_t* from = x + index[b] * size_t(256);
    const __m512i w = _mm512_set1_epi32(four_weights(values + b * 4));
#pragma GCC unroll 4
    for (int u = 0; u < 4; u++) meet(sum[u], _mm512_loadu_si512(from + u * 64), w);
  }
}

}  // namespace
}  // namespace whittle
