// Convolutions: depthwise rows of every variant against scalar, whole convolutions against the definition.
#include <math.h>
#include <string.h>

#include <algorithm>

#include "core/codes.h"
#include "core/conv.h"
#include "core/gemm.h"
#include "core/gemm_int8.h"
#include "test/native/harness.h"

namespace whittle {
namespace {

int64_t out_size(int64_t in, int64_t pad, int64_t k, int64_t stride, int64_t dilation) {
  const int64_t room = in + pad - (k - 1) * dilation - 1;
  return room < 0 ? 0 : room / stride + 1;
}

void fill(Rng& rng, float* p, int64_t n) {
  for (int64_t i = 0; i < n; i++) p[i] = rng.normal();
}

}  // namespace

WHITTLE_CHECK(conv) {
  each_variant(h, conv_variants(), [&](const ConvKernels& ref, const ConvKernels& got) {
    h.row("depthwise", [&] {
      Rng rng = h.rng();
      for (int round = 0; round < (h.lean() ? 40 : 300); round++) {
        ConvDepthwise d = {};
        d.h = rng.between(1, 9);
        d.w = rng.between(1, 40);
        d.c = rng.between(1, 40);
        d.kh = rng.between(1, 5);
        d.kw = rng.between(1, 5);
        d.stride_h = rng.between(1, 2);
        d.stride_w = rng.between(1, 3);
        if (round % 2) d.kw = 3 + 2 * rng.below(3);
        d.dilation_h = rng.between(1, 2);
        d.dilation_w = rng.between(1, 2);
        d.pad_top = rng.between(0, 3);
        d.pad_left = rng.between(0, 5);
        // Maps of 7 columns that keep their width.
        if (round % 8 == 3) d.w = 7, d.stride_w = d.dilation_w = 1, d.pad_left = d.kw / 2;
        const int64_t oh = out_size(d.h, d.pad_top + rng.between(0, 3), d.kh, d.stride_h, d.dilation_h);
        d.ow = out_size(d.w, d.pad_left + (round % 8 == 3 ? d.pad_left : rng.between(0, 5)), d.kw, d.stride_w, d.dilation_w);
        if (oh == 0 || d.ow == 0) continue;
        d.slices = rng.below(4) ? 1 : rng.between(0, 4);
        d.x_slice = rng.between(1, 2) * d.h * d.w * d.c;
        const int64_t apart = std::max<int64_t>(0, d.slices - 1) * d.x_slice;
        Guarded<float> x(apart + d.h * d.w * d.c, round & 1), w(std::max<int64_t>(1, d.slices) * d.kh * d.kw * d.c), bias(d.c), want(2 * d.ow * d.c), out(2 * d.ow * d.c, 1);
        fill(rng, x.data(), x.size());
        fill(rng, w.data(), w.size());
        fill(rng, bias.data(), d.c);
        d.x = x.data();
        d.weight = w.data();
        d.x_step = d.weight_step = d.c;
        d.bias = round % 3 ? bias.data() : nullptr;
        d.activation = {round % 4 == 0 ? kActivationClip : round % 4 == 1 ? kActivationHardswish :
                        round % 4 == 2 ? kActivationHardswishAffine : kActivationNone, 0.5f, 6};
        for (d.oy = 0; d.oy < oh; d.oy += d.rows) {
          d.rows = d.oy + 1 < oh ? 2 : 1;
          d.out = want.data();
          ref.depthwise(&d);
          d.out = out.data();
          got.depthwise(&d);
          for (int64_t i = 0; i < d.rows * d.ow * d.c; i++)
            if (!h.expect(fabsf(out[i] - want[i]) <= 1e-5f * (1 + fabsf(want[i])), "row %lld, element %lld: %g, want %g",
                          (long long)d.oy, (long long)i, out[i], want[i]))
              return;
          h.expect(out.intact(), "wrote outside of the row");
        }
      }
    });
    h.row("winograd transforms", [&] {
      Rng rng = h.rng();
      for (int round = 0; round < (h.lean() ? 20 : 200); round++) {
        const int64_t tile = round % 2 ? 2 : 4, last = (tile + 2) * (tile + 2) - 1, c = rng.between(1, 50), height = rng.between(1, 12), width = rng.between(1, 12), point = c + rng.below(20);
        Guarded<float> x(height * width * c, round & 1), want(last * point + c), v(last * point + c, rng.below(2));
        fill(rng, x.data(), x.size());
        memset(want.data(), 0, static_cast<size_t>(want.size()) * 4);
        memset(v.data(), 0, static_cast<size_t>(v.size()) * 4);
        ConvWinogradIn in = {tile, height, width, c, x.data(), rng.between(-3, height - 1), rng.between(-3, width - 1), want.data(), point};
        ref.winograd_in(&in);
        in.v = v.data();
        got.winograd_in(&in);
        h.expect(memcmp(want.data(), v.data(), static_cast<size_t>(v.size()) * 4) == 0, "tile in, %lld channels", (long long)c);
        h.expect(v.intact(), "wrote outside of the tile");
        const int64_t rows = rng.between(1, tile), cols = rng.between(1, tile), line = cols * c + rng.below(30), size = (rows - 1) * line + cols * c;
        Guarded<float> bias(c, 1), residual(size), y(size), out(size, rng.below(2));
        fill(rng, bias.data(), c);
        fill(rng, residual.data(), size);
        memset(y.data(), 0, static_cast<size_t>(size) * 4);
        memset(out.data(), 0, static_cast<size_t>(size) * 4);
        ConvWinogradOut o = {tile, rows, cols, c, v.data(), point, bias.data(), rng.below(2) ? residual.data() : nullptr, y.data(), line,
                             round % 3 ? -INFINITY : 0.0f, round % 3 == 1 ? 0.5f : INFINITY};
        ref.winograd_out(&o);
        o.out = out.data();
        got.winograd_out(&o);
        h.expect(memcmp(y.data(), out.data(), static_cast<size_t>(size) * 4) == 0, "tile out, %lld channels", (long long)c);
        h.expect(out.intact(), "wrote outside of the tile");
      }
    });
    h.row("planes", [&] {
      Rng rng = h.rng();
      for (int round = 0; round < (h.lean() ? 30 : 300); round++) {
        ConvPlanes p = {};
        p.taps = rng.between(1, 30);
        p.pixels = rng.between(1, 20);
        p.stride = rng.between(1, 3);
        p.oc = rng.between(1, 100);
        p.out_step = p.oc;
        p.padded = (p.oc + kConvPlanesPad - 1) / kConvPlanesPad * kConvPlanesPad;
        const int64_t line = (p.pixels - 1) * p.stride + 1;
        std::vector<int64_t> offset;
        for (int64_t t = 0; t < p.taps; t++) offset.push_back(rng.below(50));
        Guarded<float> x(50 + line, round & 1), w(p.taps * p.padded, rng.below(2)), bias(p.oc), want(p.pixels * p.oc), out(p.pixels * p.oc, rng.below(4));
        fill(rng, x.data(), x.size());
        for (int64_t i = 0; i < w.size(); i++) w[i] = i % p.padded < p.oc ? rng.normal() : 0.0f;
        fill(rng, bias.data(), p.oc);
        p.x = x.data();
        p.offset = offset.data();
        p.weight = w.data();
        p.bias = round % 3 ? bias.data() : nullptr;
        p.out = want.data();
        ref.planes(&p);
        p.out = out.data();
        got.planes(&p);
        if (!h.expect(memcmp(want.data(), out.data(), static_cast<size_t>(out.size()) * 4) == 0, "%lld channels, %lld pixels %lld apart",
                      (long long)p.oc, (long long)p.pixels, (long long)p.stride))
          return;
        h.expect(out.intact(), "wrote outside of the pixels");
      }
    });
    h.row("narrow", [&] {
      Rng rng = h.rng();
      for (int round = 0; round < (h.lean() ? 30 : 200); round++) {
        ConvNarrow p = {};
        p.taps = rng.between(1, 30);
        p.pixels = kConvNarrowPad * rng.between(1, 12);
        p.oc = rng.between(1, 20);
        p.out_plane = p.pixels + kConvNarrowPad * rng.below(2);
        std::vector<int64_t> offset;
        for (int64_t t = 0; t < p.taps; t++) offset.push_back(rng.below(50));
        Guarded<float> x(50 + p.pixels, round & 1), w(p.taps * p.oc, rng.below(4)), bias(p.oc), want(p.oc * p.out_plane), out(p.oc * p.out_plane, rng.below(4));
        fill(rng, x.data(), x.size());
        fill(rng, w.data(), w.size());
        fill(rng, bias.data(), p.oc);
        memset(want.data(), 0, static_cast<size_t>(want.size()) * 4);
        memset(out.data(), 0, static_cast<size_t>(out.size()) * 4);
        p.x = x.data();
        p.offset = offset.data();
        p.weight = w.data();
        p.bias = round % 3 ? bias.data() : nullptr;
        p.out = want.data();
        ref.narrow(&p);
        p.out = out.data();
        got.narrow(&p);
        if (!h.expect(memcmp(want.data(), out.data(), static_cast<size_t>(out.size()) * 4) == 0, "%lld channels, %lld pixels", (long long)p.oc, (long long)p.pixels))
          return;
        h.expect(out.intact(), "wrote outside of the planes");
      }
    });
    h.row("turn", [&] {
      Rng rng = h.rng();
      for (int round = 0; round < (h.lean() ? 30 : 200); round++) {
        const int64_t rows = rng.between(1, 40), columns = rng.between(1, 40), stride = columns + rng.below(4), to_stride = rows + rng.below(4);
        Guarded<float> x((rows - 1) * stride + columns, round & 1), want((columns - 1) * to_stride + rows), out((columns - 1) * to_stride + rows, rng.below(4));
        fill(rng, x.data(), x.size());
        memset(want.data(), 0, static_cast<size_t>(want.size()) * 4);
        memset(out.data(), 0, static_cast<size_t>(out.size()) * 4);
        ref.turn(rows, columns, x.data(), stride, want.data(), to_stride);
        got.turn(rows, columns, x.data(), stride, out.data(), to_stride);
        if (!h.expect(memcmp(want.data(), out.data(), static_cast<size_t>(out.size()) * 4) == 0, "%lld rows, %lld columns", (long long)rows, (long long)columns)) return;
        h.expect(out.intact(), "wrote outside of the planes");
      }
    });
    h.row("depthwise of codes", [&] {
      Rng rng = h.rng();
      for (int round = 0; round < (h.lean() ? 40 : 300); round++) {
        ConvDepthwiseCodes p = {};
        ConvDepthwise& d = p.d;
        d.h = rng.between(1, 9);
        d.w = rng.between(1, 40);
        d.c = rng.between(1, 70);
        d.kh = rng.between(1, 5);
        d.kw = round % 2 ? 3 + 2 * rng.below(3) : rng.between(1, 7);
        d.stride_h = rng.between(1, 2);
        d.stride_w = rng.between(1, 3);
        d.dilation_h = rng.between(1, 2);
        d.dilation_w = round % 3 ? 1 : 2;
        d.pad_top = rng.between(0, 3);
        d.pad_left = rng.between(0, 5);
        if (round % 8 == 3) d.w = 7, d.stride_w = d.dilation_w = 1, d.pad_left = d.kw / 2;
        d.x_step = d.c + (round % 3 ? rng.below(20) : 0);
        d.weight_step = d.c + (round % 5 ? rng.below(20) : 0);
        const int64_t oh = out_size(d.h, d.pad_top + rng.between(0, 3), d.kh, d.stride_h, d.dilation_h);
        d.ow = out_size(d.w, d.pad_left + (round % 8 == 3 ? d.pad_left : rng.between(0, 5)), d.kw, d.stride_w, d.dilation_w);
        if (oh == 0 || d.ow == 0) continue;
        d.slices = rng.below(4) ? 1 : rng.between(1, 3);
        d.x_slice = d.h * d.w * d.x_step;
        Guarded<uint8_t> x((d.slices * d.h * d.w - 1) * d.x_step + d.c, rng.below(8));
        Guarded<float> w((d.slices * d.kh * d.kw - 1) * d.weight_step + d.c, rng.below(4));
        Guarded<int32_t> want(oh * d.ow * d.c), out(oh * d.ow * d.c, rng.below(4));
        for (int64_t i = 0; i < x.size(); i++) x[i] = static_cast<uint8_t>(round % 7 ? rng.below(256) : 255 * rng.below(2));
        for (int64_t i = 0; i < w.size(); i++) w[i] = static_cast<float>(rng.between(-128, 127));
        d.weight = w.data();
        p.x = x.data();
        p.x_signed = rng.below(2) != 0;
        p.zero = static_cast<int32_t>(p.x_signed ? rng.between(-128, 127) : rng.between(0, 255));
        const int64_t rows = rng.between(1, oh);
        for (d.oy = 0; d.oy < oh; d.oy += d.rows) {
          d.rows = d.oy + rows < oh ? rows : oh - d.oy;
          p.sums = want.data() + d.oy * d.ow * d.c;
          ref.depthwise_codes(&p);
          p.sums = out.data() + d.oy * d.ow * d.c;
          got.depthwise_codes(&p);
        }
        for (int64_t i = 0; i < out.size(); i++)
          if (!h.expect(out[i] == want[i], "%lld channels, %lld wide, element %lld: %d, want %d", (long long)d.c, (long long)d.kw,
                        (long long)i, out[i], want[i]))
            return;
        h.expect(out.intact() && x.intact() && w.intact(), "wrote outside");
      }
    });
    h.row("exact sums to results", [&] {
      Rng rng = h.rng();
      constexpr int32_t kTypes[] = {kOutInt32, kOutFloat32, kOutInt8, kOutUint8};
      // Every activation with every type of result.
      for (int round = 0; round < (h.lean() ? 36 : 216); round++) {
        const int64_t rows = rng.between(1, 4), columns = rng.between(1, 70), column = rng.below(9), stride = columns + rng.below(9);
        GemmInt8Epilogue e = {};
        e.activation = {static_cast<int32_t>(round / 4 % 9), 0.5f, 3.0f};
        e.out_type = kTypes[round % 4];
        // Small steps saturate, one beyond the usual range takes a plain division.
        e.out_scale = round % 7 == 6 ? 1e-20f : rng.uniform(0.001f, 0.1f);
        e.out_zero = static_cast<int32_t>(e.out_type == kOutInt8 ? rng.between(-128, 127) : e.out_type == kOutUint8 ? rng.between(0, 255) : 0);
        Guarded<float> scale(column + columns), bias(column + columns);
        Guarded<int32_t> sums(rows * columns, rng.below(4));
        for (int64_t j = 0; j < scale.size(); j++) {
          scale[j] = rng.uniform(1e-5f, 1e-3f);
          bias[j] = rng.below(4) ? rng.normal() : -0.0f;
        }
        e.scale = scale.data();
        e.bias = bias.data();
        const int64_t range = rng.below(2) ? (int64_t(1) << 24) - 1 : 9000;
        for (int64_t i = 0; i < sums.size(); i++) sums[i] = static_cast<int32_t>(rng.between(-range, range));
        const int64_t size = e.out_type == kOutInt32 || e.out_type == kOutFloat32 ? 4 : 1, bytes = ((rows - 1) * stride + columns) * size;
        Guarded<uint8_t> want(bytes), out(bytes, 4 * rng.below(4));
        for (int64_t i = 0; i < bytes; i++) out[i] = 7;
        ref.finish_sums(&e, rows, column, columns, sums.data(), want.data(), stride);
        got.finish_sums(&e, rows, column, columns, sums.data(), out.data(), stride);
        for (int64_t i = 0; i < rows * columns; i++) {
          const int64_t at = (i / columns * stride + i % columns) * size;
          if (!h.expect(memcmp(&want[at], &out[at], static_cast<size_t>(size)) == 0, "activation %d, type %d, row %lld, column %lld",
                        e.activation.kind, e.out_type, (long long)(i / columns), (long long)(i % columns)))
            return;
          // Without activation the definition itself.
          if (e.activation.kind != kActivationNone) continue;
          const int64_t j = column + i % columns;
          volatile float x = static_cast<float>(sums[i]) * scale[j];
          x = x + bias[j];
          bool right = true;
          if (e.out_type == kOutFloat32) {
            float y;
            memcpy(&y, &out[at], 4);
            right = y == x;
          } else if (e.out_type == kOutInt32) {
            int32_t y;
            memcpy(&y, &out[at], 4);
            right = y == sums[i];
          } else {
            const float lowest = e.out_type == kOutInt8 ? -128.0f : 0.0f, q = nearbyintf(x / e.out_scale) + static_cast<float>(e.out_zero);
            const float clipped = q < lowest ? lowest : q > lowest + 255 ? lowest + 255 : q;
            right = clipped == static_cast<float>(e.out_type == kOutInt8 ? static_cast<int8_t>(out[at]) : out[at]);
          }
          if (!h.expect(right, "no activation, type %d, row %lld, column %lld", e.out_type, (long long)(i / columns), (long long)(i % columns))) return;
        }
        for (int64_t r = 0; r + 1 < rows; r++)
          for (int64_t i = (r * stride + columns) * size; i < (r + 1) * stride * size; i++)
            if (!h.expect(out[i] == 7, "wrote between rows %lld and %lld", (long long)r, (long long)(r + 1))) return;
        h.expect(out.intact(), "wrote outside of the rows");
      }
    });
    ConvDepthwise b = {20, 96, 64, 96, 3, 3, 1, 1, 1, 1, 1, 1, nullptr, 5, 1, nullptr, nullptr, {kActivationHardswish, 0, 0}, nullptr, 64, 64};
    std::vector<float> x(20 * 96 * 64, 0.5f), w(9 * 64, 0.25f), out(96 * 64);
    b.x = x.data();
    b.weight = w.data();
    b.out = out.data();
    ConvDepthwiseCodes codes = {b, nullptr, false, 128, nullptr};
    std::vector<uint8_t> bytes(20 * 96 * 64, 77);
    std::vector<int32_t> sums(96 * 64);
    codes.x = bytes.data();
    codes.sums = sums.data();
    codes.d.weight = w.data();
    h.bench("depthwise codes 3x3 row 96x64", 0, [&] { got.depthwise_codes(&codes); }, 2.0 * 9 * 96 * 64);
    h.bench("depthwise 3x3 row 96x64", 0, [&] { got.depthwise(&b); }, 2.0 * 9 * 96 * 64);
  });

  h.row("convolutions of planes", [&] {
    Rng rng = h.rng();
    for (int round = 0; round < (h.lean() ? 20 : 150); round++) {
      ConvPlanesProblem p = {};
      p.n = rng.between(1, 2);
      p.c = rng.between(1, 4);
      p.h = rng.between(1, 40);
      p.w = rng.between(1, 60);
      p.oc = rng.between(1, 70);
      p.kh = rng.between(1, 4);
      p.kw = rng.between(1, 4);
      p.stride_h = rng.between(1, 3);
      p.stride_w = rng.between(1, 3);
      p.dilation_h = rng.between(1, 2);
      p.dilation_w = rng.between(1, 2);
      p.pad_top = rng.between(0, 4);
      p.pad_left = rng.between(0, 4);
      p.oh = out_size(p.h, p.pad_top + rng.between(0, 4), p.kh, p.stride_h, p.dilation_h);
      p.ow = out_size(p.w, p.pad_left + rng.between(0, 4), p.kw, p.stride_w, p.dilation_w);
      if (p.oh == 0 || p.ow == 0) continue;
      const int64_t taps = p.c * p.kh * p.kw, padded = (p.oc + kConvPlanesPad - 1) / kConvPlanesPad * kConvPlanesPad;
      const int64_t outs = p.n * p.oh * p.ow * p.oc;
      Guarded<float> x(p.n * p.c * p.h * p.w, round & 1), weight(taps * padded), bias(p.oc), out(outs, rng.below(4));
      Guarded<uint8_t> codes(outs, rng.below(16));
      std::vector<uint8_t> want(static_cast<size_t>(outs));
      fill(rng, x.data(), x.size());
      for (int64_t i = 0; i < weight.size(); i++) weight[i] = i % padded < p.oc ? rng.normal() : 0.0f;
      fill(rng, bias.data(), p.oc);
      p.x = x.data();
      p.weight = weight.data();
      p.bias = round % 3 ? bias.data() : nullptr;
      p.activation = {round % 2 ? kActivationNone : kActivationClip, 0, 6};
      p.out = out.data();
      h.expect(conv_planes(p, static_cast<int>(rng.between(1, 2))) == WHITTLE_OK, "refused");
      for (int64_t i = 0; i < outs; i++) {
        const int64_t o = i % p.oc, ox = i / p.oc % p.ow, oy = i / p.oc / p.ow % p.oh, n = i / p.oc / p.ow / p.oh;
        double s = p.bias ? bias[o] : 0.0, scale = 1;
        for (int64_t t = 0; t < taps; t++) {
          const int64_t iy = oy * p.stride_h - p.pad_top + t / p.kw % p.kh * p.dilation_h, ix = ox * p.stride_w - p.pad_left + t % p.kw * p.dilation_w;
          if (iy < 0 || iy >= p.h || ix < 0 || ix >= p.w) continue;
          const double v = static_cast<double>(x[((n * p.c + t / p.kw / p.kh) * p.h + iy) * p.w + ix]) * weight[t * padded + o];
          s += v;
          scale += fabs(v);
        }
        if (p.activation.kind == kActivationClip) s = s < 0 ? 0 : s > 6 ? 6 : s;
        if (!h.expect(fabs(out[i] - s) <= 1e-6 * scale, "round %d, element %lld: %g, want %g", round, (long long)i, out[i], s)) return;
      }
      p.codes = true;
      p.codes_signed = round % 2 != 0;
      p.scale = 0.02f;
      p.zero = p.codes_signed ? -10 : 30;
      p.out = codes.data();
      h.expect(conv_planes(p, 1) == WHITTLE_OK, "refused codes");
      bytes_of_floats(out.data(), outs, p.scale, p.zero, p.codes_signed, want.data());
      if (!h.expect(memcmp(want.data(), codes.data(), static_cast<size_t>(outs)) == 0, "round %d, codes", round)) return;
      h.expect(out.intact() && codes.intact() && x.intact(), "wrote outside");
    }
  });

  h.row("whole convolutions", [&] {
    Rng rng = h.rng();
    for (int round = 0; round < (h.lean() ? 30 : 200); round++) {
      ConvProblem p = {};
      p.groups = rng.between(1, 3);
      const bool one = rng.below(4) == 0;
      const int64_t c = one ? 1 : rng.between(1, 20), oc = one ? 1 : rng.between(1, 40);
      if (one) p.groups = rng.between(2, 40);
      p.n = rng.between(1, 2);
      if (rng.below(2)) {
        p.d = rng.between(1, 5);
        p.kd = rng.between(1, 3);
        p.stride_d = rng.between(1, 2);
        p.dilation_d = rng.between(1, 2);
        p.pad_front = rng.between(0, 2);
        p.od = out_size(p.d, p.pad_front + rng.between(0, 2), p.kd, p.stride_d, p.dilation_d);
      }
      p.h = rng.between(1, 9);
      p.w = rng.between(1, 12);
      p.c = c * p.groups;
      p.oc = oc * p.groups;
      p.kh = rng.between(1, 3);
      p.kw = rng.between(1, 3);
      p.stride_h = rng.between(1, 2);
      p.stride_w = rng.between(1, 2);
      p.dilation_h = rng.between(1, 2);
      p.dilation_w = rng.between(1, 4);
      p.pad_top = rng.between(0, 2);
      p.pad_left = rng.between(0, 5);
      p.oh = out_size(p.h, p.pad_top + rng.between(0, 2), p.kh, p.stride_h, p.dilation_h);
      p.ow = out_size(p.w, p.pad_left + rng.between(0, 5), p.kw, p.stride_w, p.dilation_w);
      if (p.od == 0 || p.oh == 0 || p.ow == 0) continue;
      const bool depthwise = conv_is_depthwise(p.c, p.oc, p.groups);
      p.by_rows = p.groups == 1 && (p.dilation_w == 1 || p.stride_w == 1) && rng.below(4) != 0;
      const int64_t taps = p.kd * p.kh * p.kw, k = taps * c, outs = p.n * p.od * p.oh * p.ow * p.oc;
      // Matrices to be packed, and rows of each.
      const int64_t parts = p.by_rows ? p.kd * p.kh : p.groups, part = p.by_rows ? p.kw * c : k, packed = gemm_packed_size(part, oc);
      std::vector<float> weight(static_cast<size_t>(p.groups * k * oc)), ready(static_cast<size_t>(parts * packed));
      Guarded<float> x(p.n * p.d * p.h * p.w * p.c), bias(p.oc), residual(outs), out(outs);
      fill(rng, weight.data(), static_cast<int64_t>(weight.size()));
      fill(rng, x.data(), x.size());
      fill(rng, bias.data(), p.oc);
      fill(rng, residual.data(), outs);
      if (depthwise) {
        ready.resize(static_cast<size_t>(k * p.c));
        for (int64_t i = 0; i < k * p.c; i++) ready[static_cast<size_t>(i)] = weight[static_cast<size_t>(i % p.c * k + i / p.c)];
      } else for (int64_t g = 0; g < parts; g++) gemm_pack_b(part, oc, weight.data() + g * part * oc, oc, 1, ready.data() + g * packed, 1);
      p.x = x.data();
      p.weight = ready.data();
      p.bias = round % 3 ? bias.data() : nullptr;
      p.residual = !depthwise && round % 2 ? residual.data() : nullptr;
      p.activation = {round % 4 ? kActivationNone : kActivationClip, 0, INFINITY};
      p.out = out.data();
      h.expect(conv_f32(p, static_cast<int>(rng.between(1, 2))) == WHITTLE_OK, "refused");
      for (int64_t t = 0; t < outs; t++) {
        const int64_t o = t % p.oc, ox = t / p.oc % p.ow, oy = t / p.oc / p.ow % p.oh, oz = t / p.oc / p.ow / p.oh % p.od;
        const int64_t n = t / p.oc / p.ow / p.oh / p.od, g = o / oc;
        double s = p.bias ? bias[o] : 0.0, scale = 1;
        if (p.residual) s += residual[t];
        for (int64_t tap = 0; tap < taps; tap++) {
          const int64_t iz = oz * p.stride_d - p.pad_front + tap / p.kw / p.kh * p.dilation_d, iy = oy * p.stride_h - p.pad_top + tap / p.kw % p.kh * p.dilation_h;
          const int64_t ix = ox * p.stride_w - p.pad_left + tap % p.kw * p.dilation_w;
          if (iz < 0 || iz >= p.d || iy < 0 || iy >= p.h || ix < 0 || ix >= p.w) continue;
          for (int64_t i = 0; i < c; i++) {
            const double v = static_cast<double>(x[(((n * p.d + iz) * p.h + iy) * p.w + ix) * p.c + g * c + i]) *
                             weight[static_cast<size_t>((g * k + tap * c + i) * oc + o % oc)];
            s += v;
            scale += fabs(v);
          }
        }
        if (p.activation.kind == kActivationClip && s < 0) s = 0;
        if (!h.expect(fabs(out[t] - s) <= 1e-5 * scale, "element %lld: %g, want %g", (long long)t, out[t], s)) return;
      }
      h.expect(out.intact(), "wrote outside of the image");
    }
  });

  h.row("narrow convolutions", [&] {
    Rng rng = h.rng();
    for (int round = 0; round < (h.lean() ? 25 : 150); round++) {
      ConvProblem p = {};
      const bool line = round % 3 == 0;
      p.narrow = true;
      p.groups = p.stride_h = p.stride_w = 1;
      p.n = rng.between(1, 2);
      p.c = rng.between(1, 20);
      p.oc = rng.between(1, 20);
      p.h = line ? 1 : rng.between(1, 30);
      p.w = line ? rng.between(1, round % 2 ? 3000 : 40) : rng.between(1, 50);
      p.kh = line ? 1 : rng.between(1, 4);
      p.kw = rng.between(1, 7);
      p.dilation_h = rng.between(1, 3);
      p.dilation_w = rng.between(1, round % 5 ? 3 : 20);
      p.pad_top = line ? 0 : rng.between(0, 4);
      p.pad_left = rng.between(0, 9);
      p.oh = out_size(p.h, p.pad_top + (line ? 0 : rng.between(0, 4)), p.kh, 1, p.dilation_h);
      p.ow = out_size(p.w, p.pad_left + rng.between(0, 9), p.kw, 1, p.dilation_w);
      if (p.oh == 0 || p.ow == 0) continue;
      const int64_t taps = p.c * p.kh * p.kw, outs = p.n * p.oh * p.ow * p.oc;
      Guarded<float> x(p.n * p.h * p.w * p.c, round & 1), weight(taps * p.oc), bias(p.oc), residual(outs), out(outs, rng.below(4));
      fill(rng, x.data(), x.size());
      fill(rng, weight.data(), weight.size());
      fill(rng, bias.data(), p.oc);
      fill(rng, residual.data(), outs);
      p.x = x.data();
      p.weight = weight.data();
      p.bias = round % 4 ? bias.data() : nullptr;
      p.residual = rng.below(2) ? residual.data() : nullptr;
      // A residual may lie where the results go.
      if (p.residual && rng.below(2)) {
        memcpy(out.data(), residual.data(), static_cast<size_t>(outs) * 4);
        p.residual = out.data();
      }
      p.activation = {round % 2 ? kActivationNone : kActivationClip, 0, 6};
      p.out = out.data();
      h.expect(conv_f32(p, static_cast<int>(rng.between(1, 2))) == WHITTLE_OK, "refused");
      for (int64_t i = 0; i < outs; i++) {
        const int64_t o = i % p.oc, ox = i / p.oc % p.ow, oy = i / p.oc / p.ow % p.oh, n = i / p.oc / p.ow / p.oh;
        double s = p.bias ? bias[o] : 0.0, scale = 1;
        if (p.residual) s += residual[i];
        for (int64_t t = 0; t < taps; t++) {
          const int64_t iy = oy - p.pad_top + t / p.kw % p.kh * p.dilation_h, ix = ox - p.pad_left + t % p.kw * p.dilation_w;
          if (iy < 0 || iy >= p.h || ix < 0 || ix >= p.w) continue;
          const double v = static_cast<double>(x[((n * p.h + iy) * p.w + ix) * p.c + t / p.kw / p.kh]) * weight[t * p.oc + o];
          s += v;
          scale += fabs(v);
        }
        if (p.activation.kind == kActivationClip) s = s < 0 ? 0 : s > 6 ? 6 : s;
        if (!h.expect(fabs(out[i] - s) <= 1e-6 * scale, "round %d, element %lld: %g, want %g", round, (long long)i, out[i], s)) return;
      }
      h.expect(out.intact() && x.intact() && weight.intact(), "wrote outside");
    }
  });

  h.row("pairs of convolutions", [&] {
    Rng rng = h.rng();
    for (int round = 0; round < (h.lean() ? 2 : 8); round++) {
      ConvProblem a = {}, p = {};
      a.n = p.n = rng.between(1, 2);
      a.h = a.oh = p.h = rng.between(1, 40);
      a.w = a.ow = p.w = round % 2 ? rng.between(60, 90) : rng.between(1, 20);
      a.c = rng.between(1, 9);
      a.oc = p.c = p.oc = p.groups = round % 2 ? rng.between(90, 130) : rng.between(2, 40);
      a.kh = a.kw = a.stride_h = a.stride_w = a.dilation_h = a.dilation_w = a.groups = 1;
      p.kh = rng.between(1, 5);
      p.kw = rng.between(1, 5);
      p.stride_h = rng.between(1, 2);
      p.stride_w = rng.between(1, 2);
      p.dilation_h = rng.between(1, 2);
      p.dilation_w = 1;
      p.pad_top = rng.between(0, 3);
      p.pad_left = rng.between(0, 3);
      p.oh = out_size(p.h, p.pad_top + rng.between(0, 3), p.kh, p.stride_h, p.dilation_h);
      p.ow = out_size(p.w, p.pad_left + rng.between(0, 3), p.kw, p.stride_w, 1);
      if (p.oh == 0 || p.ow == 0) continue;
      std::vector<float> weight(static_cast<size_t>(a.c * a.oc)), ready(static_cast<size_t>(gemm_packed_size(a.c, a.oc)));
      std::vector<float> between(static_cast<size_t>(p.n * p.h * p.w * p.c)), want(static_cast<size_t>(p.n * p.oh * p.ow * p.oc));
      Guarded<float> x(a.n * a.h * a.w * a.c), bias(p.c), taps(p.kh * p.kw * p.c), out(static_cast<int64_t>(want.size()));
      fill(rng, weight.data(), a.c * a.oc);
      fill(rng, x.data(), x.size());
      fill(rng, bias.data(), p.c);
      fill(rng, taps.data(), taps.size());
      gemm_pack_b(a.c, a.oc, weight.data(), a.oc, 1, ready.data(), 1);
      a.x = x.data();
      a.weight = ready.data();
      a.bias = bias.data();
      a.activation = {round % 3 ? kActivationClip : kActivationHardswish, 0, 6};
      a.out = between.data();
      p.x = between.data();
      p.weight = taps.data();
      p.bias = round % 3 ? bias.data() : nullptr;
      p.activation = {round % 2 ? kActivationClip : kActivationNone, 0, 6};
      p.out = want.data();
      h.expect(conv_f32(a, 1) == WHITTLE_OK && conv_f32(p, 1) == WHITTLE_OK, "refused");
      p.out = out.data();
      h.expect(conv_pair(a, p, static_cast<int>(rng.between(1, 2))) == WHITTLE_OK, "refused");
      for (int64_t i = 0; i < out.size(); i++)
        if (!h.expect(fabsf(out[i] - want[static_cast<size_t>(i)]) <= 1e-4f, "element %lld: %g, apart %g", (long long)i, out[i], want[static_cast<size_t>(i)])) return;
      h.expect(out.intact(), "wrote outside of the image");
    }
  });

  h.row("convolutions by tiles", [&] {
    Rng rng = h.rng();
    for (int round = 0; round < (h.lean() ? 8 : 40); round++) {
      ConvProblem p = {};
      p.winograd = round % 2 ? 2 : 4;
      const int points = static_cast<int>(conv_winograd_points(p.winograd));
      p.groups = p.stride_h = p.stride_w = p.dilation_h = p.dilation_w = 1;
      p.kh = p.kw = 3;
      p.n = rng.between(1, 2);
      if (rng.below(3) == 0) {
        p.d = rng.between(1, 4);
        p.kd = rng.between(1, 3);
        p.stride_d = rng.between(1, 2);
        p.dilation_d = rng.between(1, 2);
        p.pad_front = rng.between(0, 2);
        p.od = out_size(p.d, p.pad_front + rng.between(0, 2), p.kd, p.stride_d, p.dilation_d);
      }
      p.h = rng.between(1, 18);
      p.w = rng.between(1, 18);
      p.c = round == 0 ? 400 : rng.between(1, 40);
      p.oc = rng.between(1, 60);
      p.pad_top = rng.between(0, 2);
      p.pad_left = rng.between(0, 2);
      p.oh = out_size(p.h, p.pad_top + rng.between(0, 2), 3, 1, 1);
      p.ow = out_size(p.w, p.pad_left + rng.between(0, 2), 3, 1, 1);
      if (p.od == 0 || p.oh == 0 || p.ow == 0) continue;
      const int64_t deep = p.kd * p.c, each = gemm_packed_size(deep, p.oc), outs = p.n * p.od * p.oh * p.ow * p.oc;
      std::vector<float> weight(static_cast<size_t>(9 * deep * p.oc)), matrix(static_cast<size_t>(deep * p.oc)), ready(static_cast<size_t>(points * each));
      Guarded<float> x(p.n * p.d * p.h * p.w * p.c), bias(p.oc), residual(outs), out(outs);
      fill(rng, weight.data(), static_cast<int64_t>(weight.size()));
      fill(rng, x.data(), x.size());
      fill(rng, bias.data(), p.oc);
      fill(rng, residual.data(), outs);
      for (int q = 0; q < points; q++) {
        conv_winograd_weights(p.winograd, deep * p.oc, weight.data(), q, matrix.data());
        gemm_pack_b(deep, p.oc, matrix.data(), p.oc, 1, ready.data() + q * each, 1);
      }
      p.x = x.data();
      p.weight = ready.data();
      p.bias = round % 3 ? bias.data() : nullptr;
      p.residual = rng.below(2) ? residual.data() : nullptr;
      p.activation = {round % 4 == 0 ? kActivationClip : round % 4 == 1 ? kActivationSigmoid : kActivationNone, 0, INFINITY};
      p.out = out.data();
      h.expect(conv_f32(p, static_cast<int>(rng.between(1, 2))) == WHITTLE_OK, "refused");
      std::vector<double> want(static_cast<size_t>(outs));
      double top = 0;
      for (int64_t t = 0; t < outs; t++) {
        const int64_t o = t % p.oc, ox = t / p.oc % p.ow, oy = t / p.oc / p.ow % p.oh, oz = t / p.oc / p.ow / p.oh % p.od;
        const int64_t n = t / p.oc / p.ow / p.oh / p.od;
        double s = p.bias ? bias[o] : 0.0, sum = 1;
        if (p.residual) s += residual[t];
        for (int64_t tap = 0; tap < 9 * p.kd; tap++) {
          const int64_t kz = tap / 9, iz = oz * p.stride_d - p.pad_front + kz * p.dilation_d, iy = oy - p.pad_top + tap % 9 / 3, ix = ox - p.pad_left + tap % 3;
          if (iz < 0 || iz >= p.d || iy < 0 || iy >= p.h || ix < 0 || ix >= p.w) continue;
          for (int64_t i = 0; i < p.c; i++) {
            const double v = static_cast<double>(x[(((n * p.d + iz) * p.h + iy) * p.w + ix) * p.c + i]) *
                             weight[static_cast<size_t>(((tap % 9) * deep + kz * p.c + i) * p.oc + o)];
            s += v;
            sum += fabs(v);
          }
        }
        if (p.activation.kind == kActivationClip && s < 0) s = 0;
        if (p.activation.kind == kActivationSigmoid) s = 1 / (1 + exp(-s));
        want[static_cast<size_t>(t)] = s;
        top = std::max(top, sum);
      }
      for (int64_t t = 0; t < outs; t++)
        if (!h.expect(fabs(out[t] - want[static_cast<size_t>(t)]) <= 1e-5 * top, "element %lld: %g, want %g", (long long)t, out[t],
                      want[static_cast<size_t>(t)]))
          return;
      h.expect(out.intact(), "wrote outside of the image");
    }
  });
}

}  // namespace whittle
