// Codes in a plan: products and convolutions of bytes with exact 32-bit sums and what follows them, by one kernel on tensor cores
// (a block makes 64 x 64 results, 64 of k at a time through shared memory, a warp 16 x 32 of them); floats to codes and back.
// Unsigned bytes are taken to the signed domain on their way; zero points are corrected from sums of rows and columns, modulo 2^32.
// Numbers are the CPU's: sums are exact, and what follows rounds as core/gemm_int8.h says.
#include <float.h>
#include <math.h>

#include "cuda/int8.h"
#include "cuda/net.h"

namespace whittle {
namespace {

constexpr int kTile = 64, kDeep = 64, kThreads = 256;
constexpr int kLine = (kDeep + 16) / 4;  // words of a row of a tile: eight rows lie on different banks
constexpr int kPitch = kTile + 4;        // of sums

struct Bytes {
  uint32_t m, n, k, columns, tiles;
  const uint8_t *a, *b;
  int64_t a_batch, b_batch, y_batch, b_row, b_col;
  uint32_t a_flip, b_flip;  // what takes four bytes to the signed domain
  const int32_t* map;       // pairs, or null
  const int32_t* sums;
  int32_t a_zero;
  const uint8_t *a_zero_at, *b_zero_at;
  bool b_zeros, strict;
  float a_scale;
  const float *a_scale_at, *scales, *bias, *residual;
  Activation activation;
  int32_t out_type, out_zero;
  float out_scale;
  uint8_t* out;
};

struct Window {
  int32_t h, w, c, oh, ow, kh, kw, stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left;
};

// A zero point in memory, less what takes its type to the signed domain.
__device__ int32_t zero_at(const uint8_t* z, uint32_t i, bool is_unsigned) {
  return is_unsigned ? static_cast<int32_t>(z[i]) - 128 : static_cast<int32_t>(static_cast<int8_t>(z[i]));
}

// What becomes of a sum; t is the result's place.
__device__ void finish_sum(const Bytes& p, int32_t sum, float scale, float bias, const float* residual, uint64_t t, int* flags) {
  if (p.out_type == kOutInt32) {
    reinterpret_cast<int32_t*>(p.out)[t] = sum;
    return;
  }
  if (p.strict && !(scale > 0 && scale <= FLT_MAX)) atomicOr(flags, kFlagScale);
  float x = __fadd_rn(__fmul_rn(static_cast<float>(sum), scale), bias);
  if (residual) x = __fadd_rn(x, residual[t]);
  put_float(p.out_type, p.out_scale, p.out_zero, act_apply(x, p.activation.kind, p.activation.lo, p.activation.hi), p.out, t);
}

template <bool kImage, bool kWide, bool kSums>
__global__ void __launch_bounds__(kThreads) bytes_kernel(const Bytes p, const Window g, int* flags) {
  WHITTLE_SHARED(room, uint4[kTile * kPitch / 4]);
  WHITTLE_SHARED(totals, int32_t[2][kTile]);
  uint32_t* const a_tile = reinterpret_cast<uint32_t*>(room);
  uint32_t* const b_tile = a_tile + kTile * kLine;
  const uint32_t t = threadIdx.x, batch = blockIdx.x / p.tiles, tile = blockIdx.x % p.tiles;
  const uint32_t row0 = tile / p.columns * kTile, col0 = tile % p.columns * kTile;
  const uint8_t* a = p.a + (p.map ? p.map[2 * batch] : static_cast<int32_t>(batch)) * p.a_batch;
  const uint8_t* b = p.b + (p.map ? p.map[2 * batch + 1] : static_cast<int32_t>(batch)) * p.b_batch;
  const int32_t a_zero = p.a_zero_at ? zero_at(p.a_zero_at, 0, p.a_flip != 0) : p.a_zero - (p.a_flip ? 128 : 0);
  // This thread brings 16 bytes of a row of each tile.
  const uint32_t line = t / 4, part = t % 4 * 16, row = row0 + line, column = col0 + line;
  int32_t y0 = 0, x0 = 0;
  if (kImage) {
    const uint32_t pixels = static_cast<uint32_t>(g.oh * g.ow), pixel = row % pixels;
    // Rows beyond the last lie outside of the image.
    y0 = row < p.m ? static_cast<int32_t>(pixel / static_cast<uint32_t>(g.ow)) * g.stride_h - g.pad_top : -(1 << 30);
    x0 = static_cast<int32_t>(pixel % static_cast<uint32_t>(g.ow)) * g.stride_w - g.pad_left;
    a += static_cast<int64_t>(row / pixels) * g.h * g.w * g.c;
  } else {
    a += static_cast<int64_t>(row) * p.k;
  }
  b += static_cast<int64_t>(column) * p.b_col;
  uint32_t next_a[4], next_b[4];
  const auto load = [&](uint32_t k0) {
    const uint32_t k = k0 + part;
#pragma unroll
    for (int i = 0; i < 4; i++) next_a[i] = next_b[i] = 0;
    if (k >= p.k) return;
    if (kImage) {
      const uint32_t tap = k / static_cast<uint32_t>(g.c);
      int32_t channel = static_cast<int32_t>(k % static_cast<uint32_t>(g.c)), kx = static_cast<int32_t>(tap % static_cast<uint32_t>(g.kw));
      int32_t ky = static_cast<int32_t>(tap / static_cast<uint32_t>(g.kw));
      const uint32_t pad = static_cast<uint32_t>(a_zero & 255);
      if (kWide) {
        const int32_t y = y0 + ky * g.dilation_h, x = x0 + kx * g.dilation_w;
        if (y >= 0 && y < g.h && x >= 0 && x < g.w) {
          const uint4 v = *reinterpret_cast<const uint4*>(a + (static_cast<int64_t>(y) * g.w + x) * g.c + channel);
          next_a[0] = v.x ^ p.a_flip, next_a[1] = v.y ^ p.a_flip, next_a[2] = v.z ^ p.a_flip, next_a[3] = v.w ^ p.a_flip;
        } else {
#pragma unroll
          for (int i = 0; i < 4; i++) next_a[i] = pad * 0x01010101u;
        }
      } else {
#pragma unroll
        for (int i = 0; i < 16; i++) {
          const int32_t y = y0 + ky * g.dilation_h, x = x0 + kx * g.dilation_w;
          uint32_t v = pad;
          if (k + i < p.k && y >= 0 && y < g.h && x >= 0 && x < g.w) v = (a[(static_cast<int64_t>(y) * g.w + x) * g.c + channel] ^ p.a_flip) & 255;
          next_a[i / 4] |= v << 8 * (i % 4);
          if (++channel == g.c) {
            channel = 0;
            if (++kx == g.kw) kx = 0, ky++;
          }
        }
      }
    } else if (row < p.m) {
      if (kWide) {
        const uint4 v = *reinterpret_cast<const uint4*>(a + k);
        next_a[0] = v.x ^ p.a_flip, next_a[1] = v.y ^ p.a_flip, next_a[2] = v.z ^ p.a_flip, next_a[3] = v.w ^ p.a_flip;
      } else {
#pragma unroll
        for (int i = 0; i < 16; i++)
          if (k + i < p.k) next_a[i / 4] |= ((a[k + i] ^ p.a_flip) & 255) << 8 * (i % 4);
      }
    }
    if (column >= p.n) return;
    if (!kSums) {
      // Rows of weights are padded with zeros.
      const uint4 v = *reinterpret_cast<const uint4*>(b + k);
      next_b[0] = v.x, next_b[1] = v.y, next_b[2] = v.z, next_b[3] = v.w;
    } else {
#pragma unroll
      for (int i = 0; i < 16; i++)
        if (k + i < p.k) next_b[i / 4] |= ((b[(k + i) * p.b_row] ^ p.b_flip) & 255) << 8 * (i % 4);
    }
  };
  int32_t sum[4][4] = {};
  int32_t total = 0;
  const uint32_t lane = t % kWarp, group = lane / 4, quad = lane % 4;
  const uint32_t m0 = t / kWarp % 4 * 16, n0 = t / kWarp / 4 * 32;
  if (p.k > 0) load(0);
  for (uint32_t k0 = 0; k0 < p.k; k0 += kDeep) {
#pragma unroll
    for (uint32_t i = 0; i < 4; i++) {
      a_tile[line * kLine + part / 4 + i] = next_a[i];
      b_tile[line * kLine + part / 4 + i] = next_b[i];
    }
    __syncthreads();
    if (k0 + kDeep < p.k) load(k0 + kDeep);
    if (kSums && t < 2 * kTile) {
      const uint32_t* from = a_tile + t * kLine;  // b's rows lie behind a's
      for (uint32_t i = 0; i < kDeep / 4; i++) total = dot4(static_cast<int>(from[i]), 0x01010101, total);
    }
#pragma unroll
    for (uint32_t s = 0; s < kDeep / 4; s += 8) {
      const uint32_t* x = a_tile + (m0 + group) * kLine + s + quad;
      const uint32_t as[4] = {x[0], x[8 * kLine], x[4], x[8 * kLine + 4]};
#pragma unroll
      for (uint32_t j = 0; j < 4; j++) {
        const uint32_t* w = b_tile + (n0 + 8 * j + group) * kLine + s + quad;
        const uint32_t bs[2] = {w[0], w[4]};
        mma_bytes(sum[j], as, bs);
      }
    }
    __syncthreads();
  }
  int32_t* const shared = reinterpret_cast<int32_t*>(room);
#pragma unroll
  for (uint32_t j = 0; j < 4; j++)
#pragma unroll
    for (uint32_t i = 0; i < 4; i++) shared[(m0 + group + i / 2 * 8) * kPitch + n0 + 8 * j + 2 * quad + i % 2] = sum[j][i];
  if (kSums && t < 2 * kTile) totals[t / kTile][t % kTile] = total;
  __syncthreads();
  const float a_scale = p.a_scale_at ? *p.a_scale_at : p.a_scale;
#pragma unroll 1
  for (uint32_t i = t; i < kTile * kTile; i += kThreads) {
    const uint32_t r = i / kTile, c = i % kTile, j = col0 + c;
    if (row0 + r >= p.m || j >= p.n) continue;
    uint32_t s = static_cast<uint32_t>(shared[r * kPitch + c]);
    const uint32_t za = static_cast<uint32_t>(a_zero);
    if (kSums) {
      const uint32_t zb = static_cast<uint32_t>(p.b_zero_at ? zero_at(p.b_zero_at, p.b_zeros ? j : 0, p.b_flip != 0) : p.b_flip ? -128 : 0);
      s += p.k * za * zb - za * static_cast<uint32_t>(totals[1][c]) - zb * static_cast<uint32_t>(totals[0][r]);
    } else {
      s -= za * static_cast<uint32_t>(p.sums[j]);
    }
    const float scale = p.scales ? __fmul_rn(a_scale, p.scales[j]) : 1.0f;
    finish_sum(p, static_cast<int32_t>(s), scale, p.bias ? p.bias[j] : -0.0f, p.residual, batch * p.y_batch + static_cast<uint64_t>(row0 + r) * p.n + j, flags);
  }
}

// A thread for each result; neighbours are channels of one pixel. Weights are whole numbers.
__global__ void __launch_bounds__(kBlock) depthwise_bytes_kernel(const Bytes p, const Window g, const float* weight, uint32_t size, int* flags) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= size) return;
  const uint32_t c = static_cast<uint32_t>(g.c), channel = i % c, pixel = i / c;
  const int32_t ox = static_cast<int32_t>(pixel % static_cast<uint32_t>(g.ow)), row = static_cast<int32_t>(pixel / static_cast<uint32_t>(g.ow));
  const int32_t y0 = row % g.oh * g.stride_h - g.pad_top, x0 = ox * g.stride_w - g.pad_left;
  const uint8_t* image = p.a + static_cast<int64_t>(row / g.oh) * g.h * g.w * g.c + channel;
  int32_t sum = 0;
  for (int32_t ky = 0; ky < g.kh; ky++) {
    const int32_t y = y0 + ky * g.dilation_h;
    if (y < 0 || y >= g.h) continue;
    for (int32_t kx = 0; kx < g.kw; kx++) {
      const int32_t x = x0 + kx * g.dilation_w;
      if (x < 0 || x >= g.w) continue;
      const uint8_t v = image[(static_cast<int64_t>(y) * g.w + x) * g.c];
      sum += ((p.a_flip ? static_cast<int32_t>(v) : static_cast<int32_t>(static_cast<int8_t>(v))) - p.a_zero) *
             static_cast<int32_t>(weight[static_cast<uint32_t>(ky * g.kw + kx) * c + channel]);
    }
  }
  finish_sum(p, sum, __fmul_rn(p.a_scale, p.scales[channel]), p.bias ? p.bias[channel] : -0.0f, nullptr, i, flags);
}

