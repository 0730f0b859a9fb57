// The reference: functions computed in double and rounded once.
#include <math.h>

#define WHITTLE_ISA_FILE
#include "core/elementwise.h"
#include "cpu/gemm/activation_scalar.h"

namespace {

#define WHITTLE_BINARY(name, expression)                                                                  \
  void name(int64_t n, const float* a, const float* b, float, float, float* out) {                        \
    for (int64_t i = 0; i < n; i++) {                                                                     \
      const float x = a[i], y = b[i];                                                                     \
      out[i] = expression;                                                                                \
    }                                                                                                     \
  }
#define WHITTLE_UNARY(name, expression)                                                                   \
  void name(int64_t n, const float* a, const float*, float p, float q, float* out) {                      \
    (void)p;                                                                                              \
    (void)q;                                                                                              \
    for (int64_t i = 0; i < n; i++) {                                                                     \
      const float x = a[i];                                                                               \
      out[i] = expression;                                                                                \
    }                                                                                                     \
  }
#define WHITTLE_DOUBLE(name, expression)                                                                  \
  void name(int64_t n, const float* a, const float*, float p, float q, float* out) {                      \
    (void)p;                                                                                              \
    (void)q;                                                                                              \
    for (int64_t i = 0; i < n; i++) {                                                                     \
      const double x = a[i];                                                                              \
      out[i] = static_cast<float>(expression);                                                            \
    }                                                                                                     \
  }
#define WHITTLE_ACTIVATE(name, kind)                                                                      \
  void name(int64_t n, const float* a, const float*, float p, float q, float* out) {                      \
    for (int64_t i = 0; i < n; i++) out[i] = act_apply_scalar(a[i], whittle::kind, p, q);                 \
  }

WHITTLE_BINARY(op_add, x + y)
WHITTLE_BINARY(op_sub, x - y)
WHITTLE_BINARY(op_mul, x * y)
WHITTLE_BINARY(op_div, x / y)
WHITTLE_BINARY(op_min, x < y || x != x ? x : y)
WHITTLE_BINARY(op_max, x > y || x != x ? x : y)
WHITTLE_BINARY(op_pow, static_cast<float>(pow(static_cast<double>(x), static_cast<double>(y))))
WHITTLE_BINARY(op_prelu, x < 0 ? x * y : x)
WHITTLE_UNARY(op_copy, x)
WHITTLE_UNARY(op_affine, x * p + q)
WHITTLE_UNARY(op_neg, -x)
WHITTLE_UNARY(op_abs, fabsf(x))
WHITTLE_UNARY(op_square, x * x)
WHITTLE_UNARY(op_sqrt, sqrtf(x))
WHITTLE_UNARY(op_reciprocal, 1.0f / x)
WHITTLE_DOUBLE(op_exp, exp(x))
WHITTLE_DOUBLE(op_log, log(x))
WHITTLE_DOUBLE(op_erf, erf(x))
WHITTLE_ACTIVATE(op_clip, kActivationClip)
WHITTLE_ACTIVATE(op_hardswish, kActivationHardswish)
WHITTLE_UNARY(op_hardsigmoid, act_apply_scalar(x * p + q, whittle::kActivationClip, 0, 1))
WHITTLE_ACTIVATE(op_sigmoid, kActivationSigmoid)
WHITTLE_ACTIVATE(op_tanh, kActivationTanh)
WHITTLE_ACTIVATE(op_silu, kActivationSilu)
WHITTLE_ACTIVATE(op_gelu, kActivationGelu)
WHITTLE_ACTIVATE(op_gelu_tanh, kActivationGeluTanh)
WHITTLE_UNARY(op_leaky, x < 0 ? x * p : x)
WHITTLE_DOUBLE(op_elu, x < 0 ? p * expm1(x) : x)
WHITTLE_DOUBLE(op_selu, q * (x <= 0 ? p * expm1(x) : x))
WHITTLE_DOUBLE(op_celu, x < 0 ? p * expm1(x / p) : x)
WHITTLE_DOUBLE(op_softplus, x > 0 ? x + log1p(exp(-x)) : log1p(exp(x)))
WHITTLE_UNARY(op_softsign, x / (1.0f + fabsf(x)))
WHITTLE_UNARY(op_thresholded, x > p || x != x ? x : 0.0f)
WHITTLE_UNARY(op_shrink, x < -p ? x + q : x > p ? x - q : x != x ? x : 0.0f)
WHITTLE_DOUBLE(op_mish, x * tanh(x > 0 ? x + log1p(exp(-x)) : log1p(exp(x))))
WHITTLE_UNARY(op_floor, floorf(x))
WHITTLE_UNARY(op_ceil, ceilf(x))
WHITTLE_UNARY(op_round, nearbyintf(x))
WHITTLE_UNARY(op_sign, x > 0 ? 1.0f : x < 0 ? -1.0f : x)
WHITTLE_DOUBLE(op_sin, sin(x))
WHITTLE_DOUBLE(op_cos, cos(x))
WHITTLE_DOUBLE(op_tan, tan(x))
WHITTLE_DOUBLE(op_asin, asin(x))
WHITTLE_DOUBLE(op_acos, acos(x))
WHITTLE_DOUBLE(op_atan, atan(x))
WHITTLE_DOUBLE(op_sinh, sinh(x))
WHITTLE_DOUBLE(op_cosh, cosh(x))
WHITTLE_DOUBLE(op_asinh, asinh(x))
WHITTLE_DOUBLE(op_acosh, acosh(x))
WHITTLE_DOUBLE(op_atanh, atanh(x))

}  // namespace

extern "C" void elementwise_install_scalar(whittle::ElementwiseKernels* table) {
#define WHITTLE_ELEMENTWISE(name, operands) table->apply[whittle::kElementwise_##name] = op_##name;
#include "core/elementwise.inc"
#undef WHITTLE_ELEMENTWISE
}
