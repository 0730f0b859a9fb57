// Convolutions of planes on vectors: a vector holds output channels, of which some vectors of some pixels stay in registers while
// the taps go by. Each tap is a broadcast input a pixel, and its weights are loaded once for all pixels. The last block of pixels
// overlaps the one before it.

// kStride: 0, or the distance of pixels where that is known.
template <int kVectors, int kPixelsAtOnce, int kStride>
static void planes_block(const whittle::ConvPlanes* p, const float* x, int64_t channel, float* out) {
  vf s[kPixelsAtOnce][kVectors];
  const int64_t step = kStride ? kStride : p->stride, left = p->oc - channel;
  CONV_UNROLL for (int v = 0; v < kVectors; v++) {
    const int64_t rest = left - v * VF_LANES;
    const float* b = p->bias + channel + v * VF_LANES;
    const vf bias = !p->bias || rest <= 0 ? v_set(0.0f) : rest < VF_LANES ? v_load_part(b, rest, v_set(0.0f)) : v_load(b);
    CONV_UNROLL for (int i = 0; i < kPixelsAtOnce; i++) s[i][v] = bias;
  }
  const float* w = p->weight + channel;
  const int64_t* offset = p->offset;
  for (int64_t t = p->taps; t > 0; t--, w += p->padded) {
    const float* at = x + *offset++;
    vf k[kVectors];
    CONV_UNROLL for (int v = 0; v < kVectors; v++) k[v] = v_load(w + v * VF_LANES);
    CONV_UNROLL for (int i = 0; i < kPixelsAtOnce; i++) {
      const vf in = v_set(at[i * step]);
      CONV_UNROLL for (int v = 0; v < kVectors; v++) s[i][v] = v_fma(in, k[v], s[i][v]);
    }
  }
  CONV_UNROLL for (int v = 0; v < kVectors; v++) {
    const int64_t rest = left - v * VF_LANES;
    float* to = out + v * VF_LANES;
    if (rest >= VF_LANES) CONV_UNROLL for (int i = 0; i < kPixelsAtOnce; i++) v_store(to + i * p->out_step, s[i][v]);
    else if (rest > 0) CONV_UNROLL for (int i = 0; i < kPixelsAtOnce; i++) v_store_part(to + i * p->out_step, s[i][v], rest);
  }
}

template <int kVectors, int kPixelsAtOnce, int kStride>
static void planes_channels(const whittle::ConvPlanes* p, int64_t channel) {
  const int64_t step = kStride ? kStride : p->stride;
  int64_t pixel = 0;
  if (p->pixels >= kPixelsAtOnce)
    for (;; pixel += kPixelsAtOnce) {
      if (pixel + kPixelsAtOnce > p->pixels) {
        if (pixel == p->pixels) return;
        pixel = p->pixels - kPixelsAtOnce;
      }
      planes_block<kVectors, kPixelsAtOnce, kStride>(p, p->x + pixel * step, channel, p->out + pixel * p->out_step + channel);
    }
  for (; pixel < p->pixels; pixel++) planes_block<kVectors, 1, kStride>(p, p->x + pixel * step, channel, p->out + pixel * p->out_step + channel);
}

// Vectors for wide outputs, for 16 channels and for what is left.
template <int kStride>
static void planes_of(const whittle::ConvPlanes* p) {
  const int64_t vectors = (p->oc + VF_LANES - 1) / VF_LANES;
  int64_t v = 0;
  for (; v + PLANES_WIDE <= vectors; v += PLANES_WIDE) planes_channels<PLANES_WIDE, PLANES_WIDE_PIXELS, kStride>(p, v * VF_LANES);
  for (; v + 2 <= vectors; v += 2) planes_channels<2, PLANES_PIXELS, kStride>(p, v * VF_LANES);
  for (; v < vectors; v++) planes_channels<1, 8, kStride>(p, v * VF_LANES);
}

static void planes(const whittle::ConvPlanes* p) {
  if (p->stride == 2) return planes_of<2>(p);
  if (p->stride == 1) return planes_of<1>(p);
  planes_of<0>(p);
}
