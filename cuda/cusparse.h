// Sparse products through NVIDIA's libraries, each opened at its first use: cuSPARSE for CSR, cuSPARSELt for 2:4 of bytes. Where
// one cannot, callers have kernels of their own; what it said goes to whittle doctor's list (library.h).
#pragma once
#include "cuda/backend.h"

namespace whittle {

// Row-major y[rows][columns] = w x, x[cols][columns].
struct CsrProduct {
  bool bytes;       // signed bytes to 32-bit sums; else float32 throughout
  int64_t rows, cols, columns, entries;
  const int32_t *first, *column;
  const void *values, *x;
  void* y;
};

// True: on the stream of `work`, and its bits are the same from call to call. False: the library cannot, or `work` has failed.
bool csr_product(Work& work, const CsrProduct& product);

// Sides of a 2:4 product, which the library has in multiples of this.
constexpr int64_t kPruned = 32;
// Up to so many columns of w sums stay below 2^24: the library multiplies them by a float.
constexpr int64_t kMostPruned = 2048;

// The bytes of the library's own form of w[rows][cols], signed with two values of four; 0 where it has none. That form serves
// products of any number of columns. rows and cols: multiples of kPruned.
int64_t pruned_bytes(Work& work, int64_t rows, int64_t cols);
// Makes it of row-major w, on the stream of `work`. False: the library cannot.
bool pruned_compress(Work& work, int64_t rows, int64_t cols, const int8_t* w, void* compressed, int64_t bytes);

// Row-major y[rows][columns] = w x^T of signed bytes, x[columns][cols], 32-bit sums.
struct PrunedProduct {
  int64_t rows, cols, columns;  // multiples of kPruned, cols at most kMostPruned
  const void* w;                // in the library's form
  const int8_t* x;
  int32_t* y;
};
bool pruned_product(Work& work, const PrunedProduct& product);

}  // namespace whittle
