// From 32-bit sums to what the caller asked for, rows of a tile at a time. Every operation is an IEEE one that rounds by itself
// (multiply-adds are fused only in the activations, where they are written so; no reciprocal estimates), so all variants agree
// to the bit, activations included. The vectors are those of the flags that the including file is compiled with, one float
// where EPILOGUE_SCALAR is defined; TILE_COLUMNS, the columns of its widest panel.
#pragma once
#include <stdint.h>
#include <string.h>

#include "core/gemm_int8.h"
#if defined(EPILOGUE_SCALAR)
#include "cpu/common/vector_scalar.h"
#elif defined(__AVX512F__)
#include "cpu/common/lanes_avx512.h"
#elif defined(__AVX2__)
#include "cpu/common/lanes_avx2.h"
#elif defined(__aarch64__) || defined(_M_ARM64)
#include "cpu/common/lanes_neon.h"
#else
#include "cpu/common/vector_scalar.h"
#endif

// 1 / x within a unit in the last place, by the same steps on every instruction set, in a third of the time of a division.
static inline vf v_quotient(vf x) {
  const vf y = v_seed(x), r = v_fnma(x, y, v_set(1.0f)), z = v_fma(y, v_fma(r, r, r), y);
  return v_fma(z, v_fnma(x, z, v_set(1.0f)), z);
}
#define v_inverse v_quotient
#include "cpu/gemm/activation_math.h"
#undef v_inverse

namespace whittle {
namespace {

// Adding 1.5 * 2^23 rounds |x| < 2^22 half to even, and leaves the integer in the low bits.
constexpr float kRoundMagic = 12582912.0f;
constexpr int32_t kRoundBits = 0x4b400000;
// Floats from 1024 to 2048 are multiples of 2^-13: added to 1536, a number is one with 13 bits behind the point.
constexpr int kFineBits = 13;
constexpr int32_t kFineOne = 1 << kFineBits, kFineZero = 0x44c00000;  // the bits of 1536
// Farther from zero than any code, and less than those floats span.
constexpr float kFarSteps = 400.0f;

#if defined(__GNUC__)
#define WHITTLE_LIKELY(x) __builtin_expect(x, 1)
#else
#define WHITTLE_LIKELY(x) (x)
#endif

// Sums as floats: VF_LANES of them, or the first n with 0 beyond.
static inline vf v_from_sums(const int32_t* p, bool whole, int64_t n) {
#if VF_LANES == 16
  return _mm512_cvtepi32_ps(_mm512_maskz_loadu_epi32(whole ? 0xffff : v_first(n), p));
#elif VF_LANES == 8
  const __m256i* at = reinterpret_cast<const __m256i*>(p);
  return _mm256_cvtepi32_ps(whole ? _mm256_loadu_si256(at) : _mm256_maskload_epi32(p, v_first(n)));
#elif VF_LANES == 4
  int32_t lanes[4] = {0, 0, 0, 0};
  if (whole) return vcvtq_f32_s32(vld1q_s32(p));
  for (int64_t i = 0; i < n; i++) lanes[i] = p[i];
  return vcvtq_f32_s32(vld1q_s32(lanes));
#else
  return static_cast<float>(whole || n ? *p : 0);
#endif
}

// Bytes as floats, each with its bits in `flip` turned: VF_LANES of them, or the first n with anything beyond.
static inline vf v_from_bytes(const uint8_t* p, uint8_t flip, bool whole, int64_t n) {
#if VF_LANES == 16
  const __m128i bytes = whole ? _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)) : _mm_maskz_loadu_epi8(v_first(n), p);
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_xor_si128(bytes, _mm_set1_epi8(static_cast<char>(flip)))));
#else
  uint8_t bytes[VF_LANES] = {0};
  memcpy(bytes, p, whole ? VF_LANES : static_cast<size_t>(n));
#if VF_LANES == 8
  const __m128i eight = _mm_xor_si128(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes)), _mm_set1_epi8(static_cast<char>(flip)));
  return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(eight));
#elif VF_LANES == 4
  uint32_t four;
  memcpy(&four, bytes, 4);
  const uint8x8_t turned = veor_u8(vreinterpret_u8_u32(vdup_n_u32(four)), vdup_n_u8(flip));
  return vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(turned))));
