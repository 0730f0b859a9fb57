// Sparse int8 on vpdpbusd: a bundle of four rows of X, interleaved to [column][4] (in memory if bundles are aligned, else by
// eight unpacks of four 64-byte rows), meets four weights of each row as one broadcast. Signed X is turned to unsigned by its
// top bit. One column: a vector of weights is 16 / height bundles; each lane's four bytes of x are put together by broadcasts
// of unaligned words that hold the wanted byte in its place. Nothing saturates: vpdpbusd adds in 32 bits.
#include <immintrin.h>

#define WHITTLE_ISA_FILE
#include "cpu/sparse/int8_finish.h"

#define ROW_BYTES 16
#define STORE_ROW(p, v, is_signed) \
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_xor_si128(v, _mm_set1_epi8((is_signed) ? static_cast<char>(0x80) : 0)))
#include "cpu/sparse/int8_heights.h"
#include "cpu/sparse/int8_codes.h"
#include "cpu/sparse/int8_windows.h"
#include "cpu/sparse/int8_x86.h"

namespace whittle {
namespace {

const uint8_t kOrder1[4] = {0, 1, 2, 3};
const uint8_t kOrder2[8] = {0, 4, 2, 6, 1, 5, 3, 7};
const uint8_t kOrder4[16] = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};

// [k / 4][column][4]
void pack_aligned(const SparseInt8Pack* p) {
  const int64_t units = p->units, columns = p->columns;
  const __m128i flip = _mm_set1_epi8(p->is_signed ? static_cast<char>(0x80) : 0);
  uint8_t* out = static_cast<uint8_t*>(p->out);
  if (!p->transposed) {
    for (int64_t i = 0; i < p->padded; i += 4)
      for (int64_t u = 0; u < units; u++, out += 64) {
        __m128i r[4];
        const int64_t left = columns - u * 16;
        for (int64_t j = 0; j < 4; j++) {
          const uint8_t* from = p->x + (i + j) * p->stride + u * 16;
          uint8_t part[16] = {0};
          if (i + j >= p->k || left <= 0) {
            r[j] = _mm_setzero_si128();
          } else if (left >= 16) {
            r[j] = load16(from);
          } else {
            memcpy(part, from, static_cast<size_t>(left));
            r[j] = load16(part);
          }
        }
        const __m128i a = _mm_unpacklo_epi8(r[0], r[1]), b = _mm_unpackhi_epi8(r[0], r[1]);
        const __m128i c = _mm_unpacklo_epi8(r[2], r[3]), d = _mm_unpackhi_epi8(r[2], r[3]);
        const __m128i v[4] = {_mm_unpacklo_epi16(a, c), _mm_unpackhi_epi16(a, c), _mm_unpacklo_epi16(b, d), _mm_unpackhi_epi16(b, d)};
        for (int j = 0; j < 4; j++) _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 16 * j), _mm_xor_si128(v[j], flip));
      }
    return;
  }
  // Pieces of 16 columns and 64 rows, then what is left beside and below.
  const int64_t full = columns / 16 * 16, deep = p->k / 64 * 64, pitch = p->pitch ? p->pitch : units * 16;
  for (int64_t j = 0; j < full; j += 16)
    for (int64_t i = 0; i < deep; i += 64) {
      const uint8_t* from = p->x + j * p->stride + i;
      for (int64_t r = 0; r < 16; r++) _mm_prefetch(reinterpret_cast<const char*>(from + r * p->stride + 128), _MM_HINT_T0);
      uint8_t* to = out + (i / 4 * pitch + j) * 4;
#pragma GCC unroll 4
      for (int64_t q = 0; q < 4; q++) turn_lines(from + q * 16, p->stride, to + q * 16 * pitch, pitch * 4, _mm512_broadcast_i32x4(flip));
    }
  for (int64_t i = 0; i < p->padded; i += 16, out += 16 * pitch)
    for (int64_t m = i < deep ? full / 4 : 0; m < units * 4; m++) {
      __m128i r[4];
      const int64_t left = p->k - i;
      for (int64_t j = 0; j < 4; j++) {
        const uint8_t* from = p->x + (m * 4 + j) * p->stride + i;
        uint8_t part[16] = {0};
        if (m * 4 + j >= columns || left <= 0) {
          r[j] = _mm_setzero_si128();
        } else if (left >= 16) {
          r[j] = load16(from);
        } else {
          memcpy(part, from, static_cast<size_t>(left));
          r[j] = load16(part);
        }
      }
      const __m128i a = _mm_unpacklo_epi32(r[0], r[1]), b = _mm_unpackhi_epi32(r[0], r[1]);
      const __m128i c = _mm_unpacklo_epi32(r[2], r[3]), d = _mm_unpackhi_epi32(r[2], r[3]);
      const __m128i v[4] = {_mm_unpacklo_epi64(a, c), _mm_unpackhi_epi64(a, c), _mm_unpacklo_epi64(b, d), _mm_unpackhi_epi64(b, d)};
      for (int j = 0; j < 4; j++) _mm_storeu_si128(reinterpret_cast<__m128i*>(out + j * pitch * 4 + m * 16), _mm_xor_si128(v[j], flip));
    }
}

