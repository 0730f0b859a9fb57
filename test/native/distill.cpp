// Distillation kernels: every variant against sums and exponentials in double, with bounds computed from magnitudes.
#include "core/distill.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include <vector>

#include "test/native/harness.h"

using namespace whittle;

namespace {

constexpr double kU = 0x1p-24;

// Sizes around the vector, its double and the block of 1024.
std::vector<int64_t> row_sizes(const Harness& h) {
  std::vector<int64_t> s = sizes_around(16);
  for (int64_t n : {int64_t(31), int64_t(33), int64_t(1023), int64_t(1024), int64_t(1025), int64_t(2500)}) s.push_back(n);
  if (!h.lean()) s.push_back(40000);
  return s;
}

struct Row {
  Guarded<float> x;
  float max = -FLT_MAX;
  double sum = 0;
  Row(Rng& rng, int64_t n, float inv_t, float spread) : x(n, rng.between(0, 15)) {
    for (int64_t i = 0; i < n; i++) {
      x[i] = rng.normal() * spread;
      if (x[i] > max) max = x[i];
    }
    for (int64_t i = 0; i < n; i++) sum += exp((double(x[i]) - max) * inv_t);
  }
  double d(int64_t i, float inv_t) const { return (double(x[i]) - max) * inv_t; }
  double e(int64_t i, float inv_t) const { return exp(d(i, inv_t)); }
};

// Relative error of one exponential: its argument carries two roundings, the polynomial three units.
double exp_error(double x) { return (6 - 3 * x) * kU; }
constexpr double kCut = 0x1.1p-124;  // exp(kDistillExpCut): what flushing to 0 may cost
constexpr double kSum = 70 * kU;     // of a sum of a block's positive terms, relative

const float kTemperatures[] = {1.0f, 0.25f, 2.0f, 1e-3f};
const float kSpreads[] = {3.0f, 0.0f, 30.0f, 1e4f};

bool near(double got, double want, double bound) { return fabs(got - want) <= bound; }

}  // namespace

