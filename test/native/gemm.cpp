// float32 products: every path of the driver on every variant against a double sum and the bound that core/gemm.h
// promises; activations against libm in double; results independent of threads; then rates next to the FMA peak.
#include "core/gemm.h"

#include <math.h>
#include <string.h>

#include <string>

#include "core/threads.h"
#include "cpu/gemm/activation_scalar.h"
#include "test/native/activation.h"
#include "test/native/harness.h"

using namespace whittle;

namespace {

struct Case {
  int64_t m, n, k;
  bool ta = false, tb = false;
  float alpha = 1, beta = 0;
  bool bias = false, packed = false, filled = false;
  Activation act = {kActivationNone, 0, 0};
  int threads = 1;
};

void fill_from_rows(const void* context, int64_t row, int64_t rows, int64_t k, int64_t length, float* out) {
  const GemmProblem& g = *static_cast<const GemmProblem*>(context);
  for (int64_t i = 0; i < rows; i++)
    for (int64_t p = 0; p < length; p++)
      out[i * kGemmRowStride + p] = g.a[(row + i) * g.a_row + (k + p) * g.a_col];
}

bool close_enough(float got, double want, double bound) {
  if (isnan(want)) return isnan(got);
  return fabs(got - want) <= bound || (isinf(want) && got == want);
}

// Runs one case with guarded, misaligned buffers and compares every element.
void verify(Harness& h, const GemmEngine& e, const Case& c, Rng& rng) {
  const int64_t lda = (c.ta ? c.m : c.k) + rng.below(3), ldb = (c.tb ? c.k : c.n) + rng.below(3), ldc = c.n + rng.below(3);
  Guarded<float> a((c.ta ? c.k : c.m) * lda, rng.below(16)), b((c.tb ? c.n : c.k) * ldb, rng.below(16));
  Guarded<float> y(c.m * ldc, rng.below(16)), bias(c.n, rng.below(16)), old(c.m * ldc);
  for (int64_t i = 0; i < a.size(); i++) a[i] = rng.normal();
  for (int64_t i = 0; i < b.size(); i++) b[i] = rng.normal();
  for (int64_t i = 0; i < bias.size(); i++) bias[i] = rng.normal();
  for (int64_t i = 0; i < y.size(); i++) y[i] = old[i] = c.beta == 0 ? NAN : rng.normal();
  GemmProblem g;
  g.m = c.m, g.n = c.n, g.k = c.k;
  g.a = a.data(), g.a_row = c.ta ? 1 : lda, g.a_col = c.ta ? lda : 1;
  g.b = b.data(), g.b_row = c.tb ? 1 : ldb, g.b_col = c.tb ? ldb : 1;
  g.c = y.data(), g.ldc = ldc;
  g.alpha = c.alpha, g.beta = c.beta, g.activation = c.act;
  if (c.bias) g.bias = bias.data();
  GemmProblem inner = g;
  if (c.filled) g.fill = fill_from_rows, g.fill_context = &inner;
  Guarded<float> packed(c.packed ? gemm_packed_size(c.k, c.n, e) : 0);
  if (c.packed) {
    gemm_pack_b(c.k, c.n, g.b, g.b_row, g.b_col, packed.data(), c.threads, e);
    g.packed = packed.data();
    g.b = nullptr;
  }
  h.expect(gemm_f32(g, c.threads, e) == WHITTLE_OK, "status");
  const double gamma = (c.k + 4) * 0x1p-24 / (1 - (c.k + 4) * 0x1p-24);
  for (int64_t i = 0; i < c.m; i++) {
    for (int64_t j = 0; j < c.n; j++) {
      double sum = 0, size = 0;
      for (int64_t p = 0; p < c.k; p++) {
        const double t = double(a[i * inner.a_row + p * inner.a_col]) * b[p * inner.b_row + j * inner.b_col];
        sum += t, size += fabs(t);
      }
      sum *= c.alpha, size *= fabs(c.alpha);
      if (c.beta != 0) sum += double(c.beta) * old[i * ldc + j], size += fabs(double(c.beta) * old[i * ldc + j]);
      if (c.bias) sum += bias[j], size += fabs(bias[j]);
      // Every activation here has a slope of at most 1.13.
      const double want = act_apply_scalar(float(sum), c.act.kind, c.act.lo, c.act.hi);
      const double bound = 1.13 * gamma * size + 8 * 0x1p-23 * fabs(want) + 1e-37;
      if (!h.expect(close_enough(y[i * ldc + j], want, bound),
                    "m %d n %d k %d t %d%d alpha %g beta %g act %d threads %d packed %d: [%d,%d] %.9g, want %.9g within %.3g",
                    int(c.m), int(c.n), int(c.k), c.ta, c.tb, c.alpha, c.beta, int(c.act.kind), c.threads, c.packed, int(i),
                    int(j), y[i * ldc + j], want, bound))
        return;
    }
    for (int64_t j = c.n; j < ldc && i + 1 < c.m; j++)
      h.expect(memcmp(&y[i * ldc + j], &old[i * ldc + j], 4) == 0, "wrote between rows, m %d n %d k %d", int(c.m), int(c.n), int(c.k));
  }
  h.expect(y.intact() && packed.intact(), "wrote outside, m %d n %d k %d", int(c.m), int(c.n), int(c.k));
}

const Activation kActs[] = {
    {kActivationNone, 0, 0},        {kActivationClip, 0, INFINITY}, {kActivationClip, -0.5f, 6},
    {kActivationHardswish, 0, 0},   {kActivationSigmoid, 0, 0},     {kActivationTanh, 0, 0},
    {kActivationSilu, 0, 0},        {kActivationGelu, 0, 0},        {kActivationGeluTanh, 0, 0},
};

void randomize(Case* c, Rng& rng) {
  c->ta = rng.below(2), c->tb = rng.below(2), c->bias = rng.below(2);
  c->alpha = rng.below(2) ? 1 : rng.uniform(-2, 2);
  c->beta = rng.below(2) ? 0 : rng.below(2) ? 1 : rng.uniform(-2, 2);
  c->act = kActs[rng.below(9)];
}

// Deviation of `finish` from the exact value, over floats of every exponent and around the ends of the polynomials.
void check_activation(Harness& h, const GemmKernels& got, const Activation& act) {
  const int64_t step = h.benching() ? 4099 : h.lean() ? 131071 : 16411, count = (int64_t(1) << 32) / step;
  std::vector<float> x(static_cast<size_t>(count)), y;
  for (int64_t i = 0; i < count; i++) {
    const uint32_t bits = static_cast<uint32_t>(i * step);
    memcpy(&x[size_t(i)], &bits, 4);
  }
  for (float end : {0.0f, 3.0f, 6.0f, 88.2f, 103.0f, 3e38f, INFINITY})
    for (float sign : {1.0f, -1.0f}) x.push_back(sign * end), x.push_back(sign * nextafterf(end, 0)), x.push_back(sign * nextafterf(end, INFINITY));
  y = x;
  const int64_t all = static_cast<int64_t>(x.size());
  got.finish(1, all, y.data(), all, nullptr, &act);
  double worst = 0;
  for (int64_t i = 0; i < all; i++) {
    const float in = x[size_t(i)], out = y[size_t(i)];
    const float want = act_apply_scalar(in, act.kind, act.lo, act.hi);
    if (isnan(in)) {
      h.expect(isnan(out), "NaN gave %g", out);
      continue;
    }
    // Limits are exact, and so are zeros with their signs.
    if (isinf(in) || isnan(out) || in == 0) {
      h.expect(out == want && signbit(out) == signbit(want), "at %.9g: %g, want %g", in, out, want);
      continue;
    }
    h.expect(signbit(out) == signbit(want), "at %.9g: %g, want %g", in, out, want);
    if (isinf(want)) {
      h.expect(out == want, "at %.9g: %g, want %g", in, out, want);
      continue;
    }
    const double error = fabs(double(out) - want);
    h.expect(error <= activation_slack(act.kind, in, want), "at %.9g: %.9g, want %.9g", in, out, want);
    worst = fmax(worst, error / activation_slack(act.kind, in, want));
  }
  if (h.benching()) printf("NOTE activation %d: at most %.2f of what is allowed\n", int(act.kind), worst);
}

void bench_shape(Harness& h, const GemmEngine& e, const char* name, int64_t m, int64_t n, int64_t k, bool tb, int threads,
                 int kind = kActivationNone) {
  std::vector<float> a(size_t(m * k)), b(size_t(k * n)), c(size_t(m * n)), bias(static_cast<size_t>(n));
  Rng rng(1);
  for (float& x : a) x = rng.uniform(-1, 1);
  for (float& x : b) x = rng.uniform(-1, 1);
  for (float& x : bias) x = rng.uniform(-1, 1);
  GemmProblem g;
  g.m = m, g.n = n, g.k = k;
  g.a = a.data(), g.a_row = k, g.a_col = 1;
  g.b = b.data(), g.b_row = tb ? 1 : n, g.b_col = tb ? k : 1;
  g.c = c.data(), g.ldc = n;
  g.activation = {kind, 0, 0};
  if (kind) g.bias = bias.data();
  const std::string label = std::string(name) + (tb ? "_nt" : "") + (kind ? "_act" : "") + "_t" + std::to_string(threads);
  h.bench(label.c_str(), m * n <= 32 * 4096 ? 4.0 * double(n * k) : 0, [&] { gemm_f32(g, threads, e); }, 2.0 * double(m) * double(n) * double(k));
}

}  // namespace

