// Cross entropy and KL over logits, loss and gradient in one launch: a warp or a block a row walks it twice, first for the
// online softmax of student and teacher (maxima, sums and the cross term together), then to write the gradient; the second
// walk finds rows in the second-level cache. Limit: samples * classes below 2^31. And what all losses over logits begin and end
// with.
#include "cuda/distill.h"

namespace whittle {
namespace {

// kThreads of a row: a warp, or the whole block.
template <int kThreads>
__global__ void loss_kernel(LogitArguments a, int* flags) {
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
  Part p = no_part();
  bool bad = false;
  for (uint32_t c = t; c < a.classes; c += kThreads) {
    const float s = logit(a.student, a.student_half, start + c);
    bad |= !finite(s);
    const double scaled = take_student(&p, s, inv_t, !smooth ? 0 : a.weights ? a.weights[c] : 1);
    if (!a.teacher) continue;
    const float u = logit(a.teacher, a.teacher_half, start + c);
    bad |= !finite(u);
    take_teacher(&p, u, inv_t, scaled);
  }
  if (bad) atomicOr(flags, kFlagNonfinite);
  p = whole_row<kThreads>(p, inv_t, parts);

  const double alpha = !a.teacher ? 0 : a.labels ? a.alpha : 1;
  // The divergence: loss, and the factors of its gradient.
  double loss = 0, share = 0, s_log = 0, t_log = 0;
  float of_student = 0, of_teacher = 0;
  if (a.teacher) {
    s_log = log(p.s_sum);
    t_log = log(p.t_sum);
    const double gap = p.cross / p.t_sum + (s_log - t_log), soft = a.temperature * a.temperature * (gap < 0 ? 0 : gap);
    const double pull = a.totals->soft * alpha * a.temperature;
    of_student = static_cast<float>(pull / p.s_sum);
    of_teacher = static_cast<float>(pull / p.t_sum);
    loss = alpha * soft;
    share = a.totals->soft * loss;
  }
  const Hard hard = hard_part(a, p, alpha, y, a.labels ? static_cast<double>(logit(a.student, a.student_half, start + y)) : 0, a.teacher ? 1 : inv_t);
  if (hard.on) share += a.totals->hard * hard.loss;
  if (t == 0) {
    a.shares[row] = share;
    if (none && a.labels) a.losses[row] = static_cast<float>(loss + hard.loss);
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
    if (hard.on) {
      g += hard.of_one * power(ds * hard.inv_t) - static_cast<double>(hard.of_weight) * (smooth && a.weights ? a.weights[c] : 1.0);
      if (c == static_cast<uint32_t>(y)) g -= hard.at_label;
    }
    grad[c] = static_cast<float>(g);
  }
}

// Checks the labels and writes the factors of the reduction; nothing to average gives 0. One block.
__global__ void labels_kernel(LogitArguments a, Totals* out, int* flags) {
  WHITTLE_SHARED(parts, double[3 * (kBlock / kWarp)]);
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
  double sums[3] = {weight, count, all};
  block_sums(sums, parts);
  weight = sums[0];
  count = sums[1];
  all = sums[2];
  if (threadIdx.x != 0) return;
  if (!a.labels) count = static_cast<double>(a.samples) * (a.reduction == kDistillMean ? a.classes : 1);
  const bool mean = a.reduction == kDistillMean || a.reduction == kDistillBatchMean;
  *out = {!mean ? 1 : weight > 0 ? 1 / weight : 0, !mean ? 1 : count > 0 ? 1 / count : 0, all};
}

// A block a column.
__global__ void sum_kernel(const double* values, int64_t n, double* out) {
  WHITTLE_SHARED(parts, double[kBlock / kWarp]);
  double v[1] = {0};
  for (int64_t i = threadIdx.x; i < n; i += kBlock) v[0] += values[blockIdx.x * n + i];
  block_sums(v, parts);
  if (threadIdx.x == 0) out[blockIdx.x] = v[0];
}

WhittleStatus logit_loss(int32_t device, const LogitLoss& l, bool with_teacher) {
  if (l.samples < 1 || l.classes < 1 || l.samples > kMostElements / l.classes) return WHITTLE_SHAPE;
  Work work(device);
  Totals* totals = work.scratch<Totals>(1);
  double* shares = work.scratch<double>(l.samples);
  double* sum = work.scratch<double>(1);
  LogitArguments a = logit_arguments(l);
  if (!with_teacher) a.teacher = nullptr;
  a.totals = totals;
  a.shares = shares;
  distill_totals(work, a, totals);
  if (l.classes <= kWarpRow) work.launch(blocks_for(l.samples * kWarp), kBlock, loss_kernel<kWarp>, a, work.flags());
  else work.launch(dim3(a.samples), kBlock, loss_kernel<kBlock>, a, work.flags());
  distill_sum(work, shares, l.samples, 1, sum);
  return distill_answer(work, sum, 1, l.result);
}

}  // namespace

LogitArguments logit_arguments(const LogitLoss& l) {
  LogitArguments a = {};
  a.student = l.student.data;
  a.student_half = l.student.half;
  a.teacher = l.teacher.data;
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
  return a;
}

void distill_totals(Work& work, const LogitArguments& a, Totals* out) { work.launch(1, kBlock, labels_kernel, a, out, work.flags()); }

void distill_sum(Work& work, const double* values, int64_t n, int columns, double* out) {
  work.launch(dim3(static_cast<unsigned>(columns)), kBlock, sum_kernel, values, n, out);
}

WhittleStatus distill_answer(Work& work, const double* sums, int count, double* result) {
  double found[3] = {0, 0, 0};
  work.fetch(found, sums, count * static_cast<int64_t>(sizeof(double)));
  const WhittleStatus status = work.finish();
  result[0] = work.raised(kFlagScale) ? 1 : work.raised(kFlagSum) ? 2 : 0;
  if (status != WHITTLE_OK) return status;
  for (int i = 0; i < count; i++)
    if (!(fabs(found[i]) <= FLT_MAX)) return WHITTLE_NONFINITE;
  for (int i = 0; i < count; i++) result[i] = found[i];
  return WHITTLE_OK;
}

WhittleStatus cuda_cross_entropy(int32_t device, const LogitLoss& l) { return logit_loss(device, l, false); }
WhittleStatus cuda_kl(int32_t device, const LogitLoss& l) { return logit_loss(device, l, true); }

}  // namespace whittle
