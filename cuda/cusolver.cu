// Opening cuSOLVER, and its decompositions: workspaces, statuses. Launches nothing of its own.
#include "cuda/cusolver.h"

#include <stdio.h>

#include <mutex>

#include "cuda/cusolver_api.h"
#include "cuda/library.h"

namespace whittle {
namespace {

constexpr int kMostDevices = 64;
constexpr int64_t kMostSide = 2147483647;

struct Api {
#define X(name) decltype(&::name) name = nullptr;
  WHITTLE_CUSOLVER_FUNCTIONS(X)
#undef X
  NvidiaOpened opened;
  // Of each device, used in its turn; `lock` is for their making.
  std::mutex lock;
  cusolverDnHandle_t handles[kMostDevices] = {};
  cusolverDnParams_t params[kMostDevices] = {};
  gesvdjInfo_t rotations[kMostDevices] = {};
};

constexpr NvidiaLibrary kLibrary = {"WHITTLE_CUSOLVER_LIBRARY", "libcusolver.so." WHITTLE_TEXT(WHITTLE_CUSOLVER_MAJOR), "nvidia-cusolver",
                                    "svd, lowRank"};

Api& api() {
  static Api* const opened = [] {
    Api* made = new Api;
#define X(name) {#name, reinterpret_cast<void**>(&made->name)},
    open_nvidia(kLibrary, {WHITTLE_CUSOLVER_FUNCTIONS(X)}, &made->opened);
#undef X
    return made;
  }();
  return *opened;
}

const char* words_of(int status) {
  switch (status) {
    case CUSOLVER_STATUS_NOT_INITIALIZED: return "is not initialized";
    case CUSOLVER_STATUS_INVALID_VALUE: return "refuses its arguments";
    case CUSOLVER_STATUS_ARCH_MISMATCH: return "does not serve this device";
    case CUSOLVER_STATUS_EXECUTION_FAILED: return "failed";
    case CUSOLVER_STATUS_NOT_SUPPORTED: return "does not serve this shape";
    default: return "failed within";
  }
}

}  // namespace

CudaLibrary cusolver_library() { return library_of(api().opened); }

Solver::Solver(Work& work) : work_(work) {
  Api& a = api();
  if (!a.opened.open) {
    work.refuse(a.opened.why);
    return;
  }
  if (!work.good()) return;
  const std::lock_guard<std::mutex> guard(a.lock);
  const int32_t d = work.device();
  if (!a.handles[d] && !said(a.cusolverDnCreate(&a.handles[d]), "cusolverDnCreate")) a.handles[d] = nullptr;
  else if (!a.params[d] && !said(a.cusolverDnCreateParams(&a.params[d]), "cusolverDnCreateParams")) a.params[d] = nullptr;
  else if (!a.rotations[d] && !said(a.cusolverDnCreateGesvdjInfo(&a.rotations[d]), "cusolverDnCreateGesvdjInfo")) a.rotations[d] = nullptr;
  else said(a.cusolverDnSetStream(a.handles[d], work.stream()), "cusolverDnSetStream");
  if (why_[0]) work.refuse(why_);
}

Solver::~Solver() {
  if (!buffers_.empty() && work_.stream()) cudaStreamSynchronize(work_.stream());
}

bool Solver::said(int status, const char* function) {
  if (status == CUSOLVER_STATUS_SUCCESS) return work_.good();
  snprintf(why_, sizeof why_, "%s %s (status %d)", function, words_of(status), status);
  if (status == CUSOLVER_STATUS_ALLOC_FAILED) work_.refuse_memory();
  return false;
}

char* Solver::host(size_t bytes) {
  if (bytes == 0) return nullptr;
  buffers_.emplace_back(new char[bytes]);
  return buffers_.back().get();
}

bool Solver::svd(SvdWay way, int64_t m, int64_t n, double* a, double* s, double* u, double* v, int* info, double* off) {
  if (!work_.good()) return false;
  const Api& f = api();
  const int32_t d = work_.device();
  const cusolverDnHandle_t handle = f.handles[d];
  const cusolverEigMode_t mode = u ? CUSOLVER_EIG_MODE_VECTOR : CUSOLVER_EIG_MODE_NOVECTOR;
  const cudaDataType t = CUDA_R_64F;
  *off = 0;
  if (way == SvdWay::jacobi) {
    const int rows = static_cast<int>(m), columns = static_cast<int>(n);
    int size = 0;
    if (m > kMostSide || !said(f.cusolverDnDgesvdj_bufferSize(handle, mode, 1, rows, columns, a, rows, s, u, rows, v, columns, &size, f.rotations[d]),
                               "cusolverDnDgesvdj_bufferSize"))
      return false;
    double* space = static_cast<double*>(work_.workspace(size * static_cast<int64_t>(sizeof(double))));
    return space && said(f.cusolverDnDgesvdj(handle, mode, 1, rows, columns, a, rows, s, u, rows, v, columns, space, size, info, f.rotations[d]),
                         "cusolverDnDgesvdj");
  }
  size_t there = 0, here = 0;
  if (way == SvdWay::polar) {
    if (!said(f.cusolverDnXgesvdp_bufferSize(handle, f.params[d], mode, 1, m, n, t, a, m, t, s, t, u, m, t, v, n, t, &there, &here),
              "cusolverDnXgesvdp_bufferSize"))
      return false;
    void* space = work_.workspace(static_cast<int64_t>(there));
    return space && said(f.cusolverDnXgesvdp(handle, f.params[d], mode, 1, m, n, t, a, m, t, s, t, u, m, t, v, n, t, space, there, host(here), here,
                                             info, off),
                         "cusolverDnXgesvdp");
  }
  const signed char job = u ? 'S' : 'N';
  if (!said(f.cusolverDnXgesvd_bufferSize(handle, f.params[d], job, job, m, n, t, a, m, t, s, t, u, m, t, v, n, t, &there, &here),
            "cusolverDnXgesvd_bufferSize"))
    return false;
  void* space = work_.workspace(static_cast<int64_t>(there));
  return space && said(f.cusolverDnXgesvd(handle, f.params[d], job, job, m, n, t, a, m, t, s, t, u, m, t, v, n, t, space, there, host(here), here, info),
                       "cusolverDnXgesvd");
}

bool Solver::stack(int64_t batch, int64_t m, int64_t n, const double* a, double* s, double* u, double* v, int* info) {
  if (!work_.good() || batch > kMostSide || m > kMostSide) return false;
  const Api& f = api();
  const cusolverDnHandle_t handle = f.handles[work_.device()];
  const int rows = static_cast<int>(m), columns = static_cast<int>(n), count = static_cast<int>(batch);
  int size = 0;
  if (!said(f.cusolverDnDgesvdaStridedBatched_bufferSize(handle, CUSOLVER_EIG_MODE_VECTOR, columns, rows, columns, a, rows, m * n, s, n, u, rows,
                                                         m * n, v, columns, n * n, &size, count),
            "cusolverDnDgesvdaStridedBatched_bufferSize"))
    return false;
  double* space = static_cast<double*>(work_.workspace(size * static_cast<int64_t>(sizeof(double))));
  double* residuals = reinterpret_cast<double*>(host(static_cast<size_t>(batch) * sizeof(double)));
  return space && said(f.cusolverDnDgesvdaStridedBatched(handle, CUSOLVER_EIG_MODE_VECTOR, columns, rows, columns, a, rows, m * n, s, n, u, rows,
                                                         m * n, v, columns, n * n, space, size, info, residuals, count),
                       "cusolverDnDgesvdaStridedBatched");
}

bool Solver::reflections(int64_t m, int64_t n, double* a, double* tau, int* info) {
  if (!work_.good() || m > kMostSide) return false;
  const Api& f = api();
  const cusolverDnHandle_t handle = f.handles[work_.device()];
  const int rows = static_cast<int>(m), columns = static_cast<int>(n);
  int size = 0;
  if (!said(f.cusolverDnDgeqrf_bufferSize(handle, rows, columns, a, rows, &size), "cusolverDnDgeqrf_bufferSize")) return false;
  double* space = static_cast<double*>(work_.workspace(size * static_cast<int64_t>(sizeof(double))));
  return space && said(f.cusolverDnDgeqrf(handle, rows, columns, a, rows, tau, space, size, info), "cusolverDnDgeqrf");
}

bool Solver::basis(int64_t m, int64_t n, double* a, const double* tau, int* info) {
  if (!work_.good() || m > kMostSide) return false;
  const Api& f = api();
  const cusolverDnHandle_t handle = f.handles[work_.device()];
  const int rows = static_cast<int>(m), columns = static_cast<int>(n);
  int size = 0;
  if (!said(f.cusolverDnDorgqr_bufferSize(handle, rows, columns, columns, a, rows, tau, &size), "cusolverDnDorgqr_bufferSize")) return false;
  double* space = static_cast<double*>(work_.workspace(size * static_cast<int64_t>(sizeof(double))));
  return space && said(f.cusolverDnDorgqr(handle, rows, columns, columns, a, rows, tau, space, size, info), "cusolverDnDorgqr");
}

int64_t Solver::sweeps() {
  const Api& f = api();
  int count = 0;
  const int32_t d = work_.device();
  return f.cusolverDnXgesvdjGetSweeps(f.handles[d], f.rotations[d], &count) == CUSOLVER_STATUS_SUCCESS ? count : 0;
}

}  // namespace whittle
