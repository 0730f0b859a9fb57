#include "core/conv.h"

#include <math.h>
#include <string.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "core/gemm.h"
#include "core/sparse_weights.h"
#include "core/scratch.h"
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

// Columns [k, k + length) of row `index` of the virtual im2col matrix, k = ((kz * kh + ky) * kw + kx) * c + channel.
void fill_row(const ConvProblem& p, const Patches& g, int64_t index, int64_t k, int64_t length, float* out) {
  const int64_t ox = index % p.ow, oy = index / p.ow % p.oh, image = index / (p.ow * p.oh);
  const float* x = p.x + image / p.od * p.d * p.h * p.w * p.c + g.first;
  const int64_t front = image % p.od * p.stride_d - p.pad_front, top = oy * p.stride_h - p.pad_top, left = ox * p.stride_w - p.pad_left;
  while (length > 0) {
    const int64_t tap = k / g.c, channel = k - tap * g.c, line = tap / p.kw, kx = tap - line * p.kw, kz = line / p.kh, ky = line - kz * p.kh;
    const int64_t iz = front + kz * p.dilation_d, iy = top + ky * p.dilation_h, ix = left + kx * p.dilation_w;
    // A run: the rest of this tap, or of the kernel's row where its taps lie side by side in the image.
    const bool joined = p.dilation_w == 1 && g.c == p.c && ix >= 0 && left + p.kw <= p.w;
    const int64_t run = std::min(length, (joined ? (p.kw - kx) * g.c : g.c) - channel);
    if (iz < 0 || iz >= p.d || iy < 0 || iy >= p.h || ix < 0 || ix >= p.w) memset(out, 0, static_cast<size_t>(run) * 4);
    else memcpy(out, x + ((iz * p.h + iy) * p.w + ix) * p.c + channel, static_cast<size_t>(run) * 4);
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
  const int64_t c = p.c / p.groups, oc = p.oc / p.groups, k = p.kd * p.kh * p.kw * c;
  const bool plain = p.kh == 1 && p.kw == 1 && p.stride_h == 1 && p.stride_w == 1 && p.pad_top == 0 && p.pad_left == 0 &&
                     p.oh == p.h && p.ow == p.w && p.kd == 1 && p.stride_d == 1 && p.pad_front == 0 && p.od == p.d;
  const int64_t packed = gemm_packed_size(k, oc);
  for (int64_t group = 0; group < p.groups; group++) {
    const Patches patches = {&p, group * c, c};
    GemmProblem g;
    g.m = p.n * p.od * p.oh * p.ow;
    g.n = oc;
    g.k = k;
    if (plain) {
      g.a = p.x + group * c;
      g.a_row = p.c;
    } else {
      g.fill = fill;
      g.fill_context = &patches;
    }
    if (p.weight) g.packed = p.weight + group * packed;
    g.c = p.out + group * oc;
    g.ldc = p.oc;
    g.bias = p.bias ? p.bias + group * oc : nullptr;
    if (p.residual) {
      g.beta = 1;
      if (p.residual != p.out) {
        g.source = p.residual + group * oc;
        g.source_row = p.oc;
        g.source_col = 1;
      }
    }
    g.activation = p.activation;
    const WhittleStatus status = p.sparse ? sparse_gemm(*p.sparse, g, threads) : gemm_f32(g, threads);
    if (status != WHITTLE_OK) return status;
  }
  return WHITTLE_OK;
}

// Taps [first, end) of a window that begins at `from` and meets [0, size).
struct Taps {
  int64_t first, end;
};
Taps taps_inside(int64_t from, int64_t taps, int64_t dilation, int64_t size) {
  Taps t = {0, taps};
  while (t.first < t.end && from + t.first * dilation < 0) t.first++;
  while (t.end > t.first && from + (t.end - 1) * dilation >= size) t.end--;
  return t;
}

// Rows of the image with zeros beside them, as many as the kernel has, kept while the output goes down. Every phase-th pixel
// lies side by side: pixel j of a row, at j % phases * span + j / phases.
struct PaddedRows {
  const ConvProblem* p;
  float* memory;
  int64_t from, width;  // first column (may be negative) and columns of a padded row
  int64_t phases, span;
  int64_t map;
  std::vector<int64_t> held;

  // Row iy of slice iz.
  const float* get(int64_t iz, int64_t iy) {
    const int64_t slot = iz % p->kd * p->kh + iy % p->kh, line = iz * p->h + iy;
    float* row = memory + slot * phases * span * p->c;
    if (held[static_cast<size_t>(slot)] == line) return row;
    held[static_cast<size_t>(slot)] = line;
    const int64_t c = p->c, first = std::min(width, std::max<int64_t>(0, -from)), last = std::max(first, std::min(width, p->w - from));
    const int64_t x = (map * p->d * p->h + line) * p->w + from;
    for (int64_t r = 0; r < phases; r++) {
      // Of this phase's pixels those inside of the image.
      const int64_t begin = std::min(span, first > r ? (first - r + phases - 1) / phases : 0), end = std::max(begin, last > r ? (last - r + phases - 1) / phases : 0);
      float* to = row + r * span * c;
      memset(to, 0, static_cast<size_t>(begin * c) * 4);
      if (end > begin) copy_pixels(p->x + (x + r + begin * phases) * c, phases * c, end - begin, c, to + begin * c);
      memset(to + end * c, 0, static_cast<size_t>((span - end) * c) * 4);
    }
    return row;
  }

  static void copy_pixels(const float* x, int64_t step, int64_t count, int64_t c, float* to) {
    if (step == c) memcpy(to, x, static_cast<size_t>(count * c) * 4);
    else if (c == 16)
      for (int64_t i = 0; i < count; i++) memcpy(to + i * 16, x + i * step, 64);
    else
      for (int64_t i = 0; i < count; i++) memcpy(to + i * c, x + i * step, static_cast<size_t>(c) * 4);
  }
};

WhittleStatus rows_in_place(const ConvProblem& p, int threads) {
  const GemmEngine& engine = gemm_default();
  const GemmKernels& kernels = engine.kernels;
  const int64_t k = p.kw * p.c, step = gemm_k_block(k), panels = (p.oc + kernels.nr - 1) / kernels.nr;
  const int64_t each = gemm_packed_size(k, p.oc);
  const int64_t d = p.dilation_w, taps = (p.kw - 1) * d + 1, reach = (p.ow - 1) * p.stride_w - p.pad_left + taps;
  const bool padded = p.pad_left > 0 || reach > p.w || d > 1;
  const int64_t most = std::min<int64_t>(kernels.mr, kGemmMaxRows);
  // Pieces of a row where there are too few rows for the threads, or where it would leave the second-level cache between one part of the
  // sums and the next.
  const int64_t rows = p.n * p.od * p.oh, team = threads > 0 ? threads : thread_limit();
  const int64_t long_rows = p.ow * (p.stride_w * p.c + p.oc) / (96 << 10);
  const int64_t pieces = std::max<int64_t>(1, std::min(std::max((4 * team + rows - 1) / rows, long_rows), p.ow / (2 * most * d)));
  const double work = static_cast<double>(rows) * static_cast<double>(p.ow) * static_cast<double>(p.oc) * static_cast<double>(k * p.kh * p.kd);
  const bool alone = team == 1 || work < 400e3;
  const int64_t total = rows * pieces, grain = alone ? total : std::max<int64_t>(1, total / (4 * team));
  std::atomic<bool> failed{false};
  parallel_for(total, grain, alone ? 1 : threads, [&](int64_t begin, int64_t end) {
    static thread_local Scratch scratch;
    PaddedRows held = {&p, nullptr, 0, 0, d, 0, -1, {}};
    int64_t last_piece = -1;
    for (int64_t t = begin; t < end; t++) {
      const int64_t piece = t / rows, image = t % rows / p.oh, map = image / p.od, oy = t % p.oh;
      const int64_t ox0 = p.ow * piece / pieces, ox1 = p.ow * (piece + 1) / pieces, count = ox1 - ox0;
      const int64_t left = ox0 * p.stride_w - p.pad_left, width = (count - 1) * p.stride_w + taps;
      if (padded && (piece != last_piece || map != held.map)) {
        held.from = left;
        held.width = width;
        held.span = (width + d - 1) / d;
        held.map = map;
        held.held.assign(static_cast<size_t>(p.kd * p.kh), -1);
        held.memory = static_cast<float*>(scratch.take(p.kd * p.kh * d * held.span * p.c * 4));
        if (!held.memory) {
          failed = true;
          return;
        }
        last_piece = piece;
      }
      float* out = p.out + ((image * p.oh + oy) * p.ow + ox0) * p.oc;
      const int64_t front = image % p.od * p.stride_d - p.pad_front, top = oy * p.stride_h - p.pad_top;
      const Taps z = taps_inside(front, p.kd, p.dilation_d, p.d), y = taps_inside(top, p.kh, p.dilation_h, p.h);
      if (p.residual && p.residual != p.out) memcpy(out, p.residual + (out - p.out), static_cast<size_t>(count * p.oc) * 4);
      GemmTile tile = {};
      tile.a_row = p.stride_w * p.c;
      tile.cols = p.oc;
      tile.b_row = kernels.nr;
      tile.b_padded = true;
      tile.ldc = d * p.oc;
      tile.alpha = 1;
      tile.beta = p.residual ? 1 : 0;
      tile.lo = -INFINITY;
      tile.hi = INFINITY;
      const bool clip = p.activation.kind == kActivationClip || p.activation.kind == kActivationNone;
      if (y.first == y.end || z.first == z.end) {
        // The window lies outside of the image altogether.
        if (!p.residual) memset(out, 0, static_cast<size_t>(count * p.oc) * 4);
        kernels.finish(count, p.oc, out, p.oc, p.bias, &p.activation);
        continue;
      }
      const int64_t across = y.end - y.first, lines = (z.end - z.first) * across;
      for (int64_t i = 0; i < lines; i++) {
        const int64_t kz = z.first + i / across, ky = y.first + i % across, iz = front + kz * p.dilation_d, iy = top + ky * p.dilation_h;
        const float* a = padded ? held.get(iz, iy) : p.x + (((map * p.d + iz) * p.h + iy) * p.w + left) * p.c;
        for (int64_t k0 = 0; k0 < k; k0 += step) {
          tile.k = std::min(step, k - k0);
          tile.b_panel = tile.k * kernels.nr;
          tile.b = p.weight + (kz * p.kh + ky) * each + k0 * panels * kernels.nr;
          const bool last = i + 1 == lines && k0 + tile.k == k;
          if (last) {
            tile.bias = p.bias;
            if (p.activation.kind == kActivationClip) {
              tile.lo = p.activation.lo;
              tile.hi = p.activation.hi;
            }
          }
          for (int64_t r = 0; r < std::min(d, count); r++) {
            const int64_t pixels = (count - r + d - 1) / d, tiles = (pixels + most - 1) / most;
            for (int64_t j = 0; j < tiles; j++) {
              const int64_t first = pixels * j / tiles;
              tile.rows = pixels * (j + 1) / tiles - first;
              tile.a = a + r * held.span * p.c + first * tile.a_row + k0;
              tile.c = out + (r + first * d) * p.oc;
              kernels.tile(&tile);
              if (last && !clip) kernels.finish(tile.rows, p.oc, tile.c, tile.ldc, nullptr, &p.activation);
            }
          }
          tile.beta = 1;
        }
      }
    }
  });
  return failed ? WHITTLE_OUT_OF_MEMORY : WHITTLE_OK;
}

}  // namespace

