#include <string.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "core/conv.h"
#include "core/gemm_int8.h"
#include "core/sparse_weights.h"
#include "core/scratch.h"
#include "core/threads.h"

namespace whittle {
namespace {

int64_t out_size(int32_t type) { return type == kOutInt32 || type == kOutFloat32 ? 4 : 1; }

// Rows of the virtual im2col matrix, k = (ky * kw + kx) * c + channel; what lies outside of the image is the zero point.
void fill(const void* context, int64_t row, int64_t rows, uint8_t* out, int64_t stride) {
  const ConvInt8Problem& p = *static_cast<const ConvInt8Problem*>(context);
  const int pad = p.x_zero & 255;
  const size_t c = static_cast<size_t>(p.c), line = static_cast<size_t>(p.kw) * c;
  int64_t ox = row % p.ow, oy = row / p.ow % p.oh, image = row / (p.ow * p.oh);
  for (int64_t i = 0; i < rows; i++, out += stride) {
    const uint8_t* x = p.x + image * p.h * p.w * p.c;
    const int64_t left = ox * p.stride_w - p.pad_left;
    const bool whole = p.dilation_w == 1 && left >= 0 && left + p.kw <= p.w;
    uint8_t* to = out;
    for (int64_t ky = 0; ky < p.kh; ky++, to += line) {
      const int64_t iy = oy * p.stride_h - p.pad_top + ky * p.dilation_h;
      if (iy < 0 || iy >= p.h) {
        memset(to, pad, line);
      } else if (whole) {
        memcpy(to, x + (iy * p.w + left) * p.c, line);
      } else {
        for (int64_t kx = 0; kx < p.kw; kx++) {
          const int64_t ix = left + kx * p.dilation_w;
          if (ix < 0 || ix >= p.w) memset(to + kx * p.c, pad, c);
          else memcpy(to + kx * p.c, x + (iy * p.w + ix) * p.c, c);
        }
      }
    }
    if (++ox == p.ow) {
      ox = 0;
      if (++oy == p.oh) {
        oy = 0;
        image++;
      }
    }
  }
}

WhittleStatus as_product(const ConvInt8Problem& p, int threads) {
  const bool plain = p.kh == 1 && p.kw == 1 && p.stride_h == 1 && p.stride_w == 1 && p.pad_top == 0 && p.pad_left == 0 &&
                     p.oh == p.h && p.ow == p.w;
  GemmInt8Args g = {};
  if (plain) {
    g.a = p.x;
  } else {
    g.fill = fill;
    g.fill_context = &p;
  }
  g.a_signed = p.x_signed;
  g.m = p.n * p.oh * p.ow;
  g.n = p.oc;
  g.k = p.kh * p.kw * p.c;
  g.packed = p.packed;
  g.batch = 1;
  g.a_zero = p.x_zero;
  g.a_scale = p.x_scale;
  g.b_scales = p.scales;
  g.bias_float = p.bias;
  g.residual = p.residual;
  g.added = p.added;
  g.activation = p.activation;
  g.out_type = p.out_type;
  g.out_scale = p.out_scale;
  g.out_zero = p.out_zero;
  g.out = p.out;
  g.threads = threads;
  if (!p.sparse) return gemm_int8(gemm_int8_kernels(), g);
  const SparseInt8Image image = {p.x, p.n, p.h, p.w, p.c, p.oh, p.ow, p.kh, p.kw, p.dilation_h, p.dilation_w, p.pad_top, p.pad_left};
  return sparse_gemm_int8(*p.sparse, g, !plain && p.stride_h == 1 && p.stride_w == 1 ? &image : nullptr);
}

// Sums of a few rows of a block of channels, then the epilogue, so that the sums stay in the first-level cache.
WhittleStatus depthwise(const ConvInt8Problem& p, int threads) {
  const ConvKernels& kernels = conv_kernels();
  constexpr int64_t kBlock = 64, kSums = 4096;
  const int64_t blocks = (p.c + kBlock - 1) / kBlock, taps = p.kh * p.kw;
  // Pixels with few channels are finished several at a time, as if they were one with more.
  const int64_t together = p.c <= kBlock ? std::max<int64_t>(1, 256 / p.c) : 1;
  std::vector<float> scale(static_cast<size_t>(p.c * together)), bias(static_cast<size_t>(p.c * together), -0.0f);
  for (int64_t j = 0; j < p.c * together; j++) {
    scale[static_cast<size_t>(j)] = p.x_scale * p.scales[j % p.c];
    if (p.bias) bias[static_cast<size_t>(j)] = p.bias[j % p.c];
  }
  GemmInt8Epilogue e = {};
  e.scale = scale.data();
  e.bias = bias.data();
  e.activation = p.activation;
  e.out_scale = p.out_scale;
  e.out_zero = p.out_zero;
  e.out_type = p.out_type;
  const int64_t strip = std::min(p.oh, std::max<int64_t>(1, kSums / (p.ow * std::min(p.c, kBlock))));
  const int64_t strips = (p.oh + strip - 1) / strip;
  const double work = static_cast<double>(p.n * p.oh * p.ow * p.c) * static_cast<double>(taps);
  const int64_t grain = std::max<int64_t>(1, 16 * kSums / (strip * p.ow * std::min(p.c, kBlock)));
  std::atomic<bool> failed{false};
  parallel_for(p.n * blocks * strips, grain, work < 200e3 ? 1 : threads, [&](int64_t begin, int64_t end) {
    static thread_local Scratch scratch;
    int32_t* sums = static_cast<int32_t*>(scratch.take(strip * p.ow * std::min(p.c, kBlock) * 4 + 64));
    if (!sums) {
      failed = true;
      return;
    }
    for (int64_t t = begin; t < end; t++) {
      const int64_t oy = t % strips * strip, block = t / strips % blocks, image = t / strips / blocks;
      const int64_t first = block * kBlock, c = std::min(kBlock, p.c - first), rows = std::min(strip, p.oh - oy);
      const ConvDepthwise d = {p.h, p.w, c, p.ow, p.kh, p.kw, p.stride_h, p.stride_w, p.dilation_h, p.dilation_w, p.pad_top, p.pad_left,
                               nullptr, oy, rows, p.depthwise + first, nullptr, {kActivationNone, 0, 0}, nullptr, p.c, p.c};
      const ConvDepthwiseCodes codes = {d, p.x + image * p.h * p.w * p.c + first, p.x_signed, p.x_zero, sums};
      kernels.depthwise_codes(&codes);
      uint8_t* out = static_cast<uint8_t*>(p.out) + (((image * p.oh + oy) * p.ow) * p.c + first) * out_size(p.out_type);
      const int64_t pixels = rows * p.ow, groups = pixels / together, left = pixels % together;
      kernels.finish_sums(&e, groups, first, c * together, sums, out, p.c * together);
      if (left > 0) kernels.finish_sums(&e, left, first, c, sums + groups * together * c, out + groups * together * p.c * out_size(p.out_type), p.c);
    }
  });
  return failed ? WHITTLE_OUT_OF_MEMORY : WHITTLE_OK;
}

}  // namespace

WhittleStatus conv_int8(const ConvInt8Problem& p, int threads) {
  if (p.n == 0 || p.oh == 0 || p.ow == 0 || p.oc == 0) return WHITTLE_OK;
  return p.packed || p.sparse ? as_product(p, threads) : depthwise(p, threads);
}

}  // namespace whittle
