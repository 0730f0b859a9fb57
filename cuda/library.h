// Finding and opening NVIDIA's libraries, which come with a toolkit or as Python wheels and are linked by nothing: each at its
// first use, once for the life of the process.
#pragma once
#include <initializer_list>
#include <mutex>

#include "core/cuda.h"

namespace whittle {

struct NvidiaLibrary {
  const char* variable;  // of the environment, a path that is taken before all others
  const char* name;      // with its major version
  const char* package;   // what pip installs
  const char* serves;    // what goes through it
};

// A function that is used: where its address goes.
struct NvidiaFunction {
  const char* name;
  void** to;
};

struct NvidiaOpened {
  const NvidiaLibrary* wanted = nullptr;
  bool open = false;
  char path[1024] = "", why[1024] = "";  // one of them
  std::mutex lock;                       // of what follows
  char refused[256] = "";                // the last call that was answered without the library
};

// The first one that has all functions, of: what the variable names, and that alone; the process; the linker's places; toolkits;
// wheels. Never closes it.
void open_nvidia(const NvidiaLibrary& library, std::initializer_list<NvidiaFunction> functions, NvidiaOpened* opened);

// For whittle doctor: opens the library to answer.
CudaLibrary library_of(NvidiaOpened& opened);
CudaLibrary cublaslt_library();
CudaLibrary cusolver_library();
CudaLibrary cusparse_library();
CudaLibrary cusparselt_library();

// Keeps words for a call that own kernels answer.
void note_refusal(NvidiaOpened& opened, const char* words);
// Whether a function of cuSPARSE or cuSPARSELt answered success; else its name and what it answered are kept.
bool call_answered(NvidiaOpened& opened, const char* function, int status);

#define WHITTLE_TEXT_OF(x) #x
#define WHITTLE_TEXT(x) WHITTLE_TEXT_OF(x)

}  // namespace whittle