__device__ int32_t code_at(const void* x, uint64_t i, int32_t bits, bool sign) {
  if (bits == 32) return static_cast<const int32_t*>(x)[i];
  if (bits == 16) return sign ? static_cast<const int16_t*>(x)[i] : static_cast<const uint16_t*>(x)[i];
  const uint8_t* bytes = static_cast<const uint8_t*>(x);
  if (bits == 8) return sign ? static_cast<int8_t>(bytes[i]) : bytes[i];
  const int32_t v = bytes[i / 2] >> (i % 2 * 4) & 15;
  return sign && v >= 8 ? v - 16 : v;
}

// Which scale an element has.
__device__ uint32_t scale_of(const CudaCodes& g, uint32_t i) {
  const uint32_t inner = static_cast<uint32_t>(g.inner), axis = static_cast<uint32_t>(g.axis), block = static_cast<uint32_t>(g.block), a = i / inner % axis;
  return block == 1 ? a : (i / inner / axis * ((axis + block - 1) / block) + a / block) * inner + i % inner;
}

__device__ int32_t to_code(float x, float scale, int32_t zero, int32_t least, int32_t most) {
  // Bounds are whole numbers, so clamping first gives what rounding first would; NaN becomes the lowest code.
  const float low = static_cast<float>(least - zero), high = static_cast<float>(most - zero);
  return __float2int_rn(fminf(fmaxf(__fdiv_rn(x, scale), low), high)) + zero;
}

