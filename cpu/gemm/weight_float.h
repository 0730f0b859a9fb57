// int8 and bfloat16 weights against a few rows in float32 FMAs, and all formats unpacked to float32 panels. Lanes are
// columns; one value of a row is broadcast to all. The includer defines VF_LANES and the operations of cpu/common/lanes_*.h,
// LANES, Vi, vi_load, vi_float, and static inline wf_int8 (LANES bytes), wf_even and wf_odd (bfloat16 of dwords), wf_nibble
// (x, shift: 4 bits less 8), PREFETCH(p), and FLOAT_ROWS, FLOAT_WIDE, FLOAT_NARROW: rows, vectors of a panel for one and more,
// FLOAT_STREAM: rows up to which passing over the weights again, out of L2, beats unpacking them.
#pragma once
#include "cpu/gemm/weight_write.h"

namespace whittle {
namespace {

// One row leaves few chains: two sets of them take turns.
template <int R, int V>
static void int8_panel(const WeightStream* s, int64_t group, float* c) {
  constexpr int U = R == 1 ? 2 : 1, kParts = 16 / LANES;
  const PackedWeight* w = s->w;
  const uint8_t* data[V];
  const float* scale[V];
#pragma GCC unroll 8
  for (int v = 0; v < V; v++) {
    data[v] = w->data + (group + v / kParts) * w->group_bytes + v % kParts * LANES;
    scale[v] = w->scale + (group + v / kParts) * w->blocks * 16 + v % kParts * LANES;
  }
  const int64_t shift = w->offset ? w->offset - w->scale : 0, lda = s->lda;
  vf total[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 8
    for (int v = 0; v < V; v++) total[r][v] = v_set(0);
  for (int64_t b = 0; b < w->blocks; b++) {
    const int64_t end = (b + 1) * w->block < w->k ? (b + 1) * w->block : w->k;
    vf acc[U][R][V];
#pragma GCC unroll 2
    for (int u = 0; u < U; u++)
#pragma GCC unroll 8
      for (int r = 0; r < R; r++)
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) acc[u][r][v] = v_set(0);
    int64_t p = b * w->block;
    for (; p + 4 <= end; p += 4) {
#pragma GCC unroll 8
      for (int v = 0; v < V; v += kParts) PREFETCH(data[v] + p * 16 + 2048);
#pragma GCC unroll 4
      for (int u = 0; u < 4; u++) {
        vf q[V];
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) q[v] = wf_int8(data[v] + (p + u) * 16);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
          const vf x = v_set(s->a[r * lda + p + u]);
#pragma GCC unroll 8
          for (int v = 0; v < V; v++) acc[u % U][r][v] = v_fma(x, q[v], acc[u % U][r][v]);
        }
      }
    }
    for (; p < end; p++)
#pragma GCC unroll 8
      for (int v = 0; v < V; v++) {
        const vf q = wf_int8(data[v] + p * 16);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) acc[0][r][v] = v_fma(v_set(s->a[r * lda + p]), q, acc[0][r][v]);
      }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
      for (int v = 0; v < V; v++) {
        const vf sum = U == 2 ? v_add(acc[0][r][v], acc[U - 1][r][v]) : acc[0][r][v];
        total[r][v] = v_fma(sum, v_load(scale[v] + b * 16), total[r][v]);
        if (shift) total[r][v] = v_fma(v_set(s->sums[r * s->sum_row + b]), v_load(scale[v] + shift + b * 16), total[r][v]);
      }
  }
  write_panel<R, V>(s, group, c, total);
}

// Even and odd rows of k have sums of their own.
template <int R, int V>
static void bf16_panel(const WeightStream* s, int64_t group, float* c) {
  constexpr int kParts = 16 / LANES, U = R == 1 ? 2 : 1;
  const PackedWeight* w = s->w;
  const uint8_t* data[V];
#pragma GCC unroll 8
  for (int v = 0; v < V; v++) data[v] = w->data + (group + v / kParts) * w->group_bytes + v % kParts * LANES * 4;
  const int64_t lda = s->lda, k = w->k;
  vf acc[U][R][V];
#pragma GCC unroll 2
  for (int u = 0; u < U; u++)
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
      for (int v = 0; v < V; v++) acc[u][r][v] = v_set(0);
  int64_t p = 0;
  for (; p + 2 <= k; p += 2) {
    vf even[V], odd[V];
#pragma GCC unroll 8
    for (int v = 0; v < V; v++) {
      const Vi x = vi_load(data[v] + p * 32);
      if (v % kParts == 0) PREFETCH(data[v] + p * 32 + 2048);
      even[v] = wf_even(x);
      odd[v] = wf_odd(x);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const vf x = v_set(s->a[r * lda + p]), y = v_set(s->a[r * lda + p + 1]);
#pragma GCC unroll 8
      for (int v = 0; v < V; v++) acc[0][r][v] = v_fma(x, even[v], acc[0][r][v]);
#pragma GCC unroll 8
      for (int v = 0; v < V; v++) acc[U - 1][r][v] = v_fma(y, odd[v], acc[U - 1][r][v]);
    }
  }
  if (p < k)
#pragma GCC unroll 8
    for (int v = 0; v < V; v++) {
      const vf even = wf_even(vi_load(data[v] + p * 32));
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) acc[0][r][v] = v_fma(v_set(s->a[r * lda + p]), even, acc[0][r][v]);
    }
  if (U == 2)
#pragma GCC unroll 8
    for (int v = 0; v < V; v++) acc[0][0][v] = v_add(acc[0][0][v], acc[U - 1][0][v]);
  write_panel<R, V>(s, group, c, acc[0]);
}

