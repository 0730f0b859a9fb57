// The reference for every select kernel: plain loops, sums in double in index order.
#include <string.h>

#include "cpu/select/one.h"

namespace whittle {
namespace {

int scores(int norm, const float* x, const float* g, int64_t n, float* out) {
  return select_scores_tail(norm, x, g, 0, n, out);
}

double reduce(int norm, const float* x, const float* g, int64_t n) { return select_reduce_tail(norm, x, g, 0, n, 0); }

void columns(int norm, const float* x, const float* g, int64_t n, double* acc) {
  select_columns_tail(norm, x, g, 0, n, acc);
}

double distance(const float* a, const float* b, int64_t n) { return select_distance_tail(a, b, 0, n, 0); }

int histogram(const float* x, int64_t n, uint32_t base, int shift, uint32_t* counts) {
  int nan = 0;
  for (int64_t i = 0; i < n; i++) {
    nan |= x[i] != x[i];
    const uint32_t bin = (select_key(x[i]) - base) >> shift;
    if (bin < static_cast<uint32_t>(kSelectBins)) counts[bin]++;
  }
  return nan;
}

void scan(const float* x, int64_t n, float lo, float hi, uint8_t* mask, float* values, uint16_t* index, int64_t room,
          SelectScan* result) {
  SelectScan r = {0, 0, 0};
  select_scan_tail(x, 0, n, lo, hi, mask, values, index, room, &r);
  *result = r;
}

int above(const float* x, int64_t n, float t, bool strict, uint8_t* mask, int64_t* equal) {
  *equal = 0;
  return select_above_tail(x, 0, n, t, strict, mask, equal);
}

int nm(const float* x, int64_t groups, int keep, int m, uint8_t* mask) {
  int nan = 0;
  for (int64_t i = 0; i < groups; i++) nan |= select_run(x + i * m, keep, m, mask + i * m);
  return nan;
}

void expand(const uint8_t* flags, int64_t count, int64_t width, uint8_t* out) {
  if (count == 0) return;
  if (width == 1) {
    memcpy(out, flags, static_cast<size_t>(count));
    return;
  }
  for (int64_t i = 0; i < count; i++) memset(out + i * width, flags[i], static_cast<size_t>(width));
}

void apply(const float* x, const uint8_t* mask, int64_t n, float* out) {
  for (int64_t i = 0; i < n; i++) out[i] = mask[i] ? x[i] : 0.0f;
}

}  // namespace

extern "C" void select_install_scalar(SelectKernels* table) {
  table->scores = scores;
  table->reduce = reduce;
  table->columns = columns;
  table->distance = distance;
  table->histogram = histogram;
  table->scan = scan;
  table->above = above;
  table->nm = nm;
  table->expand = expand;
  table->apply = apply;
}

}  // namespace whittle