// Whole rows of 64 columns as they lie.
void pack_whole(const SparseInt8Pack* p) {
  const __m512i order = _mm512_cvtepu8_epi32(load16(kOrder4)), flip = _mm512_set1_epi8(p->is_signed ? static_cast<char>(0x80) : 0);
  uint8_t* out = static_cast<uint8_t*>(p->out);
  for (int64_t i = 0; i < p->k; i++)
    _mm512_storeu_si512(out + i * 64, _mm512_xor_si512(_mm512_permutexvar_epi32(order, _mm512_loadu_si512(p->x + i * p->stride)), flip));
  memset(out + p->k * 64, 0, static_cast<size_t>((p->padded - p->k) * 64));
}

// 64 columns of X that lie by themselves, 64 rows at a time: four blocks of 16 x 16 turn together, one in each lane, then
// lanes of the four groups of columns change places so that whole rows are stored.
void pack_turned(const SparseInt8Pack* p) {
  const __m512i flip = _mm512_set1_epi8(p->is_signed ? static_cast<char>(0x80) : 0);
  alignas(64) uint8_t near[4 * 16 * 64];
  uint8_t* out = static_cast<uint8_t*>(p->out);
  for (int64_t i = 0; i < p->k; i += 64, out += 64 * 64) {
    const __mmask64 some = p->k - i < 64 ? (__mmask64(1) << (p->k - i)) - 1 : ~__mmask64(0);
    for (int64_t u = 0; u < 4; u++) {
      __m512i r[16];
#pragma GCC unroll 16
      for (int j = 0; j < 16; j++) {
        const int64_t column = kOrder4[u * 4 + j / 4] * 4 + j % 4;
        // The next step's: sixty-four columns are more streams than the processor follows by itself.
        if (column < p->columns) _mm_prefetch(reinterpret_cast<const char*>(p->x + column * p->stride + i + 128), _MM_HINT_T0);
        r[j] = column < p->columns ? _mm512_maskz_loadu_epi8(some, p->x + column * p->stride + i) : _mm512_xor_si512(flip, flip);
      }
      turn_lanes(r);
#pragma GCC unroll 16
      for (int j = 0; j < 16; j++) _mm512_store_si512(near + (u * 16 + j) * 64, _mm512_xor_si512(r[j], flip));
    }
    const int64_t rows = p->k - i < 64 ? p->k - i : 64;
    for (int64_t j = 0; j < 16; j++) {
      const auto at = [&](int u) { return _mm512_load_si512(near + (u * 16 + j) * 64); };
      const __m512i a = _mm512_shuffle_i64x2(at(0), at(1), 0x44), b = _mm512_shuffle_i64x2(at(2), at(3), 0x44);
      const __m512i c = _mm512_shuffle_i64x2(at(0), at(1), 0xee), d = _mm512_shuffle_i64x2(at(2), at(3), 0xee);
      const __m512i rows_of[4] = {_mm512_shuffle_i64x2(a, b, 0x88), _mm512_shuffle_i64x2(a, b, 0xdd), _mm512_shuffle_i64x2(c, d, 0x88), _mm512_shuffle_i64x2(c, d, 0xdd)};
#pragma GCC unroll 4
      for (int l = 0; l < 4; l++)
        if (l * 16 + j < rows) _mm512_storeu_si512(out + (l * 16 + j) * 64, rows_of[l]);
    }
  }
  memset(static_cast<uint8_t*>(p->out) + p->k * 64, 0, static_cast<size_t>((p->padded - p->k) * 64));
}

