// Convolutions of groups: what is spread and its sums of every variant against scalar to the bit, whole convolutions against the definition.
#include <math.h>
#include <string.h>

#include <vector>

#include "core/conv.h"
#include "test/native/harness.h"

namespace whittle {
namespace {

void fill(Rng& rng, float* p, int64_t n) {
  for (int64_t i = 0; i < n; i++) p[i] = rng.normal();
}

int64_t out_size(int64_t in, int64_t pad, int64_t k, int64_t stride, int64_t dilation) {
  const int64_t room = in + pad - (k - 1) * dilation - 1;
  return room < 0 ? 0 : room / stride + 1;
}

void spread_row(Harness& h, const ConvKernels& ref, const ConvKernels& got) {
  Rng rng = h.rng();
  for (int round = 0; round < (h.lean() ? 40 : 400); round++) {
    const int64_t span = rng.between(1, 16), inputs = rng.between(1, 8), pixels = rng.between(1, 20), step = span + rng.below(20);
    std::vector<int32_t> index;
    for (int64_t i = 0; i < inputs; i++) {
      int64_t at = rng.below(round % 3 ? 2 : span);
      for (int lane = 0; lane < 16; lane++) {
        index.push_back(static_cast<int32_t>(std::min(at, span - 1)));
        at += rng.below(round % 2 ? 2 : 4);
      }
    }
    Guarded<float> x((pixels - 1) * step + span, round & 1), want(pixels * inputs * 16), out(pixels * inputs * 16, rng.below(4));
    fill(rng, x.data(), x.size());
    ConvSpread p = {pixels, step, inputs, span, x.data(), index.data(), want.data()};
    ref.spread(&p);
    p.out = out.data();
    got.spread(&p);
    h.expect(memcmp(want.data(), out.data(), static_cast<size_t>(out.size()) * 4) == 0, "%lld channels", (long long)span);
    h.expect(out.intact(), "wrote outside of the row");
  }
}

void grouped_row(Harness& h, const ConvKernels& ref, const ConvKernels& got) {
  Rng rng = h.rng();
  for (int round = 0; round < (h.lean() ? 40 : 400); round++) {
    ConvGrouped p = {};
    p.rows = rng.between(0, 4);
    p.kw = round % 2 ? 3 : rng.between(1, 5);
    p.dilation_w = rng.between(1, 2);
    p.stride_w = round % 4 == 1 ? 1 : rng.between(1, 3);
    p.inputs = rng.between(1, 8);
    p.pixels = rng.between(1, 40);
    p.lanes = rng.between(1, 16);
    p.out_step = p.lanes + rng.below(20);
    const int64_t line = ((p.pixels - 1) * p.stride_w + (p.kw - 1) * p.dilation_w + 1) * p.inputs * 16, size = (p.pixels - 1) * p.out_step + p.lanes;
    Guarded<float> x(p.rows * line, round & 1), w(p.rows * p.kw * p.inputs * 16, rng.below(2)), bias(16, 1), want(size), out(size, rng.below(4));
    fill(rng, x.data(), x.size());
    fill(rng, w.data(), w.size());
    fill(rng, bias.data(), 16);
    memset(want.data(), 0, static_cast<size_t>(size) * 4);
    memset(out.data(), 0, static_cast<size_t>(size) * 4);
    std::vector<const float*> rows;
    for (int64_t ky = 0; ky < p.rows; ky++) rows.push_back(x.data() + (p.rows - 1 - ky) * line);
    p.row = rows.data();
    p.weight = w.data();
    p.bias = bias.data();
    p.out = want.data();
    ref.grouped(&p);
    p.out = out.data();
    got.grouped(&p);
    h.expect(memcmp(want.data(), out.data(), static_cast<size_t>(size) * 4) == 0, "%lld lanes, %lld pixels, %lld inputs", (long long)p.lanes,
             (long long)p.pixels, (long long)p.inputs);
    h.expect(out.intact(), "wrote outside of the row");
  }
}

}  // namespace

WHITTLE_CHECK(conv_grouped) {
  each_variant(h, conv_variants(), [&](const ConvKernels& ref, const ConvKernels& got) {
    h.row("spread", [&] { spread_row(h, ref, got); });
    h.row("grouped", [&] { grouped_row(h, ref, got); });
  });
  h.row("conv_grouped against the definition", [&] {
    Rng rng = h.rng();
    for (int round = 0; round < (h.lean() ? 40 : 300); round++) {
      ConvGroupedProblem p = {};
      const int64_t c = rng.between(1, round % 3 ? 8 : 20), oc = rng.between(1, round % 3 ? 8 : 40);
      p.groups = rng.between(1, 12);
      p.c = c * p.groups;
      p.oc = oc * p.groups;
      p.n = rng.between(1, 2);
      p.h = rng.between(1, 20);
      p.w = rng.between(1, round % 8 ? 30 : 200);
      p.kh = rng.between(1, 5);
      p.kw = rng.below(2) ? 3 : rng.between(1, 7);
      p.stride_h = rng.between(1, 3);
      p.stride_w = rng.between(1, 3);
      p.dilation_h = rng.between(1, 3);
      p.dilation_w = rng.between(1, 2);
      p.pad_top = rng.between(0, 4);
      p.pad_left = rng.between(0, 4);
      p.oh = out_size(p.h, p.pad_top + rng.between(0, 4), p.kh, p.stride_h, p.dilation_h);
      p.ow = out_size(p.w, p.pad_left + rng.between(0, 4), p.kw, p.stride_w, p.dilation_w);
      if (p.oh == 0 || p.ow == 0) continue;
      const int64_t most = conv_group_block(c, oc), lanes = (most * oc + 15) / 16 * 16, taps = p.kh * p.kw;
      const int64_t outs = p.n * p.oh * p.ow * p.oc;
      Guarded<float> x(p.n * p.h * p.w * p.c, round & 1), weight((p.groups + most - 1) / most * taps * c * lanes), bias(p.oc), out(outs, rng.below(4));
      fill(rng, x.data(), x.size());
      fill(rng, bias.data(), p.oc);
      const auto place = [&](int64_t o, int64_t t, int64_t i) {
        const int64_t group = o / oc;
        return ((group / most * taps + t) * c + i) * lanes + group % most * oc + o % oc;
      };
      memset(weight.data(), 0, static_cast<size_t>(weight.size()) * 4);
      for (int64_t o = 0; o < p.oc; o++)
        for (int64_t t = 0; t < taps; t++)
          for (int64_t i = 0; i < c; i++) weight[place(o, t, i)] = rng.normal();
      p.x = x.data();
      p.weight = weight.data();
      p.bias = round % 3 ? bias.data() : nullptr;
      p.activation = {round % 2 ? kActivationNone : kActivationClip, 0, 6};
      p.out = out.data();
      h.expect(conv_grouped(p, static_cast<int>(rng.between(1, 2))) == WHITTLE_OK, "refused");
      for (int64_t e = 0; e < outs; e++) {
        const int64_t o = e % p.oc, ox = e / p.oc % p.ow, oy = e / p.oc / p.ow % p.oh, n = e / p.oc / p.ow / p.oh;
        double s = p.bias ? bias[o] : 0.0, scale = 1;
        for (int64_t t = 0; t < taps; t++) {
          const int64_t iy = oy * p.stride_h - p.pad_top + t / p.kw * p.dilation_h, ix = ox * p.stride_w - p.pad_left + t % p.kw * p.dilation_w;
          if (iy < 0 || iy >= p.h || ix < 0 || ix >= p.w) continue;
          for (int64_t i = 0; i < c; i++) {
            const double v = static_cast<double>(x[((n * p.h + iy) * p.w + ix) * p.c + o / oc * c + i]) * weight[place(o, t, i)];
            s += v;
            scale += fabs(v);
          }
        }
        if (p.activation.kind == kActivationClip) s = s < 0 ? 0 : s > 6 ? 6 : s;
        if (!h.expect(fabs(out[e] - s) <= 1e-6 * scale, "round %d, %lld groups of %lld to %lld, element %lld: %g, want %g", round, (long long)p.groups,
                      (long long)c, (long long)oc, (long long)e, out[e], s))
          return;
      }
      h.expect(out.intact(), "wrote outside of the image");
    }
  });
}

}  // namespace whittle
