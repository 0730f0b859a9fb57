#include "core/distill.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include <atomic>
#include <memory>
#include <new>

#include "core/distill_logits.h"
#include "core/scratch.h"
#include "core/threads.h"

#define WHITTLE_VARIANT(tier) extern "C" void distill_install_##tier(whittle::DistillKernels*);
#include "cpu/distill/variants.inc"
#undef WHITTLE_VARIANT

namespace whittle {

VariantList<DistillKernels> distill_variants() {
  static const Variant<DistillKernels> rows[] = {
#define WHITTLE_VARIANT(tier) {Tier::tier, distill_install_##tier},
#include "cpu/distill/variants.inc"
#undef WHITTLE_VARIANT
  };
  return {rows, static_cast<int>(sizeof rows / sizeof rows[0])};
}

namespace {

const Resolved<DistillKernels>& resolved() {
  static const Resolved<DistillKernels> r = resolve(distill_variants());
  return r;
}

constexpr int64_t kChunk = 16384;  // elements that are worth a thread's attention
constexpr int64_t kBlock = 2048;   // bfloat16 logits are widened this many at a time

// body(at, n) over [begin, end): in one go where the rows are floats. False as soon as a body answers false.
template <class Body>
bool blocks(bool half, int64_t begin, int64_t end, const Body& body) {
  const int64_t step = half ? kBlock : end - begin;
  for (int64_t at = begin; at < end; at += step)
    if (!body(at, at + step < end ? step : end - at)) return false;
  return true;
}

// What one sample needs: both rows, with room to widen them.
struct Sample {
  const DistillKernels& k;
  int64_t index, classes;
  Row student, teacher;
  float* grad;
  float rooms[2][kBlock];
  Sample(const DistillKernels& kernels, const LogitLoss& l, int64_t row)
      : k(kernels), index(row), classes(l.classes), student{l.student, row * l.classes, rooms[0]},
        teacher{l.teacher, row * l.classes, rooms[1]}, grad(l.grad + row * l.classes) {}
  Sample(const Sample&) = delete;
  Sample& operator=(const Sample&) = delete;

  bool soft_sums(const Row& row, float inv_t, SoftSums* sums) const {
    return blocks(row.of.half, 0, classes, [&](int64_t at, int64_t n) { return k.soft_sums(row.block(k, at, n), n, inv_t, sums); });
  }
  // body(s, t, g, at, n) over classes [begin, end).
  template <class Body>
  bool pairs(int64_t begin, int64_t end, const Body& body) const {
    return blocks(student.of.half || teacher.of.half, begin, end, [&](int64_t at, int64_t n) {
      return body(student.block(k, at, n), teacher.block(k, at, n), grad + at, at, n);
    });
  }
};

// Runs body(sample, out) for every sample that counts, out[0..2) being its share of the results; then adds the shares up
// in the order of the samples, so that the thread count does not show.
template <class Body>
WhittleStatus each_row(const LogitLoss& l, const Body& body) {
  const DistillKernels& k = distill_kernels();
  std::unique_ptr<double[]> shares(new (std::nothrow) double[static_cast<size_t>(l.samples) * 3]);
  if (!shares) return WHITTLE_OUT_OF_MEMORY;
  std::atomic<int> status{WHITTLE_OK};
  const int64_t grain = l.classes >= kChunk ? 1 : kChunk / l.classes;
  parallel_for(l.samples, grain, l.threads, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row++) {
      double* share = shares.get() + row * 3;
      share[0] = share[1] = share[2] = 0;
      if (ignored(l, row)) {
        memset(l.grad + row * l.classes, 0, static_cast<size_t>(l.classes) * sizeof(float));
        continue;
      }
      const Sample sample(k, l, row);
      const WhittleStatus s = body(sample, share);
      if (s != WHITTLE_OK) {
        status.store(s, std::memory_order_relaxed);
        return;
      }
    }
  });
  if (status.load() != WHITTLE_OK) return static_cast<WhittleStatus>(status.load());
  double sums[3] = {0, 0, 0};
  for (int64_t row = 0; row < l.samples; row++)
    for (int j = 0; j < 3; j++) sums[j] += shares[static_cast<size_t>(row * 3 + j)];
  for (int j = 0; j < 3; j++) {
    if (!(fabs(sums[j]) <= FLT_MAX)) return WHITTLE_NONFINITE;
    l.result[j] = sums[j];
  }
  return WHITTLE_OK;
}

