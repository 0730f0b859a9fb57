// Distillation kernels: rows.h and matrix.h hold them all, over the operations of this vector.
#define WHITTLE_ISA_FILE
#include "cpu/distill/vector_avx2.h"
#include "cpu/distill/rows.h"
#include "cpu/distill/matrix.h"

extern "C" void distill_install_avx2(whittle::DistillKernels* t) { install_simd(t); }
