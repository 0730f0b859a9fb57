// A handle as JavaScript holds it: an object that wraps one reference. Dropped by dispose, by the garbage collector or when
// the environment ends; what it holds counts towards V8's external memory meanwhile.
#pragma once
#include <node_api.h>

#include "binding/call.h"
#include "core/handles.h"

namespace whittle {

// Takes over one reference of `entry` (released if the object cannot be made). Null with no exception pending on failure.
napi_value handle_object(napi_env env, HandleEntry* entry);

// The live entry behind `value`, or null if it is none of ours, disposed, or of another kind. Not retained.
HandleEntry* handle_of(napi_env env, napi_value value, HandleKind kind);

// A call that reads a handle keeps it alive until the call is done, also when it is disposed of in flight.
class HandleUse {
 public:
  HandleUse() = default;
  HandleUse(const HandleUse&) = delete;
  HandleUse& operator=(const HandleUse&) = delete;
  ~HandleUse() {
    if (entry_) handle_release(entry_);
  }
  // False if the next argument is neither null nor a live handle of `kind`.
  bool read(Args& args, HandleKind kind);
  // The same for a value of an array.
  bool take(napi_env env, napi_value value, HandleKind kind);
  void* object() const { return entry_ ? entry_->object : nullptr; }

 private:
  HandleEntry* entry_ = nullptr;
};

}  // namespace whittle
