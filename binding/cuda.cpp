// The CUDA backend for JavaScript: what there is, or why not, and its operations. An operation takes numbers (a Float64Array,
// the device first, in the order of lib/kernels/cuda), then tensors of that device.
#include <napi.h>

#include <vector>

#include "binding/device.h"
#include "binding/families.h"
#include "binding/numbers.h"

namespace whittle {
namespace {

Napi::Value cuda_info(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const CudaLoaded& loaded = cuda();
  Napi::Object out = Napi::Object::New(env);
  out.Set("state", static_cast<double>(loaded.state));
  out.Set("file", loaded.file);
  out.Set("text", loaded.text);
  out.Set("driver", loaded.driver);
  out.Set("runtime", loaded.runtime);
  out.Set("emulated", loaded.backend && loaded.backend->emulated);
  Napi::Array devices = Napi::Array::New(env);
  for (int32_t i = 0; i < loaded.devices; i++) {
    CudaDevice device = {};
    const bool known = loaded.backend && loaded.backend->describe(i, &device) == WHITTLE_OK;
    Napi::Object row = Napi::Object::New(env);
    row.Set("name", known ? device.name : "unknown");
    row.Set("major", device.major);
    row.Set("minor", device.minor);
    row.Set("multiprocessors", device.multiprocessors);
    row.Set("memory", static_cast<double>(device.memory));
    devices.Set(static_cast<uint32_t>(i), row);
  }
  out.Set("devices", devices);
  return out;
}

// NVIDIA's libraries, which are opened to answer.
Napi::Value cuda_libraries(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const CudaBackend* backend = cuda().backend;
  Napi::Array out = Napi::Array::New(env);
  CudaLibrary found;
  for (int32_t i = 0; backend && backend->nth_library(i, &found); i++) {
    Napi::Object row = Napi::Object::New(env);
    row.Set("name", found.name);
    row.Set("serves", found.serves);
    row.Set("path", found.path);
    row.Set("reason", found.why);
    out.Set(static_cast<uint32_t>(i), row);
  }
  return out;
}

int64_t code_bytes(CodeType type, int64_t n) { return (n * type.bits + 7) / 8; }
int64_t float_bytes(FloatType type, int64_t n) { return n * (type == kFloat32 ? 4 : 2); }

// (numbers, x, scale, zero?, q)
struct CudaQuantize {
  static constexpr int64_t kNumbers = 18;
  int32_t device;
  QuantizeShape shape;
  QuantizeOptions options = {};
  QuantizeRule rule = {};
  bool compute;
  FloatType type;
  DeviceUse x, scale, zero, q;
  bool parse(Args& args) {
    Numbers n(args, kNumbers);
    n >> device >> shape.outer >> shape.axis >> shape.inner >> shape.block >> options.code.bits >> options.code.sign >>
        options.qmin >> options.qmax >> options.rounding >> options.key0 >> options.key1 >> rule.symmetric >> rule.middle >>
        rule.torch >> rule.power_of_two >> compute >> type;
    rule.qmin = options.qmin;
    rule.qmax = options.qmax;
    return args.ok() && x.read(args, device, float_bytes(type, shape.size())) && scale.read(args, device, 4 * shape.scales()) &&
           zero.read(args, device, code_bytes(options.code, shape.scales()), !compute) &&
           q.read(args, device, code_bytes(options.code, shape.size()));
  }
  WhittleStatus run() {
    return remember_device_error(cuda().backend->quantize(device, x.as<void>(), type, shape, compute ? &rule : nullptr, scale.as<float>(),
                                                          zero.as<void>(), options, q.as<void>()));
  }
};

// (numbers, q, scale, zero?, y)
struct CudaDequantize {
  static constexpr int64_t kNumbers = 10;
  int32_t device;
  QuantizeShape shape;
  QuantizeOptions options = {};
  FloatType type;
  DeviceUse q, scale, zero, y;
  bool parse(Args& args) {
    Numbers n(args, kNumbers);
    n >> device >> shape.outer >> shape.axis >> shape.inner >> shape.block >> options.code.bits >> options.code.sign >>
        options.qmin >> options.qmax >> type;
    return args.ok() && q.read(args, device, code_bytes(options.code, shape.size())) && scale.read(args, device, 4 * shape.scales()) &&
           zero.read(args, device, code_bytes(options.code, shape.scales()), true) &&
           y.read(args, device, float_bytes(type, shape.size()));
  }
  WhittleStatus run() {
    return remember_device_error(
        cuda().backend->dequantize(device, q.as<void>(), shape, scale.as<float>(), zero.as<void>(), options, type, y.as<void>()));
  }
};

// (numbers, x, scale, zero, y, dy?, dx?, gradScale?, gradZero?)
struct CudaFakeQuantize {
  int32_t device;
  QuantizeShape shape;
  QuantizeOptions options = {};
  FakeGradient g = {};
  DeviceUse x, scale, zero, y, dy, dx, dscale, dzero;
  bool parse(Args& args) {
    Numbers n(args, 13);
    n >> device >> shape.outer >> shape.axis >> shape.inner >> shape.block >> options.code.bits >> options.code.sign >>
        options.qmin >> options.qmax >> options.rounding >> options.key0 >> options.key1 >> g.factor;
    if (!args.ok()) return false;
    const int64_t size = 4 * shape.size(), scales = 4 * shape.scales();
    if (!x.read(args, device, size) || !scale.read(args, device, scales) || !zero.read(args, device, scales) || !y.read(args, device, size) ||
        !dy.read(args, device, size, true) || !dx.read(args, device, size, !dy.as<float>()) || !dscale.read(args, device, scales, true) ||
        !dzero.read(args, device, scales, true))
      return false;
    g = {dy.as<float>(), dx.as<float>(), dscale.as<float>(), dzero.as<float>(), g.factor};
    return true;
  }
  WhittleStatus run() {
    return remember_device_error(cuda().backend->fake_quantize(device, x.as<float>(), shape, scale.as<float>(), zero.as<int32_t>(), options, y.as<float>(),
                                                               g.dy ? &g : nullptr));
  }
};

// (numbers, x, result): the least of each group, then the greatest
struct CudaRanges {
  int32_t device;
  QuantizeShape shape;
  FloatType type;
  DeviceUse x;
  double* result;
  bool parse(Args& args) {
    Numbers n(args, 6);
    n >> device >> shape.outer >> shape.axis >> shape.inner >> shape.block >> type;
    if (!args.ok() || !x.read(args, device, float_bytes(type, shape.size()))) return false;
    result = args.array<double>(2 * shape.scales());
    return args.ok();
  }
  WhittleStatus run() {
    const size_t count = static_cast<size_t>(shape.scales());
    std::vector<float> lo(count), hi(count);
    const WhittleStatus status = remember_device_error(cuda().backend->ranges(device, x.as<void>(), type, shape, lo.data(), hi.data()));
    for (size_t i = 0; i < count; i++) {
      result[i] = lo[i];
      result[count + i] = hi[i];
    }
    return status;
  }
};

// (numbers, x, result): a factor for each index of the axis, then its counts
struct CudaHistogram {
  int32_t device, bins;
  QuantizeShape shape;
  FloatType type;
  DeviceUse x;
  double* result;
  bool parse(Args& args) {
    Numbers n(args, 6);
    shape.block = 0;
    n >> device >> shape.outer >> shape.axis >> shape.inner >> type >> bins;
    if (!args.ok() || bins < 2 || bins > 65536 || !x.read(args, device, float_bytes(type, shape.size()))) return false;
    result = args.array<double>(shape.axis * (1 + bins));
    return args.ok();
  }
  WhittleStatus run() {
    std::vector<float> factor(result, result + shape.axis);
    return remember_device_error(cuda().backend->histogram(device, x.as<void>(), type, shape, factor.data(), bins, result + shape.axis));
  }
};

// (numbers, a, b, bias?, y)
struct CudaGemmCall {
  int32_t device;
  int64_t a_size, b_size;
  CudaGemm g = {};
  DeviceUse a, b, bias, y;
  bool parse(Args& args) {
    Numbers n(args, 16);
    n >> device >> g.type >> g.m >> g.n >> g.k >> g.batch >> g.a_batch >> g.b_batch >> g.transpose_a >> g.transpose_b >> g.alpha;
    n >> g.activation >> a_size >> b_size;
    const int64_t a_need = g.batch ? (g.batch - 1) * g.a_batch + g.m * g.k : 0, b_need = g.batch ? (g.batch - 1) * g.b_batch + g.k * g.n : 0;
    if (!args.ok() || a_size < a_need || b_size < b_need || !a.read(args, device, float_bytes(g.type, a_size)) ||
        !b.read(args, device, float_bytes(g.type, b_size)) || !bias.read(args, device, float_bytes(g.type, g.n), true) ||
        !y.read(args, device, float_bytes(g.type, g.batch * g.m * g.n)))
      return false;
    g.a = a.as<void>();
    g.b = b.as<void>();
    g.bias = bias.as<void>();
    g.y = y.as<void>();
    return true;
  }
  WhittleStatus run() { return remember_device_error(cuda().backend->gemm(device, g)); }
};

// (numbers, a, b, sums?, bias?, bScales?, bZeros?, y, result): with sums, b is what cudaPackInt8 made
struct CudaGemmInt8 {
  int32_t device, bias_kind;
  bool packed, scaled;
  GemmInt8Args g = {};
  PackedInt8 weights = {};
  double* fault;
  DeviceUse a, b, sums, bias, scales, zeros, y;
  bool parse(Args& args) {
    Numbers n(args, 20);
    n >> device >> g.m >> g.n >> g.k >> g.a_signed >> g.b_unsigned >> g.b_transposed >> g.a_zero >> g.b_zero >> g.a_scale >> g.b_scale;
    n >> g.activation >> g.out_type >> g.out_scale >> g.out_zero >> packed >> bias_kind >> scaled;
    const int64_t size = g.out_type == kOutInt32 || g.out_type == kOutFloat32 ? 4 : 1, rows = cuda_int8_rows(g.n);
    if (!args.ok() || !a.read(args, device, g.m * g.k) || !b.read(args, device, packed ? rows * cuda_int8_row(g.k) : g.k * g.n) ||
        !sums.read(args, device, 4 * rows, !packed) || !bias.read(args, device, 4 * g.n, bias_kind == 0) ||
        !scales.read(args, device, 4 * g.n, !scaled) || !zeros.read(args, device, g.n, true) || !y.read(args, device, g.m * g.n * size))
      return false;
    fault = args.array<double>(1);
    g.batch = 1;
    g.a = a.as<uint8_t>();
    weights = {g.k, g.n, 0, g.b_unsigned, 0, b.as<int8_t>(), sums.as<int32_t>()};
    g.b = b.as<uint8_t>();
    g.bias_int = bias_kind == 1 ? bias.as<int32_t>() : nullptr;
    g.bias_float = bias_kind == 2 ? bias.as<float>() : nullptr;
    g.b_scales = scales.as<float>();
    g.b_zeros = zeros.as<uint8_t>();
    g.out = y.as<void>();
    return args.ok();
  }
  WhittleStatus run() {
    g.packed = packed ? &weights : nullptr;
    int32_t found = 0;
    const WhittleStatus status = cuda().backend->gemm_int8(device, g, &found);
    *fault = found;
    return remember_device_error(status);
  }
};

// (numbers, w, data, sums)
struct CudaPackInt8 {
  int32_t device;
  int64_t k, n;
  bool is_unsigned, transposed;
  DeviceUse w, data, sums;
  bool parse(Args& args) {
    Numbers numbers(args, 5);
    numbers >> device >> k >> n >> is_unsigned >> transposed;
    return args.ok() && w.read(args, device, k * n) && data.read(args, device, cuda_int8_rows(n) * cuda_int8_row(k)) &&
           sums.read(args, device, 4 * cuda_int8_rows(n));
  }
  WhittleStatus run() {
    return remember_device_error(
        cuda().backend->pack_int8(device, w.as<uint8_t>(), is_unsigned, transposed, k, n, data.as<int8_t>(), sums.as<int32_t>()));
  }
};

// (numbers, from, to): the first bytes of `from`, so many bytes into `to`
struct CudaCopy {
  int32_t device;
  int64_t bytes, at;
  DeviceUse from, to;
  bool parse(Args& args) {
    Numbers n(args, 3);
    n >> device >> bytes >> at;
    return args.ok() && at >= 0 && from.read(args, device, bytes) && to.read(args, device, at + bytes);
  }
  WhittleStatus run() { return remember_device_error(cuda().backend->copy(device, to.as<char>() + at, from.as<void>(), bytes)); }
};

// (numbers, a, u?, s, v?, result), the result as binding/svd.cpp has it
struct CudaSvdCall {
  int32_t device;
  CudaSvd p;
  double* result;
  DeviceUse a, u, s, v;
  bool parse(Args& args) {
    Numbers n(args, 14);
    int32_t method = 0;
    n >> device >> p.batch >> p.m >> p.n >> p.vectors >> method >> p.max_rank >> p.energy >> p.tolerance >> p.iterations >> p.oversampling >>
        p.seed >> p.wide >> p.factors;
    p.method = method == 1 ? kSvdRandomized : kSvdFull;
    if (!args.ok() || p.batch < 1 || p.m < 1 || p.n < 1 || p.max_rank < 1 || p.max_rank > p.m || p.max_rank > p.n || (p.factors && p.batch > 1))
      return false;
    const int64_t size = p.wide ? 8 : 4, side = p.batch * p.max_rank * size;
    if (!a.read(args, device, p.batch * p.m * p.n * size) || !u.read(args, device, side * p.m, !p.vectors) || !s.read(args, device, side) ||
        !v.read(args, device, side * p.n, !p.vectors))
      return false;
    p.a = a.as<void>();
    p.u = u.as<void>();
    p.s = s.as<void>();
    p.v = v.as<void>();
    result = args.array<double>(7);
    return args.ok();
  }
  WhittleStatus run() {
    SvdOutcome o;
    const WhittleStatus status = remember_device_error(cuda().backend->svd(device, p, &o));
    const double all[] = {static_cast<double>(o.rank), o.error, o.norm, o.improvement, static_cast<double>(o.iterations), o.converged ? 1.0 : 0.0, o.full ? 1.0 : 0.0};
    for (int i = 0; i < 7; i++) result[i] = all[i];
    return status;
  }
};

}  // namespace

void init_cuda(napi_env env, napi_value exports) {
  Napi::Object(env, exports).Set("cudaInfo", Napi::Function::New(env, cuda_info, "cudaInfo"));
  Napi::Object(env, exports).Set("cudaLibraries", Napi::Function::New(env, cuda_libraries, "cudaLibraries"));
  expose<CudaQuantize>(env, exports, "cudaQuantize", "cudaQuantizeAsync");
  expose<CudaDequantize>(env, exports, "cudaDequantize", "cudaDequantizeAsync");
  expose<CudaFakeQuantize>(env, exports, "cudaFakeQuantize", "cudaFakeQuantizeAsync");
  expose<CudaRanges>(env, exports, "cudaRanges", "cudaRangesAsync");
  expose<CudaHistogram>(env, exports, "cudaHistogram", "cudaHistogramAsync");
  expose<CudaGemmCall>(env, exports, "cudaGemm", "cudaGemmAsync");
  expose<CudaGemmInt8>(env, exports, "cudaGemmInt8", "cudaGemmInt8Async");
  expose<CudaPackInt8>(env, exports, "cudaPackInt8", "cudaPackInt8Async");
  expose<CudaCopy>(env, exports, "cudaCopy", "cudaCopyAsync");
  expose<CudaSvdCall>(env, exports, "cudaSvd", "cudaSvdAsync");
}

}  // namespace whittle
