// Sparse int8 on AVX2: x' in 16 bits, vpmaddwd and vpaddd on 4 rows x 16 columns (int8_tile16.h). Not vpmaddubsw, whose 16-bit
// sums saturate. One column: sixteen weights widened to 16 bits at the load; the four values of x that a bundle wants are put
// together by broadcasts of unaligned pairs and blends, so that no shuffle waits for an index.
#include <immintrin.h>

#define WHITTLE_ISA_FILE
#include "cpu/sparse/int8_finish.h"

#define ROW_BYTES 32
#define STORE_ROW(p, v, is_signed) \
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), (is_signed) ? _mm256_cvtepi8_epi16(v) : _mm256_cvtepu8_epi16(v))
#include "cpu/sparse/int8_heights.h"
#include "cpu/sparse/int8_plain.h"
#include "cpu/sparse/int8_tile16.h"

namespace whittle {
namespace {

const uint8_t kOrder[4] = {0, 2, 1, 3};

void pack(const SparseInt8Pack* p) { pack_rows(p, kOrder); }
void tile(const SparseInt8Tile* t) { (t->aligned ? tile_of<Ymm<4>, true> : tile_of<Ymm<4>, false>)(t); }

static inline int64_t load_long(const void* p) {
  int64_t v;
  memcpy(&v, p, 8);
  return v;
}

// The four values that a bundle wants, in every lane of 64 bits.
template <bool A>
static inline __m256i everywhere(const int16_t* x, const uint16_t* index) {
  if (A) return _mm256_set1_epi64x(load_long(x + index[0] * 4));
  const __m256i a = _mm256_blend_epi16(_mm256_set1_epi32(load_word(x + index[0])), _mm256_set1_epi32(load_word(x + index[1] - 1)), 0xaa);
  const __m256i b = _mm256_blend_epi16(_mm256_set1_epi32(load_word(x + index[2])), _mm256_set1_epi32(load_word(x + index[3] - 1)), 0xaa);
  return _mm256_blend_epi32(a, b, 0xaa);
}

template <bool A>
static inline int64_t alone(const int16_t* x, const uint16_t* index) {
  if (A) return load_long(x + index[0] * 4);
  const uint64_t a = static_cast<uint16_t>(x[index[0]]) | static_cast<uint32_t>(static_cast<uint16_t>(x[index[1]])) << 16;
  const uint64_t b = static_cast<uint16_t>(x[index[2]]) | static_cast<uint32_t>(static_cast<uint16_t>(x[index[3]])) << 16;
  return static_cast<int64_t>(a | b << 32);
}

template <int H, bool A>
static void vector_height(const SparseInt8Tile* t) {
  enum { kBundles = H >= 4 ? 1 : 4 / H, kEach = A ? 1 : 4, kSums = H >= 4 ? H / 4 : 1, kStep = H >= 4 ? H * 4 : 16 };
  const int16_t* x = static_cast<const int16_t*>(t->x);
  const uint16_t* index = t->index;
  const int8_t* values = t->values;
  const auto meet = [](__m256i sum, __m256i v, __m128i w) { return _mm256_add_epi32(sum, _mm256_madd_epi16(v, _mm256_cvtepi8_epi16(w))); };
  for (int64_t g = 0; g < t->groups; g++) {
    int64_t b = t->runs[g].count;
    __m256i sum[kSums];
#pragma GCC unroll 4
    for (int s = 0; s < kSums; s++) sum[s] = _mm256_setzero_si256();
    for (; b >= kBundles; b -= kBundles, index += kBundles * kEach, values += kStep) {
      if (H == 16 || (b & 3) == 0) _mm_prefetch(reinterpret_cast<const char*>(values + 1024), _MM_HINT_T0);
      const __m256i v = H >= 4   ? everywhere<A>(x, index)
                        : H == 2 ? _mm256_set_m128i(_mm_set1_epi64x(alone<A>(x, index + kEach)), _mm_set1_epi64x(alone<A>(x, index)))
                                 : _mm256_set_epi64x(alone<A>(x, index + 3 * kEach), alone<A>(x, index + 2 * kEach), alone<A>(x, index + kEach), alone<A>(x, index));
#pragma GCC unroll 4
      for (int s = 0; s < kSums; s++) sum[s] = meet(sum[s], v, load16(values + s * 16));
    }
    // Fewer bundles than a vector holds; weights of 0 for the rest.
    if (H < 4 && b > 0) {
      int8_t w[16] = {0};
      int64_t q[4] = {0};
      memcpy(w, values, static_cast<size_t>(b * H * 4));
      for (int64_t i = 0; i < b; i++)
        for (int64_t r = 0; r < H; r++) q[i * H + r] = alone<A>(x, index + i * kEach);
      sum[0] = meet(sum[0], _mm256_loadu_si256(reinterpret_cast<const __m256i*>(q)), load16(w));
      index += b * kEach;
      values += b * H * 4;
    }
    int32_t* acc = t->acc + t->runs[g].group * H;
    const int32_t* start = t->start ? t->start + t->runs[g].group * H : acc;
#pragma GCC unroll 4
    for (int s = 0; s < kSums; s++) {
      // Pairs of neighbours are one row.
      __m128i y = _mm_hadd_epi32(_mm256_castsi256_si128(sum[s]), _mm256_extracti128_si256(sum[s], 1));
      if (H >= 4) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(acc + s * 4), _mm_add_epi32(y, load16(start + s * 4)));
        continue;
      }
      if (H == 1) y = _mm_hadd_epi32(y, y);
      else y = _mm_add_epi32(y, _mm_shuffle_epi32(y, 0x4e));
      if (H == 1) y = _mm_add_epi32(y, _mm_shuffle_epi32(y, 0xb1));
      acc[0] = static_cast<int32_t>(static_cast<uint32_t>(_mm_cvtsi128_si32(y)) + static_cast<uint32_t>(start[0]));
      if (H == 2) acc[1] = static_cast<int32_t>(static_cast<uint32_t>(_mm_extract_epi32(y, 1)) + static_cast<uint32_t>(start[1]));
    }
  }
}

