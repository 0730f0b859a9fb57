#include "core/sample.h"

#include <math.h>

#include <algorithm>
#include <atomic>

#include "core/scratch.h"
#include "core/threads.h"

namespace whittle {
namespace {

// A pixel and its share of a sample.
struct Tap {
  const float* pixel;
  float share;
};

// Places further away lie outside all the same.
constexpr double kFar = 1e12;

// Samples that a region may have in one place.
constexpr int64_t kMostSamples = 1 << 20;

void weigh(int64_t c, const Tap* taps, int64_t count, float* __restrict out) {
  if (count == 0) {
    std::fill_n(out, c, 0.0f);
    return;
  }
  int64_t i = 0;
  if (count >= 4) {
    const float *p0 = taps[0].pixel, *p1 = taps[1].pixel, *p2 = taps[2].pixel, *p3 = taps[3].pixel;
    const float s0 = taps[0].share, s1 = taps[1].share, s2 = taps[2].share, s3 = taps[3].share;
    for (int64_t k = 0; k < c; k++) out[k] = s0 * p0[k] + s1 * p1[k] + s2 * p2[k] + s3 * p3[k];
    i = 4;
  } else {
    const float* p = taps[0].pixel;
    const float s = taps[0].share;
    for (int64_t k = 0; k < c; k++) out[k] = s * p[k];
    i = 1;
  }
  for (; i < count; i++) {
    const float* p = taps[i].pixel;
    const float s = taps[i].share;
    for (int64_t k = 0; k < c; k++) out[k] += s * p[k];
  }
}

double mirrored(double v, double low, double high) {
  const double span = high - low;
  if (v >= low && v <= high) return v;
  if (span == 0) return low;
  const double d = fmod(fabs(v - low), 2 * span);
  return low + (d > span ? 2 * span - d : d);
}

// Keys 1981, a = -0.75: shares of four neighbours of a point t behind the second one.
void cubic(double t, double* share) {
  const double a = -0.75;
  const auto near = [&](double d) { return ((a + 2) * d - (a + 3)) * d * d + 1; };
  const auto far = [&](double d) { return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a; };
  share[0] = far(1 + t);
  share[1] = near(t);
  share[2] = near(1 - t);
  share[3] = far(2 - t);
}

// Neighbours along one axis of a place: their indices (-1: outside) and shares; answers how many.
int along(const GridSampleProblem& p, double place, int64_t size, int64_t* at, double* share) {
  const double far = static_cast<double>(size);
  const auto settle = [&](double v) {
    if (p.outside == SampleOutside::border) return std::min(std::max(v, 0.0), far - 1);
    if (p.outside == SampleOutside::zeros) return v;
    return std::min(std::max(mirrored(v, p.corners ? 0 : -0.5, p.corners ? far - 1 : far - 0.5), 0.0), far - 1);
  };
  double v = p.corners ? (place + 1) / 2 * (far - 1) : ((place + 1) * far - 1) / 2;
  if (isnan(v)) return 0;
  if (p.mode != SampleMode::cubic) v = settle(v);
  v = std::min(std::max(v, -kFar), kFar);
  const double whole = static_cast<double>(static_cast<int64_t>(v)), low = whole - (whole > v ? 1 : 0);
  const double first = p.mode == SampleMode::nearest ? nearbyint(v) : low;
  const double t = v - first;
  int count = 1;
  if (p.mode == SampleMode::nearest) {
    share[0] = 1;
  } else if (p.mode == SampleMode::linear) {
    share[0] = 1 - t;
    share[1] = t;
    count = 2;
  } else {
    cubic(t, share);
    count = 4;
  }
  for (int i = 0; i < count; i++) {
    const double c = settle(first + i - (count == 4 ? 1 : 0));
    at[i] = c >= 0 && c < far ? static_cast<int64_t>(c) : -1;
  }
  return count;
}

}  // namespace

WhittleStatus grid_sample(const GridSampleProblem& p, int threads) {
  parallel_for(p.n * p.points, std::max<int64_t>(1, (16 << 10) / (p.c * 4 + 32)), threads, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      const float* image = p.x + t / p.points * p.h * p.w * p.c;
      int64_t x[4], y[4];
      double xs[4], ys[4];
      const int nx = along(p, static_cast<double>(p.grid[2 * t]), p.w, x, xs), ny = along(p, static_cast<double>(p.grid[2 * t + 1]), p.h, y, ys);
      Tap taps[16];
      int64_t count = 0;
      for (int i = 0; i < ny; i++)
        for (int j = 0; j < nx; j++)
          if (y[i] >= 0 && x[j] >= 0) taps[count++] = {image + (y[i] * p.w + x[j]) * p.c, static_cast<float>(ys[i] * xs[j])};
      weigh(p.c, taps, count, p.out + t * p.c);
    }
  });
  return WHITTLE_OK;
}

