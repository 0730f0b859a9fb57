// Compressed weights on AVX-512 without VNNI. int4: vpmaddubsw, whose 16-bit sums hold a whole chunk exactly (8 pairs of
// 15 * 128 twice), three digits of the activations; int8 and bfloat16 in float32. Limits as in weight_digits.h.
#include "cpu/gemm/weight_float_avx512.h"

#define DIGIT_ROWS 4
#define DIGIT_WIDE 2
#define DIGIT_NARROW 2
#define DOT_BEGIN(init) _mm512_setzero_si512()
#define DOT(acc, w, d) acc = _mm512_add_epi16(acc, _mm512_maddubs_epi16(w, d))
#define DOT_END(acc, init) _mm512_add_epi32(_mm512_madd_epi16(acc, _mm512_set1_epi16(1)), _mm512_set1_epi32(init))
#include "cpu/gemm/weight_digits.h"

extern "C" void gemm_weight_install_avx512(whittle::WeightKernels* t) {
  whittle::install_float(t);
  t->tile_rows[whittle::kWeightInt4] = DIGIT_ROWS;
  t->stream_rows[whittle::kWeightInt4] = 6;
  t->stream[whittle::kWeightInt4] = whittle::digits_stream;
  t->digits = whittle::digits_of_row;
}
