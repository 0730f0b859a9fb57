#include "core/quantize.h"

#include <float.h>
#include <math.h>

#include <atomic>

#include "core/quantize_parameter.h"
#include "core/quantize_walk.h"
#include "core/threads.h"

#define WHITTLE_VARIANT(tier) extern "C" void quantize_install_##tier(whittle::QuantizeKernels*);
#include "cpu/quantize/variants.inc"
#undef WHITTLE_VARIANT

namespace whittle {

VariantList<QuantizeKernels> quantize_variants() {
  static const Variant<QuantizeKernels> rows[] = {
#define WHITTLE_VARIANT(tier) {Tier::tier, quantize_install_##tier},
#include "cpu/quantize/variants.inc"
#undef WHITTLE_VARIANT
  };
  return {rows, static_cast<int>(sizeof rows / sizeof rows[0])};
}

using namespace quantize_detail;

namespace {

const Resolved<QuantizeKernels>& resolved() {
  static const Resolved<QuantizeKernels> r = resolve(quantize_variants());
  return r;
}

// Codes of the elements [begin, end), begin a multiple of 4 or the code type at least a byte. Answers 1 for a NaN.
int codes_between(const void* x, FloatType type, const QuantizeShape& shape, const float* scale, const Zeros& zeros,
                  const QuantizeOptions& o, void* q, int64_t begin, int64_t end) {
  const QuantizeKernels& k = quantize_kernels();
  const bool packed = o.code.bits < 8, pieces = packed || type != kFloat32;
  alignas(64) float floats[kPiece];
  alignas(64) uint8_t bytes[kPiece];
  const QuantizeStep base = {nullptr, nullptr, o.qmin, o.qmax, o.rounding, o.key0, o.key1, 0};
  int bad = 0;
  for (int64_t e = begin; e < end;) {
    const int64_t n = pieces ? least(kPiece, end - e) : end - e;
    const float* from = widen(k, x, type, e, n, floats);
    uint8_t* to8 = packed ? bytes : static_cast<uint8_t*>(q) + e;
    uint16_t* to16 = static_cast<uint16_t*>(q) + (o.code.bits == 16 ? e : 0);
    walk_steps(
        shape, e, e + n, base, scale, zeros,
        [&](int64_t at, int64_t runs, int64_t length, const QuantizeStep& step, int64_t) {
          bad |= o.code.bits == 16 ? k.codes16(from + (at - e), runs, length, &step, to16 + (at - e))
                                   : k.codes8(from + (at - e), runs, length, &step, to8 + (at - e));
        },
        [&](int64_t at, int64_t rows, int64_t columns, int64_t stride, const QuantizeStep& step, int64_t) {
          bad |= o.code.bits == 16 ? k.codes16_columns(from + (at - e), rows, columns, stride, &step, to16 + (at - e))
                                   : k.codes8_columns(from + (at - e), rows, columns, stride, &step, to8 + (at - e));
        });
    if (packed) (o.code.bits == 4 ? k.pack4 : k.pack2)(bytes, n, static_cast<uint8_t*>(q) + bytes_of(o.code.bits, e));
    e += n;
  }
  return bad;
}

// Widens lo and hi, one a scale from `first` on, by the elements [begin, end).
int ranges_between(const void* x, FloatType type, const QuantizeShape& shape, int64_t begin, int64_t end, float* lo, float* hi,
                   int64_t first) {
  const QuantizeKernels& k = quantize_kernels();
  alignas(64) float floats[kPiece];
  int bad = 0;
  for (int64_t e = begin; e < end;) {
    const int64_t n = type == kFloat32 ? end - e : least(kPiece, end - e);
    const float* from = widen(k, x, type, e, n, floats);
    walk(
        shape, e, e + n,
        [&](int64_t at, int64_t runs, int64_t length, int64_t s) {
          bad |= k.range(from + (at - e), runs, length, lo + s - first, hi + s - first);
        },
        [&](int64_t at, int64_t rows, int64_t columns, int64_t stride, int64_t s) {
          bad |= k.range_columns(from + (at - e), rows, columns, stride, lo + s - first, hi + s - first);
        });
    e += n;
  }
  return bad;
}

void open_ranges(float* lo, float* hi, int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    lo[i] = INFINITY;
    hi[i] = -INFINITY;
  }
}

// Ranges of nothing become 0, and so does −0, which kernels may or may not tell from 0.
void close_ranges(float* lo, float* hi, int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    const bool none = lo[i] > hi[i];
    lo[i] = none ? 0.f : lo[i] + 0.f;
    hi[i] = none ? 0.f : hi[i] + 0.f;
  }
}

}  // namespace

