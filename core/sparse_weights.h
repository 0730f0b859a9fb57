// Sparse weights where plans have dense ones: how they are laid down and looked at, and the products of steps with them.
#pragma once
#include <memory>
#include <vector>

#include "core/conv.h"
#include "core/gemm.h"
#include "core/gemm_int8.h"
#include "core/sparse.h"

namespace whittle {

// A k x n matrix with these strides as n rows of k, which is how core/sparse.h wants weights: `turned` stays null where it
// lies like that already. False if memory is short.
bool sparse_rows(bool codes, const void* data, int64_t k, int64_t n, int64_t row, int64_t col, std::unique_ptr<uint8_t[]>* turned);

// What a matrix of n rows and k columns of float32 or int8 offers to sparse formats.
struct SparseCensus {
  int64_t nnz = 0;
  int64_t blocks[7] = {};  // blocks of kSparseShapes that hold a non-zero; the last ones of a row or column may be cut off
  bool pattern[3] = {true, true, true};  // whether kSparsePatterns hold
};
constexpr int32_t kSparseShapes[7][2] = {{1, 1}, {1, 4}, {1, 16}, {4, 1}, {8, 1}, {16, 1}, {32, 32}};
constexpr int32_t kSparsePatterns[3][2] = {{1, 4}, {2, 4}, {4, 8}};
SparseCensus sparse_census(const SparseSource& source, bool is_int8);

// The products of steps as they have them for dense weights, with a sparse matrix of n rows and k columns instead.
WhittleStatus sparse_gemm(const SparseMatrix& w, const GemmProblem& problem, int threads);
// `image` as in SparseArgs.
WhittleStatus sparse_gemm_int8(const SparseMatrix& w, const GemmInt8Args& args, const SparseInt8Image* image = nullptr);

}  // namespace whittle
