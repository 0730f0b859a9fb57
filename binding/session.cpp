// Models ready to run: constants and plans are added from JavaScript, runs happen on any thread.
#include <atomic>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "binding/call.h"
#include "binding/device.h"
#include "binding/families.h"
#include "binding/gemm_weight.h"
#include "binding/handles.h"
#include "core/cuda.h"
#include "core/plan/plan.h"
#include "core/sparse_weights.h"

namespace whittle {
namespace {

napi_value strings(napi_env env, const std::vector<const char*>& names) {
  napi_value out = nullptr, v;
  napi_create_array_with_length(env, names.size(), &out);
  for (uint32_t i = 0; i < names.size(); i++) {
    napi_create_string_utf8(env, names[i], NAPI_AUTO_LENGTH, &v);
    napi_set_element(env, out, i, v);
  }
  return out;
}

// sessionNames() → [steps, elementwise operations, typed operations], in the order of their numbers.
napi_value names(napi_env env, napi_callback_info) {
  napi_value out = nullptr;
  napi_create_array_with_length(env, 3, &out);
  napi_set_element(env, out, 0, strings(env, plan_steps()));
  napi_set_element(env, out, 1, strings(env, plan_elementwise()));
  napi_set_element(env, out, 2, strings(env, plan_typed()));
  return out;
}

// sessionNew(bytes, device) → a handle; `bytes` is what the constants will take, as V8 is to count it; device: a GPU's number, or -1.
napi_value session_new(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int64_t bytes = args.integer();
  const int32_t device = args.small();
  napi_value none = nullptr;
  napi_get_undefined(env, &none);
  if (device >= 0 && (cuda().state != kCudaReady || device >= cuda().devices)) return none;
  PlanModel* model = args.ok() ? new (std::nothrow) PlanModel(device) : nullptr;
  if (!model) return none;
  HandleEntry* entry = handle_create(HandleKind::session, model, bytes, [](void* p) { delete static_cast<PlanModel*>(p); });
  if (!entry) {
    delete model;
    return none;
  }
  napi_value object = handle_object(env, entry);
  return object ? object : none;
}

// Argument `at`, which is the next one: a typed array and its bytes.
const void* data_of(napi_env env, Args& args, size_t at, int64_t* bytes) {
  const void* data = args.bytes(0);
  size_t length = 0;
  napi_typedarray_type type;
  if (args.ok() && napi_get_typedarray_info(env, args.value(at), &type, &length, nullptr, nullptr, nullptr) == napi_ok)
    *bytes = static_cast<int64_t>(length) * typed_element_size(type);
  return data;
}

// The number that `add` answers for the session of the first argument and the arguments behind it; -1 if it cannot be had, -2 if
// the device failed.
template <class Add>
napi_value constant_number(napi_env env, napi_callback_info info, const Add& add) {
  Args args(env, info);
  HandleUse use;
  int64_t number = -1;
  if (use.read(args, HandleKind::session) && use.object()) number = add(args, static_cast<PlanModel*>(use.object()));
  if (number == -2) remember_device_error(WHITTLE_DEVICE);
  napi_value v = nullptr;
  napi_create_int64(env, number, &v);
  return v;
}

// sessionConstant(handle, kind, data, groups, k, n, row, col) → its number, -1 if it cannot be had
napi_value session_constant(napi_env env, napi_callback_info info) {
  return constant_number(env, info, [env](Args& args, PlanModel* model) -> int64_t {
    const auto kind = static_cast<ConstantKind>(args.small());
    int64_t bytes = 0;
    const void* data = data_of(env, args, 2, &bytes);
    const int64_t groups = args.integer(), k = args.integer(), n = args.integer(), row = args.integer(), col = args.integer();
    return args.ok() ? model->add_constant(kind, data, bytes, groups, k, n, row, col) : -1;
  });
}

// sessionWeight(handle, k, n, block, withOffset, numbers, codes, scales, zeros) → its number, -1 if it cannot be had
napi_value session_weight(napi_env env, napi_callback_info info) {
  return constant_number(env, info, [](Args& args, PlanModel* model) -> int64_t {
    const int64_t k = args.integer(), n = args.integer(), block = args.integer();
    const bool with_offset = args.flag();
    const double* p = args.array<double>(kWeightParams);
    WeightSource source = {};
    if (!args.ok() || k < 0 || n < 0 || block <= 0 || (weight_format(p) != kWeightInt4 && weight_format(p) != kWeightInt8) ||
        !read_weight_source(args, p, weight_format(p), k, n, k == 0 ? 0 : (k + block - 1) / block, &source))
      return -1;
    return model->add_weight(
        weight_format(p), k, n, block, with_offset,
        [](void* from, PackedWeight* w) { return fill_packed_weight(*static_cast<WeightSource*>(from), 0, w); }, &source);
  });
}

// sessionSparse(handle, kind, data, k, n, row, col, format, r, c, n of m, m, columns) → its number, -1 if it cannot be had
napi_value session_sparse(napi_env env, napi_callback_info info) {
  return constant_number(env, info, [env](Args& args, PlanModel* model) -> int64_t {
    const auto kind = static_cast<ConstantKind>(args.small());
    int64_t bytes = 0;
    const void* data = data_of(env, args, 2, &bytes);
    const int64_t k = args.integer(), n = args.integer(), row = args.integer(), col = args.integer();
    SparseLayout layout = {};
    for (int32_t* v : {&layout.format, &layout.r, &layout.c, &layout.n, &layout.m}) *v = args.small();
    layout.columns = args.integer();
    const bool known = kind == ConstantKind::sparse || kind == ConstantKind::sparse_int8;
    return args.ok() && known ? model->add_sparse(kind, data, bytes, k, n, row, col, layout) : -1;
  });
}

// sessionCensus(data, k, n, row, col) → [non-zeros, blocks of each of kSparseShapes, 1 for each of kSparsePatterns that holds] of
// float32 or int8 weights; empty if it cannot be had.
napi_value session_census(napi_env env, napi_callback_info info) {
  Args args(env, info);
  int64_t bytes = 0;
  const void* data = data_of(env, args, 0, &bytes);
  SparseBuild b = {};
  b.cols = args.integer();
  b.rows = args.integer();
  const int64_t row = args.integer(), col = args.integer();
  std::vector<int64_t> numbers;
  const bool codes = bytes == b.rows * b.cols;
  const bool fits = (codes || bytes == b.rows * b.cols * 4) && ((col == 1 && row == b.rows) || (row == 1 && col == b.cols));
  std::unique_ptr<uint8_t[]> turned;
  if (args.ok() && fits && sparse_rows(codes, data, b.cols, b.rows, row, col, &turned)) {
    b.w = turned ? turned.get() : data;
    b.source_type = b.type = codes ? kSparseInt8 : kSparseF32;
    const SparseCensus census = sparse_census({b, {}}, codes);
    numbers.push_back(census.nnz);
    for (int64_t blocks : census.blocks) numbers.push_back(blocks);
    for (bool pattern : census.pattern) numbers.push_back(pattern);
  }
  napi_value out = nullptr, v;
  napi_create_array_with_length(env, numbers.size(), &out);
  for (uint32_t i = 0; i < numbers.size(); i++) {
    napi_create_int64(env, numbers[i], &v);
    napi_set_element(env, out, i, v);
  }
  return out;
}

// sessionPlan(handle, program, length) → its number, or why not
napi_value session_plan(napi_env env, napi_callback_info info) {
  Args args(env, info);
  HandleUse use;
  std::string error = "not a session";
  int64_t number = -1;
  if (use.read(args, HandleKind::session) && use.object()) {
    const int64_t length = args.integer();
    const double* program = args.array<double>(length);
    error.clear();
    if (args.ok()) number = static_cast<PlanModel*>(use.object())->add_plan(program, length, &error);
    if (number < 0 && error.find(kDeviceFailed) != std::string::npos) remember_device_error(WHITTLE_DEVICE);
  }
  napi_value v = nullptr;
  if (number >= 0) napi_create_int64(env, number, &v);
  else napi_create_string_utf8(env, error.c_str(), NAPI_AUTO_LENGTH, &v);
  return v;
}

// sessionRun(handle, plan, inputs, outputs, threads, times, cancel, arena, from, to); inputs and outputs are arrays of typed
// arrays, or of handles of tensors on the session's device. With an arena (see sessionArena) only the steps [from, to) run.
struct RunCall {
  HandleUse use;
  PlanUse plan;
  std::vector<void*> inputs, outputs;
  std::vector<PlanBuffer> buffers;  // inputs, then outputs, on a device
  std::vector<std::unique_ptr<HandleUse>> tensors;
  int32_t threads;
  double* times;
  int32_t* cancel;
  uint8_t* arena;
  int64_t from, to;

