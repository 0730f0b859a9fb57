#include "emulator.h"

#include <stdio.h>
#include <stdlib.h>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#include <algorithm>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <stdexcept>
#include <vector>

#if defined(EMULATOR_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(EMULATOR_TSAN)
// Switching of fibers and the emulator's own memory are no part of what is checked.
#define EMULATOR_UNCHECKED __attribute__((no_sanitize("thread")))
extern "C" {
void AnnotateIgnoreReadsBegin(const char*, int);
void AnnotateIgnoreReadsEnd(const char*, int);
void AnnotateIgnoreWritesBegin(const char*, int);
void AnnotateIgnoreWritesEnd(const char*, int);
}
#else
#define EMULATOR_UNCHECKED
#endif

extern "C" __attribute__((weak)) const char __executable_start;  // the linker's, in programs

thread_local uint3 threadIdx, blockIdx;
thread_local dim3 blockDim, gridDim;

// Switches stacks. By hand where we can: swapcontext makes two system calls, and ASan's version clears a stack's shadow.
#if defined(__x86_64__)
struct Context {
  void* top = nullptr;
};
extern "C" void emulator_switch(void** from, void* to);
__asm__(
    ".text\n"
    ".globl emulator_switch\n"
    ".hidden emulator_switch\n"
    ".type emulator_switch,@function\n"
    "emulator_switch:\n"
    "pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15\n"
    "movq %rsp, (%rdi)\n"
    "movq %rsi, %rsp\n"
    "popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp\n"
    "ret\n"
    ".size emulator_switch,.-emulator_switch\n");
static inline void switch_context(Context* from, const Context& to) { emulator_switch(&from->top, to.top); }
static void make_context(Context* c, char* stack, size_t size, void (*entry)()) {
  // As a call leaves it: a return address at 16n + 8, here to nowhere; below it the entry and six registers.
  void** top = reinterpret_cast<void**>((reinterpret_cast<uintptr_t>(stack) + size) & ~uintptr_t(15));
  top[-1] = nullptr;
  top[-2] = reinterpret_cast<void*>(entry);
  for (int i = 3; i <= 8; i++) top[-i] = nullptr;
  c->top = top - 8;
}
#else
typedef ucontext_t Context;
static inline void switch_context(Context* from, const Context& to) { swapcontext(from, &to); }
static void make_context(Context* c, char* stack, size_t size, void (*entry)()) {
  getcontext(c);
  c->uc_stack.ss_sp = stack;
  c->uc_stack.ss_size = size;
  c->uc_link = nullptr;
  makecontext(c, entry, 0);
}
#endif

