// Products of bytes with exact 32-bit sums, and what follows them, to the CPU's bit (core/gemm_int8.h). Both operands become
// signed bytes in rows along k of a multiple of 16, zeros beyond; zero points are corrected from row and column sums, modulo
// 2^32. Sums come from cuBLASLt, or from a kernel of dp4a: a warp a column, few rows at a time, which reads the weights once
// and so suits few rows (decoding); it also serves where cuBLASLt cannot.
#include <float.h>

#include "cuda/cublaslt.h"
#include "cuda/int8.h"

namespace whittle {
namespace {

// ---------- operands ----------

// Rows of signed bytes: out[r][p] = w[r][p] or w[p][r], less 128 where unsigned, 0 beyond. A thread 16 of them.
__global__ void rows_kernel(const uint8_t* w, bool flip, bool transposed, uint32_t rows, uint32_t k, uint32_t all_rows, uint32_t row, int8_t* out) {
  const uint32_t pieces = row / 16, t = blockIdx.x * blockDim.x + threadIdx.x;
  if (t / pieces >= all_rows) return;
  const uint32_t r = t / pieces, start = t % pieces * 16;
  int4* const to = reinterpret_cast<int4*>(out + uint64_t(r) * row + start);
  const uint8_t* from = w + uint64_t(r) * k + start;
  if (transposed && r < rows && start + 16 <= k && reinterpret_cast<uintptr_t>(from) % 16 == 0) {
    const int4 v = *reinterpret_cast<const int4*>(from);
    const int top = flip ? static_cast<int>(0x80808080u) : 0;
    *to = make_int4(v.x ^ top, v.y ^ top, v.z ^ top, v.w ^ top);
    return;
  }
  int words[4];
#pragma unroll
  for (uint32_t i = 0; i < 4; i++) {
    uint32_t word = 0;
    for (uint32_t j = 0; j < 4; j++) {
      const uint32_t p = start + 4 * i + j;
      if (r >= rows || p >= k) continue;
      const uint64_t at = transposed ? uint64_t(r) * k + p : uint64_t(p) * rows + r;
      word |= static_cast<uint32_t>(w[at] ^ (flip ? 0x80 : 0)) << 8 * j;
    }
    words[i] = static_cast<int>(word);
  }
  *to = make_int4(words[0], words[1], words[2], words[3]);
}

// The sum of every row. A warp each.
__global__ void sums_kernel(const int8_t* x, uint32_t rows, uint32_t row, int32_t* sums) {
  const uint32_t r = (blockIdx.x * blockDim.x + threadIdx.x) / kWarp, lane = threadIdx.x % kWarp;
  if (r >= rows) return;
  int sum = 0;
  for (uint32_t p = lane * 4; p < row; p += kWarp * 4) sum = dot4(*reinterpret_cast<const int*>(x + uint64_t(r) * row + p), 0x01010101, sum);
  for (int o = kWarp / 2; o; o >>= 1) sum += __shfl_xor_sync(kFullMask, sum, o);
  if (lane == 0) sums[r] = sum;
}

// ---------- sums by dp4a ----------

constexpr int kRows = 8;

__global__ void dots_kernel(const int8_t* x, const int8_t* w, uint32_t m, uint32_t columns, uint32_t row, uint32_t first, int32_t* out) {
  const uint32_t j = (blockIdx.x * blockDim.x + threadIdx.x) / kWarp, lane = threadIdx.x % kWarp;
  if (j >= columns) return;
  const uint32_t top = (first + blockIdx.y) * kRows;
  int sums[kRows] = {};
  for (uint32_t p = lane * 16; p < row; p += kWarp * 16) {
    const int4 b = *reinterpret_cast<const int4*>(w + uint64_t(j) * row + p);
#pragma unroll
    for (int i = 0; i < kRows; i++) {
      if (top + i >= m) break;
      const int4 a = *reinterpret_cast<const int4*>(x + uint64_t(top + i) * row + p);
      sums[i] = dot4(a.w, b.w, dot4(a.z, b.z, dot4(a.y, b.y, dot4(a.x, b.x, sums[i]))));
    }
  }
#pragma unroll
  for (int i = 0; i < kRows; i++)
    for (int o = kWarp / 2; o; o >>= 1) sums[i] += __shfl_xor_sync(kFullMask, sums[i], o);
  if (lane != 0) return;
#pragma unroll
  for (int i = 0; i < kRows; i++)
    if (top + i < m) out[uint64_t(top + i) * columns + j] = sums[i];
}

// ---------- what follows the sums ----------

__device__ int32_t zero_of(const Epilogue& e, uint32_t j) {
  if (!e.b_zeros) return e.b_zero;
  return e.b_unsigned ? static_cast<int32_t>(e.b_zeros[j]) : static_cast<int32_t>(static_cast<int8_t>(e.b_zeros[j]));
}

// The columns, and whether every sum fits 32 bits whatever the data. One block.
__global__ void columns_kernel(Epilogue e, const int32_t* sums, Column* out, int* flags) {
  WHITTLE_SHARED(parts, int32_t[4][kBlock]);
  int32_t z_lo = 255, z_hi = -128, bias_lo = INT32_MAX, bias_hi = INT32_MIN;
  // a' = a - a_shift, b' = b - b_shift
  const uint32_t a_zero = static_cast<uint32_t>(e.a_zero - (e.a_signed ? 0 : 128));
  for (uint32_t j = threadIdx.x; j < e.n; j += kBlock) {
    const int32_t z = zero_of(e, j), zero = z - (e.b_unsigned ? 128 : 0), bias = e.bias_int ? e.bias_int[j] : 0;
    z_lo = z < z_lo ? z : z_lo;
    z_hi = z > z_hi ? z : z_hi;
    bias_lo = bias < bias_lo ? bias : bias_lo;
    bias_hi = bias > bias_hi ? bias : bias_hi;
    Column c;
    c.offset = static_cast<int32_t>((e.k * static_cast<uint32_t>(zero) - static_cast<uint32_t>(sums[j])) * a_zero + static_cast<uint32_t>(bias));
    c.zero = zero;
    c.scale = __fmul_rn(e.a_scale, e.b_scales ? e.b_scales[j] : e.b_scale);
    c.bias = e.bias_float ? e.bias_float[j] : -0.0f;
    if (e.out_type != kOutInt32) {
      if (!(c.scale > 0 && c.scale <= FLT_MAX)) atomicOr(flags, kFlagScale);
      if (!(fabsf(c.bias) <= FLT_MAX)) atomicOr(flags, kFlagNonfinite);
    }
    out[j] = c;
  }
  parts[0][threadIdx.x] = z_lo;
  parts[1][threadIdx.x] = z_hi;
  parts[2][threadIdx.x] = bias_lo;
  parts[3][threadIdx.x] = bias_hi;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int t = 1; t < kBlock; t++) {
    z_lo = parts[0][t] < z_lo ? parts[0][t] : z_lo;
    z_hi = parts[1][t] > z_hi ? parts[1][t] : z_hi;
    bias_lo = parts[2][t] < bias_lo ? parts[2][t] : bias_lo;
    bias_hi = parts[3][t] > bias_hi ? parts[3][t] : bias_hi;
  }
  const int64_t a_lo = (e.a_signed ? -128 : 0) - e.a_zero, b_lo = (e.b_unsigned ? 0 : -128) - z_hi;
  const int64_t a_hi = (e.a_signed ? 127 : 255) - e.a_zero, b_hi = (e.b_unsigned ? 255 : 127) - z_lo;
  const int64_t products[] = {a_lo * b_lo, a_lo * b_hi, a_hi * b_lo, a_hi * b_hi};
  int64_t lo = 0, hi = 0;
  for (const int64_t p : products) {
    lo = p < lo ? p : lo;
    hi = p > hi ? p : hi;
  }
  lo *= e.k;
  hi *= e.k;
  if (e.bias_int) {
    lo += bias_lo;
    hi += bias_hi;
  }
  if (lo < INT32_MIN || hi > INT32_MAX) atomicOr(flags, kFlagSum);
}

__global__ void epilogue_kernel(Epilogue e, const int32_t* sums, const int32_t* row_sums, const Column* columns, void* y) {
  const uint32_t t = blockIdx.x * blockDim.x + threadIdx.x;
  if (t >= e.m * e.n) return;
  const uint32_t i = t / e.n, j = t % e.n;
  const Column c = columns[j];
  const int32_t sum = static_cast<int32_t>(static_cast<uint32_t>(sums[uint64_t(i) * e.columns + j]) + static_cast<uint32_t>(c.offset) -
                                           static_cast<uint32_t>(c.zero) * static_cast<uint32_t>(row_sums[i]));
  put_sum(e, c, sum, y, t);
}

}  // namespace

