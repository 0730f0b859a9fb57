// The AMX tier; see int8_amx.h. Few rows stay with vpdpbusd's shape of work only through the tile's row count: the product is
// then bound by reading b', not by the tiles.
#include <immintrin.h>
#include <stdint.h>

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
#define TILE_DOT(sum, a, b) _tile_dpbusd(sum, a, b)
#include "cpu/gemm/int8_amx.h"

extern "C" void gemm_int8_install_amx(whittle::GemmInt8Kernels* t) { whittle::install_amx(t); }