const ConvKernels& conv_kernels() { return resolved().table; }
Tier conv_tier() { return resolved().tier; }

WhittleStatus conv_f32(const ConvProblem& p, int threads) {
  if (p.winograd) return conv_winograd(p, threads);
  if (p.narrow) return conv_narrow(p, threads);
  if (p.by_rows && p.n > 0 && p.od > 0 && p.oh > 0 && p.ow > 0 && p.oc > 0) return rows_in_place(p, threads);
  if (!conv_is_depthwise(p.c, p.oc, p.groups)) return as_product(p, threads);
  const ConvKernels& kernels = conv_kernels();
  const int64_t work = p.ow * p.c * p.kd * p.kh * p.kw, plane = p.h * p.w * p.c;
  // Rows that follow each other share most of their input.
  const int64_t least = std::max<int64_t>(1, (64 << 10) / (work + 1)), rows = p.n * p.od * p.oh;
  const int64_t team = threads > 0 ? threads : thread_limit();
  const int64_t grain = team == 1 ? rows : std::max(least, rows / (4 * team));
  parallel_for(rows, std::max<int64_t>(1, grain), threads, [&](int64_t begin, int64_t end) {
    ConvDepthwise d = {p.h, p.w, p.c, p.ow, p.kh, p.kw, p.stride_h, p.stride_w, p.dilation_h, p.dilation_w, p.pad_top,
                       p.pad_left, nullptr, 0, 0, p.weight, p.bias, p.activation, nullptr, p.c, p.c};
    for (int64_t row = begin; row < end; row += d.rows) {
      const int64_t image = row / p.oh, front = image % p.od * p.stride_d - p.pad_front;
      const Taps z = taps_inside(front, p.kd, p.dilation_d, p.d);
      d.slices = z.end - z.first;
      d.x_slice = p.dilation_d * plane;
      d.x = d.slices > 0 ? p.x + (image / p.od * p.d + front + z.first * p.dilation_d) * plane : p.x;
      d.weight = p.weight + z.first * p.kh * p.kw * p.c;
      d.oy = row % p.oh;
      d.rows = std::min(end - row, p.oh - d.oy);
      d.out = p.out + row * p.ow * p.c;
      kernels.depthwise(&d);
    }
  });
  return WHITTLE_OK;
}

