// Channels-last images taken apart and put together by taps: interpolation, and the second half of a transposed
// convolution.
#pragma once
#include <stdint.h>

#include "core/activation.h"
#include "core/status.h"

namespace whittle {

// [n, h, w, c] -> [n, oh, ow, c]; each row of the result is a sum of `taps_y` rows, each pixel of `taps_x` pixels, which
// index and weight tables name (index[o * taps + t]).
struct ResizeProblem {
  int64_t n, h, w, c, oh, ow, taps_y, taps_x;
  const int32_t *index_y, *index_x;
  const float *weight_y, *weight_x;
  const float* x;
  float* out;
};
WhittleStatus resize_f32(const ResizeProblem& problem, int threads);

// in: [n, h, w, kh, kw, c], what every input pixel gives to its window. out[oy, ox] = activation(bias + what windows give it).
struct ScatterProblem {
  int64_t n, h, w, c, oh, ow, kh, kw, stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left;
  const float *in, *bias;
  float* out;
};
void scatter_taps(const ScatterProblem& problem, int threads);

}  // namespace whittle
