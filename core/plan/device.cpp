// Models on a GPU: constants in its memory, runs as turns of its streams, steps recorded as graphs.
#include <string.h>

#include <chrono>
#include <new>

#include "core/cuda.h"
#include "core/plan/reader.h"

namespace whittle {

const void* PlanReader::keep(const void* data, int64_t bytes) {
  if (plan_->device < 0 || !ok()) return nullptr;
  const CudaBackend& backend = *cuda().backend;
  void* memory = nullptr;
  WhittleStatus status = backend.allocate(plan_->device, bytes, &memory);
  if (status == WHITTLE_OK) {
    plan_->memory.push_back(memory);
    status = backend.upload(plan_->device, memory, data, bytes);
  }
  if (status != WHITTLE_OK) refuse(status == WHITTLE_OUT_OF_MEMORY ? kNoDeviceMemory : kDeviceFailed);
  return memory;
}

Plan::~Plan() {
  if (device < 0) return;
  for (const Recording& r : graphs) cuda().backend->net.forget(device, r.graph);
  for (void* m : memory) cuda().backend->release(device, m);
}

// Rows along k with zeros behind them, and their sums (CudaInt8).
int64_t PlanModel::add_codes_on_device(std::unique_ptr<Constant> constant, const int8_t* data, int64_t row, int64_t col) {
  const int64_t k = constant->k, n = constant->n, line = cuda_int8_row(k);
  constant->bytes = n * line + n * 4;
  const std::unique_ptr<int8_t[]> room(new (std::nothrow) int8_t[static_cast<size_t>(constant->bytes + 1)]());
  if (!room) return -1;
  for (int64_t j = 0; j < n; j++) {
    int32_t sum = 0;
    for (int64_t p = 0; p < k; p++) sum += room[static_cast<size_t>(j * line + p)] = data[p * row + j * col];
    memcpy(room.get() + n * line + 4 * j, &sum, 4);
  }
  return add_on_device(std::move(constant), room.get());
}

int64_t PlanModel::add_on_device(std::unique_ptr<Constant> constant, const void* data) {
  const CudaBackend& backend = *cuda().backend;
  void* memory = nullptr;
  const auto number_of = [](WhittleStatus s) -> int64_t { return s == WHITTLE_DEVICE ? -2 : -1; };
  WhittleStatus status = backend.allocate(device_, constant->bytes, &memory);
  if (status != WHITTLE_OK) return number_of(status);
  constant->data = static_cast<uint8_t*>(memory);
  constant->device = device_;
  status = backend.upload(device_, memory, data, constant->bytes);
  if (status != WHITTLE_OK) return number_of(status);
  constexpr int64_t kTable = 64 << 10;
  if (constant->kind == ConstantKind::raw && constant->bytes <= kTable) {
    constant->memory.reset(static_cast<uint8_t*>(aligned_new(static_cast<size_t>(constant->bytes))));
    if (constant->memory) memcpy(constant->memory.get(), data, static_cast<size_t>(constant->bytes));
  }
  return keep(std::move(constant));
}

CudaGraph* PlanModel::recorded(const Plan& plan, uint64_t arena) {
  for (const Plan::Recording& r : plan.graphs)
    if (r.arena == arena) return r.graph;
  return nullptr;
}

// One that the plan was recorded with, else any that is large enough, else a new one in place of another.
WhittleStatus PlanModel::take_device_arena(const Plan& plan, int64_t bytes, DeviceArena* arena) {
  DeviceArena small;
  {
    std::lock_guard<std::mutex> hold(lock_);
    size_t best = spare_.size();
    for (size_t i = 0; i < spare_.size(); i++) {
      if (spare_[i].bytes < bytes) continue;
      best = i;
      if (recorded(plan, spare_[i].number)) break;
    }
    if (best == spare_.size() && best > 0) {
      small = spare_.back();
      spare_.pop_back();
    } else if (best < spare_.size()) {
      *arena = spare_[best];
      spare_.erase(spare_.begin() + static_cast<std::ptrdiff_t>(best));
      return WHITTLE_OK;
    }
  }
  drop_device_arena(small);
  *arena = {nullptr, bytes, 0};
  return cuda().backend->allocate(device_, bytes, &arena->memory);
}

void PlanModel::give_device_arena(DeviceArena arena) {
  {
    std::lock_guard<std::mutex> hold(lock_);
    if (spare_.size() < kSpareArenas) {
      if (arena.number == 0) arena.number = ++last_arena_;
      return spare_.push_back(arena);
    }
  }
  drop_device_arena(arena);
}

void PlanModel::drop_device_arena(const DeviceArena& arena) {
  if (!arena.memory) return;
  const CudaBackend& backend = *cuda().backend;
  std::vector<CudaGraph*> graphs;
  {
    std::lock_guard<std::mutex> hold(lock_);
    for (const PlanUse& plan : plans_) {
      if (!plan) continue;
      std::vector<Plan::Recording>& all = plan->graphs;
      for (size_t i = all.size(); i-- > 0;) {
        if (all[i].arena != arena.number) continue;
        graphs.push_back(all[i].graph);
        all.erase(all.begin() + static_cast<std::ptrdiff_t>(i));
      }
    }
  }
  for (CudaGraph* g : graphs) backend.net.forget(device_, g);
  backend.release(device_, arena.memory);
}

WhittleStatus PlanModel::run_on_device(const Plan& plan, const PlanBuffer* inputs, const PlanBuffer* outputs, const std::atomic<int32_t>* cancel,
                                       double* times) {
  const CudaNet& net = cuda().backend->net;
  // Flags lie before the arena, inputs and outputs behind it: a recording names one piece of memory.
  constexpr int64_t kFlags = 256;
  int64_t bytes = kFlags + plan.arena_bytes;
  std::vector<int64_t> at;
  const auto place = [&](const std::vector<int64_t>& sizes) {
    for (const int64_t size : sizes) {
      bytes = (bytes + 255) & ~int64_t(255);
      at.push_back(bytes);
      bytes += size;
    }
  };
  place(plan.input_bytes);
  place(plan.output_bytes);
  DeviceArena arena;
  WhittleStatus status = take_device_arena(plan, bytes, &arena);
  if (status != WHITTLE_OK) return status;
  uint8_t* const base = static_cast<uint8_t*>(arena.memory);
  std::vector<void*> in, out;
  for (size_t i = 0; i < at.size(); i++) (i < plan.input_bytes.size() ? in : out).push_back(base + at[i]);
  const RunContext context = {base + kFlags, in.data(), out.data(), 1};
  // What is timed or may be ended early runs step by step. An arena of a first run may be of no other.
  CudaGraph* graph = nullptr;
  bool record = false;
  if (!times && !cancel) {
    std::lock_guard<std::mutex> hold(lock_);
    graph = recorded(plan, arena.number);
    record = !graph && plan.ran && !plan.unrecordable && arena.number != 0 && !plan.steps.empty();
  }
  CudaTurn* turn = net.begin(device_, reinterpret_cast<int32_t*>(base));
  status = turn ? WHITTLE_OK : WHITTLE_OUT_OF_MEMORY;
  if (turn) {
    bool aborted = false;
    if (record && net.record(turn)) {
      for (const auto& step : plan.steps) step->queue(net, turn, context);
      graph = net.recorded(turn);
      std::lock_guard<std::mutex> hold(lock_);
      if (graph) plan.graphs.push_back({arena.number, graph});
      else plan.unrecordable = true;
    }
    for (size_t i = 0; i < in.size(); i++)
      inputs[i].on_device ? net.move(turn, in[i], inputs[i].data, plan.input_bytes[i]) : net.send(turn, in[i], inputs[i].data, plan.input_bytes[i]);
    if (times) net.wait(turn);
    if (graph) {
      net.replay(turn, graph);
      replays_.fetch_add(1, std::memory_order_relaxed);
    }
    for (size_t i = 0; !graph && i < plan.steps.size() && !aborted; i++) {
      aborted = cancel && cancel->load(std::memory_order_relaxed);
      if (aborted) break;
      const auto start = std::chrono::steady_clock::now();
      plan.steps[i]->queue(net, turn, context);
      if (!times) continue;
      net.wait(turn);
      times[i] = std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - start).count();
    }
    for (size_t i = 0; i < out.size() && !aborted; i++)
      outputs[i].on_device ? net.move(turn, outputs[i].data, out[i], plan.output_bytes[i]) : net.fetch(turn, outputs[i].data, out[i], plan.output_bytes[i]);
    status = net.end(turn);
    if (aborted && status == WHITTLE_OK) status = WHITTLE_ABORTED;
    std::lock_guard<std::mutex> hold(lock_);
    plan.ran = true;
  }
  give_device_arena(arena);
  return status;
}

}  // namespace whittle
