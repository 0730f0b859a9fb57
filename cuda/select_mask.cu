// Scores of blocks and of groups beside each other, and the masks that follow from a choice: thresholds, the k largest of every
// group, groups painted into masks. Masks are the CPU's to the last bit.
#include <math.h>

#include "cuda/select.h"

namespace whittle {
namespace {

// A block of the matrix is one warp's, or one thread's where it is small. Sums in double, in an order that the shape decides.
constexpr uint32_t kSmall = 16;
__global__ void blocks_kernel(int norm, const float* x, const float* g, uint32_t cols, uint32_t r, uint32_t c, uint32_t across, uint32_t count,
                              uint32_t lanes, float* out, int* flags) {
  const uint32_t t = blockIdx.x * blockDim.x + threadIdx.x, block = t / lanes, lane = t % lanes;
  double sum = 0;
  if (block < count) {
    const uint32_t corner = block / across * r * cols + block % across * c;
    for (uint32_t m = lane; m < r * c; m += lanes) {
      const uint32_t at = corner + m / c * cols + m % c;
      sum = select_join(norm, sum, select_term(norm, x[at], g ? g[at] : 0.f));
    }
  }
  if (lanes > 1)
    for (int o = kWarp / 2; o; o >>= 1) sum = select_join(norm, sum, __shfl_xor_sync(kFullMask, sum, o));
  if (block >= count || lane != 0) return;
  const float v = select_finish(norm, sum);
  out[block] = v;
  if (v != v) atomicOr(flags, kFlagNonfinite);
}

// The sum of a group's Euclidean distances to the others. A block a group, a warp one of the others at a time.
__global__ void median_kernel(const float* x, uint32_t axis, uint32_t inner, uint32_t length, float* out, int* flags) {
  WHITTLE_SHARED(parts, double[kBlock / kWarp]);
  const uint32_t i = blockIdx.x, warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  double sum = 0;
  for (uint32_t j = warp; j < axis; j += kBlock / kWarp) {
    double squares = 0;
    for (uint32_t m = lane; m < length; m += kWarp) {
      const uint32_t o = m / inner, at = o * axis * inner + (m - o * inner);
      const double d = static_cast<double>(x[at + i * inner]) - static_cast<double>(x[at + j * inner]);
      squares += d * d;
    }
    for (int o = kWarp / 2; o; o >>= 1) squares += __shfl_xor_sync(kFullMask, squares, o);
    if (j != i) sum += sqrt(squares);
  }
  if (lane == 0) parts[warp] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int w = 1; w < kBlock / kWarp; w++) sum += parts[w];
  const float v = static_cast<float>(sum);
  out[i] = v;
  if (v != v) atomicOr(flags, kFlagNonfinite);
}

__global__ void random_kernel(uint64_t seed, uint32_t n, float* out) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  uint64_t z = seed + (static_cast<uint64_t>(i) + 1) * 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  z ^= z >> 31;
  out[i] = __fmul_rn(static_cast<float>(z >> 40), 0x1p-24f);
}

// The `keep` largest of a group, of equal ones the first. A block a group: three histograms over the bits of the keys, then the
// mask in order. Element m of group a lies at (m / inner) * axis * inner + a * inner + m % inner.
__global__ void balanced_kernel(const float* x, uint32_t axis, uint32_t inner, uint32_t length, uint32_t keep, uint8_t* mask, int* flags) {
  WHITTLE_SHARED(counts, uint32_t[kSelectBins]);
  WHITTLE_SHARED(sums, uint32_t[kBlock]);
  WHITTLE_SHARED(found, uint32_t[2]);  // bits that are known, the rank among what shares them
  const uint32_t t = threadIdx.x, warp = t / kWarp, lane = t % kWarp, group = blockIdx.x * inner, step = axis * inner;
  uint32_t base = 0, rank = keep;
  bool bad = false;
  for (int turn = 0; turn < (keep ? 3 : 0); turn++) {
    const int shift = turn == 0 ? 21 : turn == 1 ? 10 : 0, bins = turn == 2 ? 1024 : kSelectBins, each = bins / kBlock;
    const uint32_t above = turn == 0 ? 0 : turn == 1 ? 0xffe00000u : 0xfffffc00u;
    for (int b = t; b < bins; b += kBlock) counts[b] = 0;
    __syncthreads();
    for (uint32_t m = t; m < length; m += kBlock) {
      const uint32_t key = select_key_of(x[m / inner * step + group + m % inner]);
      if ((key & above) == base) atomicAdd(&counts[key >> shift & (bins - 1)], 1u);
    }
    __syncthreads();
    const int top = bins - 1 - static_cast<int>(t) * each;  // this thread's bins, from the highest down
    uint32_t own = 0;
    for (int j = 0; j < each; j++) own += counts[top - j];
    sums[t] = own;
    __syncthreads();
    uint32_t before = 0;
    for (uint32_t j = 0; j < t; j++) before += sums[j];
    if (before < rank && rank <= before + own) {
      int bin = top;
      while (before + counts[bin] < rank) before += counts[bin--];
      found[0] = base | static_cast<uint32_t>(bin) << shift;
      found[1] = rank - before;
    }
    __syncthreads();
    base = found[0];
    rank = found[1];
  }
  uint32_t seen = 0;
  for (uint32_t first = 0; first < length; first += kBlock) {
    const uint32_t m = first + t, at = m / inner * step + group + m % inner;
    const float v = m < length ? x[at] : 0.f;
    bad |= v != v;
    const uint32_t key = select_key_of(v);
    const uint32_t equal = __ballot_sync(kFullMask, m < length && keep && key == base);
    __syncthreads();
    if (lane == 0) sums[warp] = __popc(equal);
    __syncthreads();
    uint32_t place = seen + __popc(equal & ((1u << lane) - 1)), all = 0;
    for (uint32_t w = 0; w < kBlock / kWarp; w++) {
      if (w < warp) place += sums[w];
      all += sums[w];
    }
    seen += all;
    if (m < length) mask[at] = keep && (key > base || (key == base && place < rank));
  }
  if (bad) atomicOr(flags, kFlagNonfinite);
}

