// AVX2: bytes widened to 16 bits (a' when its rows are copied, b' at the load), vpmaddwd and vpaddd on 6 rows x 16 columns,
// 12 sums (15 of 16 registers). Not vpmaddubsw, whose 16-bit sums saturate. Panels [k / 2][16][2].
#include <immintrin.h>
#define ROWS_OF(V) 6
#define TILE_VECTORS 2
#define GROUP_STEPS 4
#define LANES 8
#define TILE_COLUMNS 16
#define TILE_VECTOR 8
#define K_STEP 2
#define B_BYTES 16
#include "cpu/gemm/int8_epilogue.h"
#include "cpu/gemm/int8_pack.h"

typedef __m256i Vec;
#define ZERO() _mm256_setzero_si256()
#define LOAD_B(p) _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))
#if defined(_MSC_VER)
#define DOT(sum, a, b) _mm256_add_epi32(sum, _mm256_madd_epi16(a, b))
#else
// In one piece: a compiler that takes many products before it adds the first has no registers for them.
static inline __m256i dot(__m256i sum, __m256i a, __m256i b) {
  __m256i product;
  __asm__("vpmaddwd %2, %3, %1\n\tvpaddd %1, %0, %0" : "+x"(sum), "=&x"(product) : "x"(b), "x"(a));
  return sum;
}
#define DOT(sum, a, b) dot(sum, a, b)
#endif
#define LOAD(p) _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))
#define WIDE_BYTES 32
#define LOAD_WIDE(p) LOAD(p)
#define WIDEN(to, from) _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), LOAD_B(from))
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

extern "C" void gemm_int8_install_avx2(whittle::GemmInt8Kernels* t) {
  whittle::install(t);
  t->a_bytes = 2;
  t->shift_u8 = 0;
  t->shift_s8 = 0;
  t->convert = whittle::convert_wide;
}
