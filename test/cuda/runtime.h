// The CUDA runtime's contract on host memory, as far as cuda/ uses it: the functions of NVIDIA's header, refusing what the
// documentation refuses, running streams late on purpose. What it does not model ends the process.
#pragma once
#include <stdint.h>

struct CUstream_st;

namespace fake {

// What a cudaStream_t of this runtime points to first, so that the fakes of NVIDIA's libraries, which are opened like those,
// enqueue their work: they link nothing of this one.
struct StreamHead {
  void (*enqueue)(CUstream_st* stream, void (*work)(void*), void* context);  // `work` frees its context
  bool (*on_device)(const void* p, uint64_t bytes);
  double* clock;  // milliseconds: work that takes time adds to it
};

// When queued work runs: at once (hides missing waits), as late as anything allows, or at random.
enum class Mode { eager, late, random };

struct Options {
  Mode mode = Mode::late;
  uint64_t seed = 1;
  int devices = 1;
  int driver = 13000;             // 0: no driver
  int64_t memory = 256 << 20;     // of a device
  bool pools = true;              // stream-ordered allocation
  int64_t fail_allocation = -1;   // the allocation with this number fails, counted from 0
  int64_t fail_rate = 0;          // one allocation of so many fails, at random
  int64_t fail_pinned = -1;       // likewise of pinned memory
  int64_t lose_device = -1;       // the launch with this number fails for good
  bool graphs = true;             // whether recordings can be made graphs
};
Options& options();

// Calls for pinned memory so far.
int64_t pinned_calls();
// Device allocations that are alive, but for those of lost devices; and allocations so far.
int64_t live();
int64_t allocations();
// Graphs that are alive.
int64_t graphs();
// Runs what is queued and counts anew. Lost devices stay lost.
void reset();

}  // namespace fake
