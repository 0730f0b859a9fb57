// AVX-512 without VNNI: bytes widened to 16 bits (a' when its rows are copied, b' at the load), vpmaddwd and vpaddd on 6 rows x
// 64 columns. Panels [k / 2][64][2]. A pair of products is at most 65280 in magnitude, so vpmaddwd is exact.
#include <immintrin.h>
#define ROWS_OF(V) 6
#define TILE_VECTORS 4
#define GROUP_STEPS 1
#define LANES 16
#define TILE_COLUMNS 64
#define TILE_VECTOR 16
#define K_STEP 2
#define B_BYTES 32
#include "cpu/gemm/int8_epilogue.h"
#include "cpu/gemm/int8_pack.h"

typedef __m512i Vec;
#define ZERO() _mm512_setzero_si512()
#define LOAD_B(p) _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))
#define DOT(sum, a, b) _mm512_add_epi32(sum, _mm512_madd_epi16(a, b))
#define LOAD(p) _mm512_loadu_si512(p)
#define ADD(x, y) _mm512_add_epi32(x, y)
#define STORE(p, x) _mm512_storeu_si512(p, x)
static inline __m512i broadcast4(const uint8_t* p) {
  int32_t v;
  memcpy(&v, p, 4);
  return _mm512_set1_epi32(v);
}
#define BROADCAST_A(p) broadcast4(p)
#if defined(_MSC_VER)
#define OPAQUE(x) ((void)(x))
#else
#define OPAQUE(x) __asm__ volatile("" : "+v"(x))
#endif
#include "cpu/gemm/int8_tile.h"

extern "C" void gemm_int8_install_avx512(whittle::GemmInt8Kernels* t) {
  whittle::install(t);
  t->a_bytes = 2;
  t->shift_u8 = 0;
  t->shift_s8 = 0;
  t->convert = whittle::convert_wide;
}
