// One element at a time: what the scalar kernels loop over and the vector kernels end with.
#pragma once
#include <math.h>

#include "core/select.h"

#if defined(_MSC_VER) && !defined(__clang__)
#include <intrin.h>
#define SELECT_INLINE static __forceinline
#else
#define SELECT_INLINE static inline __attribute__((always_inline))
#endif

namespace whittle {

#if defined(_MSC_VER) && !defined(__clang__)
static inline int select_count(uint64_t bits) { return static_cast<int>(__popcnt64(bits)); }
static inline int select_lowest(uint64_t bits) {
  unsigned long at;
  _BitScanForward64(&at, bits);
  return static_cast<int>(at);
}
#else
static inline int select_count(uint64_t bits) { return __builtin_popcountll(bits); }
static inline int select_lowest(uint64_t bits) { return __builtin_ctzll(bits); }
#endif

static inline float select_score(int norm, float x, float g) {
  switch (norm) {
    case kSelectSum:
      return x;
    case kSelectSquare:
      return x * x;
    case kSelectSensitivity:
      return fabsf(g * x);
    case kSelectTaylor: {
      const float p = g * x;
      return p * p;
    }
    default:
      return fabsf(x);
  }
}

static inline double select_term(int norm, double x, double g) {
  switch (norm) {
    case kSelectSum:
      return x;
    case kSelectL2:
    case kSelectSquare:
      return x * x;
    case kSelectSensitivity:
      return fabs(g * x);
    case kSelectTaylor:
      return g * x;
    default:
      return fabs(x);
  }
}

static inline double select_join(int norm, double acc, double t) {
  if (norm != kSelectMax) return acc + t;
  return t > acc || t != t ? t : acc;
}

// Rank by counting: an element stays if fewer than `keep` others of its run come before it.
static inline int select_run(const float* x, int keep, int m, uint8_t* mask) {
  int nan = 0;
  for (int i = 0; i < m; i++) {
    int before = 0;
    for (int j = 0; j < i; j++) before += x[j] >= x[i];
    for (int j = i + 1; j < m; j++) before += x[j] > x[i];
    nan |= x[i] != x[i];
    mask[i] = before < keep;
  }
  return nan;
}

// Vector kernels hand their last elements to these; offsets are those of the whole piece.
static inline int select_scores_tail(int norm, const float* x, const float* g, int64_t from, int64_t n, float* out) {
  int nan = 0;
  for (int64_t i = from; i < n; i++) {
    const float s = select_score(norm, x[i], g ? g[i] : 0.0f);
    out[i] = s;
    nan |= s != s;
  }
  return nan;
}

static inline double select_reduce_tail(int norm, const float* x, const float* g, int64_t from, int64_t n, double acc) {
  for (int64_t i = from; i < n; i++) acc = select_join(norm, acc, select_term(norm, x[i], g ? g[i] : 0.0f));
  return acc;
}

static inline void select_columns_tail(int norm, const float* x, const float* g, int64_t from, int64_t n, double* acc) {
  for (int64_t i = from; i < n; i++) acc[i] = select_join(norm, acc[i], select_term(norm, x[i], g ? g[i] : 0.0f));
}

static inline double select_distance_tail(const float* a, const float* b, int64_t from, int64_t n, double sum) {
  for (int64_t i = from; i < n; i++) {
    const double d = static_cast<double>(a[i]) - b[i];
    sum += d * d;
  }
  return sum;
}

static inline void select_scan_tail(const float* x, int64_t from, int64_t n, float lo, float hi, uint8_t* mask,
                                    float* values, uint16_t* index, int64_t room, SelectScan* r) {
  for (int64_t i = from; i < n; i++) {
    const float v = x[i];
    const bool greater = v > hi;
    r->nan |= v != v;
    r->greater += greater;
    if (mask) mask[i] = greater;
    if (v >= lo && v <= hi) {
      if (r->inside < room) {
        values[r->inside] = v;
        index[r->inside] = static_cast<uint16_t>(i);
      }
      r->inside++;
    }
  }
}

static inline int select_above_tail(const float* x, int64_t from, int64_t n, float t, bool strict, uint8_t* mask,
                                    int64_t* equal) {
  int nan = 0;
  for (int64_t i = from; i < n; i++) {
    nan |= x[i] != x[i];
    *equal += x[i] == t;
    mask[i] = strict ? x[i] > t : x[i] >= t;
  }
  return nan;
}

}  // namespace whittle