void int8_rows(Work& work, const uint8_t* w, bool flip, bool by_rows, int64_t k, int64_t rows, int64_t all, int64_t row, int8_t* out) {
  if (all > 0 && row > 0) work.launch(blocks_for(all * (row / 16)), kBlock, rows_kernel, w, flip, by_rows, rows, k, all, row, out);
}

namespace {

bool fits(int64_t n) { return n >= 0 && n <= kMostElements; }

// Signed rows of w and their sums.
void pack(Work& work, const uint8_t* w, bool flip, bool transposed, int64_t k, int64_t n, int64_t rows, int8_t* data, int32_t* sums) {
  const int64_t row = cuda_int8_row(k);
  int8_rows(work, w, flip, transposed, k, n, rows, row, data);
  if (rows > 0) work.launch(blocks_for(rows * kWarp), kBlock, sums_kernel, data, rows, row, sums);
}

// Up to so many rows the weights' bytes decide, and reading them once is all there is to do.
constexpr int64_t kFewRows = 16;

}  // namespace

void int8_columns(Work& work, const Epilogue& e, const int32_t* sums, Column* out) { work.launch(1, kBlock, columns_kernel, e, sums, out, work.flags()); }

WhittleStatus cuda_pack_int8(int32_t device, const uint8_t* w, bool is_unsigned, bool transposed, int64_t k, int64_t n, int8_t* data, int32_t* sums) {
  const int64_t rows = cuda_int8_rows(n);
  if (!fits(n) || !fits(k) || (n && k > kMostElements / n) || !fits(rows * cuda_int8_row(k))) return WHITTLE_SHAPE;
  Work work(device);
  pack(work, w, is_unsigned, transposed, k, n, rows, data, sums);
  return work.finish();
}

