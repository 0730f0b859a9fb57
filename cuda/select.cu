// Scores of weights, the k largest of them, n:m masks. Masks are those of the CPU to the last bit: of equal scores the one of
// lower index counts as larger. Sums run in double, in an order that depends on the shape alone. The k-th largest is found by
// three histograms over the bits of the keys (11, 11, 10), so that scores are read five times and never moved; no sampling
// yet, as the CPU has it. Limit: 2^31 - 1 elements.
#include <math.h>

#include "cuda/select.h"

namespace whittle {
namespace {

// ---------- scores ----------

__device__ float score(int norm, float x, float g) {
  if (norm == kSelectSum) return x;
  if (norm == kSelectSquare) return __fmul_rn(x, x);
  if (norm == kSelectSensitivity) return fabsf(__fmul_rn(g, x));
  if (norm == kSelectTaylor) {
    const float p = __fmul_rn(g, x);
    return __fmul_rn(p, p);
  }
  return fabsf(x);
}

__global__ void scores_kernel(int norm, const float* x, const float* g, uint32_t n, float* out, int* flags) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const float s = score(norm, x[i], g ? g[i] : 0.f);
  out[i] = s;
  if (s != s) atomicOr(flags, kFlagNonfinite);
}

// A warp a slice of a group's [outer, inner] elements.
__global__ void group_rows_kernel(int norm, const float* x, const float* g, uint32_t outer, uint32_t axis, uint32_t inner,
                                  uint32_t slices, double* partial) {
  const uint32_t warp = (blockIdx.x * blockDim.x + threadIdx.x) / kWarp, lane = threadIdx.x % kWarp;
  const uint32_t group = warp / slices, slice = warp % slices;
  double sum = 0;
  if (group < axis) {
    const uint32_t count = outer * inner;
    for (uint32_t m = slice * kWarp + lane; m < count; m += slices * kWarp) {
      const uint32_t o = m / inner, at = (o * axis + group) * inner + (m - o * inner);
      sum = select_join(norm, sum, select_term(norm, x[at], g ? g[at] : 0.f));
    }
  }
  for (int o = kWarp / 2; o; o >>= 1) sum = select_join(norm, sum, __shfl_xor_sync(kFullMask, sum, o));
  if (lane == 0 && group < axis) partial[warp] = sum;
}

// Narrow groups: a thread a slice of the column (a, i) of [outer, axis * inner].
__global__ void group_columns_kernel(int norm, const float* x, const float* g, uint32_t outer, uint32_t width, uint32_t slices,
                                     double* partial) {
  const uint32_t t = blockIdx.x * blockDim.x + threadIdx.x, column = t % width, slice = t / width;
  if (slice >= slices) return;
  double sum = 0;
  for (uint32_t o = slice; o < outer; o += slices) {
    const uint32_t at = o * width + column;
    sum = select_join(norm, sum, select_term(norm, x[at], g ? g[at] : 0.f));
  }
  partial[t] = sum;
}

// out[a] of the partial sums at slice * slice_stride + a * group_stride + i, i < inner.
__global__ void group_finish_kernel(int norm, const double* partial, uint32_t axis, uint32_t slices, uint32_t slice_stride,
                                    uint32_t group_stride, uint32_t inner, float* out, int* flags) {
  const uint32_t a = blockIdx.x * blockDim.x + threadIdx.x;
  if (a >= axis) return;
  double sum = 0;
  for (uint32_t s = 0; s < slices; s++)
    for (uint32_t i = 0; i < inner; i++) sum = select_join(norm, sum, partial[s * slice_stride + a * group_stride + i]);
  const float v = select_finish(norm, sum);
  out[a] = v;
  if (v != v) atomicOr(flags, kFlagNonfinite);
}

// ---------- the k largest ----------

// Where the search stands: keys that share the bits above `shift` with `base` are left, the rank-th largest of them is sought.
struct Search {
  uint32_t base;
  uint32_t rank;
};

constexpr int kItems = 16;                            // elements of a thread
constexpr uint32_t kTile = kBlock * kItems;           // and of a block

__global__ void search_start_kernel(Search* s, uint32_t keep, uint32_t* counts) {
  const uint32_t i = threadIdx.x;
  if (i == 0) *s = {0, keep};
  for (uint32_t b = i; b < kSelectBins; b += kBlock) counts[b] = 0;
}

// Counts the keys under the search by the bits from `shift` on; `above` are the bits that are known already.
__global__ void histogram_kernel(const float* x, uint32_t n, const Search* search, int shift, int bins, uint32_t above, uint32_t* counts,
                                 int* flags) {
  WHITTLE_SHARED(local, uint32_t[kSelectBins]);
  for (uint32_t b = threadIdx.x; b < static_cast<uint32_t>(bins); b += kBlock) local[b] = 0;
  __syncthreads();
  const uint32_t base = search->base, first = blockIdx.x * kTile;
  bool bad = false;
  for (int j = 0; j < kItems; j++) {
    const uint32_t i = first + j * kBlock + threadIdx.x;
    if (i >= n) break;
    bad |= x[i] != x[i];
    const uint32_t key = select_key_of(x[i]);
    if ((key & above) == base) atomicAdd(&local[key >> shift & (bins - 1)], 1u);
  }
  if (bad) atomicOr(flags, kFlagNonfinite);
  __syncthreads();
  for (uint32_t b = threadIdx.x; b < static_cast<uint32_t>(bins); b += kBlock)
    if (local[b]) atomicAdd(&counts[b], local[b]);
}

// Finds the bin that holds the rank from the top and clears the counts for the next turn. One block.
__global__ void search_step_kernel(Search* search, int shift, int bins, uint32_t* counts) {
  WHITTLE_SHARED(sums, uint32_t[kBlock]);
  const int each = bins / kBlock, t = threadIdx.x;
  const int top = bins - 1 - t * each;  // this thread's bins, from the highest down
  uint32_t own = 0;
  for (int j = 0; j < each; j++) own += counts[top - j];
  sums[t] = own;
  __syncthreads();
  uint32_t before = 0;
  for (int j = 0; j < t; j++) before += sums[j];
  const uint32_t rank = search->rank, base = search->base;
  __syncthreads();
  if (before < rank && rank <= before + own) {
    int bin = top;
    while (before + counts[bin] < rank) before += counts[bin--];
    *search = {base | static_cast<uint32_t>(bin) << shift, rank - before};
  }
  __syncthreads();
  for (int j = 0; j < each; j++) counts[top - j] = 0;
}

// How many of each tile equal the threshold.
__global__ void ties_kernel(const float* x, uint32_t n, const Search* search, uint32_t* ties) {
  WHITTLE_SHARED(parts, uint32_t[kBlock / kWarp]);
  const uint32_t base = search->base, first = blockIdx.x * kTile;
  uint32_t own = 0;
  for (int j = 0; j < kItems; j++) {
    const uint32_t i = first + j * kBlock + threadIdx.x;
    own += i < n && select_key_of(x[i]) == base;
  }
  for (int o = kWarp / 2; o; o >>= 1) own += __shfl_xor_sync(kFullMask, own, o);
  if (threadIdx.x % kWarp == 0) parts[threadIdx.x / kWarp] = own;
  __syncthreads();
  if (threadIdx.x != 0) return;
  uint32_t sum = 0;
  for (int w = 0; w < kBlock / kWarp; w++) sum += parts[w];
  ties[blockIdx.x] = sum;
}

// ties[i] becomes the sum of those before it. One block.
__global__ void scan_kernel(uint32_t* ties, uint32_t n) {
  WHITTLE_SHARED(sums, uint32_t[kBlock]);
  const uint32_t each = (n + kBlock - 1) / kBlock, t = threadIdx.x, begin = t * each < n ? t * each : n;
  const uint32_t end = begin + each < n ? begin + each : n;
  uint32_t own = 0;
  for (uint32_t i = begin; i < end; i++) own += ties[i];
  sums[t] = own;
  __syncthreads();
  uint32_t before = 0;
  for (uint32_t j = 0; j < t; j++) before += sums[j];
  for (uint32_t i = begin; i < end; i++) {
    const uint32_t v = ties[i];
    ties[i] = before;
    before += v;
  }
}

// mask = above the threshold, or among the first `rank` that equal it. Elements are ranked in the order of their indices.
__global__ void mask_kernel(const float* x, uint32_t n, const Search* search, const uint32_t* before, uint8_t* mask) {
  WHITTLE_SHARED(parts, uint32_t[kBlock / kWarp]);
  const uint32_t base = search->base, rank = search->rank, first = blockIdx.x * kTile;
  const uint32_t lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  uint32_t seen = before[blockIdx.x];
  for (int j = 0; j < kItems; j++) {
    const uint32_t i = first + j * kBlock + threadIdx.x;
    const uint32_t key = i < n ? select_key_of(x[i]) : 0;
    const unsigned equal = __ballot_sync(kFullMask, i < n && key == base);
    if (lane == 0) parts[warp] = __popc(equal);
    __syncthreads();
    uint32_t place = seen + __popc(equal & ((1u << lane) - 1)), all = 0;
    for (uint32_t w = 0; w < kBlock / kWarp; w++) {
      if (w < warp) place += parts[w];
      all += parts[w];
    }
    seen += all;
    if (i < n) mask[i] = key > base || (key == base && place < rank);
    __syncthreads();
  }
}

__global__ void fill_mask_kernel(const float* x, uint32_t n, uint8_t* mask, int* flags) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  if (x[i] != x[i]) atomicOr(flags, kFlagNonfinite);
  if (mask) mask[i] = 0;
}

