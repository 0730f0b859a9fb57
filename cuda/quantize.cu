// Uniform affine quantization: ranges, parameters, codes, and back. Codes, scales and zero points are those of the CPU to the
// last bit: the same float32 division, rounding and definition of the parameters; a range is a maximum, which no order
// changes. Layout: any [outer, axis, inner] with or without blocks. Every kernel is bound by memory; neighbours in a warp
// read neighbouring elements, but for runs shorter than a warp. Limit: 2^31 - 1 elements.
#include <float.h>
#include <math.h>
#include <string.h>

#include <vector>

#include "core/quantize_parameter.h"
#include "cuda/half.h"
#include "cuda/quantize.h"

namespace whittle {
namespace {

// ---------- codes in memory ----------

__device__ int32_t widen(uint32_t v, int bits, int sign) {
  const uint32_t top = 1u << (bits - 1);
  return static_cast<int32_t>(sign ? (v ^ top) - top : v);
}

__device__ int32_t load_code(const void* codes, const CodeForm& f, uint32_t i) {
  if (f.bits == 16) return widen(static_cast<const uint16_t*>(codes)[i], 16, f.sign);
  const int shift = f.bits == 8 ? 0 : f.bits == 4 ? 1 : 2;
  const uint32_t within = i & ((1u << shift) - 1);
  return widen(static_cast<const uint8_t*>(codes)[i >> shift] >> (within * f.bits) & ((1u << f.bits) - 1), f.bits, f.sign);
}

// Codes of one byte (one of 16 bits), which one thread writes as a whole.
template <int kBits>
struct Packed {
  static constexpr int each = kBits >= 8 ? 1 : 8 / kBits;
  __device__ static void store(void* codes, uint32_t at, const int32_t* v, int n) {
    if (kBits == 16) {
      static_cast<uint16_t*>(codes)[at] = static_cast<uint16_t>(v[0]);
      return;
    }
    uint32_t byte = 0;
    for (int j = 0; j < n; j++) byte |= (static_cast<uint32_t>(v[j]) & ((1u << (kBits & 15)) - 1)) << (j * kBits);
    static_cast<uint8_t*>(codes)[at] = static_cast<uint8_t>(byte);
  }
};

// ---------- ranges ----------

// Unsigned integers in the order of the floats, for atomic minima and maxima.
__device__ uint32_t key_of(float v) {
  const uint32_t u = __float_as_uint(v);
  return u & 0x80000000u ? ~u : u | 0x80000000u;
}
__device__ float of_key(uint32_t k) { return __uint_as_float(k & 0x80000000u ? k ^ 0x80000000u : ~k); }

__global__ void open_ranges_kernel(uint32_t* lo, uint32_t* hi, uint32_t n) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  lo[i] = 0xffffffffu;
  hi[i] = 0;
}

__device__ void take(float v, float* lo, float* hi, bool* bad) {
  *bad |= !finite(v);
  *lo = v < *lo ? v : *lo;
  *hi = v > *hi ? v : *hi;
}

// Scales whose elements lie in runs: a warp a slice of a scale.
template <FloatType kType>
__global__ void range_runs_kernel(const void* x, Geometry g, uint32_t slices, uint32_t* lo, uint32_t* hi, int* flags) {
  const uint32_t warp = (blockIdx.x * blockDim.x + threadIdx.x) / kWarp, lane = threadIdx.x % kWarp;
  const uint32_t scale = warp / slices, slice = warp % slices;
  float a = FLT_MAX, b = -FLT_MAX;
  bool bad = false, any = false;
  if (scale < g.scales) {
    uint32_t start, length = g.inner, runs = 1;
    if (g.block) {
      const uint32_t first = scale % g.blocks * g.block;
      start = scale / g.blocks * g.axis + first;
      length = g.axis - first < g.block ? g.axis - first : g.block;
    } else {
      start = scale * g.inner;
      runs = g.outer;
    }
    const uint32_t count = runs * length, step = slices * kWarp;
    // In 64 bits only where the sum could overflow: count < 2^31 and step < 2^31.
    for (uint32_t m = slice * kWarp + lane; m < count; m += step) {
      const uint32_t run = runs == 1 ? 0 : m / length;
      take(load<kType>(x, start + run * g.axis * g.inner + (m - run * length)), &a, &b, &bad);
      any = true;
    }
  }
  any = __ballot_sync(kFullMask, any) != 0;
  for (int o = kWarp / 2; o; o >>= 1) {
    const float c = __shfl_xor_sync(kFullMask, a, o), d = __shfl_xor_sync(kFullMask, b, o);
    a = c < a ? c : a;
    b = d > b ? d : b;
  }
  if (bad) atomicOr(flags, kFlagNonfinite);
  if (lane == 0 && any) {
    atomicMin(lo + scale, key_of(a));
    atomicMax(hi + scale, key_of(b));
  }
}

// Scales whose elements lie `stride` apart, those of neighbouring scales side by side: a thread a slice of a scale.
template <FloatType kType>
__global__ void range_columns_kernel(const void* x, Geometry g, uint32_t slices, uint32_t* lo, uint32_t* hi, int* flags) {
  const uint32_t t = blockIdx.x * blockDim.x + threadIdx.x, scale = t % g.scales, slice = t / g.scales;
  if (slice >= slices) return;
  uint32_t start = scale, rows = g.outer, stride = g.axis;
  if (g.block) {
    const uint32_t i = scale % g.inner, row = scale / g.inner, first = row % g.blocks * g.block;
    start = (row / g.blocks * g.axis + first) * g.inner + i;
    rows = g.axis - first < g.block ? g.axis - first : g.block;
    stride = g.inner;
  }
  float a = FLT_MAX, b = -FLT_MAX;
  bool bad = false, any = false;
  for (uint32_t r = slice; r < rows; r += slices) {
    take(load<kType>(x, start + r * stride), &a, &b, &bad);
    any = true;
  }
  if (bad) atomicOr(flags, kFlagNonfinite);
  if (!any) return;
  atomicMin(lo + scale, key_of(a));
  atomicMax(hi + scale, key_of(b));
}

// ---------- histograms ----------

constexpr uint32_t kOwnBins = 8192;  // that a block counts by itself before it adds them to all

// Counts of floor(x factor) + bins / 2 for each index of the axis. A block a slice of one.
template <FloatType kType>
__global__ void histogram_kernel(const void* x, Geometry g, const float* factor, uint32_t bins, uint32_t slices, uint32_t* counts, int* flags) {
  WHITTLE_SHARED(own, uint32_t[kOwnBins]);
  const uint32_t channel = blockIdx.x / slices, slice = blockIdx.x % slices, count = g.outer * g.inner, step = slices * kBlock;
  const bool alone = bins <= kOwnBins;
  counts += uint64_t(channel) * bins;
  for (uint32_t i = threadIdx.x; alone && i < bins; i += kBlock) own[i] = 0;
  __syncthreads();
  const float by = factor[channel], half = static_cast<float>(bins / 2);
  bool bad = false;
  for (uint32_t m = slice * kBlock + threadIdx.x; m < count; m += step) {
    const uint32_t run = g.outer == 1 ? 0 : m / g.inner;
    const float v = __fmul_rn(load<kType>(x, (run * g.axis + channel) * g.inner + (m - run * g.inner)), by);
    if (!(v >= -half && v < half)) {
      bad = true;
      continue;
    }
    const uint32_t bin = static_cast<uint32_t>(__float2int_rz(floorf(v)) + static_cast<int32_t>(bins / 2));
    atomicAdd(alone ? &own[bin] : &counts[bin], 1u);
  }
  if (bad) atomicOr(flags, kFlagScale);
  __syncthreads();
  for (uint32_t i = threadIdx.x; alone && i < bins; i += kBlock)
    if (own[i]) atomicAdd(&counts[i], own[i]);
}

// ---------- parameters ----------

// A range of nothing counts as 0; so does -0.
template <int kBits>
__global__ void parameters_kernel(const uint32_t* lo, const uint32_t* hi, uint32_t n, QuantizeRule rule, float* scale, void* zero,
                                  int* flags) {
  const uint32_t at = blockIdx.x * blockDim.x + threadIdx.x, first = at * Packed<kBits>::each;
  if (first >= n) return;
  int32_t zeros[Packed<kBits>::each];
  int count = 0;
  for (; count < Packed<kBits>::each && first + count < n; count++) {
    const uint32_t i = first + count;
    const bool none = lo[i] > hi[i];
    float s = 1;
    int32_t z = 0;
    if (!quantize_parameter(none ? 0.f : of_key(lo[i]) + 0.f, none ? 0.f : of_key(hi[i]) + 0.f, rule, &s, &z))
      atomicOr(flags, kFlagNonfinite);
    scale[i] = s;
    zeros[count] = z;
  }
  if (zero) Packed<kBits>::store(zero, at, zeros, count);
}

__global__ void check_scales_kernel(const float* scale, uint32_t n, int* flags) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n && !(scale[i] > 0 && scale[i] <= FLT_MAX)) atomicOr(flags, kFlagScale);
}

