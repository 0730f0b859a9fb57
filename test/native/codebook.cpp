// Codebook kernels: indices exactly as scalar finds them and as a plain search does; sums within their bound.
#include "core/codebook.h"

#include <math.h>

#include <algorithm>
#include <vector>

#include "test/native/harness.h"

using namespace whittle;

namespace {

struct Book {
  std::vector<float> centroids, memory;
  CodebookTable table;
  Book(Rng& rng, int64_t count) {
    // Some twice: the lower of two equal ones is the answer.
    for (int64_t i = 0; i < count; i++) centroids.push_back(i > 0 && rng.below(12) == 0 ? centroids.back() : rng.normal());
    std::sort(centroids.begin(), centroids.end());
    const int64_t size = codebook_room(count);
    memory.resize(static_cast<size_t>(2 * size));
    table = codebook_table(centroids.data(), count, memory.data(), memory.data() + size);
  }
  int64_t size() const { return static_cast<int64_t>(centroids.size()); }
  // The nearest, of two equally near the lower, by looking at all.
  int64_t nearest(float x) const {
    int64_t best = 0;
    for (int64_t j = 1; j < size(); j++)
      if (fabs(double(x) - centroids[size_t(j)]) < fabs(double(x) - centroids[size_t(best)])) best = j;
    return best;
  }
};

const int64_t kCounts[] = {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 128, 200, 256};

// Values, some of them on centroids and in the very middle of two.
void fill(Rng& rng, const Book& book, float* x, int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    const size_t j = size_t(rng.below(book.size()));
    const float c = book.centroids[j];
    const float middle = j + 1 < book.centroids.size() ? float((double(c) + book.centroids[j + 1]) / 2) : c;
    const int64_t kind = rng.below(6);
    x[i] = kind == 0 ? c : kind == 1 ? middle : kind == 2 ? nextafterf(middle, 9) : kind == 3 ? nextafterf(middle, -9) : 2 * rng.normal();
  }
}

template <class Index, class Assign, class Gather, class Sum>
void check(Harness& h, Rng& rng, int64_t count, const Assign& assign, const Gather& gather, const Sum& sum, bool all) {
  const Book book(rng, count);
  std::vector<int64_t> sizes = sizes_around(64);
  sizes.push_back(1500);
  for (int64_t n : sizes) {
    Guarded<float> x(n, rng.between(0, 15)), out(n, rng.between(0, 15));
    Guarded<Index> index(n, rng.between(0, 15));
    fill(rng, book, x.data(), n);
    const double squares = assign(&book.table, x.data(), n, index.data());
    double want = 0;
    for (int64_t i = 0; i < n; i++) {
      const int64_t at = index[i];
      const double d = double(x[i]) - book.centroids[size_t(std::min(at, count - 1))];
      want += d * d;
      if (all) h.expect(at == book.nearest(x[i]), "count %d n %d [%d] = %g: %d, want %d", int(count), int(n), int(i), x[i], int(at), int(book.nearest(x[i])));
      else h.expect(at < count && fabs(d) <= fabs(x[i] - double(book.centroids[size_t(std::max<int64_t>(at - 1, 0))])) &&
                        fabs(d) <= fabs(x[i] - double(book.centroids[size_t(std::min(at + 1, count - 1))])), "count %d [%d]", int(count), int(i));
    }
    h.expect(fabs(squares - want) <= want * 0x1p-22, "count %d n %d: squares %g, want %g", int(count), int(n), squares, want);
    gather(index.data(), n, book.table.centroids, count, out.data());
    for (int64_t i = 0; i < n; i++) h.expect(out[i] == book.centroids[index[i]], "gather count %d n %d [%d]", int(count), int(n), int(i));
    std::vector<double> got(static_cast<size_t>(count), 0.5), plain(static_cast<size_t>(count), 0.5);
    sum(index.data(), x.data(), n, count, got.data());
    for (int64_t i = 0; i < n; i++) plain[index[i]] += double(x[i]);
    for (int64_t c = 0; c < count; c++)
      h.expect(fabs(got[size_t(c)] - plain[size_t(c)]) <= 1e-10, "sum count %d n %d [%d]", int(count), int(n), int(c));
    h.expect(index.intact() && out.intact(), "wrote outside, count %d n %d", int(count), int(n));
  }
}

}  // namespace

WHITTLE_CHECK(codebook) {
  each_variant(h, codebook_variants(), [&](const CodebookKernels&, const CodebookKernels& k) {
    h.row("assign, gather, sum of bytes", [&] {
      Rng rng = h.rng();
      for (int64_t count : kCounts) check<uint8_t>(h, rng, count, k.assign8, k.gather8, k.sum8, true);
    });
    h.row("assign, gather, sum of 16 bits", [&] {
      Rng rng = h.rng();
      for (int64_t count : kCounts) check<uint16_t>(h, rng, count, k.assign16, k.gather16, k.sum16, true);
      for (int64_t count : {int64_t(257), int64_t(1000), int64_t(4096), int64_t(65536)})
        if (!h.lean() || count < 5000) check<uint16_t>(h, rng, count, k.assign16, k.gather16, k.sum16, false);
    });
    if (h.benching()) {
      Rng rng = h.rng();
      const int64_t n = 65536;
      std::vector<float> x(static_cast<size_t>(n)), out(x.size());
      for (float& v : x) v = rng.normal();
      std::vector<uint8_t> index(x.size());
      for (int64_t count : {int64_t(4), int64_t(16), int64_t(32), int64_t(64), int64_t(256)}) {
        const Book book(rng, count);
        char name[64];
        snprintf(name, sizeof name, "assign8 %d", int(count));
        h.bench(name, 5.0 * n, [&] { k.assign8(&book.table, x.data(), n, index.data()); });
        snprintf(name, sizeof name, "gather8 %d", int(count));
        h.bench(name, 5.0 * n, [&] { k.gather8(index.data(), n, book.table.centroids, count, out.data()); });
        snprintf(name, sizeof name, "sum8 %d", int(count));
        std::vector<double> sums(static_cast<size_t>(count));
        h.bench(name, 5.0 * n, [&] { k.sum8(index.data(), x.data(), n, count, sums.data()); });
      }
    }
  });
  if (h.wants("codebook", Tier::scalar)) {
    h.begin_variant("codebook", Tier::scalar);
    h.row("codebook_sort", [&] {
      Rng rng = h.rng();
      // The last two have buckets of more values than a thread sorts beside their place, and one bucket alone.
      const auto mixed = [&] { return rng.below(8) ? rng.normal() * (rng.below(9) ? 1.0f : 1e-40f) : -0.0f; };
      const auto narrow = [&] { return rng.uniform(1, 1.125f); };
      const auto few = [&] { return static_cast<float>(rng.below(3)); };
      for (int64_t n : {int64_t(1), int64_t(2048), int64_t(2049), int64_t(20000), int64_t(1000000), int64_t(600000), int64_t(600001)}) {
        std::vector<float> x(static_cast<size_t>(n)), out(x.size());
        for (float& v : x) v = n == 600000 ? narrow() : n == 600001 ? few() : mixed();
        if (n == 600000) x[5] = -1e30f;
        h.expect(codebook_sort(x.data(), n, out.data(), 0) == WHITTLE_OK, "status");
        std::vector<float> want = x;
        std::sort(want.begin(), want.end());
        h.expect(out == want, "n %d", int(n));
        x[size_t(rng.below(n))] = NAN;
        h.expect(codebook_sort(x.data(), n, out.data(), 0) == WHITTLE_NONFINITE, "NaN, n %d", int(n));
      }
    });
  }
}
