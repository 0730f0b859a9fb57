// Compressed weights on AVX2. int4: vpmaddubsw, whose 16-bit sums hold a whole chunk exactly (8 times 2 * 15 * 128), three
// digits of the activations; int8 and bfloat16 in float32. Limits as in weight_digits.h.
#include "cpu/gemm/weight_avx2.h"

#define FLOAT_ROWS 4
#define FLOAT_STREAM 16
#define FLOAT_WIDE 4
#define FLOAT_NARROW 2
static inline vf wf_int8(const uint8_t* p) { return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p))); }
static inline vf wf_even(Vi x) { return _mm256_castsi256_ps(_mm256_slli_epi32(x, 16)); }
static inline vf wf_odd(Vi x) { return _mm256_castsi256_ps(_mm256_and_si256(x, _mm256_set1_epi32((int)0xffff0000))); }
static inline vf wf_nibble(Vi x, unsigned shift) {
  const __m256i q = _mm256_and_si256(_mm256_srli_epi32(x, (int)shift), _mm256_set1_epi32(15));
  return _mm256_cvtepi32_ps(_mm256_sub_epi32(q, _mm256_set1_epi32(8)));
}
#define DOT_BEGIN(init) _mm256_setzero_si256()
#define DOT(acc, w, d) acc = _mm256_add_epi16(acc, _mm256_maddubs_epi16(w, d))
#define DOT_END(acc, init) _mm256_add_epi32(_mm256_madd_epi16(acc, _mm256_set1_epi16(1)), _mm256_set1_epi32(init))
#include "cpu/gemm/weight_float.h"
#include "cpu/gemm/weight_digits.h"

extern "C" void gemm_weight_install_avx2(whittle::WeightKernels* t) {
  whittle::install_float(t);
  t->tile_rows[whittle::kWeightInt4] = DIGIT_ROWS;
  t->stream_rows[whittle::kWeightInt4] = 3;
  t->stream[whittle::kWeightInt4] = whittle::digits_stream;
  t->digits = whittle::digits_of_row;
}