// ---------- codes and values ----------

template <FloatType kType, int kBits>
__global__ void codes_kernel(const void* x, Geometry g, const float* scale, const void* zero, CodeForm f, void* q, int* flags) {
  const uint32_t at = blockIdx.x * blockDim.x + threadIdx.x, first = at * Packed<kBits>::each;
  if (first >= g.size) return;
  int32_t codes[Packed<kBits>::each];
  int count = 0;
  bool bad = false;
  for (; count < Packed<kBits>::each && first + count < g.size; count++) {
    const uint32_t i = first + count, s = scale_of(g, i);
    const int32_t z = zero ? load_code(zero, f, s) : 0;
    const float lo = static_cast<float>(f.qmin - z), hi = static_cast<float>(f.qmax - z), value = load<kType>(x, i);
    bad |= !finite(value);
    // Clipped before it is rounded: the bounds are integers, so the two commute. A NaN becomes the lower bound.
    float v = __fdiv_rn(value, scale[s]);
    v = v > lo ? v : lo;
    v = v < hi ? v : hi;
    codes[count] = rounded(v, f, i) + z;
  }
  Packed<kBits>::store(q, at, codes, count);
  if (bad) atomicOr(flags, kFlagNonfinite);
}

template <FloatType kType>
__global__ void values_kernel(const void* q, Geometry g, const float* scale, const void* zero, CodeForm f, float most, void* y,
                              int* flags) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= g.size) return;
  const uint32_t s = scale_of(g, i);
  const float v = __fmul_rn(scale[s], static_cast<float>(load_code(q, f, i) - (zero ? load_code(zero, f, s) : 0)));
  if (!(v >= -most && v <= most)) atomicOr(flags, kFlagScale);
  store<kType>(y, i, v);
}

