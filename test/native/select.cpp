// Element-wise kernels, masks, counts and lists must equal the reference bit for bit; sums must keep the bound of
// core/select.h. The drivers are checked against a full sort.
#include "core/select.h"

#include <math.h>
#include <string.h>

#include <algorithm>
#include <numeric>

#include "core/threads.h"
#include "test/native/harness.h"

using namespace whittle;

namespace {

enum Kind { kNormal, kTies, kEqual, kSpecial, kWithNan, kKinds };

float draw(Rng& rng, int kind) {
  static const float special[] = {0.0f, -0.0f, 1e-45f, -1e-45f, 1.1e-38f, INFINITY, -INFINITY, 3.4e38f, -3.4e38f, 1.0f};
  switch (kind) {
    case kTies:
      return static_cast<float>(rng.below(3)) - 1;
    case kEqual:
      return -2.5f;
    case kSpecial:
      return special[rng.below(10)];
    case kWithNan:
      return rng.below(7) == 0 ? NAN : rng.normal();
    default:
      return rng.normal();
  }
}

Guarded<float> data(Rng& rng, int64_t n, int kind) {
  Guarded<float> x(n, rng.below(4));
  for (int64_t i = 0; i < n; i++) x[i] = draw(rng, kind);
  return x;
}

bool same(float a, float b) { return memcmp(&a, &b, sizeof a) == 0 || (a != a && b != b); }
bool same(double a, double b) { return memcmp(&a, &b, sizeof a) == 0 || (a != a && b != b); }
bool same(uint8_t a, uint8_t b) { return a == b; }

template <class T>
bool equal(Harness& h, const Guarded<T>& want, const Guarded<T>& got, const char* what, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    if (!h.expect(same(want[i], got[i]), "%s[%d] of %d: got %g, want %g", what, int(i), int(n), double(got[i]), double(want[i])))
      return false;
  return h.expect(got.intact(), "%s: wrote outside its %d elements", what, int(n));
}

// The bound for two sums of the same n terms in different orders.
double slack(int norm, const Guarded<float>& x, const Guarded<float>& g) {
  double magnitude = 0;
  for (int64_t i = 0; i < x.size(); i++) {
    const double p = norm == kSelectSum || norm == kSelectL1 ? 1 : select_uses_grad(norm) ? g[i] : x[i];
    magnitude += fabs(p * x[i]);
  }
  return norm == kSelectMax ? 0 : 2 * static_cast<double>(x.size()) * 0x1p-53 * magnitude;
}

void kernels(Harness& h, const SelectKernels& ref, const SelectKernels& got) {
  const std::vector<int64_t> sizes = sizes_around(64);
  const auto each = [&](const std::function<void(Rng&, int64_t, int)>& body) {
    Rng rng = h.rng();
    for (int64_t n : sizes)
      for (int kind = 0; kind < kKinds; kind++)
        for (int repeat = 0; repeat < (h.lean() ? 1 : 3); repeat++) body(rng, n, kind);
  };
  h.row("scores", [&] {
    each([&](Rng& rng, int64_t n, int kind) {
      const Guarded<float> x = data(rng, n, kind), g = data(rng, n, kNormal);
      for (int norm = 0; norm < kSelectNorms; norm++) {
        Guarded<float> want(n), out(n, rng.below(4));
        const int nan = ref.scores(norm, x.data(), select_uses_grad(norm) ? g.data() : nullptr, n, want.data());
        const int bad = got.scores(norm, x.data(), select_uses_grad(norm) ? g.data() : nullptr, n, out.data());
        h.expect(nan == bad, "norm %d, n %d: NaN %d, want %d", norm, int(n), bad, nan);
        equal(h, want, out, "scores", n);
      }
    });
  });
  h.row("reduce", [&] {
    each([&](Rng& rng, int64_t n, int kind) {
      const Guarded<float> x = data(rng, n, kind), g = data(rng, n, kNormal);
      for (int norm = 0; norm < kSelectNorms; norm++) {
        const float* grad = select_uses_grad(norm) ? g.data() : nullptr;
        const double want = ref.reduce(norm, x.data(), grad, n), sum = got.reduce(norm, x.data(), grad, n);
        h.expect(same(want, sum) || fabs(want - sum) <= slack(norm, x, g), "norm %d, n %d, kind %d: %g, want %g", norm, int(n), kind, sum, want);
      }
    });
  });
  h.row("columns", [&] {
    each([&](Rng& rng, int64_t n, int kind) {
      const Guarded<float> x = data(rng, n, kind), g = data(rng, n, kNormal);
      for (int norm = 0; norm < kSelectNorms; norm++) {
        Guarded<double> want(n), acc(n, rng.below(4));
        for (int64_t i = 0; i < n; i++) want[i] = acc[i] = i % 11 == 3 ? NAN : fabs(rng.normal());
        const float* grad = select_uses_grad(norm) ? g.data() : nullptr;
        ref.columns(norm, x.data(), grad, n, want.data());
        got.columns(norm, x.data(), grad, n, acc.data());
        equal(h, want, acc, "acc", n);
      }
    });
  });
  h.row("distance", [&] {
    each([&](Rng& rng, int64_t n, int kind) {
      const Guarded<float> a = data(rng, n, kind), b = data(rng, n, kind);
      const double want = ref.distance(a.data(), b.data(), n), sum = got.distance(a.data(), b.data(), n);
      h.expect(same(want, sum) || fabs(want - sum) <= (2 * static_cast<double>(n) + 4) * 0x1p-53 * want, "n %d: %g, want %g", int(n), sum, want);
    });
  });
  h.row("histogram", [&] {
    each([&](Rng& rng, int64_t n, int kind) {
      const Guarded<float> x = data(rng, n, kind);
      const int shifts[] = {21, 10, 0, 13};
      for (int shift : shifts) {
        uint32_t base = shift == 21 || n == 0 ? 0 : select_key(x[rng.below(n)]) >> 11 << 11;
        std::vector<uint32_t> want(kSelectBins, 7);
        Guarded<uint32_t> counts(kSelectBins);
        for (int i = 0; i < kSelectBins; i++) counts[i] = 7;
        const int nan = ref.histogram(x.data(), n, base, shift, want.data());
        h.expect(nan == got.histogram(x.data(), n, base, shift, counts.data()), "NaN, want %d", nan);
        for (int i = 0; i < kSelectBins; i++)
          h.expect(want[i] == counts[i], "n %d shift %d bin %d: %u, want %u", int(n), shift, i, counts[i], want[i]);
        h.expect(counts.intact(), "wrote outside the counts");
      }
    });
  });
  h.row("histogram past 16-bit counters", [&] {
    const int64_t n = 300007;
    std::vector<float> x(static_cast<size_t>(n), 1.5f);
    std::vector<uint32_t> counts(kSelectBins, 0);
    got.histogram(x.data(), n, 0, 21, counts.data());
    h.expect(counts[select_key(1.5f) >> 21] == n, "%u", counts[select_key(1.5f) >> 21]);
  });
  h.row("scan", [&] {
    each([&](Rng& rng, int64_t n, int kind) {
      const Guarded<float> x = data(rng, n, kind);
      float lo = draw(rng, kind == kWithNan ? kNormal : kind), hi = draw(rng, kind == kWithNan ? kNormal : kind);
      if (lo > hi) std::swap(lo, hi);
      if (rng.below(6) == 0) lo = -INFINITY;
      if (rng.below(6) == 0) hi = INFINITY;
      const int64_t rooms[] = {0, 5, n};
      for (int64_t room : rooms)
        for (int masked = 0; masked < 2; masked++) {
          Guarded<uint8_t> want_mask(n), mask(n, rng.below(64));
          Guarded<float> want_values(room + kSelectSlack), values(room + kSelectSlack);
          Guarded<uint16_t> want_index(room + kSelectSlack), index(room + kSelectSlack);
          SelectScan want, scan;
          ref.scan(x.data(), n, lo, hi, masked ? want_mask.data() : nullptr, want_values.data(), want_index.data(), room, &want);
          got.scan(x.data(), n, lo, hi, masked ? mask.data() : nullptr, values.data(), index.data(), room, &scan);
          h.expect(want.nan == scan.nan, "n %d: NaN %d, want %d", int(n), scan.nan, want.nan);
          h.expect(want.greater == scan.greater && want.inside == scan.inside, "n %d, %g to %g: %d above and %d inside, want %d and %d",
                   int(n), lo, hi, int(scan.greater), int(scan.inside), int(want.greater), int(want.inside));
          const int64_t listed = std::min(want.inside, room);
          for (int64_t i = 0; i < listed; i++)
            h.expect(same(values[i], want_values[i]) && index[i] == want_index[i], "candidate %d of %d: %g at %u", int(i), int(listed), values[i], index[i]);
          h.expect(values.intact() && index.intact(), "wrote outside the lists");
          if (masked) equal(h, want_mask, mask, "mask", n);
        }
    });
  });
  h.row("above", [&] {
    each([&](Rng& rng, int64_t n, int kind) {
      const Guarded<float> x = data(rng, n, kind);
      const float t = draw(rng, kind == kWithNan ? kTies : kind);
      for (int strict = 0; strict < 2; strict++) {
        Guarded<uint8_t> want(n), mask(n, rng.below(64));
        int64_t ties = 0, got_ties = -1;
        const int nan = ref.above(x.data(), n, t, strict, want.data(), &ties);
        h.expect(nan == got.above(x.data(), n, t, strict, mask.data(), &got_ties), "n %d: NaN, want %d", int(n), nan);
        h.expect(ties == got_ties, "n %d, t %g: %d equal, want %d", int(n), t, int(got_ties), int(ties));
        equal(h, want, mask, "mask", n);
      }
    });
  });
  h.row("nm", [&] {
    Rng rng = h.rng();
    for (int m : {1, 2, 3, 4, 5, 7, 8, 12, 16, 24, 32, 48, 63, 64})
      for (int64_t groups : {0, 1, 2, 7, 16, 17, 33})
        for (int kind = 0; kind < kKinds; kind++)
          for (int keep : {0, 1, m / 2, m - 1, m}) {
            const Guarded<float> x = data(rng, groups * m, kind);
            Guarded<uint8_t> want(groups * m), mask(groups * m, rng.below(64));
            const int nan = ref.nm(x.data(), groups, keep, m, want.data());
            h.expect(nan == got.nm(x.data(), groups, keep, m, mask.data()), "%d:%d, %d groups: NaN, want %d", keep, m, int(groups), nan);
            if (nan == 0) equal(h, want, mask, "mask", groups * m);
            else h.expect(mask.intact(), "wrote outside the mask");
          }
  });
  h.row("expand", [&] {
    Rng rng = h.rng();
    for (int64_t width : {1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 33, 64, 100})
      for (int64_t count : {0, 1, 15, 16, 17, 33, 70}) {
        Guarded<uint8_t> flags(count, rng.below(16)), want(count * width), out(count * width, rng.below(16));
        for (int64_t i = 0; i < count; i++) flags[i] = static_cast<uint8_t>(rng.below(2));
        ref.expand(flags.data(), count, width, want.data());
        got.expand(flags.data(), count, width, out.data());
        equal(h, want, out, "out", count * width);
      }
  });
  h.row("apply", [&] {
    each([&](Rng& rng, int64_t n, int kind) {
      Guarded<float> x = data(rng, n, kind), want(n), out(n, rng.below(4));
      Guarded<uint8_t> mask(n, rng.below(8));
      for (int64_t i = 0; i < n; i++) mask[i] = static_cast<uint8_t>(rng.below(3) * 127);
      ref.apply(x.data(), mask.data(), n, want.data());
      got.apply(x.data(), mask.data(), n, out.data());
      equal(h, want, out, "out", n);
      got.apply(x.data(), mask.data(), n, x.data());
      equal(h, want, x, "in place", n);
    });
  });
}

void bench(Harness& h, const SelectKernels& k) {
  if (!h.benching()) return;
  const int64_t n = 1 << 20;
  Rng rng(1);
  std::vector<float> x(n), out(n), values(65536 + kSelectSlack);
  std::vector<uint16_t> index(65536 + kSelectSlack);
  std::vector<uint32_t> counts(kSelectBins);
  std::vector<uint8_t> mask(n), flags(n);
  std::vector<double> acc(2048);
  for (float& v : x) v = rng.normal();
  const double bytes = 4.0 * n;
  double sink = 0;
  SelectScan scan;
  int64_t ties;
  h.bench("scores l1", 2 * bytes, [&] { k.scores(kSelectL1, x.data(), nullptr, n, out.data()); });
  h.bench("reduce l1", bytes, [&] { sink += k.reduce(kSelectL1, x.data(), nullptr, n); });
  h.bench("columns l2", bytes, [&] {
    for (int64_t i = 0; i < n; i += 2048) k.columns(kSelectL2, x.data() + i, nullptr, 2048, acc.data());
  });
  h.bench("histogram", bytes, [&] { k.histogram(x.data(), n, 0, 21, counts.data()); });
  h.bench("scan, 2 % inside", 1.25 * bytes, [&] {
    for (int64_t i = 0; i < n; i += 65536)
      k.scan(x.data() + i, 65536, 0.5f, 0.557f, mask.data() + i, values.data(), index.data(), 65536, &scan);
  });
  h.bench("above", 1.25 * bytes, [&] { k.above(x.data(), n, 0.5f, false, mask.data(), &ties); });
  h.bench("nm 2:4", 1.25 * bytes, [&] { k.nm(x.data(), n / 4, 2, 4, mask.data()); });
  h.bench("nm 4:8", 1.25 * bytes, [&] { k.nm(x.data(), n / 8, 4, 8, mask.data()); });
  h.bench("nm 8:16", 1.25 * bytes, [&] { k.nm(x.data(), n / 16, 8, 16, mask.data()); });
  h.bench("expand 4", n, [&] { k.expand(flags.data(), n / 4, 4, mask.data()); });
  h.bench("apply", 2.25 * bytes, [&] { k.apply(x.data(), mask.data(), n, out.data()); });
  if (sink == 42) printf("\n");
}

// Reference: a stable sort.
std::vector<uint8_t> sorted_mask(const float* x, int64_t n, int64_t keep) {
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return x[a] > x[b]; });
  std::vector<uint8_t> mask(static_cast<size_t>(n), 0);
  for (int64_t i = 0; i < keep; i++) mask[static_cast<size_t>(order[static_cast<size_t>(i)])] = 1;
  return mask;
}

