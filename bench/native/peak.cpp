// What this machine can do at most, measured: bandwidths and arithmetic rates on T threads, as one line of JSON.
// usage: peak THREADS [milliseconds per limit]
// Each limit is the best of many short rounds in which all threads start together: a limit is what was reached once.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <thread>
#include <vector>

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define X86 1
#elif defined(__aarch64__)
#include <arm_neon.h>
#define ARM 1
#endif

static double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

static volatile uint64_t g_sink;

// Runs work(thread) on every thread at once, round by round, and answers the shortest round in seconds.
static double best_round(int threads, double budget, const std::function<void(int)>& work) {
  std::atomic<int> ready{0}, round{0}, done{0};
  std::atomic<bool> stop{false};
  std::vector<std::thread> pool;
  for (int t = 1; t < threads; t++)
    pool.emplace_back([&, t] {
      for (int seen = 0;;) {
        ready++;
        while (round.load() == seen && !stop) {}
        if (stop) return;
        seen = round;
        work(t);
        done++;
      }
    });
  double best = 1e30;
  const double until = seconds() + budget;
  for (int r = 0; r < 5 || seconds() < until; r++) {
    while (ready.load() < threads - 1) {}
    ready = 0;
    done = 0;
    const double t = seconds();
    round++;
    work(0);
    while (done.load() < threads - 1) {}
    best = std::min(best, seconds() - t);
  }
  while (ready.load() < threads - 1) {}
  stop = true;
  for (std::thread& t : pool) t.join();
  return best;
}

// ---------- memory ----------
#if X86
// kAhead: bytes to what is prefetched, or 0. The prefetchers of the hardware alone reach about three quarters of what memory gives.
template <int kAhead>
__attribute__((target("avx2"))) static uint64_t sum_avx2(const uint8_t* p, size_t n) {
  __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
  for (size_t i = 0; i < n; i += 128) {
    if (kAhead > 0) {
      _mm_prefetch(reinterpret_cast<const char*>(p + i + kAhead), _MM_HINT_T0);
      _mm_prefetch(reinterpret_cast<const char*>(p + i + kAhead + 64), _MM_HINT_T0);
    }
    a = _mm256_xor_si256(a, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + i)));
    b = _mm256_xor_si256(b, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + i + 32)));
    c = _mm256_xor_si256(c, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + i + 64)));
    d = _mm256_xor_si256(d, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + i + 96)));
  }
  a = _mm256_xor_si256(_mm256_xor_si256(a, b), _mm256_xor_si256(c, d));
  return static_cast<uint64_t>(_mm256_extract_epi64(a, 0));
}
__attribute__((target("avx2"))) static void fill_nt(uint8_t* p, size_t n) {
  const __m256i v = _mm256_set1_epi8(static_cast<char>(n));
  for (size_t i = 0; i < n; i += 32) _mm256_stream_si256(reinterpret_cast<__m256i*>(p + i), v);
  _mm_sfence();
}
__attribute__((target("avx2"))) static void copy_nt(uint8_t* to, const uint8_t* from, size_t n) {
  for (size_t i = 0; i < n; i += 64) {
    const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i));
    const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i + 32));
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to + i), a);
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to + i + 32), b);
  }
  _mm_sfence();
}
#endif
static uint64_t sum_plain(const uint8_t* p, size_t n) {
  uint64_t s[4] = {};
  for (size_t i = 0; i < n; i += 32)
    for (int j = 0; j < 4; j++) {
      uint64_t v;
      memcpy(&v, p + i + 8 * j, 8);
      s[j] += v;
    }
  return s[0] + s[1] + s[2] + s[3];
}

// ---------- arithmetic: independent accumulators in registers, nothing from memory ----------
// In assembly, since compilers spill the accumulators of such a loop. kRepeat x kAccumulators steps; the caller counts.
constexpr int kRepeat = 40000, kAccumulators = 12;
#if X86
#define EACH(STEP) STEP(0) STEP(1) STEP(2) STEP(3) STEP(4) STEP(5) STEP(6) STEP(7) STEP(8) STEP(9) STEP(10) STEP(11)
#define LOOP(NAME, TARGET, TYPE, ZERO, TEXT)                                         \
  __attribute__((target(TARGET))) static void NAME() {                               \
    TYPE x = ZERO, t = ZERO, a[kAccumulators];                                       \
    for (TYPE& v : a) v = ZERO;                                                      \
    for (int r = 0; r < kRepeat; r++) __asm__ volatile(TEXT                          \
        : "+v"(a[0]), "+v"(a[1]), "+v"(a[2]), "+v"(a[3]), "+v"(a[4]), "+v"(a[5]), "+v"(a[6]), "+v"(a[7]), "+v"(a[8]), \
          "+v"(a[9]), "+v"(a[10]), "+v"(a[11]), "+v"(t) : "v"(x));                   \
  }
