// The library's one symbol, its devices and their memory. Every device has a stream for operations, which hold it for themselves
// and wait for their own work before they answer, one for memory and copies, and some for turns of plans. Tensors come from the
// device's pool in the order of the stream for memory, which the others wait for; scratch in that of whoever takes it.
#include "cuda/backend.h"
#include "cuda/net.h"

#include <stdio.h>
#include <string.h>

#include <atomic>
#include <condition_variable>
#include <mutex>

#include "cuda/library.h"
#include "cuda/staging.h"

namespace whittle {
namespace {

constexpr int kMostDevices = 64;

struct Lane {
  cudaStream_t stream = nullptr;
  int* found = nullptr;       // pinned: what flags were at the end of the work
  bool busy = false;
};

struct Device {
  std::mutex turn;            // one operation at a time
  std::mutex opening;         // guards what follows but for `lost` until `tried` is set
  bool tried = false;
  Lane own;
  cudaStream_t memory = nullptr;
  cudaEvent_t allocated = nullptr;  // recorded on it behind every allocation
  bool pool = false;
  std::mutex lanes_turn;      // guards `busy` of lanes
  std::condition_variable lane_free;
  Lane lanes[kCudaLanes];
  std::mutex staging_turn;
  Staging staging;            // of whoever holds staging_turn
  std::atomic<cudaError_t> lost{cudaSuccess};
};

// Never destroyed: the process may end with calls in flight.
Device* devices() {
  static Device* const all = new Device[kMostDevices];
  return all;
}

thread_local char message[256] = "";

WhittleStatus failed(int32_t device, const char* what) {
  snprintf(message, sizeof message, "device %d: %s", static_cast<int>(device), what);
  return WHITTLE_DEVICE;
}

// Errors after which a context answers nothing else.
bool is_lost(cudaError_t e) {
  return e == cudaErrorLaunchFailure || e == cudaErrorIllegalAddress || e == cudaErrorMisalignedAddress ||
         e == cudaErrorHardwareStackError || e == cudaErrorIllegalInstruction || e == cudaErrorInvalidAddressSpace ||
         e == cudaErrorInvalidPc || e == cudaErrorAssert || e == cudaErrorECCUncorrectable || e == cudaErrorDevicesUnavailable ||
         e == cudaErrorLaunchTimeout;
}

WhittleStatus status_of(int32_t index, cudaError_t e) {
  if (e == cudaSuccess) return WHITTLE_OK;
  cudaGetLastError();  // or the next call would find it
  if (e == cudaErrorMemoryAllocation) return WHITTLE_OUT_OF_MEMORY;
  if (is_lost(e)) devices()[index].lost = e;
  return failed(index, cudaGetErrorString(e));
}

cudaError_t open_lane(Lane* lane) {
  cudaError_t e = cudaSuccess;
  if (!lane->stream) e = cudaStreamCreateWithFlags(&lane->stream, cudaStreamNonBlocking);
  if (e == cudaSuccess && !lane->found) e = cudaMallocHost(reinterpret_cast<void**>(&lane->found), sizeof *lane->found);
  return e;
}

// A lane that is this thread's until give_lane().
int take_lane(Device& d) {
  std::unique_lock<std::mutex> hold(d.lanes_turn);
  int at = 0;
  d.lane_free.wait(hold, [&] {
    for (at = 0; at < kCudaLanes && d.lanes[at].busy;) at++;
    return at < kCudaLanes;
  });
  d.lanes[at].busy = true;
  return at;
}

void give_lane(Device& d, int at) {
  {
    const std::lock_guard<std::mutex> hold(d.lanes_turn);
    d.lanes[at].busy = false;
  }
  d.lane_free.notify_one();
}

// Makes the device this thread's and its stream ready.
WhittleStatus open_device(int32_t index) {
  Device& d = devices()[index];
  const std::lock_guard<std::mutex> opening(d.opening);
  if (d.lost != cudaSuccess) return failed(index, cudaGetErrorString(d.lost));
  cudaError_t e = cudaSetDevice(index);
  if (e == cudaSuccess && !d.tried) {
    int pools = 0;
    if (cudaDeviceGetAttribute(&pools, cudaDevAttrMemoryPoolsSupported, index) != cudaSuccess) cudaGetLastError();
    d.pool = pools != 0;
    if (d.pool) {
      // Freed memory stays ours: an operation's scratch would else cost a call to the driver each time.
      cudaMemPool_t pool;
      uint64_t all = ~uint64_t(0);
      e = cudaDeviceGetDefaultMemPool(&pool, index);
      if (e == cudaSuccess) e = cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &all);
    }
    if (e == cudaSuccess && !d.memory) e = cudaStreamCreateWithFlags(&d.memory, cudaStreamNonBlocking);
    if (e == cudaSuccess && !d.allocated) e = cudaEventCreateWithFlags(&d.allocated, cudaEventDisableTiming);
    if (e == cudaSuccess) e = open_lane(&d.own);
    d.tried = e == cudaSuccess;
  }
  return status_of(index, e);
}

bool known(int32_t index) { return index >= 0 && index < kMostDevices; }

cudaError_t take_memory(Device& d, cudaStream_t stream, void** p, int64_t bytes) {
  return d.pool ? cudaMallocAsync(p, static_cast<size_t>(bytes), stream) : cudaMalloc(p, static_cast<size_t>(bytes));
}

void free_memory(Device& d, cudaStream_t stream, void* p) {
  if ((d.pool ? cudaFreeAsync(p, stream) : cudaFree(p)) != cudaSuccess) cudaGetLastError();
}

void probe(CudaProbe* out) {
  memset(out, 0, sizeof *out);
  cudaDriverGetVersion(&out->driver);
  cudaRuntimeGetVersion(&out->runtime);
  const cudaError_t e = cudaGetDeviceCount(&out->devices);
  if (e == cudaSuccess && out->devices > 0) {
    if (out->devices > kMostDevices) out->devices = kMostDevices;
    return;
  }
  cudaGetLastError();
  out->devices = 0;
  out->state = e == cudaErrorNoDevice || e == cudaSuccess ? kCudaNoDevice
               : e == cudaErrorInsufficientDriver         ? (out->driver == 0 ? kCudaNoDriver : kCudaDriverTooOld)
                                                          : kCudaFailed;
  snprintf(out->text, sizeof out->text, "%s", cudaGetErrorString(e == cudaSuccess ? cudaErrorNoDevice : e));
}

WhittleStatus describe(int32_t index, CudaDevice* out) {
  cudaDeviceProp p;
  const cudaError_t e = cudaGetDeviceProperties(&p, index);
  if (e != cudaSuccess) {
    cudaGetLastError();
    return failed(index, cudaGetErrorString(e));
  }
  memset(out, 0, sizeof *out);
  snprintf(out->name, sizeof out->name, "%s", p.name);
  out->major = p.major;
  out->minor = p.minor;
  out->multiprocessors = p.multiProcessorCount;
  out->memory = static_cast<int64_t>(p.totalGlobalMem);
  return WHITTLE_OK;
}

const char* error() { return message; }

bool library(int32_t at, CudaLibrary* out) {
  constexpr CudaLibrary (*all[])() = {cublaslt_library, cusolver_library, cusparse_library, cusparselt_library};
  if (at < 0 || at >= static_cast<int32_t>(sizeof all / sizeof *all)) return false;
  *out = all[at]();
  return true;
}

WhittleStatus allocate(int32_t index, int64_t bytes, void** memory) {
  *memory = nullptr;
  if (!known(index)) return failed(index, "no such device");
  Device& d = devices()[index];
  WhittleStatus s = open_device(index);
  if (s == WHITTLE_OK) s = status_of(index, take_memory(d, d.memory, memory, bytes > 0 ? bytes : 1));
  if (s != WHITTLE_OK || !d.pool) return s;
  const std::lock_guard<std::mutex> opening(d.opening);
  return status_of(index, cudaEventRecord(d.allocated, d.memory));
}

void release(int32_t index, void* memory) {
  if (!known(index) || !memory) return;
  Device& d = devices()[index];
  // What a lost device held is gone with it.
  if (d.lost != cudaSuccess || cudaSetDevice(index) != cudaSuccess) return;
  free_memory(d, d.memory, memory);
}

WhittleStatus copy(int32_t index, void* to, const void* from, int64_t bytes, cudaMemcpyKind kind) {
  if (!known(index)) return failed(index, "no such device");
  if (bytes <= 0) return WHITTLE_OK;
  Device& d = devices()[index];
  const WhittleStatus s = open_device(index);
  if (s != WHITTLE_OK) return s;
  if (bytes >= kStaged && kind != cudaMemcpyDeviceToDevice) {
    // Two at once would wait for each other's pieces: the second goes the runtime's way.
    const std::unique_lock<std::mutex> turn(d.staging_turn, std::try_to_lock);
    if (turn.owns_lock() && d.staging.ready())
      return status_of(index, kind == cudaMemcpyHostToDevice ? d.staging.upload(to, from, bytes, d.memory) : d.staging.download(to, from, bytes, d.memory));
  }
  cudaError_t e = cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), kind, d.memory);
  if (e == cudaSuccess) e = cudaStreamSynchronize(d.memory);
  return status_of(index, e);
}