// ---------- launches ----------

template <class Body>
void by_bits(int bits, const Body& body) {
  if (bits == 2) body(std::integral_constant<int, 2>());
  else if (bits == 4) body(std::integral_constant<int, 4>());
  else if (bits == 16) body(std::integral_constant<int, 16>());
  else body(std::integral_constant<int, 8>());
}

constexpr uint32_t kSlice = 2048;        // elements that are worth a warp
constexpr uint32_t kColumnSlice = 64;    // and a thread

void ranges(Work& work, const void* x, FloatType type, const Geometry& g, uint32_t* lo, uint32_t* hi) {
  work.launch(blocks_for(g.scales), kBlock, open_ranges_kernel, lo, hi, g.scales);
  if (g.size == 0) return;
  const bool columns = g.block ? g.inner > 1 : g.inner == 1 && !g.whole;
  const uint32_t members = g.block ? (g.block < g.axis ? g.block : g.axis) : g.size / g.axis;
  by_type(type, [&](auto t) {
    if (columns) {
      const uint32_t slices = slices_for(members, kColumnSlice, (g.scales + kBlock - 1) / kBlock);
      work.launch(blocks_for(int64_t(g.scales) * slices), kBlock, range_columns_kernel<decltype(t)::value>, x, g, slices, lo, hi, work.flags());
    } else {
      const uint32_t slices = slices_for(members, kSlice, g.scales);
      work.launch(blocks_for(int64_t(g.scales) * slices * kWarp), kBlock, range_runs_kernel<decltype(t)::value>, x, g, slices, lo, hi,
                  work.flags());
    }
  });
}

// As of_key, on the host.
float number_of(uint32_t k) {
  const uint32_t bits = k & 0x80000000u ? k ^ 0x80000000u : ~k;
  float v;
  memcpy(&v, &bits, sizeof v);
  return v + 0.0f;  // -0 is 0
}

}  // namespace

WhittleStatus cuda_ranges(int32_t device, const void* x, FloatType type, const QuantizeShape& shape, float* lo, float* hi) {
  if (!fits(shape)) return WHITTLE_SHAPE;
  const Geometry g = geometry(shape);
  Work work(device);
  if (g.scales == 0) return work.finish();
  uint32_t* keys = work.scratch<uint32_t>(2 * int64_t(g.scales));
  ranges(work, x, type, g, keys, keys + g.scales);
  std::vector<uint32_t> found(2 * size_t(g.scales));
  work.fetch(found.data(), keys, 2 * int64_t(g.scales) * int64_t(sizeof(uint32_t)));
  const WhittleStatus status = work.finish();
  for (size_t i = 0; i < g.scales && status == WHITTLE_OK; i++) {
    const bool none = found[i] > found[g.scales + i];
    lo[i] = none ? 0 : number_of(found[i]);
    hi[i] = none ? 0 : number_of(found[g.scales + i]);
  }
  return status;
}

