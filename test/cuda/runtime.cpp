// Rules cite the CUDA Runtime API reference, by the module that the function stands in.
#include "runtime.h"

#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <vector>

#include "emulator.h"

#if defined(EMULATOR_ASAN)
#include <sanitizer/asan_interface.h>
#endif

namespace fake {
namespace {

typedef std::vector<std::function<void()>> Graph;

struct Stream {
  StreamHead head;
  int device;
  std::deque<std::function<void()>> queue;
  Graph* recording = nullptr;
  bool spoilt = false;  // the recording is to fail
};

struct Event {
  Stream* stream = nullptr;  // of the last record
  int64_t asked = 0, done = 0;  // records so far, and the last of them that the stream has come to
  double time = 0;
};

struct Executable {
  Graph work;
  int device;
  int64_t queued = 0;
};

struct Allocation {
  size_t bytes;
  int device;
  bool ready;  // whether the stream has come to it
};

struct Runtime {
  std::recursive_mutex lock;
  std::map<const char*, Allocation> memory;
  std::map<const char*, size_t> pinned;
  std::set<Stream*> streams;
  int64_t graphs = 0;
  double clock = 0;
  std::map<int, size_t> used;
  std::mt19937_64 random{1};
  int64_t allocations = 0, launches = 0, pinned_calls = 0;
  std::map<int, cudaError_t> lost;
  cudaError_t sticky(int device) const {
    const auto it = lost.find(device);
    return it == lost.end() ? cudaSuccess : it->second;
  }
};

Runtime& runtime() {
  static Runtime* const r = new Runtime;
  return *r;
}

typedef std::lock_guard<std::recursive_mutex> Guard;

thread_local cudaError_t last_error = cudaSuccess;
thread_local int current_device = 0;
thread_local Stream* recording_here = nullptr;  // by cudaStreamCaptureModeThreadLocal

cudaError_t answer(cudaError_t e) {
  if (e != cudaSuccess) last_error = e;
  return e;
}

[[noreturn]] void unmodelled(const char* what) {
  fprintf(stderr, "the runtime of test/cuda does not model %s\n", what);
  abort();
}

// The host may not touch device memory; only queued work may.
void open_memory(bool open) {
#if defined(EMULATOR_ASAN)
  for (const auto& a : runtime().memory) {
    if (open && a.second.ready) __asan_unpoison_memory_region(a.first, a.second.bytes);
    else __asan_poison_memory_region(a.first, a.second.bytes);
  }
#else
  (void)open;
#endif
}

bool on_device(const void* p, size_t n) {
  const auto& all = runtime().memory;
  auto it = all.upper_bound(static_cast<const char*>(p));
  if (it == all.begin()) return false;
  --it;
  return static_cast<const char*>(p) + n <= it->first + it->second.bytes;
}

void step(Stream* s) {
  const std::function<void()> work = s->queue.front();
  s->queue.pop_front();
  // After an error of the device nothing runs any more ("sticky" errors, Error Handling).
  if (runtime().sticky(s->device) != cudaSuccess) return;
  open_memory(true);
  work();
  open_memory(false);
}

void drain(Stream* s) {
  while (!s->queue.empty()) step(s);
}

Stream* of(cudaStream_t s) {
  if (!s) unmodelled("the legacy default stream");
  return reinterpret_cast<Stream*>(s);
}

// Stream Management, cudaStreamBeginCapture, and the Programming Guide on prohibited and unhandled operations: what would wait for
// a stream that records, and in the thread that records "potentially unsafe" calls, are errors, and the recording fails.
cudaError_t unsafe(Stream* s) {
  if (s && s->recording) s->spoilt = true;
  else if (recording_here) recording_here->spoilt = true;
  else return cudaSuccess;
  return cudaErrorStreamCaptureUnsupported;
}

void push(Stream* s, std::function<void()> work) {
  if (s->recording) return s->recording->push_back(std::move(work));
  s->queue.push_back(std::move(work));
  if (options().mode == Mode::eager || (options().mode == Mode::random && runtime().random() % 2)) drain(s);
}

void enqueue_foreign(CUstream_st* s, void (*work)(void*), void* context) {
  const Guard guard(runtime().lock);
  push(of(s), [=] { work(context); });
}

bool foreign_on_device(const void* p, uint64_t bytes) {
  const Guard guard(runtime().lock);
  return on_device(p, bytes);
}

cudaError_t take(void** p, size_t n) {
  Runtime& r = runtime();
  if (n == 0) {  // "If size is 0, cudaMalloc returns cudaErrorInvalidValue" (Memory Management)
    *p = nullptr;
    return cudaErrorInvalidValue;
  }
  const int64_t rate = options().fail_rate;
  if (r.allocations++ == options().fail_allocation || (rate > 0 && r.random() % uint64_t(rate) == 0) || r.used[current_device] + n > size_t(options().memory)) {
    *p = nullptr;
    return cudaErrorMemoryAllocation;
  }
  // Suitably aligned for any variable (Programming Guide: at least 256 bytes); no more bytes than were asked for.
  void* q = nullptr;
  if (posix_memalign(&q, 256, n) != 0) return cudaErrorMemoryAllocation;
  memset(q, 0xFF, n);
  r.memory[static_cast<char*>(q)] = {n, current_device, true};
  r.used[current_device] += n;
  open_memory(false);
  *p = q;
  return cudaSuccess;
}

void give(const char* p) {
  Runtime& r = runtime();
  const auto it = r.memory.find(p);
#if defined(EMULATOR_ASAN)
  __asan_unpoison_memory_region(p, it->second.bytes);
#endif
  r.used[it->second.device] -= it->second.bytes;
  r.memory.erase(it);
  free(const_cast<char*>(p));
}

}  // namespace

Options& options() {
  static Options* const o = [] {
    Options* made = new Options;
    const auto number = [](const char* name, int64_t otherwise) {
      const char* v = getenv(name);
      return v ? strtoll(v, nullptr, 10) : otherwise;
    };
    const char* mode = getenv("FAKE_CUDA_MODE");
    if (mode) made->mode = strcmp(mode, "eager") == 0 ? Mode::eager : strcmp(mode, "random") == 0 ? Mode::random : Mode::late;
    made->devices = static_cast<int>(number("FAKE_CUDA_DEVICES", made->devices));
    made->driver = static_cast<int>(number("FAKE_CUDA_DRIVER", made->driver));
    made->pools = number("FAKE_CUDA_POOLS", 1) != 0;
    made->memory = number("FAKE_CUDA_MEMORY", made->memory);
    made->fail_allocation = number("FAKE_CUDA_FAIL_ALLOCATION", -1);
    made->fail_rate = number("FAKE_CUDA_FAIL_RATE", 0);
    made->fail_pinned = number("FAKE_CUDA_FAIL_PINNED", -1);
    made->lose_device = number("FAKE_CUDA_LOSE_DEVICE", -1);
    made->graphs = number("FAKE_CUDA_GRAPHS", 1) != 0;
    return made;
  }();
  return *o;
}

int64_t live() {
  const Guard guard(runtime().lock);
  int64_t n = 0;
  for (const auto& a : runtime().memory) n += runtime().sticky(a.second.device) == cudaSuccess;
  return n;
}

int64_t pinned_calls() { return runtime().pinned_calls; }

int64_t allocations() { return runtime().allocations; }

int64_t graphs() { return runtime().graphs; }

void reset() {
  Runtime& r = runtime();
  const Guard guard(r.lock);
  for (Stream* s : r.streams) drain(s);
  r.allocations = r.launches = 0;
  r.random.seed(options().seed);
  last_error = cudaSuccess;
}

}  // namespace fake

