#include "core/sparse_nm.h"

#include <string.h>

#include <algorithm>
#include <atomic>

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

const SparseNmKernels& sparse_nm_kernels() {
  static const Resolved<SparseNmKernels> r = resolve(sparse_nm_variants());
  return r.table;
}

namespace {

int64_t value_size(const SparseMatrix& w) { return w.type == kSparseF32 ? 4 : 2; }

float value_at(const SparseMatrix& w, int64_t i) {
  if (w.type == kSparseF32) return reinterpret_cast<const float*>(w.nm->values.data())[i];
  const uint32_t bits = static_cast<uint32_t>(reinterpret_cast<const uint16_t*>(w.nm->values.data())[i]) << 16;
  float v;
  memcpy(&v, &bits, 4);
  return v;
}

}  // namespace

WhittleStatus sparse_nm_build(const SparseSource& source, SparseMatrix* out) {
  out->nm.reset(new SparseNmData);
  SparseNmData* d = out->nm.get();
  const int64_t n = out->n, m = out->m, size = value_size(*out);
  d->groups = out->cols / m;
  d->stride = (d->groups * n + kSparseNmStep - 1) / kSparseNmStep * kSparseNmStep;
  const int64_t places = out->rows * d->stride;
  if (m == 4) d->places.resize(static_cast<size_t>(places / 16));
  else d->position.resize(static_cast<size_t>(places));
  d->values.resize(static_cast<size_t>(places * size) + 64);
  std::vector<uint8_t> position(static_cast<size_t>(n));
  std::vector<float> row(static_cast<size_t>(out->cols));
  for (int64_t i = 0; i < out->rows; i++) {
    source.row_f32(i, row.data());
    int64_t at = i * d->stride;
    for (int64_t g = 0; g < d->groups; g++, at += n) {
      const float* w = row.data() + g * m;
      if (!sparse_nm_group(w, n, m, position.data())) return WHITTLE_RANGE;
      for (int64_t e = 0; e < n; e++) {
        const uint8_t place = position[static_cast<size_t>(e)];
        if (m == 4) d->places[static_cast<size_t>((at + e) / 16)] |= static_cast<uint32_t>(place) << ((at + e) % 16 * 2);
        else d->position[static_cast<size_t>(at + e)] = place;
        const float v = w[place];
        out->nnz += v != 0;
        uint32_t bits;
        memcpy(&bits, &v, 4);
        const uint16_t high = static_cast<uint16_t>(bits >> 16);
        if (size == 4) memcpy(d->values.data() + (at + e) * 4, &v, 4);
        else memcpy(d->values.data() + (at + e) * 2, &high, 2);
      }
    }
  }
  out->bytes += static_cast<int64_t>(sizeof *d + d->position.size() + d->places.size() * 4 + d->values.size());
  return WHITTLE_OK;
}

void sparse_nm_to_dense(const SparseMatrix& w, void* out) {
  const SparseNmData& d = *w.nm;
  const int64_t size = value_size(w);
  for (int64_t i = 0; i < w.rows; i++)
    for (int64_t g = 0, at = i * d.stride; g < d.groups; g++)
      for (int64_t e = 0; e < w.n; e++, at++)
        memcpy(static_cast<uint8_t*>(out) + (i * w.cols + g * w.m + d.place(at)) * size,
               d.values.data() + at * size, static_cast<size_t>(size));
}

namespace {

// One column of X at a time; by_rows.
WhittleStatus multiply_pairs(const SparseNmKernels& kernels, const SparseArgs& a) {
  const SparseMatrix& w = *a.w;
  const SparseNmData& d = *w.nm;
  static thread_local Scratch scratch;
  const int64_t steps = d.stride / kSparseNmStep;
  float* x = static_cast<float*>(scratch.take((steps * 32 + w.rows) * 4));
  if (!x) return WHITTLE_OUT_OF_MEMORY;
  float* acc = x + steps * 32;
  const int threads = static_cast<double>(w.rows) * static_cast<double>(w.cols) < 400e3 ? 1 : a.threads;
  const int64_t each = std::max<int64_t>(1, 65536 / (w.cols + 1));
  for (int64_t j = 0; j < a.columns; j++) {
    memcpy(x, static_cast<const float*>(a.x) + j * w.cols, static_cast<size_t>(w.cols) * 4);
    memset(x + w.cols, 0, static_cast<size_t>(steps * 32 - w.cols) * 4);
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
      f.transposed = 1;
      f.out_stride = 1;
      f.out = static_cast<float*>(a.out) + j * w.rows + begin;
      sparse_kernels().finish(&f);
    });
  }
  return WHITTLE_OK;
}

}  // namespace

WhittleStatus sparse_nm_multiply(const SparseNmKernels& kernels, const SparseArgs& args) {
  SparseArgs a = args;
  if (!a.by_rows && a.columns == 1) {
    a.by_rows = true;
    a.columns = a.batch;
    a.batch = 1;
  }
  if (a.w->n == 2 && a.w->m == 4 && a.by_rows) return multiply_pairs(kernels, a);
  const SparseMatrix& w = *a.w;
  const SparseNmData& d = *w.nm;
  const float* x = static_cast<const float*>(a.x);
  float* out = static_cast<float*>(a.out);
  std::atomic<bool> failed{false};
  const int64_t each = std::max<int64_t>(1, 16384 / (w.cols + 1));
  for (int64_t b = 0; b < a.batch; b++)
    parallel_for(w.rows, each, a.threads, [&](int64_t begin, int64_t end) {
      static thread_local Scratch scratch;
      float* acc = static_cast<float*>(scratch.take(a.columns * 4));
      if (!acc) {
        failed = true;
        return;
      }
      for (int64_t i = begin; i < end; i++) {
        std::fill(acc, acc + a.columns, 0.0f);
        int64_t at = i * d.stride;
        for (int64_t g = 0; g < d.groups; g++)
          for (int64_t e = 0; e < w.n; e++, at++) {
            const int64_t p = g * w.m + d.place(at);
            const float v = value_at(w, at);
            if (a.by_rows)
              for (int64_t j = 0; j < a.columns; j++) acc[j] += v * x[j * w.cols + p];
            else
              for (int64_t j = 0; j < a.columns; j++) acc[j] += v * x[(b * w.cols + p) * a.columns + j];
          }
        SparseFinish f = {};
        f.acc = acc;
        f.acc_stride = a.columns;
        f.rows = 1;
        f.columns = a.columns;
        f.bias = a.bias ? a.bias + i : nullptr;
        f.activation = a.activation;
        f.transposed = a.by_rows;
        f.out_stride = a.by_rows ? w.rows : a.columns;
        f.out = a.by_rows ? out + i : out + (b * w.rows + i) * a.columns;
        sparse_kernels().finish(&f);
      }
    });
  return failed ? WHITTLE_OUT_OF_MEMORY : WHITTLE_OK;
}

}  // namespace whittle
