// What a plan does to every element by itself: short programs of arithmetic, operations on any type, copies, pools, picking.
// A thread has one result, neighbours have neighbours.
#include <math.h>

#include <limits>

#include "cuda/activation.h"
#include "cuda/net.h"

namespace whittle {
namespace {

// Trigonometry takes registers that other programs need not pay for.
__device__ float turn_of(int32_t op, float a) {
  switch (op) {
    case kElementwise_sin: return sinf(a);
    case kElementwise_cos: return cosf(a);
    case kElementwise_tan: return tanf(a);
    case kElementwise_asin: return asinf(a);
    case kElementwise_acos: return acosf(a);
    case kElementwise_atan: return atanf(a);
    case kElementwise_sinh: return sinhf(a);
    case kElementwise_cosh: return coshf(a);
    case kElementwise_asinh: return asinhf(a);
    case kElementwise_acosh: return acoshf(a);
    default: return atanhf(a);
  }
}

template <bool kTurns>
__device__ float apply(int32_t op, float a, float b, float p, float q) {
  if (kTurns && op > kElementwise_sign) return turn_of(op, a);
  switch (op) {
    case kElementwise_add: return __fadd_rn(a, b);
    case kElementwise_sub: return __fsub_rn(a, b);
    case kElementwise_mul: return __fmul_rn(a, b);
    case kElementwise_div: return __fdiv_rn(a, b);
    case kElementwise_min: return a < b || a != a ? a : b;
    case kElementwise_max: return a > b || a != a ? a : b;
    case kElementwise_pow: return powf(a, b);
    case kElementwise_prelu: return a < 0 ? __fmul_rn(a, b) : a;
    case kElementwise_affine: return __fadd_rn(__fmul_rn(a, p), q);
    case kElementwise_neg: return -a;
    case kElementwise_abs: return fabsf(a);
    case kElementwise_square: return __fmul_rn(a, a);
    case kElementwise_sqrt: return __fsqrt_rn(a);
    case kElementwise_reciprocal: return __fdiv_rn(1.0f, a);
    case kElementwise_exp: return expf(a);
    case kElementwise_log: return logf(a);
    case kElementwise_erf: return erff(a);
    case kElementwise_clip: return act_apply(a, kActivationClip, p, q);
    case kElementwise_hardswish: return act_apply(a, kActivationHardswish, p, q);
    case kElementwise_hardsigmoid: return act_apply(__fadd_rn(__fmul_rn(a, p), q), kActivationClip, 0, 1);
    case kElementwise_sigmoid: return act_apply(a, kActivationSigmoid, p, q);
    case kElementwise_tanh: return act_apply(a, kActivationTanh, p, q);
    case kElementwise_silu: return act_apply(a, kActivationSilu, p, q);
    case kElementwise_gelu: return act_apply(a, kActivationGelu, p, q);
    case kElementwise_gelu_tanh: return act_apply(a, kActivationGeluTanh, p, q);
    case kElementwise_leaky: return a < 0 ? __fmul_rn(a, p) : a;
    case kElementwise_elu: return a < 0 ? __fmul_rn(p, expm1f(a)) : a;
    case kElementwise_selu: return __fmul_rn(q, a <= 0 ? __fmul_rn(p, expm1f(a)) : a);
    case kElementwise_celu: return a < 0 ? __fmul_rn(p, expm1f(__fdiv_rn(a, p))) : a;
    case kElementwise_softplus: return a > 0 ? __fadd_rn(a, log1pf(expf(-a))) : log1pf(expf(a));
    case kElementwise_softsign: return __fdiv_rn(a, __fadd_rn(1.0f, fabsf(a)));
    case kElementwise_thresholded: return a > p ? a : a != a ? a : 0.0f;
    case kElementwise_shrink: return a < -p ? __fadd_rn(a, q) : a > p ? __fsub_rn(a, q) : a != a ? a : 0.0f;
    case kElementwise_mish: return __fmul_rn(a, act_apply(a > 0 ? __fadd_rn(a, log1pf(expf(-a))) : log1pf(expf(a)), kActivationTanh, 0, 0));
    case kElementwise_floor: return floorf(a);
    case kElementwise_ceil: return ceilf(a);
    case kElementwise_round: return rintf(a);
    case kElementwise_sign: return a > 0 ? 1.0f : a < 0 ? -1.0f : a;
    default: return a;
  }
}

// Registers of the program are columns of shared memory, one a thread.
constexpr int kProgramThreads = 128;
template <bool kTurns>
__global__ void __launch_bounds__(kProgramThreads) program_kernel(const CudaElementwise p) {
  WHITTLE_SHARED(held, float[kElementwiseRegisters * kProgramThreads]);
  const uint32_t i = blockIdx.x * kProgramThreads + threadIdx.x;
  if (i >= p.size) return;
  float* const own = held + threadIdx.x;
  uint32_t index[kElementwiseRank];
  uint32_t rest = i;
#pragma unroll
  for (int k = kElementwiseRank - 1; k >= 0; k--) {
    index[k] = 0;
    if (k >= p.rank) continue;
    index[k] = rest % p.dims[k];
    rest /= p.dims[k];
  }
  for (int s = 0; s < p.inputs; s++) {
    uint32_t at = 0;
#pragma unroll
    for (int k = 0; k < kElementwiseRank; k++)
      if (k < p.rank) at += index[k] * p.strides[s][k];
    const ElementwiseCode& c = p.code[s];
    float v;
    if (c.kind == 0) v = static_cast<const float*>(p.input[s])[at];
    else v = __fmul_rn(static_cast<float>((c.kind == 1 ? static_cast<const int8_t*>(p.input[s])[at] : static_cast<const uint8_t*>(p.input[s])[at]) - c.zero), c.scale);
    own[s * kProgramThreads] = v;
  }
  float v = 0;
  for (int s = 0; s < p.steps; s++) {
    const ElementwiseStep e = p.step[s];
    v = apply<kTurns>(e.op, own[e.a * kProgramThreads], own[e.b * kProgramThreads], e.p, e.q);
    own[e.out * kProgramThreads] = v;
  }
  const ElementwiseCode& c = p.out_code;
  if (c.kind == 0) {
    static_cast<float*>(p.out)[i] = v;
    return;
  }
  const float low = static_cast<float>((c.kind == 1 ? -128 : 0) - c.zero);
  static_cast<uint8_t*>(p.out)[i] = static_cast<uint8_t>(__float2int_rn(fminf(fmaxf(__fdiv_rn(v, c.scale), low), low + 255.0f)) + c.zero);
}

// Numbers of any type: integers of up to 64 bits (of uint64 the bits), or floats.
struct Number {
  int64_t i;
  double d;
};

__device__ bool real(ElementKind kind) { return kind == ElementKind::float32 || kind == ElementKind::float64; }

__device__ Number read(const void* x, ElementKind kind, int64_t at) {
  switch (kind) {
    case ElementKind::float32: return {0, static_cast<double>(static_cast<const float*>(x)[at])};
    case ElementKind::float64: return {0, static_cast<const double*>(x)[at]};
    case ElementKind::int8: return {static_cast<const int8_t*>(x)[at], 0};
    case ElementKind::int16: return {static_cast<const int16_t*>(x)[at], 0};
    case ElementKind::uint16: return {static_cast<const uint16_t*>(x)[at], 0};
    case ElementKind::int32: return {static_cast<const int32_t*>(x)[at], 0};
    case ElementKind::uint32: return {static_cast<const uint32_t*>(x)[at], 0};
    case ElementKind::int64:
    case ElementKind::uint64: return {static_cast<const int64_t*>(x)[at], 0};
    default: return {static_cast<const uint8_t*>(x)[at], 0};
  }
}

// Integers lose what does not fit; a double that was a sum or a product of floats rounds to the float it would have been.
__device__ void write(void* y, ElementKind kind, uint32_t at, Number v) {
  switch (kind) {
    case ElementKind::float32: static_cast<float*>(y)[at] = static_cast<float>(v.d); break;
    case ElementKind::float64: static_cast<double*>(y)[at] = v.d; break;
    case ElementKind::int16:
    case ElementKind::uint16: static_cast<uint16_t*>(y)[at] = static_cast<uint16_t>(v.i); break;
    case ElementKind::int32:
    case ElementKind::uint32: static_cast<uint32_t*>(y)[at] = static_cast<uint32_t>(v.i); break;
    case ElementKind::int64:
    case ElementKind::uint64: static_cast<int64_t*>(y)[at] = v.i; break;
    default: static_cast<uint8_t*>(y)[at] = static_cast<uint8_t>(v.i); break;
  }
}

struct Range {
  double low, high;  // the lowest, and 1 more than the highest
  int64_t least, most;
};
__device__ Range range_of(ElementKind kind) {
  switch (kind) {
    case ElementKind::int8: return {-128, 128, -128, 127};
    case ElementKind::int16: return {-32768, 32768, -32768, 32767};
    case ElementKind::uint16: return {0, 65536, 0, 65535};
    case ElementKind::int32: return {-0x1p31, 0x1p31, -0x7fffffffll - 1, 0x7fffffff};
    case ElementKind::uint32: return {0, 0x1p32, 0, 0xffffffffll};
    case ElementKind::int64: return {-0x1p63, 0x1p63, -0x7fffffffffffffffll - 1, 0x7fffffffffffffffll};
    case ElementKind::uint64: return {0, 0x1p64, 0, -1};
    default: return {0, 256, 0, 255};
  }
}

__device__ Number cast(Number v, ElementKind from, ElementKind to) {
  if (to == ElementKind::boolean) return {real(from) ? v.d != 0 : v.i != 0, 0};
  if (real(from)) {
    if (real(to)) return v;
    const Range r = range_of(to);
    if (v.d != v.d) return {0, 0};
    if (v.d <= r.low) return {r.least, 0};
    if (v.d >= r.high) return {r.most, 0};
    return {v.d >= 0x1p63 ? static_cast<int64_t>(static_cast<uint64_t>(v.d)) : static_cast<int64_t>(v.d), 0};
  }
  if (!real(to)) return v;
  // One rounding, to the type that is asked for.
  const bool wide = to == ElementKind::float64;
  if (from == ElementKind::uint64) {
    const uint64_t u = static_cast<uint64_t>(v.i);
    return {0, wide ? static_cast<double>(u) : static_cast<double>(static_cast<float>(u))};
  }
  return {0, wide ? static_cast<double>(v.i) : static_cast<double>(static_cast<float>(v.i))};
}

__device__ int width_of(ElementKind kind) {
  switch (kind) {
    case ElementKind::int16:
    case ElementKind::uint16: return 16;
    case ElementKind::int32:
    case ElementKind::uint32: return 32;
    case ElementKind::int64:
    case ElementKind::uint64: return 64;
    default: return 8;
  }
}

__device__ bool is_signed(ElementKind kind) {
  return kind == ElementKind::int8 || kind == ElementKind::int16 || kind == ElementKind::int32 || kind == ElementKind::int64;
}

// Divisions and powers take registers that other operations need not pay for.
__device__ Number divide(TypedOp op, ElementKind kind, Number a, Number b) {
  const uint64_t ua = static_cast<uint64_t>(a.i), ub = static_cast<uint64_t>(b.i);
  if (real(kind)) {
    if (op == kTyped_div) return {0, a.d / b.d};
    const double r = fmod(a.d, b.d);
    return {0, op == kTyped_mod && r != 0 && (r < 0) != (b.d < 0) ? r + b.d : r};
  }
  if (op == kTyped_pow) {
    if (is_signed(kind) && b.i < 0) return {a.i == 1, 0};
    uint64_t r = 1, x = ua;
    for (uint64_t e = ub; e; e >>= 1, x *= x)
      if (e & 1) r *= x;
    return {static_cast<int64_t>(r), 0};
  }
  // The one quotient that does not fit is minus the smallest value: it wraps.
  const bool wraps = is_signed(kind) && b.i == -1;
  if (b.i == 0) return {0, 0};
  if (wraps) return {op == kTyped_div ? static_cast<int64_t>(0 - ua) : 0, 0};
  if (!is_signed(kind)) return {static_cast<int64_t>(op == kTyped_div ? ua / ub : ua % ub), 0};
  if (op == kTyped_div) return {a.i / b.i, 0};
  const int64_t r = a.i % b.i;
  return {op == kTyped_mod && r != 0 && (r < 0) != (b.i < 0) ? r + b.i : r, 0};
}

__device__ Number compute(TypedOp op, ElementKind kind, Number a, Number b) {
  const bool is_real = real(kind), is_wide = kind == ElementKind::uint64;
  const bool less = is_real ? a.d < b.d : is_wide ? static_cast<uint64_t>(a.i) < static_cast<uint64_t>(b.i) : a.i < b.i;
  const bool equal = is_real ? a.d == b.d : a.i == b.i, ordered = !is_real || (a.d == a.d && b.d == b.d);
  const uint64_t ua = static_cast<uint64_t>(a.i), ub = static_cast<uint64_t>(b.i);
  switch (op) {
    case kTyped_add: return {static_cast<int64_t>(ua + ub), a.d + b.d};
    case kTyped_sub: return {static_cast<int64_t>(ua - ub), a.d - b.d};
    case kTyped_mul: return {static_cast<int64_t>(ua * ub), a.d * b.d};
    case kTyped_min: return less || (is_real && a.d != a.d) ? a : b;
    case kTyped_max: return (ordered && !less && !equal) || (is_real && a.d != a.d) ? a : b;
    case kTyped_bit_and: return {a.i & b.i, 0};
    case kTyped_bit_or: return {a.i | b.i, 0};
    case kTyped_bit_xor: return {a.i ^ b.i, 0};
    case kTyped_equal: return {equal, 0};
    case kTyped_less: return {less, 0};
    case kTyped_less_equal: return {less || equal, 0};
    case kTyped_greater: return {ordered && !less && !equal, 0};
    case kTyped_greater_equal: return {ordered && !less, 0};
    case kTyped_logical_not: return {a.i == 0, 0};
    // 0 - a, as the CPU has it.
    case kTyped_neg: return {static_cast<int64_t>(0 - ua), 0.0 - a.d};
    case kTyped_abs: return {kind != ElementKind::uint64 && a.i < 0 ? static_cast<int64_t>(0 - ua) : a.i, fabs(a.d)};
    case kTyped_is_nan: return {a.d != a.d, 0};
    case kTyped_is_positive_inf: return {a.d == INFINITY, 0};
    case kTyped_is_negative_inf: return {a.d == -INFINITY, 0};
    case kTyped_bit_not: return {~a.i, a.d};
    case kTyped_sign:
      return {a.i == 0 ? 0 : a.i < 0 && is_signed(kind) ? -1 : 1, a.d > 0 ? 1.0 : a.d < 0 ? -1.0 : a.d};
    case kTyped_shift_left:
    case kTyped_shift_right: {
      const int width = width_of(kind);
      if (ub >= static_cast<uint64_t>(width)) return {0, 0};
      const uint64_t bits = width == 64 ? ua : ua & ((1ull << width) - 1);
      return {static_cast<int64_t>(op == kTyped_shift_left ? bits << ub : bits >> ub), 0};
    }
    default: return a;
  }
}

struct TypedCall {
  TypedProblem p;
  const void* in[3];
  void* out;
  ElementKind result;
  uint32_t size;
};

template <bool kDivides>
__global__ void __launch_bounds__(kBlock) typed_kernel(const TypedCall c) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= c.size) return;
  int64_t at[3] = {0, 0, 0};
  uint32_t rest = i;
#pragma unroll
  for (int k = kTypedRank - 1; k >= 0; k--) {
    if (k >= c.p.rank) continue;
    const uint32_t d = static_cast<uint32_t>(c.p.dims[k]), index = rest % d;
    rest /= d;
#pragma unroll
    for (int s = 0; s < 3; s++) at[s] += index * c.p.strides[s][k];
  }
  const ElementKind kind = c.p.type;
  Number v;
  if (c.p.op == kTyped_where) {
    const bool first = static_cast<const uint8_t*>(c.in[0])[at[0]] != 0;
    v = read(first ? c.in[1] : c.in[2], kind, first ? at[1] : at[2]);
  } else {
    const Number a = read(c.in[0], kind, at[0]), b = c.in[1] ? read(c.in[1], kind, at[1]) : a;
    v = kDivides ? divide(c.p.op, kind, a, b) : c.p.op == kTyped_cast ? cast(a, kind, c.p.to) : compute(c.p.op, kind, a, b);
  }
  write(c.out, c.result, i, v);
}

