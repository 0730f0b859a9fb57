// cuSPARSE's contract on host memory, as far as cuda/cusparse.cu uses it: the documented names and signatures
// (cuda/cusparse_api.h, which a test holds against NVIDIA's header), opened through the production path. Rules cite the cuSPARSE
// documentation, "cuSPARSE Generic APIs". What it does not model ends the process. Work goes to the runtime's streams (runtime.h).
#include "cuda/cusparse_api.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../runtime.h"

// What tests set and read, by dlsym.
extern "C" {
struct FakeCusparse {
  int calls;          // of functions that answer a status, in the order in which cuda/cusparse.cu makes them
  int fail_at;        // the one with this number answers `failure`, counted from 0; -1: none
  int failure;        // a cusparseStatus_t
  int products;       // put on streams
  uint64_t workspace;
};
__attribute__((visibility("default"))) FakeCusparse fake_cusparse = {0, -1, CUSPARSE_STATUS_NOT_SUPPORTED, 0, 512};
}

struct cusparseContext {
  cudaStream_t stream = nullptr;
};
struct cusparseSpMatDescr {
  int64_t rows, cols, entries;
  const int32_t *first, *column;
  const void* values;
  cudaDataType type;
};
struct cusparseDnMatDescr {
  int64_t rows, cols, ld;
  void* values;
  cudaDataType type;
  cusparseOrder_t order;
};

namespace {

int alive = 0;  // descriptors

[[noreturn]] void unmodelled(const char* what) {
  fprintf(stderr, "the fake cuSPARSE does not model %s\n", what);
  abort();
}

bool fails() { return fake_cusparse.calls++ == fake_cusparse.fail_at; }
cusparseStatus_t failure() { return static_cast<cusparseStatus_t>(fake_cusparse.failure); }

struct Work {
  cusparseSpMatDescr a;
  cusparseDnMatDescr b, c;
  void* buffer;
  size_t bytes;
};

void compute(void* context) {
  Work* w = static_cast<Work*>(context);
  memset(w->buffer, 0xA5, w->bytes);  // the library's own
  for (int64_t i = 0; i < w->a.rows; i++) {
    if (w->a.first[i] > w->a.first[i + 1] || (i == 0 && w->a.first[0] != 0) || w->a.first[i + 1] > w->a.entries) unmodelled("rows out of order");
    for (int64_t j = 0; j < w->c.cols; j++) {
      float sum = 0;
      int32_t whole = 0;
      for (int32_t e = w->a.first[i]; e < w->a.first[i + 1]; e++) {
        const int64_t p = w->a.column[e], at = p * w->b.ld + j;
        if (p < 0 || p >= w->a.cols) unmodelled("a column out of range");
        if (w->a.type == CUDA_R_32F) sum = fmaf(static_cast<const float*>(w->a.values)[e], static_cast<const float*>(w->b.values)[at], sum);
        else whole += static_cast<const int8_t*>(w->a.values)[e] * static_cast<const int8_t*>(w->b.values)[at];
      }
      // "if beta is zero C is not read"
      if (w->a.type == CUDA_R_32F) static_cast<float*>(w->c.values)[i * w->c.ld + j] = sum;
      else static_cast<int32_t*>(w->c.values)[i * w->c.ld + j] = whole;
    }
  }
  delete w;
}

cusparseStatus_t rules(cusparseHandle_t h, cusparseOperation_t op_a, cusparseOperation_t op_b, const cusparseSpMatDescr& a, const cusparseDnMatDescr& b,
                       const cusparseDnMatDescr& c, cudaDataType compute, cusparseSpMMAlg_t algorithm) {
  if (!h || !h->stream) unmodelled("the legacy default stream");
  // "CUSPARSE_SPMM_CSR_ALG3 ... supports only opA == CUSPARSE_OPERATION_NON_TRANSPOSE"; the one for CSR with the same bits from run to run
  if (algorithm != CUSPARSE_SPMM_CSR_ALG3 || op_a != CUSPARSE_OPERATION_NON_TRANSPOSE || op_b != CUSPARSE_OPERATION_NON_TRANSPOSE) unmodelled("an algorithm");
  if (a.cols != b.rows || a.rows != c.rows || b.cols != c.cols) return CUSPARSE_STATUS_INVALID_VALUE;
  // "A/B/C/computeType: CUDA_R_32F"; mixed precision: "A/B CUDA_R_8I, C and computeType CUDA_R_32I"
  const bool floats = a.type == CUDA_R_32F && b.type == CUDA_R_32F && c.type == CUDA_R_32F && compute == CUDA_R_32F;
  const bool bytes = a.type == CUDA_R_8I && b.type == CUDA_R_8I && c.type == CUDA_R_32I && compute == CUDA_R_32I;
  return floats || bytes ? CUSPARSE_STATUS_SUCCESS : CUSPARSE_STATUS_NOT_SUPPORTED;
}

}  // namespace

