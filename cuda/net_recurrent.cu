// LSTM, GRU and RNN of a plan: a block has one text of the batch and walks its series, the state in shared memory, a warp for each
// dot product with a row of R. Nothing but R, which stays in L2, and the products with W is read at a step.
#include <math.h>

#include "cuda/activation.h"
#include "cuda/net.h"

namespace whittle {
namespace {

constexpr int kThreads = 256;

__device__ float gate_of(const Gate& g, float clip, float x) {
  if (clip < INFINITY) x = fminf(fmaxf(x, -clip), clip);
  switch (g.kind) {
    case GateKind::relu: return x > 0 ? x : 0.0f;
    case GateKind::tanh: return act_apply(x, kActivationTanh, 0, 0);
    case GateKind::sigmoid: return act_apply(x, kActivationSigmoid, 0, 0);
    case GateKind::affine: return __fadd_rn(__fmul_rn(g.alpha, x), g.beta);
    case GateKind::leaky: return x < 0 ? __fmul_rn(g.alpha, x) : x;
    case GateKind::thresholded: return x >= g.alpha ? x : 0.0f;
    case GateKind::scaled_tanh: return __fmul_rn(g.alpha, tanhf(__fmul_rn(g.beta, x)));
    case GateKind::hard_sigmoid: return fminf(fmaxf(__fadd_rn(__fmul_rn(g.alpha, x), g.beta), 0.0f), 1.0f);
    case GateKind::elu: return x < 0 ? __fmul_rn(g.alpha, expm1f(x)) : x;
    case GateKind::softsign: return __fdiv_rn(x, __fadd_rn(1.0f, fabsf(x)));
    case GateKind::softplus: return x > 0 ? __fadd_rn(x, log1pf(expf(-x))) : log1pf(expf(x));
    default: return x;
  }
}

// out[j] += sum over p of x[p] * r[p * row + j * col], j < n; a warp for each j. Everybody of the block comes here.
__device__ void add_products(const float* x, const float* r, int64_t row, int64_t col, uint32_t hidden, uint32_t n, float* out) {
  const uint32_t lane = threadIdx.x % kWarp;
  for (uint32_t j = threadIdx.x / kWarp; j < n; j += kThreads / kWarp) {
    const float* w = r + j * col;
    float sum = 0;
    for (uint32_t p = lane; p < hidden; p += kWarp) sum = __fmaf_rn(x[p], w[p * row], sum);
    for (int step = kWarp / 2; step > 0; step /= 2) sum = __fadd_rn(sum, __shfl_xor_sync(kFullMask, sum, step));
    if (lane == 0) out[j] = __fadd_rn(out[j], sum);
  }
}

// Four blocks fill a multiprocessor of 7.5. Left to itself, nvcc 13.0 spills a register for 10.0.
__global__ void __launch_bounds__(kThreads, 4) recurrent_kernel(const CudaRecurrent p, int* flags) {
  WHITTLE_SHARED(state, float[kCudaUnits]);
  WHITTLE_SHARED(cell, float[kCudaUnits]);
  WHITTLE_SHARED(spare, float[kCudaUnits]);
  WHITTLE_SHARED(gates, float[4 * kCudaUnits]);
  const uint32_t b = blockIdx.x, hidden = static_cast<uint32_t>(p.hidden), batch = static_cast<uint32_t>(p.batch);
  const uint32_t count = (p.kind == RecurrentKind::lstm ? 4u : p.kind == RecurrentKind::gru ? 3u : 1u) * hidden;
  const bool gru = p.kind == RecurrentKind::gru, lstm = p.kind == RecurrentKind::lstm, apart = gru && p.before_reset;
  int32_t length = static_cast<int32_t>(p.steps);
  if (p.lengths) {
    if (threadIdx.x == 0 && (p.lengths[b] < 0 || p.lengths[b] > length)) atomicOr(flags, kFlagLabel);
    length = p.lengths[b] < 0 ? 0 : p.lengths[b] < length ? p.lengths[b] : length;
  }
  for (uint32_t j = threadIdx.x; j < hidden; j += kThreads) {
    state[j] = p.h0 ? p.h0[b * hidden + j] : 0.0f;
    cell[j] = p.c0 ? p.c0[b * hidden + j] : 0.0f;
  }
  for (int32_t s = 0; s < length; s++) {
    const int32_t t = p.reverse ? length - 1 - s : s;
    const float* xw = p.xw + (static_cast<int64_t>(t) * batch + b) * count;
    for (uint32_t j = threadIdx.x; j < count; j += kThreads) {
      float v = xw[j];
      // The bias of R's last gate stays apart where the reset gate takes it too.
      if (p.bias) v = __fadd_rn(v, apart && j >= 2 * hidden ? p.bias[j] : __fadd_rn(p.bias[j], p.bias[count + j]));
      gates[j] = v;
    }
    __syncthreads();
    add_products(state, p.r, p.r_row, p.r_col, hidden, gru ? 2 * hidden : count, gates);
    __syncthreads();
    if (gru) {
      for (uint32_t j = threadIdx.x; j < hidden; j += kThreads) {
        gates[j] = gate_of(p.f, p.clip, gates[j]);
        gates[hidden + j] = gate_of(p.f, p.clip, gates[hidden + j]);
        spare[j] = apart ? (p.bias ? p.bias[count + 2 * hidden + j] : 0.0f) : __fmul_rn(gates[hidden + j], state[j]);
      }
      __syncthreads();
      if (apart) add_products(state, p.r_h, p.rh_row, p.rh_col, hidden, hidden, spare);
      else add_products(spare, p.r_h, p.rh_row, p.rh_col, hidden, hidden, gates + 2 * hidden);
      __syncthreads();
    }
    for (uint32_t j = threadIdx.x; j < hidden; j += kThreads) {
      float h;
      if (lstm) {
        const float* hole = p.peephole;
        const float c = cell[j];
        const float in = gate_of(p.f, p.clip, hole ? __fadd_rn(gates[j], __fmul_rn(hole[j], c)) : gates[j]);
        const float f = gate_of(p.f, p.clip, hole ? __fadd_rn(gates[2 * hidden + j], __fmul_rn(hole[2 * hidden + j], c)) : gates[2 * hidden + j]);
        const float g = gate_of(p.g, p.clip, gates[3 * hidden + j]);
        const float next = __fadd_rn(__fmul_rn(p.input_forget ? __fsub_rn(1.0f, in) : f, c), __fmul_rn(in, g));
        const float o = gate_of(p.f, p.clip, hole ? __fadd_rn(gates[hidden + j], __fmul_rn(hole[hidden + j], next)) : gates[hidden + j]);
        cell[j] = next;
        h = __fmul_rn(o, gate_of(p.h, INFINITY, next));
      } else if (gru) {
        const float n = gate_of(p.g, p.clip, apart ? __fadd_rn(gates[2 * hidden + j], __fmul_rn(gates[hidden + j], spare[j])) : gates[2 * hidden + j]);
        h = __fadd_rn(__fmul_rn(__fsub_rn(1.0f, gates[j]), n), __fmul_rn(gates[j], state[j]));
      } else {
        h = gate_of(p.f, p.clip, gates[j]);
      }
      state[j] = h;
      if (p.y) p.y[t * p.y_step + b * hidden + j] = h;
    }
    __syncthreads();
  }
  for (uint32_t j = threadIdx.x; j < hidden; j += kThreads) {
    for (int64_t s = length; p.y && s < p.steps; s++) p.y[s * p.y_step + b * hidden + j] = 0;
    if (p.y_h) p.y_h[b * hidden + j] = state[j];
    if (p.y_c) p.y_c[b * hidden + j] = cell[j];
  }
}

}  // namespace

void net_recurrent(CudaTurn* turn, const CudaRecurrent& p) {
  if (p.batch == 0) return;
  if (p.hidden > kCudaUnits || p.steps > kMostElements || p.batch > kMostElements / p.hidden) return turn->work.refuse("a recurrent layer of this size");
  turn->work.launch(dim3(static_cast<unsigned>(p.batch)), kThreads, recurrent_kernel, p, turn->work.flags());
}

}  // namespace whittle
