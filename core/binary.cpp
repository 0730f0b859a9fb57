#include "core/binary.h"

#include <string.h>

#include <algorithm>
#include <atomic>
#include <new>

#include "core/aligned.h"
#include "core/scratch.h"
#include "core/threads.h"

#define WHITTLE_VARIANT(tier) extern "C" void binary_install_##tier(whittle::BinaryKernels*);
#include "cpu/binary/variants.inc"
#undef WHITTLE_VARIANT

namespace whittle {
namespace {

const Resolved<BinaryKernels>& resolved() {
  static const Resolved<BinaryKernels> r = resolve(binary_variants());
  return r;
}

bool finite(double v) { return v - v == 0; }

float mean_of(double sum, int64_t k) { return k > 0 ? static_cast<float>(sum / static_cast<double>(k)) : 0; }

}  // namespace

VariantList<BinaryKernels> binary_variants() {
  static const Variant<BinaryKernels> list[] = {
#define WHITTLE_VARIANT(tier) {Tier::tier, binary_install_##tier},
#include "cpu/binary/variants.inc"
#undef WHITTLE_VARIANT
  };
  return {list, static_cast<int>(sizeof list / sizeof *list)};
}
const BinaryKernels& binary_kernels() { return resolved().table; }
Tier binary_tier() { return resolved().tier; }

PackedBinary* new_packed_binary(int64_t k, int64_t n) {
  PackedBinary* w = new (std::nothrow) PackedBinary();
  if (!w) return nullptr;
  w->k = k;
  w->n = n;
  w->words = binary_words(k);
  w->groups = (n + kBinaryLanes - 1) / kBinaryLanes;
  const size_t columns = static_cast<size_t>(w->groups * kBinaryLanes) * 4, data = columns * static_cast<size_t>(w->words);
  w->bytes = static_cast<int64_t>(data + columns);
  w->data = static_cast<uint32_t*>(aligned_new(data));
  w->scale = static_cast<float*>(aligned_new(columns));
  if (!w->data || !w->scale) {
    free_packed_binary(w);
    return nullptr;
  }
  return w;
}

void free_packed_binary(PackedBinary* w) {
  if (!w) return;
  aligned_delete(w->data);
  aligned_delete(w->scale);
  delete w;
}

WhittleStatus fill_packed_binary(const float* w, int64_t row, int64_t col, int32_t kind, const float* scales, int threads,
                                 PackedBinary* packed) {
  const BinaryKernels& table = binary_kernels();
  const int64_t k = packed->k, n = packed->n, words = packed->words;
  std::atomic<int> status{WHITTLE_OK};
  if (k * n < 65536) threads = 1;
  parallel_for(packed->groups, 1, threads, [&](int64_t first, int64_t last) {
    static thread_local Scratch scratch;
    // A column's numbers side by side, and its words.
    const int64_t rows = col == 1 ? kBinaryLanes : 1;
    float* values = static_cast<float*>(scratch.take((rows * k + words) * 4));
    if (!values) {
      status = WHITTLE_OUT_OF_MEMORY;
      return;
    }
    uint32_t* bits = reinterpret_cast<uint32_t*>(values + rows * k);
    for (int64_t group = first; group < last; group++) {
      uint32_t* out = packed->data + group * words * kBinaryLanes;
      float* scale = packed->scale + group * kBinaryLanes;
      memset(out, 0, static_cast<size_t>(words * kBinaryLanes) * 4);
      const int64_t from = group * kBinaryLanes, columns = std::min(kBinaryLanes, n - from);
      if (rows > 1)
        for (int64_t p = 0; p < k; p++)
          for (int64_t j = 0; j < columns; j++) values[j * k + p] = w[p * row + from + j];
      for (int64_t j = 0; j < kBinaryLanes; j++) {
        scale[j] = 0;
        if (j >= columns) continue;
        const float* x = values + (rows > 1 ? j * k : 0);
        if (rows == 1 && row == 1) x = w + (from + j) * col;
        else if (rows == 1)
          for (int64_t p = 0; p < k; p++) values[p] = w[p * row + (from + j) * col];
        const double sum = table.pack(x, k, bits);
        if (!finite(sum)) status = WHITTLE_NONFINITE;
        for (int64_t i = 0; i < words; i++) out[i * kBinaryLanes + j] = bits[i];
        scale[j] = kind == kBinaryScaleMean ? mean_of(sum, k) : kind == kBinaryScaleGiven ? scales[from + j] : 1;
      }
    }
  });
  return static_cast<WhittleStatus>(status.load());
}

WhittleStatus gemm_binary(const BinaryKernels& table, const BinaryArgs& g, const GemmEngine& engine) {
  const PackedBinary& w = *g.w;
  const int64_t m = g.m, n = w.n, k = w.k, words = w.words;
  if (m == 0) return WHITTLE_OK;
  const int threads = static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k) < 4e6 ? 1 : g.threads > 0 ? g.threads : thread_limit();
  static thread_local Scratch scratch;
  uint32_t* bits = static_cast<uint32_t*>(scratch.take((m * words + m) * 4));
  if (!bits) return WHITTLE_OUT_OF_MEMORY;
  float* means = reinterpret_cast<float*>(bits + m * words);
  std::atomic<bool> good{true};
  parallel_for(m, 8, m * k < 32768 ? 1 : threads, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i++) {
      const double sum = table.pack(g.a + i * k, k, bits + i * words);
      if (!finite(sum)) good = false;
      means[i] = mean_of(sum, k);
    }
  });
  if (!good) return WHITTLE_NONFINITE;
  // A run of groups stays in the nearest caches while blocks of few rows pass by: results are then written side by side, and the rows of a
  // block lie in as many pages as the processor knows at once.
  constexpr int64_t kRows = 32, kBand = 256;
  const int64_t run = std::max<int64_t>(1, (32 << 10) / std::max<int64_t>(1, words * kBinaryLanes * 4));
  const int64_t runs = (w.groups + run - 1) / run, bands = (m + kBand - 1) / kBand;
  const bool plain = !g.is_float || (!g.bias && g.activation.kind == kActivationNone);
  parallel_for(bands * runs, 1, threads, [&](int64_t first, int64_t last) {
    for (int64_t at = first; at < last; at++) {
      const int64_t end = std::min(m, (at / runs + 1) * kBand), group_end = std::min(w.groups, (at % runs + 1) * run);
      for (int64_t row = at / runs * kBand; row < end; row += kRows)
        for (int64_t group = at % runs * run; group < group_end; group++) {
          const int64_t column = group * kBinaryLanes;
          BinaryTile t = {};
          t.rows = std::min(kRows, end - row);
          t.words = words;
          t.a = bits + row * words;
          t.group = w.data + group * words * kBinaryLanes;
          t.columns = std::min(kBinaryLanes, n - column);
          t.k = k;
          t.scale = w.scale + column;
          t.row_scale = g.row_mean ? means + row : nullptr;
          t.is_float = g.is_float;
          // int32 and float32 are as long.
          t.c = static_cast<uint8_t*>(g.out) + 4 * (row * n + column);
          t.ldc = n;
          table.multiply(&t);
          if (!plain)
            engine.kernels.finish(t.rows, t.columns, static_cast<float*>(t.c), n, g.bias ? g.bias + column : nullptr, &g.activation);
        }
    }
  });
  return WHITTLE_OK;
}

}  // namespace whittle