const QuantizeKernels& quantize_kernels() { return resolved().table; }
Tier quantize_tier() { return resolved().tier; }

namespace {

// At most this many ranges at a time go through plain loops, which become vectors.
constexpr int64_t kUsual = 64;

// What quantize_parameters below answers for ranges that need none of its care; false, and nothing of value written, where
// one does: not finite, empty, or a scale near either end of what floats hold.
bool usual_parameters(const float* lo, const float* hi, int64_t count, const QuantizeRule& rule, float* scale, int32_t* zero) {
  const float steps = static_cast<float>(rule.qmax - rule.qmin), half = steps / 2, least = static_cast<float>(rule.qmin);
  const float most = FLT_MAX / (static_cast<float>(rule.qmax) - least + 2);
  const bool symmetric = rule.symmetric;
  float s[kUsual];
  int odd = 0;
  for (int64_t i = 0; i < count; i++) {
    const float a = lo[i] < 0 ? lo[i] : 0.f, b = hi[i] > 0 ? hi[i] : 0.f, far = -a > b ? -a : b;
    const float v = symmetric ? far / half : (b - a) / steps;
    odd |= !(lo[i] >= -FLT_MAX) | !(hi[i] <= FLT_MAX) | !(v >= FLT_MIN) | !(v <= most);
    s[i] = v;
  }
  if (odd) return false;
  for (int64_t i = 0; i < count; i++) scale[i] = s[i];
  if (!zero) return true;
  const double magic = 0x1.8p52, from = rule.qmin, to = rule.qmax, wide = steps;
  const int32_t middle = rule.middle;
  if (symmetric) {
    for (int64_t i = 0; i < count; i++) zero[i] = middle;
    return true;
  }
  for (int64_t i = 0; i < count; i++) {
    const double a = lo[i] < 0 ? lo[i] : 0.f, b = hi[i] > 0 ? hi[i] : 0.f;
    double v = from - ((a / ((b - a) / wide) + magic) - magic);
    v = v < from ? from : v;
    v = v > to ? to : v;
    zero[i] = static_cast<int32_t>(v);
  }
  return true;
}

}  // namespace

WhittleStatus quantize_parameters(const float* lo, const float* hi, int64_t count, const QuantizeRule& rule, float* scale,
                                  int32_t* zero) {
  const bool plain_rule = !rule.torch && !rule.power_of_two;
  for (int64_t i = 0, careful = 0; i < count; i++) {
    if (plain_rule && i >= careful) {
      const int64_t n = least(kUsual, count - i);
      if (usual_parameters(lo + i, hi + i, n, rule, scale + i, zero ? zero + i : nullptr)) {
        i += n - 1;
        continue;
      }
      careful = i + n;
    }
    int32_t z;
    if (!quantize_parameter(lo[i], hi[i], rule, scale + i, &z)) return WHITTLE_NONFINITE;
    if (zero) zero[i] = z;
  }
  return WHITTLE_OK;
}

