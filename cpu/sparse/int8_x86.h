// Preparation of X for sparse int8 products on x86, and a transposition of sums. Sixteen columns at a time in 128-bit registers.
// A row of a strip lies in groups of four columns in an order that undoes what the kernel's interleaving of rows does to them.
// The including file defines ROW_BYTES (of sixteen columns) and STORE_ROW(pointer, __m128i bytes, is_signed).
#pragma once
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "core/sparse_int8.h"

namespace whittle {
namespace {

static inline __m128i load16(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
static inline int32_t load_word(const void* p) {
  int32_t v;
  memcpy(&v, p, 4);
  return v;
}

// Sixteen rows of sixteen bytes transposed: four rounds of a perfect shuffle.
static inline void turn_bytes(__m128i* r) {
  __m128i t[16];
#pragma GCC unroll 4
  for (int round = 0; round < 2; round++) {
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
      t[2 * i] = _mm_unpacklo_epi8(r[i], r[i + 8]);
      t[2 * i + 1] = _mm_unpackhi_epi8(r[i], r[i + 8]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
      r[2 * i] = _mm_unpacklo_epi8(t[i], t[i + 8]);
      r[2 * i + 1] = _mm_unpackhi_epi8(t[i], t[i + 8]);
    }
  }
}

// Rows by themselves; order[g]: the group of columns at place g.
static inline void pack_rows(const SparseInt8Pack* p, const uint8_t* order) {
  const int64_t units = p->units, columns = p->columns;
  uint8_t* out = static_cast<uint8_t*>(p->out);
  if (!p->transposed) {
    const bool whole = columns == units * 16;
    uint8_t row[64] = {0};
    for (int64_t i = 0; i < p->k; i++, out += units * ROW_BYTES) {
      const uint8_t* from = p->x + i * p->stride;
      if (!whole) {
        memcpy(row, from, static_cast<size_t>(columns));
        from = row;
      }
      for (int64_t u = 0; u < units; u++) {
        const uint8_t* o = order + u * 4;
        const __m128i v = _mm_set_epi32(load_word(from + o[3] * 4), load_word(from + o[2] * 4), load_word(from + o[1] * 4), load_word(from + o[0] * 4));
        STORE_ROW(out + u * ROW_BYTES, v, p->is_signed);
      }
    }
  } else {
    for (int64_t i = 0; i < p->k; i += 16, out += 16 * units * ROW_BYTES)
      for (int64_t u = 0; u < units; u++) {
        __m128i r[16];
        const int64_t now = p->k - i < 16 ? p->k - i : 16;
        if (now == 16 && columns == units * 16) {
          const uint8_t* from = p->x + i;
          const uint8_t* o = order + u * 4;
          const int64_t s = p->stride;
#pragma GCC unroll 4
          for (int j = 0; j < 4; j++) {
            const uint8_t* four = from + o[j] * 4 * s;
            r[4 * j] = load16(four);
            r[4 * j + 1] = load16(four + s);
            r[4 * j + 2] = load16(four + 2 * s);
            r[4 * j + 3] = load16(four + 3 * s);
          }
          turn_bytes(r);
#pragma GCC unroll 16
          for (int j = 0; j < 16; j++) STORE_ROW(out + (j * units + u) * ROW_BYTES, r[j], p->is_signed);
          continue;
        }
        for (int64_t j = 0; j < 16; j++) {
          const int64_t column = order[u * 4 + j / 4] * 4 + j % 4;
          const uint8_t* from = p->x + column * p->stride + i;
          uint8_t part[16] = {0};
          if (column >= columns) {
            r[j] = _mm_setzero_si128();
          } else if (now == 16) {
            r[j] = load16(from);
          } else {
            memcpy(part, from, static_cast<size_t>(now));
            r[j] = load16(part);
          }
        }
        turn_bytes(r);
        for (int64_t j = 0; j < now; j++) STORE_ROW(out + (j * units + u) * ROW_BYTES, r[j], p->is_signed);
      }
    out = static_cast<uint8_t*>(p->out) + p->k * units * ROW_BYTES;
  }
  memset(out, 0, static_cast<size_t>((p->padded - p->k) * units * ROW_BYTES));
}

// A step's 128 bytes so that lane l of its first 64 bytes are x[32 l, + 16) and of the second x[32 l + 16, + 16): sixteen values
// choose within one lane of each, the first eight in the first, the others in the second.
static inline void spread_lanes(const uint8_t* x, int64_t k, bool is_signed, int64_t steps, uint8_t* out) {
  const __m128i flip = _mm_set1_epi8(is_signed ? static_cast<char>(0x80) : 0);
  for (int64_t i = 0; i < steps * 8; i++) {
    const int64_t left = k - i * 16;
    uint8_t part[16] = {0};
    if (left > 0 && left < 16) memcpy(part, x + i * 16, static_cast<size_t>(left));
    const __m128i v = left >= 16 ? load16(x + i * 16) : load16(part);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i / 8 * 128 + i % 2 * 64 + i % 8 / 2 * 16), _mm_xor_si128(v, flip));
  }
}

#if defined(__AVX512F__)
// Four words of sixteen rows to sixteen words of four: quarters of rows meet while they are loaded, whole lines are written.
static inline void turn_lines(const uint8_t* from, int64_t from_stride, uint8_t* to, int64_t to_stride, __m512i flip) {
  __m512i r[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    const uint8_t* p = from + i * from_stride;
    r[i] = _mm512_castsi128_si512(load16(p));
    r[i] = _mm512_inserti32x4(r[i], load16(p + 4 * from_stride), 1);
    r[i] = _mm512_inserti32x4(r[i], load16(p + 8 * from_stride), 2);
    r[i] = _mm512_inserti32x4(r[i], load16(p + 12 * from_stride), 3);
  }
  const __m512i a = _mm512_unpacklo_epi32(r[0], r[1]), b = _mm512_unpackhi_epi32(r[0], r[1]);
  const __m512i c = _mm512_unpacklo_epi32(r[2], r[3]), d = _mm512_unpackhi_epi32(r[2], r[3]);
  _mm512_storeu_si512(to, _mm512_xor_si512(_mm512_unpacklo_epi64(a, c), flip));
  _mm512_storeu_si512(to + to_stride, _mm512_xor_si512(_mm512_unpackhi_epi64(a, c), flip));
  _mm512_storeu_si512(to + 2 * to_stride, _mm512_xor_si512(_mm512_unpacklo_epi64(b, d), flip));
  _mm512_storeu_si512(to + 3 * to_stride, _mm512_xor_si512(_mm512_unpackhi_epi64(b, d), flip));
}
#endif

// The same for eight rows.
static inline void turn_halves(const int32_t* from, int64_t from_stride, int32_t* to, int64_t to_stride) {
  __m256i r[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++)
    r[i] = _mm256_inserti128_si256(_mm256_castsi128_si256(load16(from + i * from_stride)), load16(from + (i + 4) * from_stride), 1);
  const __m256i a = _mm256_unpacklo_epi32(r[0], r[1]), b = _mm256_unpackhi_epi32(r[0], r[1]);
  const __m256i c = _mm256_unpacklo_epi32(r[2], r[3]), d = _mm256_unpackhi_epi32(r[2], r[3]);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_unpacklo_epi64(a, c));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + to_stride), _mm256_unpackhi_epi64(a, c));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 2 * to_stride), _mm256_unpacklo_epi64(b, d));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 3 * to_stride), _mm256_unpackhi_epi64(b, d));
}

// Multiples of 8 rows and columns. Four lines of out at a time, each written to its end: where its rows lie a multiple of 4 KB
// apart, eight of them share a set of the cache, and halves of lines written in turn went through memory twice.
static inline void turn_words(const int32_t* acc, int64_t rows, int64_t stride, int64_t columns, int32_t* out, int64_t out_stride) {
  for (int64_t j = 0; j < columns; j += 4) {
    int64_t i = 0;
#if defined(__AVX512F__)
    for (; i + 16 <= rows; i += 16)
      turn_lines(reinterpret_cast<const uint8_t*>(acc + i * stride + j), stride * 4, reinterpret_cast<uint8_t*>(out + j * out_stride + i), out_stride * 4,
                 _mm512_setzero_si512());
#endif
    for (; i < rows; i += 8) turn_halves(acc + i * stride + j, stride, out + j * out_stride + i, out_stride);
  }
}

}  // namespace
}  // namespace whittle
