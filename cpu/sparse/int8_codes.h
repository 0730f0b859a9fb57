// A whole tile of sparse int8 sums, 64 rows of W by 64 columns of X, to codes that lie by columns. Sums lie by rows: a row's scale and
// bias are one number for all its lanes, and what is turned is bytes, a quarter of the sums (16 results take 6 to 9 cycles instead of 18 to 22 for
// turning sums and then making codes of them). A residual of codes is turned the other way before. AVX-512.
#pragma once
#include <immintrin.h>
#include <stdint.h>

#include "cpu/sparse/int8_finish.h"

namespace whittle {
namespace {

// Sixteen rows of sixteen bytes transposed in each lane: four rounds of a perfect shuffle.
static inline void turn_lanes(__m512i* r) {
  __m512i t[16];
#pragma GCC unroll 4
  for (int round = 0; round < 2; round++) {
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
      t[2 * i] = _mm512_unpacklo_epi8(r[i], r[i + 8]);
      t[2 * i + 1] = _mm512_unpackhi_epi8(r[i], r[i + 8]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
      r[2 * i] = _mm512_unpacklo_epi8(t[i], t[i + 8]);
      r[2 * i + 1] = _mm512_unpackhi_epi8(t[i], t[i + 8]);
    }
  }
}

// 64 lines of 64 bytes transposed: line(j) answers one, store(l, j, v) takes line 16 l + j of the result.
template <class Line, class Store>
static inline void turn_square(const Line& line, const Store& store) {
  alignas(64) uint8_t near[64 * 64];
  for (int u = 0; u < 4; u++) {
    __m512i r[16];
#pragma GCC unroll 16
    for (int j = 0; j < 16; j++) r[j] = line(u * 16 + j);
    turn_lanes(r);
#pragma GCC unroll 16
    for (int j = 0; j < 16; j++) _mm512_store_si512(near + (u * 16 + j) * 64, r[j]);
  }
  for (int j = 0; j < 16; j++) {
    const auto at = [&](int u) { return _mm512_load_si512(near + (u * 16 + j) * 64); };
    const __m512i a = _mm512_shuffle_i64x2(at(0), at(1), 0x44), b = _mm512_shuffle_i64x2(at(2), at(3), 0x44);
    const __m512i c = _mm512_shuffle_i64x2(at(0), at(1), 0xee), d = _mm512_shuffle_i64x2(at(2), at(3), 0xee);
    store(0, j, _mm512_shuffle_i64x2(a, b, 0x88));
    store(1, j, _mm512_shuffle_i64x2(a, b, 0xdd));
    store(2, j, _mm512_shuffle_i64x2(c, d, 0x88));
    store(3, j, _mm512_shuffle_i64x2(c, d, 0xdd));
  }
}

template <int32_t kKind, bool kAdd>
static void tile_codes(const GemmInt8Epilogue* e, int64_t column, int64_t columns, const int32_t* acc, uint8_t* out, int64_t stride) {
  const CodeStep s = epilogue_step(e);
  const __m512i flip = _mm512_set1_epi8(s.is_signed ? 0 : -128);
  vf lo = v_set(e->activation.lo), hi = v_set(e->activation.hi);
  if (kKind == kActivationClip) {
    lo = v_min(s.far, v_max(s.minus_far, lo));
    hi = v_min(s.far, v_max(s.minus_far, hi));
  }
  alignas(64) uint8_t added[64 * 64], codes[64 * 64];
  Residual residual = {};
  if (kAdd) {
    residual = residual_at(e, out);
    turn_square([&](int j) { return j < columns ? _mm512_loadu_si512(residual.codes + j * stride) : _mm512_setzero_si512(); },
                [&](int l, int j, __m512i v) { _mm512_store_si512(added + (l * 16 + j) * 64, v); });
  }
  for (int64_t r = 0; r < 64; r++, acc += 64) {
    const vf scale = v_set(e->scale[column + r]), bias = v_set(e->bias[column + r]);
    vf x[4];
    vi v[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
      x[i] = v_add(v_mul(v_from_sums(acc + i * 16, true, 16), scale), bias);
      if (kAdd) x[i] = v_add(x[i], v_mul(v_sub(v_from_bytes(added + r * 64 + i * 16, residual.flip, true, 16), residual.zero), residual.scale));
      x[i] = act_apply(x[i], kKind, lo, hi);
      if (kKind != kActivationClip) x[i] = v_min(s.far, v_max(s.minus_far, x[i]));
    }
    codes_four(x, s, v);
    // Lane l holds columns 4 l to 4 l + 3 of each vector.
    const __m512i bytes = _mm512_packs_epi16(_mm512_packs_epi32(v[0], v[1]), _mm512_packs_epi32(v[2], v[3]));
    _mm512_store_si512(codes + r * 64, _mm512_xor_si512(bytes, flip));
  }
  turn_square([&](int j) { return _mm512_load_si512(codes + j * 64); },
              [&](int l, int j, __m512i v) {
                const int64_t place = j / 4 * 16 + l * 4 + j % 4;
                if (place < columns) _mm512_storeu_si512(out + place * stride, v);
              });
}

static void codes(const GemmInt8Epilogue* e, int64_t column, int64_t columns, const int32_t* acc, uint8_t* out, int64_t stride) {
  const bool add = e->added.codes != nullptr;
  switch (e->activation.kind) {
#define KIND(kind) \
  case kind: return add ? tile_codes<kind, true>(e, column, columns, acc, out, stride) : tile_codes<kind, false>(e, column, columns, acc, out, stride);
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

}  // namespace
}  // namespace whittle
