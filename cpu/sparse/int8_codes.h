// A panel of sparse int8 sums, 64 rows of W by 64 columns of X, to codes that lie by columns. Sums lie by rows: a row's scale and
// bias are one number for all its lanes, they never leave registers where rows stand alone, and what is turned is bytes, a quarter of
// them. A residual of codes is turned the other way before. AVX-512 with VNNI.
#pragma once
#include "cpu/sparse/int8_finish.h"
#include "cpu/sparse/int8_turn.h"
#include "cpu/sparse/int8_vnni.h"

namespace whittle {
namespace {

// An activation that changes nothing: its bounds lie at or beyond those of the codes.
enum { kActivationSpent = -1 };

// Four vectors of floats to 64 codes, 128 less where they are uint8; lane l holds those 4 l to 4 l + 3 of each vector. Bits of floats rise
// with their values and packing saturates, so only those that a division decides need be within s.far.
static inline __m512i bytes_of(const vf* x, const CodeStep& s, __m512i zero) {
  vi fine[4], near[4], v[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) fine[i] = v_bits_of(v_fma(x[i], s.reciprocal, v_set(1536.5f + 2.0f / kFineOne)));
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) near[i] = i_and(fine[i], s.middle);
  if (WHITTLE_LIKELY(!i_any_zero(near))) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) v[i] = i_sub(i_down(fine[i]), zero);
  } else {
    for (int i = 0; i < 4; i++) v[i] = codes_of(v_min(s.far, v_max(s.minus_far, x[i])), s);
  }
  return _mm512_packs_epi16(_mm512_packs_epi32(v[0], v[1]), _mm512_packs_epi32(v[2], v[3]));
}

// What a panel reads and writes: codes to add, one row of W after the other, and codes of its own, bytes of a row in the places that
// bytes_of gives them; lines of memory that are asked for meanwhile, `stride` apart.
struct PanelCodes {
  const uint8_t* added;
  uint8_t* codes;
  const uint8_t *out, *ahead;
  int64_t stride, columns;
};

// Rows of W by themselves: sums become codes in registers.
template <int32_t kKind, bool kAdd>
static void row_codes(const SparseInt8Tile* t, const GemmInt8Epilogue* e, int64_t column, const PanelCodes& p) {
  const CodeStep s = epilogue_step(e);
  const __m512i flip = _mm512_set1_epi8(s.is_signed ? 0 : -128), zero = i_set((kFineZero >> kFineBits) - s.shift);
  vf lo = v_set(e->activation.lo), hi = v_set(e->activation.hi);
  if (kKind == kActivationClip) {
    lo = v_min(s.far, v_max(s.minus_far, lo));
    hi = v_min(s.far, v_max(s.minus_far, hi));
  }
  // A byte below the exponent of 2^23 is a float that much larger.
  const __m512i exponent = _mm512_set1_epi16(0x4b00), turned = _mm512_set1_epi8(e->added.is_signed ? -128 : 0);
  const vf added_zero = v_set(8388608.0f + static_cast<float>(e->added.zero + (e->added.is_signed ? 128 : 0))), added_scale = v_set(e->added.scale);
  const uint16_t* index = t->index;
  const int8_t* values = t->values;
  const uint8_t* from = static_cast<const uint8_t*>(t->x);
  for (int64_t g = 0; g < t->groups; g++) {
    const int64_t count = t->runs[g].count, row = t->runs[g].group;
    // A line of each with every row: all at once would wait for each other.
    if (g < p.columns) {
      _mm_prefetch(reinterpret_cast<const char*>(p.out + g * p.stride), _MM_HINT_T1);
      if (kAdd) _mm_prefetch(reinterpret_cast<const char*>(p.ahead + g * p.stride), _MM_HINT_T1);
    }
    __m512i sum[4];
#pragma GCC unroll 4
    for (int u = 0; u < 4; u++) sum[u] = t->start ? _mm512_set1_epi32(t->start[row]) : _mm512_loadu_si512(t->acc + row * 64 + u * 16);
    row_sums(count, index, values, from, sum);
    index += count;
    values += count * 4;
    const vf scale = v_set(e->scale[column + row]), bias = v_set(e->bias[column + row]);
    vf x[4];
#pragma GCC unroll 4
    for (int u = 0; u < 4; u++) x[u] = v_add(v_mul(_mm512_cvtepi32_ps(sum[u]), scale), bias);
    if (kAdd) {
      const __m512i bytes = _mm512_xor_si512(_mm512_load_si512(p.added + row * 64), turned), none = _mm512_setzero_si512();
      const __m512i low = _mm512_unpacklo_epi8(bytes, none), high = _mm512_unpackhi_epi8(bytes, none);
      const __m512i four[4] = {_mm512_unpacklo_epi16(low, exponent), _mm512_unpackhi_epi16(low, exponent), _mm512_unpacklo_epi16(high, exponent), _mm512_unpackhi_epi16(high, exponent)};
#pragma GCC unroll 4
      for (int u = 0; u < 4; u++) x[u] = v_add(x[u], v_mul(v_sub(_mm512_castsi512_ps(four[u]), added_zero), added_scale));
    }
    if (kKind != kActivationSpent) {
#pragma GCC unroll 4
      for (int u = 0; u < 4; u++) {
        x[u] = act_apply(x[u], kKind, lo, hi);
        if (kKind != kActivationClip) x[u] = v_min(s.far, v_max(s.minus_far, x[u]));
      }
    }
    _mm512_store_si512(p.codes + row * 64, _mm512_xor_si512(bytes_of(x, s, zero), flip));
  }
}

