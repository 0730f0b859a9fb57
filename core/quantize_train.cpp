// Fake quantization with its gradients, and the histograms of observers.
#include <math.h>
#include <string.h>

#include <atomic>

#include "core/quantize_walk.h"
#include "core/threads.h"

namespace whittle {

using namespace quantize_detail;

WhittleStatus fake_quantize(const float* x, const QuantizeShape& shape, const float* scale, const int32_t* zero,
                            const QuantizeOptions& o, float* y, const FakeGradient* g) {
  const int64_t scales = shape.scales(), size = shape.size();
  if (!scales_fit(scale, scales)) return WHITTLE_RANGE;
  for (int64_t i = 0; i < scales; i++) {
    const int32_t z = zero ? zero[i] : 0, far = z - o.qmin > o.qmax - z ? z - o.qmin : o.qmax - z;
    if (scale[i] * static_cast<float>(far) > FLT_MAX) return WHITTLE_RANGE;
  }
  Zeros zeros;
  zeros.set(zero);
  const QuantizeKernels& k = quantize_kernels();
  const QuantizeStep base = {nullptr, nullptr, o.qmin, o.qmax, o.rounding, o.key0, o.key1, 0};
  std::atomic<int> bad{0};
  // dscale and dzero are sums from scale `first` on
  const auto between = [&](int64_t begin, int64_t end, double* dscale, double* dzero, int64_t first) {
    int wrong = 0;
    walk_steps(
        shape, begin, end, base, scale, zeros,
        [&](int64_t at, int64_t runs, int64_t length, const QuantizeStep& step, int64_t s) {
          if (y) wrong |= k.fake(x + at, runs, length, &step, y + at);
          if (g)
            wrong |= k.gradient(x + at, g->dy + at, runs, length, &step, g->dx + at, dscale + (s - first), dzero + (s - first));
        },
        [&](int64_t at, int64_t rows, int64_t columns, int64_t stride, const QuantizeStep& step, int64_t s) {
          if (y) wrong |= k.fake_columns(x + at, rows, columns, stride, &step, y + at);
          if (g)
            wrong |= k.gradient_columns(x + at, g->dy + at, rows, columns, stride, &step, g->dx + at, dscale + (s - first),
                                        dzero + (s - first));
        });
    if (wrong) bad = 1;
  };
  if (!g) {
    parallel_for(size, kGrain, o.threads, [&](int64_t b, int64_t e) { between(b, e, nullptr, nullptr, 0); });
    return bad ? WHITTLE_NONFINITE : WHITTLE_OK;
  }
  // Sums in double, over pieces that depend on the shape alone: the same bits for any number of threads.
  const Units units(shape);
  int64_t tasks = 1;
  if (!units.count) {
    tasks = least(least((size + kGrain - 1) / kGrain, 64), scales > 0 ? size / (8 * scales) : 0);
    if (tasks < 1) tasks = 1;
  }
  const std::unique_ptr<double[]> sums = allocate<double>(2 * tasks * scales);
  if (!sums) return WHITTLE_OUT_OF_MEMORY;
  for (int64_t i = 0; i < 2 * tasks * scales; i++) sums[static_cast<size_t>(i)] = 0;
  double* const at = sums.get();
  if (size == 0) {
    // sums of nothing
  } else if (units.count) {
    parallel_for(units.count, units.grain(kGrain), o.threads, [&](int64_t b, int64_t e) {
      const int64_t first = b * units.scales;
      between(units.begin(b), units.begin(e), at + first, at + scales + first, first);
    });
  } else {
    const int64_t grain = (size + tasks - 1) / tasks;
    parallel_for(size, grain, o.threads, [&](int64_t b, int64_t e) {
      double* own = at + 2 * (b / grain) * scales;
      between(b, e, own, own + scales, 0);
    });
    for (int64_t t = 1; t < tasks; t++)
      for (int64_t i = 0; i < 2 * scales; i++) at[i] += at[2 * t * scales + i];
  }
  if (bad) return WHITTLE_NONFINITE;
  for (int64_t i = 0; i < scales; i++) {
    if (g->dscale) g->dscale[i] = static_cast<float>(g->factor * at[i]);
    if (g->dzero) g->dzero[i] = static_cast<float>(g->factor * at[scales + i]);
  }
  return WHITTLE_OK;
}

WhittleStatus quantize_histogram(const void* x, FloatType type, const QuantizeShape& shape, const float* factor,
                                 int32_t bins, double* counts, int threads) {
  for (int64_t i = 0; i < shape.axis; i++) {
    int e;
    if (!(factor[i] > 0 && factor[i] <= FLT_MAX) || frexpf(factor[i], &e) != 0.5f) return WHITTLE_RANGE;
  }
  const int64_t size = shape.size();
  if (size == 0) return WHITTLE_OK;
  constexpr int64_t kScratch = 1024;
  const QuantizeKernels& k = quantize_kernels();
  std::atomic<int> bad{0};
  // A channel is one task; the whole tensor is cut into a few, each with counts of its own.
  const bool whole = shape.axis == 1;
  const int64_t tasks = whole ? least((size + kGrain - 1) / kGrain, 16) : shape.axis, grain = (size + tasks - 1) / tasks;
  const int64_t slots = whole ? tasks : least(tasks, 64);
  const std::unique_ptr<uint32_t[]> local = allocate<uint32_t>(slots * bins);
  if (!local) return WHITTLE_OUT_OF_MEMORY;
  const auto flush = [&](int64_t slot, int64_t channel) {
    uint32_t* from = local.get() + slot * bins;
    for (int32_t i = 0; i < bins; i++) counts[channel * bins + i] += from[i];
  };
  if (whole) {
    memset(local.get(), 0, static_cast<size_t>(slots * bins) * sizeof(uint32_t));
    parallel_for(size, grain, threads, [&](int64_t b, int64_t e) {
      float scratch[kScratch];
      for (int64_t at = b; at < e;) {
        const int64_t n = type == kFloat32 ? e - at : least(kScratch, e - at);
        if (k.histogram(widen(k, x, type, at, n, scratch), n, factor[0], bins, local.get() + b / grain * bins)) bad = 1;
        at += n;
      }
    });
    for (int64_t t = 0; t < tasks; t++) flush(t, 0);
    return bad ? WHITTLE_RANGE : WHITTLE_OK;
  }
  for (int64_t first = 0; first < tasks; first += slots) {
    parallel_for(least(slots, tasks - first), 1, threads, [&](int64_t b, int64_t e) {
      for (int64_t slot = b; slot < e; slot++) {
        const int64_t a = first + slot;
        uint32_t* own = local.get() + slot * bins;
        memset(own, 0, static_cast<size_t>(bins) * sizeof(uint32_t));
        // Short runs gather in scratch.
        float scratch[kScratch];
        int64_t held = 0;
        for (int64_t o = 0; o < shape.outer; o++)
          for (int64_t i = 0; i < shape.inner;) {
            const int64_t n = least(kScratch - held, shape.inner - i), at = (o * shape.axis + a) * shape.inner + i;
            if (const float* from = widen(k, x, type, at, n, scratch + held); from != scratch + held)
              memcpy(scratch + held, from, static_cast<size_t>(n) * sizeof(float));
            held += n;
            i += n;
            if (held == kScratch || (o + 1 == shape.outer && i == shape.inner)) {
              if (k.histogram(scratch, held, factor[a], bins, own)) bad = 1;
              held = 0;
            }
          }
      }
    });
    for (int64_t slot = 0; slot < least(slots, tasks - first); slot++) flush(slot, first + slot);
  }
  return bad ? WHITTLE_RANGE : WHITTLE_OK;
}

}  // namespace whittle
