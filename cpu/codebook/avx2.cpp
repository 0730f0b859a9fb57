// codebook on AVX2: 32 entries of a table in four registers, looked up by vpermps, 8 at a time, and blends.
// Five levels of the search (32 centroids) touch no memory; each deeper one loads from the nearest caches.
#include <immintrin.h>

#include "cpu/codebook/vector.h"

namespace whittle {
namespace {

struct Avx2 {
  typedef __m256 F;
  typedef __m256i I;
  typedef __m256d D;
  struct Nodes {
    __m256 r[4];
  };
  static constexpr int kWidth = 8, kGroup = 4, kTop = 5, kValueLevels = 5;
  static inline D zero() { return _mm256_setzero_pd(); }
  static inline I seti(int32_t v) { return _mm256_set1_epi32(v); }
  static inline F load(const float* p) { return _mm256_loadu_ps(p); }
  static inline void store(float* p, F v) { _mm256_storeu_ps(p, v); }
  static inline F subf(F a, F b) { return _mm256_sub_ps(a, b); }
  static inline I sub(I a, I b) { return _mm256_sub_epi32(a, b); }
  static inline void add_square(F d, D* low, D* high) {
    const D a = _mm256_cvtps_pd(_mm256_castps256_ps128(d)), b = _mm256_cvtps_pd(_mm256_extractf128_ps(d, 1));
    *low = _mm256_fmadd_pd(a, a, *low);
    *high = _mm256_fmadd_pd(b, b, *high);
  }
  static inline double total(D v) {
    const __m128d s = _mm_add_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd(v, 1));
    return _mm_cvtsd_f64(_mm_add_sd(s, _mm_unpackhi_pd(s, s)));
  }
  // Single loads: no slower than vgatherdps where its microcode is patched, and emulators get that one wrong.
  static inline F gather(const float* p, I at) {
    int32_t i[8];
    _mm256_storeu_si256((__m256i*)i, at);
    return _mm256_setr_ps(p[i[0]], p[i[1]], p[i[2]], p[i[3]], p[i[4]], p[i[5]], p[i[6]], p[i[7]]);
  }
  static inline Nodes load_nodes(const float* p) {
    return {{_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8), _mm256_loadu_ps(p + 16), _mm256_loadu_ps(p + 24)}};
  }
  static inline I step(I node, F x, F t) {
    const I two = _mm256_add_epi32(node, node);
    const I beyond = _mm256_castps_si256(_mm256_cmp_ps(x, t, _CMP_GT_OQ));
    return _mm256_sub_epi32(_mm256_add_epi32(two, _mm256_set1_epi32(1)), beyond);
  }
  // yes where the place is beyond kLast
  template <int kLast>
  static inline F beyond(I at, F yes, F no) {
    return _mm256_blendv_ps(no, yes, _mm256_castsi256_ps(_mm256_cmpgt_epi32(at, _mm256_set1_epi32(kLast))));
  }
  template <int kLevel>
  static inline F node(const Nodes& r, I at) {
    const F low = _mm256_permutevar8x32_ps(r.r[0], at);
    if (kLevel < 3) return low;
    // nodes 7 to 14: 7 is the last of the first register
    const F second = _mm256_permutevar8x32_ps(r.r[1], at);
    if (kLevel == 3) return beyond<7>(at, second, low);
    // nodes 15 to 30: 15 is the last of the second register
    return beyond<23>(at, _mm256_permutevar8x32_ps(r.r[3], at), beyond<15>(at, _mm256_permutevar8x32_ps(r.r[2], at), second));
  }
  template <int kLevels>
  static inline F value(const Nodes& r, I at) {
    const F low = _mm256_permutevar8x32_ps(r.r[0], at);
    if (kLevels <= 3) return low;
    const F half = beyond<7>(at, _mm256_permutevar8x32_ps(r.r[1], at), low);
    if (kLevels == 4) return half;
    return beyond<23>(at, _mm256_permutevar8x32_ps(r.r[3], at), beyond<15>(at, _mm256_permutevar8x32_ps(r.r[2], at), half));
  }
  static inline void put(uint8_t* to, const I* v) {
    const __m256i a = _mm256_packus_epi32(v[0], v[1]), b = _mm256_packus_epi32(v[2], v[3]);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    _mm256_storeu_si256((__m256i*)to, _mm256_permutevar8x32_epi32(_mm256_packus_epi16(a, b), order));
  }
  static inline void put(uint16_t* to, const I* v) {
    for (int g = 0; g < kGroup; g += 2)
      _mm256_storeu_si256((__m256i*)(to + g * 8), _mm256_permute4x64_epi64(_mm256_packus_epi32(v[g], v[g + 1]), 0xd8));
  }
  static inline void get(const uint8_t* from, I* v) {
    for (int g = 0; g < kGroup; g++) v[g] = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)(from + g * 8)));
  }
  static inline void get(const uint16_t* from, I* v) {
    for (int g = 0; g < kGroup; g++) v[g] = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)(from + g * 8)));
  }
};

}  // namespace
}  // namespace whittle

extern "C" void codebook_install_avx2(whittle::CodebookKernels* t) { whittle::Codebook<whittle::Avx2>::install(t); }
