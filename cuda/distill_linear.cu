// Distillation straight from hidden states: logits exist one block of samples by one block of classes at a time. As the CPU's two
// passes (core/distill_linear.cpp): statistics of every sample first, then the logits again and their gradient, block by block,
// which products take to the hidden states and the weights. Where one block holds all classes the logits are made once. Products
// are cuBLASLt's float32.
#include "cuda/distill.h"
#include "cuda/product.h"

namespace whittle {
namespace {

// Blocks in float32: 16 MiB each, of 1024 samples by 4096 classes.
constexpr int64_t kRows = 1024, kClasses = 4096, kLeast = 64;

// What is known of a sample after some classes, and, once it is finished, the factors of its gradient.
struct State {
  Part part;
  float target;       // the logit of the label
  float of_student, of_teacher;
  Hard hard;
};

// Samples [row, row + n) and classes [at, at + m), logits m apart; a given teacher's lie in the whole.
struct Piece {
  float* student;
  const float* teacher;
  uint32_t row, n, at, m;
};

__device__ bool ignores(const LogitArguments& a, uint32_t sample) { return a.labels && a.has_ignore && a.labels[sample] == a.ignore; }
__device__ bool skips(const LogitArguments& a, uint32_t sample) {
  return a.labels && (ignores(a, sample) || a.labels[sample] < 0 || a.labels[sample] >= static_cast<int32_t>(a.classes));
}
__device__ float teacher_logit(const LogitArguments& a, const Piece& b, uint32_t i, uint32_t c) {
  return b.teacher ? b.teacher[i * b.m + c]
                   : logit(a.teacher, a.teacher_half, static_cast<uint32_t>((b.row + i) * static_cast<int64_t>(a.classes) + b.at + c));
}

// Folds a block of classes into what is known of its samples. A block a sample.
__global__ void take_kernel(LogitArguments a, Piece b, State* states, int* flags) {
  WHITTLE_SHARED(parts, Part[kBlock / kWarp]);
  const uint32_t i = blockIdx.x, sample = b.row + i;
  if (skips(a, sample)) return;
  const double inv_t = static_cast<float>(1 / a.temperature);
  const bool smooth = a.smoothing > 0;
  Part p = no_part();
  bool bad = false;
  for (uint32_t c = threadIdx.x; c < b.m; c += kBlock) {
    const float s = b.student[i * b.m + c], u = teacher_logit(a, b, i, c);
    bad |= !finite(s) || !finite(u);
    take_teacher(&p, u, inv_t, take_student(&p, s, inv_t, !smooth ? 0 : a.weights ? a.weights[b.at + c] : 1));
  }
  if (bad) atomicOr(flags, kFlagNonfinite);
  p = whole_row<kBlock>(p, inv_t, parts);
  if (threadIdx.x != 0) return;
  if (b.at > 0) {
    Part before = states[i].part;
    merge(&before, p, inv_t);
    p = before;
  }
  states[i].part = p;
  const uint32_t y = a.labels ? static_cast<uint32_t>(a.labels[sample]) : 0;
  if (a.labels && y >= b.at && y - b.at < b.m) states[i].target = b.student[i * b.m + y - b.at];
}

// The losses of finished samples, and the factors of their gradients.
__global__ void settle_kernel(LogitArguments a, uint32_t row, uint32_t n, State* states) {
  const uint32_t i = blockIdx.x * kBlock + threadIdx.x, sample = row + i;
  if (i >= n) return;
  const bool none = a.reduction == kDistillNone;
  if (skips(a, sample)) {
    a.shares[sample] = 0;
    if (none) a.losses[sample] = 0;
    return;
  }
  const Part p = states[i].part;
  const double alpha = a.labels ? a.alpha : 1, gap = p.cross / p.t_sum + (log(p.s_sum) - log(p.t_sum));
  const double soft = alpha * a.temperature * a.temperature * (gap < 0 ? 0 : gap), pull = a.totals->soft * alpha * a.temperature;
  const Hard hard = hard_part(a, p, alpha, a.labels ? a.labels[sample] : 0, states[i].target, 1);
  states[i].of_student = static_cast<float>(pull / p.s_sum);
  states[i].of_teacher = static_cast<float>(pull / p.t_sum);
  states[i].hard = hard;
  a.shares[sample] = a.totals->soft * soft + a.totals->hard * hard.loss;
  if (none) a.losses[sample] = static_cast<float>(soft + hard.loss);
}

// The gradient by the logits of a block, in place of the student's; zeros for samples that do not count.
__global__ void slope_kernel(LogitArguments a, Piece b, const State* states) {
  const uint32_t at = blockIdx.x * kBlock + threadIdx.x;
  if (at >= b.n * b.m) return;
  const uint32_t i = at / b.m, c = at % b.m, sample = b.row + i;
  if (skips(a, sample)) {
    b.student[at] = 0;
    return;
  }
  const State* s = states + i;
  const double inv_t = static_cast<float>(1 / a.temperature), ds = static_cast<double>(b.student[at]) - s->part.s_max;
  const double dt = (static_cast<double>(teacher_logit(a, b, i, c)) - s->part.t_max) * inv_t;
  double g = s->of_student * power(ds * inv_t) - s->of_teacher * power(dt);
  if (s->hard.on) {
    g += s->hard.of_one * power(ds) - static_cast<double>(s->hard.of_weight) * (a.smoothing > 0 && a.weights ? a.weights[b.at + c] : 1.0);
    if (b.at + c == static_cast<uint32_t>(a.labels[sample])) g -= s->hard.at_label;
  }
  b.student[at] = static_cast<float>(g);
}

// out[c] (+)= the sum of a column: a warp takes 32 of every eighth row.
__global__ void columns_kernel(Piece b, bool add, float* out) {
  WHITTLE_SHARED(parts, double[kBlock / kWarp][kWarp]);
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const uint32_t c = blockIdx.x * kWarp + lane;
  double sum = 0;
  if (c < b.m)
    for (uint32_t i = warp; i < b.n; i += kBlock / kWarp) sum += b.student[i * b.m + c];
  parts[warp][lane] = sum;
  __syncthreads();
  if (warp != 0 || c >= b.m) return;
  for (int w = 1; w < kBlock / kWarp; w++) sum += parts[w][lane];
  out[b.at + c] = static_cast<float>(add ? out[b.at + c] + sum : sum);
}

// An ignored sample is in every product with a factor of 0, which does not make a number of NaN.
__global__ void hidden_kernel(const float* x, int64_t n, int* flags) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (i < n && !finite(x[i])) atomicOr(flags, kFlagNonfinite);
}

class Linear {
 public:
  Linear(Work& work, const CudaLinear& l) : work_(work), l_(l), o_(l.loss) {
    const int64_t most = l.rows ? l.rows : kRows, wide = l.columns ? l.columns : kClasses;
    rows_ = o_.samples < most ? o_.samples : most;
    columns_ = o_.classes < wide ? o_.classes : wide;
    student_ = work.scratch<float>(rows_ * columns_);
    teacher_ = l.teacher.hidden ? work.scratch<float>(rows_ * columns_) : nullptr;
    states_ = work.scratch<State>(rows_);
    Totals* totals = work.scratch<Totals>(1);
    a_ = logit_arguments(o_);
    if (teacher_) a_.teacher = teacher_;  // there is one, whichever way
    a_.totals = totals;
    a_.shares = work.scratch<double>(o_.samples);
    sum_ = work.scratch<double>(1);
    distill_totals(work, a_, totals);
  }

