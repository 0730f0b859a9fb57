// Depthwise on vectors: one vector of channels at a time, kPixels outputs side by side so that a weight is loaded once for
// all of them. Pixels whose window leaves the image go one by one. Channels beyond the last full vector use part loads.

#define kPixels 8

typedef struct {
  int64_t ky0, ky1;  // taps inside the image
  int64_t channel, left;
  vf bias, lo, hi;
} Depth;

static inline vf d_in(const float* p, int64_t left) { return left == VF_LANES ? v_load(p) : v_load_part(p, left, v_set(0.0f)); }
static inline void d_out(float* p, vf v, int64_t left) {
  if (left == VF_LANES) v_store(p, v);
  else v_store_part(p, v, left);
}

static inline void one_pixel(const whittle::ConvDepthwise* d, const Depth* t, int64_t ox) {
  vf s = t->bias;
  for (int64_t ky = t->ky0; ky < t->ky1; ky++) {
    const int64_t iy = d->oy * d->stride_h - d->pad_top + ky * d->dilation_h;
    for (int64_t kx = 0; kx < d->kw; kx++) {
      const int64_t ix = ox * d->stride_w - d->pad_left + kx * d->dilation_w;
      if (ix < 0 || ix >= d->w) continue;
      s = v_fma(d_in(d->x + (iy * d->w + ix) * d->c + t->channel, t->left),
                d_in(d->weight + (ky * d->kw + kx) * d->c + t->channel, t->left), s);
    }
  }
  d_out(d->out + ox * d->c + t->channel, act_apply(s, d->activation.kind, t->lo, t->hi), t->left);
}

static inline void some_pixels(const whittle::ConvDepthwise* d, const Depth* t, int64_t ox) {
  vf s[kPixels];
  for (int i = 0; i < kPixels; i++) s[i] = t->bias;
  const int64_t step = d->stride_w * d->c;
  for (int64_t ky = t->ky0; ky < t->ky1; ky++) {
    const int64_t iy = d->oy * d->stride_h - d->pad_top + ky * d->dilation_h;
    const float* x = d->x + (iy * d->w + ox * d->stride_w - d->pad_left) * d->c + t->channel;
    const float* w = d->weight + ky * d->kw * d->c + t->channel;
    for (int64_t kx = 0; kx < d->kw; kx++, x += d->dilation_w * d->c, w += d->c) {
      const vf k = d_in(w, t->left);
      for (int i = 0; i < kPixels; i++) s[i] = v_fma(d_in(x + i * step, t->left), k, s[i]);
    }
  }
  for (int i = 0; i < kPixels; i++)
    d_out(d->out + (ox + i) * d->c + t->channel, act_apply(s[i], d->activation.kind, t->lo, t->hi), t->left);
}

static inline void channel_row(const whittle::ConvDepthwise* d, const Depth* t) {
  // Outputs [inner0, inner1) see whole windows.
  int64_t inner0 = (d->pad_left + d->stride_w - 1) / d->stride_w;
  const int64_t reach = d->w + d->pad_left - (d->kw - 1) * d->dilation_w - 1;
  int64_t inner1 = reach < 0 ? 0 : reach / d->stride_w + 1;
  if (inner1 > d->ow) inner1 = d->ow;
  if (inner0 > inner1) inner0 = inner1;
  int64_t ox = 0;
  for (; ox < inner0; ox++) one_pixel(d, t, ox);
  for (; ox + kPixels <= inner1; ox += kPixels) some_pixels(d, t, ox);
  for (; ox < d->ow; ox++) one_pixel(d, t, ox);
}

static void depthwise(const whittle::ConvDepthwise* d) {
  Depth t;
  t.lo = v_set(d->activation.lo);
  t.hi = v_set(d->activation.hi);
  t.ky0 = 0;
  t.ky1 = d->kh;
  while (t.ky0 < t.ky1 && d->oy * d->stride_h - d->pad_top + t.ky0 * d->dilation_h < 0) t.ky0++;
  while (t.ky1 > t.ky0 && d->oy * d->stride_h - d->pad_top + (t.ky1 - 1) * d->dilation_h >= d->h) t.ky1--;
  for (t.channel = 0; t.channel < d->c; t.channel += VF_LANES) {
    const int64_t left = d->c - t.channel;
    if (left >= VF_LANES) {
      t.left = VF_LANES;
      t.bias = d->bias ? v_load(d->bias + t.channel) : v_set(0.0f);
    } else {
      t.left = left;
      t.bias = d->bias ? v_load_part(d->bias + t.channel, left, v_set(0.0f)) : v_set(0.0f);
    }
    channel_row(d, &t);
  }
}

static void install_vector(whittle::ConvKernels* t) { t->depthwise = depthwise; }
