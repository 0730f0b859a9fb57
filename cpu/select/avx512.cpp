// Scores, histograms, threshold scans and masks, 64 elements a step.
// Comparisons land in mask registers; four of them make 64 mask bytes by one masked broadcast, so that writing a mask
// costs a store a line. N:M ranks each element of a run by counting who comes before it: runs of 4 from two in-lane
// shuffles and bit logic on 64 elements at once, longer ones by broadcasting each member of the run.
// Sums: eight accumulators of eight doubles. n up to 65536 for scan.
#include <immintrin.h>
#include <string.h>

#include "cpu/select/vector.h"

namespace whittle {
namespace {

// What vector.h needs.
struct Avx512 {
  typedef __m512 F;
  typedef __m512d D;
  typedef __m512i I;
  typedef __mmask16 Bad;
  typedef __m128i Shift;
  static constexpr int kWidth = 16;
  static inline F set(float v) { return _mm512_set1_ps(v); }
  static inline F load(const float* p) { return _mm512_loadu_ps(p); }
  static inline void store(float* p, F v) { _mm512_storeu_ps(p, v); }
  static inline F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static inline F abs(F x) { return _mm512_abs_ps(x); }
  static inline Bad good() { return 0; }
  static inline void watch(Bad* bad, F v) { *bad = static_cast<Bad>(*bad | _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q)); }
  static inline int is_bad(Bad bad) { return bad != 0; }
  static inline D dset(double v) { return _mm512_set1_pd(v); }
  static inline D wide(const float* p) { return _mm512_cvtps_pd(_mm256_loadu_ps(p)); }
  static inline D dload(const double* p) { return _mm512_loadu_pd(p); }
  static inline void dstore(double* p, D v) { _mm512_storeu_pd(p, v); }
  static inline D dadd(D a, D b) { return _mm512_add_pd(a, b); }
  static inline D dsub(D a, D b) { return _mm512_sub_pd(a, b); }
  static inline D dmul(D a, D b) { return _mm512_mul_pd(a, b); }
  static inline D dfma(D a, D b, D c) { return _mm512_fmadd_pd(a, b, c); }
  static inline D dabs(D x) { return _mm512_abs_pd(x); }
  // Of absolute values, which are in the order of their bits, NaN on top.
  static inline D dmax(D a, D b) {
    return _mm512_castsi512_pd(_mm512_max_epi64(_mm512_castpd_si512(a), _mm512_castpd_si512(b)));
  }
  static inline I iset(int32_t v) { return _mm512_set1_epi32(v); }
  static inline I iload(const int32_t* p) { return _mm512_loadu_si512(p); }
  static inline void istore(int32_t* p, I v) { _mm512_storeu_si512(p, v); }
  static inline I iadd(I a, I b) { return _mm512_add_epi32(a, b); }
  static inline I isub(I a, I b) { return _mm512_sub_epi32(a, b); }
  static inline I least(I a, I b) { return _mm512_min_epu32(a, b); }
  static inline Shift shift(int by) { return _mm_cvtsi32_si128(by); }
  static inline I right(I v, Shift by) { return _mm512_srl_epi32(v, by); }
  // Signed integers in the order of the floats, -0 equal to +0.
  static inline I keys(F x) {
    const __m512i b = _mm512_castps_si512(_mm512_add_ps(x, _mm512_setzero_ps()));
    return _mm512_xor_si512(b, _mm512_srli_epi32(_mm512_srai_epi32(b, 31), 1));
  }
  // before + (a > b)
  static inline I count(I before, I a, I b) {
    return _mm512_mask_add_epi32(before, _mm512_cmpgt_epi32_mask(a, b), before, _mm512_set1_epi32(1));
  }
  // Bytes of 1 where before < limit.
  static inline void store_flags(uint8_t* to, I before, I limit) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm_maskz_set1_epi8(_mm512_cmplt_epi32_mask(before, limit), 1));
  }
};

SELECT_INLINE uint64_t join4(__mmask16 a, __mmask16 b, __mmask16 c, __mmask16 d) {
  return static_cast<uint64_t>(a) | static_cast<uint64_t>(b) << 16 | static_cast<uint64_t>(c) << 32 |
         static_cast<uint64_t>(d) << 48;
}
SELECT_INLINE void store_mask(uint8_t* to, uint64_t bits) { _mm512_storeu_si512(to, _mm512_maskz_set1_epi8(bits, 1)); }

