// What a plan (core/plan) asks of a device: one function for each step, which takes what the CPU's driver takes, with pointers to
// memory of the device. A turn queues them on a stream of its own and waits once, at its end. Steps that are recorded run again in
// later turns as one call.
#pragma once
#include <stdint.h>

#include "core/attention.h"
#include "core/conv.h"
#include "core/elementwise.h"
#include "core/gemm.h"
#include "core/indexing.h"
#include "core/layout.h"
#include "core/norm.h"
#include "core/pool.h"
#include "core/recurrent.h"
#include "core/resample.h"
#include "core/status.h"
#include "core/typed.h"

namespace whittle {

struct CudaTurn;
struct CudaGraph;

// An ElementwiseProgram in one piece.
constexpr int kCudaElementwiseSteps = 64;
struct CudaElementwise {
  int32_t rank, inputs, steps;
  uint32_t size;  // elements
  uint32_t dims[kElementwiseRank];
  uint32_t strides[kElementwiseRegisters][kElementwiseRank];
  const void* input[kElementwiseRegisters];
  ElementwiseCode code[kElementwiseRegisters], out_code;
  ElementwiseStep step[kCudaElementwiseSteps];
  void* out;
};

// y[rows][n] from rows of x.
struct CudaRows {
  int64_t rows, n;
  const float *x, *gamma, *beta;  // of layer_norm, or null
  float epsilon;
  bool log;                       // of softmax
  bool centered;                  // of layer_norm: whether the mean is taken off
  float* y;
};

// Products of bytes: a [m][k], each of a batch behind the other, b by its strides. Sums are exact and what follows has the bits of
// gemm_int8.
struct CudaInt8 {
  int64_t m, n, k, batch;
  const int32_t* map;          // pairs, which matrix of a and of b, or null
  const uint8_t *a, *b;
  bool a_signed, b_unsigned;
  int64_t b_row, b_col;        // strides along k and n
  // Of b's columns. Then b is n signed rows of b_col bytes, a multiple of 16 and zeros beyond k, 16-byte aligned, and its zero point 0.
  const int32_t* sums;
  int32_t a_zero;
  const uint8_t* a_zero_at;    // instead of a_zero, of a's type; or null
  const uint8_t* b_zero_at;    // of b's type, b_zeros: one a column; or null
  bool b_zeros;
  float a_scale;
  const float* a_scale_at;     // instead of a_scale, or null
  const float *scales, *bias;  // of columns; bias may be null
  const float* residual;       // as in GemmInt8Args, or null
  Activation activation;
  int32_t out_type, out_zero;
  float out_scale;
  void* out;
};

// Floats and their codes: [outer][axis][inner], a scale for each index of the axis where block is 1, else for each `block` of them.
struct CudaCodes {
  int64_t outer, axis, inner, block;
  int32_t bits;  // 4, 8, 16; of values also 32
  bool sign;
  const void* x;
  const float* scale;
  const void* zero;  // of the codes' type, or null
  void* out;
};

// Units of a recurrent layer at most.
constexpr int64_t kCudaUnits = 1024;
// As recurrent_f32 has it; r and r_h by strides along the state and along gates.
struct CudaRecurrent : RecurrentProblem {
  int64_t r_row, r_col, rh_row, rh_col;
};

// out[o][i] = x[o][index[i]], pieces of `inner` bytes; negative indices count from the end.
struct CudaGather {
  int64_t outer, axis, inner, count;
  bool wide;  // int64 indices, else int32
  const void *x, *index;
  void* out;
};

// ONNX's GatherElements and ScatterElements: an element of the indices, shaped `at`, names one of x, shaped `dims`, by its own
// coordinates with that along `axis` replaced. Negative ones count from the end.
struct CudaElements {
  int32_t rank, axis;
  int64_t dims[kIndexRank], at[kIndexRank];
  int32_t bytes;         // of an element: 1, 2, 4, 8
  bool wide;             // int64 indices, else int32
  ScatterJoin join;      // of scattering; any but kScatterPut of float32
  const void *x, *index;
  const void* updates;   // of scattering, shaped `at`
  void* out;             // shaped `at`, or `dims` of scattering
};

// ONNX's GatherND and ScatterND: `rows` slices of `bytes`, each named by `depth` coordinates in `dims`.
struct CudaSlices {
  int64_t rows, depth, bytes;
  int64_t dims[kIndexRank];
  int64_t each;          // of gathering: rows that share one x of a batch
  bool wide;
  ScatterJoin join;      // as above
  const void *x, *index;
  const void* updates;   // of scattering, [rows] slices
  void* out;
};

// The k best of n, [outer][n][inner], best first, the earlier of equals first; NaN is worse than any number.
struct CudaTopK {
  int64_t outer, n, inner, k;
  int32_t type;          // 0 float32, 1 int64, 2 int32
  bool largest;
  const void* x;
  void* values;
  int64_t* index;
};

// Turns of one device that may be under way at once.
constexpr int kCudaLanes = 8;

// Columns and rows of one head that attention() takes.
constexpr int64_t kCudaHead = 128;

struct CudaNet {
  // On a stream of the device that no other turn has until end(); waits where kCudaLanes turns are under way. flags: 64 bytes of the
  // device that are this turn's, or null. null: no memory on the host.
  CudaTurn* (*begin)(int32_t device, int32_t* flags);
  // Waits for all that was queued. The first error, of whichever call, is the answer; WHITTLE_RANGE: an index out of range.
  WhittleStatus (*end)(CudaTurn* turn);
  // Waits, for whoever takes the time.
  void (*wait)(CudaTurn* turn);
  // Host memory stays as it is until end().
  void (*send)(CudaTurn* turn, void* to, const void* host, int64_t bytes);
  void (*fetch)(CudaTurn* turn, void* host, const void* from, int64_t bytes);
  // Both lie on the device.
  void (*move)(CudaTurn* turn, void* to, const void* from, int64_t bytes);