void drivers(Harness& h) {
  h.row("largest equals a sort, whatever the distribution", [&] {
    Rng rng = h.rng();
    for (int64_t n : {1, 25, 1000, 65536, 65537, 70000, 200001}) {
      if (h.lean() && n != 65537 && n > 1000) continue;
      for (int shape = 0; shape < 6; shape++) {
        std::vector<float> x(static_cast<size_t>(n));
        for (int64_t i = 0; i < n; i++)
          x[i] = shape == 4   ? static_cast<float>(i % 1000)
                 : shape == 5 ? ldexpf(rng.normal(), static_cast<int>(rng.between(-120, 120)))
                              : draw(rng, shape);
        for (int64_t keep : {int64_t(0), int64_t(1), n / 50, n / 2, n - 1, n}) {
          std::vector<uint8_t> mask(static_cast<size_t>(n), 9);
          float t = NAN;
          const int64_t cut = n / 3;
          const SelectPart parts[] = {{x.data(), mask.data(), cut}, {x.data() + cut, mask.data() + cut, n - cut}};
          const WhittleStatus status = select_largest(parts, 2, keep, &t);
          h.expect(status == WHITTLE_OK && mask == sorted_mask(x.data(), n, keep), "n %d, shape %d, keep %d", int(n), shape, int(keep));
          float alone = NAN;
          const SelectPart values[] = {{x.data(), nullptr, n}};
          h.expect(select_largest(values, 1, keep, &alone) == WHITTLE_OK && alone == t, "threshold %g, alone %g", t, alone);
        }
      }
    }
  });
  h.row("a NaN is found wherever it is", [&] {
    Rng rng = h.rng();
    for (int64_t n : {40, 40000, 150000})
      for (int repeat = 0; repeat < 10; repeat++) {
        std::vector<float> x(static_cast<size_t>(n));
        std::vector<uint8_t> mask(static_cast<size_t>(n));
        for (float& v : x) v = repeat % 2 ? 1.0f : rng.normal();
        x[static_cast<size_t>(rng.below(n))] = repeat % 3 ? NAN : -NAN;
        float t;
        const SelectPart part = {x.data(), mask.data(), n};
        h.expect(select_largest(&part, 1, n / 2, &t) == WHITTLE_NONFINITE, "n %d: not found", int(n));
        h.expect(select_balanced(x.data(), 1, 4, n / 4, n / 8, mask.data()) == WHITTLE_NONFINITE, "balanced, n %d", int(n));
        h.expect(select_nm(x.data(), 1, n, 1, 1, 2, mask.data()) == WHITTLE_NONFINITE, "runs, n %d", int(n));
      }
  });
  h.row("balanced and runs on inner axes equal a sort of each group", [&] {
    Rng rng = h.rng();
    const int64_t shapes[][3] = {{1, 7, 90}, {3, 5, 4}, {20, 6, 1}, {2, 24, 300}, {1, 2, 70000}, {5, 12, 1}, {1, 6, 5000}, {2, 3, 700}, {1, 3, 65536}};
    for (const auto& s : shapes) {
      const int64_t outer = s[0], axis = s[1], inner = s[2], n = outer * axis * inner, length = outer * inner;
      if (h.lean() && length == 70000) continue;
      std::vector<float> x(static_cast<size_t>(n)), group;
      for (float& v : x) v = draw(rng, rng.below(2) ? kTies : kNormal);
      std::vector<uint8_t> mask(static_cast<size_t>(n), 9);
      const int64_t choice[] = {length / 3, length / 6, 1, length - length / 50, length};
      for (const int64_t keep : {length / 2, choice[rng.below(5)]}) {  // half: amid the ties
        h.expect(select_balanced(x.data(), outer, axis, inner, keep, mask.data()) == WHITTLE_OK, "status");
        for (int64_t a = 0; a < axis; a++) {
          group.clear();
          for (int64_t i = 0; i < length; i++) group.push_back(x[(i / inner * axis + a) * inner + i % inner]);
          const std::vector<uint8_t> want = sorted_mask(group.data(), length, keep);
          for (int64_t i = 0; i < length; i++)
            h.expect(mask[(i / inner * axis + a) * inner + i % inner] == want[i], "balanced %d %d %d: group %d", int(outer), int(axis), int(inner), int(a));
        }
      }
      if (length >= 1024) {
        std::vector<float> bad = x;
        bad[static_cast<size_t>(rng.below(n))] = NAN;
        h.expect(select_balanced(bad.data(), outer, axis, inner, length / 3, mask.data()) == WHITTLE_NONFINITE, "NaN in a group of %d", int(length));
      }
      for (int m : {1, 2, 3, 4, 6, 12}) {
        if (axis % m) continue;
        h.expect(select_nm(x.data(), outer, axis, inner, m / 2, m, mask.data()) == WHITTLE_OK, "status");
        for (int64_t o = 0; o < outer; o++)
          for (int64_t q = 0; q < axis; q += m)
            for (int64_t i = 0; i < inner; i++) {
              group.clear();
              for (int64_t j = 0; j < m; j++) group.push_back(x[(o * axis + q + j) * inner + i]);
              const std::vector<uint8_t> want = sorted_mask(group.data(), m, m / 2);
              for (int64_t j = 0; j < m; j++)
                h.expect(mask[(o * axis + q + j) * inner + i] == want[j], "runs of %d, %d %d %d", m, int(outer), int(axis), int(inner));
            }
      }
    }
  });
  h.row("sums do not depend on the number of threads", [&] {
    Rng rng = h.rng();
    const int64_t shapes[][3] = {{3, 5, 70000}, {2000, 7, 3}, {1, 3, 200000}, {700, 1, 300}};
    const int before = thread_limit();
    for (const auto& s : shapes) {
      const int64_t n = s[0] * s[1] * s[2];
      std::vector<float> x(static_cast<size_t>(n)), one(static_cast<size_t>(s[1])), many(one);
      for (float& v : x) v = rng.normal();
      set_threads(1);
      select_groups(kSelectL2, x.data(), nullptr, s[0], s[1], s[2], one.data());
      set_threads(4);
      select_groups(kSelectL2, x.data(), nullptr, s[0], s[1], s[2], many.data());
      h.expect(one == many, "%d %d %d", int(s[0]), int(s[1]), int(s[2]));
    }
    set_threads(before);
  });
}