extern "C" {
#pragma GCC visibility push(default)

cusparseStatus_t cusparseCreate(cusparseHandle_t* h) {
  if (fails()) return failure();
  *h = new cusparseContext;
  return CUSPARSE_STATUS_SUCCESS;
}
cusparseStatus_t cusparseSetStream(cusparseHandle_t h, cudaStream_t stream) {
  if (fails()) return failure();
  h->stream = stream;
  return CUSPARSE_STATUS_SUCCESS;
}
cusparseStatus_t cusparseCreateConstCsr(cusparseConstSpMatDescr_t* made, int64_t rows, int64_t cols, int64_t entries, const void* first, const void* column,
                                        const void* values, cusparseIndexType_t first_type, cusparseIndexType_t column_type, cusparseIndexBase_t base,
                                        cudaDataType type) {
  if (fails()) return failure();
  if (first_type != CUSPARSE_INDEX_32I || column_type != CUSPARSE_INDEX_32I || base != CUSPARSE_INDEX_BASE_ZERO) unmodelled("indices");
  // "the arrays representing the sparse matrix must be aligned to 16 bytes"
  if (rows < 0 || cols < 0 || entries < 0 || (reinterpret_cast<uintptr_t>(first) | reinterpret_cast<uintptr_t>(column) | reinterpret_cast<uintptr_t>(values)) % 16)
    return CUSPARSE_STATUS_INVALID_VALUE;
  *made = new cusparseSpMatDescr{rows, cols, entries, static_cast<const int32_t*>(first), static_cast<const int32_t*>(column), values, type};
  alive++;
  return CUSPARSE_STATUS_SUCCESS;
}
cusparseStatus_t cusparseDestroySpMat(cusparseConstSpMatDescr_t m) {
  delete m;
  alive--;
  return CUSPARSE_STATUS_SUCCESS;
}
cusparseStatus_t cusparseCreateDnMat(cusparseDnMatDescr_t* made, int64_t rows, int64_t cols, int64_t ld, void* values, cudaDataType type, cusparseOrder_t order) {
  if (fails()) return failure();
  // "ld: leading dimension", at least the number of columns where rows lie one after the other
  if (order != CUSPARSE_ORDER_ROW) unmodelled("columns one after the other");
  if (rows < 0 || cols < 0 || ld < cols || !values) return CUSPARSE_STATUS_INVALID_VALUE;
  *made = new cusparseDnMatDescr{rows, cols, ld, values, type, order};
  alive++;
  return CUSPARSE_STATUS_SUCCESS;
}
cusparseStatus_t cusparseCreateConstDnMat(cusparseConstDnMatDescr_t* made, int64_t rows, int64_t cols, int64_t ld, const void* values, cudaDataType type,
                                          cusparseOrder_t order) {
  cusparseDnMatDescr_t m = nullptr;
  const cusparseStatus_t s = cusparseCreateDnMat(&m, rows, cols, ld, const_cast<void*>(values), type, order);
  *made = m;
  return s;
}
cusparseStatus_t cusparseDestroyDnMat(cusparseConstDnMatDescr_t m) {
  delete m;
  alive--;
  return CUSPARSE_STATUS_SUCCESS;
}
cusparseStatus_t cusparseSpMM_bufferSize(cusparseHandle_t h, cusparseOperation_t op_a, cusparseOperation_t op_b, const void*, cusparseConstSpMatDescr_t a,
                                         cusparseConstDnMatDescr_t b, const void*, cusparseDnMatDescr_t c, cudaDataType compute_type,
                                         cusparseSpMMAlg_t algorithm, size_t* bytes) {
  if (fails()) return failure();
  *bytes = fake_cusparse.workspace;
  return rules(h, op_a, op_b, *a, *b, *c, compute_type, algorithm);
}
cusparseStatus_t cusparseSpMM(cusparseHandle_t h, cusparseOperation_t op_a, cusparseOperation_t op_b, const void* alpha, cusparseConstSpMatDescr_t a,
                              cusparseConstDnMatDescr_t b, const void* beta, cusparseDnMatDescr_t c, cudaDataType compute_type,
                              cusparseSpMMAlg_t algorithm, void* buffer) {
  if (alive != 3) unmodelled("descriptors that were left behind");
  if (fails()) return failure();
  const cusparseStatus_t s = rules(h, op_a, op_b, *a, *b, *c, compute_type, algorithm);
  if (s != CUSPARSE_STATUS_SUCCESS) return s;
  // alpha and beta are of the compute type
  const bool floats = compute_type == CUDA_R_32F;
  if (floats ? *static_cast<const float*>(alpha) != 1 || *static_cast<const float*>(beta) != 0
             : *static_cast<const int32_t*>(alpha) != 1 || *static_cast<const int32_t*>(beta) != 0)
    unmodelled("a factor");
  const fake::StreamHead* head = reinterpret_cast<const fake::StreamHead*>(h->stream);
  const uint64_t size = a->type == CUDA_R_32F ? 4 : 1;
  const auto there = [&](const void* p, uint64_t bytes) { return head->on_device(p, bytes); };
  if (!there(a->first, uint64_t(a->rows + 1) * 4) || !there(a->column, uint64_t(a->entries) * 4) || !there(a->values, uint64_t(a->entries) * size) ||
      !there(b->values, uint64_t((b->rows - 1) * b->ld + b->cols) * size) || !there(c->values, uint64_t((c->rows - 1) * c->ld + c->cols) * 4) ||
      (fake_cusparse.workspace && !there(buffer, fake_cusparse.workspace))) {
    fprintf(stderr, "cusparseSpMM was given memory that is not the device's, or too little of it\n");
    abort();
  }
  fake_cusparse.products++;
  head->enqueue(h->stream, compute, new Work{*a, *b, *c, buffer, fake_cusparse.workspace});
  return CUSPARSE_STATUS_SUCCESS;
}

#pragma GCC visibility pop
}
