// Non-negative matrix factorization. W is held transposed, so that both factors are rank x length and one code updates
// either: X from G = Y Y^T and B = Y A' with Y the other factor. A is packed once for each of its two products.
#include <math.h>
#include <string.h>

#include <atomic>
#include <memory>
#include <new>

#include "core/factor.h"
#include "core/gemm.h"
#include "core/svd_dense.h"
#include "core/threads.h"

namespace whittle {
namespace {

constexpr int64_t kPiece = 65536;
constexpr int64_t kColumns = 512;         // of a factor that one task updates
constexpr int64_t kAlone = 1 << 22;      // multiply-adds of a sweep's product that another thread would not shorten
constexpr int64_t kResidual = 1 << 19;    // elements of A - W H at a time

typedef std::unique_ptr<float[]> Floats;
Floats floats(int64_t n) { return Floats(new (std::nothrow) float[static_cast<size_t>(n > 0 ? n : 1)]); }

uint64_t mixed(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}
// Element i of a stream of uniform numbers in (0, 1).
double uniform(uint64_t seed, uint64_t i) {
  return (static_cast<double>(mixed(seed + (i + 1) * 0x9e3779b97f4a7c15ull) >> 11) + 0.5) * 0x1p-53;
}

struct Look {
  float most = 0;
  double sum = 0;
  int bad = 0, negative = 0;
};

Look look_at(const float* a, int64_t n) {
  Look l;
  for (int64_t i = 0; i < n; i++) {
    l.bad |= !isfinite(a[i]);
    l.negative |= a[i] < 0;
    l.most = a[i] > l.most ? a[i] : l.most;
    l.sum += static_cast<double>(a[i]);
  }
  return l;
}

class Solver {
 public:
  explicit Solver(const Nmf& p) : p_(p) {}

  WhittleStatus run() {
    for (int i = 0; i < 4; i++) p_.result[i] = 0;
    const WhittleStatus status = prepare();
    if (status != WHITTLE_OK) return status;
    double error = 0, before = 0, first = 0;
    int64_t t = 0;
    bool converged = norm_ == 0;
    if (converged) {
      memset(wt_.get(), 0, bytes(p_.rank * p_.m));
      memset(h_, 0, bytes(p_.rank * p_.n));
    }
    if (!measure(&error)) return WHITTLE_OUT_OF_MEMORY;
    first = before = sqrt(error);
    while (!converged && t < p_.iterations) {
      WhittleStatus s = update(wt_.get(), p_.m, h_, p_.n, packed_t_.get());
      if (s == WHITTLE_OK) s = update(h_, p_.n, wt_.get(), p_.m, packed_.get());
      if (s != WHITTLE_OK) return s;
      t++;
      if (t % kNmfCheck == 0 || t == p_.iterations) {
        if (!measure(&error)) return WHITTLE_OUT_OF_MEMORY;
        if (t % kNmfCheck == 0) {
          converged = before - sqrt(error) <= p_.tolerance * first;
          before = sqrt(error);
        }
      }
    }
    finish(error, t, converged);
    return isfinite(error) ? WHITTLE_OK : WHITTLE_NONFINITE;
  }

 private:
  static size_t bytes(int64_t count) { return static_cast<size_t>(count) * sizeof(float); }

