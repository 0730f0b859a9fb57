// Scores, histograms, threshold scans and masks, 32 elements a step.
// Four comparisons are packed to 32 mask bytes with two levels of saturating packs and one permutation. N:M ranks each
// element of a run by counting who comes before it, on integer keys in the order of the floats: shuffles for runs of 2
// and 4, rotations for 8, broadcasts for longer ones. Block masks expand flags through byte shuffles.
// Sums: eight accumulators of four doubles. n up to 65536 for scan.
#include <immintrin.h>
#include <string.h>

#include "cpu/select/vector.h"

namespace whittle {
namespace {

// What vector.h needs.
struct Avx2 {
  typedef __m256 F;
  typedef __m256d D;
  typedef __m256i I;
  typedef __m256 Bad;
  typedef __m128i Shift;
  static constexpr int kWidth = 8;
  static inline F set(float v) { return _mm256_set1_ps(v); }
  static inline F load(const float* p) { return _mm256_loadu_ps(p); }
  static inline void store(float* p, F v) { _mm256_storeu_ps(p, v); }
  static inline F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static inline F abs(F x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }
  static inline Bad good() { return _mm256_setzero_ps(); }
  static inline void watch(Bad* bad, F v) { *bad = _mm256_or_ps(*bad, _mm256_cmp_ps(v, v, _CMP_UNORD_Q)); }
  static inline int is_bad(Bad bad) { return _mm256_movemask_ps(bad) != 0; }
  static inline D dset(double v) { return _mm256_set1_pd(v); }
  static inline D wide(const float* p) { return _mm256_cvtps_pd(_mm_loadu_ps(p)); }
  static inline D dload(const double* p) { return _mm256_loadu_pd(p); }
  static inline void dstore(double* p, D v) { _mm256_storeu_pd(p, v); }
  static inline D dadd(D a, D b) { return _mm256_add_pd(a, b); }
  static inline D dsub(D a, D b) { return _mm256_sub_pd(a, b); }
  static inline D dmul(D a, D b) { return _mm256_mul_pd(a, b); }
  static inline D dfma(D a, D b, D c) { return _mm256_fmadd_pd(a, b, c); }
  static inline D dabs(D x) { return _mm256_andnot_pd(_mm256_set1_pd(-0.0), x); }
  // Of absolute values, which are in the order of their bits, NaN on top.
  static inline D dmax(D a, D b) {
    const __m256i more = _mm256_cmpgt_epi64(_mm256_castpd_si256(b), _mm256_castpd_si256(a));
    return _mm256_blendv_pd(a, b, _mm256_castsi256_pd(more));
  }
  static inline I iset(int32_t v) { return _mm256_set1_epi32(v); }
  static inline I iload(const int32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static inline void istore(int32_t* p, I v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
  static inline I iadd(I a, I b) { return _mm256_add_epi32(a, b); }
  static inline I isub(I a, I b) { return _mm256_sub_epi32(a, b); }
  static inline I least(I a, I b) { return _mm256_min_epu32(a, b); }
  static inline Shift shift(int by) { return _mm_cvtsi32_si128(by); }
  static inline I right(I v, Shift by) { return _mm256_srl_epi32(v, by); }
  // Signed integers in the order of the floats, -0 equal to +0.
  static inline I keys(F x) {
    const __m256i b = _mm256_castps_si256(_mm256_add_ps(x, _mm256_setzero_ps()));
    return _mm256_xor_si256(b, _mm256_srli_epi32(_mm256_srai_epi32(b, 31), 1));
  }
  // before + (a > b)
  static inline I count(I before, I a, I b) { return _mm256_sub_epi32(before, _mm256_cmpgt_epi32(a, b)); }
  // Bytes of 1 where before < limit.
  static inline void store_flags(uint8_t* to, I before, I limit) {
    const __m256i stays = _mm256_cmpgt_epi32(limit, before);
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(stays), _mm256_extracti128_si256(stays, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_and_si128(_mm_packs_epi16(words, words), _mm_set1_epi8(1)));
  }
};

struct Four {
  __m256 a, b, c, d;
};
SELECT_INLINE Four load4(const float* x) {
  return {_mm256_loadu_ps(x), _mm256_loadu_ps(x + 8), _mm256_loadu_ps(x + 16), _mm256_loadu_ps(x + 24)};
}
// 32 comparison results of 0 or -1 as 32 bytes of 0 or -1, in order.
SELECT_INLINE __m256i bytes_of(__m256 a, __m256 b, __m256 c, __m256 d) {
  const __m256i ab = _mm256_packs_epi32(_mm256_castps_si256(a), _mm256_castps_si256(b));
  const __m256i cd = _mm256_packs_epi32(_mm256_castps_si256(c), _mm256_castps_si256(d));
  return _mm256_permutevar8x32_epi32(_mm256_packs_epi16(ab, cd), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}
#define WHITTLE_COMPARE(v, bound, how)                                                      \
  bytes_of(_mm256_cmp_ps((v).a, bound, how), _mm256_cmp_ps((v).b, bound, how),              \
           _mm256_cmp_ps((v).c, bound, how), _mm256_cmp_ps((v).d, bound, how))
SELECT_INLINE uint32_t bits_of(__m256i bytes) { return static_cast<uint32_t>(_mm256_movemask_epi8(bytes)); }
SELECT_INLINE void store_mask(uint8_t* to, __m256i bytes) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_and_si256(bytes, _mm256_set1_epi8(1)));
}

void scan(const float* x, int64_t n, float lo, float hi, uint8_t* mask, float* values, uint16_t* index, int64_t room,
          SelectScan* result) {
  const __m256 low = _mm256_set1_ps(lo), high = _mm256_set1_ps(hi);
  SelectScan r = {0, 0, 0};
  uint32_t bad = 0;
  int64_t i = 0;
  for (; i + 32 <= n; i += 32) {
    const Four v = load4(x + i);
    // One stream of loads alone does not get all that memory gives.
    for (int j = 0; j < 32; j += 16) _mm_prefetch(reinterpret_cast<const char*>(x + i + 1024 + j), _MM_HINT_T0);
    // "Not below" and "not at most" are true of a NaN as well, so that `greater` tells it from a number inside.
    const __m256i greater = WHITTLE_COMPARE(v, high, _CMP_GT_OQ), over = WHITTLE_COMPARE(v, high, _CMP_NLE_UQ);
    const __m256i least = WHITTLE_COMPARE(v, low, _CMP_GE_OQ);
    const uint32_t above = bits_of(greater);
    bad |= bits_of(over) ^ above;
    if (mask) store_mask(mask + i, greater);
    r.greater += select_count(above);
    uint32_t inside = bits_of(_mm256_andnot_si256(over, least));
    if (inside) {
      const int count = select_count(inside);
      if (r.inside < room)
        for (int64_t at = r.inside; inside; at++, inside &= inside - 1) {
          const int64_t j = i + select_lowest(inside);
          values[at] = x[j];
          index[at] = static_cast<uint16_t>(j);
        }
      r.inside += count;
    }
  }
  r.nan = bad != 0;
  select_scan_tail(x, i, n, lo, hi, mask, values, index, room, &r);
  *result = r;
}

int above(const float* x, int64_t n, float t, bool strict, uint8_t* mask, int64_t* equal) {
  const __m256 bound = _mm256_set1_ps(t);
  __m256 bad = _mm256_setzero_ps();
  int64_t same = 0, i = 0;
  for (; i + 32 <= n; i += 32) {
    const Four v = load4(x + i);
    bad = _mm256_or_ps(bad, _mm256_or_ps(_mm256_cmp_ps(v.a, v.b, _CMP_UNORD_Q), _mm256_cmp_ps(v.c, v.d, _CMP_UNORD_Q)));
    const __m256i greater = WHITTLE_COMPARE(v, bound, _CMP_GT_OQ), equals = WHITTLE_COMPARE(v, bound, _CMP_EQ_OQ);
    same += select_count(bits_of(equals));
    store_mask(mask + i, strict ? greater : _mm256_or_si256(greater, equals));
  }
  *equal = same;
  return (_mm256_movemask_ps(bad) != 0) | select_above_tail(x, i, n, t, strict, mask, equal);
}

// 1 in the lanes whose place in the run is d or more places before its end: there the rotation by d wraps round, and
// the member compared with has the lower index.
SELECT_INLINE __m256i wraps(int m, int d) {
  const __m256i within = _mm256_and_si256(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(m - 1));
  return _mm256_srli_epi32(_mm256_cmpgt_epi32(_mm256_add_epi32(within, _mm256_set1_epi32(d)), _mm256_set1_epi32(m - 1)), 31);
}

// m is 2, 4 or 8. Answers -1 where an element stays. "Greater or equal" is "greater" than the key less one.
SELECT_INLINE __m256 keeps(int m, __m256 v, __m256i limit, const __m256i* lower, const __m256i* turn) {
  const __m256i key = Avx2::keys(v);
  __m256i before = _mm256_setzero_si256();  // minus the number of those that come before
  for (int d = 1; d < m; d++) {
    const __m256i other = m == 2   ? _mm256_shuffle_epi32(key, 0xb1)
                          : m == 8 ? _mm256_permutevar8x32_epi32(key, turn[d])
                          : d == 1 ? _mm256_shuffle_epi32(key, 0x39)
                          : d == 2 ? _mm256_shuffle_epi32(key, 0x4e)
                                   : _mm256_shuffle_epi32(key, 0x93);
    before = _mm256_add_epi32(before, _mm256_cmpgt_epi32(other, _mm256_sub_epi32(key, lower[d])));
  }
  return _mm256_castsi256_ps(_mm256_cmpgt_epi32(before, limit));
}

SELECT_INLINE int rotated(int m, const float* x, int64_t n, int keep, uint8_t* mask) {
  const __m256i limit = _mm256_set1_epi32(-keep), lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  __m256i lower[8], turn[8];
  for (int d = 1; d < m; d++) {
    lower[d] = wraps(m, d);
    turn[d] = _mm256_and_si256(_mm256_add_epi32(lane, _mm256_set1_epi32(d)), _mm256_set1_epi32(7));
  }
  __m256 bad = _mm256_setzero_ps();
  int64_t i = 0;
  for (; i + 32 <= n; i += 32) {
    const Four v = load4(x + i);
    bad = _mm256_or_ps(bad, _mm256_or_ps(_mm256_cmp_ps(v.a, v.b, _CMP_UNORD_Q), _mm256_cmp_ps(v.c, v.d, _CMP_UNORD_Q)));
    store_mask(mask + i, bytes_of(keeps(m, v.a, limit, lower, turn), keeps(m, v.b, limit, lower, turn),
                                  keeps(m, v.c, limit, lower, turn), keeps(m, v.d, limit, lower, turn)));
  }
  int nan = _mm256_movemask_ps(bad) != 0;
  for (; i < n; i += m) nan |= select_run(x + i, keep, m, mask + i);
  return nan;
}

int nm(const float* x, int64_t groups, int keep, int m, uint8_t* mask) {
  if (m == 2) return rotated(2, x, groups * 2, keep, mask);
  if (m == 4) return rotated(4, x, groups * 4, keep, mask);
  if (m == 8) return rotated(8, x, groups * 8, keep, mask);
  if (m % 16 == 0) return Selector<Avx2>::broadcast(x, groups, keep, m, mask);
  return Selector<Avx2>::abreast(x, groups, keep, m, mask);
}

void expand(const uint8_t* flags, int64_t count, int64_t width, uint8_t* out) {
  if (count == 0) return;
  int64_t i = 0;
  if (width == 1) {
    memcpy(out, flags, static_cast<size_t>(count));
    return;
  }
  if (width <= 16) {
    // 16 flags become `width` vectors: byte b of vector k is flag (16k + b) / width.
    __m128i from[16];
    for (int k = 0; k < width; k++) {
      uint8_t which[16];
      for (int b = 0; b < 16; b++) which[b] = static_cast<uint8_t>((16 * k + b) / width);
      from[k] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(which));
    }
    for (; i + 16 <= count; i += 16) {
      const __m128i f = _mm_loadu_si128(reinterpret_cast<const __m128i*>(flags + i));
      for (int k = 0; k < width; k++)
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i * width + 16 * k), _mm_shuffle_epi8(f, from[k]));
    }
  }
  for (; i < count; i++) memset(out + i * width, flags[i], static_cast<size_t>(width));
}

void apply(const float* x, const uint8_t* mask, int64_t n, float* out) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m256i m = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(mask + i)));
    const __m256 gone = _mm256_castsi256_ps(_mm256_cmpeq_epi32(m, _mm256_setzero_si256()));
    _mm256_storeu_ps(out + i, _mm256_andnot_ps(gone, _mm256_loadu_ps(x + i)));
  }
  for (; i < n; i++) out[i] = mask[i] ? x[i] : 0.0f;
}

}  // namespace

extern "C" void select_install_avx2(SelectKernels* table) {
  Selector<Avx2>::install(table);
  table->scan = scan;
  table->above = above;
  table->nm = nm;
  table->expand = expand;
  table->apply = apply;
}

}  // namespace whittle
