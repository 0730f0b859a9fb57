// The reference of codebook: walks down the tree of thresholds, one value at a time.
#include "core/codebook.h"

namespace whittle {
namespace {

int64_t find(const CodebookTable& t, float x) {
  int64_t node = 0;
  for (int32_t l = 0; l < t.levels; l++) node = 2 * node + 1 + (x > t.nodes[node]);
  return node - ((int64_t(1) << t.levels) - 1);
}

template <class Index>
double assign(const CodebookTable* t, const float* x, int64_t n, Index* index) {
  double sum = 0;
  for (int64_t i = 0; i < n; i++) {
    const int64_t at = find(*t, x[i]);
    index[i] = static_cast<Index>(at);
    const double d = static_cast<double>(x[i]) - t->centroids[at];
    sum += d * d;
  }
  return sum;
}

template <class Index>
void gather(const Index* index, int64_t n, const float* values, int64_t, float* out) {
  for (int64_t i = 0; i < n; i++) out[i] = values[index[i]];
}

// Four sums a cluster where they fit into the nearest cache, so that a run of one index does not wait for each sum.
template <class Index>
void sum(const Index* index, const float* g, int64_t n, int64_t count, double* sums) {
  constexpr int64_t kFew = 512;
  int64_t i = 0;
  if (count <= kFew && n >= 4 * count) {
    double part[4 * kFew];
    for (int64_t c = 0; c < 4 * count; c++) part[c] = 0;
    for (; i + 4 <= n; i += 4)
      for (int64_t lane = 0; lane < 4; lane++) part[lane * count + index[i + lane]] += static_cast<double>(g[i + lane]);
    for (int64_t lane = 0; lane < 4; lane++)
      for (int64_t c = 0; c < count; c++) sums[c] += part[lane * count + c];
  }
  for (; i < n; i++) sums[index[i]] += static_cast<double>(g[i]);
}

}  // namespace
}  // namespace whittle

extern "C" void codebook_install_scalar(whittle::CodebookKernels* t) {
  t->assign8 = whittle::assign<uint8_t>;
  t->assign16 = whittle::assign<uint16_t>;
  t->gather8 = whittle::gather<uint8_t>;
  t->gather16 = whittle::gather<uint16_t>;
  t->sum8 = whittle::sum<uint8_t>;
  t->sum16 = whittle::sum<uint16_t>;
}
