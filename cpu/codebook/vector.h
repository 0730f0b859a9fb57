// The codebook kernels once, over the vector operations O of an ISA. The tree's upper levels lie in registers and are
// looked up by permutes; levels below O::kTop are gathered from memory, as are centroids beyond O::kValues.
// kGroup vectors go together, so that searches, which wait for their own look-ups, overlap.
#pragma once
#define WHITTLE_ISA_FILE
#include "core/codebook.h"

namespace whittle {
namespace {

template <class O>
struct Codebook {
  typedef typename O::F F;
  typedef typename O::I I;
  static constexpr int kWidth = O::kWidth, kGroup = O::kGroup, kElements = kWidth * kGroup;

  static inline int64_t find(const CodebookTable& t, float x) {
    int64_t node = 0;
    for (int32_t l = 0; l < t.levels; l++) node = 2 * node + 1 + (x > t.nodes[node]);
    return node - ((int64_t(1) << t.levels) - 1);
  }

  // Level kLevel of kTop levels in registers, each a constant, so that no look-up is chosen at run time.
  template <int kLevel, int kTop>
  struct Top {
    static inline void walk(const typename O::Nodes& r, const F* x, I* node) {
      for (int v = 0; v < kGroup; v++) node[v] = O::step(node[v], x[v], O::template node<kLevel>(r, node[v]));
      Top<kLevel + 1, kTop>::walk(r, x, node);
    }
  };
  template <int kTop>
  struct Top<kTop, kTop> {
    static inline void walk(const typename O::Nodes&, const F*, I*) {}
  };

  template <int kTop, class Index>
  static double assign_top(const CodebookTable* t, const float* x, int64_t n, Index* index) {
    const typename O::Nodes nodes = O::load_nodes(t->nodes);
    const typename O::Nodes values = O::load_nodes(t->centroids);
    const I base = O::seti((1 << t->levels) - 1);
    double sum = 0;
    int64_t i = 0;
    typename O::D low = O::zero(), high = O::zero();
    for (; i + kElements <= n; i += kElements) {
      F value[kGroup];
      I node[kGroup];
      for (int v = 0; v < kGroup; v++) {
        value[v] = O::load(x + i + v * kWidth);
        node[v] = O::seti(0);
      }
      Top<0, kTop>::walk(nodes, value, node);
      for (int32_t l = kTop; l < t->levels; l++)
        for (int v = 0; v < kGroup; v++) node[v] = O::step(node[v], value[v], O::gather(t->nodes, node[v]));
      for (int v = 0; v < kGroup; v++) {
        node[v] = O::sub(node[v], base);
        const F c = kTop <= O::kValueLevels && t->levels <= kTop ? O::template value<kTop>(values, node[v]) : O::gather(t->centroids, node[v]);
        O::add_square(O::subf(value[v], c), &low, &high);
      }
      O::put(index + i, node);
    }
    sum = O::total(low) + O::total(high);
    for (; i < n; i++) {
      const int64_t at = find(*t, x[i]);
      index[i] = (Index)at;
      const double d = (double)x[i] - t->centroids[at];
      sum += d * d;
    }
    return sum;
  }

  template <class Index>
  static double assign(const CodebookTable* t, const float* x, int64_t n, Index* index) {
    switch (t->levels < O::kTop ? t->levels : O::kTop) {
      case 0: return assign_top<0, Index>(t, x, n, index);
      case 1: return assign_top<1, Index>(t, x, n, index);
      case 2: return assign_top<2, Index>(t, x, n, index);
      case 3: return assign_top<3, Index>(t, x, n, index);
      case 4: return assign_top<4, Index>(t, x, n, index);
      case 5: return assign_top<O::kTop < 5 ? O::kTop : 5, Index>(t, x, n, index);
      default: return assign_top<O::kTop < 6 ? O::kTop : 6, Index>(t, x, n, index);
    }
  }

  template <int kLevels, class Index>
  static int64_t gather_few(const Index* index, int64_t n, const float* values, float* out) {
    const typename O::Nodes r = O::load_nodes(values);
    int64_t i = 0;
    for (; i + kElements <= n; i += kElements) {
      I at[kGroup];
      O::get(index + i, at);
      for (int v = 0; v < kGroup; v++) O::store(out + i + v * kWidth, O::template value<kLevels>(r, at[v]));
    }
    return i;
  }

  template <class Index>
  static void gather(const Index* index, int64_t n, const float* values, int64_t count, float* out) {
    int64_t i = 0;
    if (count <= 16 && O::kValueLevels >= 4) {
      i = gather_few<4, Index>(index, n, values, out);
    } else if (count <= 1 << O::kValueLevels) {
      i = gather_few<O::kValueLevels, Index>(index, n, values, out);
    }
    // Larger tables: single loads; gather instructions took half as long again where their microcode is patched.
    for (; i < n; i++) out[i] = values[index[i]];
  }

  static void install(CodebookKernels* t) {
    t->assign8 = assign<uint8_t>;
    t->assign16 = assign<uint16_t>;
    t->gather8 = gather<uint8_t>;
    t->gather16 = gather<uint16_t>;
  }
};

}  // namespace
}  // namespace whittle