typedef void (*RowCodes)(const SparseInt8Tile*, const GemmInt8Epilogue*, int64_t, const PanelCodes&);

static RowCodes row_codes_of(const GemmInt8Epilogue* e) {
  const bool add = e->added.codes != nullptr;
  const int32_t least = e->out_type == kOutInt8 ? -128 : 0;
  const double low = static_cast<double>(least - e->out_zero) * e->out_scale, high = static_cast<double>(least + 255 - e->out_zero) * e->out_scale;
  switch (e->activation.kind) {
#define KIND(kind) \
  case kind: return add ? row_codes<kind, true> : row_codes<kind, false>;
    case kActivationClip:
      if (e->activation.lo <= low && e->activation.hi >= high) return add ? row_codes<kActivationSpent, true> : row_codes<kActivationSpent, false>;
      return add ? row_codes<kActivationClip, true> : row_codes<kActivationClip, false>;
    KIND(kActivationHardswish)
    KIND(kActivationHardswishAffine)
    KIND(kActivationSigmoid)
    KIND(kActivationTanh)
    KIND(kActivationSilu)
    KIND(kActivationGelu)
    KIND(kActivationGeluTanh)
#undef KIND
    default: return add ? row_codes<kActivationSpent, true> : row_codes<kActivationSpent, false>;
  }
}

static void panel_codes(const SparseInt8Tile* t, const GemmInt8Epilogue* e, int64_t column, int64_t columns, uint8_t* out, int64_t stride) {
  alignas(64) uint8_t added[64 * 64], codes[64 * 64];
  // Byte l * 16 + j of a row belongs to this column.
  const auto place = [](int l, int j) { return int64_t(j / 4 * 16 + l * 4 + j % 4); };
  PanelCodes panel = {added, codes, out, nullptr, stride, columns};
  if (e->added.codes) {
    const Residual residual = residual_at(e, out);
    // Of the panel after this one; the first of the next columns after the last.
    panel.ahead = residual.codes + (column + kSparseInt8Panel < stride ? kSparseInt8Panel : kSparseInt8Panel * stride - column);
    turn_square([&](int j) { return place(j / 16, j % 16) < columns ? _mm512_loadu_si512(residual.codes + place(j / 16, j % 16) * stride) : _mm512_setzero_si512(); },
                [&](int l, int j, __m512i v) { _mm512_store_si512(added + (l * 16 + j) * 64, v); });
  }
  row_codes_of(e)(t, e, column, panel);
  turn_square([&](int j) { return _mm512_load_si512(codes + j * 64); },
              [&](int l, int j, __m512i v) {
                if (place(l, j) < columns) _mm512_storeu_si512(out + place(l, j) * stride, v);
              });
}

}  // namespace
}  // namespace whittle
