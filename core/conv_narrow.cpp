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

int64_t up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

}  // namespace

WhittleStatus conv_narrow(const ConvProblem& p, int threads) {
  if (p.n == 0 || p.oh == 0 || p.ow == 0 || p.oc == 0) return WHITTLE_OK;
  // Floats of a piece of the image, which is to stay in the first-level cache; columns of a piece.
  constexpr int64_t kImage = 8 << 10, kColumns = 512;
  const int64_t tall = (p.kh - 1) * p.dilation_h, wide = (p.kw - 1) * p.dilation_w, taps = p.c * p.kh * p.kw;
  const int64_t team = threads > 0 ? threads : thread_limit();
  const bool alone = team == 1 || static_cast<double>(p.n * p.oh * p.ow) * static_cast<double>(p.oc * taps) < 400e3;
  // Pieces of a row, of which at most half is read twice; then rows of a piece.
  const int64_t fit = kImage / (p.c * (p.oh == 1 ? p.kh : tall + 4));
  const int64_t columns = std::min(p.ow, std::max({fit - wide, 2 * wide, int64_t(64)}));
  const int64_t share = alone || p.n * p.oh >= 4 * team ? p.ow : std::max<int64_t>(64, p.ow / (4 * team));
  const int64_t piece_columns = std::min({columns, share, std::max(kColumns, 2 * wide)}), pieces = (p.ow + piece_columns - 1) / piece_columns;
  const int64_t width = (p.ow + pieces - 1) / pieces + wide;
  const int64_t most = alone ? p.oh : std::max<int64_t>(1, p.n * p.oh * pieces / (4 * team));
  const int64_t strip = std::min({p.oh, most, std::max<int64_t>(tall + 2, kImage / (p.c * width) - tall)}), strips = (p.oh + strip - 1) / strip;
  // Beyond the last pixel up to a vector's worth is read and written, and not used. Planes do not lie a multiple of pages apart.
  const int64_t rows = strip + tall, size = up(rows * width, kConvNarrowPad), plane = size + (size % 512 == 0 ? kConvNarrowPad : 0);
  const int64_t out_plane = up((strip - 1) * width + width - wide, kConvNarrowPad);
  std::vector<int64_t> offset(static_cast<size_t>(taps));
  for (int64_t t = 0; t < taps; t++)
    offset[static_cast<size_t>(t)] = t / p.kw / p.kh * plane + t / p.kw % p.kh * p.dilation_h * width + t % p.kw * p.dilation_w;
  const ConvKernels& kernels = conv_kernels();
  const GemmKernels& floats = gemm_default().kernels;
  const int64_t total = p.n * strips * pieces, room = p.c * plane + kConvNarrowPad;
  std::atomic<bool> failed{false};
  parallel_for(total, alone ? total : 1, alone ? 1 : threads, [&](int64_t begin, int64_t end) {
    static thread_local Scratch scratch;
    float* image = static_cast<float*>(scratch.take((room + p.oc * (out_plane + width)) * 4));
    if (!image) {
      failed = true;
      return;
    }
    float* results = image + room;
    float* line = results + p.oc * out_plane;
    for (int64_t t = begin; t < end; t++) {
      const int64_t piece = t % pieces, n = t / pieces / strips, oy0 = p.oh * (t / pieces % strips) / strips, oy1 = p.oh * (t / pieces % strips + 1) / strips;
      const int64_t ox = p.ow * piece / pieces, count = p.ow * (piece + 1) / pieces - ox, left = ox - p.pad_left;
      const int64_t first = std::min(width, std::max<int64_t>(0, -left)), last = std::max(first, std::min(width, p.w - left));
      for (int64_t r = 0; r < oy1 - oy0 + tall; r++) {
        const int64_t iy = oy0 - p.pad_top + r;
        const bool inside = iy >= 0 && iy < p.h && last > first;
        const int64_t from = inside ? first : width, to = inside ? last : width;
        float* row = image + r * width;
        for (int64_t c = 0; c < p.c; c++) {
          memset(row + c * plane, 0, static_cast<size_t>(from) * 4);
          memset(row + c * plane + to, 0, static_cast<size_t>(width - to) * 4);
        }
        if (!inside) continue;
        const float* from_row = p.x + ((n * p.h + iy) * p.w + left + first) * p.c;
        if (p.c == 1) memcpy(row + first, from_row, static_cast<size_t>(last - first) * 4);
        else kernels.turn(last - first, p.c, from_row, p.c, row + first, plane);
      }
      const ConvNarrow own = {taps, up((oy1 - oy0 - 1) * width + count, kConvNarrowPad), p.oc, image, offset.data(), p.weight, p.bias, results, out_plane};
      kernels.narrow(&own);
      for (int64_t oy = oy0; oy < oy1; oy++) {
        const int64_t at = ((n * p.oh + oy) * p.ow + ox) * p.oc, size = count * p.oc;
        const float* from = results + (oy - oy0) * width;
        float* out = p.out + at;
        float* to = p.residual ? line : out;
        if (p.oc == 1) memcpy(to, from, static_cast<size_t>(count) * 4);
        else kernels.turn(p.oc, count, from, out_plane, to, p.oc);
        // The residual may lie where the results go.
        if (p.residual)
          for (int64_t i = 0; i < size; i++) out[i] = line[i] + p.residual[at + i];
        if (p.activation.kind != kActivationNone) floats.finish(1, size, out, 0, nullptr, &p.activation);
      }
    }
  });
  return failed ? WHITTLE_OUT_OF_MEMORY : WHITTLE_OK;
}

}  // namespace whittle
