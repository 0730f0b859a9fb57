// Relations inside a batch, as core/distill_relation.cpp has them: every gradient is M*X with M a samples x samples matrix made
// from Gram matrices, X the student's features; no loss forms a tensor of samples^3. Distances and angles take centred features
// and a Gram matrix in float64, similarity and correlation float32; products by cuBLASLt. Nothing returns to the host before the
// end: means and factors stay on the device.
#include "cuda/distill.h"
#include "cuda/product.h"

namespace whittle {
namespace {

constexpr int kTile = 16;        // of a tile of samples x samples, kTile^2 threads
constexpr int kMostOrder = 16;
static_assert(kTile * kTile == kBlock, "");

// A sum of squares of finite floats stays finite in double.
__global__ void finite_kernel(const float* x, int64_t n, int* flags) {
  bool bad = false;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x; i < n; i += static_cast<int64_t>(gridDim.x) * kBlock)
    bad |= !finite(x[i]);
  if (bad) atomicOr(flags, kFlagNonfinite);
}

// The mean of each feature over the samples: a warp takes 32 features of every eighth sample.
__global__ void mean_kernel(const float* x, int64_t n, int64_t size, double* mean) {
  WHITTLE_SHARED(parts, double[kBlock / kWarp][kWarp]);
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int64_t d = static_cast<int64_t>(blockIdx.x) * kWarp + lane;
  double sum = 0;
  if (d < size)
    for (int64_t i = warp; i < n; i += kBlock / kWarp) sum += x[i * size + d];
  parts[warp][lane] = sum;
  __syncthreads();
  if (warp != 0 || d >= size) return;
  for (int w = 1; w < kBlock / kWarp; w++) sum += parts[w][lane];
  mean[d] = sum / static_cast<double>(n);
}

__global__ void centre_kernel(const float* x, int64_t n, int64_t size, const double* mean, double* wide, float* narrow) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (i >= n * size) return;
  const double v = x[i] - mean[i % size];
  wide[i] = v;
  if (narrow) narrow[i] = static_cast<float>(v);
}

__global__ void diagonal_kernel(const double* g, int64_t n, double* out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (i < n) out[i] = g[i * n + i];
}

// Distance of two points, 0 where rounding may have made it.
__device__ double distance(double g_ii, double g_jj, double g_ij) {
  const double size = g_ii + g_jj, square = size - 2 * g_ij;
  return square > size * 0x1p-48 ? sqrt(square) : 0;
}

// A row of distances in place of one of the Gram matrix; sums[row]: theirs, sums[n + row]: how many are above 0.
__global__ void distances_kernel(double* g, int64_t n, const double* diagonal, double* sums) {
  WHITTLE_SHARED(parts, double[2 * (kBlock / kWarp)]);
  double* row = g + blockIdx.x * n;
  double v[2] = {0, 0};
  for (int64_t j = threadIdx.x; j < n; j += kBlock) {
    const double d = distance(diagonal[blockIdx.x], diagonal[j], row[j]);
    row[j] = d;
    v[0] += d;
    v[1] += d > 0;
  }
  block_sums(v, parts);
  if (threadIdx.x != 0) return;
  sums[blockIdx.x] = v[0];
  sums[n + blockIdx.x] = v[1];
}

__device__ double clip(double x, double delta) { return x > delta ? delta : x < -delta ? -delta : x; }

// 1 over the mean of the positive distances, 0 where there are none; found: their sum and number.
__device__ double over_mean(const double* found) { return found[0] > 0 ? found[1] / found[0] : 0; }

// sums[row]: Huber's losses; sums[n + row]: of its derivatives times the student's scaled distances.
__global__ void huber_kernel(const double* s, const double* t, int64_t n, const double* found, double delta, double* sums) {
  WHITTLE_SHARED(parts, double[2 * (kBlock / kWarp)]);
  const double fs = over_mean(found), ft = over_mean(found + 2);
  double v[2] = {0, 0};
  for (int64_t j = threadIdx.x; j < n; j += kBlock) {
    const double a = s[blockIdx.x * n + j] * fs, e = a - t[blockIdx.x * n + j] * ft, h = clip(e, delta);
    v[0] += h * (e - 0.5 * h);
    v[1] += h * a;
  }
  block_sums(v, parts);
  if (threadIdx.x != 0) return;
  sums[blockIdx.x] = v[0];
  sums[n + blockIdx.x] = v[1];
}

