// Leading triplets from a block Krylov space of X^T X (Musco & Musco 2015): for the error of few passes over X it needs about
// half the products of subspace iteration, and of narrow blocks fewer still. The random block itself is left out: its product
// with X^T X starts the space. float32 blocks lie in panels of 16 columns, and X k and X^T (X k) are made in one pass over X.
// Blocks are projected and made orthonormal twice (Cholesky in float64); the space is solved through the float64 Gram matrix of X K.
#include <math.h>
#include <string.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "core/svd_krylov.h"
#include "core/threads.h"

namespace whittle {

namespace {

constexpr double kSmall = 2e-5;
constexpr int kRounds = 6;         // of projection; 2 where the space is not exhausted
constexpr double kMostLost = 0.1;  // squared length
constexpr int64_t kSlabRows = 8, kSlabFloats = 96 << 10, kGroups = 8, kRowsPiece = 512, kColumnsPiece = 256;
constexpr int64_t kAloneSpace = 128;  // dimensions up to which waking threads costs more than they take over from the eigenproblem

// A block of `width` columns over n rows: panels one after the other, each n x panel with its rows side by side.
template <class T>
constexpr int64_t panel_width(int64_t width) {
  return sizeof(T) == 4 ? kSvdPanel : width;
}

// w (a.n x b) = A^T (A k), and y (a.m x b) = A k; w null: only y.
WhittleStatus multiply(const SvdKrylov<float>& a, int64_t b, const float* k, float* y, float* w) {
  const SvdKernels& kernels = svd_kernels();
  const int64_t slab = std::max<int64_t>(kSlabRows, kSlabFloats / a.n / kSlabRows * kSlabRows), panels = b / kSvdPanel;
  const int64_t slabs = (a.m + slab - 1) / slab, groups = std::min(kGroups, slabs), size = a.n * b;
  Workspace work;
  float* sums = w ? static_cast<float*>(work.bytes(groups * size * 4)) : nullptr;
  if (!work.ok()) return WHITTLE_OUT_OF_MEMORY;
  // Groups of slabs have sums of their own, added in order.
  parallel_for(groups, 1, a.threads, [&](int64_t begin, int64_t end) {
    for (int64_t group = begin; group < end; group++) {
      float* sum = w ? sums + group * size : nullptr;
      if (w) memset(sum, 0, static_cast<size_t>(size) * 4);
      for (int64_t s = slabs * group / groups; s < slabs * (group + 1) / groups; s++) {
        const int64_t row = s * slab, rows = std::min(slab, a.m - row);
        const float* x = a.base + row * a.n;
        for (int64_t p = 0; p < panels; p++) {
          float* out = y + (p * a.m + row) * kSvdPanel;
          kernels.panel(rows, a.n, x, a.n, k + p * a.n * kSvdPanel, false, out);
          if (w) kernels.panel_t(rows, a.n, x, a.n, out, sum + p * a.n * kSvdPanel);
        }
      }
    }
  });
  if (!w) return WHITTLE_OK;
  parallel_for(size, 64 << 10, a.threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) w[i] = sums[i];
    for (int64_t group = 1; group < groups; group++)
      for (int64_t i = begin; i < end; i++) w[i] += sums[group * size + i];
  });
  return WHITTLE_OK;
}

WhittleStatus multiply(const SvdKrylov<double>& a, int64_t b, const double* k, double* y, double* w) {
  const WhittleStatus s = dense_gemm({a.m, b, a.n}, rows_of<double>(a.base, a.n), rows_of<double>(k, b), y, b, a.threads);
  return s != WHITTLE_OK || !w ? s : dense_gemm({a.n, b, a.m}, columns_of<double>(a.base, a.n), rows_of<double>(y, b), w, b, a.threads);
}

