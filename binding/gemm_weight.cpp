// Products of float32 with packed weights: int4, scaled int8, bfloat16, float32.
#include "core/gemm_weight.h"

#include "binding/call.h"
#include "binding/families.h"
#include "binding/gemm_weight.h"
#include "binding/handles.h"

namespace whittle {
namespace {

// By format, as lib/kernels/gemm_weight.ts numbers them.
const HandleKind kKinds[kWeightAllFormats] = {HandleKind::packed_int4, HandleKind::packed_scaled_int8,
                                              HandleKind::packed_bfloat16, HandleKind::packed_float32};

bool format_ok(int32_t format) { return format >= 0 && format < kWeightAllFormats; }

// packWeightNew(format, k, n, blockSize, withOffset) → a handle that holds nothing yet, or undefined if memory is short.
napi_value pack_new(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int32_t format = args.small();
  const int64_t k = args.integer(), n = args.integer(), block = args.integer();
  const bool with_offset = args.flag();
  napi_value none = nullptr;
  napi_get_undefined(env, &none);
  if (!args.ok() || !format_ok(format)) return none;
  PackedWeight* packed = new_packed_weight(gemm_weight_kernels(), format, k, n, block, with_offset);
  if (!packed) return none;
  HandleEntry* entry = handle_create(kKinds[format], packed, packed->bytes,
                                     [](void* p) { free_packed_weight(static_cast<PackedWeight*>(p)); });
  if (!entry) {
    free_packed_weight(packed);
    return none;
  }
  napi_value object = handle_object(env, entry);
  return object ? object : none;
}

// Indices into the numbers that lib/kernels/gemm_weight.ts fills; the two lists must agree.
enum Param {
  kFormat, kRow, kCol, kSigned, kFloat, kHalf, kPositive, kScaleBlock, kScaleCol, kZeroKind, kZeroBlock, kZeroCol,
  kZeroDefault, kThreads, kParams,
};
static_assert(kParams == kWeightParams, "the list that others pass on");

// packWeightFill(numbers, handle, codes, scales, zeros)
struct Fill {
  HandleUse handle;
  WeightSource s;
  int32_t threads;
  bool parse(Args& args) {
    const double* p = args.array<double>(kParams);
    if (!p || !format_ok(static_cast<int32_t>(p[kFormat]))) return false;
    if (!handle.read(args, kKinds[static_cast<int32_t>(p[kFormat])]) || !handle.object()) return false;
    const PackedWeight& w = *static_cast<const PackedWeight*>(handle.object());
    threads = static_cast<int32_t>(p[kThreads]);
    return read_weight_source(args, p, w.format, w.k, w.n, w.blocks, &s);
  }
  WhittleStatus run() { return fill_packed_weight(s, threads, static_cast<PackedWeight*>(handle.object())); }
};

// packedWeightInfo(format, handle) → [k, n, block, blocks, hasOffset], or undefined.
napi_value packed_info(napi_env env, napi_callback_info info) {
  Args args(env, info);
  napi_value out = nullptr, v;
  const int32_t format = args.small();
  HandleEntry* entry = format_ok(format) ? handle_of(env, args.any_value(), kKinds[format]) : nullptr;
  if (!entry) {
    napi_get_undefined(env, &out);
    return out;
  }
  const PackedWeight* p = static_cast<const PackedWeight*>(entry->object);
  const int64_t numbers[] = {p->k, p->n, p->block, p->blocks, p->offset ? 1 : 0};
  napi_create_array_with_length(env, 5, &out);
  for (uint32_t i = 0; i < 5; i++) {
    napi_create_int64(env, numbers[i], &v);
    napi_set_element(env, out, i, v);
  }
  return out;
}

// gemmWeight(format, handle, m, a, bias, activation, lo, hi, out, threads)
struct Multiply {
  HandleUse packed;
  WeightArgs g;
  bool parse(Args& args) {
    const int32_t format = args.small();
    if (!format_ok(format) || !packed.read(args, kKinds[format]) || !packed.object()) return false;
    g.w = static_cast<const PackedWeight*>(packed.object());
    g.m = args.integer();
    g.a = args.array<float>(g.m * g.w->k);
    g.bias = args.optional<float>(g.w->n);
    g.activation.kind = args.small();
    g.activation.lo = static_cast<float>(args.number());
    g.activation.hi = static_cast<float>(args.number());
    g.out = args.array<float>(g.m * g.w->n);
    g.threads = args.small();
    return args.ok();
  }
  WhittleStatus run() { return gemm_weight(gemm_weight_kernels(), g); }
};

}  // namespace

bool read_weight_source(Args& args, const double* p, int32_t format, int64_t k, int64_t n, int64_t blocks, WeightSource* source) {
  WeightSource& s = *source;
  const auto integer = [&](Param i) { return static_cast<int64_t>(p[i]); };
  s.row = integer(kRow);
  s.col = integer(kCol);
  s.is_signed = p[kSigned] != 0;
  s.is_float = p[kFloat] != 0;
  s.half_scales = p[kHalf] != 0;
  s.positive = p[kPositive] != 0;
  s.scale_block = integer(kScaleBlock);
  s.scale_col = integer(kScaleCol);
  s.zero_kind = static_cast<int32_t>(p[kZeroKind]);
  s.zero_block = integer(kZeroBlock);
  s.zero_col = integer(kZeroCol);
  s.zero_default = static_cast<float>(p[kZeroDefault]);
  const bool int4 = format == kWeightInt4, plain = format == kWeightBf16 || format == kWeightF32, empty = k == 0 || n == 0;
  const int64_t code = (k - 1) * s.row + (n - 1) * s.col, scale = (blocks - 1) * s.scale_block + (n - 1) * s.scale_col;
  const int64_t zero = (blocks - 1) * s.zero_block + (n - 1) * s.zero_col;
  const int64_t zero_bytes = s.zero_kind == 1 ? (int4 ? zero / 2 + 1 : zero + 1) : s.zero_kind == 2 ? 4 * scale + 4 : 2 * scale + 2;
  s.codes = static_cast<const uint8_t*>(
      args.bytes(empty ? 0 : int4 ? code / 2 + 1 : plain ? (code + 1) * (s.is_float || format == kWeightF32 ? 4 : 2) : code + 1));
  s.scales = args.bytes(empty ? 0 : (scale + 1) * (s.half_scales ? 2 : 4), plain);
  s.zeros = args.bytes(empty ? 0 : zero_bytes, s.zero_kind == 0);
  return args.ok();
}

int32_t weight_format(const double* p) { return static_cast<int32_t>(p[kFormat]); }

void init_gemm_weight(napi_env env, napi_value exports) {
  export_function(env, exports, "packWeightNew", pack_new);
  expose<Fill>(env, exports, "packWeightFill", "packWeightFillAsync");
  export_function(env, exports, "packedWeightInfo", packed_info);
  expose<Multiply>(env, exports, "gemmWeight", "gemmWeightAsync");
}

}  // namespace whittle
