// Steps without products: elementwise programs, pools, copies, rows.
#include <math.h>

#include <algorithm>

#include "core/cuda_net.h"
#include "core/elementwise.h"
#include "core/layout.h"
#include "core/norm.h"
#include "core/plan/reader.h"
#include "core/pool.h"
#include "core/threads.h"

namespace whittle {
namespace {

struct Elementwise final : Step {
  ElementwiseProgram program;
  std::vector<Operand> inputs;
  Operand out;

  WhittleStatus run(const RunContext& c) const override {
    const void* at[kElementwiseRegisters];
    for (size_t i = 0; i < inputs.size(); i++) at[i] = c.at<const void>(inputs[i]);
    return elementwise_run(program, at, c.at<void>(out), c.threads);
  }
  const char* lacking() const override { return nullptr; }
  void queue(const CudaNet& net, CudaTurn* turn, const RunContext& c) const override {
    CudaElementwise e = {};
    e.rank = program.rank;
    e.inputs = program.inputs;
    e.steps = static_cast<int32_t>(program.steps.size());
    e.size = 1;
    for (int k = 0; k < e.rank; k++) e.size *= e.dims[k] = static_cast<uint32_t>(program.dims[k]);
    for (int i = 0; i < e.inputs; i++) {
      for (int k = 0; k < e.rank; k++) e.strides[i][k] = static_cast<uint32_t>(program.strides[i][k]);
      e.input[i] = c.at<const void>(inputs[static_cast<size_t>(i)]);
      e.code[i] = program.code[i];
    }
    std::copy(program.steps.begin(), program.steps.end(), e.step);
    e.out_code = program.out_code;
    e.out = c.at<void>(out);
    net.elementwise(turn, e);
  }
};

struct PoolStep final : Step {
  Operand x, out;
  PoolProblem p;
  int64_t codes;  // 0: floats, 1: uint8, 2: int8
  PoolProblem bind(const RunContext& c) const {
    PoolProblem q = p;
    q.x = c.at<const float>(x);
    q.out = c.at<float>(out);
    return q;
  }
  WhittleStatus run(const RunContext& c) const override {
    if (codes) pool_codes(p, c.at<const uint8_t>(x), codes == 2, c.at<uint8_t>(out), c.threads);
    else pool_f32(bind(c), c.threads);
    return WHITTLE_OK;
  }
  const char* lacking() const override { return codes ? "takes maxima of codes" : nullptr; }
  void queue(const CudaNet& net, CudaTurn* turn, const RunContext& c) const override { net.pool(turn, bind(c)); }
};

struct Copy final : Step {
  Operand in, out;
  StridedCopy copy;
  int64_t from, to;  // bytes to the first element
  WhittleStatus run(const RunContext& c) const override {
    layout_copy(copy, c.at<const uint8_t>(in) + from, c.at<uint8_t>(out) + to, c.threads);
    return WHITTLE_OK;
  }
  const char* lacking() const override { return nullptr; }
  void queue(const CudaNet& net, CudaTurn* turn, const RunContext& c) const override {
    net.copy(turn, copy, c.at<const uint8_t>(in) + from, c.at<uint8_t>(out) + to);
  }
};

struct Fill final : Step {
  Operand out;
  int64_t count;
  float value;
  WhittleStatus run(const RunContext& c) const override {
    float* p = c.at<float>(out);
    std::fill(p, p + count, value);
    return WHITTLE_OK;
  }
  const char* lacking() const override { return nullptr; }
  void queue(const CudaNet& net, CudaTurn* turn, const RunContext& c) const override { net.fill(turn, count, value, c.at<float>(out)); }
};

struct Softmax final : Step {
  Operand x, out;
  int64_t rows, n;
  bool log;
  WhittleStatus run(const RunContext& c) const override {
    softmax_rows(rows, n, c.at<const float>(x), log, c.at<float>(out), c.threads);
    return WHITTLE_OK;
  }
  const char* lacking() const override { return nullptr; }
  void queue(const CudaNet& net, CudaTurn* turn, const RunContext& c) const override {
    net.softmax(turn, {rows, n, c.at<const float>(x), nullptr, nullptr, 0, log, true, c.at<float>(out)});
  }
};

struct LayerNorm final : Step {
  Operand x, gamma, beta, out, range;
  int64_t rows, n;
  bool centered;
  float epsilon;
  WhittleStatus run(const RunContext& c) const override {
    layer_rows(rows, n, centered, c.at<const float>(x), c.at<const float>(gamma), c.at<const float>(beta), epsilon, c.at<float>(out),
               c.at<float>(range), c.threads);
    return WHITTLE_OK;
  }
  // Whoever reads the range on a device finds it anew.
  const char* lacking() const override { return nullptr; }
  void queue(const CudaNet& net, CudaTurn* turn, const RunContext& c) const override {
    net.layer_norm(turn, {rows, n, c.at<const float>(x), c.at<const float>(gamma), c.at<const float>(beta), epsilon, false, centered, c.at<float>(out)});
  }
};

struct Reduce final : Step {
  Operand x, out;
  int64_t outer, n, inner;
  ReduceKind kind;
  WhittleStatus run(const RunContext& c) const override {
    return reduce_middle(kind, outer, n, inner, c.at<const float>(x), c.at<float>(out), c.threads) ? WHITTLE_OK : WHITTLE_OUT_OF_MEMORY;
  }
  const char* lacking() const override { return nullptr; }
  void queue(const CudaNet& net, CudaTurn* turn, const RunContext& c) const override {
    net.reduce(turn, kind, outer, n, inner, c.at<const float>(x), c.at<float>(out));
  }
};

// Lowest and highest offset of a walk over dims by strides; false if they leave 2^40.
bool walk(const int64_t* dims, const int64_t* strides, int rank, int64_t* low, int64_t* high) {
  *low = *high = 0;
  for (int k = 0; k < rank; k++) {
    const int64_t far = plan_product({dims[k] - 1, strides[k] < 0 ? -strides[k] : strides[k]});
    if (far < 0) return false;
    if (strides[k] < 0) *low -= far;
    else *high += far;
  }
  return *low > -(int64_t(1) << 41) && *high < (int64_t(1) << 41);
}

ElementwiseCode read_code(PlanReader& r) {
  ElementwiseCode c;
  c.kind = static_cast<int32_t>(r.within(0, 2));
  c.scale = r.real();
  c.zero = static_cast<int32_t>(r.within(-128, 255));
  return c;
}

Step* read_elementwise(PlanReader& r, bool coded) {
  auto s = std::make_unique<Elementwise>();
  ElementwiseProgram& p = s->program;
  const std::vector<int64_t> dims = r.list(kElementwiseRank);
  p.rank = static_cast<int32_t>(dims.size());
  int64_t count = 1;
  bool empty = false;
  for (size_t k = 0; k < dims.size(); k++) {
    p.dims[k] = dims[k];
    count = plan_product({count, dims[k]});
    if (dims[k] == 0) empty = true;
    if (!r.require(count >= 0, "sizes too large")) return nullptr;
  }
  p.inputs = static_cast<int32_t>(r.within(1, kElementwiseRegisters - 1));
  for (int i = 0; i < p.inputs && r.ok(); i++) {
    int64_t low = 0, high = 0;
    for (int k = 0; k < p.rank; k++) p.strides[i][k] = r.within(0, int64_t(1) << 40);
    if (!r.ok() || !r.require(empty || walk(p.dims, p.strides[i], p.rank, &low, &high), "strides too large")) return nullptr;
    if (coded) p.code[i] = read_code(r);
    s->inputs.push_back(r.operand(empty ? 0 : (high + 1) * (p.code[i].kind ? 1 : 4)));
  }
  const int64_t steps = r.within(1, 64);
  uint32_t known = (1u << p.inputs) - 1;
  for (int64_t i = 0; i < steps && r.ok(); i++) {
    ElementwiseStep e;
    e.op = static_cast<int32_t>(r.within(0, kElementwiseOps - 1));
    e.a = static_cast<int32_t>(r.within(0, kElementwiseRegisters - 1));
    e.b = static_cast<int32_t>(r.within(0, kElementwiseRegisters - 1));
    e.out = static_cast<int32_t>(r.within(p.inputs, kElementwiseRegisters - 1));
    e.p = r.real();
    e.q = r.real();
    r.require((known >> e.a & 1) && (known >> e.b & 1), "a register that holds nothing yet");
    known |= 1u << e.out;
    p.steps.push_back(e);
  }
  if (coded) p.out_code = read_code(r);
  s->out = r.operand(p.out_code.kind ? count : count * 4);
  elementwise_simplify(&p);
  return s.release();
}

}  // namespace

// dims | inputs, of each its strides and operand | steps, of each op a b out p q | out
Step* make_elementwise(PlanReader& r) { return read_elementwise(r, false); }

// The same with a code (kind, scale, zero) before each operand.
Step* make_elementwise_codes(PlanReader& r) { return read_elementwise(r, true); }

// n h w c oh ow | kh kw, strides, dilations, pad top and left | kind, whether padding counts | codes (0: floats, 1: uint8, 2: int8) | x, out
Step* make_pool(PlanReader& r) {
  auto s = std::make_unique<PoolStep>();
  PoolProblem& p = s->p;
  for (int64_t* v : {&p.n, &p.h, &p.w, &p.c, &p.oh, &p.ow}) *v = r.size();
  for (int64_t* v : {&p.kh, &p.kw, &p.stride_h, &p.stride_w, &p.dilation_h, &p.dilation_w}) *v = r.within(1, 1 << 20);
  p.pad_top = r.within(0, 1 << 20);
  p.pad_left = r.within(0, 1 << 20);
  p.pad_bottom = r.within(0, 1 << 20);
  p.pad_right = r.within(0, 1 << 20);
  p.average = r.within(0, 1) != 0;
  p.count_padding = r.within(0, 1) != 0;
  s->codes = r.within(0, p.average ? 0 : 2);
  if (!r.ok()) return nullptr;
  const int64_t size = s->codes ? 1 : 4;
  s->x = r.operand(plan_product({p.n, p.h, p.w, p.c, size}));
  s->out = r.operand(plan_product({p.n, p.oh, p.ow, p.c, size}));
  return s.release();
}

// bytes of an element | dims, strides in, strides out | first element in, out | in, out
Step* make_copy(PlanReader& r) {
  auto s = std::make_unique<Copy>();
  StridedCopy& c = s->copy;
  c.size = r.within(1, 8);
  r.require(c.size == 1 || c.size == 2 || c.size == 4 || c.size == 8, "an element of an odd size");
  const std::vector<int64_t> dims = r.list(kLayoutRank);
  c.rank = static_cast<int32_t>(dims.size());
  bool empty = false;
  for (int k = 0; k < c.rank; k++) {
    c.dims[k] = dims[static_cast<size_t>(k)];
    r.require(c.dims[k] >= 0, "a negative size");
    if (c.dims[k] == 0) empty = true;
  }
  for (int k = 0; k < c.rank; k++) c.in_strides[k] = r.integer();
  for (int k = 0; k < c.rank; k++) c.out_strides[k] = r.integer();
  const int64_t from = r.size(), to = r.size();
  if (!r.ok()) return nullptr;
  int64_t low_in = 0, high_in = -1, low_out = 0, high_out = -1;
  if (!empty && !r.require(walk(c.dims, c.in_strides, c.rank, &low_in, &high_in) && walk(c.dims, c.out_strides, c.rank, &low_out, &high_out),
                           "strides too large"))
    return nullptr;
  r.require(empty || (from + low_in >= 0 && to + low_out >= 0), "strides that leave the operand");
  s->from = from * c.size;
  s->to = to * c.size;
  s->in = r.operand(empty ? 0 : (from + high_in + 1) * c.size);
  s->out = r.operand(empty ? 0 : (to + high_out + 1) * c.size);
  if (empty) {
    c.rank = 1;
    c.dims[0] = 0;
    c.in_strides[0] = c.out_strides[0] = 1;
  } else {
    layout_simplify(&c);
  }
  return s.release();
}

// count, value | out
Step* make_fill(PlanReader& r) {
  auto s = std::make_unique<Fill>();
  s->count = r.size();
  s->value = r.real();
  s->out = r.floats(s->count);
  return s.release();
}

// rows, n, log | x, out
Step* make_softmax(PlanReader& r) {
  auto s = std::make_unique<Softmax>();
  s->rows = r.size();
  s->n = r.size();
  s->log = r.within(0, 1) != 0;
  const int64_t count = plan_product({s->rows, s->n});
  s->x = r.floats(count);
  s->out = r.floats(count);
  return s.release();
}

// rows, n, whether centered, epsilon | x, gamma?, beta?, out, range?
Step* make_layer_norm(PlanReader& r) {
  auto s = std::make_unique<LayerNorm>();
  s->rows = r.size();
  s->n = r.size();
  s->centered = r.within(0, 1) != 0;
  s->epsilon = r.real();
  const int64_t count = plan_product({s->rows, s->n});
  s->x = r.floats(count);
  s->gamma = r.floats(s->n, true);
  s->beta = r.floats(s->n, true);
  s->out = r.floats(count);
  s->range = r.floats(2, true);
  return s.release();
}

// kind, outer, n, inner | x, out
Step* make_reduce(PlanReader& r) {
  auto s = std::make_unique<Reduce>();
  s->kind = static_cast<ReduceKind>(r.within(0, kReduceProd));
  s->outer = r.size();
  s->n = r.size();
  s->inner = r.size();
  s->x = r.floats(plan_product({s->outer, s->n, s->inner}));
  s->out = r.floats(plan_product({s->outer, s->inner}));
  return s.release();
}

}  // namespace whittle
