#include "core/sparse_weights.h"

#include <string.h>

#include <algorithm>
#include <new>

namespace whittle {
namespace {

template <class T>
void turn(const T* from, int64_t rows, int64_t cols, T* to) {
  // A line of each at a time.
  for (int64_t i0 = 0; i0 < rows; i0 += 16)
    for (int64_t j = 0; j < cols; j++)
      for (int64_t i = i0; i < std::min(rows, i0 + 16); i++) to[j * rows + i] = from[i * cols + j];
}

}  // namespace

bool sparse_rows(bool codes, const void* data, int64_t k, int64_t n, int64_t row, int64_t col, std::unique_ptr<uint8_t[]>* turned) {
  if (row == 1 && col == k) return true;
  turned->reset(new (std::nothrow) uint8_t[static_cast<size_t>(k * n * (codes ? 1 : 4)) + 1]);
  if (!*turned) return false;
  if (codes) turn(static_cast<const uint8_t*>(data), k, n, turned->get());
  else turn(static_cast<const float*>(data), k, n, reinterpret_cast<float*>(turned->get()));
  return true;
}

namespace {

// What both products say alike: activations lie by rows, one batch.
SparseArgs product_of(const SparseMatrix& w, const void* x, int64_t rows, const Activation& activation, void* out, int threads) {
  SparseArgs a = {};
  a.w = &w;
  a.x = x;
  a.by_rows = true;
  a.batch = 1;
  a.columns = rows;
  a.activation = activation;
  a.out = out;
  a.threads = threads;
  return a;
}

}  // namespace

WhittleStatus sparse_gemm(const SparseMatrix& w, const GemmProblem& g, int threads) {
  SparseArgs a = product_of(w, g.a, g.m, g.activation, g.c, threads);
  a.bias = g.bias;
  a.fill = g.fill;
  a.fill_context = g.fill_context;
  a.residual = g.source;
  return sparse_multiply(a);
}

WhittleStatus sparse_gemm_int8(const SparseMatrix& w, const GemmInt8Args& g, const SparseInt8Image* image) {
  SparseArgs a = product_of(w, g.a, g.m, g.activation, g.out, g.threads);
  a.bias = g.bias_float;
  a.bias_int = g.bias_int;
  a.x_signed = g.a_signed;
  a.x_zero = g.a_zero;
  a.x_scale = g.a_scale;
  a.out_type = g.out_type;
  a.out_scale = g.out_scale;
  a.out_zero = g.out_zero;
  a.fill_bytes = g.fill;
  a.image = image;
  a.fill_context = g.fill_context;
  a.row_scales = g.b_scales;
  a.residual = g.residual;
  a.added = g.added;
  return sparse_multiply(a);
}

}  // namespace whittle