WhittleStatus roi_align(const RoiAlignProblem& p, int threads) {
  std::atomic<int> status{WHITTLE_OK};
  const double h = static_cast<double>(p.h), w = static_cast<double>(p.w);
  const double columns = static_cast<double>(p.ow), lines = static_cast<double>(p.oh);
  parallel_for(p.regions, 1, threads, [&](int64_t begin, int64_t end) {
    static thread_local Scratch scratch;
    for (int64_t r = begin; r < end; r++) {
      const int64_t b = p.batch[r];
      const auto side = [&](int i) { return static_cast<double>(p.rois[4 * r + i]) * p.scale - (p.half ? 0.5 : 0); };
      const double x1 = side(0), y1 = side(1), least = p.half ? -INFINITY : 1;
      const double width = std::max(side(2) - x1, least), height = std::max(side(3) - y1, least);
      const double bw = width / columns, bh = height / lines;
      const double across = p.ratio > 0 ? static_cast<double>(p.ratio) : ceil(bw), down = p.ratio > 0 ? static_cast<double>(p.ratio) : ceil(bh);
      if (b < 0 || b >= p.n || !(across <= kMostSamples && down <= kMostSamples && across * down <= kMostSamples)) {
        status = WHITTLE_RANGE;
        return;
      }
      const int64_t gw = std::max<int64_t>(0, static_cast<int64_t>(across)), gh = std::max<int64_t>(0, static_cast<int64_t>(down));
      Tap* taps = static_cast<Tap*>(scratch.take(static_cast<int64_t>(sizeof(Tap)) * std::max<int64_t>(1, 4 * gw * gh)));
      if (!taps) {
        status = WHITTLE_OUT_OF_MEMORY;
        return;
      }
      const float* image = p.x + b * p.h * p.w * p.c;
      const double share = 1.0 / static_cast<double>(std::max<int64_t>(1, gw * gh));
      for (int64_t o = 0; o < p.oh * p.ow; o++) {
        int64_t count = 0;
        bool outside = false;
        for (int64_t i = 0; i < gh; i++)
          for (int64_t j = 0; j < gw; j++) {
            double y = y1 + static_cast<double>(o / p.ow) * bh + (static_cast<double>(i) + 0.5) * bh / down;
            double x = x1 + static_cast<double>(o % p.ow) * bw + (static_cast<double>(j) + 0.5) * bw / across;
            if (!(y >= -1 && y <= h && x >= -1 && x <= w) || p.h * p.w == 0) {
              outside = true;
              continue;
            }
            y = std::min(std::max(y, 0.0), h - 1);
            x = std::min(std::max(x, 0.0), w - 1);
            const int64_t y0 = static_cast<int64_t>(y), x0 = static_cast<int64_t>(x);
            const int64_t ys[2] = {y0, std::min(y0 + 1, p.h - 1)}, xs[2] = {x0, std::min(x0 + 1, p.w - 1)};
            const double dy = y - static_cast<double>(y0), dx = x - static_cast<double>(x0);
            for (int k = 0; k < 4; k++) {
              const double part = (k / 2 ? dy : 1 - dy) * (k % 2 ? dx : 1 - dx);
              taps[count++] = {image + (ys[k / 2] * p.w + xs[k % 2]) * p.c, static_cast<float>(p.largest ? part : part * share)};
            }
          }
        float* out = p.out + (r * p.oh * p.ow + o) * p.c;
        if (!p.largest) {
          weigh(p.c, taps, count, out);
          continue;
        }
        std::fill_n(out, p.c, outside || count == 0 ? 0.0f : -INFINITY);
        for (int64_t i = 0; i < count; i++)
          for (int64_t k = 0; k < p.c; k++) out[k] = std::max(out[k], taps[i].share * taps[i].pixel[k]);
      }
    }
  });
  return static_cast<WhittleStatus>(status.load());
}

}  // namespace whittle
