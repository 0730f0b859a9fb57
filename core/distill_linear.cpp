// Distillation straight from hidden states: logits exist one block of samples by one block of classes at a time.
//
// One pass, where only the hidden state's gradient is wanted: as in online softmax, sum exp(x - max) * weight rows is
// kept for student and teacher relative to the maxima so far and rescaled when they rise; the gradient is the difference
// of two such sums. Two passes, where the weights' gradient is wanted too: statistics first, then the logits again and
// their gradient, block by block.
#include <math.h>
#include <string.h>

#include <atomic>
#include <memory>
#include <new>

#include "core/distill_logits.h"
#include "core/gemm.h"
#include "core/threads.h"

namespace whittle {
namespace {

constexpr int64_t kMostRows = 256, kMostColumns = 2048, kLeastColumns = 64;
constexpr int64_t kBytes = 4 << 20;  // of blocks, at most

// What is known of one sample after some classes.
struct State {
  PairSums pair;
  SoftSums hard;     // at temperature 1
  double dot, seen;  // sums of w*(x - hard.max) and of w, for label smoothing
  float target;      // the logit of the label
};

class Walk {
 public:
  explicit Walk(const LinearLoss& l) : l_(l), o_(l.loss), k_(distill_kernels()) {
    hard_ = o_.labels && o_.alpha < 1;
    alpha_ = o_.labels ? o_.alpha : 1;
    inv_t_ = static_cast<float>(1 / o_.temperature);
    weight_sum_ = total_weight(o_);
    share_ = o_.smoothing / static_cast<double>(o_.classes);
    one_pass_ = !l.grad_weight && !l.grad_bias;
    // Rows of `parts` for each sample: student, teacher, and the student at temperature 1 where that differs.
    kinds_ = hard_ && inv_t_ != 1 ? 3 : 2;
  }

  WhittleStatus run() {
    if (const WhittleStatus s = reduce(o_, &scales_)) return s;
    rows_ = o_.samples < kMostRows ? o_.samples : kMostRows;
    // Never more than an eighth of what two whole logit tensors take.
    const int64_t whole = o_.samples * o_.classes, row_bytes = (2 + kinds_) * rows_ * 4;
    columns_ = (whole < kBytes ? whole : kBytes) / row_bytes / kLeastColumns * kLeastColumns;
    columns_ = columns_ < kLeastColumns ? kLeastColumns : columns_ > kMostColumns ? kMostColumns : columns_;
    if (columns_ > o_.classes) columns_ = o_.classes;
    const int64_t cells = rows_ * columns_, spread = kinds_ * rows_ + 1;
    states_.reset(new (std::nothrow) State[static_cast<size_t>(rows_)]);
    student_.reset(new (std::nothrow) float[static_cast<size_t>(cells)]);
    teacher_.reset(new (std::nothrow) float[static_cast<size_t>(cells)]);
    parts_.reset(new (std::nothrow) float[static_cast<size_t>(one_pass_ ? spread * columns_ : cells)]);
    if (one_pass_) sums_.reset(new (std::nothrow) float[static_cast<size_t>(spread * l_.student.size)]);
    if (!states_ || !student_ || !teacher_ || !parts_ || (one_pass_ && !sums_)) return WHITTLE_OUT_OF_MEMORY;
    total_ = 0;
    for (int64_t row = 0; row < o_.samples; row += rows_) {
      const int64_t n = o_.samples - row < rows_ ? o_.samples - row : rows_;
      const WhittleStatus status = one_pass_ ? single(row, n) : twice(row, n);
      if (status != WHITTLE_OK) return status;
    }
    if (!(fabs(total_) <= FLT_MAX)) return WHITTLE_NONFINITE;
    o_.result[0] = total_;
    o_.result[1] = o_.result[2] = 0;
    return WHITTLE_OK;
  }

 private:
  template <class Body>
  void each(int64_t n, const Body& body) {
    parallel_for(n, 1, o_.threads, [&](int64_t b, int64_t e) {
      for (; b < e; b++) body(b);
    });
  }

