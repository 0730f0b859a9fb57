// How int8 weights lie in memory: what building, reading back and multiplying share.
#pragma once
#include <stddef.h>

#include "core/sparse_int8.h"

namespace whittle {

constexpr int64_t kSparseInt8Lane = 16;  // columns that a shuffle reaches

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Where the place of a value is kept; e counts values of all rows.
inline size_t sparse_pair_byte(int64_t e) { return static_cast<size_t>(e / kSparseInt8Step * 16 + e % 16); }
inline int64_t sparse_pair_bit(int64_t e) { return e % kSparseInt8Step / 16 * 2; }

// Values of a bundle; of a lane where rows lie alone.
inline int64_t bundle_values(const SparseInt8Data& d) { return d.lanes && d.height == 1 ? kSparseInt8Lane : d.height * 4; }

inline SparseInt8Tile tile_of(const SparseInt8Data& d, int64_t panel, int64_t block, const int32_t* offset = nullptr) {
  const SparseCell& cell = d.cells[static_cast<size_t>(panel * d.blocks + block)];
  SparseInt8Tile t = {};
  t.height = d.height;
  t.aligned = d.aligned;
  t.runs = d.runs.data() + cell.run;
  t.groups = cell.groups;
  t.index = d.index.data() + cell.entry * (d.aligned || d.lanes ? 1 : 4);
  t.values = d.values.data() + cell.entry * bundle_values(d);
  t.places = d.places.data() + (d.places.empty() ? 0 : cell.entry * 4);
  t.lowest = d.lowest;
  t.start = block == 0 && offset ? offset + panel * kSparseInt8Panel : nullptr;
  return t;
}

}  // namespace whittle
