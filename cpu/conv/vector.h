// Depthwise on vectors: one vector of channels, kPixels outputs side by side. For the usual kernels (3 and 5 wide, stride 1
// and 2, 7 wide, stride 1) the weights of a row and the outputs stay in registers and each input is loaded once for all taps that see it.
// Blocks at the image's edges skip inputs that lie outside; the last block of a row overlaps the one before it. All rows of
// a call are done for one vector of channels before the next, so that inputs are still in the first-level cache.

#define kPixels 8

#if defined(__GNUC__)
#define CONV_INLINE static inline __attribute__((always_inline))
#define CONV_UNROLL _Pragma("GCC unroll 32")
#else
#define CONV_INLINE static __forceinline
#define CONV_UNROLL
#endif

typedef struct {
  int64_t ky0, ky1;  // taps inside the image
  int64_t channel, left;
  int64_t oy;
  float* out;
  int32_t* sums;  // of codes, instead of out
  const uint8_t* codes;
  int flip;  // what makes codes unsigned, their top bit or nothing
  vf zero;   // of unsigned codes
  vf bias, lo, hi;
} Depth;

template <bool kPart>
CONV_INLINE vf d_in(const float* p, int64_t left) {
  return kPart ? v_load_part(p, left, v_set(0.0f)) : v_load(p);
}
template <bool kPart>
CONV_INLINE void d_out(float* p, vf v, int64_t left) {
  if (kPart) v_store_part(p, v, left);
  else v_store(p, v);
}

// Inputs from element `at` on: floats, or codes less their zero point.
template <bool kCodes, bool kPart>
CONV_INLINE vf d_x(const whittle::ConvDepthwise* d, const Depth* t, int64_t at) {
  if (!kCodes) return d_in<kPart>(d->x + at, t->left);
  return v_sub(v_from_bytes(t->codes + at, t->flip, kPart ? t->left : VF_LANES), t->zero);
}

template <bool kCodes, bool kPart>
static void one_pixel(const whittle::ConvDepthwise* d, const Depth* t, int64_t ox) {
  vf s = t->bias;
  for (int64_t z = 0; z < d->slices; z++)
    for (int64_t ky = t->ky0; ky < t->ky1; ky++) {
      const int64_t iy = t->oy * d->stride_h - d->pad_top + ky * d->dilation_h;
      const float* w = d->weight + (z * d->kh + ky) * d->kw * d->weight_step + t->channel;
      for (int64_t kx = 0; kx < d->kw; kx++) {
        const int64_t ix = ox * d->stride_w - d->pad_left + kx * d->dilation_w;
        if (ix < 0 || ix >= d->w) continue;
        s = v_fma(d_x<kCodes, kPart>(d, t, z * d->x_slice + (iy * d->w + ix) * d->x_step + t->channel), d_in<kPart>(w + kx * d->weight_step, t->left), s);
      }
    }
  if (kCodes) return v_store_whole(t->sums + ox * d->c + t->channel, s, t->left);
  d_out<kPart>(t->out + ox * d->c + t->channel, act_apply(s, d->activation.kind, t->lo, t->hi), t->left);
}

template <bool kCodes, bool kPart, int kMany>
CONV_INLINE void put(const whittle::ConvDepthwise* d, const Depth* t, int64_t ox, const vf (&s)[kMany]) {
  if (kCodes) {
    int32_t* sums = t->sums + ox * d->c + t->channel;
    CONV_UNROLL for (int i = 0; i < kMany; i++) v_store_whole(sums + i * d->c, s[i], kPart ? t->left : VF_LANES);
    return;
  }
  float* out = t->out + ox * d->c + t->channel;
  const int32_t kind = d->activation.kind;
  if (kind == whittle::kActivationHardswishAffine)
    CONV_UNROLL for (int i = 0; i < kMany; i++)
      d_out<kPart>(out + i * d->c, act_apply(s[i], whittle::kActivationHardswishAffine, t->lo, t->hi), t->left);
  else if (kind == whittle::kActivationHardswish)
    CONV_UNROLL for (int i = 0; i < kMany; i++)
      d_out<kPart>(out + i * d->c, act_apply(s[i], whittle::kActivationHardswish, t->lo, t->hi), t->left);
  else if (kind == whittle::kActivationClip)
    CONV_UNROLL for (int i = 0; i < kMany; i++)
      d_out<kPart>(out + i * d->c, act_apply(s[i], whittle::kActivationClip, t->lo, t->hi), t->left);
  else
    for (int i = 0; i < kMany; i++) d_out<kPart>(out + i * d->c, act_apply(s[i], kind, t->lo, t->hi), t->left);
}

