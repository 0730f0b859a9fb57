// What the kernels of a plan share: the turn, and sizes.
#pragma once
#include "core/cuda_net.h"
#include "cuda/backend.h"

namespace whittle {

struct CudaTurn {
  CudaTurn(int32_t device, int32_t* flags) : work(device, flags) {}
  Work work;
};

// Launches one thread for each of `count`, unless there is none.
template <class... P, class... A>
void each(CudaTurn* turn, int64_t count, void (*kernel)(P...), const A&... arguments) {
  if (count > kMostElements) turn->work.refuse("2^31 elements or more");
  else if (count > 0) turn->work.launch(blocks_for(count), kBlock, kernel, arguments...);
}

void net_gemm(CudaTurn* turn, const GemmProblem& p);
void net_conv(CudaTurn* turn, const ConvProblem& p);
void net_attention(CudaTurn* turn, const AttentionProblem& p);
void net_softmax(CudaTurn* turn, const CudaRows& p);
void net_layer_norm(CudaTurn* turn, const CudaRows& p);
void net_reduce(CudaTurn* turn, ReduceKind kind, int64_t outer, int64_t n, int64_t inner, const float* x, float* y);
void net_elementwise(CudaTurn* turn, const CudaElementwise& p);
void net_typed(CudaTurn* turn, const TypedProblem& p, const void* const* inputs, void* out);
void net_pool(CudaTurn* turn, const PoolProblem& p);
void net_copy(CudaTurn* turn, const StridedCopy& p, const void* in, void* out);
void net_fill(CudaTurn* turn, int64_t count, float value, float* out);
void net_gather(CudaTurn* turn, const CudaGather& p);
void net_resize(CudaTurn* turn, const ResizeProblem& p);
void net_scatter_taps(CudaTurn* turn, const ScatterProblem& p);
void net_product_int8(CudaTurn* turn, const CudaInt8& p);
void net_conv_int8(CudaTurn* turn, const CudaInt8& p, const ConvInt8Problem& window);
void net_codes(CudaTurn* turn, const CudaCodes& p);
void net_values(CudaTurn* turn, const CudaCodes& p);
void net_dynamic_codes(CudaTurn* turn, int64_t count, const float* x, uint8_t* out, float* scale, uint8_t* zero);
void net_recurrent(CudaTurn* turn, const CudaRecurrent& p);
void net_arg_best(CudaTurn* turn, int64_t outer, int64_t n, int64_t inner, bool least, bool last, const float* x, int64_t* out);
void net_cumulate(CudaTurn* turn, int64_t outer, int64_t n, int64_t inner, bool exclusive, bool reverse, const float* x, float* out);
void net_gather_elements(CudaTurn* turn, const CudaElements& p);
void net_scatter_elements(CudaTurn* turn, const CudaElements& p);
void net_gather_slices(CudaTurn* turn, const CudaSlices& p);
void net_scatter_slices(CudaTurn* turn, const CudaSlices& p);
void net_top_k(CudaTurn* turn, const CudaTopK& p);

}  // namespace whittle
