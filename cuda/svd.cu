// Singular value decompositions. All arithmetic is float64, as on the CPU: float32 matrices are widened. cuSOLVER finds the
// factors; own kernels bring matrices into its layout, check what it answers, and write it in ours. A matrix lies the way that
// makes it tall: row-major m x n with n >= m is the column-major tall matrix as it stands.
#include "cuda/svd.h"

#include <float.h>
#include <math.h>

#include <algorithm>

namespace whittle {
namespace {

// How far factors may be from making up the matrix (as a share of its norm) and from being orthonormal. float32: what it cannot
// tell from zero.
constexpr double kLooseFloat = 0x1p-24;
constexpr double kUnit = 0x1p-52;
constexpr int64_t kLarge = 512;  // the shorter side from which the polar method serves

double loose_of(bool wide, int64_t tall) { return wide ? 64 * kUnit * sqrt(static_cast<double>(tall)) : kLooseFloat; }

__device__ double element(const void* a, bool wide, int64_t i) {
  return wide ? static_cast<const double*>(a)[i] : static_cast<double>(static_cast<const float*>(a)[i]);
}

// The block's sum or maximum, at thread 0.
__device__ double block_join(double v, bool maximum) {
  WHITTLE_SHARED(parts, double[kBlock / kWarp]);
  for (int o = kWarp / 2; o; o >>= 1) {
    const double other = __shfl_xor_sync(kFullMask, v, o);
    v = maximum ? fmax(v, other) : v + other;
  }
  if (threadIdx.x % kWarp == 0) parts[threadIdx.x / kWarp] = v;
  __syncthreads();
  v = parts[0];
  for (int w = 1; w < kBlock / kWarp; w++) v = maximum ? fmax(v, parts[w]) : v + parts[w];
  return v;
}

// Block (matrix, piece): the largest magnitude of its share.
__global__ void largest_kernel(const void* a, bool wide, int64_t count, int64_t pieces, double* out, int* flags) {
  const int64_t matrix = blockIdx.x / pieces, piece = blockIdx.x % pieces;
  double most = 0;
  bool bad = false;
  for (int64_t i = piece * kBlock + threadIdx.x; i < count; i += pieces * kBlock) {
    const double v = fabs(element(a, wide, matrix * count + i));
    bad |= !(v <= DBL_MAX);
    most = fmax(most, v);
  }
  if (bad) atomicOr(flags, kFlagNonfinite);
  most = block_join(most, true);
  if (threadIdx.x == 0) out[blockIdx.x] = most;
}

// Squares of extreme float64 overflow or vanish: the power of two to divide by, which changes no digit.
__global__ void exponent_kernel(const double* largest, int64_t pieces, int64_t batch, bool wide, int* out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (i >= batch) return;
  double most = 0;
  for (int64_t p = 0; p < pieces; p++) most = fmax(most, largest[i * pieces + p]);
  int exponent = 0;
  if (wide && most > 0) frexp(most, &exponent);
  out[i] = exponent > -200 && exponent < 200 ? 0 : exponent;
}

__global__ void load_kernel(const void* a, bool wide, int64_t m, int64_t n, int64_t size, const int* exponents, double* x) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x, count = m * n;
  if (i >= size) return;
  const int64_t matrix = i / count, j = i % count;
  // Column c of x is row c of a, or, where a is the tall one, its column c.
  const int64_t from = n >= m ? j : j % m * n + j / m;
  x[i] = ldexp(element(a, wide, matrix * count + from), -exponents[matrix]);
}

__global__ void squares_kernel(const double* x, int64_t count, int64_t pieces, double* out) {
  const int64_t matrix = blockIdx.x / pieces, piece = blockIdx.x % pieces;
  double sum = 0;
  for (int64_t i = piece * kBlock + threadIdx.x; i < count; i += pieces * kBlock) {
    const double v = x[matrix * count + i];
    sum += v * v;
  }
  sum = block_join(sum, false);
  if (threadIdx.x == 0) out[blockIdx.x] = sum;
}

__global__ void skew_kernel(const double* g, int64_t k, int64_t pieces, double* out) {
  const int64_t matrix = blockIdx.x / pieces, piece = blockIdx.x % pieces, count = k * k;
  double most = 0;
  for (int64_t i = piece * kBlock + threadIdx.x; i < count; i += pieces * kBlock) {
    const double d = fabs(g[matrix * count + i] - (i % (k + 1) == 0 ? 1 : 0));
    most = fmax(most, d <= DBL_MAX ? d : DBL_MAX);  // fmax drops NaN
  }
  most = block_join(most, true);
  if (threadIdx.x == 0) out[blockIdx.x] = most;
}

__global__ void transpose_kernel(const double* x, int64_t rows, int64_t columns, double* out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (i >= rows * columns) return;
  out[i] = x[i % columns * rows + i / columns];
}

// Block (matrix, column k of rank): -1 where the element of largest magnitude, as the result stores it, is negative; the first
// of equals counts.
__global__ void sign_kernel(const double* u, bool wide, int64_t length, int64_t stride, int64_t rank, double* out) {
  WHITTLE_SHARED(values, double[kBlock / kWarp]);
  WHITTLE_SHARED(places, int64_t[kBlock / kWarp]);
  const double* x = u + blockIdx.x / rank * stride + blockIdx.x % rank * length;
  double best = -1;
  int64_t at = 0;
  for (int64_t i = threadIdx.x; i < length; i += kBlock) {
    const double v = wide ? fabs(x[i]) : static_cast<double>(fabsf(static_cast<float>(x[i])));
    if (v > best) {
      best = v;
      at = i;
    }
  }
  for (int o = kWarp / 2; o; o >>= 1) {
    const double v = __shfl_xor_sync(kFullMask, best, o);
    const int64_t place = __shfl_xor_sync(kFullMask, at, o);
    if (v > best || (v == best && place < at)) {
      best = v;
      at = place;
    }
  }
  if (threadIdx.x % kWarp == 0) {
    values[threadIdx.x / kWarp] = best;
    places[threadIdx.x / kWarp] = at;
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int w = 1; w < kBlock / kWarp; w++)
    if (values[w] > best || (values[w] == best && places[w] < at)) {
      best = values[w];
      at = places[w];
    }
  out[blockIdx.x] = x[at] < 0 ? -1 : 1;
}

struct Writing {
  int64_t length, stride;      // of a column, from one matrix to the next
  int64_t rank, size;          // columns of the result, all its elements
  const int* ranks;            // of each matrix
  const double* signs;         // batch x rank
  const double* weights;       // of each column, or null
  bool wide, across;           // across: rank x length
};

__global__ void write_kernel(const double* from, Writing w, void* out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (i >= w.size) return;
  const int64_t count = w.length * w.rank, matrix = i / count, j = i % count;
  const int64_t row = w.across ? j % w.length : j / w.rank, column = w.across ? j / w.length : j % w.rank;
  double v = 0;
  if (column < w.ranks[matrix]) {
    v = w.signs[matrix * w.rank + column] * from[matrix * w.stride + column * w.length + row];
    if (w.weights) v *= w.weights[column];
  }
  if (w.wide) static_cast<double*>(out)[i] = v;
  else static_cast<float*>(out)[i] = static_cast<float>(v);
}

void tails(int64_t count, const double* values, double* tail) {
  tail[count] = 0;
  for (int64_t i = count; i-- > 0;) tail[i] = tail[i + 1] + values[i] * values[i];
}

dim3 grid_of(int64_t blocks) { return dim3(static_cast<unsigned>(blocks)); }

}  // namespace

