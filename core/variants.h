// How a kernel family lists and resolves its variants.
//
// A family <f> has: a table of function pointers (core/<f>.h), one list cpu/<f>/variants.inc of
// WHITTLE_VARIANT(tier) lines (weakest first), and per line a file cpu/<f>/<tier>.cpp that defines
//   extern "C" void <f>_install_<tier>(whittle::<F>Kernels* table)
// and overwrites the slots it is better at. scalar fills every slot.
#pragma once
#include "core/features.h"

namespace whittle {

template <class Table>
struct Variant {
  Tier tier;
  void (*install)(Table*);
};

template <class Table>
struct VariantList {
  const Variant<Table>* begin_;
  int count;
  const Variant<Table>* begin() const { return begin_; }
  const Variant<Table>* end() const { return begin_ + count; }
};

// The table under a cap: scalar first, each stronger variant on top. Only tiers that this CPU can run.
template <class Table>
Table overlay(const VariantList<Table>& list, Tier cap, Tier* strongest = nullptr) {
  Table table = {};
  for (const Variant<Table>& v : list) {
    if (!tier_allowed(v.tier, cap)) continue;
    v.install(&table);
    if (strongest) *strongest = v.tier;
  }
  return table;
}

// A family's table as this process uses it, and the strongest tier that put something in it.
template <class Table>
struct Resolved {
  Tier tier;
  Table table;
};

template <class Table>
Resolved<Table> resolve(const VariantList<Table>& list) {
  Resolved<Table> r = {Tier::scalar, {}};
  r.table = overlay(list, tier_choice().tier, &r.tier);
  return r;
}

// Registered families, for doctor: name and the tier that each resolved to.
struct FamilyInfo {
  const char* family;
  Tier active;
};
int families(const FamilyInfo** out);

}  // namespace whittle
