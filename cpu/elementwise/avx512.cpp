// vector.h over this vector.
#define WHITTLE_ISA_FILE
#include "core/elementwise.h"
#include "cpu/common/lanes_avx512.h"
#include "cpu/gemm/activation_avx512.h"
#include "cpu/elementwise/vector.h"

extern "C" void elementwise_install_avx512(whittle::ElementwiseKernels* table) { install_vector(table); }