__global__ void svd_scale_kernel(const double* x, const double* s, int64_t rows, int64_t columns, int64_t count, double* out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (i >= count) return;
  out[i] = x[i] * s[i / (rows * columns) * columns + i / rows % columns];
}

void SvdTask::product(int64_t m, int64_t n, int64_t k, Operand a, Operand b, double* d, int64_t ldd, double alpha, double beta, int64_t batch,
                      int64_t stride) {
  LtProduct l = {};
  l.doubles = true;
  l.m = m;
  l.n = n;
  l.k = k;
  l.a = a.p;
  l.b = b.p;
  l.lda = a.ld;
  l.ldb = b.ld;
  l.ldd = ldd;
  l.transpose_a = a.transposed;
  l.transpose_b = b.transposed;
  l.batch = batch;
  l.a_batch = a.stride;
  l.b_batch = b.stride;
  l.d_batch = stride;
  l.alpha = static_cast<float>(alpha);
  l.beta = static_cast<float>(beta);
  l.d = d;
  const char* why = "";
  if (work.good() && !lt_product(work, l, &why)) work.refuse(why);
}

bool SvdTask::squares(const double* x, int64_t count, int64_t batch, double* out) {
  const int mark = work.mark();
  const int64_t pieces = svd_pieces(count);
  std::vector<double> host(static_cast<size_t>(batch * pieces));
  double* partial = work.scratch<double>(batch * pieces);
  work.launch(grid_of(batch * pieces), kBlock, squares_kernel, x, count, pieces, partial);
  work.fetch(host.data(), partial, batch * pieces * 8);
  const bool done = work.finish() == WHITTLE_OK;
  work.release_to(mark);
  for (int64_t i = 0; done && i < batch; i++) {
    out[i] = 0;
    for (int64_t p = 0; p < pieces; p++) out[i] += host[static_cast<size_t>(i * pieces + p)];
  }
  return done;
}

