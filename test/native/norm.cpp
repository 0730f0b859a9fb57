// Rows: softmax, layer normalization and sums of every variant against scalar.
#include <math.h>
#include <string.h>

#include <algorithm>

#include "core/norm.h"
#include "test/native/harness.h"

namespace whittle {

WHITTLE_CHECK(norm) {
  Rng rng(1);
  each_variant(h, norm_variants(), [&](const NormKernels& ref, const NormKernels& got) {
    const auto rows = [&](const char* name, const std::function<void(int64_t, Guarded<float>&)>& body) {
      h.row(name, [&] {
        rng = h.rng();
        for (int64_t n : sizes_around(64)) {
          if (n == 0) continue;
          for (int round = 0; round < 3; round++) {
            Guarded<float> x(n, round);
            for (int64_t i = 0; i < n; i++) x[i] = rng.normal() * (round == 2 ? 60.0f : 3.0f);
            body(n, x);
          }
        }
      });
    };
    const auto near = [&](float a, float b, double scale) {
      return h.expect((isnan(a) && isnan(b)) || a == b || fabs(static_cast<double>(a) - b) <= scale * 1.2e-7, "%g, want %g", a, b);
    };
    rows("softmax", [&](int64_t n, Guarded<float>& x) {
      for (int32_t log = 0; log < 2; log++) {
        Guarded<float> want(n), out(n, 1);
        ref.softmax(n, x.data(), log, want.data());
        got.softmax(n, x.data(), log, out.data());
        for (int64_t i = 0; i < n; i++) {
          // The distance to the largest is rounded before its exponential is taken.
          const double far = log || want[i] <= 0 ? 0 : -::log(static_cast<double>(want[i]));
          if (!near(out[i], want[i], log ? 16 + 4 * fabs(want[i]) : (static_cast<double>(n + 16) + far) * want[i] + 1e-30)) return;
        }
        h.expect(out.intact(), "wrote outside of the row");
      }
    });
    rows("softmax of rows", [&](int64_t n, Guarded<float>& x) {
      const int64_t stride = n + 3, count = rng.between(1, 9), size = (count - 1) * stride + n;
      Guarded<float> want(size), out(size, 1);
      for (int64_t i = 0; i < size; i++) want[i] = out[i] = x[i % n] + rng.normal();
      const bool hidden = rng.below(3) == 0;
      if (hidden)
        for (int64_t i = 0; i < size; i += 2) want[i] = out[i] = i % 4 ? -INFINITY : -3.4e38f;
      ref.softmax_rows(count, n, want.data(), stride, nullptr);
      if (rng.below(2)) {
        got.softmax_rows(count, n, out.data(), stride, nullptr);
      } else {
        Guarded<float> factors(count, 1);
        got.softmax_rows(count, n, out.data(), stride, factors.data());
        got.scale_rows(count, n, out.data(), stride, factors.data());
        h.expect(factors.intact(), "wrote outside of the factors");
      }
      for (int64_t i = 0; i < size; i++) {
        if (i % stride >= n) {
          if (!h.expect(out[i] == want[i], "wrote between rows")) return;
          continue;
        }
        const double far = want[i] > 0 ? -::log(static_cast<double>(want[i])) : 0;
        if (!near(out[i], want[i], (static_cast<double>(n + 16) + far) * want[i] + 1e-30)) return;
      }
      h.expect(out.intact(), "wrote outside of the rows");
      out[0] = NAN;
      got.softmax_rows(1, n, out.data(), stride, nullptr);
      for (int64_t i = 0; i < n; i++) h.expect(isnan(out[i]), "a NaN was passed over");
    });
    rows("layer", [&](int64_t n, Guarded<float>& x) {
      Guarded<float> gamma(n), beta(n, 1), want(n), out(n, 1);
      for (int64_t i = 0; i < n; i++) {
        gamma[i] = rng.normal();
        beta[i] = rng.normal();
      }
      double mean = 0, variance = 0, most = 0;
      for (int64_t i = 0; i < n; i++) mean += x[i] / static_cast<double>(n);
      for (int64_t i = 0; i < n; i++) {
        variance += (x[i] - mean) * (x[i] - mean) / static_cast<double>(n);
        most = std::max(most, fabs(static_cast<double>(x[i])));
      }
      // What is close to the mean keeps the rounding of large numbers.
      const double cancelled = 4 * most / sqrt(variance + 1e-3);
      for (int which = 0; which < 8; which++) {
        const int32_t centered = which < 4;
        const float *g = which & 1 ? gamma.data() : nullptr, *b = which & 2 ? beta.data() : nullptr;
        float range[2] = {0, 0};
        ref.layer(1, n, centered, x.data(), g, b, 1e-3f, want.data(), nullptr);
        got.layer(1, n, centered, x.data(), g, b, 1e-3f, out.data(), which == 1 ? nullptr : range);
        float lo = 0, hi = 0;
        for (int64_t i = 0; i < n && which != 1; i++) {
          lo = std::min(lo, out[i]);
          hi = std::max(hi, out[i]);
        }
        if (!h.expect(range[0] == lo && range[1] == hi, "range %g to %g, want %g to %g", range[0], range[1], lo, hi)) return;
        for (int64_t i = 0; i < n; i++)
          if (!near(out[i], want[i], 200 + static_cast<double>(n) + cancelled)) return;
        h.expect(out.intact(), "wrote outside of the row");
      }
      // Rows behind each other; one that is not finite is told of.
      const int64_t count = rng.between(2, 5);
      Guarded<float> all(count * n), each(count * n), once(count * n);
      for (int64_t i = 0; i < count * n; i++) all[i] = rng.normal();
      for (int64_t i = 0; i < count; i++) got.layer(1, n, 1, all.data() + i * n, gamma.data(), nullptr, 1e-3f, each.data() + i * n, nullptr);
      float range[2] = {0, 0};
      got.layer(count, n, 1, all.data(), gamma.data(), nullptr, 1e-3f, once.data(), range);
      h.expect(memcmp(each.data(), once.data(), static_cast<size_t>(count * n) * 4) == 0 && range[0] <= range[1], "rows behind each other");
      all[rng.below(count * n)] = rng.below(2) ? NAN : INFINITY;
      range[0] = range[1] = 0;
      got.layer(count, n, 1, all.data(), gamma.data(), beta.data(), 1e-3f, once.data(), range);
      h.expect(isnan(range[0]) && isnan(range[1]), "the range of what is not finite");
    });
    rows("sums", [&](int64_t n, Guarded<float>& x) {
      double magnitude = 0, squares = 0;
      for (int64_t i = 0; i < n; i++) {
        magnitude += fabs(x[i]);
        squares += static_cast<double>(x[i]) * x[i];
      }
      const double chain = 8 + static_cast<double>(n) / 8;
      near(got.sum(n, x.data()), ref.sum(n, x.data()), chain * magnitude);
      near(got.sum_abs(n, x.data()), ref.sum_abs(n, x.data()), chain * magnitude);
      near(got.sum_squares(n, x.data()), ref.sum_squares(n, x.data()), chain * squares);
    });
    rows("extremes", [&](int64_t n, Guarded<float>& x) {
      h.expect(got.top(n, x.data()) == ref.top(n, x.data()), "maximum");
      h.expect(got.bottom(n, x.data()) == ref.bottom(n, x.data()), "minimum");
      x[rng.below(n)] = NAN;
      h.expect(isnan(got.top(n, x.data())) && isnan(got.bottom(n, x.data())), "a NaN was passed over");
      x[0] = INFINITY;
      for (int64_t i = 1; i < n; i++) x[i] = -INFINITY;
      h.expect(got.top(n, x.data()) == INFINITY && (n == 1 || got.bottom(n, x.data()) == -INFINITY), "infinities");
    });
  });

  h.row("reductions of a middle axis", [&] {
    rng = h.rng();
    for (int round = 0; round < (h.lean() ? 10 : 60); round++) {
      const int64_t outer = rng.between(1, 4), n = rng.between(1, 30), inner = rng.below(3) == 0 ? 1 : rng.between(1, 700);
      std::vector<float> x(static_cast<size_t>(outer * n * inner)), out(static_cast<size_t>(outer * inner));
      for (float& v : x) v = rng.normal();
      for (int kind = 0; kind <= kReduceProd; kind++) {
        h.expect(reduce_middle(static_cast<ReduceKind>(kind), outer, n, inner, x.data(), out.data(), 1 + round % 2), "no memory");
        for (int64_t t = 0; t < outer * inner; t++) {
          double sum = 0, abs = 0, squares = 0, exps = 0, prod = 1, top = -INFINITY, low = INFINITY;
          for (int64_t p = 0; p < n; p++) {
            const double v = x[static_cast<size_t>((t / inner * n + p) * inner + t % inner)];
            sum += v;
            abs += fabs(v);
            squares += v * v;
            exps += exp(v);
            prod *= v;
            top = v > top ? v : top;
            low = v < low ? v : low;
          }
          const double want[] = {sum, sum / static_cast<double>(n), top, low, abs, sqrt(squares), squares, log(sum), log(exps), prod};
          const double w = want[kind], g = out[static_cast<size_t>(t)];
          // The logarithm of a sum near zero or below tells nothing.
          if (kind == kReduceLogSum && sum < 0.1) continue;
          if (!h.expect(fabs(g - w) <= 1e-5 * (abs + fabs(w)) * (kind == kReduceLogSum ? 10 / sum : 1) + 1e-6 * squares, "kind %d: %g, want %g", kind, g, w)) return;
        }
      }
    }
  });
}

}  // namespace whittle
