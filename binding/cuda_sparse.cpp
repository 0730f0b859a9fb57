// Sparse matrices on a GPU for JavaScript; see cuda.cpp.
#include <algorithm>

#include "binding/device.h"
#include "binding/families.h"
#include "binding/numbers.h"
#include "core/cuda_sparse.h"

namespace whittle {
namespace {

// The numbers of a sparse matrix after the device's, and its tensors: first?, scales?, sums?, column?, places?, values, compressed?
struct SparseUse {
  static constexpr int64_t kNumbers = 8;
  CudaSparse w = {};
  DeviceUse first, column, places, values, scales, sums, compressed;
  void numbers(Numbers& n) { n >> w.format >> w.type >> w.rows >> w.cols >> w.n >> w.m >> w.stored >> w.compressed_bytes; }
  bool csr() const { return w.format == kSparseCsr; }
  bool nm() const { return w.format == kSparseNm; }
  bool sane() const {
    const int64_t most = 2147483647;
    return (csr() || nm() || w.format == kSparseBlock) && w.type >= 0 && w.type <= kSparseInt8 && w.rows >= 0 && w.cols >= 0 && w.stored >= 0 && w.compressed_bytes >= 0 &&
           (w.cols == 0 || w.rows <= most / w.cols) && (!nm() || (w.n >= 1 && w.n <= w.m && w.m <= 128 && w.cols % w.m == 0));
  }
  // What counting writes, then the rest.
  bool counted(Args& args, int32_t device) {
    const bool bytes = w.type == kSparseInt8;
    if (!sane() || !first.read(args, device, 4 * ((csr() ? w.rows : cuda_sparse_panels(w.rows)) + 1), nm()) || !scales.read(args, device, 4 * w.rows, !bytes) ||
        !sums.read(args, device, 4 * w.rows, !bytes))
      return false;
    w.first = first.as<int32_t>();
    w.scales = scales.as<float>();
    w.sums = sums.as<int32_t>();
    return true;
  }
  bool filled(Args& args, int32_t device) {
    const int64_t size = sparse_value_size(w.type), step = cuda_sparse_step(w.type);
    const int64_t entries = nm() ? w.rows * (w.cols / w.m) * w.n : w.stored, columns = csr() ? entries : entries * step;
    if (!counted(args, device) || !column.read(args, device, 4 * columns, nm()) || !places.read(args, device, entries, !nm()) ||
        !values.read(args, device, size * (csr() || nm() ? entries : columns * kCudaPanel)) ||
        !compressed.read(args, device, w.compressed_bytes, w.compressed_bytes == 0))
      return false;
    w.column = column.as<int32_t>();
    w.places = places.as<uint8_t>();
    w.values = values.as<void>();
    w.compressed = compressed.as<void>();
    return true;
  }
};

// (numbers, w, mask?, scales of w?, first?, scales?, sums?, result); filling: (numbers, w, mask?, scales of w?, matrix)
template <bool kFill>
struct CudaSparseMake {
  int32_t device, source;
  SparseUse matrix;
  CudaSparseBuild build = {};
  DeviceUse dense, mask, given;
  double* counts = nullptr;
  bool parse(Args& args) {
    Numbers n(args, 3 + SparseUse::kNumbers);
    bool empty_rows = false;
    n >> device >> source >> empty_rows;
    matrix.numbers(n);
    const CudaSparse& w = matrix.w;
    const int64_t size = sparse_value_size(source);
    if (!args.ok() || !matrix.sane() || source < 0 || source > kSparseInt8 || !dense.read(args, device, w.rows * w.cols * size) ||
        !mask.read(args, device, w.rows * w.cols, true) || !given.read(args, device, 4 * w.rows, true))
      return false;
    build = {dense.as<void>(), source, mask.as<uint8_t>(), given.as<float>(), empty_rows};
    if (kFill) return matrix.filled(args, device);
    if (!matrix.counted(args, device)) return false;
    counts = args.array<double>(3);
    return args.ok();
  }
  WhittleStatus run() {
    const CudaBackend& b = *cuda().backend;
    if (kFill) return remember_device_error(b.sparse_fill(device, build, matrix.w));
    int64_t found[3] = {};
    const WhittleStatus status = remember_device_error(b.sparse_count(device, build, matrix.w, found));
    for (int i = 0; i < 3; i++) counts[i] = static_cast<double>(found[i]);
    return status;
  }
};

// (numbers, matrix, out)
struct CudaSparseToDense {
  int32_t device;
  SparseUse matrix;
  DeviceUse out;
  bool parse(Args& args) {
    Numbers n(args, 1 + SparseUse::kNumbers);
    n >> device;
    matrix.numbers(n);
    return args.ok() && matrix.filled(args, device) && out.read(args, device, matrix.w.rows * matrix.w.cols * sparse_value_size(matrix.w.type));
  }
  WhittleStatus run() { return remember_device_error(cuda().backend->sparse_dense(device, matrix.w, out.as<void>())); }
};

// (numbers, matrix, result): how many bytes a library's own form of it takes, 0 where it has none; or writes that form, 0 where it cannot
struct CudaSparseCompress {
  int32_t device;
  SparseUse matrix;
  double* result;
  bool parse(Args& args) {
    Numbers n(args, 1 + SparseUse::kNumbers);
    n >> device;
    matrix.numbers(n);
    if (!args.ok() || !matrix.filled(args, device)) return false;
    result = args.array<double>(1);
    return args.ok();
  }
  WhittleStatus run() {
    int64_t bytes = 0;
    const WhittleStatus status = remember_device_error(cuda().backend->sparse_compress(device, matrix.w, &bytes));
    *result = static_cast<double>(bytes);
    return status;
  }
};

// (numbers, matrix, x, bias?, out, result)
struct CudaSparseProduct {
  int32_t device, bias_kind;
  SparseUse matrix;
  CudaSpmm a = {};
  DeviceUse x, bias, out;
  double* fault;
  bool parse(Args& args) {
    Numbers n(args, 1 + SparseUse::kNumbers + 13);
    n >> device;
    matrix.numbers(n);
    n >> a.by_rows >> a.batch >> a.columns;
    n >> a.activation >> a.x_signed >> a.x_zero >> a.x_scale >> a.out_type >> a.out_scale >> a.out_zero >> bias_kind;
    const CudaSparse& w = matrix.w;
    const bool bytes = w.type == kSparseInt8, wide = !bytes || a.out_type == kOutInt32 || a.out_type == kOutFloat32;
    const int64_t vectors = a.batch * a.columns;
    if (!args.ok() || a.batch < 0 || a.columns < 0 || !matrix.filled(args, device) || !x.read(args, device, vectors * w.cols * (bytes ? 1 : 4)) ||
        !bias.read(args, device, 4 * w.rows, bias_kind == 0) || !out.read(args, device, vectors * w.rows * (wide ? 4 : 1)))
      return false;
    a.x = x.as<void>();
    a.bias = bias_kind == 2 ? bias.as<float>() : nullptr;
    a.bias_int = bias_kind == 1 ? bias.as<int32_t>() : nullptr;
    a.out = out.as<void>();
    fault = args.array<double>(1);
    return args.ok();
  }
  WhittleStatus run() {
    int32_t found = 0;
    const WhittleStatus status = cuda().backend->sparse_multiply(device, matrix.w, a, &found);
    *fault = found;
    return remember_device_error(status);
  }
};

// A matrix of the CPU laid out for a device, in host memory. (handle, [format, n, m], result): `stored`, and how long first, column,
// places, values (bytes) and sums are; then (handle, [format, n, m, ...result], first, column, places, values, sums).
template <bool kFill>
struct CudaSparseLay {
  HandleUse handle;
  int32_t format, n, m;
  int64_t lengths[6];
  double* result;
  void* arrays[5];
  bool parse(Args& args) {
    if (!handle.read(args, HandleKind::sparse) || !handle.object()) return false;
    Numbers numbers(args, kFill ? 9 : 3);
    numbers >> format >> n >> m;
    if (!kFill) {
      result = args.array<double>(6);
      return args.ok();
    }
    for (int64_t& length : lengths) numbers >> length;
    arrays[0] = args.array<int32_t>(lengths[1]);
    arrays[1] = args.array<int32_t>(lengths[2]);
    arrays[2] = args.array<uint8_t>(lengths[3]);
    arrays[3] = args.bytes(lengths[4]);
    arrays[4] = args.array<int32_t>(lengths[5]);
    return args.ok();
  }
  WhittleStatus run() {
    CudaSparseLaid laid;
    const WhittleStatus status = cuda_sparse_lay(*static_cast<const SparseMatrix*>(handle.object()), format, n, m, &laid);
    if (status != WHITTLE_OK) return status;
    const size_t found[] = {static_cast<size_t>(laid.stored), laid.first.size(), laid.column.size(), laid.places.size(), laid.values.size(), laid.sums.size()};
    for (int i = 0; i < 6; i++) {
      if (kFill && static_cast<int64_t>(found[i]) != lengths[i]) return WHITTLE_SHAPE;
      if (!kFill) result[i] = static_cast<double>(found[i]);
    }
    if (!kFill) return WHITTLE_OK;
    std::copy(laid.first.begin(), laid.first.end(), static_cast<int32_t*>(arrays[0]));
    std::copy(laid.column.begin(), laid.column.end(), static_cast<int32_t*>(arrays[1]));
    std::copy(laid.places.begin(), laid.places.end(), static_cast<uint8_t*>(arrays[2]));
    std::copy(laid.values.begin(), laid.values.end(), static_cast<uint8_t*>(arrays[3]));
    std::copy(laid.sums.begin(), laid.sums.end(), static_cast<int32_t*>(arrays[4]));
    return WHITTLE_OK;
  }
};

}  // namespace

void init_cuda_sparse(napi_env env, napi_value exports) {
  expose<CudaSparseMake<false>>(env, exports, "cudaSparseCount", "cudaSparseCountAsync");
  expose<CudaSparseMake<true>>(env, exports, "cudaSparseFill", "cudaSparseFillAsync");
  expose<CudaSparseToDense>(env, exports, "cudaSparseDense", "cudaSparseDenseAsync");
  expose<CudaSparseProduct>(env, exports, "cudaSparseMultiply", "cudaSparseMultiplyAsync");
  expose<CudaSparseCompress>(env, exports, "cudaSparseCompress", "cudaSparseCompressAsync");
  expose<CudaSparseLay<false>>(env, exports, "cudaSparseLengths", "cudaSparseLengthsAsync");
  expose<CudaSparseLay<true>>(env, exports, "cudaSparseLay", "cudaSparseLayAsync");
}

}  // namespace whittle
