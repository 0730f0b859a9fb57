// int4 weights by SDOT: 16 weights times one of three digits of the activations an instruction, exact 32-bit sums.
#include "cpu/gemm/weight_neon.h"

#define DOT_BEGIN(init) vdupq_n_s32(init)
#define DOT(acc, w, d) acc = vdotq_s32(acc, vreinterpretq_s8_s32(w), vreinterpretq_s8_s32(d))
#define DOT_END(acc, init) acc
#include "cpu/gemm/weight_digits.h"

extern "C" void gemm_weight_install_neondot(whittle::WeightKernels* t) {
  t->tile_rows[whittle::kWeightInt4] = DIGIT_ROWS;
  t->stream_rows[whittle::kWeightInt4] = 8;
  t->stream[whittle::kWeightInt4] = whittle::digits_stream;
  t->digits = whittle::digits_of_row;
}