// w_y*CE of one sample whose `sums` were taken with inv_t, its gradient times `scale` written or added to the sample's.
double hard_loss(const LogitLoss& l, const Sample& one, const SoftSums& sums, float inv_t, double weight_sum, double scale,
                 bool add) {
  const int32_t y = l.labels[one.index];
  const double log_sum = log(sums.sum), weight = l.class_weights ? l.class_weights[y] : 1.0;
  const double share = l.smoothing / static_cast<double>(l.classes), hit = (1 - l.smoothing) * weight;
  double loss = hit * (log_sum - (double(one.student.element(one.k, y)) - sums.max) * inv_t);
  double total = hit;
  scale *= inv_t;
  if (share > 0) total += share * weight_sum;
  const float pull = static_cast<float>(scale * total / sums.sum);
  const float* weights = share > 0 ? l.class_weights : nullptr;
  double dot = 0;
  blocks(one.student.of.half, 0, l.classes, [&](int64_t at, int64_t n) {
    const float* x = one.student.block(one.k, at, n);
    const float* w = weights ? weights + at : nullptr;
    if (share > 0) dot += one.k.soft_dot(x, n, sums.max, w);
    one.k.soft_grad(x, n, inv_t, sums.max, pull, w, static_cast<float>(scale * share), add, one.grad + at);
    return true;
  });
  if (share > 0) loss += share * (weight_sum * log_sum - dot * inv_t);
  one.grad[y] = static_cast<float>(one.grad[y] - scale * hit);
  return loss;
}

}  // namespace

const DistillKernels& distill_kernels() { return resolved().table; }
Tier distill_tier() { return resolved().tier; }

WhittleStatus distill_cross_entropy(const LogitLoss& l) {
  Scales scales;
  if (const WhittleStatus s = reduce(l, &scales)) return s;
  const double weight_sum = total_weight(l);
  const float inv_t = static_cast<float>(1 / l.temperature);
  if (l.reduction == kDistillNone) memset(l.losses, 0, static_cast<size_t>(l.samples) * sizeof(float));
  return each_row(l, [&](const Sample& one, double* share) {
    SoftSums sums = kNoSums;
    if (!one.soft_sums(one.student, inv_t, &sums)) return WHITTLE_NONFINITE;
    const double loss = hard_loss(l, one, sums, inv_t, weight_sum, scales.hard, false);
    if (l.reduction == kDistillNone) l.losses[one.index] = static_cast<float>(loss);
    share[0] = scales.hard * loss;
    return WHITTLE_OK;
  });
}

namespace {

// What kl and multi_teacher share: adds the labels' part to a sample whose divergence (with T^2) and gradient are there.
WhittleStatus blend(const LogitLoss& l, const Sample& one, double alpha, double soft, const SoftSums* at_one,
                    const Scales& scales, double weight_sum, double* share) {
  double hard = 0;
  if (l.labels && alpha < 1) {
    SoftSums sums = kNoSums;
    if (at_one) sums = *at_one;
    else if (!one.soft_sums(one.student, 1, &sums)) return WHITTLE_NONFINITE;
    hard = (1 - alpha) * hard_loss(l, one, sums, 1, weight_sum, (1 - alpha) * scales.hard, true);
  }
  if (l.reduction == kDistillNone && l.labels) l.losses[one.index] = static_cast<float>(hard + alpha * soft);
  share[0] = scales.hard * hard + scales.soft * alpha * soft;
  return WHITTLE_OK;
}

}  // namespace

