// Products and convolutions of a plan, by one kernel: a block makes 64 x 64 results, 16 of k at a time through shared memory,
// a thread 4 x 4 of them, the next 16 on their way meanwhile. Rows of a convolution are gathered from the image as they are
// asked for. What follows sums (bias, residual, activation) passes through shared memory too, so that rows are written whole and
// activations are compiled once.
#include "cuda/activation.h"
#include "cuda/net.h"

namespace whittle {
namespace {

constexpr int kTile = 64, kDeep = 16, kThreads = 256;
constexpr int kPitch = kTile + 4;  // floats: 16-byte aligned, and rows of 16 of k on different banks

struct Product {
  uint32_t m, n, k, columns, tiles;  // tiles of one product, `columns` of them beside each other
  const float *a, *b;
  int64_t a_row, a_col, b_row, b_col, a_batch, b_batch, y_batch;
  bool a_deep, b_deep;               // neighbours in memory are neighbours along k
  const int32_t* map;                // triples, or null
  float alpha;
  const float* bias;                 // bias_batch apart
  int64_t bias_batch;
  const float* residual;             // like y
  float* y;
  int64_t ldc;
  Activation activation;
};

// The image that rows of `a` are gathered from: groups lie a_batch apart.
struct Image {
  int32_t h, w, c, ic, oh, ow, kw, stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left;
};

template <bool kImage>
__global__ void __launch_bounds__(kThreads) product_kernel(const Product p, const Image g) {
  WHITTLE_SHARED(room, float4[kTile * kPitch / 4]);
  float* const shared = reinterpret_cast<float*>(room);
  float *const a_tile = shared, *const b_tile = shared + kDeep * kPitch;
  const uint32_t t = threadIdx.x, batch = blockIdx.x / p.tiles, tile = blockIdx.x % p.tiles;
  const uint32_t row0 = tile / p.columns * kTile, col0 = tile % p.columns * kTile;
  const float* a = p.a + (p.map ? p.map[3 * batch] : static_cast<int32_t>(batch)) * p.a_batch;
  const float* b = p.b + (p.map ? p.map[3 * batch + 1] : static_cast<int32_t>(batch)) * p.b_batch;
  // Where this thread reads: of four elements either k is the same or it rises by four.
  const bool a_deep = kImage || p.a_deep;
  const uint32_t ak = a_deep ? t % kDeep : t / kTile, ak_step = a_deep ? 0 : kThreads / kTile;
  const uint32_t ar = a_deep ? t / kDeep : t % kTile, ar_step = a_deep ? kThreads / kDeep : 0;
  const uint32_t bk = p.b_deep ? t % kDeep : t / kTile, bk_step = p.b_deep ? 0 : kThreads / kTile;
  const uint32_t bc = p.b_deep ? t / kDeep : t % kTile, bc_step = p.b_deep ? kThreads / kDeep : 0;
  int32_t at[4], y0[4], x0[4];
  if (kImage) {
#pragma unroll
    for (uint32_t i = 0; i < 4; i++) {
      const uint32_t row = row0 + ar + i * ar_step, pixels = static_cast<uint32_t>(g.oh * g.ow), pixel = row % pixels;
      // Rows beyond the last lie outside of the image.
      y0[i] = row < p.m ? static_cast<int32_t>(pixel / static_cast<uint32_t>(g.ow)) * g.stride_h - g.pad_top : -(1 << 30);
      x0[i] = static_cast<int32_t>(pixel % static_cast<uint32_t>(g.ow)) * g.stride_w - g.pad_left;
      at[i] = static_cast<int32_t>(row / pixels) * g.h * g.w * g.c;
    }
  }
  float next_a[4], next_b[4];
  const auto load = [&](uint32_t k0) {
    int32_t dy = 0, dx = 0, channel = 0;
    if (kImage) {
      const uint32_t k = k0 + ak, tap = k / static_cast<uint32_t>(g.ic);
      channel = static_cast<int32_t>(k % static_cast<uint32_t>(g.ic));
      dy = static_cast<int32_t>(tap / static_cast<uint32_t>(g.kw)) * g.dilation_h;
      dx = static_cast<int32_t>(tap % static_cast<uint32_t>(g.kw)) * g.dilation_w;
    }
#pragma unroll
    for (uint32_t i = 0; i < 4; i++) {
      const uint32_t k = k0 + ak + i * ak_step;
      next_a[i] = 0;
      if (kImage) {
        const int32_t y = y0[i] + dy, x = x0[i] + dx;
        if (k < p.k && y >= 0 && y < g.h && x >= 0 && x < g.w) next_a[i] = a[at[i] + (y * g.w + x) * g.c + channel];
      } else {
        const uint32_t row = row0 + ar + i * ar_step;
        if (k < p.k && row < p.m) next_a[i] = a[row * p.a_row + k * p.a_col];
      }
      const uint32_t kb = k0 + bk + i * bk_step, column = col0 + bc + i * bc_step;
      next_b[i] = kb < p.k && column < p.n ? b[kb * p.b_row + column * p.b_col] : 0.0f;
    }
  };
  float sum[4][4] = {};
  const uint32_t ty = t / 16, tx = t % 16;
  if (p.k > 0) load(0);
  for (uint32_t k0 = 0; k0 < p.k; k0 += kDeep) {
#pragma unroll
    for (uint32_t i = 0; i < 4; i++) {
      a_tile[(ak + i * ak_step) * kPitch + ar + i * ar_step] = next_a[i];
      b_tile[(bk + i * bk_step) * kPitch + bc + i * bc_step] = next_b[i];
    }
    __syncthreads();
    if (k0 + kDeep < p.k) load(k0 + kDeep);
#pragma unroll
    for (uint32_t k = 0; k < kDeep; k++) {
      const float4 x = *reinterpret_cast<const float4*>(a_tile + k * kPitch + 4 * ty);
      const float4 w = *reinterpret_cast<const float4*>(b_tile + k * kPitch + 4 * tx);
      const float xs[4] = {x.x, x.y, x.z, x.w}, ws[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
      for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) sum[i][j] = __fmaf_rn(xs[i], ws[j], sum[i][j]);
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < 4; i++)
    *reinterpret_cast<float4*>(shared + (4 * ty + i) * kPitch + 4 * tx) = make_float4(sum[i][0], sum[i][1], sum[i][2], sum[i][3]);
  __syncthreads();
  const float* bias = p.bias ? p.bias + batch * p.bias_batch : nullptr;
#pragma unroll 1
  for (uint32_t i = t; i < kTile * kTile; i += kThreads) {
    const uint32_t r = i / kTile, c = i % kTile;
    if (row0 + r >= p.m || col0 + c >= p.n) continue;
    const int64_t to = batch * p.y_batch + (row0 + r) * p.ldc + col0 + c;
    float v = __fmul_rn(p.alpha, shared[r * kPitch + c]);
    if (p.residual) v = __fadd_rn(v, p.residual[to]);
    if (bias) v = __fadd_rn(v, bias[col0 + c]);
    p.y[to] = act_apply(v, p.activation.kind, p.activation.lo, p.activation.hi);
  }
}

// A thread for each result; neighbours are channels of one pixel.
__global__ void depthwise_kernel(const float* x, const float* weight, const float* bias, Image g, int32_t kh, uint32_t size, Activation activation,
                                 float* y) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= size) return;
  const uint32_t c = static_cast<uint32_t>(g.c), channel = i % c, pixel = i / c;
  const int32_t ox = static_cast<int32_t>(pixel % static_cast<uint32_t>(g.ow)), row = static_cast<int32_t>(pixel / static_cast<uint32_t>(g.ow));
  const int32_t y0 = row % g.oh * g.stride_h - g.pad_top, x0 = ox * g.stride_w - g.pad_left;
  const float* image = x + static_cast<int64_t>(row / g.oh) * g.h * g.w * g.c + channel;
  float sum = 0;
  for (int32_t ky = 0; ky < kh; ky++) {
    const int32_t iy = y0 + ky * g.dilation_h;
    if (iy < 0 || iy >= g.h) continue;
    for (int32_t kx = 0; kx < g.kw; kx++) {
      const int32_t ix = x0 + kx * g.dilation_w;
      if (ix < 0 || ix >= g.w) continue;
      sum = __fmaf_rn(image[(iy * g.w + ix) * g.c], weight[static_cast<uint32_t>(ky * g.kw + kx) * c + channel], sum);
    }
  }
  if (bias) sum = __fadd_rn(sum, bias[channel]);
  y[i] = act_apply(sum, activation.kind, activation.lo, activation.hi);
}

bool small(int64_t v) { return v >= 0 && v <= kMostElements; }

template <bool kImage>
void run(CudaTurn* turn, Product p, int64_t m, int64_t n, int64_t k, int64_t batch, const Image& image) {
  if (m == 0 || n == 0 || batch == 0) return;
  if (!small(m) || !small(n) || !small(k) || !small(m * n) || batch > kMostElements / (m * n)) return turn->work.refuse("2^31 elements or more");
  p.m = static_cast<uint32_t>(m);
  p.n = static_cast<uint32_t>(n);
  p.k = static_cast<uint32_t>(k);
  p.columns = (p.n + kTile - 1) / kTile;
  p.tiles = p.columns * ((p.m + kTile - 1) / kTile);
  turn->work.launch(dim3(p.tiles * static_cast<uint32_t>(batch)), kThreads, product_kernel<kImage>, p, image);
}

}  // namespace

