// Dense float64 kernels (vector.h) on Advanced SIMD. Tile 6 x 8: 24 accumulators of two, four vectors of B, one broadcast.
#define WHITTLE_ISA_FILE
#include "cpu/common/lanes_neon.h"

#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")
#else
#define INLINE static __forceinline
#define UNROLL
#endif

static const int kMr = 6, kVectors = 4, kPanelRows = 6, kPanelColumns = 6;

INLINE void d_fma_into(vd& z, vd x, vd y) { z = d_fma(x, y, z); }

#include "cpu/svd/vector.h"

extern "C" void svd_install_neon(SvdKernels* t) { install_simd(t); }
