#include "core/cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__linux__)
#include <dlfcn.h>
#endif

namespace whittle {
namespace {

#if defined(__linux__)

struct Store {
  CudaLoaded loaded = {};
  char library[4096] = "", text[1024] = "";
};

void say(Store* s, CudaState state, const char* text) {
  s->loaded.state = state;
  snprintf(s->text, sizeof s->text, "%s", text ? text : "");
}

// whittle_cuda.so in the folder of the file that holds this function.
bool beside_us(char* path, size_t size) {
  Dl_info info;
  if (!dladdr(reinterpret_cast<void*>(&beside_us), &info) || !info.dli_fname) return false;
  const char* slash = strrchr(info.dli_fname, '/');
  const int folder = slash ? static_cast<int>(slash - info.dli_fname) : 1;
  const int n = snprintf(path, size, "%.*s/whittle_cuda.so", folder, slash ? info.dli_fname : ".");
  return n > 0 && static_cast<size_t>(n) < size;
}

bool exists(const char* path) {
  FILE* f = fopen(path, "rb");
  if (f) fclose(f);
  return f != nullptr;
}

void open_library(Store* s) {
  const char* hide = getenv("WHITTLE_CUDA");
  if (hide && strcmp(hide, "0") == 0) return say(s, kCudaHidden, "");
  const char* asked = getenv("WHITTLE_CUDA_LIBRARY");
  if (asked && *asked) {
    if (strlen(asked) >= sizeof s->library) return say(s, kCudaLibraryMissing, "the path is too long");
    strcpy(s->library, asked);
    // A bare name would be looked for wherever the linker looks.
    if (asked[0] != '/') return say(s, kCudaLibraryMissing, "the path is not absolute");
  } else if (!beside_us(s->library, sizeof s->library)) {
    return say(s, kCudaLibraryMissing, "");
  }
  if (!exists(s->library)) return say(s, kCudaLibraryMissing, "");
  void* handle = dlopen(s->library, RTLD_NOW | RTLD_LOCAL);
  if (!handle) return say(s, kCudaLibraryBroken, dlerror());
  const CudaEntry entry = reinterpret_cast<CudaEntry>(dlsym(handle, kCudaEntry));
  if (!entry) return say(s, kCudaLibraryBroken, "it does not export whittle_cuda");
  const CudaBackend* backend = entry();
  // `contract` and `bytes` come first in every version.
  if (!backend || backend->contract != kCudaContract || backend->bytes != sizeof(CudaBackend)) {
    char text[96];
    snprintf(text, sizeof text, "it speaks version %u of the contract, this package %u", backend ? backend->contract : 0, kCudaContract);
    return say(s, kCudaLibraryVersion, text);
  }
  CudaProbe probe = {};
  backend->probe(&probe);
  s->loaded.devices = probe.devices;
  s->loaded.driver = probe.driver;
  s->loaded.runtime = probe.runtime;
  say(s, static_cast<CudaState>(probe.state), probe.text);
  if (probe.state == kCudaReady) s->loaded.backend = backend;
}

const CudaLoaded& opened() {
  static const Store* const store = [] {
    Store* s = new Store;  // never freed: the answer is read until the process ends
    open_library(s);
    s->loaded.file = s->library;
    s->loaded.text = s->text;
    return s;
  }();
  return store->loaded;
}

#else

const CudaLoaded& opened() {
  static const char* const hide = getenv("WHITTLE_CUDA");
  static const CudaLoaded none = {hide && strcmp(hide, "0") == 0 ? kCudaHidden : kCudaPlatform, nullptr, "", "", 0, 0, 0};
  return none;
}

#endif

}  // namespace

const CudaLoaded& cuda() { return opened(); }

}  // namespace whittle
