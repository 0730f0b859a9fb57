// Scores, histograms, threshold scans and masks, 32 elements a step.
// Four comparisons are packed to 32 mask bytes with two levels of saturating packs and one permutation. N:M ranks each
// element of a run by counting who comes before it, on integer keys in the order of the floats: shuffles for runs of 2
// and 4, rotations for 8, broadcasts for longer ones. Block masks expand flags through byte shuffles.
// Sums: eight accumulators of four doubles. n up to 65536 for scan.
#include <immintrin.h>
#include <string.h>

#include "cpu/select/one.h"

namespace whittle {
namespace {

SELECT_INLINE __m256 abs_ps(__m256 x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }
SELECT_INLINE __m256d abs_pd(__m256d x) { return _mm256_andnot_pd(_mm256_set1_pd(-0.0), x); }

SELECT_INLINE __m256 score8(int norm, __m256 x, __m256 g) {
  switch (norm) {
    case kSelectSum:
      return x;
    case kSelectSquare:
      return _mm256_mul_ps(x, x);
    case kSelectSensitivity:
      return abs_ps(_mm256_mul_ps(g, x));
    case kSelectTaylor: {
      const __m256 p = _mm256_mul_ps(g, x);
      return _mm256_mul_ps(p, p);
    }
    default:
      return abs_ps(x);
  }
}

SELECT_INLINE int scores_of(int norm, const float* x, const float* g, int64_t n, float* out) {
  const bool grad = select_uses_grad(norm);
  __m256 nan = _mm256_setzero_ps();
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m256 s = score8(norm, _mm256_loadu_ps(x + i), grad ? _mm256_loadu_ps(g + i) : _mm256_setzero_ps());
    nan = _mm256_or_ps(nan, _mm256_cmp_ps(s, s, _CMP_UNORD_Q));
    _mm256_storeu_ps(out + i, s);
  }
  return (_mm256_movemask_ps(nan) != 0) | select_scores_tail(norm, x, g, i, n, out);
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

SELECT_INLINE __m256d wide(const float* x) { return _mm256_cvtps_pd(_mm_loadu_ps(x)); }

// acc + term, or the maximum: absolute values of doubles are in the order of their bits, NaN on top.
SELECT_INLINE __m256d joined(int norm, __m256d acc, __m256d x, __m256d g) {
  switch (norm) {
    case kSelectSum:
      return _mm256_add_pd(acc, x);
    case kSelectL2:
    case kSelectSquare:
      return _mm256_fmadd_pd(x, x, acc);  // the product is exact
    case kSelectSensitivity:
      return _mm256_add_pd(acc, abs_pd(_mm256_mul_pd(g, x)));
    case kSelectTaylor:
      return _mm256_fmadd_pd(g, x, acc);
    case kSelectMax: {
      const __m256d a = abs_pd(x);
      const __m256i more = _mm256_cmpgt_epi64(_mm256_castpd_si256(a), _mm256_castpd_si256(acc));
      return _mm256_blendv_pd(acc, a, _mm256_castsi256_pd(more));
    }
    default:
      return _mm256_add_pd(acc, abs_pd(x));
  }
}

SELECT_INLINE double reduce_of(int norm, const float* x, const float* g, int64_t n) {
  const bool grad = select_uses_grad(norm);
  const __m256d zero = _mm256_setzero_pd();
  __m256d a[8] = {zero, zero, zero, zero, zero, zero, zero, zero};
  int64_t i = 0;
  for (; i + 32 <= n; i += 32)
    for (int j = 0; j < 8; j++)
      a[j] = joined(norm, a[j], wide(x + i + 4 * j), grad ? wide(g + i + 4 * j) : zero);
  for (; i + 4 <= n; i += 4) a[0] = joined(norm, a[0], wide(x + i), grad ? wide(g + i) : zero);
  double lanes[4], sum = 0;
  for (int j = 0; j < 8; j++) {
    _mm256_storeu_pd(lanes, a[j]);
    for (int l = 0; l < 4; l++) sum = select_join(norm, sum, lanes[l]);
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
  for (; i + 4 <= n; i += 4)
    _mm256_storeu_pd(acc + i, joined(norm, _mm256_loadu_pd(acc + i), wide(x + i), grad ? wide(g + i) : _mm256_setzero_pd()));
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
  __m256d s[4] = {_mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd()};
  int64_t i = 0;
  for (; i + 16 <= n; i += 16)
    for (int j = 0; j < 4; j++) {
      const __m256d d = _mm256_sub_pd(wide(a + i + 4 * j), wide(b + i + 4 * j));
      s[j] = _mm256_fmadd_pd(d, d, s[j]);
    }
  double lanes[4], sum = 0;
  _mm256_storeu_pd(lanes, _mm256_add_pd(_mm256_add_pd(s[0], s[1]), _mm256_add_pd(s[2], s[3])));
  for (int l = 0; l < 4; l++) sum += lanes[l];
  return select_distance_tail(a, b, i, n, sum);
}

// Signed integers in the order of the floats, -0 equal to +0.
SELECT_INLINE __m256i signed_keys(__m256 x) {
  const __m256i b = _mm256_castps_si256(_mm256_add_ps(x, _mm256_setzero_ps()));
  return _mm256_xor_si256(b, _mm256_srli_epi32(_mm256_srai_epi32(b, 31), 1));
}

// Four tables of 16-bit counters, by position: equal neighbours do not wait for each other's store.
int histogram(const float* x, int64_t n, uint32_t base, int shift, uint32_t* counts) {
  constexpr int kTable = kSelectBins + 32;  // the last entries take what is out of range
  constexpr int64_t kMost = 65528;
  uint16_t tables[4][kTable];
  const __m256i offset = _mm256_set1_epi32(static_cast<int>(0x80000000u - base)), last = _mm256_set1_epi32(kSelectBins);
  const __m128i by = _mm_cvtsi32_si128(shift);
  __m256 bad = _mm256_setzero_ps();
  int nan = 0;
  for (int64_t from = 0; from < n; from += 4 * kMost) {
    const int64_t end = n - from < 4 * kMost ? n : from + 4 * kMost;
    memset(tables, 0, sizeof tables);
    int64_t i = from;
    for (; i + 8 <= end; i += 8) {
      const __m256 v = _mm256_loadu_ps(x + i);
      bad = _mm256_or_ps(bad, _mm256_cmp_ps(v, v, _CMP_UNORD_Q));
      const __m256i bin = _mm256_srl_epi32(_mm256_add_epi32(signed_keys(v), offset), by);
      alignas(32) uint32_t b[8];
      _mm256_store_si256(reinterpret_cast<__m256i*>(b), _mm256_min_epu32(bin, last));
      for (int j = 0; j < 8; j += 4) {
        tables[0][b[j]]++;
        tables[1][b[j + 1]]++;
        tables[2][b[j + 2]]++;
        tables[3][b[j + 3]]++;
      }
    }
    for (; i < end; i++) {
      nan |= x[i] != x[i];
      const uint32_t bin = (select_key(x[i]) - base) >> shift;
      if (bin < static_cast<uint32_t>(kSelectBins)) tables[0][bin]++;
    }
    for (int b = 0; b < kSelectBins; b++)
      counts[b] += static_cast<uint32_t>(tables[0][b]) + tables[1][b] + tables[2][b] + tables[3][b];
  }
  return nan | (_mm256_movemask_ps(bad) != 0);
}

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
  const __m256i key = signed_keys(v);
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

// m a multiple of 16, up to 64: each member is broadcast and compared with the whole run.
int broadcast(const float* x, int64_t groups, int keep, int m, uint8_t* mask) {
  static const int lower[16] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1};
  const __m256i limit = _mm256_set1_epi32(-keep), one = _mm256_set1_epi32(1);
  __m256 bad = _mm256_setzero_ps();
  for (int64_t group = 0; group < groups; group++, x += m, mask += m) {
    alignas(32) int keys[kSelectRun];
    alignas(32) int stays[kSelectRun];
    for (int v = 0; v < m; v += 8) {
      const __m256 f = _mm256_loadu_ps(x + v);
      bad = _mm256_or_ps(bad, _mm256_cmp_ps(f, f, _CMP_UNORD_Q));
      _mm256_store_si256(reinterpret_cast<__m256i*>(keys + v), signed_keys(f));
    }
    for (int v = 0; v < m; v += 8) {
      const __m256i key = _mm256_load_si256(reinterpret_cast<const __m256i*>(keys + v)), less = _mm256_sub_epi32(key, one);
      __m256i before = _mm256_setzero_si256();
      for (int j = 0; j < v; j++) before = _mm256_add_epi32(before, _mm256_cmpgt_epi32(_mm256_set1_epi32(keys[j]), less));
      for (int j = v; j < v + 8; j++) {
        const __m256i own = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(lower + 7 - (j - v)));
        before = _mm256_add_epi32(before, _mm256_cmpgt_epi32(_mm256_set1_epi32(keys[j]), _mm256_sub_epi32(key, own)));
      }
      for (int j = v + 8; j < m; j++) before = _mm256_add_epi32(before, _mm256_cmpgt_epi32(_mm256_set1_epi32(keys[j]), key));
      _mm256_store_si256(reinterpret_cast<__m256i*>(stays + v), _mm256_cmpgt_epi32(before, limit));
    }
    for (int v = 0; v < m; v += 16) {
      const __m256i a = _mm256_load_si256(reinterpret_cast<const __m256i*>(stays + v));
      const __m256i b = _mm256_load_si256(reinterpret_cast<const __m256i*>(stays + v + 8));
      const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
      const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(mask + v), _mm_and_si128(bytes, _mm_set1_epi8(1)));
    }
  }
  return _mm256_movemask_ps(bad) != 0;
}

int nm(const float* x, int64_t groups, int keep, int m, uint8_t* mask) {
  if (m == 2) return rotated(2, x, groups * 2, keep, mask);
  if (m == 4) return rotated(4, x, groups * 4, keep, mask);
  if (m == 8) return rotated(8, x, groups * 8, keep, mask);
  if (m % 16 == 0) return broadcast(x, groups, keep, m, mask);
  int nan = 0;
  for (int64_t i = 0; i < groups; i++) nan |= select_run(x + i * m, keep, m, mask + i * m);
  return nan;
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
  table->scores = scores;
  table->reduce = reduce;
  table->columns = columns;
  table->distance = distance;
  table->histogram = histogram;
  table->scan = scan;
  table->above = above;
  table->nm = nm;
  table->expand = expand;
  table->apply = apply;
}

}  // namespace whittle
