// Convolutions with few outputs, on vectors: a vector holds pixels of one output, of which some vectors of some outputs stay in
// registers while the taps go by. Each tap is a few loads of neighbouring pixels, and a broadcast weight an output.

template <int kOut, int kVectors>
static void narrow_block(const whittle::ConvNarrow* p, int64_t channel, int64_t pixel) {
  vf s[kOut][kVectors];
  CONV_UNROLL for (int o = 0; o < kOut; o++) {
    const vf bias = v_set(p->bias ? p->bias[channel + o] : 0.0f);
    CONV_UNROLL for (int v = 0; v < kVectors; v++) s[o][v] = bias;
  }
  const float* w = p->weight + channel;
  const int64_t* offset = p->offset;
  for (int64_t t = p->taps; t > 0; t--, w += p->oc) {
    const float* at = p->x + *offset++ + pixel;
    vf in[kVectors];
    CONV_UNROLL for (int v = 0; v < kVectors; v++) in[v] = v_load(at + v * VF_LANES);
    CONV_UNROLL for (int o = 0; o < kOut; o++) {
      const vf k = v_set(w[o]);
      CONV_UNROLL for (int v = 0; v < kVectors; v++) s[o][v] = v_fma(in[v], k, s[o][v]);
    }
  }
  CONV_UNROLL for (int o = 0; o < kOut; o++)
    CONV_UNROLL for (int v = 0; v < kVectors; v++) v_store(p->out + (channel + o) * p->out_plane + pixel + v * VF_LANES, s[o][v]);
}

template <int kOut, int kVectors>
static void narrow_pixels(const whittle::ConvNarrow* p, int64_t channel) {
  int64_t pixel = 0;
  for (; pixel + kVectors * VF_LANES <= p->pixels; pixel += kVectors * VF_LANES) narrow_block<kOut, kVectors>(p, channel, pixel);
  for (; pixel < p->pixels; pixel += VF_LANES) narrow_block<kOut, 1>(p, channel, pixel);
}

static void narrow(const whittle::ConvNarrow* p) {
  int64_t o = 0;
#if NARROW_OUTS >= 8
  for (; o + 8 <= p->oc; o += 8) narrow_pixels<8, 3>(p, o);
  if (p->oc - o == 7) return narrow_pixels<7, 3>(p, o);
  if (p->oc - o == 6) return narrow_pixels<6, 4>(p, o);
  if (p->oc - o == 5) return narrow_pixels<5, 4>(p, o);
#endif
  for (; o + 4 <= p->oc; o += 4) narrow_pixels<4, NARROW_VECTORS>(p, o);
  if (p->oc - o == 3) return narrow_pixels<3, NARROW_VECTORS>(p, o);
  if (p->oc - o == 2) return narrow_pixels<2, NARROW_VECTORS + 1>(p, o);
  if (p->oc - o == 1) return narrow_pixels<1, NARROW_VECTORS + 2>(p, o);
}
