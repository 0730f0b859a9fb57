// Sparse weights times dense activations. X lies as [k][ld], ld a multiple of 4, either as it came or as a copy; sums lie as
// [n][ld] and an epilogue takes them to where they belong. cuSPARSE makes the sums of CSR, cuSPARSELt those of 2:4 bytes; where
// they cannot, and for all the rest, three kernels do:
//   few columns   a warp a row of W, lanes over its entries (CSR, n:m)
//   CSR           a warp a row of W and 128 columns of X, entries passed around by shuffles
//   panels        mma, a warp 16 rows of W and 32 columns of X; n:m matrices are laid out so for the call
// Products of floats by mma: both sides as a sum of two TF32 numbers, of whose four products the least is left out (core/cuda.h).
// Column n of tile q stands for column 4 place_of(n) + q of X: so a lane reads and writes 16 bytes at a time beside its
// neighbours, and nothing passes through shared memory.
#include "cuda/cusparse.h"
#include "cuda/int8.h"

namespace whittle {
namespace {

constexpr int64_t kFewColumns = 4;
constexpr int kPanelWarps = 4;
constexpr int64_t kMostBlocks = 65535;  // in y and z

// The entries of W by rows, CSR where `first` is given, else `each` a row for n:m.
struct Entries {
  const int32_t *first, *column;
  const uint8_t* places;
  const void* values;
  uint32_t n, m, each;
};

__device__ uint32_t begin_of(const Entries& w, uint32_t row) { return w.first ? static_cast<uint32_t>(w.first[row]) : row * w.each; }
__device__ uint32_t column_of(const Entries& w, uint32_t row, uint32_t e) {
  return w.first ? static_cast<uint32_t>(w.column[e]) : (e - row * w.each) / w.n * w.m + w.places[e];
}

template <int kType>
struct Types {
  typedef float X;
  typedef float Sum;
  typedef float4 Sums;
};
template <>
struct Types<kSparseInt8> {
  typedef uint8_t X;
  typedef int32_t Sum;
  typedef int4 Sums;
};

template <int kType>
__device__ typename Types<kType>::Sum value_at(const void* values, uint64_t e) {
  if constexpr (kType == kSparseF32) return static_cast<const float*>(values)[e];
  else if constexpr (kType == kSparseBf16) return __uint_as_float(static_cast<uint32_t>(static_cast<const uint16_t*>(values)[e]) << 16);
  else return static_cast<const int8_t*>(values)[e];
}

__device__ float fused(float w, float x, float sum) { return fmaf(w, x, sum); }
__device__ int32_t fused(int32_t w, int32_t x, int32_t sum) { return sum + w * x; }

__device__ float number(float x, uint8_t) { return x; }
__device__ int32_t number(uint8_t x, uint8_t flip) { return static_cast<int8_t>(x ^ flip); }

// ---------- X ----------

// out[b][p][j] = x[b][p][j] for j < columns, or x[j][p] where turned; 0 beyond. Unsigned bytes are flipped to signed ones. Tiles
// of 32 x 32, 256 threads.
template <class T>
__global__ void pack_kernel(const T* x, bool turned, uint8_t flip, uint32_t k, uint32_t columns, uint32_t ld, uint64_t stride, T* out, uint64_t out_stride) {
  WHITTLE_SHARED(tile, T[32][33]);
  const uint32_t lane = threadIdx.x % 32, line = threadIdx.x / 32, p0 = blockIdx.x * 32, j0 = blockIdx.y * 32;
  x += blockIdx.z * stride;
  out += blockIdx.z * out_stride;
  for (uint32_t i = line; i < 32; i += kBlock / 32) {
    const uint32_t p = turned ? p0 + lane : p0 + i, j = turned ? j0 + i : j0 + lane;
    T v = 0;
    if (p < k && j < columns) {
      v = x[turned ? uint64_t(j) * k + p : uint64_t(p) * columns + j];
      if constexpr (sizeof(T) == 1) v = static_cast<T>(v ^ flip);
    }
    tile[i][lane] = v;
  }
  __syncthreads();
  for (uint32_t i = line; i < 32; i += kBlock / 32) {
    const uint32_t p = p0 + i, j = j0 + lane;
    if (p < k && j < ld) out[uint64_t(p) * ld + j] = turned ? tile[lane][i] : tile[i][lane];
  }
}

// ---------- few columns ----------

// X element (p, j) lies at p * step + j * next. sums: [rows][kFewColumns].
template <int kType>
__global__ void few_kernel(Entries w, uint32_t rows, const typename Types<kType>::X* x, uint8_t flip, uint32_t columns, uint64_t step, uint64_t next,
                           uint64_t stride, typename Types<kType>::Sum* sums) {
  typedef typename Types<kType>::Sum Sum;
  const uint32_t row = (blockIdx.x * blockDim.x + threadIdx.x) / kWarp, lane = threadIdx.x % kWarp;
  if (row >= rows) return;
  x += blockIdx.y * stride;
  Sum own[kFewColumns] = {};
  const uint32_t end = begin_of(w, row + 1);
  for (uint32_t e = begin_of(w, row) + lane; e < end; e += kWarp) {
    const Sum v = value_at<kType>(w.values, e);
    if (v == 0) continue;  // what n:m stores for want of another
    const uint64_t at = column_of(w, row, e) * step;
#pragma unroll
    for (uint32_t j = 0; j < kFewColumns; j++)
      if (j < columns) own[j] = fused(v, number(x[at + j * next], flip), own[j]);
  }
#pragma unroll
  for (uint32_t j = 0; j < kFewColumns; j++)
    for (int o = kWarp / 2; o; o >>= 1) own[j] += __shfl_xor_sync(kFullMask, own[j], o);
  if (lane != 0) return;
  typename Types<kType>::Sums all;
  all.x = own[0];
  all.y = own[1];
  all.z = own[2];
  all.w = own[3];
  reinterpret_cast<typename Types<kType>::Sums*>(sums)[uint64_t(blockIdx.y) * rows + row] = all;
}

// ---------- CSR ----------

__device__ void add(float4& sum, float w, const float* x) {
  const float4 v = *reinterpret_cast<const float4*>(x);
  sum.x = fmaf(w, v.x, sum.x);
  sum.y = fmaf(w, v.y, sum.y);
  sum.z = fmaf(w, v.z, sum.z);
  sum.w = fmaf(w, v.w, sum.w);
}

__device__ void add(int4& sum, int32_t w, const uint8_t* x) {
  const uint32_t v = *reinterpret_cast<const uint32_t*>(x);
  sum.x += w * static_cast<int8_t>(v);
  sum.y += w * static_cast<int8_t>(v >> 8);
  sum.z += w * static_cast<int8_t>(v >> 16);
  sum.w += w * static_cast<int8_t>(v >> 24);
}

template <int kType>
__global__ void csr_kernel(Entries w, uint32_t rows, const typename Types<kType>::X* x, uint32_t ld, uint64_t stride,
                           typename Types<kType>::Sum* sums) {
  typedef typename Types<kType>::Sum Sum;
  const uint32_t row = blockIdx.x * (kBlock / kWarp) + threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  if (row >= rows) return;
  const uint32_t j = blockIdx.y * (4 * kWarp) + 4 * lane;
  x += blockIdx.z * stride;
  typename Types<kType>::Sums sum = {};
  const uint32_t end = static_cast<uint32_t>(w.first[row + 1]);
  for (uint32_t e = static_cast<uint32_t>(w.first[row]); e < end; e += kWarp) {
    const uint32_t own = e + lane;
    const int32_t column = own < end ? w.column[own] : 0;
    const Sum value = own < end ? value_at<kType>(w.values, own) : Sum(0);
    const uint32_t count = end - e < kWarp ? end - e : kWarp;
#pragma unroll 4
    for (uint32_t i = 0; i < count; i++) {
      const uint32_t c = static_cast<uint32_t>(__shfl_sync(kFullMask, column, static_cast<int>(i)));
      const Sum v = __shfl_sync(kFullMask, value, static_cast<int>(i));
      if (j < ld) add(sum, v, x + uint64_t(c) * ld + j);
    }
  }
  if (j < ld) *reinterpret_cast<typename Types<kType>::Sums*>(sums + (uint64_t(blockIdx.z) * rows + row) * ld + j) = sum;
}

// ---------- panels ----------

// Where `column` is null every panel has `each` steps of all columns.
struct Panels {
  const int32_t *first, *column;
  const void* values;
  uint32_t rows, cols, each;
};

// Which four columns of 32 are those of column g in four tiles: results of columns 2t and 2t + 1 then lie 16 bytes a lane side by side.
__device__ uint32_t place_of(uint32_t g) { return g / 2 + 4 * (g % 2); }

// Row of X that place `at` of step s takes, or -1.
__device__ int32_t taken(const Panels& w, uint32_t s, uint32_t within, uint32_t at, uint32_t step) {
  if (w.column) return w.column[uint64_t(s) * step + at];
  const uint32_t j = within * step + at;
  return j < w.cols ? static_cast<int32_t>(j) : -1;
}

// The nearest TF32 number, ties away from zero; the next one to zero where that would be infinite.
__device__ uint32_t tf32(float v) {
  const uint32_t b = __float_as_uint(v);
  if ((b & 0x7fffffffu) >= 0x7f7ff000u) return v != v ? b | 0x00400000u : b & 0xffffe000u;
  return (b + 0x1000u) & 0xffffe000u;
}
// What it left, likewise.
__device__ uint32_t rest(float v, uint32_t high) { return tf32(__fadd_rn(v, -__uint_as_float(high))); }

__device__ bool finite(float v) { return fabsf(v) <= 3.402823466e38f; }
__device__ float or_zero(float v) { return finite(v) ? v : 0; }

// Infinities and NaN of X, which mma does not get to see: they meet the weights of a step that are not 0, and no zero of a
// neighbour's column. Lanes hold their shares of mma's operands and sums.
__device__ void meet(float (&c)[4][4], const uint32_t (&w)[4], const float (&above)[4], const float (&below)[4]) {
  const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int k = 0; k < 8; k++) {
    const float upper = __uint_as_float(__shfl_sync(kFullMask, w[k / 4 * 2], 4 * g + k % 4));
    const float lower = __uint_as_float(__shfl_sync(kFullMask, w[k / 4 * 2 + 1], 4 * g + k % 4));
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const float x = __shfl_sync(kFullMask, k < 4 ? above[i] : below[i], 4 * (2 * t + h) + k % 4);
        if (finite(x)) continue;
        if (upper != 0) c[i][h] = __fadd_rn(c[i][h], __fmul_rn(upper, x));
        if (lower != 0) c[i][2 + h] = __fadd_rn(c[i][2 + h], __fmul_rn(lower, x));
      }
  }
}

