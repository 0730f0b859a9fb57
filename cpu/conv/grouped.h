// Convolutions of narrow groups on vectors of output channels, GROUPED_PIXELS outputs side by side: inputs were spread before, so
// that each step is a load and a multiply-add for all channels of a block.
#pragma once

#define GROUPED_VECTORS (16 / VF_LANES)

static void spread(const whittle::ConvSpread* p) {
  const float* x = p->x;
  float* out = p->out;
  for (int64_t pixel = 0; pixel < p->pixels; pixel++, x += p->x_step) {
    const int32_t* index = p->index;
    for (int64_t i = 0; i < p->inputs * GROUPED_VECTORS; i++, index += VF_LANES, out += VF_LANES) v_store(out, v_pick(x, index, p->span));
  }
}

template <int kPixelsAtOnce, int kWide, int kStride>
CONV_INLINE void grouped_block(const whittle::ConvGrouped* p, int64_t pixel) {
  vf s[kPixelsAtOnce][GROUPED_VECTORS];
  CONV_UNROLL for (int v = 0; v < GROUPED_VECTORS; v++)
    CONV_UNROLL for (int i = 0; i < kPixelsAtOnce; i++) s[i][v] = v_load(p->bias + v * VF_LANES);
  const int64_t wide = kWide ? kWide : p->kw, each = p->inputs * 16, step = (kStride ? kStride : p->stride_w) * each;
  const float* w = p->weight;
  for (int64_t ky = 0; ky < p->rows; ky++)
    for (int64_t kx = 0; kx < wide; kx++) {
      const float* x = p->row[ky] + pixel * step + kx * p->dilation_w * each;
      for (int64_t i = 0; i < each; i += 16, w += 16) {
        vf k[GROUPED_VECTORS];
        CONV_UNROLL for (int v = 0; v < GROUPED_VECTORS; v++) k[v] = v_load(w + v * VF_LANES);
        CONV_UNROLL for (int j = 0; j < kPixelsAtOnce; j++)
          CONV_UNROLL for (int v = 0; v < GROUPED_VECTORS; v++) s[j][v] = v_fma(v_load(x + j * step + i + v * VF_LANES), k[v], s[j][v]);
      }
    }
  float* out = p->out + pixel * p->out_step;
  CONV_UNROLL for (int v = 0; v < GROUPED_VECTORS; v++) {
    const int64_t rest = p->lanes - v * VF_LANES;
    if (rest >= VF_LANES) CONV_UNROLL for (int j = 0; j < kPixelsAtOnce; j++) v_store(out + j * p->out_step + v * VF_LANES, s[j][v]);
    else if (rest > 0) CONV_UNROLL for (int j = 0; j < kPixelsAtOnce; j++) v_store_part(out + j * p->out_step + v * VF_LANES, s[j][v], rest);
  }
}

template <int kWide, int kStride>
static void grouped_of(const whittle::ConvGrouped* p) {
  int64_t pixel = 0;
  for (; pixel + GROUPED_PIXELS <= p->pixels; pixel += GROUPED_PIXELS) grouped_block<GROUPED_PIXELS, kWide, kStride>(p, pixel);
  if (pixel == p->pixels) return;
  if (p->pixels >= GROUPED_PIXELS) return grouped_block<GROUPED_PIXELS, kWide, kStride>(p, p->pixels - GROUPED_PIXELS);
  for (; pixel + GROUPED_PIXELS / 2 <= p->pixels; pixel += GROUPED_PIXELS / 2) grouped_block<GROUPED_PIXELS / 2, kWide, kStride>(p, pixel);
  for (; pixel < p->pixels; pixel++) grouped_block<1, kWide, kStride>(p, pixel);
}

static void grouped(const whittle::ConvGrouped* p) {
  if (p->kw == 3 && p->stride_w == 1) return grouped_of<3, 1>(p);
  grouped_of<0, 0>(p);
}

static void install_grouped(whittle::ConvKernels* t) {
  t->spread = spread;
  t->grouped = grouped;
}