// w (a.n x b) = A^T y.
WhittleStatus multiply_t(const SvdKrylov<float>& a, int64_t b, const float* y, float* w) {
  const SvdKernels& kernels = svd_kernels();
  const int64_t pieces = (a.n + kColumnsPiece - 1) / kColumnsPiece;
  memset(w, 0, static_cast<size_t>(a.n * b) * 4);
  parallel_for(pieces, 1, a.threads, [&](int64_t begin, int64_t end) {
    const int64_t j = begin * kColumnsPiece, cols = std::min(end * kColumnsPiece, a.n) - j;
    for (int64_t p = 0; p < b; p += kSvdPanel)
      for (int64_t i = 0; i < a.m; i += kSlabRows * 8)
        kernels.panel_t(std::min(kSlabRows * 8, a.m - i), cols, a.base + i * a.n + j, a.n, y + p * a.m + i * kSvdPanel,
                        w + p * a.n + j * kSvdPanel);
  });
  return WHITTLE_OK;
}

WhittleStatus multiply_t(const SvdKrylov<double>& a, int64_t b, const double* y, double* w) {
  return dense_gemm({a.n, b, a.m}, columns_of<double>(a.base, a.n), rows_of<double>(y, b), w, b, a.threads);
}

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

// Pieces of rows of fixed length, so that sums over them do not depend on the threads.
template <class F>
void each_piece(int64_t n, int threads, const F& body) {
  const int64_t pieces = (n + kRowsPiece - 1) / kRowsPiece;
  parallel_for(pieces, 1, threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) body(i, i * kRowsPiece, std::min(kRowsPiece, n - i * kRowsPiece));
  });
}

// x (n x b) -= k (k^T x) for the `have` columns of k. In the input's type: k has only that precision.
WhittleStatus project_out(int64_t n, int64_t b, float* x, int64_t have, const float* k, int threads) {
  if (have == 0) return WHITTLE_OK;
  const SvdKernels& kernels = svd_kernels();
  constexpr int64_t kP = kSvdPanel, kSquare = kP * kP;
  const int64_t xs = b / kP, ks = have / kP, size = have * b, pieces = (n + kRowsPiece - 1) / kRowsPiece;
  Workspace work;
  float* inner = static_cast<float*>(work.bytes(pieces * size * 4));
  if (!work.ok()) return WHITTLE_OUT_OF_MEMORY;
  memset(inner, 0, static_cast<size_t>(pieces * size) * 4);
  each_piece(n, threads, [&](int64_t piece, int64_t row, int64_t rows) {
    for (int64_t p = 0; p < ks; p++)
      for (int64_t q = 0; q < xs; q++)
        kernels.panel_t(rows, kP, k + (p * n + row) * kP, kP, x + (q * n + row) * kP, inner + piece * size + (p * xs + q) * kSquare);
  });
  for (int64_t i = 0; i < size; i++) {
    float sum = 0;
    for (int64_t piece = 0; piece < pieces; piece++) sum += inner[piece * size + i];
    inner[i] = -sum;
  }
  each_piece(n, threads, [&](int64_t, int64_t row, int64_t rows) {
    for (int64_t q = 0; q < xs; q++)
      for (int64_t p = 0; p < ks; p++)
        kernels.panel(rows, kP, k + (p * n + row) * kP, kP, inner + (p * xs + q) * kSquare, true, x + (q * n + row) * kP);
  });
  return WHITTLE_OK;
}

WhittleStatus project_out(int64_t n, int64_t b, double* x, int64_t have, const double* k, int threads) {
  Workspace work;
  double* inner = work.take(b * b);
  if (!work.ok()) return WHITTLE_OUT_OF_MEMORY;
  for (int64_t p = 0; p < have; p += b) {
    WhittleStatus s = dense_gemm({b, b, n}, columns_of<double>(k + p * n, b), rows_of<double>(x, b), inner, b, threads);
    if (s == WHITTLE_OK) s = dense_gemm({n, b, b, -1, true}, rows_of<double>(k + p * n, b), rows_of<double>(inner, b), x, b, threads);
    if (s != WHITTLE_OK) return s;
  }
  return WHITTLE_OK;
}