template <int kType>
__global__ void panels_kernel(Panels w, const float* x, uint32_t ld, uint64_t stride, float* sums) {
  const uint32_t lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  const uint32_t start = (blockIdx.y * kPanelWarps + threadIdx.x / kWarp) * kWarp, j = start + 4 * place_of(g);
  if (start >= ld) return;
  x += blockIdx.z * stride;
  float c[4][4] = {};
  const uint32_t begin = w.column ? static_cast<uint32_t>(w.first[blockIdx.x]) : blockIdx.x * w.each;
  const uint32_t end = w.column ? static_cast<uint32_t>(w.first[blockIdx.x + 1]) : begin + w.each;
  for (uint32_t s = begin; s < end; s++) {
    const int32_t p = taken(w, s, s - begin, t, 8), q = taken(w, s, s - begin, t + 4, 8);
    float4 upper = {}, lower = {};
    if (j < ld && p >= 0) upper = *reinterpret_cast<const float4*>(x + uint64_t(p) * ld + j);
    if (j < ld && q >= 0) lower = *reinterpret_cast<const float4*>(x + uint64_t(q) * ld + j);
    uint32_t high[4], low[4], whole[4];
    if constexpr (kType == kSparseF32) {
      const float4 a = static_cast<const float4*>(w.values)[uint64_t(s) * kWarp + lane];
      const float values[4] = {a.x, a.y, a.z, a.w};
#pragma unroll
      for (int i = 0; i < 4; i++) {
        whole[i] = __float_as_uint(values[i]);
        high[i] = tf32(values[i]);
        low[i] = rest(values[i], high[i]);
      }
    } else {
      const uint2 a = static_cast<const uint2*>(w.values)[uint64_t(s) * kWarp + lane];
      high[0] = a.x << 16;
      high[1] = a.x & 0xffff0000u;
      high[2] = a.y << 16;
      high[3] = a.y & 0xffff0000u;
#pragma unroll
      for (int i = 0; i < 4; i++) whole[i] = high[i];
    }
    const float above[4] = {upper.x, upper.y, upper.z, upper.w}, below[4] = {lower.x, lower.y, lower.z, lower.w};
    bool odd = false;
#pragma unroll
    for (int i = 0; i < 4; i++) odd |= !finite(above[i]) || !finite(below[i]);
    if (__ballot_sync(kFullMask, odd)) meet(c, whole, above, below);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const float p0 = or_zero(above[i]), p1 = or_zero(below[i]);
      const uint32_t b[2] = {tf32(p0), tf32(p1)};
      const uint32_t tail[2] = {rest(p0, b[0]), rest(p1, b[1])};
      if constexpr (kType == kSparseF32) mma_tf32(c[i], low, b);
      mma_tf32(c[i], high, tail);
      mma_tf32(c[i], high, b);
    }
  }
