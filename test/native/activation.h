// What core/activation.h allows a SIMD variant's result at x, y being the exact one.
#pragma once
#include <math.h>

#include "core/activation.h"

inline double activation_slack(int32_t kind, double x, double y) {
  const bool bump = kind == whittle::kActivationSilu || kind == whittle::kActivationGelu || kind == whittle::kActivationGeluTanh;
  if (bump) return 0x1p-22 * fmin(fmax(fabs(x), 1), 2 * fabs(x)) + 0x1p-126;
  return whittle::kActivationError * fabs(y) + 0x1p-126;
}
