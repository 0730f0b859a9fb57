// The reference: taps in order, each a rounded product and sum by FMA as on vectors.
#include <math.h>

#define WHITTLE_ISA_FILE
#include "core/conv.h"
#include "cpu/gemm/activation_scalar.h"

namespace {

void row(const whittle::ConvDepthwise* d, int64_t oy, float* out) {
  for (int64_t ox = 0; ox < d->ow; ox++)
    for (int64_t ch = 0; ch < d->c; ch++) {
      float s = d->bias ? d->bias[ch] : 0.0f;
      for (int64_t t = 0; t < d->slices * d->kh; t++) {
        const int64_t iy = oy * d->stride_h - d->pad_top + t % d->kh * d->dilation_h;
        if (iy < 0 || iy >= d->h) continue;
        const float* x = d->x + t / d->kh * d->x_slice;
        for (int64_t kx = 0; kx < d->kw; kx++) {
          const int64_t ix = ox * d->stride_w - d->pad_left + kx * d->dilation_w;
          if (ix < 0 || ix >= d->w) continue;
          s = fmaf(x[(iy * d->w + ix) * d->x_step + ch], d->weight[(t * d->kw + kx) * d->weight_step + ch], s);
        }
      }
      out[ox * d->c + ch] = act_apply_scalar(s, d->activation.kind, d->activation.lo, d->activation.hi);
    }
}

void depthwise(const whittle::ConvDepthwise* d) {
  for (int64_t i = 0; i < d->rows; i++) row(d, d->oy + i, d->out + i * d->ow * d->c);
}

void depthwise_codes(const whittle::ConvDepthwiseCodes* p) {
  const whittle::ConvDepthwise* d = &p->d;
  int32_t* out = p->sums;
  for (int64_t oy = d->oy; oy < d->oy + d->rows; oy++)
    for (int64_t ox = 0; ox < d->ow; ox++)
      for (int64_t ch = 0; ch < d->c; ch++) {
        int32_t s = 0;
        for (int64_t t = 0; t < d->slices * d->kh; t++) {
          const int64_t iy = oy * d->stride_h - d->pad_top + t % d->kh * d->dilation_h;
          if (iy < 0 || iy >= d->h) continue;
          const uint8_t* x = p->x + t / d->kh * d->x_slice;
          for (int64_t kx = 0; kx < d->kw; kx++) {
            const int64_t ix = ox * d->stride_w - d->pad_left + kx * d->dilation_w;
            if (ix < 0 || ix >= d->w) continue;
            const uint8_t code = x[(iy * d->w + ix) * d->x_step + ch];
            s += ((p->x_signed ? static_cast<int8_t>(code) : code) - p->zero) *
                 static_cast<int32_t>(d->weight[(t * d->kw + kx) * d->weight_step + ch]);
          }
        }
        *out++ = s;
      }
}

void planes(const whittle::ConvPlanes* p) {
  for (int64_t pixel = 0; pixel < p->pixels; pixel++)
    for (int64_t j = 0; j < p->oc; j++) {
      float s = p->bias ? p->bias[j] : 0.0f;
      for (int64_t t = 0; t < p->taps; t++) s = fmaf(p->x[p->offset[t] + pixel * p->stride], p->weight[t * p->padded + j], s);
      p->out[pixel * p->out_step + j] = s;
    }
}

void narrow(const whittle::ConvNarrow* p) {
  for (int64_t j = 0; j < p->oc; j++)
    for (int64_t pixel = 0; pixel < p->pixels; pixel++) {
      float s = p->bias ? p->bias[j] : 0.0f;
      for (int64_t t = 0; t < p->taps; t++) s = fmaf(p->x[p->offset[t] + pixel], p->weight[t * p->oc + j], s);
      p->out[j * p->out_plane + pixel] = s;
    }
}

void turn(int64_t rows, int64_t columns, const float* from, int64_t from_stride, float* to, int64_t to_stride) {
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < columns; j++) to[j * to_stride + i] = from[i * from_stride + j];
}

void spread(const whittle::ConvSpread* p) {
  for (int64_t pixel = 0; pixel < p->pixels; pixel++)
    for (int64_t j = 0; j < p->inputs * 16; j++) p->out[pixel * p->inputs * 16 + j] = p->x[pixel * p->x_step + p->index[j]];
}

void grouped(const whittle::ConvGrouped* p) {
  for (int64_t pixel = 0; pixel < p->pixels; pixel++)
    for (int64_t lane = 0; lane < p->lanes; lane++) {
      float s = p->bias[lane];
      const float* w = p->weight + lane;
      for (int64_t ky = 0; ky < p->rows; ky++)
        for (int64_t kx = 0; kx < p->kw; kx++)
          for (int64_t i = 0; i < p->inputs; i++, w += 16)
            s = fmaf(p->row[ky][((pixel * p->stride_w + kx * p->dilation_w) * p->inputs + i) * 16 + lane], *w, s);
      p->out[pixel * p->out_step + lane] = s;
    }
}

}  // namespace

extern "C" void conv_install_codes_scalar(whittle::ConvKernels*);
extern "C" void conv_install_winograd_scalar(whittle::ConvKernels*);

extern "C" void conv_install_scalar(whittle::ConvKernels* t) {
  t->depthwise = depthwise;
  t->depthwise_codes = depthwise_codes;
  t->planes = planes;
  t->narrow = narrow;
  t->turn = turn;
  t->spread = spread;
  t->grouped = grouped;
  conv_install_codes_scalar(t);
  conv_install_winograd_scalar(t);
}