  // Typed arrays, or on a device tensors that lie there.
  bool pointers(Args& args, int32_t device, const std::vector<int64_t>& bytes, std::vector<void*>* out) {
    const napi_env env = args.env();
    const napi_value list = args.any_value();
    static char empty;
    for (uint32_t i = 0; list && i < bytes.size(); i++) {
      napi_value v;
      napi_typedarray_type type;
      size_t length = 0;
      void* data = nullptr;
      bool typed = false;
      if (napi_get_element(env, list, i, &v) != napi_ok) return false;
      const HandleEntry* entry = device >= 0 ? handle_of(env, v, HandleKind::device_tensor) : nullptr;
      if (entry) {
        const DeviceTensor* t = static_cast<const DeviceTensor*>(entry->object);
        tensors.push_back(std::make_unique<HandleUse>());
        if (!tensors.back()->take(env, v, HandleKind::device_tensor) || t->device != device || t->bytes != bytes[i]) return false;
        out->push_back(t->memory);
        buffers.push_back({t->memory, true});
        continue;
      }
      if (napi_is_typedarray(env, v, &typed) != napi_ok || !typed ||
          napi_get_typedarray_info(env, v, &type, &length, &data, nullptr, nullptr) != napi_ok ||
          static_cast<int64_t>(length) * typed_element_size(type) != bytes[i])
        return false;
      out->push_back(data ? data : &empty);
      buffers.push_back({out->back(), false});
    }
    return list != nullptr;
  }

