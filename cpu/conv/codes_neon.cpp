// codes.h under these flags.
#include <arm_neon.h>
#include "cpu/conv/codes.h"

extern "C" void conv_install_codes_neon(whittle::ConvKernels* table) { install_codes(table); }
