// Opening cuSPARSELt and its product of bytes with two values of four: plans, compression, statuses. Launches nothing of its own.
#include <stdio.h>

#include <map>
#include <memory>
#include <tuple>

#include "cuda/cusparse.h"
#include "cuda/cusparselt_api.h"
#include "cuda/library.h"

namespace whittle {
namespace {

constexpr int kMostDevices = 64;
constexpr size_t kMostPlans = 256;
constexpr uint32_t kAligned = 16;
// Rows of bytes along k on both sides: the one layout that it has for them.
constexpr cusparseOrder_t kRows = CUSPARSE_ORDER_ROW;

struct Api;

// Descriptors and plan of a shape on a device, in the order in which the library wants them, gone in the other one.
struct Plan {
  Plan(Api& f, const cusparseLtHandle_t* handle, const PrunedProduct& p);
  ~Plan();
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  Api& f;
  cusparseLtMatDescriptor_t w, x, y;
  cusparseLtMatmulDescriptor_t product;
  cusparseLtMatmulAlgSelection_t selection;
  cusparseLtMatmulPlan_t plan;
  int made = 0;  // of them
  bool ok = false;
  size_t workspace = 0;
};

struct Api {
#define X(name) decltype(&::name) name = nullptr;
  WHITTLE_CUSPARSELT_FUNCTIONS(X)
#undef X
  NvidiaOpened opened;
  std::mutex lock;  // of what follows
  cusparseLtHandle_t handles[kMostDevices];
  bool ready[kMostDevices] = {};
  std::map<std::tuple<int32_t, int64_t, int64_t, int64_t>, std::unique_ptr<Plan>> plans;
};

constexpr NvidiaLibrary kLibrary = {"WHITTLE_CUSPARSELT_LIBRARY", "libcusparseLt.so." WHITTLE_TEXT(WHITTLE_CUSPARSELT_MAJOR), "nvidia-cusparselt-cu13",
                                    "spmm of int8 2:4 (else own kernels)"};

Api& api() {
  static Api* const opened = [] {
    Api* made = new Api;
#define X(name) {#name, reinterpret_cast<void**>(&made->name)},
    open_nvidia(kLibrary, {WHITTLE_CUSPARSELT_FUNCTIONS(X)}, &made->opened);
#undef X
    int minor = 0;
    NvidiaOpened& o = made->opened;
    if (o.open && (made->cusparseLtGetProperty(MINOR_VERSION, &minor) != CUSPARSE_STATUS_SUCCESS || minor < WHITTLE_CUSPARSELT_MINOR)) {
      o.open = false;
      snprintf(o.why, sizeof o.why, "%.900s is cuSPARSELt 0.%d, this build of whittle_cuda needs 0.%d or later", o.path, minor, WHITTLE_CUSPARSELT_MINOR);
    }
    return made;
  }();
  return *opened;
}

Plan::Plan(Api& api, const cusparseLtHandle_t* h, const PrunedProduct& p) : f(api) {
  const auto step = [&](const char* name, cusparseStatus_t status) {
    const bool good = call_answered(f.opened, name, status);
    made += good;
    return good;
  };
  ok = step("cusparseLtStructuredDescriptorInit",
            f.cusparseLtStructuredDescriptorInit(h, &w, p.rows, p.cols, p.cols, kAligned, CUDA_R_8I, kRows, CUSPARSELT_SPARSITY_50_PERCENT)) &&
       step("cusparseLtDenseDescriptorInit", f.cusparseLtDenseDescriptorInit(h, &x, p.columns, p.cols, p.cols, kAligned, CUDA_R_8I, kRows)) &&
       step("cusparseLtDenseDescriptorInit", f.cusparseLtDenseDescriptorInit(h, &y, p.rows, p.columns, p.columns, kAligned, CUDA_R_32I, kRows)) &&
       step("cusparseLtMatmulDescriptorInit",
            f.cusparseLtMatmulDescriptorInit(h, &product, CUSPARSE_OPERATION_NON_TRANSPOSE, CUSPARSE_OPERATION_TRANSPOSE, &w, &x, &y, &y,
                                             CUSPARSE_COMPUTE_32I)) &&
       step("cusparseLtMatmulAlgSelectionInit", f.cusparseLtMatmulAlgSelectionInit(h, &selection, &product, CUSPARSELT_MATMUL_ALG_DEFAULT)) &&
       step("cusparseLtMatmulPlanInit", f.cusparseLtMatmulPlanInit(h, &plan, &product, &selection)) &&
       call_answered(f.opened, "cusparseLtMatmulGetWorkspace", f.cusparseLtMatmulGetWorkspace(h, &plan, &workspace));
}

Plan::~Plan() {
  if (made > 5) f.cusparseLtMatmulPlanDestroy(&plan);
  if (made > 4) f.cusparseLtMatmulAlgSelectionDestroy(&selection);
  if (made > 2) f.cusparseLtMatDescriptorDestroy(&y);
  if (made > 1) f.cusparseLtMatDescriptorDestroy(&x);
  if (made > 0) f.cusparseLtMatDescriptorDestroy(&w);
}

// The device's handle, or null where the library does not open one. With the lock held.
const cusparseLtHandle_t* handle_of(Api& f, int32_t device) {
  if (!f.ready[device] && !call_answered(f.opened, "cusparseLtInit", f.cusparseLtInit(&f.handles[device]))) return nullptr;
  f.ready[device] = true;
  return &f.handles[device];
}

// What a matrix's own form takes, and its making beside it.
struct Sizes {
  size_t compressed = 0, buffer = 0;
};

// body(handle, descriptor of w, sizes) where the library tells them.
template <class Body>
bool with_matrix(Work& work, int64_t rows, int64_t cols, const Body& body) {
  Api& f = api();
  if (!f.opened.open || !work.good()) return false;
  const cusparseLtHandle_t* handle;
  {
    const std::lock_guard<std::mutex> guard(f.lock);
    handle = handle_of(f, work.device());
  }
  cusparseLtMatDescriptor_t w;
  if (!handle || !call_answered(f.opened, "cusparseLtStructuredDescriptorInit",
                                f.cusparseLtStructuredDescriptorInit(handle, &w, rows, cols, cols, kAligned, CUDA_R_8I, kRows, CUSPARSELT_SPARSITY_50_PERCENT)))
    return false;
  Sizes sizes;
  const bool done = call_answered(f.opened, "cusparseLtSpMMACompressedSize2", f.cusparseLtSpMMACompressedSize2(handle, &w, &sizes.compressed, &sizes.buffer)) &&
                    body(f, handle, &w, sizes);
  f.cusparseLtMatDescriptorDestroy(&w);
  return done;
}

}  // namespace

CudaLibrary cusparselt_library() { return library_of(api().opened); }

int64_t pruned_bytes(Work& work, int64_t rows, int64_t cols) {
  int64_t bytes = 0;
  with_matrix(work, rows, cols, [&](Api&, const cusparseLtHandle_t*, const cusparseLtMatDescriptor_t*, const Sizes& sizes) {
    bytes = static_cast<int64_t>(sizes.compressed);
    return true;
  });
  return bytes;
}

bool pruned_compress(Work& work, int64_t rows, int64_t cols, const int8_t* dense, void* compressed, int64_t bytes) {
  return with_matrix(work, rows, cols, [&](Api& f, const cusparseLtHandle_t* handle, const cusparseLtMatDescriptor_t* w, const Sizes& sizes) {
    void* buffer = sizes.buffer ? work.spare(static_cast<int64_t>(sizes.buffer)) : nullptr;
    if (static_cast<int64_t>(sizes.compressed) > bytes || (sizes.buffer && !buffer)) return false;
    return call_answered(f.opened, "cusparseLtSpMMACompress2",
                         f.cusparseLtSpMMACompress2(handle, w, 1, CUSPARSE_OPERATION_NON_TRANSPOSE, dense, compressed, buffer, work.stream()));
  });
}

bool pruned_product(Work& work, const PrunedProduct& p) {
  Api& f = api();
  if (!f.opened.open || !work.good()) return false;
  const int32_t device = work.device();
  const cusparseLtHandle_t* handle;
  std::unique_ptr<Plan> alone;
  Plan* plan = nullptr;
  {
    const std::lock_guard<std::mutex> guard(f.lock);
    handle = handle_of(f, device);
    if (!handle) return false;
    const auto key = std::make_tuple(device, p.rows, p.cols, p.columns);
    const auto it = f.plans.find(key);
    if (it != f.plans.end()) {
      plan = it->second.get();
    } else {
      alone.reset(new Plan(f, handle, p));
      plan = alone.get();
      // One that it refuses is refused again without a plan's price.
      if (f.plans.size() < kMostPlans) f.plans[key] = std::move(alone);
    }
  }
  if (!plan->ok) return false;
  void* workspace = plan->workspace ? work.spare(static_cast<int64_t>(plan->workspace)) : nullptr;
  if (plan->workspace && !workspace) {
    note_refusal(f.opened, "no device memory for cuSPARSELt's workspace");
    return false;
  }
  const float one = 1, none = 0;
  cudaStream_t stream = work.stream();
  return call_answered(f.opened, "cusparseLtMatmul", f.cusparseLtMatmul(handle, &plan->plan, &one, p.w, p.x, &none, p.y, p.y, workspace, &stream, 1));
}

}  // namespace whittle
