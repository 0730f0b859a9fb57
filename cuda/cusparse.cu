// Opening cuSPARSE and its product of a CSR matrix: descriptors, workspace, statuses. Launches nothing of its own.
#include "cuda/cusparse.h"

#include "cuda/cusparse_api.h"
#include "cuda/library.h"

namespace whittle {
namespace {

constexpr int kMostDevices = 64;

struct Api {
#define X(name) decltype(&::name) name = nullptr;
  WHITTLE_CUSPARSE_FUNCTIONS(X)
#undef X
  NvidiaOpened opened;
  std::mutex lock;
  cusparseHandle_t handles[kMostDevices] = {};  // used in the turn of their device
};

constexpr NvidiaLibrary kLibrary = {"WHITTLE_CUSPARSE_LIBRARY", "libcusparse.so." WHITTLE_TEXT(WHITTLE_CUSPARSE_MAJOR), "nvidia-cusparse",
                                    "spmm of CSR (else own kernels)"};

Api& api() {
  static Api* const opened = [] {
    Api* made = new Api;
#define X(name) {#name, reinterpret_cast<void**>(&made->name)},
    open_nvidia(kLibrary, {WHITTLE_CUSPARSE_FUNCTIONS(X)}, &made->opened);
#undef X
    return made;
  }();
  return *opened;
}

// The descriptors of one product; ok() says that all came to be.
class Descriptors {
 public:
  Descriptors(Api& f, const CsrProduct& p) : f_(f) {
    const cudaDataType in = p.bytes ? CUDA_R_8I : CUDA_R_32F, out = p.bytes ? CUDA_R_32I : CUDA_R_32F;
    ok = call_answered(f.opened, "cusparseCreateConstCsr",
                       f.cusparseCreateConstCsr(&w, p.rows, p.cols, p.entries, p.first, p.column, p.values, CUSPARSE_INDEX_32I, CUSPARSE_INDEX_32I,
                                                CUSPARSE_INDEX_BASE_ZERO, in)) &&
         call_answered(f.opened, "cusparseCreateConstDnMat",
                       f.cusparseCreateConstDnMat(&x, p.cols, p.columns, p.columns, p.x, in, CUSPARSE_ORDER_ROW)) &&
         call_answered(f.opened, "cusparseCreateDnMat", f.cusparseCreateDnMat(&y, p.rows, p.columns, p.columns, p.y, out, CUSPARSE_ORDER_ROW));
  }
  ~Descriptors() {
    if (w) f_.cusparseDestroySpMat(w);
    if (x) f_.cusparseDestroyDnMat(x);
    if (y) f_.cusparseDestroyDnMat(y);
  }
  Descriptors(const Descriptors&) = delete;
  Descriptors& operator=(const Descriptors&) = delete;

  cusparseConstSpMatDescr_t w = nullptr;
  cusparseConstDnMatDescr_t x = nullptr;
  cusparseDnMatDescr_t y = nullptr;
  bool ok = false;

 private:
  Api& f_;
};

// Null where the library gives none for this device.
cusparseHandle_t handle_of(Api& f, Work& work) {
  const std::lock_guard<std::mutex> guard(f.lock);
  cusparseHandle_t& slot = f.handles[work.device()];
  if (slot) return slot;
  cusparseHandle_t made = nullptr;
  if (!call_answered(f.opened, "cusparseCreate", f.cusparseCreate(&made)) ||
      !call_answered(f.opened, "cusparseSetStream", f.cusparseSetStream(made, work.stream())))
    return nullptr;
  return slot = made;
}

}  // namespace

CudaLibrary cusparse_library() { return library_of(api().opened); }

bool csr_product(Work& work, const CsrProduct& p) {
  Api& f = api();
  if (!f.opened.open || !work.good() || !p.entries) return false;
  const cusparseHandle_t handle = handle_of(f, work);
  if (!handle) return false;
  const Descriptors d(f, p);
  if (!d.ok) return false;
  // Its third algorithm is the one for CSR that promises the same bits from run to run.
  const cusparseSpMMAlg_t algorithm = CUSPARSE_SPMM_CSR_ALG3;
  const cusparseOperation_t as_it_is = CUSPARSE_OPERATION_NON_TRANSPOSE;
  const cudaDataType compute = p.bytes ? CUDA_R_32I : CUDA_R_32F;
  const float ones = 1, zeros = 0;
  const int32_t one = 1, zero = 0;
  const void *alpha = p.bytes ? static_cast<const void*>(&one) : &ones, *beta = p.bytes ? static_cast<const void*>(&zero) : &zeros;
  size_t bytes = 0;
  if (!call_answered(f.opened, "cusparseSpMM_bufferSize",
                     f.cusparseSpMM_bufferSize(handle, as_it_is, as_it_is, alpha, d.w, d.x, beta, d.y, compute, algorithm, &bytes)))
    return false;
  void* space = bytes ? work.spare(static_cast<int64_t>(bytes)) : nullptr;
  if (bytes && !space) {
    note_refusal(f.opened, "no device memory for cuSPARSE's workspace");
    return false;
  }
  return call_answered(f.opened, "cusparseSpMM",
                       f.cusparseSpMM(handle, as_it_is, as_it_is, alpha, d.w, d.x, beta, d.y, compute, algorithm, space));
}

}  // namespace whittle
