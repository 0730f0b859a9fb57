#include "test/native/harness.h"

#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <random>

namespace whittle {
namespace {

FamilyCheck* g_families = nullptr;

// Under a sanitizer its report is worth more than a failed row.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && !defined(_WIN32)
#define CATCH_CRASHES 1
sigjmp_buf g_jump;
volatile sig_atomic_t g_armed = 0;
void on_crash(int signal) {
  if (!g_armed) _Exit(128 + signal);
  g_armed = 0;
  siglongjmp(g_jump, signal);
}
#endif

uint64_t hash(const char* s, uint64_t h) {
  for (; *s; s++) h = (h ^ static_cast<uint8_t>(*s)) * 1099511628211ull;
  return h;
}

double now_ns() {
  return std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Of the whole process: the same on a busy machine, and it counts what emulators and sanitizers add.
double cpu_seconds() { return static_cast<double>(clock()) / CLOCKS_PER_SEC; }

}  // namespace

FamilyCheck::FamilyCheck(const char* name, void (*fn)(Harness&)) : name(name), fn(fn), next(nullptr) {
  FamilyCheck** at = &g_families;
  while (*at && strcmp((*at)->name, name) < 0) at = &(*at)->next;
  next = *at;
  *at = this;
}

uint64_t Rng::next() {
  uint64_t z = (state_ += 0x9e3779b97f4a7c15ull);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

float Rng::uniform(float lo, float hi) { return lo + (hi - lo) * static_cast<float>(next() >> 40) * 0x1p-24f; }

float Rng::normal() {
  const double u = (static_cast<double>(next() >> 11) + 1) * 0x1p-53, v = static_cast<double>(next() >> 11) * 0x1p-53;
  return static_cast<float>(sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
}

std::vector<int64_t> sizes_around(int64_t tile) {
  std::vector<int64_t> s = {0, 1, 2, 3, tile - 1, tile, tile + 1, 2 * tile - 1, 2 * tile, 3 * tile + 2, 5 * tile + 7};
  s.erase(std::remove_if(s.begin(), s.end(), [](int64_t n) { return n < 0; }), s.end());
  std::sort(s.begin(), s.end());
  s.erase(std::unique(s.begin(), s.end()), s.end());
  return s;
}

Rng Harness::rng() const { return Rng(hash(row_.c_str(), hash(family_.c_str(), seed_ ^ 14695981039346656037ull))); }

bool Harness::wants(const char* family, Tier tier) {
  if (!asked(tier_name(tier))) return false;
  if (tier_supported(tier)) return true;
  printf("SKIP %s/%s: %s\n", family, tier_name(tier), tier_missing(tier));
  skipped_++;
  return false;
}

void Harness::begin_variant(const char* family, Tier tier) {
  family_ = family;
  variant_ = tier_name(tier);
}

bool Harness::expect(bool ok, const char* format, ...) {
  if (ok || !failure_.empty()) return ok;
  char text[400];
  va_list list;
  va_start(list, format);
  vsnprintf(text, sizeof text, format, list);
  va_end(list);
  failure_ = text;
  return false;
}

void Harness::row(const char* name, const std::function<void()>& body) {
  row_ = name;
  failure_.clear();
  const double start = cpu_seconds();
#if CATCH_CRASHES
  const int signal = sigsetjmp(g_jump, 1);
  if (signal == 0) {
    g_armed = 1;
    body();
    g_armed = 0;
  } else {
    failure_ = std::string("crashed: ") + strsignal(signal);
  }
#else
  body();
#endif
  const bool ok = failure_.empty();
  (ok ? passed_ : failed_)++;
  if (ok && times_)
    printf("PASS %s/%s %s (%.2f s)\n", family_.c_str(), variant_.c_str(), name, cpu_seconds() - start);
  else if (ok) printf("PASS %s/%s %s\n", family_.c_str(), variant_.c_str(), name);
  else printf("FAIL %s/%s %s: %s (seed %llu)\n", family_.c_str(), variant_.c_str(), name, failure_.c_str(),
              static_cast<unsigned long long>(seed_));
  fflush(stdout);
}

void Harness::bench(const char* name, double bytes, const std::function<void()>& body, double ops) {
  if (!bench_) return;
  body();
  double once = now_ns();
  body();
  once = now_ns() - once;
  const int repeats = static_cast<int>(std::max(1.0, std::min(1e6, 2e6 / std::max(once, 1.0))));
  std::vector<double> samples;
  for (int i = 0; i < 21; i++) {
    const double t = now_ns();
    for (int r = 0; r < repeats; r++) body();
    samples.push_back((now_ns() - t) / repeats);
  }
  std::sort(samples.begin(), samples.end());
  const double ns = samples[samples.size() / 2];
  printf("TIME %s/%s %s: %.0f ns", family_.c_str(), variant_.c_str(), name, ns);
  if (bytes > 0) printf(", %.2f GB/s", bytes / ns);
  if (ops > 0) printf(", %.1f GOP/s", ops / ns);
  printf("\n");
}

int harness_main(int argc, char** argv) {
  Harness h;
  std::vector<std::string> names;
  h.seed_ = std::random_device{}();
  for (int i = 1; i < argc; i++) {
    const std::string a = argv[i];
    if (a == "--bench") h.bench_ = true;
    else if (a == "--lean") h.lean_ = true;
    else if (a == "--times") h.times_ = true;
    else if (a == "--seed" && i + 1 < argc) h.seed_ = strtoull(argv[++i], nullptr, 10);
    else if (a == "--variant" && i + 1 < argc) h.only_ = argv[++i];
    else if (a == "--list") {
      for (FamilyCheck* f = g_families; f; f = f->next) printf("%s\n", f->name);
      return 0;
    } else if (!a.empty() && a[0] != '-') names.push_back(a);
    else {
      fprintf(stderr, "usage: check [family ...] [--variant TIER,TIER] [--seed N] [--bench] [--lean] [--times] [--list]\n");
      return 2;
    }
  }
#if CATCH_CRASHES
  for (int s : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT}) {
    struct sigaction act = {};
    act.sa_handler = on_crash;
    act.sa_flags = SA_NODEFER;
    sigaction(s, &act, nullptr);
  }
#endif
  printf("seed %llu\n", static_cast<unsigned long long>(h.seed_));
  for (const std::string& n : names) {
    bool known = false;
    for (FamilyCheck* f = g_families; f; f = f->next) known |= n == f->name;
    if (!known) {
      fprintf(stderr, "check: no family named %s (see --list)\n", n.c_str());
      return 2;
    }
  }
  for (FamilyCheck* f = g_families; f; f = f->next) {
    if (!names.empty() && std::find(names.begin(), names.end(), f->name) == names.end()) continue;
    h.family_ = f->name;
    h.variant_ = "core";
    f->fn(h);
  }
  printf("check: %d passed, %d failed, %d skipped\n", h.passed_, h.failed_, h.skipped_);
  return h.failed_ ? 1 : 0;
}

}  // namespace whittle

int main(int argc, char** argv) { return whittle::harness_main(argc, argv); }