// A thread has a byte of codes or more: two codes of 4 bits.
__global__ void __launch_bounds__(kBlock) codes_kernel(const CudaCodes g, uint32_t size) {
  const uint32_t each = g.bits == 4 ? 2 : 1, first = (blockIdx.x * blockDim.x + threadIdx.x) * each;
  if (first >= size) return;
  const int32_t least = g.sign ? -(1 << (g.bits - 1)) : 0, most = least + (1 << g.bits) - 1;
  uint32_t byte = 0;
  for (uint32_t j = 0; j < each && first + j < size; j++) {
    const uint32_t i = first + j, s = scale_of(g, i);
    const int32_t code = to_code(static_cast<const float*>(g.x)[i], g.scale[s], g.zero ? code_at(g.zero, s, g.bits, g.sign) : 0, least, most);
    if (g.bits == 16) static_cast<uint16_t*>(g.out)[i] = static_cast<uint16_t>(code);
    else byte |= (static_cast<uint32_t>(code) & (g.bits == 4 ? 15 : 255)) << 4 * j;
  }
  if (g.bits != 16) static_cast<uint8_t*>(g.out)[first / each] = static_cast<uint8_t>(byte);
}

__global__ void __launch_bounds__(kBlock) values_kernel(const CudaCodes g, uint32_t size) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= size) return;
  const uint32_t s = scale_of(g, i);
  const int64_t q = static_cast<int64_t>(code_at(g.x, i, g.bits, g.sign)) - (g.zero ? code_at(g.zero, s, g.bits, g.sign) : 0);
  static_cast<float*>(g.out)[i] = __fmul_rn(static_cast<float>(q), g.scale[s]);
}

