// cuBLASLt's contract on host memory, as far as cuda/cublaslt.cu uses it: NVIDIA's names and header, so that a drifted signature
// does not compile; opened through the production path. Rules cite the cuBLAS documentation ("Using the cuBLASLt API"). What it
// does not model ends the process. Work goes to the runtime's streams (runtime.h), which run it late.
#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>

#include "../runtime.h"

// What tests set and read, by dlsym.
extern "C" {
struct FakeCublasLt {
  int algorithms;       // how many the heuristics name; 0: none
  int fail_at;          // the call of cublasLtMatmul with this number fails, counted from 0; -1: none
  int calls;            // of cublasLtMatmul
  int last;             // the algorithm of the last one
  double costs[8];      // milliseconds of each algorithm
  uint64_t workspace;   // that each wants
};
__attribute__((visibility("default"))) FakeCublasLt fake_cublaslt = {3, -1, 0, -1, {3, 1, 2, 4, 4, 4, 4, 4}, 4096};
}

namespace {

struct Desc {
  cublasComputeType_t compute;
  cudaDataType_t scale;
  cublasOperation_t ta = CUBLAS_OP_N, tb = CUBLAS_OP_N;
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  const void* bias = nullptr;
  int32_t bias_type = -1;
};
struct Layout {
  cudaDataType_t type;
  uint64_t rows, cols;
  int64_t ld;
  int32_t batch = 1;
  int64_t stride = 0;
};
struct Preference {
  uint64_t workspace = 0;
  uint32_t alignment[4] = {256, 256, 256, 256};
};

[[noreturn]] void unmodelled(const char* what) {
  fprintf(stderr, "the fake cuBLASLt does not model %s\n", what);
  abort();
}

size_t size_of(cudaDataType_t t) { return t == CUDA_R_8I ? 1 : t == CUDA_R_16F || t == CUDA_R_16BF ? 2 : t == CUDA_R_64F ? 8 : 4; }

double value(const void* p, cudaDataType_t t, int64_t i) {
  switch (t) {
    case CUDA_R_32F: return static_cast<const float*>(p)[i];
    case CUDA_R_16F: return __half2float(static_cast<const __half*>(p)[i]);
    case CUDA_R_16BF: return __bfloat162float(static_cast<const __nv_bfloat16*>(p)[i]);
    default: unmodelled("an element type");
  }
}

// Tables "cublasLtMatmul() supported types": COMPUTE_32I with scale 32I takes 8I to 32I; COMPUTE_32F with scale 32F takes 16F and
// 16BF to themselves or 32F, and 32F to 32F; COMPUTE_64F with scale 64F takes 64F to 64F.
cublasStatus_t rules(const Desc& d, const Layout& a, const Layout& b, const Layout& c, const Layout& o) {
  const bool ta = d.ta == CUBLAS_OP_T, tb = d.tb == CUBLAS_OP_T;
  const uint64_t m = ta ? a.cols : a.rows, k = ta ? a.rows : a.cols, n = tb ? b.rows : b.cols;
  if ((tb ? b.cols : b.rows) != k || o.rows != m || o.cols != n || c.rows != m || c.cols != n || !m || !n || !k) return CUBLAS_STATUS_INVALID_VALUE;
  // "CUBLASLT_MATRIX_LAYOUT_LD: for COL order ld must be >= the number of rows"
  if (a.ld < int64_t(a.rows) || b.ld < int64_t(b.rows) || o.ld < int64_t(m)) return CUBLAS_STATUS_INVALID_VALUE;
  if (a.batch != b.batch || a.batch != o.batch || c.batch != o.batch) return CUBLAS_STATUS_INVALID_VALUE;
  if (c.type != o.type || a.type != b.type) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (d.compute == CUBLAS_COMPUTE_32I) {
    if (d.scale != CUDA_R_32I || a.type != CUDA_R_8I || o.type != CUDA_R_32I) return CUBLAS_STATUS_NOT_SUPPORTED;
    // "To use IMMA kernels: all matrix pointers 4-byte aligned (16 for speed), leading dimensions multiples of 4, only the
    // 'TN' format, dimensions m and k multiples of 4"
    if (!ta || tb || m % 4 || k % 4 || a.ld % 4 || b.ld % 4) return CUBLAS_STATUS_NOT_SUPPORTED;
    // "CUBLASLT_EPILOGUE_BIAS ... not supported for 32I output"
    if (d.epilogue != CUBLASLT_EPILOGUE_DEFAULT) return CUBLAS_STATUS_NOT_SUPPORTED;
    return CUBLAS_STATUS_SUCCESS;
  }
  if (d.compute == CUBLAS_COMPUTE_64F) {
    if (d.epilogue != CUBLASLT_EPILOGUE_DEFAULT) unmodelled("an epilogue of float64");
    return d.scale == CUDA_R_64F && a.type == CUDA_R_64F && o.type == CUDA_R_64F ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
  }
  if (d.compute != CUBLAS_COMPUTE_32F || d.scale != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (a.type != CUDA_R_32F && a.type != CUDA_R_16F && a.type != CUDA_R_16BF) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (o.type != a.type && o.type != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (d.epilogue != CUBLASLT_EPILOGUE_DEFAULT && d.epilogue != CUBLASLT_EPILOGUE_BIAS) unmodelled("an epilogue");
  // "CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE: default the type of D"
  if (d.epilogue == CUBLASLT_EPILOGUE_BIAS && (!d.bias || (d.bias_type != -1 && d.bias_type != o.type))) return CUBLAS_STATUS_NOT_SUPPORTED;
  return CUBLAS_STATUS_SUCCESS;
}

struct Work {
  Desc d;
  Layout a, b, o;
  const void *pa, *pb, *ws;
  void* po;
  size_t ws_bytes;
  double alpha, beta, cost;
  double* clock;
};

void compute(void* context) {
  Work* w = static_cast<Work*>(context);
  *w->clock += w->cost;
  // The workspace is the library's.
  if (w->ws_bytes) memset(const_cast<void*>(w->ws), 0xA5, w->ws_bytes);
  const bool ta = w->d.ta == CUBLAS_OP_T, tb = w->d.tb == CUBLAS_OP_T;
  const int64_t m = int64_t(w->o.rows), n = int64_t(w->o.cols), k = int64_t(ta ? w->a.rows : w->a.cols);
  for (int64_t t = 0; t < w->o.batch; t++)
    for (int64_t j = 0; j < n; j++)
      for (int64_t i = 0; i < m; i++) {
        const int64_t to = t * w->o.stride + j * w->o.ld + i;
        if (w->o.type == CUDA_R_32I) {
          int32_t sum = 0;
          for (int64_t q = 0; q < k; q++) sum += static_cast<const int8_t*>(w->pa)[i * w->a.ld + q] * static_cast<const int8_t*>(w->pb)[j * w->b.ld + q];
          static_cast<int32_t*>(w->po)[to] = sum;
          continue;
        }
        if (w->o.type == CUDA_R_64F) {
          const double* x = static_cast<const double*>(w->pa) + t * w->a.stride + (ta ? i * w->a.ld : i);
          const double* z = static_cast<const double*>(w->pb) + t * w->b.stride + (tb ? j : j * w->b.ld);
          const int64_t dx = ta ? 1 : w->a.ld, dz = tb ? w->b.ld : 1;
          double sum = 0;
          for (int64_t q = 0; q < k; q++) sum += x[q * dx] * z[q * dz];
          double& y = static_cast<double*>(w->po)[to];
          // "if beta is zero C is not read"
          y = w->beta == 0 ? w->alpha * sum : w->alpha * sum + w->beta * y;
          continue;
        }
        float sum = 0;
        for (int64_t q = 0; q < k; q++)
          sum = fmaf(static_cast<float>(value(w->pa, w->a.type, t * w->a.stride + (ta ? i * w->a.ld + q : q * w->a.ld + i))),
                     static_cast<float>(value(w->pb, w->b.type, t * w->b.stride + (tb ? q * w->b.ld + j : j * w->b.ld + q))), sum);
        float y = static_cast<float>(w->alpha) * sum;
        if (w->beta != 0) {
          if (w->o.type != CUDA_R_32F) unmodelled("what a narrow D holds");
          y += static_cast<float>(w->beta) * static_cast<const float*>(w->po)[to];
        }
        if (w->d.epilogue == CUBLASLT_EPILOGUE_BIAS) y += static_cast<float>(value(w->d.bias, w->o.type, i));
        if (w->o.type == CUDA_R_16F) static_cast<__half*>(w->po)[to] = __float2half_rn(y);
        else if (w->o.type == CUDA_R_16BF) static_cast<__nv_bfloat16*>(w->po)[to] = __float2bfloat16_rn(y);
        else static_cast<float*>(w->po)[to] = y;
      }
  delete w;
}

uint64_t bytes_of(const Layout& l) {
  return (uint64_t(l.batch - 1) * uint64_t(l.stride) + (l.cols - 1) * uint64_t(l.ld) + l.rows) * size_of(l.type);
}

template <class T>
cublasStatus_t copy(T* to, const void* from, size_t bytes) {
  // "sizeInBytes must match the attribute's size"
  if (bytes != sizeof(T)) return CUBLAS_STATUS_INVALID_VALUE;
  memcpy(to, from, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

}  // namespace

extern "C" {
#pragma GCC visibility push(default)

cublasStatus_t cublasLtCreate(cublasLtHandle_t* h) {
  *h = reinterpret_cast<cublasLtHandle_t>(&fake_cublaslt);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* d, cublasComputeType_t compute, cudaDataType_t scale) {
  *d = reinterpret_cast<cublasLtMatmulDesc_t>(new Desc{compute, scale});
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t d) {
  delete reinterpret_cast<Desc*>(d);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t p, cublasLtMatmulDescAttributes_t name, const void* v, size_t n) {
  Desc& d = *reinterpret_cast<Desc*>(p);
  switch (name) {
    case CUBLASLT_MATMUL_DESC_TRANSA: return copy(&d.ta, v, n);
    case CUBLASLT_MATMUL_DESC_TRANSB: return copy(&d.tb, v, n);
    case CUBLASLT_MATMUL_DESC_EPILOGUE: return copy(&d.epilogue, v, n);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER: return copy(&d.bias, v, n);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE: return copy(&d.bias_type, v, n);
    default: unmodelled("an attribute of a product");
  }
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* l, cudaDataType_t type, uint64_t rows, uint64_t cols, int64_t ld) {
  *l = reinterpret_cast<cublasLtMatrixLayout_t>(new Layout{type, rows, cols, ld});
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t l) {
  delete reinterpret_cast<Layout*>(l);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t p, cublasLtMatrixLayoutAttribute_t name, const void* v, size_t n) {
  Layout& l = *reinterpret_cast<Layout*>(p);
  if (name == CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT) return copy(&l.batch, v, n);
  if (name == CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET) return copy(&l.stride, v, n);
  unmodelled("an attribute of a layout");
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* p) {
  *p = reinterpret_cast<cublasLtMatmulPreference_t>(new Preference);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p) {
  delete reinterpret_cast<Preference*>(p);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t q, cublasLtMatmulPreferenceAttributes_t name, const void* v, size_t n) {
  Preference& p = *reinterpret_cast<Preference*>(q);
  if (name == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES) return copy(&p.workspace, v, n);
  if (name >= CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES && name <= CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES)
    return copy(&p.alignment[name - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES], v, n);
  unmodelled("a preference");
}
// "CUBLAS_STATUS_NOT_SUPPORTED if no heuristic function is available for the current configuration"
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t h, cublasLtMatmulDesc_t d, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t o, cublasLtMatmulPreference_t p, int wanted,
                                              cublasLtMatmulHeuristicResult_t results[], int* got) {
  *got = 0;
  if (!h || wanted < 1) return CUBLAS_STATUS_INVALID_VALUE;
  const cublasStatus_t s = rules(*reinterpret_cast<Desc*>(d), *reinterpret_cast<Layout*>(a), *reinterpret_cast<Layout*>(b),
                                 *reinterpret_cast<Layout*>(c), *reinterpret_cast<Layout*>(o));
  if (s != CUBLAS_STATUS_SUCCESS) return s;
  static const bool none = getenv("FAKE_CUBLASLT_NONE") != nullptr;
  if (fake_cublaslt.algorithms == 0 || none) return CUBLAS_STATUS_NOT_SUPPORTED;
  for (int i = 0; i < std::min(wanted, fake_cublaslt.algorithms); i++) {
    memset(&results[i], 0, sizeof results[i]);
    results[i].algo.data[0] = static_cast<uint64_t>(i) + 1;
    results[i].workspaceSize = std::min<uint64_t>(reinterpret_cast<Preference*>(p)->workspace, fake_cublaslt.workspace);
    results[i].state = CUBLAS_STATUS_SUCCESS;
    ++*got;
  }
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmul(cublasLtHandle_t h, cublasLtMatmulDesc_t pd, const void* alpha, const void* pa, cublasLtMatrixLayout_t la, const void* pb,
                              cublasLtMatrixLayout_t lb, const void* beta, const void* pc, cublasLtMatrixLayout_t lc, void* po,
                              cublasLtMatrixLayout_t lo, const cublasLtMatmulAlgo_t* algo, void* ws, size_t ws_bytes, cudaStream_t stream) {
  if (fake_cublaslt.calls++ == fake_cublaslt.fail_at) return CUBLAS_STATUS_EXECUTION_FAILED;
  if (!h || !stream) unmodelled("a product without a handle or on the legacy default stream");
  const Desc& d = *reinterpret_cast<Desc*>(pd);
  const Layout &a = *reinterpret_cast<Layout*>(la), &b = *reinterpret_cast<Layout*>(lb), &c = *reinterpret_cast<Layout*>(lc), &o = *reinterpret_cast<Layout*>(lo);
  const cublasStatus_t s = rules(d, a, b, c, o);
  if (s != CUBLAS_STATUS_SUCCESS) return s;
  if (!algo || algo->data[0] < 1 || algo->data[0] > 8) unmodelled("an algorithm that the heuristics did not name");
  const int which = static_cast<int>(algo->data[0]) - 1;
  // "CUBLAS_STATUS_INVALID_VALUE ... when workspaceSizeInBytes is less than workspace required by configured algo"; "the
  // workspace must be 256-byte aligned"
  if (ws_bytes < fake_cublaslt.workspace || (ws_bytes && (!ws || reinterpret_cast<uintptr_t>(ws) % 256))) return CUBLAS_STATUS_INVALID_VALUE;
  const uintptr_t aligned = a.type == CUDA_R_64F ? 8 : 16;
  if (reinterpret_cast<uintptr_t>(pa) % aligned || reinterpret_cast<uintptr_t>(pb) % aligned || reinterpret_cast<uintptr_t>(po) % aligned) return CUBLAS_STATUS_NOT_SUPPORTED;
  // "if beta is zero C is not read"; other factors than these are not used
  const bool wide = d.scale == CUDA_R_64F;
  if (d.scale == CUDA_R_32I ? *static_cast<const int32_t*>(alpha) != 1 || *static_cast<const int32_t*>(beta) != 0
                            : !wide && *static_cast<const float*>(beta) != 0 && *static_cast<const float*>(beta) != 1)
    unmodelled("a factor");
  if (pc != po) unmodelled("a C that is not D");
  const fake::StreamHead* head = reinterpret_cast<const fake::StreamHead*>(stream);
  const auto there = [&](const void* p, uint64_t n) { return head->on_device(p, n); };
  if (!there(pa, bytes_of(a)) || !there(pb, bytes_of(b)) || !there(po, bytes_of(o)) || (ws_bytes && !there(ws, ws_bytes)) ||
      (d.epilogue == CUBLASLT_EPILOGUE_BIAS && !there(d.bias, o.rows * size_of(o.type)))) {
    fprintf(stderr, "cublasLtMatmul was given memory that is not the device's, or too little of it\n");
    abort();
  }
  fake_cublaslt.last = which;
  const double factor = d.scale == CUDA_R_32I ? 1 : wide ? *static_cast<const double*>(alpha) : *static_cast<const float*>(alpha);
  const double add = wide ? *static_cast<const double*>(beta) : d.scale == CUDA_R_32I ? 0 : *static_cast<const float*>(beta);
  head->enqueue(stream, compute, new Work{d, a, b, o, pa, pb, ws, po, ws_bytes, factor, add, fake_cublaslt.costs[which], head->clock});
  return CUBLAS_STATUS_SUCCESS;
}

#pragma GCC visibility pop
}
