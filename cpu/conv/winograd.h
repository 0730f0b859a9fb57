// F(4x4, 3x3) and F(2x2, 3x3) on vectors of channels, points 0, 1, -1, 2, -2 and infinity: rows of B' x B and of A' m A. Sums are fused and
// taken in one order, so that all variants agree to the bit.
#pragma once

// B' of six numbers, or of four, in place.
template <int kSide>
static inline void w_in(vf* d, int step) {
  if (kSide == 4) {
    const vf e0 = d[0], e1 = d[step], e2 = d[2 * step], e3 = d[3 * step];
    d[0] = v_sub(e0, e2);
    d[step] = v_add(e1, e2);
    d[2 * step] = v_sub(e2, e1);
    d[3 * step] = v_sub(e1, e3);
    return;
  }
  const vf d0 = d[0], d1 = d[step], d2 = d[2 * step], d3 = d[3 * step], d4 = d[4 * step], d5 = d[5 * step];
  const vf four = v_set(4.0f), two = v_set(2.0f), five = v_set(5.0f);
  const vf a = v_fnma(four, d2, d4), b = v_fnma(four, d1, d3), c = v_sub(d4, d2), e = v_sub(d3, d1);
  d[0] = v_fma(four, d0, v_fnma(five, d2, d4));
  d[step] = v_add(a, b);
  d[2 * step] = v_sub(a, b);
  d[3 * step] = v_fma(two, e, c);
  d[4 * step] = v_fnma(two, e, c);
  d[5 * step] = v_fma(four, d1, v_fnma(five, d3, d5));
}

// A' of six numbers, the first four of the result; or of four, the first two.
template <int kSide>
static inline void w_out(vf* m, int step) {
  if (kSide == 4) {
    const vf n1 = m[step], n2 = m[2 * step];
    m[0] = v_add(m[0], v_add(n1, n2));
    m[step] = v_sub(v_sub(n1, n2), m[3 * step]);
    return;
  }
  const vf m0 = m[0], m5 = m[5 * step];
  const vf s = v_add(m[step], m[2 * step]), d = v_sub(m[step], m[2 * step]);
  const vf t = v_add(m[3 * step], m[4 * step]), e = v_sub(m[3 * step], m[4 * step]);
  m[0] = v_add(m0, v_add(s, t));
  m[step] = v_fma(v_set(2.0f), e, d);
  m[2 * step] = v_fma(v_set(4.0f), t, s);
  m[3 * step] = v_add(v_fma(v_set(8.0f), e, d), m5);
}

template <bool kPart>
static inline vf w_load(const float* p, int64_t left) {
  return kPart ? v_load_part(p, left, v_set(0.0f)) : v_load(p);
}
template <bool kPart>
static inline void w_store(float* p, vf v, int64_t left) {
  if (kPart) v_store_part(p, v, left);
  else v_store(p, v);
}

// A vector of channels; kInside: the whole tile lies in the image.
template <int kSide, bool kPart, bool kInside>
static inline void w_tile_in(const whittle::ConvWinogradIn* t, const float* x, int64_t channel, int64_t left) {
  vf d[kSide * kSide];
  for (int j = 0; j < kSide; j++) {
    for (int i = 0; i < kSide; i++)
      d[kSide * i + j] = kInside || (t->iy + i >= 0 && t->iy + i < t->h && t->ix + j >= 0 && t->ix + j < t->w)
                             ? w_load<kPart>(x + (i * t->w + j) * t->c, left)
                             : v_set(0.0f);
    w_in<kSide>(d + j, kSide);
  }
  float* v = t->v + channel;
  for (int i = 0; i < kSide; i++) {
    w_in<kSide>(d + kSide * i, 1);
    for (int j = 0; j < kSide; j++) w_store<kPart>(v + (kSide * i + j) * t->point, d[kSide * i + j], left);
  }
}

template <int kSide, bool kInside>
static void w_tile(const whittle::ConvWinogradIn* t) {
  const float* x = t->x + (t->iy * t->w + t->ix) * t->c;
  int64_t channel = 0;
  for (; channel + VF_LANES <= t->c; channel += VF_LANES) w_tile_in<kSide, false, kInside>(t, x + channel, channel, VF_LANES);
  if (channel < t->c) w_tile_in<kSide, true, kInside>(t, x + channel, channel, t->c - channel);
}

static void winograd_in(const whittle::ConvWinogradIn* t) {
  const int64_t side = t->tile + 2;
  const bool inside = t->iy >= 0 && t->ix >= 0 && t->iy + side <= t->h && t->ix + side <= t->w;
  if (side == 4) (inside ? w_tile<4, true> : w_tile<4, false>)(t);
  else (inside ? w_tile<6, true> : w_tile<6, false>)(t);
}

template <int kSide, bool kPart>
static inline void w_tile_out(const whittle::ConvWinogradOut* t, int64_t channel, int64_t left) {
  const vf lo = v_set(t->lo), hi = v_set(t->hi), bias = w_load<kPart>(t->bias + channel, left);
  vf m[kSide * kSide];
  for (int j = 0; j < kSide; j++) {
    for (int i = 0; i < kSide; i++) m[kSide * i + j] = w_load<kPart>(t->m + (kSide * i + j) * t->point + channel, left);
    w_out<kSide>(m + j, kSide);
  }
  for (int i = 0; i < t->rows; i++) {
    w_out<kSide>(m + kSide * i, 1);
    for (int j = 0; j < t->cols; j++) {
      const int64_t at = i * t->line + j * t->oc + channel;
      vf y = v_add(m[kSide * i + j], bias);
      if (t->residual) y = v_add(y, w_load<kPart>(t->residual + at, left));
      w_store<kPart>(t->out + at, v_min(hi, v_max(lo, y)), left);
    }
  }
}

template <int kSide>
static void w_image_out(const whittle::ConvWinogradOut* t) {
  int64_t channel = 0;
  for (; channel + VF_LANES <= t->oc; channel += VF_LANES) w_tile_out<kSide, false>(t, channel, VF_LANES);
  if (channel < t->oc) w_tile_out<kSide, true>(t, channel, t->oc - channel);
}

static void winograd_out(const whittle::ConvWinogradOut* t) { (t->tile == 2 ? w_image_out<4> : w_image_out<6>)(t); }

static void install_winograd(whittle::ConvKernels* t) {
  t->winograd_in = winograd_in;
  t->winograd_out = winograd_out;
}
