// Products with 2:4 weights: every variant against sums in double; then times against the dense float32 product.
#include "core/sparse_nm.h"

#include <math.h>
#include <string.h>
#include <time.h>

#include <algorithm>
#include <string>

#include "core/gemm.h"
#include "test/native/harness.h"

using namespace whittle;

namespace {

float stored(float v, int32_t type) {
  uint32_t bits;
  memcpy(&bits, &v, 4);
  if (type == kSparseBf16) bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
  memcpy(&v, &bits, 4);
  return v;
}

std::vector<float> weights(int64_t rows, int64_t cols, int64_t n, int64_t m, Rng& rng) {
  std::vector<float> w(static_cast<size_t>(rows * cols));
  for (int64_t g = 0; g < rows * cols; g += m)
    for (int64_t e = 0; e < n; e++) w[static_cast<size_t>(g + rng.below(m))] = rng.normal();
  return w;
}

WhittleStatus make(const std::vector<float>& w, int64_t rows, int64_t cols, int32_t n, int32_t m, int32_t type, int64_t hint, SparseMatrix* out) {
  SparseBuild b = {};
  b.rows = rows, b.cols = cols, b.w = w.data(), b.source_type = kSparseF32, b.type = type;
  b.format = kSparseNm, b.n = n, b.m = m, b.columns = hint;
  return sparse_build(b, out);
}

void verify(Harness& h, const SparseNmKernels& kernels, Rng& rng, int64_t rows, int64_t cols, int64_t columns, int32_t n, int32_t m, int32_t type,
            bool by_rows, int threads, int64_t hint, int64_t batch) {
  const std::vector<float> w = weights(rows, cols, n, m, rng);
  SparseMatrix matrix;
  if (!h.expect(make(w, rows, cols, n, m, type, hint, &matrix) == WHITTLE_OK, "build")) return;
  std::vector<float> back(w.size()), rounded(w.size());
  std::vector<uint16_t> halves(w.size());
  sparse_to_dense(matrix, type == kSparseF32 ? static_cast<void*>(back.data()) : halves.data());
  for (size_t i = 0; i < w.size(); i++) {
    const uint32_t bits = static_cast<uint32_t>(halves[i]) << 16;
    if (type == kSparseBf16) memcpy(&back[i], &bits, 4);
    rounded[i] = stored(w[i], type);
  }
  h.expect(back == rounded, "to dense and back");
  Guarded<float> x(batch * cols * columns, rng.below(16)), bias(rows, rng.below(16)), y(batch * rows * columns, rng.below(16));
  for (int64_t i = 0; i < x.size(); i++) x[i] = rng.normal();
  for (int64_t i = 0; i < rows; i++) bias[i] = rng.normal();
  SparseArgs a = {};
  a.w = &matrix, a.x = x.data(), a.by_rows = by_rows, a.batch = by_rows ? 1 : batch, a.columns = by_rows ? batch * columns : columns;
  a.bias = bias.data(), a.activation = {kActivationNone, 0, 0}, a.out = y.data(), a.threads = threads;
  // Every other layout is a CSR matrix for the tables of core/sparse.h.
  h.expect((matrix.nm ? sparse_nm_multiply(kernels, a) : sparse_multiply(a)) == WHITTLE_OK, "status");
  h.expect(y.intact() && x.intact(), "wrote outside");
  const int64_t spread = by_rows ? 1 : columns;
  for (int64_t j = 0; j < batch * columns; j++)
    for (int64_t i = 0; i < rows; i++) {
      double sum = bias[i], size = fabs(sum);
      int64_t terms = 4;
      for (int64_t p = 0; p < cols; p++) {
        const double t = static_cast<double>(stored(w[static_cast<size_t>(i * cols + p)], type)) * x[(j / spread * cols + p) * spread + j % spread];
        sum += t, size += fabs(t), terms += t != 0;
      }
      const float got = y[(j / spread * rows + i) * spread + j % spread];
      const double u = static_cast<double>(terms) * 0x1p-24;
      if (!h.expect(fabs(got - sum) <= 1.13 * u / (1 - u) * size + 1e-37, "%dx%d N %d %d:%d type %d rows %d: [%d,%d] %.9g, want %.9g", int(rows), int(cols), int(columns), n, m,
                    type, by_rows, int(i), int(j), got, sum))
        return;
    }
}

double thread_seconds() {
#if defined(CLOCK_THREAD_CPUTIME_ID)
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
#else
  return static_cast<double>(clock()) / CLOCKS_PER_SEC;
#endif
}

void bench(Harness& h, const SparseNmKernels& kernels, const GemmEngine& dense, int64_t rows, int64_t cols) {
  Rng rng(5);
  const std::vector<float> w = weights(rows, cols, 2, 4, rng);
  std::vector<float> x(static_cast<size_t>(cols), 0.5f), y(static_cast<size_t>(rows));
  for (const int32_t type : {kSparseF32, kSparseBf16}) {
    SparseMatrix matrix;
    if (make(w, rows, cols, 2, 4, type, 1, &matrix) != WHITTLE_OK) return;
    SparseArgs a = {};
    a.w = &matrix, a.x = x.data(), a.by_rows = true, a.batch = 1, a.columns = 1, a.out = y.data(), a.threads = 1;
    GemmProblem g;
    g.m = 1, g.n = rows, g.k = cols, g.a = x.data(), g.a_row = cols, g.b = w.data(), g.b_row = 1, g.b_col = cols, g.c = y.data(), g.ldc = rows;
    double best[2] = {1e9, 1e9};
    for (int i = 0; i < 15; i++) {
      double t = thread_seconds();
      gemm_f32(g, 1, dense);
      best[0] = std::min(best[0], thread_seconds() - t);
      t = thread_seconds();
      sparse_nm_multiply(kernels, a);
      best[1] = std::min(best[1], thread_seconds() - t);
    }
    printf("TIME %s/%s 2:4 %s %dx%d N 1: %.4f ms, dense float32 %.4f ms, x%.2f; %.1f GB/s\n", h.family(), h.variant(), type == kSparseF32 ? "f32" : "bf16",
           int(rows), int(cols), best[1] * 1e3, best[0] * 1e3, best[0] / best[1],
           static_cast<double>(rows * cols) * (type == kSparseF32 ? 2.125 : 1.125) / best[1] / 1e9);
  }
}

}  // namespace

