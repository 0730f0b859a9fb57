// What the selections share: order statistics of keys, ties, memory.
#pragma once
#include <string.h>

#include <memory>
#include <new>

#include "core/select.h"

namespace whittle {
namespace select_detail {

constexpr int64_t kChunk = 65536;  // elements a task

template <class T>
std::unique_ptr<T[]> room(int64_t n) {
  return std::unique_ptr<T[]>(new (std::nothrow) T[static_cast<size_t>(n > 0 ? n : 1)]);
}

// The k-th largest of n keys (1 <= k <= n) and how many are larger. Reorders and overwrites keys.
inline uint32_t kth_key(uint32_t* keys, int64_t n, int64_t k, int64_t* larger) {
  uint32_t counts[kSelectBins];
  int64_t above = 0;
  for (;;) {
    if (n <= 24) {
      for (int64_t i = 1; i < n; i++) {
        const uint32_t v = keys[i];
        int64_t j = i;
        for (; j > 0 && keys[j - 1] < v; j--) keys[j] = keys[j - 1];
        keys[j] = v;
      }
      int64_t first = k - 1;
      while (first > 0 && keys[first - 1] == keys[k - 1]) first--;
      *larger = above + first;
      return keys[k - 1];
    }
    uint32_t lo = keys[0], hi = keys[0];
    for (int64_t i = 1; i < n; i++) {
      lo = keys[i] < lo ? keys[i] : lo;
      hi = keys[i] > hi ? keys[i] : hi;
    }
    if (lo == hi) {
      *larger = above;
      return lo;
    }
    int shift = 0, bins = 16;
    while (bins < kSelectBins && bins < n) bins *= 2;
    while ((hi - lo) >> shift >= static_cast<uint32_t>(bins)) shift++;
    memset(counts, 0, static_cast<size_t>(bins) * sizeof *counts);
    for (int64_t i = 0; i < n; i++) counts[(keys[i] - lo) >> shift]++;
    int64_t passed = 0;
    uint32_t bin = (hi - lo) >> shift;
    while (passed + counts[bin] < k) passed += counts[bin--];
    int64_t left = 0;
    for (int64_t i = 0; i < n; i++) {
      const uint32_t v = keys[i];
      if ((v - lo) >> shift == bin) keys[left++] = v;
    }
    above += passed;
    k -= passed;
    n = left;
  }
}

// Clears the mask at all elements equal to t but the first `equal`.
inline void drop_ties(const float* x, int64_t n, float t, int64_t equal, uint8_t* mask) {
  for (int64_t i = 0; i < n; i++)
    if (x[i] == t && equal-- <= 0) mask[i] = 0;
}

// Answers 1 if a NaN is among them.
inline int to_keys(const float* x, int64_t n, uint32_t* keys) {
  int nan = 0;
  for (int64_t i = 0; i < n; i++) {
    nan |= x[i] != x[i];
    keys[i] = select_key(x[i]);
  }
  return nan;
}

// The keep largest of one contiguous run of n scores; keys has room for n. Answers 1 if a NaN is among them.
int select_run_largest(const float* x, int64_t n, int64_t keep, uint32_t* keys, uint8_t* mask);

}  // namespace select_detail
}  // namespace whittle