WhittleStatus quantize_ranges(const void* x, FloatType type, const QuantizeShape& shape, float* lo, float* hi, int threads) {
  const int64_t scales = shape.scales(), size = shape.size();
  open_ranges(lo, hi, scales);
  std::atomic<int> bad{0};
  const Units units(shape);
  if (size == 0) {
    // nothing to read
  } else if (units.count) {
    parallel_for(units.count, units.grain(kGrain), threads, [&](int64_t b, int64_t e) {
      const int64_t first = b * units.scales;
      if (ranges_between(x, type, shape, units.begin(b), units.begin(e), lo + first, hi + first, first)) bad = 1;
    });
  } else {
    // Every task meets every scale, so each has ranges of its own, a quarter of the tensor's bytes in all at most.
    int64_t tasks = (size + kGrain - 1) / kGrain;
    const int64_t wanted = 8 * (threads > 0 ? threads : thread_limit());
    tasks = least(least(tasks, wanted), size / (8 * scales));
    if (tasks < 1) tasks = 1;
    const int64_t grain = (size + tasks - 1) / tasks;
    const std::unique_ptr<float[]> own = tasks > 1 ? allocate<float>(2 * tasks * scales) : nullptr;
    if (tasks > 1 && !own) return WHITTLE_OUT_OF_MEMORY;
    if (own)
      for (int64_t t = 0; t < tasks; t++) open_ranges(own.get() + 2 * t * scales, own.get() + (2 * t + 1) * scales, scales);
    parallel_for(size, grain, threads, [&](int64_t b, int64_t e) {
      float* l = own ? own.get() + 2 * (b / grain) * scales : lo;
      if (ranges_between(x, type, shape, b, e, l, own ? l + scales : hi, 0)) bad = 1;
    });
    for (int64_t t = 0; own && t < tasks; t++)
      for (int64_t i = 0; i < scales; i++) {
        const float a = own[static_cast<size_t>(2 * t * scales + i)], b = own[static_cast<size_t>((2 * t + 1) * scales + i)];
        lo[i] = a < lo[i] ? a : lo[i];
        hi[i] = b > hi[i] ? b : hi[i];
      }
  }
  if (bad) return WHITTLE_NONFINITE;
  close_ranges(lo, hi, scales);
  return WHITTLE_OK;
}

WhittleStatus quantize(const void* x, FloatType type, const QuantizeShape& shape, const QuantizeRule* rule, float* scale,
                       void* zero, const QuantizeOptions& o, void* q) {
  const int64_t scales = shape.scales(), size = shape.size();
  std::atomic<int> bad{0};
  const Units units(shape);
  if (rule && units.count && size > 0) {
    // Ranges, parameters and codes of a few units at a time, while these are in cache.
    const int64_t near = units.grain(1 << 14), grain = (units.grain(kGrain) + near - 1) / near * near;
    const int64_t most = near * units.scales;
    std::atomic<int> memory{0};
    const bool packed = o.code.bits < 8;
    parallel_for(units.count, grain, o.threads, [&](int64_t b, int64_t e) {
      const std::unique_ptr<float[]> lo = allocate<float>(2 * most);
      const std::unique_ptr<int32_t[]> wide = allocate<int32_t>(most);
      if (!lo || !wide) {
        memory = 1;
        return;
      }
      for (int64_t u = b; u < e && !bad; u += near) {
        const int64_t last = least(u + near, e), first = u * units.scales, n = (last - u) * units.scales;
        const int64_t from = units.begin(u), to = units.begin(last);
        open_ranges(lo.get(), lo.get() + n, n);
        int wrong = ranges_between(x, type, shape, from, to, lo.get(), lo.get() + n, first);
        close_ranges(lo.get(), lo.get() + n, n);
        wrong |= wrong || quantize_parameters(lo.get(), lo.get() + n, n, *rule, scale + first, wide.get()) != WHITTLE_OK;
        if (wrong) {
          bad = 1;
          return;
        }
        if (zero) store_codes(zero, o.code, first, n, wide.get());
        if (packed && from % 4) continue;  // below
        Zeros zeros;
        zeros.set(wide.get() - first);
        codes_between(x, type, shape, scale, zeros, o, q, from, to);
      }
    });
    if (memory) return WHITTLE_OUT_OF_MEMORY;
    if (bad) return WHITTLE_NONFINITE;
    bool aligned = true;
    if (packed)
      for (int64_t u = 0; u < units.count && aligned; u += near) aligned = units.begin(u) % 4 == 0;
    if (aligned) return WHITTLE_OK;
  } else if (rule) {
    const std::unique_ptr<float[]> lo = allocate<float>(2 * scales);
    const std::unique_ptr<int32_t[]> wide = allocate<int32_t>(scales);
    if (!lo || !wide) return WHITTLE_OUT_OF_MEMORY;
    WhittleStatus status = quantize_ranges(x, type, shape, lo.get(), lo.get() + scales, o.threads);
    if (status == WHITTLE_OK) status = quantize_parameters(lo.get(), lo.get() + scales, scales, *rule, scale, wide.get());
    if (status != WHITTLE_OK) return status;
    if (zero) store_codes(zero, o.code, 0, scales, wide.get());
  } else if (!scales_fit(scale, scales)) {
    return WHITTLE_RANGE;
  }
  Zeros zeros;
  if (!zeros.init(shape, zero, o.code)) return WHITTLE_OUT_OF_MEMORY;
  parallel_for(size, kGrain, o.threads, [&](int64_t b, int64_t e) {
    if (codes_between(x, type, shape, scale, zeros, o, q, b, e)) bad = 1;
  });
  return bad ? WHITTLE_NONFINITE : WHITTLE_OK;
}

