// int8 weights in any sparse format; sums in 32 bits, exact, and the epilogue of core/gemm_int8.h: the result is that of
// gemmInt8 on the dense matrix to the bit.
#pragma once
#include "core/gemm_int8.h"
#include "core/sparse.h"

namespace whittle {

struct SparseInt8Kernels {
  // n sums, which are overwritten, to out by elements [column, column + n) of the epilogue's arrays; b_zero must be null.
  void (*finish)(const GemmInt8Epilogue* epilogue, int64_t column, int32_t* acc, int64_t n, void* out);
};

}  // namespace whittle

#ifndef WHITTLE_ISA_FILE
namespace whittle {

struct SparseInt8Data {
  // Blocks of r x c (CSR: 1 x 1) or, for n:m, the groups of a row as n blocks of 1 x 1.
  std::vector<int64_t> first;   // of each block row, and the end
  std::vector<int32_t> column;  // first column of each block
  std::vector<int8_t> values;   // [block][r][c]
  std::vector<int32_t> sums;    // of each row
};

WhittleStatus sparse_int8_build(const SparseSource& source, SparseMatrix* out);
void sparse_int8_to_dense(const SparseMatrix& w, int8_t* out);
// WHITTLE_RANGE and WHITTLE_NONFINITE as gemm_int8 has them.
WhittleStatus sparse_int8_multiply(const SparseArgs& args);

VariantList<SparseInt8Kernels> sparse_int8_variants();
Tier sparse_int8_tier();

}  // namespace whittle
#endif
