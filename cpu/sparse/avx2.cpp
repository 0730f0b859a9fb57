// Sparse products, AVX2: kernels.h with 16 registers: up to 8 vectors for one row, 12 accumulators for 4 rows.
#include <immintrin.h>

#define WHITTLE_ISA_FILE
#include "core/sparse.h"
#include "cpu/common/lanes_avx2.h"
#include "cpu/gemm/activation_avx2.h"
#include "cpu/sparse/turn_x86.h"

#define SPARSE_VECTORS_1 8
#define SPARSE_SINGLE_CHAIN 7
#define SPARSE_VECTORS_2 6
#define SPARSE_VECTORS_4 3
#define SPARSE_VECTORS_8 1
#define V_PREFETCH(p) _mm_prefetch((const char*)(p), _MM_HINT_T0)
#define V_PREFETCH_FAR(p) _mm_prefetch((const char*)(p), _MM_HINT_T1)

// In this form: left to itself g++ 12 copies accumulators.
static inline void v_fma_into(vf& sum, vf w, vf x) {
#if defined(__GNUC__)
  __asm__("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(w), "xm"(x));
#else
  sum = v_fma(w, x, sum);
#endif
}
// The value in both halves of each lane, the lower one cleared.
static inline vf v_broadcast_bf16(const uint16_t* p) {
  return _mm256_castsi256_ps(_mm256_and_si256(_mm256_set1_epi16((short)*p), _mm256_set1_epi32((int)0xffff0000u)));
}
// Single loads: no slower than vgatherdps where its microcode is patched, and emulators get that one wrong.
template <class Index>
static inline vf v_gather(const float* x, const Index* i) {
  return _mm256_setr_ps(x[i[0]], x[i[1]], x[i[2]], x[i[3]], x[i[4]], x[i[5]], x[i[6]], x[i[7]]);
}

#include "cpu/sparse/kernels.h"

extern "C" void sparse_install_avx2(SparseKernels* t) { install(t); }