struct Vector {
  template <int H, bool A>
  static void run(const SparseInt8Tile* t) {
    vector_height<H, A>(t);
  }
};

// Sums of four products each. Without weights of -128, |x| and the weight under x's sign fit vpmaddubsw: 128 * 127 * 2 < 2^15.
template <bool kLowest>
static inline __m256i quads_of(__m256i x, __m256i w) {
  const __m256i ones = _mm256_set1_epi16(1);
  if (!kLowest) return _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_abs_epi8(x), _mm256_sign_epi8(w, x)), ones);
  const __m256i even = _mm256_madd_epi16(_mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8), _mm256_srai_epi16(_mm256_slli_epi16(w, 8), 8));
  return _mm256_add_epi32(even, _mm256_madd_epi16(_mm256_srai_epi16(x, 8), _mm256_srai_epi16(w, 8)));
}

template <int H, bool kLowest>
static void lanes_of(const SparseInt8Tile* t) {
  enum { kBundles = H == 8 ? 1 : 2 };
  const uint8_t *x = static_cast<const uint8_t*>(t->x), *places = t->places;
  const uint16_t* index = t->index;
  const int8_t* values = t->values;
  const __m256i dwords = _mm256_setr_epi32(0x03020100, 0x03020100, 0x03020100, 0x03020100, 0x07060504, 0x07060504, 0x07060504, 0x07060504);
  const auto load = [](const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); };
  const auto bytes = [&](int64_t b) {
    const __m128i first = load16(x + index[b]);
    __m256i v = kBundles == 2 ? _mm256_set_m128i(load16(x + index[b + 1]), first) : _mm256_broadcastsi128_si256(first);
    if (H == 4) v = _mm256_shuffle_epi8(v, _mm256_shuffle_epi8(_mm256_set1_epi64x(load_long(places + b * 4)), dwords));
    if (H == 8) v = _mm256_shuffle_epi8(v, _mm256_set1_epi32(load_word(places + b * 4)));
    return v;
  };
  for (int64_t g = 0; g < t->groups; g++) {
    int64_t b = t->runs[g].count;
    __m256i sum = _mm256_setzero_si256(), other = sum;
    for (; b >= 2 * kBundles; b -= 2 * kBundles, index += 2 * kBundles, places += 8 * kBundles, values += 64) {
      _mm_prefetch(reinterpret_cast<const char*>(values + 1024), _MM_HINT_T0);
      sum = _mm256_add_epi32(sum, quads_of<kLowest>(bytes(0), load(values)));
      other = _mm256_add_epi32(other, quads_of<kLowest>(bytes(kBundles), load(values + 32)));
    }
    if (b >= kBundles) {
      sum = _mm256_add_epi32(sum, quads_of<kLowest>(bytes(0), load(values)));
      b -= kBundles, index += kBundles, places += 4 * kBundles, values += 32;
    }
    sum = _mm256_add_epi32(sum, other);
    int32_t* acc = t->acc + t->runs[g].group * H;
    const int32_t* start = t->start ? t->start + t->runs[g].group * H : acc;
    if (H == 8) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(acc), _mm256_add_epi32(sum, load(start)));
      continue;
    }
    if (b > 0) {
      // The last lane alone.
      __m128i v = load16(x + *index++);
      if (H == 4) v = _mm_shuffle_epi8(v, _mm_set1_epi32(load_word(places)));
      sum = _mm256_add_epi32(sum, quads_of<kLowest>(_mm256_inserti128_si256(_mm256_setzero_si256(), v, 0),
                                                    _mm256_inserti128_si256(_mm256_setzero_si256(), load16(values), 0)));
      places += 4;
      values += 16;
    }
    __m128i y = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    if (H == 4) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(acc), _mm_add_epi32(y, load16(start)));
      continue;
    }
    y = _mm_add_epi32(y, _mm_shuffle_epi32(y, 0x4e));
    y = _mm_add_epi32(y, _mm_shuffle_epi32(y, 0xb1));
    acc[0] = static_cast<int32_t>(static_cast<uint32_t>(_mm_cvtsi128_si32(y)) + static_cast<uint32_t>(start[0]));
  }
}