#pragma unroll
  for (uint32_t half = 0; half < 2; half++) {
    const uint32_t row = blockIdx.x * static_cast<uint32_t>(kCudaPanel) + g + 8 * half;
    if (row >= w.rows) continue;
    float4* const to = reinterpret_cast<float4*>(sums + (uint64_t(blockIdx.z) * w.rows + row) * ld + start) + t;
    if (start + 4 * t < ld) to[0] = make_float4(c[0][2 * half], c[1][2 * half], c[2][2 * half], c[3][2 * half]);
    if (start + 4 * t + 16 < ld) to[4] = make_float4(c[0][2 * half + 1], c[1][2 * half + 1], c[2][2 * half + 1], c[3][2 * half + 1]);
  }
}

__global__ void panels_int8_kernel(Panels w, const uint8_t* x, uint32_t ld, uint64_t stride, int32_t* sums) {
  const uint32_t lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  const uint32_t start = (blockIdx.y * kPanelWarps + threadIdx.x / kWarp) * kWarp, j = start + 4 * place_of(g);
  if (start >= ld) return;
  x += blockIdx.z * stride;
  int32_t c[4][4] = {};
  const uint32_t begin = w.column ? static_cast<uint32_t>(w.first[blockIdx.x]) : blockIdx.x * w.each;
  const uint32_t end = w.column ? static_cast<uint32_t>(w.first[blockIdx.x + 1]) : begin + w.each;
  for (uint32_t s = begin; s < end; s++) {
    const uint4 packed = static_cast<const uint4*>(w.values)[uint64_t(s) * kWarp + lane];
    const uint32_t a[4] = {packed.x, packed.y, packed.z, packed.w};
    uint32_t b[2][4];
#pragma unroll
    for (uint32_t half = 0; half < 2; half++) {
      uint32_t words[4];
      int4 four = {};
      if (w.column) four = reinterpret_cast<const int4*>(w.column)[uint64_t(s) * 8 + 4 * half + t];
      const int32_t listed[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
      for (uint32_t i = 0; i < 4; i++) {
        const int32_t p = w.column ? listed[i] : taken(w, s, s - begin, 16 * half + 4 * t + i, 32);
        words[i] = j < ld && p >= 0 ? *reinterpret_cast<const uint32_t*>(x + uint64_t(p) * ld + j) : 0;
      }
      turn_bytes(words, b[half]);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const uint32_t pair[2] = {b[0][i], b[1][i]};
      mma_bytes(c[i], a, pair);
    }
  }
#pragma unroll
  for (uint32_t half = 0; half < 2; half++) {
    const uint32_t row = blockIdx.x * static_cast<uint32_t>(kCudaPanel) + g + 8 * half;
    if (row >= w.rows) continue;
    int4* const to = reinterpret_cast<int4*>(sums + (uint64_t(blockIdx.z) * w.rows + row) * ld + start) + t;
    if (start + 4 * t < ld) to[0] = make_int4(c[0][2 * half], c[1][2 * half], c[2][2 * half], c[3][2 * half]);
    if (start + 4 * t + 16 < ld) to[4] = make_int4(c[0][2 * half + 1], c[1][2 * half + 1], c[2][2 * half + 1], c[3][2 * half + 1]);
  }
}

// n:m to panels of all columns, in mma's order. A thread a value.
template <class T>
__global__ void spread_kernel(uint32_t rows, uint32_t groups, uint32_t n, uint32_t m, const uint8_t* places, const T* values, uint32_t panels, uint32_t each,
                              T* out) {
  constexpr uint32_t kEach = sizeof(T) == 1 ? 16 : 4, kStep = sizeof(T) == 1 ? 32 : 8;
  const uint64_t at = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at >= uint64_t(panels) * each * kWarp * kEach) return;
  const uint32_t lane = static_cast<uint32_t>(at / kEach) % kWarp, part = static_cast<uint32_t>(at % kEach), step = static_cast<uint32_t>(at / (kWarp * kEach));
  const uint32_t word = kEach == 16 ? part / 4 : part, g = lane / 4, t = lane % 4;
  const uint32_t row = step / each * static_cast<uint32_t>(kCudaPanel) + g + 8 * (word & 1);
  const uint32_t j = step % each * kStep + (kEach == 16 ? 4 * t + 16 * (word >> 1) + part % 4 : t + 4 * (word >> 1));
  T v = 0;
  if (row < rows && j < groups * m) {
    const uint64_t first = (uint64_t(row) * groups + j / m) * n;
    for (uint32_t i = 0; i < n; i++)
      if (places[first + i] == j % m) v = values[first + i];
  }
  out[at] = v;
}

