#include "core/sparse_nm.h"

#include <string.h>

#include <algorithm>
#include <atomic>

#include "core/scratch.h"
#include "core/threads.h"

namespace whittle {
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
  const int64_t places = out->rows * d->groups * n;
  d->position.resize(static_cast<size_t>(places));
  d->values.resize(static_cast<size_t>(places * size));
  std::vector<float> row(static_cast<size_t>(out->cols));
  int64_t at = 0;
  for (int64_t i = 0; i < out->rows; i++) {
    source.row_f32(i, row.data());
    for (int64_t g = 0; g < d->groups; g++, at += n) {
      const float* w = row.data() + g * m;
      uint8_t* position = d->position.data() + at;
      if (!sparse_nm_group(w, n, m, position)) return WHITTLE_RANGE;
      for (int64_t e = 0; e < n; e++) {
        const float v = w[position[e]];
        out->nnz += v != 0;
        uint32_t bits;
        memcpy(&bits, &v, 4);
        const uint16_t high = static_cast<uint16_t>(bits >> 16);
        if (size == 4) memcpy(d->values.data() + (at + e) * 4, &v, 4);
        else memcpy(d->values.data() + (at + e) * 2, &high, 2);
      }
    }
  }
  out->bytes += static_cast<int64_t>(sizeof *d + d->position.size() + d->values.size());
  return WHITTLE_OK;
}

void sparse_nm_to_dense(const SparseMatrix& w, void* out) {
  const SparseNmData& d = *w.nm;
  const int64_t size = value_size(w);
  int64_t at = 0;
  for (int64_t i = 0; i < w.rows; i++)
    for (int64_t g = 0; g < d.groups; g++)
      for (int64_t e = 0; e < w.n; e++, at++)
        memcpy(static_cast<uint8_t*>(out) + (i * w.cols + g * w.m + d.position[static_cast<size_t>(at)]) * size,
               d.values.data() + at * size, static_cast<size_t>(size));
}

WhittleStatus sparse_nm_multiply(const SparseArgs& a) {
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
        int64_t at = i * d.groups * w.n;
        for (int64_t g = 0; g < d.groups; g++)
          for (int64_t e = 0; e < w.n; e++, at++) {
            const int64_t p = g * w.m + d.position[static_cast<size_t>(at)];
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
