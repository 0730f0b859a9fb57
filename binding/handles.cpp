#include "binding/handles.h"

#include <string.h>

#include <mutex>
#include <new>
#include <unordered_set>

#include "binding/families.h"

namespace whittle {
namespace {

struct Reference {
  HandleEntry* entry;  // null once disposed
};

// Tells our externals from another addon's, without a look behind a pointer that may be no Reference.
struct Known {
  std::mutex mutex;
  std::unordered_set<const void*> references;
};
// Never freed: finalizers may run after static destructors.
Known& known() {
  static Known* all = new Known;
  return *all;
}

void drop(napi_env env, Reference* reference) {
  if (!reference->entry) return;
  int64_t total = 0;
  napi_adjust_external_memory(env, -reference->entry->bytes, &total);
  handle_release(reference->entry);
  reference->entry = nullptr;
}

void finalize(napi_env env, void* data, void*) {
  Reference* reference = static_cast<Reference*>(data);
  drop(env, reference);
  {
    std::lock_guard<std::mutex> lock(known().mutex);
    known().references.erase(reference);
  }
  delete reference;
}

// lib/ passes objects that it has checked with handleInfo. An external is read in a tenth of the time of a wrapped object.
Reference* reference_of(napi_env env, napi_value value) {
  void* data = nullptr;
  if (!value || napi_get_value_external(env, value, &data) != napi_ok) return nullptr;
  return static_cast<Reference*>(data);
}

bool is_ours(const Reference* reference) {
  std::lock_guard<std::mutex> lock(known().mutex);
  return reference && known().references.count(reference) != 0;
}

napi_value undefined(napi_env env) {
  napi_value v = nullptr;
  napi_get_undefined(env, &v);
  return v;
}

// handleInfo(object) → [kind, id, process, bytes], or undefined for anything that is not a live handle.
napi_value handle_info(napi_env env, napi_callback_info info) {
  Args args(env, info);
  Reference* reference = reference_of(env, args.any_value());
  if (!is_ours(reference) || !reference->entry) return undefined(env);
  napi_value out, v;
  napi_create_array_with_length(env, 4, &out);
  napi_create_int32(env, static_cast<int32_t>(reference->entry->kind), &v);
  napi_set_element(env, out, 0, v);
  napi_create_int64(env, static_cast<int64_t>(reference->entry->id), &v);
  napi_set_element(env, out, 1, v);
  napi_create_string_utf8(env, handle_process(), NAPI_AUTO_LENGTH, &v);
  napi_set_element(env, out, 2, v);
  napi_create_int64(env, reference->entry->bytes, &v);
  napi_set_element(env, out, 3, v);
  return out;
}

// handleAdopt(kind, id, process) → object, or undefined for a stale or foreign token.
napi_value handle_adopt(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int32_t kind = args.small();
  const int64_t id = args.integer();
  char process[40] = {0};
  size_t length = 0;
  napi_value text = args.any_value();
  if (!args.ok() || napi_get_value_string_utf8(env, text, process, sizeof process, &length) != napi_ok) return undefined(env);
  if (strcmp(process, handle_process()) != 0) return undefined(env);
  HandleEntry* entry = handle_find(static_cast<uint64_t>(id), static_cast<HandleKind>(kind));
  if (!entry) return undefined(env);
  napi_value object = handle_object(env, entry);
  return object ? object : undefined(env);
}

napi_value handle_dispose(napi_env env, napi_callback_info info) {
  Args args(env, info);
  Reference* reference = reference_of(env, args.any_value());
  if (reference) drop(env, reference);
  return undefined(env);
}

napi_value handle_live(napi_env env, napi_callback_info) {
  napi_value v;
  napi_create_int64(env, handle_count(), &v);
  return v;
}

// What V8 counts outside its heap; process.memoryUsage() shows only the part in ArrayBuffers.
napi_value handle_external(napi_env env, napi_callback_info) {
  int64_t total = 0;
  napi_adjust_external_memory(env, 0, &total);
  napi_value v;
  napi_create_int64(env, total, &v);
  return v;
}

}  // namespace

napi_value handle_object(napi_env env, HandleEntry* entry) {
  Reference* reference = new (std::nothrow) Reference{entry};
  napi_value object = nullptr;
  if (reference) {
    std::lock_guard<std::mutex> lock(known().mutex);
    known().references.insert(reference);
  }
  if (reference && napi_create_external(env, reference, finalize, nullptr, &object) == napi_ok) {
    int64_t total = 0;
    napi_adjust_external_memory(env, entry->bytes, &total);
    return object;
  }
  if (reference) {
    std::lock_guard<std::mutex> lock(known().mutex);
    known().references.erase(reference);
    delete reference;
  }
  handle_release(entry);
  return nullptr;
}

HandleEntry* handle_of(napi_env env, napi_value value, HandleKind kind) {
  Reference* reference = reference_of(env, value);
  return reference && reference->entry && reference->entry->kind == kind ? reference->entry : nullptr;
}

bool HandleUse::read(Args& args, HandleKind kind) {
  return take(args.env(), args.any_value(), kind);
}

bool HandleUse::take(napi_env env, napi_value value, HandleKind kind) {
  napi_valuetype type;
  if (!value || napi_typeof(env, value, &type) != napi_ok) return false;
  if (type == napi_null || type == napi_undefined) return true;
  HandleEntry* entry = handle_of(env, value, kind);
  if (!entry) return false;
  handle_retain(entry);
  entry_ = entry;
  return true;
}

void init_handles(napi_env env, napi_value exports) {
  export_function(env, exports, "handleInfo", handle_info);
  export_function(env, exports, "handleAdopt", handle_adopt);
  export_function(env, exports, "handleDispose", handle_dispose);
  export_function(env, exports, "handleCount", handle_live);
  export_function(env, exports, "handleExternalMemory", handle_external);
}

}  // namespace whittle
