// Attention: softmax(scale * Q K + mask) V for each batch and head, a block of query rows at a time, so that the scores stay
// in cache and are never all in memory. Q, K, V and the mask are read where they lie.
//
// Numbers: the two products as gemm_f32, the rows as softmax (core/norm.h), divided by their sums after the second product. A row
// whose mask is all -inf becomes NaN; `forgiving`, it and rows of scores that hold NaN become zeros. Keys that a mask hides from all rows (-1e30 or less) have no part in them.
#pragma once
#include <stdint.h>

#include "core/status.h"

namespace whittle {

// Element strides along batch, head, row, column; one of the last two is 1.
struct AttentionMatrix {
  const float* data = nullptr;
  int64_t batch = 0, head = 0, row = 0, col = 0;
};

struct AttentionProblem {
  int64_t batch, heads, rows, keys, depth, wide;
  float scale;
  bool forgiving;
  AttentionMatrix q;     // rows x depth
  AttentionMatrix k;     // depth x keys
  AttentionMatrix v;     // keys x wide
  AttentionMatrix mask;  // rows x keys, any strides, added to the scores; data null: none
  float* out;            // rows x wide, columns side by side
  int64_t out_batch, out_head, out_row;
};

WhittleStatus attention_f32(const AttentionProblem& p, int threads);

}  // namespace whittle
