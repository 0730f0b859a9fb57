// Preparation of X as 16-bit values in their natural order, and a transposition, in plain C: for variants that read X so.
#pragma once
#include <stdint.h>
#include <string.h>

#include "core/sparse_int8.h"

namespace whittle {
namespace {

static inline void widen_plain(const uint8_t* x, int64_t k, bool is_signed, void* out) {
  int16_t* to = static_cast<int16_t*>(out);
  if (is_signed)
    for (int64_t i = 0; i < k; i++) to[i] = static_cast<int8_t>(x[i]);
  else
    for (int64_t i = 0; i < k; i++) to[i] = x[i];
}

static inline void pack_plain(const SparseInt8Pack* p) {
  const int64_t wide = p->units * kSparseUnit, columns = p->columns < wide ? p->columns : wide;
  int16_t* out = static_cast<int16_t*>(p->out);
  for (int64_t i = 0; i < p->padded; i++) {
    int16_t* to = out + i * wide;
    if (i >= p->k) {
      memset(to, 0, static_cast<size_t>(wide) * 2);
      continue;
    }
    if (!p->transposed) {
      widen_plain(p->x + i * p->stride, columns, p->is_signed, to);
    } else {
      const uint8_t* from = p->x + i;
      for (int64_t j = 0; j < columns; j++) to[j] = p->is_signed ? static_cast<int8_t>(from[j * p->stride]) : from[j * p->stride];
    }
    for (int64_t j = columns; j < wide; j++) to[j] = 0;
  }
}

static inline void spread_plain(const uint8_t* x, int64_t k, bool is_signed, int64_t steps, uint8_t* out) {
  const uint8_t flip = is_signed ? 0x80 : 0;
  for (int64_t i = 0; i < k; i++) out[i] = x[i] ^ flip;
  memset(out + k, 0, static_cast<size_t>(steps * 2 * kSparseInt8Step - k));
}

static inline void turn_plain(const int32_t* acc, int64_t rows, int64_t stride, int64_t columns, int32_t* out, int64_t out_stride) {
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < columns; j++) out[j * out_stride + i] = acc[i * stride + j];
}

}  // namespace
}  // namespace whittle
