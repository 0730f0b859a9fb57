// What the kernels of the losses over logits share: rows in either format, online softmax, labels and reductions. Exponentials
// are float32 (their bound: core/distill.h), sums and logarithms double. Sums are added in an order that depends on the shape
// alone.
#pragma once
#include <float.h>
#include <math.h>

#include "cuda/backend.h"

namespace whittle {

constexpr int64_t kWarpRow = 1024;  // up to here a row is a warp's

struct Totals {
  double hard, soft;    // factors of the reduction
  double weights;       // of all classes
};

struct LogitArguments {
  const void *student, *teacher;
  bool student_half, teacher_half;
  uint32_t samples, classes;
  const int32_t* labels;
  const float* weights;
  bool has_ignore;
  int32_t ignore;
  double temperature, alpha, smoothing;
  int32_t reduction;
  float *grad, *losses;
  const Totals* totals;
  double* shares;       // [samples]
};

__device__ inline float logit(const void* x, bool half, uint32_t i) {
  return half ? __uint_as_float(static_cast<uint32_t>(static_cast<const uint16_t*>(x)[i]) << 16) : static_cast<const float*>(x)[i];
}

__device__ inline bool finite(float v) { return fabsf(v) <= FLT_MAX; }

// exp of something at most 0, up to rounding
__device__ inline double power(double v) { return static_cast<double>(expf(static_cast<float>(v))); }

// Statistics of a part of a row; sums are relative to the maxima so far.
struct Part {
  float s_max, t_max;
  double s_sum, t_sum, cross;  // core/distill.h: PairSums
  double one_sum;              // of the student at temperature 1
  double dot;                  // of weights and student
};

__device__ inline Part no_part() { return {-FLT_MAX, -FLT_MAX, 0, 0, 0, 0, 0}; }

__device__ inline void raise_student(Part* p, float max, double inv_t) {
  if (p->s_sum > 0) {
    const double d = static_cast<double>(p->s_max) - max;
    p->cross -= p->t_sum * d * inv_t;
    p->s_sum *= power(d * inv_t);
    p->one_sum *= power(d);
  }
  p->s_max = max;
}

__device__ inline void raise_teacher(Part* p, float max, double inv_t) {
  if (p->t_sum > 0) {
    const double d = (static_cast<double>(p->t_max) - max) * inv_t, e = power(d);
    p->cross = e * (p->cross + p->t_sum * d);
    p->t_sum *= e;
  }
  p->t_max = max;
}

__device__ inline void merge(Part* p, Part q, double inv_t) {
  const float s_max = p->s_max > q.s_max ? p->s_max : q.s_max, t_max = p->t_max > q.t_max ? p->t_max : q.t_max;
  if (s_max > p->s_max) raise_student(p, s_max, inv_t);
  if (s_max > q.s_max) raise_student(&q, s_max, inv_t);
  if (t_max > p->t_max) raise_teacher(p, t_max, inv_t);
  if (t_max > q.t_max) raise_teacher(&q, t_max, inv_t);
  p->s_sum += q.s_sum;
  p->t_sum += q.t_sum;
  p->cross += q.cross;
  p->one_sum += q.one_sum;
  p->dot += q.dot;
}

__device__ inline Part from_lane(const Part& p, int lanes) {
  Part q;
  q.s_max = __shfl_xor_sync(kFullMask, p.s_max, lanes);
  q.t_max = __shfl_xor_sync(kFullMask, p.t_max, lanes);
  q.s_sum = __shfl_xor_sync(kFullMask, p.s_sum, lanes);
  q.t_sum = __shfl_xor_sync(kFullMask, p.t_sum, lanes);
  q.cross = __shfl_xor_sync(kFullMask, p.cross, lanes);
  q.one_sum = __shfl_xor_sync(kFullMask, p.one_sum, lanes);
  q.dot = __shfl_xor_sync(kFullMask, p.dot, lanes);
  return q;
}

// The part of a row that all its kThreads have together; `parts` is the block's, kBlock / kWarp of them.
template <int kThreads>
static __device__ Part whole_row(Part p, double inv_t, Part* parts) {
  for (int lanes = kWarp / 2; lanes; lanes >>= 1) {
    const Part q = from_lane(p, lanes);
    merge(&p, q, inv_t);
  }
  if (kThreads > kWarp) {
    if (threadIdx.x % kWarp == 0) parts[threadIdx.x / kWarp] = p;
    __syncthreads();
    p = parts[0];
    for (int w = 1; w < kThreads / kWarp; w++) merge(&p, parts[w], inv_t);
  }
  return p;
}

// One logit of the student more: its part of the softmax, at temperature 1 and in the dot product with w. Answers (x - max)/T.
__device__ inline double take_student(Part* p, float s, double inv_t, double w) {
  if (s > p->s_max) raise_student(p, s, inv_t);
  const double ds = static_cast<double>(s) - p->s_max, scaled = ds * inv_t;
  p->s_sum += power(scaled);
  p->one_sum += power(ds);
  p->dot += w * s;
  return scaled;
}

// The teacher's beside it.
__device__ inline void take_teacher(Part* p, float u, double inv_t, double scaled) {
  if (u > p->t_max) raise_teacher(p, u, inv_t);
  const double dt = (static_cast<double>(u) - p->t_max) * inv_t, e = power(dt);
  p->t_sum += e;
  p->cross += e * (dt - scaled);
}

// The labels' part of a sample: its loss without the factor of the reduction, and what makes its gradient,
// of_one * exp((x - max)*inv_t) - of_weight * weight, less at_label at the label. Beside a teacher the temperature is 1.
struct Hard {
  bool on;
  float of_one, of_weight;
  double inv_t;
  double at_label, loss;
};

__device__ inline Hard hard_part(const LogitArguments& a, const Part& p, double alpha, int32_t y, double x_y, double inv_t) {
  Hard h = {a.labels && alpha < 1, 0, 0, inv_t, 0, 0};
  if (!h.on) return h;
  const Totals totals = *a.totals;
  const bool smooth = a.smoothing > 0;
  const double weight = a.weights ? a.weights[y] : 1.0, each = a.smoothing / a.classes, hit = (1 - a.smoothing) * weight;
  const double sum = a.teacher ? p.one_sum : p.s_sum, log_sum = log(sum), scale = (1 - alpha) * totals.hard * inv_t;
  h.loss = hit * (log_sum - (x_y - p.s_max) * inv_t);
  if (smooth) h.loss += each * (totals.weights * (log_sum + p.s_max * inv_t) - p.dot * inv_t);
  h.of_one = static_cast<float>(scale * (hit + (smooth ? each * totals.weights : 0)) / sum);
  h.of_weight = static_cast<float>(scale * each);
  h.at_label = scale * hit;
  h.loss *= 1 - alpha;
  return h;
}

// The sums of N values a thread, to all. `parts` has room for N * kBlock / kWarp.
template <int N>
static __device__ void block_sums(double (&v)[N], double* parts) {
  for (int o = kWarp / 2; o; o >>= 1)
    for (int i = 0; i < N; i++) v[i] += __shfl_xor_sync(kFullMask, v[i], o);
  __syncthreads();
  for (int i = 0; i < N; i++)
    if (threadIdx.x % kWarp == 0) parts[i * (kBlock / kWarp) + threadIdx.x / kWarp] = v[i];
  __syncthreads();
  for (int i = 0; i < N; i++) {
    v[i] = 0;
    for (int w = 0; w < kBlock / kWarp; w++) v[i] += parts[i * (kBlock / kWarp) + w];
  }
}

// Arguments of a loss but for `totals` and `shares`.
LogitArguments logit_arguments(const LogitLoss& l);
// Checks labels and class weights, and writes the factors of the reduction.
void distill_totals(Work& work, const LogitArguments& a, Totals* out);
// out[j] = the sum of values [j * n, (j + 1) * n), for `columns` of them.
void distill_sum(Work& work, const double* values, int64_t n, int columns, double* out);
// Waits, and answers `count` sums that have to be within float32.
WhittleStatus distill_answer(Work& work, const double* sums, int count, double* result);

}  // namespace whittle
