#include <dlfcn.h>
#include <math.h>
#include <stdlib.h>

#include "check.h"
#include "core/gemm_int8.h"

struct FakeCublasLt {
  int algorithms, fail_at, calls, last;
  double costs[8];
  uint64_t workspace;
};

namespace whittle {
namespace {

// What the fake library shows; null where the build has none.
FakeCublasLt* fake_library() {
  const char* path = getenv("WHITTLE_CUBLASLT_LIBRARY");
  void* library = path && *path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : nullptr;
  return library ? static_cast<FakeCublasLt*>(dlsym(library, "fake_cublaslt")) : nullptr;
}

template <class T>
std::vector<T> bytes(Rng& rng, int64_t n) {
  std::vector<T> v(static_cast<size_t>(n));
  for (T& x : v) x = static_cast<T>(rng.next());
  return v;
}

const Activation kActivations[] = {{kActivationNone, 0, 0},           {kActivationClip, 0, INFINITY}, {kActivationClip, -1.5f, 6},
                                   {kActivationHardswish, 0, 0},      {kActivationSigmoid, 0, 0},     {kActivationTanh, 0, 0},
                                   {kActivationSilu, 0, 0},           {kActivationGelu, 0, 0},        {kActivationGeluTanh, 0, 0}};

}  // namespace

void check_gemm(Check& c) {
  const CudaBackend& cuda = c.cuda();
  FakeCublasLt* lt = fake_library();

  c.row("gemm: bytes to sums, floats and bytes, with the bits of the CPU", [&](Rng& rng) {
    for (int turn = 0; turn < (c.lean() ? 12 : 80); turn++) {
      const int64_t sizes[] = {1, 2, 3, 4, 5, 7, 8, 16, 17, 31, 33, 40};
      GemmInt8Args g = {};
      g.m = sizes[rng.below(12)];
      g.n = sizes[rng.below(12)];
      g.k = turn == 5 ? 0 : rng.below(4) == 0 ? 530 : sizes[rng.below(12)];
      g.batch = 1;
      g.a_signed = rng.below(2);
      g.b_unsigned = rng.below(2);
      g.b_transposed = rng.below(2);
      const std::vector<uint8_t> a = bytes<uint8_t>(rng, g.m * g.k), b = bytes<uint8_t>(rng, g.k * g.n), zeros = bytes<uint8_t>(rng, g.n);
      g.a_zero = static_cast<int32_t>(rng.between(g.a_signed ? -128 : 0, g.a_signed ? 127 : 255));
      g.b_zero = rng.below(2) ? 0 : static_cast<int32_t>(rng.between(g.b_unsigned ? 0 : -128, g.b_unsigned ? 255 : 127));
      g.a_scale = rng.uniform(1e-4f, 1e-2f);
      g.b_scale = rng.uniform(0.01f, 1);
      std::vector<float> scales(static_cast<size_t>(g.n)), bias = rng.normals(g.n);
      for (float& s : scales) s = rng.uniform(0.01f, 1);
      std::vector<int32_t> bias_int(static_cast<size_t>(g.n));
      for (int32_t& v : bias_int) v = static_cast<int32_t>(rng.between(-100000, 100000));
      g.activation = kActivations[rng.below(9)];
      g.out_type = static_cast<int32_t>(rng.below(4));
      if (g.out_type == kOutInt32) g.activation = kActivations[0];
      g.out_scale = rng.uniform(0.001f, 0.2f);
      g.out_zero = static_cast<int32_t>(g.out_type == kOutInt8 ? rng.between(-128, 127) : rng.between(0, 255));
      const int64_t kind = rng.below(3), width = g.out_type == kOutInt32 || g.out_type == kOutFloat32 ? 4 : 1;
      const bool by_column = rng.below(2), zeros_by_column = rng.below(3) == 0, packed = rng.below(2);
      std::vector<uint8_t> want(static_cast<size_t>(g.m * g.n * width)), got(want);

      GemmInt8Args on_cpu = g;
      on_cpu.threads = 1;
      on_cpu.a = a.data();
      on_cpu.b = b.data();
      on_cpu.b_zeros = zeros_by_column ? zeros.data() : nullptr;
      on_cpu.b_scales = by_column ? scales.data() : nullptr;
      on_cpu.bias_int = kind == 1 ? bias_int.data() : nullptr;
      on_cpu.bias_float = kind == 2 && g.out_type != kOutInt32 ? bias.data() : nullptr;
      on_cpu.out = want.data();
      const WhittleStatus expected = gemm_int8(gemm_int8_kernels(), on_cpu);

      const Device<uint8_t> da(a), db(b), dzeros(zeros), dy(static_cast<int64_t>(want.size()));
      const Device<float> dscales(scales), dbias(bias);
      const Device<int32_t> dbias_int(bias_int), sums(cuda_int8_rows(g.n));
      const Device<int8_t> data(cuda_int8_rows(g.n) * cuda_int8_row(g.k));
      PackedInt8 weights = {};
      if (packed) {
        c.expect(cuda.pack_int8(0, db, g.b_unsigned, g.b_transposed, g.k, g.n, data, sums) == WHITTLE_OK, "pack");
        weights = {g.k, g.n, 0, g.b_unsigned, 0, data, sums};
      }
      GemmInt8Args on_device = g;
      on_device.a = da;
      on_device.b = packed ? nullptr : static_cast<uint8_t*>(db);
      on_device.packed = packed ? &weights : nullptr;
      on_device.b_zeros = zeros_by_column ? static_cast<uint8_t*>(dzeros) : nullptr;
      on_device.b_scales = by_column ? static_cast<float*>(dscales) : nullptr;
      on_device.bias_int = kind == 1 ? static_cast<int32_t*>(dbias_int) : nullptr;
      on_device.bias_float = on_cpu.bias_float ? static_cast<float*>(dbias) : nullptr;
      on_device.out = static_cast<uint8_t*>(dy);
      int32_t fault = 0;
      const WhittleStatus status = cuda.gemm_int8(0, on_device, &fault);
      if (!c.expect(status == expected, "turn %d: status %d, %d on the CPU", turn, status, expected)) return;
      if (status != WHITTLE_OK) continue;
      const int64_t at = differs(dy.host(), want);
      if (!c.expect(at < 0, "turn %d (%d x %d x %d, out %d, activation %d): byte %d", turn, int(g.m), int(g.n), int(g.k), g.out_type, g.activation.kind, int(at))) return;
    }
  });

  c.row("gemm: sums, scales and biases out of range are refused", [&](Rng& rng) {
    const int64_t k = 40000;
    const std::vector<int8_t> a = bytes<int8_t>(rng, k), b = bytes<int8_t>(rng, k);
    const Device<int8_t> da(a), db(b);
    const Device<float> y(1);
    GemmInt8Args g = {};
    g.batch = g.m = g.n = 1;
    g.k = k;
    g.a = reinterpret_cast<uint8_t*>(static_cast<int8_t*>(da));
    g.b = reinterpret_cast<uint8_t*>(static_cast<int8_t*>(db));
    g.a_scale = g.b_scale = 1;
    g.out_type = kOutFloat32;
    g.out = static_cast<float*>(y);
    int32_t fault = 0;
    // 40000 * 255 * 255 leaves 32 bits; 40000 * 128 * 128 does not, but with this bias.
    g.a_signed = g.b_unsigned = true;
    c.expect(cuda.gemm_int8(0, g, &fault) == WHITTLE_OK, "int8 by uint8");
    g.a_signed = false;
    c.expect(cuda.gemm_int8(0, g, &fault) == WHITTLE_RANGE && fault == 1, "uint8 by uint8: fault %d", fault);
    g.a_signed = true;
    g.b_unsigned = false;
    const Device<int32_t> bias(std::vector<int32_t>{2000000000});
    g.bias_int = bias;
    c.expect(cuda.gemm_int8(0, g, &fault) == WHITTLE_RANGE && fault == 1, "a bias: fault %d", fault);
    // Also where a later thread of the block meets it.
    const int64_t n = 300;
    std::vector<int32_t> far(static_cast<size_t>(n));
    far[n - 1] = 2147483647;
    const Device<int32_t> dfar(far);
    const Device<int8_t> wide(bytes<int8_t>(rng, 16 * n));
    const Device<float> many(n);
    GemmInt8Args h = g;
    h.k = 16;
    h.n = n;
    h.b = reinterpret_cast<uint8_t*>(static_cast<int8_t*>(wide));
    h.bias_int = dfar;
    h.out = static_cast<float*>(many);
    c.expect(cuda.gemm_int8(0, h, &fault) == WHITTLE_RANGE && fault == 1, "a bias of the last column: fault %d", fault);
    g.bias_int = nullptr;
    const Device<float> scale(std::vector<float>{-1}), infinite(std::vector<float>{INFINITY});
    g.b_scales = scale;
    c.expect(cuda.gemm_int8(0, g, &fault) == WHITTLE_RANGE && fault == 2, "a scale: fault %d", fault);
    g.b_scales = nullptr;
    g.bias_float = infinite;
    c.expect(cuda.gemm_int8(0, g, &fault) == WHITTLE_NONFINITE, "an infinite bias");
  });

  if (!lt && !c.real()) return;

  if (!c.real()) c.row("gemm: the fastest integer algorithm is taken, none and failures fall back to the own kernel", [&](Rng& rng) {
    const int64_t m = 20, n = 12, depth = 32;
    const std::vector<int8_t> a = bytes<int8_t>(rng, m * depth), b = bytes<int8_t>(rng, n * depth);
    for (int turn = 0; turn < 4; turn++) {
      // A shape of its own for each turn of each schedule, which no other row has: choices are remembered.
      const int64_t rows = m + turn + 10 * static_cast<int64_t>(emulator::settings().order);
      std::vector<int8_t> x(static_cast<size_t>(rows * depth));
      for (size_t i = 0; i < x.size(); i++) x[i] = a[i % a.size()];
      const Device<int8_t> dx(x), db(b);
      const Device<int32_t> y(rows * n);
      GemmInt8Args g = {};
      g.batch = 1;
      g.m = rows;
      g.n = n;
      g.k = depth;
      g.a_signed = true;
      g.b_transposed = true;
      g.a = reinterpret_cast<uint8_t*>(static_cast<int8_t*>(dx));
      g.b = reinterpret_cast<uint8_t*>(static_cast<int8_t*>(db));
      g.out = static_cast<int32_t*>(y);
      const FakeCublasLt before = *lt;
      lt->last = -1;
      if (turn == 1) lt->algorithms = 0;
      if (turn == 2) lt->fail_at = lt->calls + 2;  // the first run of the second candidate
      if (turn == 3) lt->fail_at = lt->calls + 6;  // after the choice
      int32_t fault;
      const WhittleStatus s = cuda.gemm_int8(0, g, &fault);
      const int last = lt->last, calls = lt->calls - before.calls;
      lt->algorithms = before.algorithms;
      lt->fail_at = -1;
      // Costs are 3, 1, 2.
      const int wanted[] = {1, -1, 2, 2}, runs[] = {7, 0, 6, 7};
      c.expect(s == WHITTLE_OK && last == wanted[turn] && calls == runs[turn], "turn %d: status %d, algorithm %d after %d calls", turn, s, last, calls);
      const std::vector<int32_t> got = y.host();
      for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < n; j++) {
          int32_t sum = 0;
          for (int64_t p = 0; p < depth; p++) sum += x[size_t(i * depth + p)] * b[size_t(j * depth + p)];
          if (!c.expect(got[size_t(i * n + j)] == sum, "turn %d: row %d, column %d", turn, int(i), int(j))) return;
        }
    }
  });

