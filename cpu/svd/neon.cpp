// Dense float64 kernels (vector.h) on Advanced SIMD. Tile 6 x 8: 24 accumulators of two, four vectors of B, one broadcast.
#define WHITTLE_ISA_FILE
#include <arm_neon.h>
#include <stdint.h>

#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")
#else
#define INLINE static __forceinline
#define UNROLL
#endif

typedef float64x2_t vd;
static const int kLanes = 2, kMr = 6, kVectors = 4;

INLINE vd vd_zero() { return vdupq_n_f64(0); }
INLINE vd vd_set(double x) { return vdupq_n_f64(x); }
INLINE vd vd_load(const double* p) { return vld1q_f64(p); }
INLINE vd vd_widen(const float* p) { return vcvt_f64_f32(vld1_f32(p)); }
INLINE void vd_store(double* p, vd x) { vst1q_f64(p, x); }
INLINE vd vd_load_part(const double* p, int64_t n) { return n >= 2 ? vld1q_f64(p) : vsetq_lane_f64(*p, vdupq_n_f64(0), 0); }
INLINE void vd_store_part(double* p, vd x, int64_t n) {
  if (n >= 2) vst1q_f64(p, x);
  else vst1q_lane_f64(p, x, 0);
}
INLINE vd vd_add(vd x, vd y) { return vaddq_f64(x, y); }
INLINE vd vd_sub(vd x, vd y) { return vsubq_f64(x, y); }
INLINE vd vd_mul(vd x, vd y) { return vmulq_f64(x, y); }
INLINE vd vd_div(vd x, vd y) { return vdivq_f64(x, y); }
INLINE vd vd_fma(vd x, vd y, vd z) { return vfmaq_f64(z, x, y); }
INLINE vd vd_fnma(vd x, vd y, vd z) { return vfmsq_f64(z, x, y); }
INLINE void vd_fma_into(vd& z, vd x, vd y) { z = vfmaq_f64(z, x, y); }
INLINE double vd_sum(vd x) { return vaddvq_f64(x); }

#include "cpu/svd/vector.h"

extern "C" void svd_install_neon(SvdKernels* t) { install_simd(t); }
