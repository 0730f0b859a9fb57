// Sparse int8 on NEON: x' in 16 bits, widening multiply-adds by a lane (a weight) on 4 rows x 16 columns. One column: a bundle's
// four values of x meet four weights of each row. Pairs: sixteen values choose among 32 bytes of x by one table look-up.
#include <arm_neon.h>
#include <string.h>

#define WHITTLE_ISA_FILE
#include "cpu/sparse/int8_finish.h"
#include "cpu/sparse/int8_heights.h"
#include "cpu/sparse/int8_plain.h"

namespace whittle {
namespace {

// Four weights.
static inline int16x4_t weights(const int8_t* p) {
  int32_t word;
  memcpy(&word, p, 4);
  return vget_low_s16(vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(word))));
}

template <int C, int R>
static inline void column(int32x4_t (*sum)[4], const int16_t* x, const int16x4_t* w) {
  const int16x8_t a = vld1q_s16(x), b = vld1q_s16(x + 8);
  for (int r = 0; r < R; r++) {
    sum[r][0] = vmlal_lane_s16(sum[r][0], vget_low_s16(a), w[r], C);
    sum[r][1] = vmlal_lane_s16(sum[r][1], vget_high_s16(a), w[r], C);
    sum[r][2] = vmlal_lane_s16(sum[r][2], vget_low_s16(b), w[r], C);
    sum[r][3] = vmlal_lane_s16(sum[r][3], vget_high_s16(b), w[r], C);
  }
}

// R rows of a group against `count` bundles; weights `stride` apart from bundle to bundle.
template <int R, bool A>
static void rows(int64_t count, const uint16_t* index, const int8_t* values, int64_t stride, const int16_t* x, int32_t* acc, const int32_t* start) {
  int32x4_t sum[R][4];
  for (int r = 0; r < R; r++)
    for (int v = 0; v < 4; v++) sum[r][v] = start ? vdupq_n_s32(start[r]) : vld1q_s32(acc + r * 16 + v * 4);
  for (int64_t b = 0; b < count; b++, values += stride, index += A ? 1 : 4) {
    int16x4_t w[R];
    for (int r = 0; r < R; r++) w[r] = weights(values + r * 4);
    column<0, R>(sum, x + (A ? index[0] * 4 : index[0]) * 16, w);
    column<1, R>(sum, x + (A ? index[0] * 4 + 1 : index[1]) * 16, w);
    column<2, R>(sum, x + (A ? index[0] * 4 + 2 : index[2]) * 16, w);
    column<3, R>(sum, x + (A ? index[0] * 4 + 3 : index[3]) * 16, w);
  }
  for (int r = 0; r < R; r++)
    for (int v = 0; v < 4; v++) vst1q_s32(acc + r * 16 + v * 4, sum[r][v]);
}

struct Tile {
  template <int H, bool A>
  static void run(const SparseInt8Tile* t) {
    enum { kPart = H < 4 ? H : 4 };
    const uint16_t* index = t->index;
    const int8_t* values = t->values;
    for (int64_t g = 0; g < t->groups; g++) {
      const int64_t count = t->runs[g].count, first = t->runs[g].group * H;
      for (int64_t r = 0; r < H; r += kPart)
        rows<kPart, A>(count, index, values + r * 4, H * 4, static_cast<const int16_t*>(t->x), t->acc + (first + r) * 16, t->start ? t->start + first + r : nullptr);
      index += count * (A ? 1 : 4);
      values += count * H * 4;
    }
  }
};

struct Vector {
  template <int H, bool A>
  static void run(const SparseInt8Tile* t) {
    const int16_t* x = static_cast<const int16_t*>(t->x);
    const uint16_t* index = t->index;
    const int8_t* values = t->values;
    for (int64_t g = 0; g < t->groups; g++) {
      int32x4_t sum[H];
      for (int r = 0; r < H; r++) sum[r] = vdupq_n_s32(0);
      for (int64_t b = t->runs[g].count; b > 0; b--, index += A ? 1 : 4, values += H * 4) {
        int16x4_t v;
        if (A) {
          v = vld1_s16(x + index[0] * 4);
        } else {
          v = vld1_dup_s16(x + index[0]);
          v = vld1_lane_s16(x + index[1], v, 1);
          v = vld1_lane_s16(x + index[2], v, 2);
          v = vld1_lane_s16(x + index[3], v, 3);
        }
        if (H < 4) {
          for (int r = 0; r < H; r++) sum[r] = vmlal_s16(sum[r], weights(values + r * 4), v);
        } else {
          for (int r = 0; r < H; r += 4) {
            const int8x16_t w = vld1q_s8(values + r * 4);
            const int16x8_t low = vmovl_s8(vget_low_s8(w)), high = vmovl_s8(vget_high_s8(w));
            sum[r] = vmlal_s16(sum[r], vget_low_s16(low), v);
            sum[(r + 1) % H] = vmlal_s16(sum[(r + 1) % H], vget_high_s16(low), v);
            sum[(r + 2) % H] = vmlal_s16(sum[(r + 2) % H], vget_low_s16(high), v);
            sum[(r + 3) % H] = vmlal_s16(sum[(r + 3) % H], vget_high_s16(high), v);
          }
        }
      }
      int32_t* acc = t->acc + t->runs[g].group * H;
      const int32_t* start = t->start ? t->start + t->runs[g].group * H : acc;
      for (int r = 0; r < H; r++) acc[r] = static_cast<int32_t>(static_cast<uint32_t>(vaddvq_s32(sum[r])) + static_cast<uint32_t>(start[r]));
    }
  }
};

