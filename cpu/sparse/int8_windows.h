// Strips of windows over images from pixels that are turned already: every vector of sixteen columns is put together from those
// stretches of rows of an image that it covers. AVX-512.
#pragma once
#include <immintrin.h>

#include "core/sparse_int8.h"

namespace whittle {
namespace {

// P parts a vector, those that are not there without lanes.
template <int P>
static void window_unit(const uint8_t* from, int64_t pitch, int64_t bundles, const SparseInt8Part* parts, int32_t count, __m512i outside, uint8_t* to, int64_t step) {
  __mmask16 lanes[P];
  const uint8_t* at[P];
#pragma GCC unroll 4
  for (int p = 0; p < P; p++) {
    lanes[p] = p < count ? parts[p].lanes : 0;
    at[p] = from + (p < count ? parts[p].from : 0) * int64_t(4);
  }
  for (int64_t b = 0; b < bundles; b++, to += step) {
    __m512i v = outside;
#pragma GCC unroll 4
    for (int p = 0; p < P; p++) v = _mm512_mask_loadu_epi32(v, lanes[p], at[p] + b * pitch * 4);
    _mm512_storeu_si512(to, v);
  }
}

static void window_parts(const uint8_t* from, int64_t pitch, int64_t bundles, const SparseInt8Part* parts, int32_t count, __m512i outside, uint8_t* to, int64_t step) {
  for (int64_t b = 0; b < bundles; b++, to += step, from += pitch * 4) {
    __m512i v = outside;
    for (int32_t p = 0; p < count; p++) v = _mm512_mask_loadu_epi32(v, parts[p].lanes, from + parts[p].from * int64_t(4));
    _mm512_storeu_si512(to, v);
  }
}

static void windows(const SparseInt8Windows* w) {
  const __m512i outside = _mm512_set1_epi8(static_cast<char>(w->outside));
  const int64_t step = w->units * int64_t(64);
  for (int64_t b = w->begin; b < w->end;) {
    const int64_t tap = b / w->bundles, channel = b % w->bundles, now = (tap + 1) * w->bundles < w->end ? w->bundles - channel : w->end - b;
    const uint8_t* from = w->turned + channel * w->pitch * 4;
    for (int64_t u = 0; u < w->units; u++) {
      const SparseInt8Part* parts = w->parts + (tap * w->units + u) * kSparseUnit;
      const int32_t count = w->counts[tap * w->units + u];
      const auto fn = count <= 1 ? window_unit<1> : count == 2 ? window_unit<2> : count <= 4 ? window_unit<4> : window_parts;
      fn(from, w->pitch, now, parts, count, outside, w->out + b * step + u * 64, step);
    }
    b += now;
  }
}

}  // namespace
}  // namespace whittle