  WhittleStatus run() {
    work_.launch(blocks_for(o_.samples * l_.student.size), kBlock, hidden_kernel, l_.student.hidden, o_.samples * l_.student.size, work_.flags());
    for (int64_t row = 0; row < o_.samples; row += rows_) samples(row, o_.samples - row < rows_ ? o_.samples - row : rows_);
    distill_sum(work_, a_.shares, o_.samples, 1, sum_);
    return distill_answer(work_, sum_, 1, o_.result);
  }

 private:
  void product(const Head& head, int64_t row, int64_t n, int64_t at, int64_t m, float* y) {
    RowProduct p = {};
    p.m = n;
    p.n = m;
    p.k = head.size;
    p.a = head.hidden + row * head.size;
    p.b = head.weight + at * head.size;
    p.transpose_b = true;
    p.bias = head.bias ? head.bias + at : nullptr;
    p.y = y;
    row_product(work_, p);
  }

  Piece logits(int64_t row, int64_t n, int64_t at) {
    const int64_t m = o_.classes - at < columns_ ? o_.classes - at : columns_;
    product(l_.student, row, n, at, m, student_);
    if (teacher_) product(l_.teacher, row, n, at, m, teacher_);
    return {student_, teacher_, static_cast<uint32_t>(row), static_cast<uint32_t>(n), static_cast<uint32_t>(at), static_cast<uint32_t>(m)};
  }

  void samples(int64_t row, int64_t n) {
    const int64_t size = l_.student.size;
    Piece b = {};
    for (int64_t at = 0; at < o_.classes; at += columns_) {
      b = logits(row, n, at);
      work_.launch(dim3(b.n), kBlock, take_kernel, a_, b, states_, work_.flags());
    }
    work_.launch(blocks_for(n), kBlock, settle_kernel, a_, b.row, b.n, states_);
    for (int64_t at = 0; at < o_.classes; at += columns_) {
      if (o_.classes > columns_) b = logits(row, n, at);
      work_.launch(blocks_for(int64_t(b.n) * b.m), kBlock, slope_kernel, a_, b, states_);
      RowProduct by_hidden = {};
      by_hidden.m = n;
      by_hidden.n = size;
      by_hidden.k = b.m;
      by_hidden.a = student_;
      by_hidden.b = l_.student.weight + at * size;
      by_hidden.y = o_.grad + row * size;
      by_hidden.add = at > 0;
      row_product(work_, by_hidden);
      if (l_.grad_weight) {
        RowProduct by_weight = {};
        by_weight.m = b.m;
        by_weight.n = size;
        by_weight.k = n;
        by_weight.a = student_;
        by_weight.transpose_a = true;
        by_weight.b = l_.student.hidden + row * size;
        by_weight.y = l_.grad_weight + at * size;
        by_weight.add = row > 0;
        row_product(work_, by_weight);
      }
      if (l_.grad_bias) work_.launch(dim3((b.m + kWarp - 1) / kWarp), kBlock, columns_kernel, b, row > 0, l_.grad_bias);
    }
  }

  Work& work_;
  const CudaLinear& l_;
  const LogitLoss& o_;
  int64_t rows_, columns_;
  float *student_, *teacher_;
  State* states_;
  LogitArguments a_;
  double* sum_;
};

}  // namespace

WhittleStatus cuda_linear_kl(int32_t device, const CudaLinear& l) {
  const LogitLoss& o = l.loss;
  if (o.samples < 1 || o.classes < 1 || o.samples > kMostElements || o.classes > kMostElements || l.student.size < 1 ||
      l.rows % kLeast || l.columns % kLeast)
    return WHITTLE_SHAPE;
  if (l.teacher.hidden ? l.teacher.size < 1 : o.samples > kMostElements / o.classes) return WHITTLE_SHAPE;
  Work work(device);
  return Linear(work, l).run();
}

}  // namespace whittle
