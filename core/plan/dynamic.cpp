// Products of codes whose scale and zero point are found while the plan runs: DynamicQuantizeLinear, MatMulInteger and the
// scales, bias and activation behind them.
#include <math.h>

#include "core/cuda.h"
#include "core/gemm.h"
#include "core/gemm_int8.h"
#include "core/plan/reader.h"
#include "core/quantize.h"
#include "core/sparse_weights.h"

namespace whittle {
namespace {

struct GemmDynamic final : Step {
  GemmInt8Args g;
  Operand a, a_scale, a_zero, weight, scales, bias, residual, out, range;
  // Whoever reads the range on a device finds it anew.
  const char* lacking() const override { return weight.sparse ? "has sparse weights" : nullptr; }
  void queue(const CudaNet& net, CudaTurn* turn, const RunContext& c) const override {
    CudaInt8 q = cuda_product(g);
    q.a = c.at<const uint8_t>(a);
    q.a_scale_at = c.at<const float>(a_scale);
    q.a_zero_at = c.at<const uint8_t>(a_zero);
    q.b = c.at<const uint8_t>(weight);
    q.b_row = 1;
    q.b_col = cuda_int8_row(g.k);
    q.sums = reinterpret_cast<const int32_t*>(q.b + g.n * q.b_col);
    q.scales = c.at<const float>(scales);
    q.bias = c.at<const float>(bias);
    q.residual = c.at<const float>(residual);
    q.out = c.at<void>(out);
    net.product_int8(turn, q);
  }
  WhittleStatus run(const RunContext& c) const override {
    GemmInt8Args q = g;
    q.a = c.at<const uint8_t>(a);
    const SparseMatrix* sparse = weight.sparse ? static_cast<const SparseMatrix*>(weight.fixed) : nullptr;
    if (!sparse) q.packed = c.at<const PackedInt8>(weight);
    q.a_scale = *c.at<const float>(a_scale);
    if (const uint8_t* z = c.at<const uint8_t>(a_zero)) q.a_zero = g.a_signed ? static_cast<int8_t>(*z) : *z;
    q.b_scales = c.at<const float>(scales);
    q.bias_float = c.at<const float>(bias);
    q.out = c.at<void>(out);
    float* bounds = c.at<float>(range);
    if (!sparse) {
      q.residual = c.at<const float>(residual);
      q.range = bounds;
    }
    q.threads = c.threads;
    WhittleStatus status = sparse ? sparse_gemm_int8(*sparse, q) : gemm_int8(gemm_int8_kernels(), q);
    if (status == WHITTLE_OK && sparse && bounds) {
      bounds[0] = bounds[1] = 0;
      if (quantize_kernels().range(c.at<const float>(out), 1, q.m * q.n, bounds, bounds + 1)) bounds[0] = bounds[1] = NAN;
    }
    if (status != WHITTLE_RANGE && status != WHITTLE_NONFINITE) return status;
    if (bounds) bounds[0] = bounds[1] = NAN;
    q.residual = nullptr;
    q.range = nullptr;
    // NaN and infinities among the floats, or products of scales that underflow, go where arithmetic takes them.
    q.out_type = kOutInt32;
    q.bias_float = nullptr;
    q.activation = {kActivationNone, 0, 0};
    status = sparse ? sparse_gemm_int8(*sparse, q) : gemm_int8(gemm_int8_kernels(), q);
    if (status != WHITTLE_OK) return status;
    float* y = c.at<float>(out);
    const int32_t* sums = c.at<const int32_t>(out);
    for (int64_t i = 0; i < q.m; i++)
      for (int64_t j = 0; j < q.n; j++) y[i * q.n + j] = static_cast<float>(sums[i * q.n + j]) * (q.a_scale * q.b_scales[j]);
    const GemmKernels& kernels = gemm_default().kernels;
    if (const float* add = c.at<const float>(residual)) {
      kernels.finish(q.m, q.n, y, q.n, c.at<const float>(bias), &q.activation);
      for (int64_t i = 0; i < q.m * q.n; i++) y[i] += add[i];
      kernels.finish(q.m, q.n, y, q.n, nullptr, &g.activation);
    } else {
      kernels.finish(q.m, q.n, y, q.n, c.at<const float>(bias), &g.activation);
    }
    return WHITTLE_OK;
  }
};

}  // namespace

// m n k | a signed | activation | a, its scale, its zero?, packed, scales, bias?, residual?, out, range?
Step* make_gemm_dynamic(PlanReader& r) {
  auto s = std::make_unique<GemmDynamic>();
  GemmInt8Args& g = s->g;
  g = {};
  g.m = r.size();
  g.n = r.size();
  g.k = r.size();
  g.batch = 1;
  g.a_signed = r.within(0, 1) != 0;
  g.activation = r.activation();
  g.out_type = kOutFloat32;
  g.out_scale = 1;
  s->a = r.operand(plan_product({g.m, g.k}));
  s->a_scale = r.floats(1);
  s->a_zero = r.operand(1, true);
  s->weight = r.packed_int8(g.k, g.n);
  s->scales = r.floats(g.n);
  s->bias = r.floats(g.n, true);
  s->residual = r.floats(plan_product({g.m, g.n}), true);
  s->out = r.floats(plan_product({g.m, g.n}));
  s->range = r.floats(2, true);
  // Where the product is refused, out holds other numbers before the residual is read.
  r.require(s->residual.place == Place::none || (!s->weight.sparse && (s->residual.place != s->out.place || s->residual.at != s->out.at)),
            "a residual that cannot be added");
  return s.release();
}

}  // namespace whittle
