// The numbers of an operation on a device: a Float64Array, read in the order in which lib/kernels/cuda lists them.
#pragma once
#include "binding/call.h"
#include "core/activation.h"
#include "core/quantize.h"

namespace whittle {

class Numbers {
 public:
  Numbers(Args& args, int64_t count) : at_(args.array<double>(count)), end_(at_ ? at_ + count : nullptr) {}
  template <class T>
  Numbers& operator>>(T& to) {
    to = at_ < end_ ? static_cast<T>(*at_++) : T();
    return *this;
  }
  Numbers& operator>>(FloatType& to) {
    int type = 0;
    *this >> type;
    to = static_cast<FloatType>(type);
    return *this;
  }

  Numbers& operator>>(Activation& to) { return *this >> to.kind >> to.lo >> to.hi; }

 private:
  const double* at_;
  const double* end_;
};

}  // namespace whittle
