// Tensors in a GPU's memory, and how calls read them.
#pragma once
#include <stdint.h>

#include "binding/call.h"
#include "binding/handles.h"
#include "core/cuda.h"

namespace whittle {

constexpr int kMostDims = 16;

// What a handle of HandleKind::device_tensor holds.
struct DeviceTensor {
  int32_t device, type, rank;
  int64_t dims[kMostDims];
  int64_t bytes;
  void* memory;
};

// An argument that is a tensor of one device; the call keeps it alive until it is done.
class DeviceUse {
 public:
  // Null and undefined read as no memory where `optional`.
  bool read(Args& args, int32_t device, int64_t least, bool optional = false) {
    if (!use_.read(args, HandleKind::device_tensor)) return false;
    const DeviceTensor* t = static_cast<const DeviceTensor*>(use_.object());
    if (!t) return optional;
    memory_ = t->memory;
    return t->device == device && t->bytes >= least;
  }
  template <class T>
  T* as() const {
    return static_cast<T*>(memory_);
  }

 private:
  HandleUse use_;
  void* memory_ = nullptr;
};

// Keeps the backend's words for deviceError(), whichever thread the call ran on. Answers the status.
WhittleStatus remember_device_error(WhittleStatus status);

}  // namespace whittle