struct CopyCall {
  StridedCopy p;
  uint32_t size;
};

template <class T>
__global__ void __launch_bounds__(kBlock) copy_kernel(const CopyCall c, const T* in, T* out) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= c.size) return;
  int64_t from = 0, to = 0;
  uint32_t rest = i;
#pragma unroll
  for (int k = kLayoutRank - 1; k >= 0; k--) {
    if (k >= c.p.rank) continue;
    const uint32_t d = static_cast<uint32_t>(c.p.dims[k]), index = rest % d;
    rest /= d;
    from += index * c.p.in_strides[k];
    to += index * c.p.out_strides[k];
  }
  out[to] = in[from];
}

__global__ void __launch_bounds__(kBlock) fill_kernel(float* out, float value, uint32_t size) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < size) out[i] = value;
}

// `inner` in elements of T.
template <class T>
__global__ void __launch_bounds__(kBlock) gather_kernel(const T* x, const void* index, bool wide, uint32_t axis, uint32_t inner, uint32_t count, uint32_t size,
                                                        T* out, int* flags) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= size) return;
  const uint32_t piece = i / inner, k = piece % count;
  int64_t at = wide ? static_cast<const int64_t*>(index)[k] : static_cast<const int32_t*>(index)[k];
  if (at < -static_cast<int64_t>(axis) || at >= axis) {
    atomicOr(flags, kFlagLabel);
    return;
  }
  if (at < 0) at += axis;
  out[i] = x[(static_cast<int64_t>(piece / count) * axis + at) * inner + i % inner];
}

