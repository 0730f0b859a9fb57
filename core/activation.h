// Activations that products and other kernels apply to their float32 results. Plain C: ISA files include it.
//
// x is the value after scale, bias and accumulation. NaN gives NaN. At minus infinity gelu, gelu_tanh, silu and
// hardswish give their limit, -0 (IEEE arithmetic on the textbook formulas would give NaN).
#pragma once
#include <stdint.h>

namespace whittle {

// The numbers cross into lib/kernels/activation.ts and must not change.
enum ActivationKind : int32_t {
  kActivationNone = 0,
  kActivationClip = 1,       // min(max(x, lo), hi): relu is clip to [0, inf], relu6 to [0, 6]
  kActivationHardswish = 2,  // x * clip(x + 3, 0, 6) / 6, as ONNX and torch define it
  kActivationSigmoid = 3,
  kActivationTanh = 4,
  kActivationSilu = 5,       // x * sigmoid(x)
  kActivationGelu = 6,       // x * Phi(x), Phi the normal distribution function
  kActivationGeluTanh = 7,   // x * sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3))
  kActivationHardswishAffine = 8,  // hardswish(x) * lo + hi, product and sum rounded each; sessions only
};

// SIMD variants differ from the exact value of the float32 x by at most this times |y|, plus the smallest normal float;
// silu, gelu and gelu_tanh by 2^-22 max(|x|, 1) and by 2^-21 |x|: their tails are right in sign and limit, not in every
// digit. Scalar rounds once from double. Measured by the native check over floats of every exponent.
constexpr float kActivationError = 6 * 0x1p-23f;

struct Activation {
  int32_t kind;
  float lo, hi;  // of clip and the affine hardswish; -inf and inf otherwise
};

}  // namespace whittle