void pack(const SparseInt8Pack* p) {
  if (p->aligned) pack_aligned(p);
  else if (p->units == 4 && p->transposed) pack_turned(p);
  else if (p->units == 4 && p->columns == 64 && !p->transposed) pack_whole(p);
  else pack_rows(p, p->units == 1 ? kOrder1 : p->units == 2 ? kOrder2 : kOrder4);
}

// Four rows of U * 16 bytes to [column][4].
template <int U>
static inline void interleave(const uint8_t* x, const uint16_t* index, __m512i* v) {
  // In 64 bits at once: an int would be extended by one more operation a row.
  const size_t wide = U * 16;
  const uint8_t *a = x + index[0] * wide, *b = x + index[1] * wide, *c = x + index[2] * wide, *d = x + index[3] * wide;
  if (U == 4) {
    const __m512i ra = _mm512_loadu_si512(a), rb = _mm512_loadu_si512(b), rc = _mm512_loadu_si512(c), rd = _mm512_loadu_si512(d);
    const __m512i p = _mm512_unpacklo_epi8(ra, rb), q = _mm512_unpackhi_epi8(ra, rb);
    const __m512i s = _mm512_unpacklo_epi8(rc, rd), t = _mm512_unpackhi_epi8(rc, rd);
    v[0] = _mm512_unpacklo_epi16(p, s);
    v[1 % U] = _mm512_unpackhi_epi16(p, s);
    v[2 % U] = _mm512_unpacklo_epi16(q, t);
    v[3 % U] = _mm512_unpackhi_epi16(q, t);
  } else if (U == 2) {
    const auto pair = [](const uint8_t* low, const uint8_t* high) {
      return _mm512_mask_broadcast_i64x4(_mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(low))), 0xf0,
                                         _mm256_loadu_si256(reinterpret_cast<const __m256i*>(high)));
    };
    const __m512i ac = pair(a, c), bd = pair(b, d);
    const __m512i p = _mm512_unpacklo_epi8(ac, bd), q = _mm512_unpackhi_epi8(ac, bd);
    const __m512i s = _mm512_shuffle_i64x2(p, q, 0x44), t = _mm512_shuffle_i64x2(p, q, 0xee);
    v[0] = _mm512_unpacklo_epi16(s, t);
    v[1 % U] = _mm512_unpackhi_epi16(s, t);
  } else {
    __m512i r = _mm512_castsi128_si512(load16(a));
    r = _mm512_mask_broadcast_i32x4(r, 0x00f0, load16(b));
    r = _mm512_mask_broadcast_i32x4(r, 0x0f00, load16(c));
    r = _mm512_mask_broadcast_i32x4(r, 0xf000, load16(d));
    const __m512i words = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i bytes = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    v[0] = _mm512_shuffle_epi8(_mm512_permutexvar_epi32(words, r), bytes);
  }
}