  WhittleStatus prepare() {
    const int64_t n = p_.m * p_.n, pieces = (n + kPiece - 1) / kPiece;
    std::unique_ptr<Look[]> looks(new (std::nothrow) Look[static_cast<size_t>(pieces)]);
    if (!looks) return WHITTLE_OUT_OF_MEMORY;
    parallel_for(n, kPiece, p_.threads, [&](int64_t b, int64_t e) {
      for (; b < e; b += kPiece) looks[static_cast<size_t>(b / kPiece)] = look_at(p_.a + b, e - b < kPiece ? e - b : kPiece);
    });
    Look all;
    for (int64_t i = 0; i < pieces; i++) {
      const Look& l = looks[static_cast<size_t>(i)];
      all.bad |= l.bad;
      all.negative |= l.negative;
      all.most = l.most > all.most ? l.most : all.most;
      all.sum += l.sum;
    }
    if (all.bad) return WHITTLE_NONFINITE;
    if (all.negative) return WHITTLE_RANGE;
    a_ = p_.a;
    h_ = p_.h;
    // Products of a huge or tiny A would leave float32: then a copy whose largest element lies between 1 and 2 stands in.
    if (all.most > 0 && (all.most > 0x1p40f || all.most < 0x1p-40f)) {
      scale_ = ilogbf(all.most);
      copy_ = floats(n);
      if (!copy_) return WHITTLE_OUT_OF_MEMORY;
      for (int64_t i = 0; i < n; i++) copy_[static_cast<size_t>(i)] = scalbnf(p_.a[i], -scale_);
      a_ = copy_.get();
      all.sum = ldexp(all.sum, -scale_);
    }
    if (!sum_of_squares(a_, n, &norm_)) return WHITTLE_OUT_OF_MEMORY;
    const int64_t longest = p_.m > p_.n ? p_.m : p_.n;
    wt_ = floats(p_.rank * p_.m);
    b_ = floats(p_.rank * longest);
    d_ = floats(p_.hals ? 1 : p_.rank * longest);
    g_ = floats(p_.rank * p_.rank);
    gram_.reset(new (std::nothrow) double[static_cast<size_t>(p_.rank * p_.rank)]);
    packed_ = floats(gemm_packed_size(p_.m, p_.n));
    packed_t_ = floats(gemm_packed_size(p_.n, p_.m));
    if (!wt_ || !b_ || !d_ || !g_ || !gram_ || !packed_ || !packed_t_) return WHITTLE_OUT_OF_MEMORY;
    WhittleStatus s = gemm_pack_b(p_.m, p_.n, a_, p_.n, 1, packed_.get(), p_.threads);
    if (s == WHITTLE_OK) s = gemm_pack_b(p_.n, p_.m, a_, 1, p_.n, packed_t_.get(), p_.threads);
    if (s != WHITTLE_OK) return s;
    start(all.sum / static_cast<double>(n));
    return WHITTLE_OK;
  }

  // |standard normal| * sqrt(mean / rank), as scikit-learn draws it: W H has the mean of A.
  void start(double mean) {
    const int64_t m = p_.m, n = p_.n, rank = p_.rank;
    if (p_.given) {
      for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < rank; j++) wt_[static_cast<size_t>(j * m + i)] = scalbnf(p_.w[i * rank + j], -(scale_ / 2));
      for (int64_t i = 0; i < rank * n; i++) h_[i] = scalbnf(h_[i], -(scale_ - scale_ / 2));
      return;
    }
    const double by = sqrt(mean / static_cast<double>(rank));
    const auto draw = [&](uint64_t i) {
      const double r = sqrt(-2 * log(uniform(p_.seed, 2 * i)));
      return static_cast<float>(by * fabs(r * cos(6.283185307179586 * uniform(p_.seed, 2 * i + 1))));
    };
    for (int64_t i = 0; i < rank * m; i++) wt_[static_cast<size_t>(i)] = draw(static_cast<uint64_t>(i));
    for (int64_t i = 0; i < rank * n; i++) h_[i] = draw(static_cast<uint64_t>(rank * m + i));
  }

