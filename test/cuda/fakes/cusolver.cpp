// cuSOLVER's contract on host memory, as far as cuda/cusolver.cu uses it: the documented names and signatures
// (cuda/cusolver_api.h, which a test holds against NVIDIA's header), opened through the production path. Rules cite the cuSOLVER
// API reference, "cuSolverDN: dense LAPACK". What it does not model ends the process. Work goes to the runtime's streams
// (runtime.h), which run it late; host memory that a call was given is used then too. The mathematics is one-sided Jacobi.
#include "cuda/cusolver_api.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <vector>

#include "../runtime.h"

// What tests set and read, by dlsym.
extern "C" {
struct FakeCusolver {
  int calls;          // of functions that put work on the stream
  int fail_at;        // the one with this number answers `failure`, counted from 0; -1: none
  int failure;        // a cusolverStatus_t
  int unconverged;    // bits: 1 gesvdj, 2 gesvdp, 4 gesvd, 8 gesvda report that they did not converge
  int spoiled;        // and these answer a wrong vector
  double perturbed;   // what gesvdp says that it has changed values by
  int counts[6];      // calls of gesvdj, gesvdp, gesvd, gesvda, geqrf, orgqr
};
__attribute__((visibility("default"))) FakeCusolver fake_cusolver = {0, -1, CUSOLVER_STATUS_EXECUTION_FAILED, 0, 0, 0, {0, 0, 0, 0, 0, 0}};
}

struct cusolverDnContext {
  cudaStream_t stream = nullptr;
};
struct cusolverDnParams {};
struct gesvdjInfo {
  int sweeps = -1;
};