// n:m bytes to rows of `row`, zeros between and beyond. A thread four of them.
__global__ void dense_kernel(uint32_t rows, uint32_t groups, uint32_t n, uint32_t m, const uint8_t* places, const uint8_t* values, uint32_t all, uint32_t row,
                             uint32_t* out) {
  const uint32_t at = blockIdx.x * blockDim.x + threadIdx.x, each = row / 4, r = at / each;
  if (r >= all) return;
  uint32_t word = 0;
  for (uint32_t b = 0; b < 4; b++) {
    const uint32_t j = at % each * 4 + b, group = j / m;
    if (r >= rows || group >= groups) continue;
    const uint64_t first = (uint64_t(r) * groups + group) * n;
    for (uint32_t i = 0; i < n; i++)
      if (places[first + i] == j % m) word |= uint32_t(values[first + i]) << 8 * b;
  }
  out[at] = word;
}

__global__ void widen_kernel(const uint16_t* x, uint32_t n, float* out) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = __uint_as_float(static_cast<uint32_t>(x[i]) << 16);
}

// ---------- what follows the sums ----------

struct Finish {
  uint32_t rows, columns, ld;
  bool by_rows;
  uint64_t sums_stride, out_stride;
  const float* bias;
  Activation activation;
};

// out[i][j] of sums [rows][ld], or out[j][i]; `put` gets a sum, its row and where it belongs. Tiles of 32 x 32, 256 threads.
template <class T, class Put>
__device__ void each_sum(const Finish& f, const T* sums, const Put& put) {
  WHITTLE_SHARED(tile, T[32][33]);
  const uint32_t lane = threadIdx.x % 32, line = threadIdx.x / 32, i0 = blockIdx.x * 32, j0 = blockIdx.y * 32;
  sums += blockIdx.z * f.sums_stride;
  for (uint32_t i = line; i < 32; i += kBlock / 32)
    if (i0 + i < f.rows && j0 + lane < f.columns) tile[i][lane] = sums[uint64_t(i0 + i) * f.ld + j0 + lane];
  __syncthreads();
  for (uint32_t i = line; i < 32; i += kBlock / 32) {
    const uint32_t row = f.by_rows ? i0 + lane : i0 + i, column = f.by_rows ? j0 + i : j0 + lane;
    if (row >= f.rows || column >= f.columns) continue;
    const uint64_t at = f.by_rows ? uint64_t(column) * f.rows + row : uint64_t(row) * f.columns + column;
    put(f.by_rows ? tile[lane][i] : tile[i][lane], row, blockIdx.z * f.out_stride + at);
  }
}

