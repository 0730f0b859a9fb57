#include "core/sparse_int8.h"

#include <string.h>

#include <algorithm>
#include <atomic>

#include "core/scratch.h"
#include "core/sparse_blocks.h"
#include "core/sparse_nm.h"
#include "core/threads.h"

#define WHITTLE_VARIANT(tier) extern "C" void sparse_int8_install_##tier(whittle::SparseInt8Kernels*);
#include "cpu/sparse/int8_variants.inc"
#undef WHITTLE_VARIANT

namespace whittle {

VariantList<SparseInt8Kernels> sparse_int8_variants() {
  static const Variant<SparseInt8Kernels> list[] = {
#define WHITTLE_VARIANT(tier) {Tier::tier, sparse_int8_install_##tier},
#include "cpu/sparse/int8_variants.inc"
#undef WHITTLE_VARIANT
  };
  return {list, static_cast<int>(sizeof list / sizeof *list)};
}

namespace {

const Resolved<SparseInt8Kernels>& resolved() {
  static const Resolved<SparseInt8Kernels> r = resolve(sparse_int8_variants());
  return r;
}

// Every sum of cols products of (x - zero) w plus the bias must fit 32 bits, whatever the data: gemmInt8's rule.
bool sums_fit(const SparseArgs& a) {
  const SparseMatrix& w = *a.w;
  const int64_t lo_x = (a.x_signed ? -128 : 0) - a.x_zero, hi_x = (a.x_signed ? 127 : 255) - a.x_zero;
  int64_t lo = std::min<int64_t>(0, std::min(std::min(lo_x * -128, lo_x * 127), std::min(hi_x * -128, hi_x * 127))) * w.cols;
  int64_t hi = std::max<int64_t>(0, std::max(std::max(lo_x * -128, lo_x * 127), std::max(hi_x * -128, hi_x * 127))) * w.cols;
  if (a.bias_int && w.rows > 0) {
    lo += *std::min_element(a.bias_int, a.bias_int + w.rows);
    hi += *std::max_element(a.bias_int, a.bias_int + w.rows);
  }
  return lo >= INT32_MIN && hi <= INT32_MAX;
}

}  // namespace

Tier sparse_int8_tier() { return resolved().tier; }

WhittleStatus sparse_int8_build(const SparseSource& source, SparseMatrix* out) {
  out->int8.reset(new SparseInt8Data);
  SparseInt8Data* d = out->int8.get();
  const int64_t r = out->r, c = out->c;
  SparseBlocks<int8_t> blocks;
  blocks.collect(source, r, c);
  if (out->format == kSparseNm) {
    std::vector<uint8_t> position(static_cast<size_t>(out->n));
    std::vector<int8_t> row(static_cast<size_t>(out->cols));
    for (int64_t i = 0; i < out->rows; i++) {
      source.row_int8(i, row.data());
      for (int64_t g = 0; g < out->cols; g += out->m)
        if (!sparse_nm_group(row.data() + g, out->n, out->m, position.data())) return WHITTLE_RANGE;
    }
  }
  out->nnz = blocks.nnz;
  d->sums.resize(static_cast<size_t>(out->rows));
  for (int64_t b = 0; b + 1 < static_cast<int64_t>(blocks.first.size()); b++)
    for (int64_t e = blocks.first[static_cast<size_t>(b)]; e < blocks.first[static_cast<size_t>(b) + 1]; e++)
      for (int64_t i = 0; i < r && b * r + i < out->rows; i++)
        for (int64_t j = 0; j < c; j++) d->sums[static_cast<size_t>(b * r + i)] += blocks.values[static_cast<size_t>((e * r + i) * c + j)];
  d->first = std::move(blocks.first);
  d->column = std::move(blocks.column);
  d->values = std::move(blocks.values);
  out->bytes += static_cast<int64_t>(sizeof *d + d->first.size() * 8 + d->column.size() * 4 + d->values.size() + d->sums.size() * 4);
  return WHITTLE_OK;
}

void sparse_int8_to_dense(const SparseMatrix& w, int8_t* out) {
  const SparseInt8Data& d = *w.int8;
  memset(out, 0, static_cast<size_t>(w.rows * w.cols));
  for (int64_t b = 0; b + 1 < static_cast<int64_t>(d.first.size()); b++)
    for (int64_t e = d.first[static_cast<size_t>(b)]; e < d.first[static_cast<size_t>(b) + 1]; e++)
      for (int64_t i = 0; i < w.r && b * w.r + i < w.rows; i++)
        for (int64_t j = 0; j < w.c && d.column[static_cast<size_t>(e)] + j < w.cols; j++)
          out[(b * w.r + i) * w.cols + d.column[static_cast<size_t>(e)] + j] = d.values[static_cast<size_t>((e * w.r + i) * w.c + j)];
}

WhittleStatus sparse_int8_multiply(const SparseArgs& a) {
  const SparseMatrix& w = *a.w;
  const SparseInt8Data& d = *w.int8;
  if (!sums_fit(a)) return WHITTLE_RANGE;
  static thread_local Scratch arrays;
  const size_t rows = static_cast<size_t>(w.rows);
  int32_t* offset = static_cast<int32_t*>(arrays.take(w.rows * 12));
  if (!offset) return WHITTLE_OUT_OF_MEMORY;
  float* scale = reinterpret_cast<float*>(offset + w.rows);
  float* bias = scale + w.rows;
  for (size_t i = 0; i < rows; i++) {
    offset[i] = static_cast<int32_t>((a.bias_int ? static_cast<uint32_t>(a.bias_int[i]) : 0u) -
                                     static_cast<uint32_t>(a.x_zero) * static_cast<uint32_t>(d.sums[i]));
    if (a.out_type == kOutInt32) continue;
    scale[i] = a.x_scale * w.scales[i];
    if (!(scale[i] > 0 && scale[i] <= 3.402823466e38f)) return WHITTLE_RANGE;
    bias[i] = a.bias ? a.bias[i] : -0.0f;
    if (bias[i] - bias[i] != 0) return WHITTLE_NONFINITE;
  }
  if (a.columns == 0) return WHITTLE_OK;
  const int64_t size = a.out_type == kOutInt32 || a.out_type == kOutFloat32 ? 4 : 1, blocks = static_cast<int64_t>(d.first.size()) - 1;
  const uint8_t* x = static_cast<const uint8_t*>(a.x);
  std::atomic<bool> failed{false};
  for (int64_t q = 0; q < a.batch; q++)
    parallel_for(blocks, std::max<int64_t>(1, 64 / w.r), a.threads, [&](int64_t begin, int64_t end) {
      static thread_local Scratch scratch;
      // One activation column's rows where they lie side by side in out, else one row's columns and its constants.
      const int64_t wide = a.by_rows ? (end - begin) * w.r : a.columns;
      int32_t* acc = static_cast<int32_t*>(scratch.take(wide * 16));
      if (!acc) {
        failed = true;
        return;
      }
      GemmInt8Epilogue e = {};
      e.activation = a.activation;
      e.out_scale = a.out_scale;
      e.out_zero = a.out_zero;
      e.out_type = a.out_type;
      e.offset = offset;
      e.scale = scale;
      e.bias = bias;
      const auto value = [&](int64_t p, int64_t j) {
        const uint8_t v = a.by_rows ? x[j * w.cols + p] : x[(q * w.cols + p) * a.columns + j];
        return a.x_signed ? static_cast<int32_t>(static_cast<int8_t>(v)) : static_cast<int32_t>(v);
      };
      const auto sum = [&](int64_t i, int64_t j) {
        uint32_t s = 0;
        for (int64_t t = d.first[static_cast<size_t>(i / w.r)]; t < d.first[static_cast<size_t>(i / w.r) + 1]; t++)
          for (int64_t c = 0; c < w.c && d.column[static_cast<size_t>(t)] + c < w.cols; c++)
            s += static_cast<uint32_t>(d.values[static_cast<size_t>((t * w.r + i % w.r) * w.c + c)] * value(d.column[static_cast<size_t>(t)] + c, j));
        return static_cast<int32_t>(s);
      };
      const int64_t first = begin * w.r, last = std::min(w.rows, end * w.r);
      if (a.by_rows) {
        for (int64_t j = 0; j < a.columns; j++) {
          for (int64_t i = first; i < last; i++) acc[i - first] = sum(i, j);
          resolved().table.finish(&e, first, acc, last - first, static_cast<uint8_t*>(a.out) + (j * w.rows + first) * size);
        }
        return;
      }
      for (int64_t i = first; i < last; i++) {
        int32_t* same = acc + wide;
        float* same_scale = reinterpret_cast<float*>(acc + 2 * wide);
        float* same_bias = reinterpret_cast<float*>(acc + 3 * wide);
        for (int64_t j = 0; j < wide; j++) {
          acc[j] = sum(i, j);
          same[j] = offset[i];
          same_scale[j] = a.out_type == kOutInt32 ? 1.0f : scale[i];
          same_bias[j] = a.out_type == kOutInt32 ? 0.0f : bias[i];
        }
        e.offset = same;
        e.scale = same_scale;
        e.bias = same_bias;
        resolved().table.finish(&e, 0, acc, wide, static_cast<uint8_t*>(a.out) + (q * w.rows + i) * a.columns * size);
      }
    });
  return failed ? WHITTLE_OUT_OF_MEMORY : WHITTLE_OK;
}

}  // namespace whittle
