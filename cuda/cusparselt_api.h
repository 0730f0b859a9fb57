// The functions of cuSPARSELt (0.8) that cuda/ calls, as its documentation has them: its header comes only with the library.
// test/cuda/cusparselt_api.cpp holds them against that header where it is installed.
#pragma once
#include "cuda/cusparse_api.h"

#define WHITTLE_CUSPARSELT_MAJOR 0
// Opaque structs shrank and enumerations moved from one minor version to the next: those before are refused.
#define WHITTLE_CUSPARSELT_MINOR 8

#if !defined(CUSPARSELT_HEADER_)
#define CUSPARSELT_API
typedef struct { alignas(16) uint8_t data[512]; } cusparseLtHandle_t;
typedef struct { alignas(16) uint8_t data[512]; } cusparseLtMatDescriptor_t;
typedef struct { alignas(16) uint8_t data[512]; } cusparseLtMatmulDescriptor_t;
typedef struct { alignas(16) uint8_t data[512]; } cusparseLtMatmulAlgSelection_t;
typedef struct { alignas(16) uint8_t data[512]; } cusparseLtMatmulPlan_t;
typedef enum { CUSPARSELT_SPARSITY_50_PERCENT } cusparseLtSparsity_t;
typedef enum { CUSPARSE_COMPUTE_32I } cusparseComputeType;
typedef enum { CUSPARSELT_MATMUL_ALG_DEFAULT } cusparseLtMatmulAlg_t;
#endif

#define WHITTLE_CUSPARSELT_FUNCTIONS(X)                                                                                       \
  X(cusparseLtGetProperty) X(cusparseLtInit) X(cusparseLtDenseDescriptorInit) X(cusparseLtStructuredDescriptorInit)           \
  X(cusparseLtMatDescriptorDestroy) X(cusparseLtMatmulDescriptorInit) X(cusparseLtMatmulAlgSelectionInit)                     \
  X(cusparseLtMatmulAlgSelectionDestroy) X(cusparseLtMatmulPlanInit) X(cusparseLtMatmulPlanDestroy)                           \
  X(cusparseLtMatmulGetWorkspace) X(cusparseLtSpMMACompressedSize2) X(cusparseLtSpMMACompress2) X(cusparseLtMatmul)

extern "C" {

cusparseStatus_t CUSPARSELT_API cusparseLtGetProperty(libraryPropertyType property, int* value);
cusparseStatus_t CUSPARSELT_API cusparseLtInit(cusparseLtHandle_t* handle);
cusparseStatus_t CUSPARSELT_API cusparseLtDenseDescriptorInit(const cusparseLtHandle_t* handle, cusparseLtMatDescriptor_t* made, int64_t rows,
                                                              int64_t cols, int64_t ld, uint32_t alignment, cudaDataType type,
                                                              cusparseOrder_t order);
cusparseStatus_t CUSPARSELT_API cusparseLtStructuredDescriptorInit(const cusparseLtHandle_t* handle, cusparseLtMatDescriptor_t* made,
                                                                   int64_t rows, int64_t cols, int64_t ld, uint32_t alignment,
                                                                   cudaDataType type, cusparseOrder_t order, cusparseLtSparsity_t sparsity);
cusparseStatus_t CUSPARSELT_API cusparseLtMatDescriptorDestroy(const cusparseLtMatDescriptor_t* matrix);
cusparseStatus_t CUSPARSELT_API cusparseLtMatmulDescriptorInit(const cusparseLtHandle_t* handle, cusparseLtMatmulDescriptor_t* made,
                                                               cusparseOperation_t op_a, cusparseOperation_t op_b,
                                                               const cusparseLtMatDescriptor_t* a, const cusparseLtMatDescriptor_t* b,
                                                               const cusparseLtMatDescriptor_t* c, const cusparseLtMatDescriptor_t* d,
                                                               cusparseComputeType compute);
cusparseStatus_t CUSPARSELT_API cusparseLtMatmulAlgSelectionInit(const cusparseLtHandle_t* handle, cusparseLtMatmulAlgSelection_t* made,
                                                                 const cusparseLtMatmulDescriptor_t* product, cusparseLtMatmulAlg_t which);
cusparseStatus_t CUSPARSELT_API cusparseLtMatmulAlgSelectionDestroy(const cusparseLtMatmulAlgSelection_t* selection);
cusparseStatus_t CUSPARSELT_API cusparseLtMatmulPlanInit(const cusparseLtHandle_t* handle, cusparseLtMatmulPlan_t* made,
                                                         const cusparseLtMatmulDescriptor_t* product,
                                                         const cusparseLtMatmulAlgSelection_t* selection);
cusparseStatus_t CUSPARSELT_API cusparseLtMatmulPlanDestroy(const cusparseLtMatmulPlan_t* plan);
cusparseStatus_t CUSPARSELT_API cusparseLtMatmulGetWorkspace(const cusparseLtHandle_t* handle, const cusparseLtMatmulPlan_t* plan,
                                                             size_t* bytes);
cusparseStatus_t CUSPARSELT_API cusparseLtSpMMACompressedSize2(const cusparseLtHandle_t* handle, const cusparseLtMatDescriptor_t* matrix,
                                                               size_t* compressed, size_t* buffer);
cusparseStatus_t CUSPARSELT_API cusparseLtSpMMACompress2(const cusparseLtHandle_t* handle, const cusparseLtMatDescriptor_t* matrix, int is_a,
                                                         cusparseOperation_t op, const void* dense, void* compressed, void* buffer,
                                                         cudaStream_t stream);
cusparseStatus_t CUSPARSELT_API cusparseLtMatmul(const cusparseLtHandle_t* handle, const cusparseLtMatmulPlan_t* plan, const void* alpha,
                                                 const void* a, const void* b, const void* beta, const void* c, void* d, void* workspace,
                                                 cudaStream_t* streams, int32_t count);

}  // extern "C"