// A row of M; totals: the sums of huber_kernel over all rows.
__global__ void pull_kernel(const double* s, const double* t, int64_t n, const double* found, const double* totals, double delta, float* m) {
  WHITTLE_SHARED(parts, double[kBlock / kWarp]);
  const int64_t i = blockIdx.x;
  const double fs = over_mean(found), ft = over_mean(found + 2), entries = static_cast<double>(n) * static_cast<double>(n);
  const double shift = found[1] > 0 ? totals[1] / found[1] : 0, k = 2 * fs / entries;
  double sum[1] = {0};
  for (int64_t j = threadIdx.x; j < n; j += kBlock) {
    const double d = s[i * n + j], w = d > 0 ? k * (clip(d * fs - t[i * n + j] * ft, delta) - shift) / d : 0;
    if (j != i) m[i * n + j] = static_cast<float>(-w);
    sum[0] += w;
  }
  block_sums(sum, parts);
  if (threadIdx.x == 0) m[i * n + i] = static_cast<float>(sum[0]);
}

// out[i][j] = 1/|x_i - x_j|, 0 where they coincide.
__global__ void inverse_kernel(const double* g, int64_t n, double* out) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (at >= n * n) return;
  const int64_t i = at / n, j = at % n;
  const double d = i == j ? 0 : distance(g[i * n + i], g[j * n + j], g[at]);
  out[at] = d > 0 ? 1 / d : 0;
}

// Gram matrices, their diagonals and inverse distances of both sides.
struct Angles {
  const double *gs, *gt, *own, *other, *rs, *rt;
  int64_t n;
  double delta;
};

typedef double Tile[kTile][kTile + 1];  // a column's elements lie in different banks

// Loads rows [row, row + kTile) and columns [column, ...) of x, zeros beyond it.
__device__ void load_tile(Tile& to, const double* x, int64_t n, int64_t row, int64_t column) {
  const int y = threadIdx.x / kTile, c = threadIdx.x % kTile;
  to[y][c] = row + y < n && column + c < n ? x[(row + y) * n + column + c] : 0;
}

// A thread has j and i, and runs over k: the loss of all their angles, and E_ij = r_ij (r_ij sum h cos - sum h r_ik), h Huber's
// derivative. Writes pulls[j][i].
__global__ void angles_kernel(Angles a, int64_t tiles, double* pulls, double* losses) {
  WHITTLE_SHARED(tile, Tile[6]);
  WHITTLE_SHARED(parts, double[kBlock / kWarp]);
  const int y = threadIdx.x / kTile, x = threadIdx.x % kTile;
  const int64_t n = a.n, i0 = blockIdx.x % tiles * kTile, j0 = blockIdx.x / tiles * kTile, i = i0 + x, j = j0 + y;
  const bool inside = i < n && j < n;
  const double rs = inside ? a.rs[j * n + i] : 0, rt = inside ? a.rt[j * n + i] : 0;
  const double qs = inside ? a.gs[j * n + i] - a.own[i] : 0, qt = inside ? a.gt[j * n + i] - a.other[i] : 0;
  double loss[1] = {0}, cosine = 0, pull = 0;
  for (int64_t k0 = 0; k0 < n; k0 += kTile) {
    load_tile(tile[0], a.gs, n, j0, k0);
    load_tile(tile[1], a.gs, n, i0, k0);
    load_tile(tile[2], a.rs, n, i0, k0);
    load_tile(tile[3], a.gt, n, j0, k0);
    load_tile(tile[4], a.gt, n, i0, k0);
    load_tile(tile[5], a.rt, n, i0, k0);
    __syncthreads();
    for (int k = 0; k < kTile; k++) {
      const double r_ik = tile[2][x][k];
      const double s = (tile[0][y][k] - (tile[1][x][k] + qs)) * r_ik * rs, t = (tile[3][y][k] - (tile[4][x][k] + qt)) * tile[5][x][k] * rt;
      const double d = s - t, h = clip(d, a.delta);
      loss[0] += h * (d - 0.5 * h);
      cosine += h * s;
      pull += h * r_ik;
    }
    __syncthreads();
  }
  if (inside) pulls[j * n + i] = rs * (rs * cosine - pull);
  block_sums(loss, parts);
  if (threadIdx.x == 0) losses[blockIdx.x] = loss[0];
}

