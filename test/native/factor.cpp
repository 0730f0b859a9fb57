// Factor kernels: every variant against scalar and against sums in double, with bounds from magnitudes; the rank of a
// noisy spectrum; each driver on problems with a known answer.
#include "core/factor.h"

#include <float.h>
#include <math.h>

#include <vector>

#include "test/native/harness.h"

using namespace whittle;

namespace {

constexpr double kU = 0x1p-24;

void check_hals(Harness& h, Rng& rng, const FactorKernels& k, int64_t rank, int64_t cols) {
  const int64_t row = cols + rng.between(0, 5);
  Guarded<float> g(rank * rank, rng.between(0, 15)), b(rank * row, rng.between(0, 15)), x(rank * row, rng.between(0, 15));
  for (int64_t i = 0; i < rank; i++)
    for (int64_t j = 0; j <= i; j++) g[i * rank + j] = g[j * rank + i] = i == j ? float(rank) * rng.uniform(1, 2) : rng.uniform(0, 1);
  if (rank > 2) g[rank + 1] = 0;  // a row that stays
  for (int64_t i = 0; i < rank * row; i++) {
    b[i] = rng.uniform(-1, 2) * float(rank);
    x[i] = rng.uniform(0, 1);
  }
  // In double, with a running bound on the error of every element.
  std::vector<double> want(x.data(), x.data() + rank * row), bound(want.size(), 0);
  for (int64_t j = 0; j < rank; j++) {
    const double own = g[j * rank + j];
    if (!(own > 0)) continue;
    for (int64_t c = 0; c < cols; c++) {
      double rest = b[j * row + c], size = fabs(rest), spread = 0;
      for (int64_t i = 0; i < rank; i++) {
        const double t = double(g[j * rank + i]) * want[size_t(i * row + c)];
        rest -= t;
        size += fabs(t);
        spread += double(g[j * rank + i]) * bound[size_t(i * row + c)];
      }
      double& at = want[size_t(j * row + c)];
      const double next = at + rest / own;
      bound[size_t(j * row + c)] += (spread + (double(rank) + 6) * 2 * kU * size) / own + 4 * kU * fabs(next);
      at = next > 0 ? next : 0;
    }
  }
  k.hals(rank, cols, g.data(), b.data(), row, x.data(), row);
  for (int64_t j = 0; j < rank; j++)
    for (int64_t c = 0; c < cols; c++) {
      const int64_t at = j * row + c;
      h.expect(fabs(x[at] - want[size_t(at)]) <= bound[size_t(at)], "rank %d cols %d [%d,%d]: %g, want %g +- %g", int(rank), int(cols), int(j),
               int(c), x[at], want[size_t(at)], bound[size_t(at)]);
    }
  h.expect(x.intact(), "wrote outside, rank %d cols %d", int(rank), int(cols));
}

}  // namespace

