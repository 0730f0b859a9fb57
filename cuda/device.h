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

template <class... P, class... A>
cudaError_t launch(cudaStream_t stream, dim3 grid, dim3 block, void (*kernel)(P...), const A&... arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, static_cast<P>(arguments)...);
}

}  // namespace whittle
