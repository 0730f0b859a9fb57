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
  static inline void storei(int32_t* p, I v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
  static inline I either(I a, I b) { return _mm256_or_si256(a, b); }
  static inline F pick(I mask, F yes, F no) { return _mm256_blendv_ps(no, yes, _mm256_castsi256_ps(mask)); }
  static inline bool all_within(F v, F lo, F hi) {
    return _mm256_movemask_ps(_mm256_and_ps(_mm256_cmp_ps(v, lo, _CMP_GE_OQ), _mm256_cmp_ps(v, hi, _CMP_LT_OQ))) == 0xff;
  }
  typedef __m256d D;
  static inline D dset(double v) { return _mm256_set1_pd(v); }
  static inline D dload(const double* p) { return _mm256_loadu_pd(p); }
  static inline void dstore(double* p, D v) { _mm256_storeu_pd(p, v); }
  static inline D dadd(D a, D b) { return _mm256_add_pd(a, b); }
  static inline D dsub(D a, D b) { return _mm256_sub_pd(a, b); }
  static inline D dmul(D a, D b) { return _mm256_mul_pd(a, b); }
  static inline D dfma(D a, D b, D c) { return _mm256_fmadd_pd(a, b, c); }
  static inline double dsum(D v) {
    const __m128d s = _mm_add_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd(v, 1));
    return _mm_cvtsd_f64(_mm_add_sd(s, _mm_unpackhi_pd(s, s)));
  }
  // Lower (0) or upper (1) half, exactly.
  static inline D half(F v, int h) { return _mm256_cvtps_pd(h ? _mm256_extractf128_ps(v, 1) : _mm256_castps256_ps128(v)); }
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

// Pairs to nibbles, nibbles to bytes: as pack4, twice.
static void pack2(const uint8_t* codes, int64_t n, uint8_t* packed) {
  const __m256i mask = _mm256_set1_epi8(3), pairs = _mm256_set1_epi16(0x0401), nibbles = _mm256_set1_epi16(0x1001);
  const auto load = [&](int64_t i) {
    return _mm256_maddubs_epi16(_mm256_and_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + i)), mask), pairs);
  };
  int64_t i = 0;
  for (; i + 128 <= n; i += 128) {
    const __m256i a = _mm256_permute4x64_epi64(_mm256_packus_epi16(load(i), load(i + 32)), 0xd8);
    const __m256i b = _mm256_permute4x64_epi64(_mm256_packus_epi16(load(i + 64), load(i + 96)), 0xd8);
    const __m256i mixed = _mm256_packus_epi16(_mm256_maddubs_epi16(a, nibbles), _mm256_maddubs_epi16(b, nibbles));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(packed + i / 4), _mm256_permute4x64_epi64(mixed, 0xd8));
  }
  for (; i < n; i += 4) {
    int byte = 0;
    for (int64_t j = i; j < i + 4 && j < n; j++) byte |= (codes[j] & 3) << ((j - i) * 2);
    packed[i / 4] = static_cast<uint8_t>(byte);
  }
}

static void unpack2(const uint8_t* packed, int sign, int64_t n, uint8_t* codes) {
  const __m128i mask = _mm_set1_epi8(3), top = _mm_set1_epi8(sign ? 2 : 0);
  int64_t i = 0;
  for (; i + 64 <= n; i += 64) {
    const __m128i b = _mm_loadu_si128(reinterpret_cast<const __m128i*>(packed + i / 4));
    const auto part = [&](__m128i v) { return _mm_sub_epi8(_mm_xor_si128(_mm_and_si128(v, mask), top), top); };
    const __m128i v0 = part(b), v1 = part(_mm_srli_epi16(b, 2)), v2 = part(_mm_srli_epi16(b, 4)), v3 = part(_mm_srli_epi16(b, 6));
    const __m128i lo01 = _mm_unpacklo_epi8(v0, v1), lo23 = _mm_unpacklo_epi8(v2, v3);
    const __m128i hi01 = _mm_unpackhi_epi8(v0, v1), hi23 = _mm_unpackhi_epi8(v2, v3);
    __m128i* to = reinterpret_cast<__m128i*>(codes + i);
    _mm_storeu_si128(to, _mm_unpacklo_epi16(lo01, lo23));
    _mm_storeu_si128(to + 1, _mm_unpackhi_epi16(lo01, lo23));
    _mm_storeu_si128(to + 2, _mm_unpacklo_epi16(hi01, hi23));
    _mm_storeu_si128(to + 3, _mm_unpackhi_epi16(hi01, hi23));
  }
  for (; i < n; i++) {
    const int v = packed[i / 4] >> (i % 4 * 2) & 3;
    codes[i] = static_cast<uint8_t>(sign ? (v ^ 2) - 2 : v);
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
  t->pack2 = pack2;
  t->unpack2 = unpack2;
  t->widen_f16 = widen_f16;
  t->narrow_f16 = narrow_f16;
}
