#include "core/handles.h"

#include <stdio.h>

#include <exception>
#include <mutex>
#include <new>
#include <random>
#include <unordered_map>

namespace whittle {
namespace {

struct Registry {
  std::mutex mutex;
  std::unordered_map<uint64_t, HandleEntry*> live;
  uint64_t next = 1;
};

// Leaked: finalizers may run after static destructors.
Registry& registry() {
  static Registry* r = new Registry;
  return *r;
}

struct Nonce {
  char text[33];
  Nonce() {
    std::random_device device;
    for (int i = 0; i < 4; i++) snprintf(text + 8 * i, 9, "%08x", static_cast<unsigned>(device()));
  }
};

}  // namespace

HandleEntry* handle_create(HandleKind kind, void* object, int64_t bytes, void (*destroy)(void*)) {
  HandleEntry* entry = new (std::nothrow) HandleEntry{0, kind, object, bytes, destroy, 1};
  if (!entry) return nullptr;
  Registry& r = registry();
  std::lock_guard<std::mutex> lock(r.mutex);
  entry->id = r.next++;
  try {
    r.live.emplace(entry->id, entry);
  } catch (const std::exception&) {
    delete entry;
    return nullptr;
  }
  return entry;
}

HandleEntry* handle_find(uint64_t id, HandleKind kind) {
  Registry& r = registry();
  std::lock_guard<std::mutex> lock(r.mutex);
  const auto at = r.live.find(id);
  if (at == r.live.end() || at->second->kind != kind) return nullptr;
  at->second->references++;
  return at->second;
}

void handle_retain(HandleEntry* entry) {
  std::lock_guard<std::mutex> lock(registry().mutex);
  entry->references++;
}

void handle_release(HandleEntry* entry) {
  {
    Registry& r = registry();
    std::lock_guard<std::mutex> lock(r.mutex);
    if (--entry->references > 0) return;
    r.live.erase(entry->id);
  }
  entry->destroy(entry->object);
  delete entry;
}

int64_t handle_count() {
  Registry& r = registry();
  std::lock_guard<std::mutex> lock(r.mutex);
  return static_cast<int64_t>(r.live.size());
}

const char* handle_process() {
  static const Nonce nonce;
  return nonce.text;
}

}  // namespace whittle
