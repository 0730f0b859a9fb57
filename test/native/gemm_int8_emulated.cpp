#include "test/native/gemm_int8_emulated.h"

#include "core/features.h"

namespace whittle {

void install_amx_emulated(GemmInt8Kernels* table);
#if defined(__x86_64__) && defined(__GNUC__)
void install_vnni256_evex(GemmInt8Kernels* table);
#endif

std::vector<EmulatedInt8> emulated_int8() {
  std::vector<EmulatedInt8> list;
#if defined(__x86_64__) && defined(__GNUC__)
  list.push_back({"avxvnni by EVEX", tier_supported(Tier::avx512vnni), true, install_vnni256_evex});
#endif
  list.push_back({"amx in C", true, false, install_amx_emulated});
  return list;
}

}  // namespace whittle
