// The check of the CUDA sources on the emulator: every operation through the library's contract against the CPU's drivers,
// whose kernels are the scalar ones here. Sizes, data, schedule and stream mode follow from the seed that is printed.
#pragma once
#include <stdint.h>

#include <functional>
#include <string>
#include <vector>

#include "core/cuda.h"
#include "emulator.h"
#include "runtime.h"

extern "C" const whittle::CudaBackend* whittle_cuda();

namespace whittle {

class Rng {
 public:
  explicit Rng(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
  }
  int64_t below(int64_t n) { return static_cast<int64_t>(next() % static_cast<uint64_t>(n)); }
  int64_t between(int64_t lo, int64_t hi) { return lo + below(hi - lo + 1); }
  float uniform(float lo, float hi) { return lo + (hi - lo) * static_cast<float>(next() >> 40) * 0x1p-24f; }
  float normal() {
    float s = 0;
    for (int i = 0; i < 12; i++) s += uniform(0, 1);
    return s - 6;
  }
  std::vector<float> normals(int64_t n, float scale = 1) {
    std::vector<float> x(static_cast<size_t>(n));
    for (float& v : x) v = scale * normal();
    return x;
  }

 private:
  uint64_t state_;
};

class Check {
 public:
  // One row: the body says what is wrong by expect(). Runs under the three orders, each with another stream mode.
  void row(const char* name, const std::function<void(Rng&)>& body);
  bool expect(bool ok, const char* format, ...) __attribute__((format(printf, 3, 4)));
  const CudaBackend& cuda() const { return *whittle_cuda(); }
  bool lean() const { return lean_; }
  // On a library as it is (real.cpp): no schedules, and failures cannot be injected.
  bool real() const { return real_; }
  uint64_t seed = 1;
  int passed = 0, failed = 0;
  bool lean_ = false, real_ = false;

 private:
  std::string failure_;
};

// Device memory with a copy of host data, for as long as it lives.
template <class T>
class Device {
 public:
  explicit Device(const std::vector<T>& from) : Device(static_cast<int64_t>(from.size())) {
    whittle_cuda()->upload(0, memory_, from.data(), bytes());
  }
  explicit Device(int64_t count) : count_(count) { whittle_cuda()->allocate(0, bytes(), &memory_); }
  ~Device() { whittle_cuda()->release(0, memory_); }
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  operator T*() const { return static_cast<T*>(memory_); }
  std::vector<T> host() const {
    std::vector<T> v(static_cast<size_t>(count_));
    whittle_cuda()->download(0, v.data(), memory_, bytes());
    return v;
  }

 private:
  int64_t bytes() const { return count_ * static_cast<int64_t>(sizeof(T)); }
  int64_t count_;
  void* memory_ = nullptr;
};

// First place where they differ in bits, or -1.
template <class T>
int64_t differs(const std::vector<T>& a, const std::vector<T>& b) {
  for (size_t i = 0; i < a.size() || i < b.size(); i++)
    if (i >= a.size() || i >= b.size() || memcmp(&a[i], &b[i], sizeof(T)) != 0) return static_cast<int64_t>(i);
  return -1;
}

void check_memory(Check& c);
void check_quantize(Check& c);
void check_select(Check& c);
void check_distill(Check& c);
void check_distill_logits(Check& c);
void check_distill_features(Check& c);
void check_distill_linear(Check& c);
// Whether cuBLASLt is there.
bool has_products(Check& c);
void check_gemm(Check& c);
void check_svd(Check& c);
void check_sparse(Check& c);
void check_sparse_library(Check& c);
void check_net(Check& c);
void check_net_codes(Check& c);
void check_net_each(Check& c);
void check_net_pick(Check& c);

}  // namespace whittle
