#include "core/select.h"

#include <vector>

#include "binding/call.h"
#include "binding/families.h"

namespace whittle {
namespace {

// The size that a view [outer, axis, inner] takes; JavaScript has checked that it stays below 2^31.
struct View {
  int64_t outer, axis, inner;
  void read(Args& a) {
    outer = a.integer();
    axis = a.integer();
    inner = a.integer();
  }
  int64_t size() const { return outer * axis * inner; }
};

struct Scores {
  int norm;
  View view;
  const float *x, *g;
  float* out;
  // norm, outer, axis, inner, x, g, out: one score per element where axis is 0, else one per group
  bool parse(Args& a) {
    norm = a.small();
    view.read(a);
    const int64_t n = view.outer * (view.axis ? view.axis : 1) * view.inner;
    x = a.array<float>(n);
    g = a.optional<float>(n);
    out = a.array<float>(view.axis ? view.axis : n);
    return a.ok() && norm >= 0 && norm < kSelectNorms && (g || !select_uses_grad(norm));
  }
  WhittleStatus run() {
    return view.axis ? select_groups(norm, x, g, view.outer, view.axis, view.inner, out)
                     : select_scores(norm, x, g, view.outer * view.inner, out);
  }
};

struct Blocks {
  int norm;
  int64_t rows, cols, r, c;
  const float *x, *g;
  float* out;
  bool parse(Args& a) {
    norm = a.small();
    rows = a.integer();
    cols = a.integer();
    r = a.integer();
    c = a.integer();
    if (!a.ok() || r < 1 || c < 1 || rows % r || cols % c) return false;
    x = a.array<float>(rows * cols);
    g = a.optional<float>(rows * cols);
    out = a.array<float>(rows / r * (cols / c));
    return a.ok() && norm >= 0 && norm < kSelectNorms && (g || !select_uses_grad(norm));
  }
  WhittleStatus run() { return select_blocks(norm, x, g, rows, cols, r, c, out); }
};

struct Median {
  View view;
  const float* x;
  float* out;
  bool parse(Args& a) {
    view.read(a);
    x = a.array<float>(view.size());
    out = a.array<float>(view.axis);
    return a.ok();
  }
  WhittleStatus run() { return select_median(x, view.outer, view.axis, view.inner, out); }
};

struct Random {
  uint64_t seed;
  int64_t n;
  float* out;
  bool parse(Args& a) {
    seed = static_cast<uint64_t>(a.integer());
    n = a.integer();
    out = a.array<float>(n);
    return a.ok();
  }
  WhittleStatus run() {
    select_random(seed, n, out);
    return WHITTLE_OK;
  }
};

// keep, threshold (one float, written), then scores and mask (or null) of each part in two arrays of equal length.
// The arrays are JavaScript's private ones: nobody changes them while an asynchronous call runs.
struct Largest {
  int64_t keep;
  float* threshold;
  std::vector<SelectPart> parts;
  bool parse(Args& a) {
    keep = a.integer();
    threshold = a.array<float>(1);
    if (!a.ok() || a.count() != 4) return false;
    const napi_env env = a.env();
    uint32_t count = 0, masks = 0;
    if (napi_get_array_length(env, a.value(2), &count) != napi_ok) return false;
    const bool marks = napi_get_array_length(env, a.value(3), &masks) == napi_ok;
    if (marks && masks != count) return false;
    parts.resize(count);
    int64_t total = 0;
    for (uint32_t i = 0; i < count; i++) {
      size_t scores_length = 0, mask_length = 0;
      parts[i].scores = static_cast<const float*>(element(env, a.value(2), i, napi_float32_array, &scores_length));
      if (!parts[i].scores) return false;
      if (marks) {
        parts[i].mask = static_cast<uint8_t*>(element(env, a.value(3), i, napi_uint8_array, &mask_length));
        if (!parts[i].mask || mask_length < scores_length) return false;
      }
      parts[i].n = static_cast<int64_t>(scores_length);
      total += parts[i].n;
    }
    return keep >= 0 && keep <= total;
  }
  WhittleStatus run() { return select_largest(parts.data(), static_cast<int64_t>(parts.size()), keep, threshold); }

