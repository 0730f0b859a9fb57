// codes.h under these flags.
#define EPILOGUE_SCALAR
#include "cpu/conv/codes.h"

extern "C" void conv_install_codes_scalar(whittle::ConvKernels* table) { install_codes(table); }
