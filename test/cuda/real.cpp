// The check's cases on whatever library WHITTLE_CUDA_LIBRARY names, a GPU's in earnest: it stands in for the emulator and the
// fake runtime, which the check would otherwise drive. Nothing is injected and nothing is scheduled.
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

#include "check.h"

namespace emulator {
Settings& settings() {
  static Settings s;
  return s;
}
std::string take_fault() { return ""; }
std::vector<int64_t> noted_kernels() { return {}; }
}  // namespace emulator

namespace fake {
Options& options() {
  static Options o;
  return o;
}
int64_t live() { return 0; }
int64_t allocations() { return 0; }
int64_t graphs() { return 0; }
int64_t pinned_calls() { return 0; }
void reset() {}
}  // namespace fake

extern "C" const whittle::CudaBackend* whittle_cuda() {
  static const whittle::CudaBackend* const backend = [] {
    const char* path = getenv("WHITTLE_CUDA_LIBRARY");
    void* library = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : nullptr;
    const auto entry = library ? reinterpret_cast<whittle::CudaEntry>(dlsym(library, whittle::kCudaEntry)) : nullptr;
    const whittle::CudaBackend* b = entry ? entry() : nullptr;
    if (!b || b->contract != whittle::kCudaContract || b->bytes != sizeof *b) {
      fprintf(stderr, "WHITTLE_CUDA_LIBRARY is not there, or of another version: %s\n", path ? path : "");
      exit(2);
    }
    whittle::CudaProbe probe = {};
    b->probe(&probe);
    if (probe.state != whittle::kCudaReady) {
      fprintf(stderr, "no device: %s\n", probe.text);
      exit(2);
    }
    return b;
  }();
  return backend;
}
