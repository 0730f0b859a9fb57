// N:M masks: the n largest of each run of m along an axis.
#include <atomic>

#include "core/select_keys.h"
#include "core/threads.h"

namespace whittle {

using namespace select_detail;

WhittleStatus select_nm(const float* scores, int64_t outer, int64_t axis, int64_t inner, int keep, int m,
                        uint8_t* mask) {
  const SelectKernels& k = select_kernels();
  const int64_t runs = outer * (axis / m);
  if (runs == 0 || inner == 0) return WHITTLE_OK;
  std::atomic<int> nan{0}, full{0};
  const auto mark = [&](const float* x, int64_t groups, uint32_t* keys, uint8_t* to) {
    int bad = 0;
    if (m <= kSelectRun) bad = k.nm(x, groups, keep, m, to);
    else
      for (int64_t i = 0; i < groups; i++) bad |= select_run_largest(x + i * m, m, keep, keys, to + i * m);
    if (bad) nan = 1;
  };
  const int64_t tile = inner < 128 ? inner : 128;  // columns gathered at once where runs are not contiguous
  const int64_t work = inner == 1 ? m : inner * m;
  parallel_for(runs, work >= kChunk ? 1 : kChunk / work, 0, [&](int64_t b, int64_t e) {
    std::unique_ptr<uint32_t[]> keys = room<uint32_t>(m > kSelectRun ? m : 0);
    std::unique_ptr<float[]> x = room<float>(inner == 1 ? 0 : tile * m);
    std::unique_ptr<uint8_t[]> out = room<uint8_t>(inner == 1 ? 0 : tile * m);
    if (!keys || !x || !out) {
      full = 1;
      return;
    }
    if (inner == 1) {
      mark(scores + b * m, e - b, keys.get(), mask + b * m);
      return;
    }
    for (int64_t t = b; t < e; t++)
      for (int64_t from = 0; from < inner; from += tile) {
        const int64_t n = inner - from < tile ? inner - from : tile, offset = t * m * inner + from;
        for (int64_t j = 0; j < m; j++)
          for (int64_t i = 0; i < n; i++) x[i * m + j] = scores[offset + j * inner + i];
        mark(x.get(), n, keys.get(), out.get());
        for (int64_t j = 0; j < m; j++)
          for (int64_t i = 0; i < n; i++) mask[offset + j * inner + i] = out[i * m + j];
      }
  });
  return full ? WHITTLE_OUT_OF_MEMORY : nan ? WHITTLE_NONFINITE : WHITTLE_OK;
}

}  // namespace whittle
