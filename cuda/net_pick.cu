// Elements that go to and from places that other tensors name, running sums, and the k best of a line. A thread has one result, or,
// where results follow from each other or updates may meet, one line of them, in the CPU's order: so the bits are the CPU's.
#include "cuda/net.h"

namespace whittle {
namespace {

__device__ int64_t index_of(const void* index, bool wide, int64_t i) {
  return wide ? static_cast<const int64_t*>(index)[i] : static_cast<const int32_t*>(index)[i];
}

// From the front, or -1 and a flag.
__device__ int64_t settled(int64_t i, int64_t size, int* flags) {
  if (i < 0) i += size;
  if (i >= 0 && i < size) return i;
  atomicOr(flags, kFlagLabel);
  return -1;
}

__device__ float joined(ScatterJoin join, float a, float b) {
  switch (join) {
    case kScatterAdd: return __fadd_rn(a, b);
    case kScatterMul: return __fmul_rn(a, b);
    case kScatterMax: return a > b || a != a ? a : b;
    case kScatterMin: return a < b || a != a ? a : b;
    default: return b;
  }
}
template <class T>
__device__ T met(ScatterJoin, T, T b) {
  return b;
}
__device__ uint32_t met(ScatterJoin join, uint32_t a, uint32_t b) {
  return join == kScatterPut ? b : __float_as_uint(joined(join, __uint_as_float(a), __uint_as_float(b)));
}

// Where element i of the indices lies in x with 0 along the axis; *along becomes one step along it.
__device__ int64_t base_of(const CudaElements& p, uint32_t i, int64_t* along) {
  int64_t base = 0, stride = 1;
  for (int k = p.rank - 1; k >= 0; k--) {
    const uint32_t d = static_cast<uint32_t>(p.at[k]), c = i % d;
    i /= d;
    if (k == p.axis) *along = stride;
    else base += c * stride;
    stride *= p.dims[k];
  }
  return base;
}

template <class T>
__global__ void __launch_bounds__(kBlock) gather_elements_kernel(const CudaElements p, uint32_t size, int* flags) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= size) return;
  int64_t along = 0;
  const int64_t base = base_of(p, i, &along), at = settled(index_of(p.index, p.wide, i), p.dims[p.axis], flags);
  if (at >= 0) static_cast<T*>(p.out)[i] = static_cast<const T*>(p.x)[base + at * along];
}

// A thread a line along the axis, `inner` apart: only there do updates meet.
template <class T>
__global__ void __launch_bounds__(kBlock) scatter_elements_kernel(const CudaElements p, uint32_t lines, uint32_t inner, int* flags) {
  const uint32_t line = blockIdx.x * blockDim.x + threadIdx.x;
  if (line >= lines) return;
  const uint32_t length = static_cast<uint32_t>(p.at[p.axis]), first = line / inner * length * inner + line % inner;
  int64_t along = 0;
  const int64_t base = base_of(p, first, &along);
  T* out = static_cast<T*>(p.out);
  for (uint32_t j = 0; j < length; j++) {
    const uint32_t i = first + j * inner;
    const int64_t at = settled(index_of(p.index, p.wide, i), p.dims[p.axis], flags);
    if (at < 0) return;
    T* to = out + base + at * along;
    *to = met(p.join, *to, static_cast<const T*>(p.updates)[i]);
  }
}

// The slice that a row names, or -1.
__device__ int64_t slice_of(const CudaSlices& p, uint32_t row, int* flags) {
  int64_t at = 0;
  for (int k = 0; k < p.depth; k++) {
    const int64_t i = settled(index_of(p.index, p.wide, static_cast<int64_t>(row) * p.depth + k), p.dims[k], flags);
    if (i < 0) return -1;
    at = at * p.dims[k] + i;
  }
  return at;
}

// `words` of T make a slice, `whole` of them an x.
template <class T>
__global__ void __launch_bounds__(kBlock) gather_slices_kernel(const CudaSlices p, uint32_t words, int64_t whole, uint32_t size, int* flags) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= size) return;
  const uint32_t row = i / words;
  const int64_t at = slice_of(p, row, flags);
  if (at >= 0) static_cast<T*>(p.out)[i] = static_cast<const T*>(p.x)[row / static_cast<uint32_t>(p.each) * whole + at * words + i % words];
}

