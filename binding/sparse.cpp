// Sparse matrices and their products.
#include "core/sparse.h"

#include <new>
#include <utility>

#include "binding/call.h"
#include "binding/families.h"
#include "binding/handles.h"

namespace whittle {
namespace {

void destroy(void* p) { delete static_cast<SparseMatrix*>(p); }

napi_value wrap(napi_env env, SparseMatrix* matrix) {
  napi_value none = nullptr;
  napi_get_undefined(env, &none);
  HandleEntry* entry = matrix ? handle_create(HandleKind::sparse, matrix, matrix->bytes, destroy) : nullptr;
  if (!entry) {
    delete matrix;
    return none;
  }
  napi_value object = handle_object(env, entry);
  return object ? object : none;
}

// sparseNew() → a handle to an empty matrix for sparseBuild to fill, or undefined if memory is short.
napi_value make(napi_env env, napi_callback_info) { return wrap(env, new (std::nothrow) SparseMatrix); }

// sparseTake(handle) → a handle to the built matrix that knows its size; the first is of no more use.
napi_value take(napi_env env, napi_callback_info info) {
  Args args(env, info);
  HandleEntry* entry = handle_of(env, args.any_value(), HandleKind::sparse);
  SparseMatrix* to = entry ? new (std::nothrow) SparseMatrix : nullptr;
  if (to) *to = std::move(*static_cast<SparseMatrix*>(entry->object));
  return wrap(env, to);
}

// sparseBuild(handle, numbers, w, mask, scales); the numbers are in the order of lib/kernels/sparse.ts.
struct Build {
  HandleUse handle;
  SparseBuild b;
  bool parse(Args& args) {
    if (!handle.read(args, HandleKind::sparse) || !handle.object()) return false;
    const double* p = args.array<double>(12);
    if (!p) return false;
    const auto small = [&](int i) { return static_cast<int32_t>(p[i]); };
    b = {};
    b.rows = static_cast<int64_t>(p[0]);
    b.cols = static_cast<int64_t>(p[1]);
    b.source_type = small(2);
    b.format = small(3);
    b.type = small(4);
    b.r = small(5);
    b.c = small(6);
    b.n = small(7);
    b.m = small(8);
    b.columns = static_cast<int64_t>(p[9]);
    b.measure = p[10] != 0;
    b.threads = small(11);
    b.w = args.bytes(b.rows * b.cols * (b.source_type == kSparseF32 ? 4 : b.source_type == kSparseBf16 ? 2 : 1));
    b.mask = args.optional<uint8_t>(b.rows * b.cols);
    b.scales = args.optional<float>(b.rows);
    return args.ok();
  }
  WhittleStatus run() { return sparse_build(b, static_cast<SparseMatrix*>(handle.object())); }
};

// sparseInfo(handle) → [rows, cols, format, type, r, c, n, m, nnz], or undefined.
napi_value describe(napi_env env, napi_callback_info info) {
  Args args(env, info);
  napi_value out = nullptr, v;
  HandleEntry* entry = handle_of(env, args.any_value(), HandleKind::sparse);
  if (!entry) {
    napi_get_undefined(env, &out);
    return out;
  }
  const SparseMatrix& w = *static_cast<const SparseMatrix*>(entry->object);
  const int64_t numbers[] = {w.rows, w.cols, w.format, w.type, w.r, w.c, w.n, w.m, w.nnz};
  napi_create_array_with_length(env, 9, &out);
  for (uint32_t i = 0; i < 9; i++) {
    napi_create_int64(env, numbers[i], &v);
    napi_set_element(env, out, i, v);
  }
  return out;
}

// sparseToDense(handle, out)
struct ToDense {
  HandleUse handle;
  void* out;
  bool parse(Args& args) {
    if (!handle.read(args, HandleKind::sparse) || !handle.object()) return false;
    const SparseMatrix& w = *static_cast<const SparseMatrix*>(handle.object());
    out = args.bytes(w.rows * w.cols * (w.type == kSparseF32 ? 4 : w.type == kSparseBf16 ? 2 : 1));
    return args.ok();
  }
  WhittleStatus run() {
    sparse_to_dense(*static_cast<const SparseMatrix*>(handle.object()), out);
    return WHITTLE_OK;
  }
};

// sparseScales(handle, out): the scale of each row of an int8 matrix.
struct Scales {
  HandleUse handle;
  float* out;
  bool parse(Args& args) {
    if (!handle.read(args, HandleKind::sparse) || !handle.object()) return false;
    out = args.array<float>(static_cast<int64_t>(static_cast<const SparseMatrix*>(handle.object())->scales.size()));
    return args.ok();
  }
  WhittleStatus run() {
    for (float s : static_cast<const SparseMatrix*>(handle.object())->scales) *out++ = s;
    return WHITTLE_OK;
  }
};

// sparseMultiply(handle, numbers, x, bias, biasInt, out); the numbers are in the order of lib/kernels/sparse.ts.
struct Multiply {
  HandleUse handle;
  SparseArgs a;
  bool parse(Args& args) {
    if (!handle.read(args, HandleKind::sparse) || !handle.object()) return false;
    const double* p = args.array<double>(13);
    if (!p) return false;
    const auto small = [&](int i) { return static_cast<int32_t>(p[i]); };
    a = {};
    a.w = static_cast<const SparseMatrix*>(handle.object());
    a.by_rows = p[0] != 0;
    a.batch = static_cast<int64_t>(p[1]);
    a.columns = static_cast<int64_t>(p[2]);
    a.activation = {small(3), static_cast<float>(p[4]), static_cast<float>(p[5])};
    a.threads = small(6);
    a.x_signed = p[7] != 0;
    a.x_zero = small(8);
    a.x_scale = static_cast<float>(p[9]);
    a.out_type = small(10);
    a.out_scale = static_cast<float>(p[11]);
    a.out_zero = small(12);
    const bool bytes = a.w->type == kSparseInt8;
    const int64_t many = a.batch * a.columns;
    a.x = args.bytes(many * a.w->cols * (bytes ? 1 : 4));
    a.bias = args.optional<float>(a.w->rows);
    a.bias_int = args.optional<int32_t>(a.w->rows);
    a.out = args.bytes(many * a.w->rows * (bytes && a.out_type >= 2 ? 1 : 4));
    return args.ok();
  }
  WhittleStatus run() { return sparse_multiply(a); }
};

}  // namespace

void init_sparse(napi_env env, napi_value exports) {
  export_function(env, exports, "sparseNew", make);
  export_function(env, exports, "sparseTake", take);
  export_function(env, exports, "sparseInfo", describe);
  expose<Build>(env, exports, "sparseBuild", "sparseBuildAsync");
  expose<ToDense>(env, exports, "sparseToDense", "sparseToDenseAsync");
  expose<Scales>(env, exports, "sparseScales", "sparseScalesAsync");
  expose<Multiply>(env, exports, "sparseMultiply", "sparseMultiplyAsync");
}

}  // namespace whittle