bool SvdTask::residual(int64_t tall, int64_t thin, int64_t count, const double* x, const double* p, const double* s, const double* q, int64_t batch,
                       double* out) {
  const int mark = work.mark();
  double* rest = work.scratch<double>(batch * tall * thin);
  double* scaled = work.scratch<double>(batch * tall * count);
  work.copy(rest, x, batch * tall * thin * 8);
  work.launch(blocks_for(batch * tall * count), kBlock, svd_scale_kernel, p, s, tall, count, batch * tall * count, scaled);
  product(tall, thin, count, {scaled, tall, false, tall * count}, {q, thin, true, thin * count}, rest, tall, -1, 1, batch, tall * thin);
  const bool done = squares(rest, tall * thin, batch, out);
  work.release_to(mark);
  return done;
}

bool SvdTask::skewness(int64_t rows, int64_t k, const double* p, int64_t batch, double* out) {
  const int mark = work.mark();
  const int64_t pieces = svd_pieces(k * k);
  std::vector<double> host(static_cast<size_t>(batch * pieces));
  double* gram = work.scratch<double>(batch * k * k);
  double* partial = work.scratch<double>(batch * pieces);
  product(k, k, rows, {p, rows, true, rows * k}, {p, rows, false, rows * k}, gram, k, 1, 0, batch, k * k);
  work.launch(grid_of(batch * pieces), kBlock, skew_kernel, gram, k, pieces, partial);
  work.fetch(host.data(), partial, batch * pieces * 8);
  const bool done = work.finish() == WHITTLE_OK;
  work.release_to(mark);
  for (int64_t i = 0; done && i < batch; i++)
    out[i] = *std::max_element(host.begin() + i * pieces, host.begin() + (i + 1) * pieces);
  return done;
}

bool SvdTask::full(int64_t tall, int64_t thin, const double* x, double norm2, double* p, double* q, double* values) {
  const int mark = work.mark();
  double* a = work.scratch<double>(tall * thin);
  double* s = work.scratch<double>(thin);
  double* flat = p ? work.scratch<double>(thin * thin) : nullptr;
  int* info = work.scratch<int>(1);
  const int64_t large = problem.large > 0 ? problem.large : kLarge;
  const SvdWay ways[] = {thin >= large ? SvdWay::polar : SvdWay::jacobi, SvdWay::qr};
  const double loose = loose_of(problem.wide, tall);
  bool sound = false;
  for (int i = 0; i < 2 && work.good() && !sound; i++) {
    const SvdWay way = ways[i];
    double off = 0;
    int failed = 0;
    work.copy(a, x, tall * thin * 8);
    if (!solver.svd(way, tall, thin, a, s, p, p && way == SvdWay::qr ? flat : q, info, &off)) continue;
    if (p && way == SvdWay::qr) work.launch(blocks_for(thin * thin), kBlock, transpose_kernel, flat, thin, thin, q);
    work.fetch(&failed, info, sizeof failed);
    work.fetch(values, s, thin * 8);
    if (work.finish() != WHITTLE_OK) break;
    if (way == SvdWay::jacobi) iterations = std::max(iterations, solver.sweeps());
    sound = failed == 0 && off <= loose * values[0];
    double sum = 0;
    for (int64_t k = 0; k < thin; k++) {
      sum += values[k] * values[k];
      sound = sound && values[k] >= 0 && values[k] <= DBL_MAX && (k == 0 || values[k] <= values[k - 1]);
    }
    // Without factors the norm has to do.
    sound = sound && fabs(sum - norm2) <= 2 * loose * norm2;
    if (!sound || !p) continue;
    double rest = 0, left = 0, right = 0;
    sound = residual(tall, thin, thin, x, p, s, q, 1, &rest) && skewness(tall, thin, p, 1, &left) && skewness(thin, thin, q, 1, &right) &&
            sqrt(rest) <= loose * sqrt(norm2) && left <= loose && right <= loose;
  }
  if (!sound) work.refuse(solver.why()[0] ? solver.why() : "cuSOLVER's factors do not make up the matrix, by no method of its");
  work.release_to(mark);
  return sound;
}

