#include "check.h"

#include <math.h>

#include <algorithm>

namespace whittle {
namespace {

// Many equal scores, both zeros and infinities among them.
std::vector<float> scores(Rng& rng, int64_t n, bool ties) {
  std::vector<float> x = rng.normals(n);
  for (float& v : x) {
    if (ties) v = float(rng.between(-2, 2)) * (rng.below(2) ? 1.f : -1.f);
    if (rng.below(50) == 0) v = rng.below(2) ? INFINITY : -INFINITY;
  }
  return x;
}

}  // namespace

void check_select(Check& c) {
  const CudaBackend& cuda = c.cuda();

  c.row("select: scores to the bit, groups within the bound of their sums", [&](Rng& rng) {
    for (int norm = 0; norm < kSelectNorms; norm++)
      for (const auto& [outer, axis, inner] : {std::tuple<int64_t, int64_t, int64_t>(1, 1, 1), {1, 7, 33}, {3, 5, 40}, {130, 6, 1}, {70, 3, 5},
                                               {1, 2, 9000}, {0, 3, 2}, {2, 3, 0}}) {
        const int64_t n = outer * axis * inner;
        const std::vector<float> x = rng.normals(n), g = rng.normals(n);
        const Device<float> dx(x), dg(g), dout(n), dgroups(axis);
        std::vector<float> out(static_cast<size_t>(n)), groups(static_cast<size_t>(axis));
        select_scores(norm, x.data(), g.data(), n, out.data());
        c.expect(cuda.scores(0, norm, dx, dg, n, dout) == WHITTLE_OK && differs(dout.host(), out) < 0, "scores, norm %d, n %d", norm, int(n));
        select_groups(norm, x.data(), g.data(), outer, axis, inner, groups.data());
        c.expect(cuda.groups(0, norm, dx, dg, outer, axis, inner, dgroups) == WHITTLE_OK, "groups, norm %d", norm);
        const std::vector<float> got = dgroups.host();
        for (int64_t a = 0; a < axis; a++) {
          const double size = fabs(double(groups[size_t(a)]));
          // Sums that cancel keep the error of their terms; a root or a square doubles it at most.
          const double bound = size * 0x1p-22 + double(outer * inner) * 0x1p-50 * 40;
          c.expect(fabs(double(got[size_t(a)]) - groups[size_t(a)]) <= bound, "norm %d [%d %d %d] group %d: %.9g, want %.9g", norm, int(outer),
                   int(axis), int(inner), int(a), got[size_t(a)], groups[size_t(a)]);
        }
      }
  });

  c.row("select: the k largest and their ties as on the CPU, to the bit", [&](Rng& rng) {
    for (const int64_t n : {int64_t(1), int64_t(2), int64_t(31), int64_t(255), int64_t(257), int64_t(4095), int64_t(4097), int64_t(9000)})
      for (const bool ties : {false, true}) {
        if (c.lean() && n > 5000) continue;
        const std::vector<float> x = scores(rng, n, ties);
        const Device<float> dx(x);
        for (const int64_t keep : {int64_t(0), int64_t(1), n / 3, n - 1, n}) {
          std::vector<uint8_t> mask(static_cast<size_t>(n));
          const SelectPart part = {x.data(), mask.data(), n};
          float want, got = 0;
          select_largest(&part, 1, keep, &want);
          const Device<uint8_t> dmask(n);
          const WhittleStatus s = cuda.largest(0, dx, n, keep, dmask, &got);
          c.expect(s == WHITTLE_OK && got == want, "n %d keep %d: status %d, threshold %g, want %g", int(n), int(keep), s, got, want);
          const int64_t at = differs(dmask.host(), mask);
          c.expect(at < 0, "n %d keep %d ties %d: mask differs at %d", int(n), int(keep), ties, int(at));
          got = 0;
          c.expect(cuda.largest(0, dx, n, keep, nullptr, &got) == WHITTLE_OK && got == want, "n %d keep %d: threshold alone", int(n), int(keep));
        }
      }
  });

  c.row("select: n:m masks and their application as on the CPU", [&](Rng& rng) {
    for (const auto& [outer, axis, inner, keep, m] : {std::tuple<int64_t, int64_t, int64_t, int, int>(5, 36, 1, 2, 4), {1, 8, 1, 1, 4}, {3, 12, 7, 2, 4},
                                                      {2, 64, 3, 5, 64}, {9, 10, 1, 0, 5}, {4, 6, 2, 3, 3}, {0, 4, 1, 2, 4}, {7, 24, 1, 2, 4}}) {
      const int64_t n = outer * axis * inner;
      const std::vector<float> x = scores(rng, n, inner > 1 || outer == 7 || rng.below(2));
      std::vector<uint8_t> mask(static_cast<size_t>(n));
      std::vector<float> out(static_cast<size_t>(n));
      select_nm(x.data(), outer, axis, inner, keep, m, mask.data());
      select_apply(x.data(), mask.data(), n, out.data());
      const Device<float> dx(x), dout(n);
      const Device<uint8_t> dmask(n);
      c.expect(cuda.nm(0, dx, outer, axis, inner, keep, m, dmask) == WHITTLE_OK && differs(dmask.host(), mask) < 0, "%d:%d of [%d %d %d]", keep,
               m, int(outer), int(axis), int(inner));
      c.expect(cuda.apply(0, dx, dmask, n, dout) == WHITTLE_OK && differs(dout.host(), out) < 0, "applied, %d:%d", keep, m);
    }
  });

  c.row("select: thresholds, and the counts of a search for one, as on the CPU", [&](Rng& rng) {
    for (const int64_t n : {int64_t(0), int64_t(1), int64_t(300), int64_t(4097), int64_t(9000)}) {
      if (c.lean() && n > 5000) continue;
      const std::vector<float> x = scores(rng, n, true);
      const Device<float> dx(x);
      for (const auto& [threshold, equal] : {std::pair<float, int64_t>(0.f, 0), {1.f, 3}, {-1.f, 1 << 20}, {INFINITY, 1}, {-INFINITY, 2}, {0.5f, 4}}) {
        std::vector<uint8_t> mask(static_cast<size_t>(n));
        select_above(x.data(), n, threshold, equal, mask.data());
        const Device<uint8_t> dmask(n);
        c.expect(cuda.above(0, dx, n, threshold, equal, dmask) == WHITTLE_OK && differs(dmask.host(), mask) < 0, "n %d above %g, %d equal", int(n), threshold, int(equal));
      }
      for (const int shift : {21, 10, 0}) {
        const uint32_t base = shift == 21 ? 0 : select_key(1.f) & (shift == 10 ? 0xffe00000u : 0xfffffc00u);
        std::vector<int64_t> want(kSelectBins), got(kSelectBins);
        select_histogram(x.data(), n, base, shift, want.data());
        if (shift == 0) std::fill(want.begin() + 1024, want.end(), 0);
        c.expect(cuda.count(0, dx, n, base, shift, got.data()) == WHITTLE_OK && differs(got, want) < 0, "n %d, counts from bit %d", int(n), shift);
      }
    }
    c.expect(cuda.count(0, nullptr, 0, 0, 7, nullptr) == WHITTLE_RANGE, "a shift that is none");
  });

  c.row("select: the k largest of every group, and groups painted, as on the CPU", [&](Rng& rng) {
    for (const auto& [outer, axis, inner] : {std::tuple<int64_t, int64_t, int64_t>(1, 1, 1), {1, 5, 33}, {3, 4, 7}, {1, 2, 1500}, {40, 3, 1}, {2, 3, 0}, {0, 2, 3}})
      for (const bool ties : {false, true}) {
        const int64_t length = outer * inner, n = length * axis;
        const std::vector<float> x = scores(rng, n, ties);
        const Device<float> dx(x);
        for (const int64_t keep : {int64_t(0), length / 3, length}) {
          std::vector<uint8_t> mask(static_cast<size_t>(n));
          select_balanced(x.data(), outer, axis, inner, keep, mask.data());
          const Device<uint8_t> dmask(n);
          c.expect(cuda.balanced(0, dx, outer, axis, inner, keep, dmask) == WHITTLE_OK && differs(dmask.host(), mask) < 0, "%d of [%d %d %d]", int(keep), int(outer),
                   int(axis), int(inner));
        }
      }
    c.expect(cuda.balanced(0, nullptr, 1, 1, 2, 3, nullptr) == WHITTLE_RANGE, "more than a group has");
    for (const auto& [groups, repeat, count, width] : {std::tuple<int64_t, int64_t, int64_t, int64_t>(1, 1, 1, 1), {3, 4, 5, 2}, {1, 6, 7, 30}, {2, 1, 0, 3}}) {
      std::vector<uint8_t> chosen(static_cast<size_t>(groups * count)), mask(static_cast<size_t>(groups * repeat * count * width));
      for (uint8_t& v : chosen) v = static_cast<uint8_t>(rng.below(2));
      select_expand(chosen.data(), groups, repeat, count, width, mask.data());
      const Device<uint8_t> dc(chosen), dm(groups * repeat * count * width);
      c.expect(cuda.expand(0, dc, groups, repeat, count, width, dm) == WHITTLE_OK && differs(dm.host(), mask) < 0, "painted");
    }
  });

  c.row("select: scores of blocks, distances between groups, random ones", [&](Rng& rng) {
    const auto near = [&](const std::vector<float>& got, const std::vector<float>& want, const char* what) {
      for (size_t i = 0; i < want.size(); i++)
        c.expect(fabs(double(got[i]) - double(want[i])) <= 0x1p-22 * fabs(double(want[i])) + 1e-12, "%s %d: %.9g, want %.9g", what, int(i), got[i], want[i]);
    };
    for (int norm = 0; norm < kSelectNorms; norm++)
      for (const auto& [rows, cols, r, cc] : {std::tuple<int64_t, int64_t, int64_t, int64_t>(1, 1, 1, 1), {8, 12, 1, 4}, {32, 64, 32, 32}, {6, 10, 3, 5}, {5, 40, 5, 8}, {0, 4, 2, 2}}) {
        // Sums of signed terms cancel: their error is of the terms.
        std::vector<float> x = rng.normals(rows * cols), g = rng.normals(rows * cols);
        if (norm == kSelectSum || norm == kSelectTaylor)
          for (size_t i = 0; i < x.size(); i++) {
            x[i] = fabsf(x[i]);
            g[i] = fabsf(g[i]);
          }
        const int64_t count = rows / r * (cols / cc);
        std::vector<float> want(static_cast<size_t>(count));
        select_blocks(norm, x.data(), g.data(), rows, cols, r, cc, want.data());
        const Device<float> dx(x), dg(g), out(count);
        c.expect(cuda.blocks(0, norm, dx, dg, rows, cols, r, cc, out) == WHITTLE_OK, "status");
        near(out.host(), want, "block");
      }
    for (const auto& [outer, axis, inner] : {std::tuple<int64_t, int64_t, int64_t>(1, 1, 5), {1, 9, 40}, {3, 10, 7}, {2, 3, 0}}) {
      const std::vector<float> x = rng.normals(outer * axis * inner);
      std::vector<float> want(static_cast<size_t>(axis));
      select_median(x.data(), outer, axis, inner, want.data());
      const Device<float> dx(x), out(axis);
      c.expect(cuda.median(0, dx, outer, axis, inner, out) == WHITTLE_OK, "status");
      near(out.host(), want, "group");
    }
    std::vector<float> want(300);
    const uint64_t seed = rng.next();
    select_random(seed, 300, want.data());
    const Device<float> out(300);
    c.expect(cuda.random(0, seed, 300, out) == WHITTLE_OK && differs(out.host(), want) < 0, "random scores");
  });

  c.row("select: finds NaN", [&](Rng& rng) {
    for (const int64_t n : {4, 300, 5000}) {
      std::vector<float> x = rng.normals(n);
      x[static_cast<size_t>(rng.below(n))] = NAN;
      const Device<float> dx(x), out(n);
      const Device<uint8_t> mask(n);
      float threshold;
      c.expect(cuda.scores(0, kSelectL1, dx, nullptr, n, out) == WHITTLE_NONFINITE, "scores");
      c.expect(cuda.groups(0, kSelectMax, dx, nullptr, 1, 1, n, out) == WHITTLE_NONFINITE, "groups");
      c.expect(cuda.largest(0, dx, n, n / 2, mask, &threshold) == WHITTLE_NONFINITE, "largest");
      c.expect(cuda.largest(0, dx, n, 0, mask, &threshold) == WHITTLE_NONFINITE, "largest, none kept");
      c.expect(cuda.nm(0, dx, n / 4, 4, 1, 2, 4, mask) == WHITTLE_NONFINITE, "2:4");
      int64_t counts[kSelectBins] = {};
      c.expect(cuda.above(0, dx, n, 0, 0, mask) == WHITTLE_NONFINITE, "above");
      c.expect(cuda.count(0, dx, n, 0, 21, counts) == WHITTLE_NONFINITE, "counts");
      for (const int64_t keep : {0, 1}) c.expect(cuda.balanced(0, dx, 1, 4, n / 4, keep, mask) == WHITTLE_NONFINITE, "balanced");
      c.expect(cuda.blocks(0, kSelectMax, dx, nullptr, n / 4, 4, n / 4, 2, out) == WHITTLE_NONFINITE, "blocks");
      c.expect(cuda.median(0, dx, 1, 4, n / 4, out) == WHITTLE_NONFINITE, "median");
    }
    c.expect(cuda.largest(0, nullptr, 4, 5, nullptr, nullptr) == WHITTLE_RANGE, "keep above n");
  });
}

}  // namespace whittle
