#include <math.h>
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

// Tiles that share one pass over the weights, which lie in a farther cache than a block's numbers: enough of them that the
// passes cost little, few enough that the numbers stay near.
constexpr int64_t kMostTiles = 56;

// G of F(4x4, 3x3), points 0, 1, -1, 2, -2 and infinity, and of F(2x2, 3x3), points 0, 1, -1 and infinity.
constexpr double kTransform[6][3] = {{1 / 4.0, 0, 0},          {-1 / 6.0, -1 / 6.0, -1 / 6.0}, {-1 / 6.0, 1 / 6.0, -1 / 6.0},
                                     {1 / 24.0, 1 / 12.0, 1 / 6.0}, {1 / 24.0, -1 / 12.0, 1 / 6.0}, {0, 0, 1}};
constexpr double kSmall[4][3] = {{1, 0, 0}, {0.5, 0.5, 0.5}, {0.5, -0.5, 0.5}, {0, 0, 1}};

}  // namespace

void conv_winograd_weights(int64_t tile, int64_t size, const float* taps, int point, float* out) {
  double factor[9];
  const double(*transform)[3] = tile == 4 ? kTransform : kSmall;
  const int side = static_cast<int>(tile) + 2;
  for (int t = 0; t < 9; t++) factor[t] = transform[point / side][t / 3] * transform[point % side][t % 3];
  for (int64_t i = 0; i < size; i++) {
    double sum = 0;
    for (int t = 0; t < 9; t++) sum += factor[t] * static_cast<double>(taps[t * size + i]);
    out[i] = static_cast<float>(sum);
  }
}

WhittleStatus conv_winograd(const ConvProblem& p, int threads) {
  if (p.n == 0 || p.od == 0 || p.oh == 0 || p.ow == 0 || p.oc == 0) return WHITTLE_OK;
  const ConvKernels& kernels = conv_kernels();
  const GemmEngine& engine = gemm_default();
  const GemmKernels& gemm = engine.kernels;
  const int64_t size = p.winograd, points = conv_winograd_points(size);
  const int64_t down = (p.oh + size - 1) / size, across = (p.ow + size - 1) / size, total = p.n * p.od * down * across;
  const int64_t deep = p.kd * p.c, step = gemm_k_block(deep), panels = (p.oc + gemm.nr - 1) / gemm.nr, each = gemm_packed_size(deep, p.oc);
  // Rows of a product that no two lie in the same sets of a cache.
  const int64_t wide = (deep + 15) / 16 * 16 + 16, out_wide = (p.oc + 15) / 16 * 16 + 16;
  const int64_t team = threads > 0 ? threads : thread_limit();
  const int64_t fit = kMostTiles * 36 / points, blocks = std::max((total + fit - 1) / fit, std::min(team, (total + 3) / 4));
  const int64_t most = (total + blocks - 1) / blocks, most_rows = std::min<int64_t>(gemm.mr, kGemmMaxRows);
  const bool clip = p.activation.kind == kActivationClip, after = !clip && p.activation.kind != kActivationNone;
  const std::vector<float> none(p.bias ? 0 : static_cast<size_t>(p.oc), 0.0f);
  std::atomic<bool> failed{false};
  parallel_for(blocks, 1, threads, [&](int64_t begin, int64_t end) {
    static thread_local Scratch scratch;
    const int64_t point = most * wide, out_point = most * out_wide;
    float* v = static_cast<float*>(scratch.take(points * (point + out_point) * 4));
    if (!v) {
      failed = true;
      return;
    }
    float* m = v + points * point;
    for (int64_t block = begin; block < end; block++) {
      const int64_t first = total * block / blocks, tiles = total * (block + 1) / blocks - first;
      for (int64_t i = 0; i < tiles; i++) {
        const int64_t t = first + i, image = t / (down * across), oy = t / across % down * size, ox = t % across * size;
        for (int64_t kz = 0; kz < p.kd; kz++) {
          const int64_t iz = image % p.od * p.stride_d - p.pad_front + kz * p.dilation_d;
          float* to = v + i * wide + kz * p.c;
          if (iz < 0 || iz >= p.d) {
            for (int64_t q = 0; q < points; q++) memset(to + q * point, 0, static_cast<size_t>(p.c) * 4);
            continue;
          }
          const ConvWinogradIn in = {size, p.h, p.w, p.c, p.x + (image / p.od * p.d + iz) * p.h * p.w * p.c, oy - p.pad_top, ox - p.pad_left, to, point};
          kernels.winograd_in(&in);
        }
      }
      GemmTile tile = {};
      tile.a_row = wide;
      tile.cols = p.oc;
      tile.b_row = gemm.nr;
      tile.b_padded = true;
      tile.ldc = out_wide;
      tile.alpha = 1;
      tile.lo = -INFINITY;
      tile.hi = INFINITY;
      const int64_t chunks = (tiles + most_rows - 1) / most_rows;
      for (int64_t q = 0; q < points; q++)
        for (int64_t k0 = 0; k0 < deep; k0 += step) {
          tile.k = std::min(step, deep - k0);
          tile.b_panel = tile.k * gemm.nr;
          tile.b = p.weight + q * each + k0 * panels * gemm.nr;
          tile.beta = k0 == 0 ? 0.0f : 1.0f;
          for (int64_t i = 0; i < chunks; i++) {
            const int64_t row = tiles * i / chunks;
            tile.rows = tiles * (i + 1) / chunks - row;
            tile.cold = i == 0;
            // Weights lie in the order of their use: the next ones come near while these are used.
            const int64_t count = std::min(tile.b_panel * panels, p.weight + points * each - (tile.b + tile.b_panel * panels));
            const int64_t from = count * i / chunks / 16 * 16;
            tile.ahead = tile.b + tile.b_panel * panels + from;
            tile.ahead_strips = 1;
            tile.ahead_length = count * (i + 1) / chunks / 16 * 16 - from;
            tile.a = v + q * point + row * wide + k0;
            tile.c = m + q * out_point + row * out_wide;
            gemm.tile(&tile);
          }
        }
      for (int64_t i = 0; i < tiles; i++) {
        const int64_t t = first + i, image = t / (down * across), oy = t / across % down * size, ox = t % across * size;
        const int64_t at = ((image * p.oh + oy) * p.ow + ox) * p.oc, line = p.ow * p.oc;
        const ConvWinogradOut out = {size, std::min(size, p.oh - oy), std::min(size, p.ow - ox), p.oc, m + i * out_wide, out_point,
                                     p.bias ? p.bias : none.data(), p.residual ? p.residual + at : nullptr, p.out + at, line,
                                     clip ? p.activation.lo : -INFINITY, clip ? p.activation.hi : INFINITY};
        kernels.winograd_out(&out);
        for (int64_t r = 0; after && r < out.rows; r++) gemm.finish(1, out.cols * p.oc, out.out + r * line, 0, nullptr, &p.activation);
      }
    }
  });
  return failed ? WHITTLE_OUT_OF_MEMORY : WHITTLE_OK;
}

}  // namespace whittle
