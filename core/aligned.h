// Memory for weights and arenas: aligned to a cache line, and where large to a huge page if the system can give one, since
// streaming them through small pages misses the TLB all the time.
#pragma once
#include <stddef.h>
#include <stdlib.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(_WIN32)
#include <malloc.h>
#endif

namespace whittle {

// Null where memory is out. 64 bytes past the end may be read.
inline void* aligned_new(size_t bytes) {
  bytes = (bytes + 63) / 64 * 64 + 64;
#if defined(_WIN32)
  return _aligned_malloc(bytes, 64);
#else
  const size_t huge = size_t(2) << 20;
  void* p = nullptr;
  if (posix_memalign(&p, bytes >= huge ? huge : 64, bytes) != 0) return nullptr;
#if defined(__linux__)
  if (bytes >= huge) madvise(p, bytes, MADV_HUGEPAGE);
#endif
  return p;
#endif
}

inline void aligned_delete(void* p) {
#if defined(_WIN32)
  _aligned_free(p);
#else
  free(p);
#endif
}

struct AlignedDelete {
  void operator()(void* p) const { aligned_delete(p); }
};

}  // namespace whittle