WHITTLE_CHECK(distill) {
  each_variant(h, distill_variants(), [&](const DistillKernels&, const DistillKernels& k) {
    h.row("soft_sums", [&] {
      Rng rng = h.rng();
      for (int64_t n : row_sizes(h))
        for (float inv_t : kTemperatures)
          for (float spread : kSpreads) {
            Row r(rng, n, inv_t, spread);
            SoftSums got = {-FLT_MAX, 0};
            // in two pieces, as an online sum
            const int64_t cut = n ? rng.between(0, n) : 0;
            const bool ok = k.soft_sums(r.x.data(), cut, inv_t, &got) && k.soft_sums(r.x.data() + cut, n - cut, inv_t, &got);
            double bound = 1e-300;
            for (int64_t i = 0; i < n; i++) bound += r.e(i, inv_t) * (exp_error(r.d(i, inv_t)) + kSum) + kCut;
            h.expect(ok && got.max == r.max && near(got.sum, r.sum, bound), "n %d: %g, want %g", int(n), got.sum, r.sum);
          }
    });
    h.row("pair_sums", [&] {
      Rng rng = h.rng();
      for (int64_t n : row_sizes(h))
        for (float inv_t : kTemperatures)
          for (float spread : kSpreads) {
            Row s(rng, n, inv_t, spread), t(rng, n, inv_t, spread);
            PairSums got = {-FLT_MAX, -FLT_MAX, 0, 0, 0};
            const int64_t cut = n ? rng.between(0, n) : 0;
            const bool ok = k.pair_sums(s.x.data(), t.x.data(), cut, inv_t, &got) &&
                            k.pair_sums(s.x.data() + cut, t.x.data() + cut, n - cut, inv_t, &got);
            double bs = 1e-300, bt = 1e-300, bc = 1e-300, cross = 0;
            for (int64_t i = 0; i < n; i++) {
              const double ds = s.d(i, inv_t), dt = t.d(i, inv_t), e = exp(dt);
              bs += exp(ds) * (exp_error(ds) + kSum) + kCut;
              bt += e * (exp_error(dt) + kSum) + kCut;
              cross += e * (dt - ds);
              // Sums before the last maximum may be larger by the gap between maxima, which the terms hold too.
              bc += e * (fabs(dt) + fabs(ds)) * (exp_error(dt) + kSum + 4 * kU) + kCut * (fabs(dt) + fabs(ds));
            }
            h.expect(ok && got.s_max == s.max && got.t_max == t.max, "n %d: maxima", int(n));
            h.expect(near(got.s_sum, s.sum, bs) && near(got.t_sum, t.sum, bt), "n %d: sums %g %g, want %g %g", int(n),
                     got.s_sum, got.t_sum, s.sum, t.sum);
            h.expect(near(got.cross, cross, 2 * bc), "n %d 1/T %g spread %g: cross %.9g, want %.9g +- %g", int(n), inv_t, spread,
                     got.cross, cross, 2 * bc);
          }
    });
    h.row("finds NaN and infinity at every place", [&] {
      Rng rng = h.rng();
      for (int64_t n : {int64_t(1), int64_t(7), int64_t(40), int64_t(1030)})
        for (int64_t i = 0; i < n; i += n > 100 ? 37 : 1)
          for (float bad : {float(NAN), float(INFINITY), -float(INFINITY)}) {
            Row s(rng, n, 1, 3), t(rng, n, 1, 3);
            SoftSums a = {-FLT_MAX, 0};
            PairSums b = {-FLT_MAX, -FLT_MAX, 0, 0, 0}, c = b;
            std::vector<float> x(s.x.data(), s.x.data() + n);
            x[size_t(i)] = bad;
            h.expect(!k.soft_sums(x.data(), n, 1, &a), "soft_sums n %d i %d", int(n), int(i));
            h.expect(!k.pair_sums(x.data(), t.x.data(), n, 1, &b), "pair_sums student n %d i %d", int(n), int(i));
            h.expect(!k.pair_sums(t.x.data(), x.data(), n, 1, &c), "pair_sums teacher n %d i %d", int(n), int(i));
          }
    });
    h.row("pair_grad, pair_terms", [&] {
      Rng rng = h.rng();
      for (int64_t n : row_sizes(h))
        for (float inv_t : kTemperatures)
          for (float spread : kSpreads) {
            if (n == 0) continue;
            Row s(rng, n, inv_t, spread), t(rng, n, inv_t, spread);
            const float a = float(1 / s.sum), b = float(1 / t.sum), s_log = float(log(s.sum)), t_log = float(log(t.sum));
            Guarded<float> g(n, rng.between(0, 15)), terms(n, rng.between(0, 15));
            k.pair_grad(s.x.data(), t.x.data(), n, inv_t, s.max, t.max, a, b, g.data());
            k.pair_terms(s.x.data(), t.x.data(), n, inv_t, s.max, t.max, s_log, t_log, 4, terms.data());
            for (int64_t i = 0; i < n; i++) {
              const double ds = s.d(i, inv_t), dt = t.d(i, inv_t), q = a * exp(ds), p = b * exp(dt);
              h.expect(near(g[i], q - p, q * (exp_error(ds) + 3 * kU) + p * (exp_error(dt) + 3 * kU) + 2 * kCut),
                       "grad n %d [%d]: %g, want %g", int(n), int(i), g[i], q - p);
              const double lp = dt - t_log, lq = ds - s_log, want = 4 * exp(lp) * (lp - lq);
              const double size = 4 * exp(lp) * (fabs(lp) + fabs(lq) + fabs(dt) + fabs(ds));
              h.expect(near(terms[i], want, size * (exp_error(dt - t_log) + 8 * kU) + 8 * kCut * (1 + fabs(lq) + fabs(lp))),
                       "terms n %d [%d]: %g, want %g", int(n), int(i), terms[i], want);
            }
            h.expect(g.intact() && terms.intact(), "wrote outside, n %d", int(n));
          }
      const int64_t n = 32000;
      Row s(rng, n, 1, 4), t(rng, n, 1, 4);
      std::vector<float> g(static_cast<size_t>(n));
      PairSums p;
      h.bench("pair_sums 32000", 8.0 * n, [&] {
        p = {-FLT_MAX, -FLT_MAX, 0, 0, 0};
        k.pair_sums(s.x.data(), t.x.data(), n, 1, &p);
      });
      h.bench("pair_grad 32000", 12.0 * n, [&] { k.pair_grad(s.x.data(), t.x.data(), n, 1, s.max, t.max, 1, 1, g.data()); });
    });
    h.row("soft_grad, soft_dot, mix", [&] {
      Rng rng = h.rng();
      for (int64_t n : row_sizes(h))
        for (float spread : kSpreads)
          for (int mode = 0; mode < 8; mode++) {
            if (n == 0) continue;
            const bool add = mode & 1;
            const float inv_t = mode & 4 ? 0.25f : 1;
            Row r(rng, n, 1, spread);
            Guarded<float> w(n, 3), g(n, 5), p(n, 7);
            for (int64_t i = 0; i < n; i++) {
              w[i] = rng.uniform(0, 2);
              g[i] = p[i] = rng.normal();
            }
            std::vector<float> before(g.data(), g.data() + n);
            const float* weights = mode & 2 ? w.data() : nullptr;
            const float a = float(0.7 / r.sum);
            k.soft_grad(r.x.data(), n, inv_t, r.max, a, weights, 0.01f, add, g.data());
            k.mix(r.x.data(), n, 0.5f, r.max, a, add, p.data());
            double dot = 0, size = 1e-300;
            for (int64_t i = 0; i < n; i++) {
              const double old = add ? before[size_t(i)] : 0, pull = double(0.01f) * (weights ? w[i] : 1.0f);
              const double e = a * r.e(i, inv_t), want = old + e - pull;
              h.expect(near(g[i], want, e * (exp_error(r.d(i, inv_t)) + 4 * kU) + 3 * kU * (pull + fabs(old)) + kCut),
                       "grad n %d [%d]: %g, want %g", int(n), int(i), g[i], want);
              const double m = a * r.e(i, 0.5f);
              h.expect(near(p[i], old + m, m * (exp_error(r.d(i, 0.5f)) + 3 * kU) + kU * fabs(old) + kCut), "mix n %d [%d]: %g, want %g",
                       int(n), int(i), p[i], old + m);
              dot += (weights ? w[i] : 1.0) * (double(r.x[i]) - r.max);
              size += (weights ? w[i] : 1.0) * (r.max - double(r.x[i]));
            }
            const double got = k.soft_dot(r.x.data(), n, r.max, weights);
            h.expect(near(got, dot, size * 270 * kU), "dot n %d: %g, want %g", int(n), got, dot);
            h.expect(g.intact() && p.intact(), "wrote outside, n %d", int(n));
          }
    });
    h.row("js_sums, js_grad", [&] {
      Rng rng = h.rng();
      for (int64_t n : row_sizes(h))
        for (float inv_t : kTemperatures)
          for (float spread : kSpreads) {
            if (n == 0) continue;
            Row s(rng, n, inv_t, spread), t(rng, n, inv_t, spread);
            const float a = float(1 / s.sum), b = float(1 / t.sum);
            Guarded<float> g(n, 2);
            double q_log, p_log, wq = 0, wp = 0, bq = 1e-300, bp = 1e-300;
            k.js_sums(s.x.data(), t.x.data(), n, inv_t, s.max, t.max, a, b, &q_log, &p_log);
            k.js_grad(s.x.data(), t.x.data(), n, inv_t, s.max, t.max, a, b, 0.25f, 2, g.data());
            for (int64_t i = 0; i < n; i++) {
              const double ds = s.d(i, inv_t), dt = t.d(i, inv_t), q = a * exp(ds), p = b * exp(dt);
              const double lq = q > 0 ? log(2 * q / (p + q)) : 0, lp = p > 0 ? log(2 * p / (p + q)) : 0;
              // The logarithm's argument carries both exponentials' errors.
              const double e = exp_error(ds) * (q > kCut) + exp_error(dt) * (p > kCut) + 12 * kU;
              wq += q * lq;
              wp += p * lp;
              bq += q * (e + fabs(lq) * (e + 270 * kU)) + 100 * kCut;
              bp += p * (e + fabs(lp) * (e + 270 * kU)) + 100 * kCut;
              const double want = q > 0 ? 2 * q * (lq - 0.25) : 0;
              h.expect(near(g[i], want, 2 * q * (e + (fabs(lq) + 0.25) * (e + 4 * kU)) + 300 * kCut), "grad n %d [%d]: %g, want %g", int(n),
                       int(i), g[i], want);
            }
            h.expect(near(q_log, wq, bq) && near(p_log, wp, bp), "n %d 1/T %g spread %g: %g %g, want %g %g", int(n), inv_t, spread, q_log,
                     p_log, wq, wp);
            h.expect(g.intact(), "wrote outside, n %d", int(n));
          }
    });
    h.row("mix_grad", [&] {
      Rng rng = h.rng();
      for (int64_t n : row_sizes(h))
        for (float spread : kSpreads) {
          if (n == 0) continue;
          Row s(rng, n, 0.5f, spread), t(rng, n, 0.5f, spread);
          Guarded<float> p(n, 1), g(n, 2), terms(n, 3);
          for (int64_t i = 0; i < n; i++) p[i] = float(t.e(i, 0.5f) / t.sum);
          if (n > 1) p[n - 1] = 0;
          const float log_sum = float(log(s.sum));
          const double got = k.mix_grad(p.data(), s.x.data(), n, 0.5f, s.max, log_sum, 3, 4, terms.data(), g.data());
          const double again = k.mix_grad(p.data(), s.x.data(), n, 0.5f, s.max, log_sum, 3, 4, nullptr, g.data());
          double want = 0, bound = 1e-300;
          for (int64_t i = 0; i < n; i++) {
            const double lq = s.d(i, 0.5f) - log_sum, lp = p[i] > 0 ? log(double(p[i])) : 0, v = p[i] * (lp - lq);
            const double size = p[i] * (fabs(lp) + fabs(lq) + fabs(double(log_sum)));
            want += v;
            bound += size * 280 * kU + 100 * kCut;
            h.expect(near(terms[i], 4 * v, 4 * size * 12 * kU + 400 * kCut), "terms n %d [%d]: %g, want %g", int(n), int(i), terms[i], 4 * v);
            const double q = exp(lq), grad = 3 * (q - p[i]);
            h.expect(near(g[i], grad, 3 * q * (exp_error(s.d(i, 0.5f)) + (4 + 2 * fabs(double(log_sum))) * kU) + 6 * p[i] * kU + 4 * kCut),
                     "grad n %d [%d]: %g, want %g", int(n), int(i), g[i], grad);
          }
          h.expect(near(got, want, bound) && got == again, "n %d: %g, want %g", int(n), got, want);
          h.expect(g.intact() && terms.intact(), "wrote outside, n %d", int(n));
        }
    });
    h.row("squared_error, also in place", [&] {
      Rng rng = h.rng();
      for (int64_t n : row_sizes(h)) {
        Guarded<float> s(n, 1), t(n, 4), g(n, 9);
        double want = 0;
        for (int64_t i = 0; i < n; i++) {
          s[i] = rng.normal();
          t[i] = rng.normal();
          want += (double(s[i]) - t[i]) * (double(s[i]) - t[i]);
        }
        const double got = k.squared_error(s.data(), t.data(), n, 0.5f, g.data());
        h.expect(near(got, want, want * 270 * kU), "n %d: %g, want %g", int(n), got, want);
        for (int64_t i = 0; i < n; i++) {
          const double d = 0.5 * (double(s[i]) - t[i]);
          h.expect(near(g[i], d, fabs(d) * 2 * kU), "n %d [%d]: %g, want %g", int(n), int(i), g[i], d);
        }
        h.expect(k.squared_error(s.data(), t.data(), n, 0.5f, s.data()) == got, "in place n %d", int(n));
        for (int64_t i = 0; i < n; i++) h.expect(s[i] == g[i], "in place n %d [%d]", int(n), int(i));
        h.expect(g.intact() && s.intact(), "wrote outside, n %d", int(n));
      }
      const int64_t n = 8192;
      std::vector<float> a(n, 1), b(n, 2), c(n);
      h.bench("squared_error 8192", 12.0 * n, [&] { k.squared_error(a.data(), b.data(), n, 1, c.data()); });
    });
    h.row("attention_map, attention_grad", [&] {
      Rng rng = h.rng();
      for (int64_t n : sizes_around(16))
        for (int32_t power : {1, 2, 3, 8})
          for (int64_t channels : {int64_t(1), int64_t(5)}) {
            Guarded<float> a(channels * n, 3), q(n, 2), dq(n, 1), g(channels * n, 5);
            for (int64_t i = 0; i < channels * n; i++) a[i] = rng.below(9) ? rng.normal() : 0;
            for (int64_t i = 0; i < n; i++) dq[i] = rng.normal();
            k.attention_map(a.data(), channels, n, power, q.data());
            k.attention_grad(a.data(), channels, n, power, dq.data(), g.data());
            const double kTiny = 0x1p-145;  // powers of small numbers end below the normal ones
            for (int64_t i = 0; i < n; i++) {
              double want = 0;
              for (int64_t c = 0; c < channels; c++) {
                const double x = a[c * n + i], d = x == 0 ? 0 : power * pow(fabs(x), power - 1) * (x > 0 ? 1 : -1) * dq[i];
                want += pow(fabs(x), power);
                h.expect(near(g[c * n + i], d, fabs(d) * 12 * kU + kTiny), "grad p %d: %g, want %g", int(power), g[c * n + i], d);
              }
              h.expect(near(q[i], want, want * 16 * kU + kTiny), "map p %d n %d [%d]: %g, want %g", int(power), int(n), int(i), q[i], want);
            }
            h.expect(q.intact() && g.intact(), "wrote outside, n %d", int(n));
          }
    });
    h.row("matmul64", [&] {
      Rng rng = h.rng();
      for (int round = 0; round < (h.lean() ? 30 : 120); round++) {
        const int64_t m = rng.between(1, 20), n = rng.between(1, 60), d = rng.between(0, 3) ? rng.between(0, 40) : rng.between(100, 300);
        const bool add = rng.below(2), turned = rng.below(2);
        Guarded<double> a(m * d, 1), b(d * n, 3), c(m * n, 1);
        for (int64_t i = 0; i < m * d; i++) a[i] = rng.normal();
        for (int64_t i = 0; i < d * n; i++) b[i] = rng.normal();
        for (int64_t i = 0; i < m * n; i++) c[i] = rng.normal();
        std::vector<double> before(c.data(), c.data() + m * n);
        k.matmul64(m, n, d, a.data(), d, b.data(), turned ? 1 : n, turned ? d : 1, c.data(), n, add);
        for (int64_t i = 0; i < m; i++)
          for (int64_t j = 0; j < n; j++) {
            double want = add ? before[size_t(i * n + j)] : 0, size = fabs(want);
            for (int64_t l = 0; l < d; l++) {
              const double v = a[i * d + l] * b[turned ? j * d + l : l * n + j];
              want += v;
              size += fabs(v);
            }
            h.expect(near(c[i * n + j], want, size * double(2 * d + 8) * 0x1p-53), "%dx%dx%d [%d][%d]: %g, want %g", int(m), int(n), int(d),
                     int(i), int(j), c[i * n + j], want);
          }
        h.expect(c.intact(), "wrote outside");
      }
    });
    h.row("matmul64 gives equal rows equal sums", [&] {
      Rng rng = h.rng();
      const int64_t n = 53, d = 300;
      std::vector<double> x(static_cast<size_t>(n * d)), g(static_cast<size_t>(n * n));
      for (int64_t l = 0; l < d; l++) {
        const double v = rng.normal();
        for (int64_t i = 0; i < n; i++) x[size_t(i * d + l)] = v;
      }
      k.matmul64(n, n, d, x.data(), d, x.data(), 1, d, g.data(), n, false);
      for (double v : g) h.expect(v == g[0], "%.17g and %.17g", v, g[0]);
    });
    h.row("rows of distances, similarities", [&] {
      Rng rng = h.rng();
      for (int64_t n : sizes_around(8))
        for (double delta : {1.0, 0.2}) {
          Guarded<double> g(n, 1), d(n, 3), t(n, 5);
          Guarded<float> m(n, 3), a(n, 1), b(n, 2), out(n, 5);
          std::vector<double> gram(static_cast<size_t>(n));
          const double own = 2.5;
          for (int64_t i = 0; i < n; i++) {
            d[i] = rng.below(5) ? rng.uniform(0.1f, 4) : own;
            gram[size_t(i)] = g[i] = rng.below(5) && d[i] != own ? rng.uniform(-1, 1) * 0.05f : (own + d[i]) / 2 * (1 + 0x1p-51);
            t[i] = rng.uniform(0, 3);
            a[i] = rng.normal();
            b[i] = rng.normal();
          }
          double sums[2], total = 0, count = 0;
          k.distance_row(g.data(), d.data(), own, n, sums);
          for (int64_t i = 0; i < n; i++) {
            const double square = own + d[i] - 2 * gram[size_t(i)], want = square > (own + d[i]) * 0x1p-48 ? sqrt(square) : 0;
            h.expect(near(g[i], want, want * 0x1p-52), "distance n %d [%d]: %.17g, want %.17g", int(n), int(i), g[i], want);
            total += want;
            count += want > 0;
          }
          h.expect(near(sums[0], total, total * 1e-14) && sums[1] == count, "distances n %d: %g %g, want %g %g", int(n), sums[0], sums[1],
                   total, count);
          double loss = 0, by = 0, pull = 0, square = 0, along = 0, own_square = 0;
          const double fs = 0.8, ft = 0.6, shift = 0.05, bound = 1e-13 * double(n + 1) * 10;
          k.huber_row(g.data(), t.data(), n, fs, ft, delta, sums);
          const double pulled = k.distance_pull(g.data(), t.data(), n, fs, ft, delta, shift, 1.5, m.data());
          for (int64_t i = 0; i < n; i++) {
            const double e = g[i] * fs - t[i] * ft, c = e > delta ? delta : e < -delta ? -delta : e;
            loss += fabs(e) <= delta ? e * e / 2 : delta * (fabs(e) - delta / 2);
            by += c * g[i] * fs;
            const double w = g[i] > 0 ? 1.5 * (c - shift) / g[i] : 0;
            pull += w;
            h.expect(near(m[i], -w, fabs(w) * kU), "pull n %d [%d]: %g, want %g", int(n), int(i), m[i], -w);
          }
          h.expect(near(sums[0], loss, bound) && near(sums[1], by, bound) && near(pulled, pull, bound), "huber n %d: %g %g %g, want %g %g %g",
                   int(n), sums[0], sums[1], pulled, loss, by, pull);
          k.gap_row(a.data(), b.data(), n, fs, ft, sums);
          const double got = k.square_sum(a.data(), n);
          k.blend_row(a.data(), b.data(), n, fs, -ft, out.data());
          for (int64_t i = 0; i < n; i++) {
            const double e = a[i] * fs - b[i] * ft;
            square += e * e;
            along += e * a[i] * fs;
            own_square += double(a[i]) * a[i];
            h.expect(near(out[i], e, fabs(e) * kU + 1e-15), "blend n %d [%d]: %g, want %g", int(n), int(i), out[i], e);
          }
          h.expect(near(sums[0], square, bound) && near(sums[1], along, bound) && near(got, own_square, bound), "gap n %d: %g %g %g", int(n),
                   sums[0], sums[1], got);
          const double factors[3] = {0.8, 0.4, 0.8 / 3};
          for (int32_t order = 1; order <= 3; order++) {
            double want = 0;
            std::vector<double> slopes(static_cast<size_t>(n)), gaps(slopes);
            for (int64_t i = 0; i < n; i++) {
              const auto series = [&](double x) { return 0.45 * (1 + 0.8 * x + (order > 1 ? 0.32 * x * x : 0) + (order > 2 ? 0.256 / 3 * x * x * x : 0)); };
              const double x = a[i];
              slopes[size_t(i)] = 0.45 * (0.8 + (order > 1 ? 0.64 * x : 0) + (order > 2 ? 0.256 * x * x : 0));
              gaps[size_t(i)] = series(x) - series(b[i]);
              want += gaps[size_t(i)] * gaps[size_t(i)];
              out[i] = a[i];
            }
            const double sum = k.series_row(out.data(), b.data(), n, factors, order, 0.45, 1.5);
            h.expect(near(sum, want, bound * (1 + want)), "series n %d: %g, want %g", int(n), sum, want);
            for (int64_t i = 0; i < n; i++) {
              const double d = 1.5 * gaps[size_t(i)] * slopes[size_t(i)];
              h.expect(near(out[i], d, fabs(d) * kU + 1e-14 * (1 + fabs(d))), "series n %d [%d]: %g, want %g", int(n), int(i), out[i], d);
            }
          }
          k.blend_row(a.data(), b.data(), n, fs, -ft, out.data());
          k.blend_row(a.data(), b.data(), n, fs, -ft, b.data());
          for (int64_t i = 0; i < n; i++) h.expect(b[i] == out[i], "blend in place n %d [%d]", int(n), int(i));
          h.expect(g.intact() && m.intact() && out.intact() && b.intact(), "wrote outside, n %d", int(n));
        }
      const int64_t n = 256;
      std::vector<double> x(n, 0.5), diagonal(n, 1);
      std::vector<float> m(n);
      double sums[2];
      h.bench("distance_row 256", 16.0 * n, [&] {
        for (double& v : x) v = 0.25;
        k.distance_row(x.data(), diagonal.data(), 1, n, sums);
      });
      h.bench("distance_pull 256", 20.0 * n, [&] { k.distance_pull(x.data(), diagonal.data(), n, 1, 1, 1, 0, 1, m.data()); });
    });
    h.row("widen", [&] {
      Rng rng = h.rng();
      for (int64_t n : sizes_around(16)) {
        Guarded<uint16_t> x(n, rng.between(0, 7));
        Guarded<float> y(n, rng.between(0, 15));
        for (int64_t i = 0; i < n; i++) x[i] = static_cast<uint16_t>(rng.below(65536));
        k.widen(x.data(), n, y.data());
        for (int64_t i = 0; i < n; i++) {
          uint32_t bits;
          memcpy(&bits, y.data() + i, sizeof bits);
          h.expect(bits == uint32_t(x[i]) << 16, "n %d [%d]: %x for %x", int(n), int(i), bits, x[i]);
        }
        h.expect(y.intact(), "wrote outside, n %d", int(n));
      }
    });
    h.row("angle_row", [&] {
      Rng rng = h.rng();
      for (int64_t n : sizes_around(8))
        for (double delta : {1.0, 0.2}) {
          std::vector<std::vector<double>> in;
          for (int j = 0; j < 6; j++) {
            in.emplace_back(static_cast<size_t>(n));
            for (double& v : in.back()) v = rng.normal();
          }
          const AngleRow r = {in[0].data(), in[1].data(), in[2].data(), in[3].data(), in[4].data(), in[5].data(),
                              0.3, -0.7, 0.8, 1.1, delta};
          Guarded<double> p(n, 1);
          for (int64_t i = 0; i < n; i++) p[i] = rng.normal();
          std::vector<double> before(p.data(), p.data() + n);
          AngleSums got;
          k.angle_row(&r, n, p.data(), &got);
          double loss = 0, cosine = 0, pull = 0;
          for (int64_t i = 0; i < n; i++) {
            const double s = (r.gs_j[i] - r.gs_i[i] - r.qs) * r.rs_i[i] * r.rs_ij, t = (r.gt_j[i] - r.gt_i[i] - r.qt) * r.rt_i[i] * r.rt_ij;
            const double d = s - t, a = fabs(d) <= delta ? d : d > 0 ? delta : -delta;
            loss += fabs(d) <= delta ? d * d / 2 : delta * (fabs(d) - delta / 2);
            cosine += a * s;
            pull += a * r.rs_i[i];
            h.expect(near(p[i], before[size_t(i)] + a * r.rs_i[i] * r.rs_ij, 1e-13), "n %d p[%d]", int(n), int(i));
          }
          const double bound = 1e-12 * double(n + 1);
          h.expect(near(got.loss, loss, bound) && near(got.cosine, cosine, bound) && near(got.pull, pull, bound),
                   "n %d: %g %g %g, want %g %g %g", int(n), got.loss, got.cosine, got.pull, loss, cosine, pull);
          h.expect(p.intact(), "wrote outside, n %d", int(n));
        }
      const int64_t n = 256;
      std::vector<double> x(n, 0.5), p(n, 0);
      const AngleRow r = {x.data(), x.data(), x.data(), x.data(), x.data(), x.data(), 0.1, 0.2, 0.3, 0.4, 1};
      AngleSums sums;
      h.bench("angle_row 256", 0, [&] { k.angle_row(&r, n, p.data(), &sums); }, 17.0 * n);
    });
  });
}