#define FMA(i) "vfmadd231ps %13,%13,%" #i "\n"
#define DOT(i) "vpdpbusd %13,%13,%" #i "\n"
// The non-saturating AVX2 pair, for int8 widened to int16.
#define PAIR(i) "vpmaddwd %13,%13,%12\nvpaddd %12,%" #i ",%" #i "\n"
LOOP(f32_avx2, "avx2,fma", __m256, _mm256_setzero_ps(), EACH(FMA))
LOOP(f32_avx512, "avx512f", __m512, _mm512_setzero_ps(), EACH(FMA))
LOOP(s8_avx2, "avx2", __m256i, _mm256_setzero_si256(), EACH(PAIR))
LOOP(s8_avx512vnni, "avx512f,avx512vnni", __m512i, _mm512_setzero_si512(), EACH(DOT))
#elif ARM
static void f32_neon() {
  float32x4_t a[kAccumulators], x = vdupq_n_f32(0);
  for (float32x4_t& v : a) v = vdupq_n_f32(0);
  for (int r = 0; r < kRepeat; r++)
    for (float32x4_t& v : a) __asm__ volatile("fmla %0.4s,%1.4s,%1.4s" : "+w"(v) : "w"(x));
}
#endif

int main(int argc, char** argv) {
  const int threads = argc > 1 ? atoi(argv[1]) : 1;
  const double budget = (argc > 2 ? atof(argv[2]) : 150) / 1000;
  if (threads < 1 || threads > 256) return 2;
  const size_t each = size_t(128) << 20;
  std::vector<std::vector<uint8_t>> from(threads), to(threads);
  for (int t = 0; t < threads; t++) {
    from[t].resize(each + 64);
    to[t].resize(each + 64);
    for (size_t i = 0; i < from[t].size(); i += 8) from[t][i] = static_cast<uint8_t>(i * 31 >> 7);
    memset(to[t].data(), 1, to[t].size());
  }
  auto aligned = [](std::vector<uint8_t>& v) { return v.data() + (64 - reinterpret_cast<uintptr_t>(v.data()) % 64) % 64; };
  printf("{\"threads\":%d", threads);
  auto report = [&](const char* name, double amount, double time) {
    printf(",\"%s\":%.3f", name, amount * threads / time / 1e9);
  };
#if X86
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
  // Bytes per second in units of 1e9; the share of each thread is divided so that the total work is the same as one's.
  const size_t piece = each / static_cast<size_t>(threads) / 128 * 128;
  auto read_bytes = [&](const uint8_t* p, size_t n, bool near) {
#if X86
    if (avx2) return near ? sum_avx2<0>(p, n) : sum_avx2<4096>(p, n);
#endif
    (void)near;
    return sum_plain(p, n);
  };
  report("dram_read", double(piece), best_round(threads, budget, [&](int t) { g_sink = read_bytes(aligned(from[t]), piece, false); }));
  report("dram_copy", 2.0 * double(piece), best_round(threads, budget, [&](int t) {
#if X86
           if (avx2) return copy_nt(aligned(to[t]), aligned(from[t]), piece);
#endif
           memcpy(aligned(to[t]), aligned(from[t]), piece);
         }));
  report("dram_write", double(piece), best_round(threads, budget, [&](int t) {
#if X86
           if (avx2) return fill_nt(aligned(to[t]), piece);
#endif
           memset(aligned(to[t]), 3, piece);
         }));
  const struct { const char* name; size_t bytes; } levels[] = {{"l1_read", 16 << 10}, {"l2_read", 512 << 10}, {"l3_read", 8 << 20}};
  for (const auto& level : levels) {
    const int repeats = static_cast<int>((size_t(32) << 20) / level.bytes);
    report(level.name, double(level.bytes) * repeats, best_round(threads, budget, [&](int t) {
             uint64_t s = 0;
             for (int r = 0; r < repeats; r++) s += read_bytes(aligned(from[t]), level.bytes, level.bytes < (4 << 20));
             g_sink = s;
           }));
  }
  const double steps = double(kRepeat) * kAccumulators;
#if X86
  if (avx2) {
    report("f32_avx2", steps * 16, best_round(threads, budget, [](int) { f32_avx2(); }));
    report("s8_avx2", steps * 32, best_round(threads, budget, [](int) { s8_avx2(); }));
  }
  if (__builtin_cpu_supports("avx512f")) report("f32_avx512", steps * 32, best_round(threads, budget, [](int) { f32_avx512(); }));
  if (__builtin_cpu_supports("avx512vnni")) report("s8_avx512vnni", steps * 128, best_round(threads, budget, [](int) { s8_avx512vnni(); }));
#elif ARM
  report("f32_neon", steps * 8, best_round(threads, budget, [](int) { f32_neon(); }));
#endif
  printf("}\n");
  return 0;
}