// A row of `count` flags, each `width` wide, `repeat` times for each group.
__global__ void expand_kernel(const uint8_t* chosen, uint32_t repeat, uint32_t count, uint32_t width, uint32_t n, uint8_t* mask) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const uint32_t row = count * width;
  mask[i] = chosen[i / row / repeat * count + i % row / width];
}

bool fits(int64_t n) { return n >= 0 && n <= kMostElements; }

}  // namespace

WhittleStatus cuda_blocks(int32_t device, int norm, const float* x, const float* g, int64_t rows, int64_t cols, int64_t r, int64_t c,
                          float* out) {
  if (r < 1 || c < 1 || rows % r || cols % c || !fits(rows * cols)) return WHITTLE_SHAPE;
  Work work(device);
  const int64_t count = rows / r * (cols / c), lanes = r * c <= kSmall ? 1 : kWarp;
  if (count > 0)
    work.launch(dim3(static_cast<unsigned>((count * lanes + kBlock - 1) / kBlock)), kBlock, blocks_kernel, norm, x, g, cols, r, c, cols / c, count, lanes, out,
                work.flags());
  return work.finish();
}

WhittleStatus cuda_median(int32_t device, const float* x, int64_t outer, int64_t axis, int64_t inner, float* out) {
  if (!fits(outer * axis * inner) || !fits(axis)) return WHITTLE_SHAPE;
  Work work(device);
  if (axis > 0 && outer * inner == 0) work.fill(out, 0, axis * static_cast<int64_t>(sizeof(float)));
  else if (axis > 0) work.launch(dim3(static_cast<unsigned>(axis)), kBlock, median_kernel, x, axis, inner, outer * inner, out, work.flags());
  return work.finish();
}

WhittleStatus cuda_random(int32_t device, uint64_t seed, int64_t n, float* out) {
  if (!fits(n)) return WHITTLE_SHAPE;
  Work work(device);
  if (n > 0) work.launch(blocks_for(n), kBlock, random_kernel, seed, n, out);
  return work.finish();
}

WhittleStatus cuda_balanced(int32_t device, const float* x, int64_t outer, int64_t axis, int64_t inner, int64_t keep, uint8_t* mask) {
  if (!fits(outer * axis * inner) || !fits(axis)) return WHITTLE_SHAPE;
  if (keep < 0 || keep > outer * inner) return WHITTLE_RANGE;
  Work work(device);
  if (outer * axis * inner > 0)
    work.launch(dim3(static_cast<unsigned>(axis)), kBlock, balanced_kernel, x, axis, inner, outer * inner, keep, mask, work.flags());
  return work.finish();
}

WhittleStatus cuda_expand(int32_t device, const uint8_t* chosen, int64_t groups, int64_t repeat, int64_t count, int64_t width, uint8_t* mask) {
  const int64_t n = groups * repeat * count * width;
  if (!fits(n)) return WHITTLE_SHAPE;
  Work work(device);
  if (n > 0) work.launch(blocks_for(n), kBlock, expand_kernel, chosen, repeat, count, width, n, mask);
  return work.finish();
}

}  // namespace whittle
