// Two-dimensional pooling of float32 channels-last images, [n, h, w, c] -> [n, oh, ow, c], over the elementwise kernels.
// Means divide by the taps inside the image, or by those inside the padded image where count_padding is set; a window that
// reaches beyond the padding (ceil mode) counts no tap there. Maxima see no padding; NaN wins.
#pragma once
#include <stdint.h>

namespace whittle {

struct PoolProblem {
  int64_t n, h, w, c, oh, ow;
  int64_t kh, kw, stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left, pad_bottom, pad_right;
  bool average, count_padding;
  const float* x;
  float* out;
};

void pool_f32(const PoolProblem& problem, int threads);
// Maxima of 8-bit codes, which are those of what they stand for; where a window sees padding alone, the least code.
void pool_codes(const PoolProblem& problem, const uint8_t* x, bool is_signed, uint8_t* out, int threads);

}  // namespace whittle
