// Decoupled distillation and several teachers, over logits: a warp or a block a row, as in distill.cu. Several teachers take a
// walk of their own each for their softmax, then one over all of them mixes, compares and writes the gradient: no mixture is
// ever held. Limit: elements of student and teachers below 2^31 each.
#include "cuda/distill.h"

namespace whittle {
namespace {

// False for a sample without a loss: an ignored one, whose gradient is written, or one of a wrong label, which labels_kernel
// has found. `columns` shares a sample.
__device__ bool counts(const LogitArguments& a, uint32_t row, uint32_t t, uint32_t threads, int columns) {
  if (!a.labels) return true;
  const int32_t y = a.labels[row];
  if (!a.has_ignore || y != a.ignore) return y >= 0 && y < static_cast<int32_t>(a.classes);
  for (uint32_t c = t; c < a.classes; c += threads) a.grad[row * a.classes + c] = 0;
  if (t == 0) {
    for (int i = 0; i < columns; i++) a.shares[i * static_cast<int64_t>(a.samples) + row] = 0;
    if (a.reduction == kDistillNone) a.losses[row] = 0;
  }
  return false;
}

__device__ double softplus(double x) { return x > 0 ? x + log1p(exp(-x)) : log1p(exp(x)); }
__device__ double sigmoid(double x) { return x > 0 ? 1 / (1 + exp(-x)) : exp(x) / (1 + exp(x)); }

// As distill_dkd: the target's logit against all others carries everything binary, u = z_y/T - logsumexp(others/T).
template <int kThreads>
__global__ void dkd_kernel(LogitArguments a, double beta, int* flags) {
  WHITTLE_SHARED(parts, Part[kBlock / kWarp]);
  const uint32_t row = blockIdx.x * (kBlock / kThreads) + threadIdx.x / kThreads, t = threadIdx.x % kThreads;
  if (row >= a.samples || !counts(a, row, t, kThreads, 3)) return;  // whole warps, and no block of one row
  const uint32_t start = row * a.classes, y = static_cast<uint32_t>(a.labels[row]);
  const double inv_t = static_cast<float>(1 / a.temperature);
  Part p = no_part();
  bool bad = false;
  for (uint32_t c = t; c < a.classes; c += kThreads) {
    const float s = logit(a.student, a.student_half, start + c), u = logit(a.teacher, a.teacher_half, start + c);
    bad |= !finite(s) || !finite(u);
    if (c != y) take_teacher(&p, u, inv_t, take_student(&p, s, inv_t, 0));
  }
  if (bad) atomicOr(flags, kFlagNonfinite);
  p = whole_row<kThreads>(p, inv_t, parts);

  const double s_log = log(p.s_sum), t_log = log(p.t_sum), gap = p.cross / p.t_sum + (s_log - t_log);
  const double us = (static_cast<double>(logit(a.student, a.student_half, start + y)) - p.s_max) / a.temperature - s_log;
  const double ut = (static_cast<double>(logit(a.teacher, a.teacher_half, start + y)) - p.t_max) / a.temperature - t_log;
  const double ps = sigmoid(us), pt = sigmoid(ut), scale = a.totals->soft, t2 = a.temperature * a.temperature;
  const double pull = scale * a.temperature, away = a.alpha * (ps - pt);
  if (t == 0) {
    const double binary = pt * (softplus(-us) - softplus(-ut)) + sigmoid(-ut) * (softplus(us) - softplus(ut));
    const double target = t2 * (binary < 0 ? 0 : binary), other = t2 * (gap < 0 ? 0 : gap), loss = a.alpha * target + beta * other;
    double* share = a.shares + row;
    share[0] = scale * loss;
    share[a.samples] = scale * target;
    share[2 * static_cast<int64_t>(a.samples)] = scale * other;
    if (a.reduction == kDistillNone) a.losses[row] = static_cast<float>(loss);
  }
  const float of_student = static_cast<float>(pull * (beta - away) / p.s_sum), of_teacher = static_cast<float>(pull * beta / p.t_sum);
  for (uint32_t c = t; c < a.classes; c += kThreads) {
    const double ds = (static_cast<double>(logit(a.student, a.student_half, start + c)) - p.s_max) * inv_t;
    const double dt = (static_cast<double>(logit(a.teacher, a.teacher_half, start + c)) - p.t_max) * inv_t;
    // The target's own exponentials may overflow; they are not used.
    a.grad[start + c] = static_cast<float>(c == y ? pull * away : of_student * power(ds) - of_teacher * power(dt));
  }
}

// What is known of one teacher's row: its maximum, and its share of the mixture over its sum.
struct Voice {
  float max;
  double factor;
};

// The shares of the teachers: not negative, finite, not all 0. One block.
__global__ void mix_kernel(const float* mix, uint32_t teachers, double* out, int* flags) {
  WHITTLE_SHARED(parts, double[kBlock / kWarp]);
  double sum[1] = {0};
  for (uint32_t k = threadIdx.x; k < teachers; k += kBlock) {
    const float w = mix ? mix[k] : 1;
    if (!(w >= 0 && w <= FLT_MAX)) atomicOr(flags, kFlagSum);
    sum[0] += w;
  }
  block_sums(sum, parts);
  if (threadIdx.x == 0 && !(sum[0] > 0)) atomicOr(flags, kFlagSum);
  for (uint32_t k = threadIdx.x; k < teachers; k += kBlock) out[k] = (mix ? mix[k] : 1) / sum[0];
}

// Rows of all teachers, [teachers][samples].
template <int kThreads>
__global__ void voices_kernel(LogitArguments a, uint32_t rows, const double* mix, Voice* out, int* flags) {
  WHITTLE_SHARED(parts, Part[kBlock / kWarp]);
  const uint32_t row = blockIdx.x * (kBlock / kThreads) + threadIdx.x / kThreads, t = threadIdx.x % kThreads;
  if (row >= rows) return;
  const uint32_t sample = row % a.samples;
  if (a.labels && a.has_ignore && a.labels[sample] == a.ignore) return;
  const double inv_t = static_cast<float>(1 / a.temperature);
  Part p = no_part();
  bool bad = false;
  for (uint32_t c = t; c < a.classes; c += kThreads) {
    const float u = logit(a.teacher, a.teacher_half, row * a.classes + c);
    bad |= !finite(u);
    take_teacher(&p, u, inv_t, 0);
  }
  if (bad) atomicOr(flags, kFlagNonfinite);
  p = whole_row<kThreads>(p, inv_t, parts);
  if (t == 0) out[row] = {p.t_max, mix[row / a.samples] / p.t_sum};
}

// The sum of one value a thread of a row, to all of them.
template <int kThreads>
__device__ double row_sum(double v, double* parts) {
  double sum[1] = {v};
  if (kThreads > kWarp) block_sums(sum, parts);
  else
    for (int o = kWarp / 2; o; o >>= 1) sum[0] += __shfl_xor_sync(kFullMask, sum[0], o);
  return sum[0];
}

template <int kThreads>
__global__ void mixture_kernel(LogitArguments a, uint32_t teachers, const Voice* voices, int* flags) {
  WHITTLE_SHARED(parts, Part[kBlock / kWarp]);
  WHITTLE_SHARED(sums, double[kBlock / kWarp]);
  const uint32_t row = blockIdx.x * (kBlock / kThreads) + threadIdx.x / kThreads, t = threadIdx.x % kThreads;
  if (row >= a.samples || !counts(a, row, t, kThreads, 1)) return;
  const uint32_t start = row * a.classes;
  const int32_t y = a.labels ? a.labels[row] : -1;
  const double inv_t = static_cast<float>(1 / a.temperature), t2 = a.temperature * a.temperature;
  const bool none = a.reduction == kDistillNone, smooth = a.smoothing > 0;
  Part p = no_part();
  bool bad = false;
  for (uint32_t c = t; c < a.classes; c += kThreads) {
    const float s = logit(a.student, a.student_half, start + c);
    bad |= !finite(s);
    take_student(&p, s, inv_t, !smooth ? 0 : a.weights ? a.weights[c] : 1);
  }
  if (bad) atomicOr(flags, kFlagNonfinite);
  p = whole_row<kThreads>(p, inv_t, parts);

  const double alpha = a.labels ? a.alpha : 1, s_log = log(p.s_sum), pull = a.totals->soft * alpha * a.temperature;
  const Hard hard = hard_part(a, p, alpha, y, a.labels ? static_cast<double>(logit(a.student, a.student_half, start + y)) : 0, 1);
  double gap = 0;
  for (uint32_t c = t; c < a.classes; c += kThreads) {
    double mixed = 0;
    for (uint32_t k = 0, at = row, from = start + c; k < teachers; k++, at += a.samples, from += a.samples * a.classes)
      mixed += voices[at].factor * power((static_cast<double>(logit(a.teacher, a.teacher_half, from)) - voices[at].max) * inv_t);
    const double ds = static_cast<double>(logit(a.student, a.student_half, start + c)) - p.s_max, lq = ds * inv_t - s_log;
    const double term = mixed > 0 ? mixed * (log(mixed) - lq) : 0;
    gap += term;
    if (none && !a.labels) a.losses[start + c] = static_cast<float>(t2 * term);
    double g = pull * (power(lq) - mixed);
    if (hard.on) {
      g += hard.of_one * power(ds) - static_cast<double>(hard.of_weight) * (smooth && a.weights ? a.weights[c] : 1.0);
      if (c == static_cast<uint32_t>(y)) g -= hard.at_label;
    }
    a.grad[start + c] = static_cast<float>(g);
  }
  gap = row_sum<kThreads>(gap, sums);
  if (t != 0) return;
  const double loss = alpha * t2 * (gap < 0 ? 0 : gap);
  a.shares[row] = a.totals->soft * loss + a.totals->hard * hard.loss;
  if (none && a.labels) a.losses[row] = static_cast<float>(loss + hard.loss);
}

}  // namespace

WhittleStatus cuda_dkd(int32_t device, const LogitLoss& l) {
  if (l.samples < 1 || l.classes < 2 || !l.labels || l.samples > kMostElements / l.classes) return WHITTLE_SHAPE;
  Work work(device);
  Totals* totals = work.scratch<Totals>(1);
  double* shares = work.scratch<double>(3 * l.samples);
  double* sums = work.scratch<double>(3);
  LogitArguments a = logit_arguments(l);
  a.weights = nullptr;
  a.totals = totals;
  a.shares = shares;
  distill_totals(work, a, totals);
  if (l.classes <= kWarpRow) work.launch(blocks_for(l.samples * kWarp), kBlock, dkd_kernel<kWarp>, a, l.beta, work.flags());
  else work.launch(dim3(a.samples), kBlock, dkd_kernel<kBlock>, a, l.beta, work.flags());
  distill_sum(work, shares, l.samples, 3, sums);
  return distill_answer(work, sums, 3, l.result);
}

WhittleStatus cuda_multi_teacher(int32_t device, const LogitLoss& l) {
  if (l.samples < 1 || l.classes < 1 || l.teachers < 1 || l.teachers > kMostElements / l.samples ||
      l.teachers * l.samples > kMostElements / l.classes)
    return WHITTLE_SHAPE;
  Work work(device);
  const uint32_t teachers = static_cast<uint32_t>(l.teachers), rows = static_cast<uint32_t>(l.teachers * l.samples);
  Totals* totals = work.scratch<Totals>(1);
  double* mix = work.scratch<double>(l.teachers);
  Voice* voices = work.scratch<Voice>(rows);
  double* shares = work.scratch<double>(l.samples);
  double* sum = work.scratch<double>(1);
  LogitArguments a = logit_arguments(l);
  a.totals = totals;
  a.shares = shares;
  distill_totals(work, a, totals);
  work.launch(1, kBlock, mix_kernel, l.mix, teachers, mix, work.flags());
  if (l.classes <= kWarpRow) {
    work.launch(blocks_for(int64_t(rows) * kWarp), kBlock, voices_kernel<kWarp>, a, rows, mix, voices, work.flags());
    work.launch(blocks_for(l.samples * kWarp), kBlock, mixture_kernel<kWarp>, a, teachers, voices, work.flags());
  } else {
    work.launch(dim3(rows), kBlock, voices_kernel<kBlock>, a, rows, mix, voices, work.flags());
    work.launch(dim3(a.samples), kBlock, mixture_kernel<kBlock>, a, teachers, voices, work.flags());
  }
  distill_sum(work, shares, l.samples, 1, sum);
  return distill_answer(work, sum, 1, l.result);
}

}  // namespace whittle
