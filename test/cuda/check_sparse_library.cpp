// Sparse products through cuSPARSE and cuSPARSELt: what goes that way, what own kernels answer where a library refuses a call or
// finds no memory; and what numbers that are not finite meet, whichever way.
#include "check_sparse.h"

namespace whittle {
namespace {

// w x in float64, of the weights that are not 0.
std::vector<double> product(const Dense& d, const std::vector<float>& x, int64_t n, std::vector<double>* size) {
  std::vector<double> y(static_cast<size_t>(d.rows * n));
  size->assign(y.size(), 0);
  for (int64_t i = 0; i < d.rows; i++)
    for (int64_t p = 0; p < d.cols; p++) {
      const double w = d.values[static_cast<size_t>(i * d.cols + p)];
      for (int64_t j = 0; j < n && w != 0; j++) {
        const double v = w * static_cast<double>(x[static_cast<size_t>(p * n + j)]);
        y[static_cast<size_t>(i * n + j)] += v;
        (*size)[static_cast<size_t>(i * n + j)] += fabs(v);
      }
    }
  return y;
}

std::string why(const CudaBackend& cuda, const char* name) {
  CudaLibrary found;
  for (int32_t i = 0; cuda.nth_library(i, &found); i++)
    if (strncmp(found.name, name, strlen(name)) == 0) return found.why;
  return "no such library";
}

}  // namespace

void check_sparse_library(Check& c) {
  const CudaBackend& cuda = c.cuda();

  c.row("sparse: infinities and NaN meet the weights that are there, no zeros", [&](Rng& rng) {
    const Shape shapes[] = {{kSparseBlock, 0, 0}, {kSparseNm, 2, 4}, {kSparseCsr, 0, 0}, {kSparseNm, 3, 7}};
    for (int turn = 0; turn < (c.lean() ? 4 : 16); turn++) {
      const Shape shape = shapes[turn % 4];
      const int64_t rows = 21, cols = shape.m == 7 ? 28 : 24, n = turn / 4 % 2 ? 3 : 37;
      const int32_t type = turn % 3 == 1 ? kSparseBf16 : kSparseF32;
      Dense d = dense(rng, rows, cols, type, type, 0.4f, false);
      if (shape.m) thin(d, shape.n, shape.m);
      const Matrix w(cuda, d, shape.format, shape.n, shape.m);
      std::vector<float> x = rng.normals(cols * n);
      const float odd[] = {INFINITY, -INFINITY, NAN};
      for (int i = 0; i < 3 * cols * n / 100; i++) x[static_cast<size_t>(rng.below(cols * n))] = odd[rng.below(3)];
      std::vector<double> size;
      const std::vector<double> want = product(d, x, n, &size);
      const Device<float> dx(x), out(rows * n);
      const CudaSpmm a = spmm_of(dx, n, out);
      int32_t fault = 0;
      if (!c.expect(w.status == WHITTLE_OK && cuda.sparse_multiply(0, w.w, a, &fault) == WHITTLE_OK, "turn %d: status", turn)) return;
      const std::vector<float> got = out.host();
      for (size_t i = 0; i < got.size(); i++) {
        const double y = static_cast<double>(got[i]);
        const bool same = want[i] != want[i] ? y != y : fabs(want[i]) == INFINITY ? y == want[i] : fabs(y - want[i]) <= size[i] * 70 * 0x1p-24;
        if (!c.expect(same, "turn %d, format %d, type %d: element %d is %g, want %g", turn, shape.format, type, int(i), y, want[i])) return;
      }
    }
  });

  FakeSparse* fakes[] = {fake_sparse("fake_cusparse"), fake_sparse("fake_cusparselt")};
  if (c.real() || !fakes[0] || !fakes[1]) return;

  c.row("sparse: own kernels answer what the libraries refuse, and without memory for them", [&](Rng& rng) {
    for (int library = 0; library < 2; library++) {
      FakeSparse& fake = *fakes[library];
      fake.fail_at = -1;
      // Shapes of their own each time: a plan that was refused stays refused.
      static int64_t more = 0;
      const int64_t rows = 9, cols = 40;
      Dense d = dense(rng, rows, cols, kSparseInt8, kSparseInt8, 0.5f, false);
      if (library) thin(d, 2, 4);
      const Matrix w(cuda, d, library ? kSparseNm : kSparseCsr, 2, 4);
      int refused = 0, starved = 0;
      for (int call = 0; call < (c.lean() ? 14 : 24); call++) {
        const int64_t n = 32 * ++more + 5;
        std::vector<uint8_t> x(static_cast<size_t>(cols * n));
        for (uint8_t& v : x) v = static_cast<uint8_t>(rng.next());
        const Device<uint8_t> dx(x);
        const Device<int32_t> out(rows * n);
        const CudaSpmm a = spmm_of(dx, n, out);
        const int before = fake.products;
        // First every call in turn, then every allocation.
        const bool starving = call % 2;
        fake.failure = call % 4 ? 10 : 2;
        fake.fail_at = starving ? -1 : fake.calls + call / 2;
        if (starving) fake::options().fail_allocation = fake::allocations() + call / 2;
        int32_t fault = 0;
        const WhittleStatus status = cuda.sparse_multiply(0, w.w, a, &fault);
        fake::options().fail_allocation = -1;
        fake.fail_at = -1;
        if (status == WHITTLE_OUT_OF_MEMORY && starving) continue;  // what the operation itself cannot do without
        if (!c.expect(status == WHITTLE_OK, "library %d, call %d: status %d", library, call, status)) return;
        const bool by_library = fake.products > before;
        refused += !starving && !by_library;
        starved += starving && !by_library;
        if (!by_library) c.expect(!why(cuda, library ? "libcusparseLt" : "libcusparse.").empty(), "library %d, call %d: no reason", library, call);
        const std::vector<int32_t> got = out.host();
        for (int64_t i = 0; i < rows; i++)
          for (int64_t j = 0; j < n; j++) {
            int32_t sum = 0;
            for (int64_t p = 0; p < cols; p++)
              sum += static_cast<int32_t>(d.values[static_cast<size_t>(i * cols + p)]) * static_cast<int8_t>(x[static_cast<size_t>(p * n + j)]);
            if (!c.expect(got[static_cast<size_t>(i * n + j)] == sum, "library %d, call %d: [%d, %d]", library, call, int(i), int(j))) return;
          }
      }
      c.expect(refused >= 4 && starved >= 1, "library %d: %d refusals, %d without memory", library, refused, starved);
    }
  });

  c.row("sparse: cuSPARSELt's form is made once, and products go on where it cannot be", [&](Rng& rng) {
    FakeSparse& fake = *fakes[1];
    fake.fail_at = -1;
    // A shape that no other row has: a plan that was refused there stays refused.
    const int64_t rows = 261, cols = 136;
    Dense d = dense(rng, rows, cols, kSparseInt8, kSparseInt8, 0.5f, false);
    thin(d, 2, 4);
    Matrix w(cuda, d, kSparseNm, 2, 4);
    if (!c.expect(w.status == WHITTLE_OK && w.w.compressed_bytes > 0, "status %d, %d bytes", w.status, int(w.w.compressed_bytes))) return;
    const auto multiply = [&](int64_t n) {
      const Device<uint8_t> x(std::vector<uint8_t>(static_cast<size_t>(cols * n), 3));
      const Device<int32_t> out(rows * n);
      int32_t fault = 0;
      const WhittleStatus status = cuda.sparse_multiply(0, w.w, spmm_of(x, n, out), &fault);
      bool right = status == WHITTLE_OK;
      const std::vector<int32_t> got = out.host(), sums = w.sums->host();
      for (size_t i = 0; i < got.size(); i++) right &= got[i] == 3 * sums[i / static_cast<size_t>(n)];
      return right;
    };
    // One form, whatever the number of columns: the calls of a plan that is known are the product's alone.
    for (const int64_t n : {40, 70}) {
      c.expect(multiply(n), "%d columns", int(n));
      const int calls = fake.calls, products = fake.products;
      const bool right = multiply(n);
      c.expect(right && fake.products == products + 1 && fake.calls == calls + 1, "%d columns again: %d calls", int(n), fake.calls - calls);
    }
    int without = 0, starved = 0;
    for (int call = 0; call < 12; call++) {
      fake.failure = call % 4 ? 10 : 2;
      if (call % 2) fake::options().fail_allocation = fake::allocations() + call / 2;
      else fake.fail_at = fake.calls + call / 2;
      const WhittleStatus status = w.compress(cuda);
      fake::options().fail_allocation = fake.fail_at = -1;
      starved += status == WHITTLE_OUT_OF_MEMORY;
      c.expect(status == WHITTLE_OK || status == WHITTLE_OUT_OF_MEMORY, "call %d: status %d", call, status);
      without += !w.w.compressed;
      const int products = fake.products;
      c.expect(multiply(40) && (fake.products > products) == (w.w.compressed != nullptr), "call %d: a product", call);
    }
    c.expect(without >= 4, "%d without, %d starved", without, starved);
    // No other matrix has one.
    int64_t bytes = 7;
    CudaSparse other = w.w;
    other.compressed = nullptr;
    other.n = 1;
    c.expect(cuda.sparse_compress(0, other, &bytes) == WHITTLE_OK && bytes == 0, "1:4: %d bytes", int(bytes));
  });

  c.row("sparse: sums beyond 2^24 are not cuSPARSELt's", [&](Rng& rng) {
    for (const int64_t cols : {int64_t(2048), int64_t(2052)}) {
      Dense d = dense(rng, 3, cols, kSparseInt8, kSparseInt8, 1, false);
      for (size_t i = 0; i < d.values.size(); i++) {
        d.values[i] = i % 4 < 2 ? (i % 8 ? 127.0f : 126.0f) : 0.0f;
        d.source[i] = static_cast<uint8_t>(d.values[i]);
      }
      const Matrix w(cuda, d, kSparseNm, 2, 4);
      const Device<uint8_t> x(std::vector<uint8_t>(static_cast<size_t>(cols * 5), 127));
      const Device<int32_t> out(15);
      const CudaSpmm a = spmm_of(x, 5, out);
      fakes[1]->fail_at = -1;
      const int before = fakes[1]->products;
      int32_t fault = 0, sum = 0;
      for (int64_t p = 0; p < cols; p++) sum += static_cast<int32_t>(d.values[static_cast<size_t>(p)]) * 127;
      c.expect(cuda.sparse_multiply(0, w.w, a, &fault) == WHITTLE_OK && out.host()[0] == sum, "%d columns: %d, want %d", int(cols), out.host()[0], sum);
      c.expect((fakes[1]->products > before) == (cols == 2048), "%d columns: products", int(cols));
    }
  });
}

}  // namespace whittle
