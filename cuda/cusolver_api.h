// The functions of cuSOLVER (version 12, of CUDA 13) that cuda/ calls, as its API reference documents them: its header comes
// only with a quarter of a gigabyte of libraries. test/cuda/cusolver_api.cpp holds them against that header where it is
// installed; the types below are NVIDIA's own there.
#pragma once
#include <cuda_runtime_api.h>
#include <library_types.h>
#include <stddef.h>
#include <stdint.h>

#define WHITTLE_CUSOLVER_MAJOR 12

#if !defined(CUSOLVERDN_H_)
#define CUSOLVERAPI
typedef struct cusolverDnContext* cusolverDnHandle_t;
typedef struct cusolverDnParams* cusolverDnParams_t;
typedef struct gesvdjInfo* gesvdjInfo_t;
typedef enum { CUSOLVER_EIG_MODE_NOVECTOR = 0, CUSOLVER_EIG_MODE_VECTOR = 1 } cusolverEigMode_t;
typedef enum {
  CUSOLVER_STATUS_SUCCESS = 0,
  CUSOLVER_STATUS_NOT_INITIALIZED = 1,
  CUSOLVER_STATUS_ALLOC_FAILED = 2,
  CUSOLVER_STATUS_INVALID_VALUE = 3,
  CUSOLVER_STATUS_ARCH_MISMATCH = 4,
  CUSOLVER_STATUS_EXECUTION_FAILED = 6,
  CUSOLVER_STATUS_INTERNAL_ERROR = 7,
  CUSOLVER_STATUS_NOT_SUPPORTED = 9,
} cusolverStatus_t;
#endif

// Every function that is used. The names are looked up in NVIDIA's own library by npm run test:cuda.
#define WHITTLE_CUSOLVER_FUNCTIONS(X)                                                                                     \
  X(cusolverDnCreate) X(cusolverDnSetStream) X(cusolverDnCreateParams) X(cusolverDnCreateGesvdjInfo)                      \
  X(cusolverDnXgesvdjGetSweeps) X(cusolverDnDgesvdj_bufferSize) X(cusolverDnDgesvdj) X(cusolverDnXgesvdp_bufferSize)      \
  X(cusolverDnXgesvdp) X(cusolverDnXgesvd_bufferSize) X(cusolverDnXgesvd) X(cusolverDnDgesvdaStridedBatched_bufferSize)   \
  X(cusolverDnDgesvdaStridedBatched) X(cusolverDnDgeqrf_bufferSize) X(cusolverDnDgeqrf) X(cusolverDnDorgqr_bufferSize)    \
  X(cusolverDnDorgqr)

