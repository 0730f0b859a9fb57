// Scores, histograms, threshold scans and masks, 16 elements a step.
// Four comparisons narrow to 16 mask bytes. N:M ranks each element of a run by counting who comes before it, on integer
// keys in the order of the floats: rotations for runs of 4, broadcasts for longer multiples of 4. Block masks expand
// flags through byte tables.
// Sums: eight accumulators of two doubles. n up to 65536 for scan.
#include <arm_neon.h>
#include <string.h>

#include "cpu/select/one.h"

namespace whittle {
namespace {

SELECT_INLINE float32x4_t score4(int norm, float32x4_t x, float32x4_t g) {
  switch (norm) {
    case kSelectSum:
      return x;
    case kSelectSquare:
      return vmulq_f32(x, x);
    case kSelectSensitivity:
      return vabsq_f32(vmulq_f32(g, x));
    case kSelectTaylor: {
      const float32x4_t p = vmulq_f32(g, x);
      return vmulq_f32(p, p);
    }
    default:
      return vabsq_f32(x);
  }
}

// All ones where v is a number.
SELECT_INLINE uint32x4_t numbers(float32x4_t v) { return vceqq_f32(v, v); }
SELECT_INLINE int any_missing(uint32x4_t numbers) { return vminvq_u32(numbers) == 0; }

SELECT_INLINE int scores_of(int norm, const float* x, const float* g, int64_t n, float* out) {
  const bool grad = select_uses_grad(norm);
  uint32x4_t good = vdupq_n_u32(~0u);
  int64_t i = 0;
  for (; i + 4 <= n; i += 4) {
    const float32x4_t s = score4(norm, vld1q_f32(x + i), grad ? vld1q_f32(g + i) : vdupq_n_f32(0));
    good = vandq_u32(good, numbers(s));
    vst1q_f32(out + i, s);
  }
  return any_missing(good) | select_scores_tail(norm, x, g, i, n, out);
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

SELECT_INLINE float64x2_t wide(const float* x) { return vcvt_f64_f32(vld1_f32(x)); }

// acc + term, or the maximum: FMAX answers NaN if either is one.
SELECT_INLINE float64x2_t joined(int norm, float64x2_t acc, float64x2_t x, float64x2_t g) {
  switch (norm) {
    case kSelectSum:
      return vaddq_f64(acc, x);
    case kSelectL2:
    case kSelectSquare:
      return vfmaq_f64(acc, x, x);  // the product is exact
    case kSelectSensitivity:
      return vaddq_f64(acc, vabsq_f64(vmulq_f64(g, x)));
    case kSelectTaylor:
      return vfmaq_f64(acc, g, x);
    case kSelectMax:
      return vmaxq_f64(acc, vabsq_f64(x));
    default:
      return vaddq_f64(acc, vabsq_f64(x));
  }
}

SELECT_INLINE double reduce_of(int norm, const float* x, const float* g, int64_t n) {
  const bool grad = select_uses_grad(norm);
  const float64x2_t zero = vdupq_n_f64(0);
  float64x2_t a[8] = {zero, zero, zero, zero, zero, zero, zero, zero};
  int64_t i = 0;
  for (; i + 16 <= n; i += 16)
    for (int j = 0; j < 8; j++)
      a[j] = joined(norm, a[j], wide(x + i + 2 * j), grad ? wide(g + i + 2 * j) : zero);
  double sum = 0;
  for (int j = 0; j < 8; j++) {
    sum = select_join(norm, sum, vgetq_lane_f64(a[j], 0));
    sum = select_join(norm, sum, vgetq_lane_f64(a[j], 1));
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
  for (; i + 2 <= n; i += 2)
    vst1q_f64(acc + i, joined(norm, vld1q_f64(acc + i), wide(x + i), grad ? wide(g + i) : vdupq_n_f64(0)));
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
  float64x2_t s[4] = {vdupq_n_f64(0), vdupq_n_f64(0), vdupq_n_f64(0), vdupq_n_f64(0)};
  int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    for (int j = 0; j < 4; j++) {
      const float64x2_t d = vsubq_f64(wide(a + i + 2 * j), wide(b + i + 2 * j));
      s[j] = vfmaq_f64(s[j], d, d);
    }
  return select_distance_tail(a, b, i, n, vaddvq_f64(vaddq_f64(vaddq_f64(s[0], s[1]), vaddq_f64(s[2], s[3]))));
}

// Signed integers in the order of the floats, -0 equal to +0.
SELECT_INLINE int32x4_t signed_keys(float32x4_t x) {
  const int32x4_t b = vreinterpretq_s32_f32(vaddq_f32(x, vdupq_n_f32(0)));
  return veorq_s32(b, vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(vshrq_n_s32(b, 31)), 1)));
}

// Four tables of 16-bit counters, by position: equal neighbours do not wait for each other's store.
int histogram(const float* x, int64_t n, uint32_t base, int shift, uint32_t* counts) {
  constexpr int kTable = kSelectBins + 32;  // the last entries take what is out of range
  constexpr int64_t kMost = 65532;
  uint16_t tables[4][kTable];
  const uint32x4_t offset = vdupq_n_u32(0x80000000u - base), last = vdupq_n_u32(kSelectBins);
  const int32x4_t by = vdupq_n_s32(-shift);
  uint32x4_t good = vdupq_n_u32(~0u);
  int nan = 0;
  for (int64_t from = 0; from < n; from += 4 * kMost) {
    const int64_t end = n - from < 4 * kMost ? n : from + 4 * kMost;
    memset(tables, 0, sizeof tables);
    int64_t i = from;
    for (; i + 4 <= end; i += 4) {
      const float32x4_t v = vld1q_f32(x + i);
      good = vandq_u32(good, numbers(v));
      const uint32x4_t bin = vshlq_u32(vaddq_u32(vreinterpretq_u32_s32(signed_keys(v)), offset), by);
      uint32_t b[4];
      vst1q_u32(b, vminq_u32(bin, last));
      tables[0][b[0]]++;
      tables[1][b[1]]++;
      tables[2][b[2]]++;
      tables[3][b[3]]++;
    }
    for (; i < end; i++) {
      nan |= x[i] != x[i];
      const uint32_t bin = (select_key(x[i]) - base) >> shift;
      if (bin < static_cast<uint32_t>(kSelectBins)) tables[0][bin]++;
    }
    for (int b = 0; b < kSelectBins; b++)
      counts[b] += static_cast<uint32_t>(tables[0][b]) + tables[1][b] + tables[2][b] + tables[3][b];
  }
  return nan | any_missing(good);
}

struct Four {
  float32x4_t a, b, c, d;
};
SELECT_INLINE Four load4(const float* x) { return {vld1q_f32(x), vld1q_f32(x + 4), vld1q_f32(x + 8), vld1q_f32(x + 12)}; }
// 16 results of 0 or -1 as 16 bytes of 0 or -1, in order.
SELECT_INLINE uint8x16_t bytes_of(uint32x4_t a, uint32x4_t b, uint32x4_t c, uint32x4_t d) {
  const uint16x8_t ab = vcombine_u16(vmovn_u32(a), vmovn_u32(b)), cd = vcombine_u16(vmovn_u32(c), vmovn_u32(d));
  return vcombine_u8(vmovn_u16(ab), vmovn_u16(cd));
}
#define WHITTLE_COMPARE(how, v, bound) bytes_of(how((v).a, bound), how((v).b, bound), how((v).c, bound), how((v).d, bound))
SELECT_INLINE void store_mask(uint8_t* to, uint8x16_t bytes) { vst1q_u8(to, vandq_u8(bytes, vdupq_n_u8(1))); }
SELECT_INLINE int count_of(uint8x16_t bytes) { return vaddvq_u8(vandq_u8(bytes, vdupq_n_u8(1))); }
SELECT_INLINE uint32x4_t numbers4(const Four& v) {
  return vandq_u32(vandq_u32(numbers(v.a), numbers(v.b)), vandq_u32(numbers(v.c), numbers(v.d)));
}

void scan(const float* x, int64_t n, float lo, float hi, uint8_t* mask, float* values, uint16_t* index, int64_t room,
          SelectScan* result) {
  const float32x4_t low = vdupq_n_f32(lo), high = vdupq_n_f32(hi);
  SelectScan r = {0, 0, 0};
  uint32x4_t good = vdupq_n_u32(~0u);
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    const Four v = load4(x + i);
    good = vandq_u32(good, numbers4(v));
    const uint8x16_t greater = WHITTLE_COMPARE(vcgtq_f32, v, high);
    const uint8x16_t between = vandq_u8(WHITTLE_COMPARE(vcgeq_f32, v, low), WHITTLE_COMPARE(vcleq_f32, v, high));
    if (mask) store_mask(mask + i, greater);
    r.greater += count_of(greater);
    // A nibble an element.
    uint64_t inside = vget_lane_u64(vreinterpret_u64_u8(vshrn_n_u16(vreinterpretq_u16_u8(between), 4)), 0);
    if (inside) {
      inside &= 0x1111111111111111ull;
      const int count = select_count(inside);
      if (r.inside < room)
        for (int64_t at = r.inside; inside; at++, inside &= inside - 1) {
          const int64_t j = i + select_lowest(inside) / 4;
          values[at] = x[j];
          index[at] = static_cast<uint16_t>(j);
        }
      r.inside += count;
    }
  }
  r.nan = any_missing(good);
  select_scan_tail(x, i, n, lo, hi, mask, values, index, room, &r);
  *result = r;
}

int above(const float* x, int64_t n, float t, bool strict, uint8_t* mask, int64_t* equal) {
  const float32x4_t bound = vdupq_n_f32(t);
  uint32x4_t good = vdupq_n_u32(~0u);
  int64_t same = 0, i = 0;
  for (; i + 16 <= n; i += 16) {
    const Four v = load4(x + i);
    good = vandq_u32(good, numbers4(v));
    const uint8x16_t greater = WHITTLE_COMPARE(vcgtq_f32, v, bound), equals = WHITTLE_COMPARE(vceqq_f32, v, bound);
    same += count_of(equals);
    store_mask(mask + i, strict ? greater : vorrq_u8(greater, equals));
  }
  *equal = same;
  return any_missing(good) | select_above_tail(x, i, n, t, strict, mask, equal);
}

// Runs of four; all ones where an element stays. "Greater or equal" against members of lower index is "greater" than
// the key less one.
SELECT_INLINE uint32x4_t keeps4(float32x4_t v, int32x4_t keep) {
  const int32_t one[4] = {0, 0, 0, 1}, two[4] = {0, 0, 1, 1}, three[4] = {0, 1, 1, 1};
  const int32x4_t key = signed_keys(v);
  uint32x4_t before = vcgtq_s32(vextq_s32(key, key, 1), vsubq_s32(key, vld1q_s32(one)));
  before = vaddq_u32(before, vcgtq_s32(vextq_s32(key, key, 2), vsubq_s32(key, vld1q_s32(two))));
  before = vaddq_u32(before, vcgtq_s32(vextq_s32(key, key, 3), vsubq_s32(key, vld1q_s32(three))));
  return vcgtq_s32(vaddq_s32(vreinterpretq_s32_u32(before), keep), vdupq_n_s32(0));
}

int runs_of_four(const float* x, int64_t n, int keep, uint8_t* mask) {
  const int32x4_t k = vdupq_n_s32(keep);
  uint32x4_t good = vdupq_n_u32(~0u);
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    const Four v = load4(x + i);
    good = vandq_u32(good, numbers4(v));
    store_mask(mask + i, bytes_of(keeps4(v.a, k), keeps4(v.b, k), keeps4(v.c, k), keeps4(v.d, k)));
  }
  int nan = any_missing(good);
  for (; i < n; i += 4) nan |= select_run(x + i, keep, 4, mask + i);
  return nan;
}

