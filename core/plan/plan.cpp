#include "core/plan/plan.h"

#include <string.h>

#include <chrono>
#include <new>

#include "core/conv.h"
#include "core/cuda.h"
#include "core/elementwise.h"
#include "core/gemm.h"
#include "core/gemm_int8.h"
#include "core/gemm_weight.h"
#include "core/plan/reader.h"
#include "core/sparse_weights.h"

namespace whittle {
namespace {

struct StepRow {
  const char* name;
  StepMaker make;
};
const StepRow kSteps[] = {
#define WHITTLE_STEP(name) {#name, make_##name},
#include "core/plan/steps.inc"
#undef WHITTLE_STEP
};
constexpr int64_t kStepCount = sizeof kSteps / sizeof *kSteps;

}  // namespace

std::vector<const char*> plan_steps() {
  std::vector<const char*> names;
  for (const StepRow& s : kSteps) names.push_back(s.name);
  return names;
}

std::vector<const char*> plan_elementwise() {
  return {
#define WHITTLE_ELEMENTWISE(name, operands) #name,
#include "core/elementwise.inc"
#undef WHITTLE_ELEMENTWISE
  };
}

std::vector<const char*> plan_typed() {
  return {
#define WHITTLE_TYPED(name, operands) #name,
#include "core/typed.inc"
#undef WHITTLE_TYPED
  };
}

int64_t plan_product(std::initializer_list<int64_t> sizes) {
  constexpr int64_t kMost = int64_t(1) << 40;
  int64_t n = 1;
  for (int64_t s : sizes) {
    if (s < 0 || s > kMost) return -1;
    if (s == 0) return 0;
    if (n > kMost / s) return -1;
    n *= s;
  }
  return n;
}

Operand PlanReader::operand(int64_t least, bool optional) {
  Operand o;
  const int64_t place = within(0, 4);
  o.at = within(0, int64_t(1) << 50);
  o.bytes = within(0, int64_t(1) << 50);
  if (!ok()) return Operand();
  o.place = static_cast<Place>(place);
  if (o.place == Place::none) {
    if (!optional) refuse("an operand is missing");
    return Operand();
  }
  int64_t room = 0;
  if (o.place == Place::arena) {
    room = plan_->arena_bytes - o.at;
    require(o.at % 4 == 0, "an operand is not aligned");
  } else if (o.place == Place::constant) {
    const Constant* c = model_->constant(o.at);
    if (c && c->kind == ConstantKind::raw) {
      room = c->bytes;
      o.fixed = c->data;
    }
  } else {
    const std::vector<int64_t>& sizes = o.place == Place::input ? plan_->input_bytes : plan_->output_bytes;
    if (o.at < static_cast<int64_t>(sizes.size())) room = sizes[static_cast<size_t>(o.at)];
  }
  if (least < 0 || o.bytes > room || least > o.bytes) {
    refuse("an operand is smaller than the step needs");
    return Operand();
  }
  return o;
}

const void* PlanReader::content(const Operand& constant) {
  const Constant* c = model_->constant(constant.at);
  return c->device >= 0 ? c->memory.get() : c->data;
}

static Operand sparse_operand(const Constant& c, int64_t number) {
  Operand o;
  o.place = Place::constant;
  o.at = number;
  o.fixed = c.sparse.get();
  o.sparse = true;
  return o;
}

Operand PlanReader::packed(int64_t groups, int64_t k, int64_t n) {
  const int64_t number = within(0, int64_t(1) << 40);
  const Constant* c = ok() ? model_->constant(number) : nullptr;
  Operand o;
  const bool sparse = c && c->kind == ConstantKind::sparse;
  if (!c || !(sparse || c->kind == ConstantKind::gemm) || c->groups != groups || c->k != k || c->n != n) {
    refuse("packed weights of another shape");
    return o;
  }
  if (sparse) return sparse_operand(*c, number);
  o.place = Place::constant;
  o.at = number;
  o.bytes = c->bytes;
  o.fixed = c->data;
  o.row = c->row;
  o.col = c->col;
  return o;
}

Operand PlanReader::packed_int8(int64_t k, int64_t n) {
  const int64_t number = within(0, int64_t(1) << 40);
  const Constant* c = ok() ? model_->constant(number) : nullptr;
  Operand o;
  const bool sparse = c && c->kind == ConstantKind::sparse_int8;
  const bool there = c && c->kind == ConstantKind::gemm_int8 && c->device >= 0;
  if (!c || !(sparse || there || c->packed) || c->k != k || c->n != n) {
    refuse("packed codes of another shape");
    return o;
  }
  if (sparse) return sparse_operand(*c, number);
  o.place = Place::constant;
  o.at = number;
  o.fixed = there ? static_cast<const void*>(c->data) : c->packed.get();
  return o;
}

Operand PlanReader::packed_weight(int64_t k, int64_t n) {
  const int64_t number = within(0, int64_t(1) << 40);
  const Constant* c = ok() ? model_->constant(number) : nullptr;
  Operand o;
  if (!c || !c->weight || c->k != k || c->n != n) {
    refuse("packed codes of another shape");
    return o;
  }
  o.place = Place::constant;
  o.at = number;
  o.fixed = c->weight.get();
  return o;
}

void PackedWeightDelete::operator()(PackedWeight* p) const { free_packed_weight(p); }

void PackedInt8Delete::operator()(PackedInt8* p) const { free_packed_int8(p); }
void SparseDelete::operator()(SparseMatrix* p) const { delete p; }

void Step::queue(const CudaNet&, CudaTurn*, const RunContext&) const {}

Constant::~Constant() {
  if (device >= 0) cuda().backend->release(device, data);
}

PlanModel::~PlanModel() {
  plans_.clear();
  for (const DeviceArena& arena : spare_) cuda().backend->release(device_, arena.memory);
}

const Constant* PlanModel::constant(int64_t number) {
  std::lock_guard<std::mutex> hold(lock_);
  return number >= 0 && number < static_cast<int64_t>(constants_.size()) ? constants_[static_cast<size_t>(number)].get() : nullptr;
}

PlanUse PlanModel::plan(int64_t number) {
  std::lock_guard<std::mutex> hold(lock_);
  return number >= 0 && number < static_cast<int64_t>(plans_.size()) ? plans_[static_cast<size_t>(number)] : PlanUse();
}

void PlanModel::forget(int64_t number) {
  std::lock_guard<std::mutex> hold(lock_);
  if (number >= 0 && number < static_cast<int64_t>(plans_.size())) plans_[static_cast<size_t>(number)] = PlanUse();
}

int64_t PlanModel::constant_bytes() {
  std::lock_guard<std::mutex> hold(lock_);
  int64_t sum = 0;
  for (const auto& c : constants_) sum += c->bytes;
  return sum;
}

int64_t PlanModel::add_constant(ConstantKind kind, const void* data, int64_t bytes, int64_t groups, int64_t k, int64_t n,
                                int64_t row, int64_t col) {
  auto c = std::make_unique<Constant>();
  c->kind = kind;
  c->groups = groups;
  c->k = k;
  c->n = n;
  int64_t each = 0;
  const int64_t tiles = kind == ConstantKind::tiles ? 4 : kind == ConstantKind::small_tiles ? 2 : 0;
  if (kind == ConstantKind::gemm || tiles) {
    const int64_t all = plan_product({groups, k, n, 4});
    if (all < 0 || all != bytes) return -1;
    // One stride is 1 and the other spans the matrix, so that every read lies inside.
    if (!(col == 1 && row == n) && !(row == 1 && col == k)) return -1;
    if (device_ >= 0) {
      if (tiles) return -1;
      c->row = row;
      c->col = col;
      c->bytes = bytes;
      return add_on_device(std::move(c), data);
    }
    if (tiles && groups != 9) return -1;
    each = gemm_packed_size(k, n);
    if (tiles) {
      c->kind = ConstantKind::gemm;
      c->groups = conv_winograd_points(tiles);
    }
    c->bytes = each * c->groups * 4;
  } else if (kind == ConstantKind::gemm_int8) {
    if (groups != 1 || plan_product({k, n}) != bytes || !((col == 1 && row == n) || (row == 1 && col == k))) return -1;
    if (device_ >= 0) return add_codes_on_device(std::move(c), static_cast<const int8_t*>(data), row, col);
    const GemmInt8Kernels& table = gemm_int8_kernels();
    c->packed.reset(new_packed_int8(table, false, k, n));
    if (!c->packed) return -1;
    fill_packed_int8(table, static_cast<const uint8_t*>(data), !(col == 1 && row == n), 0, c->packed.get());
    c->bytes = c->packed->bytes;
    c->data = nullptr;
    return keep(std::move(c));
  } else {
    c->bytes = bytes;
    if (device_ >= 0) return add_on_device(std::move(c), data);
  }
  c->memory.reset(static_cast<uint8_t*>(aligned_new(static_cast<size_t>(c->bytes))));
  if (!c->memory) return -1;
  c->data = c->memory.get();
  if (tiles) {
    const std::unique_ptr<float[]> matrix(new (std::nothrow) float[static_cast<size_t>(k * n + 1)]);
    if (!matrix) return -1;
    for (int64_t g = 0; g < c->groups; g++) {
      conv_winograd_weights(tiles, k * n, static_cast<const float*>(data), static_cast<int>(g), matrix.get());
      if (gemm_pack_b(k, n, matrix.get(), row, col, reinterpret_cast<float*>(c->data) + g * each, 0) != WHITTLE_OK) return -1;
    }
  } else if (kind == ConstantKind::gemm) {
    for (int64_t g = 0; g < groups; g++) {
      float* to = reinterpret_cast<float*>(c->data) + g * each;
      if (gemm_pack_b(k, n, static_cast<const float*>(data) + g * k * n, row, col, to, 0) != WHITTLE_OK) return -1;
    }
  } else {
    memcpy(c->data, data, static_cast<size_t>(bytes));
  }
  return keep(std::move(c));
}

int64_t PlanModel::keep(std::unique_ptr<Constant> constant) {
  std::lock_guard<std::mutex> hold(lock_);
  constants_.push_back(std::move(constant));
  return static_cast<int64_t>(constants_.size()) - 1;
}

int64_t PlanModel::add_weight(int32_t format, int64_t k, int64_t n, int64_t block, bool with_offset,
                              WhittleStatus (*fill)(void* context, PackedWeight* w), void* context) {
  if (device_ >= 0) return -1;
  auto c = std::make_unique<Constant>();
  c->kind = ConstantKind::gemm_weight;
  c->groups = 1;
  c->k = k;
  c->n = n;
  c->data = nullptr;
  c->weight.reset(new_packed_weight(gemm_weight_kernels(), format, k, n, block, with_offset));
  if (!c->weight || fill(context, c->weight.get()) != WHITTLE_OK) return -1;
  c->bytes = c->weight->bytes;
  return keep(std::move(c));
}

int64_t PlanModel::add_sparse(ConstantKind kind, const void* data, int64_t bytes, int64_t k, int64_t n, int64_t row, int64_t col,
                              const SparseLayout& layout) {
  const bool codes = kind == ConstantKind::sparse_int8;
  if (device_ >= 0 || plan_product({k, n, codes ? 1 : 4}) != bytes || !((col == 1 && row == n) || (row == 1 && col == k))) return -1;
  std::unique_ptr<uint8_t[]> turned;
  SparseBuild b = {};
  b.rows = n;
  b.cols = k;
  b.w = data;
  if (!sparse_rows(codes, data, k, n, row, col, &turned)) return -1;
  if (turned) b.w = turned.get();
  b.source_type = b.type = codes ? kSparseInt8 : kSparseF32;
  b.format = layout.format;
  b.r = layout.r;
  b.c = layout.c;
  b.n = layout.n;
  b.m = layout.m;
  b.columns = layout.columns;
  b.by_rows = true;
  auto c = std::make_unique<Constant>();
  c->kind = kind;
  c->groups = 1;
  c->k = k;
  c->n = n;
  c->data = nullptr;
  c->sparse.reset(new (std::nothrow) SparseMatrix);
  if (!c->sparse || sparse_build(b, c->sparse.get()) != WHITTLE_OK) return -1;
  c->bytes = c->sparse->bytes;
  return keep(std::move(c));
}

int64_t PlanModel::add_plan(const double* program, int64_t length, std::string* error) {
  Plan* plan = new (std::nothrow) Plan;
  if (!plan) {
    *error = "out of memory";
    return -1;
  }
  PlanUse use(plan);
  plan->device = device_;
  PlanReader reader(program, length, this, plan);
  plan->input_bytes = reader.list(1 << 16);
  plan->output_bytes = reader.list(1 << 16);
  plan->arena_bytes = reader.size();
  const int64_t steps = reader.within(0, 1 << 24);
  for (int64_t i = 0; i < steps && reader.ok(); i++) {
    const int64_t op = reader.within(0, kStepCount - 1);
    if (!reader.ok()) break;
    std::unique_ptr<Step> step(kSteps[op].make(reader));
    if (!step) reader.refuse("the step cannot be made");
    if (reader.ok() && device_ >= 0 && step->lacking()) reader.refuse((std::string("device: ") + step->lacking()).c_str());
    if (!reader.ok()) *error = "step " + std::to_string(i) + ", " + kSteps[op].name + ": " + reader.reason();
    plan->steps.push_back(std::move(step));
  }
  if (reader.ok() && !reader.done()) reader.refuse("numbers are left over");
  if (!reader.ok()) {
    if (error->empty()) *error = reader.reason();
    return -1;
  }
  std::lock_guard<std::mutex> hold(lock_);
  plans_.push_back(use);
  return static_cast<int64_t>(plans_.size()) - 1;
}

uint8_t* PlanModel::take_arena(int64_t bytes, Arena* arena) {
  {
    std::lock_guard<std::mutex> hold(lock_);
    for (size_t i = 0; i < arenas_.size(); i++) {
      if (arenas_[i].bytes < bytes) continue;
      *arena = std::move(arenas_[i]);
      arenas_.erase(arenas_.begin() + static_cast<std::ptrdiff_t>(i));
      return arena->memory.get();
    }
    // None is large enough: a small one makes room.
    if (!arenas_.empty()) arenas_.pop_back();
  }
  arena->memory.reset(static_cast<uint8_t*>(aligned_new(static_cast<size_t>(bytes))));
  arena->bytes = bytes;
  return arena->memory.get();
}

void PlanModel::give_arena(Arena arena) {
  std::lock_guard<std::mutex> hold(lock_);
  if (arenas_.size() < kSpareArenas) arenas_.push_back(std::move(arena));
}

WhittleStatus PlanModel::run(const Plan& plan, void* const* inputs, void* const* outputs, int threads,
                             const std::atomic<int32_t>* cancel, double* times) {
  if (device_ >= 0) return WHITTLE_DEVICE;
  Arena arena;
  uint8_t* memory = take_arena(plan.arena_bytes, &arena);
  if (!memory) return WHITTLE_OUT_OF_MEMORY;
  const WhittleStatus status =
      run_part(plan, inputs, outputs, threads, cancel, times, memory, 0, static_cast<int64_t>(plan.steps.size()));
  give_arena(std::move(arena));
  return status;
}

WhittleStatus PlanModel::run_part(const Plan& plan, void* const* inputs, void* const* outputs, int threads,
                                  const std::atomic<int32_t>* cancel, double* times, uint8_t* arena, int64_t from, int64_t to) {
  const RunContext context = {arena, inputs, outputs, threads};
  WhittleStatus status = WHITTLE_OK;
  for (int64_t step = from; step < to && status == WHITTLE_OK; step++) {
    const size_t i = static_cast<size_t>(step);
    if (cancel && cancel->load(std::memory_order_relaxed)) return WHITTLE_ABORTED;
    if (!times) {
      status = plan.steps[i]->run(context);
      continue;
    }
    const auto start = std::chrono::steady_clock::now();
    status = plan.steps[i]->run(context);
    times[i] = std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - start).count();
  }
  return status;
}

}  // namespace whittle
