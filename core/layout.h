// Moving elements: one strided copy serves transpose, slice, concat, split, expand and the inside of a pad.
#pragma once
#include <stdint.h>

namespace whittle {

constexpr int kLayoutRank = 8;

// out[sum i_k * out_stride_k] = in[sum i_k * in_stride_k] over all i_k < dims_k; strides in elements of 1, 2, 4 or 8
// bytes, any sign, 0 repeats an input. in and out do not overlap.
struct StridedCopy {
  int32_t rank;
  int64_t dims[kLayoutRank], in_strides[kLayoutRank], out_strides[kLayoutRank];
  int64_t size;  // bytes of an element
};

// Merges axes and puts the one that is contiguous in `out` last.
void layout_simplify(StridedCopy* copy);
void layout_copy(const StridedCopy& copy, const void* in, void* out, int threads);

}  // namespace whittle
