// Binary kernels: words and sums of sizes bit for bit as scalar has them, products as a plain loop over signs has them.
#include "core/binary.h"

#include <math.h>
#include <string.h>

#include <algorithm>
#include <vector>

#include "test/native/harness.h"

using namespace whittle;

namespace {

float number(Rng& rng) {
  const int64_t kind = rng.below(12);
  return kind == 0 ? 0.0f : kind == 1 ? -0.0f : kind == 2 ? -1e-42f : kind == 3 ? 3e38f : rng.normal();
}

struct Case {
  int64_t rows, k, columns;
};

void multiply(Harness& h, Rng& rng, const BinaryKernels& k, const Case& c, bool floats, bool scaled) {
  const int64_t words = binary_words(c.k), ldc = c.columns + rng.below(3);
  Guarded<uint32_t> a(c.rows * words, rng.below(4)), group(words * kBinaryLanes, rng.below(4));
  Guarded<float> scale(kBinaryLanes, rng.below(4)), rows(c.rows, rng.below(4));
  const int64_t room = (c.rows - 1) * ldc + c.columns;
  Guarded<float> f(room, rng.below(4));
  Guarded<int32_t> i(room, rng.below(4));
  const std::vector<int32_t> before(i.data(), i.data() + room);
  // Alike or different in nearly all bits now and then: every counter at its fullest.
  const uint32_t kind = static_cast<uint32_t>(rng.below(3));
  const auto bits = [&] { return kind == 0 ? static_cast<uint32_t>(rng.next()) : kind == 1 ? 0u : 0xffffffffu; };
  const auto inside = [&](int64_t word) {
    const int64_t left = c.k - 32 * word;
    return left >= 32 ? 0xffffffffu : left <= 0 ? 0u : (1u << left) - 1;
  };
  for (int64_t r = 0; r < c.rows; r++)
    for (int64_t w = 0; w < words; w++) a[r * words + w] = (kind == 0 ? static_cast<uint32_t>(rng.next()) : 0u) & inside(w);
  for (int64_t w = 0; w < words; w++)
    for (int64_t j = 0; j < kBinaryLanes; j++) group[w * kBinaryLanes + j] = bits() & inside(w);
  for (int64_t j = 0; j < kBinaryLanes; j++) scale[j] = rng.normal();
  for (int64_t r = 0; r < c.rows; r++) rows[r] = rng.normal();
  BinaryTile t = {};
  t.rows = c.rows, t.words = words, t.a = a.data(), t.group = group.data(), t.columns = c.columns, t.k = c.k;
  t.scale = scaled ? scale.data() : nullptr;
  t.row_scale = scaled ? rows.data() : nullptr;
  t.is_float = floats;
  t.c = floats ? static_cast<void*>(f.data()) : i.data();
  t.ldc = ldc;
  k.multiply(&t);
  for (int64_t r = 0; r < c.rows; r++)
    for (int64_t j = 0; j < ldc && r * ldc + j < room; j++) {
      const int64_t at = r * ldc + j;
      int32_t raw;
      memcpy(&raw, floats ? static_cast<const void*>(&f[at]) : &i[at], 4);
      if (j >= c.columns) {
        int32_t poison = before[size_t(at)];
        if (!floats) h.expect(raw == poison, "wrote column %d", int(j));
        continue;
      }
      int64_t sum = 0;
      for (int64_t p = 0; p < c.k; p++)
        sum += ((a[r * words + p / 32] ^ group[p / 32 * kBinaryLanes + j]) >> (p % 32)) & 1 ? -1 : 1;
      float want = static_cast<float>(sum);
      if (scaled) want = want * scale[j];
      if (scaled) want = want * rows[r];
      if (floats) h.expect(f[at] == want, "k %d [%d, %d]: %g, want %g", int(c.k), int(r), int(j), f[at], want);
      else h.expect(raw == sum, "k %d [%d, %d]: %d, want %d", int(c.k), int(r), int(j), raw, int(sum));
    }
  h.expect(f.intact() && i.intact() && a.intact() && group.intact(), "wrote outside, k %d", int(c.k));
}

}  // namespace

