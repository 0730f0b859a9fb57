// cuSOLVER, opened when a decomposition first wants it, through a table of the documented types. Matrices are column-major
// float64, without gaps between columns.
#pragma once
#include <memory>
#include <vector>

#include "cuda/backend.h"

namespace whittle {

// Jacobi rotations (gesvdj), for small and medium matrices; polar decomposition and eigenvectors (gesvdp), for large ones; QR
// iterations (gesvd), slow, where the others do not do.
enum class SvdWay { jacobi, polar, qr };

class Solver {
 public:
  // Refuses the work where the library cannot be had.
  explicit Solver(Work& work);
  ~Solver();
  Solver(const Solver&) = delete;
  Solver& operator=(const Solver&) = delete;

  // All of these put work on the stream. False: the library would not (why() has its words), or the work has failed.
  //
  // a (m x n, m >= n) = u diag(s) v^T: u m x n, v n x n, which SvdWay::qr answers transposed; both null for values only. `a` is
  // lost. *info is device memory, 0 where it converged; *off, host memory, is what polar has changed values by.
  bool svd(SvdWay way, int64_t m, int64_t n, double* a, double* s, double* u, double* v, int* info, double* off);
  // The same for a stack, from eigenvectors of a^T a: of small values u is wrong. An info each. `a` stays.
  bool stack(int64_t batch, int64_t m, int64_t n, const double* a, double* s, double* u, double* v, int* info);
  // a (m x n, m >= n) becomes reflections and R above its diagonal; then an orthonormal basis of its columns.
  bool reflections(int64_t m, int64_t n, double* a, double* tau, int* info);
  bool basis(int64_t m, int64_t n, double* a, const double* tau, int* info);

  // Sweeps of the last svd() by rotations, once its work is done.
  int64_t sweeps();
  const char* why() const { return why_; }

 private:
  bool said(int status, const char* function);
  char* host(size_t bytes);

  Work& work_;
  char why_[160] = "";
  std::vector<std::unique_ptr<char[]>> buffers_;  // that the library may use until its work is done
};

}  // namespace whittle
