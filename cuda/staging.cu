#include "cuda/staging.h"

#include <string.h>

namespace whittle {
namespace {

constexpr int64_t kPiece = int64_t(4) << 20;

int64_t at_most(int64_t bytes) { return bytes < kPiece ? bytes : kPiece; }

}  // namespace

bool Staging::ready() {
  if (!tried) {
    tried = true;
    cudaError_t e = cudaSuccess;
    for (int b = 0; b < 2 && e == cudaSuccess; b++) {
      e = cudaMallocHost(reinterpret_cast<void**>(&piece[b]), kPiece);
      if (e != cudaSuccess) piece[b] = nullptr;
      else e = cudaEventCreate(&copied[b]);
    }
    if (e != cudaSuccess) {
      cudaGetLastError();
      for (char*& p : piece) {
        if (p) cudaFreeHost(p);
        p = nullptr;
      }
    }
  }
  return piece[0] && piece[1];
}

cudaError_t Staging::upload(void* to, const void* from, int64_t bytes, cudaStream_t stream) {
  bool used[2] = {};
  cudaError_t e = cudaSuccess;
  for (int64_t at = 0, i = 0; at < bytes && e == cudaSuccess; at += kPiece, i++) {
    const int b = i % 2;
    const int64_t n = at_most(bytes - at);
    if (used[b]) e = cudaEventSynchronize(copied[b]);
    if (e != cudaSuccess) break;
    memcpy(piece[b], static_cast<const char*>(from) + at, static_cast<size_t>(n));
    e = cudaMemcpyAsync(static_cast<char*>(to) + at, piece[b], static_cast<size_t>(n), cudaMemcpyHostToDevice, stream);
    if (e == cudaSuccess) e = cudaEventRecord(copied[b], stream);
    used[b] = true;
  }
  // Also after an error: the pieces are used again.
  const cudaError_t end = cudaStreamSynchronize(stream);
  return e == cudaSuccess ? end : e;
}

cudaError_t Staging::download(void* to, const void* from, int64_t bytes, cudaStream_t stream) {
  cudaError_t e = cudaSuccess;
  int64_t emptied = 0;
  for (int64_t at = 0, i = 0; (at < bytes || emptied < bytes) && e == cudaSuccess; i++) {
    if (at < bytes) {
      const int64_t n = at_most(bytes - at);
      e = cudaMemcpyAsync(piece[i % 2], static_cast<const char*>(from) + at, static_cast<size_t>(n), cudaMemcpyDeviceToHost, stream);
      if (e == cudaSuccess) e = cudaEventRecord(copied[i % 2], stream);
      at += n;
    }
    if (i == 0 || e != cudaSuccess) continue;
    // The piece before, while this one is under way.
    const int b = (i - 1) % 2;
    const int64_t n = at_most(bytes - emptied);
    e = cudaEventSynchronize(copied[b]);
    if (e == cudaSuccess) memcpy(static_cast<char*>(to) + emptied, piece[b], static_cast<size_t>(n));
    emptied += n;
  }
  const cudaError_t end = cudaStreamSynchronize(stream);
  return e == cudaSuccess ? end : e;
}

}  // namespace whittle