// A thread has j and k, and runs over i: P_jk = sum h r_ij r_ik. It is symmetric: tiles below the diagonal are mirrored.
__global__ void corners_kernel(Angles a, int64_t tiles, double* p) {
  WHITTLE_SHARED(tile, Tile[8]);
  const int y = threadIdx.x / kTile, x = threadIdx.x % kTile;
  const int64_t n = a.n, k0 = blockIdx.x % tiles * kTile, j0 = blockIdx.x / tiles * kTile, k = k0 + x, j = j0 + y;
  if (k0 < j0) return;
  const bool inside = k < n && j < n;
  const double gs = inside ? a.gs[j * n + k] : 0, gt = inside ? a.gt[j * n + k] : 0;
  double sum = 0;
  for (int64_t i0 = 0; i0 < n; i0 += kTile) {
    load_tile(tile[0], a.gs, n, i0, j0);
    load_tile(tile[1], a.gs, n, i0, k0);
    load_tile(tile[2], a.rs, n, i0, j0);
    load_tile(tile[3], a.rs, n, i0, k0);
    load_tile(tile[4], a.gt, n, i0, j0);
    load_tile(tile[5], a.gt, n, i0, k0);
    load_tile(tile[6], a.rt, n, i0, j0);
    load_tile(tile[7], a.rt, n, i0, k0);
    __syncthreads();
    const int end = n - i0 < kTile ? static_cast<int>(n - i0) : kTile;
    for (int i = 0; i < end; i++) {
      const double rs = tile[2][i][y] * tile[3][i][x];
      const double s = (gs - (tile[1][i][x] + (tile[0][i][y] - a.own[i0 + i]))) * rs;
      const double t = (gt - (tile[5][i][x] + (tile[4][i][y] - a.other[i0 + i]))) * (tile[6][i][y] * tile[7][i][x]);
      sum += clip(s - t, a.delta) * rs;
    }
    __syncthreads();
  }
  if (!inside) return;
  p[j * n + k] = sum;
  if (k0 > j0) p[k * n + j] = sum;
}

// A row of M = P + E + ET, whose diagonal makes it add up to 0.
__global__ void corner_rows_kernel(const double* p, const double* pulls, int64_t n, double scale, float* m) {
  WHITTLE_SHARED(parts, double[kBlock / kWarp]);
  const int64_t j = blockIdx.x;
  double rest[1] = {0};
  for (int64_t i = threadIdx.x; i < n; i += kBlock) {
    if (i == j) continue;
    const double v = p[j * n + i] + pulls[j * n + i] + pulls[i * n + j];
    m[j * n + i] = static_cast<float>(scale * v);
    rest[0] += v;
  }
  block_sums(rest, parts);
  if (threadIdx.x == 0) m[j * n + j] = static_cast<float>(-scale * rest[0]);
}

