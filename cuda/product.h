// Row-major products through cuBLASLt, for kernels that go with them: includes nothing of NVIDIA's beside the runtime.
#pragma once
#include "cuda/backend.h"

namespace whittle {

// y[m][n] = op(a) * op(b) + bias, or added to y: float32, or float64 without a bias.
struct RowProduct {
  int64_t m, n, k;               // at least 1
  const void *a, *b;             // [m][k] and [k][n], or transposed [k][m] and [n][k]
  bool transpose_a = false, transpose_b = false;
  void* y = nullptr;
  bool add = false, doubles = false;
  const float* bias = nullptr;   // [n]
  int64_t batch = 1;             // products
  int64_t a_batch = 0, b_batch = 0, y_batch = 0;  // elements from one matrix to the next
};

// On the stream of `work`, which is refused with the reason where cuBLASLt cannot.
void row_product(Work& work, const RowProduct& product);

}  // namespace whittle
