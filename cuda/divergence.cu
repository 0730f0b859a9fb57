// Jensen-Shannon divergence over logits, loss and gradient in one launch: a block a row walks it three times, for the online
// softmax of both sides, for the sums of q log(q/m) and p log(p/m), and for the gradient; the later walks find rows in the
// second-level cache. Exponentials are float32 (their bound: core/distill.h), sums and logarithms double. Sums are added in an
// order that depends on the shape alone.
#include <float.h>
#include <math.h>

#include "cuda/backend.h"

namespace whittle {
namespace {

struct Arguments {
  const void *student, *teacher;
  bool student_half, teacher_half;
  uint32_t samples, classes;
  double inv_t, scale;  // scale: of the reduction
  float *grad, *losses;
  double* shares;       // [samples]
};

__device__ float logit(const void* x, bool half, uint32_t i) {
  return half ? __uint_as_float(static_cast<uint32_t>(static_cast<const uint16_t*>(x)[i]) << 16) : static_cast<const float*>(x)[i];
}

// exp of something at most 0, up to rounding
__device__ double power(double v) { return static_cast<double>(expf(static_cast<float>(v))); }

struct Sums {
  float s_max, t_max;
  double s, t;
};

__device__ void raise(float* max, double* sum, float to, double inv_t) {
  if (*sum > 0) *sum *= power((static_cast<double>(*max) - to) * inv_t);
  *max = to;
}

__device__ void merge(Sums* p, Sums q, double inv_t) {
  if (q.s_max > p->s_max) raise(&p->s_max, &p->s, q.s_max, inv_t);
  if (p->s_max > q.s_max) raise(&q.s_max, &q.s, p->s_max, inv_t);
  if (q.t_max > p->t_max) raise(&p->t_max, &p->t, q.t_max, inv_t);
  if (p->t_max > q.t_max) raise(&q.t_max, &q.t, p->t_max, inv_t);
  p->s += q.s;
  p->t += q.t;
}

// x log(2x / (x + y)), 0 for no x
__device__ double part_of(double x, double y) { return x > 0 ? x * log(2 * x / (x + y)) : 0; }

__global__ void js_kernel(Arguments a, int* flags) {
  WHITTLE_SHARED(parts, Sums[kBlock / kWarp]);
  WHITTLE_SHARED(logs, double[2][kBlock / kWarp]);
  const uint32_t start = blockIdx.x * a.classes, warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  Sums p = {-FLT_MAX, -FLT_MAX, 0, 0};
  bool bad = false;
  for (uint32_t c = threadIdx.x; c < a.classes; c += kBlock) {
    const float s = logit(a.student, a.student_half, start + c), t = logit(a.teacher, a.teacher_half, start + c);
    if (!(fabsf(s) <= FLT_MAX) || !(fabsf(t) <= FLT_MAX)) {
      bad = true;
      break;
    }
    merge(&p, {s, t, 1, 1}, a.inv_t);
  }
  if (bad) atomicOr(flags, kFlagNonfinite);
  for (int o = kWarp / 2; o; o >>= 1) {
    Sums q;
    q.s_max = __shfl_xor_sync(kFullMask, p.s_max, o);
    q.t_max = __shfl_xor_sync(kFullMask, p.t_max, o);
    q.s = __shfl_xor_sync(kFullMask, p.s, o);
    q.t = __shfl_xor_sync(kFullMask, p.t, o);
    merge(&p, q, a.inv_t);
  }
  if (lane == 0) parts[warp] = p;
  __syncthreads();
  p = parts[0];
  for (int w = 1; w < kBlock / kWarp; w++) merge(&p, parts[w], a.inv_t);

  const double s_scale = 1 / p.s, t_scale = 1 / p.t;
  double q_log = 0, p_log = 0;
  for (uint32_t c = threadIdx.x; c < a.classes; c += kBlock) {
    const double q = s_scale * power((static_cast<double>(logit(a.student, a.student_half, start + c)) - p.s_max) * a.inv_t);
    const double r = t_scale * power((static_cast<double>(logit(a.teacher, a.teacher_half, start + c)) - p.t_max) * a.inv_t);
    q_log += part_of(q, r);
    p_log += part_of(r, q);
  }
  for (int o = kWarp / 2; o; o >>= 1) {
    q_log += __shfl_xor_sync(kFullMask, q_log, o);
    p_log += __shfl_xor_sync(kFullMask, p_log, o);
  }
  if (lane == 0) {
    logs[0][warp] = q_log;
    logs[1][warp] = p_log;
  }
  __syncthreads();
  q_log = p_log = 0;
  for (int w = 0; w < kBlock / kWarp; w++) {
    q_log += logs[0][w];
    p_log += logs[1][w];
  }
  if (threadIdx.x == 0) {
    const double js = 0.5 * (q_log + p_log), loss = js < 0 ? 0 : js;
    a.shares[blockIdx.x] = a.scale * loss;
    if (a.losses) a.losses[blockIdx.x] = static_cast<float>(loss);
  }
  const double k = 0.5 * a.scale * a.inv_t;
  for (uint32_t c = threadIdx.x; c < a.classes; c += kBlock) {
    const double q = s_scale * power((static_cast<double>(logit(a.student, a.student_half, start + c)) - p.s_max) * a.inv_t);
    const double r = t_scale * power((static_cast<double>(logit(a.teacher, a.teacher_half, start + c)) - p.t_max) * a.inv_t);
    a.grad[start + c] = static_cast<float>(q > 0 ? k * q * (log(2 * q / (q + r)) - q_log) : 0);
  }
}

// The sum of one value a sample. One block.
__global__ void total_kernel(const double* shares, uint32_t n, double* out) {
  WHITTLE_SHARED(parts, double[kBlock / kWarp]);
  double v = 0;
  for (uint32_t i = threadIdx.x; i < n; i += kBlock) v += shares[i];
  for (int o = kWarp / 2; o; o >>= 1) v += __shfl_xor_sync(kFullMask, v, o);
  if (threadIdx.x % kWarp == 0) parts[threadIdx.x / kWarp] = v;
  __syncthreads();
  if (threadIdx.x != 0) return;
  double sum = 0;
  for (int w = 0; w < kBlock / kWarp; w++) sum += parts[w];
  *out = sum;
}

}  // namespace

WhittleStatus cuda_js(int32_t device, const LogitLoss& l) {
  if (l.samples < 1 || l.classes < 1 || l.samples > kMostElements / l.classes) return WHITTLE_SHAPE;
  Work work(device);
  double* shares = work.scratch<double>(l.samples);
  double* sum = work.scratch<double>(1);
  const bool mean = l.reduction == kDistillMean || l.reduction == kDistillBatchMean;
  Arguments a = {};
  a.student = l.student.data;
  a.student_half = l.student.half;
  a.teacher = l.teacher.data;
  a.teacher_half = l.teacher.half;
  a.samples = static_cast<uint32_t>(l.samples);
  a.classes = static_cast<uint32_t>(l.classes);
  a.inv_t = 1 / l.temperature;
  a.scale = mean ? 1 / static_cast<double>(l.samples) : 1;
  a.grad = l.grad;
  a.losses = l.reduction == kDistillNone ? l.losses : nullptr;
  a.shares = shares;
  work.launch(dim3(a.samples), kBlock, js_kernel, a, work.flags());
  work.launch(1, kBlock, total_kernel, shares, a.samples, sum);
  double result = 0;
  work.fetch(&result, sum, sizeof result);
  const WhittleStatus status = work.finish();
  l.result[0] = l.result[1] = l.result[2] = 0;
  if (status == WHITTLE_OK) l.result[0] = result;
  return status;
}

}  // namespace whittle
