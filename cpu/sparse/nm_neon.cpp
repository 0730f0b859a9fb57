// 2:4 weights times one column, NEON: four values choose among the 32 bytes of two groups of x by one table look-up, whose byte
// indices are made from the four pairs of bits.
#include <arm_neon.h>
#include <string.h>

#define WHITTLE_ISA_FILE
#include "core/sparse_nm.h"
#include "cpu/common/lanes_neon.h"

using namespace whittle;

template <bool Wide>
static inline vf values_at(const void* values, int64_t at) {
  return Wide ? v_load(static_cast<const float*>(values) + at) : v_widen(static_cast<const uint16_t*>(values) + at);
}

static inline vf fetch(const float* x, uint32_t places) {
  static const int32_t kShifts[4] = {0, -2, -4, -6};
  static const uint32_t kBase[4] = {0x03020100u, 0x03020100u, 0x13121110u, 0x13121110u};
  const uint32x4_t place = vandq_u32(vshlq_u32(vdupq_n_u32(places), vld1q_s32(kShifts)), vdupq_n_u32(3));
  const uint8x16_t at = vreinterpretq_u8_u32(vmlaq_n_u32(vld1q_u32(kBase), place, 0x04040404u));
  const uint8_t* bytes = reinterpret_cast<const uint8_t*>(x);
  const uint8x16x2_t table = {{vld1q_u8(bytes), vld1q_u8(bytes + 16)}};
  return vreinterpretq_f32_u8(vqtbl2q_u8(table, at));
}

template <bool Wide>
static void multiply(const SparsePairs* p) {
  for (int64_t i = 0; i < p->rows; i++) {
    const uint32_t* places = p->places + i * p->steps;
    const int64_t row = i * p->steps * kSparseNmStep;
    vf sum[4] = {v_set(0), v_set(0), v_set(0), v_set(0)};
    for (int64_t s = 0; s < p->steps; s++)
      for (int q = 0; q < 4; q++)
        sum[q] = v_fma(values_at<Wide>(p->values, row + s * 16 + q * 4), fetch(p->x + s * 32 + q * 8, places[s] >> (8 * q)), sum[q]);
    p->acc[i] = v_sum(v_add(v_add(sum[0], sum[1]), v_add(sum[2], sum[3])));
  }
}

static void pairs(const SparsePairs* p) { (p->type == kSparseF32 ? multiply<true> : multiply<false>)(p); }

extern "C" void sparse_nm_install_neon(SparseNmKernels* t) { t->pairs = pairs; }