namespace emulator {
namespace {

// For what runs once a kernel or seldom: beginning to ignore costs a walk over the stack. What runs at every barrier and warp
// operation is not instrumented at all.
struct Quiet {
#if defined(EMULATOR_TSAN)
  Quiet() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
  ~Quiet() {
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  }
#else
  Quiet() {}
#endif
};

struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

enum class State { ready, at_barrier, at_warp, done };

constexpr size_t kStack = 64 * 1024;

struct Fiber {
  Context context;
  char* stack = nullptr;
  State state = State::ready;
  uint3 index;
  unsigned linear = 0;
  unsigned mask = 0;               // of the warp operation that it waits in
  const char* operation = nullptr;
  unsigned warp_turn = 0, block_turn = 0;
  unsigned char slot[kSlot];
  void* checker = nullptr;         // TSan's fiber
  void* fake = nullptr;            // ASan's fake stack
};

#if defined(EMULATOR_TSAN)
// TSan's thread for a device thread, with its stack. Making one maps megabytes, so they serve again: blocks take turns with
// kTracks sets of them. What a set has seen in a barrier of an earlier block of its own it takes as ordered, so races of a block
// show with the next kTracks - 1, not with every one. Barriers' tokens are a block's own: one that served an earlier block
// would order the two.
constexpr size_t kTracks = 3;
struct Track {
  void* checker = nullptr;
  char* stack = nullptr;
};
#endif

struct Shared {
  const void* key;
  char* memory;
};

// One grid runs at a time: the runtime holds a lock.
struct Machine {
  std::vector<Fiber> fibers;
  Fiber* all = nullptr;            // them, for what is not instrumented
  size_t count = 0;
  std::vector<Shared> shared;
  Context main;
  Fiber* current = nullptr;
  std::function<void()> body;
  std::string error, last_fault;
  std::mt19937_64 random{1};
  // Two tokens a barrier: the next arrival of a fast thread must not order what a slow one still reads.
  struct Tokens {
    char block[2], warp[32][2];
  };
  Tokens* tokens = nullptr;
  char start_token, done_token;
  void* main_checker = nullptr;
#if defined(EMULATOR_TSAN)
  std::vector<Track> tracks[kTracks];
#endif
  void* main_fake = nullptr;
  const void* main_bottom = nullptr;
  size_t main_size = 0;
};

EMULATOR_UNCHECKED Machine& machine() {
  static Machine* const m = new Machine;
  return *m;
}

EMULATOR_UNCHECKED void leave() {
  Machine& m = machine();
  Fiber* me = m.current;
#if defined(EMULATOR_ASAN)
  __sanitizer_start_switch_fiber(me->state == State::done ? nullptr : &me->fake, m.main_bottom, m.main_size);
#endif
#if defined(EMULATOR_TSAN)
  __tsan_switch_to_fiber(m.main_checker, __tsan_switch_to_fiber_no_sync);
#endif
  switch_context(&me->context, m.main);
#if defined(EMULATOR_ASAN)
  __sanitizer_finish_switch_fiber(me->fake, &m.main_bottom, &m.main_size);
#endif
  // After a fault every fiber unwinds.
  if (!m.error.empty() && me->state != State::done) throw Fault(m.error);
}

EMULATOR_UNCHECKED void enter(Fiber& f) {
  Machine& m = machine();
  m.current = &f;
  threadIdx = f.index;
#if defined(EMULATOR_ASAN)
  __sanitizer_start_switch_fiber(&m.main_fake, f.stack, kStack);
#endif
#if defined(EMULATOR_TSAN)
  __tsan_switch_to_fiber(f.checker, __tsan_switch_to_fiber_no_sync);
#endif
  switch_context(&m.main, f.context);
#if defined(EMULATOR_ASAN)
  __sanitizer_finish_switch_fiber(m.main_fake, nullptr, nullptr);
#endif
}

EMULATOR_UNCHECKED void entry() {
  Machine& m = machine();
#if defined(EMULATOR_ASAN)
  __sanitizer_finish_switch_fiber(nullptr, &m.main_bottom, &m.main_size);
#endif
#if defined(EMULATOR_TSAN)
  __tsan_acquire(&m.start_token);
#endif
  try {
    if (m.error.empty()) m.body();
  } catch (const Fault& e) {
    if (m.error.empty()) m.error = e.what();
  }
#if defined(EMULATOR_TSAN)
  __tsan_release(&m.done_token);
#endif
  m.current->state = State::done;
  leave();
  abort();
}

EMULATOR_UNCHECKED void acquire(void* token) {
#if defined(EMULATOR_TSAN)
  __tsan_acquire(token);
#else
  (void)token;
#endif
}

EMULATOR_UNCHECKED void release(void* token) {
#if defined(EMULATOR_TSAN)
  __tsan_release(token);
#else
  (void)token;
#endif
}

EMULATOR_UNCHECKED Fiber* of_lane(unsigned l) {
  Machine& m = machine();
  const size_t i = (m.current->linear & ~31u) + l;
  return i < m.count ? m.all + i : nullptr;
}

// No memcpy, which a sanitizer watches.
EMULATOR_UNCHECKED void copy_bytes(void* to, const void* from, size_t size) {
  for (size_t i = 0; i < size; i++) static_cast<volatile unsigned char*>(to)[i] = static_cast<const unsigned char*>(from)[i];
}

void drop_shared(Machine& m) {
  for (const Shared& s : m.shared) {
#if defined(EMULATOR_ASAN)
    __asan_unpoison_memory_region(s.memory, 1);
#endif
    free(s.memory);
  }
  m.shared.clear();
}

// Releases warps that are complete. Answers whether there was one.
bool release_warps(Machine& m) {
  bool any = false;
  for (Fiber& f : m.fibers) {
    if (f.state != State::at_warp) continue;
    const unsigned base = f.linear & ~31u, mask = f.mask;
    bool complete = true;
    for (unsigned l = 0; l < 32 && complete; l++) {
      if (!(mask >> l & 1)) continue;
      const Fiber& other = m.fibers[base + l];
      if (other.state != State::at_warp || other.mask != mask) {
        complete = false;
      } else if (strcmp(other.operation, f.operation) != 0) {
        m.error = std::string("the lanes of one mask are in ") + f.operation + " and in " + other.operation;
        return false;
      }
    }
    if (!complete) continue;
    for (unsigned l = 0; l < 32; l++)
      if (mask >> l & 1) m.fibers[base + l].state = State::ready;
    any = true;
  }
  return any;
}

// Nobody is ready: lets go whoever may, or says what is wrong.
void unblock(Machine& m, size_t at_barrier, size_t done) {
  const size_t n = m.fibers.size();
  if (release_warps(m) || !m.error.empty()) return;
  const auto text = [](size_t v) { return std::to_string(v); };
  if (at_barrier == n) {
    for (Fiber& f : m.fibers) f.state = State::ready;
  } else if (at_barrier + done == n) {
    m.error = "__syncthreads reached by " + text(at_barrier) + " of " + text(n) + " threads, the others have left";
  } else {
    m.error = "deadlock: " + text(at_barrier) + " threads at __syncthreads, " + text(n - at_barrier - done) +
              " in a warp operation, " + text(done) + " have left";
  }
}

void prepare(Machine& m, dim3 block, size_t turn) {
#if defined(EMULATOR_TSAN)
  std::vector<Track>& tracks = m.tracks[turn % kTracks];
  if (tracks.size() < m.fibers.size()) tracks.resize(m.fibers.size());
#else
  (void)turn;
#endif
  for (size_t i = 0; i < m.fibers.size(); i++) {
    Fiber& f = m.fibers[i];
#if defined(EMULATOR_TSAN)
    // A stack stays with its thread: what others left on it would look like a race.
    Track& t = tracks[i];
    if (!t.checker) t = {__tsan_create_fiber(0), static_cast<char*>(malloc(kStack))};
    f.checker = t.checker;
    f.stack = t.stack;
#else
    if (!f.stack) f.stack = static_cast<char*>(malloc(kStack));
#endif
    f.state = State::ready;
    f.linear = static_cast<unsigned>(i);
    f.index.x = f.linear % block.x;
    f.index.y = f.linear / block.x % block.y;
    f.index.z = f.linear / (block.x * block.y);
    f.warp_turn = f.block_turn = 0;
    f.fake = nullptr;
    make_context(&f.context, f.stack, kStack, entry);
  }
}

void run_block(Machine& m, dim3 block, size_t turn) {
  drop_shared(m);
  // What was freed is forgotten.
  free(m.tokens);
  m.tokens = static_cast<Machine::Tokens*>(malloc(sizeof(Machine::Tokens)));
  prepare(m, block, turn);
  std::vector<unsigned> ready;
  uint64_t waiting = 0;
  int rounds = 0;
  for (;;) {
    size_t at_barrier = 0, done = 0;
    ready.clear();
    for (const Fiber& f : m.fibers) {
      if (f.state == State::ready) ready.push_back(f.linear);
      at_barrier += f.state == State::at_barrier;
      done += f.state == State::done;
    }
    if (done == m.fibers.size()) break;
    if (!m.error.empty()) {  // wake everybody to unwind
      ready.clear();
      for (Fiber& f : m.fibers)
        if (f.state != State::done) ready.push_back(f.linear);
    } else if (ready.empty()) {
      unblock(m, at_barrier, done);
      continue;
    }
    if (settings().order == Order::reversed) std::reverse(ready.begin(), ready.end());
    if (settings().order != Order::random || !m.error.empty()) {
      for (const unsigned i : ready) enter(m.fibers[i]);
      continue;
    }
    // Half of the warps wait, now and then so long that the others run ahead of them as far as barriers let them.
    std::shuffle(ready.begin(), ready.end(), m.random);
    if (rounds-- == 0) {
      waiting = m.random();
      rounds = m.random() % 16 ? 0 : 255;
    }
    bool any = false;
    for (const unsigned i : ready) {
      if (waiting >> (i / 32) & 1) continue;
      enter(m.fibers[i]);
      any = true;
    }
    if (!any) rounds = 0;
    if (!any) enter(m.fibers[ready[0]]);
    release_warps(m);
  }
}

}  // namespace

Settings& settings() {
  static Settings* const s = [] {
    Settings* made = new Settings;
    // A library has no other way to be told.
    const char* order = getenv("EMULATOR_ORDER");
    const char* seed = getenv("EMULATOR_SEED");
    if (order) made->order = strcmp(order, "in-order") == 0 ? Order::in_order : strcmp(order, "reversed") == 0 ? Order::reversed : Order::random;
    if (seed) made->seed = strtoull(seed, nullptr, 10);
    return made;
  }();
  return *s;
}

static std::mutex noted_lock;
static std::set<const void*> noted;
void note_kernel(const void* kernel) {
  const Quiet quiet;
  const std::lock_guard<std::mutex> guard(noted_lock);
  noted.insert(kernel);
}
std::vector<int64_t> noted_kernels() {
  std::vector<int64_t> list;
  for (const void* k : noted) list.push_back(static_cast<const char*>(k) - &__executable_start);
  return list;
}

std::string take_fault() {
  std::string text;
  std::swap(text, machine().last_fault);
  return text;
}

EMULATOR_UNCHECKED unsigned lane() { return machine().current->linear & 31; }

void fault(const std::string& message) {
  const Fiber& f = *machine().current;
  char where[160];
  snprintf(where, sizeof where, " (block %u,%u,%u thread %u,%u,%u)", blockIdx.x, blockIdx.y, blockIdx.z, f.index.x, f.index.y, f.index.z);
  throw Fault(message + where);
}

EMULATOR_UNCHECKED void sync_block() {
  Machine& m = machine();
  Fiber* me = m.current;
  char* token = &m.tokens->block[me->block_turn++ & 1];
  release(token);
  me->state = State::at_barrier;
  leave();
  acquire(token);
}

EMULATOR_UNCHECKED void sync_warp(unsigned mask, const char* operation) {
  Machine& m = machine();
  Fiber* me = m.current;
  if (!(mask >> lane() & 1)) fault(std::string(operation) + ": the calling lane is not in its mask");
  for (unsigned l = 0; l < 32; l++) {
    if (!(mask >> l & 1)) continue;
    const Fiber* other = of_lane(l);
    if (!other) fault(std::string(operation) + ": the mask names a lane that the block does not have");
    if (other->state == State::done) fault(std::string(operation) + ": the mask names a lane that has left");
  }
  me->mask = mask;
  me->operation = operation;
  me->state = State::at_warp;
  char* token = &m.tokens->warp[me->linear >> 5][me->warp_turn++ & 1];
  release(token);
  leave();
  acquire(token);
}

EMULATOR_UNCHECKED void deposit(const void* value, size_t size) { copy_bytes(machine().current->slot, value, size); }
EMULATOR_UNCHECKED void peek(unsigned l, void* value, size_t size) { copy_bytes(value, of_lane(l)->slot, size); }

void* shared(const void* key, size_t size) {
  const Quiet quiet;
  Machine& m = machine();
  for (const Shared& s : m.shared)
    if (s.key == key) return s.memory;
  // An allocation of its own, so that ASan sees what lies beyond; all bits set are NaN or -1.
  char* memory = static_cast<char*>(malloc(size));
  memset(memory, 0xFF, size);
  m.shared.push_back({key, memory});
  return memory;
}

bool run(dim3 grid, dim3 block, size_t, const std::function<void()>& body) {
  const Quiet quiet;
  Machine& m = machine();
  m.random.seed(settings().seed);
  m.body = body;
  m.error.clear();
  const size_t n = size_t(block.x) * block.y * block.z;
  if (m.fibers.size() != n) {
#if !defined(EMULATOR_TSAN)
    for (Fiber& f : m.fibers) free(f.stack);
#endif
    m.fibers = std::vector<Fiber>(n);
  }
  m.all = m.fibers.data();
  m.count = n;
  gridDim = grid;
  blockDim = block;
#if defined(EMULATOR_TSAN)
  m.main_checker = __tsan_get_current_fiber();
#endif
  release(&m.start_token);
  const size_t blocks = size_t(grid.x) * grid.y * grid.z;
  for (size_t i = 0; i < blocks && m.error.empty(); i++) {
    const size_t b = settings().order == Order::in_order ? i : blocks - 1 - i;
    blockIdx.x = static_cast<unsigned>(b % grid.x);
    blockIdx.y = static_cast<unsigned>(b / grid.x % grid.y);
    blockIdx.z = static_cast<unsigned>(b / grid.x / grid.y);
    run_block(m, block, i);
  }
  drop_shared(m);
  acquire(&m.done_token);
  if (m.error.empty()) return true;
  m.last_fault = m.error;
  return false;
}

}  // namespace emulator
