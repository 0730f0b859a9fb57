// Dense float64 kernels (vector.h) on AVX2. Tile 6 x 8: 12 accumulators, two vectors of B, one broadcast.
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

typedef __m256d vd;
static const int kLanes = 4, kMr = 6, kVectors = 2;

INLINE vd vd_zero() { return _mm256_setzero_pd(); }
INLINE vd vd_set(double x) { return _mm256_set1_pd(x); }
INLINE vd vd_load(const double* p) { return _mm256_loadu_pd(p); }
INLINE vd vd_widen(const float* p) { return _mm256_cvtps_pd(_mm_loadu_ps(p)); }
INLINE void vd_store(double* p, vd x) { _mm256_storeu_pd(p, x); }
INLINE __m256i vd_mask(int64_t n) { return _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3)); }
INLINE vd vd_load_part(const double* p, int64_t n) { return _mm256_maskload_pd(p, vd_mask(n)); }
INLINE void vd_store_part(double* p, vd x, int64_t n) { _mm256_maskstore_pd(p, vd_mask(n), x); }
INLINE vd vd_add(vd x, vd y) { return _mm256_add_pd(x, y); }
INLINE vd vd_sub(vd x, vd y) { return _mm256_sub_pd(x, y); }
INLINE vd vd_mul(vd x, vd y) { return _mm256_mul_pd(x, y); }
INLINE vd vd_div(vd x, vd y) { return _mm256_div_pd(x, y); }
INLINE vd vd_fma(vd x, vd y, vd z) { return _mm256_fmadd_pd(x, y, z); }
INLINE vd vd_fnma(vd x, vd y, vd z) { return _mm256_fnmadd_pd(x, y, z); }
INLINE void vd_fma_into(vd& z, vd x, vd y) { z = _mm256_fmadd_pd(x, y, z); }
INLINE double vd_sum(vd x) {
  const __m128d h = _mm_add_pd(_mm256_castpd256_pd128(x), _mm256_extractf128_pd(x, 1));
  return _mm_cvtsd_f64(_mm_add_sd(h, _mm_unpackhi_pd(h, h)));
}

#include "cpu/svd/vector.h"

extern "C" void svd_install_avx2(SvdKernels* t) { install_simd(t); }