WhittleStatus upload(int32_t index, void* to, const void* from, int64_t bytes) {
  return copy(index, to, from, bytes, cudaMemcpyHostToDevice);
}

WhittleStatus download(int32_t index, void* to, const void* from, int64_t bytes) {
  return copy(index, to, from, bytes, cudaMemcpyDeviceToHost);
}

WhittleStatus copy_within(int32_t index, void* to, const void* from, int64_t bytes) {
  return copy(index, to, from, bytes, cudaMemcpyDeviceToDevice);
}

}  // namespace

Work::Work(int32_t device, int* flags, bool beside) : device_(device) {
  if (!known(device)) {
    status_ = failed(device, "no such device");
    return;
  }
  Device& d = devices()[device];
  if (beside) lane_ = take_lane(d);
  else d.turn.lock();
  status_ = open_device(device);
  Lane& lane = beside ? d.lanes[lane_] : d.own;
  if (status_ == WHITTLE_OK && beside) check(open_lane(&lane));
  stream_ = lane.stream;
  found_ = lane.found;
  // Memory is there in the order of the stream that allocated it.
  if (status_ == WHITTLE_OK) check(cudaStreamWaitEvent(stream_, d.allocated, 0));
  flags_ = flags ? flags : scratch<int>(kWords);
  fill(flags_, 0, kWords * sizeof *flags_);
}

