// One scale and zero point from one range: the definition that every device shares, so that codes agree to the last bit.
// Only operations that round the same way everywhere: +, -, *, /, rint, and exact powers of two.
#pragma once
#include <float.h>
#include <math.h>
#include <stdint.h>

#include "core/quantize.h"

#if defined(__CUDACC__)
#define WHITTLE_EVERYWHERE __host__ __device__
#else
#define WHITTLE_EVERYWHERE
#endif

namespace whittle {

// rint for |v| < 2^51, without a call: this runs for every block of a tensor.
WHITTLE_EVERYWHERE inline double nearest_even(double v) {
  const double magic = 0x1.8p52;
  return fabs(v) < 0x1p51 ? (v + magic) - magic : v;
}

// See quantize_parameters in core/quantize.h. False where a bound is not finite.
WHITTLE_EVERYWHERE inline bool quantize_parameter(float lo, float hi, const QuantizeRule& rule, float* scale, int32_t* zero) {
  const float steps = static_cast<float>(rule.qmax - rule.qmin);
  const float a = lo < 0 ? lo : 0.f, b = hi > 0 ? hi : 0.f;
  if (!(a >= -FLT_MAX && b <= FLT_MAX) || lo != lo || hi != hi) return false;
  const float most = -a > b ? -a : b;
  float s = rule.symmetric ? most / (steps / 2) : (b - a) / steps;
  if (s > FLT_MAX) s = static_cast<float>((static_cast<double>(b) - static_cast<double>(a)) / steps);
  // onnxruntime divides by the scale before it was rounded to float32, torch by what it became.
  const bool plain = !rule.torch && !rule.power_of_two && s >= FLT_MIN;
  if (rule.torch) s = s < FLT_EPSILON ? FLT_EPSILON : s;
  else if (most == 0) s = 1;
  else if (s < FLT_MIN) s = FLT_MIN;
  if (rule.power_of_two) {
    int e;
    const float m = frexpf(s, &e);
    e -= m == 0.5f;
    s = ldexpf(1.f, e > 127 ? 127 : e);
  }
  int32_t z = rule.middle;
  if (!rule.symmetric) {
    const double v = rule.qmin - nearest_even(plain ? a / ((static_cast<double>(b) - a) / steps) : static_cast<double>(a / s));
    z = static_cast<int32_t>(v < rule.qmin ? rule.qmin : v > rule.qmax ? rule.qmax : v);
    if (most == 0 && !rule.torch) z = 0;
  }
  // The largest floats: no code that can occur may overflow on the way back. (An asymmetric power of two has no such
  // scale near; dequantize says so then.)
  const bool large = s * (static_cast<float>(rule.qmax) - static_cast<float>(rule.qmin) + 1) > FLT_MAX;
  for (int tries = 0; large && tries < 8 && !(rule.power_of_two && !rule.symmetric); tries++) {
    const double up = rint(static_cast<double>(b / s)), down = -rint(static_cast<double>(a / s));
    const double above = up < rule.qmax - z ? up : rule.qmax - z, below = down < z - rule.qmin ? down : z - rule.qmin;
    const float reach = static_cast<float>(above > below ? above : below);
    if (s * reach <= FLT_MAX) break;
    s = rule.power_of_two ? s / 2 : nextafterf(FLT_MAX / reach < s ? FLT_MAX / reach : s, 0.f);
  }
  *scale = s;
  *zero = z;
  return true;
}

}  // namespace whittle
