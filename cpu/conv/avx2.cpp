// vector.h, planes.h and winograd.h over this vector.
#define WHITTLE_ISA_FILE
#include "core/conv.h"
#include "cpu/common/lanes_avx2.h"
#include "cpu/gemm/activation_avx2.h"
#define PLANES_WIDE 2
#define PLANES_WIDE_PIXELS 6
#define PLANES_PIXELS 6
#define NARROW_OUTS 4
#define NARROW_VECTORS 3
#define GROUPED_PIXELS 6
#include "cpu/conv/vector.h"
#include "cpu/conv/planes.h"
#include "cpu/conv/narrow.h"
#include "cpu/conv/turn.h"
#include "cpu/conv/grouped.h"
#include "cpu/conv/winograd.h"

extern "C" void conv_install_codes_avx2(whittle::ConvKernels*);

extern "C" void conv_install_avx2(whittle::ConvKernels* table) {
  install_vector(table);
  install_winograd(table);
  install_grouped(table);
  table->planes = planes;
  table->narrow = narrow;
  table->turn = turn;
  conv_install_codes_avx2(table);
}
