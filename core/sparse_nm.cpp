#include "core/sparse_nm.h"

#include <string.h>

#include <algorithm>

#include "core/scratch.h"
#include "core/threads.h"

#define WHITTLE_VARIANT(tier) extern "C" void sparse_nm_install_##tier(whittle::SparseNmKernels*);
#include "cpu/sparse/nm_variants.inc"
#undef WHITTLE_VARIANT

namespace whittle {

VariantList<SparseNmKernels> sparse_nm_variants() {
  static const Variant<SparseNmKernels> list[] = {
#define WHITTLE_VARIANT(tier) {Tier::tier, sparse_nm_install_##tier},
#include "cpu/sparse/nm_variants.inc"
#undef WHITTLE_VARIANT
  };
  return {list, static_cast<int>(sizeof list / sizeof *list)};
}

namespace {

const Resolved<SparseNmKernels>& resolved() {
  static const Resolved<SparseNmKernels> r = resolve(sparse_nm_variants());
  return r;
}

int64_t value_size(const SparseMatrix& w) { return w.type == kSparseF32 ? 4 : 2; }

}  // namespace

const SparseNmKernels& sparse_nm_kernels() { return resolved().table; }
Tier sparse_nm_tier() { return resolved().tier; }

WhittleStatus sparse_nm_check(const SparseSource& source) {
  const SparseBuild& b = source.build;
  std::vector<float> row(static_cast<size_t>(b.cols));
  for (int64_t i = 0; i < b.rows; i++) {
    source.row_f32(i, row.data());
    for (int64_t g = 0; g < b.cols; g += b.m) {
      int32_t used = 0;
      for (int64_t j = g; j < g + b.m; j++) used += row[static_cast<size_t>(j)] != 0;
      if (used > b.n) return WHITTLE_RANGE;
    }
  }
  return WHITTLE_OK;
}

void sparse_nm_build(const SparseSource& source, SparseMatrix* out) {
  out->nm.reset(new SparseNmData);
  SparseNmData* d = out->nm.get();
  const int64_t size = value_size(*out);
  d->stride = (out->cols / 2 + kSparseNmStep - 1) / kSparseNmStep * kSparseNmStep;
  const int64_t places = out->rows * d->stride;
  d->places.resize(static_cast<size_t>(places / 16));
  d->values.resize(static_cast<size_t>(places * size) + 64);
  std::vector<float> row(static_cast<size_t>(out->cols));
  for (int64_t i = 0; i < out->rows; i++) {
    source.row_f32(i, row.data());
    int64_t at = i * d->stride;
    for (int64_t g = 0; g < out->cols; g += 4) {
      uint8_t position[2];
      sparse_nm_group(row.data() + g, 2, 4, position);
      for (int64_t e = 0; e < 2; e++, at++) {
        d->places[static_cast<size_t>(at / 16)] |= static_cast<uint32_t>(position[e]) << (at % 16 * 2);
        const float v = row[static_cast<size_t>(g + position[e])];
        out->nnz += v != 0;
        uint32_t bits;
        memcpy(&bits, &v, 4);
        const uint16_t high = static_cast<uint16_t>(bits >> 16);
        if (size == 4) memcpy(d->values.data() + at * 4, &v, 4);
        else memcpy(d->values.data() + at * 2, &high, 2);
      }
    }
  }
  out->bytes += static_cast<int64_t>(sizeof *d + d->places.size() * 4 + d->values.size());
}

void sparse_nm_each(const SparseMatrix& w, const SparseSeen& see) {
  const SparseNmData& d = *w.nm;
  const int64_t size = value_size(w);
  for (int64_t i = 0; i < w.rows; i++)
    for (int64_t e = 0; e < w.cols / 2; e++) {
      const int64_t at = i * d.stride + e, place = d.places[static_cast<size_t>(at / 16)] >> (at % 16 * 2) & 3;
      see(i, e / 2 * 4 + place, d.values.data() + at * size);
    }
}

// One column of X at a time, gathered where it does not lie by itself.
WhittleStatus sparse_nm_multiply(const SparseNmKernels& kernels, const SparseArgs& a) {
  const SparseMatrix& w = *a.w;
  const SparseNmData& d = *w.nm;
  static thread_local Scratch scratch;
  const int64_t steps = d.stride / kSparseNmStep, columns = a.columns * a.batch;
  if (columns <= 0 || w.rows <= 0) return WHITTLE_OK;
  float* x = static_cast<float*>(scratch.take((steps * 32 + w.rows) * 4));
  if (!x) return WHITTLE_OUT_OF_MEMORY;
  float* acc = x + steps * 32;
  memset(x + w.cols, 0, static_cast<size_t>(steps * 32 - w.cols) * 4);
  const int threads = static_cast<double>(w.rows) * static_cast<double>(w.cols) < 400e3 ? 1 : a.threads;
  const int64_t each = std::max<int64_t>(1, 65536 / (w.cols + 1));
  const bool apart = !a.by_rows && a.columns > 1;
  for (int64_t j = 0; j < columns; j++) {
    const int64_t product = apart ? j / a.columns : j, place = apart ? j % a.columns : 0, spread = apart ? a.columns : 1;
    const float* from = static_cast<const float*>(a.x) + product * w.cols * spread + place;
    if (apart)
      for (int64_t i = 0; i < w.cols; i++) x[i] = from[i * spread];
    else memcpy(x, from, static_cast<size_t>(w.cols) * 4);
    float* out = static_cast<float*>(a.out) + product * w.rows * spread + place;
    parallel_for(w.rows, each, threads, [&](int64_t begin, int64_t end) {
      SparsePairs p = {};
      p.type = w.type;
      p.rows = end - begin;
      p.steps = steps;
      p.places = d.places.data() + begin * steps;
      p.values = d.values.data() + begin * d.stride * value_size(w);
      p.x = x;
      p.acc = acc + begin;
      kernels.pairs(&p);
      SparseFinish f = {};
      f.acc = acc + begin;
      f.acc_stride = 1;
      f.rows = end - begin;
      f.columns = 1;
      f.bias = a.bias ? a.bias + begin : nullptr;
      f.activation = a.activation;
      f.transposed = apart ? 0 : 1;
      f.out_stride = spread;
      f.out = out + begin * spread;
      sparse_kernels().finish(&f);
    });
  }
  return WHITTLE_OK;
}

}  // namespace whittle
