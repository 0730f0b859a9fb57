// 2:4 weights times one column, AVX2: eight values want four each of two registers of x, which two permutations and a blend
// fetch; the indices are pairs of bits of one word. Bound by reading the weights.
#include <immintrin.h>

#define WHITTLE_ISA_FILE
#include "core/sparse_nm.h"
#include "cpu/common/lanes_avx2.h"

using namespace whittle;

template <bool Wide>
static inline vf values_at(const void* values, int64_t at) {
  return Wide ? v_load(static_cast<const float*>(values) + at) : v_widen(static_cast<const uint16_t*>(values) + at);
}

template <bool Wide>
static void multiply(const SparsePairs* p) {
  const __m256i shifts[2] = {_mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14), _mm256_setr_epi32(16, 18, 20, 22, 24, 26, 28, 30)};
  const __m256i base = _mm256_setr_epi32(0, 0, 4, 4, 0, 0, 4, 4), three = _mm256_set1_epi32(3);
  const auto fetch = [&](const float* x, uint32_t places, int half) {
    const __m256i index =
        _mm256_or_si256(base, _mm256_and_si256(three, _mm256_srlv_epi32(_mm256_set1_epi32((int)places), shifts[half])));
    return _mm256_blend_ps(_mm256_permutevar8x32_ps(v_load(x), index), _mm256_permutevar8x32_ps(v_load(x + 8), index), 0xf0);
  };
  for (int64_t i = 0; i < p->rows; i++) {
    const uint32_t* places = p->places + i * p->steps;
    const int64_t row = i * p->steps * kSparseNmStep;
    vf sum[4] = {v_set(0), v_set(0), v_set(0), v_set(0)};
    int64_t s = 0;
    for (; s + 2 <= p->steps; s += 2)
#pragma GCC unroll 4
      for (int q = 0; q < 4; q++) {
        const int64_t at = row + s * 16 + q * 8;
        if (q % (Wide ? 2 : 4) == 0) _mm_prefetch((const char*)p->values + at * (Wide ? 4 : 2) + 2048, _MM_HINT_T0);
        sum[q] = v_fma(values_at<Wide>(p->values, at), fetch(p->x + s * 32 + q * 16, places[s + q / 2], q % 2), sum[q]);
      }
    for (; s < p->steps; s++)
      for (int q = 0; q < 2; q++)
        sum[q] = v_fma(values_at<Wide>(p->values, row + s * 16 + q * 8), fetch(p->x + s * 32 + q * 16, places[s], q), sum[q]);
    p->acc[i] = v_sum(v_add(v_add(sum[0], sum[1]), v_add(sum[2], sum[3])));
  }
}

static void pairs(const SparsePairs* p) { (p->type == kSparseF32 ? multiply<true> : multiply<false>)(p); }

extern "C" void sparse_nm_install_avx2(SparseNmKernels* t) { t->pairs = pairs; }
