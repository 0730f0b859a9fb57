// Steps over 8-bit and narrower codes: floats to codes and back, convolutions and products of integers.
#include <math.h>
#include <string.h>

#include <algorithm>
#include <atomic>

#include "core/codes.h"
#include "core/conv.h"
#include "core/cuda.h"
#include "core/gemm_int8.h"
#include "core/plan/reader.h"
#include "core/sparse_weights.h"
#include "core/quantize.h"
#include "core/scratch.h"
#include "core/threads.h"

namespace whittle {
namespace {

// A tensor [outer, axis, inner] with one scale an index of the axis, or a block of `block` of them.
struct Geometry {
  int64_t outer, axis, inner, block;
  int bits;  // 4, 8, 16 or 32
  bool sign;
  int64_t blocks() const { return (axis + block - 1) / block; }
  int64_t scales() const { return block == 1 ? axis : outer * blocks() * inner; }
  int64_t size() const { return plan_product({outer, axis, inner}); }
  int64_t bytes(int64_t n) const { return n < 0 ? -1 : bits == 4 ? (n + 1) / 2 : n * (bits / 8); }
  bool read(PlanReader& r) {
    outer = r.size();
    axis = r.size();
    inner = r.size();
    block = r.within(1, int64_t(1) << 40);
    bits = static_cast<int>(r.within(4, 32));
    sign = r.within(0, 1) != 0;
    r.require(bits == 4 || bits == 8 || bits == 16 || bits == 32, "codes of an odd size");
    return r.ok() && r.require(size() >= 0 && plan_product({outer, axis, inner, 2}) >= 0, "sizes too large");
  }
};

int32_t code_at(const void* p, int64_t i, int bits, bool sign) {
  if (bits == 32) return static_cast<const int32_t*>(p)[i];
  if (bits == 16) return sign ? static_cast<const int16_t*>(p)[i] : static_cast<const uint16_t*>(p)[i];
  if (bits == 8) return sign ? static_cast<const int8_t*>(p)[i] : static_cast<const uint8_t*>(p)[i];
  const int32_t v = static_cast<const uint8_t*>(p)[i / 2] >> (i % 2 * 4) & 15;
  return sign && v >= 8 ? v - 16 : v;
}

// Zero points as int32, one a scale; null where memory is short.
const int32_t* zeros_of(const void* zero, int64_t count, int bits, bool sign) {
  static thread_local Scratch scratch;
  int32_t* out = static_cast<int32_t*>(scratch.take(count * 4 + 4));
  if (out)
    for (int64_t i = 0; i < count; i++) out[i] = zero ? code_at(zero, i, bits, sign) : 0;
  return out;
}

// Calls f(first element, first scale, runs, length, columns) over pieces: `runs` runs of `length` elements with a scale
// each, or where length is 0 `runs` rows of `columns` elements with a scale a column.
template <class F>
void walk(const Geometry& g, int threads, const F& f) {
  constexpr int64_t kPiece = 16 << 10;
  if (g.block == 1 && g.axis == 1) {
    const int64_t n = g.outer * g.inner;
    parallel_for((n + kPiece - 1) / kPiece, 1, threads, [&](int64_t b, int64_t e) {
      for (int64_t i = b; i < e; i++) f(i * kPiece, 0, 1, std::min(kPiece, n - i * kPiece), 0);
    });
  } else if (g.block == 1 && g.inner > 1) {
    const int64_t grain = std::max<int64_t>(1, kPiece / (g.inner + 1));
    parallel_for(g.outer * g.axis, grain, threads, [&](int64_t b, int64_t e) {
      for (int64_t i = b; i < e; i++) f(i * g.inner, i % g.axis, 1, g.inner, 0);
    });
  } else if (g.block == 1) {
    const int64_t grain = std::max<int64_t>(1, kPiece / (g.axis + 1));
    parallel_for(g.outer, grain, threads, [&](int64_t b, int64_t e) { f(b * g.axis, 0, e - b, 0, g.axis); });
  } else {
    const int64_t blocks = g.blocks(), grain = std::max<int64_t>(1, kPiece / (g.block * g.inner + 1));
    parallel_for(g.outer * blocks, grain, threads, [&](int64_t b, int64_t e) {
      for (int64_t i = b; i < e; i++) {
        const int64_t first = i % blocks * g.block, rows = std::min(g.block, g.axis - first);
        const int64_t at = (i / blocks * g.axis + first) * g.inner;
        if (g.inner == 1) f(at, i, 1, rows, 0);
        else f(at, i * g.inner, rows, 0, g.inner);
      }
    });
  }
}

CudaCodes bind_codes(const RunContext& c, const Geometry& g, const Operand& x, const Operand& scale, const Operand& zero, const Operand& out) {
  return {g.outer, g.axis, g.inner, g.block, g.bits, g.sign, c.at<const void>(x), c.at<const float>(scale), c.at<const void>(zero), c.at<void>(out)};
}

// Weights on a device (CudaInt8), and what follows sums.
void bind_weights(const RunContext& c, const Operand& weight, int64_t k, int64_t n, CudaInt8* q) {
  q->b = c.at<const uint8_t>(weight);
  q->b_row = 1;
  q->b_col = cuda_int8_row(k);
  q->sums = reinterpret_cast<const int32_t*>(q->b + n * q->b_col);
}

struct Quantize final : Step {
  Geometry g;
  Operand x, scale, zero, out;
  const char* lacking() const override { return nullptr; }
  void queue(const CudaNet& net, CudaTurn* turn, const RunContext& c) const override { net.codes(turn, bind_codes(c, g, x, scale, zero, out)); }
  WhittleStatus run(const RunContext& c) const override {
    const int32_t* zeros = zeros_of(c.at<const void>(zero), g.scales(), g.bits, g.sign);
    uint8_t* bytes = c.at<uint8_t>(out);
    static thread_local Scratch scratch;
    const int64_t n = g.size();
    uint8_t* codes = g.bits == 4 ? static_cast<uint8_t*>(scratch.take(n + 1)) : bytes;
    if (!zeros || !codes) return WHITTLE_OUT_OF_MEMORY;
    const QuantizeKernels& k = quantize_kernels();
    const float *from = c.at<const float>(x), *scales = c.at<const float>(scale);
    const int32_t qmin = g.sign ? -(1 << (g.bits - 1)) : 0, qmax = qmin + (1 << g.bits) - 1;
    walk(g, c.threads, [&](int64_t at, int64_t s, int64_t runs, int64_t length, int64_t columns) {
      QuantizeStep step = {};
      step.scale = scales + s;
      step.zero = zeros + s;
      step.qmin = qmin;
      step.qmax = qmax;
      if (g.bits == 16) {
        uint16_t* to = reinterpret_cast<uint16_t*>(codes) + at;
        length ? k.codes16(from + at, runs, length, &step, to) : k.codes16_columns(from + at, runs, columns, columns, &step, to);
      } else {
        if (g.bits == 8 && runs == 1 && length > 0) bytes_of_floats(from + at, length, scales[s], zeros[s], g.sign, codes + at);
        else length ? k.codes8(from + at, runs, length, &step, codes + at) : k.codes8_columns(from + at, runs, columns, columns, &step, codes + at);
      }
    });
    if (g.bits == 4) {
      for (int64_t i = 0; i < n; i++) codes[i] &= 15;
      k.pack4(codes, n, bytes);
    }
    return WHITTLE_OK;
  }
};

struct Dequantize final : Step {
  Geometry g;
  Operand x, scale, zero, out;
  const char* lacking() const override { return nullptr; }
  void queue(const CudaNet& net, CudaTurn* turn, const RunContext& c) const override { net.values(turn, bind_codes(c, g, x, scale, zero, out)); }
  WhittleStatus run(const RunContext& c) const override {
    const int32_t* zeros = zeros_of(c.at<const void>(zero), g.scales(), g.bits, g.sign);
    static thread_local Scratch scratch;
    const int64_t n = g.size();
    const QuantizeKernels& k = quantize_kernels();
    const uint8_t* codes = c.at<const uint8_t>(x);
    if (g.bits == 4) {
      uint8_t* whole = static_cast<uint8_t*>(scratch.take(n + 1));
      if (!whole) return WHITTLE_OUT_OF_MEMORY;
      k.unpack4(codes, g.sign, n, whole);
      codes = whole;
    }
    if (!zeros) return WHITTLE_OUT_OF_MEMORY;
    const float* scales = c.at<const float>(scale);
    float* to = c.at<float>(out);
    walk(g, c.threads, [&](int64_t at, int64_t s, int64_t runs, int64_t length, int64_t columns) {
      QuantizeStep step = {};
      step.scale = scales + s;
      step.zero = zeros + s;
      if (g.bits == 32) {
        const int32_t* from = reinterpret_cast<const int32_t*>(codes) + at;
        const int64_t width = length ? length : columns;
        for (int64_t r = 0; r < runs; r++)
          for (int64_t i = 0; i < width; i++) {
            const int64_t j = length ? 0 : i;
            const int64_t q = static_cast<int64_t>(from[r * width + i]) - zeros[s + j];
            to[at + r * width + i] = static_cast<float>(q) * scales[s + j];
          }
      } else if (g.bits == 16) {
        const uint16_t* from = reinterpret_cast<const uint16_t*>(codes) + at;
        length ? k.values16(from, g.sign, runs, length, &step, to + at) : k.values16_columns(from, g.sign, runs, columns, columns, &step, to + at);
      } else {
        length ? k.values8(codes + at, g.sign, runs, length, &step, to + at)
               : k.values8_columns(codes + at, g.sign, runs, columns, columns, &step, to + at);
      }
    });
    return WHITTLE_OK;
  }
};

// uint8 codes with the scale and zero point that x's own range gives, as ONNX's DynamicQuantizeLinear has it.
struct DynamicQuantize final : Step {
  Operand x, out, scale, zero, range;
  int64_t count;
  const char* lacking() const override { return nullptr; }
  void queue(const CudaNet& net, CudaTurn* turn, const RunContext& c) const override {
    net.dynamic_codes(turn, count, c.at<const float>(x), c.at<uint8_t>(out), c.at<float>(scale), c.at<uint8_t>(zero));
  }
  WhittleStatus run(const RunContext& c) const override {
    constexpr int64_t kPiece = 8 << 10;
    const int threads = count < 4 * kPiece ? 1 : c.threads;
    const QuantizeKernels& k = quantize_kernels();
    const float* from = c.at<const float>(x);
    const int64_t pieces = (count + kPiece - 1) / kPiece;
    float lo = 0, hi = 0;
    const float* known = c.at<const float>(range);
    if (known && known[0] > -INFINITY && known[1] < INFINITY) {
      lo = known[0];
      hi = known[1];
    } else {
      static thread_local Scratch scratch;
      float* bounds = static_cast<float*>(scratch.take(pieces * 8 + 8));
      if (!bounds) return WHITTLE_OUT_OF_MEMORY;
      parallel_for(pieces, 1, threads, [&](int64_t b, int64_t e) {
        for (int64_t i = b; i < e; i++) {
          bounds[2 * i] = bounds[2 * i + 1] = 0;
          k.range(from + i * kPiece, 1, std::min(kPiece, count - i * kPiece), bounds + 2 * i, bounds + 2 * i + 1);
        }
      });
      for (int64_t i = 0; i < pieces; i++) {
        lo = std::min(lo, bounds[2 * i]);
        hi = std::max(hi, bounds[2 * i + 1]);
      }
    }
    const float step = hi == lo ? 1.0f : (hi - lo) / 255.0f;
    const float middle = std::min(255.0f, std::max(0.0f, 0.0f - lo / step));
    const int32_t z = static_cast<int32_t>(nearbyintf(middle));
    *c.at<float>(scale) = step;
    *c.at<uint8_t>(zero) = static_cast<uint8_t>(z);
    uint8_t* to = c.at<uint8_t>(out);
    parallel_for(pieces, 1, threads, [&](int64_t b, int64_t e) {
      for (int64_t i = b; i < e; i++) {
        bytes_of_floats(from + i * kPiece, std::min(kPiece, count - i * kPiece), step, z, false, to + i * kPiece);
      }
    });
    return WHITTLE_OK;
  }
};

// What follows a sum, as the program has it: activation, type of the result (GemmInt8Out), its scale and zero point.
struct Finish {
  Activation activation;
  int32_t type, zero;
  float scale;
  void read(PlanReader& r) {
    activation = r.activation();
    read_code(r);
  }
  void read_code(PlanReader& r) {
    type = static_cast<int32_t>(r.within(0, 3));
    scale = r.real();
    zero = static_cast<int32_t>(r.within(-128, 255));
    r.require(scale > 0 && zero >= (type == kOutInt8 ? -128 : 0) && zero <= (type == kOutInt8 ? 127 : 255), "a scale or zero point out of range");
  }
  int64_t size() const { return type == kOutInt32 || type == kOutFloat32 ? 4 : 1; }
};

struct ConvInt8 final : Step {
  ConvInt8Problem p;
  Operand x, weight, scales, bias, residual, out;
  bool depthwise, coded;  // the residual is codes
  const char* lacking() const override { return weight.sparse ? "has sparse weights" : coded ? "adds codes" : nullptr; }
  void queue(const CudaNet& net, CudaTurn* turn, const RunContext& c) const override {
    ConvInt8Problem window = p;
    CudaInt8 q = {};
    q.m = p.n * p.oh * p.ow;
    q.n = p.oc;
    q.k = p.kh * p.kw * p.c;
    q.batch = 1;
    q.a = c.at<const uint8_t>(x);
    q.a_signed = p.x_signed;
    q.a_zero = p.x_zero;
    q.a_scale = p.x_scale;
    if (depthwise) window.depthwise = c.at<const float>(weight);
    else bind_weights(c, weight, q.k, q.n, &q);
    q.scales = c.at<const float>(scales);
    q.bias = c.at<const float>(bias);
    q.residual = c.at<const float>(residual);
    q.activation = p.activation;
    q.out_type = p.out_type;
    q.out_scale = p.out_scale;
    q.out_zero = p.out_zero;
    q.out = c.at<void>(out);
    net.conv_int8(turn, q, window);
  }
  WhittleStatus run(const RunContext& c) const override {
    ConvInt8Problem q = p;
    q.x = c.at<const uint8_t>(x);
    if (depthwise) q.depthwise = c.at<const float>(weight);
    else if (weight.sparse) q.sparse = static_cast<const SparseMatrix*>(weight.fixed);
    else q.packed = c.at<const PackedInt8>(weight);
    q.scales = c.at<const float>(scales);
    q.bias = c.at<const float>(bias);
    if (coded) q.added.codes = c.at<const uint8_t>(residual);
    else q.residual = c.at<const float>(residual);
    q.out = c.at<void>(out);
    return conv_int8(q, c.threads);
  }
};

struct GemmInt8Step final : Step {
  GemmInt8Args g;
  Operand a, weight, scales, bias, out;
  const char* lacking() const override { return weight.sparse ? "has sparse weights" : nullptr; }
  void queue(const CudaNet& net, CudaTurn* turn, const RunContext& c) const override {
    CudaInt8 q = cuda_product(g);
    q.a = c.at<const uint8_t>(a);
    bind_weights(c, weight, g.k, g.n, &q);
    q.scales = c.at<const float>(scales);
    q.bias = c.at<const float>(bias);
    q.out = c.at<void>(out);
    net.product_int8(turn, q);
  }
  WhittleStatus run(const RunContext& c) const override {
    GemmInt8Args q = g;
    q.a = c.at<const uint8_t>(a);
    if (!weight.sparse) q.packed = c.at<const PackedInt8>(weight);
    q.b_scales = c.at<const float>(scales);
    q.bias_float = c.at<const float>(bias);
    q.out = c.at<void>(out);
    q.threads = c.threads;
    if (weight.sparse) return sparse_gemm_int8(*static_cast<const SparseMatrix*>(weight.fixed), q);
    return gemm_int8(gemm_int8_kernels(), q);
  }
};

// int32 sums of two matrices of codes; zero points are read when it runs.
struct MatmulInteger final : Step {
  const int32_t* map_there = nullptr;  // on a device
  const char* lacking() const override { return b.sparse ? "has sparse weights" : nullptr; }
  void queue(const CudaNet& net, CudaTurn* turn, const RunContext& c) const override {
    CudaInt8 q = cuda_product(g);
    q.map = map_there;
    q.a = c.at<const uint8_t>(a);
    q.a_zero_at = c.at<const uint8_t>(a_zero);
    if (packed) {
      bind_weights(c, b, g.k, g.n, &q);
      // Zero points of weights go the general way, which needs no sums.
      if (b_zero.place != Place::none) q.sums = nullptr;
    } else {
      q.b = c.at<const uint8_t>(b);
      q.b_row = g.n;
      q.b_col = 1;
    }
    q.b_zero_at = c.at<const uint8_t>(b_zero);
    q.b_zeros = columns;
    q.out = c.at<void>(out);
    net.product_int8(turn, q);
  }
  GemmInt8Args g;
  Operand a, b, a_zero, b_zero, out;
  std::vector<int32_t> a_index, b_index;
  bool packed, columns;
  WhittleStatus run(const RunContext& c) const override {
    GemmInt8Args q = g;
    q.a = c.at<const uint8_t>(a);
    if (packed && !b.sparse) q.packed = c.at<const PackedInt8>(b);
    else if (!packed) q.b = c.at<const uint8_t>(b);
    q.a_index = a_index.data();
    q.b_index = b_index.data();
    if (const void* z = c.at<const void>(a_zero)) q.a_zero = code_at(z, 0, 8, g.a_signed);
    if (const uint8_t* z = c.at<const uint8_t>(b_zero)) {
      if (columns) q.b_zeros = z;
      else q.b_zero = code_at(z, 0, 8, g.b_unsigned == false);
    }
    q.out = c.at<void>(out);
    q.threads = c.threads;
    if (b.sparse) return sparse_gemm_int8(*static_cast<const SparseMatrix*>(b.fixed), q);
    return gemm_int8(gemm_int8_kernels(), q);
  }
};

}  // namespace

// geometry | x, scale, zero?, out
Step* make_quantize(PlanReader& r) {
  auto s = std::make_unique<Quantize>();
  if (!s->g.read(r) || !r.require(s->g.bits < 32, "codes of an odd size")) return nullptr;
  const int64_t n = s->g.size(), scales = s->g.scales();
  s->x = r.floats(n);
  s->scale = r.floats(scales);
  s->zero = r.operand(s->g.bytes(scales), true);
  s->out = r.operand(s->g.bytes(n));
  return s.release();
}

// geometry | x, scale, zero?, out
Step* make_dequantize(PlanReader& r) {
  auto s = std::make_unique<Dequantize>();
  if (!s->g.read(r)) return nullptr;
  const int64_t n = s->g.size(), scales = s->g.scales();
  s->x = r.operand(s->g.bytes(n));
  s->scale = r.floats(scales);
  s->zero = r.operand(s->g.bytes(scales), true);
  s->out = r.floats(n);
  return s.release();
}

// count | x, codes, scale, zero
Step* make_dynamic_quantize(PlanReader& r) {
  auto s = std::make_unique<DynamicQuantize>();
  s->count = r.size();
  s->x = r.floats(s->count);
  s->out = r.operand(s->count);
  s->scale = r.floats(1);
  s->zero = r.operand(1);
  s->range = r.floats(2, true);
  return s.release();
}

// n h w c oh ow oc | kh kw, strides, dilations, pad top and left | depthwise | x signed, zero, scale | activation, result's type,
// scale, zero | residual's type, scale, zero | x, weight, scales, bias?, residual?, out
Step* make_conv_int8(PlanReader& r) {
  auto s = std::make_unique<ConvInt8>();
  ConvInt8Problem& p = s->p;
  p = {};
  for (int64_t* v : {&p.n, &p.h, &p.w, &p.c, &p.oh, &p.ow, &p.oc}) *v = r.size();
  for (int64_t* v : {&p.kh, &p.kw, &p.stride_h, &p.stride_w, &p.dilation_h, &p.dilation_w}) *v = r.within(1, 1 << 20);
  p.pad_top = r.within(0, 1 << 20);
  p.pad_left = r.within(0, 1 << 20);
  s->depthwise = r.within(0, 1) != 0;
  p.x_signed = r.within(0, 1) != 0;
  p.x_zero = static_cast<int32_t>(r.within(p.x_signed ? -128 : 0, p.x_signed ? 127 : 255));
  p.x_scale = r.real();
  Finish f;
  f.read(r);
  if (!r.ok()) return nullptr;
  p.activation = f.activation;
  p.out_type = f.type;
  p.out_scale = f.scale;
  p.out_zero = f.zero;
  Finish add;
  add.read_code(r);
  s->coded = add.type != kOutFloat32;
  p.added = {nullptr, add.type == kOutInt8, add.zero, add.scale};
  const int64_t out = plan_product({p.n, p.oh, p.ow, p.oc});
  if (!r.require(out >= 0 && (!s->depthwise || (p.c == p.oc && p.kh * p.kw <= kConvInt8Taps)), "sizes that do not fit")) return nullptr;
  s->x = r.operand(plan_product({p.n, p.h, p.w, p.c}));
  s->weight = s->depthwise ? r.floats(plan_product({p.kh, p.kw, p.c})) : r.packed_int8(plan_product({p.kh, p.kw, p.c}), p.oc);
  s->scales = r.floats(p.oc);
  s->bias = r.floats(p.oc, true);
  s->residual = r.operand(plan_product({out, add.size()}), true);
  r.require(add.type != kOutInt32 && (s->residual.place == Place::none || (!s->depthwise && p.out_type != kOutInt32)), "a residual that cannot be added");
  s->out = r.operand(plan_product({out, f.size()}));
  // Dense results may go over what is added to them, one by one.
  const bool apart = s->residual.place == Place::none || s->residual.place != s->out.place || s->residual.at != s->out.at;
  r.require(apart || (!s->weight.sparse && add.size() == f.size()), "a residual where results go");
  return s.release();
}

// m n k | a signed, zero, scale | activation, result's type, scale, zero | a, packed, scales, bias?, out
Step* make_gemm_int8(PlanReader& r) {
  auto s = std::make_unique<GemmInt8Step>();
  GemmInt8Args& g = s->g;
  g = {};
  g.m = r.size();
  g.n = r.size();
  g.k = r.size();
  g.batch = 1;
  g.a_signed = r.within(0, 1) != 0;
  g.a_zero = static_cast<int32_t>(r.within(g.a_signed ? -128 : 0, g.a_signed ? 127 : 255));
  g.a_scale = r.real();
  Finish f;
  f.read(r);
  g.activation = f.activation;
  g.out_type = f.type;
  g.out_scale = f.scale;
  g.out_zero = f.zero;
  s->a = r.operand(plan_product({g.m, g.k}));
  s->weight = r.packed_int8(g.k, g.n);
  s->scales = r.floats(g.n);
  s->bias = r.floats(g.n, true);
  s->out = r.operand(plan_product({g.m, g.n, f.size()}));
  return s.release();
}

// m n k | batch, then batch x (a index, b index) | matrices of a, of b | a signed, b signed | b packed, a zero point a column of b |
// a, b, a zero?, b zero?, out
Step* make_matmul_integer(PlanReader& r) {
  auto s = std::make_unique<MatmulInteger>();
  GemmInt8Args& g = s->g;
  g = {};
  g.m = r.size();
  g.n = r.size();
  g.k = r.size();
  g.batch = r.within(0, 1 << 24);
  int64_t most_a = 0, most_b = 0;
  for (int64_t i = 0; i < g.batch && r.ok(); i++) {
    const int64_t a = r.within(0, 1 << 24), b = r.within(0, 1 << 24);
    most_a = std::max(most_a, a + 1);
    most_b = std::max(most_b, b + 1);
    s->a_index.push_back(static_cast<int32_t>(a));
    s->b_index.push_back(static_cast<int32_t>(b));
  }
  g.a_signed = r.within(0, 1) != 0;
  g.b_unsigned = r.within(0, 1) == 0;
  s->packed = r.within(0, 1) != 0;
  s->columns = r.within(0, 1) != 0;
  g.out_type = kOutInt32;
  g.a_scale = g.b_scale = g.out_scale = 1;
  if (!r.ok()) return nullptr;
  r.require(!s->packed || (!g.b_unsigned && most_b <= 1), "packed codes of another kind");
  s->a = r.operand(plan_product({most_a, g.m, g.k}));
  s->b = s->packed ? r.packed_int8(g.k, g.n) : r.operand(plan_product({most_b, g.k, g.n}));
  r.require(!s->b.sparse || g.batch == 1, "sparse codes in a batch");
  s->a_zero = r.operand(1, true);
  s->b_zero = r.operand(s->columns ? g.n : 1, true);
  r.require(!s->b.sparse || s->b_zero.place == Place::none, "sparse codes with a zero point");
  s->out = r.operand(plan_product({g.batch, g.m, g.n, 4}));
  std::vector<int32_t> map;
  for (size_t i = 0; i < s->a_index.size(); i++) {
    map.push_back(s->a_index[i]);
    map.push_back(s->b_index[i]);
  }
  if (!map.empty()) s->map_there = static_cast<const int32_t*>(r.keep(map.data(), static_cast<int64_t>(map.size()) * 4));
  return s.release();
}

}  // namespace whittle
