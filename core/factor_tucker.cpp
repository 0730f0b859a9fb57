// Tucker decomposition in double: truncated HOSVD, and HOOI, which starts from it. A mode product is one large product of
// the unfolding; the result keeps that mode first, and `order` remembers where each mode went.
#include <algorithm>
#include <functional>
#include <memory>
#include <new>

#include "core/factor_tensor.h"
#include "core/paged.h"

namespace whittle {
namespace {

// A dense tensor whose dimension `at` is the caller's mode order[at].
struct Box {
  int rank;
  int order[kFactorOrder];
  int64_t dims[kFactorOrder];
  const double* x;

  int place(int mode) const {
    int at = 0;
    while (order[at] != mode) at++;
    return at;
  }
  int64_t size() const { return product_of(dims, 0, rank); }
};

typedef std::unique_ptr<Workspace> Held;
// Blocks of changing sizes leave holes that none of the next ones fits: their pages go back at once.
void drop(Held* held) {
  if (!*held) return;
  held->reset();
  paged_trim();
}

class Decomposition {
 public:
  explicit Decomposition(const Tucker& p) : p_(p) {}

  WhittleStatus run() {
    for (int i = 0; i < 4; i++) p_.result[i] = 0;
    const int64_t n = product_of(p_.dims, 0, p_.order);
    for (int64_t i = 0; i < n; i++) norm_ += static_cast<double>(p_.x[i]) * p_.x[i];
    if (!isfinite(norm_)) return WHITTLE_NONFINITE;
    WhittleStatus s = start();
    if (s != WHITTLE_OK) return s;
    int64_t t = 0;
    bool converged = !p_.hooi || norm_ == 0;
    double before = -1;
    while (!converged && t < p_.iterations) {
      double error;
      s = sweep(&error);
      if (s != WHITTLE_OK) return s;
      t++;
      converged = before >= 0 && before - error <= p_.tolerance * sqrt(norm_);
      before = error;
    }
    p_.result[1] = static_cast<double>(t);
    p_.result[2] = converged && eigen_;
    p_.result[3] = norm_;
    return finish();
  }

 private:
  WhittleStatus start() {
    for (int i = 0; i < p_.modes; i++) {
      Workspace space;
      const int mode = p_.mode[i];
      const int64_t rows = p_.dims[mode], cols = product_of(p_.dims, 0, p_.order) / rows, n = std::min(rows, cols);
      Strided<float> a;
      const int64_t most = p_.choice == kRanksGiven ? p_.ranks[i] : n;
      double *squares = space.take(n), *vectors = space.take(most * rows);
      if (!space.ok() || !unfolded(p_.x, p_.dims, p_.order, mode, &space, &a, p_.threads)) return WHITTLE_OUT_OF_MEMORY;
      const WhittleStatus s = left_vectors(a, rows, cols, most, squares, vectors, &eigen_, p_.threads);
      if (s != WHITTLE_OK) return s;
      if (p_.choice == kRanksEnergy) p_.ranks[i] = factor_energy(squares, n, p_.energy);
      if (p_.choice == kRanksVbmf) {
        double noise;
        p_.ranks[i] = std::max<int64_t>(1, factor_vbmf(squares, n, rows, cols, &noise));
      }
      u_[i] = own_.take(p_.ranks[i] * rows);
      if (!u_[i]) return WHITTLE_OUT_OF_MEMORY;
      memcpy(u_[i], vectors, static_cast<size_t>(p_.ranks[i] * rows) * sizeof(double));
    }
    return WHITTLE_OK;
  }

