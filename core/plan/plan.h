// A model ready to run: weights in the layout of this machine's kernels, and one plan (a flat list of steps over one arena)
// for each set of input shapes. A run is one call; what it needs beyond its outputs is taken from arenas that are kept.
//
// lib/session writes a plan as a list of numbers ("program"); every step checks while it is built that what it names exists
// and is large enough, so that a wrong program is an error, not a wild pointer. Any number of threads may run plans of one
// model at once; constants and plans are only ever added.
#pragma once
#include <stdint.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "core/aligned.h"
#include "core/status.h"

namespace whittle {

enum class Place : int32_t { none = 0, arena = 1, constant = 2, input = 3, output = 4 };

// A value that a step reads or writes: bytes at an offset of the arena, or a whole constant, input or output.
struct Operand {
  Place place = Place::none;
  int64_t at = 0;  // offset or index
  int64_t bytes = 0;
  const void* fixed = nullptr;  // of a constant; on a device its memory there
  bool sparse = false;  // which is a SparseMatrix
  int64_t row = 0, col = 0;  // on a device: strides of a matrix that a CPU would have packed
};

// What a constant holds. The numbers cross into lib/session/program.ts.
enum class ConstantKind : int32_t {
  raw = 0,
  gemm = 1,  // `groups` float32 matrices k x n, packed by gemm_pack_b one after another
  gemm_int8 = 2,  // an int8 matrix k x n, as PackedInt8
  gemm_weight = 3,  // a matrix k x n of 4- or 8-bit codes with scales, as PackedWeight; see add_weight
  sparse = 4,  // a float32 matrix k x n, as SparseMatrix (of n rows and k columns)
  sparse_int8 = 5,  // the same of int8
  tiles = 6,  // 3 x 3 windows as nine matrices k x n, to be 36 of kind gemm (core/conv.h, winograd)
  small_tiles = 7,  // the same, to be 16
};

struct PackedInt8;
struct PackedInt8Delete {
  void operator()(PackedInt8* p) const;
};

struct PackedWeight;
struct PackedWeightDelete {
  void operator()(PackedWeight* p) const;
};

struct SparseMatrix;
struct SparseDelete {
  void operator()(SparseMatrix* p) const;
};

// How a sparse constant is to be stored, and for how many rows of activations (core/sparse.h).
struct SparseLayout {
  int32_t format, r, c, n, m;
  int64_t columns;
};

struct Constant {
  ConstantKind kind;
  int64_t groups, k, n;
  int64_t bytes;
  std::unique_ptr<uint8_t, AlignedDelete> memory;
  uint8_t* data;  // 64-byte aligned, or memory of `device`
  int32_t device = -1;
  int64_t row = 0, col = 0;
  ~Constant();
  std::unique_ptr<PackedInt8, PackedInt8Delete> packed;
  std::unique_ptr<PackedWeight, PackedWeightDelete> weight;
  std::unique_ptr<SparseMatrix, SparseDelete> sparse;
};

struct RunContext {
  uint8_t* arena;
  void* const* inputs;
  void* const* outputs;
  int threads;
  template <class T>
  T* at(const Operand& o) const {
    switch (o.place) {
      case Place::arena: return reinterpret_cast<T*>(arena + o.at);
      case Place::constant: return static_cast<T*>(const_cast<void*>(o.fixed));
      case Place::input: return static_cast<T*>(inputs[o.at]);
      case Place::output: return static_cast<T*>(outputs[o.at]);
      default: return nullptr;
    }
  }
};

struct CudaNet;
struct CudaTurn;
struct CudaGraph;

// An input or output of a run: bytes of the host, or of the session's device.
struct PlanBuffer {
  void* data;
  bool on_device;
};

class Step {
 public:
  virtual ~Step() = default;
  virtual WhittleStatus run(const RunContext& context) const = 0;
  // What keeps a device from it, or null: then queue() serves, with a context of device memory.
  virtual const char* lacking() const { return "has no kernel for devices"; }
  virtual void queue(const CudaNet& net, CudaTurn* turn, const RunContext& context) const;
};

struct Plan {
  ~Plan();
  std::vector<int64_t> input_bytes, output_bytes;
  int64_t arena_bytes = 0;
  std::vector<std::unique_ptr<Step>> steps;
  std::atomic<int> uses{0};
  // On a device: what steps keep there; and the steps as one call, for each arena that they were recorded with. The model's lock
  // guards graphs and what follows.
  int32_t device = -1;
  std::vector<void*> memory;
  struct Recording {
    uint64_t arena;
    CudaGraph* graph;
  };
  mutable std::vector<Recording> graphs;
  mutable bool ran = false, unrecordable = false;
};

// Keeps a plan alive. (Not std::shared_ptr: its code asks glibc 2.32 for a symbol that older systems lack.)
class PlanUse {
 public:
  PlanUse() = default;
  explicit PlanUse(Plan* plan) : plan_(plan) {
    if (plan_) plan_->uses.fetch_add(1, std::memory_order_relaxed);
  }
  PlanUse(const PlanUse& other) : PlanUse(other.plan_) {}
  PlanUse& operator=(PlanUse other) {
    std::swap(plan_, other.plan_);
    return *this;
  }
  ~PlanUse() {
    if (plan_ && plan_->uses.fetch_sub(1, std::memory_order_acq_rel) == 1) delete plan_;
  }
  const Plan* operator->() const { return plan_; }
  const Plan& operator*() const { return *plan_; }
  explicit operator bool() const { return plan_ != nullptr; }

