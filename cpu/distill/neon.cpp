// Distillation kernels: rows.h and matrix.h hold them all, over the operations of this vector.
#define WHITTLE_ISA_FILE
#include "cpu/common/lanes_neon.h"
// registers of the double-precision tile
#define VD_ROWS 4
#define VD_COLUMNS 4
#include "cpu/distill/rows.h"
#include "cpu/distill/matrix.h"

extern "C" void distill_install_neon(whittle::DistillKernels* t) { install_simd(t); }
