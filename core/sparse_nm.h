// n:m weights: of every m neighbours in a row at most n are stored, each with its position in the group.
#pragma once
#include "core/sparse.h"

namespace whittle {

struct SparseNmData {
  int64_t groups;                 // of a row
  std::vector<uint8_t> position;  // [row][group][n], rising; unused places hold position of a zero value
  std::vector<uint8_t> values;    // [row][group][n] of the matrix's type
};

// f32 and bf16. WHITTLE_RANGE: a group has more than n non-zeros.
WhittleStatus sparse_nm_build(const SparseSource& source, SparseMatrix* out);
void sparse_nm_to_dense(const SparseMatrix& w, void* out);
WhittleStatus sparse_nm_multiply(const SparseArgs& args);

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
