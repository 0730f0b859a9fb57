// int4 weights by the 256-bit vpdpbusd of desktop CPUs: 32 weights times one of three digits an instruction, exact sums.
#include "cpu/gemm/weight_avx2.h"

#define DOT_BEGIN(init) _mm256_set1_epi32(init)
#define DOT(acc, w, d) acc = _mm256_dpbusd_avx_epi32(acc, w, d)
#define DOT_END(acc, init) acc
#include "cpu/gemm/weight_digits.h"

extern "C" void gemm_weight_install_avxvnni(whittle::WeightKernels* t) {
  t->tile_rows[whittle::kWeightInt4] = DIGIT_ROWS;
  t->stream_rows[whittle::kWeightInt4] = 8;
  t->stream[whittle::kWeightInt4] = whittle::digits_stream;
  t->digits = whittle::digits_of_row;
}
