// Cross entropy and KL over logits, loss and gradient in one launch: a warp or a block a row walks it twice, first for the
// online softmax of student and teacher (maxima, sums and the cross term together), then to write the gradient; the second
// walk finds rows in the second-level cache. Exponentials are float32 (their bound: core/distill.h), sums and logarithms
// double. Sums are added in an order that depends on the shape alone. Limit: samples * classes below 2^31.
#include <float.h>
#include <math.h>

#include "cuda/backend.h"

namespace whittle {
namespace {

constexpr int64_t kWarpRow = 1024;  // up to here a row is a warp's

struct Totals {
  double hard, soft;    // factors of the reduction
  double weights;       // of all classes
};

struct Arguments {
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

__device__ float logit(const void* x, bool half, uint32_t i) {
  return half ? __uint_as_float(static_cast<uint32_t>(static_cast<const uint16_t*>(x)[i]) << 16) : static_cast<const float*>(x)[i];
}

__device__ bool finite(float v) { return fabsf(v) <= FLT_MAX; }

// exp of something at most 0, up to rounding
__device__ double power(double v) { return static_cast<double>(expf(static_cast<float>(v))); }

// Statistics of a part of a row; sums are relative to the maxima so far.
struct Part {
  float s_max, t_max;
  double s_sum, t_sum, cross;  // core/distill.h: PairSums
  double one_sum;              // of the student at temperature 1
  double dot;                  // of weights and student
};

__device__ void raise_student(Part* p, float max, double inv_t) {
  if (p->s_sum > 0) {
    const double d = static_cast<double>(p->s_max) - max;
    p->cross -= p->t_sum * d * inv_t;
    p->s_sum *= power(d * inv_t);
    p->one_sum *= power(d);
  }
  p->s_max = max;
}

__device__ void raise_teacher(Part* p, float max, double inv_t) {
  if (p->t_sum > 0) {
    const double d = (static_cast<double>(p->t_max) - max) * inv_t, e = power(d);
    p->cross = e * (p->cross + p->t_sum * d);
    p->t_sum *= e;
  }
  p->t_max = max;
}

__device__ void merge(Part* p, Part q, double inv_t) {
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

__device__ Part from_lane(const Part& p, int lanes) {
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

// kThreads of a row: a warp, or the whole block.
template <int kThreads>
__global__ void loss_kernel(Arguments a, int* flags) {
  WHITTLE_SHARED(parts, Part[kBlock / kWarp]);
  const uint32_t row = blockIdx.x * (kBlock / kThreads) + threadIdx.x / kThreads, t = threadIdx.x % kThreads;
  if (row >= a.samples) return;  // whole warps, and no block of one row
  const uint32_t start = row * a.classes;
  const int32_t y = a.labels ? a.labels[row] : -1;
  const bool none = a.reduction == kDistillNone;
  float* const grad = a.grad + start;
  if (a.labels && a.has_ignore && y == a.ignore) {
    for (uint32_t c = t; c < a.classes; c += kThreads) grad[c] = 0;
    if (t == 0) {
      a.shares[row] = 0;
      if (none) a.losses[row] = 0;
    }
    return;
  }
  // labels_kernel has raised the flag
  if (a.labels && (y < 0 || y >= static_cast<int32_t>(a.classes))) return;

  const double inv_t = static_cast<float>(1 / a.temperature);
  const bool smooth = a.smoothing > 0;
  Part p = {-FLT_MAX, -FLT_MAX, 0, 0, 0, 0, 0};
  bool bad = false;
  for (uint32_t c = t; c < a.classes; c += kThreads) {
    const float s = logit(a.student, a.student_half, start + c);
    bad |= !finite(s);
    if (s > p.s_max || c == t) raise_student(&p, s, inv_t);
    const double ds = static_cast<double>(s) - p.s_max, scaled = ds * inv_t;
    p.s_sum += power(scaled);
    p.one_sum += power(ds);
    if (smooth) p.dot += (a.weights ? a.weights[c] : 1.0) * s;
    if (!a.teacher) continue;
    const float u = logit(a.teacher, a.teacher_half, start + c);
    bad |= !finite(u);
    if (u > p.t_max || c == t) raise_teacher(&p, u, inv_t);
    const double dt = (static_cast<double>(u) - p.t_max) * inv_t, e = power(dt);
    p.t_sum += e;
    p.cross += e * (dt - scaled);
  }
  if (bad) atomicOr(flags, kFlagNonfinite);
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

  const Totals totals = *a.totals;
  const double alpha = !a.teacher ? 0 : a.labels ? a.alpha : 1;
  // The divergence: loss, and the factors of its gradient.
  double loss = 0, share = 0, s_log = 0, t_log = 0;
  float of_student = 0, of_teacher = 0;
  if (a.teacher) {
    s_log = log(p.s_sum);
    t_log = log(p.t_sum);
    const double gap = p.cross / p.t_sum + (s_log - t_log), soft = a.temperature * a.temperature * (gap < 0 ? 0 : gap);
    const double pull = totals.soft * alpha * a.temperature;
    of_student = static_cast<float>(pull / p.s_sum);
    of_teacher = static_cast<float>(pull / p.t_sum);
    loss += alpha * soft;
    share += totals.soft * alpha * soft;
  }
  // The labels' part.
  const bool hard = a.labels && alpha < 1;
  // Beside a teacher they are compared at temperature 1, without one at the temperature given.
  const double hard_t = a.teacher ? 1 : inv_t;
  float of_one = 0, of_weight = 0;
  double at_label = 0;
  if (hard) {
    const double own_sum = a.teacher ? p.one_sum : p.s_sum;
    const double weight = a.weights ? a.weights[y] : 1.0, each = a.smoothing / a.classes, hit = (1 - a.smoothing) * weight;
    const double log_sum = log(own_sum), scale = (1 - alpha) * totals.hard * hard_t;
    double cross = hit * (log_sum - (static_cast<double>(logit(a.student, a.student_half, start + y)) - p.s_max) * hard_t);
    if (smooth) cross += each * (totals.weights * (log_sum + p.s_max * hard_t) - p.dot * hard_t);
    of_one = static_cast<float>(scale * (hit + (smooth ? each * totals.weights : 0)) / own_sum);
    of_weight = static_cast<float>(scale * each);
    at_label = scale * hit;
    loss += (1 - alpha) * cross;
    share += totals.hard * (1 - alpha) * cross;
  }
  if (t == 0) {
    a.shares[row] = share;
    if (none && a.labels) a.losses[row] = static_cast<float>(loss);
  }
  const double t2 = a.temperature * a.temperature;
  for (uint32_t c = t; c < a.classes; c += kThreads) {
    const double ds = static_cast<double>(logit(a.student, a.student_half, start + c)) - p.s_max;
    double g = 0;
    if (a.teacher) {
      const double dt = (static_cast<double>(logit(a.teacher, a.teacher_half, start + c)) - p.t_max) * inv_t;
      g = of_student * power(ds * inv_t) - of_teacher * power(dt);
      if (none && !a.labels) {
        const double lp = dt - t_log;
        a.losses[start + c] = static_cast<float>(t2 * power(lp) * (lp - (ds * inv_t - s_log)));
      }
    }
    if (hard) {
      g += of_one * power(ds * hard_t) - static_cast<double>(of_weight) * (smooth && a.weights ? a.weights[c] : 1.0);
      if (c == static_cast<uint32_t>(y)) g -= at_label;
    }
    grad[c] = static_cast<float>(g);
  }
}

// The sum of one value a thread, to all. One block.
__device__ double block_sum(double v, double* parts) {
  for (int o = kWarp / 2; o; o >>= 1) v += __shfl_xor_sync(kFullMask, v, o);
  __syncthreads();
  if (threadIdx.x % kWarp == 0) parts[threadIdx.x / kWarp] = v;
  __syncthreads();
  double sum = 0;
  for (int w = 0; w < kBlock / kWarp; w++) sum += parts[w];
  return sum;
}

// Checks the labels and writes the factors of the reduction; nothing to average gives 0. One block.
__global__ void labels_kernel(Arguments a, Totals* out, int* flags) {
  WHITTLE_SHARED(parts, double[kBlock / kWarp]);
  double weight = 0, count = 0, all = 0;
  if (a.labels)
    for (uint32_t i = threadIdx.x; i < a.samples; i += kBlock) {
      const int32_t y = a.labels[i];
      if (a.has_ignore && y == a.ignore) continue;
      if (y < 0 || y >= static_cast<int32_t>(a.classes)) {
        atomicOr(flags, kFlagLabel);
        continue;
      }
      count += 1;
      weight += a.weights ? a.weights[y] : 1.0;
    }
  for (uint32_t c = threadIdx.x; c < a.classes; c += kBlock) {
    const float w = a.weights ? a.weights[c] : 1;
    if (!(w >= 0 && w <= FLT_MAX)) atomicOr(flags, kFlagScale);
    all += w;
  }
  weight = block_sum(weight, parts);
  count = block_sum(count, parts);
  all = block_sum(all, parts);
  if (threadIdx.x != 0) return;
  if (!a.labels) count = static_cast<double>(a.samples) * (a.reduction == kDistillMean ? a.classes : 1);
  const bool mean = a.reduction == kDistillMean || a.reduction == kDistillBatchMean;
  *out = {!mean ? 1 : weight > 0 ? 1 / weight : 0, !mean ? 1 : count > 0 ? 1 / count : 0, all};
}

__global__ void sum_kernel(const double* shares, uint32_t n, double* out) {
  WHITTLE_SHARED(parts, double[kBlock / kWarp]);
  double v = 0;
  for (uint32_t i = threadIdx.x; i < n; i += kBlock) v += shares[i];
  v = block_sum(v, parts);
  if (threadIdx.x == 0) *out = v;
}

WhittleStatus logit_loss(int32_t device, const LogitLoss& l, bool with_teacher) {
  if (l.samples < 1 || l.classes < 1 || l.samples > kMostElements / l.classes) return WHITTLE_SHAPE;
  Work work(device);
  Totals* totals = work.scratch<Totals>(1);
  double* shares = work.scratch<double>(l.samples);
  double* sum = work.scratch<double>(1);
  Arguments a = {};
  a.student = l.student.data;
  a.student_half = l.student.half;
  a.teacher = with_teacher ? l.teacher.data : nullptr;
  a.teacher_half = l.teacher.half;
  a.samples = static_cast<uint32_t>(l.samples);
  a.classes = static_cast<uint32_t>(l.classes);
  a.labels = l.labels;
  a.weights = l.class_weights;
  a.has_ignore = l.has_ignore;
  a.ignore = l.ignore;
  a.temperature = l.temperature;
  a.alpha = l.alpha;
  a.smoothing = l.smoothing;
  a.reduction = l.reduction;
  a.grad = l.grad;
  a.losses = l.losses;
  a.totals = totals;
  a.shares = shares;
  work.launch(1, kBlock, labels_kernel, a, totals, work.flags());
  if (l.classes <= kWarpRow) work.launch(blocks_for(l.samples * kWarp), kBlock, loss_kernel<kWarp>, a, work.flags());
  else work.launch(dim3(a.samples), kBlock, loss_kernel<kBlock>, a, work.flags());
  work.launch(1, kBlock, sum_kernel, shares, a.samples, sum);
  double result = 0;
  work.fetch(&result, sum, sizeof result);
  const WhittleStatus status = work.finish();
  l.result[0] = work.raised(kFlagScale);
  if (status != WHITTLE_OK) return status;
  if (!(fabs(result) <= FLT_MAX)) return WHITTLE_NONFINITE;
  l.result[0] = result;
  l.result[1] = l.result[2] = 0;
  return WHITTLE_OK;
}

}  // namespace

WhittleStatus cuda_cross_entropy(int32_t device, const LogitLoss& l) { return logit_loss(device, l, false); }
WhittleStatus cuda_kl(int32_t device, const LogitLoss& l) { return logit_loss(device, l, true); }

}  // namespace whittle
