// The 256-bit VNNI of desktop CPUs, VEX encoded; see int8_avxvnni.h.
#include <immintrin.h>
#define DOT(sum, a, b) _mm256_dpbusd_avx_epi32(sum, a, b)
#include "cpu/gemm/int8_avxvnni.h"

extern "C" void gemm_int8_install_avxvnni(whittle::GemmInt8Kernels* t) { whittle::install_vnni256(t); }
