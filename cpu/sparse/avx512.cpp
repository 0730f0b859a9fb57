// Sparse products, AVX-512: kernels.h with 32 registers: up to 8 vectors for one row, 24 accumulators for 4 and 8 rows.
#include <immintrin.h>
#include <string.h>

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
// Single loads into their lanes, two indices a word: 1.3 to 1.5 times as fast as vgatherdps where its microcode is patched.
static inline __m256 v_gather8(const float* x, const uint16_t* index) {
  uint32_t i[4];
  memcpy(i, index, 16);
  __m256 v = _mm256_castps128_ps256(_mm_load_ss(x + (i[0] & 0xffff)));
  v = _mm256_mask_broadcastss_ps(v, 2, _mm_load_ss(x + (i[0] >> 16)));
  v = _mm256_mask_broadcastss_ps(v, 4, _mm_load_ss(x + (i[1] & 0xffff)));
  v = _mm256_mask_broadcastss_ps(v, 8, _mm_load_ss(x + (i[1] >> 16)));
  v = _mm256_mask_broadcastss_ps(v, 16, _mm_load_ss(x + (i[2] & 0xffff)));
  v = _mm256_mask_broadcastss_ps(v, 32, _mm_load_ss(x + (i[2] >> 16)));
  v = _mm256_mask_broadcastss_ps(v, 64, _mm_load_ss(x + (i[3] & 0xffff)));
  return _mm256_mask_broadcastss_ps(v, 128, _mm_load_ss(x + (i[3] >> 16)));
}
static inline vf v_gather(const float* x, const uint16_t* index) {
  return _mm512_insertf32x8(_mm512_castps256_ps512(v_gather8(x, index)), v_gather8(x, index + 8), 1);
}

#include "cpu/sparse/kernels.h"

extern "C" void sparse_install_avx512(SparseKernels* t) { install(t); }
