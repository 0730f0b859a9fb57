// Sparse products, AVX-512: kernels.h with 32 registers: up to 8 vectors for one row, 24 accumulators for 4 and 8 rows.
#include <immintrin.h>

#define WHITTLE_ISA_FILE
#include "core/sparse.h"
#include "cpu/common/lanes_avx512.h"
#include "cpu/gemm/activation_avx512.h"
#include "cpu/sparse/turn_x86.h"

#define SPARSE_VECTORS_1 8
#define SPARSE_SINGLE_CHAIN 6
#define SPARSE_VECTORS_2 6
#define SPARSE_VECTORS_4 6
#define SPARSE_VECTORS_8 3
#define V_PREFETCH(p) _mm_prefetch((const char*)(p), _MM_HINT_T0)
#define V_PREFETCH_FAR(p) _mm_prefetch((const char*)(p), _MM_HINT_T1)

// In this form: left to itself g++ 12 copies accumulators.
static inline void v_fma_into(vf& sum, vf w, vf x) {
#if defined(__GNUC__)
  __asm__("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(w), "vm"(x));
#else
  sum = v_fma(w, x, sum);
#endif
}
// The value in both halves of each lane, the lower one cleared.
static inline vf v_broadcast_bf16(const uint16_t* p) {
  return _mm512_castsi512_ps(_mm512_and_si512(_mm512_set1_epi16((short)*p), _mm512_set1_epi32((int)0xffff0000u)));
}
static inline vf v_gather(const float* x, const uint8_t* index) {
  return _mm512_i32gather_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)index)), x, 4);
}
static inline vf v_gather(const float* x, const uint16_t* index) {
  return _mm512_i32gather_ps(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)index)), x, 4);
}

#include "cpu/sparse/kernels.h"

extern "C" void sparse_install_avx512(SparseKernels* t) { install(t); }
