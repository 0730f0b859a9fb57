// Rows of a plan: softmax, layer normalization, sums and extremes, attention. A row is a warp's, a long one a block's; sums are
// one chain of float32 a lane and a tree over lanes.
#include <math.h>

#include "cuda/net.h"

namespace whittle {
namespace {

constexpr int64_t kLong = 4096;  // from here on a row is a block's

struct Add {
  __device__ float operator()(float a, float b) const { return __fadd_rn(a, b); }
};
struct Most {
  __device__ float operator()(float a, float b) const { return a > b || a != a ? a : b; }
};
struct Least {
  __device__ float operator()(float a, float b) const { return a < b || a != a ? a : b; }
};
struct Times {
  __device__ float operator()(float a, float b) const { return __fmul_rn(a, b); }
};

template <class Join>
__device__ float over_warp(float v, const Join& join) {
  for (int step = kWarp / 2; step > 0; step /= 2) v = join(v, __shfl_xor_sync(kFullMask, v, step));
  return v;
}

// Of all threads that share a row; all of them come here, and all get it. `part` holds a float for each warp.
template <bool kBlockRow, class Join>
__device__ float over_row(float v, float* part, const Join& join) {
  v = over_warp(v, join);
  if (!kBlockRow) return v;
  __syncthreads();
  if (threadIdx.x % kWarp == 0) part[threadIdx.x / kWarp] = v;
  __syncthreads();
  v = part[0];
  for (int i = 1; i < kBlock / kWarp; i++) v = join(v, part[i]);
  return v;
}

struct Place {
  uint32_t row, first, step;
};
template <bool kBlockRow>
__device__ Place place() {
  if (kBlockRow) return {blockIdx.x, threadIdx.x, kBlock};
  return {blockIdx.x * (kBlock / kWarp) + threadIdx.x / kWarp, threadIdx.x % kWarp, kWarp};
}

template <bool kBlockRow>
__global__ void __launch_bounds__(kBlock) softmax_kernel(const float* x, uint32_t rows, uint32_t n, bool log, float* y) {
  WHITTLE_SHARED(part, float[kBlock / kWarp]);
  const Place at = place<kBlockRow>();
  if (at.row >= rows) return;
  const float* from = x + static_cast<int64_t>(at.row) * n;
  float* to = y + static_cast<int64_t>(at.row) * n;
  float top = -INFINITY;
  for (uint32_t i = at.first; i < n; i += at.step) top = fmaxf(top, from[i]);
  top = over_row<kBlockRow>(top, part, Most());
  float sum = 0;
  for (uint32_t i = at.first; i < n; i += at.step) sum = __fadd_rn(sum, expf(__fsub_rn(from[i], top)));
  sum = over_row<kBlockRow>(sum, part, Add());
  const float last = log ? logf(sum) : sum;
  for (uint32_t i = at.first; i < n; i += at.step) {
    const float d = __fsub_rn(from[i], top);
    to[i] = log ? __fsub_rn(d, last) : __fdiv_rn(expf(d), last);
  }
}

template <bool kBlockRow>
__global__ void __launch_bounds__(kBlock) layer_kernel(const float* x, const float* gamma, const float* beta, uint32_t rows, uint32_t n, float epsilon,
                                                       bool centered, float* y) {
  WHITTLE_SHARED(part, float[kBlock / kWarp]);
  const Place at = place<kBlockRow>();
  if (at.row >= rows) return;
  const float* from = x + static_cast<int64_t>(at.row) * n;
  float* to = y + static_cast<int64_t>(at.row) * n;
  float sum = 0;
  for (uint32_t i = at.first; centered && i < n; i += at.step) sum = __fadd_rn(sum, from[i]);
  const float mean = __fdiv_rn(over_row<kBlockRow>(sum, part, Add()), static_cast<float>(n));
  float squares = 0;
  for (uint32_t i = at.first; i < n; i += at.step) {
    const float d = __fsub_rn(from[i], mean);
    squares = __fmaf_rn(d, d, squares);
  }
  const float variance = __fdiv_rn(over_row<kBlockRow>(squares, part, Add()), static_cast<float>(n));
  const float scale = __fdiv_rn(1.0f, __fsqrt_rn(__fadd_rn(variance, epsilon)));
  for (uint32_t i = at.first; i < n; i += at.step) {
    float v = __fmul_rn(__fsub_rn(from[i], mean), scale);
    if (gamma) v = __fmul_rn(v, gamma[i]);
    to[i] = beta ? __fadd_rn(v, beta[i]) : v;
  }
}

// What is joined for an element, and the number that nothing is joined to.
template <ReduceKind kKind>
__device__ float term(float v) {
  if (kKind == kReduceL1) return fabsf(v);
  if (kKind == kReduceSumSquare) return __fmul_rn(v, v);
  return v;
}
template <ReduceKind kKind>
__device__ float join_two(float a, float b) {
  if (kKind == kReduceMax) return Most()(a, b);
  if (kKind == kReduceMin) return Least()(a, b);
  if (kKind == kReduceProd) return Times()(a, b);
  return Add()(a, b);
}
template <ReduceKind kKind>
__device__ float nothing() {
  return kKind == kReduceMax ? -INFINITY : kKind == kReduceMin ? INFINITY : kKind == kReduceProd ? 1.0f : 0.0f;
}
// Sums, means, roots and logarithms of sums are sums until here.
__device__ float finish(int32_t kind, float v, uint32_t n) {
  if (kind == kReduceMean) return __fdiv_rn(v, static_cast<float>(n));
  if (kind == kReduceL2) return __fsqrt_rn(v);
  return kind == kReduceLogSum ? logf(v) : v;
}

// [outer][n][inner]: a warp for each result where inner is 1, else a thread, neighbours beside each other.
template <ReduceKind kKind>
__global__ void __launch_bounds__(kBlock) reduce_kernel(const float* x, uint32_t outer, uint32_t n, uint32_t inner, int32_t kind, float* y) {
  float v = nothing<kKind>();
  if (inner == 1) {
    const Place at = place<false>();
    if (at.row >= outer) return;
    const float* from = x + static_cast<int64_t>(at.row) * n;
    for (uint32_t i = at.first; i < n; i += kWarp) v = join_two<kKind>(v, term<kKind>(from[i]));
    v = over_warp(v, join_two<kKind>);
    if (at.first == 0) y[at.row] = finish(kind, v, n);
    return;
  }
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= outer * inner) return;
  const float* from = x + static_cast<int64_t>(i / inner) * n * inner + i % inner;
  for (uint32_t k = 0; k < n; k++, from += inner) v = join_two<kKind>(v, term<kKind>(*from));
  y[i] = finish(kind, v, n);
}

__global__ void __launch_bounds__(kBlock) best_kernel(const float* x, uint32_t outer, uint32_t n, uint32_t inner, bool least, bool last, int64_t* out) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= outer * inner) return;
  const float* from = x + static_cast<int64_t>(i / inner) * n * inner + i % inner;
  uint32_t best = 0;
  float top = *from;
  for (uint32_t k = 1; k < n; k++) {
    const float v = from[static_cast<int64_t>(k) * inner];
    if (last ? (least ? v <= top : v >= top) : (least ? v < top : v > top)) {
      best = k;
      top = v;
    }
  }
  out[i] = best;
}

