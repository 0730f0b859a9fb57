// vector.h over this vector.
#define WHITTLE_ISA_FILE
#include "core/activation.h"
#include "core/norm.h"
#include "cpu/common/lanes_avx2.h"
#include "cpu/norm/vector.h"

extern "C" void norm_install_avx2(whittle::NormKernels* table) { install_vector(table); }