struct Lanes {
  template <int H>
  static void run(const SparseInt8Tile* t) {
    t->lowest ? lanes_of<H, true>(t) : lanes_of<H, false>(t);
  }
};

// 32 of a step's values: the bytes of x that they meet, lane by lane.
static inline __m256i chosen(const uint8_t* x, __m256i places) {
  const __m256i steps = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 0, 4, 4, 8, 8, 12, 12, 0, 0, 4, 4, 8, 8, 12, 12));
  const __m256i at = _mm256_or_si256(_mm256_and_si256(places, _mm256_set1_epi8(3)), steps);
  return _mm256_blend_epi32(_mm256_shuffle_epi8(Ymm<4>::load(x), at), _mm256_shuffle_epi8(Ymm<4>::load(x + 64), at), 0xcc);
}

void pairs(const SparseInt8Pairs* p) {
  const __m256i shift[2] = {_mm256_setr_epi32(0, 0, 0, 0, 2, 2, 2, 2), _mm256_setr_epi32(4, 4, 4, 4, 6, 6, 6, 6)}, zero = _mm256_setzero_si256();
  const __m256i low = _mm256_set1_epi16(255);
  const uint8_t* x = static_cast<const uint8_t*>(p->x);
  const int8_t* values = p->values;
  const uint8_t* places = p->places;
  for (int64_t i = 0; i < p->rows; i++) {
    __m256i sum[4] = {zero, zero, zero, zero};
    for (int64_t s = 0; s < p->steps; s++, values += 64, places += 16) {
      _mm_prefetch(reinterpret_cast<const char*>(values + 2048), _MM_HINT_T0);
      const __m256i bits = _mm256_broadcastsi128_si256(load16(places));
#pragma GCC unroll 2
      for (int h = 0; h < 2; h++) {
        const __m256i v = chosen(x + s * 128 + h * 32, _mm256_srlv_epi32(bits, shift[h])), w = Ymm<4>::load(values + h * 32);
        // Even and odd bytes widened by shifts, which leave the shuffling port alone.
        sum[2 * h] = Ymm<4>::add(sum[2 * h], Ymm<4>::madd(_mm256_and_si256(v, low), _mm256_srai_epi16(_mm256_slli_epi16(w, 8), 8)));
        sum[2 * h + 1] = Ymm<4>::add(sum[2 * h + 1], Ymm<4>::madd(_mm256_srli_epi16(v, 8), _mm256_srai_epi16(w, 8)));
      }
    }
    const __m256i all = Ymm<4>::add(Ymm<4>::add(sum[0], sum[1]), Ymm<4>::add(sum[2], sum[3]));
    __m128i y = _mm_add_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
    y = _mm_add_epi32(y, _mm_shuffle_epi32(y, 0x4e));
    p->acc[i] = _mm_cvtsi128_si32(_mm_add_epi32(y, _mm_shuffle_epi32(y, 0xb1)));
  }
}

}  // namespace
}  // namespace whittle

extern "C" void sparse_int8_install_avx2(whittle::SparseInt8Kernels* t) {
  using namespace whittle;
  t->units = 1;
  t->x_bytes = 2;
  t->shift_s8 = 0;
  t->pack = pack;
  t->tile = tile;
  t->widen = widen_plain;
  t->vector = run_tile<Vector>;
  t->lanes_signed = true;
  t->lanes = run_lanes<Lanes>;
  t->spread = spread_lanes;
  t->pairs = pairs;
  t->finish = finish;
  t->finish_rows = finish_rows;
  t->turn = turn_words;
}
