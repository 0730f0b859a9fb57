// The native check: every variant of every family against the scalar reference, then timed in the same body.
//
//   WHITTLE_CHECK(quantize) {
//     each_variant(h, quantize_variants(), [&](const QuantizeKernels& ref, const QuantizeKernels& got) {
//       h.row("quantize_f32_s8", [&] { ...; h.expect(a == b, "element %d: %d, want %d", i, a, b); });
//       h.bench("quantize_f32_s8", bytes_moved, [&] { got.quantize(...); });
//     });
//   }
//
// A row that crashes is one failed row. Buffers carry guard bytes; sizes, misalignment and data come from a printed seed.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <functional>
#include <string>
#include <vector>

#include "core/variants.h"

namespace whittle {

// SplitMix64: small, seedable, the same everywhere.
class Rng {
 public:
  explicit Rng(uint64_t seed) : state_(seed) {}
  uint64_t next();
  int64_t below(int64_t n) { return static_cast<int64_t>(next() % static_cast<uint64_t>(n)); }
  int64_t between(int64_t lo, int64_t hi) { return lo + below(hi - lo + 1); }
  float uniform(float lo, float hi);
  float normal();

 private:
  uint64_t state_;
};

// `count` elements of T, `misalign` elements past a 64-byte boundary, between guard zones that must stay untouched.
// Starts out filled with a poison pattern, never zeros.
template <class T>
class Guarded {
 public:
  explicit Guarded(int64_t count, int64_t misalign = 0)
      : count_(count), offset_(kZone + static_cast<size_t>(misalign) * sizeof(T)), bytes_(offset_ + count * sizeof(T) + kZone + 64) {
    base_ = (64 - reinterpret_cast<uintptr_t>(bytes_.data()) % 64) % 64;
    for (size_t i = 0; i < bytes_.size(); i++) bytes_[i] = poison(i);
  }
  T* data() { return reinterpret_cast<T*>(bytes_.data() + base_ + offset_); }
  const T* data() const { return reinterpret_cast<const T*>(bytes_.data() + base_ + offset_); }
  T& operator[](int64_t i) { return data()[i]; }
  const T& operator[](int64_t i) const { return data()[i]; }
  int64_t size() const { return count_; }
  // True while nothing outside [0, size) was written.
  bool intact() const {
    const size_t first = base_ + offset_, last = first + static_cast<size_t>(count_) * sizeof(T);
    for (size_t i = 0; i < bytes_.size(); i++)
      if ((i < first || i >= last) && bytes_[i] != poison(i)) return false;
    return true;
  }

 private:
  static constexpr size_t kZone = 128;
  static uint8_t poison(size_t i) { return static_cast<uint8_t>(0xA5 ^ (i * 37)); }
  int64_t count_;
  size_t offset_, base_ = 0;
  std::vector<uint8_t> bytes_;
};

class Harness {
 public:
  // Runs one row; prints PASS, or FAIL with the first expectation that broke and the seed.
  void row(const char* name, const std::function<void()>& body);
  // Records a failure of the current row (the first one is printed). Returns `ok`.
  bool expect(bool ok, const char* format, ...)
#if defined(__GNUC__)
      __attribute__((format(printf, 3, 4)))
#endif
      ;
  // Only with --bench: median time of body, as ns and as GB/s of `bytes` (0: no rate), or GOP/s of `ops`.
  void bench(const char* name, double bytes, const std::function<void()>& body, double ops = 0);
  bool benching() const { return bench_; }
  // With --lean, under sanitizers and emulators, which are 10 to 100 times slower: rows keep every path and tile edge
  // but drop repetitions and large shapes.
  bool lean() const { return lean_; }
  // A fresh generator for this row: a function of the seed and the row's name only.
  Rng rng() const;
  const char* variant() const { return variant_.c_str(); }

  void begin_variant(const char* family, Tier tier);
  // A stand-in for a tier that this CPU lacks: the same loops over emulated or differently encoded instructions.
  // False where another variant was asked for.
  bool begin_emulated(const char* family, const char* name) {
    family_ = family;
    variant_ = name;
    return asked(name);
  }
  // False where `tier` cannot run here (prints SKIP with the reason) or was not asked for.
  bool wants(const char* family, Tier tier);
  const char* family() const { return family_.c_str(); }

 private:
  friend int harness_main(int, char**);
  bool bench_ = false, lean_ = false, times_ = false;
  uint64_t seed_ = 0;
  // True for a variant in the list of --variant, or where there is none.
  bool asked(const char* variant) const {
    return only_.empty() || (',' + only_ + ',').find(',' + std::string(variant) + ',') != std::string::npos;
  }
  std::string only_, family_, variant_, row_, failure_;
  int passed_ = 0, failed_ = 0, skipped_ = 0;
};

// Sizes around a kernel's tile: 0, 1, one less, equal, one more, multiples and odd ones.
std::vector<int64_t> sizes_around(int64_t tile);

// Calls body(reference, table) for every variant in the list: scalar against itself first (its own expectations count),
// then each stronger one laid over the weaker.
template <class Table, class Body>
void each_variant(Harness& h, const VariantList<Table>& list, const Body& body) {
  const std::string family = h.family();
  const Table reference = overlay(list, Tier::scalar);
  for (const Variant<Table>& v : list) {
    if (!h.wants(family.c_str(), v.tier)) continue;
    h.begin_variant(family.c_str(), v.tier);
    const Table table = overlay(list, v.tier);
    body(reference, table);
  }
}

struct FamilyCheck {
  const char* name;
  void (*fn)(Harness&);
  FamilyCheck* next;
  FamilyCheck(const char* name, void (*fn)(Harness&));
};

#define WHITTLE_CHECK(family)                                                  \
  static void check_##family(whittle::Harness& h);                            \
  static whittle::FamilyCheck check_##family##_entry(#family, check_##family); \
  static void check_##family(whittle::Harness& h)

int harness_main(int argc, char** argv);

}  // namespace whittle