// How far numbers lie below 0 and above, as bits, which are in the order of the numbers; NaN is neither.
__global__ void __launch_bounds__(kBlock) bounds_kernel(const float* x, uint32_t size, unsigned* bounds) {
  float low = 0, hi = 0;
  for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < size; i += gridDim.x * blockDim.x) {
    low = fmaxf(low, -x[i]);
    hi = fmaxf(hi, x[i]);
  }
  for (int step = kWarp / 2; step > 0; step /= 2) {
    low = fmaxf(low, __shfl_xor_sync(kFullMask, low, step));
    hi = fmaxf(hi, __shfl_xor_sync(kFullMask, hi, step));
  }
  if (threadIdx.x % kWarp != 0) return;
  atomicMax(bounds, __float_as_uint(low));
  atomicMax(bounds + 1, __float_as_uint(hi));
}

// Every thread finds the scale; the first writes it.
__global__ void __launch_bounds__(kBlock) dynamic_kernel(const float* x, uint32_t size, const unsigned* bounds, uint8_t* out, float* scale, uint8_t* zero) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  const float lo = -__uint_as_float(bounds[0]), hi = __uint_as_float(bounds[1]);
  const float step = hi == lo ? 1.0f : __fdiv_rn(__fsub_rn(hi, lo), 255.0f);
  const int32_t z = __float2int_rn(fminf(255.0f, fmaxf(0.0f, __fsub_rn(0.0f, __fdiv_rn(lo, step)))));
  if (i == 0) {
    *scale = step;
    *zero = static_cast<uint8_t>(z);
  }
  if (i < size) out[i] = static_cast<uint8_t>(to_code(x[i], step, z, 0, 255));
}