using namespace fake;

namespace emulator {

cudaError_t enqueue(const cudaLaunchConfig_t& c, std::function<void()> body) {
  Runtime& r = runtime();
  const Guard guard(r.lock);
  const dim3 g = c.gridDim, b = c.blockDim;
  // Programming Guide, technical specifications for each compute capability
  if (!g.x || !g.y || !g.z || g.x > 2147483647u || g.y > 65535 || g.z > 65535 || !b.x || !b.y || !b.z || b.z > 64 ||
      uint64_t(b.x) * b.y * b.z > 1024)
    return answer(cudaErrorInvalidConfiguration);
  if (c.dynamicSmemBytes || c.numAttrs) unmodelled("launch attributes or dynamic shared memory");
  const int device = of(c.stream)->device;
  if (r.sticky(device) != cudaSuccess) return answer(r.sticky(device));
  push(of(c.stream), [=, &r] {
    const bool lose = r.launches++ == options().lose_device;
    if (lose || !run(g, b, 0, body)) r.lost[device] = cudaErrorLaunchFailure;
  });
  return cudaSuccess;
}

}  // namespace emulator

extern "C" {

cudaError_t cudaDriverGetVersion(int* v) {  // "0 if no driver is installed" (Version Management)
  *v = options().driver;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* v) {
  *v = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int* n) {  // Device Management
  *n = 0;
  if (options().driver == 0 || options().driver < 1000 * (CUDART_VERSION / 1000)) return answer(cudaErrorInsufficientDriver);
  if (options().devices == 0) return answer(cudaErrorNoDevice);
  *n = options().devices;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int d) {
  if (d < 0 || d >= options().devices) return answer(cudaErrorInvalidDevice);
  current_device = d;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int d) {
  if (d < 0 || d >= options().devices) return answer(cudaErrorInvalidDevice);
  memset(p, 0, sizeof *p);
  snprintf(p->name, sizeof p->name, "emulated device %d", d);
  p->major = 8;
  p->minor = 0;
  p->multiProcessorCount = 2;
  p->totalGlobalMem = static_cast<size_t>(options().memory);
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* v, cudaDeviceAttr a, int) {
  if (a != cudaDevAttrMemoryPoolsSupported) unmodelled("a device attribute");
  *v = options().pools;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int d) {
  *pool = reinterpret_cast<cudaMemPool_t>(static_cast<intptr_t>(d + 1));
  return cudaSuccess;
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr a, void*) {
  if (a != cudaMemPoolAttrReleaseThreshold) unmodelled("a memory pool attribute");
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* s, unsigned flags) {
  if (flags != cudaStreamNonBlocking) unmodelled("a blocking stream");
  const Guard guard(runtime().lock);
  Stream* made = new Stream{{enqueue_foreign, foreign_on_device, &runtime().clock}, current_device, {}, nullptr, false};
  runtime().streams.insert(made);
  *s = reinterpret_cast<cudaStream_t>(made);
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t s) {
  const Guard guard(runtime().lock);
  if (of(s)->recording) return answer(unsafe(of(s)));
  drain(of(s));
  return answer(runtime().sticky(of(s)->device));
}
// Event Management: a record is work of its stream; cudaEventElapsedTime is cudaErrorInvalidResourceHandle before a record and
// cudaErrorNotReady before it is done.
cudaError_t cudaEventCreate(cudaEvent_t* e) {
  *e = reinterpret_cast<cudaEvent_t>(new Event);
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* e, unsigned flags) {
  if (flags != cudaEventDisableTiming) unmodelled("flags of an event");
  return cudaEventCreate(e);
}
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) {
  const Guard guard(runtime().lock);
  if (of(s)->recording) unmodelled("an event of a recording");
  Event* event = reinterpret_cast<Event*>(e);
  event->stream = of(s);
  const int64_t record = ++event->asked;
  push(of(s), [event, record] {
    event->time = runtime().clock;
    event->done = record;
  });
  return cudaSuccess;
}
// "Makes all future work submitted to stream wait for all work captured in event", as the last record before this call has it;
// one that was never recorded is waited for by nothing. Streams of other devices may wait too.
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags) {
  const Guard guard(runtime().lock);
  if (flags || of(s)->recording) unmodelled("flags of a wait, or one of a recording");
  Event* event = reinterpret_cast<Event*>(e);
  const int64_t record = event->asked;
  Stream* from = event->stream;
  if (from) push(of(s), [=] {
    while (event->done < record && !from->queue.empty()) step(from);
  });
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t e) {
  const Guard guard(runtime().lock);
  if (recording_here) return answer(unsafe(nullptr));
  Event* event = reinterpret_cast<Event*>(e);
  if (!event->stream) return cudaSuccess;
  drain(event->stream);
  return answer(runtime().sticky(event->stream->device));
}
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t start, cudaEvent_t stop) {
  const Guard guard(runtime().lock);
  const Event *a = reinterpret_cast<Event*>(start), *b = reinterpret_cast<Event*>(stop);
  if (!a->stream || !b->stream) return answer(cudaErrorInvalidResourceHandle);
  if (a->done < a->asked || b->done < b->asked) return answer(cudaErrorNotReady);
  *ms = static_cast<float>(b->time - a->time);
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t e) {
  const Guard guard(runtime().lock);
  Event* event = reinterpret_cast<Event*>(e);
  if (event->stream) drain(event->stream);
  delete event;
  return cudaSuccess;
}
// Stream Ordered Memory Allocator: memory may be used by work of the stream after the allocation; freeing happens in its
// turn.
cudaError_t cudaMallocAsync(void** p, size_t n, cudaStream_t s) {
  const Guard guard(runtime().lock);
  // What was freed earlier in the stream's order may be used again, and so may what other streams have come to free
  // (cudaMemPoolReuseAllowOpportunistic).
  if (runtime().used[current_device] + n > size_t(options().memory))
    for (Stream* each : runtime().streams) drain(each);
  if (of(s)->recording) unmodelled("memory of a recording");
  if (runtime().sticky(current_device) != cudaSuccess) return answer(runtime().sticky(current_device));
  const cudaError_t e = take(p, n);
  if (e == cudaSuccess) {
    const char* at = static_cast<char*>(*p);
    runtime().memory[at].ready = false;
    push(of(s), [at] {
      const auto it = runtime().memory.find(at);
      if (it == runtime().memory.end()) return;
      it->second.ready = true;
      open_memory(true);
    });
  }
  return answer(e);
}
cudaError_t cudaFreeAsync(void* p, cudaStream_t s) {
  const Guard guard(runtime().lock);
  if (!p) return cudaSuccess;
  if (!runtime().memory.count(static_cast<char*>(p))) return answer(cudaErrorInvalidValue);
  if (runtime().sticky(of(s)->device) != cudaSuccess) return answer(runtime().sticky(of(s)->device));
  if (of(s)->recording) unmodelled("memory of a recording");
  push(of(s), [p] { give(static_cast<char*>(p)); });
  return cudaSuccess;
}
// Memory Management: cudaFree may be called with work in flight and waits for it
cudaError_t cudaMalloc(void** p, size_t n) {
  const Guard guard(runtime().lock);
  if (recording_here) return answer(unsafe(nullptr));
  if (runtime().sticky(current_device) != cudaSuccess) return answer(runtime().sticky(current_device));
  return answer(take(p, n));
}
cudaError_t cudaFree(void* p) {
  const Guard guard(runtime().lock);
  if (recording_here) return answer(unsafe(nullptr));
  if (!p) return cudaSuccess;
  if (!runtime().memory.count(static_cast<char*>(p))) return answer(cudaErrorInvalidValue);
  for (Stream* s : runtime().streams) drain(s);
  give(static_cast<char*>(p));
  return answer(runtime().sticky(current_device));
}
cudaError_t cudaMallocHost(void** p, size_t n) {
  const Guard guard(runtime().lock);
  if (recording_here) return answer(unsafe(nullptr));
  if (runtime().pinned_calls++ == options().fail_pinned) return answer(cudaErrorMemoryAllocation);
  *p = calloc(1, n);
  runtime().pinned[static_cast<char*>(*p)] = n;
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* p) {
  const Guard guard(runtime().lock);
  if (!runtime().pinned.erase(static_cast<char*>(p))) return answer(cudaErrorInvalidValue);
  for (Stream* s : runtime().streams) drain(s);
  free(p);
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t n, cudaMemcpyKind kind, cudaStream_t s) {
  const Guard guard(runtime().lock);
  const bool t = on_device(to, n), f = on_device(from, n);
  // cudaMemcpyKind must match the pointers (Memory Management)
  const bool good = kind == cudaMemcpyHostToDevice   ? t && !f
                    : kind == cudaMemcpyDeviceToHost ? !t && f
                    : kind == cudaMemcpyDeviceToDevice ? t && f
                                                       : false;
  if (!good) return answer(cudaErrorInvalidValue);
  if (runtime().sticky(current_device) != cudaSuccess) return answer(runtime().sticky(current_device));
  if (of(s)->recording && kind != cudaMemcpyDeviceToDevice) unmodelled("memory of the host in a recording");
  push(of(s), [=] { memcpy(to, from, n); });
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* p, int v, size_t n, cudaStream_t s) {
  const Guard guard(runtime().lock);
  if (!on_device(p, n)) return answer(cudaErrorInvalidValue);
  push(of(s), [=] { memset(p, v, n); });
  return cudaSuccess;
}
// Stream Management and Graph Management. A recorded stream runs nothing until cudaStreamEndCapture, which answers
// cudaErrorStreamCaptureInvalidated, and no graph, where something that cannot be recorded was tried. Launches of a graph that runs
// already wait for it.
cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode mode) {
  const Guard guard(runtime().lock);
  if (mode != cudaStreamCaptureModeThreadLocal) unmodelled("a mode of recording");
  if (of(s)->recording) return answer(cudaErrorIllegalState);
  of(s)->recording = new Graph;
  of(s)->spoilt = false;
  recording_here = of(s);
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t* graph) {
  const Guard guard(runtime().lock);
  Stream* stream = of(s);
  *graph = nullptr;
  if (!stream->recording || recording_here != stream) return answer(cudaErrorStreamCaptureWrongThread);
  Graph* made = stream->recording;
  stream->recording = nullptr;
  recording_here = nullptr;
  if (stream->spoilt) {
    delete made;
    return answer(cudaErrorStreamCaptureInvalidated);
  }
  *graph = reinterpret_cast<cudaGraph_t>(made);
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long flags) {
  const Guard guard(runtime().lock);
  if (flags) unmodelled("flags of a graph");
  *exec = nullptr;
  if (!options().graphs) return answer(cudaErrorNotSupported);
  *exec = reinterpret_cast<cudaGraphExec_t>(new Executable{*reinterpret_cast<Graph*>(graph), current_device, 0});
  runtime().graphs++;
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  const Guard guard(runtime().lock);
  delete reinterpret_cast<Graph*>(graph);
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t s) {
  const Guard guard(runtime().lock);
  Executable* made = reinterpret_cast<Executable*>(exec);
  if (made->device != of(s)->device || made->queued) unmodelled("a graph on another device, or twice at once");
  if (runtime().sticky(made->device) != cudaSuccess) return answer(runtime().sticky(made->device));
  if (of(s)->recording) unmodelled("a graph in a recording");
  made->queued++;
  for (const auto& work : made->work) push(of(s), work);
  push(of(s), [made] { made->queued--; });
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  const Guard guard(runtime().lock);
  Executable* made = reinterpret_cast<Executable*>(exec);
  if (made->queued && runtime().sticky(made->device) == cudaSuccess) unmodelled("the end of a graph that is under way");
  runtime().graphs--;
  delete made;
  return cudaSuccess;
}
cudaError_t cudaGetLastError() {
  const cudaError_t e = last_error;
  last_error = cudaSuccess;
  return e;
}
const char* cudaGetErrorString(cudaError_t e) {
  return e == cudaErrorMemoryAllocation     ? "out of memory"
         : e == cudaErrorInsufficientDriver ? "CUDA driver version is insufficient for CUDA runtime version"
         : e == cudaErrorNoDevice           ? "no CUDA-capable device is detected"
         : e == cudaErrorLaunchFailure      ? "unspecified launch failure"
                                            : "an error of the emulated runtime";
}

}  // extern "C"