WHITTLE_CHECK(factor) {
  each_variant(h, factor_variants(), [&](const FactorKernels&, const FactorKernels& k) {
    h.row("hals", [&] {
      Rng rng = h.rng();
      for (int64_t rank : {1, 2, 3, 4, 5, 8, 13})
        for (int64_t cols : {1, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 50, 100}) check_hals(h, rng, k, rank, cols);
      if (!h.lean()) check_hals(h, rng, k, 70, 130);
    });
    h.row("ratio", [&] {
      Rng rng = h.rng();
      for (int64_t n : sizes_around(16)) {
        Guarded<float> a(n, 1), d(n, 3), x(n, 5);
        for (int64_t i = 0; i < n; i++) {
          a[i] = rng.uniform(0, 2);
          d[i] = rng.below(4) ? rng.uniform(0.1f, 2) : rng.below(2) ? 0.0f : 1e-40f;
          x[i] = rng.uniform(0, 3);
        }
        const std::vector<float> before(x.data(), x.data() + n);
        k.ratio(n, a.data(), d.data(), x.data());
        for (int64_t i = 0; i < n; i++) {
          const float want = d[i] >= FLT_MIN ? before[size_t(i)] * (a[i] / d[i]) : 0;
          h.expect(x[i] == want, "n %d [%d]: %g, want %g", int(n), int(i), x[i], want);
        }
        h.expect(x.intact(), "wrote outside, n %d", int(n));
      }
    });
    h.row("squares", [&] {
      Rng rng = h.rng();
      std::vector<int64_t> sizes = sizes_around(16);
      for (int64_t n : {int64_t(511), int64_t(512), int64_t(513), int64_t(5000)}) sizes.push_back(n);
      for (int64_t n : sizes) {
        Guarded<float> x(n, rng.between(0, 15));
        double want = 0;
        for (int64_t i = 0; i < n; i++) {
          x[i] = rng.normal();
          want += double(x[i]) * x[i];
        }
        const double got = k.squares(n, x.data());
        h.expect(fabs(got - want) <= want * 140 * kU, "n %d: %g, want %g", int(n), got, want);
      }
    });
    h.row("mul64, fma64", [&] {
      Rng rng = h.rng();
      for (int64_t n : sizes_around(8)) {
        Guarded<double> a(n, 1), b(n, 2), c(n, 3), d(n, 1);
        for (int64_t i = 0; i < n; i++) {
          a[i] = rng.normal();
          b[i] = rng.normal();
          d[i] = rng.normal();
        }
        const std::vector<double> before(d.data(), d.data() + n);
        k.mul64(n, a.data(), b.data(), c.data());
        k.fma64(n, a.data(), b.data(), d.data());
        for (int64_t i = 0; i < n; i++)
          h.expect(c[i] == a[i] * b[i] && d[i] == fma(a[i], b[i], before[size_t(i)]), "n %d [%d]", int(n), int(i));
        h.expect(c.intact() && d.intact(), "wrote outside, n %d", int(n));
      }
    });
    if (h.benching()) {
      Rng rng = h.rng();
      const int64_t rank = 64, cols = 512;
      std::vector<float> g(size_t(rank * rank)), b(size_t(rank * cols)), x(b.size());
      for (float& v : g) v = rng.uniform(0, 1);
      for (int64_t i = 0; i < rank; i++) g[size_t(i * rank + i)] += 64;
      for (float& v : b) v = rng.uniform(0, 64);
      for (float& v : x) v = rng.uniform(0, 1);
      h.bench("hals 64x512", 0, [&] { k.hals(rank, cols, g.data(), b.data(), cols, x.data(), cols); }, 2.0 * rank * rank * cols);
      h.bench("ratio 32768", 16.0 * 32768, [&] { k.ratio(rank * cols, b.data(), b.data(), x.data()); });
      h.bench("squares 32768", 4.0 * 32768, [&] { k.squares(rank * cols, b.data()); });
    }
  });

  if (!h.wants("factor", Tier::scalar)) return;
  h.begin_variant("factor", Tier::scalar);
  h.row("factor_vbmf finds planted components, and none in noise", [&] {
    // A spectrum like that of noise (Marchenko-Pastur edge at sqrt(m) + sqrt(l)) with `planted` values far above it.
    const int64_t l = 60, m = 100;
    for (int planted : {0, 1, 5, 20}) {
      std::vector<double> s;
      for (int i = 0; i < planted; i++) s.push_back(60.0 + 5 * (planted - i));
      const double low = sqrt(double(m)) - sqrt(double(l)), high = sqrt(double(m)) + sqrt(double(l));
      for (int64_t i = planted; i < l; i++) s.push_back(high - (high - low) * double(i - planted) / double(l - planted));
      for (double& v : s) v *= v;
      double noise = 0;
      const int64_t got = factor_vbmf(s.data(), l, l, m, &noise);
      h.expect(got == planted, "rank %d, want %d", int(got), planted);
      h.expect(noise > 0.5 && noise < 2, "noise %g, want about 1", noise);
    }
    double noise = 0;
    const double zeros[3] = {0, 0, 0}, exact[4] = {4, 1, 0, 0};
    h.expect(factor_vbmf(zeros, 3, 3, 9, &noise) == 0, "zeros");
    h.expect(factor_vbmf(exact, 4, 40, 4, &noise) == 2, "exact rank 2");
    h.expect(factor_energy(exact, 4, 0.8) == 1 && factor_energy(exact, 4, 0.81) == 2 && factor_energy(exact, 4, 1) == 2, "energy");
    h.expect(factor_energy(zeros, 3, 0.5) == 1, "energy of zeros");
  });
  h.row("factor_nmf, factor_cp, factor_tucker, factor_separable recover what was planted", [&] {
    Rng rng = h.rng();
    const int64_t a = 7, b = 5, c = 3, d = 4, rank = 2;
    std::vector<float> f(size_t((a + b + c + d) * rank)), x(size_t(a * b * c * d));
    // Components far from parallel: between near ones alternating steps creep, whatever the code.
    for (size_t i = 0; i < f.size(); i++) f[i] = rng.uniform(0.5f, 1) * (i / 2 % 2 == i % 2 ? 1.0f : 0.2f);
    for (int64_t i = 0; i < a * b * c * d; i++) {
      const int64_t at[4] = {i / (b * c * d), a + i / (c * d) % b, a + b + i / d % c, a + b + c + i % d};
      for (int64_t r = 0; r < rank; r++) {
        float t = 1;
        for (int64_t j : at) t *= f[size_t(j * rank + r)];
        x[size_t(i)] += t;
      }
    }
    double result[6];
    std::vector<float> w(size_t(a * rank)), hh(size_t(b * c * d * rank));
    for (bool hals : {false, true}) {
      Nmf p = {a, b * c * d, rank, x.data(), hals, false, 3, 3000, 0, 0, w.data(), hh.data(), result};
      const WhittleStatus nmf = factor_nmf(p);
      h.expect(nmf == WHITTLE_OK && sqrt(result[0] / result[3]) < (hals ? 1e-4 : 2e-2), "nmf %d: %g", hals, sqrt(result[0] / result[3]));
    }
    std::vector<float> u[4];
    const int64_t dims[4] = {a, b, c, d};
    Cp p = {};
    p.order = 4;
    p.rank = rank;
    p.x = x.data();
    p.leading = true;
    p.iterations = 500;
    p.tolerance = 1e-9;
    p.regularization = 1e-9;
    std::vector<float> weights(rank), core(x.size());
    p.weights = weights.data();
    p.result = result;
    for (int k = 0; k < 4; k++) {
      u[k].resize(size_t(dims[k] * rank));
      p.dims[k] = dims[k];
      p.factors[k] = u[k].data();
    }
    const WhittleStatus cp = factor_cp(p);
    h.expect(cp == WHITTLE_OK && sqrt(result[0] / result[3]) < 1e-5, "cp: %g", sqrt(result[0] / result[3]));
    Tucker t = {};
    int64_t ranks[4] = {2, 2, 2, 2};
    t.order = t.modes = 4;
    t.x = x.data();
    t.hooi = true;
    t.iterations = 20;
    t.ranks = ranks;
    t.core = core.data();
    t.result = result;
    for (int k = 0; k < 4; k++) {
      t.dims[k] = dims[k];
      t.mode[k] = k;
      t.factors[k] = u[k].data();
    }
    h.expect(factor_tucker(t) == WHITTLE_OK && sqrt(result[0] / result[3]) < 1e-6, "tucker: %g", sqrt(result[0] / result[3]));
    int64_t one = 2;
    std::vector<float> v(size_t(2 * b * c)), z(size_t(2 * a * d));
    Separable s = {a, b, c, d, x.data(), false, kRanksGiven, 1, 0, &one, v.data(), z.data(), result};
    h.expect(factor_separable(s) == WHITTLE_OK && sqrt(result[0] / result[1]) < 1e-6, "separable: %g", sqrt(result[0] / result[1]));
    x[3] = NAN;
    h.expect(factor_cp(p) == WHITTLE_NONFINITE && factor_tucker(t) == WHITTLE_NONFINITE && factor_separable(s) == WHITTLE_NONFINITE, "NaN");
  });
}
