// Steps of plans against their definitions in double precision.
#include <math.h>

#include <algorithm>
#include <memory>
#include <tuple>

#include "check_net.h"

namespace whittle {
namespace {

double activated(double v, const Activation& a) {
  switch (a.kind) {
    case kActivationClip: return v != v ? v : std::min(std::max(v, double(a.lo)), double(a.hi));
    case kActivationSilu: return v / (1 + exp(-v));
    case kActivationGelu: return 0.5 * v * erfc(-v * M_SQRT1_2);
    default: return v;
  }
}

const Activation kKinds[] = {{kActivationNone, -INFINITY, INFINITY}, {kActivationClip, 0, INFINITY}, {kActivationGelu, -INFINITY, INFINITY}, {kActivationSilu, -INFINITY, INFINITY}};

// `sum` of magnitudes bounds what n roundings lose; activations lose a little more.
bool near(double got, double want, double sum, int64_t n) { return fabs(got - want) <= (double(n) + 8) * 0x1p-23 * (sum + fabs(want)) + 0x1p-20 * std::min(1.0, fabs(want) + sum); }

void products(Check& c, Rng& rng) {
  for (const auto& [m, n, k] : {std::tuple<int64_t, int64_t, int64_t>(1, 1, 1), {5, 3, 0}, {64, 64, 16}, {65, 67, 33}, {1, 70, 130}, {130, 9, 17}})
    for (int way = 0; way < 4; way++) {
      if (c.lean() && m * n * k > 9000 && way > 1) continue;
      const bool turned_a = way & 1, turned_b = way & 2, many = way == 3 && k > 0;
      const int64_t batch = many ? 3 : 1;
      const int32_t map[] = {1, 0, 0, 0, 1, 1, 1, 1, 2};
      const std::vector<float> a = rng.normals(2 * m * k + 1), b = rng.normals(2 * k * n + 1), bias = rng.normals(n), add = rng.normals(batch * m * n);
      const Device<float> da(a), db(b), dbias(bias), dadd(add), dc(batch * m * n);
      const Device<int32_t> dmap(std::vector<int32_t>(map, map + 9));
      GemmProblem g;
      g.m = m;
      g.n = n;
      g.k = k;
      g.a = da;
      g.a_row = turned_a ? 1 : k;
      g.a_col = turned_a ? m : 1;
      g.b = db;
      g.b_row = turned_b ? 1 : n;
      g.b_col = turned_b ? k : 1;
      g.a_batch = m * k;
      g.b_batch = k * n;
      g.c = dc;
      g.ldc = n;
      g.alpha = way == 1 ? 0.5f : 1;
      if (way != 0) g.bias = dbias;
      if (way >= 2) {
        g.beta = 1;
        g.source = dadd;
      }
      g.activation = kKinds[way];
      g.batch = batch;
      if (many) g.map = dmap;
      c.expect(in_turn(c, [&](const CudaNet& net, CudaTurn* t) { net.gemm(t, g); }) == WHITTLE_OK, "status");
      const std::vector<float> got = dc.host();
      for (int64_t s = 0; s < batch; s++)
        for (int64_t i = 0; i < m; i++)
          for (int64_t j = 0; j < n; j++) {
            double v = 0, sum = 0;
            for (int64_t p = 0; p < k; p++) {
              const double u = double(a[size_t((many ? map[3 * s] : 0) * m * k + i * g.a_row + p * g.a_col)]) *
                               double(b[size_t((many ? map[3 * s + 1] : 0) * k * n + p * g.b_row + j * g.b_col)]);
              v += u;
              sum += fabs(u);
            }
            v *= double(g.alpha);
            const int64_t at = (s * m + i) * n + j;
            const double more = g.source ? double(add[size_t(at)]) : 0, shift = g.bias ? double(bias[size_t(j)]) : 0;
            v += more + shift;
            sum += fabs(more) + fabs(shift);
            const double want = activated(v, g.activation);
            if (!c.expect(near(got[size_t(at)], want, sum, k), "[%d %d %d] way %d at %d: %.9g, want %.9g", int(m), int(n), int(k), way, int(at), got[size_t(at)], want)) return;
          }
    }
}

void convolutions(Check& c, Rng& rng) {
  struct Shape {
    int64_t n, h, w, ic, oc, groups, kh, kw, sh, sw, dh, dw, top, left, bottom, right;
  };
  for (const Shape& s : {Shape{1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0}, {2, 7, 9, 3, 70, 1, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1}, {1, 9, 8, 5, 6, 1, 3, 2, 2, 3, 2, 1, 2, 0, 1, 1},
                         {1, 8, 5, 17, 9, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0}, {1, 6, 7, 8, 12, 4, 3, 3, 1, 2, 1, 1, 1, 1, 0, 1}, {2, 6, 5, 6, 4, 2, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0},
                         {2, 9, 7, 33, 33, 33, 3, 5, 2, 1, 1, 1, 1, 2, 1, 2}, {1, 4, 4, 4, 4, 4, 3, 3, 1, 1, 2, 2, 3, 2, 2, 2}}) {
    const int64_t oh = (s.h + s.top + s.bottom - (s.kh - 1) * s.dh - 1) / s.sh + 1, ow = (s.w + s.left + s.right - (s.kw - 1) * s.dw - 1) / s.sw + 1;
    const int64_t each = s.ic / s.groups, per = s.oc / s.groups;
    const bool depthwise = conv_is_depthwise(s.ic, s.oc, s.groups), add = !depthwise && s.oc % 2 == 0;
    const std::vector<float> x = rng.normals(s.n * s.h * s.w * s.ic), w = rng.normals(s.oc * s.kh * s.kw * each), bias = rng.normals(s.oc), more = rng.normals(s.n * oh * ow * s.oc);
    const Device<float> dx(x), dw(w), dbias(bias), dmore(more), dy(s.n * oh * ow * s.oc);
    ConvProblem p = {};
    p.n = s.n, p.h = s.h, p.w = s.w, p.c = s.ic, p.oh = oh, p.ow = ow, p.oc = s.oc, p.kh = s.kh, p.kw = s.kw;
    p.stride_h = s.sh, p.stride_w = s.sw, p.dilation_h = s.dh, p.dilation_w = s.dw, p.pad_top = s.top, p.pad_left = s.left, p.groups = s.groups;
    p.x = dx;
    p.weight = dw;
    p.bias = dbias;
    if (add) p.residual = dmore;
    p.activation = kKinds[s.kh % 2];
    p.out = dy;
    c.expect(in_turn(c, [&](const CudaNet& net, CudaTurn* t) { net.conv(t, p); }) == WHITTLE_OK, "status");
    const std::vector<float> got = dy.host();
    for (int64_t at = 0; at < int64_t(got.size()); at++) {
      const int64_t o = at % s.oc, ox = at / s.oc % ow, oy = at / s.oc / ow % oh, image = at / s.oc / ow / oh;
      double v = double(bias[size_t(o)]) + (add ? double(more[size_t(at)]) : 0), sum = fabs(v);
      for (int64_t ky = 0; ky < s.kh; ky++)
        for (int64_t kx = 0; kx < s.kw; kx++) {
          const int64_t iy = oy * s.sh - s.top + ky * s.dh, ix = ox * s.sw - s.left + kx * s.dw;
          if (iy < 0 || iy >= s.h || ix < 0 || ix >= s.w) continue;
          for (int64_t i = 0; i < each; i++) {
            const int64_t channel = o / per * each + i, weight = depthwise ? (ky * s.kw + kx) * s.oc + o : ((o * s.kh + ky) * s.kw + kx) * each + i;
            const double u = double(x[size_t(((image * s.h + iy) * s.w + ix) * s.ic + channel)]) * double(w[size_t(weight)]);
            v += u;
            sum += fabs(u);
          }
        }
      const double want = activated(v, p.activation);
      if (!c.expect(near(got[size_t(at)], want, sum, s.kh * s.kw * each), "%d x %d, %d to %d in %d groups, at %d: %.9g, want %.9g", int(s.kh), int(s.kw), int(s.ic), int(s.oc),
                    int(s.groups), int(at), got[size_t(at)], want))
        return;
    }
  }
}

void attentions(Check& c, Rng& rng) {
  struct Shape {
    int64_t batch, heads, rows, keys, depth, wide;
    bool turned, masked, forgiving;
  };
  for (const Shape& s : {Shape{1, 1, 1, 1, 1, 1, false, false, false}, {2, 3, 17, 33, 8, 8, true, true, false}, {2, 1, 5, 33, 8, 8, true, true, true},
                         {1, 2, 5, 70, 33, 40, false, true, true}, {1, 1, 16, 32, 128, 128, true, false, false}}) {
    const std::vector<float> q = rng.normals(s.batch * s.heads * s.rows * s.depth), k = rng.normals(s.batch * s.heads * s.keys * s.depth),
                             v = rng.normals(s.batch * s.heads * s.keys * s.wide);
    std::vector<float> mask(size_t(s.batch * s.keys));
    for (float& m : mask) m = rng.below(3) == 0 ? -INFINITY : float(rng.below(3));
    // Whole blocks of keys that are hidden at first, and a text that is hidden altogether.
    for (int64_t i = 0; i < s.keys - 1 && i < 32; i++) mask[size_t(i)] = -INFINITY;
    const bool blind = s.batch > 1;
    if (blind) std::fill(mask.begin() + s.keys, mask.begin() + 2 * s.keys, -INFINITY);
    const Device<float> dq(q), dk(k), dv(v), dmask(mask), dy(s.batch * s.heads * s.rows * s.wide);
    AttentionProblem p = {};
    p.batch = s.batch, p.heads = s.heads, p.rows = s.rows, p.keys = s.keys, p.depth = s.depth, p.wide = s.wide;
    p.scale = 0.3f;
    p.forgiving = s.forgiving;
    p.q = {dq, s.heads * s.rows * s.depth, s.rows * s.depth, s.depth, 1};
    p.k = {dk, s.heads * s.keys * s.depth, s.keys * s.depth, s.turned ? 1 : s.keys, s.turned ? s.depth : 1};
    p.v = {dv, s.heads * s.keys * s.wide, s.keys * s.wide, s.turned ? s.wide : 1, s.turned ? 1 : s.keys};
    if (s.masked) p.mask = {dmask, s.keys, 0, 0, 1};
    p.out = dy;
    p.out_row = s.heads * s.wide;
    p.out_head = s.wide;
    p.out_batch = s.rows * p.out_row;
    c.expect(in_turn(c, [&](const CudaNet& net, CudaTurn* t) { net.attention(t, p); }) == WHITTLE_OK, "status");
    const std::vector<float> got = dy.host();
    for (int64_t b = 0; b < s.batch; b++)
      for (int64_t h = 0; h < s.heads; h++)
        for (int64_t r = 0; r < s.rows; r++) {
          std::vector<double> score(size_t(s.keys), 0);
          double top = -INFINITY, sum = 0;
          for (int64_t j = 0; j < s.keys; j++) {
            for (int64_t d = 0; d < s.depth; d++)
              score[size_t(j)] += double(q[size_t(((b * s.heads + h) * s.rows + r) * s.depth + d)]) * double(k[size_t((b * s.heads + h) * s.keys * s.depth + d * p.k.row + j * p.k.col)]);
            score[size_t(j)] = score[size_t(j)] * double(p.scale) + (s.masked ? double(mask[size_t(b * s.keys + j)]) : 0);
            top = std::max(top, score[size_t(j)]);
          }
          for (double& e : score) sum += e = exp(e - top);
          for (int64_t w = 0; w < s.wide; w++) {
            double want = 0;
            for (int64_t j = 0; j < s.keys; j++) want += score[size_t(j)] / sum * double(v[size_t((b * s.heads + h) * s.keys * s.wide + j * p.v.row + w * p.v.col)]);
            const float have = got[size_t(b * p.out_batch + h * p.out_head + r * p.out_row + w)];
            if (want != want && s.forgiving) want = 0;
            if (!c.expect(want != want ? have != have : fabs(have - want) <= 2e-5, "[%d %d %d] row %d column %d: %.9g, want %.9g", int(s.rows), int(s.keys), int(s.depth), int(r), int(w), have,
                          want))
              return;
          }
        }
  }
}

void rows(Check& c, Rng& rng) {
  for (const auto& [count, n] : {std::tuple<int64_t, int64_t>(1, 1), {9, 31}, {3, 65}, {2, 5000}}) {
    std::vector<float> x = rng.normals(count * n, 3);
    if (count == 9) x[40] = NAN, x[70] = -INFINITY;
    const std::vector<float> gamma = rng.normals(n), beta = rng.normals(n);
    const Device<float> dx(x), dg(gamma), db(beta), soft(count * n), log(count * n), layer(count * n);
    in_turn(c, [&](const CudaNet& net, CudaTurn* t) {
      net.softmax(t, {count, n, dx, nullptr, nullptr, 0, false, true, soft});
      net.softmax(t, {count, n, dx, nullptr, nullptr, 0, true, true, log});
      net.layer_norm(t, {count, n, dx, dg, db, 1e-5f, false, true, layer});
    });
    const std::vector<float> a = soft.host(), l = log.host(), y = layer.host();
    for (int64_t r = 0; r < count; r++) {
      double top = -INFINITY, sum = 0, mean = 0, variance = 0;
      bool nan = false;
      for (int64_t i = 0; i < n; i++) {
        const double v = double(x[size_t(r * n + i)]);
        nan |= v != v;
        top = std::max(top, v);
        mean += v / double(n);
      }
      for (int64_t i = 0; i < n; i++) {
        const double v = double(x[size_t(r * n + i)]);
        sum += exp(v - top);
        variance += (v - mean) * (v - mean) / double(n);
      }
      for (int64_t i = 0; i < n; i++) {
        const size_t at = size_t(r * n + i);
        const double v = double(x[at]), p = exp(v - top) / sum, q = v - top - ::log(sum), z = (v - mean) / sqrt(variance + double(1e-5f)) * double(gamma[size_t(i)]) + double(beta[size_t(i)]);
        const bool same = nan ? a[at] != a[at] && l[at] != l[at] && y[at] != y[at]
                              : fabs(a[at] - p) <= (double(n) / 32 + 40) * 0x1p-23 * p && (l[at] == q || fabs(l[at] - q) <= 1e-5 * (1 + fabs(q))) && (z != z ? y[at] != y[at] : fabs(y[at] - z) <= 2e-5 * (1 + fabs(z)));
        if (!c.expect(same, "row %d of %d, element %d: %.9g %.9g %.9g, want %.9g %.9g %.9g", int(r), int(n), int(i), a[at], l[at], y[at], p, q, z)) return;
      }
    }
  }
  for (const auto& [outer, n, inner] : {std::tuple<int64_t, int64_t, int64_t>(9, 33, 1), {3, 5, 7}, {300, 2, 1}, {1, 0, 3}})
    for (int kind = 0; kind <= kReduceProd; kind++) {
      const std::vector<float> x = rng.normals(outer * n * inner + 1);
      const Device<float> dx(x), dy(outer * inner);
      in_turn(c, [&](const CudaNet& net, CudaTurn* t) { net.reduce(t, ReduceKind(kind), outer, n, inner, dx, dy); });
      const std::vector<float> got = dy.host();
      for (int64_t i = 0; i < outer * inner; i++) {
        double sum = 0, size = 0, squares = 0, top = -INFINITY, low = INFINITY, product = 1, exps = 0;
        for (int64_t k = 0; k < n; k++) {
          const double v = double(x[size_t((i / inner * n + k) * inner + i % inner)]);
          sum += v, size += fabs(v), squares += v * v, product *= v, exps += exp(v);
          top = std::max(top, v), low = std::min(low, v);
        }
        const double all[] = {sum, sum / double(n), top, low, size, sqrt(squares), squares, ::log(sum), ::log(exps), product}, want = all[kind];
        const double have = got[size_t(i)];
        if (!c.expect(want != want ? have != have : have == want || fabs(have - want) <= 1e-5 * (1 + size + fabs(want)) * (kind == kReduceLogSum ? std::max(1.0, size / fabs(sum)) : 1), "kind %d of %d: %.9g, want %.9g", kind, int(n), have, want)) return;
      }
    }
}

void elements(Check& c, Rng& rng) {
  // (x * row + 1) clipped, over a walk that repeats a row.
  const std::vector<float> x = rng.normals(3 * 5 * 7), row = rng.normals(5);
  const Device<float> dx(x), drow(row), dy(3 * 5 * 7);
  CudaElementwise e = {};
  e.rank = 3, e.inputs = 2, e.steps = 3, e.size = 105;
  const uint32_t dims[] = {3, 5, 7}, strides[] = {35, 7, 1};
  for (int k = 0; k < 3; k++) e.dims[k] = dims[k], e.strides[0][k] = strides[k];
  e.strides[1][1] = 1;
  e.input[0] = dx;
  e.input[1] = drow;
  e.step[0] = {kElementwise_mul, 0, 1, 2, 0, 0};
  e.step[1] = {kElementwise_affine, 2, 2, 3, 1, 1};
  e.step[2] = {kElementwise_clip, 3, 3, 2, 0, 2};
  e.out = dy;
  // A copy that turns, one picked by an index from the end, one that is out of range.
  const Device<float> turned(105), picked(2 * 7);
  const Device<int32_t> index(std::vector<int32_t>{-1, 0});
  const WhittleStatus status = in_turn(c, [&](const CudaNet& net, CudaTurn* t) {
    net.elementwise(t, e);
    net.copy(t, {3, {3, 7, 5}, {35, 1, 7}, {35, 5, 1}, 4}, dx, turned);
    net.gather(t, {1, 15, 28, 2, false, dx, index, picked});
  });
  c.expect(status == WHITTLE_OK, "status %d", status);
  const std::vector<float> got = dy.host(), t = turned.host(), p = picked.host();
  for (int i = 0; i < 105; i++) {
    const float want = std::min(std::max(x[size_t(i)] * row[size_t(i / 7 % 5)] + 1, 0.f), 2.f);
    c.expect(got[size_t(i)] == want, "element %d: %g, want %g", i, got[size_t(i)], want);
    c.expect(t[size_t(i)] == x[size_t(i / 35 * 35 + i % 5 * 7 + i / 5 % 7)], "turned, element %d", i);
  }
  for (int i = 0; i < 14; i++) c.expect(p[size_t(i)] == x[size_t(i < 7 ? 98 + i : i - 7)], "picked, element %d", i);
  const Device<int32_t> far(std::vector<int32_t>{0, 15});
  c.expect(in_turn(c, [&](const CudaNet& net, CudaTurn* turn) { net.gather(turn, {1, 15, 28, 2, false, dx, far, picked}); }) == WHITTLE_RANGE, "an index out of range");
}

void recordings(Check& c, Rng& rng) {
  const CudaNet& net = c.cuda().net;
  const Device<int32_t> flags(16);
  const Device<float> x(20), y(20), z(20);
  const auto steps = [&](CudaTurn* t) {
    net.softmax(t, {4, 5, x, nullptr, nullptr, 0, false, true, y});
    net.reduce(t, kReduceSum, 4, 5, 1, y, z);
    net.move(t, static_cast<float*>(z) + 4, y, 16 * 4);
  };
  CudaGraph* graph = nullptr;
  for (int run = 0; run < 4; run++) {
    const std::vector<float> from = rng.normals(20);
    std::vector<float> got(20);
    CudaTurn* t = net.begin(0, flags);
    if (run == 1) {
      c.expect(net.record(t), "recording");
      steps(t);
      graph = net.recorded(t);
      c.expect(graph && fake::graphs() == 1, "a recording");
    }
    net.send(t, x, from.data(), 80);
    if (graph) net.replay(t, graph);
    else steps(t);
    net.fetch(t, got.data(), z, 80);
    c.expect(net.end(t) == WHITTLE_OK, "status");
    double sum = 0;
    for (int i = 0; i < 5; i++) sum += exp(double(from[size_t(i)]));
    for (int i = 0; i < 4; i++) c.expect(fabs(got[size_t(i)] - 1) < 1e-5, "run %d, sum %d: %g", run, i, got[size_t(i)]);
    for (int i = 0; i < 5; i++) c.expect(fabs(double(got[size_t(4 + i)]) - exp(double(from[size_t(i)])) / sum) < 1e-5, "run %d, element %d", run, i);
  }
  net.forget(0, graph);
  c.expect(fake::graphs() == 0, "a graph is left");
  // Memory of the host, scratch, waiting: none of them is queued, and steps run afterwards.
  const std::vector<float> from = rng.normals(20);
  for (int what = 0; what < 4; what++) {
    std::vector<float> got(20);
    fake::options().graphs = what != 3;
    CudaTurn* t = net.begin(0, flags);
    c.expect(net.record(t), "recording");
    if (what == 0) net.send(t, x, got.data(), 80);
    if (what == 1) net.fetch(t, got.data(), x, 80);
    if (what == 2) net.wait(t);
    steps(t);
    c.expect(!net.recorded(t) && fake::graphs() == 0, "a recording of what cannot be, %d", what);
    net.send(t, x, from.data(), 80);
    steps(t);
    net.fetch(t, got.data(), z, 80);
    c.expect(net.end(t) == WHITTLE_OK && fabs(got[0] - 1) < 1e-5, "what follows, %d", what);
  }
  fake::options().graphs = true;
}

void lanes(Check& c, Rng& rng) {
  const CudaNet& net = c.cuda().net;
  CudaTurn* turns[kCudaLanes];
  std::vector<std::unique_ptr<Device<float>>> memory;
  std::vector<std::vector<float>> from, to(kCudaLanes, std::vector<float>(6));
  const Device<int32_t> flags(64 * kCudaLanes);
  for (int i = 0; i < kCudaLanes; i++) {
    from.push_back(rng.normals(6));
    memory.push_back(std::make_unique<Device<float>>(6));
    turns[i] = net.begin(0, static_cast<int32_t*>(flags) + 64 * i);
  }
  for (int i = 0; i < kCudaLanes; i++) net.send(turns[i], *memory[size_t(i)], from[size_t(i)].data(), 24);
  for (int i = 0; i < kCudaLanes; i++) net.softmax(turns[i], {1, 6, *memory[size_t(i)], nullptr, nullptr, 0, false, true, *memory[size_t(i)]});
  // Operations of the device go on beside them.
  const Device<float> other(rng.normals(6)), scores(6);
  c.expect(c.cuda().scores(0, 1, other, nullptr, 6, scores) == WHITTLE_OK, "an operation beside turns");
  for (int i = kCudaLanes; i-- > 0;) {
    net.fetch(turns[i], to[size_t(i)].data(), *memory[size_t(i)], 24);
    c.expect(net.end(turns[i]) == WHITTLE_OK, "turn %d", i);
    double sum = 0, all = 0;
    for (float v : from[size_t(i)]) sum += exp(double(v));
    for (int k = 0; k < 6; k++) {
      all += double(to[size_t(i)][size_t(k)]);
      c.expect(fabs(double(to[size_t(i)][size_t(k)]) - exp(double(from[size_t(i)][size_t(k)])) / sum) < 1e-5, "turn %d, element %d", i, k);
    }
    c.expect(fabs(all - 1) < 1e-5, "turn %d", i);
  }
}

}  // namespace

void check_net(Check& c) {
  c.row("net: products of any strides, in batches, with what follows them", [&](Rng& rng) { products(c, rng); });
  c.row("net: convolutions, grouped and depthwise", [&](Rng& rng) { convolutions(c, rng); });
  c.row("net: attention, whole blocks masked", [&](Rng& rng) { attentions(c, rng); });
  c.row("net: softmax, layer normalization, reductions", [&](Rng& rng) { rows(c, rng); });
  c.row("net: programs, copies, picking", [&](Rng& rng) { elements(c, rng); });
  if (c.real()) return;
  c.row("net: a turn without memory answers so, and the next one goes on", [&](Rng&) {
    const Device<float> x(8), y(8);
    for (int at = 0; at < 2; at++) {
      fake::options().fail_allocation = fake::allocations() + at;
      CudaTurn* t = c.cuda().net.begin(0, nullptr);
      c.cuda().net.softmax(t, {2, 4, x, nullptr, nullptr, 0, false, true, y});
      const WhittleStatus status = c.cuda().net.end(t);
      fake::options().fail_allocation = -1;
      c.expect(status == (at < 1 ? WHITTLE_OUT_OF_MEMORY : WHITTLE_OK), "allocation %d: status %d", at, status);
    }
  });
  c.row("net: steps that were recorded run again; what cannot be recorded is no error", [&](Rng& rng) { recordings(c, rng); });
  c.row("net: turns under way at once", [&](Rng& rng) { lanes(c, rng); });
}

}  // namespace whittle
