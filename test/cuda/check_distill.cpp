#include <float.h>

#include "check.h"

namespace whittle {

void check_distill(Check& c) {
  const CudaBackend& cuda = c.cuda();

  c.row("distill: cross entropy and KL, loss and gradient, as on the CPU", [&](Rng& rng) {
    for (const int64_t classes : {int64_t(1), int64_t(2), int64_t(10), int64_t(31), int64_t(33), int64_t(300), int64_t(1024), int64_t(1031), int64_t(2500)})
      for (int turn = 0; turn < (classes > 1000 ? 2 : 5); turn++) {
        if (c.lean() && turn > 1) continue;
        const int64_t samples = classes > 1000 ? 3 : rng.between(1, 19), n = samples * classes;
        const float spread = rng.below(3) == 0 ? 40 : 3;
        const std::vector<float> s = rng.normals(n, spread), t = rng.normals(n, spread);
        std::vector<uint16_t> s_half(static_cast<size_t>(n)), t_half(s_half);
        quantize_kernels().narrow_bf16(s.data(), n, s_half.data());
        quantize_kernels().narrow_bf16(t.data(), n, t_half.data());
        const bool halves[2] = {rng.below(4) == 0, rng.below(4) == 0}, labelled = rng.below(3) != 0, weighted = rng.below(2);
        std::vector<int32_t> labels(static_cast<size_t>(samples));
        for (int32_t& y : labels) y = rng.below(6) == 0 ? -100 : static_cast<int32_t>(rng.below(classes));
        std::vector<float> weights(static_cast<size_t>(classes));
        for (float& w : weights) w = rng.uniform(0, 2);

        LogitLoss l = {};
        l.samples = samples;
        l.classes = classes;
        l.has_ignore = true;
        l.ignore = -100;
        l.temperature = rng.below(2) ? 1 : rng.uniform(0.5f, 6);
        l.alpha = rng.below(3) == 0 ? 1 : rng.uniform(0, 1);
        l.smoothing = rng.below(2) ? 0 : 0.1;
        l.reduction = static_cast<int32_t>(rng.below(4));
        l.threads = 1;
        for (const bool kl : {false, true}) {
          const bool with_labels = labelled || !kl;
          const int64_t losses = kl && !with_labels ? n : samples;
          std::vector<float> grad(static_cast<size_t>(n)), each(static_cast<size_t>(losses));
          double want[3] = {0, 0, 0}, got[3] = {0, 0, 0};
          LogitLoss on_cpu = l;
          on_cpu.student = halves[0] ? Logits{s_half.data(), true} : Logits{s.data(), false};
          on_cpu.teacher = halves[1] ? Logits{t_half.data(), true} : Logits{t.data(), false};
          on_cpu.labels = with_labels ? labels.data() : nullptr;
          on_cpu.class_weights = weighted ? weights.data() : nullptr;
          on_cpu.grad = grad.data();
          on_cpu.losses = each.data();
          on_cpu.result = want;
          const WhittleStatus expected = kl ? distill_kl(on_cpu) : distill_cross_entropy(on_cpu);

          const Device<float> ds(s), dt(t), dweights(weights), dgrad(n), deach(losses);
          const Device<uint16_t> ds_half(s_half), dt_half(t_half);
          const Device<int32_t> dlabels(labels);
          LogitLoss on_device = l;
          on_device.student = halves[0] ? Logits{static_cast<uint16_t*>(ds_half), true} : Logits{static_cast<float*>(ds), false};
          on_device.teacher = halves[1] ? Logits{static_cast<uint16_t*>(dt_half), true} : Logits{static_cast<float*>(dt), false};
          on_device.labels = with_labels ? static_cast<int32_t*>(dlabels) : nullptr;
          on_device.class_weights = weighted ? static_cast<float*>(dweights) : nullptr;
          on_device.grad = dgrad;
          on_device.losses = deach;
          on_device.result = got;
          const WhittleStatus status = kl ? cuda.kl(0, on_device) : cuda.cross_entropy(0, on_device);
          const char* name = kl ? "kl" : "cross entropy";
          if (!c.expect(status == expected, "%s of %d x %d: status %d, want %d", name, int(samples), int(classes), status, expected)) continue;
          if (expected != WHITTLE_OK) continue;
          // Relative to the terms: each is a probability (error (10 + 4 |x - max|/T) 2^-24) times a logarithm.
          const double far = 16 * spread * (1 / l.temperature + 1), e = (20 + 8 * far) * 0x1p-24;
          double size = 0;
          const std::vector<float> g = dgrad.host();
          for (int64_t i = 0; i < n; i++) {
            const double all = fabs(double(grad[size_t(i)]));
            size = size > all ? size : all;
            // Both probabilities are at most about 1, times the factors of the reduction.
            c.expect(fabs(double(g[size_t(i)]) - grad[size_t(i)]) <= e * (all + 2 * (1 + l.temperature) * (weighted ? 2 : 1)) * (l.reduction < 2 ? 1 : 1),
                     "%s of %d x %d: gradient %d is %.9g, want %.9g", name, int(samples), int(classes), int(i), g[size_t(i)], grad[size_t(i)]);
          }
          const double bound = e * (fabs(want[0]) + (l.reduction < 2 ? 1.0 : double(samples)) * (1 + far) * l.temperature * l.temperature * 4);
          c.expect(fabs(got[0] - want[0]) <= bound, "%s of %d x %d reduction %d: loss %.12g, want %.12g +- %g", name, int(samples), int(classes),
                   l.reduction, got[0], want[0], bound);
          if (l.reduction == kDistillNone) {
            const std::vector<float> one = deach.host();
            for (int64_t i = 0; i < losses; i++)
              c.expect(fabs(double(one[size_t(i)]) - each[size_t(i)]) <= e * (fabs(double(each[size_t(i)])) + (1 + far) * l.temperature * l.temperature * 4),
                       "%s of %d x %d: loss of %d is %.9g, want %.9g", name, int(samples), int(classes), int(i), one[size_t(i)], each[size_t(i)]);
          }
        }
      }
  });

  c.row("distill: Jensen-Shannon, loss and gradient, as on the CPU", [&](Rng& rng) {
    for (const int64_t classes : {int64_t(1), int64_t(2), int64_t(31), int64_t(257), int64_t(700)})
      for (int32_t reduction = 0; reduction < 4; reduction++) {
        if (c.lean() && (classes > 257 || reduction == kDistillBatchMean || reduction == kDistillSum)) continue;
        const int64_t samples = rng.between(1, 5), n = samples * classes;
        const float spread = rng.below(3) == 0 ? 40 : 3;
        const std::vector<float> s = rng.normals(n, spread), t = rng.normals(n, spread);
        std::vector<uint16_t> half(static_cast<size_t>(n));
        quantize_kernels().narrow_bf16(t.data(), n, half.data());
        const bool narrow = rng.below(2);
        std::vector<float> grad(static_cast<size_t>(n)), each(static_cast<size_t>(samples));
        double want[3] = {0, 0, 0}, got[3] = {0, 0, 0};
        LogitLoss l = {};
        l.samples = samples;
        l.classes = classes;
        l.temperature = rng.below(2) ? 1 : rng.uniform(0.5f, 6);
        l.reduction = reduction;
        l.threads = 1;
        LogitLoss on_cpu = l;
        on_cpu.student = {s.data(), false};
        on_cpu.teacher = narrow ? Logits{half.data(), true} : Logits{t.data(), false};
        on_cpu.grad = grad.data();
        on_cpu.losses = each.data();
        on_cpu.result = want;
        const WhittleStatus expected = distill_js(on_cpu);
        const Device<float> ds(s), dt(t), dgrad(n), deach(samples);
        const Device<uint16_t> dhalf(half);
        LogitLoss on_device = l;
        on_device.student = {static_cast<float*>(ds), false};
        on_device.teacher = narrow ? Logits{static_cast<uint16_t*>(dhalf), true} : Logits{static_cast<float*>(dt), false};
        on_device.grad = dgrad;
        on_device.losses = deach;
        on_device.result = got;
        const WhittleStatus status = cuda.js(0, on_device);
        c.expect(status == expected && status == WHITTLE_OK, "status %d, %d on the CPU", status, expected);
        c.expect(fabs(got[0] - want[0]) <= 1e-5 * (1 + fabs(want[0])), "loss %g, %g on the CPU", got[0], want[0]);
        const std::vector<float> g = dgrad.host(), e = deach.host();
        for (size_t i = 0; i < g.size(); i++)
          if (!c.expect(fabsf(g[i] - grad[i]) <= 4e-6f / static_cast<float>(l.temperature), "%d classes: gradient %d is %g, not %g", int(classes), int(i), g[i], grad[i])) return;
        for (size_t i = 0; reduction == kDistillNone && i < e.size(); i++) c.expect(fabsf(e[i] - each[i]) <= 1e-5f, "loss %d", int(i));
      }
    const Device<float> bad(std::vector<float>{1, NAN, 2}), good(std::vector<float>{1, 2, 3}), dgrad(3);
    double result[3];
    LogitLoss l = {};
    l.samples = 1;
    l.classes = 3;
    l.temperature = 1;
    l.student = {static_cast<float*>(good), false};
    l.teacher = {static_cast<float*>(bad), false};
    l.grad = dgrad;
    l.result = result;
    c.expect(cuda.js(0, l) == WHITTLE_NONFINITE, "a NaN");
  });

  c.row("distill: finds NaN, infinities and labels that are no class", [&](Rng& rng) {
    for (const int64_t classes : {int64_t(7), int64_t(1500)}) {
      const int64_t samples = 4, n = samples * classes;
      const Device<float> grad(n), losses(samples);
      double result[3];
      LogitLoss l = {};
      l.samples = samples;
      l.classes = classes;
      l.temperature = 2;
      l.alpha = 0.5;
      l.reduction = kDistillMean;
      l.grad = grad;
      l.losses = losses;
      l.result = result;
      for (const float bad : {NAN, INFINITY, -INFINITY}) {
        std::vector<float> x = rng.normals(n);
        const Device<float> good(x);
        x[static_cast<size_t>(rng.below(n))] = bad;
        const Device<float> wrong(x);
        const Device<int32_t> labels(std::vector<int32_t>(4, 1));
        l.labels = labels;
        l.student = {static_cast<float*>(wrong), false};
        l.teacher = {static_cast<float*>(good), false};
        c.expect(cuda.kl(0, l) == WHITTLE_NONFINITE && cuda.cross_entropy(0, l) == WHITTLE_NONFINITE, "%g in the student", bad);
        l.student = {static_cast<float*>(good), false};
        l.teacher = {static_cast<float*>(wrong), false};
        c.expect(cuda.kl(0, l) == WHITTLE_NONFINITE, "%g in the teacher", bad);
      }
      const Device<float> x(rng.normals(n));
      l.student = l.teacher = {static_cast<float*>(x), false};
      for (const int32_t y : {-1, static_cast<int32_t>(classes), INT32_MAX, INT32_MIN}) {
        const Device<int32_t> labels(std::vector<int32_t>{0, 1, y, 1});
        l.labels = labels;
        c.expect(cuda.cross_entropy(0, l) == WHITTLE_RANGE && cuda.kl(0, l) == WHITTLE_RANGE, "label %d", y);
      }
    }
  });
}

}  // namespace whittle
