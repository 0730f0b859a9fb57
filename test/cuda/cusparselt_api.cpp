// Compiles where cuda/cusparselt_api.h and NVIDIA's header agree: another declaration of a C function is an error.
#include <cuda_runtime_api.h>
#include <cusparseLt.h>

#include "cuda/cusparselt_api.h"

#define X(name) static_assert(sizeof(decltype(&::name)) == sizeof(void*), #name);
WHITTLE_CUSPARSELT_FUNCTIONS(X)
#undef X

static_assert(WHITTLE_CUSPARSELT_MAJOR == CUSPARSELT_VER_MAJOR && CUSPARSELT_VER_MINOR >= WHITTLE_CUSPARSELT_MINOR, "the version that is opened");
static_assert(CUSPARSE_COMPUTE_32I == 0 && CUSPARSELT_MATMUL_ALG_DEFAULT == 0 && CUSPARSELT_SPARSITY_50_PERCENT == 0, "enumerations");
static_assert(sizeof(cusparseLtHandle_t) <= 512 && sizeof(cusparseLtMatDescriptor_t) <= 512 && sizeof(cusparseLtMatmulDescriptor_t) <= 512 &&
                  sizeof(cusparseLtMatmulAlgSelection_t) <= 512 && sizeof(cusparseLtMatmulPlan_t) <= 512,
              "opaque structs");
