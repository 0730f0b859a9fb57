// A sparse matrix of the CPU as a device has it.
#pragma once
#include <vector>

#include "core/cuda.h"

namespace whittle {

// The arrays of a CudaSparse in host memory.
struct CudaSparseLaid {
  int64_t stored = 0;
  std::vector<int32_t> first, column, sums;
  std::vector<uint8_t> places, values;
};

// `format` is kSparseCsr, kSparseBlock or kSparseNm, whatever that of `w`; n:m holds as many values a group as it says, or fewer.
// WHITTLE_SHAPE: more than 2^31 - 1 elements, or m does not divide the columns. WHITTLE_RANGE: a group holds more.
WhittleStatus cuda_sparse_lay(const SparseMatrix& w, int32_t format, int32_t n, int32_t m, CudaSparseLaid* out);

}  // namespace whittle