// ---------- n:m ----------

// A thread a run of m elements, `inner` apart: rank by counting.
__global__ void nm_kernel(const float* x, uint32_t runs, uint32_t per_axis, uint32_t inner, int keep, int m, uint8_t* mask, int* flags) {
  const uint32_t t = blockIdx.x * blockDim.x + threadIdx.x;
  if (t >= runs) return;
  const uint32_t i = t % inner, run = t / inner % per_axis, o = t / inner / per_axis;
  const uint32_t start = (o * per_axis + run) * m * inner + i;
  bool bad = false;
  for (int a = 0; a < m; a++) {
    const float v = x[start + a * inner];
    int before = 0;
    for (int b = 0; b < m; b++) {
      const float w = x[start + b * inner];
      before += b < a ? w >= v : b > a && w > v;
    }
    bad |= v != v;
    mask[start + a * inner] = before < keep;
  }
  if (bad) atomicOr(flags, kFlagNonfinite);
}

__global__ void apply_kernel(const float* x, const uint8_t* mask, uint32_t n, float* out) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = mask[i] ? x[i] : 0.f;
}

bool fits(int64_t n) { return n >= 0 && n <= kMostElements; }

// Pieces of `members` so that a device is full and no piece is tiny.
uint32_t slices_for(int64_t members, int64_t each, int64_t units) {
  const int64_t wanted = (members + each - 1) / each, room = (1 << 16) / (units > 0 ? units : 1);
  return static_cast<uint32_t>(wanted < 1 || room < 1 ? 1 : wanted < room ? wanted : room);
}

}  // namespace

