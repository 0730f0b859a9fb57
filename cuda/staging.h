// Copies between the device and memory that may be paged out, through two pinned pieces: while one is on its way the host fills
// or empties the other.
#pragma once
#include "cuda/device.h"

namespace whittle {

// Below this many bytes the runtime's own staging does.
constexpr int64_t kStaged = int64_t(1) << 20;

class Staging {
 public:
  // Like cudaMemcpyAsync, but done when it answers. One copy at a time; the device is this thread's.
  cudaError_t upload(void* to, const void* from, int64_t bytes, cudaStream_t stream);
  cudaError_t download(void* to, const void* from, int64_t bytes, cudaStream_t stream);
  // False where there is no pinned memory for it.
  bool ready();

 private:
  char* piece[2] = {};
  cudaEvent_t copied[2] = {};
  bool tried = false;
};

}  // namespace whittle
