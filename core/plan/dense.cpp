// Steps that multiply: products and convolutions.
#include "core/conv.h"
#include "core/cuda_net.h"
#include "core/gemm.h"
#include "core/plan/reader.h"
#include "core/sparse_weights.h"

namespace whittle {
namespace {

// m, n, k, batch, row and column strides of a and b, bytes between matrices by index map; see make_gemm for the order.
struct Gemm final : Step {
  Operand a, b, bias, residual, c;
  int64_t m, n, k, batch;
  int64_t a_row, a_col, b_row, b_col, a_batch, b_batch;
  std::vector<int32_t> map;
  const int32_t* map_there = nullptr;  // on a device
  bool packed;
  float alpha;
  Activation activation;

  GemmProblem bind(const RunContext& x) const {
    GemmProblem g;
    g.m = m;
    g.n = n;
    g.k = k;
    g.a = x.at<const float>(a);
    g.a_row = a_row;
    g.a_col = a_col;
    if (packed && !b.sparse) g.packed = x.at<const float>(b);
    else if (!packed) g.b = x.at<const float>(b);
    g.b_row = b_row;
    g.b_col = b_col;
    g.c = x.at<float>(c);
    g.ldc = n;
    g.alpha = alpha;
    g.bias = x.at<const float>(bias);
    g.source = x.at<const float>(residual);
    if (g.source == g.c) {
      g.source = nullptr;
      g.beta = 1;
    } else if (g.source) {
      g.beta = 1;
      g.source_row = n;
      g.source_col = 1;
      g.source_batch = m * n;
    }
    g.activation = activation;
    g.batch = batch;
    g.a_batch = a_batch;
    g.b_batch = b_batch;
    g.c_batch = m * n;
    if (!map.empty()) g.map = map.data();
    return g;
  }
  WhittleStatus run(const RunContext& x) const override {
    const GemmProblem g = bind(x);
    if (b.sparse) return sparse_gemm(*static_cast<const SparseMatrix*>(b.fixed), g, x.threads);
    return gemm_f32(g, x.threads);
  }
  const char* lacking() const override { return nullptr; }
  void queue(const CudaNet& net, CudaTurn* turn, const RunContext& x) const override {
    GemmProblem g = bind(x);
    g.map = map_there;
    if (packed) {
      g.b = x.at<const float>(b);
      g.b_row = b.row;
      g.b_col = b.col;
    }
    net.gemm(turn, g);
  }
};

// Floats that a matrix of `rows` x `cols` with these strides reaches over; -1 if one is negative.
int64_t reach(int64_t rows, int64_t cols, int64_t row, int64_t col) {
  if (row < 0 || col < 0) return -1;
  if (rows == 0 || cols == 0) return 0;
  const int64_t a = plan_product({rows - 1, row}), b = plan_product({cols - 1, col});
  return a < 0 || b < 0 ? -1 : a + b + 1;
}

struct Conv final : Step {
  Operand x, weight, bias, residual, out;
  ConvProblem p;

  ConvProblem bind(const RunContext& c) const {
    ConvProblem q = p;
    q.x = c.at<const float>(x);
    if (weight.sparse) q.sparse = static_cast<const SparseMatrix*>(weight.fixed);
    else q.weight = c.at<const float>(weight);
    q.bias = c.at<const float>(bias);
    q.residual = c.at<const float>(residual);
    q.out = c.at<float>(out);
    return q;
  }
  WhittleStatus run(const RunContext& c) const override { return conv_f32(bind(c), c.threads); }
  const char* lacking() const override { return p.by_rows || p.winograd || p.narrow ? "is laid out for a CPU" : p.kd > 1 || p.d > 1 ? "goes over three axes" : nullptr; }
  void queue(const CudaNet& net, CudaTurn* turn, const RunContext& c) const override { net.conv(turn, bind(c)); }
};

struct ConvPlanesStep final : Step {
  Operand x, weight, bias, out;
  ConvPlanesProblem p;

  WhittleStatus run(const RunContext& c) const override {
    ConvPlanesProblem q = p;
    q.x = c.at<const float>(x);
    q.weight = c.at<const float>(weight);
    q.bias = c.at<const float>(bias);
    q.out = c.at<void>(out);
    return conv_planes(q, c.threads);
  }
};

struct ConvGroupedStep final : Step {
  Operand x, weight, bias, out;
  ConvGroupedProblem p;

