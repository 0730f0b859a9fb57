#include <string.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "core/conv.h"
#include "core/gemm.h"
#include "core/scratch.h"
#include "core/threads.h"

namespace whittle {
namespace {

// Inputs of one block for outputs [ox, ox + count) of one image: rows of the image with zeros beside them, spread over the 16 lanes where
// groups are narrow, as many as the kernel has, kept while the output goes down.
struct BlockRows {
  const ConvGroupedProblem* p;
  const ConvKernels* kernels;
  ConvSpread spread;
  bool narrow;
  int64_t each;         // floats of a pixel
  int64_t left, width;  // first column (may be negative) and columns of a row
  const float* x;       // image, from the block's first channel on
  float* memory;
  std::vector<int64_t> held;

  const float* get(int64_t iy) {
    // Rows of a window are dilation_h apart: each has a slot of its own.
    const int64_t slot = iy / p->dilation_h % p->kh;
    float* row = memory + slot * width * each;
    if (held[static_cast<size_t>(slot)] == iy) return row;
    held[static_cast<size_t>(slot)] = iy;
    const int64_t first = std::min(width, std::max<int64_t>(0, -left)), last = std::max(first, std::min(width, p->w - left));
    memset(row, 0, static_cast<size_t>(first * each) * 4);
    const float* from = x + (iy * p->w + left + first) * p->c;
    float* to = row + first * each;
    if (narrow) {
      spread.pixels = last - first;
      spread.x = from;
      spread.out = to;
      kernels->spread(&spread);
    } else {
      for (int64_t i = first; i < last; i++, from += p->c, to += each) memcpy(to, from, static_cast<size_t>(each) * 4);
    }
    memset(row + last * each, 0, static_cast<size_t>((width - last) * each) * 4);
    return row;
  }
};

}  // namespace

WhittleStatus conv_grouped(const ConvGroupedProblem& p, int threads) {
  if (p.n == 0 || p.oh == 0 || p.ow == 0 || p.oc == 0) return WHITTLE_OK;
  // Floats of the rows that are held, which stay in the first-level cache.
  constexpr int64_t kRoom = 7 << 10;
  const ConvKernels& kernels = conv_kernels();
  const GemmKernels& floats = gemm_default().kernels;
  const int64_t c = p.c / p.groups, oc = p.oc / p.groups, most = conv_group_block(c, oc), blocks = (p.groups + most - 1) / most;
  const bool narrow = c <= 8 && oc <= 8;
  const int64_t lanes = (most * oc + kConvPlanesPad - 1) / kConvPlanesPad * kConvPlanesPad, each = narrow ? c * 16 : c;
  const int64_t taps = p.kh * p.kw, beyond = (p.kw - 1) * p.dilation_w + 1;
  const int64_t fit = std::max<int64_t>(24, (kRoom / (each * p.kh) - beyond) / p.stride_w + 1), pieces = (p.ow + fit - 1) / fit;
  const int64_t team = threads > 0 ? threads : thread_limit();
  const double work = static_cast<double>(p.n * p.oh * p.ow * p.oc) * static_cast<double>(c * taps);
  const bool alone = team == 1 || work < 400e3;
  // Strips of rows where there are too few blocks for the threads: a strip begins with rows that the one before it had.
  const int64_t units = p.n * blocks * pieces, strips = alone ? 1 : std::max<int64_t>(1, std::min(p.oh / 4, (4 * team + units - 1) / units));
  std::vector<int32_t> index(static_cast<size_t>(narrow ? c * 16 : 0));
  for (size_t i = 0; i < index.size(); i++)
    index[i] = static_cast<int32_t>(std::min(static_cast<int64_t>(i % 16) / oc, most - 1) * c + static_cast<int64_t>(i / 16));
  std::atomic<bool> failed{false};
  parallel_for(units * strips, 1, alone ? 1 : threads, [&](int64_t begin, int64_t end) {
    static thread_local Scratch scratch;
    const int64_t room = (p.kh * ((std::min(fit, p.ow) - 1) * p.stride_w + beyond) * each + 15) / 16 * 16;
    float* memory = static_cast<float*>(scratch.take((room + 16) * 4 + (p.kh + taps * c) * 8));
    if (!memory) {
      failed = true;
      return;
    }
    float* bias = memory + room;
    const float** rows = reinterpret_cast<const float**>(bias + 16);
    int64_t* offset = reinterpret_cast<int64_t*>(rows + p.kh);
    std::vector<int32_t> few;
    for (int64_t t = begin; t < end; t++) {
      const int64_t strip = t % strips, piece = t / strips % pieces, block = t / strips / pieces % blocks, image = t / strips / pieces / blocks;
      const int64_t ox = p.ow * piece / pieces, count = p.ow * (piece + 1) / pieces - ox, group = block * most;
      const int64_t groups = std::min(most, p.groups - group), outputs = groups * oc;
      BlockRows held = {&p, &kernels, {}, narrow, each, ox * p.stride_w - p.pad_left, (count - 1) * p.stride_w + beyond, nullptr, memory, {}};
      held.x = p.x + image * p.h * p.w * p.c + group * c;
      held.held.assign(static_cast<size_t>(p.kh), -1);
      if (narrow) {
        // The last block may have fewer groups: its other lanes are not written, and read what there is.
        few = index;
        for (int32_t& i : few) i = std::min(i, static_cast<int32_t>(groups * c - 1));
        held.spread = {0, p.c, c, groups * c, nullptr, few.data(), nullptr};
        for (int64_t i = 0; i < 16; i++) bias[i] = p.bias && i < outputs ? p.bias[group * oc + i] : 0.0f;
      }
      const float* weight = p.weight + block * taps * c * lanes;
      for (int64_t oy = p.oh * strip / strips; oy < p.oh * (strip + 1) / strips; oy++) {
        const int64_t top = oy * p.stride_h - p.pad_top;
        int64_t ky0 = 0, ky1 = p.kh;
        while (ky0 < ky1 && top + ky0 * p.dilation_h < 0) ky0++;
        while (ky1 > ky0 && top + (ky1 - 1) * p.dilation_h >= p.h) ky1--;
        for (int64_t ky = ky0; ky < ky1; ky++) rows[ky - ky0] = held.get(top + ky * p.dilation_h);
        float* out = p.out + ((image * p.oh + oy) * p.ow + ox) * p.oc + group * oc;
        const float* w = weight + ky0 * p.kw * c * lanes;
        if (narrow) {
          const ConvGrouped k = {ky1 - ky0, p.kw, p.dilation_w, p.stride_w, c, count, outputs, rows, w, bias, out, p.oc};
          kernels.grouped(&k);
        } else {
          int64_t* o = offset;
          for (int64_t ky = 0; ky < ky1 - ky0; ky++)
            for (int64_t kx = 0; kx < p.kw; kx++)
              for (int64_t i = 0; i < c; i++) *o++ = rows[ky] - memory + kx * p.dilation_w * c + i;
          const ConvPlanes k = {o - offset, count, p.stride_w * c, oc, lanes, memory, offset, w, p.bias ? p.bias + group * oc : nullptr, out, p.oc};
          kernels.planes(&k);
        }
        if (p.activation.kind != kActivationNone) floats.finish(count, outputs, out, p.oc, nullptr, &p.activation);
      }
    }
  });
  return failed ? WHITTLE_OUT_OF_MEMORY : WHITTLE_OK;
}

}  // namespace whittle