WhittleStatus dequantize(const void* q, const QuantizeShape& shape, const float* scale, const void* zero,
                         const QuantizeOptions& o, FloatType type, void* y) {
  const int64_t scales = shape.scales(), size = shape.size();
  if (!scales_fit(scale, scales)) return WHITTLE_RANGE;
  // Only a scale that could overflow with some code makes us look at every result.
  const float most = type == kFloat16 ? 65504.f : FLT_MAX;
  bool suspect = false;
  for (int64_t i = 0; i < scales; i++) {
    const int32_t z = zero ? load_code(zero, o.code, i) : 0;
    const int32_t far = z - o.qmin > o.qmax - z ? z - o.qmin : o.qmax - z;
    suspect |= scale[i] * static_cast<float>(far) > most;
  }
  std::atomic<int> overflow{0};
  Zeros zeros;
  if (!zeros.init(shape, zero, o.code)) return WHITTLE_OUT_OF_MEMORY;
  const QuantizeKernels& k = quantize_kernels();
  const bool packed = o.code.bits < 8, pieces = packed || type != kFloat32;
  const int sign = o.code.sign;
  parallel_for(size, kGrain, o.threads, [&](int64_t begin, int64_t end) {
    alignas(64) float floats[kPiece];
    alignas(64) uint8_t bytes[kPiece];
    const QuantizeStep base = {nullptr, nullptr, o.qmin, o.qmax, o.rounding, 0, 0, 0};
    for (int64_t e = begin; e < end;) {
      const int64_t n = pieces ? least(kPiece, end - e) : end - e;
      if (packed)
        (o.code.bits == 4 ? k.unpack4 : k.unpack2)(static_cast<const uint8_t*>(q) + bytes_of(o.code.bits, e), sign, n, bytes);
      const uint8_t* from8 = packed ? bytes : static_cast<const uint8_t*>(q) + e;
      const uint16_t* from16 = static_cast<const uint16_t*>(q) + (o.code.bits == 16 ? e : 0);
      float* to = type == kFloat32 ? static_cast<float*>(y) + e : floats;
      walk_steps(
          shape, e, e + n, base, scale, zeros,
          [&](int64_t at, int64_t runs, int64_t length, const QuantizeStep& step, int64_t) {
            if (o.code.bits == 16) k.values16(from16 + (at - e), sign, runs, length, &step, to + (at - e));
            else k.values8(from8 + (at - e), sign, runs, length, &step, to + (at - e));
          },
          [&](int64_t at, int64_t rows, int64_t columns, int64_t stride, const QuantizeStep& step, int64_t) {
            if (o.code.bits == 16) k.values16_columns(from16 + (at - e), sign, rows, columns, stride, &step, to + (at - e));
            else k.values8_columns(from8 + (at - e), sign, rows, columns, stride, &step, to + (at - e));
          });
      if (suspect)
        for (int64_t i = 0; i < n; i++)
          if (!(to[i] >= -most && to[i] <= most)) overflow = 1;
      if (type != kFloat32)
        (type == kFloat16 ? k.narrow_f16 : k.narrow_bf16)(floats, n, static_cast<uint16_t*>(y) + e);
      e += n;
    }
  });
  return overflow ? WHITTLE_RANGE : WHITTLE_OK;
}

}  // namespace whittle
