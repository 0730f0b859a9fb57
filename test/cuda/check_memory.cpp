#include <string.h>

#include <thread>

#include "check.h"

namespace whittle {

void check_memory(Check& c) {
  const CudaBackend& cuda = c.cuda();

  c.row("memory: what goes up comes down, and nothing beside it", [&](Rng& rng) {
    for (const int64_t n : {1, 3, 255, 1000}) {
      std::vector<float> x = rng.normals(n);
      std::vector<float> got;
      {
        // The source may go as soon as upload answers.
        const Device<float> d(x);
        std::vector<float> other(x.size());
        other.swap(x);
        x = other;
        for (float& v : other) v = -1;
        got = d.host();
      }
      c.expect(differs(got, x) < 0, "n %d", int(n));
    }
    void* p = nullptr;
    c.expect(cuda.allocate(0, 0, &p) == WHITTLE_OK && p && cuda.upload(0, p, nullptr, 0) == WHITTLE_OK, "0 bytes");
    cuda.release(0, p);
    c.expect(cuda.allocate(7, 16, &p) == WHITTLE_DEVICE && !p && cuda.error()[0], "a device that is not there");
    c.expect(cuda.allocate(-1, 16, &p) == WHITTLE_DEVICE && cuda.allocate(64, 16, &p) == WHITTLE_DEVICE, "numbers that are none");
  });

  // 9 MB and a bit: three pinned pieces of 4 MB, the last one short.
  const auto large = [&](int32_t device, int64_t bytes, uint64_t seed) {
    std::vector<char> x(static_cast<size_t>(bytes)), y(x.size());
    Rng own(seed);
    for (size_t i = 0; i + 8 <= x.size(); i += 8) {
      const uint64_t v = own.next();
      memcpy(&x[i], &v, 8);
    }
    void* p = nullptr;
    const bool good = cuda.allocate(device, bytes, &p) == WHITTLE_OK && cuda.upload(device, p, x.data(), bytes) == WHITTLE_OK &&
                      cuda.download(device, y.data(), p, bytes) == WHITTLE_OK && x == y;
    cuda.release(device, p);
    return good;
  };
  c.row("memory: large tensors go through pinned pieces", [&](Rng& rng) {
    for (const int64_t bytes : {int64_t(1) << 20, int64_t(4) << 20, (int64_t(8) << 20) + 1, (int64_t(9) << 20) + 4097})
      c.expect(large(0, bytes, rng.next()), "%d bytes", int(bytes));
    // Several at once, of which one has the pieces.
    std::vector<std::thread> all;
    int good[3] = {};
    for (int i = 0; i < 3; i++) all.emplace_back([&, i] { good[i] = large(0, (int64_t(9) << 20) + i, static_cast<uint64_t>(i)); });
    for (std::thread& t : all) t.join();
    c.expect(good[0] && good[1] && good[2], "at once");
  });

  if (c.real()) return;

  c.row("memory: without pinned memory large tensors go all the same", [&](Rng& rng) {
    // A device that no row used before: pieces are asked for once.
    static int32_t fresh = 40;
    fake::options().devices = 64;
    for (int call = 1; call < 3; call++) {
      fresh++;
      void* p = nullptr;
      c.expect(cuda.allocate(fresh, 16, &p) == WHITTLE_OK, "a device");
      cuda.release(fresh, p);
      fake::options().fail_pinned = fake::pinned_calls() + call - 1;
      c.expect(large(fresh, (int64_t(5) << 20) + 3, rng.next()), "call %d", call);
      c.expect(fake::pinned_calls() > fake::options().fail_pinned, "call %d: was not made", call);
      fake::options().fail_pinned = -1;
    }
  });

  c.row("memory: out of device memory at every allocation, and the device works on", [&](Rng& rng) {
    const int64_t n = 300;
    const Device<float> x(rng.normals(n));
    const Device<uint8_t> mask(n);
    float threshold;
    int failures = 0;
    for (int64_t at = 0; at < 8; at++) {
      fake::options().fail_allocation = fake::allocations() + at;
      const WhittleStatus s = cuda.largest(0, x, n, 20, mask, &threshold);
      fake::options().fail_allocation = -1;
      c.expect(s == WHITTLE_OK || s == WHITTLE_OUT_OF_MEMORY, "allocation %d: status %d", int(at), s);
      failures += s == WHITTLE_OUT_OF_MEMORY;
      c.expect(cuda.largest(0, x, n, 20, mask, &threshold) == WHITTLE_OK, "after allocation %d", int(at));
    }
    c.expect(failures >= 3, "%d allocations failed", failures);
    void* p;
    c.expect(cuda.allocate(0, int64_t(1) << 40, &p) == WHITTLE_OUT_OF_MEMORY && !p, "a terabyte");
  });

  c.row("memory: another device goes on where one is lost", [&](Rng& rng) {
    // Lost for good, as on hardware: device 63 is nobody else's.
    fake::options().devices = 64;
    const std::vector<float> x = rng.normals(40);
    void *on_63 = nullptr, *out = nullptr;
    if (cuda.allocate(63, 160, &on_63) != WHITTLE_OK) return;  // lost by an earlier turn of this row
    cuda.allocate(63, 160, &out);
    cuda.upload(63, on_63, x.data(), 160);
    fake::reset();
    fake::options().lose_device = 0;
    const WhittleStatus s = cuda.scores(63, kSelectL1, static_cast<float*>(on_63), nullptr, 40, static_cast<float*>(out));
    fake::options().lose_device = -1;
    c.expect(s == WHITTLE_DEVICE && cuda.error()[0], "status %d", s);
    cuda.release(63, on_63);
    cuda.release(63, out);
    c.expect(cuda.allocate(63, 160, &on_63) == WHITTLE_DEVICE, "a lost device answers");
    const Device<float> a(x);
    const Device<float> b(40);
    c.expect(cuda.scores(0, kSelectL1, a, nullptr, 40, b) == WHITTLE_OK, "device 0");
  });
}

}  // namespace whittle