namespace {

constexpr int kWords = 64;  // of every workspace
constexpr size_t kHostBytes = 96;

enum Which { kGesvdj, kGesvdp, kGesvd, kGesvda, kGeqrf, kOrgqr };

[[noreturn]] void unmodelled(const char* what) {
  fprintf(stderr, "the fake cuSOLVER does not model %s\n", what);
  abort();
}

fake::StreamHead* head_of(cusolverDnHandle_t h) {
  // "cusolverDnSetStream: sets the stream to be used"; without it the legacy default stream is
  if (!h->stream) unmodelled("the legacy default stream");
  return reinterpret_cast<fake::StreamHead*>(h->stream);
}

void there(cusolverDnHandle_t h, const void* p, int64_t bytes, const char* what) {
  if (head_of(h)->on_device(p, static_cast<uint64_t>(bytes))) return;
  fprintf(stderr, "cuSOLVER was given memory for %s that is not the device's, or too little of it\n", what);
  abort();
}

void enqueue(cusolverDnHandle_t h, std::function<void()> work) {
  head_of(h)->enqueue(reinterpret_cast<CUstream_st*>(h->stream),
                      [](void* context) {
                        auto* f = static_cast<std::function<void()>*>(context);
                        (*f)();
                        delete f;
                      },
                      new std::function<void()>(std::move(work)));
}

bool fails(Which which, cusolverStatus_t* status) {
  fake_cusolver.counts[which]++;
  if (fake_cusolver.calls++ != fake_cusolver.fail_at) return false;
  *status = static_cast<cusolverStatus_t>(fake_cusolver.failure);
  return true;
}

double dot(int64_t n, const double* x, const double* y) {
  double sum = 0;
  for (int64_t i = 0; i < n; i++) sum += x[i] * y[i];
  return sum;
}

// Columns [have, columns) of q become orthonormal to those before them, whatever they hold.
void complete(int64_t rows, int64_t have, int64_t columns, double* q) {
  for (int64_t k = have; k < columns; k++) {
    double* x = q + k * rows;
    for (int64_t e = 0; e < rows; e++) {
      std::fill(x, x + rows, 0.0);
      x[(k + e) % rows] = 1;
      for (int again = 0; again < 2; again++)
        for (int64_t j = 0; j < k; j++) {
          const double d = dot(rows, q + j * rows, x);
          for (int64_t i = 0; i < rows; i++) x[i] -= d * q[j * rows + i];
        }
      const double norm = sqrt(dot(rows, x, x));
      if (norm < 0.1 / sqrt(double(rows))) continue;
      for (int64_t i = 0; i < rows; i++) x[i] /= norm;
      break;
    }
  }
}

// a (m x n column-major, m >= n): u m x n, v n x n.
int jacobi(int64_t m, int64_t n, const double* a, double* s, std::vector<double>* u, std::vector<double>* v) {
  std::vector<double> w(a, a + m * n), z(size_t(n * n));
  for (int64_t i = 0; i < n; i++) z[size_t(i * n + i)] = 1;
  int sweeps = 0;
  for (bool moved = true; moved && sweeps < 60; sweeps++) {
    moved = false;
    for (int64_t p = 0; p < n; p++)
      for (int64_t q = p + 1; q < n; q++) {
        double *x = &w[size_t(p * m)], *y = &w[size_t(q * m)];
        const double alpha = dot(m, x, x), beta = dot(m, y, y), gamma = dot(m, x, y);
        if (fabs(gamma) <= 1e-16 * sqrt(alpha * beta) || gamma == 0) continue;
        moved = true;
        const double zeta = (beta - alpha) / (2 * gamma), t = (zeta >= 0 ? 1 : -1) / (fabs(zeta) + sqrt(1 + zeta * zeta));
        const double c = 1 / sqrt(1 + t * t), d = c * t;
        const auto turn = [&](double* i, double* j, int64_t len) {
          for (int64_t k = 0; k < len; k++) {
            const double f = i[k], g = j[k];
            i[k] = c * f - d * g;
            j[k] = d * f + c * g;
          }
        };
        turn(x, y, m);
        turn(&z[size_t(p * n)], &z[size_t(q * n)], n);
      }
  }
  std::vector<double> norms(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; i++) norms[size_t(i)] = sqrt(dot(m, &w[size_t(i * m)], &w[size_t(i * m)]));
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t i, int64_t j) { return norms[size_t(i)] > norms[size_t(j)]; });
  u->assign(size_t(m * n), 0);
  v->assign(size_t(n * n), 0);
  int64_t sound = 0;
  for (int64_t k = 0; k < n; k++) {
    const int64_t from = order[size_t(k)];
    s[k] = norms[size_t(from)];
    std::copy_n(&z[size_t(from * n)], n, &(*v)[size_t(k * n)]);
    if (s[k] > 1e-15 * s[0]) {
      sound = k + 1;
      for (int64_t i = 0; i < m; i++) (*u)[size_t(k * m + i)] = w[size_t(from * m + i)] / s[k];
    }
  }
  complete(m, sound, n, u->data());
  return sweeps;
}

void spoil(int bit, int64_t m, double* u) {
  if (fake_cusolver.spoiled & bit) u[0] += 1e-3 + (m > 1 ? 0 : 1e-3);
}

// "info = -i: the i-th parameter is wrong (not counting handle)"; such a call also answers INVALID_VALUE
cusolverStatus_t wrong(cusolverDnHandle_t h, int* info, int which) {
  enqueue(h, [=] { *info = -which; });
  return CUSOLVER_STATUS_INVALID_VALUE;
}

}  // namespace

