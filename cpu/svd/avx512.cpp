// Dense float64 kernels (vector.h) on AVX-512. Tile 14 x 16: 28 accumulators, two vectors of B, one broadcast.
#define WHITTLE_ISA_FILE
#include <immintrin.h>
#include <stdint.h>

#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")
#else
#define INLINE static __forceinline
#define UNROLL
#endif

typedef __m512d vd;
static const int kLanes = 8, kMr = 14, kVectors = 2;

INLINE vd vd_zero() { return _mm512_setzero_pd(); }
INLINE vd vd_set(double x) { return _mm512_set1_pd(x); }
INLINE vd vd_load(const double* p) { return _mm512_loadu_pd(p); }
INLINE vd vd_widen(const float* p) { return _mm512_cvtps_pd(_mm256_loadu_ps(p)); }
INLINE void vd_store(double* p, vd x) { _mm512_storeu_pd(p, x); }
INLINE __mmask8 vd_mask(int64_t n) { return (__mmask8)((1u << n) - 1); }
INLINE vd vd_load_part(const double* p, int64_t n) { return _mm512_maskz_loadu_pd(vd_mask(n), p); }
INLINE void vd_store_part(double* p, vd x, int64_t n) { _mm512_mask_storeu_pd(p, vd_mask(n), x); }
INLINE vd vd_add(vd x, vd y) { return _mm512_add_pd(x, y); }
INLINE vd vd_sub(vd x, vd y) { return _mm512_sub_pd(x, y); }
INLINE vd vd_mul(vd x, vd y) { return _mm512_mul_pd(x, y); }
INLINE vd vd_div(vd x, vd y) { return _mm512_div_pd(x, y); }
INLINE vd vd_fma(vd x, vd y, vd z) { return _mm512_fmadd_pd(x, y, z); }
INLINE vd vd_fnma(vd x, vd y, vd z) { return _mm512_fnmadd_pd(x, y, z); }
INLINE double vd_sum(vd x) { return _mm512_reduce_add_pd(x); }

// Left to itself g++ 12 mixes in the forms that overwrite a factor, rotates the accumulators and spills.
INLINE void vd_fma_into(vd& z, vd x, vd y) {
#if defined(__GNUC__)
  __asm__("vfmadd231pd %2, %1, %0" : "+v"(z) : "v"(x), "v"(y));
#else
  z = _mm512_fmadd_pd(x, y, z);
#endif
}

#include "cpu/svd/vector.h"

extern "C" void svd_install_avx512(SvdKernels* t) { install_simd(t); }
