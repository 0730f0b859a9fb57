// Distillation kernels: rows.h and matrix.h hold them all, over the operations of this vector.
#define WHITTLE_ISA_FILE
#include "cpu/distill/vector_neon.h"
#include "cpu/distill/rows.h"
#include "cpu/distill/matrix.h"

extern "C" void distill_install_neon(whittle::DistillKernels* t) { install_simd(t); }
