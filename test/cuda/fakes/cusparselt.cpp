// cuSPARSELt's contract on host memory, as far as cuda/cusparselt.cu uses it: the documented names and signatures
// (cuda/cusparselt_api.h, which a test holds against NVIDIA's header), opened through the production path. Rules cite NVIDIA's
// cuSPARSELt documentation, "cuSPARSELt Functions". What it does not model ends the process. Work goes to the runtime's streams.
#include "cuda/cusparselt_api.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../runtime.h"

// What tests set and read, by dlsym.
extern "C" {
struct FakeCusparseLt {
  int calls;        // of functions that answer a status, in the order in which cuda/cusparselt.cu makes them
  int fail_at;      // the one with this number answers `failure`, counted from 0; -1: none
  int failure;      // a cusparseStatus_t
  int products;     // put on streams
  uint64_t workspace;
};
__attribute__((visibility("default"))) FakeCusparseLt fake_cusparselt = {0, -1, CUSPARSE_STATUS_NOT_SUPPORTED, 0, 256};
}

namespace {

enum : uint64_t { kHandle = 0x4c74, kMatrix, kProduct, kSelection, kPlan };

struct Matrix {
  uint64_t kind;
  int64_t rows, cols, ld;
  cudaDataType type;
  bool sparse;
};
struct Product {
  uint64_t kind;
  Matrix a, b, d;
};
struct Plan {
  uint64_t kind;
  Product p;
};

[[noreturn]] void unmodelled(const char* what) {
  fprintf(stderr, "the fake cuSPARSELt does not model %s\n", what);
  abort();
}

bool fails() { return fake_cusparselt.calls++ == fake_cusparselt.fail_at; }
cusparseStatus_t failure() { return static_cast<cusparseStatus_t>(fake_cusparselt.failure); }

// "Calling any cusparseLt function ... without a previous call of cusparseLtInit() will return an error"; likewise descriptors.
template <class T>
const T& opened(const void* p, uint64_t kind) {
  const T* t = static_cast<const T*>(p);
  uint64_t found;
  memcpy(&found, p, sizeof found);
  if (found != kind) unmodelled("a struct that was not initialized, or is gone");
  return *t;
}
void check(const cusparseLtHandle_t* h) { opened<uint64_t>(h, kHandle); }

template <class T, class Opaque>
void put(Opaque* to, const T& from) {
  static_assert(sizeof(T) <= sizeof(Opaque), "room");
  memcpy(static_cast<void*>(to), &from, sizeof from);
}

cusparseStatus_t describe(const cusparseLtHandle_t* h, cusparseLtMatDescriptor_t* made, int64_t rows, int64_t cols, int64_t ld, uint32_t alignment,
                          cudaDataType type, cusparseOrder_t order, bool sparse) {
  if (fails()) return failure();
  check(h);
  if (order != CUSPARSE_ORDER_ROW) unmodelled("columns one after the other");
  // "rows, cols and ld must be a multiple of ... 32 for int8 where sparse, 16 where dense; 4 for 32-bit types"; "alignment: multiple of 16"
  const int64_t unit = type == CUDA_R_8I ? (sparse ? 32 : 16) : 4;
  if (rows <= 0 || cols <= 0 || ld < cols || rows % unit || cols % unit || ld % unit || alignment % 16) return CUSPARSE_STATUS_NOT_SUPPORTED;
  put(made, Matrix{kMatrix, rows, cols, ld, type, sparse});
  return CUSPARSE_STATUS_SUCCESS;
}

uint64_t kept(const Matrix& a) { return uint64_t(a.rows) * uint64_t(a.cols) / 2; }

struct Compress {
  Matrix a;
  const int8_t* dense;
  uint8_t* to;
};
// Values, then their places, two of every four.
void compress(void* context) {
  Compress* c = static_cast<Compress*>(context);
  uint8_t* places = c->to + kept(c->a);
  uint64_t at = 0;
  for (int64_t i = 0; i < c->a.rows; i++)
    for (int64_t group = 0; group < c->a.cols; group += 4) {
      int count = 0;
      for (int j = 0; j < 4; j++) {
        const int8_t v = c->dense[i * c->a.ld + group + j];
        if (v == 0) continue;
        // "the matrix must be pruned": else "the result is undefined"
        if (count == 2) unmodelled("three values of four");
        c->to[at + uint64_t(count)] = static_cast<uint8_t>(v);
        places[at + uint64_t(count++)] = static_cast<uint8_t>(j);
      }
      for (; count < 2; count++) c->to[at + uint64_t(count)] = places[at + uint64_t(count)] = 0;
      at += 2;
    }
  delete c;
}

struct Multiply {
  Product p;
  const uint8_t* a;
  const int8_t* b;
  int32_t* d;
  void* workspace;
  uint64_t bytes;
  float alpha;
};
void multiply(void* context) {
  Multiply* m = static_cast<Multiply*>(context);
  memset(m->workspace, 0xA5, m->bytes);  // the library's own
  const Matrix& a = m->p.a;
  const uint8_t* places = m->a + kept(a);
  for (int64_t i = 0; i < a.rows; i++)
    for (int64_t j = 0; j < m->p.b.rows; j++) {
      int32_t sum = 0;
      for (int64_t e = 0; e < a.cols / 2; e++) {
        const int64_t at = i * (a.cols / 2) + e;
        sum += static_cast<int8_t>(m->a[at]) * m->b[j * m->p.b.ld + e / 2 * 4 + places[at]];
      }
      // alpha is a float: nothing says that sums it cannot hold stay what they are.
      m->d[i * m->p.d.ld + j] = static_cast<int32_t>(m->alpha * static_cast<float>(sum));
    }
  delete m;
}

}  // namespace

