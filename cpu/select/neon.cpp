// Scores, histograms, threshold scans and masks, 16 elements a step.
// Four comparisons narrow to 16 mask bytes. N:M ranks each element of a run by counting who comes before it, on integer
// keys in the order of the floats: rotations for runs of 4, broadcasts for longer multiples of 4. Block masks expand
// flags through byte tables.
// Sums: eight accumulators of two doubles. n up to 65536 for scan.
#include <arm_neon.h>
#include <string.h>

#include "cpu/select/vector.h"

namespace whittle {
namespace {

// What vector.h needs.
struct Neon {
  typedef float32x4_t F;
  typedef float64x2_t D;
  typedef int32x4_t I;
  typedef uint32x4_t Bad;  // ones while all were numbers
  typedef int32x4_t Shift;
  static constexpr int kWidth = 4;
  static inline F set(float v) { return vdupq_n_f32(v); }
  static inline F load(const float* p) { return vld1q_f32(p); }
  static inline void store(float* p, F v) { vst1q_f32(p, v); }
  static inline F mul(F a, F b) { return vmulq_f32(a, b); }
  static inline F abs(F x) { return vabsq_f32(x); }
  static inline Bad good() { return vdupq_n_u32(~0u); }
  static inline void watch(Bad* bad, F v) { *bad = vandq_u32(*bad, vceqq_f32(v, v)); }
  static inline int is_bad(Bad bad) { return vminvq_u32(bad) == 0; }
  static inline D dset(double v) { return vdupq_n_f64(v); }
  static inline D wide(const float* p) { return vcvt_f64_f32(vld1_f32(p)); }
  static inline D dload(const double* p) { return vld1q_f64(p); }
  static inline void dstore(double* p, D v) { vst1q_f64(p, v); }
  static inline D dadd(D a, D b) { return vaddq_f64(a, b); }
  static inline D dsub(D a, D b) { return vsubq_f64(a, b); }
  static inline D dmul(D a, D b) { return vmulq_f64(a, b); }
  static inline D dfma(D a, D b, D c) { return vfmaq_f64(c, a, b); }
  static inline D dabs(D x) { return vabsq_f64(x); }
  static inline D dmax(D a, D b) { return vmaxq_f64(a, b); }  // NaN if either is one
  static inline I iset(int32_t v) { return vdupq_n_s32(v); }
  static inline I iload(const int32_t* p) { return vld1q_s32(p); }
  static inline void istore(int32_t* p, I v) { vst1q_s32(p, v); }
  static inline I iadd(I a, I b) { return vaddq_s32(a, b); }
  static inline I isub(I a, I b) { return vsubq_s32(a, b); }
  static inline I least(I a, I b) {
    return vreinterpretq_s32_u32(vminq_u32(vreinterpretq_u32_s32(a), vreinterpretq_u32_s32(b)));
  }
  static inline Shift shift(int by) { return vdupq_n_s32(-by); }
  static inline I right(I v, Shift by) { return vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(v), by)); }
  // Signed integers in the order of the floats, -0 equal to +0.
  static inline I keys(F x) {
    const int32x4_t b = vreinterpretq_s32_f32(vaddq_f32(x, vdupq_n_f32(0)));
    return veorq_s32(b, vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(vshrq_n_s32(b, 31)), 1)));
  }
  // before + (a > b)
  static inline I count(I before, I a, I b) { return vsubq_s32(before, vreinterpretq_s32_u32(vcgtq_s32(a, b))); }
  // Bytes of 1 where before < limit.
  static inline void store_flags(uint8_t* to, I before, I limit) {
    const uint16x4_t words = vmovn_u32(vcltq_s32(before, limit));
    const uint8x8_t bytes = vand_u8(vmovn_u16(vcombine_u16(words, words)), vdup_n_u8(1));
    vst1_lane_u32(reinterpret_cast<uint32_t*>(to), vreinterpret_u32_u8(bytes), 0);
  }
};

// All ones where v is a number.
SELECT_INLINE uint32x4_t numbers(float32x4_t v) { return vceqq_f32(v, v); }
SELECT_INLINE int any_missing(uint32x4_t numbers) { return vminvq_u32(numbers) == 0; }

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
  const int32x4_t key = Neon::keys(v);
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

int nm(const float* x, int64_t groups, int keep, int m, uint8_t* mask) {
  if (m == 4) return runs_of_four(x, groups * 4, keep, mask);
  if (m % 16 == 0) return Selector<Neon>::broadcast(x, groups, keep, m, mask);
  return Selector<Neon>::abreast(x, groups, keep, m, mask);
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
  Selector<Neon>::install(table);
  table->scan = scan;
  table->above = above;
  table->nm = nm;
  table->expand = expand;
  table->apply = apply;
}

}  // namespace whittle
