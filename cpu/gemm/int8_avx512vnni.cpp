// u8 x s8 in one instruction of 64 products: vpdpbusd on 9 rows x 48 columns, 27 sums, 3 vectors of b' and one of a'
// (31 of 32 registers); 6 x 64 for a last panel of 64. Signed a is turned to unsigned by its top bit; the column sums take the
// shift back out. Panels [k / 4][48][4]. vpdpbusd adds its four products in 32 bits: nothing saturates.
#include <immintrin.h>
#define ROWS_OF(V) ((V) >= 4 ? 6 : (V) == 3 ? 9 : 12)
#define TILE_VECTORS 3
#define WIDEST_VECTORS 4
#define LANES 16
#define TILE_COLUMNS 64
#define PANEL_COLUMNS 48
#define TILE_VECTOR 16
#define K_STEP 4
#define B_BYTES 64
#include "cpu/gemm/int8_epilogue.h"
#include "cpu/gemm/int8_pack.h"

typedef __m512i Vec;
#define ZERO() _mm512_setzero_si512()
#define LOAD_B(p) _mm512_loadu_si512(p)
#define DOT(sum, a, b) _mm512_dpbusd_epi32(sum, a, b)
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

namespace whittle {
namespace {
void convert(const GemmInt8Convert* p) { convert_bytes<uint8_t>(p, p->is_signed ? 0x80 : 0); }
}  // namespace
}  // namespace whittle

extern "C" void gemm_int8_install_avx512vnni(whittle::GemmInt8Kernels* t) {
  whittle::install(t);
  t->a_bytes = 1;
  t->shift_u8 = 0;
  t->shift_s8 = 128;
  t->convert = whittle::convert;
}