__global__ void finish_kernel(Finish f, const float* sums, float* out) {
  each_sum(f, sums, [&](float v, uint32_t row, uint64_t at) {
    if (f.bias) v = __fadd_rn(v, f.bias[row]);
    out[at] = act_apply(v, f.activation.kind, f.activation.lo, f.activation.hi);
  });
}

__global__ void finish_int8_kernel(Finish f, Epilogue e, const int32_t* sums, const Column* shares, void* out) {
  each_sum(f, sums, [&](int32_t v, uint32_t row, uint64_t at) {
    const Column c = shares[row];
    put_sum(e, c, static_cast<int32_t>(static_cast<uint32_t>(v) + static_cast<uint32_t>(c.offset)), out, at);
  });
}

// ---------- a call ----------

unsigned part(int64_t n, int64_t each) { return static_cast<unsigned>((n + each - 1) / each); }

// The sums of a CSR matrix's products by cuSPARSE, [batch][rows][ld]; false where it cannot.
template <int kType>
bool csr_sums(Work& work, const CudaSparse& w, const typename Types<kType>::X* x, int64_t batch, int64_t ld, typename Types<kType>::Sum* sums) {
  const void* values = w.values;
  if (kType == kSparseBf16 && w.stored > 0) {
    float* wide = static_cast<float*>(work.spare_piece(w.stored * static_cast<int64_t>(sizeof(float))));
    if (!wide) return false;
    work.launch(blocks_for(w.stored), kBlock, widen_kernel, static_cast<const uint16_t*>(w.values), w.stored, wide);
    values = wide;
  }
  for (int64_t b = 0; b < batch; b++)
    if (!csr_product(work, {kType == kSparseInt8, w.rows, w.cols, ld, w.stored, w.first, w.column, values, x + b * w.cols * ld, sums + b * w.rows * ld}))
      return false;
  return true;
}

