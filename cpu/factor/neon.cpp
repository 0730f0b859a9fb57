// Factor kernels: vector.h holds them all, over the operations of this vector.
#include "cpu/common/lanes_neon.h"
#include "cpu/factor/vector.h"

extern "C" void factor_install_neon(whittle::FactorKernels* t) { install_simd(t); }
