// Compressed weights: packing, every variant of every format against sums in double precision within the bound that
// core/gemm_weight.h promises, at block and column edges; then rates.
#include "core/gemm_weight.h"

#include <math.h>
#include <string.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <vector>

#include "core/threads.h"
#include "cpu/gemm/activation_scalar.h"
#include "test/native/gemm_weight_emulated.h"
#include "test/native/harness.h"

using namespace whittle;

namespace {

struct Case {
  int32_t format;
  int64_t m, n, k, block;
  bool transposed = false, is_signed = true, zeros = false, float_zeros = false, half = false;
  bool bias = false;
  Activation act = {kActivationNone, 0, 0};
  int threads = 1;
  int wild = 0;  // 1: magnitudes over 200 binary orders; 2: a NaN; 3: an infinity; 4: largest float32 mantissas
};

struct Weights {
  PackedWeight* packed = nullptr;
  std::vector<double> w, size;  // values, and |scale q| + |offset|, k x n
  ~Weights() { free_packed_weight(packed); }
};

const uint16_t kHalves[] = {0x2e66, 0x1c01, 0x3c00, 0x0203, 0xa8f1};  // 0.1, 0.0039, 1, a denormal, -0.0387
double half_value(int i) {
  const double v[] = {0.0999755859375, 0.003910064697265625, 1.0, 515 * 0x1p-24, -0.038604736328125};
  return v[i];
}

void make(Harness& h, const WeightKernels& t, const GemmEngine& e, const Case& c, Rng& rng, Weights* out) {
  const bool int4 = c.format == kWeightInt4, f32 = c.format == kWeightF32, bf16 = c.format == kWeightBf16 || f32;
  const int64_t block = std::min(c.block, std::max<int64_t>(c.k, 1)), blocks = bf16 ? 1 : (c.k + block - 1) / block;
  out->w.assign(static_cast<size_t>(c.k * c.n), 0);
  out->size = out->w;
  out->packed = new_packed_weight(t, c.format, c.k, c.n, bf16 ? c.k : c.block, c.zeros, e);
  if (!h.expect(out->packed != nullptr, "no memory")) return;
  const int64_t row = c.transposed ? 1 : c.n, col = c.transposed ? c.k : 1;
  WeightSource s = {};
  s.row = row, s.col = col;
  if (bf16) {
    Guarded<float> w(c.k * c.n, rng.below(16));
    Guarded<uint16_t> bits(c.k * c.n, rng.below(16));
    s.is_float = f32 || c.is_signed;
    for (int64_t p = 0; p < c.k; p++)
      for (int64_t j = 0; j < c.n; j++) {
        const int64_t at = p * row + j * col;
        w[at] = rng.uniform(-2, 2);
        uint32_t u;
        memcpy(&u, &w[at], 4);
        if (!f32) {
          u += 0x7fff + ((u >> 16) & 1);
          bits[at] = static_cast<uint16_t>(u >> 16);
          u &= 0xffff0000;
        }
        float v;
        memcpy(&v, &u, 4);
        out->w[static_cast<size_t>(p * c.n + j)] = v;
        out->size[static_cast<size_t>(p * c.n + j)] = fabs(v);
      }
    s.codes = s.is_float ? reinterpret_cast<const uint8_t*>(w.data()) : reinterpret_cast<const uint8_t*>(bits.data());
    h.expect(fill_packed_weight(s, c.threads, out->packed, e) == WHITTLE_OK, "fill");
    return;
  }
  Guarded<uint8_t> codes(int4 ? (c.k * c.n + 1) / 2 : c.k * c.n, rng.below(16));
  for (int64_t i = 0; i < codes.size(); i++) codes[i] = static_cast<uint8_t>(rng.next());
  Guarded<float> scales(blocks * c.n, rng.below(16)), float_zeros(blocks * c.n);
  Guarded<uint16_t> halves(blocks * c.n);
  Guarded<uint8_t> zeros(int4 ? (blocks * c.n + 1) / 2 : blocks * c.n);
  for (int64_t i = 0; i < zeros.size(); i++) zeros[i] = static_cast<uint8_t>(rng.next());
  std::vector<int> which(static_cast<size_t>(blocks * c.n));
  for (int64_t i = 0; i < blocks * c.n; i++) {
    which[static_cast<size_t>(i)] = static_cast<int>(rng.below(5));
    halves[i] = kHalves[which[static_cast<size_t>(i)]];
    scales[i] = rng.uniform(0.001f, 0.1f);
    float_zeros[i] = rng.uniform(0, 15);
  }
  s.codes = codes.data();
  s.is_signed = c.is_signed;
  s.scales = c.half ? static_cast<const void*>(halves.data()) : scales.data();
  s.half_scales = c.half;
  s.positive = !c.half;
  s.scale_block = c.n, s.scale_col = 1;
  s.zero_block = c.n, s.zero_col = 1;
  const double middle = c.is_signed ? 0 : int4 ? 8 : 128;
  s.zero_default = static_cast<float>(middle);
  if (c.zeros) {
    s.zero_kind = c.float_zeros ? 2 : 1;
    s.zeros = c.float_zeros ? static_cast<const void*>(float_zeros.data()) : zeros.data();
  }
  h.expect(fill_packed_weight(s, c.threads, out->packed) == WHITTLE_OK, "fill");
  for (int64_t p = 0; p < c.k; p++)
    for (int64_t j = 0; j < c.n; j++) {
      const int64_t at = p * row + j * col, g = p / block * c.n + j;
      const auto code = [&](const Guarded<uint8_t>& x, int64_t i) {
        if (!int4) return c.is_signed ? static_cast<int>(static_cast<int8_t>(x[i])) : static_cast<int>(x[i]);
        const int v = i % 2 ? x[i / 2] >> 4 : x[i / 2] & 15;
        return c.is_signed && v > 7 ? v - 16 : v;
      };
      const double scale = c.half ? half_value(which[static_cast<size_t>(g)]) : scales[g];
      const double zero = !c.zeros ? middle : c.float_zeros ? float_zeros[g] : code(zeros, g);
      out->w[static_cast<size_t>(p * c.n + j)] = scale * (code(codes, at) - zero);
      out->size[static_cast<size_t>(p * c.n + j)] = fabs(scale) * (fabs(code(codes, at) - middle) + fabs(middle - zero));
    }
}

void run_case(Harness& h, const WeightKernels& t, const GemmEngine& e, const Case& c, Rng& rng) {
  Weights weights;
  make(h, t, e, c, rng, &weights);
  if (!weights.packed) return;
  Guarded<float> a(c.m * c.k, rng.below(16)), y(c.m * c.n, rng.below(16)), bias(c.n, rng.below(16));
  for (int64_t i = 0; i < a.size(); i++) {
    a[i] = rng.normal();
    if (c.wild == 1) a[i] = ldexpf(a[i], static_cast<int>(rng.between(-110, 90)));
    if (c.wild == 4) a[i] = rng.below(2) ? 0x1.fffffep3f : rng.below(2) ? -0x1.fdfdfcp3f : 0x1.fdfdfep3f;
  }
  if (c.wild == 2 && a.size()) a[rng.below(a.size())] = NAN;
  if (c.wild == 3 && a.size()) a[rng.below(a.size())] = -INFINITY;
  for (int64_t i = 0; i < c.n; i++) bias[i] = rng.normal();
  for (int64_t i = 0; i < y.size(); i++) y[i] = NAN;
  WeightArgs g;
  g.w = weights.packed;
  g.m = c.m;
  g.a = a.data();
  g.bias = c.bias ? bias.data() : nullptr;
  g.activation = c.act;
  g.out = y.data();
  g.threads = c.threads;
  h.expect(gemm_weight(t, g, e) == WHITTLE_OK, "status");
  h.expect(y.intact(), "wrote outside, format %d m %d n %d k %d", c.format, int(c.m), int(c.n), int(c.k));
  const int64_t block = c.format >= kWeightBf16 ? c.k : c.block;
  const double u = 0x1p-24, gamma = double(c.k + 8) * u / (1 - double(c.k + 8) * u);
  for (int64_t i = 0; i < c.m; i++) {
    std::vector<double> near(static_cast<size_t>(c.k));
    for (int64_t p = 0; p < c.k; p++) {
      const int64_t first = p / block * block + p % block / 32 * 32, last = std::min({first + 32, p / block * block + block, c.k});
      for (int64_t q = first; q < last; q++) near[size_t(p)] = std::max(near[size_t(p)], fabs(double(a[i * c.k + q])));
    }
    for (int64_t j = 0; j < c.n; j++) {
      double sum = 0, size = 0, shared = 0, whole = 0;
      for (int64_t p = 0; p < c.k; p++) {
        const double w = weights.w[size_t(p * c.n + j)], s = weights.size[size_t(p * c.n + j)];
        sum += a[i * c.k + p] * w;
        size += fabs(double(a[i * c.k + p])) * s;
        shared += near[size_t(p)] * s;
        whole += s;
      }
      const double b = c.bias ? double(bias[j]) : 0;
      const double want = act_apply_scalar(float(sum + b), c.act.kind, c.act.lo, c.act.hi);
      const double bound = 1.13 * (gamma * size + (c.format == kWeightInt4 ? 2 * u * shared : 0) + u * fabs(b)) +
                           8 * 0x1p-23 * fabs(want) + 0x1p-124 * whole + 1e-37;
      const float got = y[i * c.n + j];
      const bool ok = isnan(want) ? isnan(got) : isinf(want) ? got == float(want) : fabs(got - want) <= bound;
      if (!h.expect(ok, "format %d m %d n %d k %d block %d t %d signed %d zeros %d/%d half %d bias %d act %d wild %d threads %d: [%d,%d] %.9g, want %.9g within %.3g",
                    c.format, int(c.m), int(c.n), int(c.k), int(c.block), c.transposed, c.is_signed, c.zeros, c.float_zeros, c.half, c.bias,
                    int(c.act.kind), c.wild, c.threads, int(i), int(j), got, want, bound))
        return;
    }
  }
}

void randomize(Case* c, Rng& rng) {
  const Activation acts[] = {{kActivationNone, 0, 0}, {kActivationClip, 0, INFINITY}, {kActivationGelu, 0, 0}, {kActivationSilu, 0, 0}};
  c->transposed = rng.below(2), c->is_signed = rng.below(2), c->zeros = rng.below(2), c->float_zeros = rng.below(4) == 0;
  c->half = rng.below(3) == 0, c->bias = rng.below(2), c->act = acts[rng.below(4)];
}

const char* const kNames[] = {"int4", "int8", "bf16"};

// `first`: formats before it are another table's.
void check_table(Harness& h, const WeightKernels& t, const GemmEngine& e, int32_t first) {
  const bool lean = h.lean();
  GemmEngine tight = e;  // short blocks of k, so that few rows of weights make several
  tight.max_k = 48;
  tight.block_cols = 2 * e.kernels.nr;
  for (int32_t format = first; format < kWeightFormats; format++) {
    h.row((std::string(kNames[format]) + " streams: rows, columns and blocks around the tiles").c_str(), [&] {
      Rng rng = h.rng();
      const int64_t widths[] = {1, 7, 16, 17, 33, 64, 70};
      const int64_t most = std::max<int64_t>(t.stream_rows[format], 4), tile = t.tile_rows[format];
      for (int64_t m = 1; m <= most; m++)
        for (int64_t n : widths) {
          // Beyond one tile: two unequal ones, and the most.
          if (m > tile + 1 && m != 2 * tile + 1 && m != most) continue;
          if (lean && (m + n) % 3) continue;
          const int64_t blocks[] = {16, 32, 64, 128, 1, 20, 33, 1000};
          for (int64_t block : blocks) {
            if (lean && rng.below(4)) continue;
            Case c = {format, m, n, rng.between(1, 200), block};
            randomize(&c, rng);
            run_case(h, t, e, c, rng);
          }
        }
    });
    h.row((std::string(kNames[format]) + " by panels, many rows, several blocks of k").c_str(), [&] {
      Rng rng = h.rng();
      const auto one = [&](int64_t m, int64_t n, int64_t k, const GemmEngine& engine) {
        Case c = {format, m, n, k, (int64_t[]){16, 32, 100, 5000}[rng.below(4)]};
        randomize(&c, rng);
        c.threads = int(rng.between(1, 3));
        run_case(h, t, engine, c, rng);
      };
      for (int64_t m : {20, 33, 65})
        for (int64_t n : {1, 8, 24, 40, 70})
          for (int64_t k : {5, 31, 130})
            if (!lean || m == 33 || (m + n + k) % 3 == 0) one(m, n, k, k == 130 ? tight : e);
      one(lean ? 20 : 130, 40, 300, e);
      one(17, 33, 900, e);
      // Tiles pass over k in pieces of 1024.
      if (t.tile && format == kWeightBf16) one(lean ? 16 : 65, lean ? 3 : 33, 1100, e);
    });
    h.row((std::string(kNames[format]) + " empty, odd, wide-ranging and non-finite").c_str(), [&] {
      Rng rng = h.rng();
      for (int64_t m : {0, 1, 3, 20})
        for (int64_t n : {0, 1, 18})
          for (int64_t k : {0, 1, 2, 7, 97}) {
            Case c = {format, m, n, k, 32};
            randomize(&c, rng);
            run_case(h, t, e, c, rng);
            for (c.wild = 1; c.wild <= 4; c.wild++) {
              c.act = {kActivationNone, 0, 0};
              c.zeros = c.half = false;
              run_case(h, t, e, c, rng);
            }
          }
    });
  }
  h.row("threads change nothing", [&] {
    Rng rng = h.rng();
    for (int32_t format = first; format < kWeightFormats; format++)
      for (const Case& c : {Case{format, 3, 900, 500, 32}, Case{format, 40, 100, 110, 32}}) {
        // Wide enough for several pieces of a stream; panels are cut by core/gemm.cpp.
        Case with = c;
        with.zeros = format == kWeightInt4;
        Weights w;
        make(h, t, e, with, rng, &w);
        for (int64_t m : {int64_t{1}, c.m}) {
          std::vector<float> a(size_t(m * c.k)), one(size_t(m * c.n)), many(one.size());
          for (float& x : a) x = rng.uniform(-1, 1);
          WeightArgs g;
          g.w = w.packed, g.m = m, g.a = a.data(), g.out = one.data(), g.threads = 1;
          gemm_weight(t, g, e);
          g.out = many.data();
          for (int threads : {2, 3}) {
            g.threads = threads;
            gemm_weight(t, g, e);
            h.expect(memcmp(one.data(), many.data(), one.size() * 4) == 0, "format %d m %d threads %d", format, int(m), threads);
          }
        }
      }
  });
  h.row("float32 panels: few rows, many, several blocks of k", [&] {
    Rng rng = h.rng();
    for (int64_t m : {1, 2, 3, 4, 16, 29, 45})
      for (int64_t n : {1, 33, 128, 260})
        for (int64_t k : {1, 49, 100}) {
          if (lean && (m + n + k) % 4) continue;
          Case c = {kWeightF32, m, n, k, 32};
          randomize(&c, rng);
          c.threads = int(rng.between(1, 3));
          run_case(h, t, k == 100 ? tight : e, c, rng);
        }
  });
  h.row("scales that are no good are refused", [&] {
    const uint8_t codes[8] = {0};
    for (float bad : {NAN, INFINITY, 0.0f, -1.0f, 3e38f}) {
      PackedWeight* p = new_packed_weight(t, kWeightInt4, 2, 2, 32, false);
      const float scales[2] = {1, bad};
      WeightSource s = {};
      s.codes = codes, s.row = 2, s.col = 1, s.scales = scales, s.scale_col = 1, s.positive = true, s.is_signed = true;
      h.expect(fill_packed_weight(s, 1, p) == (bad <= 0 ? WHITTLE_RANGE : WHITTLE_NONFINITE), "scale %g", bad);
      s.positive = false;
      h.expect((fill_packed_weight(s, 1, p) == WHITTLE_OK) == (bad <= 0), "any finite scale, %g", bad);
      free_packed_weight(p);
    }
  });
}

double best(const std::function<void()>& body) {
  double least = 1e9;
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < 200; i++) {
    const auto t = std::chrono::steady_clock::now();
    body();
    least = std::min(least, std::chrono::duration<double>(std::chrono::steady_clock::now() - t).count());
    if (i >= 5 && std::chrono::steady_clock::now() - start > std::chrono::milliseconds(300)) break;
  }
  return least;
}

