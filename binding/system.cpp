// What this machine is and what the registry made of it: for devices(), doctor, benchmarks.
#include <napi.h>

#include "binding/call.h"
#include "binding/families.h"
#include "core/features.h"
#include "core/threads.h"
#include "core/variants.h"

namespace whittle {
namespace {

Napi::Value system_info(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const TierChoice& choice = tier_choice();
  Napi::Object out = Napi::Object::New(env);
  out.Set("variant", tier_name(choice.tier));
  out.Set("forced", choice.forced);
  out.Set("error", choice.error ? Napi::Value(Napi::String::New(env, choice.error)) : env.Null());
  Napi::Array tiers = Napi::Array::New(env);
  for (int i = 0; i < kTierCount; i++) {
    const Tier tier = static_cast<Tier>(i);
    Napi::Object row = Napi::Object::New(env);
    row.Set("name", tier_name(tier));
    row.Set("supported", tier_supported(tier));
    row.Set("missing", tier_missing(tier));
    tiers.Set(static_cast<uint32_t>(i), row);
  }
  out.Set("tiers", tiers);
  Napi::Object kernels = Napi::Object::New(env);
  const FamilyInfo* rows = nullptr;
  const int n = families(&rows);
  for (int i = 0; i < n; i++) kernels.Set(rows[i].family, tier_name(rows[i].active));
  out.Set("kernels", kernels);
  const CacheSizes& c = cache_sizes();
  Napi::Object caches = Napi::Object::New(env);
  caches.Set("l1d", static_cast<double>(c.l1d));
  caches.Set("l2", static_cast<double>(c.l2));
  caches.Set("l3", static_cast<double>(c.l3));
  out.Set("caches", caches);
  out.Set("threads", thread_limit());
  out.Set("availableThreads", available_threads());
  out.Set("threadsError", thread_limit_error() ? Napi::Value(Napi::String::New(env, thread_limit_error())) : env.Null());
  return out;
}

struct SetThreads {
  int n;
  bool parse(Args& a) {
    n = a.small();
    return a.ok();
  }
  WhittleStatus run() { return set_threads(n) ? WHITTLE_OK : WHITTLE_RANGE; }
};

// memoryOverlaps(a, b): whether two typed arrays have bytes in common, whatever buffers they name.
napi_value memory_overlaps(napi_env env, napi_callback_info info) {
  Args args(env, info);
  uintptr_t begin[2] = {0, 0}, end[2] = {0, 0};
  for (int i = 0; i < 2; i++) {
    napi_typedarray_type type;
    size_t length = 0;
    void* data = nullptr;
    if (napi_get_typedarray_info(env, args.any_value(), &type, &length, &data, nullptr, nullptr) != napi_ok) continue;
    begin[i] = reinterpret_cast<uintptr_t>(data);
    end[i] = begin[i] + length * static_cast<size_t>(typed_element_size(type));
  }
  napi_value result = nullptr;
  napi_get_boolean(env, begin[0] < end[1] && begin[1] < end[0], &result);
  return result;
}

}  // namespace

void init_system(napi_env env, napi_value exports) {
  Napi::Object(env, exports).Set("systemInfo", Napi::Function::New(env, system_info, "systemInfo"));
  export_function(env, exports, "setThreads", call_sync<SetThreads>);
  export_function(env, exports, "memoryOverlaps", memory_overlaps);
}

}  // namespace whittle
