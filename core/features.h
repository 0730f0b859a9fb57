// CPU features as the operating system lets us use them, and the tiers of kernels that stand on them.
#pragma once
#include <stdint.h>

namespace whittle {

enum Feature : uint32_t {
  kAvx2 = 1u << 0,        // with FMA, F16C, BMI1 and BMI2
  kAvx512 = 1u << 1,      // F, BW, DQ, VL, CD
  kAvx512Vnni = 1u << 2,
  kAvxVnni = 1u << 3,     // 256-bit VEX-encoded VNNI of desktop CPUs
  kAmx = 1u << 4,         // TILE and INT8, permission granted by the system
  kAmxBf16 = 1u << 5,
  kAvx512Bf16 = 1u << 6,
  kNeon = 1u << 8,
  kNeonDot = 1u << 9,
  kNeonI8mm = 1u << 10,
};

// A tier is a name in WHITTLE_CPU, a file stem under cpu/<family>/ and the features that its code may use.
// Weakest first within an architecture: a stronger tier overlays the slots of a weaker one.
enum class Tier : int { scalar, avx2, avxvnni, avx512, avx512vnni, amx, neon, neondot, neoni8mm };
constexpr int kTierCount = 9;

const char* tier_name(Tier tier);
uint32_t tier_features(Tier tier);

// Every feature of this CPU that the operating system has switched on. Asks Linux for AMX permission once.
uint32_t cpu_features();

// Human words for what `tier` lacks here ("no AVX-512", "the operating system does not save AMX state"), or "".
const char* tier_missing(Tier tier);

inline bool tier_supported(Tier tier) { return (tier_features(tier) & ~cpu_features()) == 0; }

struct TierChoice {
  Tier tier;            // the cap that is in force
  bool forced;          // set by WHITTLE_CPU
  const char* error;    // not null: WHITTLE_CPU names nothing that can run here; `tier` is scalar then
};

// Reads WHITTLE_CPU once. Kernels resolve below this cap.
const TierChoice& tier_choice();

// True if a variant of `tier` may be installed under `cap`.
bool tier_allowed(Tier tier, Tier cap);

// Data and unified cache sizes in bytes of the first core, read once; sane defaults where the system tells nothing.
struct CacheSizes {
  int64_t l1d, l2, l3;
};
const CacheSizes& cache_sizes();

}  // namespace whittle
