#include "cuda/library.h"

#include <dlfcn.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>

#include <string>

namespace whittle {
namespace {

typedef std::function<bool(void*, const char*)> Take;

bool try_open(const Take& take, const char* path, int flags) {
  void* handle = dlopen(path, RTLD_NOW | RTLD_LOCAL | flags);
  return handle && take(handle, path);
}

// The files that match, the last first: versions sort upwards.
bool try_files(const Take& take, const std::string& pattern) {
  glob_t found = {};
  bool opened = false;
  if (glob(pattern.c_str(), 0, nullptr, &found) == 0)
    for (size_t i = found.gl_pathc; i-- > 0 && !opened;) opened = try_open(take, found.gl_pathv[i], 0);
  globfree(&found);
  return opened;
}

}  // namespace

bool open_nvidia(const NvidiaLibrary& library, const Take& take, char* why, size_t size) {
  const char* asked = getenv(library.variable);
  if (asked && *asked) {
    if (try_open(take, asked, 0)) return true;
    if (!why[0]) snprintf(why, size, "%s cannot be loaded: %s", library.variable, dlerror());
    return false;
  }
  // Already in the process, then wherever the linker looks.
  if (try_open(take, library.name, RTLD_NOLOAD) || try_open(take, library.name, 0)) return true;
  const auto in = [&](const char* variable, const char* below) {
    const char* base = getenv(variable);
    return base && base[0] == '/' && try_files(take, std::string(base) + below + "/" + library.name);
  };
  for (const char* toolkit : {"CUDA_PATH", "CUDA_HOME"})
    if (in(toolkit, "/lib64") || in(toolkit, "/targets/x86_64-linux/lib")) return true;
  if (try_files(take, std::string("/usr/local/cuda*/lib64/") + library.name)) return true;
  const char* wheel = "/lib/python3.*/site-packages/nvidia/cu*/lib";
  if (in("VIRTUAL_ENV", wheel) || in("CONDA_PREFIX", wheel) || in("HOME", "/.local/lib/python3.*/site-packages/nvidia/cu*/lib")) return true;
  if (!why[0]) snprintf(why, size, "%s was not found: install a CUDA toolkit, or pip install %s", library.name, library.package);
  return false;
}

}  // namespace whittle
