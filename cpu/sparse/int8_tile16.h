// The tile of sparse int8 products over 16-bit values, one source for vectors of 8 and 16 sums: a row of a strip is one vector of
// 16-bit values, two rows interleave to pairs, a multiply-add of pairs meets two weights broadcast. Weights are widened a
// chunk at a time. T: a vector type with its operations (see int8_avx2.cpp); T::kWidest: most rows at a time.
#pragma once
#include "cpu/sparse/int8_x86.h"

namespace whittle {
namespace {

enum { kChunk = 32 };  // bundles widened together

// Sixteen columns.
template <int kMost>
struct Ymm {
  typedef __m256i Vec;
  enum { kLanes = 8, kWidest = kMost };
  static inline Vec set(int32_t v) { return _mm256_set1_epi32(v); }
  static inline Vec load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
  static inline void store(void* p, Vec v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
  static inline Vec low(Vec a, Vec b) { return _mm256_unpacklo_epi16(a, b); }
  static inline Vec high(Vec a, Vec b) { return _mm256_unpackhi_epi16(a, b); }
  static inline Vec madd(Vec a, Vec b) { return _mm256_madd_epi16(a, b); }
  static inline Vec add(Vec a, Vec b) { return _mm256_add_epi32(a, b); }
};

static inline void widen_weights(const int8_t* from, int64_t n, int16_t* to) {
  for (int64_t i = 0; i < n; i += 16)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i), _mm256_cvtepi8_epi16(load16(from + i)));
}

// R rows of a group against `count` bundles; weights `stride` apart from bundle to bundle.
template <class T, int R, bool A>
static void rows(int64_t count, const uint16_t* index, const int16_t* w, int64_t stride, const int16_t* x, int32_t* acc, const int32_t* start) {
  typedef typename T::Vec Vec;
  enum { kColumns = 2 * T::kLanes };
  Vec sum[R][2];
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 2
    for (int v = 0; v < 2; v++) sum[r][v] = start ? T::set(start[r]) : T::load(acc + r * kColumns + v * T::kLanes);
  for (int64_t b = 0; b < count; b++, w += stride) {
    const int16_t* from[4];
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) from[c] = x + (A ? static_cast<size_t>(index[0]) * 4 + static_cast<size_t>(c) : static_cast<size_t>(index[c])) * kColumns;
    index += A ? 1 : 4;
#pragma GCC unroll 2
    for (int p = 0; p < 2; p++) {
      const Vec a = T::load(from[2 * p]), z = T::load(from[2 * p + 1]);
      const Vec lo = T::low(a, z), hi = T::high(a, z);
#pragma GCC unroll 16
      for (int r = 0; r < R; r++) {
        const Vec pair = T::set(load_word(w + r * 4 + p * 2));
        sum[r][0] = T::add(sum[r][0], T::madd(lo, pair));
        sum[r][1] = T::add(sum[r][1], T::madd(hi, pair));
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 2
    for (int v = 0; v < 2; v++) T::store(acc + r * kColumns + v * T::kLanes, sum[r][v]);
}

template <class T, bool A>
static void tile_of(const SparseInt8Tile* t) {
  enum { kColumns = 2 * T::kLanes };
  const int64_t height = t->height, part = height < T::kWidest ? height : (int64_t)T::kWidest;
  const auto fn = part == 1 ? rows<T, 1, A> : part == 2 ? rows<T, 2, A> : part == 4 ? rows<T, 4, A> : rows<T, T::kWidest, A>;
  const uint16_t* index = t->index;
  const int8_t* values = t->values;
  const int16_t* x = static_cast<const int16_t*>(t->x);
  int16_t wide[kChunk * 64 + 16];
  for (int64_t g = 0; g < t->groups; g++) {
    int32_t* acc = t->acc + t->runs[g].group * height * kColumns;
    const int32_t* start = t->start ? t->start + t->runs[g].group * height : nullptr;
    int64_t left = t->runs[g].count;
    do {
      const int64_t now = left < kChunk ? left : (int64_t)kChunk;
      widen_weights(values, now * height * 4, wide);
      for (int64_t r = 0; r < height; r += part) fn(now, index, wide + r * 4, height * 4, x, acc + r * kColumns, start ? start + r : nullptr);
      start = nullptr;
      index += now * (A ? 1 : 4);
      values += now * height * 4;
      left -= now;
    } while (left > 0);
  }
}

}  // namespace
}  // namespace whittle
