#include "cuda/library.h"

#include <dlfcn.h>
#include <glob.h>
#include <link.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <string>
#include <vector>

namespace whittle {
namespace {

class Search {
 public:
  Search(const NvidiaLibrary& library, std::initializer_list<NvidiaFunction> functions, NvidiaOpened* opened)
      : library_(library), functions_(functions), opened_(*opened) {}

  bool run() {
    const char* asked = getenv(library_.variable);
    if (asked && *asked) {
      if (other_major(asked)) return said("%s is %s, which is of another version than this build of whittle_cuda needs (%s)", library_.variable, asked, library_.name);
      if (take(dlopen(asked, RTLD_NOW | RTLD_LOCAL))) return true;
      return said("%s cannot be loaded: %s", library_.variable, words().c_str());
    }
    // Already in the process, then wherever the linker looks.
    if (take(dlopen(library_.name, RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD)) || take(dlopen(library_.name, RTLD_NOW | RTLD_LOCAL))) return true;
    // Other words than "NAME: cannot open ..." are of a file that was found, or of one that it needs.
    const std::string spoken = words();
    if (!spoken.empty() && spoken.compare(0, strlen(library_.name), library_.name) != 0) said("%s cannot be loaded: %s", library_.name, spoken.c_str());
    const std::vector<std::string> folders = places();
    for (const std::string& folder : folders)
      for (const std::string& file : files(folder + "/" + library_.name)) {
        if (take(dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL))) return true;
        const std::string failed = words();
        if (!failed.empty()) said("%s cannot be loaded: %s", file.c_str(), failed.c_str());
      }
    const std::string stem(library_.name, strstr(library_.name, ".so.") + 4 - library_.name);
    for (const std::string& folder : folders)
      for (const std::string& file : files(folder + "/" + stem + "*"))
        if (other_major(file.c_str()))
          return said("%s was not found, only %s, which is of another version: pip install %s", library_.name, file.c_str(), library_.package);
    return said("%s was not found: install a CUDA toolkit, or pip install %s", library_.name, library_.package);
  }

 private:
  // The first reason stays.
  __attribute__((format(printf, 2, 3))) bool said(const char* format, ...) {
    if (opened_.why[0]) return false;
    va_list list;
    va_start(list, format);
    vsnprintf(opened_.why, sizeof opened_.why, format, list);
    va_end(list);
    return false;
  }

  static std::string words() {
    const char* text = dlerror();
    return text ? text : "";
  }

  // NAME.so.N or NAME.so.N.x of an N that is not ours; a file of any other name may be what it likes.
  bool other_major(const char* path) const {
    const char *slash = strrchr(path, '/'), *file = slash ? slash + 1 : path, *ours = strstr(library_.name, ".so.") + 4;
    const size_t stem = static_cast<size_t>(ours - library_.name);
    if (strncmp(file, library_.name, stem) != 0 || file[stem] < '0' || file[stem] > '9') return false;
    return atoi(file + stem) != atoi(ours);
  }

  bool take(void* handle) {
    if (!handle) return false;
    link_map* map = nullptr;
    const char* path = dlinfo(handle, RTLD_DI_LINKMAP, &map) == 0 && map && map->l_name && *map->l_name ? map->l_name : library_.name;
    for (const NvidiaFunction& f : functions_) {
      *f.to = dlsym(handle, f.name);
      if (!*f.to) return said("%s has no %s", path, f.name);
    }
    snprintf(opened_.path, sizeof opened_.path, "%s", path);
    opened_.why[0] = 0;
    return true;
  }

  // The files that match, the last first: versions sort upwards.
  static std::vector<std::string> files(const std::string& pattern) {
    glob_t found = {};
    std::vector<std::string> list;
    if (glob(pattern.c_str(), 0, nullptr, &found) == 0)
      for (size_t i = found.gl_pathc; i-- > 0;) list.push_back(found.gl_pathv[i]);
    globfree(&found);
    return list;
  }

  // Folders of toolkits, then of wheels, as patterns.
  static std::vector<std::string> places() {
    std::vector<std::string> list;
    const auto add = [&](const char* variable, const char* below) {
      const char* base = getenv(variable);
      if (base && base[0] == '/') list.push_back(std::string(base) + below);
    };
    for (const char* toolkit : {"CUDA_PATH", "CUDA_HOME"})
      for (const char* below : {"/lib64", "/targets/x86_64-linux/lib"}) add(toolkit, below);
    list.push_back("/usr/local/cuda*/lib64");
    for (const char* environment : {"VIRTUAL_ENV", "CONDA_PREFIX"}) add(environment, "/lib/python3.*/site-packages/nvidia/*/lib");
    add("HOME", "/.local/lib/python3.*/site-packages/nvidia/*/lib");
    return list;
  }

  const NvidiaLibrary& library_;
  const std::initializer_list<NvidiaFunction> functions_;
  NvidiaOpened& opened_;
};

}  // namespace

void open_nvidia(const NvidiaLibrary& library, std::initializer_list<NvidiaFunction> functions, NvidiaOpened* opened) {
  opened->wanted = &library;
  opened->open = Search(library, functions, opened).run();
}

void note_refusal(NvidiaOpened& o, const char* words) {
  const std::lock_guard<std::mutex> guard(o.lock);
  snprintf(o.refused, sizeof o.refused, "%s", words);
}

bool call_answered(NvidiaOpened& o, const char* function, int status) {
  if (status == 0) return true;
  // cusparseStatus_t
  const char* said = status == 2 || status == 11 ? "wants for memory" : status == 3 ? "refuses its arguments" : status == 4 ? "does not serve this device"
                     : status == 10 ? "does not serve this shape" : "failed";
  char words[200];
  snprintf(words, sizeof words, "%s %s (status %d)", function, said, status);
  note_refusal(o, words);
  return false;
}

CudaLibrary library_of(NvidiaOpened& o) {
  CudaLibrary out = {};
  snprintf(out.name, sizeof out.name, "%s", o.wanted->name);
  snprintf(out.serves, sizeof out.serves, "%s", o.wanted->serves);
  snprintf(out.path, sizeof out.path, "%s", o.path);
  const std::lock_guard<std::mutex> guard(o.lock);
  snprintf(out.why, sizeof out.why, "%s", o.open ? o.refused : o.why);
  return out;
}

}  // namespace whittle
