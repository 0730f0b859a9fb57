// How a panel's sums reach C. The includer defines LANES and the operations of cpu/common/lanes_*.h.
#pragma once

namespace whittle {
namespace {

// Columns past the last are dropped.
template <int R, int V>
static inline void write_panel(const WeightStream* s, int64_t group, float* c, vf (&total)[R][V]) {
  const int64_t left = s->w->n - group * 16;
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 8
    for (int v = 0; v < V; v++) {
      float* to = c + r * s->ldc + v * LANES;
      if (left >= (v + 1) * LANES) v_store(to, total[r][v]);
      else if (left > v * LANES) v_store_part(to, total[r][v], left - v * LANES);
    }
}

}  // namespace
}  // namespace whittle
