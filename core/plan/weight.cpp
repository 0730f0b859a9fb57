// Steps over weights that lie as 4- or 8-bit codes with scales while activations are floats.
#include <algorithm>
#include <atomic>

#include "core/gemm_weight.h"
#include "core/plan/reader.h"
#include "core/quantize.h"
#include "core/scratch.h"
#include "core/threads.h"

namespace whittle {
namespace {

struct GemmWeightStep final : Step {
  Operand a, weight, bias, out;
  int64_t m;
  Activation activation;
  WhittleStatus run(const RunContext& c) const override {
    WeightArgs g;
    g.w = c.at<const PackedWeight>(weight);
    g.m = m;
    g.a = c.at<const float>(a);
    g.bias = c.at<const float>(bias);
    g.activation = activation;
    g.out = c.at<float>(out);
    g.threads = c.threads;
    return gemm_weight(gemm_weight_kernels(), g);
  }
};

// Rows of a matrix of codes, as floats. Every `rows_each` rows share a list of `list` scales (0: all rows do); each of a
// row's scales is good for `run` elements.
struct GatherCodes final : Step {
  Operand x, scale, zero, index, out;
  int64_t rows, inner, count, rows_each, list, run_length;
  bool wide, four, sign;

  void row(const QuantizeKernels& k, const RunContext& c, int64_t r, uint8_t* spare, const int32_t* none, float* to) const {
    const uint8_t* codes = c.at<const uint8_t>(x);
    if (four) {
      k.unpack4(codes + r * inner / 2, sign, inner, spare);
      codes = spare;
    } else {
      codes += r * inner;
    }
    const int64_t first = rows_each ? r / rows_each * list : 0;
    const int32_t* zeros = c.at<const int32_t>(zero);
    QuantizeStep step = {};
    step.scale = c.at<const float>(scale) + first;
    step.zero = zeros ? zeros + first : none;
    if (run_length == 1) return k.values8_columns(codes, sign, 1, inner, inner, &step, to);
    const int64_t whole = inner / run_length, at = whole * run_length;
    k.values8(codes, sign, whole, run_length, &step, to);
    if (at == inner) return;
    step.scale += whole;
    step.zero += whole;
    k.values8(codes + at, sign, 1, inner - at, &step, to + at);
  }

  WhittleStatus run(const RunContext& c) const override {
    const QuantizeKernels& k = quantize_kernels();
    const int64_t* wides = c.at<const int64_t>(index);
    const int32_t* shorts = c.at<const int32_t>(index);
    std::atomic<int> failed{0};
    parallel_for(count, std::max<int64_t>(1, (16 << 10) / (inner + 1)), c.threads, [&](int64_t b, int64_t e) {
      static thread_local Scratch scratch;
      uint8_t* spare = static_cast<uint8_t*>(scratch.take(inner + 64 + list * 4));
      if (!spare) return failed.store(WHITTLE_OUT_OF_MEMORY);
      int32_t* none = reinterpret_cast<int32_t*>(spare + (inner + 63) / 64 * 64);
      std::fill(none, none + list, 0);
      for (int64_t i = b; i < e; i++) {
        int64_t at = wide ? wides[i] : shorts[i];
        if (at < 0) at += rows;
        if (at < 0 || at >= rows) return failed.store(WHITTLE_RANGE);
        row(k, c, at, spare, none, c.at<float>(out) + i * inner);
      }
    });
    return static_cast<WhittleStatus>(failed.load());
  }
};

}  // namespace

// m n k | activation | a, packed, bias?, out
Step* make_gemm_weight(PlanReader& r) {
  auto s = std::make_unique<GemmWeightStep>();
  s->m = r.size();
  const int64_t n = r.size(), k = r.size();
  s->activation = r.activation();
  s->a = r.floats(plan_product({s->m, k}));
  s->weight = r.packed_weight(k, n);
  s->bias = r.floats(n, true);
  s->out = r.floats(plan_product({s->m, n}));
  return s.release();
}

// rows, elements of one, indices, whether they are int64 | rows that share scales or 0, scales of a row, elements of one |
// bits, signed | codes, scale, zero?, index, out
Step* make_gather_codes(PlanReader& r) {
  auto s = std::make_unique<GatherCodes>();
  s->rows = r.size();
  s->inner = r.size();
  s->count = r.size();
  s->wide = r.within(0, 1) != 0;
  s->rows_each = r.size();
  s->list = r.size();
  s->run_length = r.within(1, int64_t(1) << 40);
  s->four = r.within(4, 8) == 4;
  s->sign = r.within(0, 1) != 0;
  if (!r.ok()) return nullptr;
  const int64_t codes = plan_product({s->rows, s->inner});
  const int64_t lists = s->rows_each ? (s->rows + s->rows_each - 1) / s->rows_each : 1;
  const int64_t need = (s->inner + s->run_length - 1) / s->run_length;
  if (!r.require(codes >= 0 && need <= s->list && (!s->four || s->inner % 2 == 0), "scales that do not fit")) return nullptr;
  s->x = r.operand(s->four ? codes / 2 : codes);
  s->scale = r.floats(plan_product({lists, s->list}));
  s->zero = r.floats(plan_product({lists, s->list}), true);
  s->index = r.operand(plan_product({s->count, s->wide ? 8 : 4}));
  s->out = r.floats(plan_product({s->count, s->inner}));
  return s.release();
}

}  // namespace whittle