template <int R, bool kInt8>
static void float_rows(const WeightStream* s) {
  constexpr int kParts = 16 / LANES, kWide = R == 1 ? FLOAT_WIDE : FLOAT_NARROW, kGroups = kWide / kParts;
  int64_t g = 0;
  for (; g + kGroups <= s->groups; g += kGroups)
    kInt8 ? int8_panel<R, kWide>(s, s->group + g, s->c + g * 16) : bf16_panel<R, kWide>(s, s->group + g, s->c + g * 16);
  for (; g < s->groups; g++)
    kInt8 ? int8_panel<R, kParts>(s, s->group + g, s->c + g * 16) : bf16_panel<R, kParts>(s, s->group + g, s->c + g * 16);
}

template <bool kInt8>
static void float_stream(const WeightStream* s) {
  switch (s->rows) {
    case 1: return float_rows<1, kInt8>(s);
    case 2: return float_rows<2, kInt8>(s);
    case 3: return float_rows<3, kInt8>(s);
#if FLOAT_ROWS > 4
    case 5: return float_rows<5, kInt8>(s);
    case 6: return float_rows<6, kInt8>(s);
    case 7: return float_rows<7, kInt8>(s);
    case 8: return float_rows<8, kInt8>(s);
#endif
    default: return float_rows<4, kInt8>(s);
  }
}

// One row of a group, vector v of it.
static inline void put(const WeightUnpack* u, int64_t p, int v, vf x) {
  v_store(u->out + (p - u->k) * u->row + (v * LANES < 8 ? v * LANES : u->half + v * LANES - 8), x);
}

static void int4_unpack(const WeightUnpack* u) {
  constexpr int kParts = 16 / LANES;
  const PackedWeight* w = u->w;
  const uint8_t* data = w->data + u->group * w->group_bytes;
  const int64_t end = u->k + u->length, block_bytes = (w->block + 7) / 8 * 64;
  for (int64_t p = u->k; p < end;) {
    const int64_t b = p / w->block, stop = (b + 1) * w->block < end ? (b + 1) * w->block : end;
    const float* at = w->scale + (u->group * w->blocks + b) * 16;
    vf scale[kParts], offset[kParts];
#pragma GCC unroll 4
    for (int v = 0; v < kParts; v++) {
      scale[v] = v_load(at + v * LANES);
      offset[v] = w->offset ? v_load(at + (w->offset - w->scale) + v * LANES) : v_set(0);
    }
    while (p < stop) {
      const int64_t row = p - b * w->block, lane = row % 8;
      const uint8_t* from = data + b * block_bytes + row / 8 * 64;
      if (lane == 0 && p + 8 <= stop) {
#pragma GCC unroll 4
        for (int v = 0; v < kParts; v++) {
          const Vi x = vi_load(from + v * LANES * 4);
#pragma GCC unroll 4
          for (int i = 0; i < 4; i++) {
            put(u, p + i, v, v_fma(wf_nibble(x, 8 * i), scale[v], offset[v]));
            put(u, p + 4 + i, v, v_fma(wf_nibble(x, 8 * i + 4), scale[v], offset[v]));
          }
        }
        p += 8;
      } else {
        const unsigned bits = (unsigned)(lane < 4 ? 8 * lane : 8 * (lane - 4) + 4);
        for (int v = 0; v < kParts; v++)
          put(u, p, v, v_fma(wf_nibble(vi_load(from + v * LANES * 4), bits), scale[v], offset[v]));
        p++;
      }
    }
  }
}

static void int8_unpack(const WeightUnpack* u) {
  constexpr int kParts = 16 / LANES;
  const PackedWeight* w = u->w;
  const uint8_t* data = w->data + u->group * w->group_bytes;
  const int64_t end = u->k + u->length;
  for (int64_t p = u->k; p < end;) {
    const int64_t b = p / w->block, stop = (b + 1) * w->block < end ? (b + 1) * w->block : end;
    const float* at = w->scale + (u->group * w->blocks + b) * 16;
    vf scale[kParts], offset[kParts];
#pragma GCC unroll 4
    for (int v = 0; v < kParts; v++) {
      scale[v] = v_load(at + v * LANES);
      offset[v] = w->offset ? v_load(at + (w->offset - w->scale) + v * LANES) : v_set(0);
    }
    for (; p < stop; p++)
#pragma GCC unroll 4
      for (int v = 0; v < kParts; v++) put(u, p, v, v_fma(wf_int8(data + p * 16 + v * LANES), scale[v], offset[v]));
  }
}

static void bf16_unpack(const WeightUnpack* u) {
  constexpr int kParts = 16 / LANES;
  const uint8_t* data = u->w->data + u->group * u->w->group_bytes;
  for (int64_t p = u->k; p < u->k + u->length; p++)
#pragma GCC unroll 4
    for (int v = 0; v < kParts; v++) {
      const Vi x = vi_load(data + p / 2 * 64 + v * LANES * 4);
      put(u, p, v, p % 2 ? wf_odd(x) : wf_even(x));
    }
}

static inline void install_float(WeightKernels* t) {
  t->bf16_rows = 2;
  t->tile_rows[kWeightInt8] = t->tile_rows[kWeightBf16] = FLOAT_ROWS;
  t->stream_rows[kWeightInt8] = t->stream_rows[kWeightBf16] = FLOAT_STREAM;
  t->stream[kWeightInt8] = float_stream<true>;
  t->stream[kWeightBf16] = float_stream<false>;
  t->unpack[kWeightInt4] = int4_unpack;
  t->unpack[kWeightInt8] = int8_unpack;
  t->unpack[kWeightBf16] = bf16_unpack;
}

}  // namespace
}  // namespace whittle
