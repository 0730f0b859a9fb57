// The reference for every select kernel: plain loops, sums in double in index order.
#include <math.h>
#include <string.h>

#include "core/select.h"

namespace whittle {
namespace {

float score(int norm, float x, float g) {
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

double term(int norm, double x, double g) {
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

double join(int norm, double acc, double t) {
  if (norm != kSelectMax) return acc + t;
  return t > acc || t != t ? t : acc;
}

int scores(int norm, const float* x, const float* g, int64_t n, float* out) {
  int nan = 0;
  for (int64_t i = 0; i < n; i++) {
    const float s = score(norm, x[i], g ? g[i] : 0.0f);
    out[i] = s;
    nan |= s != s;
  }
  return nan;
}

double reduce(int norm, const float* x, const float* g, int64_t n) {
  double acc = 0;
  for (int64_t i = 0; i < n; i++) acc = join(norm, acc, term(norm, x[i], g ? g[i] : 0.0f));
  return acc;
}

void columns(int norm, const float* x, const float* g, int64_t n, double* acc) {
  for (int64_t i = 0; i < n; i++) acc[i] = join(norm, acc[i], term(norm, x[i], g ? g[i] : 0.0f));
}

double distance(const float* a, const float* b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; i++) {
    const double d = static_cast<double>(a[i]) - b[i];
    sum += d * d;
  }
  return sum;
}

int histogram(const float* x, int64_t n, uint32_t base, int shift, uint32_t* counts) {
  int nan = 0;
  for (int64_t i = 0; i < n; i++) {
    nan |= x[i] != x[i];
    const uint32_t bin = (select_key(x[i]) - base) >> shift;
    if (bin < static_cast<uint32_t>(kSelectBins)) counts[bin]++;
  }
  return nan;
}

void scan(const float* x, int64_t n, float lo, float hi, uint8_t* mask, float* values, uint32_t* index, int64_t room,
          SelectScan* result) {
  SelectScan r = {0, 0, 0};
  for (int64_t i = 0; i < n; i++) {
    const float v = x[i];
    const bool greater = v > hi;
    r.nan |= v != v;
    r.greater += greater;
    if (mask) mask[i] = greater;
    if (v >= lo && v <= hi) {
      if (r.inside < room) {
        values[r.inside] = v;
        index[r.inside] = static_cast<uint32_t>(i);
      }
      r.inside++;
    }
  }
  *result = r;
}

int above(const float* x, int64_t n, float t, bool strict, uint8_t* mask, int64_t* equal) {
  int nan = 0;
  int64_t same = 0;
  for (int64_t i = 0; i < n; i++) {
    nan |= x[i] != x[i];
    same += x[i] == t;
    mask[i] = strict ? x[i] > t : x[i] >= t;
  }
  *equal = same;
  return nan;
}

// Rank by counting: an element stays if fewer than `keep` others of its run come before it.
int nm_run(const float* x, int keep, int m, uint8_t* mask) {
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

int nm(const float* x, int64_t groups, int keep, int m, uint8_t* mask) {
  int nan = 0;
  for (int64_t i = 0; i < groups; i++) nan |= nm_run(x + i * m, keep, m, mask + i * m);
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
