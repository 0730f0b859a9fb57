#include "binding/call.h"

#include <condition_variable>
#include <mutex>

#include "core/threads.h"

namespace whittle {

struct EnvState {
  napi_threadsafe_function done = nullptr;
  std::mutex mutex;
  std::condition_variable idle;
  int queued = 0;   // handed to the dispatcher, not yet finished with
  bool closing = false;
  int pending = 0;  // JavaScript thread only: promises not yet settled
  double* numbers = nullptr;
};

int64_t typed_element_size(napi_typedarray_type type) {
  switch (type) {
    case napi_int8_array:
    case napi_uint8_array:
    case napi_uint8_clamped_array:
      return 1;
    case napi_int16_array:
    case napi_uint16_array:
      return 2;
    case napi_int32_array:
    case napi_uint32_array:
    case napi_float32_array:
      return 4;
    default:
      return 8;
  }
}

namespace {

// Back on the JavaScript thread. `env` is null when the environment is going away: then only memory is freed.
void settle(napi_env env, napi_value, void*, void* data) {
  Job* job = static_cast<Job*>(data);
  if (env) {
    EnvState* state = job->env_state;
    for (int i = 0; i < job->held_count; i++) napi_delete_reference(env, job->held[i]);
    napi_value status = nullptr;
    if (napi_create_int32(env, job->status, &status) == napi_ok) napi_resolve_deferred(env, job->deferred, status);
    if (--state->pending == 0) napi_unref_threadsafe_function(env, state->done);
  }
  delete job;
}

void run_job(void* context) {
  Job* job = static_cast<Job*>(context);
  EnvState* state = job->env_state;
  bool closing;
  {
    std::lock_guard<std::mutex> lock(state->mutex);
    closing = state->closing;
  }
  if (!closing) {
    if (job->status == WHITTLE_OK) job->status = job->execute();
    // A refused call means that the environment is closing and has dropped our hold on the function already.
    if (napi_call_threadsafe_function(state->done, job, napi_tsfn_nonblocking) == napi_ok)
      napi_release_threadsafe_function(state->done, napi_tsfn_release);
    else
      delete job;
  } else {
    napi_release_threadsafe_function(state->done, napi_tsfn_release);
    delete job;
  }
  std::lock_guard<std::mutex> lock(state->mutex);
  if (--state->queued == 0) state->idle.notify_all();
}

// Runs before the environment frees its ArrayBuffers. Leaks the state on purpose: a dispatcher may still be leaving
// run_job when the wait ends.
void close_env(void* data) {
  EnvState* state = static_cast<EnvState*>(data);
  std::unique_lock<std::mutex> lock(state->mutex);
  state->closing = true;
  state->idle.wait(lock, [&] { return state->queued == 0; });
}

}  // namespace

void* Args::any(int type, int64_t least, bool optional) {
  if (!take()) return nullptr;
  napi_value v = values_[at_ - 1];
  napi_typedarray_type got;
  size_t length = 0;
  void* data = nullptr;
  // Refuses what is no typed array.
  if (napi_get_typedarray_info(env_, v, &got, &length, &data, nullptr, nullptr) != napi_ok) {
    napi_valuetype t;
    ok_ = optional && napi_typeof(env_, v, &t) == napi_ok && (t == napi_null || t == napi_undefined);
    return nullptr;
  }
  const bool fits =
      type == kAnyType
          ? static_cast<int64_t>(length) * typed_element_size(got) >= least
          : (got == type || (type == napi_uint8_array && got == napi_uint8_clamped_array)) &&
                static_cast<int64_t>(length) >= least;
  if (!fits) {
    ok_ = false;
    return nullptr;
  }
  // An empty array may have a null pointer, which optional() uses for "absent".
  static char empty;
  return data ? data : &empty;
}

static EnvState* env_state(napi_env env) {
  void* data = nullptr;
  napi_get_instance_data(env, &data);
  return static_cast<EnvState*>(data);
}

bool init_async(napi_env env, napi_value exports) {
  EnvState* state = new EnvState;
  napi_value buffer, numbers;
  napi_ref kept;
  if (napi_create_arraybuffer(env, kCallNumbers * sizeof(double), reinterpret_cast<void**>(&state->numbers), &buffer) != napi_ok ||
      napi_create_typedarray(env, napi_float64_array, kCallNumbers, buffer, 0, &numbers) != napi_ok ||
      napi_create_reference(env, numbers, 1, &kept) != napi_ok ||
      napi_set_named_property(env, exports, "numbers", numbers) != napi_ok) {
    delete state;
    return false;
  }
  napi_value name;
  if (napi_create_string_utf8(env, "whittle", NAPI_AUTO_LENGTH, &name) != napi_ok ||
      napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, 1, nullptr, nullptr, nullptr, settle,
                                      &state->done) != napi_ok) {
    delete state;
    return false;
  }
  napi_unref_threadsafe_function(env, state->done);
  napi_set_instance_data(env, state, nullptr, nullptr);
  // Hooks run newest first: ours goes before the thread-safe function's own.
  return napi_add_env_cleanup_hook(env, close_env, state) == napi_ok;
}

napi_value submit(Args& args, Job* job) {
  const napi_env env = args.env();
  EnvState* state = env_state(env);
  napi_value promise = nullptr;
  if (!state || napi_create_promise(env, &job->deferred, &promise) != napi_ok) {
    delete job;
    return nullptr;
  }
  job->env_state = state;
  for (size_t i = 0; i < args.count(); i++) {
    napi_valuetype type;
    if (napi_typeof(env, args.value(i), &type) != napi_ok || type != napi_object) continue;
    if (napi_create_reference(env, args.value(i), 1, &job->held[job->held_count]) == napi_ok) job->held_count++;
  }
  if (state->pending++ == 0) napi_ref_threadsafe_function(env, state->done);
  napi_acquire_threadsafe_function(state->done);
  {
    std::lock_guard<std::mutex> lock(state->mutex);
    state->queued++;
  }
  if (!dispatch(run_job, job)) {
    // No thread to be had: settle through the same path, without running.
    job->status = WHITTLE_OUT_OF_MEMORY;
    run_job(job);
  }
  return promise;
}

void export_function(napi_env env, napi_value exports, const char* name, napi_callback fn) {
  napi_value f;
  if (napi_create_function(env, name, NAPI_AUTO_LENGTH, fn, env_state(env)->numbers, &f) == napi_ok)
    napi_set_named_property(env, exports, name, f);
}

}  // namespace whittle
