// CP by alternating least squares, in double. The longest dimension goes first. A sweep makes two large products: that of
// the tensor with the Khatri-Rao product of the other modes, which updates the first mode, and Y = X^T times the first
// factor, [all other dimensions, rank]; the other modes contract Y by vectors of length rank, so nothing larger than Y
// (the tensor over its longest dimension, times the rank) is ever made.
#include <float.h>

#include <algorithm>
#include <memory>
#include <new>

#include "core/factor_tensor.h"

namespace whittle {
namespace {

uint64_t random64(uint64_t* state) {
  uint64_t z = *state += 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}
double normal(uint64_t* state) {
  const double u = (static_cast<double>(random64(state) >> 11) + 0.5) * 0x1p-53, v = static_cast<double>(random64(state) >> 11) * 0x1p-53;
  return sqrt(-2 * log(u)) * cos(6.283185307179586 * v);
}

class Als {
 public:
  explicit Als(const Cp& p) : p_(p), rank_(p.rank) {}

  WhittleStatus run() {
    for (int i = 0; i < 6; i++) p_.result[i] = 0;
    WhittleStatus s = prepare();
    if (s != WHITTLE_OK) return s;
    int64_t t = 0;
    bool converged = norm_ == 0;
    double before = sqrt(norm_);
    while (!converged && t < p_.iterations) {
      double error;
      s = sweep(&error);
      if (s != WHITTLE_OK) return s;
      t++;
      converged = t > 1 && before - sqrt(error) <= p_.tolerance * sqrt(norm_);
      before = sqrt(error);
    }
    return finish(t, converged);
  }

 private:
  WhittleStatus prepare() {
    const int order = p_.order;
    // first_: the mode that goes first; the others keep their order.
    for (int k = 1; k < order; k++)
      if (p_.dims[k] > p_.dims[first_]) first_ = k;
    mode_[0] = first_;
    for (int k = 0, at = 1; k < order; k++)
      if (k != first_) mode_[at++] = k;
    for (int k = 0; k < order; k++) dims_[k] = p_.dims[mode_[k]];
    rest_ = product_of(dims_, 1, order);
    if (!unfolded(p_.x, p_.dims, order, first_, &space_, &x_, p_.threads)) return WHITTLE_OUT_OF_MEMORY;
    const int64_t n = dims_[0] * rest_;
    for (int64_t i = 0; i < n; i++) norm_ += static_cast<double>(p_.x[i]) * p_.x[i];
    if (!isfinite(norm_)) return WHITTLE_NONFINITE;
    int64_t length = 0;
    for (int k = 0; k < order; k++) length += dims_[k];
    f_[0] = space_.take(length * rank_);
    gram_[0] = space_.take(order * rank_ * rank_);
    m_ = space_.take(dims_[0] * rank_);  // the longest
    before_ = space_.take(dims_[0] * rank_);
    y_ = space_.take(rest_ * rank_);
    gamma_ = space_.take(rank_ * rank_);
    chol_ = space_.take(rank_ * rank_);
    weight_ = space_.take(rank_);
    if (!space_.ok()) return WHITTLE_OUT_OF_MEMORY;
    for (int k = 1; k < order; k++) {
      f_[k] = f_[k - 1] + dims_[k - 1] * rank_;
      gram_[k] = gram_[k - 1] + rank_ * rank_;
    }
    return start();
  }

  WhittleStatus start() {
    uint64_t state = p_.seed;
    for (int k = 0; k < p_.order; k++) {
      double* f = f_[k];
      const int64_t d = dims_[k];
      if (p_.given) {
        for (int64_t i = 0; i < d * rank_; i++) f[i] = static_cast<double>(p_.factors[mode_[k]][i]);
      } else {
        for (int64_t i = 0; i < d * rank_; i++) f[i] = normal(&state);
        // The first mode is solved for before it is used.
        if (p_.leading && k > 0) {
          const WhittleStatus s = lead(k);
          if (s != WHITTLE_OK) return s;
        }
      }
      for (int64_t r = 0; r < rank_; r++) normalize(k, r, nullptr);
      const WhittleStatus s = gram(k);
      if (s != WHITTLE_OK) return s;
    }
    return WHITTLE_OK;
  }

  // Leading singular vectors of the unfolding into the first columns of factor k.
  WhittleStatus lead(int k) {
    Workspace space;
    const int64_t d = dims_[k], cols = dims_[0] * rest_ / d, count = std::min(rank_, d);
    Strided<float> a;
    double *squares = space.take(std::min(d, cols)), *vectors = space.take(count * d);
    if (!space.ok() || !unfolded(p_.x, p_.dims, p_.order, mode_[k], &space, &a, p_.threads)) return WHITTLE_OUT_OF_MEMORY;
    bool ok = true;
    const WhittleStatus s = left_vectors(a, d, cols, count, squares, vectors, &ok, p_.threads);
    if (s != WHITTLE_OK) return s;
    for (int64_t i = 0; i < d; i++)
      for (int64_t r = 0; r < count; r++) f_[k][i * rank_ + r] = vectors[r * d + i];
    return WHITTLE_OK;
  }

