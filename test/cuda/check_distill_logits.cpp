// Decoupled distillation and several teachers, against the CPU's.
#include <float.h>

#include "check.h"

namespace whittle {

namespace {

// Logits in both formats; what is asked for is read.
struct Both {
  std::vector<float> wide;
  std::vector<uint16_t> narrow;
  bool half;
  Both(Rng& rng, int64_t n, float spread) : wide(rng.normals(n, spread)), narrow(static_cast<size_t>(n)), half(rng.below(3) == 0) {
    quantize_kernels().narrow_bf16(wide.data(), n, narrow.data());
  }
  Logits host() const { return half ? Logits{narrow.data(), true} : Logits{wide.data(), false}; }
};
struct OnDevice {
  Device<float> wide;
  Device<uint16_t> narrow;
  bool half;
  explicit OnDevice(const Both& b) : wide(b.wide), narrow(b.narrow), half(b.half) {}
  Logits logits() const { return half ? Logits{static_cast<uint16_t*>(narrow), true} : Logits{static_cast<float*>(wide), false}; }
};

void expect_near(Check& c, const char* what, const std::vector<float>& got, const std::vector<float>& want, double relative, double absolute) {
  for (size_t i = 0; i < want.size(); i++)
    if (!c.expect(fabs(double(got[i]) - want[i]) <= absolute + relative * fabs(double(want[i])), "%s %d is %.9g, want %.9g", what, int(i), got[i], want[i])) return;
}

void one(Check& c, Rng& rng, bool dkd, int64_t classes) {
  const CudaBackend& cuda = c.cuda();
  const int64_t samples = classes > 1000 ? 2 : rng.between(1, 11), teachers = dkd ? 1 : rng.between(1, 4), n = samples * classes;
  const float spread = rng.below(3) == 0 ? 40 : 3;
  const Both s(rng, n, spread), t(rng, n * teachers, spread);
  const bool labelled = dkd || rng.below(3) != 0, weighted = !dkd && rng.below(2);
  std::vector<int32_t> labels(static_cast<size_t>(samples));
  for (int32_t& y : labels) y = rng.below(6) == 0 ? -100 : static_cast<int32_t>(rng.below(classes));
  std::vector<float> weights(static_cast<size_t>(classes)), mix(static_cast<size_t>(teachers));
  for (float& w : weights) w = rng.uniform(0, 2);
  for (float& w : mix) w = rng.uniform(0.1f, 2);
  const bool mixed = rng.below(2);
  const std::vector<float> even(mix.size(), 1);
  LogitLoss l = {};
  l.samples = samples;
  l.classes = classes;
  l.teachers = teachers;
  l.has_ignore = true;
  l.ignore = -100;
  l.temperature = rng.below(2) ? 1 : rng.uniform(0.5f, 6);
  l.alpha = dkd ? rng.uniform(0, 2) : rng.below(3) == 0 ? 1 : rng.uniform(0, 1);
  l.beta = rng.uniform(0, 9);
  l.smoothing = rng.below(2) ? 0 : 0.1;
  l.reduction = static_cast<int32_t>(rng.below(4));
  l.threads = 1;
  const int64_t losses = labelled ? samples : n;
  std::vector<float> grad(static_cast<size_t>(n)), each(static_cast<size_t>(losses));
  double want[3] = {0, 0, 0}, got[3] = {0, 0, 0};
  LogitLoss on_cpu = l;
  on_cpu.student = s.host();
  on_cpu.teacher = t.host();
  on_cpu.mix = mixed ? mix.data() : even.data();
  on_cpu.labels = labelled ? labels.data() : nullptr;
  on_cpu.class_weights = weighted ? weights.data() : nullptr;
  on_cpu.grad = grad.data();
  on_cpu.losses = each.data();
  on_cpu.result = want;
  const WhittleStatus expected = dkd ? distill_dkd(on_cpu) : distill_multi_teacher(on_cpu);

  const OnDevice ds(s), dt(t);
  const Device<float> dweights(weights), dmix(mix), dgrad(n), deach(losses);
  const Device<int32_t> dlabels(labels);
  LogitLoss on_device = l;
  on_device.student = ds.logits();
  on_device.teacher = dt.logits();
  on_device.mix = mixed ? static_cast<float*>(dmix) : nullptr;
  on_device.labels = labelled ? static_cast<int32_t*>(dlabels) : nullptr;
  on_device.class_weights = weighted ? static_cast<float*>(dweights) : nullptr;
  on_device.grad = dgrad;
  on_device.losses = deach;
  on_device.result = got;
  const WhittleStatus status = dkd ? cuda.dkd(0, on_device) : cuda.multi_teacher(0, on_device);
  const char* name = dkd ? "dkd" : "several teachers";
  if (!c.expect(status == expected && status == WHITTLE_OK, "%s of %d x %d: status %d, want %d", name, int(samples), int(classes), status, expected)) return;
  // Each term is a probability, (10 + 4 |x - max|/T) 2^-24 off, times a logarithm or a factor of the gradient.
  const double far = 16 * spread * (1 / l.temperature + 1), e = (20 + 8 * far) * 0x1p-24, factor = dkd ? l.alpha + l.beta : weighted ? 2 : 1;
  expect_near(c, name, dgrad.host(), grad, e, e * 2 * factor * (1 + l.temperature));
  const double size = factor * (1 + far) * l.temperature * l.temperature * 4;
  for (int i = 0; i < (dkd ? 3 : 1); i++)
    c.expect(fabs(got[i] - want[i]) <= e * (fabs(want[i]) + (l.reduction < 2 ? 1.0 : double(samples)) * size), "%s of %d x %d: result %d is %.12g, want %.12g", name,
             int(samples), int(classes), i, got[i], want[i]);
  if (l.reduction == kDistillNone) expect_near(c, "loss", deach.host(), each, e, e * size);
}

}  // namespace

void check_distill_logits(Check& c) {
  const CudaBackend& cuda = c.cuda();
  for (const bool dkd : {true, false})
    c.row(dkd ? "distill: decoupled, loss, terms and gradient, as on the CPU" : "distill: several teachers, loss and gradient, as on the CPU", [&](Rng& rng) {
      for (const int64_t classes : {int64_t(2), int64_t(3), int64_t(31), int64_t(33), int64_t(300), int64_t(1024), int64_t(1031), int64_t(2500)})
        for (int turn = 0; turn < (classes > 1000 ? 1 : 4); turn++)
          if (!c.lean() || (turn == 0 && (classes == 3 || classes == 33 || classes == 1031))) one(c, rng, dkd, classes);
    });

  c.row("distill: dkd and several teachers find bad logits, labels and weights", [&](Rng& rng) {
    // A warp a row, then a block a row: dear here, so one of each kind.
    for (const int64_t classes : {int64_t(7), int64_t(1025)}) {
      const bool block = classes > 1000;
      const int64_t samples = block ? 3 : 4, n = samples * classes;
      const Device<float> grad(n), losses(samples), good(rng.normals(2 * n));
      double result[3];
      LogitLoss l = {};
      l.samples = samples;
      l.classes = classes;
      l.teachers = 2;
      l.temperature = 2;
      l.alpha = 0.5;
      l.beta = 1;
      l.reduction = kDistillMean;
      l.grad = grad;
      l.losses = losses;
      l.result = result;
      for (const float bad : {NAN, INFINITY, -INFINITY}) {
        if (block && bad != INFINITY) continue;
        std::vector<float> x = rng.normals(2 * n);
        // the second teacher's
        x[static_cast<size_t>(n + rng.below(n))] = bad;
        const Device<float> wrong(x);
        x = rng.normals(n);
        x[static_cast<size_t>(rng.below(n))] = bad;
        const Device<float> own(x);
        const Device<int32_t> labels(std::vector<int32_t>(4, 1));
        l.labels = labels;
        l.student = l.teacher = {static_cast<float*>(good), false};
        c.expect(cuda.dkd(0, l) == WHITTLE_OK && cuda.multi_teacher(0, l) == WHITTLE_OK, "good ones");
        l.teacher = {static_cast<float*>(wrong), false};
        c.expect(cuda.multi_teacher(0, l) == WHITTLE_NONFINITE, "%g in a teacher", bad);
        l.teacher = {static_cast<float*>(good), false};
        l.student = {static_cast<float*>(own), false};
        c.expect(cuda.dkd(0, l) == WHITTLE_NONFINITE && cuda.multi_teacher(0, l) == WHITTLE_NONFINITE, "%g in the student", bad);
        l.teacher = {static_cast<float*>(own), false};
        l.student = {static_cast<float*>(good), false};
        c.expect(cuda.dkd(0, l) == WHITTLE_NONFINITE, "%g in dkd's teacher", bad);
      }
      l.student = l.teacher = {static_cast<float*>(good), false};
      for (const int32_t y : {-1, static_cast<int32_t>(classes), INT32_MAX, INT32_MIN}) {
        if (block && y != static_cast<int32_t>(classes)) continue;
        const Device<int32_t> labels(std::vector<int32_t>{0, 1, y, 1});
        l.labels = labels;
        c.expect(cuda.dkd(0, l) == WHITTLE_RANGE && result[0] == 0 && cuda.multi_teacher(0, l) == WHITTLE_RANGE && result[0] == 0, "label %d", y);
      }
      l.labels = nullptr;
      if (block) continue;  // one kernel looks at these
      for (const std::vector<float>& mix : {std::vector<float>{1, -1}, std::vector<float>{NAN, 1}, std::vector<float>{0, 0}, std::vector<float>{1, INFINITY}}) {
        const Device<float> d(mix);
        l.mix = d;
        c.expect(cuda.multi_teacher(0, l) == WHITTLE_RANGE && result[0] == 2, "weights %g, %g", mix[0], mix[1]);
      }
    }
    if (c.real()) return;
    // Whatever allocation fails, there is an answer and nothing stays.
    const Device<float> x(rng.normals(30)), grad(30);
    const Device<int32_t> labels(std::vector<int32_t>(3, 1));
    double result[3];
    LogitLoss l = {};
    l.samples = 3;
    l.classes = 10;
    l.teachers = 1;
    l.temperature = 1;
    l.student = l.teacher = {static_cast<float*>(x), false};
    l.labels = labels;
    l.grad = grad;
    l.result = result;
    int failures = 0;
    for (int64_t at = 0; at < 8; at++)
      for (const bool dkd : {true, false}) {
        fake::options().fail_allocation = fake::allocations() + at;
        const WhittleStatus s = dkd ? cuda.dkd(0, l) : cuda.multi_teacher(0, l);
        fake::options().fail_allocation = -1;
        c.expect(s == WHITTLE_OK || s == WHITTLE_OUT_OF_MEMORY, "allocation %d: status %d", int(at), s);
        failures += s == WHITTLE_OUT_OF_MEMORY;
      }
    c.expect(failures == 10, "%d allocations failed", failures);
  });
}

}  // namespace whittle