// Rows may name the same slice: a thread has one word of every `parts`-th slice, and looks for them in all rows.
template <class T>
__global__ void __launch_bounds__(kBlock) scatter_slices_kernel(const CudaSlices p, uint32_t words, uint32_t parts, int* flags) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x, word = i % words, part = i / words;
  if (part >= parts) return;
  T* out = static_cast<T*>(p.out);
  for (uint32_t row = 0; row < p.rows; row++) {
    const int64_t at = slice_of(p, row, flags);
    if (at < 0) return;
    if (at % parts != part) continue;
    T* to = out + at * words + word;
    *to = met(p.join, *to, static_cast<const T*>(p.updates)[static_cast<int64_t>(row) * words + word]);
  }
}

__global__ void __launch_bounds__(kBlock) cumulate_kernel(uint32_t lines, uint32_t n, uint32_t inner, bool exclusive, bool reverse, const float* x, float* out) {
  const uint32_t line = blockIdx.x * blockDim.x + threadIdx.x;
  if (line >= lines) return;
  const uint32_t base = line / inner * n * inner + line % inner;
  float sum = 0;
  for (uint32_t i = 0; i < n; i++) {
    const uint32_t at = base + (reverse ? n - 1 - i : i) * inner;
    const float next = __fadd_rn(sum, x[at]);
    out[at] = exclusive ? sum : next;
    sum = next;
  }
}

template <class T>
__device__ bool better(T a, T b, bool largest) {
  return largest ? a > b : a < b;
}
__device__ bool better(float a, float b, bool largest) {
  if (a != a || b != b) return a == a && b != b;
  return largest ? a > b : a < b;
}
template <class T>
__device__ bool before(T a, uint32_t i, T b, uint32_t j, bool largest) {
  return better(a, b, largest) || (!better(b, a, largest) && i < j);
}

// A block a line: the best of what comes after the last that was found, k times over.
template <class T>
__global__ void __launch_bounds__(kBlock) top_k_kernel(const CudaTopK p) {
  WHITTLE_SHARED(values, T[kBlock]);
  WHITTLE_SHARED(places, uint32_t[kBlock]);
  const uint32_t n = static_cast<uint32_t>(p.n), inner = static_cast<uint32_t>(p.inner), k = static_cast<uint32_t>(p.k), t = threadIdx.x;
  const uint32_t outer = blockIdx.x / inner, column = blockIdx.x % inner;
  const T* x = static_cast<const T*>(p.x) + static_cast<int64_t>(outer) * n * inner + column;
  const int64_t to = static_cast<int64_t>(outer) * k * inner + column;
  T last = 0;
  uint32_t last_at = n;  // n: none yet
  for (uint32_t rank = 0; rank < k; rank++) {
    T best = 0;
    uint32_t best_at = n;
    for (uint32_t i = t; i < n; i += kBlock) {
      const T v = x[static_cast<int64_t>(i) * inner];
      if (last_at < n && (i == last_at || !before(last, last_at, v, i, p.largest))) continue;
      if (best_at == n || before(v, i, best, best_at, p.largest)) {
        best = v;
        best_at = i;
      }
    }
    values[t] = best;
    places[t] = best_at;
    for (uint32_t half = kBlock / 2; half > 0; half /= 2) {
      __syncthreads();
      if (t < half) {
        const T v = values[t + half];
        const uint32_t i = places[t + half];
        if (i < n && (places[t] == n || before(v, i, values[t], places[t], p.largest))) {
          values[t] = v;
          places[t] = i;
        }
      }
    }
    __syncthreads();
    last = values[0];
    last_at = places[0];
    if (t == 0) {
      static_cast<T*>(p.values)[to + static_cast<int64_t>(rank) * inner] = last;
      p.index[to + static_cast<int64_t>(rank) * inner] = last_at;
    }
    __syncthreads();
  }
}

// Elements of dims, or 2^31 and more as that.
int64_t count_of(const int64_t* dims, int64_t rank) {
  int64_t n = 1;
  for (int64_t k = 0; k < rank; k++) {
    if (dims[k] == 0) return 0;
    if (n > kMostElements / dims[k]) return kMostElements + 1;
    n *= dims[k];
  }
  return n;
}

