// Sparse int8 on AVX-512 without VNNI: the tile of int8_tile16.h on 8 rows x 32 columns, on 16 columns with vectors of half the
// width. One column stays with AVX2, whose x' is the same.
#include <immintrin.h>

#define WHITTLE_ISA_FILE
#include "cpu/sparse/int8_finish.h"

#define ROW_BYTES 32
#define STORE_ROW(p, v, is_signed) \
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), (is_signed) ? _mm256_cvtepi8_epi16(v) : _mm256_cvtepu8_epi16(v))
#include "cpu/sparse/int8_tile16.h"

namespace whittle {
namespace {

struct Zmm {
  typedef __m512i Vec;
  enum { kLanes = 16, kWidest = 8 };
  static inline Vec set(int32_t v) { return _mm512_set1_epi32(v); }
  static inline Vec load(const void* p) { return _mm512_loadu_si512(p); }
  static inline void store(void* p, Vec v) { _mm512_storeu_si512(p, v); }
  static inline Vec low(Vec a, Vec b) { return _mm512_unpacklo_epi16(a, b); }
  static inline Vec high(Vec a, Vec b) { return _mm512_unpackhi_epi16(a, b); }
  static inline Vec madd(Vec a, Vec b) { return _mm512_madd_epi16(a, b); }
  static inline Vec add(Vec a, Vec b) { return _mm512_add_epi32(a, b); }
};

const uint8_t kOrder1[4] = {0, 2, 1, 3};
const uint8_t kOrder2[8] = {0, 4, 1, 5, 2, 6, 3, 7};

void pack(const SparseInt8Pack* p) { pack_rows(p, p->units == 1 ? kOrder1 : kOrder2); }
void tile(const SparseInt8Tile* t) {
  if (t->units == 2) (t->aligned ? tile_of<Zmm, true> : tile_of<Zmm, false>)(t);
  else (t->aligned ? tile_of<Ymm<8>, true> : tile_of<Ymm<8>, false>)(t);
}

}  // namespace
}  // namespace whittle

extern "C" void sparse_int8_install_avx512(whittle::SparseInt8Kernels* t) {
  using namespace whittle;
  t->units = 2;
  t->pack = pack;
  t->tile = tile;
  t->finish = finish;
  t->finish_rows = finish_rows;
  t->turn = turn_words;
}
