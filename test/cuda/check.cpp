// cuda_check [family ...] [--seed N] [--lean] [--real]
#include "check.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

namespace whittle {

void Check::row(const char* name, const std::function<void(Rng&)>& body) {
  const struct {
    emulator::Order order;
    fake::Mode mode;
    const char* name;
  } ways[] = {{emulator::Order::in_order, fake::Mode::late, "in order, late"},
              {emulator::Order::reversed, fake::Mode::random, "reversed, at random"},
              {emulator::Order::random, fake::Mode::late, "at random, late"}};
  for (const auto& way : ways) {
    if (real_ && way.order != emulator::Order::in_order) continue;
#if defined(EMULATOR_TSAN)
    // Races are found by what happens before what, in any order; fibers are dear under this sanitizer.
    if (way.order != emulator::Order::random) continue;
#endif
    emulator::settings() = {way.order, seed};
    fake::options() = {};
    fake::options().mode = way.mode;
    fake::options().seed = seed;
    fake::reset();
    emulator::take_fault();
    failure_.clear();
    const int64_t before = fake::live();
    Rng rng(seed * 1000003 + std::hash<std::string>()(name));
    body(rng);
    const std::string fault = emulator::take_fault();
    if (!fault.empty()) failure_ = fault;
    fake::reset();
    expect(fake::live() == before, "%d allocations left behind", static_cast<int>(fake::live() - before));
    if (failure_.empty()) {
      passed++;
      printf("PASS %s (%s)\n", name, real_ ? "on the device" : way.name);
    } else {
      failed++;
      printf("FAIL %s (%s, seed %llu): %s\n", name, way.name, static_cast<unsigned long long>(seed), failure_.c_str());
    }
    fflush(stdout);
  }
}

bool Check::expect(bool ok, const char* format, ...) {
  if (ok || !failure_.empty()) return ok;
  char text[512];
  va_list list;
  va_start(list, format);
  vsnprintf(text, sizeof text, format, list);
  va_end(list);
  failure_ = text;
  return false;
}

}  // namespace whittle

int main(int argc, char** argv) {
  using namespace whittle;
  const struct {
    const char* name;
    void (*run)(Check&);
  } families[] = {{"memory", check_memory}, {"quantize", check_quantize}, {"select", check_select}, {"distill", check_distill},
                  {"distill_logits", check_distill_logits}, {"distill_features", check_distill_features},
                  {"distill_linear", check_distill_linear}, {"gemm", check_gemm}, {"svd", check_svd}, {"sparse", check_sparse},
                  {"sparse_library", check_sparse_library}, {"net", check_net}, {"net_codes", check_net_codes},
                  {"net_each", check_net_each}, {"net_pick", check_net_pick}};
  Check c;
  std::vector<std::string> only;
  for (int i = 1; i < argc; i++) {
    const std::string a = argv[i];
    if (a == "--lean") c.lean_ = true;
    else if (a == "--real") c.real_ = true;
    else if (a == "--seed" && i + 1 < argc) c.seed = strtoull(argv[++i], nullptr, 10);
    else only.push_back(a);
  }
  for (const auto& f : families) {
    bool wanted = only.empty();
    for (const std::string& o : only) wanted |= o == f.name;
    if (wanted) f.run(c);
  }
  // For scripts/cuda.cjs, which knows what there is.
  printf("kernels:");
  for (const int64_t k : emulator::noted_kernels()) printf(" %llx", static_cast<unsigned long long>(k));
  printf("\n");
  printf("check: %d passed, %d failed, 0 skipped\n", c.passed, c.failed);
  return c.failed ? 1 : 0;
}