Work::~Work() {
  if (!known(device_)) return;
  Device& d = devices()[device_];
  for (int i = 0; i < count_; i++) free_memory(d, stream_, pieces_[i]);
  if (lane_ >= 0) give_lane(d, lane_);
  else d.turn.unlock();
}

void Work::check(cudaError_t e) {
  if (status_ == WHITTLE_OK) status_ = status_of(device_, e);
}

void Work::refuse_memory() {
  if (status_ == WHITTLE_OK) status_ = WHITTLE_OUT_OF_MEMORY;
}

void Work::refuse(const char* words) {
  if (status_ == WHITTLE_OK) status_ = failed(device_, words);
}

void* Work::take(int64_t bytes) {
  if (!unrecorded()) return nullptr;
  if (count_ == kPieces) {
    status_ = WHITTLE_OUT_OF_MEMORY;
    return nullptr;
  }
  void* p = nullptr;
  check(take_memory(devices()[device_], stream_, &p, bytes > 0 ? bytes : 1));
  if (status_ != WHITTLE_OK) return nullptr;
  return pieces_[count_++] = p;
}

void* Work::spare_piece(int64_t bytes) {
  void* p = nullptr;
  if (!unrecorded() || count_ == kPieces) return nullptr;
  const cudaError_t e = take_memory(devices()[device_], stream_, &p, bytes > 0 ? bytes : 1);
  if (e == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return nullptr;
  }
  check(e);
  return e == cudaSuccess ? pieces_[count_++] = p : nullptr;
}

