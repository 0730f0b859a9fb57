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
constexpr size_t kMostPlans = 64;

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
  size_t compressed = 0, buffer = 0, workspace = 0;
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
  // Rows of bytes along k on both sides: the one layout that it has for them.
  const cusparseOrder_t rows = CUSPARSE_ORDER_ROW;
  const uint32_t aligned = 16;
  ok = step("cusparseLtStructuredDescriptorInit",
            f.cusparseLtStructuredDescriptorInit(h, &w, p.rows, p.cols, p.cols, aligned, CUDA_R_8I, rows, CUSPARSELT_SPARSITY_50_PERCENT)) &&
       step("cusparseLtDenseDescriptorInit", f.cusparseLtDenseDescriptorInit(h, &x, p.columns, p.cols, p.cols, aligned, CUDA_R_8I, rows)) &&
       step("cusparseLtDenseDescriptorInit", f.cusparseLtDenseDescriptorInit(h, &y, p.rows, p.columns, p.columns, aligned, CUDA_R_32I, rows)) &&
       step("cusparseLtMatmulDescriptorInit",
            f.cusparseLtMatmulDescriptorInit(h, &product, CUSPARSE_OPERATION_NON_TRANSPOSE, CUSPARSE_OPERATION_TRANSPOSE, &w, &x, &y, &y,
                                             CUSPARSE_COMPUTE_32I)) &&
       step("cusparseLtMatmulAlgSelectionInit", f.cusparseLtMatmulAlgSelectionInit(h, &selection, &product, CUSPARSELT_MATMUL_ALG_DEFAULT)) &&
       step("cusparseLtMatmulPlanInit", f.cusparseLtMatmulPlanInit(h, &plan, &product, &selection)) &&
       call_answered(f.opened, "cusparseLtMatmulGetWorkspace", f.cusparseLtMatmulGetWorkspace(h, &plan, &workspace)) &&
       call_answered(f.opened, "cusparseLtSpMMACompressedSize", f.cusparseLtSpMMACompressedSize(h, &plan, &compressed, &buffer));
}

Plan::~Plan() {
  if (made > 5) f.cusparseLtMatmulPlanDestroy(&plan);
  if (made > 4) f.cusparseLtMatmulAlgSelectionDestroy(&selection);
  if (made > 2) f.cusparseLtMatDescriptorDestroy(&y);
  if (made > 1) f.cusparseLtMatDescriptorDestroy(&x);
  if (made > 0) f.cusparseLtMatDescriptorDestroy(&w);
}

}  // namespace

CudaLibrary cusparselt_library() { return library_of(api().opened); }

bool pruned_product(Work& work, const PrunedProduct& p) {
  Api& f = api();
  if (!f.opened.open || !work.good()) return false;
  const int32_t device = work.device();
  const cusparseLtHandle_t* handle = &f.handles[device];
  std::unique_ptr<Plan> alone;
  Plan* plan = nullptr;
  {
    const std::lock_guard<std::mutex> guard(f.lock);
    if (!f.ready[device] && !call_answered(f.opened, "cusparseLtInit", f.cusparseLtInit(&f.handles[device]))) return false;
    f.ready[device] = true;
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
  char* compressed = static_cast<char*>(work.spare_piece(static_cast<int64_t>(plan->compressed)));
  char* buffer = compressed && plan->buffer ? static_cast<char*>(work.spare_piece(static_cast<int64_t>(plan->buffer))) : nullptr;
  void* workspace = compressed && plan->workspace ? work.spare(static_cast<int64_t>(plan->workspace)) : nullptr;
  if (!compressed || (plan->buffer && !buffer) || (plan->workspace && !workspace)) {
    note_refusal(f.opened, "no device memory for cuSPARSELt's matrices");
    return false;
  }
  const float one = 1, none = 0;
  cudaStream_t stream = work.stream();
  return call_answered(f.opened, "cusparseLtSpMMACompress", f.cusparseLtSpMMACompress(handle, &plan->plan, p.w, compressed, buffer, stream)) &&
         call_answered(f.opened, "cusparseLtMatmul",
                       f.cusparseLtMatmul(handle, &plan->plan, &one, compressed, p.x, &none, p.y, p.y, workspace, &stream, 1));
}

}  // namespace whittle
