// Opening cuBLASLt, and its products: descriptors, algorithms by heuristics (and for integers by time), workspace. Launches
// nothing of its own.
#include "cuda/cublaslt.h"
#include "cuda/product.h"

#include <stdio.h>

#include <map>
#include <mutex>
#include <tuple>

#include "cuda/library.h"

namespace whittle {

#if !defined(WHITTLE_CUBLASLT)

namespace {
constexpr char kNone[] = "this build of whittle_cuda has no cuBLASLt: its header was not there (pip install nvidia-cublas, then npm run build:cuda)";
}

bool lt_product(Work&, const LtProduct&, const char** why) {
  *why = kNone;
  return false;
}

CudaLibrary cublaslt_library() {
  CudaLibrary out = {"libcublasLt", "gemm, gemmInt8, svd, losses on features and hidden states", "", ""};
  snprintf(out.why, sizeof out.why, "%s", kNone);
  return out;
}

#else

namespace {

// Every function that is used. The names are looked up in NVIDIA's own library by npm run test:cuda.
#define WHITTLE_CUBLASLT_FUNCTIONS(X)                                                                                    \
  X(cublasLtCreate) X(cublasLtMatmul) X(cublasLtMatmulAlgoGetHeuristic) X(cublasLtMatmulDescCreate)                      \
  X(cublasLtMatmulDescDestroy) X(cublasLtMatmulDescSetAttribute) X(cublasLtMatmulPreferenceCreate)                       \
  X(cublasLtMatmulPreferenceDestroy) X(cublasLtMatmulPreferenceSetAttribute) X(cublasLtMatrixLayoutCreate)               \
  X(cublasLtMatrixLayoutDestroy) X(cublasLtMatrixLayoutSetAttribute)

constexpr size_t kWorkspace = size_t(32) << 20;
constexpr int kCandidates = 6;
constexpr int kMostDevices = 64;

// A chosen algorithm, or none.
struct Choice {
  bool any = false;
  cublasLtMatmulAlgo_t algo;
  size_t workspace = 0;
};

typedef std::tuple<int, int, int, bool, bool, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, bool, int64_t, int64_t, int32_t> Key;

struct Lt {
#define X(name) decltype(&::name) name = nullptr;
  WHITTLE_CUBLASLT_FUNCTIONS(X)
#undef X
  NvidiaOpened opened;
  std::mutex lock;  // of what follows
  cublasLtHandle_t handles[kMostDevices] = {};
  std::map<Key, Choice> choices;
};

constexpr NvidiaLibrary kLibrary = {"WHITTLE_CUBLASLT_LIBRARY", "libcublasLt.so." WHITTLE_TEXT(CUBLAS_VER_MAJOR), "nvidia-cublas",
                                    "gemm, gemmInt8, svd, losses on features and hidden states"};

Lt& library() {
  static Lt* const lt = [] {
    Lt* made = new Lt;
#define X(name) {#name, reinterpret_cast<void**>(&made->name)},
    open_nvidia(kLibrary, {WHITTLE_CUBLASLT_FUNCTIONS(X)}, &made->opened);
#undef X
    return made;
  }();
  return *lt;
}

cudaDataType_t data_type(FloatType t) { return t == kFloat16 ? CUDA_R_16F : t == kBfloat16 ? CUDA_R_16BF : CUDA_R_32F; }

// Descriptors of one product; ok() says that all came to be.
class Descriptors {
 public:
  Descriptors(const Lt& lt, const LtProduct& p) : lt_(lt) {
    const cudaDataType_t in = p.integers ? CUDA_R_8I : p.doubles ? CUDA_R_64F : data_type(p.type);
    const cudaDataType_t out = p.integers ? CUDA_R_32I : p.doubles ? CUDA_R_64F : data_type(p.d_type);
    ok_ = good(lt.cublasLtMatmulDescCreate(&desc, p.integers ? CUBLAS_COMPUTE_32I : p.doubles ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F,
                                           p.integers ? CUDA_R_32I : p.doubles ? CUDA_R_64F : CUDA_R_32F));
    attribute(CUBLASLT_MATMUL_DESC_TRANSA, p.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
    attribute(CUBLASLT_MATMUL_DESC_TRANSB, p.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
    if (p.bias) {
      attribute(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
      attribute(CUBLASLT_MATMUL_DESC_BIAS_POINTER, p.bias);
      attribute(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, static_cast<int32_t>(out));
    }
    layout(&a, in, p.transpose_a ? p.k : p.m, p.transpose_a ? p.m : p.k, p.lda, p.batch, p.a_batch);
    layout(&b, in, p.transpose_b ? p.n : p.k, p.transpose_b ? p.k : p.n, p.ldb, p.batch, p.b_batch);
    layout(&d, out, p.m, p.n, p.ldd, p.batch, p.d_batch);
  }
  ~Descriptors() {
    if (a) lt_.cublasLtMatrixLayoutDestroy(a);
    if (b) lt_.cublasLtMatrixLayoutDestroy(b);
    if (d) lt_.cublasLtMatrixLayoutDestroy(d);
    if (desc) lt_.cublasLtMatmulDescDestroy(desc);
  }
  Descriptors(const Descriptors&) = delete;
  Descriptors& operator=(const Descriptors&) = delete;
  bool ok() const { return ok_; }

  cublasLtMatmulDesc_t desc = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, d = nullptr;

 private:
  static bool good(cublasStatus_t s) { return s == CUBLAS_STATUS_SUCCESS; }
  template <class T>
  void attribute(cublasLtMatmulDescAttributes_t name, const T& value) {
    ok_ = ok_ && good(lt_.cublasLtMatmulDescSetAttribute(desc, name, &value, sizeof value));
  }
  void layout(cublasLtMatrixLayout_t* to, cudaDataType_t type, int64_t rows, int64_t columns, int64_t ld, int64_t batch, int64_t stride) {
    ok_ = ok_ && good(lt_.cublasLtMatrixLayoutCreate(to, type, static_cast<uint64_t>(rows), static_cast<uint64_t>(columns), ld));
    const int32_t count = static_cast<int32_t>(batch);
    if (batch > 1)
      ok_ = ok_ && good(lt_.cublasLtMatrixLayoutSetAttribute(*to, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count)) &&
            good(lt_.cublasLtMatrixLayoutSetAttribute(*to, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride, sizeof stride));
  }

  const Lt& lt_;
  bool ok_ = false;
};

// The bytes that a pointer and its columns and matrices are multiples of, as far as heuristics care.
uint32_t alignment(const void* p, int64_t ld_bytes) {
  const uint64_t bits = reinterpret_cast<uintptr_t>(p) | static_cast<uint64_t>(ld_bytes) | 256;
  return static_cast<uint32_t>(bits & (~bits + 1));
}

int candidates(const Lt& lt, cublasLtHandle_t handle, const LtProduct& p, const Descriptors& d, int wanted, cublasLtMatmulHeuristicResult_t* out) {
  cublasLtMatmulPreference_t preference = nullptr;
  if (lt.cublasLtMatmulPreferenceCreate(&preference) != CUBLAS_STATUS_SUCCESS) return 0;
  const uint64_t workspace = kWorkspace;
  const int64_t size = p.integers ? 1 : p.doubles ? 8 : p.type == kFloat32 ? 4 : 2;
  const int64_t out_size = p.doubles ? 8 : p.integers || p.d_type == kFloat32 ? 4 : 2;
  const uint32_t of_a = alignment(p.a, (p.lda | p.a_batch) * size), of_b = alignment(p.b, (p.ldb | p.b_batch) * size);
  const uint32_t of_d = alignment(p.d, (p.ldd | p.d_batch) * out_size);
  bool ok = true;
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t name, const void* value, size_t bytes) {
    ok = ok && lt.cublasLtMatmulPreferenceSetAttribute(preference, name, value, bytes) == CUBLAS_STATUS_SUCCESS;
  };
  set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &of_a, sizeof of_a);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &of_b, sizeof of_b);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &of_d, sizeof of_d);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &of_d, sizeof of_d);
  int count = 0;
  if (!ok || lt.cublasLtMatmulAlgoGetHeuristic(handle, d.desc, d.a, d.b, d.d, d.d, preference, wanted, out, &count) != CUBLAS_STATUS_SUCCESS) count = 0;
  lt.cublasLtMatmulPreferenceDestroy(preference);
  int kept = 0;
  for (int i = 0; i < count; i++)
    if (out[i].state == CUBLAS_STATUS_SUCCESS && out[i].workspaceSize <= kWorkspace) out[kept++] = out[i];
  return kept;
}