  // Divides column r of factor k by its length, which goes to *length. False for a column of zeros, which stays.
  bool normalize(int k, int64_t r, double* length) {
    double sum = 0;
    for (int64_t i = 0; i < dims_[k]; i++) sum += f_[k][i * rank_ + r] * f_[k][i * rank_ + r];
    const double size = sqrt(sum);
    if (length) *length = size;
    if (!(size > 0)) return false;
    for (int64_t i = 0; i < dims_[k]; i++) f_[k][i * rank_ + r] /= size;
    return true;
  }

  WhittleStatus gram(int k) {
    DenseProduct p;
    p.m = p.n = rank_;
    p.k = dims_[k];
    const Strided<double> f = rows_of(static_cast<const double*>(f_[k]), rank_);
    return dense_gemm(p, transposed(f), f, gram_[k], rank_, p_.threads);
  }

  // Row `at` of [dims 1 ...] split into indices; answers the product of the factors' rows, mode `skip` left out.
  void weights_of(int64_t at, int skip, double* w) const {
    const FactorKernels& f = factor_kernels();
    bool first = true;
    for (int k = p_.order - 1; k >= 1; k--) {
      const double* row = f_[k] + at % dims_[k] * rank_;
      at /= dims_[k];
      if (k == skip) continue;
      if (first) memcpy(w, row, static_cast<size_t>(rank_) * sizeof(double));
      else f.mul64(rank_, w, row, w);
      first = false;
    }
    if (first) std::fill(w, w + rank_, 1.0);
  }

  // m_ = the unfolding of mode k times the Khatri-Rao product of the others.
  WhittleStatus mttkrp(int k) {
    DenseProduct p;
    if (k == 0) {
      parallel_for(rest_, 64, p_.threads, [&](int64_t b, int64_t e) {
        for (int64_t q = b; q < e; q++) weights_of(q, 0, y_ + q * rank_);
      });
      p.m = dims_[0];
      p.k = rest_;
      p.n = rank_;
      return dense_gemm(p, x_, rows_of(static_cast<const double*>(y_), rank_), m_, rank_, p_.threads);
    }
    if (k == 1) {
      p.m = rest_;
      p.k = dims_[0];
      p.n = rank_;
      const WhittleStatus s = dense_gemm(p, transposed(x_), rows_of(static_cast<const double*>(f_[0]), rank_), y_, rank_, p_.threads);
      if (s != WHITTLE_OK) return s;
    }
    const int64_t outer = product_of(dims_, 1, k), inner = product_of(dims_, k + 1, p_.order), d = dims_[k];
    const FactorKernels& f = factor_kernels();
    std::unique_ptr<double[]> room(new (std::nothrow) double[static_cast<size_t>(d * rank_)]);
    if (!room) return WHITTLE_OUT_OF_MEMORY;
    parallel_for(d, 1, p_.threads, [&](int64_t b, int64_t e) {
      for (int64_t i = b; i < e; i++) {
        double *to = m_ + i * rank_, *w = room.get() + i * rank_;
        memset(to, 0, static_cast<size_t>(rank_) * sizeof(double));
        for (int64_t o = 0; o < outer; o++)
          for (int64_t q = 0; q < inner; q++) {
            const int64_t at = (o * d + i) * inner + q;
            weights_of(at, k, w);
            f.fma64(rank_, y_ + at * rank_, w, to);
          }
      }
    });
    return WHITTLE_OK;
  }

  WhittleStatus update(int k) {
    const int64_t n = rank_;
    WhittleStatus s = mttkrp(k);
    if (s != WHITTLE_OK) return s;
    for (int64_t i = 0; i < n * n; i++) gamma_[i] = 1;
    for (int j = 0; j < p_.order; j++)
      if (j != k) factor_kernels().mul64(n * n, gamma_, gram_[j], gamma_);
    // Columns have length 1, so the diagonal is 1 and `ridge` is relative. Rounding may leave a matrix of collinear
    // components indefinite; then the ridge grows until it is not.
    for (double ridge = p_.regularization;; ridge = std::max(ridge * 10, 1e-14)) {
      memcpy(chol_, gamma_, static_cast<size_t>(n * n) * sizeof(double));
      for (int64_t i = 0; i < n; i++) chol_[i * n + i] += ridge;
      if (dense_cholesky(n, chol_, n, p_.threads) < 0) break;
      if (ridge > 1e3) return WHITTLE_NONFINITE;
    }
    // F Gamma = M
    double* f = f_[k];
    memcpy(before_, f, static_cast<size_t>(dims_[k] * n) * sizeof(double));
    memcpy(f, m_, static_cast<size_t>(dims_[k] * n) * sizeof(double));
    s = dense_solve_lt(dims_[k], n, chol_, n, f, n, p_.threads);
    if (s == WHITTLE_OK) s = dense_solve_l(dims_[k], n, chol_, n, f, n, p_.threads);
    if (s != WHITTLE_OK) return s;
    for (int64_t r = 0; r < n; r++)
      if (!normalize(k, r, weight_ + r))  // keeps its direction, with weight 0
        for (int64_t i = 0; i < dims_[k]; i++) f[i * n + r] = before_[i * n + r];
    return gram(k);
  }