void* Work::spare(int64_t bytes) {
  if (shared_ < 0 || bytes > shared_bytes_) {
    if (!spare_piece(bytes)) return nullptr;
    shared_ = count_ - 1;
    shared_bytes_ = bytes;
  }
  return status_ == WHITTLE_OK ? pieces_[shared_] : nullptr;
}

void* Work::workspace(int64_t bytes) {
  if (shared_ < 0 || bytes > shared_bytes_) {
    if (!take(bytes)) return nullptr;
    shared_ = count_ - 1;
    shared_bytes_ = bytes;
  }
  return status_ == WHITTLE_OK ? pieces_[shared_] : nullptr;
}

void Work::release_to(int mark) {
  if (shared_ >= mark) shared_ = -1;
  while (count_ > mark) free_memory(devices()[device_], stream_, pieces_[--count_]);
}

void Work::fill(void* memory, int value, int64_t bytes) {
  if (status_ == WHITTLE_OK && bytes > 0) check(cudaMemsetAsync(memory, value, static_cast<size_t>(bytes), stream_));
}

void Work::send(void* memory, const void* host, int64_t bytes) {
  if (bytes > 0 && unrecorded()) check(cudaMemcpyAsync(memory, host, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, stream_));
}

void Work::copy(void* to, const void* from, int64_t bytes) {
  if (status_ == WHITTLE_OK && bytes > 0) check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice, stream_));
}

void Work::fetch(void* host, const void* memory, int64_t bytes) {
  if (unrecorded()) check(cudaMemcpyAsync(host, memory, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, stream_));
}

void Work::wait() {
  if (unrecorded()) check(cudaStreamSynchronize(stream_));
}

bool Work::record() {
  if (status_ != WHITTLE_OK || recording_) return false;
  // Of this thread alone: others may allocate meanwhile.
  if (cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal) != cudaSuccess) {
    cudaGetLastError();
    return false;
  }
  recording_ = true;
  spoilt_ = false;
  return true;
}

bool Work::recorded(cudaGraphExec_t* out) {
  *out = nullptr;
  if (!recording_) return false;
  recording_ = false;
  cudaGraph_t graph = nullptr;
  cudaError_t e = cudaStreamEndCapture(stream_, &graph);
  if (e == cudaSuccess && status_ == WHITTLE_OK && !spoilt_) e = cudaGraphInstantiate(out, graph, 0);
  if (graph && cudaGraphDestroy(graph) != cudaSuccess) cudaGetLastError();
  if (e != cudaSuccess) {
    cudaGetLastError();
    *out = nullptr;
    if (is_lost(e)) check(e);
  }
  return *out != nullptr;
}

void Work::replay(cudaGraphExec_t graph) {
  if (unrecorded()) check(cudaGraphLaunch(graph, stream_));
}

WhittleStatus Work::finish() {
  int* found = found_;
  fetch(found, flags_, sizeof *found);
  // Also after an error: what was enqueued may still write where the caller frees.
  if (known(device_) && stream_) check(cudaStreamSynchronize(stream_));
  if (status_ != WHITTLE_OK) return status_;
  seen_ = *found;
  if (seen_ & (kFlagScale | kFlagLabel | kFlagSum)) return WHITTLE_RANGE;
  return seen_ & kFlagNonfinite ? WHITTLE_NONFINITE : WHITTLE_OK;
}