WHITTLE_CHECK(sparse_nm) {
  each_variant(h, sparse_nm_variants(), [&](const SparseNmKernels&, const SparseNmKernels& got) {
    h.row("patterns and sizes", [&] {
      Rng rng = h.rng();
      const int32_t patterns[][2] = {{2, 4}, {4, 8}, {1, 4}, {3, 4}, {2, 3}};
      for (const auto& p : patterns)
        for (const int32_t type : {kSparseF32, kSparseBf16})
          for (int q = 0; q < (h.lean() ? 6 : 20); q++)
            verify(h, got, rng, rng.between(1, 40), p[1] * rng.between(1, 90), q % 3 == 0 ? rng.between(2, 40) : 1, p[0], p[1], type, q & 1,
                   static_cast<int>(rng.between(1, 3)), p[0] == 2 && q % 4 ? rng.between(1, 2) : 0, rng.below(4) == 0 ? 2 : 1);
    });
    if (!h.benching() || std::string(h.variant()) == "scalar") return;
    for (const Variant<GemmKernels>& v : gemm_variants())
      if (std::string(tier_name(v.tier)) == h.variant()) {
        const GemmEngine dense = gemm_engine(overlay(gemm_variants(), v.tier));
        bench(h, got, dense, 4096, 4096);
        bench(h, got, dense, 3072, 768);
      }
  });
}