WhittleStatus cuda_gemm_int8(int32_t device, const GemmInt8Args& g, int32_t* fault) {
  *fault = 0;
  const int64_t columns = cuda_int8_rows(g.n), row = cuda_int8_row(g.k);
  if (!fits(g.m) || !fits(g.n) || !fits(g.k) || !fits(columns * row) || !fits(g.m * row) || !fits(g.m * columns)) return WHITTLE_SHAPE;
  if (g.batch != 1 || g.fill) return WHITTLE_SHAPE;
  Work work(device);
  if (g.n == 0) return work.finish();
  const int8_t* weights = g.packed ? g.packed->data : nullptr;
  const int32_t* column_sums = g.packed ? g.packed->sums : nullptr;
  if (!g.packed) {
    int8_t* data = work.scratch<int8_t>(columns * row);
    int32_t* sums = work.scratch<int32_t>(columns);
    pack(work, g.b, g.b_unsigned, g.b_transposed, g.k, g.n, columns, data, sums);
    weights = data;
    column_sums = sums;
  }
  int8_t* x = work.scratch<int8_t>(g.m * row);
  int32_t* row_sums = work.scratch<int32_t>(g.m);
  int32_t* sums = work.scratch<int32_t>(g.m * columns);
  Column* shares = work.scratch<Column>(g.n);
  Epilogue e = {};
  e.m = static_cast<uint32_t>(g.m);
  e.n = static_cast<uint32_t>(g.n);
  e.columns = static_cast<uint32_t>(columns);
  e.k = static_cast<uint32_t>(g.k);
  e.a_signed = g.a_signed;
  e.b_unsigned = g.packed ? g.packed->is_unsigned : g.b_unsigned;
  e.a_zero = g.a_zero;
  e.b_zero = g.b_zero;
  e.b_zeros = g.b_zeros;
  e.a_scale = g.a_scale;
  e.b_scale = g.b_scale;
  e.b_scales = g.b_scales;
  e.bias_int = g.bias_int;
  e.bias_float = g.bias_float;
  e.activation = g.activation;
  e.out_type = g.out_type;
  e.out_scale = g.out_scale;
  e.out_zero = g.out_zero;
  int8_columns(work, e, column_sums, shares);
  if (g.m > 0) {
    pack(work, g.a, !g.a_signed, true, g.k, g.m, g.m, x, row_sums);
    if (g.k == 0) {
      work.fill(sums, 0, g.m * columns * static_cast<int64_t>(sizeof(int32_t)));
    } else {
      LtProduct p = {};
      p.integers = true;
      p.transpose_a = true;
      p.m = columns;
      p.n = g.m;
      p.k = row;
      p.a = weights;
      p.b = x;
      p.lda = p.ldb = row;
      p.ldd = columns;
      p.batch = 1;
      p.d = sums;
      const char* why = "";
      if (g.m <= kFewRows || !lt_product(work, p, &why)) {
        const int64_t groups = (g.m + kRows - 1) / kRows, most = 65535;
        for (int64_t first = 0; first < groups; first += most) {
          dim3 grid = blocks_for(columns * kWarp);
          grid.y = static_cast<unsigned>(groups - first < most ? groups - first : most);
          work.launch(grid, kBlock, dots_kernel, x, weights, g.m, columns, row, first, sums);
        }
      }
    }
    work.launch(blocks_for(g.m * g.n), kBlock, epilogue_kernel, e, sums, row_sums, shares, g.out);
  }
  const WhittleStatus status = work.finish();
  *fault = work.raised(kFlagSum) ? 1 : work.raised(kFlagScale) ? 2 : 0;
  return status;
}

}  // namespace whittle