WhittleStatus conv_pair(const ConvProblem& first, const ConvProblem& p, int threads) {
  if (p.n == 0 || p.oh == 0 || p.ow == 0 || p.oc == 0) return WHITTLE_OK;
  constexpr int64_t kRoom = 448 << 10;
  const ConvKernels& kernels = conv_kernels();
  const int64_t line = p.w * p.c, span = (p.kh - 1) * p.dilation_h + 1;
  const int64_t fit = (kRoom / (line * 4 + 1) - span) / p.stride_h + 1;
  const int64_t strips = (p.oh + std::max<int64_t>(2, fit) - 1) / std::max<int64_t>(2, fit);
  std::atomic<int> failed{WHITTLE_OK};
  parallel_for(p.n * strips, 1, threads, [&](int64_t begin, int64_t end) {
    static thread_local Scratch scratch;
    for (int64_t t = begin; t < end; t++) {
      const int64_t image = t / strips, oy = p.oh * (t % strips) / strips, rows = p.oh * (t % strips + 1) / strips - oy;
      const int64_t top = std::min(p.h, std::max<int64_t>(0, oy * p.stride_h - p.pad_top));
      const int64_t bottom = std::max(top, std::min(p.h, (oy + rows - 1) * p.stride_h - p.pad_top + span));
      float* between = static_cast<float*>(scratch.take((bottom - top) * line * 4 + 64));
      if (!between) {
        failed = WHITTLE_OUT_OF_MEMORY;
        return;
      }
      GemmProblem g;
      g.m = (bottom - top) * p.w;
      g.n = p.c;
      g.k = first.c;
      g.a = first.x + (image * p.h + top) * p.w * first.c;
      g.a_row = first.c;
      g.packed = first.weight;
      g.c = between;
      g.ldc = p.c;
      g.bias = first.bias;
      g.activation = first.activation;
      const WhittleStatus status = gemm_f32(g, 1);
      if (status != WHITTLE_OK) {
        failed = status;
        return;
      }
      const ConvDepthwise d = {bottom - top, p.w, p.c, p.ow, p.kh, p.kw, p.stride_h, p.stride_w, p.dilation_h, p.dilation_w, p.pad_top + top,
                               p.pad_left, between, oy, rows, p.weight, p.bias, p.activation, p.out + (image * p.oh + oy) * p.ow * p.c, p.c, p.c};
      kernels.depthwise(&d);
    }
  });
  return static_cast<WhittleStatus>(failed.load());
}

}  // namespace whittle
