// The loops of the amx tier over tiles in plain C: products of bfloat16 pairs, each added in float32 by one fused step,
// denormals taken as 0.
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "test/native/gemm_weight_emulated.h"

namespace {
float flushed(float x) { return fabsf(x) < 0x1p-126f ? copysignf(0, x) : x; }
float value(const uint8_t* p) {
  uint16_t half;
  memcpy(&half, p, 2);
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float f;
  memcpy(&f, &bits, 4);
  return flushed(f);
}
// tdpbf16ps
void add_products(uint8_t* sum, const uint8_t* a, const uint8_t* b) {
  float s;
  memcpy(&s, sum, 4);
  for (int i = 0; i < 4; i += 2) s = flushed(fmaf(value(a + i), value(b + i), s));
  memcpy(sum, &s, 4);
}
}  // namespace

#define TILE_PAIR(sum, a, b) add_products(sum, a, b)
#include "test/native/amx_emulated.h"

#include "cpu/gemm/weight_amx.h"

namespace whittle {
std::vector<EmulatedWeight> emulated_weight() { return {{"amx in C", true, install_tiles}}; }
bool weight_tiles_released() { return !g_tiles.on; }
}  // namespace whittle
