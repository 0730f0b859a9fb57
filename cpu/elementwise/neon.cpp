// vector.h over this vector.
#define WHITTLE_ISA_FILE
#include "core/elementwise.h"
#include "cpu/common/lanes_neon.h"
#include "cpu/gemm/activation_neon.h"
#include "cpu/elementwise/vector.h"

extern "C" void elementwise_install_neon(whittle::ElementwiseKernels* table) { install_vector(table); }
