// binary on AVX2: two registers of 8 columns, bits of bytes counted by table (vpshufb), bytes widened every 24 words.
// Binds: eight operations a word of 8 columns on three ports, two of them on the one that shuffles.
#include <immintrin.h>
#include <string.h>

#include "cpu/binary/rest.h"

namespace whittle {
namespace {

static inline __m256i bytes_of(__m256i v) {
  const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
  const __m256i low = _mm256_set1_epi8(15);
  const __m256i a = _mm256_shuffle_epi8(table, _mm256_and_si256(v, low));
  return _mm256_add_epi8(a, _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi32(v, 4), low)));
}

static inline __m256i lanes_of(__m256i bytes) {
  return _mm256_madd_epi16(_mm256_maddubs_epi16(bytes, _mm256_set1_epi8(1)), _mm256_set1_epi16(1));
}

// Columns [8 * half, 8 * half + 8) of one row.
static inline void put(const BinaryTile* t, int64_t row, int half, __m256i differ) {
  const int64_t columns = t->columns - 8 * half, at = row * t->ldc + 8 * half;
  if (columns <= 0) return;
  const __m256i sum = _mm256_sub_epi32(_mm256_set1_epi32(static_cast<int>(t->k)), _mm256_add_epi32(differ, differ));
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(columns > 8 ? 8 : static_cast<int>(columns)), lane);
  if (!t->is_float) {
    _mm256_maskstore_epi32(static_cast<int32_t*>(t->c) + at, mask, sum);
    return;
  }
  __m256 v = _mm256_cvtepi32_ps(sum);
  if (t->scale) v = _mm256_mul_ps(v, _mm256_loadu_ps(t->scale + 8 * half));
  if (t->row_scale) v = _mm256_mul_ps(v, _mm256_set1_ps(t->row_scale[row]));
  _mm256_maskstore_ps(static_cast<float*>(t->c) + at, mask, v);
}

void multiply(const BinaryTile* t) {
  constexpr int64_t kFlush = 24;  // words; a byte then holds 192 at most
  for (int64_t i = 0; i < t->rows; i++) {
    const uint32_t* a = t->a + i * t->words;
    __m256i total[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    for (int64_t from = 0; from < t->words; from += kFlush) {
      const int64_t to = t->words - from < kFlush ? t->words : from + kFlush;
      __m256i bytes[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
      for (int64_t word = from; word < to; word++) {
        const __m256i x = _mm256_set1_epi32(static_cast<int>(a[word]));
        const __m256i* w = reinterpret_cast<const __m256i*>(t->group + word * kBinaryLanes);
        bytes[0] = _mm256_add_epi8(bytes[0], bytes_of(_mm256_xor_si256(x, _mm256_loadu_si256(w))));
        bytes[1] = _mm256_add_epi8(bytes[1], bytes_of(_mm256_xor_si256(x, _mm256_loadu_si256(w + 1))));
      }
      total[0] = _mm256_add_epi32(total[0], lanes_of(bytes[0]));
      total[1] = _mm256_add_epi32(total[1], lanes_of(bytes[1]));
    }
    put(t, i, 0, total[0]);
    put(t, i, 1, total[1]);
  }
}

double pack(const float* x, int64_t k, uint32_t* words) {
  memset(words, 0, static_cast<size_t>(binary_words(k)) * 4);
  __m256d low = _mm256_setzero_pd(), high = low;
  const __m256 sign = _mm256_set1_ps(-0.0f);
  int64_t p = 0;
  for (; p + 8 <= k; p += 8) {
    const __m256 v = _mm256_loadu_ps(x + p), size = _mm256_andnot_ps(sign, v);
    const uint32_t bits = static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(v, _mm256_setzero_ps(), _CMP_LT_OQ)));
    words[p / 32] |= bits << (p % 32);
    low = _mm256_add_pd(low, _mm256_cvtps_pd(_mm256_castps256_ps128(size)));
    high = _mm256_add_pd(high, _mm256_cvtps_pd(_mm256_extractf128_ps(size, 1)));
  }
  double s[8];
  _mm256_storeu_pd(s, low);
  _mm256_storeu_pd(s + 4, high);
  return binary_rest(x, p, k, words, s);
}

}  // namespace
}  // namespace whittle

extern "C" void binary_install_avx2(whittle::BinaryKernels* table) {
  table->pack = whittle::pack;
  table->multiply = whittle::multiply;
}