__global__ void __launch_bounds__(kBlock) pool_kernel(const PoolProblem p, uint32_t size) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= size) return;
  const int32_t h = static_cast<int32_t>(p.h), w = static_cast<int32_t>(p.w), c = static_cast<int32_t>(p.c), ow = static_cast<int32_t>(p.ow);
  const int32_t channel = static_cast<int32_t>(i) % c, pixel = static_cast<int32_t>(i) / c, row = pixel / ow, oh = static_cast<int32_t>(p.oh);
  const int32_t top = row % oh * static_cast<int32_t>(p.stride_h) - static_cast<int32_t>(p.pad_top);
  const int32_t left = pixel % ow * static_cast<int32_t>(p.stride_w) - static_cast<int32_t>(p.pad_left);
  const float* x = p.x + static_cast<int64_t>(row / oh) * h * w * c + channel;
  int32_t seen = 0, padded = 0;
  float v = p.average ? 0.0f : -INFINITY;
  for (int32_t ky = 0; ky < p.kh; ky++) {
    const int32_t iy = top + ky * static_cast<int32_t>(p.dilation_h);
    if (iy >= h + p.pad_bottom) break;
    for (int32_t kx = 0; kx < p.kw; kx++) {
      const int32_t ix = left + kx * static_cast<int32_t>(p.dilation_w);
      if (ix >= w + p.pad_right) break;
      padded++;
      if (iy < 0 || iy >= h || ix < 0 || ix >= w) continue;
      const float u = x[(iy * w + ix) * c];
      v = seen++ == 0 ? u : p.average ? __fadd_rn(v, u) : v > u || v != v ? v : u;
    }
  }
  const int32_t count = p.count_padding ? padded : seen;
  p.out[i] = p.average && count > 1 ? __fdiv_rn(v, static_cast<float>(count)) : v;
}