// x = x R for the upper triangle R = (rows of `inverse`)^T.
WhittleStatus combine(int64_t n, int64_t b, const double* inverse, float* x, int threads) {
  const SvdKernels& kernels = svd_kernels();
  constexpr int64_t kP = kSvdPanel, kSquare = kP * kP;
  const int64_t panels = b / kP;
  Workspace work;
  float* r = static_cast<float*>(work.bytes(b * b * 4));
  float* copies = static_cast<float*>(work.bytes(n * b * 4));
  if (!work.ok()) return WHITTLE_OUT_OF_MEMORY;
  for (int64_t i = 0; i < b; i++)
    for (int64_t j = 0; j < b; j++)
      r[(i / kP * panels + j / kP) * kSquare + i % kP * kP + j % kP] = static_cast<float>(inverse[j * b + i]);
  each_piece(n, threads, [&](int64_t, int64_t row, int64_t rows) {
    for (int64_t q = 0; q < panels; q++)
      memcpy(copies + (q * n + row) * kP, x + (q * n + row) * kP, static_cast<size_t>(rows * kP) * 4);
    for (int64_t q = 0; q < panels; q++)
      for (int64_t p = 0; p <= q; p++)
        kernels.panel(rows, kP, copies + (p * n + row) * kP, kP, r + (p * panels + q) * kSquare, p > 0, x + (q * n + row) * kP);
  });
  return WHITTLE_OK;
}

WhittleStatus combine(int64_t n, int64_t b, const double* inverse, double* x, int threads) {
  Workspace work;
  double* copy = work.take(n * b);
  if (!work.ok()) return WHITTLE_OUT_OF_MEMORY;
  memcpy(copy, x, static_cast<size_t>(n * b) * 8);
  return dense_gemm({n, b, b}, rows_of<double>(copy, b), columns_of<double>(inverse, b), x, b, threads);
}

// Lower triangle of x^T x.
template <class T>
WhittleStatus gram_of(int64_t n, int64_t b, const T* x, double* gram, int threads) {
  const int64_t width = panel_width<T>(b);
  for (int64_t p = 0; p < b; p += width)
    for (int64_t q = 0; q <= p; q += width) {
      DenseProduct g = {width, width, n};
      g.lower = p == q;
      const WhittleStatus s =
          dense_gemm(g, columns_of<T>(x + p * n, width), rows_of<T>(x + q * n, width), gram + p * b + q, b, threads);
      if (s != WHITTLE_OK) return s;
    }
  return WHITTLE_OK;
}

double squares_of(int64_t n, const float* x) { return svd_kernels().squares(n, x); }
double squares_of(int64_t n, const double* x) { return svd_kernels().dot(n, x, x); }

// Columns of x (n x b) become orthonormal, and orthogonal to the `have` columns of k. `closed` where nothing was left of x:
// k spans an invariant space.
template <class T>
WhittleStatus orthonormalize(int64_t n, int64_t b, T* x, int64_t have, const T* k, bool* closed, int threads) {
  Workspace work;
  double* gram = work.take(b * b);
  if (!work.ok()) return WHITTLE_OUT_OF_MEMORY;
  const double before = squares_of(n * b, x);
  for (int round = 0; round < kRounds; round++) {
    WhittleStatus s = project_out(n, b, x, have, k, threads);
    if (s == WHITTLE_OK) s = gram_of<T>(n, b, x, gram, threads);
    if (s != WHITTLE_OK) return s;
    double most = 0, after = 0;
    for (int64_t i = 0; i < b; i++) {
      most = std::max(most, gram[i * b + i]);
      after += gram[i * b + i];
    }
    if (round == 0 && after <= (sizeof(T) == 4 ? 1e-9 : 1e-26) * before) *closed = true;
    bool sound = most > 0 && dense_cholesky(b, gram, b, threads) < 0;
    double least = most;
    for (int64_t i = 0; sound && i < b; i++) least = std::min(least, gram[i * b + i] * gram[i * b + i]);
    if (sound && least > 1e-11 * most) {
      invert_lower(b, gram);
      s = combine(n, b, gram, x, threads);
      if (s != WHITTLE_OK) return s;
      // Columns of length 1 that lost little to the projection carry little of its rounding.
      if (round > 0 && least > kMostLost) return WHITTLE_OK;
      continue;
    }
    // Nearly dependent columns: the space is exhausted. Reflections make a basis whatever there is.
    const int64_t width = panel_width<T>(b);
    double* rows = work.take(b * n);
    if (!work.ok()) return WHITTLE_OUT_OF_MEMORY;
    for (int again = 0; again < 2; again++) {
      for (int64_t j = 0; j < b; j++)
        for (int64_t i = 0; i < n; i++) rows[j * n + i] = static_cast<double>(x[j / width * width * n + i * width + j % width]);
      s = dense_lq(b, n, rows, n, nullptr, 0, threads);
      if (s != WHITTLE_OK) return s;
      for (int64_t j = 0; j < b; j++)
        for (int64_t i = 0; i < n; i++) x[j / width * width * n + i * width + j % width] = static_cast<T>(rows[j * n + i]);
      if (again == 0) s = project_out(n, b, x, have, k, threads);
      if (s != WHITTLE_OK) return s;
    }
  }
  return WHITTLE_OK;
}