WhittleStatus cuda_scores(int32_t device, int norm, const float* x, const float* g, int64_t n, float* out) {
  if (!fits(n)) return WHITTLE_SHAPE;
  Work work(device);
  if (n > 0) work.launch(blocks_for(n), kBlock, scores_kernel, norm, x, g, n, out, work.flags());
  return work.finish();
}

WhittleStatus cuda_groups(int32_t device, int norm, const float* x, const float* g, int64_t outer, int64_t axis, int64_t inner,
                          float* out) {
  if (!fits(outer * axis * inner) || !fits(axis)) return WHITTLE_SHAPE;
  Work work(device);
  if (axis == 0) return work.finish();
  if (outer == 0 || inner == 0) {
    work.fill(out, 0, axis * static_cast<int64_t>(sizeof(float)));
    return work.finish();
  }
  if (inner < kWarp) {
    const int64_t width = axis * inner;
    const uint32_t slices = slices_for(outer, 64, (width + kBlock - 1) / kBlock);
    double* partial = work.scratch<double>(width * slices);
    work.launch(blocks_for(width * slices), kBlock, group_columns_kernel, norm, x, g, outer, width, slices, partial);
    work.launch(blocks_for(axis), kBlock, group_finish_kernel, norm, partial, axis, slices, width, inner, inner, out, work.flags());
  } else {
    const uint32_t slices = slices_for(outer * inner, 4096, axis);
    double* partial = work.scratch<double>(axis * slices);
    work.launch(blocks_for(axis * slices * kWarp), kBlock, group_rows_kernel, norm, x, g, outer, axis, inner, slices, partial);
    work.launch(blocks_for(axis), kBlock, group_finish_kernel, norm, partial, axis, slices, 1, slices, 1, out, work.flags());
  }
  return work.finish();
}

