// Scores of weights, selection of the k largest, and the masks that follow from it.
//
// Order: scores are float32 in their usual order, -0 equal to +0, infinities at the ends. Of equal scores the one of
// lower index counts as larger, so every mask is unique and the same on all variants and thread counts. A NaN has no
// place in this order: calls answer WHITTLE_NONFINITE and leave the output unspecified.
//
// Sums run in double (products of two floats are exact there) and are rounded to float once at the end. With n terms
// t_i, |got - exact| <= n * 2^-53 * sum|t_i| before that rounding, whatever the order of addition.
#pragma once
#include <stdint.h>

#include "core/status.h"
#include "core/variants.h"

namespace whittle {

// What is added up over a group. The numbers cross into lib/kernels/select.
enum SelectNorm : int {
  kSelectSum = 0,          // sum x
  kSelectL1 = 1,           // sum |x|
  kSelectL2 = 2,           // sqrt(sum x^2)
  kSelectSquare = 3,       // sum x^2
  kSelectMax = 4,          // max |x|; 0 for no element, NaN if there is one
  kSelectSensitivity = 5,  // sum |g x|
  kSelectTaylor = 6,       // (sum g x)^2
};
constexpr int kSelectNorms = 7;

inline bool select_uses_grad(int norm) { return norm == kSelectSensitivity || norm == kSelectTaylor; }

// Keys: unsigned integers in the order of the floats.
static inline uint32_t select_key(float x) {
  union {
    float f;
    uint32_t u;
  } v;
  v.f = x + 0.0f;  // -0 becomes +0
  return v.u ^ (static_cast<uint32_t>(-static_cast<int32_t>(v.u >> 31)) | 0x80000000u);
}
static inline float select_value(uint32_t key) {
  union {
    float f;
    uint32_t u;
  } v;
  v.u = key & 0x80000000u ? key ^ 0x80000000u : ~key;
  return v.f;
}

constexpr int kSelectBins = 2048;

// What scan saw. `inside` may exceed the room it was given; then the lists are incomplete.
struct SelectScan {
  int64_t greater;  // x > hi
  int64_t inside;   // lo <= x <= hi
  int32_t nan;      // 0 or 1
};

// Single-threaded pieces over contiguous memory; any alignment, any n >= 0. `int` results are 1 if a NaN was produced
// or met, else 0. g may be null where the norm has no use for it.
struct SelectKernels {
  // out[i] = score of x[i] alone: x, |x|, |x|, x*x, |x|, |g*x|, (g*x)*(g*x) in float32, each operation rounded once.
  int (*scores)(int norm, const float* x, const float* g, int64_t n, float* out);
  // The raw sum (or maximum) over n elements, before the root or square of L2 and Taylor.
  double (*reduce)(int norm, const float* x, const float* g, int64_t n);
  // acc[i] = acc[i] + term(x[i]), or the maximum of both.
  void (*columns)(int norm, const float* x, const float* g, int64_t n, double* acc);
  // sum (a - b)^2
  double (*distance)(const float* a, const float* b, int64_t n);
  // counts[(key(x[i]) - base) >> shift]++ wherever that index is below kSelectBins. counts has kSelectBins entries.
  int (*histogram)(const float* x, int64_t n, uint32_t base, int shift, uint32_t* counts);
  // mask[i] = x[i] > hi (if mask is not null); elements of [lo, hi] go to values and index in order, at most `room` of
  // them, but values and index must have room for kSelectSlack more, which may be overwritten. n <= 65536.
  void (*scan)(const float* x, int64_t n, float lo, float hi, uint8_t* mask, float* values, uint16_t* index,
               int64_t room, SelectScan* result);
  // mask[i] = strict ? x[i] > t : x[i] >= t; *equal = number of x[i] == t.
  int (*above)(const float* x, int64_t n, float t, bool strict, uint8_t* mask, int64_t* equal);
  // groups runs of m elements: 1 for the keep largest of each run. 1 <= m <= kSelectRun, 0 <= keep <= m.
  int (*nm)(const float* x, int64_t groups, int keep, int m, uint8_t* mask);
  // out[i * width + j] = flags[i] for j < width.
  void (*expand)(const uint8_t* flags, int64_t count, int64_t width, uint8_t* out);
  // out[i] = mask[i] ? x[i] : +0. out may be x.
  void (*apply)(const float* x, const uint8_t* mask, int64_t n, float* out);
};
constexpr int64_t kSelectSlack = 64;
constexpr int kSelectRun = 64;

VariantList<SelectKernels> select_variants();
const SelectKernels& select_kernels();
Tier select_tier();

// Drivers: they split the work over the pool. A tensor is seen as [outer, axis, inner] and group a of it holds
// x[o][a][i] for all o and i.

WhittleStatus select_scores(int norm, const float* x, const float* g, int64_t n, float* out);
// Uniform numbers in [0, 1): 24 bits of SplitMix64 of (seed, index).
void select_random(uint64_t seed, int64_t n, float* out);
WhittleStatus select_groups(int norm, const float* x, const float* g, int64_t outer, int64_t axis, int64_t inner,
                            float* out);
// out[i] = sum over j of the Euclidean distance between groups i and j. Copies x once if outer > 1.
WhittleStatus select_median(const float* x, int64_t outer, int64_t axis, int64_t inner, float* out);
// One score per r x c block of a rows x cols matrix; r divides rows and c divides cols.
WhittleStatus select_blocks(int norm, const float* x, const float* g, int64_t rows, int64_t cols, int64_t r, int64_t c,
                            float* out);

struct SelectPart {
  const float* scores;
  uint8_t* mask;  // null where only the threshold is wanted
  int64_t n;
};
// Marks the `keep` largest of all parts together (0 <= keep <= sum n; among equals earlier parts come first) and
// answers the smallest kept score (+infinity for keep = 0). Extra memory: 3/8 byte an element, and 1 MB.
WhittleStatus select_largest(const SelectPart* parts, int64_t count, int64_t keep, float* threshold);
// The `keep` largest within each group.
WhittleStatus select_balanced(const float* scores, int64_t outer, int64_t axis, int64_t inner, int64_t keep,
                              uint8_t* mask);
// mask = x > threshold, and the first `equal` elements that equal it.
WhittleStatus select_above(const float* scores, int64_t n, float threshold, int64_t equal, uint8_t* mask);
// Runs of m along the axis; m divides it.
WhittleStatus select_nm(const float* scores, int64_t outer, int64_t axis, int64_t inner, int keep, int m,
                        uint8_t* mask);
// groups x (repeat copies of a row of count flags, each `width` wide).
void select_expand(const uint8_t* flags, int64_t groups, int64_t repeat, int64_t count, int64_t width, uint8_t* mask);
void select_apply(const float* x, const uint8_t* mask, int64_t n, float* out);
// Adds to counts (int64, kSelectBins): the streaming form of a selection over tensors that do not fit in memory at once.
WhittleStatus select_histogram(const float* x, int64_t n, uint32_t base, int shift, int64_t* counts);

}  // namespace whittle
