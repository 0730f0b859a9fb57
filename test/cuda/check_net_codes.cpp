// Steps of plans over codes, and recurrent ones: sums of bytes and what follows them to the bit of the CPU's product, the rest
// against definitions.
#include <math.h>

#include <algorithm>

#include "check_net.h"

namespace whittle {
namespace {

std::vector<uint8_t> bytes(Rng& rng, int64_t n) {
  std::vector<uint8_t> x(static_cast<size_t>(n));
  for (uint8_t& v : x) v = static_cast<uint8_t>(rng.below(256));
  return x;
}

int32_t value(uint8_t byte, bool sign) { return sign ? static_cast<int8_t>(byte) : byte; }

// Rows along k and their sums, as CudaInt8 has weights.
struct Weights {
  int64_t line;
  std::vector<uint8_t> rows;
  Weights(const std::vector<uint8_t>& w, int64_t k, int64_t n) : line(cuda_int8_row(k)), rows(static_cast<size_t>(n * line + 4 * n)) {
    for (int64_t j = 0; j < n; j++) {
      int32_t sum = 0;
      for (int64_t p = 0; p < k; p++) sum += value(rows[static_cast<size_t>(j * line + p)] = w[static_cast<size_t>(j * k + p)], true);
      memcpy(rows.data() + n * line + 4 * j, &sum, 4);
    }
  }
};

struct Tail {
  bool a_signed;
  int32_t a_zero, out_type, out_zero;
  float a_scale, out_scale;
  Activation activation;
};
Tail tail(int way) {
  static const Activation kinds[] = {{kActivationNone, 0, 0}, {kActivationClip, 0, 6}, {kActivationSilu, 0, 0}, {kActivationGelu, 0, 0}};
  const bool sign = way % 2 != 0;
  return {sign, sign ? -7 : 131, way % 4 == 0 ? kOutFloat32 : way % 4 == 1 ? kOutInt8 : way % 4 == 2 ? kOutUint8 : kOutInt32, way % 4 == 1 ? -20 : 30, 0.013f, 0.07f, kinds[way % 4]};
}

// What gemm_int8 of the CPU makes of rows of a and of b.
bool same(Check& c, const char* what, const Tail& t, int64_t m, int64_t n, int64_t k, const std::vector<uint8_t>& a, const std::vector<uint8_t>& b, const std::vector<float>& scales,
          const std::vector<float>& bias, const std::vector<float>& add, const std::vector<uint8_t>& got) {
  GemmInt8Args g = {};
  g.a = a.data();
  g.a_signed = t.a_signed;
  g.m = m, g.n = n, g.k = k;
  g.b = b.data();
  g.b_transposed = true;
  g.batch = 1;
  g.a_zero = t.a_zero;
  g.a_scale = t.a_scale;
  g.b_scale = 1;
  const bool sums = t.out_type == kOutInt32;
  if (!sums) {
    g.b_scales = scales.data();
    g.bias_float = bias.data();
  }
  if (!add.empty()) g.residual = add.data();
  g.activation = t.activation;
  g.out_type = t.out_type;
  g.out_scale = t.out_scale;
  g.out_zero = t.out_zero;
  std::vector<uint8_t> want(got.size());
  g.out = want.data();
  g.threads = 1;
  if (!c.expect(gemm_int8(gemm_int8_kernels(), g) == WHITTLE_OK, "%s: the CPU's status", what)) return false;
  const int64_t at = differs(got, want);
  return c.expect(at < 0, "%s [%d %d %d]: byte %d is %d, want %d", what, int(m), int(n), int(k), int(at), at < 0 ? 0 : got[size_t(at)], at < 0 ? 0 : want[size_t(at)]);
}

CudaInt8 product_of(const Tail& t, int64_t m, int64_t n, int64_t k) {
  CudaInt8 q = {};
  q.m = m, q.n = n, q.k = k, q.batch = 1;
  q.a_signed = t.a_signed;
  q.a_zero = t.a_zero;
  q.a_scale = t.a_scale;
  q.activation = t.activation;
  q.out_type = t.out_type;
  q.out_scale = t.out_scale;
  q.out_zero = t.out_zero;
  return q;
}

void products(Check& c, Rng& rng) {
  int way = 0;
  for (const auto& s : {std::vector<int64_t>{1, 1, 1}, {5, 3, 0}, {64, 64, 64}, {65, 70, 48}, {3, 9, 130}, {130, 5, 33}}) {
    const int64_t m = s[0], n = s[1], k = s[2];
    for (int turn = 0; turn < (c.lean() ? 2 : 4); turn++, way++) {
      const Tail t = tail(way);
      const bool sums = t.out_type == kOutInt32, dynamic = turn == 1;
      const std::vector<uint8_t> a = bytes(rng, m * k), b = bytes(rng, n * k);
      const Weights w(b, k, n);
      std::vector<float> scales = rng.normals(n), bias = rng.normals(n), add;
      for (float& v : scales) v = 0.001f + fabsf(v) * 0.01f;
      if (t.out_type == kOutFloat32) add = rng.normals(m * n);
      const Device<uint8_t> da(a), dw(w.rows), dy(m * n * (t.out_type == kOutFloat32 || sums ? 4 : 1)), dz(std::vector<uint8_t>{static_cast<uint8_t>(t.a_zero)});
      const Device<float> ds(scales), dbias(bias), dadd(add), scale(std::vector<float>{t.a_scale});
      CudaInt8 q = product_of(t, m, n, k);
      q.a = da;
      q.b = dw;
      q.b_row = 1;
      q.b_col = w.line;
      q.sums = reinterpret_cast<const int32_t*>(static_cast<uint8_t*>(dw) + n * w.line);
      if (!sums) q.scales = ds, q.bias = dbias;
      if (!add.empty()) q.residual = dadd;
      if (dynamic) {
        q.a_zero = 77;
        q.a_scale = 0;
        q.a_zero_at = dz;
        q.a_scale_at = scale;
      }
      q.out = dy;
      c.expect(in_turn(c, [&](const CudaNet& net, CudaTurn* on) { net.product_int8(on, q); }) == WHITTLE_OK, "status");
      if (!same(c, "product", t, m, n, k, a, b, scales, bias, add, dy.host())) return;
    }
  }
  // Any strides, zero points of columns that are found when it runs, a map of matrices.
  for (int turn = 0; turn < 4; turn++) {
    const int64_t m = 7, n = 70, k = 67;
    const bool a_signed = turn & 1, b_unsigned = turn & 2;
    const std::vector<uint8_t> a = bytes(rng, 2 * m * k), b = bytes(rng, 2 * k * n), za = bytes(rng, 1), zb = bytes(rng, n);
    const Device<uint8_t> da(a), db(b), dza(za), dzb(zb);
    const Device<int32_t> map(std::vector<int32_t>{1, 0, 0, 1, 1, 1}), dy(3 * m * n);
    CudaInt8 q = {};
    q.m = m, q.n = n, q.k = k, q.batch = 3;
    q.map = map;
    q.a = da, q.b = db;
    q.a_signed = a_signed, q.b_unsigned = b_unsigned;
    q.b_row = n, q.b_col = 1;
    q.a_zero_at = dza, q.b_zero_at = dzb;
    q.b_zeros = turn != 3;
    q.out_type = kOutInt32;
    q.out = dy;
    c.expect(in_turn(c, [&](const CudaNet& net, CudaTurn* on) { net.product_int8(on, q); }) == WHITTLE_OK, "status");
    const std::vector<int32_t> got = dy.host();
    const int64_t which[][2] = {{1, 0}, {0, 1}, {1, 1}};
    for (int64_t s = 0; s < 3; s++)
      for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
          int32_t want = 0;
          for (int64_t p = 0; p < k; p++)
            want += (value(a[size_t((which[s][0] * m + i) * k + p)], a_signed) - value(za[0], a_signed)) *
                    (value(b[size_t((which[s][1] * k + p) * n + j)], !b_unsigned) - value(zb[size_t(q.b_zeros ? j : 0)], !b_unsigned));
          const int32_t have = got[size_t((s * m + i) * n + j)];
          if (!c.expect(have == want, "matrix %d, [%d %d]: %d, want %d", int(s), int(i), int(j), have, want)) return;
        }
  }
  const Device<uint8_t> none(64);
  CudaInt8 q = product_of(tail(1), 1, 1, 40000);
  q.a = q.b = none;
  q.out = none;
  c.expect(in_turn(c, [&](const CudaNet& net, CudaTurn* on) { net.product_int8(on, q); }) == WHITTLE_DEVICE, "sums beyond 32 bits");
  const Device<float> bad(std::vector<float>{0});
  const Device<uint8_t> rows(std::vector<uint8_t>(24));
  q = product_of(tail(0), 1, 1, 1);
  q.a = rows, q.b = rows, q.b_row = 1, q.b_col = 16, q.out = none, q.scales = bad;
  q.sums = reinterpret_cast<const int32_t*>(static_cast<uint8_t*>(rows) + 16);
  c.expect(in_turn(c, [&](const CudaNet& net, CudaTurn* on) { net.product_int8(on, q); }) == WHITTLE_RANGE, "a scale of 0");
}

void convolutions(Check& c, Rng& rng) {
  struct Shape {
    int64_t n, h, w, ic, oc, kh, kw, sh, sw, dh, dw, top, left, bottom, right;
    bool depthwise;
  };
  int way = 0;
  for (const Shape& s : {Shape{1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, false}, {2, 7, 6, 3, 20, 3, 3, 2, 1, 1, 1, 1, 1, 1, 1, false}, {1, 6, 5, 16, 70, 3, 2, 1, 2, 2, 1, 2, 1, 1, 0, false},
                         {1, 9, 8, 32, 8, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, false}, {1, 8, 7, 16, 8, 1, 1, 2, 2, 1, 1, 0, 0, 0, 0, false}, {2, 6, 7, 33, 33, 3, 3, 1, 2, 1, 1, 1, 1, 1, 1, true}}) {
    const Tail t = tail(way++);
    const int64_t oh = (s.h + s.top + s.bottom - (s.kh - 1) * s.dh - 1) / s.sh + 1, ow = (s.w + s.left + s.right - (s.kw - 1) * s.dw - 1) / s.sw + 1;
    const int64_t taps = s.kh * s.kw, k = s.depthwise ? taps : taps * s.ic, m = s.n * oh * ow;
    const std::vector<uint8_t> x = bytes(rng, s.n * s.h * s.w * s.ic), b = bytes(rng, s.oc * k);
    std::vector<float> scales = rng.normals(s.oc), bias = rng.normals(s.oc), planes(size_t(taps * s.oc));
    for (float& v : scales) v = 0.001f + fabsf(v) * 0.01f;
    for (int64_t j = 0; s.depthwise && j < s.oc; j++)
      for (int64_t p = 0; p < taps; p++) planes[size_t(p * s.oc + j)] = float(value(b[size_t(j * k + p)], true));
    const Weights w(b, k, s.oc);
    const int64_t size = t.out_type == kOutFloat32 || t.out_type == kOutInt32 ? 4 : 1;
    const Device<uint8_t> dx(x), dw(w.rows), dy(m * s.oc * size);
    const Device<float> ds(scales), dbias(bias), dplanes(planes);
    ConvInt8Problem p = {};
    p.n = s.n, p.h = s.h, p.w = s.w, p.c = s.ic, p.oh = oh, p.ow = ow, p.oc = s.oc, p.kh = s.kh, p.kw = s.kw;
    p.stride_h = s.sh, p.stride_w = s.sw, p.dilation_h = s.dh, p.dilation_w = s.dw, p.pad_top = s.top, p.pad_left = s.left;
    CudaInt8 q = product_of(t, m, s.oc, k);
    q.a = dx;
    if (s.depthwise) p.depthwise = dplanes;
    else {
      q.b = dw;
      q.b_row = 1;
      q.b_col = w.line;
      q.sums = reinterpret_cast<const int32_t*>(static_cast<uint8_t*>(dw) + s.oc * w.line);
    }
    if (t.out_type != kOutInt32 || s.depthwise) q.scales = ds, q.bias = dbias;
    q.out = dy;
    c.expect(in_turn(c, [&](const CudaNet& net, CudaTurn* on) { net.conv_int8(on, q, p); }) == WHITTLE_OK, "status");
    const std::vector<uint8_t> got = dy.host();
    // Rows of windows; depthwise, those of a channel.
    for (int64_t channel = 0; channel < (s.depthwise ? s.oc : 1); channel++) {
      std::vector<uint8_t> rows, own;
      for (int64_t i = 0; i < m; i++)
        for (int64_t tap = 0; tap < taps; tap++)
          for (int64_t ch = 0; ch < (s.depthwise ? 1 : s.ic); ch++) {
            const int64_t y = i / ow % oh * s.sh - s.top + tap / s.kw * s.dh, xx = i % ow * s.sw - s.left + tap % s.kw * s.dw, image = i / ow / oh;
            const bool inside = y >= 0 && y < s.h && xx >= 0 && xx < s.w;
            rows.push_back(inside ? x[size_t(((image * s.h + y) * s.w + xx) * s.ic + (s.depthwise ? channel : ch))] : static_cast<uint8_t>(t.a_zero));
          }
      if (!s.depthwise) {
        if (!same(c, "convolution", t, m, s.oc, k, rows, b, scales, bias, {}, got)) return;
        continue;
      }
      for (int64_t i = 0; i < m; i++) own.insert(own.end(), got.begin() + (i * s.oc + channel) * size, got.begin() + (i * s.oc + channel + 1) * size);
      if (!same(c, "depthwise", t, m, 1, k, rows, {b.begin() + channel * k, b.begin() + (channel + 1) * k}, {scales[size_t(channel)]}, {bias[size_t(channel)]}, {}, own)) return;
    }
  }
}

void codes(Check& c, Rng& rng) {
  struct Shape {
    int64_t outer, axis, inner, block;
    int bits;
    bool sign;
  };
  for (const Shape& s : {Shape{1, 1, 33, 1, 8, false}, {3, 5, 7, 1, 8, true}, {2, 10, 3, 4, 4, true}, {1, 1, 11, 1, 4, false}, {2, 3, 5, 1, 16, true}, {4, 9, 1, 4, 16, false}}) {
    const int64_t n = s.outer * s.axis * s.inner, blocks = (s.axis + s.block - 1) / s.block, count = s.block == 1 ? s.axis : s.outer * blocks * s.inner;
    const int32_t least = s.sign ? -(1 << (s.bits - 1)) : 0, most = least + (1 << s.bits) - 1;
    std::vector<float> x = rng.normals(n, 3), scale = rng.normals(count);
    for (float& v : scale) v = 0.01f + fabsf(v) * 0.1f;
    x[0] = 1e30f;
    if (n > 12) x[12] = NAN;
    std::vector<int32_t> zeros;
    std::vector<uint8_t> packed(size_t(s.bits == 16 ? 2 * count : s.bits == 8 ? count : (count + 1) / 2));
    for (int64_t i = 0; i < count; i++) {
      const int32_t z = least + int32_t(rng.below(most - least + 1));
      zeros.push_back(z);
      if (s.bits == 16) packed[size_t(2 * i)] = uint8_t(z), packed[size_t(2 * i + 1)] = uint8_t(z >> 8);
      else packed[size_t(s.bits == 8 ? i : i / 2)] |= uint8_t((z & (s.bits == 8 ? 255 : 15)) << (s.bits == 4 && i % 2 ? 4 : 0));
    }
    const int64_t room = s.bits == 16 ? 2 * n : s.bits == 8 ? n : (n + 1) / 2;
    const Device<float> dx(x), ds(scale), back(n);
    const Device<uint8_t> dz(packed), dq(room);
    const CudaCodes to = {s.outer, s.axis, s.inner, s.block, s.bits, s.sign, dx, ds, dz, dq}, from = {s.outer, s.axis, s.inner, s.block, s.bits, s.sign, dq, ds, dz, back};
    c.expect(in_turn(c, [&](const CudaNet& net, CudaTurn* t) {
               net.codes(t, to);
               net.values(t, from);
             }) == WHITTLE_OK, "status");
    const std::vector<uint8_t> q = dq.host();
    const std::vector<float> y = back.host();
    for (int64_t i = 0; i < n; i++) {
      const int64_t a = i / s.inner % s.axis, at = s.block == 1 ? a : (i / s.inner / s.axis * blocks + a / s.block) * s.inner + i % s.inner;
      const float v = x[size_t(i)], by = scale[size_t(at)];
      const int32_t zero = zeros[size_t(at)];
      const int32_t want = v != v ? least : int32_t(std::min(std::max(nearbyint(double(v / by)) + zero, double(least)), double(most)));
      int32_t code = s.bits == 16 ? q[size_t(2 * i)] | q[size_t(2 * i + 1)] << 8 : s.bits == 8 ? q[size_t(i)] : q[size_t(i / 2)] >> i % 2 * 4 & 15;
      if (s.sign && code > most) code -= 1 << s.bits;
      c.expect(code == want, "%d bits, code %d: %d, want %d", s.bits, int(i), code, want);
      c.expect(y[size_t(i)] == float(want - zero) * by, "%d bits, value %d: %g, want %g", s.bits, int(i), y[size_t(i)], float(want - zero) * by);
    }
  }
  for (const auto& x : {std::vector<float>{1, -3, 2.5f, 7}, {0, 0}, {-1, -2}, rng.normals(3000, 5)}) {
    float lo = 0, hi = 0;
    for (float v : x) lo = std::min(lo, v), hi = std::max(hi, v);
    const float step = hi == lo ? 1 : (hi - lo) / 255;
    const int32_t z = int32_t(nearbyintf(std::min(255.0f, std::max(0.0f, 0.0f - lo / step))));
    const Device<float> dx(x), scale(1);
    const Device<uint8_t> dq(int64_t(x.size())), zero(1);
    in_turn(c, [&](const CudaNet& net, CudaTurn* t) {
      for (int twice = 0; twice < 2; twice++) net.dynamic_codes(t, int64_t(x.size()), dx, dq, scale, zero);
    });
    c.expect(scale.host()[0] == step && zero.host()[0] == z, "scale %g and zero %d, want %g and %d", scale.host()[0], zero.host()[0], step, z);
    const std::vector<uint8_t> q = dq.host();
    for (size_t i = 0; i < x.size(); i++) c.expect(q[i] == uint8_t(std::min(255.0, std::max(0.0, nearbyint(double(x[i] / step)) + z))), "dynamic code %d", int(i));
  }
  // A program from codes to codes.
  const std::vector<uint8_t> x = bytes(rng, 40), w = bytes(rng, 40);
  const Device<uint8_t> dx(x), dw(w), dy(40);
  CudaElementwise e = {};
  e.rank = 1, e.inputs = 2, e.steps = 1, e.size = e.dims[0] = 40;
  e.strides[0][0] = e.strides[1][0] = 1;
  e.input[0] = dx, e.input[1] = dw;
  e.code[0] = {1, 3, 0.5f};
  e.code[1] = {2, 100, 0.25f};
  e.out_code = {2, 9, 0.7f};
  e.step[0] = {kElementwise_add, 0, 1, 2, 0, 0};
  e.out = dy;
  in_turn(c, [&](const CudaNet& net, CudaTurn* t) { net.elementwise(t, e); });
  const std::vector<uint8_t> y = dy.host();
  for (size_t i = 0; i < 40; i++) {
    const float sum = float(value(x[i], true) - 3) * 0.5f + float(w[i] - 100) * 0.25f;
    c.expect(y[i] == uint8_t(std::min(255.0, std::max(0.0, nearbyint(double(sum / 0.7f)) + 9))), "program, element %d: %d", int(i), y[i]);
  }
}

double gate(const Gate& g, double clip, double x) {
  x = std::min(std::max(x, -clip), clip);
  switch (g.kind) {
    case GateKind::tanh: return tanh(x);
    case GateKind::sigmoid: return 1 / (1 + exp(-x));
    case GateKind::hard_sigmoid: return std::min(1.0, std::max(0.0, double(g.alpha) * x + double(g.beta)));
    default: return std::max(x, 0.0);
  }
}

void recurrent(Check& c, Rng& rng) {
  const Gate sigmoid = {GateKind::sigmoid, 0, 0}, tanh_ = {GateKind::tanh, 0, 0}, hard = {GateKind::hard_sigmoid, 0.2f, 0.5f}, relu = {GateKind::relu, 0, 0};
  for (int way = 0; way < (c.lean() ? 6 : 10); way++) {
    CudaRecurrent p = {};
    p.kind = static_cast<RecurrentKind>(way % 3);
    const bool lstm = p.kind == RecurrentKind::lstm, gru = p.kind == RecurrentKind::gru;
    p.steps = 4, p.batch = 3, p.hidden = way % 2 ? 37 : 5;
    p.reverse = way & 1;
    p.before_reset = way & 4;
    p.input_forget = way == 5;
    p.clip = way > 3 ? 0.9f : INFINITY;
    p.f = way == 2 ? hard : p.kind == RecurrentKind::rnn ? tanh_ : sigmoid;
    p.g = way == 4 ? relu : tanh_;
    p.h = tanh_;
    const int64_t H = p.hidden, N = p.batch, G = recurrent_gates(p.kind) * H, first = gru ? 2 * H : G;
    const std::vector<float> xw = rng.normals(p.steps * N * G), r = rng.normals(first * H, 0.4f), rh = rng.normals(H * H, 0.4f), bias = rng.normals(2 * G), hole = rng.normals(3 * H), h0 = rng.normals(N * H),
                             c0 = rng.normals(N * H);
    const std::vector<int32_t> lengths = {4, 0, 2};
    const Device<float> dxw(xw), dr(r), drh(rh), dbias(bias), dhole(hole), dh0(h0), dc0(c0), y(p.steps * N * H), yh(N * H), yc(N * H);
    const Device<int32_t> dlengths(lengths);
    const bool some = way > 0, turned = way > 2;
    p.xw = dxw, p.r = dr, p.r_h = drh;
    p.r_row = turned ? first : 1, p.r_col = turned ? 1 : H, p.rh_row = 1, p.rh_col = H;
    if (some) p.bias = dbias, p.h0 = dh0, p.c0 = dc0, p.lengths = dlengths;
    if (lstm && way > 2) p.peephole = dhole;
    p.y = y, p.y_step = N * H, p.y_h = yh, p.y_c = yc;
    c.expect(in_turn(c, [&](const CudaNet& net, CudaTurn* t) { net.recurrent(t, p); }) == WHITTLE_OK, "status");
    const std::vector<float> gy = y.host(), gh = yh.host(), gc = yc.host();
    for (int64_t b = 0; b < N; b++) {
      std::vector<double> h(static_cast<size_t>(H), 0), cell(static_cast<size_t>(H), 0);
      for (int64_t j = 0; some && j < H; j++) h[size_t(j)] = double(h0[size_t(b * H + j)]), cell[size_t(j)] = double(c0[size_t(b * H + j)]);
      const int64_t length = some ? lengths[size_t(b)] : p.steps;
      std::vector<double> want(size_t(p.steps * H), 0);
      for (int64_t s = 0; s < length; s++) {
        const int64_t t = p.reverse ? length - 1 - s : s;
        const auto in = [&](int64_t j, bool both) { return double(xw[size_t((t * N + b) * G + j)]) + (some ? double(bias[size_t(j)]) + (both ? double(bias[size_t(G + j)]) : 0) : 0); };
        const auto dot = [&](const std::vector<double>& v, const std::vector<float>& m, int64_t row, int64_t col, int64_t j) {
          double sum = 0;
          for (int64_t q = 0; q < H; q++) sum += v[size_t(q)] * double(m[size_t(q * row + j * col)]);
          return sum;
        };
        std::vector<double> next(static_cast<size_t>(H)), reset(static_cast<size_t>(H)), update(static_cast<size_t>(H));
        for (int64_t j = 0; gru && j < H; j++) {
          update[size_t(j)] = gate(p.f, double(p.clip), in(j, true) + dot(h, r, p.r_row, p.r_col, j));
          reset[size_t(j)] = gate(p.f, double(p.clip), in(H + j, true) + dot(h, r, p.r_row, p.r_col, H + j));
        }
        std::vector<double> held(static_cast<size_t>(H));
        for (int64_t j = 0; j < H; j++) held[size_t(j)] = reset[size_t(j)] * h[size_t(j)];
        for (int64_t j = 0; j < H; j++) {
          const auto pre = [&](int64_t g) { return in(g * H + j, true) + dot(h, r, p.r_row, p.r_col, g * H + j); };
          const auto peep = [&](int64_t g) { return p.peephole ? double(hole[size_t(g * H + j)]) : 0.0; };
          if (lstm) {
            const double i = gate(p.f, double(p.clip), pre(0) + peep(0) * cell[size_t(j)]), f = p.input_forget ? 1 - i : gate(p.f, double(p.clip), pre(2) + peep(2) * cell[size_t(j)]);
            const double now = f * cell[size_t(j)] + i * gate(p.g, double(p.clip), pre(3));
            next[size_t(j)] = gate(p.f, double(p.clip), pre(1) + peep(1) * now) * gate(p.h, INFINITY, now);
            cell[size_t(j)] = now;
          } else if (gru) {
            const double n = p.before_reset ? in(2 * H + j, false) + reset[size_t(j)] * (dot(h, rh, 1, H, j) + (some ? double(bias[size_t(G + 2 * H + j)]) : 0)) : in(2 * H + j, true) + dot(held, rh, 1, H, j);
            next[size_t(j)] = (1 - update[size_t(j)]) * gate(p.g, double(p.clip), n) + update[size_t(j)] * h[size_t(j)];
          } else {
            next[size_t(j)] = gate(p.f, double(p.clip), pre(0));
          }
        }
        h = next;
        for (int64_t j = 0; j < H; j++) want[size_t(t * H + j)] = h[size_t(j)];
      }
      for (int64_t t = 0; t < p.steps; t++)
        for (int64_t j = 0; j < H; j++) {
          const float have = gy[size_t((t * N + b) * H + j)];
          if (!c.expect(fabs(double(have) - want[size_t(t * H + j)]) <= 1e-4, "way %d, text %d, step %d, unit %d: %g, want %g", way, int(b), int(t), int(j), have, want[size_t(t * H + j)])) return;
        }
      for (int64_t j = 0; j < H; j++)
        c.expect(fabs(double(gh[size_t(b * H + j)]) - h[size_t(j)]) <= 1e-4 && (!lstm || fabs(double(gc[size_t(b * H + j)]) - cell[size_t(j)]) <= 1e-4), "way %d, text %d: the last state", way, int(b));
    }
    if (!some) continue;
    const Device<int32_t> far(std::vector<int32_t>{5, 0, 0});
    p.lengths = far;
    c.expect(in_turn(c, [&](const CudaNet& net, CudaTurn* t) { net.recurrent(t, p); }) == WHITTLE_RANGE, "a length out of range");
  }
}

}  // namespace

void check_net_codes(Check& c) {
  c.row("net: products of bytes, of weights and of any two, in batches", [&](Rng& rng) { products(c, rng); });
  c.row("net: convolutions of bytes", [&](Rng& rng) { convolutions(c, rng); });
  c.row("net: codes of floats and back, dynamic ones, programs over them", [&](Rng& rng) { codes(c, rng); });
  c.row("net: recurrent layers", [&](Rng& rng) { recurrent(c, rng); });
}

}  // namespace whittle