#else
  return static_cast<float>(bytes[0] ^ flip);
#endif
#endif
}

// Integers, one a lane of vi.
#if VF_LANES == 16
typedef __m512i vi;
static inline vi v_bits_of(vf x) { return _mm512_castps_si512(x); }
static inline vi i_set(int32_t x) { return _mm512_set1_epi32(x); }
static inline vi i_sub(vi a, vi b) { return _mm512_sub_epi32(a, b); }
static inline vi i_down(vi a) { return _mm512_srai_epi32(a, kFineBits); }
static inline bool i_clear(vi a, vi bits) { return _mm512_testn_epi32_mask(a, bits) != 0; }
static inline vi i_and(vi a, vi b) { return _mm512_and_si512(a, b); }
// Whether any lane of four is 0; none is negative.
static inline bool i_any_zero(const vi* a) {
  const vi least = _mm512_min_epi32(_mm512_min_epi32(a[0], a[1]), _mm512_min_epi32(a[2], a[3]));
  return _mm512_testn_epi32_mask(least, least) != 0;
}
#elif VF_LANES == 8
typedef __m256i vi;
static inline vi v_bits_of(vf x) { return _mm256_castps_si256(x); }
static inline vi i_set(int32_t x) { return _mm256_set1_epi32(x); }
static inline vi i_sub(vi a, vi b) { return _mm256_sub_epi32(a, b); }
static inline vi i_down(vi a) { return _mm256_srai_epi32(a, kFineBits); }
static inline bool i_clear(vi a, vi bits) {
  const __m256i none = _mm256_cmpeq_epi32(_mm256_and_si256(a, bits), _mm256_setzero_si256());
  return _mm256_movemask_ps(_mm256_castsi256_ps(none)) != 0;
}
static inline vi i_and(vi a, vi b) { return _mm256_and_si256(a, b); }
static inline bool i_any_zero(const vi* a) {
  const vi least = _mm256_min_epi32(_mm256_min_epi32(a[0], a[1]), _mm256_min_epi32(a[2], a[3]));
  return _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpeq_epi32(least, _mm256_setzero_si256()))) != 0;
}
#elif VF_LANES == 4
typedef int32x4_t vi;
static inline vi v_bits_of(vf x) { return vreinterpretq_s32_f32(x); }
static inline vi i_set(int32_t x) { return vdupq_n_s32(x); }
static inline vi i_sub(vi a, vi b) { return vsubq_s32(a, b); }
static inline vi i_down(vi a) { return vshrq_n_s32(a, kFineBits); }
static inline bool i_clear(vi a, vi bits) { return vminvq_u32(vreinterpretq_u32_s32(vandq_s32(a, bits))) == 0; }
#else
typedef int32_t vi;
static inline vi v_bits_of(vf x) { return v_bits(x); }
static inline vi i_sub(vi a, vi b) { return a - b; }
static inline vi i_set(int32_t x) { return x; }
#endif

