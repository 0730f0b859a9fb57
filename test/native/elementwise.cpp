// Elementwise operations of every variant against scalar, and programs of the driver against a plain walk.
#include <math.h>
#include <string.h>

#include "core/elementwise.h"
#include "test/native/activation.h"
#include "test/native/harness.h"

namespace whittle {
namespace {

const char* const kNames[] = {
#define WHITTLE_ELEMENTWISE(name, operands) #name,
#include "core/elementwise.inc"
#undef WHITTLE_ELEMENTWISE
};
const int kOperands[] = {
#define WHITTLE_ELEMENTWISE(name, operands) operands,
#include "core/elementwise.inc"
#undef WHITTLE_ELEMENTWISE
};

bool close(int op, float x, float got, float want) {
  if (got == want || (isnan(got) && isnan(want))) return true;
  const int kind = op == kElementwise_silu ? kActivationSilu : op == kElementwise_gelu ? kActivationGelu : op == kElementwise_gelu_tanh ? kActivationGeluTanh : 0;
  if (kind) return signbit(got) == signbit(want) && isfinite(x) && fabs(double(got) - want) <= activation_slack(kind, x, want);
  if (op == kElementwise_sin || op == kElementwise_cos) return fabsf(got - want) <= 0x1p-23f * fabsf(want);
  return fabsf(got - want) <= 16 * kActivationError * fabsf(want) + 1e-37f;
}

float extreme(Rng& rng) {
  static const float kSpecial[] = {0.0f, -0.0f, INFINITY, -INFINITY, NAN, 1e-40f, 3e38f, -3e38f, 88.8f, -104.0f, 0.5f, 1.5f, 2.5f, -3.0f, 3.0f};
  return rng.below(6) == 0 ? kSpecial[rng.below(15)] : rng.normal() * (rng.below(4) ? 4.0f : 3000.0f);
}

}  // namespace

WHITTLE_CHECK(elementwise) {
  each_variant(h, elementwise_variants(), [&](const ElementwiseKernels& ref, const ElementwiseKernels& got) {
    for (int op = 0; op < kElementwiseOps; op++) {
      if (got.apply[op] == ref.apply[op] && op != kElementwise_add) continue;
      h.row(kNames[op], [&] {
        Rng rng = h.rng();
        for (int64_t n : sizes_around(16)) {
          for (int64_t shift = 0; shift < 2; shift++) {
            Guarded<float> a(n, shift), b(n, 1 - shift), want(n), out(n, shift);
            for (int64_t i = 0; i < n; i++) {
              a[i] = extreme(rng);
              b[i] = extreme(rng);
            }
            const float p = 0.25f, q = op == kElementwise_clip ? 2.0f : 0.5f;
            ref.apply[op](n, a.data(), b.data(), p, q, want.data());
            got.apply[op](n, a.data(), b.data(), p, q, out.data());
            for (int64_t i = 0; i < n; i++)
              if (!h.expect(close(op, a[i], out[i], want[i]), "n %lld, element %lld: (%g, %g) gives %g, want %g", (long long)n, (long long)i,
                            a[i], kOperands[op] > 1 ? b[i] : 0.0f, out[i], want[i]))
                return;
            h.expect(out.intact(), "wrote outside of the result");
          }
        }
      });
    }
  });

  h.row("programs walk broadcast operands", [&] {
    Rng rng = h.rng();
    for (int round = 0; round < (h.lean() ? 40 : 300); round++) {
      ElementwiseProgram p;
      p.rank = static_cast<int32_t>(rng.between(1, 4));
      int64_t count = 1;
      for (int k = 0; k < p.rank; k++) {
        p.dims[k] = rng.below(3) == 0 ? rng.between(1, 3) : rng.between(1, k + 1 == p.rank && rng.below(4) == 0 ? 1500 : 24);
        count *= p.dims[k];
      }
      if (count > 200000) continue;
      p.inputs = static_cast<int32_t>(rng.between(1, 3));
      std::vector<std::vector<float>> data;
      const void* at[3];
      for (int i = 0; i < p.inputs; i++) {
        // A random order of axes and random repeats.
        int order[4] = {0, 1, 2, 3};
        for (int k = p.rank - 1; k > 0; k--) std::swap(order[k], order[rng.below(2) ? k : rng.below(k + 1)]);
        int64_t step = 1;
        for (int k = p.rank - 1; k >= 0; k--) {
          const bool repeat = rng.below(3) == 0;
          p.strides[i][order[k]] = repeat ? 0 : step;
          if (!repeat) step *= p.dims[order[k]];
        }
        data.emplace_back(step);
        for (float& v : data.back()) v = rng.normal();
      }
      for (int i = 0; i < p.inputs; i++) at[i] = data[static_cast<size_t>(i)].data();
      // sum of all, squared, minus the first
      int32_t last = 0;
      for (int32_t i = 1; i < p.inputs; i++) {
        p.steps.push_back({kElementwise_add, last, i, p.inputs + i, 0, 0});
        last = p.inputs + i;
      }
      p.steps.push_back({kElementwise_square, last, last, 10, 0, 0});
      p.steps.push_back({kElementwise_sub, 10, 0, 11, 0, 0});
      std::vector<float> want(static_cast<size_t>(count));
      for (int64_t t = 0; t < count; t++) {
        float v[3];
        for (int i = 0; i < p.inputs; i++) {
          int64_t rest = t, offset = 0;
          for (int k = p.rank - 1; k >= 0; k--) {
            offset += rest % p.dims[k] * p.strides[i][k];
            rest /= p.dims[k];
          }
          v[i] = static_cast<const float*>(at[i])[offset];
        }
        float s = v[0];
        for (int i = 1; i < p.inputs; i++) s += v[i];
        want[static_cast<size_t>(t)] = s * s - v[0];
      }
      Guarded<float> out(count);
      elementwise_simplify(&p);
      h.expect(elementwise_run(p, at, out.data(), static_cast<int>(rng.between(1, 2))) == WHITTLE_OK, "refused");
      for (int64_t t = 0; t < count; t++)
        if (!h.expect(out[t] == want[static_cast<size_t>(t)], "element %lld of %lld: %g, want %g", (long long)t, (long long)count, out[t], want[static_cast<size_t>(t)]))
          return;
      h.expect(out.intact(), "wrote outside of the result");
    }
  });
}

}  // namespace whittle