template <bool kCodes, bool kPart>
static void some_pixels(const whittle::ConvDepthwise* d, const Depth* t, int64_t ox) {
  vf s[kPixels];
  CONV_UNROLL for (int i = 0; i < kPixels; i++) s[i] = t->bias;
  const int64_t step = d->stride_w * d->x_step;
  for (int64_t z = 0; z < d->slices; z++)
    for (int64_t ky = t->ky0; ky < t->ky1; ky++) {
      const int64_t iy = t->oy * d->stride_h - d->pad_top + ky * d->dilation_h;
      int64_t x = z * d->x_slice + (iy * d->w + ox * d->stride_w - d->pad_left) * d->x_step + t->channel;
      const float* w = d->weight + (z * d->kh + ky) * d->kw * d->weight_step + t->channel;
      for (int64_t kx = 0; kx < d->kw; kx++, x += d->dilation_w * d->x_step, w += d->weight_step) {
        const vf k = d_in<kPart>(w, t->left);
        CONV_UNROLL for (int i = 0; i < kPixels; i++) s[i] = v_fma(d_x<kCodes, kPart>(d, t, x + i * step), k, s[i]);
      }
    }
  put<kCodes, kPart>(d, t, ox, s);
}

// kEdge: inputs may lie left or right of the image.
template <bool kCodes, bool kPart, int kWide, int kStride, int kMany, bool kEdge>
static void fixed_pixels(const whittle::ConvDepthwise* d, const Depth* t, int64_t ox) {
  vf s[kMany];
  CONV_UNROLL for (int i = 0; i < kMany; i++) s[i] = t->bias;
  const int64_t left = ox * kStride - d->pad_left;
  for (int64_t z = 0; z < d->slices; z++)
    for (int64_t ky = t->ky0; ky < t->ky1; ky++) {
      const int64_t iy = t->oy * d->stride_h - d->pad_top + ky * d->dilation_h;
      const int64_t x = z * d->x_slice + (iy * d->w + left) * d->x_step + t->channel;
      const float* w = d->weight + (z * d->kh + ky) * kWide * d->weight_step + t->channel;
      vf k[kWide];
      CONV_UNROLL for (int i = 0; i < kWide; i++) k[i] = d_in<kPart>(w + i * d->weight_step, t->left);
      CONV_UNROLL for (int j = 0; j < (kMany - 1) * kStride + kWide; j++) {
        if (kEdge && (left + j < 0 || left + j >= d->w)) continue;
        const vf v = d_x<kCodes, kPart>(d, t, x + j * d->x_step);
        CONV_UNROLL for (int kx = 0; kx < kWide; kx++)
          if (j >= kx && (j - kx) % kStride == 0 && (j - kx) / kStride < kMany)
            s[(j - kx) / kStride] = v_fma(v, k[kx], s[(j - kx) / kStride]);
      }
    }
  put<kCodes, kPart>(d, t, ox, s);
}

template <bool kCodes, bool kPart, int kWide, int kStride, int kMany = kPixels>
static void fixed_row(const whittle::ConvDepthwise* d, const Depth* t) {
  for (int64_t ox = 0;; ox += kMany) {
    if (ox + kMany > d->ow) {
      if (ox == d->ow) return;
      ox = d->ow - kMany;
    }
    const int64_t left = ox * kStride - d->pad_left;
    if (left >= 0 && left + (kMany - 1) * kStride + kWide <= d->w) fixed_pixels<kCodes, kPart, kWide, kStride, kMany, false>(d, t, ox);
    else fixed_pixels<kCodes, kPart, kWide, kStride, kMany, true>(d, t, ox);
  }
}

