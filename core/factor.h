// Factorizations other than the SVD: non-negative matrices (NMF), CP, Tucker, separable kernels; ranks by energy and by
// variational Bayes.
//
// NMF works in float32 (its products are the float32 GEMM's) and measures its error directly, A - W H in float32, squared
// and added in double. The others read float32 and compute in double: alternating least squares squares condition
// numbers, and an error found as a difference of squares needs the digits. Results do not depend on the thread count.
#pragma once
#include <stdint.h>

namespace whittle {

// Single-threaded pieces, any alignment, any n >= 0.
struct FactorKernels {
  // One sweep of hierarchical alternating least squares over `rank` rows of x, `cols` columns each: in order of j,
  // x_j = max(0, x_j + (b_j - sum_k g[j * rank + k] x_k) / g[j * rank + j]); a row whose g is not positive stays.
  // |error| of the sum: gamma_(rank + 4) of its terms, in float32.
  void (*hals)(int64_t rank, int64_t cols, const float* g, const float* b, int64_t b_row, float* x, int64_t x_row);
  // x[i] = den[i] >= FLT_MIN ? x[i] * (num[i] / den[i]) : 0, each operation rounded once.
  void (*ratio)(int64_t n, const float* num, const float* den, float* x);
  // sum x^2, in double
  double (*squares)(int64_t n, const float* x);
  // out[i] = a[i] * b[i]; out may be a or b
  void (*mul64)(int64_t n, const double* a, const double* b, double* out);
  // out[i] = fma(a[i], b[i], out[i])
  void (*fma64)(int64_t n, const double* a, const double* b, double* out);
};

}  // namespace whittle

#ifndef WHITTLE_ISA_FILE
#include "core/status.h"
#include "core/variants.h"

namespace whittle {

VariantList<FactorKernels> factor_variants();
const FactorKernels& factor_kernels();
Tier factor_tier();

constexpr int kFactorOrder = 16;  // most dimensions of a tensor

// A (m x n, non-negative) ~ W H, W m x rank, H rank x n, both non-negative, in the Frobenius norm.
struct Nmf {
  int64_t m, n, rank;  // 1 <= rank <= min(m, n)
  const float* a;
  bool hals;           // else multiplicative updates; W before H in either
  bool given;          // w and h hold the start, else it is drawn from the seed
  uint64_t seed;
  int64_t iterations;
  // Checked every kNmfCheck iterations: converged when the error fell by no more than this share of the first one.
  double tolerance;
  int threads;
  float *w, *h;
  double* result;      // squared error, iterations, converged, squared norm of A
};
constexpr int64_t kNmfCheck = 10;
// WHITTLE_NONFINITE, and WHITTLE_RANGE for a negative element.
WhittleStatus factor_nmf(const Nmf& p);

// X ~ sum_r weight_r a_r o b_r o c_r o ..., columns of unit length, weights >= 0 descending. Alternating least squares on
// |X - X'|^2 + regularization * sum weight^2, which bounds the weights: two components that grow against each other (there
// may be no best approximation) stop at sum weight^2 <= |X|^2 / regularization.
struct Cp {
  int order;           // 2 to kFactorOrder
  int64_t dims[kFactorOrder];
  int64_t rank;
  const float* x;
  bool leading;        // start from leading singular vectors of the unfoldings (random beyond their number), else random
  bool given;          // factors hold the start
  uint64_t seed;
  int64_t iterations;
  double tolerance;    // converged when a sweep lowers the error by no more than this share of |X|
  double regularization;
  int threads;
  float* factors[kFactorOrder];  // dims[k] x rank
  float* weights;                // rank
  // squared error, iterations, converged, squared norm of X, least product of cosines of two components, sum weight^2
  double* result;
};
WhittleStatus factor_cp(const Cp& p);

// How many leading components to keep of a spectrum.
enum FactorRanks : int32_t { kRanksGiven = 0, kRanksEnergy = 1, kRanksVbmf = 2 };

// X ~ core x_k U_k over the `modes`; the other dimensions stay whole. U_k dims[k] x ranks[k], orthonormal columns.
struct Tucker {
  int order;           // 1 to kFactorOrder
  int64_t dims[kFactorOrder];
  int modes;           // how many
  int32_t mode[kFactorOrder];    // ascending
  const float* x;
  int32_t choice;      // FactorRanks
  double energy;       // smallest rank whose squared singular values (of each unfolding) are this share of all
  bool hooi;           // else truncated HOSVD
  int64_t iterations;
  double tolerance;    // converged when a sweep lowers the error by no more than this share of |X|
  int threads;
  int64_t* ranks;      // one a mode: read if kRanksGiven, else written; 1 <= rank <= dims
  float* factors[kFactorOrder];  // one a mode, room for the rank or, if it is chosen here, for dims[mode]^2
  float* core;         // room likewise
  double* result;      // squared error, iterations, converged, squared norm of X
};
WhittleStatus factor_tucker(const Tucker& p);

// kernel [out, in, height, width] ~ vertical [rank, in, height, 1], then horizontal [out, rank, 1, width]: the best of its
// rank, by the SVD of the (in * height) x (out * width) matrix. `channel`: every height x width filter by itself, vertical
// [out * in * rank, 1, height, 1], horizontal [out * in, rank, 1, width].
struct Separable {
  int64_t out, in, height, width;
  const float* x;
  bool channel;
  int32_t choice;      // FactorRanks; given or energy if `channel`
  double energy;
  int threads;
  int64_t* rank;       // as Tucker's; at most min(in * height, out * width), or min(height, width)
  float *vertical, *horizontal;
  double* result;      // squared error, squared norm
};
WhittleStatus factor_separable(const Separable& p);

// Rank of a rows x columns matrix under Gaussian noise of unknown variance, from its squared singular values (`count` =
// min(rows, columns) of them, descending): the global solution of empirical variational Bayes matrix factorization
// (Nakajima, Sugiyama, Babacan, Tomioka 2013). *noise = variance; singular values below 1e-7 of the largest count as that.
int64_t factor_vbmf(const double* squares, int64_t count, int64_t rows, int64_t columns, double* noise);
// The smallest r with sum_(i <= r) squares >= energy * sum squares; at least 1.
int64_t factor_energy(const double* squares, int64_t count, double energy);

}  // namespace whittle
#endif
