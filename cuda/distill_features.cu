// Losses on features: hints, with a regressor through products of cuBLASLt, and attention maps. Differences, maps and sums are
// double, as in the CPU's scalar kernels; products are float32.
#include "cuda/distill.h"
#include "cuda/product.h"

namespace whittle {
namespace {

constexpr int kColumns = 32;            // of a block of maps: a warp's
constexpr int kPieces = 1024;           // of a sum over all elements, at most
constexpr int64_t kParts = 16 << 20;    // floats of a regressor's gradient by samples, before they are added up

// g = k*(r - t), and the sum of (r - t)^2 of a block's share. g may be r.
__global__ void squared_kernel(const float* r, const float* t, int64_t n, float k, float* g, double* out) {
  WHITTLE_SHARED(parts, double[kBlock / kWarp]);
  double sum[1] = {0};
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x; i < n; i += static_cast<int64_t>(gridDim.x) * kBlock) {
    const double d = static_cast<double>(r[i]) - t[i];
    sum[0] += d * d;
    g[i] = static_cast<float>(k * d);
  }
  block_sums(sum, parts);
  if (threadIdx.x == 0) out[blockIdx.x] = sum[0];
}

// out (+)= the sum of `count` matrices.
__global__ void gather_kernel(const float* from, int64_t count, int64_t size, bool add, float* out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (i >= size) return;
  double sum = add ? out[i] : 0;
  for (int64_t b = 0; b < count; b++) sum += from[b * size + i];
  out[i] = static_cast<float>(sum);
}

__device__ double power_of(double x, int32_t power) {
  double y = 1;
  for (int32_t i = 0; i < power; i++) y *= x;
  return y;
}

// q[sample][i] = the sum over channels of |a|^power: a warp takes 32 positions of every eighth channel.
__global__ void map_kernel(const float* a, int64_t channels, int64_t n, int64_t tiles, int32_t power, float* q) {
  WHITTLE_SHARED(parts, double[kBlock / kWarp][kColumns]);
  const int64_t sample = blockIdx.x / tiles, i = blockIdx.x % tiles * kColumns + threadIdx.x % kColumns;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const float* x = a + sample * channels * n;
  double sum = 0;
  if (i < n)
    for (int64_t c = warp; c < channels; c += kBlock / kWarp) sum += power_of(fabs(static_cast<double>(x[c * n + i])), power);
  parts[warp][lane] = sum;
  __syncthreads();
  if (warp != 0 || i >= n) return;
  for (int w = 1; w < kBlock / kWarp; w++) sum += parts[w][lane];
  q[sample * n + i] = static_cast<float>(sum);
}

// Divides a sample's maps by their norms, compares them, and writes what the gradient by the student's elements needs in place
// of the teacher's. A block a sample.
__global__ void compare_kernel(float* student, float* teacher, int64_t n, int64_t samples, bool mean_form, double* losses) {
  WHITTLE_SHARED(parts, double[2 * (kBlock / kWarp)]);
  float *qs = student + blockIdx.x * n, *qt = teacher + blockIdx.x * n;
  double squares[2] = {0, 0};
  for (int64_t i = threadIdx.x; i < n; i += kBlock) {
    squares[0] += static_cast<double>(qs[i]) * qs[i];
    squares[1] += static_cast<double>(qt[i]) * qt[i];
  }
  block_sums(squares, parts);
  const double norm = sqrt(squares[0]), inverse = norm > 0 ? 1 / norm : 0, other = squares[1] > 0 ? 1 / sqrt(squares[1]) : 0;
  double sums[2] = {0, 0};  // d^2 and d*q, d = q - q_teacher
  for (int64_t i = threadIdx.x; i < n; i += kBlock) {
    const float a = static_cast<float>(qs[i] * inverse), b = static_cast<float>(qt[i] * other);
    const double d = static_cast<double>(a) - b;
    sums[0] += d * d;
    sums[1] += d * a;
    qs[i] = a;
    qt[i] = b;
  }
  block_sums(sums, parts);
  const double count = static_cast<double>(samples), gap = sqrt(sums[0]), all = count * static_cast<double>(n);
  if (threadIdx.x == 0) losses[blockIdx.x] = norm <= DBL_MAX && squares[1] <= DBL_MAX ? (mean_form ? sums[0] / all : gap / count) : NAN;
  // As distill_attention: where d vanishes so does the derivative.
  const double f = mean_form ? 2 / all : gap > 0 ? 1 / (gap * count) : 0;
  for (int64_t i = threadIdx.x; i < n; i += kBlock) {
    const double d = static_cast<double>(qs[i]) - qt[i];
    qt[i] = static_cast<float>(norm > 0 ? f * (d - qs[i] * sums[1]) / norm : 0);
  }
}

// g = power * |a|^(power-1) * sign(a) * dq
__global__ void attend_kernel(const float* a, int64_t channels, int64_t n, int64_t size, int32_t power, const float* dq, float* g) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (i >= size) return;
  const double x = a[i], v = power * power_of(fabs(x), power - 1) * dq[i / (channels * n) * n + i % n];
  g[i] = static_cast<float>(x > 0 ? v : x < 0 ? -v : 0);
}

int64_t pieces_of(int64_t n) {
  const int64_t most = (n + kBlock - 1) / kBlock;
  return most < kPieces ? most : kPieces;
}

