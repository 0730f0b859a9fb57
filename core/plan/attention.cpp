// The attention step.
#include "core/attention.h"
#include "core/cuda_net.h"
#include "core/plan/reader.h"

namespace whittle {
namespace {

struct Attention final : Step {
  AttentionProblem p;
  Operand q, k, v, mask, out;
  AttentionProblem bind(const RunContext& c) const {
    AttentionProblem x = p;
    x.q.data = c.at<const float>(q);
    x.k.data = c.at<const float>(k);
    x.v.data = c.at<const float>(v);
    x.mask.data = c.at<const float>(mask);
    x.out = c.at<float>(out);
    return x;
  }
  WhittleStatus run(const RunContext& c) const override { return attention_f32(bind(c), c.threads); }
  const char* lacking() const override { return p.depth > kCudaHead || p.wide > kCudaHead ? "has heads of more than 128 columns" : nullptr; }
  void queue(const CudaNet& net, CudaTurn* turn, const RunContext& c) const override { net.attention(turn, bind(c)); }
};

// Floats from the first to the last element of a walk; -1 if they leave 2^40.
int64_t span(std::initializer_list<int64_t> dims, std::initializer_list<int64_t> strides) {
  int64_t last = 0;
  const int64_t* s = strides.begin();
  for (int64_t d : dims) {
    if (d == 0) return 0;
    const int64_t far = plan_product({d - 1, *s++});
    if (far < 0) return -1;
    last += far;
  }
  return last + 1;
}

}  // namespace

// batch heads rows keys depth wide | scale, forgiving | q, k, v, mask?, of each its strides (batch head row col) and memory |
// strides of the result (batch head row), its memory
Step* make_attention(PlanReader& r) {
  auto s = std::make_unique<Attention>();
  AttentionProblem& p = s->p;
  for (int64_t* n : {&p.batch, &p.heads, &p.rows, &p.keys, &p.depth, &p.wide}) *n = r.within(0, int64_t(1) << 31);
  p.scale = r.real();
  p.forgiving = r.within(0, 1) != 0;
  const auto matrix = [&](AttentionMatrix& m, int64_t rows, int64_t cols, bool optional) {
    for (int64_t* n : {&m.batch, &m.head, &m.row, &m.col}) *n = r.size();
    r.require(optional || m.row == 1 || m.col == 1, "a matrix without contiguous side");
    return r.floats(span({p.batch, p.heads, rows, cols}, {m.batch, m.head, m.row, m.col}), optional);
  };
  s->q = matrix(p.q, p.rows, p.depth, false);
  s->k = matrix(p.k, p.depth, p.keys, false);
  s->v = matrix(p.v, p.keys, p.wide, false);
  s->mask = matrix(p.mask, p.rows, p.keys, true);
  for (int64_t* n : {&p.out_batch, &p.out_head, &p.out_row}) *n = r.size();
  r.require(p.out_row >= p.wide, "rows that overlap");
  s->out = r.floats(span({p.batch, p.heads, p.rows, p.wide}, {p.out_batch, p.out_head, p.out_row, 1}));
  return s.release();
}

}  // namespace whittle