// R rows of one group; S sets of sums where few of them would leave the unit waiting.
template <int R, int U, bool A, int S>
static inline void rows(int64_t count, const uint16_t* index, const int8_t* values, int64_t stride, const uint8_t* x, int32_t* acc, const int32_t* start) {
  __m512i sum[S][R][U];
#pragma GCC unroll 16
  for (int s = 0; s < S; s++)
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
      for (int u = 0; u < U; u++) sum[s][r][u] = s > 0 ? _mm512_setzero_si512() : start ? _mm512_set1_epi32(start[r]) : _mm512_loadu_si512(acc + (r * U + u) * 16);
  int64_t b = 0;
  for (; b + S <= count; b += S)
#pragma GCC unroll 4
    for (int s = 0; s < S; s++, values += stride) {
      __m512i v[U];
      if (A) {
        const uint8_t* from = x + *index++ * static_cast<size_t>(U * 64);
#pragma GCC unroll 4
        for (int u = 0; u < U; u++) v[u] = _mm512_loadu_si512(from + u * 64);
      } else {
        interleave<U>(x, index, v);
        index += 4;
      }
      if (R == 4 && U == 4) {
        meet_rows(sum[s][0], sum[s][1 % R], v, values);
        meet_rows(sum[s][2 % R], sum[s][3 % R], v, values + 8);
        continue;
      }
#pragma GCC unroll 16
      for (int r = 0; r < R; r++) {
        if (U == 1) {
          meet_word(sum[s][r][0], v[0], values + r * 4);
          continue;
        }
        const __m512i w = _mm512_set1_epi32(load_word(values + r * 4));
#pragma GCC unroll 4
        for (int u = 0; u < U; u++) meet(sum[s][r][u], v[u], w);
      }
    }
  for (; S > 1 && b < count; b++, values += stride) {
    const uint8_t* from = x + *index++ * static_cast<size_t>(U * 64);
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
      for (int u = 0; u < U; u++)
        meet_word(sum[0][r][u], _mm512_loadu_si512(from + u * 64), values + r * 4);
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int u = 0; u < U; u++) {
      __m512i all = sum[0][r][u];
#pragma GCC unroll 4
      for (int s = 1; s < S; s++) all = _mm512_add_epi32(all, sum[s][r][u]);
      _mm512_storeu_si512(acc + (r * U + u) * 16, all);
    }
}

// All groups of a tile, R rows of each at a time.
template <int R, int U, bool A, int S>
static void groups_of(const SparseInt8Tile* t) {
  const int64_t height = t->height;
  const uint16_t* index = t->index;
  const int8_t* values = t->values;
  for (int64_t g = 0; g < t->groups; g++) {
    const int64_t count = t->runs[g].count, row = t->runs[g].group * height;
    for (int64_t r = 0; r < height; r += R)
      rows<R, U, A, S>(count, index, values + r * 4, height * 4, static_cast<const uint8_t*>(t->x), t->acc + (row + r) * (U * 16), t->start ? t->start + row + r : nullptr);
    index += count * (A ? 1 : 4);
    values += count * height * 4;
  }
}

// The same where several parts of a group share what is interleaved once.
template <int R, int U>
static void shared_groups_of(const SparseInt8Tile* t) {
  enum { kChunk = 32 };
  static const uint16_t kInOrder[kChunk] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15,
                                            16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31};
  alignas(64) uint8_t near[kChunk * U * 64];
  const int64_t height = t->height;
  const uint16_t* index = t->index;
  const int8_t* values = t->values;
  for (int64_t g = 0; g < t->groups; g++) {
    int32_t* acc = t->acc + t->runs[g].group * height * (U * 16);
    const int32_t* start = t->start ? t->start + t->runs[g].group * height : nullptr;
    int64_t left = t->runs[g].count;
    do {
      const int64_t now = left < kChunk ? left : (int64_t)kChunk;
      for (int64_t b = 0; b < now; b++, index += 4) {
        __m512i v[U];
        interleave<U>(static_cast<const uint8_t*>(t->x), index, v);
        for (int u = 0; u < U; u++) _mm512_store_si512(near + (b * U + u) * 64, v[u]);
      }
      for (int64_t r = 0; r < height; r += R)
        rows<R, U, true, 1>(now, kInOrder, values + r * 4, height * 4, near, acc + r * (U * 16), start ? start + r : nullptr);
      start = nullptr;
      values += now * height * 4;
      left -= now;
    } while (left > 0);
  }
}

