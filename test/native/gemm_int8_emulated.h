// Tiers that the machine at hand lacks, compiled from the same loops over other instructions.
#pragma once
#include <vector>

#include "core/gemm_int8.h"

namespace whittle {
struct EmulatedInt8 {
  const char* name;
  bool supported, worth_timing;
  void (*install)(GemmInt8Kernels*);
};
std::vector<EmulatedInt8> emulated_int8();
// On this thread, of the emulated tiles.
bool amx_released();
}  // namespace whittle