// Columns of the blocks as columns of rows side by side, `d` of them.
template <class T>
void unpanel(int64_t n, int64_t d, int64_t b, const T* x, T* out, int threads) {
  const int64_t width = panel_width<T>(b);
  each_piece(n, threads, [&](int64_t, int64_t row, int64_t rows) {
    for (int64_t j = 0; j < d; j += width)
      for (int64_t i = row; i < row + rows; i++)
        memcpy(out + i * d + j, x + j * n + i * width, static_cast<size_t>(width) * sizeof(T));
  });
}

// What the first e of the space's d dimensions capture at least, where all of them hold the triplets p (r x d rows) with these
// values: the Rayleigh quotient tr((P1 P1^T)^-1 P1 G11 P1^T) over what is left of them. As G P^T = P^T diag(values), all of
// it follows from the part P2 that is cut off. Negative where nothing can be said.
double captured_by(int64_t e, int64_t d, int64_t r, const double* gram, int64_t ldg, const double* values, const double* p, int threads) {
  const int64_t c = d - e;
  if (e < r) return -1;
  Workspace work;
  double *scaled = work.take(r * c), *cc = work.take(c * c), *dd = work.take(c * c), *cg = work.take(c * c), *h = work.take(c * c);
  if (!work.ok()) return -1;
  const Strided<double> p2 = rows_of<double>(p + e, d), g22 = rows_of<double>(gram + e * ldg + e, ldg);
  double kept = 0;
  for (int64_t i = 0; i < r; i++) {
    kept += values[i];
    for (int64_t j = 0; j < c; j++) scaled[i * c + j] = values[i] * p[i * d + e + j];
  }
  if (dense_gemm({c, c, r}, transposed(p2), p2, cc, c, threads) != WHITTLE_OK) return -1;
  if (dense_gemm({c, c, r}, transposed(p2), rows_of<double>(scaled, c), dd, c, threads) != WHITTLE_OK) return -1;
  if (dense_gemm({c, c, c}, rows_of<double>(cc, c), g22, cg, c, threads) != WHITTLE_OK) return -1;
  if (dense_gemm({c, c, c}, rows_of<double>(cg, c), rows_of<double>(cc, c), h, c, threads) != WHITTLE_OK) return -1;
  for (int64_t i = 0; i < c; i++) kept += cg[i * c + i] - 2 * dd[i * c + i];
  // h = C G22 C + D - D C - C D, its symmetric part; then tr((I - C)^-1 h).
  if (dense_gemm({c, c, c}, rows_of<double>(dd, c), rows_of<double>(cc, c), cg, c, threads) != WHITTLE_OK) return -1;
  for (int64_t i = 0; i < c; i++)
    for (int64_t j = 0; j < c; j++) h[i * c + j] += dd[i * c + j] - cg[i * c + j] - cg[j * c + i];
  for (int64_t i = 0; i < c * c; i++) cc[i] = (i % (c + 1) == 0 ? 1 : 0) - cc[i];
  if (dense_cholesky(c, cc, c, threads) >= 0) return -1;
  if (dense_solve_lt(c, c, cc, c, h, c, threads) != WHITTLE_OK) return -1;
  for (int64_t i = 0; i < c; i++)
    for (int64_t j = 0; j < i; j++) std::swap(h[i * c + j], h[j * c + i]);
  if (dense_solve_lt(c, c, cc, c, h, c, threads) != WHITTLE_OK) return -1;
  for (int64_t i = 0; i < c; i++) kept += h[i * c + i];
  return kept;
}

