// One column: from the height of a tile and the alignment of its bundles to the loop that is compiled for them.
#pragma once
#include "core/sparse_int8.h"

namespace whittle {
namespace {

// T::run<height, aligned>(tile)
template <class T, bool A>
static inline void run_height(const SparseInt8Tile* t) {
  switch (t->height) {
    case 1: return T::template run<1, A>(t);
    case 2: return T::template run<2, A>(t);
    case 4: return T::template run<4, A>(t);
    case 8: return T::template run<8, A>(t);
    default: return T::template run<16, A>(t);
  }
}

// Lanes: T::run<height>(tile)
template <class T>
static void run_lanes(const SparseInt8Tile* t) {
  switch (t->height) {
    case 1: return T::template run<1>(t);
    case 4: return T::template run<4>(t);
    default: return T::template run<8>(t);
  }
}

template <class T>
static void run_tile(const SparseInt8Tile* t) {
  if (t->aligned) run_height<T, true>(t);
  else run_height<T, false>(t);
}

}  // namespace
}  // namespace whittle