WHITTLE_CHECK(gemm) {
  each_variant(h, gemm_variants(), [&](const GemmKernels&, const GemmKernels& got) {
    const GemmEngine e = gemm_engine(got);
    GemmEngine tight = e;  // blocks small enough that every loop of the driver turns more than once
    tight.max_k = 24;
    tight.block_cols = 2 * got.nr;
    h.row("every small shape and transpose", [&] {
      Rng rng = h.rng();
      for (int64_t m : {0, 1, 2, 3, 4, 5})
        for (int64_t n : {0, 1, 2, 5, 17})
          for (int64_t k : {0, 1, 2, 3, 7, 16, 33})
            for (int t = 0; t < 4; t++) {
              Case c{m, n, k};
              randomize(&c, rng);
              c.ta = t & 1, c.tb = t & 2;
              verify(h, e, c, rng);
            }
    });
    h.row("sizes around the register tile", [&] {
      Rng rng = h.rng();
      for (int64_t m : sizes_around(got.mr))
        for (int64_t n : sizes_around(got.nr)) {
          Case c{m, n, rng.between(1, 70)};
          randomize(&c, rng);
          verify(h, rng.below(2) ? e : tight, c, rng);
        }
    });
    h.row("skinny and vector shapes", [&] {
      Rng rng = h.rng();
      for (int r = 0; r < (h.lean() ? 8 : 40); r++) {
        Case c{rng.between(1, 40), rng.between(1, 250), rng.between(1, 600)};
        if (rng.below(2)) c.m = rng.between(1, 5);
        if (rng.below(2)) std::swap(c.m, c.n);
        randomize(&c, rng);
        c.threads = int(rng.between(1, 3));
        verify(h, e, c, rng);
      }
    });
    h.row("one side of five to sixteen, the other long", [&] {
      Rng rng = h.rng();
      for (int64_t few : {5, 8, 9, 16})
        for (int64_t k : {64, 65, 131})
          for (int t = 0; t < 4; t++) {
            Case c{few, rng.between(64, 90), k};
            if (t & 1) std::swap(c.m, c.n);
            randomize(&c, rng);
            c.ta = t == 0 && rng.below(2), c.tb = t == 0 || t == 2 || rng.below(2);
            c.threads = int(rng.between(1, 2));
            verify(h, e, c, rng);
          }
    });
    h.row("large shapes, threads, packed B, filled A", [&] {
      Rng rng = h.rng();
      for (int r = 0; r < (h.lean() ? 4 : 12); r++) {
        Case c{rng.between(30, 120), rng.between(30, 300), rng.between(1, 600)};
        if (h.lean()) c.m = 33 + r, c.n = 30 + 21 * r, c.k = r == 0 ? 450 : 90 + r;
        randomize(&c, rng);
        c.threads = int(rng.between(1, 4));
        c.packed = rng.below(2), c.filled = rng.below(2);
        verify(h, rng.below(2) ? e : tight, c, rng);
      }
    });
    h.row("a strided batch and a mapped one", [&] {
      Rng rng = h.rng();
      for (int64_t size : {1, 9, 40}) {
        const int64_t m = size, n = size + 3, k = size + 5, batch = 6;
        std::vector<float> a(size_t(2 * m * k)), b(size_t(batch * k * n)), y(size_t(batch * m * n)), one(size_t(m * n)), s(static_cast<size_t>(n));
        for (auto* v : {&a, &b, &s})
          for (float& x : *v) x = rng.normal();
        const int32_t map[] = {0, 0, 0, 1, 1, 0, 0, 2, 0, 1, 3, 0, 0, 4, 0, 1, 5, 0};
        GemmProblem g;
        g.m = m, g.n = n, g.k = k, g.a = a.data(), g.a_row = k, g.b = b.data(), g.b_row = n, g.c = y.data(), g.ldc = n;
        g.source = s.data(), g.source_col = 1, g.beta = 2;
        GemmProblem all = g;
        all.batch = batch, all.a_batch = m * k, all.b_batch = k * n, all.c_batch = m * n, all.map = map;
        gemm_f32(all, 3, e);
        for (int64_t i = 0; i < batch; i++) {
          g.a = a.data() + i % 2 * m * k, g.b = b.data() + i * k * n, g.c = one.data();
          gemm_f32(g, 1, e);
          h.expect(memcmp(one.data(), y.data() + i * m * n, one.size() * 4) == 0, "size %d, matrix %d", int(size), int(i));
        }
      }
    });
    h.row("the same bits on any number of threads", [&] {
      Rng rng = h.rng();
      const int64_t shapes[][3] = {{1, 1500, 300}, {1500, 1, 300}, {12, 900, 300}, {3, 700, 300}, {130, 200, 100}, {260, 40, 60}};
      for (const auto& s : shapes)
        for (int t = 0; t < (h.lean() ? 1 : 4); t++) {
          const GemmEngine& engine = s[0] > 16 && s[1] > 16 ? tight : e;
          std::vector<float> a(size_t(s[0] * s[2])), b(size_t(s[1] * s[2])), one(size_t(s[0] * s[1])), many(one.size());
          for (float& x : a) x = rng.uniform(-1, 1);
          for (float& x : b) x = rng.uniform(-1, 1);
          GemmProblem g;
          g.m = s[0], g.n = s[1], g.k = s[2], g.a = a.data(), g.b = b.data(), g.ldc = s[1];
          g.a_row = t & 1 ? 1 : s[2], g.a_col = t & 1 ? s[0] : 1, g.b_row = t & 2 ? 1 : s[1], g.b_col = t & 2 ? s[2] : 1;
          g.c = one.data();
          gemm_f32(g, 1, engine);
          for (int threads : {2, 3, 5}) {
            g.c = many.data();
            gemm_f32(g, threads, engine);
            h.expect(memcmp(one.data(), many.data(), one.size() * 4) == 0, "m %d n %d k %d t %d threads %d", int(s[0]), int(s[1]), int(s[2]), t, threads);
          }
        }
    });
    h.row("NaN and infinity reach exactly their rows and columns", [&] {
      Rng rng = h.rng();
      for (int r = 0; r < 60; r++) {
        const int64_t m = rng.between(1, 40), n = rng.between(1, 70), k = rng.between(1, 60);
        const int64_t row = rng.below(m), at = rng.below(k);
        const bool ta = rng.below(2), tb = rng.below(2);
        std::vector<float> a(size_t(m * k), 1), b(size_t(k * n), 0), c(size_t(m * n));
        a[size_t(ta ? at * m + row : row * k + at)] = r & 1 ? NAN : INFINITY;  // inf * 0 is NaN
        GemmProblem g;
        g.m = m, g.n = n, g.k = k, g.a = a.data(), g.b = b.data(), g.c = c.data(), g.ldc = n;
        g.a_row = ta ? 1 : k, g.a_col = ta ? m : 1, g.b_row = tb ? 1 : n, g.b_col = tb ? k : 1;
        g.activation = kActs[rng.below(9)];
        gemm_f32(g, 1, e);
        for (int64_t i = 0; i < m * n; i++)
          h.expect(isnan(c[size_t(i)]) == (i / n == row), "m %d n %d k %d t %d%d: [%d,%d] %g", int(m), int(n), int(k), ta, tb, int(i / n), int(i % n), c[size_t(i)]);
      }
    });
    for (const Activation& act : kActs)
      h.row(("activation " + std::to_string(act.kind) + (act.kind == kActivationClip ? act.hi > 6 ? " to infinity" : " to bounds" : "")).c_str(),
            [&] { check_activation(h, got, act); });
    for (int threads = 1; threads <= available_threads() && threads <= 2 && h.benching(); threads++) {
      bench_shape(h, e, "f32_1x4096x4096", 1, 4096, 4096, false, threads);
      bench_shape(h, e, "f32_1x4096x4096", 1, 4096, 4096, true, threads);
      bench_shape(h, e, "f32_16x4096x4096", 16, 4096, 4096, false, threads);
      bench_shape(h, e, "f32_16x4096x4096", 16, 4096, 4096, true, threads);
      bench_shape(h, e, "f32_4096x16x4096", 4096, 16, 4096, false, threads);
      bench_shape(h, e, "f32_128x768x768", 128, 768, 768, false, threads);
      bench_shape(h, e, "f32_128x768x768", 128, 768, 768, true, threads);
      bench_shape(h, e, "f32_128x768x768", 128, 768, 768, false, threads, kActivationGelu);
      bench_shape(h, e, "f32_128x3072x768", 128, 3072, 768, false, threads);
      bench_shape(h, e, "f32_512x512x512", 512, 512, 512, false, threads);
      bench_shape(h, e, "f32_1024x1024x1024", 1024, 1024, 1024, false, threads);
      bench_shape(h, e, "f32_2048x2048x2048", 2048, 2048, 2048, false, threads);
      bench_shape(h, e, "f32_3136x64x576", 3136, 64, 576, false, threads);
      bench_shape(h, e, "f32_8x8x8", 8, 8, 8, false, threads);
    }
  });
}