template <class F>
void by_bytes(int64_t bytes, const F& go) {
  if (bytes == 1) go(uint8_t());
  else if (bytes == 2) go(uint16_t());
  else if (bytes == 4) go(uint32_t());
  else go(uint64_t());
}

}  // namespace

void net_cumulate(CudaTurn* turn, int64_t outer, int64_t n, int64_t inner, bool exclusive, bool reverse, const float* x, float* out) {
  const int64_t dims[] = {outer, inner, n};
  if (count_of(dims, 3) > kMostElements) return turn->work.refuse("2^31 elements or more");
  each(turn, outer * inner, cumulate_kernel, outer * inner, n, inner, exclusive, reverse, x, out);
}

void net_gather_elements(CudaTurn* turn, const CudaElements& p) {
  const int64_t size = count_of(p.at, p.rank);
  by_bytes(p.bytes, [&](auto sample) { each(turn, size, gather_elements_kernel<decltype(sample)>, p, size, turn->work.flags()); });
}

void net_scatter_elements(CudaTurn* turn, const CudaElements& p) {
  const int64_t whole = count_of(p.dims, p.rank), size = count_of(p.at, p.rank), inner = count_of(p.at + p.axis + 1, p.rank - p.axis - 1);
  if (whole > kMostElements || size > kMostElements) return turn->work.refuse("2^31 elements or more");
  if (whole > 0) turn->work.copy(p.out, p.x, whole * p.bytes);
  const int64_t lines = size ? size / p.at[p.axis] : 0;
  by_bytes(p.bytes, [&](auto sample) { each(turn, lines, scatter_elements_kernel<decltype(sample)>, p, lines, inner, turn->work.flags()); });
}

void net_gather_slices(CudaTurn* turn, const CudaSlices& p) {
  const int64_t bytes = p.bytes % 4 == 0 ? 4 : 1, words = p.bytes / bytes, sizes[] = {p.rows, words}, size = count_of(sizes, 2);
  const int64_t whole = count_of(p.dims, p.depth) * words;
  if (bytes == 4) each(turn, size, gather_slices_kernel<uint32_t>, p, words, whole, size, turn->work.flags());
  else each(turn, size, gather_slices_kernel<uint8_t>, p, words, whole, size, turn->work.flags());
}

void net_scatter_slices(CudaTurn* turn, const CudaSlices& p) {
  const int64_t bytes = p.bytes % 4 == 0 ? 4 : 1, words = p.bytes / bytes, sizes[] = {count_of(p.dims, p.depth), words}, whole = count_of(sizes, 2);
  if (whole > kMostElements || p.rows > kMostElements) return turn->work.refuse("2^31 elements or more");
  if (whole > 0) turn->work.copy(p.out, p.x, whole * bytes);
  if (words == 0 || p.rows == 0) return;
  // Enough threads for a device; each reads all indices.
  constexpr int64_t kThreads = 1 << 16, kParts = 256;
  const int64_t room = kThreads / words < 1 ? 1 : kThreads / words < kParts ? kThreads / words : kParts, parts = p.rows < room ? p.rows : room;
  if (bytes == 4) each(turn, words * parts, scatter_slices_kernel<uint32_t>, p, words, parts, turn->work.flags());
  else each(turn, words * parts, scatter_slices_kernel<uint8_t>, p, words, parts, turn->work.flags());
}

void net_top_k(CudaTurn* turn, const CudaTopK& p) {
  const int64_t dims[] = {p.outer, p.n, p.inner}, lines = p.outer * p.inner;
  if (count_of(dims, 3) > kMostElements) return turn->work.refuse("2^31 elements or more");
  if (lines == 0 || p.k == 0) return;
  const dim3 grid(static_cast<unsigned>(lines));
  if (p.type == 0) turn->work.launch(grid, kBlock, top_k_kernel<float>, p);
  else if (p.type == 1) turn->work.launch(grid, kBlock, top_k_kernel<int64_t>, p);
  else turn->work.launch(grid, kBlock, top_k_kernel<int32_t>, p);
}

}  // namespace whittle