  WhittleStatus product(const Head& head, int64_t row, int64_t n, int64_t at, int64_t m, float* out) {
    GemmProblem p;
    p.m = n;
    p.n = m;
    p.k = head.size;
    p.a = head.hidden + row * head.size;
    p.a_row = head.size;
    p.b = head.weight + at * head.size;
    p.b_row = 1;
    p.b_col = head.size;
    p.c = out;
    p.ldc = m;
    p.bias = head.bias ? head.bias + at : nullptr;
    return gemm_f32(p, o_.threads);
  }

  // Logits of samples [row, row + n) and classes [at, at + m), m apart.
  WhittleStatus logits(int64_t row, int64_t n, int64_t at, int64_t m) {
    if (const WhittleStatus s = product(l_.student, row, n, at, m, student_.get())) return s;
    if (l_.teacher.hidden) return product(l_.teacher, row, n, at, m, teacher_.get());
    each(n, [&](int64_t i) {
      float* out = teacher_.get() + i * m;
      const Row given = {o_.teacher, (row + i) * o_.classes, out};
      const float* x = given.block(k_, at, m);
      if (x != out) memcpy(out, x, static_cast<size_t>(m) * sizeof(float));
    });
    return WHITTLE_OK;
  }

  // Takes m more classes of sample `i` of the block in; false where a logit is not finite.
  bool take(int64_t row, int64_t i, int64_t at, int64_t m) {
    State& s = states_[static_cast<size_t>(i)];
    const float* x = student_.get() + i * m;
    if (!k_.pair_sums(x, teacher_.get() + i * m, m, inv_t_, &s.pair)) return false;
    if (!hard_) return true;
    const float before = s.hard.max;
    if (inv_t_ == 1) s.hard = {s.pair.s_max, s.pair.s_sum};
    else if (!k_.soft_sums(x, m, 1, &s.hard)) return false;
    const int64_t y = o_.labels[row + i] - at;
    if (y >= 0 && y < m) s.target = x[y];
    if (share_ > 0) {
      const float* w = o_.class_weights ? o_.class_weights + at : nullptr;
      if (s.seen > 0) s.dot += s.seen * (double(before) - s.hard.max);
      s.dot += k_.soft_dot(x, m, s.hard.max, w);
      if (!w) s.seen += static_cast<double>(m);
      else for (int64_t c = 0; c < m; c++) s.seen += w[c];
    }
    return true;
  }

  void start(int64_t n) {
    for (int64_t i = 0; i < n; i++)
      states_[static_cast<size_t>(i)] = {{-FLT_MAX, -FLT_MAX, 0, 0, 0}, kNoSums, 0, 0, 0};
  }

  // Factors of a finished sample: gradient = soft * (softmax_s - softmax_t) + hard * (total * softmax - share * w - hit).
  struct Pull {
    double soft, hard, total, hit;
  };
  Pull pull(int64_t sample) const {
    const double w = hard_ && o_.class_weights ? o_.class_weights[o_.labels[sample]] : 1.0, hit = (1 - o_.smoothing) * w;
    return {scales_.soft * alpha_ * o_.temperature, hard_ ? (1 - alpha_) * scales_.hard : 0, hit + share_ * weight_sum_, hit};
  }

  // The loss of a finished sample, added up and stored where wanted.
  void settle(int64_t sample, const State& s) {
    const double gap = s.pair.cross / s.pair.t_sum + log(s.pair.s_sum) - log(s.pair.t_sum);
    const double soft = alpha_ * o_.temperature * o_.temperature * (gap < 0 ? 0 : gap);
    double hard = 0;
    if (hard_) {
      const double log_sum = log(s.hard.sum);
      hard = pull(sample).hit * (log_sum - (double(s.target) - s.hard.max));
      if (share_ > 0) hard += share_ * (weight_sum_ * log_sum - s.dot);
      hard *= 1 - alpha_;
    }
    if (o_.reduction == kDistillNone) o_.losses[sample] = static_cast<float>(hard + soft);
    total_ += scales_.hard * hard + scales_.soft * soft;
  }

