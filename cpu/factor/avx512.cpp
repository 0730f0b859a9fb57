// Factor kernels: vector.h holds them all, over the operations of this vector.
#include "cpu/common/lanes_avx512.h"
#include "cpu/factor/vector.h"

extern "C" void factor_install_avx512(whittle::FactorKernels* t) { install_simd(t); }