 private:
  static void* element(napi_env env, napi_value list, uint32_t i, napi_typedarray_type want, size_t* length) {
    static char empty[1];
    napi_value v, buffer;
    napi_typedarray_type type;
    size_t offset = 0;
    void* data = nullptr;
    bool typed = false;
    if (napi_get_element(env, list, i, &v) != napi_ok || napi_is_typedarray(env, v, &typed) != napi_ok || !typed ||
        napi_get_typedarray_info(env, v, &type, length, &data, &buffer, &offset) != napi_ok)
      return nullptr;
    if (type != want && !(want == napi_uint8_array && type == napi_uint8_clamped_array)) return nullptr;
    return data ? data : empty;
  }
};

struct Balanced {
  View view;
  int64_t keep;
  const float* scores;
  uint8_t* mask;
  bool parse(Args& a) {
    view.read(a);
    keep = a.integer();
    scores = a.array<float>(view.size());
    mask = a.array<uint8_t>(view.size());
    return a.ok() && keep >= 0 && keep <= view.outer * view.inner;
  }
  WhittleStatus run() { return select_balanced(scores, view.outer, view.axis, view.inner, keep, mask); }
};

struct Above {
  int64_t n, equal;
  float threshold;
  const float* scores;
  uint8_t* mask;
  bool parse(Args& a) {
    n = a.integer();
    threshold = static_cast<float>(a.number());
    equal = a.integer();
    scores = a.array<float>(n);
    mask = a.array<uint8_t>(n);
    return a.ok();
  }
  WhittleStatus run() { return select_above(scores, n, threshold, equal, mask); }
};

struct Runs {
  View view;
  int keep, m;
  const float* scores;
  uint8_t* mask;
  bool parse(Args& a) {
    view.read(a);
    keep = a.small();
    m = a.small();
    scores = a.array<float>(view.size());
    mask = a.array<uint8_t>(view.size());
    return a.ok() && m >= 1 && keep >= 0 && keep <= m && view.axis % m == 0;
  }
  WhittleStatus run() { return select_nm(scores, view.outer, view.axis, view.inner, keep, m, mask); }
};

struct Expand {
  int64_t groups, repeat, count, width;
  const uint8_t* flags;
  uint8_t* mask;
  bool parse(Args& a) {
    groups = a.integer();
    repeat = a.integer();
    count = a.integer();
    width = a.integer();
    flags = a.array<uint8_t>(groups * count);
    mask = a.array<uint8_t>(groups * repeat * count * width);
    return a.ok();
  }
  WhittleStatus run() {
    select_expand(flags, groups, repeat, count, width, mask);
    return WHITTLE_OK;
  }
};

struct Apply {
  int64_t n;
  const float* x;
  const uint8_t* mask;
  float* out;
  bool parse(Args& a) {
    n = a.integer();
    x = a.array<float>(n);
    mask = a.array<uint8_t>(n);
    out = a.array<float>(n);
    return a.ok();
  }
  WhittleStatus run() {
    select_apply(x, mask, n, out);
    return WHITTLE_OK;
  }
};

struct Histogram {
  int64_t n;
  uint32_t base;
  int shift;
  const float* x;
  int64_t* counts;
  bool parse(Args& a) {
    n = a.integer();
    base = static_cast<uint32_t>(a.integer());
    shift = a.small();
    x = a.array<float>(n);
    counts = a.array<int64_t>(kSelectBins);
    return a.ok() && shift >= 0 && shift < 32;
  }
  WhittleStatus run() { return select_histogram(x, n, base, shift, counts); }
};

}  // namespace

void init_select(napi_env env, napi_value exports) {
  expose<Scores>(env, exports, "selectScores", "selectScoresAsync");
  expose<Blocks>(env, exports, "selectBlocks", "selectBlocksAsync");
  expose<Median>(env, exports, "selectMedian", "selectMedianAsync");
  expose<Random>(env, exports, "selectRandom", "selectRandomAsync");
  expose<Largest>(env, exports, "selectLargest", "selectLargestAsync");
  expose<Balanced>(env, exports, "selectBalanced", "selectBalancedAsync");
  expose<Above>(env, exports, "selectAbove", "selectAboveAsync");
  expose<Runs>(env, exports, "selectRuns", "selectRunsAsync");
  expose<Expand>(env, exports, "selectExpand", "selectExpandAsync");
  expose<Apply>(env, exports, "selectApply", "selectApplyAsync");
  expose<Histogram>(env, exports, "selectHistogram", "selectHistogramAsync");
}

}  // namespace whittle
