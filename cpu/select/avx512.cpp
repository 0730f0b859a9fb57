// Scores, histograms, threshold scans and masks, 64 elements a step.
// Comparisons land in mask registers; four of them make 64 mask bytes by one masked broadcast, so that writing a mask
// costs a store a line. N:M ranks each element of a run by counting who comes before it: runs of 4 from two in-lane
// shuffles and bit logic on 64 elements at once, longer ones by broadcasting each member of the run.
// Sums: eight accumulators of eight doubles. n up to 65536 for scan.
#include <immintrin.h>
#include <string.h>

#include "cpu/select/one.h"

namespace whittle {
namespace {

SELECT_INLINE __m512 abs_ps(__m512 x) { return _mm512_abs_ps(x); }

SELECT_INLINE __m512 score16(int norm, __m512 x, __m512 g) {
  switch (norm) {
    case kSelectSum:
      return x;
    case kSelectSquare:
      return _mm512_mul_ps(x, x);
    case kSelectSensitivity:
      return abs_ps(_mm512_mul_ps(g, x));
    case kSelectTaylor: {
      const __m512 p = _mm512_mul_ps(g, x);
      return _mm512_mul_ps(p, p);
    }
    default:
      return abs_ps(x);
  }
}

SELECT_INLINE int scores_of(int norm, const float* x, const float* g, int64_t n, float* out) {
  const bool grad = select_uses_grad(norm);
  __mmask16 nan = 0;
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    const __m512 s = score16(norm, _mm512_loadu_ps(x + i), grad ? _mm512_loadu_ps(g + i) : _mm512_setzero_ps());
    nan |= _mm512_cmp_ps_mask(s, s, _CMP_UNORD_Q);
    _mm512_storeu_ps(out + i, s);
  }
  if (i < n) {
    const __mmask16 k = static_cast<__mmask16>((1u << (n - i)) - 1);
    const __m512 s = score16(norm, _mm512_maskz_loadu_ps(k, x + i),
                             grad ? _mm512_maskz_loadu_ps(k, g + i) : _mm512_setzero_ps());
    nan |= _mm512_mask_cmp_ps_mask(k, s, s, _CMP_UNORD_Q);
    _mm512_mask_storeu_ps(out + i, k, s);
  }
  return nan != 0;
}

int scores(int norm, const float* x, const float* g, int64_t n, float* out) {
  switch (norm) {
    case kSelectSum:
      return scores_of(kSelectSum, x, g, n, out);
    case kSelectSquare:
      return scores_of(kSelectSquare, x, g, n, out);
    case kSelectSensitivity:
      return scores_of(kSelectSensitivity, x, g, n, out);
    case kSelectTaylor:
      return scores_of(kSelectTaylor, x, g, n, out);
    default:
      return scores_of(kSelectL1, x, g, n, out);
  }
}

SELECT_INLINE __m512d wide(const float* x) { return _mm512_cvtps_pd(_mm256_loadu_ps(x)); }

// acc + term, or the maximum: absolute values of doubles are in the order of their bits, NaN on top.
SELECT_INLINE __m512d joined(int norm, __m512d acc, __m512d x, __m512d g) {
  switch (norm) {
    case kSelectSum:
      return _mm512_add_pd(acc, x);
    case kSelectL2:
    case kSelectSquare:
      return _mm512_fmadd_pd(x, x, acc);  // the product is exact
    case kSelectSensitivity:
      return _mm512_add_pd(acc, _mm512_abs_pd(_mm512_mul_pd(g, x)));
    case kSelectTaylor:
      return _mm512_fmadd_pd(g, x, acc);
    case kSelectMax:
      return _mm512_castsi512_pd(
          _mm512_max_epi64(_mm512_castpd_si512(acc), _mm512_castpd_si512(_mm512_abs_pd(x))));
    default:
      return _mm512_add_pd(acc, _mm512_abs_pd(x));
  }
}

SELECT_INLINE double reduce_of(int norm, const float* x, const float* g, int64_t n) {
  const bool grad = select_uses_grad(norm);
  const __m512d zero = _mm512_setzero_pd();
  __m512d a[8] = {zero, zero, zero, zero, zero, zero, zero, zero};
  int64_t i = 0;
  for (; i + 64 <= n; i += 64)
    for (int j = 0; j < 8; j++)
      a[j] = joined(norm, a[j], wide(x + i + 8 * j), grad ? wide(g + i + 8 * j) : zero);
  for (; i + 8 <= n; i += 8) a[0] = joined(norm, a[0], wide(x + i), grad ? wide(g + i) : zero);
  double lanes[8], sum = 0;
  for (int j = 0; j < 8; j++) {
    _mm512_storeu_pd(lanes, a[j]);
    for (int l = 0; l < 8; l++) sum = select_join(norm, sum, lanes[l]);
  }
  return select_reduce_tail(norm, x, g, i, n, sum);
}

double reduce(int norm, const float* x, const float* g, int64_t n) {
  switch (norm) {
    case kSelectSum:
      return reduce_of(kSelectSum, x, g, n);
    case kSelectL1:
      return reduce_of(kSelectL1, x, g, n);
    case kSelectMax:
      return reduce_of(kSelectMax, x, g, n);
    case kSelectSensitivity:
      return reduce_of(kSelectSensitivity, x, g, n);
    case kSelectTaylor:
      return reduce_of(kSelectTaylor, x, g, n);
    default:
      return reduce_of(kSelectSquare, x, g, n);
  }
}

SELECT_INLINE void columns_of(int norm, const float* x, const float* g, int64_t n, double* acc) {
  const bool grad = select_uses_grad(norm);
  int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    _mm512_storeu_pd(acc + i, joined(norm, _mm512_loadu_pd(acc + i), wide(x + i), grad ? wide(g + i) : _mm512_setzero_pd()));
  select_columns_tail(norm, x, g, i, n, acc);
}

void columns(int norm, const float* x, const float* g, int64_t n, double* acc) {
  switch (norm) {
    case kSelectSum:
      return columns_of(kSelectSum, x, g, n, acc);
    case kSelectL1:
      return columns_of(kSelectL1, x, g, n, acc);
    case kSelectMax:
      return columns_of(kSelectMax, x, g, n, acc);
    case kSelectSensitivity:
      return columns_of(kSelectSensitivity, x, g, n, acc);
    case kSelectTaylor:
      return columns_of(kSelectTaylor, x, g, n, acc);
    default:
      return columns_of(kSelectSquare, x, g, n, acc);
  }
}

double distance(const float* a, const float* b, int64_t n) {
  __m512d s0 = _mm512_setzero_pd(), s1 = s0, s2 = s0, s3 = s0;
  int64_t i = 0;
  for (; i + 32 <= n; i += 32) {
    const __m512d d0 = _mm512_sub_pd(wide(a + i), wide(b + i)), d1 = _mm512_sub_pd(wide(a + i + 8), wide(b + i + 8));
    const __m512d d2 = _mm512_sub_pd(wide(a + i + 16), wide(b + i + 16));
    const __m512d d3 = _mm512_sub_pd(wide(a + i + 24), wide(b + i + 24));
    s0 = _mm512_fmadd_pd(d0, d0, s0);
    s1 = _mm512_fmadd_pd(d1, d1, s1);
    s2 = _mm512_fmadd_pd(d2, d2, s2);
    s3 = _mm512_fmadd_pd(d3, d3, s3);
  }
  double lanes[8], sum = 0;
  _mm512_storeu_pd(lanes, _mm512_add_pd(_mm512_add_pd(s0, s1), _mm512_add_pd(s2, s3)));
  for (int l = 0; l < 8; l++) sum += lanes[l];
  return select_distance_tail(a, b, i, n, sum);
}

// Signed integers in the order of the floats, -0 equal to +0.
SELECT_INLINE __m512i signed_keys(__m512 x) {
  const __m512i b = _mm512_castps_si512(_mm512_add_ps(x, _mm512_setzero_ps()));
  return _mm512_xor_si512(b, _mm512_srli_epi32(_mm512_srai_epi32(b, 31), 1));
}

// Four tables of 16-bit counters, by position: equal neighbours do not wait for each other's store.
int histogram(const float* x, int64_t n, uint32_t base, int shift, uint32_t* counts) {
  constexpr int kTable = kSelectBins + 32;  // the last entries take what is out of range
  constexpr int64_t kMost = 65520;
  uint16_t tables[4][kTable];
  const __m512i offset = _mm512_set1_epi32(static_cast<int>(0x80000000u - base));
  const __m512i last = _mm512_set1_epi32(kSelectBins);
  const __m128i by = _mm_cvtsi32_si128(shift);
  __mmask16 nan = 0;
  for (int64_t from = 0; from < n; from += 4 * kMost) {
    const int64_t end = n - from < 4 * kMost ? n : from + 4 * kMost;
    memset(tables, 0, sizeof tables);
    int64_t i = from;
    for (; i < end; i += 16) {
      const __mmask16 k = end - i >= 16 ? 0xffff : static_cast<__mmask16>((1u << (end - i)) - 1);
      const __m512 v = _mm512_maskz_loadu_ps(k, x + i);
      nan |= _mm512_mask_cmp_ps_mask(k, v, v, _CMP_UNORD_Q);
      __m512i bin = _mm512_srl_epi32(_mm512_add_epi32(signed_keys(v), offset), by);
      bin = _mm512_mask_min_epu32(last, k, bin, last);
      alignas(64) uint32_t b[16];
      _mm512_store_si512(b, bin);
      for (int j = 0; j < 16; j += 4) {
        tables[0][b[j]]++;
        tables[1][b[j + 1]]++;
        tables[2][b[j + 2]]++;
        tables[3][b[j + 3]]++;
      }
    }
    for (int b = 0; b < kSelectBins; b++)
      counts[b] += static_cast<uint32_t>(tables[0][b]) + tables[1][b] + tables[2][b] + tables[3][b];
  }
  return nan != 0;
}

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
    const __m512i key = signed_keys(v);
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

// m a multiple of 16, up to 64: each member is broadcast and compared with the whole run.
int broadcast(const float* x, int64_t groups, int keep, int m, uint8_t* mask) {
  static const int lower[32] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                                1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
  const __m512i limit = _mm512_set1_epi32(keep), one = _mm512_set1_epi32(1);
  __mmask16 bad = 0;
  for (int64_t group = 0; group < groups; group++, x += m, mask += m) {
    alignas(64) int keys[kSelectRun];
    for (int v = 0; v < m; v += 16) {
      const __m512 f = _mm512_loadu_ps(x + v);
      bad |= _mm512_cmp_ps_mask(f, f, _CMP_UNORD_Q);
      _mm512_store_si512(keys + v, signed_keys(f));
    }
    for (int v = 0; v < m; v += 16) {
      const __m512i key = _mm512_load_si512(keys + v), less = _mm512_sub_epi32(key, one);
      __m512i before = _mm512_setzero_si512();
      for (int j = 0; j < v; j++)
        before = _mm512_mask_add_epi32(before, _mm512_cmpgt_epi32_mask(_mm512_set1_epi32(keys[j]), less), before, one);
      for (int j = v; j < v + 16; j++) {
        const __m512i mine = _mm512_sub_epi32(key, _mm512_loadu_si512(lower + 15 - (j - v)));
        before = _mm512_mask_add_epi32(before, _mm512_cmpgt_epi32_mask(_mm512_set1_epi32(keys[j]), mine), before, one);
      }
      for (int j = v + 16; j < m; j++)
        before = _mm512_mask_add_epi32(before, _mm512_cmpgt_epi32_mask(_mm512_set1_epi32(keys[j]), key), before, one);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(mask + v), bytes_of(_mm512_cmplt_epi32_mask(before, limit)));
    }
  }
  return bad != 0;
}

int nm(const float* x, int64_t groups, int keep, int m, uint8_t* mask) {
  if (m == 4 && keep == 2) return two_of_four(x, groups * 4, mask);
  if (m == 2 || m == 4 || m == 8) return rotated(x, groups * m, keep, m, mask);
  if (m % 16 == 0) return broadcast(x, groups, keep, m, mask);
  int nan = 0;
  for (int64_t i = 0; i < groups; i++) nan |= select_run(x + i * m, keep, m, mask + i * m);
  return nan;
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
  table->scores = scores;
  table->reduce = reduce;
  table->columns = columns;
  table->distance = distance;
  table->histogram = histogram;
  table->scan = scan;
  table->above = above;
  table->nm = nm;
  table->apply = apply;
}

}  // namespace whittle
