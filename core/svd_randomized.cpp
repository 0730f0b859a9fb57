// Leading triplets from a block Krylov space of X^T X (Musco & Musco 2015): for the error of few passes over X it needs
// about half the products of subspace iteration. Products have the input's type; blocks are made orthonormal in float64
// (projection twice, Cholesky twice), and the space is solved through the Gram matrix of X K.
#include <float.h>
#include <math.h>
#include <string.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "core/gemm.h"
#include "core/svd_parts.h"
#include "core/threads.h"

namespace whittle {

namespace {

constexpr int64_t kMostSteps = 12;     // where the number of steps is ours to choose
constexpr double kConverged = 0.02;    // the last step may lower the error by this share
constexpr double kNoise = 1e-6;        // of the norm: errors of the order of float32's rounding are all the same
constexpr int64_t kFirstRank = 32;     // of the search for energy or tolerance
constexpr double kSmall = 2e-5;
constexpr int64_t kSlabRows = 42, kSlabFloats = 96 << 10, kGroups = 8;
constexpr int64_t kSampleRows = 64;
constexpr double kLittle = 0.02;  // 0.14 of the norm

// out (tall x n) = X in (thin x n), or out (thin x n) = X^T in (tall x n).
WhittleStatus multiply(const SvdView<float>& v, bool transpose, int64_t n, const float* in, int64_t ldi, float* out, int64_t ldo) {
  GemmProblem g;
  g.m = transpose ? v.thin : v.tall;
  g.n = n;
  g.k = transpose ? v.tall : v.thin;
  g.a = v.x.base;
  g.a_row = transpose ? v.x.col : v.x.row;
  g.a_col = transpose ? v.x.row : v.x.col;
  g.b = in;
  g.b_row = ldi;
  g.c = out;
  g.ldc = ldo;
  return gemm_f32(g, v.threads);
}

WhittleStatus multiply(const SvdView<double>& v, bool transpose, int64_t n, const double* in, int64_t ldi, double* out, int64_t ldo) {
  const DenseProduct p = {transpose ? v.thin : v.tall, n, transpose ? v.tall : v.thin};
  return dense_gemm(p, transpose ? transposed(v.x) : v.x, rows_of<double>(in, ldi), out, ldo, v.threads);
}

// y = X k and w = X^T y of one block of n columns, in one pass over X: a slab of its rows stays in L2 between the products.
// Slabs form groups with sums of their own, added in order.
WhittleStatus multiply_both(const SvdView<float>& v, int64_t n, const float* k, int64_t ldk, float* y, int64_t ldy, float* w) {
  const int64_t slab = std::max<int64_t>(kSlabRows, kSlabFloats / v.thin / kSlabRows * kSlabRows);
  const int64_t slabs = (v.tall + slab - 1) / slab, groups = std::min(kGroups, slabs), size = v.thin * n;
  Workspace work;
  float* sums = static_cast<float*>(work.bytes(groups * size * 4));
  float* packed = static_cast<float*>(work.bytes(gemm_packed_size(v.thin, n) * 4));
  if (!work.ok()) return WHITTLE_OUT_OF_MEMORY;
  std::atomic<int32_t> status{gemm_pack_b(v.thin, n, k, ldk, 1, packed, v.threads)};
  parallel_for(groups, 1, v.threads, [&](int64_t begin, int64_t end) {
    for (int64_t group = begin; group < end; group++)
      for (int64_t s = slabs * group / groups, first = s; s < slabs * (group + 1) / groups; s++) {
        const int64_t row = s * slab, rows = std::min(slab, v.tall - row);
        GemmProblem g;
        g.m = rows;
        g.n = n;
        g.k = v.thin;
        g.a = v.x.base + row * v.x.row;
        g.a_row = v.x.row;
        g.a_col = v.x.col;
        g.packed = packed;
        g.c = y + row * ldy;
        g.ldc = ldy;
        const WhittleStatus one = gemm_f32(g, 1);
        GemmProblem h;
        h.m = v.thin;
        h.n = n;
        h.k = rows;
        h.a = g.a;
        h.a_row = v.x.col;
        h.a_col = v.x.row;
        h.b = g.c;
        h.b_row = ldy;
        h.c = sums + group * size;
        h.ldc = n;
        h.beta = s == first ? 0.0f : 1.0f;
        const WhittleStatus two = gemm_f32(h, 1);
        if (one != WHITTLE_OK || two != WHITTLE_OK) status = one != WHITTLE_OK ? one : two;
      }
  });
  std::copy(sums, sums + size, w);
  for (int64_t group = 1; group < groups; group++)
    for (int64_t i = 0; i < size; i++) w[i] += sums[group * size + i];
  return static_cast<WhittleStatus>(status.load());
}

WhittleStatus multiply_both(const SvdView<double>& v, int64_t n, const double* k, int64_t ldk, double* y, int64_t ldy, double* w) {
  const WhittleStatus s = multiply(v, false, n, k, ldk, y, ldy);
  return s == WHITTLE_OK ? multiply(v, true, n, y, ldy, w, n) : s;
}

double square(double x) { return x * x; }

// Lower triangle l (b x b) becomes its inverse, with zeros above.
void invert_lower(int64_t b, double* l) {
  for (int64_t j = 0; j < b; j++) {
    for (int64_t i = 0; i < j; i++) l[i * b + j] = 0;
    l[j * b + j] = 1 / l[j * b + j];
  }
  // Column by column: x_i = -(sum_(j <= p < i) l_ip x_p) / l_ii.
  std::vector<double> buffer(static_cast<size_t>(b));
  double* row = buffer.data();
  for (int64_t i = 1; i < b; i++) {
    for (int64_t j = 0; j < i; j++) row[j] = 0;
    for (int64_t p = 0; p < i; p++)
      for (int64_t j = 0; j <= p; j++) row[j] += l[i * b + p] * l[p * b + j];
    for (int64_t j = 0; j < i; j++) l[i * b + j] = -row[j] * l[i * b + i];
  }
}

// x (n x b) -= k (k^T x) for the `have` columns of k. In the input's type: k has only that precision.
WhittleStatus project_out(int64_t n, int64_t b, float* x, int64_t have, const float* k, int64_t ldk, float* inner, int threads) {
  GemmProblem g;
  g.m = have;
  g.n = b;
  g.k = n;
  g.a = k;
  g.a_row = 1;
  g.a_col = ldk;
  g.b = x;
  g.b_row = b;
  g.c = inner;
  g.ldc = b;
  const WhittleStatus s = gemm_f32(g, threads);
  if (s != WHITTLE_OK) return s;
  GemmProblem h;
  h.m = n;
  h.n = b;
  h.k = have;
  h.a = k;
  h.a_row = ldk;
  h.b = inner;
  h.b_row = b;
  h.c = x;
  h.ldc = b;
  h.alpha = -1;
  h.beta = 1;
  return gemm_f32(h, threads);
}

WhittleStatus project_out(int64_t n, int64_t b, double* x, int64_t have, const double* k, int64_t ldk, double* inner, int threads) {
  const WhittleStatus s = dense_gemm({have, b, n}, columns_of<double>(k, ldk), rows_of<double>(x, b), inner, b, threads);
  return s != WHITTLE_OK ? s : dense_gemm({n, b, have, -1, true}, rows_of<double>(k, ldk), rows_of<double>(inner, b), x, b, threads);
}

// Columns of x (n x b) become orthonormal, and orthogonal to the `have` columns of k (n rows, ldk apart). w is n x b.
template <class T>
WhittleStatus orthonormalize(int64_t n, int64_t b, T* x, double* w, int64_t have, const T* k, int64_t ldk, double* work, int threads) {
  double *inner = work, *rows = work + std::max(have, b) * b;
  double before = 0;  // squared norm of a column before projection, from a sample of rows
  const auto project = [&] {
    const WhittleStatus s = have == 0 ? WHITTLE_OK : project_out(n, b, x, have, k, ldk, reinterpret_cast<T*>(inner), threads);
    for (int64_t i = 0; i < n * b; i++) w[i] = static_cast<double>(x[i]);
    return s;
  };
  for (int64_t i = 0; i < std::min(n, kSampleRows); i++)
    for (int64_t j = 0; j < b; j++) before += square(x[i * n / std::min(n, kSampleRows) * b + j]);
  before *= static_cast<double>(n) / static_cast<double>(std::min(n, kSampleRows) * b);
  for (int round = 0; round < 2; round++) {
    WhittleStatus s = project();
    if (s != WHITTLE_OK) return s;
    DenseProduct gram = {b, b, n};
    gram.lower = true;
    s = dense_gemm(gram, columns_of<double>(w, b), rows_of<double>(w, b), inner, b, threads);
    if (s != WHITTLE_OK) return s;
    double most = 0;
    for (int64_t i = 0; i < b; i++) most = std::max(most, inner[i * b + i]);
    // Nearly dependent columns: the space is exhausted. Reflections make a basis whatever there is.
    bool sound = most > 0 && dense_cholesky(b, inner, b, threads) < 0;
    double least = most;
    for (int64_t i = 0; sound && i < b; i++) least = std::min(least, inner[i * b + i] * inner[i * b + i]);
    sound = sound && least > 1e-11 * most;
    if (sound) {
      // A product with the inverse triangle is many times faster than n small substitutions.
      invert_lower(b, inner);
      s = dense_gemm({n, b, b}, rows_of<double>(w, b), columns_of<double>(inner, b), rows, b, threads);
      if (s != WHITTLE_OK) return s;
      memcpy(w, rows, static_cast<size_t>(n * b) * 8);
      for (int64_t i = 0; i < n * b; i++) x[i] = static_cast<T>(w[i]);
      // The first block has nothing to be projected from: where its columns are far from dependent, once is enough.
      if (have == 0 && least > kLittle * before) return WHITTLE_OK;
      continue;
    }
    for (int again = 0; again < 2; again++) {
      for (int64_t i = 0; i < b; i++)
        for (int64_t j = 0; j < n; j++) rows[i * n + j] = w[j * b + i];
      s = dense_lq(b, n, rows, n, nullptr, 0, threads);
      if (s != WHITTLE_OK) return s;
      for (int64_t i = 0; i < b; i++)
        for (int64_t j = 0; j < n; j++) x[j * b + i] = static_cast<T>(w[j * b + i] = rows[i * n + j]);
      if (again == 0) s = project();
      if (s != WHITTLE_OK) return s;
    }
  }
  return WHITTLE_OK;
}

// What the space without its last `b` dimensions captures at least, where these hold the triplets `p` (r x d rows): the
// Rayleigh quotient over what is left of them. Negative where nothing can be said.
double captured_before(int64_t d, int64_t b, int64_t r, const double* gram, int64_t ldg, const double* p, double* work, int threads) {
  const int64_t e = d - b;
  if (e < r) return -1;
  double *pg = work, *m = pg + r * e, *n = m + r * r;
  const Strided<double> p1 = rows_of<double>(p, d);
  // gram is symmetric and whole here
  if (dense_gemm({r, e, e}, p1, rows_of<double>(gram, ldg), pg, e, threads) != WHITTLE_OK) return -1;
  if (dense_gemm({r, r, e}, rows_of<double>(pg, e), transposed(p1), n, r, threads) != WHITTLE_OK) return -1;
  if (dense_gemm({r, r, e}, p1, transposed(p1), m, r, threads) != WHITTLE_OK) return -1;
  if (dense_cholesky(r, m, r, threads) >= 0) return -1;
  if (dense_solve_lt(r, r, m, r, n, r, threads) != WHITTLE_OK) return -1;
  for (int64_t i = 0; i < r; i++)
    for (int64_t j = 0; j < i; j++) std::swap(n[i * r + j], n[j * r + i]);
  if (dense_solve_lt(r, r, m, r, n, r, threads) != WHITTLE_OK) return -1;
  double trace = 0;
  for (int64_t i = 0; i < r; i++) trace += n[i * r + i];
  return trace;
}

double uniform(uint64_t* state) {
  uint64_t z = (*state += 0x9e3779b97f4a7c15ull);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  z ^= z >> 31;
  return static_cast<double>(static_cast<int64_t>(z)) * 0x1p-63;
}

int64_t round_up(int64_t x, int64_t unit) { return (x + unit - 1) / unit * unit; }

// Leading `rank` triplets of a space of up to (most + 1) blocks. values, left and right have room for rank.
template <class T>
WhittleStatus krylov(const SvdProblem& p, const SvdView<T>& view, int64_t rank, int64_t block, int64_t steps, int64_t most,
                     double norm2, SvdTriplets* t, double* improvement) {
  const SvdKernels& kernels = svd_kernels();
  const int64_t tall = view.tall, thin = view.thin;
  const int threads = view.threads;
  const int64_t room = std::min(thin, block * (most + 1));
  Workspace work;
  T* k = static_cast<T*>(work.bytes(thin * room * static_cast<int64_t>(sizeof(T))));
  T* y = static_cast<T*>(work.bytes(tall * room * static_cast<int64_t>(sizeof(T))));
  T* product = static_cast<T*>(work.bytes(thin * block * static_cast<int64_t>(sizeof(T))));
  double* w = work.take(thin * block);
  double* inner = work.take(room * block + thin * block);
  double* gram = work.take(room * room);
  double* solved = work.take(room * room);
  double* vectors = work.take(room * room);
  double* values = work.take(room);
  double* estimate = work.take(rank * room + 2 * rank * rank);
  if (!work.ok()) return WHITTLE_OUT_OF_MEMORY;
  uint64_t state = p.seed;
  for (int64_t i = 0; i < thin * block; i++) product[i] = static_cast<T>(uniform(&state));
  int64_t d = 0;
  for (int64_t step = 0;; step++) {
    const int64_t b = std::min(block, room - d);
    WhittleStatus s = orthonormalize(thin, b, product, w, d, k, room, inner, threads);
    if (s != WHITTLE_OK) return s;
    for (int64_t i = 0; i < thin; i++)
      for (int64_t j = 0; j < b; j++) k[i * room + d + j] = static_cast<T>(w[i * b + j]);
    // Where another block of the same width is sure to come, its product is made in the same pass.
    const bool both = step < steps && room - d >= 2 * b;
    s = both ? multiply_both(view, b, k + d, room, y + d, room, product) : multiply(view, false, b, k + d, room, y + d, room);
    if (s != WHITTLE_OK) return s;
    d += b;
    t->iterations = step;
    const bool full = d == room;
    if (step >= steps || full) {
      DenseProduct g = {d, d, tall};
      g.lower = true;
      s = dense_gemm(g, columns_of<T>(y, room), rows_of<T>(y, room), gram, room, threads);
      if (s != WHITTLE_OK) return s;
      for (int64_t i = 0; i < d; i++) {
        memcpy(solved + i * room, gram + i * room, static_cast<size_t>(i + 1) * 8);
        for (int64_t j = 0; j < i; j++) gram[j * room + i] = gram[i * room + j];
      }
      const Eigen e = dense_eigen(d, solved, room, values, rank, vectors, d, threads);
      if (e.status != WHITTLE_OK) return e.status;
      if (!e.converged) t->converged = false;
      double now = 0;
      for (int64_t i = 0; i < rank; i++) now += values[d - 1 - i];
      *improvement = 0;
      if (d < thin) {
        const double before = captured_before(d, b, rank, gram, room, vectors, estimate, threads);
        const double floor = kNoise * kNoise * norm2;
        const double after = std::max(norm2 - now, floor), past = std::max(norm2 - std::max(before, 0.0), floor);
        *improvement = norm2 - now <= floor ? 0 : before < 0 ? 1 : std::max(0.0, 1 - sqrt(after / past));
      }
      if (*improvement <= kConverged || full) break;
      if (step >= most) break;
    }
    // Never narrower than what is left of the space.
    const int64_t next = std::min(block, room - d);
    if (!both) s = multiply(view, true, next, y + d - b, room, product, next);
    if (s != WHITTLE_OK) return s;
  }
  if (*improvement > kConverged) t->converged = false;
  // Descending: the last `rank` rows of vectors, in reverse.
  t->count = rank;
  for (int64_t i = 0; i < rank; i++) {
    memcpy(solved + i * d, vectors + (rank - 1 - i) * d, static_cast<size_t>(d) * 8);
    t->values[i] = sqrt(std::max(0.0, values[d - 1 - i]));
  }
  WhittleStatus s = dense_gemm({rank, thin, d}, rows_of<double>(solved, d), columns_of<T>(k, room), t->right, thin, threads);
  if (s == WHITTLE_OK)
    s = dense_gemm({rank, tall, d}, rows_of<double>(solved, d), columns_of<T>(y, room), t->left, tall, threads);
  if (s != WHITTLE_OK) return s;
  int64_t sound = 0;
  const bool wide = sizeof(T) == 8;
  while (!wide && sound < rank && t->values[sound] > kSmall * t->values[0]) sound++;
  parallel_for(sound, 8, threads, [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; i++) {
      double* row = t->left + i * tall;
      const double norm = sqrt(kernels.dot(tall, row, row)), scale = 1 / norm;
      t->values[i] = norm;
      for (int64_t j = 0; j < tall; j++) row[j] *= scale;
    }
  });
  const int64_t built = t->iterations;
  s = svd_refine(sound, t->values[0], wide ? 0x1p-52 * sqrt(static_cast<double>(d)) : 1e-9, tall, thin, t, threads);
  t->iterations = built;
  return s == WHITTLE_OK ? svd_sort(tall, thin, t) : s;
}

}  // namespace

