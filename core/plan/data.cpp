// Steps that pick, compare and convert, on any element type, and those that move pixels by taps.
#include <math.h>
#include <string.h>

#include <algorithm>

#include "core/cuda_net.h"
#include "core/plan/reader.h"
#include "core/resample.h"
#include "core/threads.h"
#include "core/typed.h"

namespace whittle {
namespace {

struct Typed final : Step {
  TypedProblem p;
  Operand in[3], out;
  WhittleStatus run(const RunContext& c) const override {
    const void* at[3] = {c.at<const void>(in[0]), c.at<const void>(in[1]), c.at<const void>(in[2])};
    typed_run(p, at, c.at<void>(out), c.threads);
    return WHITTLE_OK;
  }
  const char* lacking() const override { return cuda_typed_exists(p.op, p.type) ? nullptr : "is a power of float64"; }
  void queue(const CudaNet& net, CudaTurn* turn, const RunContext& c) const override {
    const void* at[3] = {c.at<const void>(in[0]), c.at<const void>(in[1]), c.at<const void>(in[2])};
    net.typed(turn, p, at, c.at<void>(out));
  }
};

// out[o][i] = x[o][index[i]], pieces of `bytes`; negative indices count from the end.
// `count` pieces of `bytes` (kBytes where it is known) that indices point at.
template <int kBytes, class Index>
void gather_pieces(const uint8_t* from, const Index* index, int64_t count, int64_t axis, int64_t bytes, uint8_t* to) {
  const int64_t size = kBytes ? kBytes : bytes;
  for (int64_t i = 0; i < count; i++, to += size) {
    const int64_t at = index[i] < 0 ? index[i] + axis : index[i];
    memcpy(to, from + at * size, static_cast<size_t>(size));
  }
}

template <class Index>
void gather_row(const uint8_t* from, const Index* index, int64_t count, int64_t axis, int64_t bytes, uint8_t* to) {
  const auto fn = bytes == 1 ? gather_pieces<1, Index> : bytes == 4 ? gather_pieces<4, Index> : bytes == 8 ? gather_pieces<8, Index> : gather_pieces<0, Index>;
  fn(from, index, count, axis, bytes, to);
}

struct Gather final : Step {
  Operand x, index, out;
  int64_t outer, axis, inner, count;
  bool wide;  // int64 indices
  WhittleStatus run(const RunContext& c) const override {
    const uint8_t* from = c.at<const uint8_t>(x);
    uint8_t* to = c.at<uint8_t>(out);
    for (int64_t i = 0; i < count; i++) {
      const int64_t at = wide ? c.at<const int64_t>(index)[i] : c.at<const int32_t>(index)[i];
      if (at < -axis || at >= axis) return WHITTLE_RANGE;
    }
    parallel_for(outer * count, std::max<int64_t>(1, (64 << 10) / (inner + 1)), c.threads, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin, now = 0; t < end; t += now) {
        const int64_t j = t % count;
        now = std::min(end - t, count - j);
        const uint8_t* row = from + t / count * axis * inner;
        if (wide) gather_row(row, c.at<const int64_t>(index) + j, now, axis, inner, to + t * inner);
        else gather_row(row, c.at<const int32_t>(index) + j, now, axis, inner, to + t * inner);
      }
    });
    return WHITTLE_OK;
  }
  const char* lacking() const override { return nullptr; }
  void queue(const CudaNet& net, CudaTurn* turn, const RunContext& c) const override {
    net.gather(turn, {outer, axis, inner, count, wide, c.at<const void>(x), c.at<const void>(index), c.at<void>(out)});
  }
};

struct Resize final : Step {
  ResizeProblem p;
  Operand x, index_y, weight_y, index_x, weight_x, out;
  ResizeProblem bind(const RunContext& c) const {
    ResizeProblem q = p;
    q.x = c.at<const float>(x);
    q.index_y = c.at<const int32_t>(index_y);
    q.weight_y = c.at<const float>(weight_y);
    q.index_x = c.at<const int32_t>(index_x);
    q.weight_x = c.at<const float>(weight_x);
    q.out = c.at<float>(out);
    return q;
  }
  WhittleStatus run(const RunContext& c) const override { return resize_f32(bind(c), c.threads); }
  const char* lacking() const override { return nullptr; }
  void queue(const CudaNet& net, CudaTurn* turn, const RunContext& c) const override { net.resize(turn, bind(c)); }
};