  // x (rank x length) from y (rank x k); `packed` is k x length.
  WhittleStatus update(float* x, int64_t length, const float* y, int64_t k, const float* packed) {
    const int64_t rank = p_.rank;
    const int threads = rank * length * k < kAlone ? 1 : p_.threads;
    GemmProblem p;
    p.m = rank;
    p.n = length;
    p.k = k;
    p.a = y;
    p.a_row = k;
    p.packed = packed;
    p.c = b_.get();
    p.ldc = length;
    WhittleStatus s = gemm_f32(p, threads);
    if (s != WHITTLE_OK) return s;
    DenseProduct q;
    q.m = q.n = rank;
    q.k = k;
    s = dense_gemm(q, rows_of(y, k), columns_of(y, k), gram_.get(), rank, threads);
    if (s != WHITTLE_OK) return s;
    for (int64_t i = 0; i < rank * rank; i++) g_[static_cast<size_t>(i)] = static_cast<float>(gram_[static_cast<size_t>(i)]);
    const FactorKernels& f = factor_kernels();
    if (p_.hals) {
      parallel_for(length, kColumns, threads, [&](int64_t b, int64_t e) {
        for (int64_t c = b; c < e; c += kColumns)
          f.hals(rank, e - c < kColumns ? e - c : kColumns, g_.get(), b_.get() + c, length, x + c, length);
      });
      return WHITTLE_OK;
    }
    GemmProblem r;
    r.m = r.k = rank;
    r.n = length;
    r.a = g_.get();
    r.a_row = rank;
    r.b = x;
    r.b_row = length;
    r.b_col = 1;
    r.c = d_.get();
    r.ldc = length;
    s = gemm_f32(r, threads);
    if (s != WHITTLE_OK) return s;
    parallel_for(rank * length, kPiece, threads, [&](int64_t b, int64_t e) { f.ratio(e - b, b_.get() + b, d_.get() + b, x + b); });
    return WHITTLE_OK;
  }

  bool sum_of_squares(const float* x, int64_t n, double* sum) {
    const int64_t pieces = (n + kPiece - 1) / kPiece;
    std::unique_ptr<double[]> parts(new (std::nothrow) double[static_cast<size_t>(pieces)]);
    if (!parts) return false;
    parallel_for(n, kPiece, p_.threads, [&](int64_t b, int64_t e) {
      for (; b < e; b += kPiece)
        parts[static_cast<size_t>(b / kPiece)] = factor_kernels().squares(e - b < kPiece ? e - b : kPiece, x + b);
    });
    *sum = 0;
    for (int64_t i = 0; i < pieces; i++) *sum += parts[static_cast<size_t>(i)];
    return true;
  }

  // |A - W H|^2, a few rows of A at a time.
  bool measure(double* error) {
    int64_t rows = kResidual / p_.n;
    rows = rows < 1 ? 1 : rows > p_.m ? p_.m : rows;
    if (!rest_) rest_ = floats(rows * p_.n);
    if (!rest_) return false;
    *error = 0;
    for (int64_t i = 0; i < p_.m; i += rows) {
      GemmProblem p;
      p.m = p_.m - i < rows ? p_.m - i : rows;
      p.n = p_.n;
      p.k = p_.rank;
      p.a = wt_.get() + i;
      p.a_row = 1;
      p.a_col = p_.m;
      p.b = h_;
      p.b_row = p_.n;
      p.b_col = 1;
      p.c = rest_.get();
      p.ldc = p_.n;
      p.alpha = -1;
      p.beta = 1;
      p.source = a_ + i * p_.n;
      p.source_row = p_.n;
      p.source_col = 1;
      double part;
      if (gemm_f32(p, p_.threads) != WHITTLE_OK || !sum_of_squares(rest_.get(), p.m * p_.n, &part)) return false;
      *error += part;
    }
    return true;
  }

  void finish(double error, int64_t iterations, bool converged) {
    const int64_t m = p_.m, n = p_.n, rank = p_.rank;
    for (int64_t i = 0; i < m; i++)
      for (int64_t j = 0; j < rank; j++) p_.w[i * rank + j] = scalbnf(wt_[static_cast<size_t>(j * m + i)], scale_ / 2);
    if (scale_ != 0)
      for (int64_t i = 0; i < rank * n; i++) h_[i] = scalbnf(h_[i], scale_ - scale_ / 2);
    p_.result[0] = ldexp(error, 2 * scale_);
    p_.result[1] = static_cast<double>(iterations);
    p_.result[2] = converged;
    p_.result[3] = ldexp(norm_, 2 * scale_);
  }

  const Nmf& p_;
  const float* a_ = nullptr;
  float* h_ = nullptr;
  int scale_ = 0;
  double norm_ = 0;
  Floats copy_, wt_, b_, d_, g_, packed_, packed_t_, rest_;
  std::unique_ptr<double[]> gram_;
};

}  // namespace

WhittleStatus factor_nmf(const Nmf& p) { return Solver(p).run(); }

}  // namespace whittle