  // |X|^2 - 2 <X, X'> + |X'|^2 from what the last mode's update holds.
  double error_of(int k) const {
    double cross = 0, own = 0;
    for (int64_t i = 0; i < dims_[k]; i++)
      for (int64_t r = 0; r < rank_; r++) cross += m_[i * rank_ + r] * f_[k][i * rank_ + r] * weight_[r];
    for (int64_t r = 0; r < rank_; r++)
      for (int64_t s = 0; s < rank_; s++) own += gamma_[r * rank_ + s] * gram_[k][r * rank_ + s] * weight_[r] * weight_[s];
    const double e = norm_ - 2 * cross + own;
    return e > 0 ? e : 0;
  }

  WhittleStatus sweep(double* error) {
    for (int k = 0; k < p_.order; k++) {
      const WhittleStatus s = update(k);
      if (s != WHITTLE_OK) return s;
    }
    *error = error_of(p_.order - 1);
    return isfinite(*error) ? WHITTLE_OK : WHITTLE_NONFINITE;
  }

  // Components by weight, rounded; then the error and the angles of what is answered.
  WhittleStatus finish(int64_t iterations, bool converged) {
    std::unique_ptr<int64_t[]> by(new (std::nothrow) int64_t[static_cast<size_t>(rank_)]);
    if (!by) return WHITTLE_OUT_OF_MEMORY;
    if (norm_ == 0) std::fill(weight_, weight_ + rank_, 0.0);
    for (int64_t r = 0; r < rank_; r++) by[static_cast<size_t>(r)] = r;
    std::stable_sort(by.get(), by.get() + rank_, [&](int64_t a, int64_t b) { return weight_[a] > weight_[b]; });
    for (int64_t r = 0; r < rank_; r++) p_.weights[r] = static_cast<float>(weight_[by[static_cast<size_t>(r)]]);
    for (int k = 0; k < p_.order; k++) {
      float* out = p_.factors[mode_[k]];
      for (int64_t i = 0; i < dims_[k]; i++)
        for (int64_t r = 0; r < rank_; r++) out[i * rank_ + r] = static_cast<float>(f_[k][i * rank_ + by[static_cast<size_t>(r)]]);
      for (int64_t i = 0; i < dims_[k] * rank_; i++) f_[k][i] = static_cast<double>(out[i]);
      const WhittleStatus s = gram(k);
      if (s != WHITTLE_OK) return s;
    }
    double sum = 0, least = 1;
    for (int64_t r = 0; r < rank_; r++) {
      weight_[r] = static_cast<double>(p_.weights[r]);
      sum += weight_[r] * weight_[r];
    }
    for (int64_t r = 0; r < rank_; r++)
      for (int64_t s = 0; s < r; s++) {
        double cosine = 1;
        for (int k = 0; k < p_.order; k++) cosine *= gram_[k][r * rank_ + s];
        if (weight_[r] > 0 && weight_[s] > 0) least = std::min(least, cosine);
      }
    const int last = p_.order - 1;
    WhittleStatus status = mttkrp(1);
    if (status == WHITTLE_OK && last != 1) status = mttkrp(last);
    if (status != WHITTLE_OK) return status;
    for (int64_t i = 0; i < rank_ * rank_; i++) gamma_[i] = 1;
    for (int j = 0; j < last; j++) factor_kernels().mul64(rank_ * rank_, gamma_, gram_[j], gamma_);
    p_.result[0] = error_of(last);
    p_.result[1] = static_cast<double>(iterations);
    p_.result[2] = converged;
    p_.result[3] = norm_;
    p_.result[4] = least;
    p_.result[5] = sum;
    return isfinite(p_.result[0]) && isfinite(sum) ? WHITTLE_OK : WHITTLE_NONFINITE;
  }

  const Cp& p_;
  const int64_t rank_;
  Workspace space_;
  int first_ = 0;
  int mode_[kFactorOrder];       // place here -> the caller's mode
  int64_t dims_[kFactorOrder], rest_ = 1;
  Strided<float> x_ = {};        // dims_[0] x rest_
  double norm_ = 0;
  double *f_[kFactorOrder], *gram_[kFactorOrder];
  double *m_ = nullptr, *before_ = nullptr, *y_ = nullptr, *gamma_ = nullptr, *chol_ = nullptr, *weight_ = nullptr;
};

}  // namespace

WhittleStatus factor_cp(const Cp& p) { return Als(p).run(); }

}  // namespace whittle
