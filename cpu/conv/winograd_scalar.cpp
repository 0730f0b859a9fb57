// winograd.h over single floats.
#define WHITTLE_ISA_FILE
#include "core/conv.h"
#include "cpu/common/vector_scalar.h"
#include "cpu/conv/winograd.h"

extern "C" void conv_install_winograd_scalar(whittle::ConvKernels* table) { install_winograd(table); }
