// Temporary memory that lies in a file; see core/paged.h.
// Runtimes without external buffers (Electron) refuse them when asked, which is an answer here.
#undef NODE_API_NO_EXTERNAL_BUFFERS_ALLOWED
#include <node_api.h>

#include "binding/call.h"
#include "binding/families.h"
#include "core/paged.h"

namespace whittle {
namespace {

void finalize(napi_env, void* data, void*) { paged_unmap(data); }

// pagedMap(fd, bytes): an ArrayBuffer, or undefined where there is no such memory.
napi_value map(napi_env env, napi_callback_info info) {
  Args args(env, info);
  int32_t fd = -1;
  double bytes = 0;
  napi_value result = nullptr;
  napi_get_undefined(env, &result);
  if (napi_get_value_int32(env, args.any_value(), &fd) != napi_ok || napi_get_value_double(env, args.any_value(), &bytes) != napi_ok) return result;
  if (fd < 0 || !(bytes >= 1) || bytes > 9e15) return result;
  void* data = paged_map(fd, static_cast<size_t>(bytes));
  if (!data) return result;
  napi_value buffer = nullptr;
  if (napi_create_external_arraybuffer(env, data, static_cast<size_t>(bytes), finalize, nullptr, &buffer) == napi_ok) return buffer;
  // Runtimes that forbid memory of others answer so.
  paged_unmap(data);
  bool pending = false;
  napi_value error = nullptr;
  if (napi_is_exception_pending(env, &pending) == napi_ok && pending) napi_get_and_clear_last_exception(env, &error);
  return result;
}

napi_value release(napi_env, napi_callback_info) {
  paged_release();
  paged_trim();
  return nullptr;
}

}  // namespace

void init_paged(napi_env env, napi_value exports) {
  export_function(env, exports, "pagedMap", map);
  export_function(env, exports, "pagedRelease", release);
}

}  // namespace whittle
