// 2:4 weights times one column, AVX-512: sixteen values want sixteen of 32 neighbours in x, which one permutation of two
// registers fetches; its indices are 16 pairs of bits of one word. Bound by reading the weights: 9 bytes for 16 of float32.
#include <immintrin.h>

#define WHITTLE_ISA_FILE
#include "core/sparse_nm.h"
#include "cpu/common/lanes_avx512.h"

using namespace whittle;

template <bool Wide>
static inline vf values_at(const void* values, int64_t at) {
  return Wide ? v_load(static_cast<const float*>(values) + at) : v_widen(static_cast<const uint16_t*>(values) + at);
}

template <bool Wide>
static void multiply(const SparsePairs* p) {
  const __m512i shifts = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30), three = _mm512_set1_epi32(3);
  const __m512i base = _mm512_setr_epi32(0, 0, 4, 4, 8, 8, 12, 12, 16, 16, 20, 20, 24, 24, 28, 28);
  const auto fetch = [&](const float* x, uint32_t places) {
    const __m512i index = _mm512_ternarylogic_epi32(base, _mm512_srlv_epi32(_mm512_set1_epi32((int)places), shifts), three, 0xf8);
    return _mm512_permutex2var_ps(v_load(x), index, v_load(x + 16));
  };
  for (int64_t i = 0; i < p->rows; i++) {
    const uint32_t* places = p->places + i * p->steps;
    const int64_t row = i * p->steps * kSparseNmStep;
    vf sum[4] = {v_set(0), v_set(0), v_set(0), v_set(0)};
    int64_t s = 0;
    for (; s + 4 <= p->steps; s += 4)
#pragma GCC unroll 4
      for (int q = 0; q < 4; q++) {
        const int64_t at = row + (s + q) * 16;
        if (Wide || q % 2 == 0) _mm_prefetch((const char*)p->values + at * (Wide ? 4 : 2) + 2048, _MM_HINT_T0);
        sum[q] = v_fma(values_at<Wide>(p->values, at), fetch(p->x + (s + q) * 32, places[s + q]), sum[q]);
      }
    for (; s < p->steps; s++) sum[0] = v_fma(values_at<Wide>(p->values, row + s * 16), fetch(p->x + s * 32, places[s]), sum[0]);
    p->acc[i] = v_sum(v_add(v_add(sum[0], sum[1]), v_add(sum[2], sum[3])));
  }
}

static void pairs(const SparsePairs* p) { (p->type == kSparseF32 ? multiply<true> : multiply<false>)(p); }

extern "C" void sparse_nm_install_avx512(SparseNmKernels* t) { t->pairs = pairs; }