  // c[m][n] (+)= a*b, both given by their strides.
  WhittleStatus multiply(int64_t m, int64_t n, int64_t k, const float* a, int64_t a_row, int64_t a_col, const float* b, int64_t b_row,
                         float* c, bool add) {
    GemmProblem p;
    p.m = m;
    p.n = n;
    p.k = k;
    p.a = a;
    p.a_row = a_row;
    p.a_col = a_col;
    p.b = b;
    p.b_row = b_row;
    p.c = c;
    p.ldc = n;
    p.beta = add ? 1 : 0;
    return gemm_f32(p, o_.threads);
  }

  void rescale(int64_t line, double from, double to, float inv_t) {
    const float f = from == to ? 1 : static_cast<float>(exp((from - to) * inv_t));
    if (f == 1) return;
    float* x = sums_.get() + line * l_.student.size;
    for (int64_t d = 0; d < l_.student.size; d++) x[d] *= f;
  }

  WhittleStatus single(int64_t row, int64_t n) {
    const int64_t size = l_.student.size, lines = kinds_ * n + (share_ > 0 && hard_ ? 1 : 0);
    start(n);
    for (int64_t at = 0; at < o_.classes; at += columns_) {
      const int64_t m = o_.classes - at < columns_ ? o_.classes - at : columns_;
      if (const WhittleStatus s = logits(row, n, at, m)) return s;
      std::atomic<bool> finite{true};
      each(n, [&](int64_t i) {
        float* es = parts_.get() + i * m;
        float* et = es + n * m;
        if (ignored(o_, row + i)) {
          for (int64_t j = 0; j < kinds_; j++) memset(es + j * n * m, 0, static_cast<size_t>(m) * sizeof(float));
          return;
        }
        State& s = states_[static_cast<size_t>(i)];
        const State old = s;
        if (!take(row, i, at, m)) {
          finite.store(false, std::memory_order_relaxed);
          return;
        }
        if (at > 0) {
          rescale(i, old.pair.s_max, s.pair.s_max, inv_t_);
          rescale(n + i, old.pair.t_max, s.pair.t_max, inv_t_);
          if (kinds_ == 3) rescale(2 * n + i, old.hard.max, s.hard.max, 1);
        }
        const float* x = student_.get() + i * m;
        k_.mix(x, m, inv_t_, s.pair.s_max, 1, false, es);
        k_.mix(teacher_.get() + i * m, m, inv_t_, s.pair.t_max, 1, false, et);
        if (kinds_ == 3) k_.mix(x, m, 1, s.hard.max, 1, false, et + n * m);
      });
      if (!finite.load()) return WHITTLE_NONFINITE;
      if (lines > kinds_ * n)
        for (int64_t c = 0; c < m; c++) parts_[static_cast<size_t>(kinds_ * n * m + c)] = o_.class_weights ? o_.class_weights[at + c] : 1;
      if (const WhittleStatus s = multiply(lines, size, m, parts_.get(), m, 1, l_.student.weight + at * size, size, sums_.get(), at > 0))
        return s;
    }
    for (int64_t i = 0; i < n; i++) {
      float* g = o_.grad + (row + i) * size;
      if (ignored(o_, row + i)) {
        memset(g, 0, static_cast<size_t>(size) * sizeof(float));
        continue;
      }
      const State& s = states_[static_cast<size_t>(i)];
      settle(row + i, s);
      const Pull p = pull(row + i);
      const float* a = sums_.get() + i * size;
      const float* b = a + n * size;
      const double fa = p.soft / s.pair.s_sum, fb = p.soft / s.pair.t_sum;
      if (!hard_) {
        for (int64_t d = 0; d < size; d++) g[d] = static_cast<float>(fa * a[d] - fb * b[d]);
        continue;
      }
      const float* c = kinds_ == 3 ? b + n * size : a;
      const float* w = l_.student.weight + o_.labels[row + i] * size;
      const float* u = lines > kinds_ * n ? sums_.get() + kinds_ * n * size : nullptr;
      const double fc = p.hard * p.total / s.hard.sum, fw = p.hard * p.hit, fu = p.hard * share_;
      for (int64_t d = 0; d < size; d++)
        g[d] = static_cast<float>(fa * a[d] - fb * b[d] + fc * c[d] - fw * w[d] - (u ? fu * u[d] : 0));
    }
    return WHITTLE_OK;
  }

