// Sparse matrices from dense ones, and back, with the CPU's rules of what is stored (core/sparse_build.cpp). Rows are read by
// warps along their columns; entries keep their order, so two runs give the same bytes.
#include <float.h>

#include "cuda/backend.h"

namespace whittle {
namespace {

struct Source {
  const void* w;
  const uint8_t* mask;
  int32_t from, type;
  uint32_t rows, cols;
  bool strict;  // a mask has to leave something of every row
};

__device__ uint32_t narrow(float v) {
  const uint32_t b = __float_as_uint(v);
  return (b + 0x7fffu + (b >> 16 & 1)) >> 16 & 0xffffu;
}

// An element as its type holds it; not yet a code where floats become bytes.
__device__ float plain(const Source& s, uint64_t at) {
  if (s.from == kSparseInt8) return static_cast<float>(static_cast<const int8_t*>(s.w)[at]);
  if (s.from == kSparseBf16) return __uint_as_float(static_cast<uint32_t>(static_cast<const uint16_t*>(s.w)[at]) << 16);
  const float v = static_cast<const float*>(s.w)[at];
  return s.type == kSparseBf16 ? __uint_as_float(narrow(v) << 16) : v;
}

// What is stored: a float, or a code.
__device__ float value_of(const Source& s, uint64_t at, float scale) {
  if (s.mask && !s.mask[at]) return 0;
  const float v = plain(s, at);
  if (s.type != kSparseInt8 || s.from == kSparseInt8) return v;
  const float q = rintf(__fdiv_rn(v, scale));
  return q > 127 ? 127.0f : q < -127 ? -127.0f : q;
}

__device__ void put(void* values, int32_t type, uint64_t at, float v) {
  if (type == kSparseF32) static_cast<float*>(values)[at] = v;
  else if (type == kSparseBf16) static_cast<uint16_t*>(values)[at] = static_cast<uint16_t>(__float_as_uint(v) >> 16);
  else static_cast<int8_t*>(values)[at] = static_cast<int8_t>(v);
}

// Checks every element; a row's scale, sum and non-zeros. A warp a row.
__global__ void rows_kernel(Source s, const float* given, float* scales, int32_t* sums, int32_t* counts, int* flags) {
  const uint32_t row = (blockIdx.x * blockDim.x + threadIdx.x) / kWarp, lane = threadIdx.x % kWarp;
  if (row >= s.rows) return;
  const uint64_t base = uint64_t(row) * s.cols;
  const bool coded = s.type == kSparseInt8 && s.from != kSparseInt8;
  float top = 0;
  bool kept = false, lost = false;
  for (uint32_t j = lane; j < s.cols; j += kWarp) {
    const float v = plain(s, base + j);
    if (!(fabsf(v) <= FLT_MAX)) atomicOr(flags, kFlagNonfinite);
    const bool here = !s.mask || s.mask[base + j];
    if (coded && here) top = fmaxf(top, fabsf(v));
    kept |= here && v != 0;
    lost |= !here && v != 0;
  }
  kept = __ballot_sync(kFullMask, kept) != 0;
  lost = __ballot_sync(kFullMask, lost) != 0;
  if (lane == 0 && s.strict && lost && !kept) atomicOr(flags, kFlagLabel);
  float scale = 1;
  if (coded) {
    for (int o = kWarp / 2; o; o >>= 1) top = fmaxf(top, __shfl_xor_sync(kFullMask, top, o));
    scale = __fdiv_rn(top, 127.0f);
    if (!(scale > 0)) scale = 1;
  } else if (given) {
    scale = given[row];
    if (lane == 0 && !(scale > 0 && scale <= FLT_MAX)) atomicOr(flags, kFlagScale);
  }
  int32_t count = 0, sum = 0;
  for (uint32_t j = lane; j < s.cols; j += kWarp) {
    const float v = value_of(s, base + j, scale);
    count += v != 0;
    if (s.type == kSparseInt8) sum += static_cast<int32_t>(v);
  }
  for (int o = kWarp / 2; o; o >>= 1) {
    count += __shfl_xor_sync(kFullMask, count, o);
    sum += __shfl_xor_sync(kFullMask, sum, o);
  }
  if (lane != 0) return;
  counts[row] = count;
  if (s.type == kSparseInt8) {
    scales[row] = scale;
    sums[row] = sum;
  }
}

__device__ float scale_of(const float* scales, uint32_t row) { return scales ? scales[row] : 1; }

// Whether some row of a panel stores column j.
__device__ bool any_of(const Source& s, const float* scales, uint32_t panel, uint32_t j) {
  bool any = false;
  for (uint32_t i = panel * kCudaPanel; i < (panel + 1) * kCudaPanel && i < s.rows; i++)
    any |= value_of(s, uint64_t(i) * s.cols + j, scale_of(scales, i)) != 0;
  return any;
}

// Steps of every panel. A warp each.
__global__ void panels_kernel(Source s, const float* scales, uint32_t panels, uint32_t step, int32_t* counts) {
  const uint32_t panel = (blockIdx.x * blockDim.x + threadIdx.x) / kWarp, lane = threadIdx.x % kWarp;
  if (panel >= panels) return;
  uint32_t count = 0;
  for (uint32_t base = 0; base < s.cols; base += kWarp) {
    const uint32_t j = base + lane;
    count += __popc(__ballot_sync(kFullMask, j < s.cols && any_of(s, scales, panel, j)));
  }
  if (lane == 0) counts[panel] = static_cast<int32_t>((count + step - 1) / step);
}

// Groups of more than n non-zeros. A thread a group.
__global__ void groups_kernel(Source s, const float* scales, uint32_t groups, uint32_t n, uint32_t m, int* flags) {
  const uint32_t t = blockIdx.x * blockDim.x + threadIdx.x;
  if (t >= groups) return;
  const uint32_t row = t / (s.cols / m);
  uint32_t count = 0;
  for (uint32_t j = 0; j < m; j++) count += value_of(s, uint64_t(t) * m + j, scale_of(scales, row)) != 0;
  if (count > n) atomicOr(flags, kFlagSum);
}

constexpr uint32_t kScanned = 8;  // of a thread at a time

// counts[i] becomes the sum of those before; counts[n] of all. One block.
__global__ void scan_kernel(int32_t* counts, uint32_t n) {
  WHITTLE_SHARED(parts, int32_t[kBlock]);
  const uint32_t t = threadIdx.x;
  int32_t before = 0;
  for (uint32_t base = 0; base < n; base += kBlock * kScanned) {
    int32_t own[kScanned], sum = 0;
    for (uint32_t i = 0; i < kScanned; i++) {
      const uint32_t at = base + t * kScanned + i;
      own[i] = sum;
      sum += at < n ? counts[at] : 0;
    }
    parts[t] = sum;
    __syncthreads();
    for (uint32_t o = 1; o < kBlock; o *= 2) {
      const int32_t other = t >= o ? parts[t - o] : 0;
      __syncthreads();
      parts[t] += other;
      __syncthreads();
    }
    const int32_t start = before + parts[t] - sum;
    before += parts[kBlock - 1];
    __syncthreads();
    for (uint32_t i = 0; i < kScanned; i++) {
      const uint32_t at = base + t * kScanned + i;
      if (at < n) counts[at] = start + own[i];
    }
  }
  if (t == 0) counts[n] = before;
}

// The entries of a row. A warp each.
__global__ void entries_kernel(Source s, const float* scales, const int32_t* first, int32_t* column, void* values) {
  const uint32_t row = (blockIdx.x * blockDim.x + threadIdx.x) / kWarp, lane = threadIdx.x % kWarp;
  if (row >= s.rows) return;
  uint32_t to = static_cast<uint32_t>(first[row]);
  const float scale = scale_of(scales, row);
  for (uint32_t base = 0; base < s.cols; base += kWarp) {
    const uint32_t j = base + lane;
    const float v = j < s.cols ? value_of(s, uint64_t(row) * s.cols + j, scale) : 0;
    const unsigned some = __ballot_sync(kFullMask, v != 0);
    const uint32_t at = to + static_cast<uint32_t>(__popc(some & ((1u << lane) - 1)));
    if (v != 0) {
      column[at] = static_cast<int32_t>(j);
      put(values, s.type, at, v);
    }
    to += static_cast<uint32_t>(__popc(some));
  }
}

// The columns of a panel. A warp each.
__global__ void columns_kernel(Source s, const float* scales, uint32_t panels, uint32_t step, const int32_t* first, int32_t* column) {
  const uint32_t panel = (blockIdx.x * blockDim.x + threadIdx.x) / kWarp, lane = threadIdx.x % kWarp;
  if (panel >= panels) return;
  uint32_t to = static_cast<uint32_t>(first[panel]) * step;
  for (uint32_t base = 0; base < s.cols; base += kWarp) {
    const uint32_t j = base + lane;
    const bool any = j < s.cols && any_of(s, scales, panel, j);
    const unsigned some = __ballot_sync(kFullMask, any);
    if (any) column[to + static_cast<uint32_t>(__popc(some & ((1u << lane) - 1)))] = static_cast<int32_t>(j);
    to += static_cast<uint32_t>(__popc(some));
  }
  for (uint32_t at = to + lane; at < static_cast<uint32_t>(first[panel + 1]) * step; at += kWarp) column[at] = -1;
}

// Where value `at` of a panel lies in it: its row, and its place among the panel's columns.
struct Place {
  uint32_t row, column;
};

__device__ Place place_of(bool bytes, uint64_t at) {
  const uint32_t each = bytes ? 16 : 4, lane = static_cast<uint32_t>(at / each) % kWarp, part = static_cast<uint32_t>(at % each);
  const uint32_t word = bytes ? part / 4 : part, g = lane / 4, t = lane % 4;
  const uint32_t step = static_cast<uint32_t>(at / (each * kWarp)) * (bytes ? 32 : 8);
  return {g + 8 * (word & 1), step + (bytes ? 4 * t + 16 * (word >> 1) + part % 4 : t + 4 * (word >> 1))};
}

// The values of a panel, from `source`, or back to `dense`. A block each.
__global__ void values_kernel(Source s, const float* scales, uint32_t step, const int32_t* first, const int32_t* column, void* values, void* dense) {
  const uint32_t panel = blockIdx.x, begin = static_cast<uint32_t>(first[panel]), end = static_cast<uint32_t>(first[panel + 1]);
  const bool bytes = s.type == kSparseInt8;
  const uint64_t count = uint64_t(end - begin) * step * kCudaPanel, base = uint64_t(begin) * step * kCudaPanel;
  for (uint64_t at = threadIdx.x; at < count; at += kBlock) {
    const Place p = place_of(bytes, at);
    const uint32_t row = panel * kCudaPanel + p.row;
    const int32_t j = column[uint64_t(begin) * step + p.column];
    const bool here = row < s.rows && j >= 0;
    const uint64_t from = uint64_t(row) * s.cols + static_cast<uint32_t>(here ? j : 0);
    if (!dense) put(values, s.type, base + at, here ? value_of(s, from, scale_of(scales, row)) : 0);
    else if (here && s.type == kSparseF32) static_cast<uint32_t*>(dense)[from] = static_cast<const uint32_t*>(values)[base + at];
    else if (here && s.type == kSparseBf16) static_cast<uint16_t*>(dense)[from] = static_cast<const uint16_t*>(values)[base + at];
    else if (here) static_cast<uint8_t*>(dense)[from] = static_cast<const uint8_t*>(values)[base + at];
  }
}

// The n entries of a group of m: its non-zeros, and zeros so far as there are too few, in the order of their places. A thread each.
__global__ void pick_kernel(Source s, const float* scales, uint32_t groups, uint32_t n, uint32_t m, uint8_t* places, void* values) {
  const uint32_t t = blockIdx.x * blockDim.x + threadIdx.x;
  if (t >= groups) return;
  const float scale = scale_of(scales, t / (s.cols / m));
  uint32_t spare = n, to = 0;
  for (uint32_t j = 0; j < m; j++) spare -= value_of(s, uint64_t(t) * m + j, scale) != 0;
  for (uint32_t j = 0; j < m && to < n; j++) {
    const float v = value_of(s, uint64_t(t) * m + j, scale);
    if (v == 0 && spare == 0) continue;
    spare -= v == 0;
    const uint64_t at = uint64_t(t) * n + to++;
    places[at] = static_cast<uint8_t>(j);
    put(values, s.type, at, v);
  }
}

// Entries back to their places in `dense`, which is 0. A thread each; with `first` a warp a row.
template <class T>
__global__ void scatter_kernel(uint32_t rows, uint32_t cols, const int32_t* first, const int32_t* column, uint32_t n, uint32_t m,
                               const uint8_t* places, const T* values, T* dense) {
  const uint32_t t = blockIdx.x * blockDim.x + threadIdx.x;
  if (first) {
    const uint32_t row = t / kWarp;
    if (row >= rows) return;
    for (uint32_t e = static_cast<uint32_t>(first[row]) + t % kWarp; e < static_cast<uint32_t>(first[row + 1]); e += kWarp)
      dense[uint64_t(row) * cols + static_cast<uint32_t>(column[e])] = values[e];
    return;
  }
  if (t >= rows * (cols / m) * n) return;
  dense[uint64_t(t / n) * m + places[t]] = values[t];
}

Source source_of(const CudaSparseBuild& b, const CudaSparse& w) {
  return {b.w, b.mask, b.source_type, w.type, static_cast<uint32_t>(w.rows), static_cast<uint32_t>(w.cols), b.mask && !b.empty_rows};
}

bool fits(const CudaSparse& w) {
  if (w.rows < 0 || w.cols < 0 || (w.cols && w.rows > kMostElements / w.cols)) return false;
  return w.format != kSparseNm || (w.n >= 1 && w.n <= w.m && w.m <= 128 && w.cols % w.m == 0);
}

int64_t size_of(int32_t type) { return type == kSparseF32 ? 4 : type == kSparseBf16 ? 2 : 1; }

}  // namespace

WhittleStatus cuda_sparse_count(int32_t device, const CudaSparseBuild& b, const CudaSparse& w, int64_t* counts) {
  counts[0] = counts[1] = counts[2] = 0;
  if (!fits(w)) return WHITTLE_SHAPE;
  if (b.source_type == kSparseInt8 && w.type != kSparseInt8) return WHITTLE_DTYPE;
  Work work(device);
  const Source s = source_of(b, w);
  const int64_t panels = cuda_sparse_panels(w.rows), groups = w.format == kSparseNm ? w.rows * (w.cols / w.m) : 0;
  const bool csr = w.format == kSparseCsr;
  int32_t* nonzeros = csr ? w.first : work.scratch<int32_t>(w.rows + 1);
  int32_t totals[2] = {};
  if (w.rows > 0) work.launch(blocks_for(w.rows * kWarp), kBlock, rows_kernel, s, b.scales, w.scales, w.sums, nonzeros, work.flags());
  work.launch(1, kBlock, scan_kernel, nonzeros, w.rows);
  if (work.good()) work.fetch(&totals[0], nonzeros + w.rows, sizeof totals[0]);
  if (w.format == kSparseBlock) {
    if (panels > 0) work.launch(blocks_for(panels * kWarp), kBlock, panels_kernel, s, w.scales, panels, cuda_sparse_step(w.type), w.first);
    work.launch(1, kBlock, scan_kernel, w.first, panels);
    if (work.good()) work.fetch(&totals[1], w.first + panels, sizeof totals[1]);
  }
  if (groups > 0) work.launch(blocks_for(groups), kBlock, groups_kernel, s, w.scales, groups, w.n, w.m, work.flags());
  const WhittleStatus status = work.finish();
  counts[0] = csr ? totals[0] : w.format == kSparseBlock ? totals[1] : groups * w.n;
  counts[1] = totals[0];
  counts[2] = work.raised(kFlagSum) ? 1 : work.raised(kFlagLabel) ? 2 : 0;
  return status;
}

WhittleStatus cuda_sparse_fill(int32_t device, const CudaSparseBuild& b, const CudaSparse& w) {
  if (!fits(w)) return WHITTLE_SHAPE;
  Work work(device);
  const Source s = source_of(b, w);
  const int64_t panels = cuda_sparse_panels(w.rows), step = cuda_sparse_step(w.type);
  const int64_t groups = w.format == kSparseNm ? w.rows * (w.cols / w.m) : 0;
  if (w.format == kSparseNm) {
    if (groups > 0) work.launch(blocks_for(groups), kBlock, pick_kernel, s, w.scales, groups, w.n, w.m, w.places, w.values);
  } else if (w.stored > 0 && w.format == kSparseCsr) {
    work.launch(blocks_for(w.rows * kWarp), kBlock, entries_kernel, s, w.scales, w.first, w.column, w.values);
  } else if (w.stored > 0) {
    work.launch(blocks_for(panels * kWarp), kBlock, columns_kernel, s, w.scales, panels, step, w.first, w.column);
    work.launch(dim3(static_cast<unsigned>(panels)), kBlock, values_kernel, s, w.scales, step, w.first, w.column, w.values, nullptr);
  }
  return work.finish();
}

WhittleStatus cuda_sparse_dense(int32_t device, const CudaSparse& w, void* out) {
  if (!fits(w)) return WHITTLE_SHAPE;
  Work work(device);
  const int64_t panels = cuda_sparse_panels(w.rows), threads = w.format == kSparseNm ? w.rows * (w.cols / w.m) * w.n : w.rows * kWarp;
  work.fill(out, 0, w.rows * w.cols * size_of(w.type));
  if (w.format == kSparseBlock) {
    const Source s = source_of({}, w);
    if (w.stored > 0)
      work.launch(dim3(static_cast<unsigned>(panels)), kBlock, values_kernel, s, w.scales, cuda_sparse_step(w.type), w.first, w.column, w.values, out);
    return work.finish();
  }
  const auto scatter = [&](auto* to) {
    typedef std::remove_pointer_t<decltype(to)> T;
    const uint32_t n = static_cast<uint32_t>(w.n), m = static_cast<uint32_t>(w.m ? w.m : 1);
    if (threads > 0 && w.cols > 0)
      work.launch(blocks_for(threads), kBlock, scatter_kernel<T>, w.rows, w.cols, w.first, w.column, n, m, w.places, static_cast<const T*>(w.values), to);
  };
  if (w.type == kSparseF32) scatter(static_cast<uint32_t*>(out));
  else if (w.type == kSparseBf16) scatter(static_cast<uint16_t*>(out));
  else scatter(static_cast<uint8_t*>(out));
  return work.finish();
}

}  // namespace whittle