  bool parse(Args& args) {
    if (!use.read(args, HandleKind::session) || !use.object()) return false;
    PlanModel* const model = static_cast<PlanModel*>(use.object());
    plan = model->plan(args.integer());
    if (!plan || !pointers(args, model->device(), plan->input_bytes, &inputs) || !pointers(args, model->device(), plan->output_bytes, &outputs)) return false;
    threads = args.small();
    times = args.optional<double>(static_cast<int64_t>(plan->steps.size()));
    cancel = args.optional<int32_t>(1);
    arena = args.optional<uint8_t>(plan->arena_bytes);
    from = args.integer();
    to = args.integer();
    const bool aligned = reinterpret_cast<uintptr_t>(arena) % 64 == 0;
    return args.ok() && aligned && from >= 0 && from <= to && to <= static_cast<int64_t>(plan->steps.size());
  }
  WhittleStatus run() {
    static_assert(sizeof(std::atomic<int32_t>) == sizeof(int32_t), "a flag in JavaScript's memory");
    PlanModel* model = static_cast<PlanModel*>(use.object());
    const auto* flag = reinterpret_cast<const std::atomic<int32_t>*>(cancel);
    if (model->device() >= 0)
      return arena ? WHITTLE_DEVICE : remember_device_error(model->run_on_device(*plan, buffers.data(), buffers.data() + inputs.size(), flag, times));
    if (arena) return model->run_part(*plan, inputs.data(), outputs.data(), threads, flag, times, arena, from, to);
    return model->run(*plan, inputs.data(), outputs.data(), threads, flag, times);
  }
};

// sessionArena(bytes of an ArrayBuffer) → how many of them lie before the first that is 64-byte aligned
napi_value session_arena(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const auto at = reinterpret_cast<uintptr_t>(args.bytes(1));
  napi_value v = nullptr;
  napi_create_int64(env, static_cast<int64_t>((64 - at % 64) % 64), &v);
  return v;
}

// sessionForget(handle, plan): runs of it that are under way end first
napi_value session_forget(napi_env env, napi_callback_info info) {
  Args args(env, info);
  HandleUse use;
  if (use.read(args, HandleKind::session) && use.object()) static_cast<PlanModel*>(use.object())->forget(args.integer());
  napi_value none = nullptr;
  napi_get_undefined(env, &none);
  return none;
}

// sessionReplays(handle) → runs that were one recorded call
napi_value session_replays(napi_env env, napi_callback_info info) {
  Args args(env, info);
  HandleUse use;
  napi_value v = nullptr;
  const bool ok = use.read(args, HandleKind::session) && use.object();
  napi_create_int64(env, ok ? static_cast<PlanModel*>(use.object())->replays() : 0, &v);
  return v;
}

// sessionBytes(handle) → bytes of constants as they lie in memory
napi_value session_bytes(napi_env env, napi_callback_info info) {
  Args args(env, info);
  HandleUse use;
  napi_value v = nullptr;
  const bool ok = use.read(args, HandleKind::session) && use.object();
  napi_create_int64(env, ok ? static_cast<PlanModel*>(use.object())->constant_bytes() : 0, &v);
  return v;
}

}  // namespace

void init_session(napi_env env, napi_value exports) {
  export_function(env, exports, "sessionNames", names);
  export_function(env, exports, "sessionNew", session_new);
  export_function(env, exports, "sessionConstant", session_constant);
  export_function(env, exports, "sessionWeight", session_weight);
  export_function(env, exports, "sessionSparse", session_sparse);
  export_function(env, exports, "sessionCensus", session_census);
  export_function(env, exports, "sessionPlan", session_plan);
  export_function(env, exports, "sessionArena", session_arena);
  export_function(env, exports, "sessionForget", session_forget);
  export_function(env, exports, "sessionBytes", session_bytes);
  export_function(env, exports, "sessionReplays", session_replays);
  expose<RunCall>(env, exports, "sessionRun", "sessionRunAsync");
}

}  // namespace whittle