__global__ void __launch_bounds__(kBlock) resize_kernel(const ResizeProblem p, uint32_t size) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= size) return;
  const uint32_t c = static_cast<uint32_t>(p.c), channel = i % c, pixel = i / c;
  const uint32_t ox = pixel % static_cast<uint32_t>(p.ow), oy = pixel / static_cast<uint32_t>(p.ow) % static_cast<uint32_t>(p.oh);
  const float* image = p.x + static_cast<int64_t>(pixel / static_cast<uint32_t>(p.ow * p.oh)) * p.h * p.w * p.c + channel;
  float v = 0;
  for (int32_t a = 0; a < p.taps_y; a++) {
    float line = 0;
    for (int32_t b = 0; b < p.taps_x; b++)
      line = __fadd_rn(line, __fmul_rn(p.weight_x[ox * p.taps_x + b], image[(p.index_y[oy * p.taps_y + a] * p.w + p.index_x[ox * p.taps_x + b]) * p.c]));
    v = __fadd_rn(v, __fmul_rn(p.weight_y[oy * p.taps_y + a], line));
  }
  p.out[i] = v;
}

// What the windows give a pixel, found from the pixel.
__global__ void __launch_bounds__(kBlock) scatter_kernel(const ScatterProblem p, uint32_t size) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= size) return;
  const uint32_t c = static_cast<uint32_t>(p.c), channel = i % c, pixel = i / c;
  const int32_t ox = static_cast<int32_t>(pixel % static_cast<uint32_t>(p.ow)), row = static_cast<int32_t>(pixel / static_cast<uint32_t>(p.ow));
  const int32_t oh = static_cast<int32_t>(p.oh), oy = row % oh, sh = static_cast<int32_t>(p.stride_h), sw = static_cast<int32_t>(p.stride_w);
  const int64_t image = row / oh;
  float v = p.bias ? p.bias[channel] : 0.0f;
  for (int32_t ky = 0; ky < p.kh; ky++) {
    const int32_t y = oy + static_cast<int32_t>(p.pad_top) - ky * static_cast<int32_t>(p.dilation_h);
    if (y < 0 || y % sh != 0 || y / sh >= p.h) continue;
    for (int32_t kx = 0; kx < p.kw; kx++) {
      const int32_t x = ox + static_cast<int32_t>(p.pad_left) - kx * static_cast<int32_t>(p.dilation_w);
      if (x < 0 || x % sw != 0 || x / sw >= p.w) continue;
      v = __fadd_rn(v, p.in[((((image * p.h + y / sh) * p.w + x / sw) * p.kh + ky) * p.kw + kx) * p.c + channel]);
    }
  }
  p.out[i] = v;
}

