// Uniform affine quantization, the reference and the portable fallback.
// Clipping comes before rounding: the bounds are integers, so the two commute, and the rest fits small integers.
// 1.5·2^23 added and subtracted rounds to nearest even for |v| < 2^22 without a call to libm.
#include <math.h>
#include <string.h>

#include "core/quantize.h"

namespace whittle {
namespace {

inline uint32_t bits_of(float v) {
  uint32_t b;
  memcpy(&b, &v, sizeof b);
  return b;
}

inline float float_of(uint32_t b) {
  float v;
  memcpy(&v, &b, sizeof v);
  return v;
}

// 1 for NaN and the infinities
inline uint32_t not_finite(float v) { return (bits_of(v) & 0x7f800000u) == 0x7f800000u; }

// A number below 1 for each element: two rounds of a 32-bit mixer over index and key.
inline uint32_t mix(uint32_t h) {
  h ^= h >> 16;
  h *= 0x7feb352du;
  h ^= h >> 15;
  h *= 0x846ca68bu;
  return h ^ h >> 16;
}

inline float dither(uint32_t index, uint32_t key0, uint32_t key1) {
  const uint32_t h = mix(mix(index * 0x9e3779b9u + key0) ^ key1);
  return static_cast<float>(static_cast<int32_t>(h >> 8)) * 0x1p-24f;
}

template <int kRounding>
inline int32_t rounded(float v, float lo, float hi, uint32_t index, uint32_t key0, uint32_t key1) {
  v = v > lo ? v : lo;  // a NaN becomes lo
  v = v < hi ? v : hi;
  if (kRounding == kNearestEven) {
    const float magic = 12582912.f;
    return static_cast<int32_t>(bits_of(v + magic)) - static_cast<int32_t>(bits_of(magic));
  }
  int32_t i = static_cast<int32_t>(v);
  if (kRounding == kStochastic) {
    i -= static_cast<float>(i) > v;
    i += dither(index, key0, key1) < v - static_cast<float>(i);
  }
  return i;
}

template <class Code, int kRounding>
int codes_run(const float* x, int64_t n, float scale, int32_t zero, const QuantizeStep& s, uint32_t index, Code* q) {
  const float lo = static_cast<float>(s.qmin - zero), hi = static_cast<float>(s.qmax - zero);
  uint32_t bad = 0;
  for (int64_t i = 0; i < n; i++) {
    bad |= not_finite(x[i]);
    q[i] = static_cast<Code>(rounded<kRounding>(x[i] / scale, lo, hi, index + static_cast<uint32_t>(i), s.key0, s.key1) + zero);
  }
  return bad != 0;
}

template <class Code, int kRounding>
int codes_row(const float* x, int64_t n, const QuantizeStep& s, uint32_t index, Code* q) {
  uint32_t bad = 0;
  for (int64_t c = 0; c < n; c++) {
    const int32_t zero = s.zero ? s.zero[c] : 0;
    const float lo = static_cast<float>(s.qmin - zero), hi = static_cast<float>(s.qmax - zero);
    bad |= not_finite(x[c]);
    q[c] = static_cast<Code>(rounded<kRounding>(x[c] / s.scale[c], lo, hi, index + static_cast<uint32_t>(c), s.key0, s.key1) + zero);
  }
  return bad != 0;
}

template <class Code>
int codes(const float* x, int64_t runs, int64_t length, const QuantizeStep* step, Code* q) {
  const auto run = step->rounding == kNearestEven  ? codes_run<Code, kNearestEven>
                   : step->rounding == kTowardZero ? codes_run<Code, kTowardZero>
                                                   : codes_run<Code, kStochastic>;
  int bad = 0;
  for (int64_t r = 0; r < runs; r++)
    bad |= run(x + r * length, length, step->scale[r], step->zero ? step->zero[r] : 0, *step,
               step->index + static_cast<uint32_t>(r * length), q + r * length);
  return bad;
}

template <class Code>
int codes_columns(const float* x, int64_t rows, int64_t columns, int64_t stride, const QuantizeStep* step, Code* q) {
  const auto row = step->rounding == kNearestEven  ? codes_row<Code, kNearestEven>
                   : step->rounding == kTowardZero ? codes_row<Code, kTowardZero>
                                                   : codes_row<Code, kStochastic>;
  int bad = 0;
  for (int64_t r = 0; r < rows; r++)
    bad |= row(x + r * stride, columns, *step, step->index + static_cast<uint32_t>(r * stride), q + r * stride);
  return bad;
}

template <class Signed, class Code>
inline int32_t wide(Code q, int sign) {
  return sign ? static_cast<int32_t>(static_cast<Signed>(q)) : static_cast<int32_t>(q);
}

template <class Signed, class Code>
void values(const Code* q, int sign, int64_t runs, int64_t length, const QuantizeStep* step, float* y) {
  for (int64_t r = 0; r < runs; r++) {
    const float scale = step->scale[r];
    const int32_t zero = step->zero ? step->zero[r] : 0;
    for (int64_t i = r * length; i < (r + 1) * length; i++)
      y[i] = scale * static_cast<float>(wide<Signed>(q[i], sign) - zero);
  }
}

template <class Signed, class Code>
void values_columns(const Code* q, int sign, int64_t rows, int64_t columns, int64_t stride, const QuantizeStep* step, float* y) {
  for (int64_t r = 0; r < rows; r++)
    for (int64_t c = 0; c < columns; c++)
      y[r * stride + c] =
          step->scale[c] * static_cast<float>(wide<Signed>(q[r * stride + c], sign) - (step->zero ? step->zero[c] : 0));
}

inline int32_t rounded(float v, float lo, float hi, const QuantizeStep& s, uint32_t index) {
  switch (s.rounding) {
    case kNearestEven: return rounded<kNearestEven>(v, lo, hi, index, 0, 0);
    case kTowardZero: return rounded<kTowardZero>(v, lo, hi, index, 0, 0);
    default: return rounded<kStochastic>(v, lo, hi, index, s.key0, s.key1);
  }
}

int fake(const float* x, int64_t runs, int64_t length, const QuantizeStep* step, float* y) {
  uint32_t bad = 0;
  for (int64_t r = 0; r < runs; r++) {
    const float scale = step->scale[r];
    const int32_t zero = step->zero ? step->zero[r] : 0;
    const float lo = static_cast<float>(step->qmin - zero), hi = static_cast<float>(step->qmax - zero);
    for (int64_t i = r * length; i < (r + 1) * length; i++) {
      bad |= not_finite(x[i]);
      y[i] = scale * static_cast<float>(rounded(x[i] / scale, lo, hi, *step, step->index + static_cast<uint32_t>(i)));
    }
  }
  return bad != 0;
}

int fake_columns(const float* x, int64_t rows, int64_t columns, int64_t stride, const QuantizeStep* step, float* y) {
  uint32_t bad = 0;
  for (int64_t r = 0; r < rows; r++)
    for (int64_t c = 0; c < columns; c++) {
      const int64_t i = r * stride + c;
      const int32_t zero = step->zero ? step->zero[c] : 0;
      const float lo = static_cast<float>(step->qmin - zero), hi = static_cast<float>(step->qmax - zero);
      bad |= not_finite(x[i]);
      y[i] = step->scale[c] *
             static_cast<float>(rounded(x[i] / step->scale[c], lo, hi, *step, step->index + static_cast<uint32_t>(i)));
    }
  return bad != 0;
}

inline void gradient_of(float x, float dy, float scale, int32_t zero, const QuantizeStep& s, uint32_t index, float* dx,
                        double* dscale, double* dzero) {
  const float lo = static_cast<float>(s.qmin - zero), hi = static_cast<float>(s.qmax - zero), v = x / scale;
  // One step of room on either side tells a value that rounds onto a bound from one that is clipped by it.
  const float r = static_cast<float>(rounded(v, lo - 1, hi + 1, s, index));
  const bool inside = r >= lo && r <= hi;
  *dx = inside ? dy : 0.f;
  *dscale += static_cast<double>(dy) * (inside ? static_cast<double>(r) - static_cast<double>(v) : r < lo ? lo : hi);
  if (!inside) *dzero -= static_cast<double>(dy) * scale;
}

int gradient(const float* x, const float* dy, int64_t runs, int64_t length, const QuantizeStep* step, float* dx,
             double* dscale, double* dzero) {
  uint32_t bad = 0;
  for (int64_t r = 0; r < runs; r++)
    for (int64_t i = r * length; i < (r + 1) * length; i++) {
      bad |= not_finite(x[i]) | not_finite(dy[i]);
      gradient_of(x[i], dy[i], step->scale[r], step->zero ? step->zero[r] : 0, *step,
                  step->index + static_cast<uint32_t>(i), dx + i, dscale + r, dzero + r);
    }
  return bad != 0;
}

int gradient_columns(const float* x, const float* dy, int64_t rows, int64_t columns, int64_t stride, const QuantizeStep* step,
                     float* dx, double* dscale, double* dzero) {
  uint32_t bad = 0;
  for (int64_t r = 0; r < rows; r++)
    for (int64_t c = 0; c < columns; c++) {
      const int64_t i = r * stride + c;
      bad |= not_finite(x[i]) | not_finite(dy[i]);
      gradient_of(x[i], dy[i], step->scale[c], step->zero ? step->zero[c] : 0, *step,
                  step->index + static_cast<uint32_t>(i), dx + i, dscale + c, dzero + c);
    }
  return bad != 0;
}

int range(const float* x, int64_t runs, int64_t length, float* lo, float* hi) {
  uint32_t bad = 0;
  for (int64_t r = 0; r < runs; r++) {
    float a = lo[r], b = hi[r];
    for (int64_t i = r * length; i < (r + 1) * length; i++) {
      bad |= not_finite(x[i]);
      a = x[i] < a ? x[i] : a;
      b = x[i] > b ? x[i] : b;
    }
    lo[r] = a;
    hi[r] = b;
  }
  return bad != 0;
}

int range_columns(const float* x, int64_t rows, int64_t columns, int64_t stride, float* lo, float* hi) {
  uint32_t bad = 0;
  for (int64_t r = 0; r < rows; r++)
    for (int64_t c = 0; c < columns; c++) {
      const float v = x[r * stride + c];
      bad |= not_finite(v);
      lo[c] = v < lo[c] ? v : lo[c];
      hi[c] = v > hi[c] ? v : hi[c];
    }
  return bad != 0;
}

int histogram(const float* x, int64_t n, float factor, int32_t bins, uint32_t* counts) {
  const float half = static_cast<float>(bins / 2);
  int bad = 0;
  for (int64_t i = 0; i < n; i++) {
    const float t = x[i] * factor;
    if (!(t >= -half && t < half)) {
      bad = 1;
      continue;
    }
    int32_t k = static_cast<int32_t>(t);
    k -= static_cast<float>(k) > t;
    counts[k + bins / 2]++;
  }
  return bad;
}

template <int kBits>
void pack(const uint8_t* codes, int64_t n, uint8_t* packed) {
  constexpr int each = 8 / kBits;
  constexpr uint32_t mask = (1u << kBits) - 1;
  for (int64_t i = 0; i < n; i += each) {
    uint32_t byte = 0;
    for (int j = 0; j < each && i + j < n; j++) byte |= (codes[i + j] & mask) << (j * kBits);
    packed[i / each] = static_cast<uint8_t>(byte);
  }
}

template <int kBits>
void unpack(const uint8_t* packed, int sign, int64_t n, uint8_t* codes) {
  constexpr int each = 8 / kBits;
  constexpr uint32_t mask = (1u << kBits) - 1, top = 1u << (kBits - 1);
  for (int64_t i = 0; i < n; i++) {
    const uint32_t v = packed[i / each] >> (i % each * kBits) & mask;
    codes[i] = static_cast<uint8_t>(sign ? (v ^ top) - top : v);
  }
}

void widen_f16(const uint16_t* x, int64_t n, float* y) {
  for (int64_t i = 0; i < n; i++) {
    const uint32_t h = x[i], sign = (h & 0x8000u) << 16, exponent = h >> 10 & 31, fraction = h & 0x3ffu;
    if (exponent == 31) y[i] = float_of(sign | 0x7f800000u | fraction << 13 | (fraction ? 0x400000u : 0));
    else if (exponent) y[i] = float_of(sign | (exponent + 112) << 23 | fraction << 13);
    else y[i] = float_of(sign | bits_of(static_cast<float>(fraction) * 0x1p-24f));
  }
}

void widen_bf16(const uint16_t* x, int64_t n, float* y) {
  for (int64_t i = 0; i < n; i++) y[i] = float_of(static_cast<uint32_t>(x[i]) << 16);
}

void narrow_f16(const float* x, int64_t n, uint16_t* y) {
  for (int64_t i = 0; i < n; i++) {
    const uint32_t b = bits_of(x[i]), sign = b >> 16 & 0x8000u, a = b & 0x7fffffffu;
    uint32_t h;
    if (a > 0x7f800000u) h = 0x7e00u | (a >> 13 & 0x3ffu);
    else if (a >= 0x477ff000u) h = 0x7c00u;  // 65520 and above round to infinity
    else if (a >= 0x38800000u) h = (a - 0x38000000u + 0xfffu + (a >> 13 & 1)) >> 13;
    else h = bits_of(float_of(a) + 0.5f) - 0x3f000000u;  // 0.5 has steps of 2^-24 above it: the subnormals' step
    y[i] = static_cast<uint16_t>(sign | h);
  }
}

void narrow_bf16(const float* x, int64_t n, uint16_t* y) {
  for (int64_t i = 0; i < n; i++) {
    const uint32_t b = bits_of(x[i]);
    y[i] = static_cast<uint16_t>((b & 0x7fffffffu) > 0x7f800000u ? b >> 16 | 0x40u : (b + 0x7fffu + (b >> 16 & 1)) >> 16);
  }
}

}  // namespace
}  // namespace whittle

extern "C" void quantize_install_scalar(whittle::QuantizeKernels* t) {
  using namespace whittle;
  t->codes8 = codes<uint8_t>;
  t->codes16 = codes<uint16_t>;
  t->codes8_columns = codes_columns<uint8_t>;
  t->codes16_columns = codes_columns<uint16_t>;
  t->values8 = values<int8_t, uint8_t>;
  t->values16 = values<int16_t, uint16_t>;
  t->values8_columns = values_columns<int8_t, uint8_t>;
  t->values16_columns = values_columns<int16_t, uint16_t>;
  t->fake = fake;
  t->fake_columns = fake_columns;
  t->gradient = gradient;
  t->gradient_columns = gradient_columns;
  t->range = range;
  t->range_columns = range_columns;
  t->histogram = histogram;
  t->pack4 = pack<4>;
  t->pack2 = pack<2>;
  t->unpack4 = unpack<4>;
  t->unpack2 = unpack<2>;
  t->widen_f16 = widen_f16;
  t->widen_bf16 = widen_bf16;
  t->narrow_f16 = narrow_f16;
  t->narrow_bf16 = narrow_bf16;
}
