// Distillation kernels: rows.h and matrix.h hold them all, over the operations of this vector.
#define WHITTLE_ISA_FILE
#include "cpu/common/lanes_avx512.h"
// registers of the double-precision tile
#define VD_ROWS 8
#define VD_COLUMNS 3
#include "cpu/distill/rows.h"
#include "cpu/distill/matrix.h"

extern "C" void distill_install_avx512(whittle::DistillKernels* t) { install_simd(t); }