template <int U, bool A>
static void tile_units(const SparseInt8Tile* t) {
  enum { kMost = 16 / U };
  const int64_t height = t->height, part = height < kMost ? height : (int64_t)kMost;
  if (!A && U > 1 && height > part) return part == 4 ? shared_groups_of<4, U>(t) : shared_groups_of<(kMost < 8 ? 4 : 8), U>(t);
  const auto fn = part == 1 ? groups_of<1, U, A, (A ? U < 4 ? 4 : 2 : 1)> : part == 2 ? groups_of<2, U, A, (A && U < 4 ? 2 : 1)> : part == 4 ? groups_of<4, U, A, (A && U == 1 ? 2 : 1)>
                  : part == 8 ? groups_of<(kMost < 8 ? 4 : 8), U, A, 1> : groups_of<(kMost < 16 ? 4 : 16), U, A, 1>;
  fn(t);
}

void tile(const SparseInt8Tile* t) {
  if (t->units == 4) (t->aligned ? tile_units<4, true> : tile_units<4, false>)(t);
  else if (t->units == 2) (t->aligned ? tile_units<2, true> : tile_units<2, false>)(t);
  else (t->aligned ? tile_units<1, true> : tile_units<1, false>)(t);
}

void codes(const SparseInt8Tile* t, const GemmInt8Epilogue* e, int64_t column, int64_t columns, uint8_t* out, int64_t stride) {
  if (t->height == 1 && t->aligned) return panel_codes(t, e, column, columns, out, stride);
  tile(t);
  SparseRun none[kSparseInt8Panel];
  for (int64_t i = 0; i < kSparseInt8Panel; i++) none[i] = {static_cast<uint16_t>(i), 0};
  SparseInt8Tile sums = *t;
  sums.runs = none;
  sums.groups = kSparseInt8Panel;
  sums.start = nullptr;
  panel_codes(&sums, e, column, columns, out, stride);
}

void widen(const uint8_t* x, int64_t k, bool is_signed, void* out) {
  const uint8_t flip = is_signed ? 0x80 : 0;
  uint8_t* to = static_cast<uint8_t*>(out);
  for (int64_t i = 0; i < k; i++) to[i] = x[i] ^ flip;
}

// The four bytes of x that a bundle wants, in every lane of `mask`; other lanes of v stay.
template <bool A>
static inline __m512i quad(__m512i v, __mmask16 mask, const uint8_t* x, const uint16_t* index) {
  if (A) return _mm512_mask_mov_epi32(v, mask, _mm512_set1_epi32(load_word(x + *index * 4)));
  uint64_t i;
  memcpy(&i, index, 8);
  v = _mm512_mask_mov_epi32(v, mask, _mm512_set1_epi32(load_word(x + (i & 0xffff))));
  v = _mm512_mask_ternarylogic_epi32(v, mask, _mm512_set1_epi32(0x0000ff00), _mm512_set1_epi32(load_word(x + (i >> 16 & 0xffff) - 1)), 0xb8);
  v = _mm512_mask_ternarylogic_epi32(v, mask, _mm512_set1_epi32(0x00ff0000), _mm512_set1_epi32(load_word(x + (i >> 32 & 0xffff) - 2)), 0xb8);
  return _mm512_mask_ternarylogic_epi32(v, mask, _mm512_set1_epi32(static_cast<int32_t>(0xff000000u)), _mm512_set1_epi32(load_word(x + (i >> 48) - 3)), 0xb8);
}