WhittleStatus cuda_histogram(int32_t device, const void* x, FloatType type, const QuantizeShape& shape, const float* factor, int32_t bins, double* counts) {
  if (!fits(shape) || shape.block || bins < 2 || bins % 2 || (shape.axis && bins > kMostElements / shape.axis)) return WHITTLE_SHAPE;
  for (int64_t i = 0; i < shape.axis; i++) {
    int e;
    if (!(factor[i] > 0 && factor[i] <= FLT_MAX) || frexpf(factor[i], &e) != 0.5f) return WHITTLE_RANGE;
  }
  const Geometry g = geometry(shape);
  Work work(device);
  if (g.size == 0) return work.finish();
  const int64_t all = shape.axis * bins;
  uint32_t* totals = work.scratch<uint32_t>(all);
  float* factors = work.scratch<float>(shape.axis);
  work.fill(totals, 0, all * int64_t(sizeof(uint32_t)));
  work.send(factors, factor, shape.axis * int64_t(sizeof(float)));
  // Enough elements a block that clearing and adding up its bins is the lesser part.
  const uint32_t slices = slices_for(g.size / g.axis, 4 * static_cast<uint32_t>(bins), g.axis);
  by_type(type, [&](auto t) {
    work.launch(dim3(g.axis * slices), kBlock, histogram_kernel<decltype(t)::value>, x, g, factors, bins, slices, totals, work.flags());
  });
  std::vector<uint32_t> found(static_cast<size_t>(all));
  work.fetch(found.data(), totals, all * int64_t(sizeof(uint32_t)));
  const WhittleStatus status = work.finish();
  for (size_t i = 0; i < found.size() && status == WHITTLE_OK; i++) counts[i] += found[i];
  return status;
}

WhittleStatus cuda_quantize(int32_t device, const void* x, FloatType type, const QuantizeShape& shape, const QuantizeRule* rule,
                            float* scale, void* zero, const QuantizeOptions& o, void* q) {
  if (!fits(shape)) return WHITTLE_SHAPE;
  const Geometry g = geometry(shape);
  Work work(device);
  if (g.scales == 0) return work.finish();
  if (rule) {
    uint32_t* lo = work.scratch<uint32_t>(g.scales);
    uint32_t* hi = work.scratch<uint32_t>(g.scales);
    ranges(work, x, type, g, lo, hi);
    by_bits(o.code.bits, [&](auto bits) {
      constexpr int kBits = decltype(bits)::value;
      const int64_t threads = (int64_t(g.scales) + Packed<kBits>::each - 1) / Packed<kBits>::each;
      work.launch(blocks_for(threads), kBlock, parameters_kernel<kBits>, lo, hi, g.scales, *rule, scale, zero, work.flags());
    });
  } else {
    work.launch(blocks_for(g.scales), kBlock, check_scales_kernel, scale, g.scales, work.flags());
  }
  if (g.size > 0)
    by_type(type, [&](auto t) {
      by_bits(o.code.bits, [&](auto bits) {
        constexpr int kBits = decltype(bits)::value;
        const int64_t threads = (int64_t(g.size) + Packed<kBits>::each - 1) / Packed<kBits>::each;
        work.launch(blocks_for(threads), kBlock, codes_kernel<decltype(t)::value, kBits>, x, g, scale, zero, form(o), q, work.flags());
      });
    });
  return work.finish();
}

WhittleStatus cuda_dequantize(int32_t device, const void* q, const QuantizeShape& shape, const float* scale, const void* zero,
                              const QuantizeOptions& o, FloatType type, void* y) {
  if (!fits(shape)) return WHITTLE_SHAPE;
  const Geometry g = geometry(shape);
  Work work(device);
  if (g.scales == 0) return work.finish();
  work.launch(blocks_for(g.scales), kBlock, check_scales_kernel, scale, g.scales, work.flags());
  if (g.size > 0)
    by_type(type, [&](auto t) {
      work.launch(blocks_for(g.size), kBlock, values_kernel<decltype(t)::value>, q, g, scale, zero, form(o),
                  type == kFloat16 ? 65504.f : FLT_MAX, y, work.flags());
    });
  return work.finish();
}

}  // namespace whittle