WhittleStatus distill_kl(const LogitLoss& l) {
  Scales scales;
  if (const WhittleStatus s = reduce(l, &scales)) return s;
  const double alpha = l.labels ? l.alpha : 1, t2 = l.temperature * l.temperature, weight_sum = total_weight(l);
  const float inv_t = static_cast<float>(1 / l.temperature);
  const bool none = l.reduction == kDistillNone;
  if (none && l.labels) memset(l.losses, 0, static_cast<size_t>(l.samples) * sizeof(float));
  return each_row(l, [&](const Sample& one, double* share) {
    const DistillKernels& k = one.k;
    PairSums p = {-FLT_MAX, -FLT_MAX, 0, 0, 0};
    if (!one.pairs(0, l.classes, [&](const float* s, const float* t, float*, int64_t, int64_t n) {
          return k.pair_sums(s, t, n, inv_t, &p);
        }))
      return WHITTLE_NONFINITE;
    const double s_log = log(p.s_sum), t_log = log(p.t_sum), gap = p.cross / p.t_sum + (s_log - t_log);
    const double pull = scales.soft * alpha * l.temperature;
    one.pairs(0, l.classes, [&](const float* s, const float* t, float* g, int64_t at, int64_t n) {
      k.pair_grad(s, t, n, inv_t, p.s_max, p.t_max, static_cast<float>(pull / p.s_sum), static_cast<float>(pull / p.t_sum), g);
      if (none && !l.labels)
        k.pair_terms(s, t, n, inv_t, p.s_max, p.t_max, static_cast<float>(s_log), static_cast<float>(t_log),
                     static_cast<float>(t2), l.losses + one.index * l.classes + at);
      return true;
    });
    const SoftSums at_one = {p.s_max, p.s_sum};
    return blend(l, one, alpha, t2 * (gap < 0 ? 0 : gap), inv_t == 1 ? &at_one : nullptr, scales, weight_sum, share);
  });
}

WhittleStatus distill_js(const LogitLoss& l) {
  const bool mean = l.reduction == kDistillMean || l.reduction == kDistillBatchMean;
  const double scale = mean ? 1 / static_cast<double>(l.samples) : 1;
  const float inv_t = static_cast<float>(1 / l.temperature);
  return each_row(l, [&](const Sample& one, double* share) {
    const DistillKernels& k = one.k;
    SoftSums a = kNoSums, b = kNoSums;
    if (!one.soft_sums(one.student, inv_t, &a) || !one.soft_sums(one.teacher, inv_t, &b)) return WHITTLE_NONFINITE;
    const float s_scale = static_cast<float>(1 / a.sum), t_scale = static_cast<float>(1 / b.sum);
    double q_log = 0, p_log = 0;
    one.pairs(0, l.classes, [&](const float* s, const float* t, float*, int64_t, int64_t n) {
      double q, p;
      k.js_sums(s, t, n, inv_t, a.max, b.max, s_scale, t_scale, &q, &p);
      q_log += q;
      p_log += p;
      return true;
    });
    one.pairs(0, l.classes, [&](const float* s, const float* t, float* g, int64_t, int64_t n) {
      k.js_grad(s, t, n, inv_t, a.max, b.max, s_scale, t_scale, static_cast<float>(q_log),
                static_cast<float>(0.5 * scale / l.temperature), g);
      return true;
    });
    const double js = 0.5 * (q_log + p_log), loss = js < 0 ? 0 : js;
    if (l.reduction == kDistillNone) l.losses[one.index] = static_cast<float>(loss);
    share[0] = scale * loss;
    return WHITTLE_OK;
  });
}

namespace {

double softplus(double x) { return x > 0 ? x + log1p(exp(-x)) : log1p(exp(x)); }
double sigmoid(double x) { return x > 0 ? 1 / (1 + exp(-x)) : exp(x) / (1 + exp(x)); }

}  // namespace