template <bool kCodes, bool kPart>
static void channel_row(const whittle::ConvDepthwise* d, const Depth* t) {
  if (d->ow >= kPixels && d->dilation_w == 1 && d->stride_w == 1) {
    if (d->kw == 3) return fixed_row<kCodes, kPart, 3, 1>(d, t);
    if (d->kw == 5) return fixed_row<kCodes, kPart, 5, 1>(d, t);
    if (d->kw == 7) return fixed_row<kCodes, kPart, 7, 1>(d, t);
  }
  // The last maps of classifiers.
  if (d->ow == 7 && d->dilation_w == 1 && d->stride_w == 1) {
    if (d->kw == 3) return fixed_row<kCodes, kPart, 3, 1, 7>(d, t);
    if (d->kw == 5) return fixed_row<kCodes, kPart, 5, 1, 7>(d, t);
    if (d->kw == 7) return fixed_row<kCodes, kPart, 7, 1, 7>(d, t);
  }
  if (d->ow >= kPixels && d->dilation_w == 1 && d->stride_w == 2) {
    if (d->kw == 3) return fixed_row<kCodes, kPart, 3, 2>(d, t);
    if (d->kw == 5) return fixed_row<kCodes, kPart, 5, 2>(d, t);
  }
  // Outputs [inner0, inner1) see whole windows.
  int64_t inner0 = (d->pad_left + d->stride_w - 1) / d->stride_w;
  const int64_t reach = d->w + d->pad_left - (d->kw - 1) * d->dilation_w - 1;
  int64_t inner1 = reach < 0 ? 0 : reach / d->stride_w + 1;
  if (inner1 > d->ow) inner1 = d->ow;
  if (inner0 > inner1) inner0 = inner1;
  int64_t ox = 0;
  for (; ox < inner0; ox++) one_pixel<kCodes, kPart>(d, t, ox);
  for (; ox + kPixels <= inner1; ox += kPixels) some_pixels<kCodes, kPart>(d, t, ox);
  for (; ox < d->ow; ox++) one_pixel<kCodes, kPart>(d, t, ox);
}

template <bool kCodes>
static void all_rows(const whittle::ConvDepthwise* d, Depth t, int32_t* sums) {
  t.lo = v_set(d->activation.lo);
  t.hi = v_set(d->activation.hi);
  for (t.channel = 0; t.channel < d->c; t.channel += VF_LANES) {
    const int64_t left = d->c - t.channel;
    const bool part = left < VF_LANES;
    t.left = part ? left : VF_LANES;
    t.bias = !d->bias ? v_set(0.0f) : part ? v_load_part(d->bias + t.channel, left, v_set(0.0f)) : v_load(d->bias + t.channel);
    for (int64_t row = 0; row < d->rows; row++) {
      t.oy = d->oy + row;
      if (kCodes) t.sums = sums + row * d->ow * d->c;
      else t.out = d->out + row * d->ow * d->c;
      t.ky0 = 0;
      t.ky1 = d->kh;
      while (t.ky0 < t.ky1 && t.oy * d->stride_h - d->pad_top + t.ky0 * d->dilation_h < 0) t.ky0++;
      while (t.ky1 > t.ky0 && t.oy * d->stride_h - d->pad_top + (t.ky1 - 1) * d->dilation_h >= d->h) t.ky1--;
      if (part) channel_row<kCodes, true>(d, &t);
      else channel_row<kCodes, false>(d, &t);
    }
  }
}

static void depthwise(const whittle::ConvDepthwise* d) {
  Depth t = {};
  all_rows<false>(d, t, nullptr);
}

static void depthwise_codes(const whittle::ConvDepthwiseCodes* p) {
  whittle::ConvDepthwise d = p->d;
  d.bias = nullptr;
  Depth t = {};
  t.codes = p->x;
  t.flip = p->x_signed ? 0x80 : 0;
  t.zero = v_set((float)(p->zero + t.flip));
  all_rows<true>(&d, t, p->sums);
}

static void install_vector(whittle::ConvKernels* t) {
  t->depthwise = depthwise;
  t->depthwise_codes = depthwise_codes;
}