  // The caller's tensor, or `x`, times U^T (or, `expand`, U) along a mode; the result takes the place of what `held` had.
  template <class T>
  WhittleStatus times(const T* x, Box* box, int i, bool expand, Held* held) {
    Workspace brief;
    const int at = box->place(p_.mode[i]);
    const int64_t d = box->dims[at], rest = box->size() / d, rows = p_.dims[p_.mode[i]], to = expand ? rows : p_.ranks[i];
    Strided<T> a;
    if (!unfolded(x, box->dims, box->rank, at, &brief, &a, p_.threads)) return WHITTLE_OUT_OF_MEMORY;
    // A copy stands in for what is held.
    if (static_cast<const void*>(a.base) != static_cast<const void*>(x)) drop(held);
    Held next(new (std::nothrow) Workspace);
    double* out = next ? next->take(to * rest) : nullptr;
    if (!out) return WHITTLE_OUT_OF_MEMORY;
    DenseProduct p;
    p.m = to;
    p.k = d;
    p.n = rest;
    const Strided<double> u = rows_of(static_cast<const double*>(u_[i]), rows);
    const WhittleStatus s = dense_gemm(p, expand ? transposed(u) : u, a, out, rest, p_.threads);
    for (int k = at; k > 0; k--) {
      box->order[k] = box->order[k - 1];
      box->dims[k] = box->dims[k - 1];
    }
    box->order[0] = p_.mode[i];
    box->dims[0] = to;
    box->x = out;
    drop(held);
    *held = std::move(next);
    return s;
  }

  Box whole() const {
    Box box;
    box.rank = p_.order;
    for (int k = 0; k < p_.order; k++) {
      box.order[k] = k;
      box.dims[k] = p_.dims[k];
    }
    box.x = nullptr;
    return box;
  }

  // X times U_j^T for every mode but `skip`, the one that shrinks it most first. box.x, in the memory of `held`, stays null where
  // there is none. What lies between two products goes as soon as the second is done.
  WhittleStatus project(int skip, Box* box, Held* held) {
    int todo[kFactorOrder], count = 0;
    for (int j = 0; j < p_.modes; j++)
      if (j != skip) todo[count++] = j;
    std::stable_sort(todo, todo + count, [&](int a, int b) {
      return p_.ranks[a] * p_.dims[p_.mode[b]] < p_.ranks[b] * p_.dims[p_.mode[a]];
    });
    *box = whole();
    for (int c = 0; c < count; c++) {
      const WhittleStatus s = box->x ? times(box->x, box, todo[c], false, held) : times(p_.x, box, todo[c], false, held);
      if (s != WHITTLE_OK) return s;
    }
    return WHITTLE_OK;
  }

  template <class T>
  WhittleStatus leading(const T* x, const Box& box, int i, double* squares, Held* held) {
    Workspace space;
    const int at = box.place(p_.mode[i]);
    const int64_t rows = box.dims[at], cols = box.size() / rows;
    Strided<T> a;
    if (!unfolded(x, box.dims, box.rank, at, &space, &a, p_.threads)) return WHITTLE_OUT_OF_MEMORY;
    if (static_cast<const void*>(a.base) != static_cast<const void*>(x)) drop(held);
    return left_vectors(a, rows, cols, p_.ranks[i], squares, u_[i], &eigen_, p_.threads);
  }

  // Each factor in turn becomes the best for the others. The squares kept in the last unfolding are those of the core.
  WhittleStatus sweep(double* error) {
    double kept = 0;
    for (int i = 0; i < p_.modes; i++) {
      Workspace space;
      Held held;
      Box box;
      WhittleStatus s = project(i, &box, &held);
      if (s != WHITTLE_OK) return s;
      const int64_t rows = p_.dims[p_.mode[i]], n = std::min(rows, box.size() / rows);
      double* squares = space.take(n);
      if (!squares) return WHITTLE_OUT_OF_MEMORY;
      s = box.x ? leading(box.x, box, i, squares, &held) : leading(p_.x, box, i, squares, &held);
      if (s != WHITTLE_OK) return s;
      kept = 0;
      for (int64_t r = 0; r < std::min(n, p_.ranks[i]); r++) kept += squares[r];
    }
    *error = sqrt(std::max(0.0, norm_ - kept));
    return WHITTLE_OK;
  }

