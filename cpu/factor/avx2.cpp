// Factor kernels: vector.h holds them all, over the operations of this vector.
#include "cpu/common/lanes_avx2.h"
#include "cpu/factor/vector.h"

extern "C" void factor_install_avx2(whittle::FactorKernels* t) { install_simd(t); }
