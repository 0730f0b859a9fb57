// The CUDA backend for JavaScript: what there is, or why not.
#include <napi.h>

#include "binding/call.h"
#include "binding/families.h"
#include "core/cuda.h"

namespace whittle {
namespace {

Napi::Value cuda_info(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const CudaLoaded& loaded = cuda();
  Napi::Object out = Napi::Object::New(env);
  out.Set("state", static_cast<double>(loaded.state));
  out.Set("file", loaded.file);
  out.Set("text", loaded.text);
  out.Set("driver", loaded.driver);
  out.Set("runtime", loaded.runtime);
  out.Set("emulated", loaded.backend && loaded.backend->emulated);
  Napi::Array devices = Napi::Array::New(env);
  for (int32_t i = 0; i < loaded.devices; i++) {
    CudaDevice device = {};
    const bool known = loaded.backend && loaded.backend->describe(i, &device) == WHITTLE_OK;
    Napi::Object row = Napi::Object::New(env);
    row.Set("name", known ? device.name : "unknown");
    row.Set("major", device.major);
    row.Set("minor", device.minor);
    row.Set("multiprocessors", device.multiprocessors);
    row.Set("memory", static_cast<double>(device.memory));
    devices.Set(static_cast<uint32_t>(i), row);
  }
  out.Set("devices", devices);
  return out;
}

}  // namespace

void init_cuda(napi_env env, napi_value exports) {
  Napi::Object(env, exports).Set("cudaInfo", Napi::Function::New(env, cuda_info, "cudaInfo"));
}

}  // namespace whittle
