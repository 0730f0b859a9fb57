// From 32-bit sums to what the caller asked for, one row of a tile at a time; plain C that the compiler vectorizes under
// each variant's flags. Every operation is an IEEE one that rounds by itself (no FMA, no reciprocal), so all variants
// agree to the bit, activations included. Polynomials are own fits: exp 1.1e-8, the Gaussian tail 1.9e-8, tanh 1.4e-8
// relative before rounding. The including file defines TILE_COLUMNS, the columns of its widest panel.
#pragma once
#include <stdint.h>
#include <string.h>

#include "core/gemm_int8.h"

#if defined(_MSC_VER)
#define WHITTLE_INLINE static __forceinline
#else
#define WHITTLE_INLINE static inline __attribute__((always_inline))
#endif

namespace whittle {
namespace {

// Adding and subtracting 1.5 * 2^23 rounds |x| < 2^22 half to even, and leaves the integer in the low bits.
constexpr float kRoundMagic = 12582912.0f;

WHITTLE_INLINE int32_t float_bits(float x) {
  int32_t i;
  memcpy(&i, &x, 4);
  return i;
}
WHITTLE_INLINE float bits_float(int32_t i) {
  float x;
  memcpy(&x, &i, 4);
  return x;
}

// exp for x in [-87, 88], clamped outside.
WHITTLE_INLINE float epilogue_exp(float x) {
  x = x < -87.0f ? -87.0f : x;
  x = x > 88.0f ? 88.0f : x;
  const float shifted = x * 1.44269502f + kRoundMagic;
  const float n = shifted - kRoundMagic;
  float r = x - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  float p = 0.00139336f;
  p = p * r + 0.00836318f;
  p = p * r + 0.04166646f;
  p = p * r + 0.16666577f;
  p = p * r + 0.5f;
  p = p * (r * r) + r;
  p = p + 1.0f;
  const uint32_t exponent = static_cast<uint32_t>(float_bits(shifted) - float_bits(kRoundMagic) + 127) << 23;
  return p * bits_float(static_cast<int32_t>(exponent));
}

WHITTLE_INLINE float epilogue_sigmoid(float x) { return 1.0f / (1.0f + epilogue_exp(-x)); }

WHITTLE_INLINE float epilogue_tanh(float x) {
  const float a = bits_float(float_bits(x) & 0x7fffffff);
  const float t = x * x;
  float p = -0.00581f;
  p = p * t + 0.02073115f;
  p = p * t + -0.05376721f;
  p = p * t + 0.13331761f;
  p = p * t + -0.33333293f;
  const float small = x + x * (t * p);
  const float e = epilogue_exp(-2.0f * a);
  const float large = (1.0f - e) / (1.0f + e);
  const float signed_large = bits_float(float_bits(large) | (float_bits(x) & static_cast<int32_t>(0x80000000u)));
  return a < 0.625f ? small : signed_large;
}

// x * Phi(x), with Phi(-|x|) = exp(-x^2/2) * u * P(u), u = 1 / (1 + 0.21 |x|).
WHITTLE_INLINE float epilogue_gelu(float x) {
  float a = bits_float(float_bits(x) & 0x7fffffff);
  a = a > 13.0f ? 13.0f : a;
  const float u = 1.0f / (1.0f + 0.21f * a);
  float p = -0.07194447f;
  p = p * u + 0.28494358f;
  p = p * u + -0.33296709f;
  p = p * u + 0.35241963f;
  p = p * u + -0.09596226f;
  p = p * u + 0.12572572f;
  p = p * u + 0.0689759f;
  p = p * u + 0.0850992f;
  p = p * u + 0.08370977f;
  const float tail = p * u * epilogue_exp(-0.5f * (a * a));
  const float phi = x < 0.0f ? tail : 1.0f - tail;
  // Far out on the left the tail is 0 for our purposes, and an infinite x must not meet it.
  return x < -13.0f ? -0.0f : x * phi;
}

WHITTLE_INLINE float epilogue_silu(float x) {
  const float y = x * epilogue_sigmoid(x);
  return x < -87.0f ? -0.0f : y;
}

WHITTLE_INLINE float epilogue_gelu_tanh(float x) {
  float c = x > 20.0f ? 20.0f : x;
  c = c < -20.0f ? -20.0f : c;
  const float u = 1.59576912f * (c + 0.044715f * (c * c * c));
  const float y = x * epilogue_sigmoid(u);
  return x < -13.0f ? -0.0f : y;
}

WHITTLE_INLINE float epilogue_hardswish(float x) {
  float g = x + 3.0f;
  g = g < 0.0f ? 0.0f : g;
  g = g > 6.0f ? 6.0f : g;
  return x <= -3.0f ? -0.0f : x * g / 6.0f;
}

#if defined(__GNUC__) && !defined(__clang__)
// A loop of 16 is otherwise unrolled into scalars before it can become vectors.
#define WHITTLE_VECTOR_LOOP _Pragma("GCC unroll 1")
#else
#define WHITTLE_VECTOR_LOOP
#endif

#define WHITTLE_EACH(expression)          \
  do {                                    \
    WHITTLE_VECTOR_LOOP                   \
    for (int64_t i = 0; i < n; i++) {     \
      const float x = f[i];               \
      f[i] = (expression);                \
    }                                     \
  } while (0)

WHITTLE_INLINE void epilogue_activate(const GemmInt8Epilogue* e, float* f, int64_t n) {
  const float lo = e->activation.lo, hi = e->activation.hi;
  switch (e->activation.kind) {
    case kActivationClip:
      WHITTLE_VECTOR_LOOP
      for (int64_t i = 0; i < n; i++) {
        float x = f[i];
        x = x < lo ? lo : x;
        f[i] = x > hi ? hi : x;
      }
      break;
    case kActivationGelu: WHITTLE_EACH(epilogue_gelu(x)); break;
    case kActivationGeluTanh: WHITTLE_EACH(epilogue_gelu_tanh(x)); break;
    case kActivationSilu: WHITTLE_EACH(epilogue_silu(x)); break;
    case kActivationSigmoid: WHITTLE_EACH(epilogue_sigmoid(x)); break;
    case kActivationTanh: WHITTLE_EACH(epilogue_tanh(x)); break;
    case kActivationHardswish: WHITTLE_EACH(epilogue_hardswish(x)); break;
    default: break;
  }
}

// `acc` holds n <= TILE_COLUMNS sums of one row, the offset among them, and is overwritten; out is that row at that column.
WHITTLE_INLINE void epilogue_columns(const GemmInt8Epilogue* e, int64_t column, int32_t row_sum, int32_t* __restrict acc, int64_t n,
                                     void* __restrict out) {
  // Unsigned arithmetic: intermediate values may wrap, the final one fits.
  if (e->b_zero) {
    const int32_t* __restrict zero = e->b_zero + column;
    WHITTLE_VECTOR_LOOP
    for (int64_t i = 0; i < n; i++)
      acc[i] = static_cast<int32_t>(static_cast<uint32_t>(acc[i]) -
                                    static_cast<uint32_t>(zero[i]) * static_cast<uint32_t>(row_sum));
  }
  if (e->out_type == kOutInt32) {
    memcpy(out, acc, static_cast<size_t>(n) * 4);
    return;
  }
  const float* __restrict scale = e->scale + column;
  const float* __restrict bias = e->bias + column;
  float f[TILE_COLUMNS];
  WHITTLE_VECTOR_LOOP
  for (int64_t i = 0; i < n; i++) f[i] = static_cast<float>(acc[i]) * scale[i] + bias[i];
  if (e->activation.kind != kActivationNone) epilogue_activate(e, f, n);
  if (e->out_type == kOutFloat32) {
    memcpy(out, f, static_cast<size_t>(n) * 4);
    return;
  }
  const float low = static_cast<float>((e->out_type == kOutInt8 ? -128 : 0) - e->out_zero);
  const float high = static_cast<float>((e->out_type == kOutInt8 ? 127 : 255) - e->out_zero);
  const float step = e->out_scale;
  const int32_t base = e->out_zero - float_bits(kRoundMagic);
  uint8_t* __restrict y = static_cast<uint8_t*>(out);
  // The bounds are integers, so clamping first gives what rounding first would.
  WHITTLE_VECTOR_LOOP
  for (int64_t i = 0; i < n; i++) {
    float q = f[i] / step;
    q = q < low ? low : q;
    q = q > high ? high : q;
    y[i] = static_cast<uint8_t>(float_bits(q + kRoundMagic) + base);
  }
}

// A tile's rows; `sums` is null unless the epilogue wants them. `width` is the distance between rows of acc.
static inline void epilogue_tile(const GemmInt8Panel* p, int64_t row, int64_t rows, int32_t* acc, int64_t width) {
  const GemmInt8Epilogue* e = p->epilogue;
  const int64_t size = e->out_type == kOutInt32 || e->out_type == kOutFloat32 ? 4 : 1;
  for (int64_t r = 0; r < rows; r++) {
    void* out = static_cast<uint8_t*>(p->out) + ((row + r) * p->out_stride + p->column) * size;
    const int32_t sum = p->a_sums ? p->a_sums[row + r] : 0;
    if (p->columns == TILE_COLUMNS) epilogue_columns(e, p->column, sum, acc + r * width, TILE_COLUMNS, out);
    else epilogue_columns(e, p->column, sum, acc + r * width, p->columns, out);
  }
}

}  // namespace
}  // namespace whittle
