// Uniform affine quantization: q = clip(round(x / s) + z, qmin, qmax), y = s·(q − z), and the ranges that s and z come
// from. Everything with an integer result (codes, ranges, histograms, fake-quantized values) is bit-exact on every
// variant and any number of threads.
//
// Conventions: float32 division, never a reciprocal; rounded before z is added; symmetric codes are ±(2^(b−1)−1).
#pragma once
#include <stdint.h>

#include "core/status.h"
#include "core/variants.h"

namespace whittle {

enum QuantizeRounding : int { kNearestEven = 0, kTowardZero = 1, kStochastic = 2 };

// What a kernel needs to make codes. A kernel sees either runs (one scale a run) or rows (one scale a column).
struct QuantizeStep {
  const float* scale;    // finite, > 0
  const int32_t* zero;   // beside scale; null: all 0
  int32_t qmin, qmax;    // zero lies between them, or saturates: |zero| < 2^17
  int rounding;          // QuantizeRounding
  uint32_t key0, key1;   // of the stochastic rounding
  uint32_t index;        // of the first element in the whole tensor, for the same
};

// Codes are stored as the low 8 or 16 bits of q. A kernel that reads floats answers 1 if a NaN or an infinity was among
// them (what it wrote is then unspecified), else 0. Nothing need be aligned; inputs and outputs do not overlap.
//
// Runs: element r·length + i has scale[r]. Columns: element r·stride + c has scale[c], and `stride` counts elements from
// row to row in x, q and y alike.
struct QuantizeKernels {
  int (*codes8)(const float* x, int64_t runs, int64_t length, const QuantizeStep* step, uint8_t* q);
  int (*codes16)(const float* x, int64_t runs, int64_t length, const QuantizeStep* step, uint16_t* q);
  int (*codes8_columns)(const float* x, int64_t rows, int64_t columns, int64_t stride, const QuantizeStep* step, uint8_t* q);
  int (*codes16_columns)(const float* x, int64_t rows, int64_t columns, int64_t stride, const QuantizeStep* step, uint16_t* q);

  // y = scale·(q − zero); `sign` says whether the stored bits are signed
  void (*values8)(const uint8_t* q, int sign, int64_t runs, int64_t length, const QuantizeStep* step, float* y);
  void (*values16)(const uint16_t* q, int sign, int64_t runs, int64_t length, const QuantizeStep* step, float* y);
  void (*values8_columns)(const uint8_t* q, int sign, int64_t rows, int64_t columns, int64_t stride, const QuantizeStep* step,
                          float* y);
  void (*values16_columns)(const uint16_t* q, int sign, int64_t rows, int64_t columns, int64_t stride,
                           const QuantizeStep* step, float* y);

  // y = scale·clip(round(x / scale), qmin − zero, qmax − zero): quantized and back without storing a code
  int (*fake)(const float* x, int64_t runs, int64_t length, const QuantizeStep* step, float* y);
  int (*fake_columns)(const float* x, int64_t rows, int64_t columns, int64_t stride, const QuantizeStep* step, float* y);

  // dx = dy where round(x / scale) + zero lies in [qmin, qmax], else 0. Adds to the double sums, one a scale:
  // dscale: dy·(round(x / scale) − x / scale inside, qmin − zero or qmax − zero outside); dzero: −scale·dy outside.
  int (*gradient)(const float* x, const float* dy, int64_t runs, int64_t length, const QuantizeStep* step, float* dx,
                  double* dscale, double* dzero);
  int (*gradient_columns)(const float* x, const float* dy, int64_t rows, int64_t columns, int64_t stride,
                          const QuantizeStep* step, float* dx, double* dscale, double* dzero);

  // Lowers lo[r] and raises hi[r] to hold run r; lo[c] and hi[c] to hold column c
  int (*range)(const float* x, int64_t runs, int64_t length, float* lo, float* hi);
  int (*range_columns)(const float* x, int64_t rows, int64_t columns, int64_t stride, float* lo, float* hi);

  // counts[floor(x·factor) + bins/2] += 1; factor is a power of two, so the product is exact. Answers 1 also where an
  // x lies outside ±bins/2 (it is then not counted).
  int (*histogram)(const float* x, int64_t n, float factor, int32_t bins, uint32_t* counts);

  // One code a byte to 2 or 4 codes a byte, lowest bits first, the last byte padded with zeros; and back. Unpacked
  // codes are sign-extended where `sign` is set.
  void (*pack4)(const uint8_t* codes, int64_t n, uint8_t* packed);
  void (*pack2)(const uint8_t* codes, int64_t n, uint8_t* packed);
  void (*unpack4)(const uint8_t* packed, int sign, int64_t n, uint8_t* codes);
  void (*unpack2)(const uint8_t* packed, int sign, int64_t n, uint8_t* codes);

