// From a JavaScript call to a plain struct and back: every kernel is exposed as `name` (synchronous, answers a status)
// and `nameAsync` (answers a promise of a status, runs on our dispatcher threads).
//
// A binding defines a struct with
//   bool parse(Args& args);   // reads the arguments into plain fields; no policy, lib/ has validated already
//   WhittleStatus run();      // touches no N-API
// Results go into typed arrays that JavaScript allocated, never into new ones.
#pragma once
#include <node_api.h>
#include <stdint.h>

#include "core/status.h"

namespace whittle {

constexpr int kMaxArgs = 40;

// Numbers of a call that lib/ writes into memory that both sides know (`numbers` of the addon's exports), where reading
// them as arguments would cost more than a small kernel. Valid while parse runs: nothing else may fill them before the
// call returns.
constexpr int kCallNumbers = 64;

template <class T>
struct ElementType;
template <> struct ElementType<float> { static constexpr napi_typedarray_type value = napi_float32_array; };
template <> struct ElementType<double> { static constexpr napi_typedarray_type value = napi_float64_array; };
template <> struct ElementType<int8_t> { static constexpr napi_typedarray_type value = napi_int8_array; };
template <> struct ElementType<uint8_t> { static constexpr napi_typedarray_type value = napi_uint8_array; };
template <> struct ElementType<int16_t> { static constexpr napi_typedarray_type value = napi_int16_array; };
template <> struct ElementType<uint16_t> { static constexpr napi_typedarray_type value = napi_uint16_array; };
template <> struct ElementType<int32_t> { static constexpr napi_typedarray_type value = napi_int32_array; };
template <> struct ElementType<uint32_t> { static constexpr napi_typedarray_type value = napi_uint32_array; };
template <> struct ElementType<int64_t> { static constexpr napi_typedarray_type value = napi_bigint64_array; };

// Bytes of an element of a typed array.
int64_t typed_element_size(napi_typedarray_type type);

// Reads arguments in order; the first mismatch clears ok() and every later read answers zero.
class Args {
 public:
  Args(napi_env env, napi_callback_info info) : env_(env) {
    count_ = kMaxArgs;
    if (napi_get_cb_info(env, info, &count_, values_, nullptr, &data_) != napi_ok) ok_ = false;
    if (count_ > kMaxArgs) ok_ = false;
  }

  bool ok() const { return ok_; }
  napi_env env() const { return env_; }
  size_t count() const { return count_; }
  napi_value value(size_t i) const { return values_[i]; }
  // kCallNumbers numbers; only for functions made by expose or export_function.
  const double* numbers() const { return static_cast<const double*>(data_); }

  // A typed array of T with at least `least` elements. A Uint8Array also reads a Uint8ClampedArray.
  template <class T>
  T* array(int64_t least) {
    return static_cast<T*>(any(ElementType<T>::value, least, false));
  }
  // The same, or null for null and undefined.
  template <class T>
  T* optional(int64_t least) {
    return static_cast<T*>(any(ElementType<T>::value, least, true));
  }
  // The same where `present` says so, else null without a look at the argument.
  template <class T>
  T* array_if(bool present, int64_t least) {
    if (present) return array<T>(least);
    take();
    return nullptr;
  }
  // Any typed array or DataView-free buffer of at least `least` bytes.
  void* bytes(int64_t least, bool optional = false) { return any(kAnyType, least, optional); }

  double number() {
    double v = 0;
    if (!take() || napi_get_value_double(env_, values_[at_ - 1], &v) != napi_ok) ok_ = false;
    return ok_ ? v : 0;
  }
  int64_t integer() {
    int64_t v = 0;
    if (!take() || napi_get_value_int64(env_, values_[at_ - 1], &v) != napi_ok) ok_ = false;
    return ok_ ? v : 0;
  }
  int32_t small() { return static_cast<int32_t>(integer()); }
  bool flag() {
    bool v = false;
    if (!take() || napi_get_value_bool(env_, values_[at_ - 1], &v) != napi_ok) ok_ = false;
    return ok_ && v;
  }
  // The next argument as it is.
  napi_value any_value() { return take() ? values_[at_ - 1] : nullptr; }
  void refuse() { ok_ = false; }

 private:
  static constexpr int kAnyType = -1;

  bool take() {
    if (!ok_ || at_ >= count_) return ok_ = false;
    at_++;
    return true;
  }

  void* any(int type, int64_t least, bool optional);

  napi_env env_;
  size_t count_, at_ = 0;
  napi_value values_[kMaxArgs];
  void* data_ = nullptr;
  bool ok_ = true;
};

// One asynchronous call. Owned by exactly one side at a time: JavaScript thread, dispatcher, JavaScript thread.
struct Job {
  virtual ~Job() = default;
  virtual WhittleStatus execute() = 0;
  WhittleStatus status = WHITTLE_OK;
  napi_deferred deferred = nullptr;
  napi_ref held[kMaxArgs];
  int held_count = 0;
  struct EnvState* env_state = nullptr;
};

// Per-environment state: `numbers`, and asynchronous calls, whose running jobs it waits for when the environment ends,
// since their memory ends with it. Before any export_function.
bool init_async(napi_env env, napi_value exports);
// Takes the job, keeps every object argument alive until it is done, and answers the promise (or null with a pending
// exception).
napi_value submit(Args& args, Job* job);

void export_function(napi_env env, napi_value exports, const char* name, napi_callback fn);

template <class Call>
napi_value call_sync(napi_env env, napi_callback_info info) {
  Args args(env, info);
  Call call{};
  WhittleStatus status = call.parse(args) && args.ok() ? call.run() : WHITTLE_DTYPE;
  napi_value result = nullptr;
  napi_create_int32(env, status, &result);
  return result;
}

template <class Call>
napi_value call_async(napi_env env, napi_callback_info info) {
  struct Wrapped final : Job {
    Call call{};
    WhittleStatus execute() override { return call.run(); }
  };
  Args args(env, info);
  Wrapped* job = new Wrapped;
  job->status = job->call.parse(args) && args.ok() ? WHITTLE_OK : WHITTLE_DTYPE;
  return submit(args, job);
}

template <class Call>
void expose(napi_env env, napi_value exports, const char* name, const char* name_async) {
  export_function(env, exports, name, call_sync<Call>);
  export_function(env, exports, name_async, call_async<Call>);
}

}  // namespace whittle