 private:
  Plan* plan_ = nullptr;
};

// Arenas kept for later runs. More are made when more runs meet, and freed after.
constexpr size_t kSpareArenas = 4;

// What ends the reason why a plan cannot be made, where it is no fault of the plan's.
constexpr char kNoDeviceMemory[] = "no memory on the device", kDeviceFailed[] = "the device failed";

class PlanModel {
 public:
  // device: constants, arenas and steps are those of this GPU, which there is; -1: the CPU's.
  explicit PlanModel(int32_t device = -1) : device_(device) {}
  ~PlanModel();
  int32_t device() const { return device_; }
  // The constant's number; -1 if memory is short or the sizes do not fit `bytes`, -2 if the device failed.
  int64_t add_constant(ConstantKind kind, const void* data, int64_t bytes, int64_t groups, int64_t k, int64_t n, int64_t row,
                       int64_t col);
  // The number of an empty packed weight, which `fill` fills at once; -1 if memory is short or `fill` answers anything but 0.
  int64_t add_weight(int32_t format, int64_t k, int64_t n, int64_t block, bool with_offset,
                     WhittleStatus (*fill)(void* context, PackedWeight* w), void* context);
  int64_t add_sparse(ConstantKind kind, const void* data, int64_t bytes, int64_t k, int64_t n, int64_t row, int64_t col,
                     const SparseLayout& layout);
  // The plan's number, or -1 with the reason.
  int64_t add_plan(const double* program, int64_t length, std::string* error);
  PlanUse plan(int64_t number);
  void forget(int64_t number);
  const Constant* constant(int64_t number);
  // `times`: null, or nanoseconds of each step. `cancel`: null, or a flag that ends the run between two steps.
  WhittleStatus run(const Plan& plan, void* const* inputs, void* const* outputs, int threads, const std::atomic<int32_t>* cancel,
                    double* times);
  // The same on a device, where inputs and outputs may lie there.
  WhittleStatus run_on_device(const Plan& plan, const PlanBuffer* inputs, const PlanBuffer* outputs, const std::atomic<int32_t>* cancel,
                              double* times);
  // Runs so far that were one recorded call.
  int64_t replays() const { return replays_.load(std::memory_order_relaxed); }
  // Steps [from, to) only, over an arena of the caller's (64-byte aligned, plan.arena_bytes long) that holds what the steps
  // before them left.
  WhittleStatus run_part(const Plan& plan, void* const* inputs, void* const* outputs, int threads, const std::atomic<int32_t>* cancel,
                         double* times, uint8_t* arena, int64_t from, int64_t to);
  int64_t constant_bytes();

 private:
  int64_t keep(std::unique_ptr<Constant> constant);
  int64_t add_on_device(std::unique_ptr<Constant> constant, const void* data);
  int64_t add_codes_on_device(std::unique_ptr<Constant> constant, const int8_t* data, int64_t row, int64_t col);
  struct DeviceArena {
    void* memory = nullptr;
    int64_t bytes = 0;
    uint64_t number = 0;  // 0: of a first run
  };
  CudaGraph* recorded(const Plan& plan, uint64_t arena);
  WhittleStatus take_device_arena(const Plan& plan, int64_t bytes, DeviceArena* arena);
  void give_device_arena(DeviceArena arena);
  void drop_device_arena(const DeviceArena& arena);
  struct Arena {
    std::unique_ptr<uint8_t, AlignedDelete> memory;
    int64_t bytes;
  };
  uint8_t* take_arena(int64_t bytes, Arena* arena);
  void give_arena(Arena arena);

  std::mutex lock_;
  std::vector<std::unique_ptr<Constant>> constants_;
  std::vector<PlanUse> plans_;
  std::vector<Arena> arenas_;
  int32_t device_;
  std::vector<DeviceArena> spare_;  // on a device
  uint64_t last_arena_ = 0;
  std::atomic<int64_t> replays_{0};
};

// Names of the steps, of the elementwise and of the typed operations, in the order of their numbers.
std::vector<const char*> plan_steps();
std::vector<const char*> plan_elementwise();
std::vector<const char*> plan_typed();

}  // namespace whittle
