// The reference: computed in double, rounded once.
#pragma once
#include <math.h>

#include "core/activation.h"

static inline double act_sigmoid_scalar(double x) {
  const double e = exp(x < 0 ? x : -x);
  return x < 0 ? e / (1 + e) : 1 / (1 + e);
}

static inline float act_apply_scalar(float x, int32_t kind, float lo, float hi) {
  const double d = x;
  switch (kind) {
    case whittle::kActivationClip:
      x = lo > x ? lo : x;
      return hi < x ? hi : x;
    case whittle::kActivationHardswish:
      if (x < -3) return -0.0f;
      return (float)(d * (x > 3 ? 6.0 : d + 3) / 6);
    case whittle::kActivationHardswishAffine:
      return (float)((x < -3 ? -0.0 : d * (x > 3 ? 6.0 : d + 3) / 6) * lo) + hi;
    case whittle::kActivationSigmoid:
      return (float)act_sigmoid_scalar(d);
    case whittle::kActivationTanh:
      return (float)tanh(d);
    case whittle::kActivationSilu:
      return (float)((x < -120 ? -120 : d) * act_sigmoid_scalar(d));
    case whittle::kActivationGelu:
      return (float)((x < -20 ? -20 : d) * (0.5 * erfc(d * -0.70710678118654752440)));
    case whittle::kActivationGeluTanh: {
      const double low = x < -20 ? -20 : d;
      return (float)(low * act_sigmoid_scalar(1.5957691216057307118 * (low + 0.044715 * low * low * low)));
    }
    default:
      return x;
  }
}