bool small(int64_t v) { return v >= 0 && v <= kMostElements; }

Bytes bytes_of(const CudaInt8& q) {
  Bytes p = {};
  p.a = q.a;
  p.b = q.b;
  p.b_row = q.b_row;
  p.b_col = q.b_col;
  p.a_flip = q.a_signed ? 0 : 0x80808080u;
  p.b_flip = q.b_unsigned ? 0x80808080u : 0;
  p.map = q.map;
  p.sums = q.sums;
  p.a_zero = q.a_zero;
  p.a_zero_at = q.a_zero_at;
  p.b_zero_at = q.b_zero_at;
  p.b_zeros = q.b_zeros;
  p.strict = !q.a_scale_at;
  p.a_scale = q.a_scale;
  p.a_scale_at = q.a_scale_at;
  p.scales = q.scales;
  p.bias = q.bias;
  p.residual = q.residual;
  p.activation = q.activation;
  p.out_type = q.out_type;
  p.out_scale = q.out_scale;
  p.out_zero = q.out_zero;
  p.out = static_cast<uint8_t*>(q.out);
  return p;
}

template <bool kImage>
void run(CudaTurn* turn, Bytes p, const CudaInt8& q, const Window& g, bool wide) {
  if (q.m == 0 || q.n == 0 || q.batch == 0) return;
  // Sums of products of 8-bit numbers that fit 32 bits whatever the data.
  const int64_t most = q.sums ? 2147483647 / (255 * 128) : 2147483647 / (255 * 255);
  if (q.k > most) return turn->work.refuse("sums beyond 32 bits");
  if (!small(q.m) || !small(q.n) || !small(q.m * q.n) || q.batch > kMostElements / (q.m * q.n)) return turn->work.refuse("2^31 elements or more");
  p.m = static_cast<uint32_t>(q.m);
  p.n = static_cast<uint32_t>(q.n);
  p.k = static_cast<uint32_t>(q.k);
  p.a_batch = q.m * q.k;
  p.b_batch = q.k * q.n;
  p.y_batch = q.m * q.n;
  p.columns = (p.n + kTile - 1) / kTile;
  p.tiles = p.columns * ((p.m + kTile - 1) / kTile);
  const dim3 grid(p.tiles * static_cast<uint32_t>(q.batch));
  wide = wide && reinterpret_cast<uintptr_t>(p.a) % 16 == 0;
  int* const flags = turn->work.flags();
  if (!q.sums) turn->work.launch(grid, kThreads, bytes_kernel<false, false, true>, p, g, flags);
  else if (wide) turn->work.launch(grid, kThreads, bytes_kernel<kImage, true, false>, p, g, flags);
  else turn->work.launch(grid, kThreads, bytes_kernel<kImage, false, false>, p, g, flags);
}

}  // namespace