// The logarithm of a sum of exponentials: the largest first.
__global__ void __launch_bounds__(kBlock) log_sum_kernel(const float* x, uint32_t outer, uint32_t n, uint32_t inner, float* y) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= outer * inner) return;
  const float* from = x + static_cast<int64_t>(i / inner) * n * inner + i % inner;
  float top = -INFINITY, sum = 0;
  for (uint32_t k = 0; k < n; k++) top = Most()(from[static_cast<int64_t>(k) * inner], top);
  if (fabsf(top) < INFINITY) {
    for (uint32_t k = 0; k < n; k++) sum = __fadd_rn(sum, expf(__fsub_rn(from[static_cast<int64_t>(k) * inner], top)));
    top = __fadd_rn(top, logf(sum));
  }
  y[i] = top;
}

// A block has kQueries rows of one head, a warp four of them; kKeys keys at a time, one a lane. Sums of what was seen so far are
// kept relative to the largest score so far, and scaled down when that rises.
constexpr int kQueries = 16, kKeys = kWarp, kHead = kCudaHead, kOwn = 4, kKeyPitch = kHead + 1;
constexpr int kAttentionThreads = kQueries / kOwn * kWarp;

// Left to itself, nvcc 13.0 takes 64 registers for 10.0 and spills one.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ == 1000
#define WHITTLE_ATTENTION_BOUNDS __launch_bounds__(kAttentionThreads, 4)
#else
#define WHITTLE_ATTENTION_BOUNDS __launch_bounds__(kAttentionThreads)
#endif
__global__ void WHITTLE_ATTENTION_BOUNDS attention_kernel(const AttentionProblem p, uint32_t parts) {
  WHITTLE_SHARED(queries, float[kQueries * kHead]);
  // Keys, then values in their place.
  WHITTLE_SHARED(keys, float[kKeys * kKeyPitch]);
  const uint32_t head = blockIdx.x / parts, row0 = blockIdx.x % parts * kQueries, batch = head / static_cast<uint32_t>(p.heads);
  const uint32_t h = head % static_cast<uint32_t>(p.heads), lane = threadIdx.x % kWarp, own = threadIdx.x / kWarp * kOwn;
  const uint32_t depth = static_cast<uint32_t>(p.depth), wide = static_cast<uint32_t>(p.wide), rows = static_cast<uint32_t>(p.rows);
  const float* q = p.q.data + batch * p.q.batch + h * p.q.head;
  const float* k = p.k.data + batch * p.k.batch + h * p.k.head;
  const float* v = p.v.data + batch * p.v.batch + h * p.v.head;
  const float* mask = p.mask.data ? p.mask.data + batch * p.mask.batch + h * p.mask.head : nullptr;
  for (uint32_t i = threadIdx.x; i < kQueries * depth; i += kAttentionThreads) {
    const uint32_t r = i / depth, d = i % depth;
    queries[r * kHead + d] = row0 + r < rows ? q[(row0 + r) * p.q.row + d * p.q.col] : 0.0f;
  }
  float top[kOwn], sum[kOwn], value[kOwn][kHead / kWarp];
#pragma unroll
  for (int r = 0; r < kOwn; r++) {
    top[r] = -INFINITY;
    sum[r] = 0;
#pragma unroll
    for (int j = 0; j < kHead / kWarp; j++) value[r][j] = 0;
  }
  const uint32_t count = static_cast<uint32_t>(p.keys);
  for (uint32_t key0 = 0; key0 < count; key0 += kKeys) {
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < kKeys * depth; i += kAttentionThreads) {
      // Whichever side is contiguous is read so.
      const uint32_t key = p.k.row == 1 ? i / depth : i % kKeys, d = p.k.row == 1 ? i % depth : i / kKeys;
      keys[key * kKeyPitch + d] = key0 + key < count ? k[d * p.k.row + (key0 + key) * p.k.col] : 0.0f;
    }
    __syncthreads();
    float score[kOwn] = {};
    for (uint32_t d = 0; d < depth; d++) {
      const float w = keys[lane * kKeyPitch + d];
#pragma unroll
      for (int r = 0; r < kOwn; r++) score[r] = __fmaf_rn(queries[(own + r) * kHead + d], w, score[r]);
    }
#pragma unroll
    for (int r = 0; r < kOwn; r++) {
      score[r] = __fmul_rn(score[r], p.scale);
      const uint32_t row = row0 + own + r;
      if (mask && row < rows && key0 + lane < count) score[r] = __fadd_rn(score[r], mask[row * p.mask.row + (key0 + lane) * p.mask.col]);
      if (key0 + lane >= count) score[r] = -INFINITY;
      const float most = Most()(over_warp(score[r], Most()), top[r]);
      // Nothing but -inf so far: no sum yet, which stays so if nothing else comes (0 / 0 then).
      const float keep = most == -INFINITY ? 1.0f : expf(__fsub_rn(top[r], most));
      score[r] = most == -INFINITY ? 0.0f : expf(__fsub_rn(score[r], most));
      sum[r] = __fmaf_rn(sum[r], keep, over_warp(score[r], Add()));
      top[r] = most;
#pragma unroll
      for (int j = 0; j < kHead / kWarp; j++) value[r][j] = __fmul_rn(value[r][j], keep);
    }
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < kKeys * wide; i += kAttentionThreads) {
      const uint32_t key = p.v.col == 1 ? i / wide : i % kKeys, c = p.v.col == 1 ? i % wide : i / kKeys;
      keys[key * kKeyPitch + c] = key0 + key < count ? v[(key0 + key) * p.v.row + c * p.v.col] : 0.0f;
    }
    __syncthreads();
    const uint32_t last = count - key0 < kKeys ? count - key0 : kKeys;
    for (uint32_t key = 0; key < last; key++) {
      float weight[kOwn];
#pragma unroll
      for (int r = 0; r < kOwn; r++) weight[r] = __shfl_sync(kFullMask, score[r], static_cast<int>(key));
#pragma unroll
      for (int j = 0; j < kHead / kWarp; j++) {
        if (j * kWarp + lane >= wide) continue;
        const float w = keys[key * kKeyPitch + j * kWarp + lane];
#pragma unroll
        for (int r = 0; r < kOwn; r++) value[r][j] = __fmaf_rn(weight[r], w, value[r][j]);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kOwn; r++) {
    const uint32_t row = row0 + own + r;
    float* out = p.out + batch * p.out_batch + h * p.out_head + row * p.out_row;
#pragma unroll
    for (int j = 0; j < kHead / kWarp; j++)
      if (row < rows && j * kWarp + lane < wide) out[j * kWarp + lane] = p.forgiving && !(sum[r] > 0) ? 0.0f : __fdiv_rn(value[r][j], sum[r]);
  }
}

