// int4 weights by vpdpbusd: 64 weights times one of three digits of the activations an instruction, exact 32-bit sums. One
// row reads 4 groups side by side (12 sums), four rows 2 groups (24 sums).
#include "cpu/gemm/weight_avx512.h"

#define DIGIT_ROWS 4
#define DIGIT_WIDE 4
#define DIGIT_NARROW 2
#define DOT_BEGIN(init) _mm512_set1_epi32(init)
#define DOT(acc, w, d) acc = _mm512_dpbusd_epi32(acc, w, d)
#define DOT_END(acc, init) acc
#include "cpu/gemm/weight_digits.h"

extern "C" void gemm_weight_install_avx512vnni(whittle::WeightKernels* t) {
  t->tile_rows[whittle::kWeightInt4] = DIGIT_ROWS;
  t->stream_rows[whittle::kWeightInt4] = 16;
  t->stream[whittle::kWeightInt4] = whittle::digits_stream;
  t->digits = whittle::digits_of_row;
}