extern "C" {
#pragma GCC visibility push(default)

cusolverStatus_t cusolverDnCreate(cusolverDnHandle_t* h) {
  *h = new cusolverDnContext;
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnSetStream(cusolverDnHandle_t h, cudaStream_t stream) {
  h->stream = stream;
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnCreateParams(cusolverDnParams_t* p) {
  *p = new cusolverDnParams;
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnCreateGesvdjInfo(gesvdjInfo_t* i) {
  *i = new gesvdjInfo;
  return CUSOLVER_STATUS_SUCCESS;
}
// "reports number of executed sweeps of gesvdj"; "NOT_SUPPORTED: does not support batched version"
cusolverStatus_t cusolverDnXgesvdjGetSweeps(cusolverDnHandle_t, gesvdjInfo_t i, int* sweeps) {
  if (i->sweeps < 0) unmodelled("sweeps before gesvdj has run");
  *sweeps = i->sweeps;
  return CUSOLVER_STATUS_SUCCESS;
}

// gesvdj: "econ = 1 for economy size: ldu >= max(1, m), ldv >= max(1, n), U m x min(m,n), V n x min(m,n)"; "INVALID_VALUE:
// m,n<0 or lda<max(1,m) or ldu<max(1,m) or ldv<max(1,n) or jobz is not ..."
cusolverStatus_t cusolverDnDgesvdj_bufferSize(cusolverDnHandle_t, cusolverEigMode_t, int econ, int m, int n, const double*, int lda, const double*,
                                              const double*, int ldu, const double*, int ldv, int* lwork, gesvdjInfo_t params) {
  if (!params || econ != 1 || m < 1 || n < 1 || lda < m || ldu < m || ldv < n) return CUSOLVER_STATUS_INVALID_VALUE;
  *lwork = kWords + n;
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnDgesvdj(cusolverDnHandle_t h, cusolverEigMode_t jobz, int econ, int m, int n, double* a, int lda, double* s, double* u,
                                   int ldu, double* v, int ldv, double* work, int lwork, int* info, gesvdjInfo_t params) {
  cusolverStatus_t status;
  if (fails(kGesvdj, &status)) return status;
  there(h, info, 4, "info");
  if (m < n) unmodelled("gesvdj of a wide matrix");
  if (lwork < kWords + n) return wrong(h, info, 14);
  if (econ != 1 || lda != m || ldu != m || ldv != n) unmodelled("gaps between columns");
  const bool vectors = jobz == CUSOLVER_EIG_MODE_VECTOR;
  there(h, a, 8ll * m * n, "A");
  there(h, s, 8ll * n, "S");
  there(h, work, 8ll * lwork, "work");
  if (vectors) there(h, u, 8ll * m * n, "U"), there(h, v, 8ll * n * n, "V");
  enqueue(h, [=] {
    std::vector<double> left, right;
    params->sweeps = jacobi(m, n, a, s, &left, &right);
    if (vectors) {
      std::copy(left.begin(), left.end(), u);
      std::copy(right.begin(), right.end(), v);
      spoil(1, m, u);
    } else if (fake_cusolver.spoiled & 1) {
      s[0] *= 1.001;
    }
    // "A: on exit, the contents of A are destroyed"
    memset(a, 0xA5, size_t(m) * size_t(n) * 8);
    memset(work, 0xA5, size_t(lwork) * 8);
    // "info = min(m,n)+1: gesvdj does not converge under given tolerance and maximum sweeps"
    *info = fake_cusolver.unconverged & 1 ? n + 1 : 0;
  });
  return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnXgesvdp_bufferSize(cusolverDnHandle_t, cusolverDnParams_t params, cusolverEigMode_t, int econ, int64_t m, int64_t n,
                                              cudaDataType ta, const void*, int64_t lda, cudaDataType ts, const void*, cudaDataType tu, const void*,
                                              int64_t ldu, cudaDataType tv, const void*, int64_t ldv, cudaDataType tc, size_t* device,
                                              size_t* host) {
  if (!params || econ != 1 || m < 1 || n < 1 || lda < m || ldu < m || ldv < n) return CUSOLVER_STATUS_INVALID_VALUE;
  if (ta != CUDA_R_64F || ts != ta || tu != ta || tv != ta || tc != ta) unmodelled("another type");
  *device = size_t(kWords + n) * 8;
  *host = kHostBytes;
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnXgesvdp(cusolverDnHandle_t h, cusolverDnParams_t, cusolverEigMode_t jobz, int, int64_t m, int64_t n, cudaDataType, void* pa,
                                   int64_t lda, cudaDataType, void* ps, cudaDataType, void* pu, int64_t ldu, cudaDataType, void* pv, int64_t ldv,
                                   cudaDataType, void* device, size_t on_device, void* host, size_t on_host, int* info, double* off) {
  cusolverStatus_t status;
  if (fails(kGesvdp, &status)) return status;
  if (m < n || lda != m || ldu != m || ldv != n) unmodelled("gesvdp of a wide matrix, or gaps between columns");
  there(h, info, 4, "info");
  if (on_device < size_t(kWords + n) * 8) return wrong(h, info, 20);
  if (on_host < kHostBytes || !host) return wrong(h, info, 22);
  const bool vectors = jobz == CUSOLVER_EIG_MODE_VECTOR;
  double *a = static_cast<double*>(pa), *s = static_cast<double*>(ps), *u = static_cast<double*>(pu), *v = static_cast<double*>(pv);
  there(h, a, 8 * m * n, "A");
  there(h, s, 8 * n, "S");
  there(h, device, int64_t(on_device), "work");
  if (vectors) there(h, u, 8 * m * n, "U"), there(h, v, 8 * n * n, "V");
  enqueue(h, [=] {
    std::vector<double> left, right;
    jacobi(m, n, a, s, &left, &right);
    if (vectors) {
      std::copy(left.begin(), left.end(), u);
      std::copy(right.begin(), right.end(), v);
      spoil(2, m, u);
    }
    memset(a, 0xA5, size_t(m * n) * 8);
    memset(device, 0xA5, on_device);
    memset(host, 0xA5, on_host);
    // "h_err_sigma: magnitude of the perturbation, showing the accuracy of SVD"
    *off = fake_cusolver.perturbed;
    *info = fake_cusolver.unconverged & 2 ? 1 : 0;
  });
  return CUSOLVER_STATUS_SUCCESS;
}

// gesvd: "Remark 1: gesvd only supports m>=n"; "jobu = 'S': the first min(m,n) columns of U"; "VT: min(m,n) rows of V**T, ldvt
// >= min(m,n)"
cusolverStatus_t cusolverDnXgesvd_bufferSize(cusolverDnHandle_t, cusolverDnParams_t params, signed char ju, signed char jv, int64_t m, int64_t n,
                                             cudaDataType ta, const void*, int64_t lda, cudaDataType ts, const void*, cudaDataType tu, const void*,
                                             int64_t ldu, cudaDataType tv, const void*, int64_t ldv, cudaDataType tc, size_t* device,
                                             size_t* host) {
  if (!params || m < n || n < 1 || lda < m || ldu < m || ldv < n) return CUSOLVER_STATUS_INVALID_VALUE;
  if (ta != CUDA_R_64F || ts != ta || tu != ta || tv != ta || tc != ta || ju != jv || (ju != 'S' && ju != 'N')) unmodelled("another type or job");
  *device = size_t(kWords + n) * 8;
  *host = kHostBytes;
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnXgesvd(cusolverDnHandle_t h, cusolverDnParams_t, signed char ju, signed char, int64_t m, int64_t n, cudaDataType, void* pa,
                                  int64_t lda, cudaDataType, void* ps, cudaDataType, void* pu, int64_t ldu, cudaDataType, void* pv, int64_t ldv,
                                  cudaDataType, void* device, size_t on_device, void* host, size_t on_host, int* info) {
  cusolverStatus_t status;
  if (fails(kGesvd, &status)) return status;
  if (m < n) return CUSOLVER_STATUS_INVALID_VALUE;
  if (lda != m || ldu != m || ldv != n) unmodelled("gaps between columns");
  there(h, info, 4, "info");
  if (on_device < size_t(kWords + n) * 8) return wrong(h, info, 20);
  if (on_host < kHostBytes || !host) return wrong(h, info, 22);
  double *a = static_cast<double*>(pa), *s = static_cast<double*>(ps), *u = static_cast<double*>(pu), *vt = static_cast<double*>(pv);
  there(h, a, 8 * m * n, "A");
  there(h, s, 8 * n, "S");
  there(h, device, int64_t(on_device), "work");
  if (ju == 'S') there(h, u, 8 * m * n, "U"), there(h, vt, 8 * n * n, "VT");
  enqueue(h, [=] {
    std::vector<double> left, right;
    jacobi(m, n, a, s, &left, &right);
    if (ju == 'S') {
      std::copy(left.begin(), left.end(), u);
      for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k < n; k++) vt[i * n + k] = right[size_t(k * n + i)];
      spoil(4, m, u);
    } else if (fake_cusolver.spoiled & 4) {
      s[0] *= 1.001;
    }
    memset(a, 0xA5, size_t(m * n) * 8);
    memset(device, 0xA5, on_device);
    memset(host, 0xA5, on_host);
    // "info > 0: how many superdiagonals of an intermediate bidiagonal form did not converge to zero"
    *info = fake_cusolver.unconverged & 4 ? 2 : 0;
  });
  return CUSOLVER_STATUS_SUCCESS;
}

// gesvda: "approximates the singular value decomposition of a tall skinny m x n matrix", "computes eigenvalues of A**T*A"; "if
// a singular value is far from zero, then the left singular vector is accurate"; "h_R_nrmF: host array of batchSize"; "d_info: min(m,n)+1: did not converge"
cusolverStatus_t cusolverDnDgesvdaStridedBatched_bufferSize(cusolverDnHandle_t, cusolverEigMode_t, int rank, int m, int n, const double*, int lda,
                                                            long long, const double*, long long, const double*, int ldu, long long, const double*,
                                                            int ldv, long long, int* lwork, int batch) {
  if (m < n || rank < 1 || rank > n || lda < m || ldu < m || ldv < n || batch < 1) return CUSOLVER_STATUS_INVALID_VALUE;
  *lwork = kWords + n;
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnDgesvdaStridedBatched(cusolverDnHandle_t h, cusolverEigMode_t jobz, int rank, int m, int n, const double* a, int lda,
                                                 long long sa, double* s, long long ss, double* u, int ldu, long long su, double* v, int ldv,
                                                 long long sv, double* work, int lwork, int* info, double* residuals, int batch) {
  cusolverStatus_t status;
  if (fails(kGesvda, &status)) return status;
  if (m < n) return CUSOLVER_STATUS_INVALID_VALUE;
  if (jobz != CUSOLVER_EIG_MODE_VECTOR || rank != n || lda != m || ldu != m || ldv != n || sa != 1ll * m * n || ss != n || su != sa || sv != 1ll * n * n)
    unmodelled("a gesvda of fewer values, without vectors or with gaps");
  there(h, info, 4ll * batch, "info");
  if (lwork < kWords + n) return wrong(h, info, 18);
  there(h, a, 8ll * batch * sa, "A");
  there(h, s, 8ll * batch * n, "S");
  there(h, u, 8ll * batch * su, "U");
  there(h, v, 8ll * batch * sv, "V");
  there(h, work, 8ll * lwork, "work");
  enqueue(h, [=] {
    for (int b = 0; b < batch; b++) {
      double* out = u + b * su;
      std::vector<double> left, right;
      jacobi(m, n, a + b * sa, s + b * ss, &left, &right);
      std::copy(left.begin(), left.end(), out);
      std::copy(right.begin(), right.end(), v + b * sv);
      // What the squares have lost.
      for (int k = 0; k < n; k++)
        if (s[b * ss + k] <= 1e-8 * s[b * ss]) std::fill(out + k * m, out + (k + 1) * m, 0.0);
      if (b == 1) spoil(8, m, out);
      residuals[b] = 0;
      info[b] = fake_cusolver.unconverged & 8 && b == 0 ? n + 1 : 0;
    }
    memset(work, 0xA5, size_t(lwork) * 8);
  });
  return CUSOLVER_STATUS_SUCCESS;
}

// geqrf: "INVALID_VALUE: m,n<0 or lda<max(1,m)"; "the matrix R is overwritten in the upper triangular part of A, including
// diagonal elements; the vectors of Q below the diagonal, v(i) = 1"; Q = H(1) ... H(k), H = I - tau v v^T
cusolverStatus_t cusolverDnDgeqrf_bufferSize(cusolverDnHandle_t, int m, int n, double*, int lda, int* lwork) {
  if (m < 1 || n < 1 || lda < m) return CUSOLVER_STATUS_INVALID_VALUE;
  *lwork = kWords;
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnDgeqrf(cusolverDnHandle_t h, int m, int n, double* a, int lda, double* tau, double* work, int lwork, int* info) {
  cusolverStatus_t status;
  if (fails(kGeqrf, &status)) return status;
  if (m < n || lda != m) unmodelled("geqrf of a wide matrix, or gaps between columns");
  there(h, info, 4, "info");
  if (lwork < kWords) return wrong(h, info, 7);
  there(h, a, 8ll * m * n, "A");
  there(h, tau, 8ll * n, "TAU");
  there(h, work, 8ll * lwork, "work");
  enqueue(h, [=] {
    for (int k = 0; k < n; k++) {
      double* x = a + int64_t(k) * m + k;
      const int len = m - k;
      const double rest = dot(len - 1, x + 1, x + 1), norm = sqrt(x[0] * x[0] + rest);
      tau[k] = 0;
      if (rest > 0) {
        const double beta = x[0] > 0 ? -norm : norm;
        tau[k] = (beta - x[0]) / beta;
        for (int i = 1; i < len; i++) x[i] /= x[0] - beta;
        x[0] = beta;
      }
      for (int j = k + 1; j < n; j++) {
        double* y = a + int64_t(j) * m + k;
        const double t = tau[k] * (y[0] + dot(len - 1, x + 1, y + 1));
        y[0] -= t;
        for (int i = 1; i < len; i++) y[i] -= t * x[i];
      }
    }
    memset(work, 0xA5, size_t(lwork) * 8);
    *info = 0;
  });
  return CUSOLVER_STATUS_SUCCESS;
}

// orgqr: "generates the unitary matrix Q of dimension mxn: m >= n >= k, the first n columns of a product of k reflectors"
cusolverStatus_t cusolverDnDorgqr_bufferSize(cusolverDnHandle_t, int m, int n, int k, const double*, int lda, const double*, int* lwork) {
  if (m < n || n < k || k < 1 || lda < m) return CUSOLVER_STATUS_INVALID_VALUE;
  *lwork = kWords;
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnDorgqr(cusolverDnHandle_t h, int m, int n, int k, double* a, int lda, const double* tau, double* work, int lwork, int* info) {
  cusolverStatus_t status;
  if (fails(kOrgqr, &status)) return status;
  if (k != n || lda != m) unmodelled("fewer reflectors than columns, or gaps between columns");
  there(h, info, 4, "info");
  if (lwork < kWords) return wrong(h, info, 9);
  there(h, a, 8ll * m * n, "A");
  there(h, tau, 8ll * n, "tau");
  there(h, work, 8ll * lwork, "work");
  enqueue(h, [=] {
    std::vector<double> q(size_t(m) * size_t(n));
    for (int j = 0; j < n; j++) q[size_t(j) * size_t(m) + size_t(j)] = 1;
    for (int p = n - 1; p >= 0; p--) {
      const double* x = a + int64_t(p) * m + p;
      for (int j = p; j < n; j++) {
        double* y = &q[size_t(j) * size_t(m) + size_t(p)];
        const double t = tau[p] * (y[0] + dot(m - p - 1, x + 1, y + 1));
        y[0] -= t;
        for (int i = 1; i < m - p; i++) y[i] -= t * x[i];
      }
    }
    std::copy(q.begin(), q.end(), a);
    if (fake_cusolver.spoiled & 16) a[0] += 1e-3;
    memset(work, 0xA5, size_t(lwork) * 8);
    *info = 0;
  });
  return CUSOLVER_STATUS_SUCCESS;
}

#pragma GCC visibility pop
}