bool row_sizes(CudaTurn* turn, int64_t rows, int64_t n) {
  if (rows <= 0 || n <= 0) return false;
  if (rows <= kMostElements / n) return true;
  turn->work.refuse("2^31 elements or more");
  return false;
}

dim3 warps_for(int64_t rows) { return dim3(static_cast<unsigned>((rows + kBlock / kWarp - 1) / (kBlock / kWarp))); }

}  // namespace

void net_softmax(CudaTurn* turn, const CudaRows& p) {
  if (!row_sizes(turn, p.rows, p.n)) return;
  if (p.n < kLong) turn->work.launch(warps_for(p.rows), kBlock, softmax_kernel<false>, p.x, p.rows, p.n, p.log, p.y);
  else turn->work.launch(dim3(static_cast<unsigned>(p.rows)), kBlock, softmax_kernel<true>, p.x, p.rows, p.n, p.log, p.y);
}

void net_layer_norm(CudaTurn* turn, const CudaRows& p) {
  if (!row_sizes(turn, p.rows, p.n)) return;
  if (p.n < kLong) turn->work.launch(warps_for(p.rows), kBlock, layer_kernel<false>, p.x, p.gamma, p.beta, p.rows, p.n, p.epsilon, p.centered, p.y);
  else turn->work.launch(dim3(static_cast<unsigned>(p.rows)), kBlock, layer_kernel<true>, p.x, p.gamma, p.beta, p.rows, p.n, p.epsilon, p.centered, p.y);
}

