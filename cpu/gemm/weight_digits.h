// int4 weights as exact integers: activations of 32 rows share an exponent and are three signed bytes each, so that the
// integer dot products of the ISA do 24-bit arithmetic: 3 instructions for 64 weights where float32 takes 12. The includer
// defines LANES (dwords of a vector), Vi, DIGIT_ROWS, DIGIT_WIDE (vectors of a panel for one row), and static inline
// vi_load, vi_low (low halves of bytes), vi_high, vi_digits (4 bytes to all dwords), vi_float; DOT_BEGIN(init),
// DOT(acc, weights, digits), DOT_END(acc, init), and PREFETCH(p). A chunk is 4 steps at most: 16-bit sums would hold 8.
#pragma once
#include <string.h>

#include "cpu/gemm/weight_write.h"

namespace whittle {
namespace {

enum { kGroupVectors = 16 / LANES };

static bool digits_of_row(const WeightDigits* d) {
  const PackedWeight* w = d->w;
  int8_t* out = d->digits;
  int32_t* head = d->heads;
  for (int64_t b = 0; b < w->blocks; b++) {
    const int64_t end = (b + 1) * w->block < w->k ? (b + 1) * w->block : w->k;
    for (int64_t p = b * w->block; p < end; p += kWeightChunk, out += 96, head += 4) {
      const int64_t n = end - p < kWeightChunk ? end - p : (int64_t)kWeightChunk;
      float a[kWeightChunk];
      if (n < kWeightChunk) memset(a, 0, sizeof a);
      memcpy(a, d->a + p, (size_t)n * 4);
      int32_t bits[kWeightChunk], top = 0;
      memcpy(bits, a, sizeof bits);
      for (int i = 0; i < kWeightChunk; i++) {
        const int32_t v = bits[i] & 0x7fffffff;
        top = v > top ? v : top;
      }
      if (top >= 0x7f800000) return false;
      // The largest becomes at most 127 * 65536 + 127 * 256 + 127: 23 bits, one less where its mantissa is nearly 2.
      int32_t exponent = (top >> 23) - 127;
      if ((top & 0x7fffff) > 0x7efefe) exponent++;
      if (exponent < -102) exponent = -102;
      const int32_t up = (22 - exponent + 127) << 23, down = (exponent - 22 + 127) << 23;
      float scale;
      memcpy(&scale, &up, 4);
      int32_t sums[3] = {0, 0, 0};
      for (int i = 0; i < kWeightChunk; i++) {
        const float x = a[i] * scale;
        const int32_t v = (int32_t)(x + (x < 0 ? -0.5f : 0.5f));
        const int32_t d0 = (int32_t)((uint32_t)v << 24) >> 24, v1 = (v - d0) >> 8;
        const int32_t d1 = (int32_t)((uint32_t)v1 << 24) >> 24, d2 = (v1 - d1) >> 8;
        out[i] = (int8_t)d0;
        out[32 + i] = (int8_t)d1;
        out[64 + i] = (int8_t)d2;
        sums[0] += d0;
        sums[1] += d1;
        sums[2] += d2;
      }
      for (int t = 0; t < 3; t++) head[t] = -8 * sums[t];
      head[3] = down;
    }
  }
  return true;
}

template <int R, int V>
static inline void digits_step(Vi (&acc)[3][R][V], const uint8_t* const (&data)[V], int64_t at, const int8_t* digits, int64_t row) {
  Vi low[V], high[V];
#pragma GCC unroll 8
  for (int v = 0; v < V; v++) {
    const Vi x = vi_load(data[v] + at);
    if (v % kGroupVectors == 0) PREFETCH(data[v] + at + 2048);
    low[v] = vi_low(x);
    high[v] = vi_high(x);
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int t = 0; t < 3; t++) {
      const Vi d = vi_digits(digits + r * row + t * 32), e = vi_digits(digits + r * row + t * 32 + 4);
#pragma GCC unroll 8
      for (int v = 0; v < V; v++) DOT(acc[t][r][v], low[v], d);
#pragma GCC unroll 8
      for (int v = 0; v < V; v++) DOT(acc[t][r][v], high[v], e);
    }
}

template <int R, int V>
static void digits_panel(const WeightStream* s, int64_t group, float* c) {
  const PackedWeight* w = s->w;
  const uint8_t* data[V];
  const float* scale[V];
#pragma GCC unroll 8
  for (int v = 0; v < V; v++) {
    data[v] = w->data + (group + v / kGroupVectors) * w->group_bytes + v % kGroupVectors * LANES * 4;
    scale[v] = w->scale + (group + v / kGroupVectors) * w->blocks * 16 + v % kGroupVectors * LANES;
  }
  const int64_t shift = w->offset ? w->offset - w->scale : 0, row = w->chunks * 96, head_row = w->chunks * 4;
  vf total[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 8
    for (int v = 0; v < V; v++) total[r][v] = v_set(0);
  const int8_t* digits = s->digits;
  const int32_t* head = s->heads;
  const float* sums = s->sums;
  const int64_t full = (w->block + 7) / 8, rest = (w->k - (w->blocks - 1) * w->block + 7) / 8;
  int64_t at = 0;
  for (int64_t b = 0; b < w->blocks; b++) {
    for (int64_t left = b + 1 < w->blocks ? full : rest; left > 0; left -= 4) {
      Vi acc[3][R][V];
#pragma GCC unroll 4
      for (int t = 0; t < 3; t++)
#pragma GCC unroll 8
        for (int r = 0; r < R; r++)
#pragma GCC unroll 8
          for (int v = 0; v < V; v++) acc[t][r][v] = DOT_BEGIN(head[r * head_row + t]);
      if (left >= 4) {
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) digits_step<R, V>(acc, data, at + i * 64, digits + i * 8, row);
        at += 256;
      } else {
        for (int i = 0; i < left; i++, at += 64) digits_step<R, V>(acc, data, at, digits + i * 8, row);
      }
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) {
        float unit;
        memcpy(&unit, head + r * head_row + 3, 4);
        const vf e = v_set(unit);
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) {
          vf y = v_fma(vi_float(DOT_END(acc[2][r][v], head[r * head_row + 2])), v_set(256),
                       vi_float(DOT_END(acc[1][r][v], head[r * head_row + 1])));
          y = v_fma(y, v_set(256), vi_float(DOT_END(acc[0][r][v], head[r * head_row])));
          total[r][v] = v_fma(v_mul(y, e), v_load(scale[v] + b * 16), total[r][v]);
          if (shift) total[r][v] = v_fma(v_set(sums[r * s->sum_row]), v_load(scale[v] + shift + b * 16), total[r][v]);
        }
      }
      digits += 96;
      head += 4;
      sums++;
    }
  }
  write_panel<R, V>(s, group, c, total);
}

template <int R>
static void digits_rows(const WeightStream* s) {
  constexpr int kWide = R == 1 ? DIGIT_WIDE : DIGIT_NARROW, kGroups = kWide / kGroupVectors;
  int64_t g = 0;
  for (; g + kGroups <= s->groups; g += kGroups) digits_panel<R, kWide>(s, s->group + g, s->c + g * 16);
  for (; g < s->groups; g++) digits_panel<R, kGroupVectors>(s, s->group + g, s->c + g * 16);
}

static void digits_stream(const WeightStream* s) {
  switch (s->rows) {
    case 1: return digits_rows<1>(s);
    case 2: return digits_rows<2>(s);
#if DIGIT_ROWS > 2
    case 3: return digits_rows<3>(s);
    default: return digits_rows<4>(s);
#endif
  }
}

}  // namespace
}  // namespace whittle
