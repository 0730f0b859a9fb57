// Compressed weights in plain loops: the reference and the portable fallback. One row at a time against a group of 16
// columns, summed in float32 over a block, scaled, summed over blocks.
#define WHITTLE_ISA_FILE
#include <string.h>

#include "core/gemm_weight.h"

using namespace whittle;

// Row p of a group: 16 codes, or bfloat16 values.
static void codes_at(const PackedWeight* w, int64_t group, int64_t p, float* q) {
  const uint8_t* data = w->data + group * w->group_bytes;
  if (w->format == kWeightInt4) {
    const int64_t block = p / w->block, row = p % w->block, lane = row % 8;
    const uint8_t* at = data + (block * ((w->block + 7) / 8) + row / 8) * 64 + lane % 4;
    for (int j = 0; j < kWeightLanes; j++) q[j] = (float)((lane < 4 ? at[4 * j] & 15 : at[4 * j] >> 4) - 8);
  } else if (w->format == kWeightInt8) {
    for (int j = 0; j < kWeightLanes; j++) q[j] = (float)(int8_t)data[p * kWeightLanes + j];
  } else {
    for (int j = 0; j < kWeightLanes; j++) {
      uint16_t half;
      memcpy(&half, data + p / 2 * 64 + 4 * j + p % 2 * 2, 2);
      const uint32_t bits = (uint32_t)half << 16;
      memcpy(q + j, &bits, 4);
    }
  }
}

static void stream(const WeightStream* s) {
  const PackedWeight* w = s->w;
  const int64_t lanes = kWeightLanes;
  for (int64_t g = s->group; g < s->group + s->groups; g++)
    for (int64_t r = 0; r < s->rows; r++) {
      float total[kWeightLanes] = {0}, q[kWeightLanes];
      for (int64_t b = 0, at = g * w->blocks; b < w->blocks; b++) {
        float acc[kWeightLanes] = {0}, sum = 0;
        const int64_t end = (b + 1) * w->block < w->k ? (b + 1) * w->block : w->k;
        for (int64_t p = b * w->block; p < end; p++) {
          const float x = s->a[r * s->lda + p];
          codes_at(w, g, p, q);
          for (int j = 0; j < lanes; j++) acc[j] += x * q[j];
          sum += x;
        }
        for (int j = 0; j < lanes; j++) {
          total[j] += w->scale ? acc[j] * w->scale[(at + b) * lanes + j] : acc[j];
          if (w->offset) total[j] += sum * w->offset[(at + b) * lanes + j];
        }
      }
      const int64_t column = (g - s->group) * lanes, left = w->n - g * lanes;
      for (int64_t j = 0; j < (left < lanes ? left : lanes); j++) s->c[r * s->ldc + column + j] = total[j];
    }
}

static void unpack(const WeightUnpack* u) {
  const PackedWeight* w = u->w;
  float q[kWeightLanes];
  for (int64_t p = u->k; p < u->k + u->length; p++) {
    codes_at(w, u->group, p, q);
    const int64_t at = (u->group * w->blocks + p / w->block) * kWeightLanes;
    float* out = u->out + (p - u->k) * u->row;
    for (int j = 0; j < kWeightLanes; j++) {
      float v = w->scale ? w->scale[at + j] * q[j] : q[j];
      if (w->offset) v += w->offset[at + j];
      out[j < 8 ? j : u->half + j - 8] = v;
    }
  }
}

extern "C" void gemm_weight_install_scalar(WeightKernels* t) {
  t->bf16_rows = 2;
  t->digits = 0;
  t->split = 0;
  t->tile = 0;
  for (int f = 0; f < kWeightFormats; f++) {
    t->tile_rows[f] = 4;
    t->stream_rows[f] = 2;
    t->stream[f] = stream;
    t->unpack[f] = unpack;
  }
}