void net_reduce(CudaTurn* turn, ReduceKind kind, int64_t outer, int64_t n, int64_t inner, const float* x, float* y) {
  if (outer <= 0 || inner <= 0) return;
  if (outer > kMostElements / inner || (n > 0 && outer * inner > kMostElements / n)) return turn->work.refuse("2^31 elements or more");
  const dim3 grid = inner == 1 ? warps_for(outer) : blocks_for(outer * inner);
  const auto go = [&](auto kernel) { turn->work.launch(grid, kBlock, kernel, x, outer, n, inner, static_cast<int32_t>(kind), y); };
  switch (kind) {
    case kReduceMax: return go(reduce_kernel<kReduceMax>);
    case kReduceMin: return go(reduce_kernel<kReduceMin>);
    case kReduceProd: return go(reduce_kernel<kReduceProd>);
    case kReduceL1: return go(reduce_kernel<kReduceL1>);
    case kReduceL2:
    case kReduceSumSquare: return go(reduce_kernel<kReduceSumSquare>);
    case kReduceLogSumExp: return turn->work.launch(blocks_for(outer * inner), kBlock, log_sum_kernel, x, outer, n, inner, y);
    default: return go(reduce_kernel<kReduceSum>);
  }
}

void net_arg_best(CudaTurn* turn, int64_t outer, int64_t n, int64_t inner, bool least, bool last, const float* x, int64_t* out) {
  if (outer <= 0 || inner <= 0 || n <= 0) return;
  if (outer > kMostElements / inner || outer * inner > kMostElements / n) return turn->work.refuse("2^31 elements or more");
  turn->work.launch(blocks_for(outer * inner), kBlock, best_kernel, x, outer, n, inner, least, last, out);
}

void net_attention(CudaTurn* turn, const AttentionProblem& p) {
  const int64_t parts = (p.rows + kQueries - 1) / kQueries;
  if (p.batch == 0 || p.heads == 0 || parts == 0 || p.wide == 0) return;
  if (p.depth > kHead || p.wide > kHead || p.keys > kMostElements || p.batch > kMostElements / p.heads / parts)
    return turn->work.refuse("attention of this size");
  turn->work.launch(dim3(static_cast<unsigned>(p.batch * p.heads * parts)), kAttentionThreads, attention_kernel, p, parts);
}

}  // namespace whittle
