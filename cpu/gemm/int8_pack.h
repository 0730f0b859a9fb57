// Packing shared by all variants: weights to panels [k / KSTEP][width][KSTEP], rows of a to bytes or 16-bit values. Plain C.
// The including file defines TILE_COLUMNS (of the widest panel), PANEL_COLUMNS where the others are narrower, TILE_VECTOR (a
// panel's width is a multiple), K_STEP and, if k must be padded to more than K_STEP, K_PAD.
#pragma once
#include <stdint.h>
#include <string.h>

#include "core/gemm_int8.h"

#ifndef K_PAD
#define K_PAD K_STEP
#endif
#ifndef PANEL_COLUMNS
#define PANEL_COLUMNS TILE_COLUMNS
#endif

namespace whittle {
namespace {

static void pack_panel(const GemmInt8Pack* p) {
  const int64_t first = p->panel * PANEL_COLUMNS, n = p->columns;
  const int64_t width = (n + TILE_VECTOR - 1) / TILE_VECTOR * TILE_VECTOR;
  const int64_t total = p->k, padded = (total + K_PAD - 1) / K_PAD * K_PAD, stride = p->stride;
  const uint8_t flip = p->flip;
  int8_t* __restrict out = p->out;
  int32_t sums[TILE_COLUMNS] = {0};
  if (p->transposed) {
    memset(out, 0, static_cast<size_t>(width * padded));
    for (int64_t j = 0; j < n; j++) {
      int8_t* __restrict to = out + j * K_STEP;
      const uint8_t* __restrict from = p->w + (first + j) * stride;
      int64_t k = 0;
      int32_t sum = 0;
      for (; k + K_STEP <= total; k += K_STEP, to += width * K_STEP) {
        int8_t word[K_STEP];
        for (int i = 0; i < K_STEP; i++) {
          word[i] = static_cast<int8_t>(from[k + i] ^ flip);
          sum += word[i];
        }
        memcpy(to, word, K_STEP);
      }
      for (int i = 0; k + i < total; i++) {
        to[i] = static_cast<int8_t>(from[k + i] ^ flip);
        sum += to[i];
      }
      sums[j] = sum;
    }
  } else {
    for (int64_t k = 0; k < padded; k += K_STEP, out += width * K_STEP) {
      const uint8_t* __restrict from = p->w + k * stride + first;
      if (n < width || k + K_STEP > total) memset(out, 0, static_cast<size_t>(width * K_STEP));
      if (k + K_STEP <= total && n == PANEL_COLUMNS) {
        for (int j = 0; j < PANEL_COLUMNS; j++) {
          int32_t sum = 0;
          for (int i = 0; i < K_STEP; i++) {
            const int8_t v = static_cast<int8_t>(from[i * stride + j] ^ flip);
            out[j * K_STEP + i] = v;
            sum += v;
          }
          sums[j] += sum;
        }
      } else {
        for (int64_t i = 0; i < K_STEP && k + i < total; i++)
          for (int64_t j = 0; j < n; j++) {
            const int8_t v = static_cast<int8_t>(from[i * stride + j] ^ flip);
            out[j * K_STEP + i] = v;
            sums[j] += v;
          }
      }
    }
  }
  for (int64_t j = 0; j < n; j++) p->sums[j] = sums[j];
}

// a' = a with its top bit turned by `flip`, as bytes; the sums read them as unsigned (Wanted = uint8_t) or signed.
// Everything the loops need is in locals: stores of bytes may alias the argument struct and would forbid vectors.
template <class Wanted>
static inline void convert_bytes(const GemmInt8Convert* p, uint8_t flip) {
  const int64_t k = p->k, padded = p->padded;
  for (int64_t r = 0; r < p->rows; r++) {
    const uint8_t* __restrict from = p->a + r * p->stride;
    uint8_t* __restrict to = static_cast<uint8_t*>(p->out) + r * p->out_stride;
    for (int64_t i = 0; i < k; i++) to[i] = static_cast<uint8_t>(from[i] ^ flip);
    for (int64_t i = k; i < padded; i++) to[i] = 0;
    if (p->sums) {
      int32_t sum = 0;
      for (int64_t i = 0; i < k; i++) sum += static_cast<Wanted>(to[i]);
      p->sums[r] = sum;
    }
  }
}

static inline void convert_wide(const GemmInt8Convert* p) {
  const int64_t k = p->k, padded = p->padded;
  for (int64_t r = 0; r < p->rows; r++) {
    const uint8_t* __restrict from = p->a + r * p->stride;
    int16_t* __restrict to = reinterpret_cast<int16_t*>(static_cast<uint8_t*>(p->out) + r * p->out_stride);
    if (p->is_signed)
      for (int64_t i = 0; i < k; i++) to[i] = static_cast<int8_t>(from[i]);
    else
      for (int64_t i = 0; i < k; i++) to[i] = from[i];
    for (int64_t i = k; i < padded; i++) to[i] = 0;
    if (p->sums) {
      int32_t sum = 0;
      for (int64_t i = 0; i < k; i++) sum += to[i];
      p->sums[r] = sum;
    }
  }
}

}  // namespace
}  // namespace whittle