template <int H, bool A>
static inline __m512i quads(const uint8_t* x, const uint16_t* index) {
  enum { kEach = A ? 1 : 4 };
  if (H >= 4) {
    __m512i v = quad<A>(_mm512_setzero_si512(), 0xffff, x, index);
    if (H == 8) v = quad<A>(v, 0xff00, x, index + kEach);
    if (H == 4) {
      v = quad<A>(v, 0x00f0, x, index + kEach);
      v = quad<A>(v, 0x0f00, x, index + 2 * kEach);
      v = quad<A>(v, 0xf000, x, index + 3 * kEach);
    }
    return v;
  }
  // A word for each bundle, then H lanes of each.
  uint32_t w[16 / H];
#pragma GCC unroll 16
  for (int b = 0; b < 16 / H; b++) {
    const uint16_t* i = index + b * kEach;
    w[b] = A ? static_cast<uint32_t>(load_word(x + i[0] * 4))
             : x[i[0]] | static_cast<uint32_t>(x[i[1]]) << 8 | static_cast<uint32_t>(x[i[2]]) << 16 | static_cast<uint32_t>(x[i[3]]) << 24;
  }
  if (H == 1) {
    const auto four = [&](int b) {
      __m128i v = _mm_cvtsi32_si128(static_cast<int32_t>(w[b]));
      v = _mm_insert_epi32(v, static_cast<int32_t>(w[(b + 1) % (16 / H)]), 1);
      v = _mm_insert_epi32(v, static_cast<int32_t>(w[(b + 2) % (16 / H)]), 2);
      return _mm_insert_epi32(v, static_cast<int32_t>(w[(b + 3) % (16 / H)]), 3);
    };
    const __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(four(0)), four(4 % (16 / H)), 1);
    const __m256i high = _mm256_inserti128_si256(_mm256_castsi128_si256(four(8 % (16 / H))), four(12 % (16 / H)), 1);
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
  }
  const __m512i v = _mm512_castsi256_si512(_mm256_setr_epi32(static_cast<int>(w[0]), static_cast<int>(w[1]), static_cast<int>(w[2]), static_cast<int>(w[3]), static_cast<int>(w[4]),
                                                             static_cast<int>(w[5]), static_cast<int>(w[6]), static_cast<int>(w[7])));
  return _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7), v);
}

template <int H, bool A>
static void vector_height(const SparseInt8Tile* t) {
  enum { kBundles = 16 / H, kEach = A ? 1 : 4 };
  const uint8_t* x = static_cast<const uint8_t*>(t->x);
  const uint16_t* index = t->index;
  const int8_t* values = t->values;
  for (int64_t g = 0; g < t->groups; g++) {
    int64_t b = t->runs[g].count;
    __m512i sum = _mm512_setzero_si512(), other = sum;
    for (; b >= 2 * kBundles; b -= 2 * kBundles, index += 2 * kBundles * kEach, values += 128) {
      _mm_prefetch(reinterpret_cast<const char*>(values + 1024), _MM_HINT_T0);
      _mm_prefetch(reinterpret_cast<const char*>(values + 1088), _MM_HINT_T0);
      sum = _mm512_dpbusd_epi32(sum, quads<H, A>(x, index), _mm512_loadu_si512(values));
      other = _mm512_dpbusd_epi32(other, quads<H, A>(x, index + kBundles * kEach), _mm512_loadu_si512(values + 64));
    }
    if (H == 1 && A) {
      __m128i few = _mm_setzero_si128();
      for (; b > 0; b--, index++, values += 4) few = _mm_dpbusd_epi32(few, _mm_cvtsi32_si128(load_word(x + *index * 4)), _mm_cvtsi32_si128(load_word(values)));
      other = _mm512_add_epi32(other, _mm512_zextsi128_si512(few));
    }
    while (b > 0) {
      const int64_t now = b < kBundles ? b : (int64_t)kBundles;
      uint16_t part[kBundles * kEach] = {0};
      memcpy(part, index, static_cast<size_t>(now * kEach) * 2);
      const __m512i w = _mm512_maskz_loadu_epi32(static_cast<__mmask16>((1u << (now * H)) - 1), values);
      sum = _mm512_dpbusd_epi32(sum, quads<H, A>(x, part), w);
      b -= now;
      index += now * kEach;
      values += now * H * 4;
    }
    sum = _mm512_add_epi32(sum, other);
    int32_t* acc = t->acc + t->runs[g].group * H;
    const int32_t* start = t->start ? t->start + t->runs[g].group * H : acc;
    if (H == 16) {
      _mm512_storeu_si512(acc, _mm512_add_epi32(sum, _mm512_loadu_si512(start)));
      continue;
    }
    const __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(sum), _mm512_extracti64x4_epi64(sum, 1));
    if (H == 8) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(acc), _mm256_add_epi32(half, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(start))));
      continue;
    }
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    if (H == 4) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(acc), _mm_add_epi32(s, load16(start)));
      continue;
    }
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    if (H == 1) s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1));
    for (int i = 0; i < H; i++) {
      const uint32_t v = static_cast<uint32_t>(i == 0 ? _mm_cvtsi128_si32(s) : _mm_extract_epi32(s, 1));
      acc[i] = static_cast<int32_t>(v + static_cast<uint32_t>(start[i]));
    }
  }
}