void scan(const float* x, int64_t n, float lo, float hi, uint8_t* mask, float* values, uint16_t* index, int64_t room,
          SelectScan* result) {
  const __m512 low = _mm512_set1_ps(lo), high = _mm512_set1_ps(hi);
  SelectScan r = {0, 0, 0};
  uint64_t bad = 0;
  int64_t i = 0;
  for (; i + 64 <= n; i += 64) {
    const __m512 a = _mm512_loadu_ps(x + i), b = _mm512_loadu_ps(x + i + 16);
    const __m512 c = _mm512_loadu_ps(x + i + 32), d = _mm512_loadu_ps(x + i + 48);
    // One stream of loads alone does not get all that memory gives.
    for (int j = 0; j < 64; j += 16) _mm_prefetch(reinterpret_cast<const char*>(x + i + 1024 + j), _MM_HINT_T0);
#define WHITTLE_COMPARE(bound, how)                                                                          \
  join4(_mm512_cmp_ps_mask(a, bound, how), _mm512_cmp_ps_mask(b, bound, how), _mm512_cmp_ps_mask(c, bound, how), \
        _mm512_cmp_ps_mask(d, bound, how))
    const uint64_t greater = WHITTLE_COMPARE(high, _CMP_GT_OQ), most = WHITTLE_COMPARE(high, _CMP_LE_OQ);
    const uint64_t least = WHITTLE_COMPARE(low, _CMP_GE_OQ);
    bad |= ~(greater | most);
    if (mask) store_mask(mask + i, greater);
    r.greater += select_count(greater);
    uint64_t inside = most & least;
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
  const __m512 bound = _mm512_set1_ps(t);
  uint64_t bad = 0;
  int64_t same = 0, i = 0;
  for (; i + 64 <= n; i += 64) {
    const __m512 a = _mm512_loadu_ps(x + i), b = _mm512_loadu_ps(x + i + 16);
    const __m512 c = _mm512_loadu_ps(x + i + 32), d = _mm512_loadu_ps(x + i + 48);
    const uint64_t greater = WHITTLE_COMPARE(bound, _CMP_GT_OQ), equals = WHITTLE_COMPARE(bound, _CMP_EQ_OQ);
    bad |= ~(greater | equals | WHITTLE_COMPARE(bound, _CMP_LT_OQ));
    same += select_count(equals);
    store_mask(mask + i, strict ? greater : greater | equals);
  }
  *equal = same;
  return (bad != 0) | select_above_tail(x, i, n, t, strict, mask, equal);
}

// Bit i of the result: element i is not a number.
SELECT_INLINE uint64_t nans(__m512 a, __m512 b, __m512 c, __m512 d) {
  return join4(_mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), _mm512_cmp_ps_mask(b, b, _CMP_UNORD_Q),
               _mm512_cmp_ps_mask(c, c, _CMP_UNORD_Q), _mm512_cmp_ps_mask(d, d, _CMP_UNORD_Q));
}

// Runs of four, two kept. "j beats i" for j > i is x_j > x_i, and for j < i it is not "i beats j", so three comparisons
// a run decide the six pairs: of (1,0) (2,1) (3,2) (3,0) and of (2,0) (3,1).
int two_of_four(const float* x, int64_t n, uint8_t* mask) {
  uint64_t bad = 0;
  int64_t i = 0;
  for (; i + 64 <= n; i += 64) {
    const __m512 a = _mm512_loadu_ps(x + i), b = _mm512_loadu_ps(x + i + 16);
    const __m512 c = _mm512_loadu_ps(x + i + 32), d = _mm512_loadu_ps(x + i + 48);
#define WHITTLE_NEXT(v) \
  _mm512_cmp_ps_mask(_mm512_permute_ps(v, 0xf9), _mm512_permute_ps(v, 0x24), _CMP_GT_OQ) /* 1 2 3 3 over 0 1 2 0 */
#define WHITTLE_AFTER(v) _mm512_cmp_ps_mask(_mm512_permute_ps(v, 0x4e), v, _CMP_GT_OQ)   /* 2 3 . . over 0 1 . . */
    const uint64_t next = join4(WHITTLE_NEXT(a), WHITTLE_NEXT(b), WHITTLE_NEXT(c), WHITTLE_NEXT(d));
    const uint64_t after = join4(WHITTLE_AFTER(a), WHITTLE_AFTER(b), WHITTLE_AFTER(c), WHITTLE_AFTER(d));
    bad |= nans(a, b, c, d);
    const uint64_t top = 0x8888888888888888ull, low = 0x3333333333333333ull, bottom = 0x1111111111111111ull;
    const uint64_t one = next ^ top;                                       // i+1 beats i (mod 4)
    const uint64_t two = (after & low) | (~(after << 2) & ~low);           // i+2 beats i
    const uint64_t three = ~(((one << 1) & ~bottom) | ((one >> 3) & bottom));  // i+3 beats i
    store_mask(mask + i, ~((one & two) | (three & (one | two))));
  }
  int nan = bad != 0;
  for (; i < n; i += 4) nan |= select_run(x + i, 2, 4, mask + i);
  return nan;
}

