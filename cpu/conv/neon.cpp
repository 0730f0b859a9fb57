// vector.h, planes.h and winograd.h over this vector.
#define WHITTLE_ISA_FILE
#include "core/conv.h"
#include "cpu/common/lanes_neon.h"
#include "cpu/gemm/activation_neon.h"
#define PLANES_WIDE 4
#define PLANES_WIDE_PIXELS 6
#define PLANES_PIXELS 8
#define NARROW_OUTS 8
#define NARROW_VECTORS 6
#define GROUPED_PIXELS 4
#include "cpu/conv/vector.h"
#include "cpu/conv/planes.h"
#include "cpu/conv/narrow.h"
#include "cpu/conv/turn.h"
#include "cpu/conv/grouped.h"
#include "cpu/conv/winograd.h"

extern "C" void conv_install_codes_neon(whittle::ConvKernels*);

extern "C" void conv_install_neon(whittle::ConvKernels* table) {
  install_vector(table);
  install_winograd(table);
  install_grouped(table);
  table->planes = planes;
  table->narrow = narrow;
  table->turn = turn;
  conv_install_codes_neon(table);
}