extern "C" {

cusolverStatus_t CUSOLVERAPI cusolverDnCreate(cusolverDnHandle_t* handle);
cusolverStatus_t CUSOLVERAPI cusolverDnSetStream(cusolverDnHandle_t handle, cudaStream_t stream);
cusolverStatus_t CUSOLVERAPI cusolverDnCreateParams(cusolverDnParams_t* params);
cusolverStatus_t CUSOLVERAPI cusolverDnCreateGesvdjInfo(gesvdjInfo_t* info);
cusolverStatus_t CUSOLVERAPI cusolverDnXgesvdjGetSweeps(cusolverDnHandle_t handle, gesvdjInfo_t info, int* executed);

cusolverStatus_t CUSOLVERAPI cusolverDnDgesvdj_bufferSize(cusolverDnHandle_t handle, cusolverEigMode_t jobz, int econ, int m, int n,
                                                          const double* a, int lda, const double* s, const double* u, int ldu,
                                                          const double* v, int ldv, int* lwork, gesvdjInfo_t params);
cusolverStatus_t CUSOLVERAPI cusolverDnDgesvdj(cusolverDnHandle_t handle, cusolverEigMode_t jobz, int econ, int m, int n, double* a,
                                               int lda, double* s, double* u, int ldu, double* v, int ldv, double* work, int lwork,
                                               int* info, gesvdjInfo_t params);

cusolverStatus_t CUSOLVERAPI cusolverDnXgesvdp_bufferSize(cusolverDnHandle_t handle, cusolverDnParams_t params, cusolverEigMode_t jobz,
                                                          int econ, int64_t m, int64_t n, cudaDataType type_a, const void* a, int64_t lda,
                                                          cudaDataType type_s, const void* s, cudaDataType type_u, const void* u,
                                                          int64_t ldu, cudaDataType type_v, const void* v, int64_t ldv,
                                                          cudaDataType compute, size_t* on_device, size_t* on_host);
cusolverStatus_t CUSOLVERAPI cusolverDnXgesvdp(cusolverDnHandle_t handle, cusolverDnParams_t params, cusolverEigMode_t jobz, int econ,
                                               int64_t m, int64_t n, cudaDataType type_a, void* a, int64_t lda, cudaDataType type_s,
                                               void* s, cudaDataType type_u, void* u, int64_t ldu, cudaDataType type_v, void* v,
                                               int64_t ldv, cudaDataType compute, void* device, size_t on_device, void* host,
                                               size_t on_host, int* info, double* perturbation);

cusolverStatus_t CUSOLVERAPI cusolverDnXgesvd_bufferSize(cusolverDnHandle_t handle, cusolverDnParams_t params, signed char jobu,
                                                         signed char jobvt, int64_t m, int64_t n, cudaDataType type_a, const void* a,
                                                         int64_t lda, cudaDataType type_s, const void* s, cudaDataType type_u,
                                                         const void* u, int64_t ldu, cudaDataType type_vt, const void* vt, int64_t ldvt,
                                                         cudaDataType compute, size_t* on_device, size_t* on_host);
cusolverStatus_t CUSOLVERAPI cusolverDnXgesvd(cusolverDnHandle_t handle, cusolverDnParams_t params, signed char jobu, signed char jobvt,
                                              int64_t m, int64_t n, cudaDataType type_a, void* a, int64_t lda, cudaDataType type_s,
                                              void* s, cudaDataType type_u, void* u, int64_t ldu, cudaDataType type_vt, void* vt,
                                              int64_t ldvt, cudaDataType compute, void* device, size_t on_device, void* host,
                                              size_t on_host, int* info);

cusolverStatus_t CUSOLVERAPI cusolverDnDgesvdaStridedBatched_bufferSize(cusolverDnHandle_t handle, cusolverEigMode_t jobz, int rank, int m,
                                                                        int n, const double* a, int lda, long long int stride_a,
                                                                        const double* s, long long int stride_s, const double* u, int ldu,
                                                                        long long int stride_u, const double* v, int ldv,
                                                                        long long int stride_v, int* lwork, int batch);
cusolverStatus_t CUSOLVERAPI cusolverDnDgesvdaStridedBatched(cusolverDnHandle_t handle, cusolverEigMode_t jobz, int rank, int m, int n,
                                                             const double* a, int lda, long long int stride_a, double* s,
                                                             long long int stride_s, double* u, int ldu, long long int stride_u, double* v,
                                                             int ldv, long long int stride_v, double* work, int lwork, int* info,
                                                             double* residuals, int batch);

cusolverStatus_t CUSOLVERAPI cusolverDnDgeqrf_bufferSize(cusolverDnHandle_t handle, int m, int n, double* a, int lda, int* lwork);
cusolverStatus_t CUSOLVERAPI cusolverDnDgeqrf(cusolverDnHandle_t handle, int m, int n, double* a, int lda, double* tau, double* work,
                                              int lwork, int* info);
cusolverStatus_t CUSOLVERAPI cusolverDnDorgqr_bufferSize(cusolverDnHandle_t handle, int m, int n, int k, const double* a, int lda,
                                                         const double* tau, int* lwork);
cusolverStatus_t CUSOLVERAPI cusolverDnDorgqr(cusolverDnHandle_t handle, int m, int n, int k, double* a, int lda, const double* tau,
                                              double* work, int lwork, int* info);

}  // extern "C"
