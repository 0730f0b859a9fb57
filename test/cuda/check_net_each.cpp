// Steps that give every result its own thread: pools, resizing, what windows give a pixel, copies, fills, the best of a line,
// rows picked by label, trigonometry.
#include <math.h>

#include <algorithm>

#include "check_net.h"

namespace whittle {
namespace {

bool near(float got, double want, double scale) { return fabs(static_cast<double>(got) - want) <= 1e-6 * (fabs(want) + scale); }

void pools(Check& c, Rng& rng) {
  // n h w c, oh ow, kernel, strides, dilations, pads top left bottom right.
  const PoolProblem shapes[] = {
      {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, false, false, nullptr, nullptr},
      {2, 7, 9, 3, 4, 5, 3, 3, 2, 2, 1, 1, 1, 1, 1, 1, false, false, nullptr, nullptr},
      {1, 4, 4, 5, 3, 3, 1, 1, 3, 3, 1, 1, 1, 1, 2, 2, false, false, nullptr, nullptr},
      {2, 8, 6, 4, 4, 2, 2, 3, 2, 1, 1, 2, 0, 0, 0, 0, false, false, nullptr, nullptr},
  };
  for (const PoolProblem& s : shapes)
    for (int way = 0; way < 3; way++) {
      PoolProblem p = s;
      p.average = way > 0;
      p.count_padding = way > 1;
      std::vector<float> x = rng.normals(p.n * p.h * p.w * p.c);
      if (x.size() > 20 && way == 0) x[17] = NAN;
      const Device<float> dx(x), out(p.n * p.oh * p.ow * p.c);
      p.x = dx;
      p.out = out;
      c.expect(in_turn(c, [&](const CudaNet& net, CudaTurn* t) { net.pool(t, p); }) == WHITTLE_OK, "status");
      const std::vector<float> got = out.host();
      for (int64_t i = 0; i < int64_t(got.size()); i++) {
        const int64_t channel = i % p.c, ox = i / p.c % p.ow, oy = i / p.c / p.ow % p.oh, image = i / p.c / p.ow / p.oh;
        double sum = 0, top = -INFINITY;
        int64_t seen = 0, all = 0;
        for (int64_t ky = 0; ky < p.kh; ky++)
          for (int64_t kx = 0; kx < p.kw; kx++) {
            const int64_t iy = oy * p.stride_h - p.pad_top + ky * p.dilation_h, ix = ox * p.stride_w - p.pad_left + kx * p.dilation_w;
            if (iy >= p.h + p.pad_bottom || ix >= p.w + p.pad_right) continue;
            all++;
            if (iy < 0 || ix < 0 || iy >= p.h || ix >= p.w) continue;
            const double v = double(x[size_t(((image * p.h + iy) * p.w + ix) * p.c + channel)]);
            seen++;
            sum += v;
            top = top != top || v != v ? NAN : std::max(top, v);
          }
        const int64_t count = way > 1 ? all : seen;
        const double want = way == 0 ? top : count ? sum / double(count) : 0;
        if (!c.expect(want != want ? got[size_t(i)] != got[size_t(i)] : want == double(got[size_t(i)]) || near(got[size_t(i)], want, 9), "pool %d at %d: %g, want %g", way, int(i), double(got[size_t(i)]), want)) return;
      }
    }
}

void resizing(Check& c, Rng& rng) {
  for (const auto& [n, h, w, ch, oh, ow, taps] : {std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t>(1, 1, 1, 1, 1, 1, 1), {2, 5, 7, 3, 9, 4, 2}, {1, 6, 3, 8, 13, 11, 4}}) {
    const auto places = [&, many = taps](int64_t to, int64_t from) {
      std::vector<int32_t> v(size_t(to * many));
      for (int32_t& i : v) i = static_cast<int32_t>(rng.below(from));
      return v;
    };
    const std::vector<int32_t> iy = places(oh, h), ix = places(ow, w);
    const std::vector<float> wy = rng.normals(oh * taps), wx = rng.normals(ow * taps), x = rng.normals(n * h * w * ch);
    const Device<int32_t> diy(iy), dix(ix);
    const Device<float> dwy(wy), dwx(wx), dx(x), out(n * oh * ow * ch);
    const ResizeProblem p = {n, h, w, ch, oh, ow, taps, taps, diy, dix, dwy, dwx, dx, out};
    c.expect(in_turn(c, [&](const CudaNet& net, CudaTurn* t) { net.resize(t, p); }) == WHITTLE_OK, "status");
    const std::vector<float> got = out.host();
    for (int64_t i = 0; i < int64_t(got.size()); i++) {
      const int64_t channel = i % ch, at_x = i / ch % ow, at_y = i / ch / ow % oh, image = i / ch / ow / oh;
      double want = 0, size = 0;
      for (int64_t a = 0; a < taps; a++)
        for (int64_t b = 0; b < taps; b++) {
          const double v = double(wy[size_t(at_y * taps + a)]) * double(wx[size_t(at_x * taps + b)]) *
                           double(x[size_t(((image * h + iy[size_t(at_y * taps + a)]) * w + ix[size_t(at_x * taps + b)]) * ch + channel)]);
          want += v;
          size += fabs(v);
        }
      if (!c.expect(near(got[size_t(i)], want, size), "resized at %d: %g, want %g", int(i), double(got[size_t(i)]), want)) return;
    }
  }
}

void scattered(Check& c, Rng& rng) {
  for (const auto& [n, h, w, ch, kernel, stride, dilation, pad] : {std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t>(1, 1, 1, 1, 1, 1, 1, 0), {2, 4, 3, 5, 3, 2, 1, 1}, {1, 5, 4, 3, 2, 1, 2, 0}})
    for (const bool biased : {false, true}) {
      const int64_t oh = (h - 1) * stride + (kernel - 1) * dilation + 1 - 2 * pad, ow = (w - 1) * stride + (kernel - 1) * dilation + 1 - 2 * pad;
      const std::vector<float> in = rng.normals(n * h * w * kernel * kernel * ch), bias = rng.normals(ch);
      const Device<float> din(in), db(bias), out(n * oh * ow * ch);
      const ScatterProblem p = {n, h, w, ch, oh, ow, kernel, kernel, stride, stride, dilation, dilation, pad, pad, din, biased ? static_cast<float*>(db) : nullptr, out};
      c.expect(in_turn(c, [&](const CudaNet& net, CudaTurn* t) { net.scatter_taps(t, p); }) == WHITTLE_OK, "status");
      std::vector<double> want(size_t(n * oh * ow * ch), 0);
      for (size_t i = 0; biased && i < want.size(); i++) want[i] = double(bias[i % size_t(ch)]);
      for (int64_t i = 0; i < int64_t(in.size()); i++) {
        const int64_t channel = i % ch, kx = i / ch % kernel, ky = i / ch / kernel % kernel, x = i / ch / kernel / kernel % w, y = i / ch / kernel / kernel / w % h;
        const int64_t image = i / ch / kernel / kernel / w / h, oy = y * stride + ky * dilation - pad, ox = x * stride + kx * dilation - pad;
        if (oy >= 0 && ox >= 0 && oy < oh && ox < ow) want[size_t(((image * oh + oy) * ow + ox) * ch + channel)] += double(in[size_t(i)]);
      }
      const std::vector<float> got = out.host();
      for (size_t i = 0; i < want.size(); i++)
        if (!c.expect(near(got[i], want[i], 20), "given at %d: %g, want %g", int(i), double(got[i]), want[i])) return;
    }
}

template <class T>
void copies(Check& c, Rng& rng) {
  // [5][7][3] turned to [3][5][7], every second column of a wider row.
  const int64_t size = static_cast<int64_t>(sizeof(T)), inner = 6, whole = 5 * 7 * inner;
  std::vector<T> x(static_cast<size_t>(whole)), want(5 * 7 * 3);
  for (T& v : x) v = static_cast<T>(rng.next());
  const Device<T> dx(x), out(int64_t(want.size()));
  StridedCopy p = {};
  p.rank = 3;
  const int64_t dims[] = {3, 5, 7}, from[] = {2, 7 * inner, inner}, to[] = {35, 7, 1};
  std::copy(dims, dims + 3, p.dims);
  std::copy(from, from + 3, p.in_strides);
  std::copy(to, to + 3, p.out_strides);
  p.size = size;
  for (size_t k = 0; k < 3; k++)
    for (size_t i = 0; i < 35; i++) want[k * 35 + i] = x[i * inner + 2 * k];
  c.expect(in_turn(c, [&](const CudaNet& net, CudaTurn* t) { net.copy(t, p, dx, out); }) == WHITTLE_OK && differs(out.host(), want) < 0, "elements of %d bytes", int(size));
}

void labels(Check& c, Rng& rng) {
  for (const int64_t inner : {3, 4, 40}) {
    const std::vector<int32_t> index = {4, -5, 0, 2, -1};
    std::vector<uint8_t> x(size_t(2 * 5 * inner)), want;
    for (uint8_t& v : x) v = static_cast<uint8_t>(rng.next());
    for (int64_t o = 0; o < 2; o++)
      for (const int32_t i : index) {
        const auto row = x.begin() + (o * 5 + (i < 0 ? i + 5 : i)) * inner;
        want.insert(want.end(), row, row + inner);
      }
    const Device<uint8_t> dx(x), out(int64_t(want.size()));
    const Device<int32_t> di(index);
    const CudaGather p = {2, 5, inner, 5, false, dx, di, out};
    c.expect(in_turn(c, [&](const CudaNet& net, CudaTurn* t) { net.gather(t, p); }) == WHITTLE_OK && differs(out.host(), want) < 0, "rows of %d bytes", int(inner));
  }
}

void put(Check& c, Rng& rng) {
  for (const int bytes : {1, 2, 8}) {
    const auto random = [&](int64_t n) {
      std::vector<uint8_t> v(size_t(n * bytes));
      for (uint8_t& b : v) b = static_cast<uint8_t>(rng.next());
      return v;
    };
    const std::vector<uint8_t> x = random(6), updates = random(4);
    const std::vector<int64_t> index = {5, -6, 2, 2};
    std::vector<uint8_t> want = x;
    const int64_t to[] = {5, 0, 2, 2};
    for (int64_t i = 0; i < 4; i++) std::copy(updates.begin() + i * bytes, updates.begin() + (i + 1) * bytes, want.begin() + to[i] * bytes);
    const Device<uint8_t> dx(x), du(updates), out(6 * bytes);
    const Device<int64_t> di(index);
    const CudaElements p = {1, 0, {6}, {4}, bytes, true, kScatterPut, dx, di, du, out};
    c.expect(in_turn(c, [&](const CudaNet& net, CudaTurn* t) { net.scatter_elements(t, p); }) == WHITTLE_OK && differs(out.host(), want) < 0, "elements of %d bytes", bytes);
  }
}

void best(Check& c, Rng& rng) {
  for (const auto& [outer, n, inner] : {std::tuple<int64_t, int64_t, int64_t>(1, 1, 1), {3, 40, 1}, {2, 9, 70}})
    for (int way = 0; way < 4; way++) {
      const bool least = way & 1, last = way & 2;
      std::vector<float> x(size_t(outer * n * inner));
      for (float& v : x) v = static_cast<float>(rng.below(6));
      const Device<float> dx(x);
      const Device<int64_t> out(outer * inner);
      c.expect(in_turn(c, [&, outer = outer, n = n, inner = inner](const CudaNet& net, CudaTurn* t) { net.arg_best(t, outer, n, inner, least, last, dx, out); }) == WHITTLE_OK, "status");
      std::vector<int64_t> want;
      for (int64_t l = 0; l < outer * inner; l++) {
        int64_t at = 0;
        const auto value = [&, n = n, inner = inner](int64_t i) { return x[size_t((l / inner * n + i) * inner + l % inner)]; };
        for (int64_t i = 1; i < n; i++) {
          const float a = value(i), b = value(at);
          if (a == b ? last : least ? a < b : a > b) at = i;
        }
        want.push_back(at);
      }
      c.expect(differs(out.host(), want) < 0, "[%d %d %d] way %d", int(outer), int(n), int(inner), way);
    }
}

void fills(Check& c) {
  const Device<float> out(std::vector<float>(700, 1.0f));
  c.expect(in_turn(c, [&](const CudaNet& net, CudaTurn* t) { net.fill(t, 600, -2.5f, out); }) == WHITTLE_OK, "status");
  const std::vector<float> got = out.host();
  for (size_t i = 0; i < got.size(); i++)
    if (!c.expect(got[i] == (i < 600 ? -2.5f : 1.0f), "at %d: %g", int(i), double(got[i]))) return;
}

void turns(Check& c, Rng& rng) {
  double (*const functions[])(double) = {sin, cos, tan, asin, acos, atan, sinh, cosh, asinh, acosh, atanh};
  const int32_t ops[] = {kElementwise_sin, kElementwise_cos, kElementwise_tan, kElementwise_asin, kElementwise_acos, kElementwise_atan,
                         kElementwise_sinh, kElementwise_cosh, kElementwise_asinh, kElementwise_acosh, kElementwise_atanh};
  for (size_t f = 0; f < 11; f++) {
    std::vector<float> x(300);
    for (float& v : x) v = ops[f] == kElementwise_acosh ? rng.uniform(1.01f, 4) : rng.uniform(-0.95f, 0.95f);
    const Device<float> dx(x), out(300);
    CudaElementwise p = {};
    p.rank = p.inputs = p.steps = 1;
    p.size = p.dims[0] = 300;
    p.strides[0][0] = 1;
    p.input[0] = dx;
    p.step[0] = {ops[f], 0, 0, 1, 0, 0};
    p.out = out;
    c.expect(in_turn(c, [&](const CudaNet& net, CudaTurn* t) { net.elementwise(t, p); }) == WHITTLE_OK, "status");
    const std::vector<float> got = out.host();
    for (size_t i = 0; i < got.size(); i++)
      if (!c.expect(near(got[i], functions[f](double(x[i])), 1), "function %d of %g: %g", int(f), double(x[i]), double(got[i]))) return;
  }
}

}  // namespace

void check_net_each(Check& c) {
  c.row("net: pools", [&](Rng& rng) { pools(c, rng); });
  c.row("net: resizing", [&](Rng& rng) { resizing(c, rng); });
  c.row("net: what windows give a pixel", [&](Rng& rng) { scattered(c, rng); });
  c.row("net: copies of elements of every size", [&](Rng& rng) {
    copies<uint8_t>(c, rng);
    copies<uint16_t>(c, rng);
    copies<uint32_t>(c, rng);
    copies<uint64_t>(c, rng);
  });
  c.row("net: rows by label, elements put by index", [&](Rng& rng) {
    labels(c, rng);
    put(c, rng);
  });
  c.row("net: the best of lines", [&](Rng& rng) { best(c, rng); });
  c.row("net: fills", [&](Rng&) { fills(c); });
  c.row("net: trigonometry", [&](Rng& rng) { turns(c, rng); });
}

}  // namespace whittle