int64_t pruned(int64_t n) { return (n + kPruned - 1) / kPruned * kPruned; }

// Whether a matrix is one for cuSPARSELt.
bool is_pruned(const CudaSparse& w) {
  return w.format == kSparseNm && w.type == kSparseInt8 && w.n == 2 && w.m == 4 && w.cols > 0 && w.cols <= kMostPruned;
}

// The same by cuSPARSELt, [batch][pruned(rows)][pruned(columns)].
bool pruned_sums(Work& work, const CudaSparse& w, const CudaSpmm& a, int32_t* sums) {
  const int64_t rows = pruned(w.rows), row = pruned(w.cols), columns = pruned(a.columns);
  int8_t* x = static_cast<int8_t*>(work.spare_piece(columns * row));
  if (!x) return false;
  for (int64_t b = 0; b < a.batch; b++) {
    int8_rows(work, static_cast<const uint8_t*>(a.x) + b * w.cols * a.columns, !a.x_signed, a.by_rows, w.cols, a.columns, columns, row, x);
    const int mark = work.mark();
    const bool done = pruned_product(work, {rows, row, columns, w.compressed, x, sums + b * rows * columns});
    if (a.batch > 1) work.release_to(mark);
    if (!done) return false;
  }
  return true;
}

// The sums of `batch` products, [batch][rows][ld].
template <int kType>
void sums_of(Work& work, const CudaSparse& w, const CudaSpmm& a, int64_t ld, bool few, typename Types<kType>::Sum* sums) {
  typedef typename Types<kType>::X X;
  const X* x = static_cast<const X*>(a.x);
  const uint8_t flip = kType == kSparseInt8 && !a.x_signed ? 0x80 : 0;
  Entries entries = {w.first, w.column, w.places, w.values, static_cast<uint32_t>(w.n), static_cast<uint32_t>(w.m), 0};
  if (w.format == kSparseNm) entries.each = static_cast<uint32_t>(w.cols / w.m * w.n);
  const int64_t mark = work.mark();
  if (few) {
    const int64_t step = a.by_rows ? 1 : a.columns, next = a.by_rows ? w.cols : 1;
    for (int64_t b = 0; b < a.batch; b += kMostBlocks) {
      dim3 grid = blocks_for(w.rows * kWarp);
      grid.y = static_cast<unsigned>(a.batch - b < kMostBlocks ? a.batch - b : kMostBlocks);
      work.launch(grid, kBlock, few_kernel<kType>, entries, w.rows, x + b * w.cols * a.columns, flip, a.columns, step, next, w.cols * a.columns,
                  sums + b * w.rows * ld);
    }
    return;
  }
  const bool copied = a.by_rows || ld != a.columns || flip;
  if (copied) {
    X* packed = work.scratch<X>(a.batch * w.cols * ld);
    for (int64_t b = 0; b < a.batch && w.cols > 0; b += kMostBlocks) {
      const dim3 grid(part(w.cols, 32), part(ld, 32), static_cast<unsigned>(a.batch - b < kMostBlocks ? a.batch - b : kMostBlocks));
      work.launch(grid, kBlock, pack_kernel<X>, x + b * w.cols * a.columns, a.by_rows, flip, w.cols, a.columns, ld, w.cols * a.columns,
                  packed + b * w.cols * ld, w.cols * ld);
    }
    x = packed;
  }
  if (w.format == kSparseCsr && csr_sums<kType>(work, w, x, a.batch, ld, sums)) {
    work.release_to(static_cast<int>(mark));
    return;
  }
  const int64_t panels = cuda_sparse_panels(w.rows), step = cuda_sparse_step(kType);
  Panels p = {w.first, w.column, w.values, static_cast<uint32_t>(w.rows), static_cast<uint32_t>(w.cols), 0};
  if (w.format == kSparseNm) {
    typedef std::conditional_t<kType == kSparseF32, uint32_t, std::conditional_t<kType == kSparseBf16, uint16_t, uint8_t>> T;
    const int64_t each = (w.cols + step - 1) / step, size = panels * each * step * kCudaPanel;
    T* laid = work.scratch<T>(size);
    if (size > 0)
      work.launch(blocks_for(size), kBlock, spread_kernel<T>, w.rows, w.cols / w.m, w.n, w.m, w.places, static_cast<const T*>(w.values), panels, each, laid);
    p.first = p.column = nullptr;
    p.values = laid;
    p.each = static_cast<uint32_t>(each);
  }
  for (int64_t b = 0; b < a.batch; b += kMostBlocks) {
    const unsigned z = static_cast<unsigned>(a.batch - b < kMostBlocks ? a.batch - b : kMostBlocks);
    const X* from = x + b * w.cols * ld;
    typename Types<kType>::Sum* to = sums + b * w.rows * ld;
    const dim3 grid(static_cast<unsigned>(panels), part(ld, kPanelWarps * kWarp), z);
    if (w.format == kSparseCsr)
      work.launch(dim3(part(w.rows, kBlock / kWarp), part(ld, 4 * kWarp), z), kBlock, csr_kernel<kType>, entries, w.rows, from, ld, w.cols * ld, to);
    else if constexpr (kType == kSparseInt8)
      work.launch(grid, kPanelWarps * kWarp, panels_int8_kernel, p, from, ld, w.cols * ld, to);
    else
      work.launch(grid, kPanelWarps * kWarp, panels_kernel<kType>, p, from, ld, w.cols * ld, to);
  }
  work.release_to(static_cast<int>(mark));
}