template <class T>
WhittleStatus svd_randomized(const SvdProblem& p, const SvdView<T>& view, Workspace* work, SvdTriplets* t, double* spectrum,
                             double norm2, double* improvement, bool* full) {
  const bool adaptive = p.energy >= 0 || p.tolerance >= 0;
  const int64_t thin = view.thin, tall = view.tall;
  *full = false;
  for (int64_t rank = adaptive ? std::min(p.max_rank, kFirstRank) : p.max_rank;; rank = std::min(p.max_rank, 2 * rank)) {
    const int64_t steps = p.iterations > 0 ? p.iterations : 4;
    const int64_t extra = p.oversampling >= 0 ? p.oversampling : std::max<int64_t>(16, (3 * rank + 1) / 2);
    const int64_t block = round_up((rank + extra + steps) / (steps + 1), 8);
    // A space as large as the matrix: there is nothing to search.
    if (block * (steps + 1) >= thin) {
      *full = true;
      double ignored;
      return svd_full(p, view, work, t, spectrum, &ignored);
    }
    Workspace local;
    SvdTriplets found;
    found.values = local.take(rank);
    found.left = local.take(rank * tall);
    found.right = local.take(rank * thin);
    if (!local.ok()) return WHITTLE_OUT_OF_MEMORY;
    WhittleStatus s = krylov(p, view, rank, block, steps, p.iterations > 0 ? steps : kMostSteps, norm2, &found, improvement);
    if (s != WHITTLE_OK) return s;
    std::fill(spectrum, spectrum + thin, 0.0);
    std::copy(found.values, found.values + rank, spectrum);
    int64_t keep = rank;
    if (adaptive) {
      // Squared errors by rank: what the norm holds beyond the values found.
      double* tail = local.take(rank + 1);
      if (!local.ok()) return WHITTLE_OUT_OF_MEMORY;
      tail[0] = norm2;
      for (int64_t i = 0; i < rank; i++) tail[i + 1] = std::max(0.0, tail[i] - spectrum[i] * spectrum[i]);
      SvdProblem capped = p;
      capped.max_rank = rank + 1;
      keep = svd_rank(capped, rank + 1, tail, norm2);
      if (keep > rank && rank < p.max_rank) continue;
      keep = std::min(keep, rank);
    }
    t->count = keep;
    t->values = work->take(keep);
    t->left = work->take(keep * tall);
    t->right = work->take(keep * thin);
    if (!work->ok()) return WHITTLE_OUT_OF_MEMORY;
    std::copy(found.values, found.values + keep, t->values);
    memcpy(t->left, found.left, static_cast<size_t>(keep * tall) * 8);
    memcpy(t->right, found.right, static_cast<size_t>(keep * thin) * 8);
    t->converged = found.converged;
    t->iterations = found.iterations;
    return WHITTLE_OK;
  }
}

template WhittleStatus svd_randomized(const SvdProblem&, const SvdView<float>&, Workspace*, SvdTriplets*, double*, double, double*, bool*);
template WhittleStatus svd_randomized(const SvdProblem&, const SvdView<double>&, Workspace*, SvdTriplets*, double*, double, double*, bool*);

}  // namespace whittle