// The bytes nearest to integers, of the type's range, which are 128 less where that is uint8: VF_LANES of them, or the first n.
static inline void v_store_bytes(uint8_t* y, vi i, bool is_signed, int64_t n) {
#if VF_LANES == 16
  const __m128i bytes = _mm_xor_si128(_mm512_cvtsepi32_epi8(i), _mm_set1_epi8(is_signed ? 0 : -128));
  if (n >= VF_LANES) _mm_storeu_si128(reinterpret_cast<__m128i*>(y), bytes);
  else _mm_mask_storeu_epi8(y, v_first(n), bytes);
#else
  uint8_t bytes[VF_LANES];
#if VF_LANES == 8
  const __m128i pairs = _mm_packs_epi32(_mm256_castsi256_si128(i), _mm256_extracti128_si256(i, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(bytes), _mm_xor_si128(_mm_packs_epi16(pairs, pairs), _mm_set1_epi8(is_signed ? 0 : -128)));
#elif VF_LANES == 4
  const int16x4_t pairs = vqmovn_s32(i);
  const int8x8_t four = veor_s8(vqmovn_s16(vcombine_s16(pairs, pairs)), vdup_n_s8(is_signed ? 0 : -128));
  vst1_lane_u32(reinterpret_cast<uint32_t*>(bytes), vreinterpret_u32_s8(four), 0);
#else
  bytes[0] = static_cast<uint8_t>((i < -128 ? -128 : i > 127 ? 127 : i) ^ (is_signed ? 0 : 0x80));
#endif
  memcpy(y, bytes, static_cast<size_t>(n < VF_LANES ? n : VF_LANES));
#endif
}

// x / step, correctly rounded, by the reciprocal of step and two remainders (Markstein), which costs a third of a division.
// Needs |x| <= 512 step and a step far from the ends of the range; where |x / step| < 1/4, only that is sure.
static inline vf v_divide(vf x, vf step, vf reciprocal) {
  vf q = v_mul(x, reciprocal);
  q = v_fma(v_fnma(q, step, x), reciprocal, q);
  return v_fma(v_fnma(q, step, x), reciprocal, q);
}

#if defined(__GNUC__) && !defined(__clang__)
// A loop of 16 is otherwise unrolled into scalars before it can become vectors.
#define WHITTLE_VECTOR_LOOP _Pragma("GCC unroll 1")
#else
#define WHITTLE_VECTOR_LOOP
#endif


// What codes are made with: x to the integer nearest to x / step, as a division that rounds correctly has it, half to even.
struct CodeStep {
  vf step, reciprocal, eighth, low, high, far, minus_far;
  bool usual, is_signed;
  int32_t shift;  // of the codes, less 128 where they are uint8
  vi fine_zero, middle;
};

static inline CodeStep code_step(float step, int32_t zero, bool is_signed) {
  const int32_t least = is_signed ? -128 : 0;
  CodeStep s;
  s.step = v_set(step);
  s.reciprocal = v_set(1.0f / step);
  s.eighth = v_set(0.125f * step);
  // The bounds are integers, so clamping before rounding gives what rounding first would.
  s.low = v_set(static_cast<float>(least - zero));
  s.high = v_set(static_cast<float>(least + 255 - zero));
  s.far = v_set(kFarSteps * step);
  s.minus_far = v_set(-kFarSteps * step);
  s.usual = step > 0x1p-60f && step < 0x1p60f;
  s.is_signed = is_signed;
  s.shift = zero - 128 - least;
  s.fine_zero = i_set(kFineZero - s.shift * kFineOne);
  s.middle = i_set(s.usual ? kFineOne - 4 : 0);
  return s;
}

// What every row of a tile needs.
struct EpilogueRows {
  const GemmInt8Epilogue* e;
  int64_t column, columns;
  const int32_t* sums;  // `width` apart by row
  int64_t rows, width;
  uint8_t* out;
  int64_t out_stride;  // bytes
  float* range;
  const CodeStep* step;  // where codes are made
};

// A call would send every vector in registers through memory and back.
#if defined(__GNUC__)
#define WHITTLE_INLINE static inline __attribute__((always_inline))
#else
#define WHITTLE_INLINE static inline
#endif

// -far <= x <= far
WHITTLE_INLINE vi codes_exact(vf x, const CodeStep& s) {
#if VF_LANES > 1
  // What rounds to 0 anyway is 0 at once: remainders of tiny numbers fall below the normal range, which is slow.
  if (s.usual) x = v_divide(v_select(v_less(v_abs(x), s.eighth), v_set(0.0f), x), s.step, s.reciprocal);
  else
#endif
    x = v_div(x, s.step);
  return i_sub(v_bits_of(v_add(v_min(s.high, v_max(s.low, x)), v_set(kRoundMagic))), i_set(kRoundBits - s.shift));
}

// -far <= x <= far. The product with the reciprocal of the step is within 0.7 of 2^-13 of what rounds: only where it lies two of
// those or less from the middle between integers, which one vector in a hundred has, need the division decide.
WHITTLE_INLINE vi codes_of(vf x, const CodeStep& s) {
#if VF_LANES > 1
  const vi fine = v_bits_of(v_fma(x, s.reciprocal, v_set(1536.5f + 2.0f / kFineOne)));
  if (WHITTLE_LIKELY(!i_clear(fine, s.middle))) return i_down(i_sub(fine, s.fine_zero));
#endif
  return codes_exact(x, s);
}

// What becomes of a sum: a float, a byte, a float that takes a residual along or is among those whose range is wanted, or a byte of
// a sum with a residual.
enum { kFloats = 0, kBytes = 1, kWatched = 2, kAdded = 3 };

struct Watch {
  vf lowest, highest;
};

// What is added to a row of sums: floats, codes, or (both null) nothing.
struct Residual {
  const float* floats;
  const uint8_t* codes;
  uint8_t flip;
  vf zero, scale;  // of codes with their bits in `flip` turned
};

WHITTLE_INLINE vf v_residual(vf x, const Residual& r, int64_t j, int64_t n) {
  const bool whole = n == VF_LANES;
  if (r.codes) return v_add(x, v_mul(v_sub(v_from_bytes(r.codes + j, r.flip, whole, n), r.zero), r.scale));
  return r.floats ? v_add(x, whole ? v_load(r.floats + j) : v_load_part(r.floats + j, n, v_set(0.0f))) : x;
}

// That of the row of results at `out`.
WHITTLE_INLINE Residual residual_at(const GemmInt8Epilogue* e, const uint8_t* out) {
  const int64_t at = (out - static_cast<const uint8_t*>(e->out_base)) / (e->out_type == kOutFloat32 ? 4 : 1);
  Residual r;
  r.floats = e->residual ? e->residual + at : nullptr;
  r.codes = e->added.codes ? e->added.codes + at : nullptr;
  r.flip = e->added.is_signed ? 0x80 : 0;
  r.zero = v_set(static_cast<float>(e->added.zero + r.flip));
  r.scale = v_set(e->added.scale);
  return r;
}

template <int32_t kKind, int kWhat>
WHITTLE_INLINE void epilogue_vector(const CodeStep& s, vf lo, vf hi, vf scale, vf bias, const Residual& residual, const int32_t* sums,
                                    int64_t j, int64_t n, Watch* watch, uint8_t* out) {
  const bool whole = n == VF_LANES;
  vf x = v_add(v_mul(v_from_sums(sums + j, whole, n), scale), bias);
  if (kWhat == kWatched || kWhat == kAdded) x = v_residual(x, residual, j, n);
  x = act_apply(x, kKind, lo, hi);
  if (kWhat == kBytes || kWhat == kAdded) {
    // Bounds of a clip lie within those.
    if (kKind != kActivationClip) x = v_min(s.far, v_max(s.minus_far, x));
    v_store_bytes(out + j, codes_of(x, s), s.is_signed, n);
  } else {
    float* to = reinterpret_cast<float*>(out) + j;
    if (whole) v_store(to, x);
    else v_store_part(to, x, n);
#if VF_LANES > 1
    if (kWhat == kWatched && !whole) x = v_keep(x, n);
#endif
    if (kWhat == kWatched) {
      watch->lowest = v_min(watch->lowest, x);
      watch->highest = v_max(watch->highest, x);
    }
  }
}

template <int32_t kKind, int kWhat>
static void epilogue_kind(const EpilogueRows* r) {
  const GemmInt8Epilogue* e = r->e;
  constexpr bool kCodes = kWhat == kBytes || kWhat == kAdded;
  // A copy, so that stores of bytes do not reach it.
  CodeStep s;
  if (kCodes) s = *r->step;
  vf lo = v_set(e->activation.lo), hi = v_set(e->activation.hi);
  if (kCodes && kKind == kActivationClip) {
    lo = v_min(s.far, v_max(s.minus_far, lo));
    hi = v_min(s.far, v_max(s.minus_far, hi));
  }
  // Locals: what bytes are stored to might be anything to a compiler.
  const int64_t n = r->columns, wholes = n / VF_LANES * VF_LANES, rows = r->rows, width = r->width, stride = r->out_stride;
  const float *scale = e->scale + r->column, *bias = e->bias + r->column;
  const int32_t* sums = r->sums;
  uint8_t* out = r->out;
  Residual residual = {};
  if (kWhat == kWatched || kWhat == kAdded) residual = residual_at(e, out);
  const int64_t next = stride / (kCodes ? 1 : 4);
  Watch watch = {v_set(0.0f), v_set(0.0f)};
  const vf none = v_set(0.0f);
  vf tail_scale = none, tail_bias = none;
  if (wholes < n) {
    tail_scale = v_load_part(scale + wholes, n - wholes, none);
    tail_bias = v_load_part(bias + wholes, n - wholes, none);
  }
  if (kWhat == kBytes && n == VF_LANES) {
    const vf one_scale = v_load(scale), one_bias = v_load(bias);
    for (int64_t i = 0; i < rows; i++, sums += width, out += stride)
      epilogue_vector<kKind, kWhat>(s, lo, hi, one_scale, one_bias, residual, sums, 0, VF_LANES, &watch, out);
    return;
  }
  for (int64_t i = 0; i < rows; i++, sums += width, out += stride) {
    for (int64_t j = 0; j < wholes; j += VF_LANES)
      epilogue_vector<kKind, kWhat>(s, lo, hi, v_load(scale + j), v_load(bias + j), residual, sums, j, VF_LANES, &watch, out);
    if (wholes < n) epilogue_vector<kKind, kWhat>(s, lo, hi, tail_scale, tail_bias, residual, sums, wholes, n - wholes, &watch, out);
    if (residual.floats) residual.floats += next;
    if (residual.codes) residual.codes += next;
  }
  if (kWhat == kWatched && r->range) {
    v_store(r->range, v_min(v_load(r->range), watch.lowest));
    v_store(r->range + kGemmInt8Lanes, v_max(v_load(r->range + kGemmInt8Lanes), watch.highest));
  }
}

// What the codes of an epilogue are made with, once for many tiles.
static inline CodeStep epilogue_step(const GemmInt8Epilogue* e) {
  return e->out_type == kOutInt8 || e->out_type == kOutUint8 ? code_step(e->out_scale, e->out_zero, e->out_type == kOutInt8) : CodeStep();
}

static void epilogue_floats(const EpilogueRows* r) {
  const bool bytes = r->e->out_type != kOutFloat32, added = r->e->residual || r->e->added.codes;
  switch (r->e->activation.kind) {
#define KIND(kind)                                                                                  \
  case kind:                                                                                        \
    return bytes ? (added ? epilogue_kind<kind, kAdded>(r) : epilogue_kind<kind, kBytes>(r))        \
                 : (added || r->range ? epilogue_kind<kind, kWatched>(r) : epilogue_kind<kind, kFloats>(r));
    KIND(kActivationClip)
    KIND(kActivationHardswish)
    KIND(kActivationHardswishAffine)
    KIND(kActivationSigmoid)
    KIND(kActivationTanh)
    KIND(kActivationSilu)
    KIND(kActivationGelu)
    KIND(kActivationGeluTanh)
    KIND(kActivationNone)
#undef KIND
    default: return;
  }
}

// A tile's rows. `acc` holds the sums, the offset among them, `width` apart by row, and is overwritten; row_sums is null
// unless the epilogue has zero points of b.
static inline void epilogue_rows(const GemmInt8Epilogue* e, int64_t column, int64_t columns, const int32_t* row_sums, int64_t rows,
                                 int32_t* acc, int64_t width, void* out, int64_t out_stride, const CodeStep* step, float* range = nullptr) {
  if (e->b_zero) {
    const int32_t* __restrict zero = e->b_zero + column;
    for (int64_t r = 0; r < rows; r++) {
      int32_t* __restrict row = acc + r * width;
      const uint32_t sum = static_cast<uint32_t>(row_sums ? row_sums[r] : 0);
      // Unsigned arithmetic: intermediate values may wrap, the final one fits.
      WHITTLE_VECTOR_LOOP
      for (int64_t i = 0; i < columns; i++)
        row[i] = static_cast<int32_t>(static_cast<uint32_t>(row[i]) - static_cast<uint32_t>(zero[i]) * sum);
    }
  }
  uint8_t* to = static_cast<uint8_t*>(out);
  if (e->out_type == kOutInt32) {
    for (int64_t r = 0; r < rows; r++) memcpy(to + r * out_stride, acc + r * width, static_cast<size_t>(columns) * 4);
    return;
  }
  const EpilogueRows r = {e, column, columns, acc, rows, width, to, out_stride, range, step};
  epilogue_floats(&r);
}

static inline void epilogue_columns(const GemmInt8Epilogue* e, int64_t column, int32_t row_sum, int32_t* acc, int64_t n, void* out,
                                    const CodeStep* step) {
  epilogue_rows(e, column, n, &row_sum, 1, acc, 0, out, 0, step);
}

static inline void epilogue_tile(const GemmInt8Panel* p, int64_t row, int64_t rows, int32_t* acc, int64_t width, const CodeStep* step) {
  const GemmInt8Epilogue* e = p->epilogue;
  const int64_t size = e->out_type == kOutInt32 || e->out_type == kOutFloat32 ? 4 : 1;
  epilogue_rows(e, p->column, p->columns, p->a_sums ? p->a_sums + row : nullptr, rows, acc, width,
                static_cast<uint8_t*>(p->out) + (row * p->out_stride + p->column) * size, p->out_stride * size, step, p->range);
}

#if VF_LANES >= 8
// Four vectors of bytes: packing them together costs less than each by itself. Integers as in v_store_bytes.
static inline void v_store_four(uint8_t* y, const vi* i, bool is_signed) {
#if VF_LANES == 16
  const __m512i bytes = _mm512_packs_epi16(_mm512_packs_epi32(i[0], i[1]), _mm512_packs_epi32(i[2], i[3]));
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  _mm512_storeu_si512(y, _mm512_xor_si512(_mm512_permutexvar_epi32(order, bytes), _mm512_set1_epi8(is_signed ? 0 : -128)));
#else
  const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(i[0], i[1]), _mm256_packs_epi32(i[2], i[3]));
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(y),
                      _mm256_xor_si256(_mm256_permutevar8x32_epi32(bytes, order), _mm256_set1_epi8(is_signed ? 0 : -128)));
