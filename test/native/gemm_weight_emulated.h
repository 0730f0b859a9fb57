// Tiers of compressed weights that the machine at hand lacks, compiled from the same loops over other instructions.
#pragma once
#include <vector>

#include "core/gemm_weight.h"

namespace whittle {
struct EmulatedWeight {
  const char* name;
  bool supported;
  void (*install)(WeightKernels*);
};
std::vector<EmulatedWeight> emulated_weight();
// On this thread, of the emulated tiles.
bool weight_tiles_released();
}  // namespace whittle