// Sixteen signed products; pairs of neighbours.
static inline void meet_pairs(int32x4_t* low, int32x4_t* high, int8x16_t x, int8x16_t w) {
  *low = vpadalq_s16(*low, vmull_s8(vget_low_s8(x), vget_low_s8(w)));
  *high = vpadalq_s16(*high, vmull_s8(vget_high_s8(x), vget_high_s8(w)));
}

struct Lanes {
  template <int H>
  static void run(const SparseInt8Tile* t) {
    enum { kQuads = H == 1 ? 1 : H / 4 };
    const uint8_t *x = static_cast<const uint8_t*>(t->x), *places = t->places;
    const uint16_t* index = t->index;
    const int8_t* values = t->values;
    for (int64_t g = 0; g < t->groups; g++) {
      int32x4_t low[kQuads], high[kQuads];
      for (int q = 0; q < kQuads; q++) low[q] = high[q] = vdupq_n_s32(0);
      for (int64_t b = t->runs[g].count; b > 0; b--, index++, places += 4, values += kQuads * 16) {
        uint8x16_t v = vld1q_u8(x + *index);
        if (H > 1) {
          uint32_t four;
          memcpy(&four, places, 4);
          v = vqtbl1q_u8(v, vreinterpretq_u8_u32(vdupq_n_u32(four)));
        }
        for (int q = 0; q < kQuads; q++) meet_pairs(&low[q], &high[q], vreinterpretq_s8_u8(v), vld1q_s8(values + q * 16));
      }
      int32_t* acc = t->acc + t->runs[g].group * H;
      const int32_t* start = t->start ? t->start + t->runs[g].group * H : acc;
      for (int q = 0; q < kQuads; q++) {
        const int32x4_t rows = vpaddq_s32(low[q], high[q]);
        if (H == 1) acc[0] = static_cast<int32_t>(static_cast<uint32_t>(vaddvq_s32(rows)) + static_cast<uint32_t>(start[0]));
        else vst1q_s32(acc + q * 4, vaddq_s32(rows, vld1q_s32(start + q * 4)));
      }
    }
  }
};

static inline int32x4_t meet(int32x4_t sum, uint8x16_t x, int8x16_t w) {
  const int16x8_t a = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(x))), b = vreinterpretq_s16_u16(vmovl_u8(vget_high_u8(x)));
  const int16x8_t c = vmovl_s8(vget_low_s8(w)), d = vmovl_s8(vget_high_s8(w));
  sum = vmlal_s16(sum, vget_low_s16(a), vget_low_s16(c));
  sum = vmlal_s16(sum, vget_high_s16(a), vget_high_s16(c));
  sum = vmlal_s16(sum, vget_low_s16(b), vget_low_s16(d));
  return vmlal_s16(sum, vget_high_s16(b), vget_high_s16(d));
}

void pairs(const SparseInt8Pairs* p) {
  static const uint8_t kBase[16] = {0, 0, 4, 4, 8, 8, 12, 12, 16, 16, 20, 20, 24, 24, 28, 28};
  const uint8x16_t base = vld1q_u8(kBase), three = vdupq_n_u8(3);
  const int8_t* values = p->values;
  const uint8_t* places = p->places;
  for (int64_t i = 0; i < p->rows; i++) {
    const uint8_t* x = static_cast<const uint8_t*>(p->x);
    int32x4_t sum[4] = {vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)};
    for (int64_t s = 0; s < p->steps; s++, values += 64, places += 16, x += 128) {
      const uint8x16_t bits = vld1q_u8(places);
      const uint8x16_t shifted[4] = {bits, vshrq_n_u8(bits, 2), vshrq_n_u8(bits, 4), vshrq_n_u8(bits, 6)};
      for (int l = 0; l < 4; l++) {
        const uint8x16x2_t table = {{vld1q_u8(x + l * 32), vld1q_u8(x + l * 32 + 16)}};
        const uint8x16_t at = vorrq_u8(base, vandq_u8(shifted[l], three));
        sum[l] = meet(sum[l], vqtbl2q_u8(table, at), vld1q_s8(values + l * 16));
      }
    }
    p->acc[i] = vaddvq_s32(vaddq_s32(vaddq_s32(sum[0], sum[1]), vaddq_s32(sum[2], sum[3])));
  }
}

}  // namespace
}  // namespace whittle

extern "C" void sparse_int8_install_neon(whittle::SparseInt8Kernels* t) {
  using namespace whittle;
  t->units = 1;
  t->x_bytes = 2;
  t->shift_s8 = 0;
  t->pack = pack_plain;
  t->tile = run_tile<Tile>;
  t->widen = widen_plain;
  t->vector = run_tile<Vector>;
  t->lanes_signed = true;
  t->lanes = run_lanes<Lanes>;
  t->spread = spread_plain;
  t->pairs = pairs;
  t->finish = finish;
  t->finish_rows = finish_rows;
  t->turn = turn_plain;
}