// The target's logit against all others, u = z_y/T - logsumexp(others/T), carries everything binary: p_y = sigmoid(u).
// It stays exact where p_y is 1 in every digit. The other classes are the row without its element y: two pieces.
WhittleStatus distill_dkd(const LogitLoss& l) {
  Scales scales;
  if (const WhittleStatus s = reduce(l, &scales)) return s;
  const double t2 = l.temperature * l.temperature;
  const float inv_t = static_cast<float>(1 / l.temperature);
  if (l.reduction == kDistillNone) memset(l.losses, 0, static_cast<size_t>(l.samples) * sizeof(float));
  return each_row(l, [&](const Sample& one, double* share) {
    const DistillKernels& k = one.k;
    const int64_t y = l.labels[one.index];
    PairSums p = {-FLT_MAX, -FLT_MAX, 0, 0, 0};
    const auto sums = [&](const float* s, const float* t, float*, int64_t, int64_t n) { return k.pair_sums(s, t, n, inv_t, &p); };
    if (!one.pairs(0, y, sums) || !one.pairs(y + 1, l.classes, sums)) return WHITTLE_NONFINITE;
    const double s_log = log(p.s_sum), t_log = log(p.t_sum), gap = p.cross / p.t_sum + (s_log - t_log);
    const double us = (double(one.student.element(k, y)) - p.s_max) / l.temperature - s_log;
    const double ut = (double(one.teacher.element(k, y)) - p.t_max) / l.temperature - t_log;
    if (!(fabs(us) <= DBL_MAX) || !(fabs(ut) <= DBL_MAX)) return WHITTLE_NONFINITE;
    const double ps = sigmoid(us), pt = sigmoid(ut);
    const double binary = pt * (softplus(-us) - softplus(-ut)) + sigmoid(-ut) * (softplus(us) - softplus(ut));
    const double target = t2 * (binary < 0 ? 0 : binary), other = t2 * (gap < 0 ? 0 : gap);
    const double pull = scales.soft * l.temperature, away = l.alpha * (ps - pt);
    const float a = static_cast<float>(pull * (l.beta - away) / p.s_sum), b = static_cast<float>(pull * l.beta / p.t_sum);
    const auto grads = [&](const float* s, const float* t, float* g, int64_t, int64_t n) {
      k.pair_grad(s, t, n, inv_t, p.s_max, p.t_max, a, b, g);
      return true;
    };
    one.pairs(0, y, grads);
    one.pairs(y + 1, l.classes, grads);
    one.grad[y] = static_cast<float>(pull * away);
    const double loss = l.alpha * target + l.beta * other;
    if (l.reduction == kDistillNone) l.losses[one.index] = static_cast<float>(loss);
    share[0] = scales.soft * loss;
    share[1] = scales.soft * target;
    share[2] = scales.soft * other;
    return WHITTLE_OK;
  });
}

WhittleStatus distill_multi_teacher(const LogitLoss& l) {
  Scales scales;
  if (const WhittleStatus s = reduce(l, &scales)) return s;
  const double alpha = l.labels ? l.alpha : 1, t2 = l.temperature * l.temperature, weight_sum = total_weight(l);
  const float inv_t = static_cast<float>(1 / l.temperature);
  const bool none = l.reduction == kDistillNone;
  double mix_sum = 0;
  for (int64_t j = 0; j < l.teachers; j++) mix_sum += l.mix[j];
  if (!(mix_sum > 0)) return WHITTLE_RANGE;
  if (none && l.labels) memset(l.losses, 0, static_cast<size_t>(l.samples) * sizeof(float));
  return each_row(l, [&](const Sample& one, double* share) {
    static thread_local Scratch room;
    float* p = static_cast<float*>(room.take(l.classes * static_cast<int64_t>(sizeof(float))));
    if (!p) return WHITTLE_OUT_OF_MEMORY;
    const DistillKernels& k = one.k;
    SoftSums own = kNoSums;
    if (!one.soft_sums(one.student, inv_t, &own)) return WHITTLE_NONFINITE;
    for (int64_t j = 0; j < l.teachers; j++) {
      const Row t = {l.teacher, (j * l.samples + one.index) * l.classes, one.teacher.room};
      SoftSums sums = kNoSums;
      if (!one.soft_sums(t, inv_t, &sums)) return WHITTLE_NONFINITE;
      blocks(t.of.half, 0, l.classes, [&](int64_t at, int64_t n) {
        k.mix(t.block(k, at, n), n, inv_t, sums.max, static_cast<float>(l.mix[j] / mix_sum / sums.sum), j > 0, p + at);
        return true;
      });
    }
    double gap = 0;
    float* terms = none && !l.labels ? l.losses + one.index * l.classes : nullptr;
    blocks(one.student.of.half, 0, l.classes, [&](int64_t at, int64_t n) {
      gap += k.mix_grad(p + at, one.student.block(k, at, n), n, inv_t, own.max, static_cast<float>(log(own.sum)),
                        static_cast<float>(scales.soft * alpha * l.temperature), static_cast<float>(t2),
                        terms ? terms + at : nullptr, one.grad + at);
      return true;
    });
    return blend(l, one, alpha, t2 * (gap < 0 ? 0 : gap), inv_t == 1 ? &own : nullptr, scales, weight_sum, share);
  });
}

}  // namespace whittle