struct ScatterTaps final : Step {
  ScatterProblem p;
  Operand in, bias, out;
  ScatterProblem bind(const RunContext& c) const {
    ScatterProblem q = p;
    q.in = c.at<const float>(in);
    q.bias = c.at<const float>(bias);
    q.out = c.at<float>(out);
    return q;
  }
  WhittleStatus run(const RunContext& c) const override {
    scatter_taps(bind(c), c.threads);
    return WHITTLE_OK;
  }
  const char* lacking() const override { return nullptr; }
  void queue(const CudaNet& net, CudaTurn* turn, const RunContext& c) const override { net.scatter_taps(turn, bind(c)); }
};

// Position of the largest (smallest) of n along the middle axis; the first one unless `last`.
struct ArgBest final : Step {
  Operand x, out;
  int64_t outer, n, inner;
  bool least, last;
  WhittleStatus run(const RunContext& c) const override {
    const float* from = c.at<const float>(x);
    int64_t* to = c.at<int64_t>(out);
    parallel_for(outer * inner, std::max<int64_t>(1, (16 << 10) / (n + 1)), c.threads, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; t++) {
        const float* p = from + t / inner * n * inner + t % inner;
        int64_t best = 0;
        for (int64_t i = 1; i < n; i++) {
          const float v = p[i * inner], b = p[best * inner];
          if (last ? (least ? v <= b : v >= b) : (least ? v < b : v > b)) best = i;
        }
        to[t] = best;
      }
    });
    return WHITTLE_OK;
  }
  const char* lacking() const override { return nullptr; }
  void queue(const CudaNet& net, CudaTurn* turn, const RunContext& c) const override {
    net.arg_best(turn, outer, n, inner, least, last, c.at<const float>(x), c.at<int64_t>(out));
  }
};

struct Cumulate final : Step {
  Operand x, out;
  int64_t outer, n, inner;
  bool exclusive, reverse;
  WhittleStatus run(const RunContext& c) const override {
    const float* from = c.at<const float>(x);
    float* to = c.at<float>(out);
    parallel_for(outer * inner, std::max<int64_t>(1, (16 << 10) / (n + 1)), c.threads, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; t++) {
        const int64_t base = t / inner * n * inner + t % inner;
        float sum = 0;
        for (int64_t i = 0; i < n; i++) {
          const int64_t at = base + (reverse ? n - 1 - i : i) * inner;
          const float v = from[at];
          to[at] = exclusive ? sum : sum + v;
          sum += v;
        }
      }
    });
    return WHITTLE_OK;
  }
  const char* lacking() const override { return nullptr; }
  void queue(const CudaNet& net, CudaTurn* turn, const RunContext& c) const override {
    net.cumulate(turn, outer, n, inner, exclusive, reverse, c.at<const float>(x), c.at<float>(out));
  }
};

}  // namespace

// op, type, to | dims | operands, of each its strides and memory | out
Step* make_typed(PlanReader& r) {
  auto s = std::make_unique<Typed>();
  TypedProblem& p = s->p;
  p.op = static_cast<TypedOp>(r.within(0, kTypedOps - 1));
  p.type = static_cast<ElementKind>(r.within(0, static_cast<int64_t>(ElementKind::count) - 1));
  p.to = static_cast<ElementKind>(r.within(0, static_cast<int64_t>(ElementKind::count) - 1));
  if (!r.ok() || !r.require(typed_exists(p.op, p.type), "an operation that the type lacks")) return nullptr;
  const std::vector<int64_t> dims = r.list(kTypedRank);
  p.rank = static_cast<int32_t>(dims.size());
  int64_t count = 1;
  for (int k = 0; k < p.rank; k++) {
    p.dims[k] = dims[static_cast<size_t>(k)];
    count = plan_product({count, p.dims[k]});
    if (!r.require(count >= 0, "sizes too large")) return nullptr;
  }
  for (int i = 0; i < typed_operands(p.op); i++) {
    int64_t reach = 0;
    for (int k = 0; k < p.rank; k++) {
      p.strides[i][k] = r.within(0, int64_t(1) << 40);
      const int64_t far = plan_product({std::max<int64_t>(0, p.dims[k] - 1), p.strides[i][k]});
      if (!r.ok() || !r.require(far >= 0 && reach < int64_t(1) << 41, "strides too large")) return nullptr;
      reach += far;
    }
    const int64_t bytes = p.op == kTyped_where && i == 0 ? 1 : element_bytes(p.type);
    s->in[i] = r.operand(count == 0 ? 0 : (reach + 1) * bytes);
  }
  s->out = r.operand(count * element_bytes(typed_result(p)));
  return s.release();
}