void net_product_int8(CudaTurn* turn, const CudaInt8& q) { run<false>(turn, bytes_of(q), q, {}, q.k % 16 == 0); }

void net_conv_int8(CudaTurn* turn, const CudaInt8& q, const ConvInt8Problem& c) {
  for (int64_t s : {c.h, c.w, c.c, c.oh, c.ow, c.kh, c.kw, c.n * c.h * c.w * c.c})
    if (!small(s)) return turn->work.refuse("2^31 elements or more");
  const int64_t reach_h = c.oh * c.stride_h + c.kh * c.dilation_h + c.pad_top, reach_w = c.ow * c.stride_w + c.kw * c.dilation_w + c.pad_left;
  if (reach_h >= 1 << 30 || reach_w >= 1 << 30) return turn->work.refuse("windows of 2^30 pixels or more");
  const auto i32 = [](int64_t v) { return static_cast<int32_t>(v); };
  const Window g = {i32(c.h), i32(c.w), i32(c.c), i32(c.oh), i32(c.ow), i32(c.kh), i32(c.kw), i32(c.stride_h), i32(c.stride_w),
                    i32(c.dilation_h), i32(c.dilation_w), i32(c.pad_top), i32(c.pad_left)};
  const Bytes p = bytes_of(q);
  if (c.depthwise) {
    const int64_t size = c.n * c.oh * c.ow * c.c;
    return each(turn, size, depthwise_bytes_kernel, p, g, c.depthwise, size, turn->work.flags());
  }
  const bool plain = c.kh == 1 && c.kw == 1 && c.stride_h == 1 && c.stride_w == 1 && c.pad_top == 0 && c.pad_left == 0 && c.oh == c.h && c.ow == c.w;
  if (plain) run<false>(turn, p, q, g, q.k % 16 == 0);
  else run<true>(turn, p, q, g, c.c % 16 == 0);
}

void net_codes(CudaTurn* turn, const CudaCodes& g) {
  const int64_t size = g.outer * g.axis * g.inner;
  if (!small(size)) return turn->work.refuse("2^31 elements or more");
  each(turn, g.bits == 4 ? (size + 1) / 2 : size, codes_kernel, g, size);
}

void net_values(CudaTurn* turn, const CudaCodes& g) {
  const int64_t size = g.outer * g.axis * g.inner;
  if (!small(size)) return turn->work.refuse("2^31 elements or more");
  each(turn, size, values_kernel, g, size);
}

void net_dynamic_codes(CudaTurn* turn, int64_t count, const float* x, uint8_t* out, float* scale, uint8_t* zero) {
  if (!small(count)) return turn->work.refuse("2^31 elements or more");
  // 0 is among the numbers, so both start there.
  unsigned* const bounds = reinterpret_cast<unsigned*>(turn->work.flags() + 1);
  turn->work.fill(bounds, 0, 8);
  constexpr int64_t kMost = 1024;
  const dim3 grid = blocks_for(count > 0 ? count : 1);
  if (count > 0) turn->work.launch(dim3(grid.x < kMost ? grid.x : kMost), kBlock, bounds_kernel, x, count, bounds);
  turn->work.launch(grid, kBlock, dynamic_kernel, x, count, bounds, out, scale, zero);
}

}  // namespace whittle