  // each(index in the caller's order of dimensions, value)
  template <class Each>
  void natural(const Box& box, const Each& each) const {
    int64_t stride[kFactorOrder];
    for (int at = 0; at < box.rank; at++) {
      stride[at] = 1;
      for (int k = 0; k < box.rank; k++)
        if (box.order[k] > box.order[at]) stride[at] *= box.dims[k];
    }
    const int last = box.rank - 1;
    const int64_t rows = box.size() / box.dims[last];
    for (int64_t row = 0; row < rows; row++) {
      int64_t to = 0, left = row;
      for (int at = last - 1; at >= 0; at--) {
        to += left % box.dims[at] * stride[at];
        left /= box.dims[at];
      }
      for (int64_t i = 0; i < box.dims[last]; i++) each(to + i * stride[last], box.x[row * box.dims[last] + i]);
    }
  }

  // Rounded factors, their core, and the error of what is answered.
  WhittleStatus finish() {
    for (int i = 0; i < p_.modes; i++) {
      const int64_t rows = p_.dims[p_.mode[i]], rank = p_.ranks[i];
      for (int64_t r = 0; r < rank; r++)
        for (int64_t j = 0; j < rows; j++) {
          p_.factors[i][j * rank + r] = static_cast<float>(u_[i][r * rows + j]);
          u_[i][r * rows + j] = static_cast<double>(p_.factors[i][j * rank + r]);
        }
    }
    Held held;
    Box box;
    WhittleStatus s = project(-1, &box, &held);
    if (s != WHITTLE_OK) return s;
    natural(box, [&](int64_t at, double v) { p_.core[at] = static_cast<float>(v); });
    drop(&held);
    Box back = whole();
    for (int i = 0; i < p_.modes; i++) back.dims[p_.mode[i]] = p_.ranks[i];
    for (int i = 0; i < p_.modes; i++) {
      s = back.x ? times(back.x, &back, i, true, &held) : times(p_.core, &back, i, true, &held);
      if (s != WHITTLE_OK) return s;
    }
    double sum = 0;
    natural(back, [&](int64_t at, double v) {
      const double d = static_cast<double>(p_.x[at]) - static_cast<float>(v);
      sum += d * d;
    });
    p_.result[0] = sum;
    return isfinite(sum) ? WHITTLE_OK : WHITTLE_NONFINITE;
  }

  const Tucker& p_;
  Workspace own_;
  double norm_ = 0;
  double* u_[kFactorOrder];  // ranks x dims: a vector a row
  bool eigen_ = true;        // every eigenvalue converged
};

// One-sided Jacobi (Hestenes): makes the columns of a (rows x cols) orthogonal, v (cols x cols) the rotations.
void jacobi(int64_t rows, int64_t cols, double* a, double* v) {
  for (int64_t i = 0; i < cols * cols; i++) v[i] = i % (cols + 1) == 0;
  for (int round = 0; round < 60; round++) {
    bool changed = false;
    for (int64_t p = 0; p + 1 < cols; p++)
      for (int64_t q = p + 1; q < cols; q++) {
        double alpha = 0, beta = 0, gamma = 0;
        for (int64_t i = 0; i < rows; i++) {
          alpha += a[i * cols + p] * a[i * cols + p];
          beta += a[i * cols + q] * a[i * cols + q];
          gamma += a[i * cols + p] * a[i * cols + q];
        }
        if (fabs(gamma) <= 1e-15 * sqrt(alpha * beta)) continue;
        changed = true;
        const double zeta = (beta - alpha) / (2 * gamma);
        const double t = (zeta >= 0 ? 1.0 : -1.0) / (fabs(zeta) + sqrt(1 + zeta * zeta)), c = 1 / sqrt(1 + t * t), s = c * t;
        const auto turn = [&](double* m, int64_t length) {
          for (int64_t i = 0; i < length; i++) {
            const double x = m[i * cols + p], y = m[i * cols + q];
            m[i * cols + p] = c * x - s * y;
            m[i * cols + q] = s * x + c * y;
          }
        };
        turn(a, rows);
        turn(v, cols);
      }
    if (!changed) return;
  }
}

// x (rows x cols) ~ sum_r vertical[r * rows + i] * horizontal[r * cols + j], the scale shared evenly.
struct Filters {
  int64_t height, width, rank;