// m a multiple of 8, up to 64: each member is broadcast and compared with the whole run.
int broadcast(const float* x, int64_t groups, int keep, int m, uint8_t* mask) {
  static const int32_t lower[8] = {0, 0, 0, 0, 1, 1, 1, 1};
  const int32x4_t limit = vdupq_n_s32(-keep), one = vdupq_n_s32(1);
  uint32x4_t good = vdupq_n_u32(~0u);
  for (int64_t group = 0; group < groups; group++, x += m, mask += m) {
    int32_t keys[kSelectRun];
    uint32x4_t stays[kSelectRun / 4];
    for (int v = 0; v < m; v += 4) {
      const float32x4_t f = vld1q_f32(x + v);
      good = vandq_u32(good, numbers(f));
      vst1q_s32(keys + v, signed_keys(f));
    }
    for (int v = 0; v < m; v += 4) {
      const int32x4_t key = vld1q_s32(keys + v), less = vsubq_s32(key, one);
      uint32x4_t before = vdupq_n_u32(0);
      for (int j = 0; j < v; j++) before = vaddq_u32(before, vcgtq_s32(vdupq_n_s32(keys[j]), less));
      for (int j = v; j < v + 4; j++)
        before = vaddq_u32(before, vcgtq_s32(vdupq_n_s32(keys[j]), vsubq_s32(key, vld1q_s32(lower + 3 - (j - v)))));
      for (int j = v + 4; j < m; j++) before = vaddq_u32(before, vcgtq_s32(vdupq_n_s32(keys[j]), key));
      stays[v / 4] = vcgtq_s32(vreinterpretq_s32_u32(before), limit);
    }
    for (int v = 0; v < m; v += 8) {
      const uint16x8_t words = vcombine_u16(vmovn_u32(stays[v / 4]), vmovn_u32(stays[v / 4 + 1]));
      vst1_u8(mask + v, vand_u8(vmovn_u16(words), vdup_n_u8(1)));
    }
  }
  return any_missing(good);
}

