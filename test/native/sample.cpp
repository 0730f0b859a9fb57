// Images read between their pixels, against the definition in double.
#include "core/sample.h"

#include <math.h>

#include <algorithm>
#include <vector>

#include "test/native/harness.h"

namespace whittle {
namespace {

double pixel(const float* image, int64_t h, int64_t w, int64_t c, int64_t y, int64_t x, int64_t k) {
  return y < 0 || x < 0 || y >= h || x >= w ? 0 : static_cast<double>(image[(y * w + x) * c + k]);
}

}  // namespace

WHITTLE_CHECK(sample) {
  h.row("grid_sample, linear, zeros outside", [&] {
    Rng rng = h.rng();
    for (int round = 0; round < 20; round++) {
      GridSampleProblem p = {};
      p.n = rng.between(1, 2);
      p.h = rng.between(0, 7);
      p.w = rng.between(1, 7);
      p.c = rng.between(1, 19);
      p.points = rng.between(1, 30);
      p.mode = SampleMode::linear;
      p.corners = rng.below(2) == 0;
      std::vector<float> x(static_cast<size_t>(p.n * p.h * p.w * p.c)), grid(static_cast<size_t>(p.n * p.points * 2)), out(static_cast<size_t>(p.n * p.points * p.c));
      for (float& v : x) v = rng.normal();
      for (float& v : grid) v = 1.5f * rng.normal();
      grid[0] = NAN;
      grid[grid.size() - 1] = round % 2 ? INFINITY : -3e38f;
      p.x = x.data();
      p.grid = grid.data();
      p.out = out.data();
      if (!h.expect(grid_sample(p, 2) == WHITTLE_OK, "status")) return;
      for (int64_t t = 0; t < p.n * p.points; t++) {
        const auto place = [&](float v, int64_t size) {
          const double d = static_cast<double>(size), g = static_cast<double>(v);
          return p.corners ? (g + 1) / 2 * (d - 1) : ((g + 1) * d - 1) / 2;
        };
        const double px = place(grid[static_cast<size_t>(2 * t)], p.w), py = place(grid[static_cast<size_t>(2 * t + 1)], p.h);
        const bool near = fabs(px) < 100 && fabs(py) < 100;
        const int64_t x0 = near ? static_cast<int64_t>(floor(px)) : -9, y0 = near ? static_cast<int64_t>(floor(py)) : -9;
        const double dx = px - static_cast<double>(x0), dy = py - static_cast<double>(y0);
        for (int64_t k = 0; k < p.c; k++) {
          double want = 0;
          for (int64_t i = 0; near && i < 4; i++)
            want += (i / 2 ? dy : 1 - dy) * (i % 2 ? dx : 1 - dx) * pixel(p.x + t / p.points * p.h * p.w * p.c, p.h, p.w, p.c, y0 + i / 2, x0 + i % 2, k);
          const double got = static_cast<double>(out[static_cast<size_t>(t * p.c + k)]);
          if (!h.expect(fabs(got - want) <= 1e-5, "point %lld, channel %lld: %g, want %g", static_cast<long long>(t), static_cast<long long>(k), got, want)) return;
        }
      }
      for (const SampleMode mode : {SampleMode::nearest, SampleMode::cubic})
        for (const SampleOutside outside : {SampleOutside::border, SampleOutside::reflection}) {
          p.mode = mode;
          p.outside = outside;
          if (!h.expect(grid_sample(p, 1) == WHITTLE_OK, "status of another mode")) return;
        }
    }
  });
  h.row("roi_align", [&] {
    Rng rng = h.rng();
    for (int round = 0; round < 20; round++) {
      RoiAlignProblem p = {};
      p.n = rng.between(1, 2);
      p.h = rng.between(1, 9);
      p.w = rng.between(1, 9);
      p.c = rng.between(1, 17);
      p.regions = rng.between(1, 4);
      p.oh = rng.between(1, 3);
      p.ow = rng.between(1, 3);
      p.ratio = rng.between(0, 2);
      p.scale = 0.5;
      p.half = rng.below(2) == 0;
      std::vector<float> x(static_cast<size_t>(p.n * p.h * p.w * p.c), 3.0f), rois(static_cast<size_t>(p.regions * 4)), out(static_cast<size_t>(p.regions * p.oh * p.ow * p.c));
      std::vector<int64_t> batch(static_cast<size_t>(p.regions));
      for (int64_t r = 0; r < p.regions; r++) {
        batch[static_cast<size_t>(r)] = rng.between(0, p.n - 1);
        for (int i = 0; i < 4; i++) rois[static_cast<size_t>(4 * r + i)] = static_cast<float>(i < 2 ? rng.between(0, 5) : rng.between(6, 30));
      }
      p.x = x.data();
      p.rois = rois.data();
      p.batch = batch.data();
      p.out = out.data();
      if (!h.expect(roi_align(p, 2) == WHITTLE_OK, "status")) return;
      // An even image is even in every sample within it.
      for (float v : out)
        if (!h.expect(v >= 0 && v <= 3.0f + 1e-5f, "a mean beyond the image's numbers")) return;
      p.largest = true;
      if (!h.expect(roi_align(p, 1) == WHITTLE_OK, "status of maxima")) return;
      batch[0] = p.n;
      if (!h.expect(roi_align(p, 1) == WHITTLE_RANGE, "a region of no image")) return;
      batch[0] = 0;
      rois[2] = INFINITY;
      p.ratio = 0;
      if (!h.expect(roi_align(p, 1) == WHITTLE_RANGE, "a region without end")) return;
    }
  });
}

}  // namespace whittle