// Whether of the rank ascending squared values about a block's width lie so close that there may be more of them. Of the
// rest of the norm float32 says too little to ask it; values of the order of its rounding are no values.
bool crowded(int64_t rank, int64_t b, const double* values) {
  const int64_t run = b - kCrowdSpare;
  for (int64_t i = 0; i + run < rank; i++)
    if (values[i] > kClosed * kClosed * values[rank - 1] && values[i] >= (1 - kCrowd) * (1 - kCrowd) * values[i + run - 1]) return true;
  return false;
}

}  // namespace

template <class T>
WhittleStatus svd_krylov(const SvdKrylov<T>& a, const SvdSpace& space, double norm2, SvdTriplets* t, double* improvement,
                         bool* exhausted) {
  const SvdKernels& kernels = svd_kernels();
  const int64_t m = a.m, n = a.n, b = space.block, rank = space.rank;
  const int threads = a.threads;
  const bool free_steps = space.most_steps > space.steps;
  const int64_t room = std::min(std::min(m, n) / b, space.most_steps + 1 + (free_steps && rank > b - kCrowdSpare ? kChainBlocks : 0)) * b;
  *exhausted = false;
  // The panels, then the same with rows side by side.
  Workspace work;
  T* k = static_cast<T*>(work.bytes(n * room * static_cast<int64_t>(sizeof(T))));
  T* y = static_cast<T*>(work.bytes(m * room * static_cast<int64_t>(sizeof(T))));
  double* gram = work.take(room * room);
  double* solved = work.take(room * room);
  double* vectors = work.take(room * rank);
  double* values = work.take(room);
  if (!work.ok()) return WHITTLE_OUT_OF_MEMORY;
  uint64_t state = space.seed;
  int64_t d = 0, enough = space.steps;  // steps after which to look whether they were
  bool closed = false;
  // The space's next block from a random one, of which only what the space lacks is multiplied.
  const auto begin_chain = [&] {
    Workspace start;
    T* random = static_cast<T*>(start.bytes(n * b * static_cast<int64_t>(sizeof(T))));
    if (!start.ok()) return WHITTLE_OUT_OF_MEMORY;
    for (int64_t i = 0; i < n * b; i++) random[i] = static_cast<T>(svd_uniform(&state));
    bool nothing_left = false;
    const WhittleStatus s = d == 0 ? WHITTLE_OK : orthonormalize(n, b, random, d, k, &nothing_left, threads);
    return s == WHITTLE_OK ? multiply(a, b, random, y + d * m, k + d * n) : s;
  };
  WhittleStatus s = begin_chain();
  if (s != WHITTLE_OK) return s;
  Progress gained = {1, 1};
  int64_t chain = 0;  // where the last one begins
  for (int64_t step = 0;; step++) {
    if (d == room) {
      *exhausted = true;
      return WHITTLE_OK;
    }
    s = orthonormalize(n, b, k + d * n, d, k, &closed, threads);
    // Where another block is sure to come, its product is made in the same pass.
    const bool both = step < enough && d + b < room;
    if (s == WHITTLE_OK) s = multiply(a, b, k + d * n, y + d * m, both ? k + (d + b) * n : nullptr);
    if (s != WHITTLE_OK) return s;
    d += b;
    t->iterations = step;
    if (step < enough) continue;
    {
      // Gone before the eigenproblem, which takes the most memory of all.
      Workspace flat;
      T* rows = static_cast<T*>(flat.bytes(m * d * static_cast<int64_t>(sizeof(T))));
      if (!flat.ok()) return WHITTLE_OUT_OF_MEMORY;
      unpanel(m, d, b, y, rows, threads);
      DenseProduct g = {d, d, m};
      g.lower = true;
      s = dense_gemm(g, columns_of<T>(rows, d), rows_of<T>(rows, d), gram, d, threads);
      if (s != WHITTLE_OK) return s;
    }
    for (int64_t i = 0; i < d; i++) {
      memcpy(solved + i * d, gram + i * d, static_cast<size_t>(i + 1) * 8);
      for (int64_t j = 0; j < i; j++) gram[j * d + i] = gram[i * d + j];
    }
    const Eigen e = dense_eigen(d, solved, d, values, rank, vectors, d, d <= kAloneSpace ? 1 : threads);
    if (e.status != WHITTLE_OK) return e.status;
    if (!e.converged) t->converged = false;
    const double* top = values + d - rank;
    double now = 0;
    for (int64_t i = 0; i < rank; i++) now += top[i];
    gained = progress_of(norm2, now, captured_by(d - b, d, rank, gram, d, top, vectors, threads),
                         captured_by(d - 2 * b, d, rank, gram, d, top, vectors, threads));
    // Equal values that a block is too narrow for: what follows is another space, and its progress no measure.
    if (closed && norm2 - now > kClosed * kClosed * norm2) {
      *exhausted = true;
      return WHITTLE_OK;
    }
    const bool settled = gained.left <= kLeft, crowd = settled && crowded(rank, b, top);
    const double ago = crowd && chain > 0 ? captured_by(chain, d, rank, gram, d, top, vectors, threads) : -1;
    const double rest = std::max(norm2 - now, kClosed * kClosed * norm2);
    if (crowd && free_steps && (ago < 0 || now - ago > 2 * kChainGain * rest)) {
      chain = d;
      enough = step + 1;
      if (d < room) s = begin_chain();
      if (s != WHITTLE_OK) return s;
      continue;
    }
    if (crowd && !free_steps) t->converged = false;
    if (settled || (chain == 0 && step >= space.most_steps)) {
      // Descending: the last rows of vectors, in reverse.
      for (int64_t i = 0; i < rank; i++) {
        memcpy(solved + i * d, vectors + (rank - 1 - i) * d, static_cast<size_t>(d) * 8);
        t->values[i] = sqrt(std::max(0.0, top[rank - 1 - i]));
      }
      Workspace flat;
      T* rows = static_cast<T*>(flat.bytes(m * d * static_cast<int64_t>(sizeof(T))));
      if (!flat.ok()) return WHITTLE_OUT_OF_MEMORY;
      unpanel(m, d, b, y, rows, threads);
      s = dense_gemm({rank, m, d}, rows_of<double>(solved, d), columns_of<T>(rows, d), t->left, m, threads);
      break;
    }
    enough = step + (gained.left > 2 * kLeft && chain == 0 ? 2 : 1);
    if (chain == 0) enough = std::min(space.most_steps, enough);
    if (d < room) s = multiply_t(a, b, y + (d - b) * m, k + d * n);
    if (s != WHITTLE_OK) return s;
  }
  *improvement = gained.last;
  if (gained.left > kLeft) t->converged = false;
  t->count = rank;
  {
    Workspace last;
    T* rows = static_cast<T*>(last.bytes(n * d * static_cast<int64_t>(sizeof(T))));
    if (!last.ok()) return WHITTLE_OUT_OF_MEMORY;
    unpanel(n, d, b, k, rows, threads);
    s = dense_gemm({rank, n, d}, rows_of<double>(solved, d), columns_of<T>(rows, d), t->right, n, threads);
  }
  if (s != WHITTLE_OK) return s;
  int64_t sound = 0;
  const bool wide = sizeof(T) == 8;
  while (!wide && sound < rank && t->values[sound] > kSmall * t->values[0]) sound++;
  parallel_for(sound, 8, threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      double* row = t->left + i * m;
      const double norm = sqrt(kernels.dot(m, row, row)), scale = 1 / norm;
      t->values[i] = norm;
      for (int64_t j = 0; j < m; j++) row[j] *= scale;
    }
  });
  const int64_t built = t->iterations;
  s = svd_refine(sound, t->values[0], wide ? 0x1p-52 * sqrt(static_cast<double>(d)) : 1e-9, m, n, t, threads);
  t->iterations = built;
  return s == WHITTLE_OK ? svd_sort(m, n, t) : s;
}

template WhittleStatus svd_krylov(const SvdKrylov<float>&, const SvdSpace&, double, SvdTriplets*, double*, bool*);
template WhittleStatus svd_krylov(const SvdKrylov<double>&, const SvdSpace&, double, SvdTriplets*, double*, bool*);

}  // namespace whittle
