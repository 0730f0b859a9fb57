// Compiles where cuda/cusparse_api.h and NVIDIA's header agree: another declaration of a C function is an error.
#include <cuda_runtime_api.h>
#include <cusparse.h>

#include "cuda/cusparse_api.h"

#define X(name) static_assert(sizeof(decltype(&::name)) == sizeof(void*), #name);
WHITTLE_CUSPARSE_FUNCTIONS(X)
#undef X

static_assert(WHITTLE_CUSPARSE_MAJOR == CUSPARSE_VER_MAJOR, "the version whose library is opened");
static_assert(CUSPARSE_ORDER_COL == 1 && CUSPARSE_ORDER_ROW == 2 && sizeof(cusparseOrder_t) == 4, "cusparseOrder_t");
static_assert(CUSPARSE_OPERATION_NON_TRANSPOSE == 0 && CUSPARSE_OPERATION_TRANSPOSE == 1 && sizeof(cusparseOperation_t) == 4, "cusparseOperation_t");
static_assert(CUSPARSE_INDEX_32I == 2 && CUSPARSE_INDEX_BASE_ZERO == 0 && CUSPARSE_SPMM_CSR_ALG3 == 12, "indices and algorithms");
static_assert(sizeof(cusparseIndexType_t) == 4 && sizeof(cusparseIndexBase_t) == 4 && sizeof(cusparseSpMMAlg_t) == 4 && sizeof(cusparseStatus_t) == 4,
              "enumerations");
static_assert(CUSPARSE_STATUS_SUCCESS == 0 && CUSPARSE_STATUS_NOT_INITIALIZED == 1 && CUSPARSE_STATUS_ALLOC_FAILED == 2 &&
                  CUSPARSE_STATUS_INVALID_VALUE == 3 && CUSPARSE_STATUS_ARCH_MISMATCH == 4 && CUSPARSE_STATUS_EXECUTION_FAILED == 6 &&
                  CUSPARSE_STATUS_INTERNAL_ERROR == 7 && CUSPARSE_STATUS_NOT_SUPPORTED == 10 && CUSPARSE_STATUS_INSUFFICIENT_RESOURCES == 11,
              "cusparseStatus_t");
