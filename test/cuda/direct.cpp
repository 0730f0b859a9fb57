// cuda_direct [--small]: products through the contract beside cuBLASLt called directly, one after the other in turn, medians of 25
// rounds. Both with the wait for their results on the host's clock; cuBLASLt also by events, the device's clock. cuBLASLt gets the
// fastest of eight of its algorithms. Ours does more: scales for each column and float32 results after sums of bytes.
// On the emulator (cuda_direct_emulated) only that it works is shown: its times mean nothing.
#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <chrono>
#include <vector>

#include "core/cuda.h"
#include "core/gemm_int8.h"

extern "C" const whittle::CudaBackend* whittle_cuda();

namespace whittle {
namespace {

constexpr int kRounds = 25;
constexpr size_t kWorkspace = size_t(32) << 20;

#define FUNCTIONS(X)                                                                                           \
  X(cublasLtCreate) X(cublasLtMatmul) X(cublasLtMatmulAlgoGetHeuristic) X(cublasLtMatmulDescCreate)             \
  X(cublasLtMatmulDescSetAttribute) X(cublasLtMatmulPreferenceCreate) X(cublasLtMatmulPreferenceSetAttribute) \
  X(cublasLtMatrixLayoutCreate)
struct Lt {
#define X(name) decltype(&::name) name = nullptr;
  FUNCTIONS(X)
#undef X
  cublasLtHandle_t handle = nullptr;
} lt;

[[noreturn]] void stop(const char* what, const char* why) {
  fprintf(stderr, "cuda_direct: %s: %s\n", what, why);
  exit(1);
}
void check(cudaError_t e, const char* what) {
  if (e != cudaSuccess) stop(what, "the runtime refuses");
}
void check(cublasStatus_t s, const char* what) {
  if (s != CUBLAS_STATUS_SUCCESS) stop(what, "cuBLASLt refuses");
}
#define CALL(expression) check(expression, #expression)

void open_library() {
  const char* path = getenv("WHITTLE_CUBLASLT_LIBRARY");
  char name[32];
  snprintf(name, sizeof name, "libcublasLt.so.%d", CUBLAS_VER_MAJOR);
  void* library = dlopen(path && *path ? path : name, RTLD_NOW | RTLD_LOCAL);
  if (!library) stop("libcublasLt", dlerror());
#define X(name)                                                  \
  lt.name = reinterpret_cast<decltype(lt.name)>(dlsym(library, #name)); \
  if (!lt.name) stop(#name, "not in the library");
  FUNCTIONS(X)
#undef X
  CALL(lt.cublasLtCreate(&lt.handle));
}

struct Memory {
  void* p = nullptr;
  explicit Memory(int64_t bytes) { CALL(cudaMalloc(&p, static_cast<size_t>(bytes))); }
  ~Memory() { cudaFree(p); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
};

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }
double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

struct Kind {
  const char* name;
  bool integers;
  FloatType type;
  cudaDataType_t in, out;
  int64_t size, out_size;
};

// y (m x n, row-major) = x (m x k) w (n x k)^T: column-major, w transposed is A and x is B.
class Direct {
 public:
  Direct(const Kind& kind, int64_t m, int64_t n, int64_t k, const void* x, const void* w, void* y, cudaStream_t stream)
      : kind_(kind), x_(x), w_(w), y_(y), stream_(stream), workspace_(static_cast<int64_t>(kWorkspace)) {
    CALL(lt.cublasLtMatmulDescCreate(&desc_, kind.integers ? CUBLAS_COMPUTE_32I : CUBLAS_COMPUTE_32F, kind.integers ? CUDA_R_32I : CUDA_R_32F));
    const cublasOperation_t transposed = CUBLAS_OP_T;
    CALL(lt.cublasLtMatmulDescSetAttribute(desc_, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed));
    CALL(lt.cublasLtMatrixLayoutCreate(&a_, kind.in, static_cast<uint64_t>(k), static_cast<uint64_t>(n), k));
    CALL(lt.cublasLtMatrixLayoutCreate(&b_, kind.in, static_cast<uint64_t>(k), static_cast<uint64_t>(m), k));
    CALL(lt.cublasLtMatrixLayoutCreate(&d_, kind.out, static_cast<uint64_t>(n), static_cast<uint64_t>(m), n));
    cublasLtMatmulPreference_t preference = nullptr;
    CALL(lt.cublasLtMatmulPreferenceCreate(&preference));
    const uint64_t most = kWorkspace;
    CALL(lt.cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &most, sizeof most));
    cublasLtMatmulHeuristicResult_t list[8];
    int count = 0;
    CALL(lt.cublasLtMatmulAlgoGetHeuristic(lt.handle, desc_, a_, b_, d_, d_, preference, 8, list, &count));
    CALL(cudaEventCreate(&start_));
    CALL(cudaEventCreate(&end_));
    double least = 0;
    for (int i = 0; i < count; i++) {
      if (list[i].state != CUBLAS_STATUS_SUCCESS) continue;
      algo_ = list[i].algo;
      bytes_ = list[i].workspaceSize;
      run();
      const double took = run();
      if (best_ < 0 || took < least) {
        best_ = i;
        least = took;
      }
    }
    if (best_ < 0) stop(kind.name, "cuBLASLt has no algorithm");
    algo_ = list[best_].algo;
    bytes_ = list[best_].workspaceSize;
  }
  // Seconds by events.
  double run() {
    const int32_t one = 1, none = 0;
    const float unit = 1, zero = 0;
    CALL(cudaEventRecord(start_, stream_));
    CALL(lt.cublasLtMatmul(lt.handle, desc_, kind_.integers ? static_cast<const void*>(&one) : &unit, w_, a_, x_, b_,
                           kind_.integers ? static_cast<const void*>(&none) : &zero, y_, d_, y_, d_, &algo_, workspace_.p, bytes_, stream_));
    CALL(cudaEventRecord(end_, stream_));
    CALL(cudaStreamSynchronize(stream_));
    float ms = 0;
    CALL(cudaEventElapsedTime(&ms, start_, end_));
    return ms * 1e-3;
  }

 private:
  const Kind& kind_;
  const void *x_, *w_;
  void* y_;
  cudaStream_t stream_;
  Memory workspace_;
  cublasLtMatmulDesc_t desc_ = nullptr;
  cublasLtMatrixLayout_t a_ = nullptr, b_ = nullptr, d_ = nullptr;
  cudaEvent_t start_ = nullptr, end_ = nullptr;
  cublasLtMatmulAlgo_t algo_ = {};
  size_t bytes_ = 0;
  int best_ = -1;
};

void compare(const Kind& kind, int64_t m, int64_t n, int64_t k, cudaStream_t stream) {
  const CudaBackend& cuda = *whittle_cuda();
  const Memory x(m * k * kind.size), w(n * k * kind.size), mine(m * n * 4), theirs(m * n * kind.out_size), scales(n * 4);
  const Memory data(cuda_int8_rows(n) * cuda_int8_row(k)), sums(cuda_int8_rows(n) * 4);
  // Zeros would need less power than numbers: 1 in every format is what floats get, bytes differ.
  std::vector<uint16_t> words(static_cast<size_t>(std::max(m, n) * k * std::max<int64_t>(kind.size, 2) / 2));
  for (size_t i = 0; i < words.size(); i++)
    words[i] = kind.integers ? static_cast<uint16_t>(i * 40503u) : kind.type == kFloat16 ? 0x3c00 : kind.type == kBfloat16 ? 0x3f80 : i % 2 ? 0x3f80 : 0;
  const std::vector<float> ones(static_cast<size_t>(n), 1.0f);
  if (cuda.upload(0, x.p, words.data(), m * k * kind.size) != WHITTLE_OK || cuda.upload(0, w.p, words.data(), n * k * kind.size) != WHITTLE_OK ||
      cuda.upload(0, scales.p, ones.data(), n * 4) != WHITTLE_OK)
    stop("upload", cuda.error());
  PackedInt8 weights = {};
  GemmInt8Args bytes = {};
  CudaGemm floats = {};
  if (kind.integers) {
    if (cuda.pack_int8(0, static_cast<const uint8_t*>(w.p), false, true, k, n, static_cast<int8_t*>(data.p), static_cast<int32_t*>(sums.p)) != WHITTLE_OK)
      stop("pack", cuda.error());
    weights = {k, n, 0, false, 0, static_cast<int8_t*>(data.p), static_cast<int32_t*>(sums.p)};
    bytes.m = m;
    bytes.n = n;
    bytes.k = k;
    bytes.batch = 1;
    bytes.a_signed = true;
    bytes.a = static_cast<const uint8_t*>(x.p);
    bytes.packed = &weights;
    bytes.a_scale = bytes.b_scale = bytes.out_scale = 1;
    bytes.b_scales = static_cast<const float*>(scales.p);
    bytes.out_type = kOutFloat32;
    bytes.out = mine.p;
  } else {
    floats.type = kind.type;
    floats.a = x.p;
    floats.b = w.p;
    floats.transpose_b = true;
    floats.m = m;
    floats.n = n;
    floats.k = k;
    floats.batch = 1;
    floats.alpha = 1;
    floats.y = mine.p;
  }
  const auto ours = [&] {
    int32_t fault = 0;
    const WhittleStatus s = kind.integers ? cuda.gemm_int8(0, bytes, &fault) : cuda.gemm(0, floats);
    if (s != WHITTLE_OK) stop(kind.name, cuda.error());
  };
  Direct direct(kind, m, n, k, x.p, w.p, theirs.p, stream);
  for (int i = 0; i < 3; i++) ours();
  std::vector<double> own, other, device;
  for (int i = 0; i < kRounds; i++) {
    double t = now();
    ours();
    own.push_back(now() - t);
    t = now();
    device.push_back(direct.run());
    other.push_back(now() - t);
  }
  // The numbers are such that both have the same first result.
  float first = 0;
  int32_t sum = 0;
  uint16_t half = 0;
  cuda.download(0, &first, mine.p, kind.integers ? 4 : kind.size);
  bool same = false;
  if (kind.integers) {
    cuda.download(0, &sum, theirs.p, 4);
    same = first == static_cast<float>(sum);
  } else {
    float their = 0;
    cuda.download(0, &their, theirs.p, kind.out_size);
    memcpy(&half, &first, 2);
    same = memcmp(&first, &their, static_cast<size_t>(kind.size)) == 0;
  }
  if (!same) stop(kind.name, "the results differ");
  const double a = median(own), b = median(other), c = median(device);
  printf("%-9s %5lld x %5lld x %5lld  %10.1f us  %10.1f us  %10.1f us  %5.2f  %8.1f GOP/s\n", kind.name, static_cast<long long>(m), static_cast<long long>(n),
         static_cast<long long>(k), a * 1e6, b * 1e6, c * 1e6, b / a, 2e-9 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k) / a);
  fflush(stdout);
}

}  // namespace
}  // namespace whittle

int main(int argc, char** argv) {
  using namespace whittle;
  const bool small = argc > 1 && strcmp(argv[1], "--small") == 0;
  CudaProbe probe = {};
  whittle_cuda()->probe(&probe);
  if (probe.state != kCudaReady) stop("no device", probe.text);
  open_library();
  CALL(cudaSetDevice(0));
  cudaStream_t stream = nullptr;
  CALL(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  if (whittle_cuda()->emulated) printf("emulated: these times mean nothing\n");
  printf("product   rows x columns x k        ours         direct       by events   ratio  ours\n");
  const Kind kinds[] = {{"int8", true, kFloat32, CUDA_R_8I, CUDA_R_32I, 1, 4},
                        {"float32", false, kFloat32, CUDA_R_32F, CUDA_R_32F, 4, 4},
                        {"float16", false, kFloat16, CUDA_R_16F, CUDA_R_16F, 2, 2},
                        {"bfloat16", false, kBfloat16, CUDA_R_16BF, CUDA_R_16BF, 2, 2}};
  const int64_t by = small ? 128 : 1;
  for (const Kind& kind : kinds)
    for (const int64_t m : {int64_t(1), int64_t(16), int64_t(512), int64_t(4096)})
      for (const int64_t n : {int64_t(1024), int64_t(4096)}) compare(kind, std::max<int64_t>(m / by, m < 512 ? m : 4), n / by, n / by * (small ? 4 : 1), stream);
  return 0;
}
