// Working memory that a thread keeps between calls: a fresh page costs more than the work of a small kernel.
#pragma once
#include <stdint.h>
#include <stdlib.h>

namespace whittle {

// A 64-byte aligned block that only grows. Declare it `static thread_local`; contents are undefined between uses, and
// two uses on one thread must not overlap in time.
class Scratch {
 public:
  ~Scratch() { free(base_); }
  // Null where memory is out; the old block is gone then.
  void* take(int64_t bytes) {
    if (bytes <= size_) return aligned_;
    free(base_);
    size_ = 0;
    aligned_ = nullptr;
    const int64_t want = bytes + bytes / 4;
    base_ = malloc(static_cast<size_t>(want) + 64);
    if (!base_) return nullptr;
    size_ = want;
    aligned_ = reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(base_) + 63) & ~static_cast<uintptr_t>(63));
    return aligned_;
  }

 private:
  void* base_ = nullptr;
  void* aligned_ = nullptr;
  int64_t size_ = 0;
};

}  // namespace whittle