// A row of both Gram matrices, divided by their norms: its share of the loss, and in place of the teacher's the derivative by
// the student's before the division.
__global__ void gap_kernel(const float* gs, float* gt, int64_t n, double* losses) {
  WHITTLE_SHARED(parts, double[2 * (kBlock / kWarp)]);
  const float* a = gs + blockIdx.x * n;
  float* b = gt + blockIdx.x * n;
  double squares[2] = {0, 0}, sums[2] = {0, 0};
  for (int64_t j = threadIdx.x; j < n; j += kBlock) {
    squares[0] += static_cast<double>(a[j]) * a[j];
    squares[1] += static_cast<double>(b[j]) * b[j];
  }
  block_sums(squares, parts);
  const double fa = squares[0] > 0 ? 1 / sqrt(squares[0]) : 0, fb = squares[1] > 0 ? 1 / sqrt(squares[1]) : 0;
  for (int64_t j = threadIdx.x; j < n; j += kBlock) {
    const double v = a[j] * fa, e = v - b[j] * fb;
    sums[0] += e * e;
    sums[1] += e * v;
  }
  block_sums(sums, parts);
  const double by = 2 / (static_cast<double>(n) * static_cast<double>(n)) * fa, of_a = by * fa * (1 - sums[1]), of_b = -by * fb;
  for (int64_t j = threadIdx.x; j < n; j += kBlock) b[j] = static_cast<float>(of_a * a[j] + of_b * b[j]);
  if (threadIdx.x == 0) losses[blockIdx.x] = squares[0] <= DBL_MAX && squares[1] <= DBL_MAX ? sums[0] : NAN;
}

// m = x + xT, a tile and its mirror image.
__global__ void fold_kernel(const float* x, int64_t n, int64_t tiles, float* m) {
  WHITTLE_SHARED(tile, float[kTile][kTile + 1]);
  const int y = threadIdx.x / kTile, c = threadIdx.x % kTile;
  const int64_t row = blockIdx.x / tiles * kTile, column = blockIdx.x % tiles * kTile;
  tile[y][c] = column + y < n && row + c < n ? x[(column + y) * n + row + c] : 0;
  __syncthreads();
  if (row + y < n && column + c < n) m[(row + y) * n + column + c] = x[(row + y) * n + column + c] + tile[c][y];
}

// A row divided by its norm, whose inverse is 0 for a row of zeros.
__global__ void unit_kernel(const float* x, int64_t size, float* out, double* inverse) {
  WHITTLE_SHARED(parts, double[kBlock / kWarp]);
  const float* from = x + blockIdx.x * size;
  double square[1] = {0};
  for (int64_t d = threadIdx.x; d < size; d += kBlock) square[0] += static_cast<double>(from[d]) * from[d];
  block_sums(square, parts);
  const double f = square[0] > 0 ? 1 / sqrt(square[0]) : 0;
  for (int64_t d = threadIdx.x; d < size; d += kBlock) out[blockIdx.x * size + d] = static_cast<float>(f * from[d]);
  if (threadIdx.x == 0) inverse[blockIdx.x] = f;
}

struct Series {
  double factors[kMostOrder];
  int32_t order;
  double base, scale;
};

// Taylor series of both Gram matrices: a row's share of the loss, and its derivative in place of the student's.
__global__ void series_kernel(float* gs, const float* gt, int64_t n, Series r, double* losses) {
  WHITTLE_SHARED(parts, double[kBlock / kWarp]);
  double sum[1] = {0};
  for (int64_t j = threadIdx.x; j < n; j += kBlock) {
    const double s = gs[blockIdx.x * n + j], t = gt[blockIdx.x * n + j];
    double value = 1, slope = 0, other = 1;
    for (int32_t p = r.order - 1; p >= 0; p--) {
      slope = r.factors[p] * (value + s * slope);
      value = 1 + r.factors[p] * s * value;
      other = 1 + r.factors[p] * t * other;
    }
    const double d = r.base * (value - other);
    sum[0] += d * d;
    gs[blockIdx.x * n + j] = static_cast<float>(r.scale * d * r.base * slope);
  }
  block_sums(sum, parts);
  if (threadIdx.x == 0) losses[blockIdx.x] = sum[0];
}

// The gradient by a row from the one by its direction u, in place.
__global__ void turn_kernel(float* g, const float* u, int64_t size, const double* inverse) {
  WHITTLE_SHARED(parts, double[kBlock / kWarp]);
  const int64_t at = blockIdx.x * size;
  double along[1] = {0};
  for (int64_t d = threadIdx.x; d < size; d += kBlock) along[0] += static_cast<double>(g[at + d]) * u[at + d];
  block_sums(along, parts);
  const double f = inverse[blockIdx.x], of_u = -along[0] * f;
  for (int64_t d = threadIdx.x; d < size; d += kBlock) g[at + d] = static_cast<float>(f * g[at + d] + of_u * u[at + d]);
}

