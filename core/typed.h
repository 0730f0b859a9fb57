// Elementwise operations on any element type: comparisons, logic, integer arithmetic, selection, casts. One element after
// another; float32 arithmetic that should be fast goes through core/elementwise.h.
//
// Integers wrap around; division truncates toward zero and by zero gives 0 (ONNX leaves it open); shifts by the width or
// more give 0. Casts of floats to integers truncate and saturate, NaN gives 0; to bool, anything but zero is true.
#pragma once
#include <stdint.h>

namespace whittle {

enum class ElementKind : int32_t { float32 = 0, float64, int8, uint8, int16, uint16, int32, uint32, int64, uint64, boolean, count };
int64_t element_bytes(ElementKind kind);

enum TypedOp : int32_t {
#define WHITTLE_TYPED(name, operands) kTyped_##name,
#include "core/typed.inc"
#undef WHITTLE_TYPED
  kTypedOps
};

constexpr int kTypedRank = 8;

struct TypedProblem {
  TypedOp op;
  ElementKind type;  // of the operands (of `where`: of the last two; of `cast`: of the operand)
  ElementKind to;    // of a cast's result
  int32_t rank;
  int64_t dims[kTypedRank];
  int64_t strides[3][kTypedRank];
};

int typed_operands(TypedOp op);
ElementKind typed_result(const TypedProblem& p);
// False if the operation does not exist for the type.
bool typed_exists(TypedOp op, ElementKind type);
// out is contiguous over dims.
void typed_run(const TypedProblem& p, const void* const* inputs, void* out, int threads);

}  // namespace whittle