#endif
}

// codes_of for four vectors, with one branch.
static inline void codes_four(const vf* x, const CodeStep& s, vi* to) {
  vi fine[4], near[4];
  for (int c = 0; c < 4; c++) fine[c] = v_bits_of(v_fma(x[c], s.reciprocal, v_set(1536.5f + 2.0f / kFineOne)));
  for (int c = 0; c < 4; c++) near[c] = i_and(fine[c], s.middle);
  if (WHITTLE_LIKELY(!i_any_zero(near))) {
    for (int c = 0; c < 4; c++) to[c] = i_down(i_sub(fine[c], s.fine_zero));
  } else {
    for (int c = 0; c < 4; c++) to[c] = codes_of(x[c], s);
  }
}
#endif

static inline void epilogue_codes(const float* x, int64_t n, float step, int32_t zero, uint8_t* out) {
  const CodeStep s = code_step(step, zero, false);
  int64_t i = 0;
#if VF_LANES >= 8
  for (; i + 4 * VF_LANES <= n; i += 4 * VF_LANES) {
    vf v[4];
    vi codes[4];
    // x86's maximum answers its second operand where the first is NaN.
    for (int c = 0; c < 4; c++) v[c] = v_min(s.far, v_max(v_load(x + i + c * VF_LANES), s.minus_far));
    codes_four(v, s, codes);
    v_store_four(out + i, codes, false);
  }
#endif
  // NaN fails the comparison.
  for (; i + VF_LANES <= n; i += VF_LANES) {
    const vf v = v_load(x + i);
    v_store_bytes(out + i, codes_of(v_min(s.far, v_select(v_less(s.minus_far, v), v, s.minus_far)), s), false, VF_LANES);
  }
  if (i < n) {
    const vf v = v_load_part(x + i, n - i, v_set(0.0f));
    v_store_bytes(out + i, codes_of(v_min(s.far, v_select(v_less(s.minus_far, v), v, s.minus_far)), s), false, n - i);
  }
}

}  // namespace
}  // namespace whittle
