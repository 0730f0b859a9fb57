// Losses on features and relations against the CPU's drivers, whose products are summed in double here: what differs is the
// device's.
#include <float.h>

#include "check.h"
#include "core/gemm.h"

namespace whittle {

// The reference's products.
const GemmEngine& gemm_default() {
  static const GemmEngine none = {};
  return none;
}
WhittleStatus gemm_f32(const GemmProblem& p, int, const GemmEngine&) {
  for (int64_t i = 0; i < p.m; i++)
    for (int64_t j = 0; j < p.n; j++) {
      double sum = p.bias ? p.bias[j] : 0;
      for (int64_t k = 0; k < p.k; k++) sum += double(p.a[i * p.a_row + k * p.a_col]) * p.b[k * p.b_row + j * p.b_col];
      float& c = p.c[i * p.ldc + j];
      c = static_cast<float>(p.beta == 0 ? sum : sum + p.beta * c);
    }
  return WHITTLE_OK;
}

namespace {

double largest(const std::vector<float>& x) {
  double most = 0;
  for (const float v : x) most = std::max(most, fabs(double(v)));
  return most;
}

// Within `loose` of the largest element; gradients that cancel leave the rounding of their terms.
void expect_near(Check& c, const char* what, const std::vector<float>& got, const std::vector<float>& want, double loose, double left = 1e-9) {
  const double bound = loose * largest(want) + left;
  for (size_t i = 0; i < want.size(); i++)
    if (!c.expect(fabs(double(got[i]) - want[i]) <= bound, "%s: gradient %d of %d is %.9g, want %.9g", what, int(i), int(want.size()), got[i], want[i])) return;
}

void expect_loss(Check& c, const char* what, double got, double want, double loose) {
  c.expect(fabs(got - want) <= loose * fabs(want) + DBL_MIN, "%s: loss %.12g, want %.12g", what, got, want);
}

void one_feature(Check& c, Rng& rng, int64_t batch, int64_t cs, int64_t ct, int64_t n, bool regressed) {
  const std::vector<float> s = rng.normals(batch * cs * n), t = rng.normals(batch * ct * n), w = rng.normals(ct * cs);
  std::vector<float> grad(s.size()), by_weight(w.size());
  double want = 0, got = 0;
  FeatureLoss l = {};
  l.batch = batch;
  l.student_channels = cs;
  l.teacher_channels = ct;
  l.positions = n;
  l.threads = 1;
  FeatureLoss on_cpu = l;
  on_cpu.student = s.data();
  on_cpu.teacher = t.data();
  on_cpu.regressor = regressed ? w.data() : nullptr;
  on_cpu.grad = grad.data();
  on_cpu.grad_regressor = by_weight.data();
  on_cpu.result = &want;
  const WhittleStatus expected = distill_feature(on_cpu);
  const Device<float> ds(s), dt(t), dw(w), dgrad(static_cast<int64_t>(s.size())), dby(static_cast<int64_t>(w.size()));
  FeatureLoss on_device = l;
  on_device.student = ds;
  on_device.teacher = dt;
  on_device.regressor = regressed ? static_cast<float*>(dw) : nullptr;
  on_device.grad = dgrad;
  on_device.grad_regressor = dby;
  on_device.result = &got;
  const WhittleStatus status = c.cuda().feature(0, on_device);
  if (!c.expect(status == expected && status == WHITTLE_OK, "[%d, %d -> %d, %d]: status %d, want %d (%s)", int(batch), int(cs), int(ct), int(n), status, expected, c.cuda().error())) return;
  // Without a regressor nothing is rounded but the results.
  const double loose = regressed ? 1e-5 : 0x1p-23;
  expect_loss(c, "feature", got, want, regressed ? 1e-5 : 1e-12);
  expect_near(c, "feature", dgrad.host(), grad, loose);
  if (regressed) expect_near(c, "regressor", dby.host(), by_weight, loose);
}

void one_attention(Check& c, Rng& rng, int64_t batch, int64_t cs, int64_t ct, int64_t n) {
  std::vector<float> s = rng.normals(batch * cs * n), t = rng.normals(batch * ct * n);
  // a map of zeros
  if (rng.below(4) == 0) std::fill(s.begin(), s.begin() + static_cast<size_t>(cs * n), 0.0f);
  std::vector<float> grad(s.size());
  double want = 0, got = 0;
  AttentionLoss l = {};
  l.batch = batch;
  l.student_channels = cs;
  l.teacher_channels = ct;
  l.positions = n;
  l.power = static_cast<int32_t>(rng.between(1, 5));
  l.mean_form = rng.below(2);
  l.threads = 1;
  AttentionLoss on_cpu = l;
  on_cpu.student = s.data();
  on_cpu.teacher = t.data();
  on_cpu.grad = grad.data();
  on_cpu.result = &want;
  const WhittleStatus expected = distill_attention(on_cpu);
  const Device<float> ds(s), dt(t), dgrad(static_cast<int64_t>(s.size()));
  AttentionLoss on_device = l;
  on_device.student = ds;
  on_device.teacher = dt;
  on_device.grad = dgrad;
  on_device.result = &got;
  const WhittleStatus status = c.cuda().attention(0, on_device);
  if (!c.expect(status == expected && status == WHITTLE_OK, "[%d, %d, %d]: status %d, want %d", int(batch), int(cs), int(n), status, expected)) return;
  // Maps are rounded to float32 twice.
  expect_loss(c, "attention", got, want, 1e-5);
  expect_near(c, "attention", dgrad.host(), grad, 1e-5);
}

void one_relation(Check& c, Rng& rng, int32_t kind, int64_t n, int64_t size, int64_t other) {
  const char* const names[] = {"distance", "angle", "similarity", "correlation"};
  std::vector<float> s = rng.normals(n * size), t = rng.normals(n * other);
  // Far from the origin, as features of one sign are; points that coincide.
  if (kind < 2 && rng.below(2))
    for (float& v : s) v += 30;
  if (n > 2 && rng.below(2)) std::copy(s.begin(), s.begin() + static_cast<ptrdiff_t>(size), s.begin() + static_cast<ptrdiff_t>(2 * size));
  if (kind > 1 && rng.below(3) == 0) std::fill(t.begin(), t.begin() + static_cast<ptrdiff_t>(other), 0.0f);
  std::vector<float> grad(s.size());
  double want = 0, got = 0;
  RelationLoss l = {};
  l.kind = kind;
  l.samples = n;
  l.student_size = size;
  l.teacher_size = other;
  l.delta = rng.below(2) ? 1 : 0.2;
  l.gamma = rng.uniform(0.1f, 1.5f);
  l.order = static_cast<int32_t>(rng.between(1, 6));
  l.threads = 1;
  RelationLoss on_cpu = l;
  on_cpu.student = s.data();
  on_cpu.teacher = t.data();
  on_cpu.grad = grad.data();
  on_cpu.result = &want;
  const WhittleStatus expected = distill_relation(on_cpu);
  const Device<float> ds(s), dt(t), dgrad(static_cast<int64_t>(s.size()));
  RelationLoss on_device = l;
  on_device.student = ds;
  on_device.teacher = dt;
  on_device.grad = dgrad;
  on_device.result = &got;
  const WhittleStatus status = c.cuda().relation(0, on_device);
  if (!c.expect(status == expected && status == WHITTLE_OK, "%s [%d, %d]: status %d, want %d (%s)", names[kind], int(n), int(size), status, expected, c.cuda().error())) return;
  // Distances and angles are float64 up to M and the product with it.
  // Where a loss of cosines vanishes, it is rounding on both sides.
  const bool vanishes = kind > 1 && fabs(want) < 1e-12 && fabs(got) < 1e-12;
  if (!vanishes) expect_loss(c, names[kind], got, want, kind < 2 ? 1e-9 : 2e-5);
  // Of few samples the gradient may vanish: then it is what float32 leaves of terms of size 1.
  expect_near(c, names[kind], dgrad.host(), grad, 2e-5, n <= 3 ? 3e-7 : 1e-9);
}

}  // namespace

bool has_products(Check& c) {
  const Device<float> x(std::vector<float>{1}), y(1);
  CudaGemm g = {};
  g.m = g.n = g.k = g.batch = 1;
  g.alpha = 1;
  g.a = g.b = static_cast<float*>(x);
  g.y = static_cast<float*>(y);
  return c.cuda().gemm(0, g) == WHITTLE_OK;
}

void check_distill_features(Check& c) {
  // Without cuBLASLt there is a reason instead of products.
  const bool products = has_products(c);
  c.row("features: hints with and without a regressor, as on the CPU", [&](Rng& rng) {
    for (int turn = 0; turn < (c.lean() ? 1 : 5); turn++) {
      if (products) {
        one_feature(c, rng, rng.between(1, 9), rng.between(1, 20), rng.between(1, 20), 1, true);
        one_feature(c, rng, rng.between(1, 5), rng.between(1, 9), rng.between(1, 9), rng.between(2, 40), true);
      }
      const int64_t channels = rng.between(1, 9);
      one_feature(c, rng, rng.between(1, 3), channels, channels, rng.between(1, 700), false);
    }
    one_feature(c, rng, 1, 1, 1, 1, false);
  });
  c.row("features: attention maps, as on the CPU", [&](Rng& rng) {
    for (const int64_t n : {int64_t(1), int64_t(31), int64_t(33), int64_t(49), int64_t(300)})
      if (!c.lean() || n == 33 || n == 300) one_attention(c, rng, rng.between(1, 4), rng.between(1, 19), rng.between(1, 19), n);
  });
  if (!products) return;
  const char* const rows[] = {"features: relations by distance, as on the CPU", "features: relations by angle, as on the CPU",
                              "features: similarity, as on the CPU", "features: correlation, as on the CPU"};
  for (int32_t kind = 0; kind < 4; kind++)
    c.row(rows[kind], [&](Rng& rng) {
      for (const int64_t n : {int64_t(2), int64_t(3), int64_t(16), int64_t(17), int64_t(33)})
        // Angles of points on a line are those of any other: nothing but rounding pulls.
        if (!c.lean() || n == 3 || n == 17) one_relation(c, rng, kind, n, rng.between(kind == kRelationAngle ? 2 : 1, 40), rng.between(1, 40));
      if (kind > 1) one_relation(c, rng, kind, 1, 5, 3);
      if (!c.lean()) one_relation(c, rng, kind, 5, 700, 3);
    });
  c.row("features: numbers that are not finite, and allocations that fail", [&](Rng& rng) {
    const CudaBackend& cuda = c.cuda();
    const int64_t n = 6, size = 12;
    const Device<float> good(rng.normals(n * size)), grad(n * size), weights(rng.normals(16)), by_weight(16);
    double result = 0;
    const auto all = [&](const float* s, const float* t, bool failing) {
      int odd = 0;
      const auto note = [&](WhittleStatus status) {
        c.expect(status == WHITTLE_NONFINITE || (failing && (status == WHITTLE_OUT_OF_MEMORY || status == WHITTLE_OK)), "status %d", status);
        odd += status == (failing ? WHITTLE_OUT_OF_MEMORY : WHITTLE_NONFINITE);
      };
      for (int32_t kind = 0; kind < 4; kind++) {
        RelationLoss r = {kind, n, size, size, s, t, 1, 0.4, 2, 1, grad, &result};
        note(cuda.relation(0, r));
      }
      AttentionLoss a = {3, 4, 4, 6, s, t, 2, true, 1, grad, &result};
      note(cuda.attention(0, a));
      FeatureLoss f = {3, 4, 4, 6, s, t, nullptr, 1, grad, nullptr, &result};
      note(cuda.feature(0, f));
      f.regressor = weights;
      f.grad_regressor = by_weight;
      note(cuda.feature(0, f));
      return odd;
    };
    for (const float bad : {NAN, INFINITY}) {
      std::vector<float> x = rng.normals(n * size);
      x[static_cast<size_t>(rng.below(n * size))] = bad;
      const Device<float> wrong(x);
      c.expect(all(wrong, good, false) == 7 && all(good, wrong, false) == 7, "%g", bad);
    }
    if (c.real()) return;
    int failures = 0;
    for (int64_t at = 0; at < (c.lean() ? 6 : 20); at++) {
      // every operation counts its own allocations
      for (int32_t kind = 0; kind < 4; kind++) {
        RelationLoss r = {kind, n, size, size, good, good, 1, 0.4, 2, 1, grad, &result};
        fake::options().fail_allocation = fake::allocations() + at;
        const WhittleStatus status = cuda.relation(0, r);
        fake::options().fail_allocation = -1;
        c.expect(status == WHITTLE_OK || status == WHITTLE_OUT_OF_MEMORY, "allocation %d: status %d", int(at), status);
        failures += status == WHITTLE_OUT_OF_MEMORY;
      }
    }
    c.expect(failures >= (c.lean() ? 22 : 40), "%d allocations failed", failures);
  });
}

}  // namespace whittle