// outer, axis, bytes of a piece, indices, whether they are int64 | x, index, out
Step* make_gather(PlanReader& r) {
  auto s = std::make_unique<Gather>();
  s->outer = r.size();
  s->axis = r.size();
  s->inner = r.size();
  s->count = r.size();
  s->wide = r.within(0, 1) != 0;
  s->x = r.operand(plan_product({s->outer, s->axis, s->inner}));
  s->index = r.operand(plan_product({s->count, s->wide ? 8 : 4}));
  s->out = r.operand(plan_product({s->outer, s->count, s->inner}));
  return s.release();
}

// n h w c oh ow | taps y x | index y, weight y, index x, weight x, x, out
Step* make_resize(PlanReader& r) {
  auto s = std::make_unique<Resize>();
  ResizeProblem& p = s->p;
  for (int64_t* v : {&p.n, &p.h, &p.w, &p.c, &p.oh, &p.ow}) *v = r.size();
  p.taps_y = r.within(1, 1024);
  p.taps_x = r.within(1, 1024);
  s->index_y = r.floats(p.oh * p.taps_y);
  s->weight_y = r.floats(p.oh * p.taps_y);
  s->index_x = r.floats(p.ow * p.taps_x);
  s->weight_x = r.floats(p.ow * p.taps_x);
  if (!r.ok()) return nullptr;
  // Tables are constants, so that they can be checked here once and for all.
  const auto inside = [&](const Operand& table, int64_t count, int64_t size) {
    if (!r.require(table.place == Place::constant, "a table that is no constant")) return;
    const int32_t* at = static_cast<const int32_t*>(r.content(table));
    if (!r.require(at != nullptr, "a table that is too large")) return;
    for (int64_t i = 0; i < count; i++) r.require(at[i] >= 0 && at[i] < size, "a tap outside of the image");
  };
  inside(s->index_y, p.oh * p.taps_y, p.h);
  inside(s->index_x, p.ow * p.taps_x, p.w);
  s->x = r.floats(plan_product({p.n, p.h, p.w, p.c}));
  s->out = r.floats(plan_product({p.n, p.oh, p.ow, p.c}));
  return s.release();
}

// n h w c oh ow | kh kw, strides, dilations, pad top and left | in, bias?, out
Step* make_scatter_taps(PlanReader& r) {
  auto s = std::make_unique<ScatterTaps>();
  ScatterProblem& p = s->p;
  for (int64_t* v : {&p.n, &p.h, &p.w, &p.c, &p.oh, &p.ow}) *v = r.size();
  for (int64_t* v : {&p.kh, &p.kw, &p.stride_h, &p.stride_w, &p.dilation_h, &p.dilation_w}) *v = r.within(1, 1 << 20);
  p.pad_top = r.within(0, 1 << 20);
  p.pad_left = r.within(0, 1 << 20);
  s->in = r.floats(plan_product({p.n, p.h, p.w, p.kh, p.kw, p.c}));
  s->bias = r.floats(p.c, true);
  s->out = r.floats(plan_product({p.n, p.oh, p.ow, p.c}));
  return s.release();
}

// outer, n, inner, least, last | x, out
Step* make_arg_best(PlanReader& r) {
  auto s = std::make_unique<ArgBest>();
  s->outer = r.size();
  s->n = r.within(1, int64_t(1) << 40);
  s->inner = r.size();
  s->least = r.within(0, 1) != 0;
  s->last = r.within(0, 1) != 0;
  s->x = r.floats(plan_product({s->outer, s->n, s->inner}));
  s->out = r.operand(plan_product({s->outer, s->inner, 8}));
  return s.release();
}

// outer, n, inner, exclusive, reverse | x, out
Step* make_cumulate(PlanReader& r) {
  auto s = std::make_unique<Cumulate>();
  s->outer = r.size();
  s->n = r.size();
  s->inner = r.size();
  s->exclusive = r.within(0, 1) != 0;
  s->reverse = r.within(0, 1) != 0;
  const int64_t count = plan_product({s->outer, s->n, s->inner});
  s->x = r.floats(count);
  s->out = r.floats(count);
  return s.release();
}

}  // namespace whittle