struct Vector {
  template <int H, bool A>
  static void run(const SparseInt8Tile* t) {
    vector_height<H, A>(t);
  }
};

// 64 weights: sixteen bytes of x for each lane, of which each dword of the lane takes four (H = 1: one after the other).
template <int H>
static inline __m512i lane_bytes(const uint8_t* x, const uint16_t* index, const uint8_t* places) {
  __m512i v = H == 1 || H == 4 ? _mm512_castsi128_si512(load16(x + index[0])) : _mm512_broadcast_i32x4(load16(x + index[0]));
  if (H == 1 || H == 4) {
    v = _mm512_mask_broadcast_i32x4(v, 0x00f0, load16(x + index[1]));
    v = _mm512_mask_broadcast_i32x4(v, 0x0f00, load16(x + index[2]));
    v = _mm512_mask_broadcast_i32x4(v, 0xf000, load16(x + index[3]));
  }
  if (H == 8) v = _mm512_mask_broadcast_i32x4(v, 0xff00, load16(x + index[1]));
  if (H == 1) return v;
  const __m512i dwords = _mm512_setr_epi32(0x03020100, 0x03020100, 0x03020100, 0x03020100, 0x07060504, 0x07060504, 0x07060504, 0x07060504,
                                           0x0b0a0908, 0x0b0a0908, 0x0b0a0908, 0x0b0a0908, 0x0f0e0d0c, 0x0f0e0d0c, 0x0f0e0d0c, 0x0f0e0d0c);
  const __m512i halves = _mm512_setr_epi32(0x03020100, 0x03020100, 0x03020100, 0x03020100, 0x03020100, 0x03020100, 0x03020100, 0x03020100,
                                           0x07060504, 0x07060504, 0x07060504, 0x07060504, 0x07060504, 0x07060504, 0x07060504, 0x07060504);
  const __m512i all = _mm512_broadcast_i32x4(load16(places));
  return _mm512_shuffle_epi8(v, _mm512_shuffle_epi8(all, H == 4 ? dwords : halves));
}

