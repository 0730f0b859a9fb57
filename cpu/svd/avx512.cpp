// Dense float64 kernels (vector.h) on AVX-512. Tile 14 x 16: 28 accumulators, two vectors of B, one broadcast.
#define WHITTLE_ISA_FILE
#include "cpu/common/lanes_avx512.h"

#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")
#else
#define INLINE static __forceinline
#define UNROLL
#endif

static const int kMr = 14, kVectors = 2, kPanelRows = 8, kPanelColumns = 16;

// Left to itself g++ 12 mixes in the forms that overwrite a factor, rotates the accumulators and spills.
INLINE void d_fma_into(vd& z, vd x, vd y) {
#if defined(__GNUC__)
  __asm__("vfmadd231pd %2, %1, %0" : "+v"(z) : "v"(x), "v"(y));
#else
  z = _mm512_fmadd_pd(x, y, z);
#endif
}

#include "cpu/svd/vector.h"

extern "C" void svd_install_avx512(SvdKernels* t) { install_simd(t); }
