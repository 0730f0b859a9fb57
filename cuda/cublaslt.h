// cuBLASLt, opened when a product first wants it, through a table of the types that its header declares. Without the header
// (WHITTLE_CUBLASLT is not defined) or without the library there is a reason instead.
#pragma once
#include "cuda/backend.h"

#if defined(WHITTLE_CUBLASLT)
#include <cublasLt.h>
#endif

namespace whittle {

// One product, as cuBLASLt has it: column-major d[m][n] = alpha * op(a) * op(b) + bias[m].
struct LtProduct {
  bool integers;          // signed bytes to 32-bit sums, alpha 1; else floats of `type`, d of `d_type`
  bool doubles;           // or float64 throughout, `type` and `d_type` ignored
  FloatType type, d_type;
  bool transpose_a, transpose_b;
  int64_t m, n, k;
  const void *a, *b;
  int64_t lda, ldb, ldd;
  int64_t batch, a_batch, b_batch, d_batch;
  float alpha;
  float beta;             // of what d holds, not with integers: 0 or 1
  const void* bias;       // of d_type, or null
  void* d;
};

// True: the product is on the stream. False: cuBLASLt cannot (*why says what is missing; valid for the life of the process),
// or `work` has failed. The algorithm is the first that its heuristics name, for integers, where any gives the same bits, the
// fastest of a few; remembered for the shape.
bool lt_product(Work& work, const LtProduct& product, const char** why);

}  // namespace whittle