WhittleStatus cuda_svd(int32_t device, const CudaSvd& problem, SvdOutcome* outcome) {
  const CudaSvd& p = problem;
  if (p.batch < 1 || p.m < 1 || p.n < 1 || p.batch > kMostElements / p.m / p.n) return WHITTLE_SHAPE;
  const int64_t tall = std::max(p.m, p.n), thin = std::min(p.m, p.n), count = p.m * p.n, batch = p.batch;
  const bool random = p.method == kSvdRandomized;
  Work work(device);
  Solver solver(work);
  SvdTask task(work, solver, p);
  const int64_t pieces = svd_pieces(count);
  double* x = work.scratch<double>(batch * count);
  int* exponents = work.scratch<int>(batch);
  double* partial = work.scratch<double>(batch * pieces);
  std::vector<int> powers(static_cast<size_t>(batch));
  std::vector<double> norms(static_cast<size_t>(batch));
  work.launch(grid_of(batch * pieces), kBlock, largest_kernel, p.a, p.wide, count, pieces, partial, work.flags());
  work.launch(blocks_for(batch), kBlock, exponent_kernel, partial, pieces, batch, p.wide, exponents);
  work.launch(blocks_for(batch * count), kBlock, load_kernel, p.a, p.wide, p.m, p.n, batch * count, exponents, x);
  work.fetch(powers.data(), exponents, batch * 4);
  if (!task.squares(x, count, batch, norms.data())) return work.finish();

  // Factors of matrix i: `room` columns each at left + i * tall * room and right + i * thin * room.
  const int64_t room = random ? p.max_rank : thin;
  double* left = p.vectors ? work.scratch<double>(batch * tall * room) : nullptr;
  double* right = p.vectors ? work.scratch<double>(batch * thin * room) : nullptr;
  std::vector<std::vector<double>> values(static_cast<size_t>(batch));
  std::vector<char> done(static_cast<size_t>(batch)), whole(static_cast<size_t>(batch), !random);
  // A stack of float32 at once: eigenvectors of the squares have its precision. What that is too little for goes on alone.
  if (batch > 1 && !random && !p.wide && p.vectors && work.good()) {
    const int mark = work.mark();
    double* s = work.scratch<double>(batch * thin);
    int* info = work.scratch<int>(batch);
    std::vector<double> all(static_cast<size_t>(batch * thin)), rest(norms), skew(norms), skew_right(norms);
    std::vector<int> failed(static_cast<size_t>(batch));
    if (solver.stack(batch, tall, thin, x, s, left, right, info)) {
      work.fetch(failed.data(), info, batch * 4);
      work.fetch(all.data(), s, batch * thin * 8);
      if (task.residual(tall, thin, thin, x, left, s, right, batch, rest.data()) && task.skewness(tall, thin, left, batch, skew.data()) &&
          task.skewness(thin, thin, right, batch, skew_right.data()))
        for (int64_t i = 0; i < batch; i++) {
          const size_t at = static_cast<size_t>(i);
          values[at].assign(all.begin() + i * thin, all.begin() + (i + 1) * thin);
          done[at] = failed[at] == 0 && sqrt(rest[at]) <= kLooseFloat * sqrt(norms[at]) && skew[at] <= kLooseFloat && skew_right[at] <= kLooseFloat &&
                     std::is_sorted(values[at].rbegin(), values[at].rend());
        }
    }
    work.release_to(mark);
  }
  for (int64_t i = 0; i < batch && work.good(); i++) {
    const size_t at = static_cast<size_t>(i);
    if (done[at]) continue;
    double *l = left ? left + i * tall * room : nullptr, *r = right ? right + i * thin * room : nullptr;
    if (random) {
      bool full = false;
      task.randomized(tall, thin, x + i * count, norms[at], l, r, &values[at], &full);
      whole[at] = full;
    } else {
      values[at].resize(static_cast<size_t>(thin));
      task.full(tall, thin, x + i * count, norms[at], l, r, values[at].data());
    }
  }
  if (!work.good()) return work.finish();

  *outcome = SvdOutcome();
  outcome->full = false;
  std::vector<int> ranks(static_cast<size_t>(batch));
  std::vector<double> errors(static_cast<size_t>(batch));
  for (int64_t i = 0; i < batch; i++) {
    const size_t at = static_cast<size_t>(i);
    const int64_t found = static_cast<int64_t>(values[at].size());
    if (whole[at]) {
      std::vector<double> tail(static_cast<size_t>(found + 1));
      tails(found, values[at].data(), tail.data());
      ranks[at] = static_cast<int>(svd_rank(p, found, tail.data(), tail[0]));
      errors[at] = tail[static_cast<size_t>(ranks[at])];
      outcome->full = true;
      continue;
    }
    ranks[at] = static_cast<int>(found);
    errors[at] = norms[at];
    for (const double v : values[at]) errors[at] -= v * v;
    // What the subtraction cannot resolve is measured.
    if (!(errors[at] > 1e-9 * norms[at]) && p.vectors) {
      const int mark = work.mark();
      double* s = work.scratch<double>(found);
      work.send(s, values[at].data(), found * 8);
      task.residual(tall, thin, found, x + i * count, left + i * tall * room, s, right + i * thin * room, 1, &errors[at]);
      work.release_to(mark);
    }
    errors[at] = std::max(0.0, errors[at]);
  }
  double error2 = 0, norm2 = 0;
  for (int64_t i = 0; i < batch; i++) {
    const size_t at = static_cast<size_t>(i);
    outcome->rank = std::max<int64_t>(outcome->rank, ranks[at]);
    error2 += ldexp(errors[at], 2 * powers[at]);
    norm2 += ldexp(norms[at], 2 * powers[at]);
  }
  // One matrix's norm is within range where its square is not.
  outcome->error = batch == 1 ? ldexp(sqrt(errors[0]), powers[0]) : sqrt(error2);
  outcome->norm = batch == 1 ? ldexp(sqrt(norms[0]), powers[0]) : sqrt(norm2);
  outcome->improvement = task.improvement;
  outcome->iterations = task.iterations;
  outcome->converged = task.converged;

  const int64_t rank = outcome->rank;
  std::vector<double> wide(static_cast<size_t>(batch * rank)), weights(static_cast<size_t>(rank));
  std::vector<float> narrow(static_cast<size_t>(batch * rank));
  for (int64_t i = 0; i < batch; i++)
    for (int64_t k = 0; k < rank; k++) {
      const size_t at = static_cast<size_t>(i * rank + k);
      wide[at] = k < ranks[static_cast<size_t>(i)] ? ldexp(values[static_cast<size_t>(i)][static_cast<size_t>(k)], powers[static_cast<size_t>(i)]) : 0;
      narrow[at] = static_cast<float>(wide[at]);
    }
  bool fits = true;
  for (int64_t i = 0; i < batch * rank; i++) fits = fits && (p.wide ? isfinite(wide[static_cast<size_t>(i)]) : isfinite(narrow[static_cast<size_t>(i)]));
  if (!fits) {
    const WhittleStatus status = work.finish();
    return status == WHITTLE_OK ? WHITTLE_RANGE : status;
  }
  for (int64_t k = 0; k < rank; k++) weights[static_cast<size_t>(k)] = sqrt(wide[static_cast<size_t>(k)]);
  if (p.wide) work.send(p.s, wide.data(), batch * rank * 8);
  else work.send(p.s, narrow.data(), batch * rank * 4);
  if (p.vectors) {
    const bool down = p.m > p.n;  // the long side is m; load_kernel takes a square matrix the other way
    const double *u = down ? left : right, *v = down ? right : left;
    int* kept = work.scratch<int>(batch);
    double* signs = work.scratch<double>(batch * rank);
    double* weight = work.scratch<double>(rank);
    work.send(kept, ranks.data(), batch * 4);
    work.send(weight, weights.data(), rank * 8);
    work.launch(grid_of(batch * rank), kBlock, sign_kernel, u, p.wide, p.m, p.m * room, rank, signs);
    Writing w = {p.m, p.m * room, rank, batch * p.m * rank, kept, signs, p.factors ? weight : nullptr, p.wide, false};
    work.launch(blocks_for(w.size), kBlock, write_kernel, u, w, p.u);
    w.length = p.n;
    w.stride = p.n * room;
    w.size = batch * p.n * rank;
    w.across = p.factors;
    work.launch(blocks_for(w.size), kBlock, write_kernel, v, w, p.v);
  }
  return work.finish();
}

}  // namespace whittle