class Relation {
 public:
  Relation(Work& work, const RelationLoss& l)
      : work_(work), l_(l), n_(l.samples), tiles_((n_ + kTile - 1) / kTile), rows_(static_cast<unsigned>(n_)),
        cells_(static_cast<unsigned>(tiles_ * tiles_)) {}

  WhittleStatus run() {
    check_finite(l_.student, n_ * l_.student_size);
    check_finite(l_.teacher, n_ * l_.teacher_size);
    double entries = static_cast<double>(n_) * static_cast<double>(n_);
    const double* loss = nullptr;
    switch (l_.kind) {
      case kRelationDistance: loss = by_distance(); break;
      case kRelationAngle:
        entries *= static_cast<double>(n_);
        loss = by_angle(entries);
        break;
      case kRelationSimilarity: loss = by_similarity(); break;
      default: loss = by_correlation(entries);
    }
    double found = 0;
    work_.fetch(&found, loss, sizeof found);
    const WhittleStatus status = work_.finish();
    if (status != WHITTLE_OK) return status;
    found /= entries;
    if (!(fabs(found) <= FLT_MAX)) return WHITTLE_NONFINITE;
    *l_.result = found;
    return WHITTLE_OK;
  }

 private:
  void check_finite(const float* x, int64_t n) {
    const int64_t blocks = (n + kBlock - 1) / kBlock;
    work_.launch(dim3(static_cast<unsigned>(blocks < 1024 ? blocks : 1024)), kBlock, finite_kernel, x, n, work_.flags());
  }

  // x*xT, of float32 or float64.
  template <class T>
  T* gram(const T* x, int64_t size) {
    T* g = work_.scratch<T>(n_ * n_);
    RowProduct p = {};
    p.m = p.n = n_;
    p.k = size;
    p.a = p.b = x;
    p.transpose_b = true;
    p.y = g;
    p.doubles = sizeof(T) == 8;
    row_product(work_, p);
    return g;
  }

  // The Gram matrix of features less their mean; these in float32 for the student.
  double* centred(const float* x, int64_t size, float** narrow) {
    if (narrow) *narrow = work_.scratch<float>(n_ * size);
    double* g = nullptr;
    double *wide = work_.scratch<double>(n_ * size), *mean = work_.scratch<double>(size);
    work_.launch(dim3(static_cast<unsigned>((size + kWarp - 1) / kWarp)), kBlock, mean_kernel, x, n_, size, mean);
    work_.launch(blocks_for(n_ * size), kBlock, centre_kernel, x, n_, size, mean, wide, narrow ? *narrow : nullptr);
    g = gram(wide, size);
    return g;
  }

  // grad = m*x
  void pull_back(const float* m, const float* x) {
    RowProduct p = {};
    p.m = p.k = n_;
    p.n = l_.student_size;
    p.a = m;
    p.b = x;
    p.y = l_.grad;
    row_product(work_, p);
  }

  double* diagonal_of(const double* g) {
    double* out = work_.scratch<double>(n_);
    work_.launch(blocks_for(n_), kBlock, diagonal_kernel, g, n_, out);
    return out;
  }

  const double* by_distance() {
    float* x = nullptr;
    double *s = centred(l_.student, l_.student_size, &x), *t = centred(l_.teacher, l_.teacher_size, nullptr);
    float* m = work_.scratch<float>(n_ * n_);
    double *sums = work_.scratch<double>(2 * n_), *found = work_.scratch<double>(4), *totals = work_.scratch<double>(2);
    double* const sides[] = {s, t};
    for (int i = 0; i < 2; i++) {
      const double* diagonal = diagonal_of(sides[i]);
      work_.launch(rows_, kBlock, distances_kernel, sides[i], n_, diagonal, sums);
      distill_sum(work_, sums, n_, 2, found + 2 * i);
    }
    work_.launch(rows_, kBlock, huber_kernel, s, t, n_, found, l_.delta, sums);
    distill_sum(work_, sums, n_, 2, totals);
    work_.launch(rows_, kBlock, pull_kernel, s, t, n_, found, totals, l_.delta, m);
    pull_back(m, x);
    return totals;
  }

