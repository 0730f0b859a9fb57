#include "core/conv.h"

#include <string.h>

#include <algorithm>

#include "core/gemm.h"
#include "core/threads.h"

#define WHITTLE_VARIANT(tier) extern "C" void conv_install_##tier(whittle::ConvKernels*);
#include "cpu/conv/variants.inc"
#undef WHITTLE_VARIANT

namespace whittle {

VariantList<ConvKernels> conv_variants() {
  static const Variant<ConvKernels> list[] = {
#define WHITTLE_VARIANT(tier) {Tier::tier, conv_install_##tier},
#include "cpu/conv/variants.inc"
#undef WHITTLE_VARIANT
  };
  return {list, static_cast<int>(sizeof list / sizeof *list)};
}

namespace {

const Resolved<ConvKernels>& resolved() {
  static const Resolved<ConvKernels> r = resolve(conv_variants());
  return r;
}

// What filling rows of A needs: one group's channels [first, first + c) of pixels that have `stride` channels.
struct Patches {
  const ConvProblem* p;
  int64_t first, c;
};

// Columns [k, k + length) of row `index` of the virtual im2col matrix, k = (ky * kw + kx) * c + channel.
void fill_row(const ConvProblem& p, const Patches& g, int64_t index, int64_t k, int64_t length, float* out) {
  const int64_t ox = index % p.ow, oy = index / p.ow % p.oh, image = index / (p.ow * p.oh);
  const float* x = p.x + image * p.h * p.w * p.c + g.first;
  const int64_t top = oy * p.stride_h - p.pad_top, left = ox * p.stride_w - p.pad_left;
  while (length > 0) {
    const int64_t tap = k / g.c, channel = k - tap * g.c, ky = tap / p.kw, kx = tap - ky * p.kw;
    const int64_t iy = top + ky * p.dilation_h, ix = left + kx * p.dilation_w;
    // A run: the rest of this tap, or of the kernel's row where its taps lie side by side in the image.
    const bool joined = p.dilation_w == 1 && g.c == p.c && ix >= 0 && left + p.kw <= p.w;
    const int64_t run = std::min(length, (joined ? (p.kw - kx) * g.c : g.c) - channel);
    if (iy < 0 || iy >= p.h || ix < 0 || ix >= p.w) memset(out, 0, static_cast<size_t>(run) * 4);
    else memcpy(out, x + (iy * p.w + ix) * p.c + channel, static_cast<size_t>(run) * 4);
    out += run;
    k += run;
    length -= run;
  }
}

void fill(const void* context, int64_t row, int64_t rows, int64_t k, int64_t length, float* out) {
  const Patches& g = *static_cast<const Patches*>(context);
  for (int64_t i = 0; i < rows; i++) fill_row(*g.p, g, row + i, k, length, out + i * kGemmRowStride);
}

WhittleStatus as_product(const ConvProblem& p, int threads) {
  const int64_t c = p.c / p.groups, oc = p.oc / p.groups, k = p.kh * p.kw * c;
  const bool plain = p.kh == 1 && p.kw == 1 && p.stride_h == 1 && p.stride_w == 1 && p.pad_top == 0 && p.pad_left == 0 &&
                     p.oh == p.h && p.ow == p.w;
  const int64_t packed = gemm_packed_size(k, oc);
  for (int64_t group = 0; group < p.groups; group++) {
    const Patches patches = {&p, group * c, c};
    GemmProblem g;
    g.m = p.n * p.oh * p.ow;
    g.n = oc;
    g.k = k;
    if (plain) {
      g.a = p.x + group * c;
      g.a_row = p.c;
    } else {
      g.fill = fill;
      g.fill_context = &patches;
    }
    g.packed = p.weight + group * packed;
    g.c = p.out + group * oc;
    g.ldc = p.oc;
    g.bias = p.bias ? p.bias + group * oc : nullptr;
    if (p.residual) {
      g.beta = 1;
      g.source = p.residual + group * oc;
      g.source_row = p.oc;
      g.source_col = 1;
    }
    g.activation = p.activation;
    const WhittleStatus status = gemm_f32(g, threads);
    if (status != WHITTLE_OK) return status;
  }
  return WHITTLE_OK;
}

}  // namespace

const ConvKernels& conv_kernels() { return resolved().table; }
Tier conv_tier() { return resolved().tier; }

WhittleStatus conv_f32(const ConvProblem& p, int threads) {
  if (!conv_is_depthwise(p.c, p.oc, p.groups)) return as_product(p, threads);
  const ConvKernels& kernels = conv_kernels();
  const int64_t work = p.ow * p.c * p.kh * p.kw;
  parallel_for(p.n * p.oh, std::max<int64_t>(1, (64 << 10) / (work + 1)), threads, [&](int64_t begin, int64_t end) {
    ConvDepthwise d = {p.h, p.w, p.c, p.ow, p.kh, p.kw, p.stride_h, p.stride_w, p.dilation_h, p.dilation_w, p.pad_top,
                       p.pad_left, nullptr, 0, p.weight, p.bias, p.activation, nullptr};
    for (int64_t row = begin; row < end; row++) {
      d.x = p.x + row / p.oh * p.h * p.w * p.c;
      d.oy = row % p.oh;
      d.out = p.out + row * p.ow * p.c;
      kernels.depthwise(&d);
    }
  });
  return WHITTLE_OK;
}

}  // namespace whittle