// The mean of (r - t)^2 over n elements; its gradient over r, or elsewhere.
WhittleStatus mean_square(Work& work, const double* parts, int64_t pieces, int64_t n, double* result) {
  double* sum = work.scratch<double>(1);
  distill_sum(work, parts, pieces, 1, sum);
  double found = 0;
  work.fetch(&found, sum, sizeof found);
  const WhittleStatus status = work.finish();
  if (status != WHITTLE_OK) return status;
  found /= static_cast<double>(n);
  if (!(fabs(found) <= FLT_MAX)) return WHITTLE_NONFINITE;
  *result = found;
  return WHITTLE_OK;
}

}  // namespace

WhittleStatus cuda_feature(int32_t device, const FeatureLoss& l) {
  const int64_t cs = l.student_channels, ct = l.teacher_channels, n = l.positions, batch = l.batch;
  if (batch < 1 || cs < 1 || ct < 1 || n < 1 || (!l.regressor && cs != ct)) return WHITTLE_SHAPE;
  Work work(device);
  const int64_t outputs = batch * ct * n, pieces = pieces_of(outputs);
  const float scale = static_cast<float>(2 / static_cast<double>(outputs));
  double* parts = work.scratch<double>(pieces);
  if (!l.regressor) {
    work.launch(dim3(static_cast<unsigned>(pieces)), kBlock, squared_kernel, l.student, l.teacher, outputs, scale, l.grad, parts);
    return mean_square(work, parts, pieces, outputs, l.result);
  }
  // r(s) and then, in the same place, the derivative by it.
  float* r = work.scratch<float>(outputs);
  const auto squares = [&] {
    work.launch(dim3(static_cast<unsigned>(pieces)), kBlock, squared_kernel, r, l.teacher, outputs, scale, r, parts);
  };
  RowProduct forward = {}, back = {}, by_weight = {};
  forward.y = r;
  back.y = l.grad;
  back.m = cs;
  back.k = ct;
  by_weight.m = ct;
  by_weight.n = cs;
  by_weight.a = r;
  by_weight.b = l.student;
  if (n == 1) {
    // One position: the batch takes its place.
    forward.m = back.m = by_weight.k = batch;
    forward.n = ct;
    forward.k = back.n = cs;
    forward.a = l.student;
    forward.b = back.b = l.regressor;
    forward.transpose_b = by_weight.transpose_a = true;
    back.a = r;
    by_weight.y = l.grad_regressor;
    row_product(work, forward);
    squares();
    row_product(work, back);
    row_product(work, by_weight);
    return mean_square(work, parts, pieces, outputs, l.result);
  }
  forward.m = ct;
  forward.n = back.n = by_weight.k = n;
  forward.k = cs;
  forward.a = back.a = l.regressor;
  forward.b = l.student;
  forward.batch = back.batch = batch;
  forward.b_batch = back.y_batch = by_weight.b_batch = cs * n;
  forward.y_batch = back.b_batch = by_weight.a_batch = ct * n;
  back.b = r;
  back.transpose_a = by_weight.transpose_b = true;
  row_product(work, forward);
  squares();
  row_product(work, back);
  // A matrix a sample, as many at a time as have room, added up in order.
  const int64_t size = ct * cs, room = kParts / size, group = room < 1 ? 1 : room < batch ? room : batch;
  float* each = work.scratch<float>(group * size);
  by_weight.y = each;
  by_weight.y_batch = size;
  for (int64_t b = 0; b < batch; b += group) {
    by_weight.batch = b + group < batch ? group : batch - b;
    by_weight.a = r + b * ct * n;
    by_weight.b = l.student + b * cs * n;
    row_product(work, by_weight);
    work.launch(blocks_for(size), kBlock, gather_kernel, each, by_weight.batch, size, b > 0, l.grad_regressor);
  }
  return mean_square(work, parts, pieces, outputs, l.result);
}

WhittleStatus cuda_attention(int32_t device, const AttentionLoss& l) {
  const int64_t n = l.positions, samples = l.batch, tiles = (n + kColumns - 1) / kColumns, size = samples * l.student_channels * n;
  if (samples < 1 || n < 1 || l.student_channels < 1 || l.teacher_channels < 1 || l.power < 1 || l.power > 8 || tiles > kMostElements / samples)
    return WHITTLE_SHAPE;
  Work work(device);
  float *qs = work.scratch<float>(samples * n), *qt = work.scratch<float>(samples * n);
  double *losses = work.scratch<double>(samples), *sum = work.scratch<double>(1);
  const dim3 grid(static_cast<unsigned>(samples * tiles));
  work.launch(grid, kBlock, map_kernel, l.student, l.student_channels, n, tiles, l.power, qs);
  work.launch(grid, kBlock, map_kernel, l.teacher, l.teacher_channels, n, tiles, l.power, qt);
  work.launch(dim3(static_cast<unsigned>(samples)), kBlock, compare_kernel, qs, qt, n, samples, l.mean_form, losses);
  work.launch(blocks_for(size), kBlock, attend_kernel, l.student, l.student_channels, n, size, l.power, qt, l.grad);
  distill_sum(work, losses, samples, 1, sum);
  return distill_answer(work, sum, 1, l.result);
}

}  // namespace whittle
