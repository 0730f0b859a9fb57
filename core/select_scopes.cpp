// The k largest of every group, where each group has a choice of its own.
#include <math.h>

#include <atomic>

#include "core/scratch.h"
#include "core/select_keys.h"
#include "core/threads.h"

namespace whittle {
namespace select_detail {
namespace {

constexpr int64_t kLeast = 1024;  // elements from which on a sample pays
constexpr int64_t kSample = 256;

// A sample tells between which values the threshold lies, one pass marks what is above and lists what is between, and the
// answer is chosen from the list. False where the sample misled.
bool sampled(const float* x, int64_t n, int64_t keep, uint32_t* keys, uint8_t* mask, int* nan) {
  static thread_local Scratch kept;
  char* memory = static_cast<char*>(kept.take((n + kSelectSlack) * static_cast<int64_t>(sizeof(float) + sizeof(uint16_t))));
  if (!memory) return false;
  float* values = reinterpret_cast<float*>(memory);
  uint16_t* index = reinterpret_cast<uint16_t*>(values + n + kSelectSlack);
  uint32_t again[kSample];
  const double share = static_cast<double>(keep) / static_cast<double>(n), rank = share * kSample;
  const double margin = 3.3 * sqrt(rank * (1 - share)) + 4;
  const int64_t upper = static_cast<int64_t>(rank - margin), lower = static_cast<int64_t>(rank + margin) + 1;
  // Spread by a hash within equal steps, so that a period in the data cannot fool it.
  for (int64_t i = 0; i < kSample; i++) {
    const uint64_t noise = static_cast<uint32_t>(i) * 2654435761u;
    again[i] = keys[i] = select_key(x[static_cast<int64_t>((static_cast<uint64_t>(i) << 32 | noise) * static_cast<uint64_t>(n) / kSample >> 32)]);
  }
  int64_t ignored;
  float hi = upper < 1 ? INFINITY : select_value(kth_key(again, kSample, upper, &ignored));
  float lo = lower > kSample ? -INFINITY : select_value(kth_key(keys, kSample, lower, &ignored));
  // A NaN in the sample: the pass that follows meets it too and says so.
  if (hi != hi) hi = INFINITY;
  if (lo != lo) lo = -INFINITY;
  SelectScan scan;
  select_kernels().scan(x, n, lo, hi, mask, values, index, n, &scan);
  *nan = scan.nan;
  if (scan.nan) return true;
  if (keep <= scan.greater || keep > scan.greater + scan.inside) return false;
  for (int64_t i = 0; i < scan.inside; i++) keys[i] = select_key(values[i]);
  int64_t larger = 0;
  const float t = select_value(kth_key(keys, scan.inside, keep - scan.greater, &larger));
  int64_t equal = keep - scan.greater - larger;
  for (int64_t i = 0; i < scan.inside; i++) {
    // no branch: which way a value lies cannot be predicted
    const int over = values[i] > t, same = values[i] == t;
    mask[index[i]] = static_cast<uint8_t>(over | (same & (equal > 0)));
    equal -= same;
  }
  return true;
}

}  // namespace

int select_run_largest(const float* x, int64_t n, int64_t keep, uint32_t* keys, uint8_t* mask) {
  int nan = 0;
  if (n >= kLeast && n <= kChunk && keep > 0 && keep < n && sampled(x, n, keep, keys, mask, &nan)) return nan;
  if (n == 0) return 0;
  const SelectKernels& k = select_kernels();
  if (to_keys(x, n, keys)) return 1;
  if (keep == 0) {
    memset(mask, 0, static_cast<size_t>(n));
    return 0;
  }
  int64_t larger = 0, ties = 0;
  const float t = select_value(kth_key(keys, n, keep, &larger));
  k.above(x, n, t, false, mask, &ties);
  if (ties > keep - larger) drop_ties(x, n, t, keep - larger, mask);
  return 0;
}

}  // namespace select_detail

using namespace select_detail;

WhittleStatus select_balanced(const float* scores, int64_t outer, int64_t axis, int64_t inner, int64_t keep,
                              uint8_t* mask) {
  const int64_t length = outer * inner;
  if (axis == 0 || length == 0) return WHITTLE_OK;
  if (outer == 1 && length >= 16 * kChunk) {
    for (int64_t a = 0; a < axis; a++) {
      const SelectPart part = {scores + a * length, mask + a * length, length};
      float ignored;
      const WhittleStatus status = select_largest(&part, 1, keep, &ignored);
      if (status != WHITTLE_OK) return status;
    }
    return WHITTLE_OK;
  }
  std::atomic<int> nan{0}, full{0};
  const int64_t grain = length >= kChunk ? 1 : kChunk / length;
  parallel_for(axis, grain, 0, [&](int64_t b, int64_t e) {
    std::unique_ptr<uint32_t[]> keys = room<uint32_t>(length);
    std::unique_ptr<float[]> row = room<float>(outer == 1 ? 0 : length);
    std::unique_ptr<uint8_t[]> row_mask = room<uint8_t>(outer == 1 ? 0 : length);
    if (!keys || !row || !row_mask) {
      full = 1;
      return;
    }
    for (int64_t a = b; a < e; a++) {
      if (outer == 1) {
        if (select_run_largest(scores + a * inner, inner, keep, keys.get(), mask + a * inner)) nan = 1;
        continue;
      }
      for (int64_t o = 0; o < outer; o++)
        memcpy(row.get() + o * inner, scores + (o * axis + a) * inner, static_cast<size_t>(inner) * sizeof(float));
      if (select_run_largest(row.get(), length, keep, keys.get(), row_mask.get())) nan = 1;
      for (int64_t o = 0; o < outer; o++)
        memcpy(mask + (o * axis + a) * inner, row_mask.get() + o * inner, static_cast<size_t>(inner));
    }
  });
  return full ? WHITTLE_OUT_OF_MEMORY : nan ? WHITTLE_NONFINITE : WHITTLE_OK;
}

}  // namespace whittle