void bench_drivers(Harness& h) {
  if (!h.benching()) return;
  const int64_t n = 1 << 24;
  Rng rng(2);
  std::vector<float> x(n);
  std::vector<uint8_t> mask(n);
  for (float& v : x) v = fabsf(rng.normal());
  const SelectPart part = {x.data(), mask.data(), n}, only = {x.data(), nullptr, n};
  float t;
  const int before = thread_limit();
  for (int threads : {1, 2}) {
    set_threads(threads);
    char name[64];
    const auto time = [&](const char* what, const std::function<void()>& body) {
      snprintf(name, sizeof name, "16.8 M %s, %d thread(s)", what, threads);
      h.bench(name, 5.0 * n, body);
    };
    time("largest 20 %", [&] { select_largest(&part, 1, n / 5, &t); });
    time("largest 50 %", [&] { select_largest(&part, 1, n / 2, &t); });
    time("k-th alone", [&] { select_largest(&only, 1, n / 5, &t); });
    time("above", [&] { select_above(x.data(), n, 0.5f, 0, mask.data()); });
    time("2:4", [&] { select_nm(x.data(), n / 4, 4, 1, 2, 4, mask.data()); });
    time("balanced rows of 4096", [&] { select_balanced(x.data(), 1, 4096, 4096, 2048, mask.data()); });
  }
  set_threads(2);
  std::vector<float> zeros(x);
  for (float& v : zeros) v = v < 0.7f ? 0.0f : v;
  const SelectPart sparse = {zeros.data(), mask.data(), n};
  h.bench("16.8 M largest 80 % of half zeros", 5.0 * n, [&] { select_largest(&sparse, 1, n / 5 * 4, &t); });
  set_threads(before);
}

}  // namespace

WHITTLE_CHECK(select) {
  drivers(h);
  bench_drivers(h);
  each_variant(h, select_variants(), [&](const SelectKernels& ref, const SelectKernels& got) {
    kernels(h, ref, got);
    bench(h, got);
  });
}