WHITTLE_CHECK(binary) {
  each_variant(h, binary_variants(), [&](const BinaryKernels& ref, const BinaryKernels& k) {
    h.row("pack", [&] {
      Rng rng = h.rng();
      for (int64_t n : {0, 1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 255, 256, 257, 1000, 4099}) {
        Guarded<float> x(n, rng.between(0, 15));
        Guarded<uint32_t> words(binary_words(n), rng.below(4)), plain(binary_words(n));
        for (int64_t i = 0; i < n; i++) x[i] = number(rng);
        const double sum = k.pack(x.data(), n, words.data()), want = ref.pack(x.data(), n, plain.data());
        h.expect(sum == want, "n %d: sum %g, want %g", int(n), sum, want);
        double about = 0;
        for (int64_t i = 0; i < n; i++) {
          about += fabs(double(x[i]));
          h.expect(((words[i / 32] >> (i % 32)) & 1) == (x[i] < 0), "n %d [%d] = %g", int(n), int(i), x[i]);
        }
        h.expect(fabs(sum - about) <= 1e-12 * about, "n %d: sum %g, about %g", int(n), sum, about);
        for (int64_t i = n; i < 32 * words.size(); i++) h.expect(((words[i / 32] >> (i % 32)) & 1) == 0, "n %d: bit %d past the end", int(n), int(i));
        h.expect(words.intact() && plain.intact(), "wrote outside, n %d", int(n));
        for (float bad : {NAN, INFINITY, -INFINITY}) {
          if (n == 0) continue;
          const int64_t at = rng.below(n);
          const float kept = x[at];
          x[at] = bad;
          const double s = k.pack(x.data(), n, words.data());
          h.expect(s - s != 0, "n %d: %g at %d passed", int(n), bad, int(at));
          x[at] = kept;
        }
      }
    });
    h.row("multiply", [&] {
      Rng rng = h.rng();
      for (int64_t n : {0, 1, 31, 32, 33, 255, 256, 257, 500, 768, 1024, 7936, 7937, 8200, 20000})
        for (int64_t columns : {1, 7, 8, 9, 15, 16}) {
          if (n > 1024 && columns != 9 && columns != 16) continue;
          const Case c = {n > 1024 ? 1 : rng.between(1, 4), n, columns};
          for (int round = 0; round < (h.lean() ? 2 : 4); round++) {
            multiply(h, rng, k, c, false, false);
            multiply(h, rng, k, c, true, true);
            multiply(h, rng, k, c, true, false);
          }
        }
    });
    if (h.benching()) {
      Rng rng = h.rng();
      for (int64_t n : {768, 4096}) {
        const int64_t rows = 128, words = binary_words(n);
        std::vector<uint32_t> a(size_t(rows * words)), group(size_t(words * kBinaryLanes));
        for (uint32_t& v : a) v = uint32_t(rng.next());
        for (uint32_t& v : group) v = uint32_t(rng.next());
        std::vector<float> c(size_t(rows * kBinaryLanes)), x(size_t(n), 1.0f);
        BinaryTile t = {};
        t.rows = rows, t.words = words, t.a = a.data(), t.group = group.data(), t.columns = kBinaryLanes, t.k = n;
        t.is_float = true, t.c = c.data(), t.ldc = kBinaryLanes;
        char name[64];
        snprintf(name, sizeof name, "multiply 128x16x%d", int(n));
        h.bench(name, 0, [&] { k.multiply(&t); }, 2.0 * double(rows * kBinaryLanes * n));
        snprintf(name, sizeof name, "pack %d", int(n));
        h.bench(name, 4.0 * double(n), [&] { k.pack(x.data(), n, a.data()); });
      }
    }
  });
}
