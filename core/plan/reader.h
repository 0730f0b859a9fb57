// Reads a plan's numbers. The first mismatch clears ok(); everything read later is zero.
#pragma once
#include <math.h>
#include <stdint.h>

#include <string>
#include <vector>

#include "core/activation.h"
#include "core/cuda_net.h"
#include "core/gemm_int8.h"
#include "core/plan/plan.h"

namespace whittle {

class PlanReader {
 public:
  PlanReader(const double* numbers, int64_t count, PlanModel* model, Plan* plan)
      : numbers_(numbers), count_(count), model_(model), plan_(plan) {}

  bool ok() const { return reason_.empty(); }
  bool done() const { return at_ == count_; }
  const std::string& reason() const { return reason_; }
  void refuse(const char* why) {
    if (ok()) reason_ = why;
  }
  bool require(bool fits, const char* why) {
    if (!fits) refuse(why);
    return fits;
  }

  double number() {
    if (!ok() || at_ >= count_) {
      refuse("the program ends too early");
      return 0;
    }
    return numbers_[at_++];
  }
  int64_t integer() {
    const double v = number();
    if (!(fabs(v) <= 9007199254740992.0) || v != floor(v)) {
      refuse("not an integer");
      return 0;
    }
    return static_cast<int64_t>(v);
  }
  // An integer from lo to hi.
  int64_t within(int64_t lo, int64_t hi) {
    const int64_t v = integer();
    if (v >= lo && v <= hi) return v;
    refuse("a number out of range");
    return lo;
  }
  int64_t size() { return within(0, int64_t(1) << 40); }
  float real() { return static_cast<float>(number()); }
  Activation activation() {
    Activation a;
    a.kind = static_cast<int32_t>(within(0, kActivationHardswishAffine));
    a.lo = real();
    a.hi = real();
    return a;
  }
  std::vector<int64_t> list(int64_t most) {
    std::vector<int64_t> v(static_cast<size_t>(within(0, most)));
    for (int64_t& x : v) x = integer();
    return v;
  }

  // place, at, bytes; `least` bytes or more. A missing operand is (0, 0, 0) and accepted where it is optional.
  Operand operand(int64_t least, bool optional = false);
  Operand floats(int64_t count, bool optional = false) { return operand(count < 0 ? -1 : count * 4, optional); }
  // What a raw constant holds, where this process can read it; on a device null but for small ones.
  const void* content(const Operand& constant);
  // On a device a copy of these bytes there that lives as long as the plan; else null.
  const void* keep(const void* data, int64_t bytes);
  // A constant packed for `groups` products k x n; a sparse one serves where groups is 1.
  Operand packed(int64_t groups, int64_t k, int64_t n);
  Operand packed_int8(int64_t k, int64_t n);
  Operand packed_weight(int64_t k, int64_t n);

 private:
  const double* numbers_;
  int64_t count_, at_ = 0;
  PlanModel* model_;
  Plan* plan_;
  std::string reason_;
};

typedef Step* (*StepMaker)(PlanReader&);

// What of a product of bytes its arguments say; pointers are for whoever queues it.
inline CudaInt8 cuda_product(const GemmInt8Args& g) {
  CudaInt8 q = {};
  q.m = g.m;
  q.n = g.n;
  q.k = g.k;
  q.batch = g.batch;
  q.a_signed = g.a_signed;
  q.b_unsigned = g.b_unsigned;
  q.a_zero = g.a_zero;
  q.a_scale = g.a_scale;
  q.activation = g.activation;
  q.out_type = g.out_type;
  q.out_scale = g.out_scale;
  q.out_zero = g.out_zero;
  return q;
}

// The product of sizes, or -1 if it leaves 2^40.
int64_t plan_product(std::initializer_list<int64_t> sizes);

#define WHITTLE_STEP(name) Step* make_##name(PlanReader&);
#include "core/plan/steps.inc"
#undef WHITTLE_STEP

}  // namespace whittle
