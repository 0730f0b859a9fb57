#include "core/paged.h"

#include <errno.h>

#include <map>
#include <mutex>
#include <new>

#if !defined(_WIN32)
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
#endif
#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace whittle {

#if defined(_WIN32)

void* paged_map(int, size_t) { return nullptr; }
void paged_unmap(void*) {}
void paged_release() {}
void paged_trim() {}

#else

namespace {

struct Mapped {
  std::mutex mutex;
  std::map<void*, size_t> all;
};
// Never freed: finalizers may run after static destructors.
Mapped& mapped() {
  static Mapped* m = new Mapped;
  return *m;
}

bool reserve(int fd, size_t bytes) {
#if defined(__APPLE__)
  fstore_t room = {F_ALLOCATEALL, F_PEOFPOSMODE, 0, static_cast<off_t>(bytes), 0};
  return fcntl(fd, F_PREALLOCATE, &room) == 0 && ftruncate(fd, static_cast<off_t>(bytes)) == 0;
#else
  int status;
  do status = posix_fallocate(fd, 0, static_cast<off_t>(bytes));
  while (status == EINTR);
  return status == 0;
#endif
}

}  // namespace

void* paged_map(int fd, size_t bytes) {
  if (bytes == 0 || !reserve(fd, bytes)) return nullptr;
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (data == MAP_FAILED) return nullptr;
  Mapped& m = mapped();
  std::lock_guard<std::mutex> lock(m.mutex);
  m.all[data] = bytes;
  return data;
}

void paged_unmap(void* data) {
  Mapped& m = mapped();
  std::lock_guard<std::mutex> lock(m.mutex);
  const auto found = m.all.find(data);
  if (found == m.all.end()) return;
  munmap(data, found->second);
  m.all.erase(found);
}

void paged_release() {
  Mapped& m = mapped();
  std::lock_guard<std::mutex> lock(m.mutex);
  for (const auto& [data, bytes] : m.all) {
#if defined(__APPLE__)
    // There MADV_DONTNEED is a hint alone; clean pages go at once.
    msync(data, bytes, MS_SYNC);
#endif
    madvise(data, bytes, MADV_DONTNEED);
  }
}

void paged_trim() {
#if defined(__GLIBC__)
  malloc_trim(0);
#endif
}

#endif

}  // namespace whittle
