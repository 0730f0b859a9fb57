// The step of a recurrent layer: one or two directions.
#include "core/recurrent.h"
#include "core/cuda_net.h"
#include "core/plan/reader.h"

namespace whittle {
namespace {

struct Direction {
  RecurrentProblem p;
  Operand xw, r, r_h;
  int64_t at;  // which of two
};

struct Recurrent final : Step {
  std::vector<Direction> directions;
  Operand bias, peephole, lengths, h0, c0, y, y_h, y_c;
  RecurrentProblem bind(const RunContext& c, const Direction& d) const {
    RecurrentProblem p = d.p;
    const int64_t state = p.batch * p.hidden, gates = recurrent_gates(p.kind) * p.hidden;
    const auto part = [&](const Operand& o, int64_t size) -> float* {
      float* at = c.at<float>(o);
      return at ? at + d.at * size : nullptr;
    };
    p.xw = c.at<const float>(d.xw);
    p.r = c.at<const float>(d.r);
    p.r_h = c.at<const float>(d.r_h);
    p.bias = part(bias, 2 * gates);
    p.peephole = part(peephole, 3 * p.hidden);
    p.lengths = c.at<const int32_t>(lengths);
    p.h0 = part(h0, state);
    p.c0 = part(c0, state);
    p.y = part(y, state);
    p.y_step = state * static_cast<int64_t>(directions.size());
    p.y_h = part(y_h, state);
    p.y_c = part(y_c, state);
    return p;
  }
  WhittleStatus run(const RunContext& c) const override {
    for (const Direction& d : directions) {
      const RecurrentProblem p = bind(c, d);
      for (int64_t b = 0; p.lengths && b < p.batch; b++)
        if (p.lengths[b] < 0 || p.lengths[b] > p.steps) return WHITTLE_RANGE;
      const WhittleStatus s = recurrent_f32(p, c.threads);
      if (s != WHITTLE_OK) return s;
    }
    return WHITTLE_OK;
  }
  const char* lacking() const override {
    return directions.empty() || directions[0].p.hidden <= kCudaUnits ? nullptr : "has layers of more than 1024 units";
  }
  void queue(const CudaNet& net, CudaTurn* turn, const RunContext& c) const override {
    for (const Direction& d : directions) {
      CudaRecurrent p;
      static_cast<RecurrentProblem&>(p) = bind(c, d);
      p.r_row = p.rh_row = 1;
      p.r_col = p.rh_col = p.hidden;
      if (p.packed) {
        p.r_row = d.r.row;
        p.r_col = d.r.col;
        p.rh_row = d.r_h.row;
        p.rh_col = d.r_h.col;
      }
      net.recurrent(turn, p);
    }
  }
};

}  // namespace

// kind, steps, batch, hidden, directions, input_forget, before_reset, clip, packed | of each direction: reverse,
// activations (kind, alpha, beta) x 3, xw, r, r of the last gate (gru) | bias?, peephole?, lengths?, h0?, c0?, y?, y_h?, y_c?
Step* make_recurrent(PlanReader& r) {
  auto s = std::make_unique<Recurrent>();
  RecurrentProblem p = {};
  p.kind = static_cast<RecurrentKind>(r.within(0, static_cast<int64_t>(RecurrentKind::count) - 1));
  p.steps = r.within(0, int64_t(1) << 31);
  p.batch = r.within(0, int64_t(1) << 31);
  p.hidden = r.within(1, int64_t(1) << 24);
  const int64_t directions = r.within(1, 2);
  p.input_forget = r.within(0, 1) != 0;
  p.before_reset = r.within(0, 1) != 0;
  p.clip = r.real();
  p.packed = r.within(0, 1) != 0;
  const int64_t gates = recurrent_gates(p.kind) * p.hidden;
  const bool gru = p.kind == RecurrentKind::gru;
  const int64_t first = gru ? 2 * p.hidden : gates;
  for (int64_t i = 0; i < directions && r.ok(); i++) {
    Direction d = {};
    d.p = p;
    d.at = i;
    d.p.reverse = r.within(0, 1) != 0;
    for (Gate* g : {&d.p.f, &d.p.g, &d.p.h}) {
      g->kind = static_cast<GateKind>(r.within(0, static_cast<int64_t>(GateKind::count) - 1));
      g->alpha = r.real();
      g->beta = r.real();
    }
    d.xw = r.floats(plan_product({p.steps, p.batch, gates}));
    const auto weights = [&](int64_t n) { return p.packed ? r.packed(1, p.hidden, n) : r.floats(plan_product({n, p.hidden})); };
    d.r = weights(first);
    if (gru) d.r_h = weights(p.hidden);
    s->directions.push_back(d);
  }
  const int64_t state = plan_product({directions, p.batch, p.hidden});
  s->bias = r.floats(plan_product({directions, 2, gates}), true);
  s->peephole = r.floats(plan_product({directions, 3, p.hidden}), true);
  s->lengths = r.operand(plan_product({p.batch, 4}), true);
  s->h0 = r.floats(state, true);
  s->c0 = r.floats(state, true);
  s->y = r.floats(plan_product({p.steps, directions, p.batch, p.hidden}), true);
  s->y_h = r.floats(state, true);
  s->y_c = r.floats(state, true);
  return s.release();
}

}  // namespace whittle
