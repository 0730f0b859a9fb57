#include "core/resample.h"

#include <string.h>

#include <algorithm>
#include <atomic>

#include "core/elementwise.h"
#include "core/scratch.h"
#include "core/threads.h"

namespace whittle {

WhittleStatus resize_f32(const ResizeProblem& p, int threads) {
  const ElementwiseKernels& k = elementwise_kernels();
  const int64_t row = p.w * p.c;
  std::atomic<bool> failed{false};
  parallel_for(p.n * p.oh, std::max<int64_t>(1, (32 << 10) / (p.ow * p.c * p.taps_x + 1)), threads, [&](int64_t begin, int64_t end) {
    static thread_local Scratch scratch;
    float* mixed = static_cast<float*>(scratch.take((2 * row + p.c) * 4));
    if (!mixed) {
      failed = true;
      return;
    }
    float *term = mixed + row, *pixel = term + row;
    for (int64_t t = begin; t < end; t++) {
      const float* image = p.x + t / p.oh * p.h * row;
      const int64_t oy = t % p.oh;
      const float* from = image + p.index_y[oy * p.taps_y] * row;
      if (p.taps_y > 1) {
        k.apply[kElementwise_affine](row, from, from, p.weight_y[oy * p.taps_y], 0, mixed);
        for (int64_t i = 1; i < p.taps_y; i++) {
          const float* more = image + p.index_y[oy * p.taps_y + i] * row;
          k.apply[kElementwise_affine](row, more, more, p.weight_y[oy * p.taps_y + i], 0, term);
          k.apply[kElementwise_add](row, mixed, term, 0, 0, mixed);
        }
        from = mixed;
      }
      float* out = p.out + t * p.ow * p.c;
      for (int64_t ox = 0; ox < p.ow; ox++, out += p.c) {
        const int32_t* at = p.index_x + ox * p.taps_x;
        const float* weight = p.weight_x + ox * p.taps_x;
        if (p.taps_x == 1) {
          memcpy(out, from + at[0] * p.c, static_cast<size_t>(p.c) * 4);
          continue;
        }
        k.apply[kElementwise_affine](p.c, from + at[0] * p.c, from, weight[0], 0, out);
        for (int64_t i = 1; i < p.taps_x; i++) {
          k.apply[kElementwise_affine](p.c, from + at[i] * p.c, from, weight[i], 0, pixel);
          k.apply[kElementwise_add](p.c, out, pixel, 0, 0, out);
        }
      }
    }
  });
  return failed ? WHITTLE_OUT_OF_MEMORY : WHITTLE_OK;
}

// Windows that do not overlap and cover the result: runs of kw * c floats change places.
static void spread_windows(const ScatterProblem& p, int threads) {
  const int64_t run = p.kw * p.c, pixel = p.kh * run;
  parallel_for(p.n * p.oh, std::max<int64_t>(1, (64 << 10) / (p.ow * p.c + 1)), threads, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      const int64_t oy = t % p.oh;
      const float* in = p.in + (t / p.oh * p.h + oy / p.kh) * p.w * pixel + oy % p.kh * run;
      float* out = p.out + t * p.ow * p.c;
      if (run == 2)
        for (int64_t x = 0; x < p.w; x++, in += pixel, out += 2) memcpy(out, in, 8);
      else
        for (int64_t x = 0; x < p.w; x++, in += pixel, out += run) memcpy(out, in, static_cast<size_t>(run) * 4);
    }
  });
}

void scatter_taps(const ScatterProblem& p, int threads) {
  if (!p.bias && p.kh == p.stride_h && p.kw == p.stride_w && p.dilation_h == 1 && p.dilation_w == 1 && p.pad_top == 0 && p.pad_left == 0 &&
      p.oh == p.h * p.kh && p.ow == p.w * p.kw)
    return spread_windows(p, threads);
  const ElementwiseFn add = elementwise_kernels().apply[kElementwise_add];
  const int64_t pixel = p.kh * p.kw * p.c;
  parallel_for(p.n * p.oh, std::max<int64_t>(1, (32 << 10) / (p.ow * p.c * 4 + 1)), threads, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      const float* image = p.in + t / p.oh * p.h * p.w * pixel;
      const int64_t oy = t % p.oh;
      for (int64_t ox = 0; ox < p.ow; ox++) {
        float* out = p.out + (t * p.ow + ox) * p.c;
        if (p.bias) memcpy(out, p.bias, static_cast<size_t>(p.c) * 4);
        else memset(out, 0, static_cast<size_t>(p.c) * 4);
        for (int64_t ky = 0; ky < p.kh; ky++) {
          const int64_t y = oy + p.pad_top - ky * p.dilation_h;
          if (y < 0 || y % p.stride_h || y / p.stride_h >= p.h) continue;
          for (int64_t kx = 0; kx < p.kw; kx++) {
            const int64_t x = ox + p.pad_left - kx * p.dilation_w;
            if (x < 0 || x % p.stride_w || x / p.stride_w >= p.w) continue;
            const float* in = image + (y / p.stride_h * p.w + x / p.stride_w) * pixel + (ky * p.kw + kx) * p.c;
            add(p.c, out, in, 0, 0, out);
          }
        }
      }
    }
  });
}

}  // namespace whittle