void bench_table(Harness& h, const WeightKernels& t, const GemmEngine& e) {
  if (!h.benching()) return;
  const struct { int64_t m, n, k; } shapes[] = {{1, 4096, 4096}, {2, 4096, 4096}, {4, 4096, 4096}, {8, 4096, 4096}, {12, 4096, 4096}, {16, 4096, 4096}, {32, 4096, 4096}, {128, 768, 3072}};
  for (int32_t format = 0; format < kWeightFormats; format++)
    for (const auto& s : shapes) {
      if (e.kernels.nr == 8 && s.m > 2) continue;
      Rng rng(1);
      Case c = {format, s.m, s.n, s.k, 32};
      Weights w;
      w.packed = new_packed_weight(t, format, s.k, s.n, 32, false);
      std::vector<uint8_t> codes(size_t(s.k * s.n * 2), 0x35);
      for (size_t i = 0; i < codes.size(); i += 8) {
        const uint64_t r = (rng.next() & 0x83ff83ff83ff83ff) | 0x3c003c003c003c00;
        memcpy(&codes[i], &r, 8);
      }
      std::vector<float> scales(size_t(s.k / 32 * s.n), 0.01f), a(size_t(s.m * s.k)), y(size_t(s.m * s.n)), dense;
      for (float& x : a) x = rng.normal();
      WeightSource src = {};
      src.codes = codes.data(), src.row = 1, src.col = s.k, src.scales = scales.data(), src.scale_block = 1, src.scale_col = s.k / 32;
      src.is_signed = true;
      fill_packed_weight(src, 1, w.packed);
      WeightArgs g;
      g.w = w.packed, g.m = s.m, g.a = a.data(), g.out = y.data(), g.threads = 1;
      const double one = best([&] { gemm_weight(t, g, e); });
      WeightKernels other = t;
      other.stream_rows[format] = s.m <= t.stream_rows[format] ? 0 : 1000;
      other.tile = nullptr;
      const double two = best([&] { gemm_weight(other, g, e); });
      printf("TIME %s/%s %s %dx%dx%d: %.3f ms, %.1f GB/s, %.1f GFLOP/s; the other way %.3f ms\n", h.family(), h.variant(), kNames[format],
             int(s.m), int(s.n), int(s.k), one * 1e3, double(w.packed->bytes) / one / 1e9,
             2.0 * double(s.m) * double(s.n) * double(s.k) / one / 1e9, two * 1e3);
      fflush(stdout);
    }
}

// The float32 engine of the same tier.
GemmEngine engine_of(Tier tier) { return gemm_engine(overlay(gemm_variants(), tier)); }

}  // namespace

WHITTLE_CHECK(gemm_weight) {
  const VariantList<WeightKernels> list = gemm_weight_variants();
  for (const Variant<WeightKernels>& v : list) {
    if (!h.wants("gemm_weight", v.tier)) continue;
    h.begin_variant("gemm_weight", v.tier);
    const WeightKernels table = overlay(list, v.tier);
    const GemmEngine engine = engine_of(v.tier);
    check_table(h, table, engine, 0);
    bench_table(h, table, engine);
  }
  for (const EmulatedWeight& emulated : emulated_weight()) {
    if (!emulated.supported || !h.begin_emulated("gemm_weight", emulated.name)) continue;
    WeightKernels table = overlay(list, Tier::scalar);
    emulated.install(&table);
    check_table(h, table, engine_of(Tier::scalar), kWeightBf16);
    h.row("leaves no tile state behind", [&] { h.expect(weight_tiles_released(), "tiles are still configured"); });
  }
}
