// 256-bit VNNI: 6 rows x 16 columns, 12 sums, 2 vectors of b' and one of a'. Panels [k / 4][16][4]. The includer picks the
// encoding of vpdpbusd: VEX for the avxvnni tier, EVEX for the native check on CPUs that have only AVX512-VNNI.
#pragma once
#include <immintrin.h>
#define ROWS_OF(V) 6
#define TILE_VECTORS 2
#define LANES 8
#define TILE_COLUMNS 16
#define TILE_VECTOR 8
#define K_STEP 4
#define B_BYTES 32
#include "cpu/gemm/int8_epilogue.h"
#include "cpu/gemm/int8_pack.h"

typedef __m256i Vec;
#define ZERO() _mm256_setzero_si256()
#define LOAD_B(p) _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))
#define LOAD(p) _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))
#define ADD(x, y) _mm256_add_epi32(x, y)
#define STORE(p, x) _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x)
static inline __m256i broadcast4(const uint8_t* p) {
  int32_t v;
  memcpy(&v, p, 4);
  return _mm256_set1_epi32(v);
}
#define BROADCAST_A(p) broadcast4(p)
#if defined(_MSC_VER)
#define OPAQUE(x) ((void)(x))
#else
#define OPAQUE(x) __asm__ volatile("" : "+x"(x))
#endif
#include "cpu/gemm/int8_tile.h"

namespace whittle {
namespace {
void convert(const GemmInt8Convert* p) { convert_bytes<uint8_t>(p, p->is_signed ? 0x80 : 0); }
void install_vnni256(GemmInt8Kernels* t) {
  install(t);
  t->a_bytes = 1;
  t->shift_u8 = 0;
  t->shift_s8 = 128;
  t->convert = convert;
}
}  // namespace
}  // namespace whittle