  void split(const float* x, double* a, double* v, float* vertical, float* horizontal, double* squares) const {
    for (int64_t i = 0; i < height * width; i++) a[i] = static_cast<double>(x[i]);
    jacobi(height, width, a, v);
    for (int64_t j = 0; j < width; j++) {
      squares[j] = 0;
      for (int64_t i = 0; i < height; i++) squares[j] += a[i * width + j] * a[i * width + j];
    }
    if (!vertical) return std::sort(squares, squares + width, std::greater<double>());
    for (int64_t r = 0; r < rank; r++) {
      int64_t best = 0;
      for (int64_t j = 1; j < width; j++)
        if (squares[j] > squares[best]) best = j;
      const double root = sqrt(sqrt(std::max(squares[best], 0.0)));
      for (int64_t i = 0; i < height; i++) vertical[r * height + i] = root > 0 ? static_cast<float>(a[i * width + best] / root) : 0;
      for (int64_t j = 0; j < width; j++) horizontal[r * width + j] = static_cast<float>(v[j * width + best] * root);
      squares[best] = -1;
    }
  }
};

WhittleStatus separable_channels(const Separable& p) {
  const int64_t filters = p.out * p.in, area = p.height * p.width, least = std::min(p.height, p.width), w = p.width;
  constexpr int64_t kPiece = 64;
  const int64_t pieces = (filters + kPiece - 1) / kPiece, room = area + w * w + w;
  Workspace space;
  double *work = space.take(pieces * room), *sums = space.take(pieces * w);
  if (!space.ok()) return WHITTLE_OUT_OF_MEMORY;
  const auto each = [&](bool write) {
    parallel_for(pieces, 1, p.threads, [&](int64_t b, int64_t e) {
      for (int64_t t = b; t < e; t++) {
        double *a = work + t * room, *v = a + area, *squares = v + w * w, *sum = sums + t * w;
        for (int64_t j = 0; j < w; j++) sum[j] = 0;
        const Filters f = {p.height, w, write ? *p.rank : 0};
        for (int64_t i = t * kPiece; i < std::min(filters, (t + 1) * kPiece); i++) {
          f.split(p.x + i * area, a, v, write ? p.vertical + i * f.rank * p.height : nullptr, write ? p.horizontal + i * f.rank * w : nullptr, squares);
          if (!write)
            for (int64_t j = 0; j < w; j++) sum[j] += squares[j];
        }
      }
    });
    for (int64_t t = 1; t < pieces; t++)
      for (int64_t j = 0; j < w; j++) sums[j] += sums[t * w + j];
  };
  if (p.choice == kRanksEnergy) {
    // The smallest rank that keeps its share of all filters together.
    each(false);
    *p.rank = std::min(least, factor_energy(sums, w, p.energy));
  }
  each(true);
  double sum = 0;
  for (int64_t i = 0; i < filters; i++)
    for (int64_t y = 0; y < p.height; y++)
      for (int64_t x = 0; x < w; x++) {
        double d = static_cast<double>(p.x[i * area + y * w + x]);
        for (int64_t r = i * *p.rank; r < (i + 1) * *p.rank; r++)
          d -= static_cast<double>(p.vertical[r * p.height + y]) * p.horizontal[r * w + x];
        sum += d * d;
      }
  p.result[0] = sum;
  return isfinite(sum) ? WHITTLE_OK : WHITTLE_NONFINITE;
}

}  // namespace

WhittleStatus factor_tucker(const Tucker& p) { return Decomposition(p).run(); }

WhittleStatus factor_separable(const Separable& p) {
  const int64_t n = p.out * p.in * p.height * p.width;
  double norm = 0;
  for (int64_t i = 0; i < n; i++) norm += static_cast<double>(p.x[i]) * p.x[i];
  if (!isfinite(norm)) return WHITTLE_NONFINITE;
  p.result[1] = norm;
  if (p.channel) return separable_channels(p);
  const int64_t rows = p.in * p.height, cols = p.out * p.width, least = std::min(rows, cols);
  const int64_t most = p.choice == kRanksGiven ? *p.rank : least;
  Workspace space;
  float* a = static_cast<float*>(space.bytes(n * static_cast<int64_t>(sizeof(float))));
  double *squares = space.take(least), *vectors = space.take(most * rows);
  if (!space.ok()) return WHITTLE_OUT_OF_MEMORY;
  for (int64_t o = 0; o < p.out; o++)
    for (int64_t i = 0; i < rows; i++)
      memcpy(a + i * cols + o * p.width, p.x + (o * rows + i) * p.width, static_cast<size_t>(p.width) * sizeof(float));
  bool converged = true;
  WhittleStatus s = left_vectors(rows_of(static_cast<const float*>(a), cols), rows, cols, most, squares, vectors, &converged, p.threads);
  if (s != WHITTLE_OK) return s;
  if (p.choice == kRanksEnergy) *p.rank = factor_energy(squares, least, p.energy);
  if (p.choice == kRanksVbmf) {
    double noise;
    *p.rank = std::max<int64_t>(1, factor_vbmf(squares, least, rows, cols, &noise));
  }
  const int64_t rank = *p.rank;
  // horizontal = U^T A: the best for these vertical vectors whatever their accuracy; the scale is shared evenly.
  double* right = space.take(rank * cols);
  if (!right) return WHITTLE_OUT_OF_MEMORY;
  DenseProduct q;
  q.m = rank;
  q.n = cols;
  q.k = rows;
  s = dense_gemm(q, rows_of(static_cast<const double*>(vectors), rows), rows_of(static_cast<const float*>(a), cols), right, cols, p.threads);
  if (s != WHITTLE_OK) return s;
  for (int64_t r = 0; r < rank; r++) {
    double sum = 0;
    for (int64_t j = 0; j < cols; j++) sum += right[r * cols + j] * right[r * cols + j];
    const double root = sqrt(sqrt(sum));
    for (int64_t i = 0; i < rows; i++) {
      p.vertical[r * rows + i] = static_cast<float>(vectors[r * rows + i] * root);
      vectors[r * rows + i] = static_cast<double>(p.vertical[r * rows + i]);
    }
    for (int64_t o = 0; o < p.out; o++)
      for (int64_t x = 0; x < p.width; x++) {
        double* from = right + r * cols + o * p.width + x;
        float* to = p.horizontal + (o * rank + r) * p.width + x;
        *to = root > 0 ? static_cast<float>(*from / root) : 0;
        *from = static_cast<double>(*to);
      }
  }
  // The error of what is answered, some rows at a time.
  const int64_t step = std::max<int64_t>(1, std::min(rows, (int64_t(1) << 19) / cols));
  double *part = space.take(step * cols), sum = 0;
  if (!part) return WHITTLE_OUT_OF_MEMORY;
  for (int64_t i = 0; i < rows; i += step) {
    DenseProduct b;
    b.m = std::min(step, rows - i);
    b.n = cols;
    b.k = rank;
    s = dense_gemm(b, columns_of(static_cast<const double*>(vectors) + i, rows), rows_of(static_cast<const double*>(right), cols), part, cols, p.threads);
    if (s != WHITTLE_OK) return s;
    for (int64_t j = 0; j < b.m * cols; j++) {
      const double d = static_cast<double>(a[i * cols + j]) - part[j];
      sum += d * d;
    }
  }
  p.result[0] = sum;
  return isfinite(sum) ? WHITTLE_OK : WHITTLE_NONFINITE;
}

}  // namespace whittle
