// Pieces that the ways to a singular value decomposition share. The matrix is seen from its long side: x is tall x thin,
// column-major float64 like everything here.
#pragma once
#include <vector>

#include "core/svd_rules.h"
#include "cuda/cublaslt.h"
#include "cuda/cusolver.h"

namespace whittle {

constexpr int64_t kSvdPieces = 128;  // most blocks that share one matrix's sum

// One decomposition under way.
class SvdTask {
 public:
  SvdTask(Work& work, Solver& solver, const CudaSvd& problem) : work(work), solver(solver), problem(problem) {}

  // d (m x n) = alpha op(a) op(b) + beta d. Refuses the work where it cannot.
  struct Operand {
    const double* p;
    int64_t ld;
    bool transposed;
    int64_t stride;
  };
  void product(int64_t m, int64_t n, int64_t k, Operand a, Operand b, double* d, int64_t ldd, double alpha = 1, double beta = 0, int64_t batch = 1,
               int64_t stride = 0);
  // The sums of squares of `batch` runs of `count`, by host.
  bool squares(const double* x, int64_t count, int64_t batch, double* out);

  // The whole of it: p tall x thin, q thin x thin, both null for values only; values (thin) descending. Squared norm of x as
  // given. Tries one way after the other until the factors make up x again; the work is refused where none does.
  bool full(int64_t tall, int64_t thin, const double* x, double norm2, double* p, double* q, double* values);
  // `rank` leading triplets of the matrix by a search, or all of it where that would be no less: *full says so.
  bool randomized(int64_t tall, int64_t thin, const double* x, double norm2, double* p, double* q, std::vector<double>* values, bool* full);
  // Squared norm of what count triplets leave of x.
  bool residual(int64_t tall, int64_t thin, int64_t count, const double* x, const double* p, const double* s, const double* q, int64_t batch,
                double* out);
  // The largest |g - 1| of p^T p (k columns of length rows), for each of a stack.
  bool skewness(int64_t rows, int64_t k, const double* p, int64_t batch, double* out);

  Work& work;
  Solver& solver;
  const CudaSvd& problem;
  int64_t iterations = 0;
  double improvement = 0;
  bool converged = true;
};

inline int64_t svd_pieces(int64_t count) {
  const int64_t wanted = (count + 16383) / 16384;
  return wanted < kSvdPieces ? wanted : kSvdPieces;
}

// rows x columns column-major, each column times its s.
__global__ void svd_scale_kernel(const double* x, const double* s, int64_t rows, int64_t columns, int64_t count, double* out);

}  // namespace whittle