namespace {

CudaTurn* net_begin(int32_t device, int32_t* flags) { return new (std::nothrow) CudaTurn(device, flags); }

WhittleStatus net_end(CudaTurn* turn) {
  const WhittleStatus status = turn->work.finish();
  delete turn;
  return status;
}

void net_wait(CudaTurn* turn) { turn->work.wait(); }
void net_send(CudaTurn* turn, void* to, const void* host, int64_t bytes) { turn->work.send(to, host, bytes); }
void net_fetch(CudaTurn* turn, void* host, const void* from, int64_t bytes) {
  if (bytes > 0) turn->work.fetch(host, from, bytes);
}
void net_move(CudaTurn* turn, void* to, const void* from, int64_t bytes) { turn->work.copy(to, from, bytes); }

bool net_record(CudaTurn* turn) { return turn->work.record(); }

CudaGraph* net_recorded(CudaTurn* turn) {
  cudaGraphExec_t made = nullptr;
  return turn->work.recorded(&made) ? reinterpret_cast<CudaGraph*>(made) : nullptr;
}

void net_replay(CudaTurn* turn, CudaGraph* graph) { turn->work.replay(reinterpret_cast<cudaGraphExec_t>(graph)); }

void net_forget(int32_t device, CudaGraph* graph) {
  // What a lost device held is gone with it.
  if (!graph || devices()[device].lost != cudaSuccess || cudaSetDevice(device) != cudaSuccess) return;
  if (cudaGraphExecDestroy(reinterpret_cast<cudaGraphExec_t>(graph)) != cudaSuccess) cudaGetLastError();
}

}  // namespace
}  // namespace whittle

#if defined(_WIN32)
#define WHITTLE_EXPORT __declspec(dllexport)
#else
#define WHITTLE_EXPORT __attribute__((visibility("default")))
#endif

extern "C" WHITTLE_EXPORT const whittle::CudaBackend* whittle_cuda() {
  using namespace whittle;
  static const CudaBackend backend = [] {
    CudaBackend b = {};
    b.contract = kCudaContract;
    b.bytes = sizeof b;
#if !defined(__CUDACC__) && !defined(WHITTLE_CUDA_HOST)
    b.emulated = true;
#endif
    b.probe = probe;
    b.describe = describe;
    b.error = error;
    b.nth_library = library;
    b.allocate = allocate;
    b.release = release;
    b.upload = upload;
    b.download = download;
    b.copy = copy_within;
    b.quantize = cuda_quantize;
    b.dequantize = cuda_dequantize;
    b.ranges = cuda_ranges;
    b.histogram = cuda_histogram;
    b.scores = cuda_scores;
    b.groups = cuda_groups;
    b.largest = cuda_largest;
    b.nm = cuda_nm;
    b.apply = cuda_apply;
    b.above = cuda_above;
    b.count = cuda_count;
    b.balanced = cuda_balanced;
    b.blocks = cuda_blocks;
    b.median = cuda_median;
    b.random = cuda_random;
    b.expand = cuda_expand;
    b.fake_quantize = cuda_fake_quantize;
    b.cross_entropy = cuda_cross_entropy;
    b.kl = cuda_kl;
    b.js = cuda_js;
    b.gemm = cuda_gemm;
    b.gemm_int8 = cuda_gemm_int8;
    b.pack_int8 = cuda_pack_int8;
    b.svd = cuda_svd;
    b.dkd = cuda_dkd;
    b.multi_teacher = cuda_multi_teacher;
    b.feature = cuda_feature;
    b.attention = cuda_attention;
    b.relation = cuda_relation;
    b.linear_kl = cuda_linear_kl;
    b.sparse_count = cuda_sparse_count;
    b.sparse_fill = cuda_sparse_fill;
    b.sparse_compress = cuda_sparse_compress;
    b.sparse_dense = cuda_sparse_dense;
    b.sparse_multiply = cuda_sparse_multiply;
    b.net = {net_begin, net_end, net_wait, net_send, net_fetch, net_move, net_record, net_recorded, net_replay, net_forget, net_gemm, net_conv, net_attention, net_softmax, net_layer_norm, net_reduce,
             net_elementwise, net_typed, net_pool, net_copy, net_fill, net_gather, net_resize, net_scatter_taps,
             net_product_int8, net_conv_int8, net_codes, net_values, net_dynamic_codes, net_recurrent, net_arg_best, net_cumulate,
             net_gather_elements, net_scatter_elements, net_gather_slices, net_scatter_slices, net_top_k};
    return b;
  }();
  return &backend;
}
