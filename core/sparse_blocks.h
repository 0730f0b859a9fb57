// What every layout is made from: the blocks of a matrix that hold a non-zero, row of blocks by row, left to right.
#pragma once
#include <stdexcept>

#include "core/sparse.h"

namespace whittle {

template <class T>
struct SparseBlocks {
  std::vector<int64_t> first;   // of each row of blocks, and the end
  std::vector<int32_t> column;  // the block's first
  std::vector<T> values;        // [block][r][c]; zero beyond the matrix's edges
  int64_t nnz = 0;

  void collect(const SparseSource& source, int64_t r, int64_t c) {
    const int64_t rows = source.build.rows, cols = source.build.cols, width = (cols + c - 1) / c * c;
    std::vector<T> strip(static_cast<size_t>(r * width));
    first.push_back(0);
    for (int64_t i = 0; i < rows; i += r) {
      for (int64_t s = 0; s < r; s++) {
        T* row = strip.data() + s * width;
        if (i + s < rows) read(source, i + s, row);
        else std::fill(row, row + cols, T(0));
        std::fill(row + cols, row + width, T(0));
      }
      for (int64_t j = 0; j < width; j += c) {
        int64_t some = 0;
        for (int64_t s = 0; s < r; s++)
          for (int64_t q = 0; q < c; q++) some += strip[static_cast<size_t>(s * width + j + q)] != 0;
        if (some == 0) continue;
        nnz += some;
        column.push_back(static_cast<int32_t>(j));
        for (int64_t s = 0; s < r; s++) {
          const T* row = strip.data() + s * width + j;
          values.insert(values.end(), row, row + c);
        }
      }
      first.push_back(static_cast<int64_t>(column.size()));
    }
  }

 private:
  static void read(const SparseSource& s, int64_t i, float* row) { s.row_f32(i, row); }
  static void read(const SparseSource& s, int64_t i, int8_t* row) { s.row_int8(i, row); }
};

// 'auto': settles out->format, r, c, n, m.
WhittleStatus sparse_choose(const SparseSource& source, SparseMatrix* out);

}  // namespace whittle
