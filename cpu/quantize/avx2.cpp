// quantize on AVX2: 32 elements a group, packed to bytes by two saturating packs and a permute.
// Half precision by F16C; 4-bit codes by one multiply-add of byte pairs.
#include <immintrin.h>

#include "cpu/quantize/vector.h"

namespace whittle {
namespace {

struct Avx2 {
  typedef __m256 F;
  typedef __m256i I;
  typedef __m256i Bad;
  static constexpr int kWidth = 8, kGroup = 4;
  static inline F set(float v) { return _mm256_set1_ps(v); }
  static inline I seti(int32_t v) { return _mm256_set1_epi32(v); }
  static inline F load(const float* p) { return _mm256_loadu_ps(p); }
  static inline I loadi(const int32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static inline void store(float* p, F v) { _mm256_storeu_ps(p, v); }
  static inline F div(F a, F b) { return _mm256_div_ps(a, b); }
  static inline F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static inline F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static inline F min(F a, F b) { return _mm256_min_ps(a, b); }
  static inline F max(F a, F b) { return _mm256_max_ps(a, b); }
  static inline I nearest(F v) { return _mm256_cvtps_epi32(v); }
  static inline I truncate(F v) { return _mm256_cvttps_epi32(v); }
  static inline F to_float(I v) { return _mm256_cvtepi32_ps(v); }
  static inline I greater(F a, F b) { return _mm256_castps_si256(_mm256_cmp_ps(a, b, _CMP_GT_OQ)); }
  static inline I add(I a, I b) { return _mm256_add_epi32(a, b); }
  static inline I sub(I a, I b) { return _mm256_sub_epi32(a, b); }
  static inline I mul(I a, I b) { return _mm256_mullo_epi32(a, b); }
  static inline I exclusive(I a, I b) { return _mm256_xor_si256(a, b); }
  template <int kBits>
  static inline I right(I a) { return _mm256_srli_epi32(a, kBits); }
  static inline I iota() { return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7); }
  static inline Bad good() { return _mm256_setzero_si256(); }
  static inline void watch(Bad* bad, F v) {
    const __m256i infinity = _mm256_set1_epi32(0x7f800000);
    *bad = _mm256_or_si256(*bad, _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_castps_si256(v), infinity), infinity));
  }
  static inline int is_bad(Bad bad) { return !_mm256_testz_si256(bad, bad); }
  static inline float least(F v) {
    __m128 m = _mm_min_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    m = _mm_min_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_min_ss(m, _mm_shuffle_ps(m, m, 1)));
  }
  static inline float most(F v) {
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_shuffle_ps(m, m, 1)));
  }
  static inline void store_bytes(const I* c, uint8_t* q) {
    const __m256i low = _mm256_set1_epi32(0xff);
    const __m256i a = _mm256_packus_epi32(_mm256_and_si256(c[0], low), _mm256_and_si256(c[1], low));
    const __m256i b = _mm256_packus_epi32(_mm256_and_si256(c[2], low), _mm256_and_si256(c[3], low));
    const __m256i mixed = _mm256_packus_epi16(a, b);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(q),
                        _mm256_permutevar8x32_epi32(mixed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
  }
  static inline void load_bytes(const uint8_t* q, int sign, I* c) {
    for (int g = 0; g < kGroup; g++) {
      const __m128i b = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(q + g * 8));
      c[g] = sign ? _mm256_cvtepi8_epi32(b) : _mm256_cvtepu8_epi32(b);
    }
  }
};

static void pack4(const uint8_t* codes, int64_t n, uint8_t* packed) {
  const __m256i mask = _mm256_set1_epi8(15), weights = _mm256_set1_epi16(0x1001);
  int64_t i = 0;
  for (; i + 64 <= n; i += 64) {
    const __m256i a = _mm256_and_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + i)), mask);
    const __m256i b = _mm256_and_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + i + 32)), mask);
    const __m256i mixed = _mm256_packus_epi16(_mm256_maddubs_epi16(a, weights), _mm256_maddubs_epi16(b, weights));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(packed + i / 2), _mm256_permute4x64_epi64(mixed, 0xd8));
  }
  for (; i < n; i += 2)
    packed[i / 2] = static_cast<uint8_t>((codes[i] & 15) | (i + 1 < n ? (codes[i + 1] & 15) << 4 : 0));
}

static void unpack4(const uint8_t* packed, int sign, int64_t n, uint8_t* codes) {
  const __m128i mask = _mm_set1_epi8(15), top = _mm_set1_epi8(sign ? 8 : 0);
  int64_t i = 0;
  for (; i + 32 <= n; i += 32) {
    const __m128i b = _mm_loadu_si128(reinterpret_cast<const __m128i*>(packed + i / 2));
    const __m128i lo = _mm_sub_epi8(_mm_xor_si128(_mm_and_si128(b, mask), top), top);
    const __m128i hi = _mm_sub_epi8(_mm_xor_si128(_mm_and_si128(_mm_srli_epi16(b, 4), mask), top), top);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + i), _mm_unpacklo_epi8(lo, hi));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + i + 16), _mm_unpackhi_epi8(lo, hi));
  }
  for (; i < n; i++) {
    const int v = packed[i / 2] >> (i % 2 * 4) & 15;
    codes[i] = static_cast<uint8_t>(sign ? (v ^ 8) - 8 : v);
  }
}

static void widen_f16(const uint16_t* x, int64_t n, float* y) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) _mm256_storeu_ps(y + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x + i))));
  for (; i < n; i++) y[i] = _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(x[i])));
}

static void narrow_f16(const float* x, int64_t n, uint16_t* y) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(y + i), _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
  for (; i < n; i++)
    y[i] = static_cast<uint16_t>(_mm_cvtsi128_si32(_mm_cvtps_ph(_mm_set_ss(x[i]), _MM_FROUND_TO_NEAREST_INT)));
}

}  // namespace
}  // namespace whittle

extern "C" void quantize_install_avx2(whittle::QuantizeKernels* t) {
  using namespace whittle;
  Quantizer<Avx2>::install(t);
  t->pack4 = pack4;
  t->unpack4 = unpack4;
  t->widen_f16 = widen_f16;
  t->narrow_f16 = narrow_f16;
}