  // float16 and bfloat16 bits to float32 and back, rounding to nearest even
  void (*widen_f16)(const uint16_t* x, int64_t n, float* y);
  void (*widen_bf16)(const uint16_t* x, int64_t n, float* y);
  void (*narrow_f16)(const float* x, int64_t n, uint16_t* y);
  void (*narrow_bf16)(const float* x, int64_t n, uint16_t* y);
};

VariantList<QuantizeKernels> quantize_variants();
const QuantizeKernels& quantize_kernels();
Tier quantize_tier();

// ---------- drivers: geometry and threads ----------

// A tensor seen as [outer, axis, inner]. block 0: one scale an index of the axis; else one a block of `block` indices
// (the last may be short) at each outer and inner index, as ONNX lays them out. Whole tensor: outer = axis = 1.
struct QuantizeShape {
  int64_t outer, axis, inner, block;
  int64_t size() const { return outer * axis * inner; }
  int64_t blocks() const { return block ? (axis + block - 1) / block : axis; }
  int64_t scales() const { return block ? outer * blocks() * inner : axis; }
};

enum FloatType : int { kFloat32 = 0, kFloat16 = 1, kBfloat16 = 2 };

// Codes in memory: `bits` 2, 4 (packed), 8 or 16. Zero points have the same form.
struct CodeType {
  int bits;
  bool sign;
};

// How parameters follow from a range [lo, hi], which is widened to hold 0.
struct QuantizeRule {
  int32_t qmin, qmax;
  bool symmetric;     // s = max(−lo, hi) / ((qmax − qmin) / 2), z = the middle: 0 signed, 2^(b−1) unsigned
  int32_t middle;
  bool torch;         // torch's convention: the scale is at least 2^-23, symmetric ones divide by (qmax − qmin) / 2
  bool power_of_two;  // the scale is raised to a power of two
};

// One scale and zero point for each of `count` ranges. An empty range (lo = hi = 0) gives scale 1; no scale is
// subnormal, and none so large that a code times it overflows (but see powers of two). WHITTLE_NONFINITE where a bound is not finite.
WhittleStatus quantize_parameters(const float* lo, const float* hi, int64_t count, const QuantizeRule& rule, float* scale,
                                  int32_t* zero);

// lo and hi of x, one a scale of `shape`. Where x is empty they are 0.
WhittleStatus quantize_ranges(const void* x, FloatType type, const QuantizeShape& shape, float* lo, float* hi, int threads);

struct QuantizeOptions {
  CodeType code;
  int32_t qmin, qmax;
  int rounding;
  uint32_t key0, key1;
  int threads;  // 0: the default
};

// With `rule`, scale and zero are written first, from the ranges of x; without, they are read. zero may be null: all 0.
// WHITTLE_NONFINITE: x holds a NaN or an infinity. WHITTLE_RANGE: a scale is not finite or not above 0.
WhittleStatus quantize(const void* x, FloatType type, const QuantizeShape& shape, const QuantizeRule* rule, float* scale,
                       void* zero, const QuantizeOptions& options, void* q);

// WHITTLE_RANGE also where a code times its scale is beyond what `type` holds.
WhittleStatus dequantize(const void* q, const QuantizeShape& shape, const float* scale, const void* zero,
                         const QuantizeOptions& options, FloatType type, void* y);

struct FakeGradient {
  const float* dy;      // as x
  float* dx;            // dy where the code is not clipped, else 0
  float* dscale;        // null, or a sum a scale, times `factor`
  float* dzero;         // the same
  double factor;
};

// y may be null where only gradients are wanted. zero is int32, one a scale, or null.
WhittleStatus fake_quantize(const float* x, const QuantizeShape& shape, const float* scale, const int32_t* zero,
                            const QuantizeOptions& options, float* y, const FakeGradient* gradient);

// Adds to counts[channel·bins + bin], for a shape with one scale an index of the axis (or one for all):
// bin = floor(x·factor[channel]) + bins/2, factor a power of two with |x·factor| < bins/2.
// WHITTLE_RANGE where a channel's factor is none or x lies outside.
WhittleStatus quantize_histogram(const void* x, FloatType type, const QuantizeShape& shape, const float* factor, int32_t bins,
                                 double* counts, int threads);

}  // namespace whittle
