// Products of signs (XNOR-Net): C[i, j] = sum_p sign(a[i, p]) sign(w[p, j]), by xor and population count.
//
// sign(x) is +1 for x >= 0, -0 too, else -1; a set bit stands for -1. A sum of k products of signs is k - 2 d with d the
// number of bits that differ. Integer results are exact and the same on every variant; float32 ones too, before the activation:
//   fl(fl(float(sum) * scale[j]) * row_scale[i])
// Layout, the same for all variants: words of 32 bits, bit p % 32 of word p / 32, zeros past k, words filled up to a
// multiple of kBinaryStep. Rows lie as they are; of weights, groups of 16 columns, word by word, missing columns zero.
#pragma once
#include <stdint.h>

#include "core/activation.h"

namespace whittle {

constexpr int64_t kBinaryLanes = 16;  // columns of a group
constexpr int64_t kBinaryStep = 8;    // words that a row's length is a multiple of

struct BinaryTile {
  int64_t rows, words;
  const uint32_t* a;       // rows x words
  const uint32_t* group;   // words x 16
  int64_t columns;         // 1 to 16 to be written
  int64_t k;
  const float* scale;      // 16, or null: 1
  const float* row_scale;  // a row, or null: 1
  bool is_float;
  void* c;                 // int32 or float32
  int64_t ldc;
};

struct BinaryKernels {
  // Signs of k numbers; writes words up to a multiple of kBinaryStep. Answers sum |x[p]| in double: eight sums over
  // p % 8, added as ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7)). Not finite exactly where an x is not.
  double (*pack)(const float* x, int64_t k, uint32_t* words);
  void (*multiply)(const BinaryTile*);
};

static inline int64_t binary_words(int64_t k) { return (k + 32 * kBinaryStep - 1) / (32 * kBinaryStep) * kBinaryStep; }

}  // namespace whittle

#ifndef WHITTLE_ISA_FILE
#include "core/gemm.h"
#include "core/status.h"
#include "core/variants.h"

namespace whittle {

VariantList<BinaryKernels> binary_variants();
const BinaryKernels& binary_kernels();
Tier binary_tier();

struct PackedBinary {
  int64_t k, n, words, groups;
  int64_t bytes;
  uint32_t* data;
  float* scale;  // groups * 16
};

enum BinaryScale : int32_t { kBinaryScaleNone = 0, kBinaryScaleMean = 1, kBinaryScaleGiven = 2 };

// Null if memory is short.
PackedBinary* new_packed_binary(int64_t k, int64_t n);
void free_packed_binary(PackedBinary* w);
// Element (p, j) at w[p * row + j * col]. kBinaryScaleMean: scale[j] = fl(mean |w[., j]|), 0 for k = 0.
// WHITTLE_NONFINITE: an element is not finite.
WhittleStatus fill_packed_binary(const float* w, int64_t row, int64_t col, int32_t kind, const float* scales, int threads,
                                 PackedBinary* packed);

struct BinaryArgs {
  const PackedBinary* w = nullptr;
  int64_t m = 0;
  const float* a = nullptr;     // m x k
  bool row_mean = false;        // row_scale[i] = fl(mean |a[i, .]|)
  bool is_float = true;         // false: sums alone, without scales, bias and activation
  const float* bias = nullptr;
  Activation activation = {kActivationNone, 0, 0};
  void* out = nullptr;          // m x n
  int threads = 0;
};
// WHITTLE_NONFINITE: an element of a is not finite; nothing was written.
WhittleStatus gemm_binary(const BinaryKernels& table, const BinaryArgs& args, const GemmEngine& engine = gemm_default());

}  // namespace whittle
#endif