  WhittleStatus run(const RunContext& c) const override {
    ConvGroupedProblem q = p;
    q.x = c.at<const float>(x);
    q.weight = c.at<const float>(weight);
    q.bias = c.at<const float>(bias);
    q.out = c.at<float>(out);
    return conv_grouped(q, c.threads);
  }
};

struct ConvPair final : Step {
  Operand x, weight, bias, next_weight, next_bias, out;
  ConvProblem first, second;

  WhittleStatus run(const RunContext& c) const override {
    ConvProblem p = first, q = second;
    p.x = c.at<const float>(x);
    p.weight = c.at<const float>(weight);
    p.bias = c.at<const float>(bias);
    q.weight = c.at<const float>(next_weight);
    q.bias = c.at<const float>(next_bias);
    q.out = c.at<float>(out);
    return conv_pair(p, q, c.threads);
  }
};

}  // namespace

// n h w, channels in and between, oh ow | kh kw, strides, dilations, pad top and left | both activations | x, packed, bias?,
// weights and bias? of the depthwise one, out
Step* make_conv_pair(PlanReader& r) {
  auto s = std::make_unique<ConvPair>();
  ConvProblem &a = s->first, &p = s->second;
  a = p = {};
  for (int64_t* v : {&p.n, &p.h, &p.w, &a.c, &p.c, &p.oh, &p.ow}) *v = r.size();
  for (int64_t* v : {&p.kh, &p.kw, &p.stride_h, &p.stride_w, &p.dilation_h, &p.dilation_w}) *v = r.within(1, 1 << 20);
  p.pad_top = r.within(0, 1 << 20);
  p.pad_left = r.within(0, 1 << 20);
  p.oc = p.groups = p.c;
  a.activation = r.activation();
  p.activation = r.activation();
  if (!r.ok()) return nullptr;
  const int64_t between = plan_product({p.n, p.h, p.w, p.c}), out = plan_product({p.n, p.oh, p.ow, p.c});
  if (!r.require(between >= 0 && out >= 0, "sizes that do not fit")) return nullptr;
  s->x = r.floats(plan_product({p.n, p.h, p.w, a.c}));
  s->weight = r.packed(1, a.c, p.c);
  r.require(!s->weight.sparse, "a pair of sparse weights");
  s->bias = r.floats(p.c, true);
  s->next_weight = r.floats(plan_product({p.kh, p.kw, p.c}));
  s->next_bias = r.floats(p.c, true);
  s->out = r.floats(out);
  return s.release();
}

// m n k | batch, then batch x (a index, b index) if batch > 1 | a strides, a matrix stride, a matrices | the same for b |
// packed | alpha, activation | a, b, bias?, residual?, c
Step* make_gemm(PlanReader& r) {
  auto s = std::make_unique<Gemm>();
  s->m = r.size();
  s->n = r.size();
  s->k = r.size();
  s->batch = r.within(1, 1 << 24);
  int64_t most_a = 0, most_b = 0;
  for (int64_t i = 0; s->batch > 1 && i < s->batch && r.ok(); i++) {
    const int64_t a = r.within(0, 1 << 24), b = r.within(0, 1 << 24);
    most_a = a > most_a ? a : most_a;
    most_b = b > most_b ? b : most_b;
    s->map.push_back(static_cast<int32_t>(a));
    s->map.push_back(static_cast<int32_t>(b));
    s->map.push_back(static_cast<int32_t>(i));
  }
  s->a_row = r.integer();
  s->a_col = r.integer();
  s->a_batch = r.size();
  s->b_row = r.integer();
  s->b_col = r.integer();
  s->b_batch = r.size();
  s->packed = r.within(0, 1) != 0;
  s->alpha = r.real();
  s->activation = r.activation();
  if (!r.ok()) return nullptr;
  r.require((s->a_row == 1 || s->a_col == 1) && (s->b_row == 1 || s->b_col == 1), "a matrix without contiguous side");
  r.require(!s->packed || s->batch == 1, "packed weights in a batch");
  const int64_t out = plan_product({s->batch, s->m, s->n});
  const int64_t more_a = plan_product({most_a, s->a_batch}), more_b = plan_product({most_b, s->b_batch});
  const int64_t a = reach(s->m, s->k, s->a_row, s->a_col), b = reach(s->k, s->n, s->b_row, s->b_col);
  r.require(out >= 0 && more_a >= 0 && more_b >= 0 && a >= 0 && b >= 0, "sizes too large");
  if (!r.ok()) return nullptr;
  s->a = r.floats(a == 0 ? 0 : a + more_a);
  s->b = s->packed ? r.packed(1, s->k, s->n) : r.floats(b == 0 ? 0 : b + more_b);
  r.require(!s->b.sparse || (s->alpha == 1 && s->a_col == 1 && s->a_row == s->k), "sparse weights for rows that do not follow each other");
  s->bias = r.floats(s->n, true);
  s->residual = r.floats(out, true);
  s->c = r.floats(out);
  if (!s->map.empty()) s->map_there = static_cast<const int32_t*>(r.keep(s->map.data(), static_cast<int64_t>(s->map.size()) * 4));
  return s.release();
}

// n h w c oh ow oc | kh kw, strides, dilations, pad top and left, groups, way: 1 by rows, 2 winograd, 3 of tiles of 2, 4 narrow | activation | x, weight, bias?, residual?, out
static Step* read_conv(PlanReader& r, bool volume) {
  auto s = std::make_unique<Conv>();
  ConvProblem& p = s->p;
  p = {};
  if (volume) {
    p.d = r.size();
    p.od = r.size();
    for (int64_t* v : {&p.kd, &p.stride_d, &p.dilation_d}) *v = r.within(1, 1 << 20);
    p.pad_front = r.within(0, 1 << 20);
  }
  for (int64_t* v : {&p.n, &p.h, &p.w, &p.c, &p.oh, &p.ow, &p.oc}) *v = r.size();
  for (int64_t* v : {&p.kh, &p.kw, &p.stride_h, &p.stride_w, &p.dilation_h, &p.dilation_w}) *v = r.within(1, 1 << 20);
  p.pad_top = r.within(0, 1 << 20);
  p.pad_left = r.within(0, 1 << 20);
  p.groups = r.within(1, 1 << 20);
  const int64_t way = r.within(0, 4);
  p.by_rows = way == 1;
  p.winograd = way == 2 ? 4 : way == 3 ? 2 : 0;
  p.narrow = way == 4;
  p.activation = r.activation();
  if (!r.ok()) return nullptr;
  const int64_t in = plan_product({p.n, p.d, p.h, p.w, p.c}), out = plan_product({p.n, p.od, p.oh, p.ow, p.oc});
  if (!r.require(in >= 0 && out >= 0 && p.c % p.groups == 0 && p.oc % p.groups == 0, "sizes that do not fit")) return nullptr;
  s->x = r.floats(in);
  const bool depthwise = conv_is_depthwise(p.c, p.oc, p.groups);
  r.require(!p.by_rows || (p.groups == 1 && (p.dilation_w == 1 || p.stride_w == 1)), "a convolution that does not go by rows");
  r.require(!p.winograd || (p.groups == 1 && p.kh == 3 && p.kw == 3 && p.stride_h == 1 && p.stride_w == 1 && p.dilation_h == 1 &&
                            p.dilation_w == 1 && p.c > 0),
            "a convolution that winograd cannot do");
  r.require(!p.narrow || (p.groups == 1 && p.stride_h == 1 && p.stride_w == 1 && p.d == 1 && p.od == 1 && p.kd == 1 && p.pad_front == 0 && p.c > 0),
            "a convolution that does not go narrow");
  s->weight = p.winograd ? r.packed(conv_winograd_points(p.winograd), p.kd * p.c, p.oc)
              : p.by_rows ? r.packed(p.kd * p.kh, p.kw * p.c, p.oc)
              : p.narrow ? r.floats(plan_product({p.c, p.kh, p.kw, p.oc}))
              : depthwise ? r.floats(plan_product({p.kd, p.kh, p.kw, p.c}))
                          : r.packed(p.groups, plan_product({p.kd, p.kh, p.kw, p.c / p.groups}), p.oc / p.groups);
  s->bias = r.floats(p.oc, true);
  s->residual = r.floats(out, true);
  r.require(!s->weight.sparse || !p.by_rows, "sparse weights by rows");
  r.require(!depthwise || s->residual.place == Place::none, "a residual of a depthwise convolution");
  s->out = r.floats(out);
  return s.release();
}

Step* make_conv(PlanReader& r) { return read_conv(r, false); }
// d od, kd, stride, dilation and padding in front | as conv
Step* make_conv_volume(PlanReader& r) { return read_conv(r, true); }

// n c h w oh ow oc | kh kw, strides, dilations, pad top and left | activation | 0 floats, 1 uint8, 2 int8, scale, zero | x, weight, bias?, out
Step* make_conv_planes(PlanReader& r) {
  auto s = std::make_unique<ConvPlanesStep>();
  ConvPlanesProblem& p = s->p;
  p = {};
  for (int64_t* v : {&p.n, &p.c, &p.h, &p.w, &p.oh, &p.ow, &p.oc}) *v = r.size();
  for (int64_t* v : {&p.kh, &p.kw, &p.stride_h, &p.stride_w, &p.dilation_h, &p.dilation_w}) *v = r.within(1, 1 << 20);
  p.pad_top = r.within(0, 1 << 20);
  p.pad_left = r.within(0, 1 << 20);
  p.activation = r.activation();
  const int64_t codes = r.within(0, 2);
  p.codes = codes > 0;
  p.codes_signed = codes == 2;
  p.scale = r.real();
  p.zero = static_cast<int32_t>(r.within(p.codes_signed ? -128 : 0, p.codes_signed ? 127 : 255));
  if (!r.ok()) return nullptr;
  const int64_t out = plan_product({p.n, p.oh, p.ow, p.oc, p.codes ? 1 : 4}), taps = plan_product({p.c, p.kh, p.kw});
  r.require(out >= 0 && taps >= 0 && plan_product({p.oh, p.stride_h, p.ow, p.stride_w}) >= 0 && (!p.codes || p.scale > 0), "sizes that do not fit");
  if (!r.ok()) return nullptr;
  const int64_t padded = (p.oc + kConvPlanesPad - 1) / kConvPlanesPad * kConvPlanesPad;
  s->x = r.floats(plan_product({p.n, p.c, p.h, p.w}));
  s->weight = r.floats(plan_product({taps, padded}));
  s->bias = r.floats(p.oc, true);
  s->out = r.operand(out);
  return s.release();
}

// n h w c oh ow oc | kh kw, strides, dilations, pad top and left, groups | activation | x, weight, bias?, out
Step* make_conv_grouped(PlanReader& r) {
  auto s = std::make_unique<ConvGroupedStep>();
  ConvGroupedProblem& p = s->p;
  p = {};
  for (int64_t* v : {&p.n, &p.h, &p.w, &p.c, &p.oh, &p.ow, &p.oc}) *v = r.size();
  for (int64_t* v : {&p.kh, &p.kw, &p.stride_h, &p.stride_w, &p.dilation_h, &p.dilation_w}) *v = r.within(1, 1 << 20);
  p.pad_top = r.within(0, 1 << 20);
  p.pad_left = r.within(0, 1 << 20);
  p.groups = r.within(1, 1 << 20);
  p.activation = r.activation();
  if (!r.ok()) return nullptr;
  const int64_t in = plan_product({p.n, p.h, p.w, p.c}), out = plan_product({p.n, p.oh, p.ow, p.oc});
  const bool fits = in >= 0 && out >= 0 && p.c % p.groups == 0 && p.oc % p.groups == 0 && plan_product({p.oh, p.stride_h, p.ow, p.stride_w}) >= 0;
  if (!r.require(fits, "sizes that do not fit")) return nullptr;
  const int64_t c = p.c / p.groups, oc = p.oc / p.groups, block = conv_group_block(c, oc);
  const int64_t lanes = (block * oc + kConvPlanesPad - 1) / kConvPlanesPad * kConvPlanesPad;
  s->x = r.floats(in);
  s->weight = r.floats(plan_product({(p.groups + block - 1) / block, p.kh, p.kw, c, lanes}));
  s->bias = r.floats(p.oc, true);
  s->out = r.floats(out);
  return s.release();
}

}  // namespace whittle
