// Leading singular triplets by a block Krylov space, see svd_krylov.cpp.
#pragma once
#include "core/svd_parts.h"

namespace whittle {

// A row-major matrix, rows side by side.
template <class T>
struct SvdKrylov {
  int64_t m, n;
  const T* base;
  int threads;
};

// Blocks of `block` columns (float32: a multiple of kSvdPanel), at first 1 + steps of them, at most 1 + most_steps;
// where more steps than the first are allowed, further ones may look for more of values that are equal.
struct SvdSpace {
  int64_t rank, block, steps, most_steps;
  uint64_t seed;
};

// `t` has room for rank values, left (rank x m) and right (rank x n). `exhausted`: it would take a space close to the whole
// or another way, and nothing was answered.
template <class T>
WhittleStatus svd_krylov(const SvdKrylov<T>& a, const SvdSpace& space, double norm2, SvdTriplets* t, double* improvement,
                         bool* exhausted);

}  // namespace whittle
