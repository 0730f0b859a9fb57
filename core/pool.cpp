#include "core/pool.h"

#include <math.h>

#include <algorithm>

#include "core/elementwise.h"
#include "core/threads.h"

namespace whittle {

void pool_f32(const PoolProblem& p, int threads) {
  const ElementwiseKernels& k = elementwise_kernels();
  const ElementwiseFn join = k.apply[p.average ? kElementwise_add : kElementwise_max];
  const int64_t work = p.ow * p.c * p.kh * p.kw;
  parallel_for(p.n * p.oh, std::max<int64_t>(1, (64 << 10) / (work + 1)), threads, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row++) {
      const float* x = p.x + row / p.oh * p.h * p.w * p.c;
      const int64_t top = row % p.oh * p.stride_h - p.pad_top;
      for (int64_t ox = 0; ox < p.ow; ox++) {
        float* out = p.out + (row * p.ow + ox) * p.c;
        const int64_t left = ox * p.stride_w - p.pad_left;
        int64_t seen = 0, padded = 0;
        for (int64_t ky = 0; ky < p.kh; ky++) {
          const int64_t iy = top + ky * p.dilation_h;
          if (iy >= p.h + p.pad_bottom) break;
          for (int64_t kx = 0; kx < p.kw; kx++) {
            const int64_t ix = left + kx * p.dilation_w;
            if (ix >= p.w + p.pad_right) break;
            padded++;
            if (iy < 0 || iy >= p.h || ix < 0 || ix >= p.w) continue;
            const float* in = x + (iy * p.w + ix) * p.c;
            if (seen++ == 0) std::copy(in, in + p.c, out);
            else join(p.c, out, in, 0, 0, out);
          }
        }
        if (seen == 0) std::fill(out, out + p.c, p.average ? 0.0f : -INFINITY);
        const int64_t count = p.count_padding ? padded : seen;
        if (p.average && count > 1) {
          const float n = static_cast<float>(count);
          for (int64_t j = 0; j < p.c; j++) out[j] /= n;
        }
      }
    }
  });
}

namespace {

// A loop that becomes vectors.
void join_codes(const uint8_t* __restrict in, int64_t n, uint8_t flip, uint8_t* __restrict to) {
  for (int64_t j = 0; j < n; j++) {
    const uint8_t a = static_cast<uint8_t>(to[j] ^ flip), b = static_cast<uint8_t>(in[j] ^ flip);
    to[j] = static_cast<uint8_t>((a > b ? a : b) ^ flip);
  }
}

}  // namespace

void pool_codes(const PoolProblem& p, const uint8_t* x, bool is_signed, uint8_t* out, int threads) {
  const uint8_t flip = is_signed ? 0x80 : 0;
  const int64_t work = p.ow * p.c * p.kh * p.kw;
  parallel_for(p.n * p.oh, std::max<int64_t>(1, (256 << 10) / (work + 1)), threads, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row++) {
      const uint8_t* image = x + row / p.oh * p.h * p.w * p.c;
      const int64_t top = row % p.oh * p.stride_h - p.pad_top;
      for (int64_t ox = 0; ox < p.ow; ox++) {
        uint8_t* to = out + (row * p.ow + ox) * p.c;
        const int64_t left = ox * p.stride_w - p.pad_left;
        bool seen = false;
        for (int64_t ky = 0; ky < p.kh; ky++) {
          const int64_t iy = top + ky * p.dilation_h;
          for (int64_t kx = 0; iy >= 0 && iy < p.h && kx < p.kw; kx++) {
            const int64_t ix = left + kx * p.dilation_w;
            if (ix < 0 || ix >= p.w) continue;
            const uint8_t* in = image + (iy * p.w + ix) * p.c;
            if (seen) join_codes(in, p.c, flip, to);
            else std::copy(in, in + p.c, to);
            seen = true;
          }
        }
        if (!seen) std::fill(to, to + p.c, flip);
      }
    }
  });
}

}  // namespace whittle
