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

// gemmInt8(a, out, b | packed, bias | null, bScales | null, bZeros | null, aIndex | null, bIndex | null). Indices into the
// call's numbers, which lib/kernels/gemm_int8.ts fills; the two lists must agree.
enum Param {
  kBatch, kM, kN, kK, kAMatrices, kBMatrices, kPacked, kASigned, kBUnsigned, kTransposed, kBias, kHasBScales, kHasBZeros,
  kHasAIndex, kHasBIndex, kAZero, kBZero, kAScale, kBScale, kKind, kLo, kHi, kOutType, kOutScale, kOutZero, kThreads, kParams,
};

struct GemmCall {
  HandleUse packed;
  GemmInt8Args g = {};

  bool parse(Args& args) {
    static_assert(kParams <= kCallNumbers, "a call's numbers");
    const double* p = args.numbers();
    const auto integer = [&](Param i) { return static_cast<int64_t>(p[i]); };
    const auto small = [&](Param i) { return static_cast<int32_t>(p[i]); };
    g.batch = integer(kBatch);
    g.m = integer(kM);
    g.n = integer(kN);
    g.k = integer(kK);
    g.a_signed = p[kASigned] != 0;
    g.b_unsigned = p[kBUnsigned] != 0;
    g.b_transposed = p[kTransposed] != 0;
    g.a_zero = small(kAZero);
    g.b_zero = small(kBZero);
    g.a_scale = static_cast<float>(p[kAScale]);
    g.b_scale = static_cast<float>(p[kBScale]);
    g.activation.kind = small(kKind);
    g.activation.lo = static_cast<float>(p[kLo]);
    g.activation.hi = static_cast<float>(p[kHi]);
    g.out_type = small(kOutType);
    g.out_scale = static_cast<float>(p[kOutScale]);
    g.out_zero = small(kOutZero);
    g.threads = small(kThreads);
    const int64_t size = g.out_type == kOutInt32 || g.out_type == kOutFloat32 ? 4 : 1;
    g.a = static_cast<const uint8_t*>(args.bytes(integer(kAMatrices) * g.m * g.k));
    g.out = args.bytes(g.batch * g.m * g.n * size);
    if (p[kPacked] != 0) {
      if (!packed.read(args, HandleKind::packed_int8) || !packed.object()) return false;
      g.packed = static_cast<const PackedInt8*>(packed.object());
    } else {
      g.b = static_cast<const uint8_t*>(args.bytes(integer(kBMatrices) * g.k * g.n));
    }
    const int bias = small(kBias);
    if (bias == 2) g.bias_float = args.array<float>(g.n);
    else g.bias_int = args.array_if<int32_t>(bias == 1, g.n);
    g.b_scales = args.array_if<float>(p[kHasBScales] != 0, g.n);
    g.b_zeros = p[kHasBZeros] != 0 ? static_cast<const uint8_t*>(args.bytes(g.n)) : args.array_if<uint8_t>(false, 0);
    g.a_index = args.array_if<int32_t>(p[kHasAIndex] != 0, g.batch);
    g.b_index = args.array_if<int32_t>(p[kHasBIndex] != 0, g.batch);
    return args.ok();
  }
  WhittleStatus run() { return gemm_int8(gemm_int8_kernels(), g); }
};

// gemmInt8Peak(iterations, threads) → operations that each of the threads did in a register-only loop of the active variant.
napi_value peak(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int64_t iterations = args.integer(), threads = args.integer();
  napi_value v;
  napi_create_double(env, args.ok() ? gemm_int8_peak(iterations, static_cast<int>(threads)) : 0, &v);
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