void net_gemm(CudaTurn* turn, const GemmProblem& g) {
  Product p = {};
  p.a = g.a;
  p.b = g.b;
  p.a_row = g.a_row;
  p.a_col = g.a_col;
  p.b_row = g.b_row;
  p.b_col = g.b_col;
  p.a_deep = g.a_col == 1;
  p.b_deep = g.b_row == 1 && g.b_col != 1;
  p.a_batch = g.a_batch;
  p.b_batch = g.b_batch;
  p.y_batch = g.m * g.n;
  p.alpha = g.alpha;
  p.bias = g.bias;
  p.residual = g.source ? g.source : g.beta != 0 ? g.c : nullptr;
  p.y = g.c;
  p.ldc = g.n;
  p.activation = g.activation;
  p.map = g.map;
  run<false>(turn, p, g.m, g.n, g.k, g.batch, {});
}

void net_conv(CudaTurn* turn, const ConvProblem& c) {
  const int64_t sizes[] = {c.h, c.w, c.c, c.oh, c.ow, c.oc, c.kh, c.kw, c.n * c.h * c.w * c.c};
  for (int64_t s : sizes)
    if (!small(s)) return turn->work.refuse("2^31 elements or more");
  // An image so small that no window is beyond 32 bits.
  const int64_t reach_h = c.oh * c.stride_h + c.kh * c.dilation_h + c.pad_top, reach_w = c.ow * c.stride_w + c.kw * c.dilation_w + c.pad_left;
  if (reach_h >= 1 << 30 || reach_w >= 1 << 30) return turn->work.refuse("windows of 2^30 pixels or more");
  const auto i32 = [](int64_t v) { return static_cast<int32_t>(v); };
  const Image g = {i32(c.h), i32(c.w), i32(c.c), i32(c.c / c.groups), i32(c.oh), i32(c.ow), i32(c.kw), i32(c.stride_h), i32(c.stride_w),
                   i32(c.dilation_h), i32(c.dilation_w), i32(c.pad_top), i32(c.pad_left)};
  const int64_t pixels = c.n * c.oh * c.ow;
  if (conv_is_depthwise(c.c, c.oc, c.groups))
    return each(turn, pixels * c.c, depthwise_kernel, c.x, c.weight, c.bias, g, i32(c.kh), pixels * c.c, c.activation, c.out);
  const int64_t k = c.kh * c.kw * (c.c / c.groups), per = c.oc / c.groups;
  Product p = {};
  p.a = c.x;
  p.b = c.weight;
  p.a_batch = c.c / c.groups;
  p.b_row = 1;
  p.b_col = k;
  p.b_deep = true;
  p.b_batch = per * k;
  p.y_batch = p.bias_batch = per;
  p.alpha = 1;
  p.bias = c.bias;
  p.residual = c.residual;
  p.y = c.out;
  p.ldc = c.oc;
  p.activation = c.activation;
  const bool plain = c.kh == 1 && c.kw == 1 && c.stride_h == 1 && c.stride_w == 1 && c.pad_top == 0 && c.pad_left == 0 && c.oh == c.h && c.ow == c.w;
  if (!plain) return run<true>(turn, p, pixels, per, k, c.groups, g);
  p.a_row = c.c;
  p.a_col = 1;
  p.a_deep = true;
  run<false>(turn, p, pixels, per, k, c.groups, g);
}

}  // namespace whittle