  c.row("gemm: floats of three types, transposed, in batches, with bias and activation", [&](Rng& rng) {
    for (int turn = 0; turn < (c.lean() ? 12 : 40); turn++) {
      CudaGemm g = {};
      g.type = static_cast<FloatType>(rng.below(3));
      g.m = rng.between(1, 19);
      g.n = rng.between(1, 19);
      g.k = turn == 7 ? 0 : rng.between(1, 40);
      g.batch = turn % 3 == 0 ? 3 : 1;
      g.transpose_a = rng.below(2);
      g.transpose_b = rng.below(2);
      g.alpha = rng.below(2) ? 1 : rng.uniform(-2, 2);
      g.activation = kActivations[rng.below(9)];
      const bool one_b = rng.below(2), with_bias = rng.below(2);
      g.a_batch = g.m * g.k;
      g.b_batch = one_b ? 0 : g.k * g.n;
      const int64_t size = g.batch * g.m * g.n;
      std::vector<float> a = rng.normals(g.batch * g.m * g.k), b = rng.normals((one_b ? 1 : g.batch) * g.k * g.n), bias = rng.normals(g.n);
      const auto narrowed = [&](std::vector<float>& x) {
        std::vector<uint16_t> h(x.size());
        const QuantizeKernels& q = quantize_kernels();
        (g.type == kFloat16 ? q.narrow_f16 : q.narrow_bf16)(x.data(), int64_t(x.size()), h.data());
        if (g.type != kFloat32) (g.type == kFloat16 ? q.widen_f16 : q.widen_bf16)(h.data(), int64_t(x.size()), x.data());
        return h;
      };
      const Device<uint16_t> ha(narrowed(a)), hb(narrowed(b)), hbias(narrowed(bias)), hy(size);
      const Device<float> fa(a), fb(b), fbias(bias), fy(size);
      const auto of = [&](const Device<uint16_t>& h, const Device<float>& f) { return g.type == kFloat32 ? static_cast<void*>(static_cast<float*>(f)) : static_cast<uint16_t*>(h); };
      g.a = of(ha, fa);
      g.b = of(hb, fb);
      g.bias = with_bias ? of(hbias, fbias) : nullptr;
      g.y = of(hy, fy);
      const WhittleStatus s = cuda.gemm(0, g);
      if (!c.expect(s == WHITTLE_OK, "turn %d: status %d, %s", turn, s, cuda.error())) return;
      std::vector<float> got = fy.host();
      if (g.type != kFloat32) {
        const std::vector<uint16_t> h = hy.host();
        (g.type == kFloat16 ? quantize_kernels().widen_f16 : quantize_kernels().widen_bf16)(h.data(), size, got.data());
      }
      const double unit = g.type == kFloat32 ? 0x1p-23 : g.type == kFloat16 ? 0x1p-10 : 0x1p-7;
      for (int64_t t = 0; t < g.batch; t++)
        for (int64_t i = 0; i < g.m; i++)
          for (int64_t j = 0; j < g.n; j++) {
            double sum = 0, all = 0;
            for (int64_t p = 0; p < g.k; p++) {
              const double x = a[size_t(t * g.a_batch + (g.transpose_a ? p * g.m + i : i * g.k + p))];
              const double w = b[size_t(t * g.b_batch + (g.transpose_b ? j * g.k + p : p * g.n + j))];
              sum += x * w;
              all += fabs(x * w);
            }
            double y = g.alpha * sum + (with_bias ? bias[size_t(j)] : 0);
            const double bound = (fabs(g.alpha) * all + 1) * (double(g.k) + 8) * 0x1p-23;
            switch (g.activation.kind) {
              case kActivationClip: y = fmin(g.activation.hi, fmax(g.activation.lo, y)); break;
              case kActivationHardswish: y = y * fmin(6, fmax(0, y + 3)) / 6; break;
              case kActivationSigmoid: y = 1 / (1 + exp(-y)); break;
              case kActivationTanh: y = tanh(y); break;
              case kActivationSilu: y = y / (1 + exp(-y)); break;
              case kActivationGelu: y = y * 0.5 * erfc(-y * 0.70710678118654752440); break;
              case kActivationGeluTanh: y = y / (1 + exp(-1.5957691216057307118 * (y + 0.044715 * y * y * y))); break;
              default: break;
            }
            const double is = got[size_t((t * g.m + i) * g.n + j)];
            // No activation is steeper than 1.2.
            if (!c.expect(fabs(is - y) <= 1.2 * bound + unit * fabs(y) + 1e-7, "turn %d (type %d, activation %d) [%d, %d, %d]: %g, not %g", turn, g.type,
                          g.activation.kind, int(t), int(i), int(j), is, y))
              return;
          }
    }
  });

