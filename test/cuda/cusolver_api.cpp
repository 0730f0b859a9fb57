// Compiles where cuda/cusolver_api.h and NVIDIA's header agree: another declaration of a C function is an error.
#include <cuda_runtime_api.h>
#include <cusolverDn.h>

#include "cuda/cusolver_api.h"

#define X(name) static_assert(sizeof(decltype(&::name)) == sizeof(void*), #name);
WHITTLE_CUSOLVER_FUNCTIONS(X)
#undef X

static_assert(WHITTLE_CUSOLVER_MAJOR == CUSOLVER_VER_MAJOR, "the version whose library is opened");
static_assert(CUSOLVER_EIG_MODE_NOVECTOR == 0 && CUSOLVER_EIG_MODE_VECTOR == 1, "cusolverEigMode_t");
static_assert(sizeof(cusolverEigMode_t) == 4 && sizeof(cusolverStatus_t) == 4, "enumerations");
static_assert(CUSOLVER_STATUS_SUCCESS == 0 && CUSOLVER_STATUS_NOT_INITIALIZED == 1 && CUSOLVER_STATUS_ALLOC_FAILED == 2 &&
                  CUSOLVER_STATUS_INVALID_VALUE == 3 && CUSOLVER_STATUS_ARCH_MISMATCH == 4 && CUSOLVER_STATUS_EXECUTION_FAILED == 6 &&
                  CUSOLVER_STATUS_INTERNAL_ERROR == 7 && CUSOLVER_STATUS_NOT_SUPPORTED == 9,
              "cusolverStatus_t");
