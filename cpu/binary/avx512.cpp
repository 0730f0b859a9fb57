// binary on AVX-512: carry-save adders of two vpternlogd each take eight differences to one vector of eights, so that bytes
// are counted (by table, vpshufb) once for 8 words. Binds: the two ports that logic and shuffles share, 3.6 operations a word
// of 16 columns. Where VPOPCNTDQ is present counting a word costs one more; not used, since no machine here could check it.
#include <immintrin.h>
#include <string.h>

#include "cpu/binary/rest.h"

namespace whittle {
namespace {

static inline __m512i table() {
  return _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
}

// Set bits of each byte.
static inline __m512i bytes_of(__m512i v) {
  const __m512i low = _mm512_set1_epi8(15);
  const __m512i a = _mm512_shuffle_epi8(table(), _mm512_and_si512(v, low));
  return _mm512_add_epi8(a, _mm512_shuffle_epi8(table(), _mm512_and_si512(_mm512_srli_epi32(v, 4), low)));
}

// Sums of four bytes each; no byte above 248, so no pair leaves int16.
static inline __m512i lanes_of(__m512i bytes) {
  return _mm512_madd_epi16(_mm512_maddubs_epi16(bytes, _mm512_set1_epi8(1)), _mm512_set1_epi16(1));
}

// *sum + b + c, each bit: *sum keeps the ones, the carries are answered.
static inline __m512i carry(__m512i* sum, __m512i b, __m512i c) {
  const __m512i s = *sum;
  *sum = _mm512_ternarylogic_epi32(s, b, c, 0x96);
  return _mm512_ternarylogic_epi32(s, b, c, 0xe8);
}

static inline __m512i differ(const uint32_t* a, const uint32_t* w, int i) {
  return _mm512_xor_si512(_mm512_loadu_si512(w + i * kBinaryLanes), _mm512_set1_epi32(static_cast<int>(a[i])));
}

static inline void put(const BinaryTile* t, int64_t row, __m512i sum) {
  const __mmask16 mask = static_cast<__mmask16>((1u << t->columns) - 1);
  const int64_t at = row * t->ldc;
  if (!t->is_float) {
    _mm512_mask_storeu_epi32(static_cast<int32_t*>(t->c) + at, mask, sum);
    return;
  }
  __m512 v = _mm512_cvtepi32_ps(sum);
  if (t->scale) v = _mm512_mul_ps(v, _mm512_loadu_ps(t->scale));
  if (t->row_scale) v = _mm512_mul_ps(v, _mm512_set1_ps(t->row_scale[row]));
  _mm512_mask_storeu_ps(static_cast<float*>(t->c) + at, mask, v);
}

void multiply(const BinaryTile* t) {
  constexpr int64_t kFlush = 31 * kBinaryStep;  // words after which a byte may hold 248
  for (int64_t i = 0; i < t->rows; i++) {
    const uint32_t* a = t->a + i * t->words;
    __m512i ones = _mm512_setzero_si512(), twos = ones, fours = ones, total = ones;
    for (int64_t from = 0; from < t->words; from += kFlush) {
      const int64_t to = t->words - from < kFlush ? t->words : from + kFlush;
      __m512i bytes = _mm512_setzero_si512();
      for (int64_t word = from; word < to; word += kBinaryStep) {
        const uint32_t *x = a + word, *w = t->group + word * kBinaryLanes;
        const __m512i two_a = carry(&ones, differ(x, w, 0), differ(x, w, 1));
        const __m512i two_b = carry(&ones, differ(x, w, 2), differ(x, w, 3));
        const __m512i four_a = carry(&twos, two_a, two_b);
        const __m512i two_c = carry(&ones, differ(x, w, 4), differ(x, w, 5));
        const __m512i two_d = carry(&ones, differ(x, w, 6), differ(x, w, 7));
        const __m512i four_b = carry(&twos, two_c, two_d);
        bytes = _mm512_add_epi8(bytes, bytes_of(carry(&fours, four_a, four_b)));
      }
      total = _mm512_add_epi32(total, lanes_of(bytes));
    }
    // What the adders still hold: at most 4 * 8 + 2 * 8 + 8 a byte.
    const __m512i four = bytes_of(fours), two = _mm512_add_epi8(_mm512_add_epi8(four, four), bytes_of(twos));
    const __m512i rest = lanes_of(_mm512_add_epi8(_mm512_add_epi8(two, two), bytes_of(ones)));
    const __m512i count = _mm512_add_epi32(_mm512_slli_epi32(total, 3), rest);
    put(t, i, _mm512_sub_epi32(_mm512_set1_epi32(static_cast<int>(t->k)), _mm512_add_epi32(count, count)));
  }
}

double pack(const float* x, int64_t k, uint32_t* words) {
  memset(words, 0, static_cast<size_t>(binary_words(k)) * 4);
  __m512d sum = _mm512_setzero_pd();
  for (int64_t p = 0; p < k; p += 16) {
    const __mmask16 here = k - p >= 16 ? static_cast<__mmask16>(0xffff) : static_cast<__mmask16>((1u << (k - p)) - 1);
    const __m512 v = _mm512_maskz_loadu_ps(here, x + p);
    const uint32_t bits = _mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_LT_OQ);
    words[p / 32] |= bits << (p % 32);
    const __m512 size = _mm512_abs_ps(v);
    sum = _mm512_add_pd(sum, _mm512_cvtps_pd(_mm512_castps512_ps256(size)));
    sum = _mm512_add_pd(sum, _mm512_cvtps_pd(_mm512_extractf32x8_ps(size, 1)));
  }
  double s[8];
  _mm512_storeu_pd(s, sum);
  return binary_rest(x, k, k, words, s);
}

}  // namespace
}  // namespace whittle

extern "C" void binary_install_avx512(whittle::BinaryKernels* table) {
  table->pack = whittle::pack;
  table->multiply = whittle::multiply;
}