int nm(const float* x, int64_t groups, int keep, int m, uint8_t* mask) {
  if (m == 4) return runs_of_four(x, groups * 4, keep, mask);
  if (m % 8 == 0) return broadcast(x, groups, keep, m, mask);
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
    uint8x16_t from[16];
    for (int k = 0; k < width; k++) {
      uint8_t which[16];
      for (int b = 0; b < 16; b++) which[b] = static_cast<uint8_t>((16 * k + b) / width);
      from[k] = vld1q_u8(which);
    }
    for (; i + 16 <= count; i += 16) {
      const uint8x16_t f = vld1q_u8(flags + i);
      for (int k = 0; k < width; k++) vst1q_u8(out + i * width + 16 * k, vqtbl1q_u8(f, from[k]));
    }
  }
  for (; i < count; i++) memset(out + i * width, flags[i], static_cast<size_t>(width));
}

void apply(const float* x, const uint8_t* mask, int64_t n, float* out) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const uint8x8_t m = vld1_u8(mask + i);
    const int8x8_t keep = vreinterpret_s8_u8(vtst_u8(m, m));
    const int16x8_t wide = vmovl_s8(keep);
    const uint32x4_t a = vreinterpretq_u32_s32(vmovl_s16(vget_low_s16(wide)));
    const uint32x4_t b = vreinterpretq_u32_s32(vmovl_s16(vget_high_s16(wide)));
    vst1q_f32(out + i, vreinterpretq_f32_u32(vandq_u32(a, vreinterpretq_u32_f32(vld1q_f32(x + i)))));
    vst1q_f32(out + i + 4, vreinterpretq_f32_u32(vandq_u32(b, vreinterpretq_u32_f32(vld1q_f32(x + i + 4)))));
  }
  for (; i < n; i++) out[i] = mask[i] ? x[i] : 0.0f;
}

}  // namespace

extern "C" void select_install_neon(SelectKernels* table) {
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
