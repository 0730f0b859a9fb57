// The functions of cuSPARSE (version 12, of CUDA 13) that cuda/ calls, as its API reference documents them: its header comes
// only with a hundred megabytes of libraries. test/cuda/cusparse_api.cpp holds them against that header where it is installed;
// the types below are NVIDIA's own there.
#pragma once
#include <cuda_runtime_api.h>
#include <library_types.h>
#include <stddef.h>
#include <stdint.h>

#define WHITTLE_CUSPARSE_MAJOR 12

#if !defined(CUSPARSE_H_)
#define CUSPARSEAPI
typedef struct cusparseContext* cusparseHandle_t;
typedef struct cusparseSpMatDescr const* cusparseConstSpMatDescr_t;
typedef struct cusparseDnMatDescr* cusparseDnMatDescr_t;
typedef struct cusparseDnMatDescr const* cusparseConstDnMatDescr_t;
typedef enum {
  CUSPARSE_STATUS_SUCCESS = 0,
  CUSPARSE_STATUS_NOT_INITIALIZED = 1,
  CUSPARSE_STATUS_ALLOC_FAILED = 2,
  CUSPARSE_STATUS_INVALID_VALUE = 3,
  CUSPARSE_STATUS_ARCH_MISMATCH = 4,
  CUSPARSE_STATUS_EXECUTION_FAILED = 6,
  CUSPARSE_STATUS_INTERNAL_ERROR = 7,
  CUSPARSE_STATUS_NOT_SUPPORTED = 10,
  CUSPARSE_STATUS_INSUFFICIENT_RESOURCES = 11,
} cusparseStatus_t;
typedef enum { CUSPARSE_OPERATION_NON_TRANSPOSE = 0, CUSPARSE_OPERATION_TRANSPOSE = 1 } cusparseOperation_t;
typedef enum { CUSPARSE_ORDER_COL = 1, CUSPARSE_ORDER_ROW = 2 } cusparseOrder_t;
typedef enum { CUSPARSE_INDEX_32I = 2 } cusparseIndexType_t;
typedef enum { CUSPARSE_INDEX_BASE_ZERO = 0 } cusparseIndexBase_t;
typedef enum { CUSPARSE_SPMM_CSR_ALG3 = 12 } cusparseSpMMAlg_t;
#endif

// Every function that is used. The names are looked up in NVIDIA's own library by npm run test:cuda.
#define WHITTLE_CUSPARSE_FUNCTIONS(X)                                                                     \
  X(cusparseCreate) X(cusparseSetStream) X(cusparseCreateConstCsr) X(cusparseDestroySpMat)                \
  X(cusparseCreateDnMat) X(cusparseCreateConstDnMat) X(cusparseDestroyDnMat) X(cusparseSpMM_bufferSize)   \
  X(cusparseSpMM)

extern "C" {

cusparseStatus_t CUSPARSEAPI cusparseCreate(cusparseHandle_t* handle);
cusparseStatus_t CUSPARSEAPI cusparseSetStream(cusparseHandle_t handle, cudaStream_t stream);
cusparseStatus_t CUSPARSEAPI cusparseCreateConstCsr(cusparseConstSpMatDescr_t* made, int64_t rows, int64_t cols, int64_t entries,
                                                    const void* first, const void* column, const void* values,
                                                    cusparseIndexType_t first_type, cusparseIndexType_t column_type,
                                                    cusparseIndexBase_t base, cudaDataType type);
cusparseStatus_t CUSPARSEAPI cusparseDestroySpMat(cusparseConstSpMatDescr_t matrix);
cusparseStatus_t CUSPARSEAPI cusparseCreateDnMat(cusparseDnMatDescr_t* made, int64_t rows, int64_t cols, int64_t ld, void* values,
                                                 cudaDataType type, cusparseOrder_t order);
cusparseStatus_t CUSPARSEAPI cusparseCreateConstDnMat(cusparseConstDnMatDescr_t* made, int64_t rows, int64_t cols, int64_t ld,
                                                      const void* values, cudaDataType type, cusparseOrder_t order);
cusparseStatus_t CUSPARSEAPI cusparseDestroyDnMat(cusparseConstDnMatDescr_t matrix);
cusparseStatus_t CUSPARSEAPI cusparseSpMM_bufferSize(cusparseHandle_t handle, cusparseOperation_t op_a, cusparseOperation_t op_b,
                                                     const void* alpha, cusparseConstSpMatDescr_t a, cusparseConstDnMatDescr_t b,
                                                     const void* beta, cusparseDnMatDescr_t c, cudaDataType compute,
                                                     cusparseSpMMAlg_t algorithm, size_t* bytes);
cusparseStatus_t CUSPARSEAPI cusparseSpMM(cusparseHandle_t handle, cusparseOperation_t op_a, cusparseOperation_t op_b,
                                          const void* alpha, cusparseConstSpMatDescr_t a, cusparseConstDnMatDescr_t b, const void* beta,
                                          cusparseDnMatDescr_t c, cudaDataType compute, cusparseSpMMAlg_t algorithm, void* buffer);

}  // extern "C"
