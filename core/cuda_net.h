// What a plan (core/plan) asks of a device: one function for each step, which takes what the CPU's driver takes, with pointers to
// memory of the device. A turn queues them on the device's stream and waits once, at its end.
#pragma once
#include <stdint.h>

#include "core/attention.h"
#include "core/conv.h"
#include "core/elementwise.h"
#include "core/gemm.h"
#include "core/layout.h"
#include "core/norm.h"
#include "core/pool.h"
#include "core/resample.h"
#include "core/status.h"
#include "core/typed.h"

namespace whittle {

struct CudaTurn;

// An ElementwiseProgram in one piece; no codes, and no operation behind `sign`.
constexpr int kCudaElementwiseSteps = 64;
struct CudaElementwise {
  int32_t rank, inputs, steps;
  uint32_t size;  // elements
  uint32_t dims[kElementwiseRank];
  uint32_t strides[kElementwiseRegisters][kElementwiseRank];
  const float* input[kElementwiseRegisters];
  ElementwiseStep step[kCudaElementwiseSteps];
  float* out;
};
constexpr int32_t kCudaElementwiseOps = kElementwise_sign + 1;

// y[rows][n] from rows of x.
struct CudaRows {
  int64_t rows, n;
  const float *x, *gamma, *beta;  // of layer_norm, or null
  float epsilon;
  bool log;                       // of softmax
  float* y;
};

// out[o][i] = x[o][index[i]], pieces of `inner` bytes; negative indices count from the end.
struct CudaGather {
  int64_t outer, axis, inner, count;
  bool wide;  // int64 indices, else int32
  const void *x, *index;
  void* out;
};

// Columns and rows of one head that attention() takes.
constexpr int64_t kCudaHead = 128;

struct CudaNet {
  // Waits for other work of the device; until end() the device is this thread's. null: no memory on the host.
  CudaTurn* (*begin)(int32_t device);
  // Waits for all that was queued. The first error, of whichever call, is the answer; WHITTLE_RANGE: an index out of range.
  WhittleStatus (*end)(CudaTurn* turn);
  // Waits, for whoever takes the time.
  void (*wait)(CudaTurn* turn);
  // Host memory stays as it is until end().
  void (*send)(CudaTurn* turn, void* to, const void* host, int64_t bytes);
  void (*fetch)(CudaTurn* turn, void* host, const void* from, int64_t bytes);

  // Of GemmProblem: a, b with their strides (any), c with ldc == n, source like c or null with beta 0 or 1 (null and 1: c itself),
  // bias, activation, batch, a map in host memory. Sums run through k in one chain of float32 multiply-adds.
  void (*gemm)(CudaTurn* turn, const GemmProblem& p);
  // As conv_f32, whichever way is asked for: sums in the order (ky, kx, channel). weight: [oc][kh][kw][c / groups], depthwise
  // [kh][kw][c].
  void (*conv)(CudaTurn* turn, const ConvProblem& p);
  void (*attention)(CudaTurn* turn, const AttentionProblem& p);
  void (*softmax)(CudaTurn* turn, const CudaRows& p);
  void (*layer_norm)(CudaTurn* turn, const CudaRows& p);
  void (*reduce)(CudaTurn* turn, ReduceKind kind, int64_t outer, int64_t n, int64_t inner, const float* x, float* y);
  void (*elementwise)(CudaTurn* turn, const CudaElementwise& p);
  // Of typed.h: arithmetic up to max, comparisons, bits, signs, casts, where; see cuda_typed_exists.
  void (*typed)(CudaTurn* turn, const TypedProblem& p, const void* const* inputs, void* out);
  void (*pool)(CudaTurn* turn, const PoolProblem& p);
  void (*copy)(CudaTurn* turn, const StridedCopy& p, const void* in, void* out);
  void (*fill)(CudaTurn* turn, int64_t count, float value, float* out);
  void (*gather)(CudaTurn* turn, const CudaGather& p);
  void (*resize)(CudaTurn* turn, const ResizeProblem& p);
  void (*scatter_taps)(CudaTurn* turn, const ScatterProblem& p);
};

// Whether a device has the operation; all types have the same ones.
inline bool cuda_typed_exists(TypedOp op) {
  switch (op) {
    case kTyped_add: case kTyped_sub: case kTyped_mul: case kTyped_min: case kTyped_max: case kTyped_bit_and: case kTyped_bit_or:
    case kTyped_bit_xor: case kTyped_equal: case kTyped_less: case kTyped_less_equal: case kTyped_greater: case kTyped_greater_equal:
    case kTyped_logical_not: case kTyped_neg: case kTyped_abs: case kTyped_is_nan: case kTyped_cast: case kTyped_where: return true;
    default: return false;
  }
}

}  // namespace whittle
