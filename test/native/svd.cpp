// Dense float64 kernels against plain loops in long double, and what is built on them against its definition.
#include "core/svd.h"

#include <math.h>

#include <algorithm>
#include <vector>

#include "core/svd_dense.h"
#include "test/native/harness.h"

using namespace whittle;

namespace {

constexpr double kU = 0x1p-53;
double gamma_of(int64_t n) { return static_cast<double>(n + 4) * kU * 1.01; }

void fill(Rng& rng, Guarded<double>& x) {
  for (int64_t i = 0; i < x.size(); i++) x[i] = rng.normal() * (rng.below(8) ? 1 : 1e6);
}

}  // namespace

WHITTLE_CHECK(svd) {
  each_variant(h, svd_variants(), [&](const SvdKernels&, const SvdKernels& k) {
    h.row("tile", [&] {
      Rng rng = h.rng();
      h.expect(k.mr <= kSvdMaxRows && k.nr <= kSvdMaxCols, "tile %d x %d", k.mr, k.nr);
      for (int64_t rows = 1; rows <= k.mr; rows++)
        for (int64_t cols = 1; cols <= k.nr; cols++)
          for (int64_t depth : {int64_t(0), int64_t(1), int64_t(7), kSvdMaxK})
            for (int mode = 0; mode < 3; mode++) {
              const bool add = mode > 0;
              const double alpha = mode == 1 ? -1 : mode == 2 ? 0.3 : 1;
              const int64_t ldc = cols + 3;
              Guarded<double> a(depth * k.mr), b(depth * k.nr), c(rows * ldc, rng.between(0, 7));
              fill(rng, a);
              fill(rng, b);
              fill(rng, c);
              std::vector<double> before(c.data(), c.data() + c.size());
              k.tile(depth, a.data(), b.data(), alpha, add, rows, cols, c.data(), ldc);
              for (int64_t i = 0; i < rows; i++)
                for (int64_t j = 0; j < ldc; j++) {
                  const double old = before[size_t(i * ldc + j)], got = c[i * ldc + j];
                  if (j >= cols) {
                    h.expect(got == old, "%dx%d wrote column %d", int(rows), int(cols), int(j));
                    continue;
                  }
                  long double want = add ? old : 0, size = fabsl(want);
                  for (int64_t p = 0; p < depth; p++) {
                    const long double t = static_cast<long double>(alpha) * a[p * k.mr + i] * b[p * k.nr + j];
                    want += t;
                    size += fabsl(t);
                  }
                  h.expect(fabsl(got - want) <= gamma_of(depth) * size, "%dx%dx%d mode %d [%d, %d]: %g, want %g", int(rows), int(cols),
                           int(depth), mode, int(i), int(j), got, double(want));
                }
              h.expect(c.intact(), "wrote outside, %dx%d", int(rows), int(cols));
            }
      const int64_t depth = kSvdMaxK;
      Guarded<double> a(depth * k.mr), b(depth * k.nr), c(k.mr * k.nr);
      fill(rng, a);
      fill(rng, b);
      fill(rng, c);
      h.bench("tile, k 192", 0, [&] { k.tile(depth, a.data(), b.data(), 1, true, k.mr, k.nr, c.data(), k.nr); },
              2.0 * double(depth) * k.mr * k.nr);
    });
    h.row("gemv, gemv_t, dot, axpy", [&] {
      Rng rng = h.rng();
      for (int64_t rows : {int64_t(0), int64_t(1), int64_t(5), int64_t(8), int64_t(19)})
        for (int64_t cols : sizes_around(32)) {
          const int64_t lda = cols + rng.between(0, 3);
          Guarded<double> a(rows * lda, 1), x(cols, 2), y(rows, 3), u(rows, 4), v(cols, 5);
          for (Guarded<double>* g : {&a, &x, &y, &u, &v}) fill(rng, *g);
          std::vector<double> y0(y.data(), y.data() + rows), v0(v.data(), v.data() + cols);
          k.gemv(rows, cols, a.data(), lda, x.data(), -0.5, y.data());
          k.gemv_t(rows, cols, a.data(), lda, u.data(), -0.5, v.data());
          for (int64_t i = 0; i < rows; i++) {
            long double want = y0[size_t(i)], size = fabsl(want);
            for (int64_t j = 0; j < cols; j++) {
              want -= 0.5L * a[i * lda + j] * x[j];
              size += fabsl(0.5L * a[i * lda + j] * x[j]);
            }
            h.expect(fabsl(y[i] - want) <= gamma_of(cols) * size, "gemv %dx%d [%d]: %g, want %g", int(rows), int(cols), int(i), y[i], double(want));
          }
          for (int64_t j = 0; j < cols; j++) {
            long double want = v0[size_t(j)], size = fabsl(want);
            for (int64_t i = 0; i < rows; i++) {
              want -= 0.5L * a[i * lda + j] * u[i];
              size += fabsl(0.5L * a[i * lda + j] * u[i]);
            }
            h.expect(fabsl(v[j] - want) <= gamma_of(rows) * size, "gemv_t %dx%d [%d]: %g, want %g", int(rows), int(cols), int(j), v[j], double(want));
          }
          h.expect(y.intact() && v.intact(), "wrote outside, %dx%d", int(rows), int(cols));
          Guarded<double> w(cols, 6);
          fill(rng, w);
          std::vector<double> w0(w.data(), w.data() + cols);
          long double want = 0, size = 0;
          for (int64_t j = 0; j < cols; j++) {
            want += static_cast<long double>(x[j]) * w[j];
            size += fabsl(static_cast<long double>(x[j]) * w[j]);
          }
          const double got = k.dot(cols, x.data(), w.data());
          h.expect(fabsl(got - want) <= gamma_of(cols) * size, "dot %d: %g, want %g", int(cols), got, double(want));
          Guarded<float> g(cols, 1);
          double squares = 0;
          for (int64_t j = 0; j < cols; j++) squares += double(g[j] = rng.normal() * 1e20f) * double(g[j]);
          h.expect(fabs(k.squares(cols, g.data()) - squares) <= gamma_of(cols) * 2 * squares, "squares %d", int(cols));
          for (int64_t j = 0; j < cols; j += 3)
            for (float bad : {float(NAN), float(INFINITY), -float(INFINITY)}) {
              const float good = g[j];
              g[j] = bad;
              h.expect(!(k.squares(cols, g.data()) < INFINITY), "squares %d: %g at %d passed", int(cols), bad, int(j));
              g[j] = good;
            }
          k.axpy(cols, 0.7, x.data(), w.data());
          for (int64_t j = 0; j < cols; j++) {
            const double t = 0.7 * x[j];
            h.expect(fabs(w[j] - (w0[size_t(j)] + t)) <= 3 * kU * (fabs(t) + fabs(w0[size_t(j)])), "axpy %d [%d]", int(cols), int(j));
          }
          h.expect(w.intact(), "axpy wrote outside");
        }
    });
    h.row("symv", [&] {
      Rng rng = h.rng();
      for (int64_t n : sizes_around(24))
        for (int64_t begin : {int64_t(0), n / 2}) {
          const int64_t lda = n + 3;
          Guarded<double> a(n * lda, 1), x(n, 2), y(n, 3);
          fill(rng, a);
          fill(rng, x);
          fill(rng, y);
          std::vector<double> y0(y.data(), y.data() + n);
          std::vector<long double> want(size_t(n), 0), size(size_t(n), 0);
          for (int64_t i = 0; i < n; i++) size[size_t(i)] = fabsl(want[size_t(i)] = y0[size_t(i)]);
          for (int64_t i = begin; i < n; i++)
            for (int64_t j = 0; j <= i; j++) {
              const long double e = a[i * lda + j];
              want[size_t(i)] += e * x[j];
              size[size_t(i)] += fabsl(e * x[j]);
              if (j == i) continue;
              want[size_t(j)] += e * x[i];
              size[size_t(j)] += fabsl(e * x[i]);
            }
          k.symv(begin, n, a.data(), lda, x.data(), y.data());
          for (int64_t i = 0; i < n; i++)
            h.expect(fabsl(y[i] - want[size_t(i)]) <= gamma_of(n) * size[size_t(i)], "n %d from %d [%d]: %g, want %g", int(n), int(begin),
                     int(i), y[i], double(want[size_t(i)]));
          h.expect(y.intact(), "wrote outside, n %d", int(n));
        }
      const int64_t n = 768;
      Guarded<double> a(n * (n + 8)), x(n), y(n);
      fill(rng, a);
      fill(rng, x);
      fill(rng, y);
      h.bench("symv 768", 4.0 * n * n, [&] { k.symv(0, n, a.data(), n + 8, x.data(), y.data()); }, 2.0 * n * n);
    });
    h.row("rotate, poles", [&] {
      Rng rng = h.rng();
      for (int64_t n : sizes_around(16)) {
        Guarded<double> x(n, 1), y(n, 2), gap(n, 3), z2(n, 4);
        for (Guarded<double>* g : {&x, &y}) fill(rng, *g);
        std::vector<double> x0(x.data(), x.data() + n), y0(y.data(), y.data() + n);
        k.rotate(n, 0.6, 0.8, x.data(), y.data());
        long double f = 0, d = 0;
        for (int64_t i = 0; i < n; i++) {
          const double a = x0[size_t(i)], b = y0[size_t(i)], size = fabs(a) + fabs(b);
          h.expect(fabs(x[i] - (0.6 * a + 0.8 * b)) <= 4 * kU * size && fabs(y[i] - (0.6 * b - 0.8 * a)) <= 4 * kU * size,
                   "rotate %d [%d]", int(n), int(i));
          gap[i] = double(i) + 0.5;
          z2[i] = rng.uniform(0, 1);
          const long double r = 1 / (static_cast<long double>(gap[i]) - 0.25L);
          f += z2[i] * r;
          d += z2[i] * r * r;
        }
        double sums[2];
        k.poles(n, gap.data(), z2.data(), 0.25, sums);
        h.expect(fabsl(sums[0] - f) <= 2 * gamma_of(n) * f && fabsl(sums[1] - d) <= 3 * gamma_of(n) * d, "poles %d: %g %g, want %g %g",
                 int(n), sums[0], sums[1], double(f), double(d));
        h.expect(x.intact() && y.intact(), "wrote outside, n %d", int(n));
      }
    });
    h.row("panel, panel_t", [&] {
      Rng rng = h.rng();
      const double u = 0x1p-24;
      for (int64_t rows : {int64_t(0), int64_t(1), int64_t(3), int64_t(7), int64_t(8), int64_t(17), int64_t(30)})
        for (int64_t cols : {int64_t(0), int64_t(1), int64_t(5), int64_t(16), int64_t(23), int64_t(261)}) {
          const int64_t lda = cols + rng.between(0, 3);
          Guarded<float> a(rows * lda, 1), x(cols * kSvdPanel, 2), y(rows * kSvdPanel, 3);
          for (Guarded<float>* g : {&a, &x, &y})
            for (int64_t i = 0; i < g->size(); i++) (*g)[i] = rng.normal() * (rng.below(8) ? 1.0f : 1e4f);
          const auto check = [&](const char* what, Guarded<float>& out, const std::vector<float>& old, bool add, int64_t depth, bool transposed) {
            for (int64_t i = 0; i < out.size() / kSvdPanel; i++)
              for (int64_t c = 0; c < kSvdPanel; c++) {
                double want = add ? double(old[size_t(i * kSvdPanel + c)]) : 0, size = fabs(want);
                for (int64_t q = 0; q < depth; q++) {
                  const double t = transposed ? double(a[q * lda + i]) * y[q * kSvdPanel + c] : double(a[i * lda + q]) * x[q * kSvdPanel + c];
                  want += t;
                  size += fabs(t);
                }
                const double got = out[i * kSvdPanel + c];
                h.expect(fabs(got - want) <= double(depth + 2) * u * size, "%s %dx%d [%d, %d]: %g, want %g", what, int(rows), int(cols), int(i),
                         int(c), got, want);
              }
            h.expect(out.intact(), "%s wrote outside, %dx%d", what, int(rows), int(cols));
          };
          for (bool add : {false, true}) {
            const std::vector<float> old(y.data(), y.data() + y.size());
            k.panel(rows, cols, a.data(), lda, x.data(), add, y.data());
            check("panel", y, old, add, cols, false);
          }
          const std::vector<float> old(x.data(), x.data() + x.size());
          k.panel_t(rows, cols, a.data(), lda, y.data(), x.data());
          check("panel_t", x, old, true, rows, true);
        }
      for (int64_t cols : {int64_t(768), int64_t(4096)}) {
        const int64_t rows = (96 << 10) / cols;
        std::vector<float> data(size_t(rows * cols + (rows + 2 * cols) * kSvdPanel + 16));
        for (float& f : data) f = float(rng.normal());
        float* a = data.data() + (16 - reinterpret_cast<uintptr_t>(data.data()) / 4 % 16) % 16;
        float *x = a + rows * cols, *y = x + cols * kSvdPanel, *w = y + rows * kSvdPanel;
        const double ops = 2.0 * double(rows * cols * kSvdPanel);
        h.bench(cols == 768 ? "panel 128x768" : "panel 24x4096", 0, [&] { k.panel(rows, cols, a, cols, x, false, y); }, ops);
        h.bench(cols == 768 ? "panel_t 128x768" : "panel_t 24x4096", 0, [&] { k.panel_t(rows, cols, a, cols, y, w); }, ops);
      }
    });
  });
  if (!h.wants("svd", svd_tier())) return;
  h.begin_variant("svd", svd_tier());
  h.row("dense_gemm", [&] {
    Rng rng = h.rng();
    for (int round = 0; round < (h.lean() ? 12 : 120); round++) {
      const int64_t side = h.lean() ? 120 : 200;
      const int64_t m = rng.between(0, side), n = rng.between(0, side), depth = rng.between(0, round % 4 ? 60 : 500);
      const bool at = rng.below(2), bt = rng.below(2), lower = rng.below(2), add = rng.below(2);
      Guarded<double> a(m * depth, 1), b(n * depth, 2), c(m * (n + 5), 3);
      for (Guarded<double>* g : {&a, &b, &c}) fill(rng, *g);
      std::vector<double> c0(c.data(), c.data() + c.size());
      const Strided<double> as = at ? columns_of<double>(a.data(), m) : rows_of<double>(a.data(), depth);
      const Strided<double> bs = bt ? columns_of<double>(b.data(), depth) : rows_of<double>(b.data(), n);
      DenseProduct p = {m, n, depth, -0.5, add, lower};
      h.expect(dense_gemm(p, as, bs, c.data(), n + 5, 0) == WHITTLE_OK, "status");
      for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n + 5; j++) {
          const double got = c[i * (n + 5) + j], old = c0[size_t(i * (n + 5) + j)];
          if (j >= n) h.expect(got == old, "wrote column %d of %d", int(j), int(n));
          if (j >= n || (lower && j > i)) continue;
          long double want = add ? old : 0, size = fabsl(want);
          for (int64_t q = 0; q < depth; q++) {
            const long double t = -0.5L * as.base[i * as.row + q * as.col] * bs.base[q * bs.row + j * bs.col];
            want += t;
            size += fabsl(t);
          }
          h.expect(fabsl(got - want) <= gamma_of(depth) * size, "%dx%dx%d [%d, %d]: %g, want %g", int(m), int(n), int(depth), int(i), int(j),
                   got, double(want));
        }
      h.expect(c.intact(), "wrote outside");
    }
    const int64_t n = 768;
    Guarded<double> a(n * n), b(n * n), c(n * n);
    for (Guarded<double>* g : {&a, &b, &c}) fill(rng, *g);
    for (int threads : {1, 2})
      h.bench(threads == 1 ? "dense_gemm 768^3, 1 thread" : "2 threads", 0,
              [&] { dense_gemm({n, n, n}, rows_of<double>(a.data(), n), rows_of<double>(b.data(), n), c.data(), n, threads); }, 2.0 * n * n * n);
  });
  h.row("dense_eigen", [&] {
    Rng rng = h.rng();
    const auto check = [&](int64_t n, const std::vector<double>& full, const char* what) {
      const size_t count = size_t(n * n);
      std::vector<double> a = full, values(size_t(n) + 1), z(count + 1), only(size_t(n) + 1);
      double norm = 0;
      for (double x : full) norm += x * x;
      norm = sqrt(norm) + 1e-300;
      const Eigen r = dense_eigen(n, a.data(), n, values.data(), z.data(), n, 0);
      h.expect(r.status == WHITTLE_OK && r.converged, "%s %d: not converged", what, int(n));
      a = full;
      const Eigen q = dense_eigen(n, a.data(), n, only.data(), nullptr, 0, 0);
      h.expect(q.status == WHITTLE_OK && q.converged, "%s %d: values not converged", what, int(n));
      // The largest alone are the last of all.
      if (n >= 5) {
        std::vector<double> some(size_t(n) * 3);
        a = full;
        dense_eigen(n, a.data(), n, only.data(), 3, some.data(), n, 0);
        for (size_t i = 0; i < some.size(); i++) h.expect(fabs(fabs(some[i]) - fabs(z[size_t(n * (n - 3)) + i])) < 1e-12, "%s %d: wanted", what, int(n));
        a = full;
        dense_eigen(n, a.data(), n, only.data(), nullptr, 0, 0);
      }
      double orthogonal = 0, residual = 0, apart = 0;
      for (int64_t i = 0; i < n; i++) {
        apart = std::max(apart, fabs(values[size_t(i)] - only[size_t(i)]));
        if (i) h.expect(values[size_t(i - 1)] <= values[size_t(i)], "order");
        for (int64_t j = 0; j < n; j++) {
          double dot = i == j ? -1 : 0, az = -values[size_t(i)] * z[size_t(i * n + j)];
          for (int64_t p = 0; p < n; p++) {
            dot += z[size_t(i * n + p)] * z[size_t(j * n + p)];
            az += full[size_t(std::max(j, p) * n + std::min(j, p))] * z[size_t(i * n + p)];
          }
          orthogonal = std::max(orthogonal, fabs(dot));
          residual = std::max(residual, fabs(az));
        }
      }
      const double bound = 8 * kU * double(n + 8);
      h.expect(orthogonal <= bound, "%s %d: orthogonal to %g", what, int(n), orthogonal);
      h.expect(residual <= bound * norm, "%s %d: residual %g of %g", what, int(n), residual, norm);
      h.expect(apart <= bound * norm, "%s %d: values alone differ by %g of %g", what, int(n), apart, norm);
    };
    std::vector<int64_t> sizes = {1, 2, 3, 5, 8, 31, 32, 33, 65, 100};
    if (!h.lean()) sizes.insert(sizes.end(), {64, 131, 200, 300});
    for (int64_t n : sizes) {
      const size_t count = size_t(n * n);
      std::vector<double> a(count);
      for (double& x : a) x = rng.normal();
      check(n, a, "random");
      std::fill(a.begin(), a.end(), 0.0);
      check(n, a, "zero");
      for (int64_t i = 0; i < n; i++) a[size_t(i * n + i)] = 1;
      check(n, a, "identity");
      for (int64_t i = 1; i < n; i++) a[size_t(i * n + i - 1)] = 1;
      check(n, a, "toeplitz");
      for (int64_t i = 0; i < n; i++) a[size_t(i * n + i)] = fabs(double(i) - double(n - 1) / 2);
      check(n, a, "wilkinson");
      for (int64_t i = 1; i < n; i++) a[size_t(i * n + i - 1)] = 1e-9 * double(i % 3);
      check(n, a, "weakly coupled");
      // Gram matrices of rank 3, of a steep spectrum, and of equal columns.
      for (int kind = 0; kind < 3; kind++) {
        std::vector<double> x(count);
        for (int64_t i = 0; i < n; i++)
          for (int64_t j = 0; j < n; j++)
            x[size_t(i * n + j)] = kind == 0 ? (i < 3 ? rng.normal() : 0) : kind == 1 ? rng.normal() * pow(10, -double(i) / 4) : double(i % 4 == 0);
        for (int64_t i = 0; i < n; i++)
          for (int64_t j = 0; j < n; j++) {
            double s = 0;
            for (int64_t p = 0; p < n; p++) s += x[size_t(p * n + i)] * x[size_t(p * n + j)];
            a[size_t(i * n + j)] = s;
          }
        check(n, a, kind == 0 ? "rank 3" : kind == 1 ? "steep" : "equal columns");
      }
    }
    for (int64_t n : {int64_t(64), int64_t(256), int64_t(768)}) {
      const size_t count = size_t(n * n);
      std::vector<double> a(count), b, values(count), z(count);
      for (double& x : a) x = rng.normal();
      for (int threads : {1, 2}) {
        char name[40];
        snprintf(name, sizeof name, "dense_eigen %d, %d threads", int(n), threads);
        h.bench(name, 0, [&] { b = a; dense_eigen(n, b.data(), n, values.data(), z.data(), n, threads); }, 4.0 * double(n) * double(n) * double(n));
      }
      h.bench("values only", 0, [&] { b = a; dense_eigen(n, b.data(), n, values.data(), nullptr, n, 1); }, 4.0 / 3 * double(n) * double(n) * double(n));
    }
  });  h.row("dense_cholesky, dense_solve, dense_lq", [&] {
    Rng rng = h.rng();
    for (int64_t n : {int64_t(1), int64_t(2), int64_t(47), int64_t(49), int64_t(64), int64_t(130)})
      for (int64_t wide : {n, n + 1, n + 70}) {
        const size_t count = size_t(n * wide);
        std::vector<double> x(count), q, r(size_t(n * n)), a(size_t(n * n));
        const bool deficient = rng.below(2) != 0;
        for (int64_t i = 0; i < n; i++)
          for (int64_t j = 0; j < wide; j++) x[size_t(i * wide + j)] = deficient && i % 3 == 2 ? x[size_t((i - 1) * wide + j)] : rng.normal();
        q = x;
        h.expect(dense_lq(n, wide, q.data(), wide, r.data(), n, 0) == WHITTLE_OK, "lq");
        double orthogonal = 0, residual = 0;
        for (int64_t i = 0; i < n; i++) {
          for (int64_t j = 0; j < n; j++) {
            double dot = i == j ? -1 : 0;
            for (int64_t p = 0; p < wide; p++) dot += q[size_t(i * wide + p)] * q[size_t(j * wide + p)];
            orthogonal = std::max(orthogonal, fabs(dot));
            if (j > i) h.expect(r[size_t(i * n + j)] == 0, "not triangular");
          }
          for (int64_t j = 0; j < wide; j++) {
            double s = -x[size_t(i * wide + j)];
            for (int64_t p = 0; p < n; p++) s += r[size_t(i * n + p)] * q[size_t(p * wide + j)];
            residual = std::max(residual, fabs(s));
          }
        }
        h.expect(orthogonal < 1e-13 && residual < 1e-12, "lq %dx%d: %g %g", int(n), int(wide), orthogonal, residual);
        for (int64_t i = 0; i < n; i++)
          for (int64_t j = 0; j <= i; j++) {
            double s = i == j ? 1 : 0;
            for (int64_t p = 0; p < wide; p++) s += x[size_t(i * wide + p)] * x[size_t(j * wide + p)];
            a[size_t(i * n + j)] = s;
          }
        std::vector<double> l = a;
        h.expect(dense_cholesky(n, l.data(), n, 0) == -1, "cholesky %d", int(n));
        std::vector<double> b(size_t(7 * n)), u, w;
        for (double& e : b) e = rng.normal();
        u = w = b;
        dense_solve_lt(7, n, l.data(), n, u.data(), n, 0);
        dense_solve_l(7, n, l.data(), n, w.data(), n, 0);
        for (int64_t i = 0; i < 7; i++)
          for (int64_t j = 0; j < n; j++) {
            double lt = -b[size_t(i * n + j)], lo = lt, back = -a[size_t(j * n)];
            for (int64_t p = 0; p <= j; p++) lt += u[size_t(i * n + p)] * l[size_t(j * n + p)];
            for (int64_t p = j; p < n; p++) lo += w[size_t(i * n + p)] * l[size_t(p * n + j)];
            back += l[size_t(j * n)] * l[0];
            h.expect(fabs(lt) < 1e-10 && fabs(lo) < 1e-10 && fabs(back) < 1e-10, "%d: %g %g %g", int(n), lt, lo, back);
          }
        a[size_t(n / 2 * n + n / 2)] = -1;
        h.expect(dense_cholesky(n, a.data(), n, 0) == n / 2, "a negative pivot went unseen");
      }
  });
}
