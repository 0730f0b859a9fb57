// vector.h and winograd.h over this vector.
#define WHITTLE_ISA_FILE
#include "core/conv.h"
#include "cpu/common/lanes_neon.h"
#include "cpu/gemm/activation_neon.h"
#include "cpu/conv/vector.h"
#include "cpu/conv/winograd.h"

extern "C" void conv_install_codes_neon(whittle::ConvKernels*);

extern "C" void conv_install_neon(whittle::ConvKernels* table) {
  install_vector(table);
  install_winograd(table);
  conv_install_codes_neon(table);
}
