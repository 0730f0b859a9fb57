// Tensors in a GPU's memory. What a handle holds says where and what, so that a token opens it in another thread.
#include "binding/device.h"

#include <stdio.h>

#include <mutex>
#include <new>

#include "binding/families.h"

namespace whittle {
namespace {

std::mutex words_lock;
char words[256] = "";

void destroy(void* object) {
  DeviceTensor* t = static_cast<DeviceTensor*>(object);
  cuda().backend->release(t->device, t->memory);
  delete t;
}

napi_value status_value(napi_env env, WhittleStatus status) {
  napi_value v = nullptr;
  napi_create_int32(env, status, &v);
  return v;
}

// deviceNew(device, type, bytes, rank, dims: Float64Array) → a handle, or the status where it cannot be had. Not initialized.
napi_value device_new(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int32_t device = args.small(), type = args.small();
  const int64_t bytes = args.integer();
  const int32_t rank = args.small();
  const double* dims = args.array<double>(rank);
  if (!args.ok() || rank < 0 || rank > kMostDims || bytes < 0) return status_value(env, WHITTLE_DTYPE);
  const CudaBackend* backend = cuda().backend;
  if (!backend) return status_value(env, WHITTLE_DEVICE);
  DeviceTensor* t = new (std::nothrow) DeviceTensor{device, type, rank, {}, bytes, nullptr};
  if (!t) return status_value(env, WHITTLE_OUT_OF_MEMORY);
  for (int i = 0; i < rank; i++) t->dims[i] = static_cast<int64_t>(dims[i]);
  const WhittleStatus status = remember_device_error(backend->allocate(device, bytes, &t->memory));
  if (status != WHITTLE_OK) {
    delete t;
    return status_value(env, status);
  }
  HandleEntry* entry = handle_create(HandleKind::device_tensor, t, bytes, destroy);
  if (!entry) {
    destroy(t);
    return status_value(env, WHITTLE_OUT_OF_MEMORY);
  }
  napi_value object = handle_object(env, entry);
  return object ? object : status_value(env, WHITTLE_OUT_OF_MEMORY);
}

// deviceInfo(handle) → [device, type, ...dims], or undefined.
napi_value device_info(napi_env env, napi_callback_info info) {
  Args args(env, info);
  napi_value out = nullptr;
  const HandleEntry* entry = handle_of(env, args.any_value(), HandleKind::device_tensor);
  if (!entry) {
    napi_get_undefined(env, &out);
    return out;
  }
  const DeviceTensor* t = static_cast<const DeviceTensor*>(entry->object);
  napi_create_array_with_length(env, static_cast<size_t>(t->rank) + 2, &out);
  for (int i = 0; i < t->rank + 2; i++) {
    napi_value v = nullptr;
    napi_create_int64(env, i == 0 ? t->device : i == 1 ? t->type : t->dims[i - 2], &v);
    napi_set_element(env, out, static_cast<uint32_t>(i), v);
  }
  return out;
}

// deviceUpload(handle, view) and deviceDownload(handle, view); the view has the tensor's bytes.
template <bool kUp>
struct Copy {
  HandleUse handle;
  void* view;
  bool parse(Args& args) {
    if (!handle.read(args, HandleKind::device_tensor) || !handle.object()) return false;
    view = args.bytes(static_cast<const DeviceTensor*>(handle.object())->bytes);
    return args.ok();
  }
  WhittleStatus run() {
    const DeviceTensor* t = static_cast<const DeviceTensor*>(handle.object());
    const CudaBackend* backend = cuda().backend;
    return remember_device_error(kUp ? backend->upload(t->device, t->memory, view, t->bytes)
                                     : backend->download(t->device, view, t->memory, t->bytes));
  }
};

// deviceError() → the words for the last ERR_DEVICE.
napi_value device_error(napi_env env, napi_callback_info) {
  napi_value v = nullptr;
  const std::lock_guard<std::mutex> lock(words_lock);
  napi_create_string_utf8(env, words, NAPI_AUTO_LENGTH, &v);
  return v;
}

}  // namespace

WhittleStatus remember_device_error(WhittleStatus status) {
  if (status != WHITTLE_DEVICE) return status;
  const std::lock_guard<std::mutex> lock(words_lock);
  snprintf(words, sizeof words, "%s", cuda().backend->error());
  return status;
}

void init_device(napi_env env, napi_value exports) {
  export_function(env, exports, "deviceNew", device_new);
  export_function(env, exports, "deviceInfo", device_info);
  export_function(env, exports, "deviceError", device_error);
  expose<Copy<true>>(env, exports, "deviceUpload", "deviceUploadAsync");
  expose<Copy<false>>(env, exports, "deviceDownload", "deviceDownloadAsync");
}

}  // namespace whittle
