// The reference and the portable fallback: exact integer products in the obvious order.
// a' 16-bit as it is, b' in panels of 16 columns, k outermost, so that a compiler can still vectorize over columns.
#define EPILOGUE_SCALAR
#define TILE_COLUMNS 16
#define TILE_VECTOR 1
#define K_STEP 1
#include "cpu/gemm/int8_epilogue.h"
#include "cpu/gemm/int8_pack.h"

namespace whittle {
namespace {

void panel(const GemmInt8Panel* p) {
  const int64_t width = p->columns;
  const CodeStep step = epilogue_step(p->epilogue);
  for (int64_t r = 0; r < p->rows; r++) {
    const int16_t* a = reinterpret_cast<const int16_t*>(static_cast<const uint8_t*>(p->a) + r * p->a_stride);
    uint32_t sums[TILE_COLUMNS] = {0};
    for (int64_t j = 0; j < width; j++) sums[j] = static_cast<uint32_t>(p->epilogue->offset[p->column + j]);
    const int8_t* b = p->b;
    for (int64_t k = 0; k < p->steps; k++, b += width) {
      const int32_t x = a[k];
      if (width == TILE_COLUMNS)
        for (int j = 0; j < TILE_COLUMNS; j++) sums[j] += static_cast<uint32_t>(x * b[j]);
      else
        for (int64_t j = 0; j < width; j++) sums[j] += static_cast<uint32_t>(x * b[j]);
    }
    int32_t acc[TILE_COLUMNS];
    memcpy(acc, sums, sizeof acc);
    epilogue_tile(p, r, 1, acc, TILE_COLUMNS, &step);
  }
}

double peak(int64_t iterations) {
  int16_t a[16];
  int8_t b[16];
  uint32_t sums[16] = {0};
  for (int j = 0; j < 16; j++) a[j] = static_cast<int16_t>(j * 17), b[j] = static_cast<int8_t>(j * 15 - 100);
  for (int64_t i = 0; i < iterations; i++)
    for (int j = 0; j < 16; j++) sums[j] += static_cast<uint32_t>((a[j] + static_cast<int32_t>(i & 1)) * b[j]);
  volatile uint32_t sink = 0;
  for (uint32_t s : sums) sink = sink + s;
  return static_cast<double>(iterations) * 32;
}

}  // namespace
}  // namespace whittle

extern "C" void gemm_int8_install_scalar(whittle::GemmInt8Kernels* t) {
  using namespace whittle;
  t->rows = 1;
  t->columns = t->widest = TILE_COLUMNS;
  t->vector = TILE_VECTOR;
  t->k_step = K_STEP;
  t->step_bytes = TILE_COLUMNS;
  t->begin = t->end = nullptr;
  t->a_bytes = 2;
  t->shift_u8 = 0;
  t->shift_s8 = 0;
  t->pack = pack_panel;
  t->convert = convert_wide;
  t->panel = panel;
  t->codes = epilogue_codes;
  t->peak = peak;
}
