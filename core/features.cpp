#include "core/features.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) || defined(_M_X64)
#define X86 1
#if defined(_MSC_VER)
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#elif defined(__aarch64__) || defined(_M_ARM64)
#define ARM64 1
#endif

#if defined(__linux__)
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#endif

namespace whittle {
namespace {

struct TierRow {
  const char* name;
  uint32_t features;
};

constexpr uint32_t kAll512 = kAvx2 | kAvx512;
const TierRow kTiers[kTierCount] = {
    {"scalar", 0},
    {"avx2", kAvx2},
    {"avxvnni", kAvx2 | kAvxVnni},
    {"avx512", kAll512},
    {"avx512vnni", kAll512 | kAvx512Vnni},
    {"amx", kAll512 | kAvx512Vnni | kAmx},
    {"neon", kNeon},
    {"neondot", kNeon | kNeonDot},
    {"neoni8mm", kNeon | kNeonDot | kNeonI8mm},
};

struct Detected {
  uint32_t features = 0;
  bool os_avx = false, os_avx512 = false, amx_silicon = false;
};

#if X86
void cpuid(uint32_t leaf, uint32_t sub, uint32_t r[4]) {
#if defined(_MSC_VER)
  int t[4];
  __cpuidex(t, static_cast<int>(leaf), static_cast<int>(sub));
  memcpy(r, t, sizeof t);
#else
  __cpuid_count(leaf, sub, r[0], r[1], r[2], r[3]);
#endif
}

uint64_t xgetbv0() {
#if defined(_MSC_VER)
  return _xgetbv(0);
#else
  uint32_t a, d;
  __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
  return a | (static_cast<uint64_t>(d) << 32);
#endif
}

bool bit(uint32_t word, int n) { return (word >> n & 1) != 0; }

bool request_amx() {
#if defined(__linux__)
  // ARCH_REQ_XCOMP_PERM (0x1023) for XTILEDATA (18): process-wide, also for threads that run already.
  return syscall(SYS_arch_prctl, 0x1023, 18) == 0;
#elif defined(_WIN32)
  return true;
#else
  return false;
#endif
}

Detected detect() {
  Detected d;
  uint32_t r[4];
  cpuid(0, 0, r);
  const uint32_t max_leaf = r[0];
  cpuid(1, 0, r);
  const bool osxsave = bit(r[2], 27), fma = bit(r[2], 12), f16c = bit(r[2], 29);
  if (!osxsave || max_leaf < 7) return d;
  const uint64_t xcr0 = xgetbv0();
  d.os_avx = (xcr0 & 0x6) == 0x6;
  d.os_avx512 = (xcr0 & 0xe6) == 0xe6;
  const bool os_amx = (xcr0 & 0x60000) == 0x60000;
  uint32_t l7[4], l71[4] = {0, 0, 0, 0};
  cpuid(7, 0, l7);
  if (l7[0] >= 1) cpuid(7, 1, l71);
  if (d.os_avx && fma && f16c && bit(l7[1], 5) && bit(l7[1], 3) && bit(l7[1], 8)) {
    d.features |= kAvx2;
    if (bit(l71[0], 4)) d.features |= kAvxVnni;
  }
  const bool f512 = bit(l7[1], 16) && bit(l7[1], 17) && bit(l7[1], 28) && bit(l7[1], 30) && bit(l7[1], 31);
  if ((d.features & kAvx2) && d.os_avx512 && f512) {
    d.features |= kAvx512;
    if (bit(l7[2], 11)) d.features |= kAvx512Vnni;
    if (bit(l71[0], 5)) d.features |= kAvx512Bf16;
  }
  d.amx_silicon = bit(l7[3], 24) && bit(l7[3], 25);
  if (d.amx_silicon && os_amx && (d.features & kAvx512Vnni) && request_amx()) {
    d.features |= kAmx;
    if (bit(l7[3], 22)) d.features |= kAmxBf16;
  }
  return d;
}
#elif ARM64
Detected detect() {
  Detected d;
  d.features = kNeon;
#if defined(__linux__)
  if (getauxval(AT_HWCAP) >> 20 & 1) d.features |= kNeonDot;
  if ((d.features & kNeonDot) && (getauxval(AT_HWCAP2) >> 13 & 1)) d.features |= kNeonI8mm;
#elif defined(__APPLE__)
  auto has = [](const char* name) {
    int v = 0;
    size_t n = sizeof v;
    return sysctlbyname(name, &v, &n, nullptr, 0) == 0 && v;
  };
  if (has("hw.optional.arm.FEAT_DotProd")) d.features |= kNeonDot;
  if ((d.features & kNeonDot) && has("hw.optional.arm.FEAT_I8MM")) d.features |= kNeonI8mm;
#elif defined(_WIN32)
  if (IsProcessorFeaturePresent(43)) d.features |= kNeonDot;  // PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE
#endif
  return d;
}
#else
Detected detect() { return {}; }
#endif

const Detected& detected() {
  static const Detected d = detect();
  return d;
}

int64_t sysfs_size(const char* path) {
#if defined(__linux__)
  char text[32] = {0};
  if (FILE* f = fopen(path, "re")) {
    const size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    if (n == 0) return 0;
    char* end = nullptr;
    const long long v = strtoll(text, &end, 10);
    return *end == 'K' ? v * 1024 : *end == 'M' ? v * 1024 * 1024 : v;
  }
#else
  (void)path;
#endif
  return 0;
}

CacheSizes read_caches() {
  CacheSizes c = {32 << 10, 512 << 10, 4 << 20};
#if defined(__linux__)
  for (int i = 0; i < 8; i++) {
    char path[96];
    const char* base = "/sys/devices/system/cpu/cpu0/cache/index";
    snprintf(path, sizeof path, "%s%d/level", base, i);
    const int64_t level = sysfs_size(path);
    snprintf(path, sizeof path, "%s%d/size", base, i);
    const int64_t size = sysfs_size(path);
    snprintf(path, sizeof path, "%s%d/type", base, i);
    char type = 0;
    if (FILE* f = fopen(path, "re")) {
      type = static_cast<char>(fgetc(f));
      fclose(f);
    }
    if (size <= 0 || type == 'I') continue;
    if (level == 1) c.l1d = size;
    if (level == 2) c.l2 = size;
    if (level == 3) c.l3 = size;
  }
#elif defined(__APPLE__)
  auto read = [](const char* name, int64_t* out) {
    int64_t v = 0;
    size_t n = sizeof v;
    if (sysctlbyname(name, &v, &n, nullptr, 0) == 0 && v > 0) *out = v;
  };
  read("hw.perflevel0.l1dcachesize", &c.l1d);
  read("hw.perflevel0.l2cachesize", &c.l2);
#endif
  return c;
}

TierChoice read_choice() {
  Tier best = Tier::scalar;
  for (int i = 0; i < kTierCount; i++)
    if (tier_supported(static_cast<Tier>(i))) best = static_cast<Tier>(i);
  const char* want = getenv("WHITTLE_CPU");
  if (!want || !*want) return {best, false, nullptr};
  for (int i = 0; i < kTierCount; i++) {
    if (strcmp(want, kTiers[i].name) != 0) continue;
    const Tier tier = static_cast<Tier>(i);
    if (tier_supported(tier)) return {tier, true, nullptr};
    static char message[160];
    snprintf(message, sizeof message, "WHITTLE_CPU=%s: %s", want, tier_missing(tier));
    return {Tier::scalar, true, message};
  }
  static char message[256];
  snprintf(message, sizeof message,
           "WHITTLE_CPU=%.40s: expected one of scalar, avx2, avxvnni, avx512, avx512vnni, amx, neon, neondot, neoni8mm",
           want);
  return {Tier::scalar, true, message};
}

}  // namespace

const char* tier_name(Tier tier) { return kTiers[static_cast<int>(tier)].name; }
uint32_t tier_features(Tier tier) { return kTiers[static_cast<int>(tier)].features; }
uint32_t cpu_features() { return detected().features; }

const char* tier_missing(Tier tier) {
  const uint32_t lacks = tier_features(tier) & ~cpu_features();
  if (!lacks) return "";
  if (lacks & kNeon) return "not an Arm CPU";
#if ARM64
  if (lacks & (kAvx2 | kAvx512)) return "not an x86 CPU";
#endif
  if (lacks & kAvx2) return "no AVX2 with FMA, F16C and BMI2, or the operating system does not save AVX state";
  if (lacks & kAvxVnni) return "no AVX-VNNI";
  if (lacks & kAvx512)
    return detected().os_avx512 ? "no AVX-512 (F, BW, CD, DQ, VL)" : "no AVX-512, or the operating system does not save its state";
  if (lacks & kAvx512Vnni) return "no AVX-512 VNNI";
  if (lacks & kAmx) return detected().amx_silicon ? "the operating system does not permit AMX" : "no AMX";
  if (lacks & kNeonDot) return "no dot-product extension";
  return "no int8 matrix-multiply extension";
}

const TierChoice& tier_choice() {
  static const TierChoice c = read_choice();
  return c;
}

bool tier_allowed(Tier tier, Tier cap) {
  return (tier_features(tier) & ~tier_features(cap)) == 0 && tier_supported(tier);
}

const CacheSizes& cache_sizes() {
  static const CacheSizes c = read_caches();
  return c;
}

}  // namespace whittle
