#include <string.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "core/codes.h"
#include "core/conv.h"
#include "core/gemm.h"
#include "core/scratch.h"
#include "core/threads.h"

namespace whittle {
namespace {

// Rows [top, top + rows) of an image's planes, `width` columns from `left` on, zeros where there is no image.
void copy_padded(const ConvPlanesProblem& p, const float* image, int64_t top, int64_t rows, int64_t left, int64_t width, float* to) {
  const int64_t before = std::min(width, std::max<int64_t>(0, -left)), end = std::max(before, std::min(width, p.w - left));
  for (int64_t c = 0; c < p.c; c++)
    for (int64_t y = top; y < top + rows; y++, to += width) {
      if (y < 0 || y >= p.h) {
        memset(to, 0, static_cast<size_t>(width) * 4);
        continue;
      }
      memset(to, 0, static_cast<size_t>(before) * 4);
      memcpy(to + before, image + (c * p.h + y) * p.w + left + before, static_cast<size_t>(end - before) * 4);
      memset(to + end, 0, static_cast<size_t>(width - end) * 4);
    }
}

}  // namespace

WhittleStatus conv_planes(const ConvPlanesProblem& p, int threads) {
  if (p.n == 0 || p.oh == 0 || p.ow == 0 || p.oc == 0) return WHITTLE_OK;
  // Floats of a strip of the image and of a piece of a row of results, which stay in the first-level cache until they are done with.
  constexpr int64_t kImage = 8 << 10, kResults = 3 << 10;
  const int64_t reach = (p.kh - 1) * p.dilation_h + 1, width = (p.ow - 1) * p.stride_w + (p.kw - 1) * p.dilation_w + 1;
  const int64_t fit = (kImage / (p.c * width) - reach) / p.stride_h + 1;
  const int64_t team = threads > 0 ? threads : thread_limit();
  const double work = static_cast<double>(p.n * p.oh * p.ow * p.oc) * static_cast<double>(p.c * p.kh * p.kw);
  const bool alone = team == 1 || work < 400e3;
  const int64_t most = alone ? p.oh : std::max<int64_t>(1, p.n * p.oh / (4 * team));
  const int64_t strip = std::min(most, std::max<int64_t>(2, fit)), strips = (p.oh + strip - 1) / strip;
  const int64_t rows = (strip - 1) * p.stride_h + reach, piece = std::max<int64_t>(16, kResults / p.oc);
  const ConvKernels& kernels = conv_kernels();
  const GemmKernels& floats = gemm_default().kernels;
  std::vector<int64_t> offset(static_cast<size_t>(p.c * p.kh * p.kw));
  for (int64_t t = 0; t < p.c * p.kh * p.kw; t++) {
    const int64_t kx = t % p.kw, ky = t / p.kw % p.kh, c = t / p.kw / p.kh;
    offset[static_cast<size_t>(t)] = (c * rows + ky * p.dilation_h) * width + kx * p.dilation_w;
  }
  ConvPlanes k = {};
  k.taps = p.c * p.kh * p.kw;
  k.stride = p.stride_w;
  k.oc = k.out_step = p.oc;
  k.padded = (p.oc + kConvPlanesPad - 1) / kConvPlanesPad * kConvPlanesPad;
  k.offset = offset.data();
  k.weight = p.weight;
  k.bias = p.bias;
  std::atomic<bool> failed{false};
  parallel_for(p.n * strips, 1, alone ? 1 : threads, [&](int64_t begin, int64_t end) {
    static thread_local Scratch scratch;
    float* image = static_cast<float*>(scratch.take((p.c * rows * width + piece * p.oc) * 4));
    if (!image) {
      failed = true;
      return;
    }
    float* results = image + p.c * rows * width;
    ConvPlanes own = k;
    for (int64_t t = begin; t < end; t++) {
      const int64_t i = t / strips, first = t % strips * strip, last = std::min(p.oh, first + strip);
      copy_padded(p, p.x + i * p.c * p.h * p.w, first * p.stride_h - p.pad_top, rows, -p.pad_left, width, image);
      for (int64_t oy = first; oy < last; oy++)
        for (int64_t ox = 0; ox < p.ow; ox += piece) {
          const int64_t at = ((i * p.oh + oy) * p.ow + ox) * p.oc;
          own.pixels = std::min(piece, p.ow - ox);
          own.x = image + (oy - first) * p.stride_h * width + ox * p.stride_w;
          own.out = p.codes ? results : static_cast<float*>(p.out) + at;
          kernels.planes(&own);
          const int64_t count = own.pixels * p.oc;
          if (p.activation.kind != kActivationNone) floats.finish(1, count, own.out, 0, nullptr, &p.activation);
          if (p.codes) bytes_of_floats(results, count, p.scale, p.zero, p.codes_signed, static_cast<uint8_t*>(p.out) + at);
        }
    }
  });
  return failed ? WHITTLE_OUT_OF_MEMORY : WHITTLE_OK;
}

}  // namespace whittle
