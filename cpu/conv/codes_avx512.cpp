// codes.h under these flags.
#include <immintrin.h>
#include "cpu/conv/codes.h"

extern "C" void conv_install_codes_avx512(whittle::ConvKernels* table) { install_codes(table); }
