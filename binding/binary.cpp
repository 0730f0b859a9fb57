// Products of signs.
#include "core/binary.h"

#include "binding/call.h"
#include "binding/families.h"
#include "binding/handles.h"

namespace whittle {
namespace {

// packBinaryNew(k, n) → a handle that holds nothing yet, or undefined if memory is short.
napi_value pack_new(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int64_t k = args.integer(), n = args.integer();
  napi_value none = nullptr;
  napi_get_undefined(env, &none);
  if (!args.ok() || k < 0 || n < 0) return none;
  PackedBinary* packed = new_packed_binary(k, n);
  if (!packed) return none;
  HandleEntry* entry = handle_create(HandleKind::packed_binary, packed, packed->bytes,
                                     [](void* p) { free_packed_binary(static_cast<PackedBinary*>(p)); });
  if (!entry) {
    free_packed_binary(packed);
    return none;
  }
  napi_value object = handle_object(env, entry);
  return object ? object : none;
}

// packBinaryFill(handle, w, row, col, kind, scales, threads)
struct Fill {
  HandleUse handle;
  const float *w, *scales;
  int64_t row, col;
  int32_t kind, threads;
  bool parse(Args& args) {
    if (!handle.read(args, HandleKind::packed_binary) || !handle.object()) return false;
    const PackedBinary& p = *static_cast<const PackedBinary*>(handle.object());
    w = args.array<float>(p.k * p.n);
    row = args.integer();
    col = args.integer();
    kind = args.small();
    scales = args.optional<float>(p.n);
    threads = args.small();
    const bool whole = (row == p.n && col == 1) || (row == 1 && col == p.k);
    return args.ok() && whole && kind >= kBinaryScaleNone && kind <= kBinaryScaleGiven && (kind != kBinaryScaleGiven || scales);
  }
  WhittleStatus run() {
    return fill_packed_binary(w, row, col, kind, scales, threads, static_cast<PackedBinary*>(handle.object()));
  }
};

// packedBinaryInfo(handle) → [k, n], or undefined.
napi_value packed_info(napi_env env, napi_callback_info info) {
  Args args(env, info);
  napi_value out = nullptr, v;
  HandleEntry* entry = handle_of(env, args.any_value(), HandleKind::packed_binary);
  if (!entry) {
    napi_get_undefined(env, &out);
    return out;
  }
  const PackedBinary* p = static_cast<const PackedBinary*>(entry->object);
  const int64_t numbers[] = {p->k, p->n};
  napi_create_array_with_length(env, 2, &out);
  for (uint32_t i = 0; i < 2; i++) {
    napi_create_int64(env, numbers[i], &v);
    napi_set_element(env, out, i, v);
  }
  return out;
}

// gemmBinary(handle, m, a, rowMean, isFloat, bias, activation, lo, hi, out, threads)
struct Multiply {
  HandleUse packed;
  BinaryArgs g;
  bool parse(Args& args) {
    if (!packed.read(args, HandleKind::packed_binary) || !packed.object()) return false;
    g.w = static_cast<const PackedBinary*>(packed.object());
    g.m = args.integer();
    if (g.m < 0) return false;
    g.a = args.array<float>(g.m * g.w->k);
    g.row_mean = args.flag();
    g.is_float = args.flag();
    g.bias = args.optional<float>(g.w->n);
    g.activation.kind = args.small();
    g.activation.lo = static_cast<float>(args.number());
    g.activation.hi = static_cast<float>(args.number());
    if (g.is_float) g.out = args.array<float>(g.m * g.w->n);
    else g.out = args.array<int32_t>(g.m * g.w->n);
    g.threads = args.small();
    return args.ok();
  }
  WhittleStatus run() { return gemm_binary(binary_kernels(), g); }
};

}  // namespace

void init_binary(napi_env env, napi_value exports) {
  export_function(env, exports, "packBinaryNew", pack_new);
  expose<Fill>(env, exports, "packBinaryFill", "packBinaryFillAsync");
  export_function(env, exports, "packedBinaryInfo", packed_info);
  expose<Multiply>(env, exports, "gemmBinary", "gemmBinaryAsync");
}

}  // namespace whittle