SELECT_INLINE __m128i bytes_of(__mmask16 k) { return _mm_maskz_set1_epi8(k, 1); }

// m = 2, 4 or 8: who comes before is counted over the rotations of the run. With integer keys, "greater or equal"
// against members of lower index is "greater" against the key less one.
int rotated(const float* x, int64_t n, int keep, int m, uint8_t* mask) {
  const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const __m512i within = _mm512_and_si512(lane, _mm512_set1_epi32(m - 1)), start = _mm512_sub_epi32(lane, within);
  __m512i turn[7], lower[7];
  for (int d = 1; d < m; d++) {
    const __m512i to = _mm512_add_epi32(within, _mm512_set1_epi32(d));
    turn[d - 1] = _mm512_or_si512(start, _mm512_and_si512(to, _mm512_set1_epi32(m - 1)));
    lower[d - 1] = _mm512_maskz_set1_epi32(_mm512_cmpge_epi32_mask(to, _mm512_set1_epi32(m)), 1);
  }
  const __m512i limit = _mm512_set1_epi32(keep), one = _mm512_set1_epi32(1);
  __mmask16 bad = 0;
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    const __m512 v = _mm512_loadu_ps(x + i);
    bad |= _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    const __m512i key = Avx512::keys(v);
    __m512i before = _mm512_setzero_si512();
    for (int d = 0; d < m - 1; d++) {
      const __mmask16 k =
          _mm512_cmpgt_epi32_mask(_mm512_permutexvar_epi32(turn[d], key), _mm512_sub_epi32(key, lower[d]));
      before = _mm512_mask_add_epi32(before, k, before, one);
    }
    _mm_storeu_si128(reinterpret_cast<__m128i*>(mask + i), bytes_of(_mm512_cmplt_epi32_mask(before, limit)));
  }
  int nan = bad != 0;
  for (; i < n; i += m) nan |= select_run(x + i, keep, m, mask + i);
  return nan;
}

int nm(const float* x, int64_t groups, int keep, int m, uint8_t* mask) {
  if (m == 4 && keep == 2) return two_of_four(x, groups * 4, mask);
  if (m == 2 || m == 4 || m == 8) return rotated(x, groups * m, keep, m, mask);
  if (m % 16 == 0) return Selector<Avx512>::broadcast(x, groups, keep, m, mask);
  return Selector<Avx512>::abreast(x, groups, keep, m, mask);
}

void apply(const float* x, const uint8_t* mask, int64_t n, float* out) {
  int64_t i = 0;
  for (; i + 64 <= n; i += 64) {
    const __m512i bytes = _mm512_loadu_si512(mask + i);
    const uint64_t k = _mm512_test_epi8_mask(bytes, bytes);
    for (int j = 0; j < 4; j++)
      _mm512_storeu_ps(out + i + 16 * j, _mm512_maskz_loadu_ps(static_cast<__mmask16>(k >> 16 * j), x + i + 16 * j));
  }
  for (; i < n; i++) out[i] = mask[i] ? x[i] : 0.0f;
}

}  // namespace

extern "C" void select_install_avx512(SelectKernels* table) {
  Selector<Avx512>::install(table);
  table->scan = scan;
  table->above = above;
  table->nm = nm;
  table->apply = apply;
}

}  // namespace whittle
