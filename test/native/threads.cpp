// The pool: every index once, results independent of the thread count, many callers at once, dispatchers, fork.
#include "core/threads.h"

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "test/native/harness.h"

#if !defined(_WIN32)
#include <sys/wait.h>
#include <unistd.h>
#endif

using namespace whittle;

static int64_t sum_with(int64_t n, int64_t grain, int threads) {
  std::vector<int> seen(static_cast<size_t>(n), 0);
  std::atomic<int64_t> sum{0};
  parallel_for(n, grain, threads, [&](int64_t b, int64_t e) {
    int64_t s = 0;
    for (int64_t i = b; i < e; i++) {
      seen[static_cast<size_t>(i)]++;
      s += i;
    }
    sum += s;
  });
  for (int c : seen)
    if (c != 1) return -1;
  return sum;
}

WHITTLE_CHECK(threads) {
  h.row("visits every index once", [&] {
    Rng rng = h.rng();
    for (int r = 0; r < 300; r++) {
      const int64_t n = rng.between(0, 5000), grain = rng.between(1, 700);
      const int threads = static_cast<int>(rng.between(0, 8));
      h.expect(sum_with(n, grain, threads) == n * (n - 1) / 2, "n %d grain %d threads %d", int(n), int(grain), threads);
    }
  });
  h.row("serves callers that overlap", [&] {
    std::atomic<int> bad{0};
    std::vector<std::thread> callers;
    for (int c = 0; c < 6; c++)
      callers.emplace_back([&] {
        for (int r = 0; r < 200; r++) bad += sum_with(1000 + r, 7, 4) != int64_t(1000 + r) * (999 + r) / 2;
      });
    for (std::thread& t : callers) t.join();
    h.expect(bad == 0, "%d wrong sums", int(bad));
  });
  h.row("runs a nested region on its own thread", [&] {
    std::atomic<int64_t> total{0};
    parallel_for(16, 1, 4, [&](int64_t b, int64_t e) {
      for (int64_t i = b; i < e; i++) total += sum_with(100, 9, 4);
    });
    h.expect(total == 16 * 4950, "total %lld", static_cast<long long>(total));
  });
  h.row("sleeps and wakes", [&] {
    for (int r = 0; r < 5; r++) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
      h.expect(sum_with(4096, 16, 3) == 4096 * 4095 / 2, "round %d", r);
    }
  });
  h.row("dispatches jobs that use the pool", [&] {
    static std::atomic<int> done;
    static std::atomic<int64_t> total;
    done = 0;
    total = 0;
    for (int i = 0; i < 64; i++)
      dispatch([](void*) {
        total += sum_with(500, 11, 0);
        done++;
      }, nullptr);
    while (done < 64) std::this_thread::yield();
    h.expect(total == 64 * 124750, "total %lld", static_cast<long long>(total));
  });
  h.row("refuses counts outside 1 to 256", [&] {
    const int before = thread_limit();
    h.expect(!set_threads(0) && !set_threads(257) && thread_limit() == before, "limit changed");
  });
#if !defined(_WIN32) && !defined(__SANITIZE_THREAD__)
  h.row("works in a forked child", [&] {
    sum_with(1000, 10, 2);
    const pid_t child = fork();
    if (child == 0) _exit(sum_with(1000, 10, 2) == 499500 ? 0 : 1);
    int status = -1;
    waitpid(child, &status, 0);
    h.expect(WIFEXITED(status) && WEXITSTATUS(status) == 0, "child status %d", status);
  });
#endif
}
