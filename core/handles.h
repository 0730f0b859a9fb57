// Native objects that JavaScript holds: packed weights, sparse matrices, sessions. Process-wide and reference-counted, so
// that several environments (worker threads) share one copy. Ids are never used twice.
#pragma once
#include <stdint.h>

namespace whittle {

// What a handle holds. The names cross into lib/handle.ts.
enum class HandleKind : int32_t { packed_int8 = 1, packed_int4 = 2, sparse = 3, session = 4, packed_bfloat16 = 5, packed_scaled_int8 = 6, packed_float32 = 7, device_tensor = 8, packed_binary = 9 };

struct HandleEntry {
  uint64_t id;
  HandleKind kind;
  void* object;
  int64_t bytes;
  void (*destroy)(void* object);
  int64_t references;  // under the registry's lock
};

// Registers `object` with one reference. Null if memory is short; the object is then still the caller's.
HandleEntry* handle_create(HandleKind kind, void* object, int64_t bytes, void (*destroy)(void*));

// One more reference to a live handle, or null for an id that is gone, was never given or is of another kind.
HandleEntry* handle_find(uint64_t id, HandleKind kind);
void handle_retain(HandleEntry* entry);
// The last release destroys the object, on the calling thread.
void handle_release(HandleEntry* entry);

// Handles alive, for tests of leaks.
int64_t handle_count();

// 32 hexadecimal digits drawn once per process: tokens from elsewhere do not carry them.
const char* handle_process();

}  // namespace whittle
