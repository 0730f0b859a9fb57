// Finding NVIDIA's libraries, which come with a toolkit or as Python wheels and are linked by nothing.
#pragma once
#include <functional>

namespace whittle {

struct NvidiaLibrary {
  const char* variable;  // of the environment, a path that is taken before all others
  const char* name;      // with its major version
  const char* package;   // what pip installs
};

// Opens it wherever it is first found and `take` accepts it; never closes it. False: `why`, where `take` has not filled it,
// says what is missing.
bool open_nvidia(const NvidiaLibrary& library, const std::function<bool(void* handle, const char* path)>& take, char* why, size_t size);

}  // namespace whittle
