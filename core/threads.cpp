#include "core/threads.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif
#if !defined(_WIN32)
#include <pthread.h>
#endif
#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#define WHITTLE_PAUSE() _mm_pause()
#elif defined(__aarch64__)
#define WHITTLE_PAUSE() __asm__ volatile("yield")
#else
#define WHITTLE_PAUSE() ((void)0)
#endif

namespace whittle {
namespace {

#if defined(__linux__)
// CPUs' worth of cgroup quota (v2, then v1), or 0 where none is set.
int cgroup_cpus() {
  long long quota = -1, period = 100000;
  if (FILE* f = fopen("/sys/fs/cgroup/cpu.max", "re")) {
    char word[32] = {0};
    if (fscanf(f, "%31s %lld", word, &period) == 2 && strcmp(word, "max") != 0) quota = atoll(word);
    fclose(f);
  } else {
    if (FILE* q = fopen("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "re")) {
      if (fscanf(q, "%lld", &quota) != 1) quota = -1;
      fclose(q);
    }
    if (FILE* p = fopen("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "re")) {
      if (fscanf(p, "%lld", &period) != 1) period = 100000;
      fclose(p);
    }
  }
  if (quota <= 0 || period <= 0) return 0;
  const long long n = (quota + period - 1) / period;
  return static_cast<int>(n < 1 ? 1 : n > kMaxThreads ? kMaxThreads : n);
}
#endif

int count_cpus() {
  int n = static_cast<int>(std::thread::hardware_concurrency());
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) n = CPU_COUNT(&set);
  const int quota = cgroup_cpus();
  if (quota > 0 && quota < n) n = quota;
#endif
  return n < 1 ? 1 : n > kMaxThreads ? kMaxThreads : n;
}

struct EnvLimit {
  int limit = 0;
  const char* error = nullptr;
};

EnvLimit read_env_limit() {
  const char* text = getenv("WHITTLE_THREADS");
  if (!text || !*text) return {};
  char* end = nullptr;
  const long n = strtol(text, &end, 10);
  if (*end == 0 && n >= 1 && n <= kMaxThreads) return {static_cast<int>(n), nullptr};
  return {0, "WHITTLE_THREADS: expected an integer from 1 to 256"};
}

const EnvLimit& env_limit() {
  static const EnvLimit e = read_env_limit();
  return e;
}

std::atomic<int> g_limit{0};

// A range is cut into parts, and each thread begins with the same one in every region: of steps that go over the same rows one
// after the other, a thread then mostly meets what its own caches hold. Who is done with a part helps with the next.
constexpr int kParts = 16;
struct alignas(64) Part {
  std::atomic<int64_t> next{0};
  int64_t end = 0;
};
struct Region {
  RangeFn fn = nullptr;
  void* context = nullptr;
  int64_t grain = 1;
  int parts = 1;
  Part part[kParts];
};

// Workers sleep on `wake` after a short spin on `epoch`. A region is published by writing `region` and bumping epoch;
// `seats` hands out places to workers, `busy` counts those still inside. The caller leaves when busy is 0, so Region
// may live on its stack.
struct Pool {
  std::mutex owner;  // held for the length of one region
  std::mutex sleep;
  std::condition_variable wake;
  std::atomic<uint64_t> epoch{0};
  std::atomic<int> seats{0};
  std::atomic<int> busy{0};
  std::atomic<int> sleepers{0};
  Region* region = nullptr;
  int workers = 0;
};

constexpr int kSpins = 2000;  // about 20-50 µs of pause instructions

thread_local bool t_inside = false;

// `id`: 0 for the caller, from 1 on for workers.
void run_chunks(Region* r, int id) {
  for (int i = 0; i < r->parts; i++) {
    Part& part = r->part[(id + i) % r->parts];
    for (;;) {
      const int64_t b = part.next.fetch_add(r->grain, std::memory_order_relaxed);
      if (b >= part.end) break;
      const int64_t e = b + r->grain < part.end ? b + r->grain : part.end;
      r->fn(r->context, b, e);
    }
  }
}

// Takes a seat only in a region that is open; seats never go below zero.
bool take_seat(Pool* p) {
  int s = p->seats.load(std::memory_order_acquire);
  while (s > 0)
    if (p->seats.compare_exchange_weak(s, s - 1, std::memory_order_acq_rel)) return true;
  return false;
}

void worker_main(Pool* p, int id) {
  t_inside = true;
  uint64_t seen = 0;
  for (;;) {
    uint64_t now = p->epoch.load(std::memory_order_acquire);
    for (int i = 0; now == seen && i < kSpins; i++) {
      WHITTLE_PAUSE();
      now = p->epoch.load(std::memory_order_acquire);
    }
    if (now == seen) {
      std::unique_lock<std::mutex> lock(p->sleep);
      p->sleepers.fetch_add(1);
      p->wake.wait(lock, [&] { return p->epoch.load(std::memory_order_acquire) != seen; });
      p->sleepers.fetch_sub(1);
      now = p->epoch.load(std::memory_order_acquire);
    }
    seen = now;
    p->busy.fetch_add(1, std::memory_order_acq_rel);
    if (take_seat(p)) run_chunks(p->region, id);
    p->busy.fetch_sub(1, std::memory_order_acq_rel);
  }
}

std::atomic<Pool*> g_pool{nullptr};

struct Dispatcher {
  std::mutex mutex;
  std::condition_variable wake;
  std::deque<std::pair<void (*)(void*), void*>> queue;
  int threads = 0, idle = 0;
};
std::atomic<Dispatcher*> g_dispatcher{nullptr};

// Threads do not survive fork(): the child forgets the parent's pool and starts its own when asked.
template <class T>
T* leaked(std::atomic<T*>* slot) {
  T* p = slot->load(std::memory_order_acquire);
  if (p) return p;
#if !defined(_WIN32)
  static const int once = pthread_atfork(nullptr, nullptr, [] {
    g_pool.store(nullptr);
    g_dispatcher.store(nullptr);
    t_inside = false;
  });
  (void)once;
#endif
  T* fresh = new (std::nothrow) T;
  if (!fresh) return nullptr;
  if (slot->compare_exchange_strong(p, fresh)) return fresh;
  delete fresh;
  return p;
}

void grow(Pool* p, int workers) {
  while (p->workers < workers) {
    try {
      std::thread(worker_main, p, p->workers + 1).detach();
    } catch (const std::system_error&) {
      return;  // the region runs on the threads there are
    }
    p->workers++;
  }
}

void dispatcher_main(Dispatcher* d) {
  for (;;) {
    std::pair<void (*)(void*), void*> job;
    {
      std::unique_lock<std::mutex> lock(d->mutex);
      d->idle++;
      d->wake.wait(lock, [&] { return !d->queue.empty(); });
      d->idle--;
      job = d->queue.front();
      d->queue.pop_front();
    }
    job.first(job.second);
  }
}

}  // namespace

int available_threads() {
  static const int n = count_cpus();
  return n;
}

int thread_limit() {
  const int n = g_limit.load(std::memory_order_relaxed);
  if (n > 0) return n;
  return env_limit().limit > 0 ? env_limit().limit : available_threads();
}

const char* thread_limit_error() { return env_limit().error; }

bool set_threads(int n) {
  if (n < 1 || n > kMaxThreads) return false;
  g_limit.store(n, std::memory_order_relaxed);
  return true;
}

void parallel_ranges(int64_t count, int64_t grain, int threads, RangeFn fn, void* context) {
  if (count <= 0) return;
  if (grain < 1) grain = 1;
  const int64_t chunks = (count - 1) / grain + 1;
  int64_t want = threads > 0 ? threads : thread_limit();
  if (want > chunks) want = chunks;
  Pool* p = want > 1 && !t_inside ? leaked(&g_pool) : nullptr;
  if (!p || !p->owner.try_lock()) {
    for (int64_t b = 0; b < count; b += grain) {
      fn(context, b, b + grain < count ? b + grain : count);
      if (count - b <= grain) break;
    }
    return;
  }
  Region region;
  region.fn = fn;
  region.context = context;
  region.grain = grain;
  region.parts = static_cast<int>(want < kParts ? want : kParts);
  for (int64_t i = 0; i < region.parts; i++) {
    region.part[i].next.store(chunks * i / region.parts * grain, std::memory_order_relaxed);
    region.part[i].end = i + 1 == region.parts ? count : chunks * (i + 1) / region.parts * grain;
  }
  grow(p, static_cast<int>(want) - 1);
  t_inside = true;
  p->region = &region;
  p->seats.store(static_cast<int>(want) - 1, std::memory_order_release);
  p->epoch.fetch_add(1, std::memory_order_acq_rel);
  {
    // The lock orders the new epoch before any worker's check-then-sleep.
    std::lock_guard<std::mutex> lock(p->sleep);
  }
  if (p->sleepers.load() > 0) p->wake.notify_all();
  run_chunks(&region, 0);
  // An exchange, not a store: it joins the seats' release sequence, so a seat taken before it makes that worker's busy
  // count visible here.
  p->seats.exchange(0, std::memory_order_acq_rel);
  // A worker raises busy before it takes a seat, so once seats are gone and busy is 0 nobody can touch the region.
  for (int spins = 0; p->busy.load(std::memory_order_acquire) != 0; spins++) {
    if (spins < kSpins) WHITTLE_PAUSE();
    else std::this_thread::yield();
  }
  t_inside = false;
  p->owner.unlock();
}

bool dispatch(void (*job)(void*), void* context) {
  Dispatcher* d = leaked(&g_dispatcher);
  if (!d) return false;
  std::lock_guard<std::mutex> lock(d->mutex);
  // More dispatchers than cores would only fight over the pool; two at least, so that a short job passes a long one.
  const int most = available_threads() < 2 ? 2 : available_threads();
  if (d->idle <= static_cast<int>(d->queue.size()) && d->threads < most) {
    try {
      std::thread(dispatcher_main, d).detach();
      d->threads++;
    } catch (const std::system_error&) {
      if (d->threads == 0) return false;
    }
  }
  try {
    d->queue.emplace_back(job, context);
  } catch (const std::bad_alloc&) {
    return false;
  }
  d->wake.notify_one();
  return true;
}

}  // namespace whittle