// Elements of dims, or -1 from 2^31 on.
int64_t count_of(int rank, const int64_t* dims) {
  int64_t n = 1;
  for (int k = 0; k < rank; k++) {
    if (dims[k] == 0) return 0;
    if (n > kMostElements / dims[k]) return kMostElements + 1;
    n *= dims[k];
  }
  return n;
}

int64_t pixels_of(int64_t a, int64_t b, int64_t c, int64_t d) {
  const int64_t dims[] = {a, b, c, d};
  return count_of(4, dims);
}

}  // namespace

void net_elementwise(CudaTurn* turn, const CudaElementwise& p) {
  if (p.size == 0) return;
  bool turns = false;
  for (int s = 0; s < p.steps; s++) turns |= p.step[s].op > kElementwise_sign;
  const dim3 grid((p.size + kProgramThreads - 1) / kProgramThreads);
  if (turns) turn->work.launch(grid, kProgramThreads, program_kernel<true>, p);
  else turn->work.launch(grid, kProgramThreads, program_kernel<false>, p);
}

void net_typed(CudaTurn* turn, const TypedProblem& p, const void* const* inputs, void* out) {
  if (!cuda_typed_exists(p.op, p.type)) return turn->work.refuse("an operation without a kernel for devices");
  const int64_t size = count_of(p.rank, p.dims);
  TypedCall c = {};
  c.p = p;
  const bool two = p.op < kTyped_bit_not;
  for (int i = 0; i < (p.op == kTyped_where ? 3 : two ? 2 : 1); i++) c.in[i] = inputs[i];
  const bool says = (p.op >= kTyped_equal && p.op <= kTyped_greater_equal) || (p.op >= kTyped_is_nan && p.op <= kTyped_is_negative_inf);
  c.result = p.op == kTyped_cast ? p.to : says ? ElementKind::boolean : p.type;
  c.out = out;
  c.size = static_cast<uint32_t>(size);
  if (p.op == kTyped_div || p.op == kTyped_pow || p.op == kTyped_mod || p.op == kTyped_fmod) each(turn, size, typed_kernel<true>, c);
  else each(turn, size, typed_kernel<false>, c);
}