  if (c.real()) return;

  c.row("gemm: out of device memory, no algorithm, and NaN through relu", [&](Rng& rng) {
    const std::vector<float> a = rng.normals(64), b = rng.normals(64);
    const Device<float> da(a), db(b), y(64);
    CudaGemm g = {};
    g.m = g.n = g.k = 8;
    g.batch = 1;
    g.alpha = 1;
    g.a = static_cast<float*>(da);
    g.b = static_cast<float*>(db);
    g.y = static_cast<float*>(y);
    int failures = 0;
    for (int64_t at = 0; at < 4; at++) {
      fake::options().fail_allocation = fake::allocations() + at;
      const WhittleStatus s = cuda.gemm(0, g);
      fake::options().fail_allocation = -1;
      c.expect(s == WHITTLE_OK || s == WHITTLE_OUT_OF_MEMORY, "allocation %d: status %d", int(at), s);
      failures += s == WHITTLE_OUT_OF_MEMORY;
      c.expect(cuda.gemm(0, g) == WHITTLE_OK, "after allocation %d", int(at));
    }
    c.expect(failures == 2, "%d allocations failed", failures);
    lt->fail_at = lt->calls;
    c.expect(cuda.gemm(0, g) == WHITTLE_DEVICE && cuda.error()[0], "a failing product");
    lt->fail_at = -1;
    lt->algorithms = 0;
    g.m = 7 - static_cast<int64_t>(emulator::settings().order);  // not yet chosen
    c.expect(cuda.gemm(0, g) == WHITTLE_DEVICE && cuda.error()[0], "no algorithm");
    lt->algorithms = 3;
    std::vector<float> bad = a;
    bad[0] = NAN;
    const Device<float> dbad(bad);
    g.m = 8;
    g.a = static_cast<float*>(dbad);
    g.activation = {kActivationClip, 0, INFINITY};
    c.expect(cuda.gemm(0, g) == WHITTLE_OK && isnan(y.host()[0]), "NaN through relu");
  });
}

}  // namespace whittle