WhittleStatus cuda_largest(int32_t device, const float* x, int64_t n, int64_t keep, uint8_t* mask, float* threshold) {
  if (!fits(n)) return WHITTLE_SHAPE;
  if (keep < 0 || keep > n) return WHITTLE_RANGE;
  Work work(device);
  *threshold = INFINITY;
  if (keep == 0) {
    if (n > 0) work.launch(blocks_for(n), kBlock, fill_mask_kernel, x, n, mask, work.flags());
    return work.finish();
  }
  const uint32_t tiles = static_cast<uint32_t>((n + kTile - 1) / kTile);
  Search* search = work.scratch<Search>(1);
  uint32_t* counts = work.scratch<uint32_t>(kSelectBins);
  work.launch(1, kBlock, search_start_kernel, search, keep, counts);
  const int shifts[] = {21, 10, 0}, bins[] = {2048, 2048, 1024};
  const uint32_t above[] = {0, 0xffe00000u, 0xfffffc00u};
  for (int turn = 0; turn < 3; turn++) {
    work.launch(tiles, kBlock, histogram_kernel, x, n, search, shifts[turn], bins[turn], above[turn], counts, work.flags());
    work.launch(1, kBlock, search_step_kernel, search, shifts[turn], bins[turn], counts);
  }
  if (mask) {
    uint32_t* ties = work.scratch<uint32_t>(tiles);
    work.launch(tiles, kBlock, ties_kernel, x, n, search, ties);
    work.launch(1, kBlock, scan_kernel, ties, tiles);
    work.launch(tiles, kBlock, mask_kernel, x, n, search, ties, mask);
  }
  Search found = {0, 0};
  work.fetch(&found, search, sizeof found);
  const WhittleStatus status = work.finish();
  if (status == WHITTLE_OK) *threshold = select_value(found.base);
  return status;
}

WhittleStatus cuda_above(int32_t device, const float* x, int64_t n, float threshold, int64_t equal, uint8_t* mask) {
  if (!fits(n)) return WHITTLE_SHAPE;
  if (equal < 0 || threshold != threshold) return WHITTLE_RANGE;
  Work work(device);
  if (n == 0) return work.finish();
  const Search known = {select_key(threshold), static_cast<uint32_t>(equal < n ? equal : n)};
  const uint32_t tiles = static_cast<uint32_t>((n + kTile - 1) / kTile);
  Search* search = work.scratch<Search>(1);
  uint32_t* ties = work.scratch<uint32_t>(tiles);
  work.send(search, &known, sizeof known);
  work.launch(blocks_for(n), kBlock, fill_mask_kernel, x, n, nullptr, work.flags());
  work.launch(tiles, kBlock, ties_kernel, x, n, search, ties);
  work.launch(1, kBlock, scan_kernel, ties, tiles);
  work.launch(tiles, kBlock, mask_kernel, x, n, search, ties, mask);
  return work.finish();
}

WhittleStatus cuda_count(int32_t device, const float* x, int64_t n, uint32_t base, int shift, int64_t* counts) {
  if (!fits(n)) return WHITTLE_SHAPE;
  if (shift != 21 && shift != 10 && shift != 0) return WHITTLE_RANGE;
  const int bins = shift ? kSelectBins : 1024;
  const uint32_t above = shift == 21 ? 0 : shift == 10 ? 0xffe00000u : 0xfffffc00u;
  Work work(device);
  uint32_t got[kSelectBins] = {};
  if (n > 0) {
    const Search known = {base, 0};
    Search* search = work.scratch<Search>(1);
    uint32_t* all = work.scratch<uint32_t>(kSelectBins);
    work.send(search, &known, sizeof known);
    work.fill(all, 0, kSelectBins * static_cast<int64_t>(sizeof(uint32_t)));
    work.launch(dim3(static_cast<unsigned>((n + kTile - 1) / kTile)), kBlock, histogram_kernel, x, n, search, shift, bins, above, all, work.flags());
    work.fetch(got, all, sizeof got);
    const WhittleStatus status = work.finish();
    if (status != WHITTLE_OK) return status;
  }
  for (int b = 0; b < bins; b++) counts[b] += got[b];
  return n > 0 ? WHITTLE_OK : work.finish();
}

WhittleStatus cuda_nm(int32_t device, const float* x, int64_t outer, int64_t axis, int64_t inner, int keep, int m, uint8_t* mask) {
  if (!fits(outer * axis * inner) || m < 1 || m > kSelectRun || axis % m) return WHITTLE_SHAPE;
  Work work(device);
  const int64_t runs = outer * (axis / m) * inner;
  if (runs > 0) work.launch(blocks_for(runs), kBlock, nm_kernel, x, runs, axis / m, inner, keep, m, mask, work.flags());
  return work.finish();
}

WhittleStatus cuda_apply(int32_t device, const float* x, const uint8_t* mask, int64_t n, float* out) {
  if (!fits(n)) return WHITTLE_SHAPE;
  Work work(device);
  if (n > 0) work.launch(blocks_for(n), kBlock, apply_kernel, x, mask, n, out);
  return work.finish();
}

}  // namespace whittle