  WhittleStatus twice(int64_t row, int64_t n) {
    const int64_t size = l_.student.size;
    start(n);
    std::atomic<bool> finite{true};
    for (int64_t at = 0; at < o_.classes; at += columns_) {
      const int64_t m = o_.classes - at < columns_ ? o_.classes - at : columns_;
      if (const WhittleStatus s = logits(row, n, at, m)) return s;
      each(n, [&](int64_t i) {
        if (!ignored(o_, row + i) && !take(row, i, at, m)) finite.store(false, std::memory_order_relaxed);
      });
      if (!finite.load()) return WHITTLE_NONFINITE;
    }
    for (int64_t i = 0; i < n; i++)
      if (!ignored(o_, row + i)) settle(row + i, states_[static_cast<size_t>(i)]);
    for (int64_t at = 0; at < o_.classes; at += columns_) {
      const int64_t m = o_.classes - at < columns_ ? o_.classes - at : columns_;
      if (o_.classes > columns_)
        if (const WhittleStatus s = logits(row, n, at, m)) return s;
      each(n, [&](int64_t i) { slope(row + i, states_[static_cast<size_t>(i)], at, m, i * m); });
      if (const WhittleStatus s = multiply(n, size, m, parts_.get(), m, 1, l_.student.weight + at * size, size, o_.grad + row * size, at > 0))
        return s;
      if (l_.grad_weight)
        if (const WhittleStatus s = multiply(m, size, n, parts_.get(), 1, m, l_.student.hidden + row * size, size,
                                             l_.grad_weight + at * size, row > 0))
          return s;
      if (!l_.grad_bias) continue;
      for (int64_t c = 0; c < m; c++) {
        double sum = row > 0 ? l_.grad_bias[at + c] : 0;
        for (int64_t i = 0; i < n; i++) sum += parts_[static_cast<size_t>(i * m + c)];
        l_.grad_bias[at + c] = static_cast<float>(sum);
      }
    }
    return WHITTLE_OK;
  }

  // The gradient by one sample's logits at `place` of the blocks, into parts.
  void slope(int64_t sample, const State& s, int64_t at, int64_t m, int64_t place) {
    float* g = parts_.get() + place;
    if (ignored(o_, sample)) {
      memset(g, 0, static_cast<size_t>(m) * sizeof(float));
      return;
    }
    const float* x = student_.get() + place;
    const Pull p = pull(sample);
    k_.pair_grad(x, teacher_.get() + place, m, inv_t_, s.pair.s_max, s.pair.t_max, static_cast<float>(p.soft / s.pair.s_sum),
                 static_cast<float>(p.soft / s.pair.t_sum), g);
    if (!hard_) return;
    k_.soft_grad(x, m, 1, s.hard.max, static_cast<float>(p.hard * p.total / s.hard.sum),
                 share_ > 0 && o_.class_weights ? o_.class_weights + at : nullptr, static_cast<float>(p.hard * share_), true, g);
    const int64_t y = o_.labels[sample] - at;
    if (y >= 0 && y < m) g[y] = static_cast<float>(g[y] - p.hard * p.hit);
  }

  const LinearLoss& l_;
  const LogitLoss& o_;
  const DistillKernels& k_;
  bool hard_, one_pass_;
  int64_t kinds_, rows_ = 0, columns_ = 0;
  double alpha_, weight_sum_, share_, total_ = 0;
  float inv_t_;
  Scales scales_ = {0, 0};
  std::unique_ptr<State[]> states_;
  std::unique_ptr<float[]> student_, teacher_, parts_, sums_;
};

}  // namespace

WhittleStatus distill_linear_kl(const LinearLoss& l) {
  // An ignored sample is in every sum with a factor of 0, which does not make a number of NaN.
  for (int64_t i = 0; i < l.loss.samples * l.student.size; i++)
    if (!(fabsf(l.student.hidden[i]) <= FLT_MAX)) return WHITTLE_NONFINITE;
  if (l.loss.reduction == kDistillNone) memset(l.loss.losses, 0, static_cast<size_t>(l.loss.samples) * sizeof(float));
  return Walk(l).run();
}

}  // namespace whittle
