// quantize on AVX-512: 32 elements a group, so that blocks of 32 need no tail; bytes by vpmovdb.
// Packing and half precision stay AVX2's: they run from L1 and are not what binds.
#include <immintrin.h>

#include "cpu/quantize/vector.h"

namespace whittle {
namespace {

struct Avx512 {
  typedef __m512 F;
  typedef __m512i I;
  typedef __mmask16 Bad;
  static constexpr int kWidth = 16, kGroup = 2;
  static inline F set(float v) { return _mm512_set1_ps(v); }
  static inline I seti(int32_t v) { return _mm512_set1_epi32(v); }
  static inline F load(const float* p) { return _mm512_loadu_ps(p); }
  static inline I loadi(const int32_t* p) { return _mm512_loadu_si512(p); }
  static inline void store(float* p, F v) { _mm512_storeu_ps(p, v); }
  static inline F div(F a, F b) { return _mm512_div_ps(a, b); }
  static inline F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static inline F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static inline F min(F a, F b) { return _mm512_min_ps(a, b); }
  static inline F max(F a, F b) { return _mm512_max_ps(a, b); }
  static inline I nearest(F v) { return _mm512_cvtps_epi32(v); }
  static inline I truncate(F v) { return _mm512_cvttps_epi32(v); }
  static inline F to_float(I v) { return _mm512_cvtepi32_ps(v); }
  static inline I greater(F a, F b) { return _mm512_movm_epi32(_mm512_cmp_ps_mask(a, b, _CMP_GT_OQ)); }
  static inline I add(I a, I b) { return _mm512_add_epi32(a, b); }
  static inline I sub(I a, I b) { return _mm512_sub_epi32(a, b); }
  static inline I mul(I a, I b) { return _mm512_mullo_epi32(a, b); }
  static inline I exclusive(I a, I b) { return _mm512_xor_si512(a, b); }
  template <int kBits>
  static inline I right(I a) { return _mm512_srli_epi32(a, kBits); }
  static inline I iota() { return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15); }
  static inline void storei(int32_t* p, I v) { _mm512_storeu_si512(p, v); }
  static inline I either(I a, I b) { return _mm512_or_si512(a, b); }
  static inline F pick(I mask, F yes, F no) { return _mm512_mask_blend_ps(_mm512_movepi32_mask(mask), no, yes); }
  static inline bool all_within(F v, F lo, F hi) {
    return (_mm512_cmp_ps_mask(v, lo, _CMP_GE_OQ) & _mm512_cmp_ps_mask(v, hi, _CMP_LT_OQ)) == 0xffff;
  }
  typedef __m512d D;
  static inline D dset(double v) { return _mm512_set1_pd(v); }
  static inline D dload(const double* p) { return _mm512_loadu_pd(p); }
  static inline void dstore(double* p, D v) { _mm512_storeu_pd(p, v); }
  static inline D dadd(D a, D b) { return _mm512_add_pd(a, b); }
  static inline D dsub(D a, D b) { return _mm512_sub_pd(a, b); }
  static inline D dmul(D a, D b) { return _mm512_mul_pd(a, b); }
  static inline D dfma(D a, D b, D c) { return _mm512_fmadd_pd(a, b, c); }
  static inline double dsum(D v) { return _mm512_reduce_add_pd(v); }
  // Lower (0) or upper (1) half, exactly.
  static inline D half(F v, int h) { return _mm512_cvtps_pd(h ? _mm512_extractf32x8_ps(v, 1) : _mm512_castps512_ps256(v)); }
  static inline Bad good() { return 0; }
  // 0x99: quiet and signaling NaN, both infinities
  static inline void watch(Bad* bad, F v) { *bad = static_cast<Bad>(*bad | _mm512_fpclass_ps_mask(v, 0x99)); }
  static inline int is_bad(Bad bad) { return bad != 0; }
  static inline float least(F v) { return _mm512_reduce_min_ps(v); }
  static inline float most(F v) { return _mm512_reduce_max_ps(v); }
  static inline void store_bytes(const I* c, uint8_t* q) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(q), _mm512_cvtepi32_epi8(c[0]));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(q + 16), _mm512_cvtepi32_epi8(c[1]));
  }
  static inline void load_bytes(const uint8_t* q, int sign, I* c) {
    for (int g = 0; g < kGroup; g++) {
      const __m128i b = _mm_loadu_si128(reinterpret_cast<const __m128i*>(q + g * 16));
      c[g] = sign ? _mm512_cvtepi8_epi32(b) : _mm512_cvtepu8_epi32(b);
    }
  }
};

}  // namespace
}  // namespace whittle

extern "C" void quantize_install_avx512(whittle::QuantizeKernels* t) {
  whittle::Quantizer<whittle::Avx512>::install(t);
}