extern "C" {
#pragma GCC visibility push(default)

// A version before 0.8 in the tests that ask for it.
cusparseStatus_t cusparseLtGetProperty(libraryPropertyType property, int* value) {
  const char* minor = getenv("FAKE_CUSPARSELT_MINOR");
  *value = property == MINOR_VERSION ? (minor ? atoi(minor) : 8) : 0;
  return CUSPARSE_STATUS_SUCCESS;
}
cusparseStatus_t cusparseLtInit(cusparseLtHandle_t* h) {
  if (fails()) return failure();
  put(h, uint64_t(kHandle));
  return CUSPARSE_STATUS_SUCCESS;
}
cusparseStatus_t cusparseLtDenseDescriptorInit(const cusparseLtHandle_t* h, cusparseLtMatDescriptor_t* made, int64_t rows, int64_t cols, int64_t ld,
                                               uint32_t alignment, cudaDataType type, cusparseOrder_t order) {
  return describe(h, made, rows, cols, ld, alignment, type, order, false);
}
cusparseStatus_t cusparseLtStructuredDescriptorInit(const cusparseLtHandle_t* h, cusparseLtMatDescriptor_t* made, int64_t rows, int64_t cols, int64_t ld,
                                                    uint32_t alignment, cudaDataType type, cusparseOrder_t order, cusparseLtSparsity_t) {
  return describe(h, made, rows, cols, ld, alignment, type, order, true);
}
cusparseStatus_t cusparseLtMatDescriptorDestroy(const cusparseLtMatDescriptor_t* m) {
  opened<Matrix>(m, kMatrix);
  memset(const_cast<cusparseLtMatDescriptor_t*>(m), 0, sizeof *m);
  return CUSPARSE_STATUS_SUCCESS;
}
cusparseStatus_t cusparseLtMatmulDescriptorInit(const cusparseLtHandle_t* h, cusparseLtMatmulDescriptor_t* made, cusparseOperation_t op_a,
                                                cusparseOperation_t op_b, const cusparseLtMatDescriptor_t* pa, const cusparseLtMatDescriptor_t* pb,
                                                const cusparseLtMatDescriptor_t* pc, const cusparseLtMatDescriptor_t* pd, cusparseComputeType compute) {
  if (fails()) return failure();
  check(h);
  const Matrix &a = opened<Matrix>(pa, kMatrix), &b = opened<Matrix>(pb, kMatrix), &d = opened<Matrix>(pd, kMatrix);
  // "A, B CUDA_R_8I, C, D CUDA_R_32I, CUSPARSE_COMPUTE_32I"; of int8 "only opA N and opB T where both are row-major"; "C and D the same descriptor"
  if (compute != CUSPARSE_COMPUTE_32I || a.type != CUDA_R_8I || b.type != CUDA_R_8I || d.type != CUDA_R_32I || pc != pd || !a.sparse || b.sparse || d.sparse ||
      op_a != CUSPARSE_OPERATION_NON_TRANSPOSE || op_b != CUSPARSE_OPERATION_TRANSPOSE)
    return CUSPARSE_STATUS_NOT_SUPPORTED;
  if (a.cols != b.cols || d.rows != a.rows || d.cols != b.rows) return CUSPARSE_STATUS_INVALID_VALUE;
  put(made, Product{kProduct, a, b, d});
  return CUSPARSE_STATUS_SUCCESS;
}
cusparseStatus_t cusparseLtMatmulAlgSelectionInit(const cusparseLtHandle_t* h, cusparseLtMatmulAlgSelection_t* made, const cusparseLtMatmulDescriptor_t* p,
                                                  cusparseLtMatmulAlg_t) {
  if (fails()) return failure();
  check(h);
  opened<Product>(p, kProduct);
  put(made, uint64_t(kSelection));
  return CUSPARSE_STATUS_SUCCESS;
}
cusparseStatus_t cusparseLtMatmulAlgSelectionDestroy(const cusparseLtMatmulAlgSelection_t* s) {
  opened<uint64_t>(s, kSelection);
  return CUSPARSE_STATUS_SUCCESS;
}
cusparseStatus_t cusparseLtMatmulPlanInit(const cusparseLtHandle_t* h, cusparseLtMatmulPlan_t* made, const cusparseLtMatmulDescriptor_t* p,
                                          const cusparseLtMatmulAlgSelection_t* s) {
  if (fails()) return failure();
  check(h);
  opened<uint64_t>(s, kSelection);
  put(made, Plan{kPlan, opened<Product>(p, kProduct)});
  return CUSPARSE_STATUS_SUCCESS;
}
cusparseStatus_t cusparseLtMatmulPlanDestroy(const cusparseLtMatmulPlan_t* p) {
  opened<Plan>(p, kPlan);
  return CUSPARSE_STATUS_SUCCESS;
}
cusparseStatus_t cusparseLtMatmulGetWorkspace(const cusparseLtHandle_t* h, const cusparseLtMatmulPlan_t* p, size_t* bytes) {
  if (fails()) return failure();
  check(h);
  opened<Plan>(p, kPlan);
  *bytes = fake_cusparselt.workspace;
  return CUSPARSE_STATUS_SUCCESS;
}
cusparseStatus_t cusparseLtSpMMACompressedSize2(const cusparseLtHandle_t* h, const cusparseLtMatDescriptor_t* m, size_t* compressed, size_t* buffer) {
  if (fails()) return failure();
  check(h);
  *compressed = 2 * kept(opened<Matrix>(m, kMatrix));
  *buffer = 128;
  return CUSPARSE_STATUS_SUCCESS;
}
// "sparseMatDescr: structured (sparse) matrix descriptor; isSparseA: specify if the structured matrix is in the first position"
cusparseStatus_t cusparseLtSpMMACompress2(const cusparseLtHandle_t* h, const cusparseLtMatDescriptor_t* m, int is_a, cusparseOperation_t op, const void* dense,
                                          void* to, void* buffer, cudaStream_t stream) {
  if (fails()) return failure();
  check(h);
  const Matrix& a = opened<Matrix>(m, kMatrix);
  if (!a.sparse || a.type != CUDA_R_8I) return CUSPARSE_STATUS_INVALID_VALUE;
  if (!is_a || op != CUSPARSE_OPERATION_NON_TRANSPOSE) unmodelled("a sparse matrix in the second place, or transposed");
  fake::StreamHead* head = reinterpret_cast<fake::StreamHead*>(stream);
  if (!head) unmodelled("the legacy default stream");
  if (!head->on_device(dense, uint64_t(a.rows * a.ld)) || !head->on_device(to, 2 * kept(a)) || !head->on_device(buffer, 128))
    unmodelled("memory that is not the device's, or too little of it");
  head->enqueue(stream, compress, new Compress{a, static_cast<const int8_t*>(dense), static_cast<uint8_t*>(to)});
  return CUSPARSE_STATUS_SUCCESS;
}
cusparseStatus_t cusparseLtMatmul(const cusparseLtHandle_t* h, const cusparseLtMatmulPlan_t* plan, const void* alpha, const void* a, const void* b,
                                  const void* beta, const void* c, void* d, void* workspace, cudaStream_t* streams, int32_t count) {
  if (fails()) return failure();
  check(h);
  const Product& p = opened<Plan>(plan, kPlan).p;
  if (count != 1 || !streams || !streams[0]) unmodelled("other than one stream");
  // "alpha, beta: float scalars of the host"
  if (*static_cast<const float*>(alpha) != 1 || *static_cast<const float*>(beta) != 0 || c != d) unmodelled("a factor");
  fake::StreamHead* head = reinterpret_cast<fake::StreamHead*>(streams[0]);
  if (!head->on_device(a, 2 * kept(p.a)) || !head->on_device(b, uint64_t(p.b.rows * p.b.ld)) || !head->on_device(d, uint64_t(p.d.rows * p.d.ld) * 4) ||
      !head->on_device(workspace, fake_cusparselt.workspace))
    unmodelled("memory that is not the device's, or too little of it");
  if ((reinterpret_cast<uintptr_t>(a) | reinterpret_cast<uintptr_t>(b) | reinterpret_cast<uintptr_t>(d)) % 16) return CUSPARSE_STATUS_INVALID_VALUE;
  fake_cusparselt.products++;
  head->enqueue(streams[0], multiply, new Multiply{p, static_cast<const uint8_t*>(a), static_cast<const int8_t*>(b), static_cast<int32_t*>(d), workspace,
                                                   fake_cusparselt.workspace, *static_cast<const float*>(alpha)});
  return CUSPARSE_STATUS_SUCCESS;
}

#pragma GCC visibility pop
}
