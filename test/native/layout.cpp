// Strided copies against the definition.
#include <algorithm>
#include <vector>

#include "core/layout.h"
#include "test/native/harness.h"

namespace whittle {

WHITTLE_CHECK(layout) {
  h.row("strided copies", [&] {
    Rng rng = h.rng();
    for (int round = 0; round < (h.lean() ? 40 : 400); round++) {
      StridedCopy c = {};
      c.rank = static_cast<int32_t>(rng.between(1, 5));
      c.size = int64_t(1) << rng.below(4);
      int64_t count = 1, step_in = 1, step_out = 1;
      int order[5] = {0, 1, 2, 3, 4};
      for (int k = 0; k < c.rank; k++) {
        c.dims[k] = rng.between(1, rng.below(4) == 0 ? 40 : 6);
        count *= c.dims[k];
        std::swap(order[k], order[rng.below(k + 1)]);
      }
      if (count > 100000) continue;
      for (int k = c.rank - 1; k >= 0; k--) {
        c.out_strides[k] = step_out;
        step_out *= c.dims[k];
      }
      for (int k = c.rank - 1; k >= 0; k--) {
        const bool repeat = rng.below(6) == 0;
        c.in_strides[order[k]] = repeat ? 0 : step_in;
        if (!repeat) step_in *= c.dims[order[k]];
      }
      std::vector<uint8_t> in(static_cast<size_t>(step_in * c.size));
      for (uint8_t& b : in) b = static_cast<uint8_t>(rng.below(256));
      Guarded<uint8_t> out(count * c.size);
      const StridedCopy plain = c;
      layout_simplify(&c);
      layout_copy(c, in.data(), out.data(), static_cast<int>(rng.between(1, 2)));
      for (int64_t t = 0; t < count; t++) {
        int64_t rest = t, from = 0;
        for (int k = plain.rank - 1; k >= 0; k--) {
          from += rest % plain.dims[k] * plain.in_strides[k];
          rest /= plain.dims[k];
        }
        for (int64_t b = 0; b < c.size; b++)
          if (!h.expect(out[t * c.size + b] == in[static_cast<size_t>(from * c.size + b)], "element %lld differs", (long long)t)) return;
      }
      h.expect(out.intact(), "wrote outside of the result");
    }
  });
}

}  // namespace whittle
