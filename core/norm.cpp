#include "core/norm.h"

#include <math.h>

#include <algorithm>
#include <atomic>
#include <mutex>

#include "core/elementwise.h"
#include "core/scratch.h"
#include "core/threads.h"

#define WHITTLE_VARIANT(tier) extern "C" void norm_install_##tier(whittle::NormKernels*);
#include "cpu/norm/variants.inc"
#undef WHITTLE_VARIANT

namespace whittle {

VariantList<NormKernels> norm_variants() {
  static const Variant<NormKernels> list[] = {
#define WHITTLE_VARIANT(tier) {Tier::tier, norm_install_##tier},
#include "cpu/norm/variants.inc"
#undef WHITTLE_VARIANT
  };
  return {list, static_cast<int>(sizeof list / sizeof *list)};
}

namespace {

const Resolved<NormKernels>& resolved() {
  static const Resolved<NormKernels> r = resolve(norm_variants());
  return r;
}

// Elements that pay for waking a thread.
constexpr int64_t kChunk = 16 << 10;
int64_t rows_a_chunk(int64_t n) { return std::max<int64_t>(1, kChunk / std::max<int64_t>(1, n)); }

float finish_one(ReduceKind kind, float s, int64_t n) {
  switch (kind) {
    case kReduceMean: return s / static_cast<float>(n);
    case kReduceL2: return sqrtf(s);
    case kReduceLogSum: return logf(s);
    default: return s;
  }
}

float reduce_row(const NormKernels& k, ReduceKind kind, int64_t n, const float* x) {
  switch (kind) {
    case kReduceMax: return k.top(n, x);
    case kReduceMin: return k.bottom(n, x);
    case kReduceL1: return k.sum_abs(n, x);
    case kReduceL2:
    case kReduceSumSquare: return finish_one(kind, k.sum_squares(n, x), n);
    case kReduceLogSumExp: {
      const float m = k.top(n, x);
      if (!(fabsf(m) < INFINITY)) return m;
      double s = 0;
      for (int64_t i = 0; i < n; i++) s += exp(static_cast<double>(x[i]) - m);
      return static_cast<float>(m + log(s));
    }
    case kReduceProd: {
      float s = 1;
      for (int64_t i = 0; i < n; i++) s *= x[i];
      return s;
    }
    default: return finish_one(kind, k.sum(n, x), n);
  }
}

}  // namespace

const NormKernels& norm_kernels() { return resolved().table; }
Tier norm_tier() { return resolved().tier; }

void softmax_rows(int64_t rows, int64_t n, const float* x, bool log, float* out, int threads) {
  const NormKernels& k = norm_kernels();
  parallel_for(rows, rows_a_chunk(4 * n), threads, [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; i++) k.softmax(n, x + i * n, log, out + i * n);
  });
}

void layer_rows(int64_t rows, int64_t n, bool centered, const float* x, const float* gamma, const float* beta, float epsilon, float* out,
                float* range, int threads) {
  const NormKernels& k = norm_kernels();
  std::mutex lock;
  if (range) range[0] = range[1] = 0;
  parallel_for(rows, rows_a_chunk(4 * n), threads, [&](int64_t b, int64_t e) {
    float own[2] = {0, 0};
    k.layer(e - b, n, centered, x + b * n, gamma, beta, epsilon, out + b * n, range ? own : nullptr);
    if (!range) return;
    std::lock_guard<std::mutex> hold(lock);
    if (!(own[0] >= range[0])) range[0] = range[0] == range[0] ? own[0] : range[0];
    if (!(own[1] <= range[1])) range[1] = range[1] == range[1] ? own[1] : range[1];
  });
}

bool reduce_middle(ReduceKind kind, int64_t outer, int64_t n, int64_t inner, const float* x, float* out, int threads) {
  const NormKernels& k = norm_kernels();
  if (inner == 1) {
    parallel_for(outer, rows_a_chunk(n), threads, [&](int64_t b, int64_t e) {
      for (int64_t i = b; i < e; i++) out[i] = reduce_row(k, kind, n, x + i * n);
    });
    return true;
  }
  const ElementwiseKernels& ops = elementwise_kernels();
  const bool max = kind == kReduceMax, min = kind == kReduceMin, product = kind == kReduceProd;
  const int32_t join = max ? kElementwise_max : min ? kElementwise_min : product ? kElementwise_mul : kElementwise_add;
  const int32_t before = kind == kReduceL1 ? kElementwise_abs : kind == kReduceL2 || kind == kReduceSumSquare ? kElementwise_square : -1;
  std::atomic<bool> failed{false};
  if (kind == kReduceLogSumExp) {
    // Rare: element by element.
    parallel_for(outer * inner, rows_a_chunk(n), threads, [&](int64_t b, int64_t e) {
      static thread_local Scratch scratch;
      float* row = static_cast<float*>(scratch.take(n * 4));
      if (!row) {
        failed = true;
        return;
      }
      for (int64_t i = b; i < e; i++) {
        for (int64_t p = 0; p < n; p++) row[p] = x[(i / inner * n + p) * inner + i % inner];
        out[i] = reduce_row(k, kind, n, row);
      }
    });
    return !failed;
  }
  // Columns in strips that stay in L1, so that one outer index can be shared by threads too.
  const int64_t strip = std::min<int64_t>(inner, 256), strips = (inner + strip - 1) / strip;
  parallel_for(outer * strips, rows_a_chunk(n * strip), threads, [&](int64_t b, int64_t e) {
    float temporary[256];
    for (int64_t t = b; t < e; t++) {
      const int64_t o = t / strips, first = t % strips * strip, count = std::min(strip, inner - first);
      const float* from = x + o * n * inner + first;
      float* to = out + o * inner + first;
      std::fill(to, to + count, max ? -INFINITY : min ? INFINITY : product ? 1.0f : 0.0f);
      for (int64_t p = 0; p < n; p++, from += inner) {
        const float* v = from;
        if (before >= 0) {
          ops.apply[before](count, from, from, 0, 0, temporary);
          v = temporary;
        }
        ops.apply[join](count, to, v, 0, 0, to);
      }
      if (kind == kReduceMean || kind == kReduceL2 || kind == kReduceLogSum)
        for (int64_t j = 0; j < count; j++) to[j] = finish_one(kind, to[j], n);
    }
  });
  return true;
}

}  // namespace whittle