void net_copy(CudaTurn* turn, const StridedCopy& p, const void* in, void* out) {
  const int64_t size = count_of(p.rank, p.dims);
  const CopyCall c = {p, static_cast<uint32_t>(size)};
  const auto go = [&](auto sample) {
    using T = decltype(sample);
    each(turn, size, copy_kernel<T>, c, static_cast<const T*>(in), static_cast<T*>(out));
  };
  if (p.size == 1) go(uint8_t());
  else if (p.size == 2) go(uint16_t());
  else if (p.size == 4) go(uint32_t());
  else go(uint64_t());
}

void net_fill(CudaTurn* turn, int64_t count, float value, float* out) { each(turn, count, fill_kernel, out, value, count); }

void net_gather(CudaTurn* turn, const CudaGather& p) {
  const bool words = p.inner % 4 == 0;
  const int64_t inner = words ? p.inner / 4 : p.inner, size = pixels_of(p.outer, p.count, inner, 1);
  if (p.axis > kMostElements) return turn->work.refuse("2^31 elements or more");
  if (words)
    each(turn, size, gather_kernel<uint32_t>, static_cast<const uint32_t*>(p.x), p.index, p.wide, p.axis, inner, p.count, size, static_cast<uint32_t*>(p.out),
         turn->work.flags());
  else
    each(turn, size, gather_kernel<uint8_t>, static_cast<const uint8_t*>(p.x), p.index, p.wide, p.axis, inner, p.count, size, static_cast<uint8_t*>(p.out),
         turn->work.flags());
}

void net_pool(CudaTurn* turn, const PoolProblem& p) {
  const int64_t size = pixels_of(p.n, p.oh, p.ow, p.c);
  each(turn, size, pool_kernel, p, size);
}

void net_resize(CudaTurn* turn, const ResizeProblem& p) {
  const int64_t size = pixels_of(p.n, p.oh, p.ow, p.c);
  each(turn, size, resize_kernel, p, size);
}

void net_scatter_taps(CudaTurn* turn, const ScatterProblem& p) {
  const int64_t size = pixels_of(p.n, p.oh, p.ow, p.c);
  each(turn, size, scatter_kernel, p, size);
}

}  // namespace whittle