  const double* by_angle(double entries) {
    float* x = nullptr;
    Angles a = {};
    a.n = n_;
    a.delta = l_.delta;
    a.gs = centred(l_.student, l_.student_size, &x);
    a.gt = centred(l_.teacher, l_.teacher_size, nullptr);
    double *rs = work_.scratch<double>(n_ * n_), *rt = work_.scratch<double>(n_ * n_);
    double *p = work_.scratch<double>(n_ * n_), *pulls = work_.scratch<double>(n_ * n_);
    double *losses = work_.scratch<double>(tiles_ * tiles_), *loss = work_.scratch<double>(1);
    float* m = work_.scratch<float>(n_ * n_);
    work_.launch(blocks_for(n_ * n_), kBlock, inverse_kernel, a.gs, n_, rs);
    work_.launch(blocks_for(n_ * n_), kBlock, inverse_kernel, a.gt, n_, rt);
    a.rs = rs;
    a.rt = rt;
    a.own = diagonal_of(a.gs);
    a.other = diagonal_of(a.gt);
    work_.launch(cells_, kBlock, angles_kernel, a, tiles_, pulls, losses);
    work_.launch(cells_, kBlock, corners_kernel, a, tiles_, p);
    work_.launch(rows_, kBlock, corner_rows_kernel, p, pulls, n_, 2 / entries, m);
    pull_back(m, x);
    distill_sum(work_, losses, tiles_ * tiles_, 1, loss);
    return loss;
  }

  const double* by_similarity() {
    float *gs = gram(l_.student, l_.student_size), *gt = gram(l_.teacher, l_.teacher_size);
    double *losses = work_.scratch<double>(n_), *loss = work_.scratch<double>(1);
    work_.launch(rows_, kBlock, gap_kernel, gs, gt, n_, losses);
    work_.launch(cells_, kBlock, fold_kernel, gt, n_, tiles_, gs);
    pull_back(gs, l_.student);
    distill_sum(work_, losses, n_, 1, loss);
    return loss;
  }

  const double* by_correlation(double entries) {
    const int64_t size = l_.student_size;
    float *us = work_.scratch<float>(n_ * size), *ut = work_.scratch<float>(n_ * l_.teacher_size);
    double *fs = work_.scratch<double>(n_), *ft = work_.scratch<double>(n_), *losses = work_.scratch<double>(n_), *loss = work_.scratch<double>(1);
    work_.launch(rows_, kBlock, unit_kernel, l_.student, size, us, fs);
    work_.launch(rows_, kBlock, unit_kernel, l_.teacher, l_.teacher_size, ut, ft);
    float *gs = gram(us, size), *gt = gram(ut, l_.teacher_size);
    Series r = {};
    r.order = l_.order;
    r.base = exp(-2 * l_.gamma);
    r.scale = 4 / entries;
    for (int32_t p = 1; p <= l_.order; p++) r.factors[p - 1] = 2 * l_.gamma / p;
    work_.launch(rows_, kBlock, series_kernel, gs, gt, n_, r, losses);
    pull_back(gs, us);
    work_.launch(rows_, kBlock, turn_kernel, l_.grad, us, size, fs);
    distill_sum(work_, losses, n_, 1, loss);
    return loss;
  }

  Work& work_;
  const RelationLoss& l_;
  int64_t n_, tiles_;
  dim3 rows_, cells_;
};

}  // namespace

WhittleStatus cuda_relation(int32_t device, const RelationLoss& l) {
  if (l.samples < 1 || l.samples > 32768 || l.student_size < 1 || l.teacher_size < 1) return WHITTLE_SHAPE;
  if (l.kind == kRelationCorrelation && (l.order < 1 || l.order > kMostOrder)) return WHITTLE_RANGE;
  Work work(device);
  return Relation(work, l).run();
}

}  // namespace whittle
