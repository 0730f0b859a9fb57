// Packing shared by all variants: weights to panels [k / KSTEP][width][KSTEP], rows of a to bytes or 16-bit values. Plain C.
// The including file defines TILE_COLUMNS, TILE_VECTOR (a panel's width is a multiple), K_STEP and, if k must be padded
// to more than K_STEP, K_PAD.
#pragma once
#include <stdint.h>
#include <string.h>

#include "core/gemm_int8.h"

#ifndef K_PAD
#define K_PAD K_STEP
#endif

namespace whittle {
namespace {

static void pack_panel(const GemmInt8Pack* p) {
  const int64_t first = p->panel * TILE_COLUMNS;
  const int64_t left = p->n - first;
  const int64_t n = left < TILE_COLUMNS ? left : TILE_COLUMNS;
  const int64_t width = (n + TILE_VECTOR - 1) / TILE_VECTOR * TILE_VECTOR;
  const int64_t padded = (p->k + K_PAD - 1) / K_PAD * K_PAD;
  const uint8_t flip = p->flip;
  int8_t* out = p->out;
  for (int64_t j = 0; j < n; j++) p->sums[j] = 0;
  if (p->transposed) {
    for (int64_t j = 0; j < width; j++) {
      int8_t* to = out + j * K_STEP;
      const uint8_t* from = p->w + (first + j) * p->stride;
      int64_t k = 0;
      int32_t sum = 0;
      if (j < n) {
        for (; k + K_STEP <= p->k; k += K_STEP, to += width * K_STEP)
          for (int i = 0; i < K_STEP; i++) {
            const int8_t v = static_cast<int8_t>(from[k + i] ^ flip);
            to[i] = v;
            sum += v;
          }
        for (; k < p->k; k += K_STEP, to += width * K_STEP)
          for (int i = 0; i < K_STEP; i++) {
            const int8_t v = k + i < p->k ? static_cast<int8_t>(from[k + i] ^ flip) : 0;
            to[i] = v;
            sum += v;
          }
        p->sums[j] = sum;
      }
      for (; k < padded; k += K_STEP, to += width * K_STEP) memset(to, 0, K_STEP);
    }
    return;
  }
  for (int64_t k = 0; k < padded; k += K_STEP, out += width * K_STEP) {
    const uint8_t* from = p->w + k * p->stride + first;
    if (k + K_STEP <= p->k) {
      for (int64_t j = 0; j < n; j++) {
        int32_t sum = 0;
        for (int i = 0; i < K_STEP; i++) {
          const int8_t v = static_cast<int8_t>(from[i * p->stride + j] ^ flip);
          out[j * K_STEP + i] = v;
          sum += v;
        }
        p->sums[j] += sum;
      }
      if (n < width) memset(out + n * K_STEP, 0, static_cast<size_t>((width - n) * K_STEP));
    } else {
      memset(out, 0, static_cast<size_t>(width * K_STEP));
      for (int64_t i = 0; k + i < p->k; i++)
        for (int64_t j = 0; j < n; j++) {
          const int8_t v = static_cast<int8_t>(from[i * p->stride + j] ^ flip);
          out[j * K_STEP + i] = v;
          p->sums[j] += v;
        }
    }
  }
}

// a' = a with its top bit turned by `flip`, as bytes; the sums read them as unsigned (Wanted = uint8_t) or signed.
template <class Wanted>
static inline void convert_bytes(const GemmInt8Convert* p, uint8_t flip) {
  for (int64_t r = 0; r < p->rows; r++) {
    const uint8_t* from = p->a + r * p->stride;
    uint8_t* to = static_cast<uint8_t*>(p->out) + r * p->out_stride;
    if (flip)
      for (int64_t k = 0; k < p->k; k++) to[k] = static_cast<uint8_t>(from[k] ^ 0x80);
    else memcpy(to, from, static_cast<size_t>(p->k));
    for (int64_t k = p->k; k < p->padded; k++) to[k] = 0;
    if (p->sums) {
      int32_t sum = 0;
      for (int64_t k = 0; k < p->k; k++) sum += static_cast<Wanted>(to[k]);
      p->sums[r] = sum;
    }
  }
}

static inline void convert_wide(const GemmInt8Convert* p) {
  for (int64_t r = 0; r < p->rows; r++) {
    const uint8_t* from = p->a + r * p->stride;
    int16_t* to = reinterpret_cast<int16_t*>(static_cast<uint8_t*>(p->out) + r * p->out_stride);
    if (p->is_signed)
      for (int64_t k = 0; k < p->k; k++) to[k] = static_cast<int8_t>(from[k]);
    else
      for (int64_t k = 0; k < p->k; k++) to[k] = from[k];
    for (int64_t k = p->k; k < p->padded; k++) to[k] = 0;
    if (p->sums) {
      int32_t sum = 0;
      for (int64_t k = 0; k < p->k; k++) sum += to[k];
      p->sums[r] = sum;
    }
  }
}

}  // namespace
}  // namespace whittle
