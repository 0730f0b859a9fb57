// The loops of the avxvnni tier with EVEX-encoded vpdpbusd, which CPUs with AVX512-VNNI run.
#if defined(__x86_64__) && defined(__GNUC__)
#include <stdint.h>
#include <string.h>

#pragma GCC target("avx2,fma,f16c,bmi,bmi2,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")
#pragma GCC optimize("O3")
#define DOT(sum, a, b) _mm256_dpbusd_epi32(sum, a, b)
#include "cpu/gemm/int8_avxvnni.h"

namespace whittle {
void install_vnni256_evex(GemmInt8Kernels* table);
void install_vnni256_evex(GemmInt8Kernels* table) { install_vnni256(table); }
}  // namespace whittle
#endif
