// The loops of the amx tier over tiles in plain C.
#include <stdint.h>
#include <string.h>

#include "core/gemm_int8.h"

namespace {
// tdpbusd: unsigned by signed bytes, modulo 2^32.
void add_products(uint8_t* sum, const uint8_t* a, const uint8_t* b) {
  uint32_t s;
  memcpy(&s, sum, 4);
  for (int i = 0; i < 4; i++) s += static_cast<uint32_t>(a[i] * static_cast<int8_t>(b[i]));
  memcpy(sum, &s, 4);
}
}  // namespace

#define TILE_PAIR(sum, a, b) add_products(sum, a, b)
#include "test/native/amx_emulated.h"

#include "cpu/gemm/int8_amx.h"

namespace whittle {
void install_amx_emulated(GemmInt8Kernels* table);
bool amx_released();
void install_amx_emulated(GemmInt8Kernels* table) { install_amx(table); }
bool amx_released() { return !g_tiles.on; }
}  // namespace whittle
