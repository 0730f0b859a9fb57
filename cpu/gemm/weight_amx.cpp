// The AMX tier of compressed weights: bfloat16 from 16 rows up; see weight_amx.h. Fewer rows, and integers, stay with the
// weaker tiers.
#include <immintrin.h>

#if defined(__GNUC__)
// g++ 12's intrinsic names no memory, so the stores of the configuration could vanish.
#define TILE_CONFIGURE(c) __asm__ volatile("ldtilecfg %0" ::"m"(*(c)) : "memory")
#else
#define TILE_CONFIGURE(c) _tile_loadconfig(c)
#endif
#define TILE_RELEASE() _tile_release()
#define TILE_ZERO(t) _tile_zero(t)
#define TILE_LOAD(t, p, stride) _tile_loadd(t, p, stride)
#define TILE_STORE(t, p, stride) _tile_stored(t, p, stride)
#define TILE_DOT(sum, a, b) _tile_dpbf16ps(sum, a, b)
#include "cpu/gemm/weight_amx.h"

extern "C" void gemm_weight_install_amx(whittle::WeightKernels* t) { whittle::install_tiles(t); }
