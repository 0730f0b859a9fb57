// Distillation from hidden states against the CPU's, over blocks of 64 samples and classes.
#include <float.h>

#include "check.h"

namespace whittle {
namespace {

struct HostHead {
  std::vector<float> hidden, weight, bias;
  int64_t size;
  HostHead(Rng& rng, int64_t samples, int64_t classes) : size(rng.between(1, 24)) {
    hidden = rng.normals(samples * size);
    weight = rng.normals(classes * size);
    bias = rng.normals(classes);
  }
};
struct DeviceHead {
  Device<float> hidden, weight, bias;
  explicit DeviceHead(const HostHead& h) : hidden(h.hidden), weight(h.weight), bias(h.bias) {}
};

void expect_near(Check& c, const char* what, const std::vector<float>& got, const std::vector<float>& want, double bound) {
  double most = 0;
  for (const float v : want) most = std::max(most, fabs(double(v)));
  for (size_t i = 0; i < want.size(); i++)
    if (!c.expect(fabs(double(got[i]) - want[i]) <= bound * (most + 1e-3), "%s: %d of %d is %.9g, want %.9g", what, int(i), int(want.size()), got[i], want[i])) return;
}

// `whole`: with all gradients, whatever is drawn.
void one(Check& c, Rng& rng, int64_t samples, int64_t classes, bool whole = false) {
  const HostHead s(rng, samples, classes), t(rng, samples, classes);
  const bool given = rng.below(3) == 0, half = rng.below(2), labelled = rng.below(4) != 0, weighted = rng.below(2), biased = rng.below(2) || whole, by_weight = rng.below(3) != 0 || whole;
  std::vector<float> logits = rng.normals(samples * classes, 3), weights(static_cast<size_t>(classes));
  std::vector<uint16_t> narrow(logits.size());
  quantize_kernels().narrow_bf16(logits.data(), samples * classes, narrow.data());
  for (float& w : weights) w = rng.uniform(0, 2);
  std::vector<int32_t> labels(static_cast<size_t>(samples));
  for (int32_t& y : labels) y = rng.below(6) == 0 ? -100 : static_cast<int32_t>(rng.below(classes));
  CudaLinear l;
  LogitLoss& o = l.loss;
  o = {};
  o.samples = samples;
  o.classes = classes;
  o.teachers = 1;
  o.has_ignore = true;
  o.ignore = -100;
  o.temperature = rng.below(2) ? 1 : rng.uniform(0.8f, 4);
  o.alpha = rng.below(4) == 0 ? 1 : rng.uniform(0, 1);
  o.smoothing = rng.below(2) ? 0 : 0.1;
  o.reduction = static_cast<int32_t>(rng.below(4));
  o.threads = 1;
  std::vector<float> grad(s.hidden.size()), gw(s.weight.size()), gb(s.bias.size()), each(static_cast<size_t>(samples));
  double want[3] = {0, 0, 0}, got[3] = {0, 0, 0};
  CudaLinear on_cpu = l;
  on_cpu.student = {s.size, s.hidden.data(), s.weight.data(), biased ? s.bias.data() : nullptr};
  on_cpu.teacher = given ? Head{0, nullptr, nullptr, nullptr} : Head{t.size, t.hidden.data(), t.weight.data(), biased ? nullptr : t.bias.data()};
  if (given) on_cpu.loss.teacher = half ? Logits{narrow.data(), true} : Logits{logits.data(), false};
  on_cpu.loss.labels = labelled ? labels.data() : nullptr;
  on_cpu.loss.class_weights = weighted ? weights.data() : nullptr;
  on_cpu.loss.grad = grad.data();
  on_cpu.loss.losses = each.data();
  on_cpu.loss.result = want;
  // Two passes, as the device makes.
  on_cpu.grad_weight = gw.data();
  on_cpu.grad_bias = biased ? gb.data() : nullptr;
  const WhittleStatus expected = distill_linear_kl(on_cpu);

  const DeviceHead ds(s), dt(t);
  const Device<float> dlogits(logits), dweights(weights), dgrad(samples * s.size), dgw(classes * s.size), dgb(classes), deach(samples);
  const Device<uint16_t> dnarrow(narrow);
  const Device<int32_t> dlabels(labels);
  CudaLinear on_device = l;
  on_device.rows = on_device.columns = 64;
  on_device.student = {s.size, ds.hidden, ds.weight, biased ? static_cast<float*>(ds.bias) : nullptr};
  on_device.teacher = given ? Head{0, nullptr, nullptr, nullptr} : Head{t.size, dt.hidden, dt.weight, biased ? nullptr : static_cast<float*>(dt.bias)};
  if (given) on_device.loss.teacher = half ? Logits{static_cast<uint16_t*>(dnarrow), true} : Logits{static_cast<float*>(dlogits), false};
  on_device.loss.labels = labelled ? static_cast<int32_t*>(dlabels) : nullptr;
  on_device.loss.class_weights = weighted ? static_cast<float*>(dweights) : nullptr;
  on_device.loss.grad = dgrad;
  on_device.loss.losses = deach;
  on_device.loss.result = got;
  on_device.grad_weight = by_weight ? static_cast<float*>(dgw) : nullptr;
  on_device.grad_bias = by_weight && biased ? static_cast<float*>(dgb) : nullptr;
  const WhittleStatus status = c.cuda().linear_kl(0, on_device);
  if (!c.expect(status == expected && status == WHITTLE_OK, "%d x %d: status %d, want %d (%s)", int(samples), int(classes), status, expected, c.cuda().error())) return;
  // Logits are sums of float32 products, of magnitude 20 or so: their errors are relative errors of the probabilities.
  const double loose = 2e-5;
  c.expect(fabs(got[0] - want[0]) <= loose * fabs(want[0]) + 1e-5 * o.temperature * o.temperature, "%d x %d: loss %.12g, want %.12g", int(samples), int(classes), got[0], want[0]);
  expect_near(c, "gradient", dgrad.host(), grad, 5 * loose);
  if (by_weight) expect_near(c, "weight", dgw.host(), gw, 5 * loose);
  if (by_weight && biased) expect_near(c, "bias", dgb.host(), gb, 5 * loose);
  if (o.reduction == kDistillNone) expect_near(c, "losses", deach.host(), each, loose);
}

}  // namespace

void check_distill_linear(Check& c) {
  if (!has_products(c)) return;
  c.row("linear: loss and gradients from hidden states, as on the CPU", [&](Rng& rng) {
    one(c, rng, 3, 70);
    if (!c.lean()) {
      one(c, rng, 1, 1);
      one(c, rng, 5, 64);
      one(c, rng, 9, 33);
      one(c, rng, 4, 200);
      one(c, rng, 70, 130);
    }
    one(c, rng, 66, 10, true);
  });
  c.row("linear: finds bad numbers and labels, and lives with full memory", [&](Rng& rng) {
    const int64_t samples = 3, classes = 70, size = 5;
    const Device<float> hidden(rng.normals(samples * size)), weight(rng.normals(classes * size)), grad(samples * size), gw(classes * size);
    double result[3];
    CudaLinear l;
    l.loss = {};
    l.loss.samples = samples;
    l.loss.classes = classes;
    l.loss.teachers = 1;
    l.loss.temperature = 1;
    l.loss.alpha = 0.5;
    l.loss.grad = grad;
    l.loss.result = result;
    l.rows = l.columns = 64;
    l.student = l.teacher = {size, hidden, weight, nullptr};
    l.grad_weight = gw;
    l.grad_bias = nullptr;
    for (const int32_t y : {-1, 70, INT32_MIN}) {
      const Device<int32_t> labels(std::vector<int32_t>{0, y, 1});
      l.loss.labels = labels;
      c.expect(c.cuda().linear_kl(0, l) == WHITTLE_RANGE && result[0] == 0, "label %d", y);
    }
    // Bad hidden states of a sample that is ignored too.
    const Device<int32_t> labels(std::vector<int32_t>{0, -7, 69});
    l.loss.labels = labels;
    l.loss.has_ignore = true;
    l.loss.ignore = -7;
    c.expect(c.cuda().linear_kl(0, l) == WHITTLE_OK, "good ones: %s", c.cuda().error());
    std::vector<float> x = rng.normals(samples * size);
    x[static_cast<size_t>(size)] = NAN;
    const Device<float> wrong(x);
    l.student.hidden = wrong;
    c.expect(c.cuda().linear_kl(0, l) == WHITTLE_NONFINITE, "a NaN");
    l.student.hidden = hidden;
    l.teacher.weight = nullptr;
    std::vector<float> w = rng.normals(classes * size);
    w[static_cast<size_t>(classes * size - 1)] = INFINITY;
    const Device<float> endless(w);
    l.teacher.weight = endless;
    c.expect(c.cuda().linear_kl(0, l) == WHITTLE_NONFINITE, "an infinite weight");
    l.teacher.weight = weight;
    if (c.real()) return;
    int failures = 0;
    for (int64_t at = 0; at < 10; at++) {
      fake::options().fail_allocation = fake::allocations() + at;
      const WhittleStatus s = c.cuda().linear_kl(0, l);
      fake::options().fail_allocation = -1;
      c.expect(s == WHITTLE_OK || s == WHITTLE_OUT_OF_MEMORY, "allocation %d: status %d", int(at), s);
      failures += s == WHITTLE_OUT_OF_MEMORY;
    }
    c.expect(failures >= 7, "%d allocations failed", failures);
  });
}

}  // namespace whittle
