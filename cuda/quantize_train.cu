// Fake quantization and its gradients: values and straight-through gradients have the CPU's bits; sums over a scale's elements run
// in double, in an order that the shape decides.
#include <float.h>
#include <math.h>

#include "cuda/quantize.h"

namespace whittle {
namespace {

__global__ void check_steps_kernel(const float* scale, const int32_t* zero, CodeForm f, uint32_t n, int* flags) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const int32_t z = zero ? zero[i] : 0, far = z - f.qmin > f.qmax - z ? z - f.qmin : f.qmax - z;
  if (!(scale[i] > 0 && scale[i] <= FLT_MAX) || __fmul_rn(scale[i], static_cast<float>(far)) > FLT_MAX) atomicOr(flags, kFlagScale);
}

__device__ float clipped(float v, float lo, float hi) {
  v = v > lo ? v : lo;
  return v < hi ? v : hi;
}

struct Slope {
  float r, v, lo, hi;
  bool inside;
};

// One step of room on either side tells a value that rounds onto a bound from one that is clipped by it.
__device__ Slope slope_of(float x, float scale, int32_t zero, const CodeForm& f, uint32_t i) {
  const float lo = static_cast<float>(f.qmin - zero), hi = static_cast<float>(f.qmax - zero), v = __fdiv_rn(x, scale);
  const float r = static_cast<float>(rounded(clipped(v, lo - 1, hi + 1), f, i));
  return {r, v, lo, hi, r >= lo && r <= hi};
}

__global__ void fake_kernel(const float* x, Geometry g, const float* scale, const int32_t* zero, CodeForm f, float* y, const float* dy, float* dx,
                            int* flags) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= g.size) return;
  const uint32_t s = scale_of(g, i);
  const int32_t z = zero ? zero[s] : 0;
  const float step = scale[s], value = x[i];
  bool bad = !finite(value);
  if (y) {
    const float v = clipped(__fdiv_rn(value, step), static_cast<float>(f.qmin - z), static_cast<float>(f.qmax - z));
    y[i] = __fmul_rn(step, static_cast<float>(rounded(v, f, i)));
  }
  if (dy) {
    bad |= !finite(dy[i]);
    dx[i] = slope_of(value, step, z, f, i).inside ? dy[i] : 0.f;
  }
  if (bad) atomicOr(flags, kFlagNonfinite);
}

// A warp a slice of a scale's elements; partial: of scales, then of zero points.
__global__ void fake_sums_kernel(const float* x, const float* dy, Geometry g, const float* scale, const int32_t* zero, CodeForm f, uint32_t slices,
                                 double* partial) {
  const uint32_t warp = (blockIdx.x * blockDim.x + threadIdx.x) / kWarp, lane = threadIdx.x % kWarp;
  const uint32_t s = warp / slices, slice = warp % slices;
  double of_scale = 0, of_zero = 0;
  if (s < g.scales) {
    uint32_t start = 0, count = g.size / (g.whole ? 1 : g.axis), run = g.inner, stride = g.axis * g.inner, step = 1;
    if (g.block) {
      const uint32_t row = s / g.inner, first = row % g.blocks * g.block;
      start = (row / g.blocks * g.axis + first) * g.inner + s % g.inner;
      count = g.axis - first < g.block ? g.axis - first : g.block;
      run = count;
      stride = 0;
      step = g.inner;
    } else if (!g.whole) start = s * g.inner;
    const float by = scale[s];
    const int32_t z = zero ? zero[s] : 0;
    for (uint32_t m = slice * kWarp + lane; m < count; m += slices * kWarp) {
      const uint32_t i = start + m / run * stride + m % run * step;
      const Slope p = slope_of(x[i], by, z, f, i);
      const double d = dy[i];
      of_scale += d * (p.inside ? static_cast<double>(p.r) - static_cast<double>(p.v) : static_cast<double>(p.r < p.lo ? p.lo : p.hi));
      if (!p.inside) of_zero -= d * static_cast<double>(by);
    }
  }
  for (int o = kWarp / 2; o; o >>= 1) {
    of_scale += __shfl_xor_sync(kFullMask, of_scale, o);
    of_zero += __shfl_xor_sync(kFullMask, of_zero, o);
  }
  if (lane != 0 || s >= g.scales) return;
  partial[warp] = of_scale;
  partial[g.scales * slices + warp] = of_zero;
}

__global__ void fake_finish_kernel(const double* partial, uint32_t scales, uint32_t slices, double factor, float* dscale, float* dzero) {
  const uint32_t s = blockIdx.x * blockDim.x + threadIdx.x;
  if (s >= scales) return;
  double a = 0, b = 0;
  for (uint32_t k = 0; k < slices; k++) {
    a += partial[s * slices + k];
    b += partial[(scales + s) * slices + k];
  }
  if (dscale) dscale[s] = static_cast<float>(factor * a);
  if (dzero) dzero[s] = static_cast<float>(factor * b);
}

constexpr uint32_t kSlice = 2048;  // elements that are worth a warp

}  // namespace

WhittleStatus cuda_fake_quantize(int32_t device, const float* x, const QuantizeShape& shape, const float* scale, const int32_t* zero,
                                 const QuantizeOptions& o, float* y, const FakeGradient* gradient) {
  if (!fits(shape)) return WHITTLE_SHAPE;
  const Geometry g = geometry(shape);
  const FakeGradient d = gradient ? *gradient : FakeGradient{};
  Work work(device);
  if (g.scales == 0) return work.finish();
  work.launch(blocks_for(g.scales), kBlock, check_steps_kernel, scale, zero, form(o), g.scales, work.flags());
  if (g.size > 0) work.launch(blocks_for(g.size), kBlock, fake_kernel, x, g, scale, zero, form(o), y, d.dy, d.dx, work.flags());
  if (d.dscale || d.dzero) {
    const uint32_t members = g.block ? (g.block < g.axis ? g.block : g.axis) : g.size / g.axis, slices = slices_for(members, kSlice, g.scales);
    const int64_t count = int64_t(g.scales) * slices;
    double* partial = work.scratch<double>(2 * count);
    if (g.size > 0) work.launch(blocks_for(count * kWarp), kBlock, fake_sums_kernel, x, d.dy, g, scale, zero, form(o), slices, partial);
    else work.fill(partial, 0, 2 * count * static_cast<int64_t>(sizeof(double)));
    work.launch(blocks_for(g.scales), kBlock, fake_finish_kernel, partial, g.scales, slices, d.factor, d.dscale, d.dzero);
  }
  return work.finish();
}

}  // namespace whittle
