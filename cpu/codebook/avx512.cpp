// codebook on AVX-512: 64 entries of a table in four registers, looked up by vpermps and vpermt2ps: 16 or 32 at once.
// Six levels of the search (64 centroids) touch no memory; each deeper one is a gather from the nearest caches.
#include <immintrin.h>

#include "cpu/codebook/vector.h"

namespace whittle {
namespace {

struct Avx512 {
  typedef __m512 F;
  typedef __m512i I;
  typedef __m512d D;
  struct Nodes {
    __m512 r[4];
  };
  static constexpr int kWidth = 16, kGroup = 4, kTop = 6, kValueLevels = 6;
  static inline D zero() { return _mm512_setzero_pd(); }
  static inline I seti(int32_t v) { return _mm512_set1_epi32(v); }
  static inline F load(const float* p) { return _mm512_loadu_ps(p); }
  static inline void store(float* p, F v) { _mm512_storeu_ps(p, v); }
  static inline F subf(F a, F b) { return _mm512_sub_ps(a, b); }
  static inline I sub(I a, I b) { return _mm512_sub_epi32(a, b); }
  static inline void add_square(F d, D* low, D* high) {
    const D a = _mm512_cvtps_pd(_mm512_castps512_ps256(d)), b = _mm512_cvtps_pd(_mm512_extractf32x8_ps(d, 1));
    *low = _mm512_fmadd_pd(a, a, *low);
    *high = _mm512_fmadd_pd(b, b, *high);
  }
  static inline double total(D v) { return _mm512_reduce_add_pd(v); }
  static inline F gather(const float* p, I at) { return _mm512_i32gather_ps(at, p, 4); }
  static inline Nodes load_nodes(const float* p) {
    return {{_mm512_loadu_ps(p), _mm512_loadu_ps(p + 16), _mm512_loadu_ps(p + 32), _mm512_loadu_ps(p + 48)}};
  }
  // 2 * node + 1, and one more where x is beyond t
  static inline I step(I node, F x, F t) {
    const I two = _mm512_add_epi32(node, node);
    const I one = _mm512_set1_epi32(1);
    const I left = _mm512_add_epi32(two, one);
    return _mm512_mask_add_epi32(left, _mm512_cmp_ps_mask(x, t, _CMP_GT_OQ), left, one);
  }
  template <int kLevel>
  static inline F node(const Nodes& r, I at) {
    if (kLevel == 0) return _mm512_broadcastss_ps(_mm512_castps512_ps128(r.r[0]));
    if (kLevel < 4) return _mm512_permutexvar_ps(at, r.r[0]);
    if (kLevel == 4) return _mm512_permutex2var_ps(r.r[0], at, r.r[1]);
    // nodes 31 to 62: 31 is the last of the second register
    const __mmask16 high = _mm512_cmp_epi32_mask(at, _mm512_set1_epi32(31), _MM_CMPINT_NLE);
    return _mm512_mask_blend_ps(high, _mm512_permutexvar_ps(at, r.r[1]), _mm512_permutex2var_ps(r.r[2], at, r.r[3]));
  }
  template <int kLevels>
  static inline F value(const Nodes& r, I at) {
    if (kLevels <= 4) return _mm512_permutexvar_ps(at, r.r[0]);
    const F low = _mm512_permutex2var_ps(r.r[0], at, r.r[1]);
    if (kLevels == 5) return low;
    const __mmask16 high = _mm512_cmp_epi32_mask(at, _mm512_set1_epi32(31), _MM_CMPINT_NLE);
    return _mm512_mask_blend_ps(high, low, _mm512_permutex2var_ps(r.r[2], at, r.r[3]));
  }
  static inline void put(uint8_t* to, const I* v) {
    for (int g = 0; g < kGroup; g++) _mm_storeu_si128((__m128i*)(to + g * 16), _mm512_cvtepi32_epi8(v[g]));
  }
  static inline void put(uint16_t* to, const I* v) {
    for (int g = 0; g < kGroup; g++) _mm256_storeu_si256((__m256i*)(to + g * 16), _mm512_cvtepi32_epi16(v[g]));
  }
  static inline void get(const uint8_t* from, I* v) {
    for (int g = 0; g < kGroup; g++) v[g] = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)(from + g * 16)));
  }
  static inline void get(const uint16_t* from, I* v) {
    for (int g = 0; g < kGroup; g++) v[g] = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(from + g * 16)));
  }
};

}  // namespace
}  // namespace whittle

extern "C" void codebook_install_avx512(whittle::CodebookKernels* t) { whittle::Codebook<whittle::Avx512>::install(t); }
