// Calls of the quantize family: numbers first, then arrays, in the order of lib/kernels/scheme.ts.
#include "core/quantize.h"

#include "binding/call.h"
#include "binding/families.h"

namespace whittle {
namespace {

QuantizeShape parse_shape(Args& a) {
  QuantizeShape s;
  s.outer = a.integer();
  s.axis = a.integer();
  s.inner = a.integer();
  s.block = a.integer();
  return s;
}

QuantizeOptions parse_options(Args& a) {
  QuantizeOptions o;
  o.code.bits = a.small();
  o.code.sign = a.flag();
  o.qmin = a.small();
  o.qmax = a.small();
  o.rounding = a.small();
  o.key0 = static_cast<uint32_t>(a.integer());
  o.key1 = static_cast<uint32_t>(a.integer());
  o.threads = a.small();
  return o;
}

QuantizeRule parse_rule(Args& a, const QuantizeOptions& o) {
  QuantizeRule r;
  r.qmin = o.qmin;
  r.qmax = o.qmax;
  r.symmetric = a.flag();
  r.middle = a.small();
  r.torch = a.flag();
  r.power_of_two = a.flag();
  return r;
}

int64_t code_bytes(CodeType type, int64_t n) { return (n * type.bits + 7) / 8; }

struct QuantizeCall {
  QuantizeShape shape;
  QuantizeOptions options;
  QuantizeRule rule;
  bool compute;
  FloatType type;
  const void* x;
  float* scale;
  void *zero, *q;
  bool parse(Args& a) {
    shape = parse_shape(a);
    options = parse_options(a);
    rule = parse_rule(a, options);
    compute = a.flag();
    type = static_cast<FloatType>(a.small());
    x = a.bytes(shape.size() * (type == kFloat32 ? 4 : 2));
    scale = a.array<float>(shape.scales());
    zero = a.bytes(code_bytes(options.code, shape.scales()), true);
    q = a.bytes(code_bytes(options.code, shape.size()));
    return a.ok();
  }
  WhittleStatus run() { return quantize(x, type, shape, compute ? &rule : nullptr, scale, zero, options, q); }
};

struct DequantizeCall {
  QuantizeShape shape;
  QuantizeOptions options;
  FloatType type;
  const void* q;
  const float* scale;
  const void* zero;
  void* y;
  bool parse(Args& a) {
    shape = parse_shape(a);
    options = parse_options(a);
    type = static_cast<FloatType>(a.small());
    q = a.bytes(code_bytes(options.code, shape.size()));
    scale = a.array<float>(shape.scales());
    zero = a.bytes(code_bytes(options.code, shape.scales()), true);
    y = a.bytes(shape.size() * (type == kFloat32 ? 4 : 2));
    return a.ok();
  }
  WhittleStatus run() { return dequantize(q, shape, scale, zero, options, type, y); }
};

struct FakeQuantizeCall {
  QuantizeShape shape;
  QuantizeOptions options;
  const float *x, *scale;
  const int32_t* zero;
  float* y;
  FakeGradient gradient;
  bool parse(Args& a) {
    shape = parse_shape(a);
    options = parse_options(a);
    gradient.factor = a.number();
    x = a.array<float>(shape.size());
    scale = a.array<float>(shape.scales());
    zero = a.optional<int32_t>(shape.scales());
    y = a.optional<float>(shape.size());
    gradient.dy = a.optional<float>(shape.size());
    gradient.dx = a.optional<float>(shape.size());
    gradient.dscale = a.optional<float>(shape.scales());
    gradient.dzero = a.optional<float>(shape.scales());
    return a.ok() && !gradient.dy == !gradient.dx;
  }
  WhittleStatus run() { return fake_quantize(x, shape, scale, zero, options, y, gradient.dy ? &gradient : nullptr); }
};

struct RangesCall {
  QuantizeShape shape;
  FloatType type;
  const void* x;
  float *lo, *hi;
  int threads;
  bool parse(Args& a) {
    shape = parse_shape(a);
    type = static_cast<FloatType>(a.small());
    threads = a.small();
    x = a.bytes(shape.size() * (type == kFloat32 ? 4 : 2));
    lo = a.array<float>(shape.scales());
    hi = a.array<float>(shape.scales());
    return a.ok();
  }
  WhittleStatus run() { return quantize_ranges(x, type, shape, lo, hi, threads); }
};

struct ParametersCall {
  QuantizeRule rule;
  int64_t count;
  const float *lo, *hi;
  float* scale;
  int32_t* zero;
  bool parse(Args& a) {
    rule = parse_rule(a, parse_options(a));
    count = a.integer();
    lo = a.array<float>(count);
    hi = a.array<float>(count);
    scale = a.array<float>(count);
    zero = a.array<int32_t>(count);
    return a.ok();
  }
  WhittleStatus run() { return quantize_parameters(lo, hi, count, rule, scale, zero); }
};

struct HistogramCall {
  QuantizeShape shape;
  FloatType type;
  const void* x;
  const float* factor;
  int32_t bins;
  double* counts;
  int threads;
  bool parse(Args& a) {
    shape = parse_shape(a);
    type = static_cast<FloatType>(a.small());
    bins = a.small();
    threads = a.small();
    x = a.bytes(shape.size() * (type == kFloat32 ? 4 : 2));
    factor = a.array<float>(shape.axis);
    counts = a.array<double>(shape.axis * bins);
    return a.ok();
  }
  WhittleStatus run() { return quantize_histogram(x, type, shape, factor, bins, counts, threads); }
};

}  // namespace

void init_quantize(napi_env env, napi_value exports) {
  expose<QuantizeCall>(env, exports, "quantize", "quantizeAsync");
  expose<DequantizeCall>(env, exports, "dequantize", "dequantizeAsync");
  expose<FakeQuantizeCall>(env, exports, "fakeQuantize", "fakeQuantizeAsync");
  expose<RangesCall>(env, exports, "quantizeRanges", "quantizeRangesAsync");
  expose<ParametersCall>(env, exports, "quantizeParameters", "quantizeParametersAsync");
  expose<HistogramCall>(env, exports, "quantizeHistogram", "quantizeHistogramAsync");
}

}  // namespace whittle