struct Run {
  const Lt& lt;
  cublasLtHandle_t handle;
  const LtProduct& p;
  const Descriptors& d;

  // An asynchronous call; a failure of the device shows later.
  bool operator()(Work& work, const cublasLtMatmulAlgo_t& algo, size_t bytes, void* workspace) const {
    const int32_t one = 1, none = 0;
    const float alpha = p.alpha, beta = static_cast<float>(p.beta);
    const double factor = p.alpha, add = p.beta;
    const void* scale = p.integers ? static_cast<const void*>(&one) : p.doubles ? static_cast<const void*>(&factor) : &alpha;
    const void* keep = p.integers ? static_cast<const void*>(&none) : p.doubles ? static_cast<const void*>(&add) : &beta;
    return lt.cublasLtMatmul(handle, d.desc, scale, p.a, d.a, p.b, d.b, keep, p.d, d.d, p.d, d.d, &algo, workspace, bytes, work.stream()) ==
           CUBLAS_STATUS_SUCCESS;
  }
};

// The fastest of the candidates, each run twice; the first time is not counted.
Choice fastest(Work& work, const Run& run, const cublasLtMatmulHeuristicResult_t* list, int count) {
  Choice best;
  size_t bytes = 0;
  for (int i = 0; i < count; i++)
    if (list[i].workspaceSize > bytes) bytes = list[i].workspaceSize;
  void* workspace = bytes ? work.scratch<char>(static_cast<int64_t>(bytes)) : nullptr;
  cudaEvent_t start = nullptr, stop = nullptr;
  work.check(cudaEventCreate(&start));
  work.check(cudaEventCreate(&stop));
  float least = 0;
  for (int i = 0; i < count && work.good(); i++) {
    if (!run(work, list[i].algo, list[i].workspaceSize, workspace)) continue;
    work.check(cudaEventRecord(start, work.stream()));
    if (!run(work, list[i].algo, list[i].workspaceSize, workspace)) continue;
    work.check(cudaEventRecord(stop, work.stream()));
    work.check(cudaEventSynchronize(stop));
    float took = 0;
    if (work.good()) work.check(cudaEventElapsedTime(&took, start, stop));
    if (work.good() && (!best.any || took < least)) {
      best.any = true;
      best.algo = list[i].algo;
      best.workspace = list[i].workspaceSize;
      least = took;
    }
  }
  if (start) cudaEventDestroy(start);
  if (stop) cudaEventDestroy(stop);
  return best;
}

}  // namespace