  // From here to recorded() steps are recorded and none runs; false where that cannot be. Nothing is sent, fetched or waited for
  // meanwhile.
  bool (*record)(CudaTurn* turn);
  // The steps since record(), which name the same memory and the same flags whenever they run; null where one of them took scratch
  // or the runtime had none of it, which is no error of the turn.
  CudaGraph* (*recorded)(CudaTurn* turn);
  // Queues them. A graph runs in one turn at a time.
  void (*replay)(CudaTurn* turn, CudaGraph* graph);
  // No turn has it under way.
  void (*forget)(int32_t device, CudaGraph* graph);

  // Of GemmProblem: a, b with their strides (any), c with ldc == n, source like c or null with beta 0 or 1 (null and 1: c itself),
  // bias, activation, batch, a map on the device. Sums run through k in one chain of float32 multiply-adds.
  void (*gemm)(CudaTurn* turn, const GemmProblem& p);
  // As conv_f32, whichever way is asked for: sums in the order (ky, kx, channel). weight: [oc][kh][kw][c / groups], depthwise
  // [kh][kw][c].
  void (*conv)(CudaTurn* turn, const ConvProblem& p);
  void (*attention)(CudaTurn* turn, const AttentionProblem& p);
  void (*softmax)(CudaTurn* turn, const CudaRows& p);
  void (*layer_norm)(CudaTurn* turn, const CudaRows& p);
  void (*reduce)(CudaTurn* turn, ReduceKind kind, int64_t outer, int64_t n, int64_t inner, const float* x, float* y);
  void (*elementwise)(CudaTurn* turn, const CudaElementwise& p);
  // As typed_run(), for what cuda_typed_exists().
  void (*typed)(CudaTurn* turn, const TypedProblem& p, const void* const* inputs, void* out);
  void (*pool)(CudaTurn* turn, const PoolProblem& p);
  void (*copy)(CudaTurn* turn, const StridedCopy& p, const void* in, void* out);
  void (*fill)(CudaTurn* turn, int64_t count, float value, float* out);
  void (*gather)(CudaTurn* turn, const CudaGather& p);
  void (*resize)(CudaTurn* turn, const ResizeProblem& p);
  void (*scatter_taps)(CudaTurn* turn, const ScatterProblem& p);
  void (*product_int8)(CudaTurn* turn, const CudaInt8& p);
  // A product whose rows are gathered from an image: its geometry, and depthwise weights, come from `window`.
  void (*conv_int8)(CudaTurn* turn, const CudaInt8& p, const ConvInt8Problem& window);
  void (*codes)(CudaTurn* turn, const CudaCodes& p);
  void (*values)(CudaTurn* turn, const CudaCodes& p);
  // ONNX's DynamicQuantizeLinear.
  void (*dynamic_codes)(CudaTurn* turn, int64_t count, const float* x, uint8_t* out, float* scale, uint8_t* zero);
  void (*recurrent)(CudaTurn* turn, const CudaRecurrent& p);
  // The first index (or the last) of the largest (or the least) of n, [outer][n][inner].
  void (*arg_best)(CudaTurn* turn, int64_t outer, int64_t n, int64_t inner, bool least, bool last, const float* x, int64_t* out);
  // Sums so far along the middle axis, in float32 and in its order: of those before alone where `exclusive`.
  void (*cumulate)(CudaTurn* turn, int64_t outer, int64_t n, int64_t inner, bool exclusive, bool reverse, const float* x, float* out);
  // Scattering: updates that meet are joined in their order, as on the CPU.
  void (*gather_elements)(CudaTurn* turn, const CudaElements& p);
  void (*scatter_elements)(CudaTurn* turn, const CudaElements& p);
  void (*gather_slices)(CudaTurn* turn, const CudaSlices& p);
  void (*scatter_slices)(CudaTurn* turn, const CudaSlices& p);
  void (*top_k)(CudaTurn* turn, const CudaTopK& p);
};

// Powers of floats are programs of elementwise() in float32; float64's are a function that nvcc does not inline.
inline bool cuda_typed_exists(TypedOp op, ElementKind type) {
  return op != kTyped_pow || (type != ElementKind::float32 && type != ElementKind::float64);
}

}  // namespace whittle