struct Lanes {
  template <int H>
  static void run(const SparseInt8Tile* t) {
    enum { kBundles = H == 1 ? 4 : 16 / H };
    const uint8_t *x = static_cast<const uint8_t*>(t->x), *places = t->places;
    const uint16_t* index = t->index;
    const int8_t* values = t->values;
    for (int64_t g = 0; g < t->groups; g++) {
      int64_t b = t->runs[g].count;
      __m512i sum = _mm512_setzero_si512(), other = sum;
      for (; b >= 2 * kBundles; b -= 2 * kBundles, index += 2 * kBundles, places += 8 * kBundles, values += 128) {
        _mm_prefetch(reinterpret_cast<const char*>(values + 1024), _MM_HINT_T0);
        _mm_prefetch(reinterpret_cast<const char*>(values + 1088), _MM_HINT_T0);
        sum = _mm512_dpbusd_epi32(sum, lane_bytes<H>(x, index, places), _mm512_loadu_si512(values));
        other = _mm512_dpbusd_epi32(other, lane_bytes<H>(x, index + kBundles, places + 4 * kBundles), _mm512_loadu_si512(values + 64));
      }
      if (b >= kBundles) {
        sum = _mm512_dpbusd_epi32(sum, lane_bytes<H>(x, index, places), _mm512_loadu_si512(values));
        b -= kBundles, index += kBundles, places += 4 * kBundles, values += 64;
      }
      sum = _mm512_add_epi32(sum, other);
      int32_t* acc = t->acc + t->runs[g].group * H;
      const int32_t* start = t->start ? t->start + t->runs[g].group * H : acc;
      __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(sum), _mm512_extracti64x4_epi64(sum, 1));
      if (H == 8) {
        if (b > 0) {
          const __m256i v = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(load16(x + *index)), _mm256_set1_epi32(load_word(places)));
          half = _mm256_dpbusd_epi32(half, v, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values)));
          index++, places += 4, values += 32;
        }
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(acc), _mm256_add_epi32(half, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(start))));
        continue;
      }
      __m128i s = _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
      for (; b > 0; b--, index++, places += 4, values += 16) {
        __m128i v = load16(x + *index);
        if (H == 4) v = _mm_shuffle_epi8(v, _mm_set1_epi32(load_word(places)));
        s = _mm_dpbusd_epi32(s, v, load16(values));
      }
      if (H == 4) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(acc), _mm_add_epi32(s, load16(start)));
        continue;
      }
      s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
      s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1));
      acc[0] = static_cast<int32_t>(static_cast<uint32_t>(_mm_cvtsi128_si32(s)) + static_cast<uint32_t>(start[0]));
    }
  }
};

void pairs(const SparseInt8Pairs* p) {
  const __m512i shift = _mm512_setr_epi32(0, 0, 0, 0, 2, 2, 2, 2, 4, 4, 4, 4, 6, 6, 6, 6), three = _mm512_set1_epi8(3);
  const __m512i steps = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 0, 4, 4, 8, 8, 12, 12, 0, 0, 4, 4, 8, 8, 12, 12));
  const __mmask64 upper = 0xff00ff00ff00ff00ull;
  const uint8_t* x = static_cast<const uint8_t*>(p->x);
  const int8_t* values = p->values;
  const uint8_t* places = p->places;
  const auto step = [&](__m512i sum, int64_t s) {
    _mm_prefetch(reinterpret_cast<const char*>(values + s * 64 + 2048), _MM_HINT_T0);
    const __m512i bits = _mm512_srlv_epi32(_mm512_broadcast_i32x4(load16(places + s * 16)), shift);
    const __m512i at = _mm512_ternarylogic_epi32(steps, bits, three, 0xf8);
    const __m512i v = _mm512_mask_shuffle_epi8(_mm512_shuffle_epi8(_mm512_loadu_si512(x + s * 128), at), upper, _mm512_loadu_si512(x + s * 128 + 64), at);
    return _mm512_dpbusd_epi32(sum, v, _mm512_loadu_si512(values + s * 64));
  };
  for (int64_t i = 0; i < p->rows; i++, values += p->steps * 64, places += p->steps * 16) {
    __m512i a = _mm512_setzero_si512(), b = a;
    int64_t s = 0;
    for (; s + 2 <= p->steps; s += 2) {
      a = step(a, s);
      b = step(b, s + 1);
    }
    if (s < p->steps) a = step(a, s);
    p->acc[i] = _mm512_reduce_add_epi32(_mm512_add_epi32(a, b));
  }
}

}  // namespace
}  // namespace whittle

extern "C" void sparse_int8_install_avx512vnni(whittle::SparseInt8Kernels* t) {
  using namespace whittle;
  t->units = 4;
  t->x_bytes = 1;
  t->shift_s8 = 128;
  t->pack = pack;
  t->windows = windows;
  t->tile = tile;
  t->widen = widen;
  t->vector = run_tile<Vector>;
  t->lanes_signed = false;
  t->lanes = run_lanes<Lanes>;
  t->pairs = pairs;
  t->finish = finish;
  t->finish_rows = finish_rows;
  t->turn = turn_words;
  t->codes = codes;
}
