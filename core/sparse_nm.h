// Float 2:4 weights that are to meet one or two columns: of every four neighbours in a row two are stored, each with its place in
// the group. Every other float n:m matrix lies as CSR does, which is as fast for more columns.
#pragma once
#include "core/sparse.h"

namespace whittle {

constexpr int64_t kSparseNmStep = 16;  // values that a kernel takes at a time: rows are padded to whole steps with zeros

// acc[i] = sum of values[i][e] * x[column of e], 2:4 only: value e of a row belongs to group e / 2, columns from e / 2 * 4 on.
// Two bits a position, sixteen to a word, the first lowest; `steps` words and steps * 16 values a row; x has steps * 32 elements.
struct SparsePairs {
  int32_t type;  // SparseType, not int8
  int64_t rows, steps;
  const uint32_t* places;
  const void* values;
  const float* x;
  float* acc;
};

struct SparseNmKernels {
  void (*pairs)(const SparsePairs*);
};

}  // namespace whittle

#ifndef WHITTLE_ISA_FILE
namespace whittle {

struct SparseNmData {
  int64_t stride;                // values of a row, padded to whole steps
  std::vector<uint32_t> places;  // of the values, two bits each; unused ones are places of zeros
  std::vector<uint8_t> values;   // [row][stride] of the matrix's type; 64 bytes past the end may be read
};

// WHITTLE_RANGE where a group of the source has more than n non-zeros.
WhittleStatus sparse_nm_check(const SparseSource& source);
// f32 and bf16, a pattern that was checked.
void sparse_nm_build(const SparseSource& source, SparseMatrix* out);
void sparse_nm_each(const SparseMatrix& w, const SparseSeen& see);
WhittleStatus sparse_nm_multiply(const SparseNmKernels& kernels, const SparseArgs& args);

VariantList<SparseNmKernels> sparse_nm_variants();
const SparseNmKernels& sparse_nm_kernels();
Tier sparse_nm_tier();

// Places of one group of m values that have at most n non-zeros: fills position[n] (rising, distinct), answers false if more.
template <class T>
bool sparse_nm_group(const T* w, int64_t n, int64_t m, uint8_t* position) {
  int64_t used = 0;
  for (int64_t j = 0; j < m; j++)
    if (w[j] != 0) {
      if (used == n) return false;
      position[used++] = static_cast<uint8_t>(j);
    }
  // Free places take zeros, so that positions stay distinct.
  for (int64_t j = 0; used < n && j < m; j++)
    if (w[j] == 0) {
      int64_t at = used++;
      for (; at > 0 && position[at - 1] > j; at--) position[at] = position[at - 1];
      position[at] = static_cast<uint8_t>(j);
    }
  return true;
}

}  // namespace whittle
#endif
