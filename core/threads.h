// One process-wide pool of fork-join workers. Lazily started, never destroyed (the addon is linked nodelete).
#pragma once
#include <stdint.h>

namespace whittle {

// CPUs that this process may use: affinity mask and cgroup quota (rounded up), at least 1. Read once.
int available_threads();

// Default parallelism: WHITTLE_THREADS, else available_threads(); changed by set_threads().
int thread_limit();
// Null, or why WHITTLE_THREADS is no good (the limit is then available_threads()).
const char* thread_limit_error();
// 1 … kMaxThreads; returns false otherwise.
constexpr int kMaxThreads = 256;
bool set_threads(int n);

typedef void (*RangeFn)(void* context, int64_t begin, int64_t end);

// Calls fn over [0, count) in chunks of `grain`, on up to `threads` threads (0: the limit) with the caller among them.
// Chunk boundaries depend on grain alone, so results do not depend on the number of threads. Runs serially on the
// caller when threads is 1, when there is one chunk, inside a running region, or while another region holds the pool.
void parallel_ranges(int64_t count, int64_t grain, int threads, RangeFn fn, void* context);

template <class F>
void parallel_for(int64_t count, int64_t grain, int threads, const F& body) {
  parallel_ranges(
      count, grain, threads,
      [](void* c, int64_t b, int64_t e) { (*static_cast<const F*>(c))(b, e); },
      const_cast<void*>(static_cast<const void*>(&body)));
}

// Runs job(context) on one of our dispatcher threads (not libuv's). Returns false if no thread could be had.
bool dispatch(void (*job)(void*), void* context);

}  // namespace whittle
