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

// The low bytes of integers that kRoundMagic was added to, plus `base`: VF_LANES of them, or the first n.
static inline void v_store_bytes(uint8_t* y, vf x, int32_t base, int64_t n) {
#if VF_LANES == 16
  const __m128i bytes = _mm512_cvtepi32_epi8(_mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(base)));
  if (n >= VF_LANES) _mm_storeu_si128(reinterpret_cast<__m128i*>(y), bytes);
  else _mm_mask_storeu_epi8(y, v_first(n), bytes);
#else
  uint8_t bytes[VF_LANES];
#if VF_LANES == 8
  const __m256i low = _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,  //
                                       -1, -1, -1, -1, 0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1);
  const __m256i i = _mm256_shuffle_epi8(_mm256_add_epi32(_mm256_castps_si256(x), _mm256_set1_epi32(base)), low);
  _mm_storel_epi64(reinterpret_cast<__m128i*>(bytes), _mm_or_si128(_mm256_castsi256_si128(i), _mm256_extracti128_si256(i, 1)));
#elif VF_LANES == 4
  const uint16x4_t i = vmovn_u32(vreinterpretq_u32_s32(vaddq_s32(vreinterpretq_s32_f32(x), vdupq_n_s32(base))));
  vst1_lane_u32(reinterpret_cast<uint32_t*>(bytes), vreinterpret_u32_u8(vmovn_u16(vcombine_u16(i, i))), 0);
#else
  bytes[0] = static_cast<uint8_t>(v_bits(x) + base);
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


// What every row of a tile needs.
struct EpilogueRows {
  const GemmInt8Epilogue* e;
  int64_t column, columns;
  const int32_t* sums;  // `width` apart by row
  int64_t rows, width;
  uint8_t* out;
  int64_t out_stride;  // bytes
};

template <int32_t kKind, bool kBytes>
static void epilogue_kind(const EpilogueRows* r) {
  const GemmInt8Epilogue* e = r->e;
  const float *scale = e->scale + r->column, *bias = e->bias + r->column;
  const vf lo = v_set(e->activation.lo), hi = v_set(e->activation.hi), none = v_set(0.0f);
  // The bounds are integers, so clamping before rounding gives what rounding first would.
  const vf low = v_set(static_cast<float>((e->out_type == kOutInt8 ? -128 : 0) - e->out_zero));
  const vf high = v_set(static_cast<float>((e->out_type == kOutInt8 ? 127 : 255) - e->out_zero));
  const vf step = v_set(e->out_scale), magic = v_set(kRoundMagic), reciprocal = v_set(1.0f / e->out_scale);
  const vf eighth = v_set(0.125f * e->out_scale), far = v_set(512.0f * e->out_scale), minus_far = v_set(-512.0f * e->out_scale);
  const bool usual = e->out_scale > 0x1p-60f && e->out_scale < 0x1p60f;
  const int32_t base = e->out_zero - kRoundBits;
  const int64_t n = r->columns;
  const int32_t* sums = r->sums;
  uint8_t* out = r->out;
  for (int64_t i = 0; i < r->rows; i++, sums += r->width, out += r->out_stride) {
    for (int64_t j = 0; j < n; j += VF_LANES) {
      const bool whole = j + VF_LANES <= n;
      vf x = v_mul(v_from_sums(sums + j, whole, n - j), whole ? v_load(scale + j) : v_load_part(scale + j, n - j, none));
      x = v_add(x, whole ? v_load(bias + j) : v_load_part(bias + j, n - j, none));
      x = act_apply(x, kKind, lo, hi);
      if (kBytes) {
        // What rounds to 0 anyway is 0 at once: remainders of tiny numbers fall below the normal range, which is slow.
        x = v_select(v_less(v_abs(x), eighth), none, x);
        x = usual ? v_divide(v_min(far, v_max(minus_far, x)), step, reciprocal) : v_div(x, step);
        v_store_bytes(out + j, v_add(v_min(high, v_max(low, x)), magic), base, n - j);
      } else {
        float* to = reinterpret_cast<float*>(out) + j;
        if (whole) v_store(to, x);
        else v_store_part(to, x, n - j);
      }
    }
  }
}

static void epilogue_floats(const EpilogueRows* r) {
  const bool bytes = r->e->out_type != kOutFloat32;
  switch (r->e->activation.kind) {
#define KIND(kind) \
  case kind: return bytes ? epilogue_kind<kind, true>(r) : epilogue_kind<kind, false>(r);
    KIND(kActivationClip)
    KIND(kActivationHardswish)
    KIND(kActivationHardswishAffine)
    KIND(kActivationSigmoid)
    KIND(kActivationTanh)
    KIND(kActivationSilu)
    KIND(kActivationGelu)
    KIND(kActivationGeluTanh)
#undef KIND
    default: return bytes ? epilogue_kind<kActivationNone, true>(r) : epilogue_kind<kActivationNone, false>(r);
  }
}

// A tile's rows. `acc` holds the sums, the offset among them, `width` apart by row, and is overwritten; row_sums is null
// unless the epilogue has zero points of b.
static inline void epilogue_rows(const GemmInt8Epilogue* e, int64_t column, int64_t columns, const int32_t* row_sums, int64_t rows,
                                 int32_t* acc, int64_t width, void* out, int64_t out_stride) {
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
  const EpilogueRows r = {e, column, columns, acc, rows, width, to, out_stride};
  epilogue_floats(&r);
}

static inline void epilogue_columns(const GemmInt8Epilogue* e, int64_t column, int32_t row_sum, int32_t* acc, int64_t n, void* out) {
  epilogue_rows(e, column, n, &row_sum, 1, acc, 0, out, 0);
}

static inline void epilogue_tile(const GemmInt8Panel* p, int64_t row, int64_t rows, int32_t* acc, int64_t width) {
  const GemmInt8Epilogue* e = p->epilogue;
  const int64_t size = e->out_type == kOutInt32 || e->out_type == kOutFloat32 ? 4 : 1;
  epilogue_rows(e, p->column, p->columns, p->a_sums ? p->a_sums + row : nullptr, rows, acc, width,
                static_cast<uint8_t*>(p->out) + (row * p->out_stride + p->column) * size, p->out_stride * size);
}

}  // namespace
}  // namespace whittle
