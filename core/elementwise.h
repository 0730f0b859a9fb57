// Elementwise arithmetic on float32: short programs, evaluated strip by strip in L1, so that a chain of operations reads
// and writes memory once.
//
// Numbers: each operation rounds once for itself; exp, log and what is made of them (sigmoid, tanh, elu, softplus, mish) stay within
// kActivationError of the exact value on SIMD variants, sin, cos, erf and atan are rounded from about 1e-9 of it, silu and gelu within what core/activation.h says, scalar rounds
// once from double. min and max pass a NaN of either operand on.
#pragma once
#include <stdint.h>

#include "core/activation.h"

namespace whittle {

// Names cross into lib/session by plan_names(): the list is the one place that numbers them.
enum ElementwiseOp : int32_t {
#define WHITTLE_ELEMENTWISE(name, operands) kElementwise_##name,
#include "core/elementwise.inc"
#undef WHITTLE_ELEMENTWISE
  kElementwiseOps
};

// out[i] = op(a[i], b[i]; p, q). Unary operations do not read b. out may be a or b.
typedef void (*ElementwiseFn)(int64_t n, const float* a, const float* b, float p, float q, float* out);

struct ElementwiseKernels {
  ElementwiseFn apply[kElementwiseOps];
};

}  // namespace whittle

#ifndef WHITTLE_ISA_FILE
#include <vector>

#include "core/status.h"
#include "core/variants.h"

namespace whittle {

VariantList<ElementwiseKernels> elementwise_variants();
const ElementwiseKernels& elementwise_kernels();
Tier elementwise_tier();

constexpr int kElementwiseRank = 8;
constexpr int kElementwiseRegisters = 24;

// Registers 0 … inputs-1 are the inputs, later ones hold what the steps write; the last step writes the output.
struct ElementwiseStep {
  int32_t op, a, b, out;
  float p, q;
};

// Operands and results may be 8-bit codes: they become floats, and results codes, strip by strip.
struct ElementwiseCode {
  int32_t kind = 0;  // 0 floats, 1 int8, 2 uint8
  int32_t zero = 0;
  float scale = 1;
};

struct ElementwiseProgram {
  int32_t rank = 0;
  int64_t dims[kElementwiseRank];
  int32_t inputs = 0;
  int64_t strides[kElementwiseRegisters][kElementwiseRank];  // in elements; 0 repeats
  std::vector<ElementwiseStep> steps;
  ElementwiseCode code[kElementwiseRegisters];  // of the inputs
  ElementwiseCode out_code;
};

// Drops axes of size 1 and merges those that every operand walks through as one.
void elementwise_simplify(ElementwiseProgram* program);
// Evaluates over all of dims; out is contiguous and overlaps no input. The program must be simplified.
WhittleStatus elementwise_run(const ElementwiseProgram& program, const void* const* inputs, void* out, int threads);

}  // namespace whittle
#endif