bool fits(int64_t n, int64_t each) { return n >= 0 && each >= 0 && (each == 0 || n <= kMostElements / each); }

}  // namespace

WhittleStatus cuda_sparse_compress(int32_t device, const CudaSparse& w, int64_t* bytes) {
  *bytes = 0;
  const int64_t rows = pruned(w.rows), row = pruned(w.cols);
  if (!fits(rows, row)) return WHITTLE_SHAPE;
  if (!is_pruned(w) || w.rows == 0) return WHITTLE_OK;
  Work work(device);
  int64_t found = 0;
  if (!w.compressed) {
    found = pruned_bytes(work, rows, row);
  } else if (int8_t* dense = static_cast<int8_t*>(work.spare(rows * row))) {
    work.launch(blocks_for(rows * row / 4), kBlock, dense_kernel, w.rows, w.cols / w.m, w.n, w.m, w.places, static_cast<const uint8_t*>(w.values), rows, row,
                reinterpret_cast<uint32_t*>(dense));
    if (pruned_compress(work, rows, row, dense, w.compressed, w.compressed_bytes)) found = w.compressed_bytes;
  }
  const WhittleStatus status = work.finish();
  if (status == WHITTLE_OK) *bytes = found;
  return status;
}

WhittleStatus cuda_sparse_multiply(int32_t device, const CudaSparse& w, const CudaSpmm& a, int32_t* fault) {
  *fault = 0;
  const bool bytes = w.type == kSparseInt8;
  const int64_t ld = (a.columns + 3) / 4 * 4;
  if (!fits(w.rows, w.cols) || !fits(a.batch, ld) || !fits(a.batch * ld, w.cols) || !fits(a.batch * ld, w.rows)) return WHITTLE_SHAPE;
  if ((a.by_rows && a.batch != 1) || ld > 32 * kMostBlocks) return WHITTLE_SHAPE;
  Work work(device);
  Epilogue e = {};
  Column* shares = nullptr;
  if (bytes && w.rows > 0) {
    e.n = static_cast<uint32_t>(w.rows);
    e.k = static_cast<uint32_t>(w.cols);
    e.a_signed = a.x_signed;
    e.a_zero = a.x_zero;
    e.a_scale = a.x_scale;
    e.b_scales = w.scales;
    e.bias_int = a.bias_int;
    e.bias_float = a.bias;
    e.activation = a.activation;
    e.out_type = a.out_type;
    e.out_scale = a.out_scale;
    e.out_zero = a.out_zero;
    shares = work.scratch<Column>(w.rows);
    int8_columns(work, e, w.sums, shares);
  }
  const int64_t size = a.batch * a.columns * w.rows;
  if (size > 0) {
    const bool few = a.columns <= kFewColumns && w.format != kSparseBlock;
    const bool plain = !bytes && !a.by_rows && ld == a.columns && !a.bias && a.activation.kind == kActivationNone;
    // Sums of a library's shape, or the kernels' own.
    int64_t rows = pruned(w.rows), width = pruned(a.columns);
    int32_t* theirs = nullptr;
    const int mark = work.mark();
    if (!few && w.compressed && is_pruned(w) && fits(a.batch * rows, width)) {
      theirs = static_cast<int32_t*>(work.spare_piece(a.batch * rows * width * static_cast<int64_t>(sizeof(int32_t))));
      if (theirs && !pruned_sums(work, w, a, theirs)) {
        work.release_to(mark);
        theirs = nullptr;
      }
    }
    if (!theirs) {
      rows = w.rows;
      width = ld;
    }
    void* sums = theirs ? theirs : plain ? a.out : work.scratch<float>(a.batch * ld * w.rows);
    if (w.type == kSparseF32) sums_of<kSparseF32>(work, w, a, ld, few, static_cast<float*>(sums));
    else if (w.type == kSparseBf16) sums_of<kSparseBf16>(work, w, a, ld, few, static_cast<float*>(sums));
    else if (!theirs) sums_of<kSparseInt8>(work, w, a, ld, few, static_cast<int32_t*>(sums));
    const Finish f = {static_cast<uint32_t>(w.rows), static_cast<uint32_t>(a.columns), static_cast<uint32_t>(width), a.by_rows,
                      static_cast<uint64_t>(rows * width), static_cast<uint64_t>(w.rows * a.columns), a.bias, a.activation};
    for (int64_t b = 0; b < a.batch && !plain; b += kMostBlocks) {
      const dim3 grid(part(w.rows, 32), part(a.columns, 32), static_cast<unsigned>(a.batch - b < kMostBlocks ? a.batch - b : kMostBlocks));
      const int64_t out_size = bytes && a.out_type != kOutInt32 && a.out_type != kOutFloat32 ? 1 : 4;
      char* const out = static_cast<char*>(a.out) + b * w.rows * a.columns * out_size;
      if (bytes) work.launch(grid, kBlock, finish_int8_kernel, f, e, static_cast<int32_t*>(sums) + b * rows * width, shares, out);
      else work.launch(grid, kBlock, finish_kernel, f, static_cast<float*>(sums) + b * w.rows * ld, reinterpret_cast<float*>(out));
    }
  }
  const WhittleStatus status = work.finish();
  *fault = work.raised(kFlagSum) ? 1 : work.raised(kFlagScale) ? 2 : 0;
  return status;
}

}  // namespace whittle
