// Runs CUDA kernels on the CPU: one fiber a thread, one block at a time, scheduled in order, reversed or at random. What it
// catches: barriers that not all threads reach, warp operations over lanes that left or diverged, reads of lanes outside the
// mask, shared memory read before it is written (it is poisoned), races that a schedule shows; with the address sanitizer
// accesses out of bounds; with the thread sanitizer data races within and across blocks. Launches go to the runtime of
// runtime.cpp, which runs them late. NVIDIA's own headers give the types.
//
// Limits: one device thread runs at a time, warps need not be in step, no textures, no dynamic parallelism.
#pragma once
#if defined(__SANITIZE_THREAD__)
#define EMULATOR_TSAN 1
#include <sanitizer/tsan_interface.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#define EMULATOR_ASAN 1
#endif
#include <cuda_runtime_api.h>
#include <stdint.h>
#include <string.h>
#include <vector_functions.h>

#include <functional>
#include <math.h>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#undef __global__
#undef __device__
#undef __host__
#undef __forceinline__
#undef __launch_bounds__
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

// Set at every switch of fibers.
extern thread_local uint3 threadIdx, blockIdx;
extern thread_local dim3 blockDim, gridDim;

namespace emulator {

enum class Order { in_order, reversed, random };
struct Settings {
  Order order = Order::random;
  uint64_t seed = 1;
};
Settings& settings();

// What the last kernel that failed did wrong, "" since the last call.
std::string take_fault();

// A kernel that was launched, and all of them so far, as distances from __executable_start.
void note_kernel(const void* kernel);
std::vector<int64_t> noted_kernels();

// Enqueues a grid on the runtime's stream.
cudaError_t enqueue(const cudaLaunchConfig_t& config, std::function<void()> body);
// Runs it now. False where a kernel broke a rule.
bool run(dim3 grid, dim3 block, size_t dynamic, const std::function<void()>& body);

constexpr size_t kSlot = 64;
void sync_block();
void sync_warp(unsigned mask, const char* operation);
unsigned lane();
[[noreturn]] void fault(const std::string& message);
void deposit(const void* value, size_t size);
void peek(unsigned lane, void* value, size_t size);
void* shared(const void* key, size_t size);

// Every lane of the mask gives its value; then each takes that of `source`.
template <class T>
T exchange(unsigned mask, T value, unsigned source, const char* operation) {
  static_assert(sizeof(T) <= kSlot && std::is_trivially_copyable<T>::value, "");
  deposit(&value, sizeof value);
  sync_warp(mask, operation);
  if (!(mask >> source & 1)) fault(std::string(operation) + " reads a lane outside its mask");
  T result;
  peek(source, &result, sizeof result);
  sync_warp(mask, operation);
  return result;
}

}  // namespace emulator

#define WHITTLE_SHARED(name, ...)   \
  static const char name##_key = 0; \
  auto& name = *static_cast<emulator::SharedType<__VA_ARGS__>*>(emulator::shared(&name##_key, sizeof(emulator::SharedType<__VA_ARGS__>)))
namespace emulator {
template <class T>
using SharedType = T;
}

inline void __syncthreads() { emulator::sync_block(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) { emulator::sync_warp(mask, "__syncwarp"); }
template <class T>
T __shfl_sync(unsigned mask, T v, int source, int width = 32) {
  return emulator::exchange(mask, v, (emulator::lane() & ~unsigned(width - 1)) + (source & (width - 1)), "__shfl_sync");
}
template <class T>
T __shfl_xor_sync(unsigned mask, T v, int with, int width = 32) {
  const unsigned l = emulator::lane(), s = l ^ unsigned(with);
  return emulator::exchange(mask, v, (s & ~unsigned(width - 1)) > (l & ~unsigned(width - 1)) ? l : s, "__shfl_xor_sync");
}
template <class T>
T __shfl_down_sync(unsigned mask, T v, unsigned by, int width = 32) {
  const unsigned l = emulator::lane();
  return emulator::exchange(mask, v, (l & unsigned(width - 1)) + by < unsigned(width) ? l + by : l, "__shfl_down_sync");
}
template <class T>
T __shfl_up_sync(unsigned mask, T v, unsigned by, int width = 32) {
  const unsigned l = emulator::lane();
  return emulator::exchange(mask, v, (l & unsigned(width - 1)) >= by ? l - by : l, "__shfl_up_sync");
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  emulator::deposit(&predicate, sizeof predicate);
  emulator::sync_warp(mask, "__ballot_sync");
  unsigned result = 0;
  for (unsigned l = 0; l < 32; l++) {
    int p = 0;
    if (mask >> l & 1) emulator::peek(l, &p, sizeof p);
    if (p) result |= 1u << l;
  }
  emulator::sync_warp(mask, "__ballot_sync");
  return result;
}
// Byte i of the result is the byte of b:a that nibble i of `selector` names.
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const uint64_t both = uint64_t(b) << 32 | a;
  unsigned result = 0;
  for (int i = 0; i < 4; i++) result |= unsigned(both >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
  return result;
}
inline int __popc(unsigned v) { return __builtin_popcount(v); }

// Atomics are relaxed, as on the device.
template <class T>
T atomicAdd(T* p, T v) { return __atomic_fetch_add(p, v, __ATOMIC_RELAXED); }
inline int atomicOr(int* p, int v) { return __atomic_fetch_or(p, v, __ATOMIC_RELAXED); }
template <class T, class Better>
T emulator_swap(T* p, T v, const Better& better) {
  T old = __atomic_load_n(p, __ATOMIC_RELAXED);
  while (better(v, old) && !__atomic_compare_exchange_n(p, &old, v, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return old;
}
inline unsigned atomicMin(unsigned* p, unsigned v) { return emulator_swap(p, v, [](unsigned a, unsigned b) { return a < b; }); }
inline unsigned atomicMax(unsigned* p, unsigned v) { return emulator_swap(p, v, [](unsigned a, unsigned b) { return a > b; }); }

// Arithmetic by name: the host's operations round the same way (tests compile with -ffp-contract=off).
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline int __float2int_rn(float v) { return int(nearbyintf(v)); }
inline int __float2int_rz(float v) { return int(v); }
inline unsigned __float_as_uint(float v) {
  unsigned u;
  memcpy(&u, &v, sizeof u);
  return u;
}
inline float __uint_as_float(unsigned u) {
  float v;
  memcpy(&v, &u, sizeof v);
  return v;
}

// The spelling that cuda_runtime.h gives nvcc.
template <class... P, class... A>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(P...), A&&... arguments) {
  emulator::note_kernel(reinterpret_cast<const void*>(kernel));
  std::tuple<P...> copy(std::forward<A>(arguments)...);
  return emulator::enqueue(*config, [=] { std::apply(kernel, copy); });
}
