// What every .cu file includes, and the only place that knows who compiles it: nvcc, a C++ compiler beside it for what holds no
// kernel (WHITTLE_CUDA_HOST), or one for the emulator of
// test/cuda, which runs the same kernels on the CPU. Hence no <<<>>>, no bare __shared__, no inline PTX in kernels; what only a GPU has is wrapped here.
#pragma once
#include <stdint.h>

#include "core/cuda.h"

#if defined(__CUDACC__) || defined(WHITTLE_CUDA_HOST)
#include <cuda_runtime.h>
namespace whittle {
template <class T>
using SharedType = T;
}
// An array (or anything else) that the threads of a block share: WHITTLE_SHARED(part, float[32]);
#define WHITTLE_SHARED(name, ...) __shared__ whittle::SharedType<__VA_ARGS__> name
#else
#include "emulator.h"
#endif

namespace whittle {

// Four products of signed bytes, added to c.
__device__ inline int dot4(int a, int b, int c) {
#if defined(__CUDACC__)
  return __dp4a(a, b, c);
#else
  for (int i = 0; i < 4; i++) c += static_cast<int8_t>(a >> 8 * i) * static_cast<int8_t>(b >> 8 * i);
  return c;
#endif
}

constexpr unsigned kFullMask = 0xffffffffu;
constexpr int kWarp = 32;

#if !defined(WHITTLE_CUDA_HOST)
// Columns of four bytes by rows of four: byte i of out[j] is byte j of in[i].
__device__ inline void turn_bytes(const uint32_t (&in)[4], uint32_t (&out)[4]) {
  const uint32_t a = __byte_perm(in[0], in[1], 0x5140), b = __byte_perm(in[2], in[3], 0x5140);
  const uint32_t c = __byte_perm(in[0], in[1], 0x7362), d = __byte_perm(in[2], in[3], 0x7362);
  out[0] = __byte_perm(a, b, 0x5410);
  out[1] = __byte_perm(a, b, 0x7632);
  out[2] = __byte_perm(c, d, 0x5410);
  out[3] = __byte_perm(c, d, 0x7632);
}

// c (16 x 8) += a (16 x k) b (k x 8), a warp together, each lane with its share as PTX's mma has it: k = 8 numbers whose lower
// 13 bits are 0 (TF32), or k = 32 signed bytes. Devices before 8.0, which lack them, exchange operands by shuffles.
#if !defined(__CUDACC__) || (defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800)
template <class Get, class C, class Dot>
__device__ void mma_by_lanes(const Get& get, C (&c)[4], const Dot& dot) {
  const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  uint32_t a[4][4], b[2][4][2];
  for (int s = 0; s < 4; s++) {
    for (int r = 0; r < 4; r++) a[s][r] = get(r, 4 * g + s);
    for (int n = 0; n < 2; n++)
      for (int r = 0; r < 2; r++) b[n][s][r] = get(4 + r, 4 * (2 * t + n) + s);
  }
  // Words in the order of k: lanes of the first register, then of the second.
  for (int n = 0; n < 2; n++)
    for (int half = 0; half < 2; half++) {
      uint32_t x[8], y[8];
      for (int s = 0; s < 4; s++) {
        x[s] = a[s][half];
        x[4 + s] = a[s][2 + half];
        y[s] = b[n][s][0];
        y[4 + s] = b[n][s][1];
      }
      c[2 * half + n] = dot(x, y, c[2 * half + n]);
    }
}

__device__ inline int32_t dot_bytes(const uint32_t (&x)[8], const uint32_t (&y)[8], int32_t c) {
  for (int i = 0; i < 8; i++) c = dot4(static_cast<int>(x[i]), static_cast<int>(y[i]), c);
  return c;
}

// Exact products, one sum, rounded towards zero: what tensor cores are known to do at worst.
__device__ inline float dot_tf32(const uint32_t (&x)[8], const uint32_t (&y)[8], float c) {
  double sum = static_cast<double>(c);
  for (int i = 0; i < 8; i++) sum += static_cast<double>(__uint_as_float(x[i])) * static_cast<double>(__uint_as_float(y[i]));
  const float near = static_cast<float>(sum);
  if (!(fabs(static_cast<double>(near)) > fabs(sum)) || near == 0 || near - near != 0) return near;
  return __uint_as_float(__float_as_uint(near) - 1);
}

#if defined(__CUDACC__)
struct ByShuffle {
  const uint32_t (&a)[4];
  const uint32_t (&b)[2];
  __device__ uint32_t operator()(int r, int lane) const { return __shfl_sync(kFullMask, r < 4 ? a[r] : b[r - 4], lane); }
};
#define WHITTLE_MMA(dot)        \
  const ByShuffle get = {a, b}; \
  mma_by_lanes(get, c, dot);
#else
#define WHITTLE_MMA(dot)                                              \
  uint32_t words[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};           \
  emulator::deposit(words, sizeof words);                             \
  emulator::sync_warp(kFullMask, "mma");                              \
  const auto get = [&](int r, int lane) {                             \
    emulator::peek(static_cast<unsigned>(lane), words, sizeof words); \
    return words[r];                                                  \
  };                                                                  \
  mma_by_lanes(get, c, dot);                                          \
  emulator::sync_warp(kFullMask, "mma");
#endif
#endif

__device__ inline void mma_tf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#elif defined(WHITTLE_MMA)
  WHITTLE_MMA(dot_tf32)
#endif
}

__device__ inline void mma_bytes(int32_t (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#elif defined(WHITTLE_MMA)
  WHITTLE_MMA(dot_bytes)
#endif
}
#endif

template <class... P, class... A>
cudaError_t launch(cudaStream_t stream, dim3 grid, dim3 block, void (*kernel)(P...), const A&... arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, static_cast<P>(arguments)...);
}

}  // namespace whittle