bool lt_product(Work& work, const LtProduct& p, const char** why) {
  Lt& lt = library();
  *why = lt.opened.why;
  if (!lt.opened.open || !work.good()) return false;
  cublasLtHandle_t handle;
  const Key key(p.integers ? 1 : p.doubles ? 2 : 0, p.type, p.d_type, p.transpose_a, p.transpose_b, p.m, p.n, p.k, p.lda, p.ldb, p.ldd, p.batch, p.bias != nullptr,
                p.a_batch, p.b_batch, work.device());
  Choice choice;
  bool chosen = false;
  {
    const std::lock_guard<std::mutex> guard(lt.lock);
    cublasLtHandle_t& slot = lt.handles[work.device()];
    if (!slot && lt.cublasLtCreate(&slot) != CUBLAS_STATUS_SUCCESS) {
      slot = nullptr;
      *why = "cublasLtCreate failed";
      return false;
    }
    handle = slot;
    const auto it = lt.choices.find(key);
    chosen = it != lt.choices.end();
    if (chosen) choice = it->second;
  }
  *why = "cuBLASLt has no algorithm for this product";
  if (chosen && !choice.any) return false;
  const Descriptors d(lt, p);
  if (!d.ok()) {
    *why = "cuBLASLt refuses to describe this product";
    return false;
  }
  const Run run = {lt, handle, p, d};
  if (!chosen) {
    cublasLtMatmulHeuristicResult_t list[kCandidates];
    const int count = candidates(lt, handle, p, d, p.integers ? kCandidates : 1, list);
    if (count == 1 || (count > 1 && !p.integers)) {
      choice.any = true;
      choice.algo = list[0].algo;
      choice.workspace = list[0].workspaceSize;
    } else if (count > 1) {
      choice = fastest(work, run, list, count);
    }
    if (!work.good()) return false;
    const std::lock_guard<std::mutex> guard(lt.lock);
    lt.choices[key] = choice;
    if (!choice.any) return false;
  }
  void* workspace = choice.workspace ? work.workspace(static_cast<int64_t>(choice.workspace)) : nullptr;
  if (!work.good()) return false;
  if (run(work, choice.algo, choice.workspace, workspace)) return true;
  *why = "cublasLtMatmul failed";
  return false;
}

CudaLibrary cublaslt_library() { return library_of(library().opened); }

#endif

void row_product(Work& work, const RowProduct& r) {
  LtProduct p = {};
  p.doubles = r.doubles;
  p.type = p.d_type = kFloat32;
  p.transpose_a = r.transpose_b;
  p.transpose_b = r.transpose_a;
  p.m = r.n;
  p.n = r.m;
  p.k = r.k;
  p.a = r.b;
  p.b = r.a;
  p.lda = r.transpose_b ? r.k : r.n;
  p.ldb = r.transpose_a ? r.m : r.k;
  p.ldd = r.n;
  p.batch = r.batch;
  p.a_batch = r.b_batch;
  p.b_batch = r.a_batch;
  p.d_batch = r.y_batch;
  p.alpha = 1;
  p.beta = r.add ? 1 : 0;
  p.bias = r.bias;
  p.d = r.y;
  const char* why = "";
  if (!lt_product(work, p, &why)) work.refuse(why);
}

}  // namespace whittle
