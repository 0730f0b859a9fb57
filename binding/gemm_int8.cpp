// Integer products and their packed weights.
#include "binding/call.h"
#include "binding/families.h"
#include "binding/handles.h"
#include "core/gemm_int8.h"

namespace whittle {
namespace {

// packInt8New(k, n, isUnsigned) → a handle to panels that are still empty, or undefined if memory is short.
napi_value pack_new(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int64_t k = args.integer(), n = args.integer();
  const bool is_unsigned = args.flag();
  napi_value none = nullptr;
  napi_get_undefined(env, &none);
  if (!args.ok()) return none;
  PackedInt8* packed = new_packed_int8(gemm_int8_kernels(), is_unsigned, k, n);
  if (!packed) return none;
  HandleEntry* entry = handle_create(HandleKind::packed_int8, packed, packed->bytes,
                                     [](void* p) { free_packed_int8(static_cast<PackedInt8*>(p)); });
  if (!entry) {
    free_packed_int8(packed);
    return none;
  }
  napi_value object = handle_object(env, entry);
  return object ? object : none;
}

// packInt8Fill(handle, w, transposed, threads)
struct PackCall {
  HandleUse handle;
  const uint8_t* w;
  bool transposed;
  int32_t threads;
  bool parse(Args& args) {
    if (!handle.read(args, HandleKind::packed_int8) || !handle.object()) return false;
    const PackedInt8* p = static_cast<const PackedInt8*>(handle.object());
    w = static_cast<const uint8_t*>(args.bytes(p->k * p->n));
    transposed = args.flag();
    threads = args.small();
    return true;
  }
  WhittleStatus run() {
    fill_packed_int8(gemm_int8_kernels(), w, transposed, threads, static_cast<PackedInt8*>(handle.object()));
    return WHITTLE_OK;
  }
};

// packedInt8Info(handle) → [k, n, isUnsigned], or undefined.
napi_value packed_info(napi_env env, napi_callback_info info) {
  Args args(env, info);
  napi_value out = nullptr, v;
  HandleEntry* entry = handle_of(env, args.any_value(), HandleKind::packed_int8);
  if (!entry) {
    napi_get_undefined(env, &out);
    return out;
  }
  const PackedInt8* p = static_cast<const PackedInt8*>(entry->object);
  napi_create_array_with_length(env, 3, &out);
  napi_create_int64(env, p->k, &v);
  napi_set_element(env, out, 0, v);
  napi_create_int64(env, p->n, &v);
  napi_set_element(env, out, 1, v);
  napi_get_boolean(env, p->is_unsigned, &v);
  napi_set_element(env, out, 2, v);
  return out;
}

struct GemmCall {
  HandleUse packed;
  GemmInt8Args g;

  bool parse(Args& args) {
    g.batch = args.integer();
    g.m = args.integer();
    g.n = args.integer();
    g.k = args.integer();
    const int64_t a_matrices = args.integer(), b_matrices = args.integer();
    g.a = static_cast<const uint8_t*>(args.bytes(a_matrices * g.m * g.k));
    g.a_signed = args.flag();
    if (!packed.read(args, HandleKind::packed_int8)) return false;
    g.packed = static_cast<const PackedInt8*>(packed.object());
    g.b = static_cast<const uint8_t*>(args.bytes(g.packed ? 0 : b_matrices * g.k * g.n, g.packed != nullptr));
    g.b_unsigned = args.flag();
    g.b_transposed = args.flag();
    g.a_index = args.optional<int32_t>(g.batch);
    g.b_index = args.optional<int32_t>(g.batch);
    g.a_zero = args.small();
    g.b_zero = args.small();
    g.b_zeros = static_cast<const uint8_t*>(args.bytes(g.n, true));
    g.a_scale = static_cast<float>(args.number());
    g.b_scale = static_cast<float>(args.number());
    g.b_scales = args.optional<float>(g.n);
    g.bias_int = args.optional<int32_t>(g.n);
    g.bias_float = args.optional<float>(g.n);
    g.activation.kind = args.small();
    g.activation.lo = static_cast<float>(args.number());
    g.activation.hi = static_cast<float>(args.number());
    g.out_type = args.small();
    g.out_scale = static_cast<float>(args.number());
    g.out_zero = args.small();
    const int64_t size = g.out_type == kOutInt32 || g.out_type == kOutFloat32 ? 4 : 1;
    g.out = args.bytes(g.batch * g.m * g.n * size);
    g.threads = args.small();
    return args.ok();
  }
  WhittleStatus run() { return gemm_int8(gemm_int8_kernels(), g); }
};

// gemmInt8Peak(iterations) → operations done by a register-only loop of the active variant.
napi_value peak(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int64_t iterations = args.integer();
  napi_value v;
  napi_create_double(env, args.ok() ? gemm_int8_kernels().peak(iterations) : 0, &v);
  return v;
}

}  // namespace

void init_gemm_int8(napi_env env, napi_value exports) {
  export_function(env, exports, "packInt8New", pack_new);
  expose<PackCall>(env, exports, "packInt8Fill", "packInt8FillAsync");
  export_function(env, exports, "packedInt8Info", packed_info);
  expose<GemmCall>(env, exports, "gemmInt8", "gemmInt8Async");
  export_function(env, exports, "gemmInt8Peak", peak);
}

}  // namespace whittle
