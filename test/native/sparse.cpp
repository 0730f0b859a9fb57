// Sparse products in float32 and bfloat16: every layout, height, strip width and orientation on every variant against a sum
// in double and the bound of core/sparse.h; results independent of threads; then rates over sparsity.
#include "core/sparse.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include <atomic>
#include <new>
#include <string>

#include "cpu/gemm/activation_scalar.h"
#include "test/native/harness.h"

using namespace whittle;

static std::atomic<int64_t> g_allocations{0};
// Counted for "a product allocates nothing"; the program has one operator new, and sanitizers want theirs.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
void* operator new(size_t bytes) {
  g_allocations.fetch_add(1, std::memory_order_relaxed);
  if (void* p = malloc(bytes ? bytes : 1)) return p;
  throw std::bad_alloc();
}
void operator delete(void* p) noexcept { free(p); }
void operator delete(void* p, size_t) noexcept { free(p); }
#endif

namespace {

// What malloc has given out, where the C library says it.
int64_t bytes_in_use() {
#if defined(__GLIBC__) && (__GLIBC__ > 2 || __GLIBC_MINOR__ >= 33) && !defined(__SANITIZE_ADDRESS__)
  return static_cast<int64_t>(mallinfo2().uordblks);
#else
  return 0;
#endif
}

struct Case {
  int64_t rows, cols, columns, hint = 0;
  int32_t format = kSparseCsr, type = kSparseF32, r = 1, c = 1;
  float density = 0.3f;
  bool by_rows = false, bias = true;
  int64_t batch = 1;
  Activation act = {kActivationNone, 0, 0};
  int threads = 1;
};

float round_bf16(float v) {
  uint32_t bits;
  memcpy(&bits, &v, 4);
  bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
  memcpy(&v, &bits, 4);
  return v;
}

std::vector<float> weights(const Case& c, Rng& rng) {
  std::vector<float> w(static_cast<size_t>(c.rows * c.cols));
  for (int64_t i = 0; i < c.rows; i += c.r) {
    // Rows of very different length, some empty.
    const float density = rng.below(8) == 0 ? 0 : c.density * rng.uniform(0.2f, 1.8f);
    for (int64_t j = 0; j < c.cols; j += c.c) {
      if (rng.uniform(0, 1) >= density) continue;
      for (int64_t a = i; a < std::min(c.rows, i + c.r); a++)
        for (int64_t b = j; b < std::min(c.cols, j + c.c); b++) w[static_cast<size_t>(a * c.cols + b)] = rng.normal();
    }
  }
  return w;
}

WhittleStatus make(const Case& c, const std::vector<float>& w, SparseMatrix* out) {
  SparseBuild b = {};
  b.rows = c.rows, b.cols = c.cols;
  b.w = w.data();
  b.source_type = kSparseF32;
  b.format = c.format, b.type = c.type;
  b.r = c.r, b.c = c.c;
  b.columns = c.hint;
  return sparse_build(b, out);
}

void verify(Harness& h, const SparseKernels& kernels, const Case& c, Rng& rng) {
  const std::vector<float> w = weights(c, rng);
  SparseMatrix matrix;
  if (!h.expect(make(c, w, &matrix) == WHITTLE_OK, "build")) return;
  Guarded<float> x(c.batch * c.cols * c.columns, rng.below(16)), bias(c.rows, rng.below(16)), y(c.batch * c.rows * c.columns, rng.below(16));
  for (int64_t i = 0; i < x.size(); i++) x[i] = rng.normal();
  for (int64_t i = 0; i < bias.size(); i++) bias[i] = rng.normal();
  SparseArgs a = {};
  a.w = &matrix;
  a.x = x.data();
  a.by_rows = c.by_rows;
  a.batch = c.by_rows ? 1 : c.batch;
  a.columns = c.by_rows ? c.batch * c.columns : c.columns;
  a.bias = c.bias ? bias.data() : nullptr;
  a.activation = c.act;
  a.out = y.data();
  a.threads = c.threads;
  h.expect(sparse_multiply_f32(kernels, a) == WHITTLE_OK, "status");
  const int64_t each = c.by_rows ? 1 : c.columns;
  for (int64_t b = 0; b < c.batch * c.columns / std::max<int64_t>(1, each); b++)
    for (int64_t i = 0; i < c.rows; i++)
      for (int64_t j = 0; j < each; j++) {
        double sum = 0, size = 0;
        int64_t terms = 0;
        for (int64_t p = 0; p < c.cols; p++) {
          const float v = w[static_cast<size_t>(i * c.cols + p)];
          if (v == 0) continue;
          const double t = double(c.type == kSparseBf16 ? round_bf16(v) : v) * x[(b * c.cols + p) * each + j];
          sum += t, size += fabs(t), terms++;
        }
        if (c.bias) sum += bias[i], size += fabs(bias[i]);
        // A block holds zeros that cost a rounding each at most.
        const double n = double(terms + 4) * 0x1p-24, want = act_apply_scalar(float(sum), c.act.kind, c.act.lo, c.act.hi);
        const double bound = 1.13 * n / (1 - n) * size + 8 * 0x1p-23 * fabs(want) + 1e-37;
        const float got = y[(b * c.rows + i) * each + j];
        if (!h.expect(fabs(got - want) <= bound, "%dx%d N %d batch %d format %d %dx%d type %d rows %d hint %d threads %d act %d: [%d,%d,%d] %.9g, want %.9g within %.3g",
                      int(c.rows), int(c.cols), int(c.columns), int(c.batch), int(c.format), int(c.r), int(c.c), int(c.type), int(c.by_rows),
                      int(c.hint), c.threads, int(c.act.kind), int(b), int(i), int(j), got, want, bound))
          return;
      }
  h.expect(y.intact() && x.intact(), "wrote outside");
}

const int32_t kBlocks[][2] = {{1, 1}, {4, 1}, {1, 4}, {8, 1}, {1, 16}, {16, 1}, {32, 32}, {2, 3}, {3, 5}, {12, 7}};

void bench(Harness& h, const SparseKernels& kernels, const char* name, int64_t rows, int64_t cols, int64_t columns, float sparsity, int threads,
           int32_t r = 1, int32_t c = 1, bool by_rows = false, int32_t type = kSparseF32) {
  if (!h.benching()) return;
  Case k = {};
  k.rows = rows, k.cols = cols, k.columns = k.hint = columns;
  k.format = r * c > 1 ? kSparseBlock : kSparseCsr;
  k.r = r, k.c = c, k.type = type;
  Rng rng(7);
  std::vector<float> w(size_t(rows * cols)), x(size_t(cols * columns)), y(size_t(rows * columns));
  for (int64_t i = 0; i < rows; i += r)
    for (int64_t j = 0; j < cols; j += c)
      if (rng.uniform(0, 1) >= sparsity)
        for (int64_t a = i; a < std::min(rows, i + r); a++)
          for (int64_t b = j; b < std::min(cols, j + c); b++) w[size_t(a * cols + b)] = rng.uniform(-1, 1);
  for (float& v : x) v = rng.uniform(-1, 1);
  SparseMatrix matrix;
  if (make(k, w, &matrix) != WHITTLE_OK) return;
  SparseArgs a = {};
  a.w = &matrix;
  a.x = x.data(), a.by_rows = by_rows, a.batch = 1, a.columns = columns, a.out = y.data(), a.threads = threads;
  char label[128];
  snprintf(label, sizeof label, "%s%s%s_%.0f%%%s_t%d", name, r * c > 1 ? (std::string("_") + std::to_string(r) + "x" + std::to_string(c)).c_str() : "",
           by_rows ? "_rows" : "", double(sparsity) * 100, type == kSparseBf16 ? "_bf16" : "", threads);
  h.bench(label, 0, [&] { sparse_multiply_f32(kernels, a); }, 2.0 * double(matrix.nnz) * double(columns));
}

}  // namespace

// Every layout, once warm: no allocation by operator new, and no byte more from malloc.
void allocates_nothing(Harness& h) {
  struct Layout {
    int32_t format, type, r, c, n, m, hint;
  };
  const Layout layouts[] = {
      {kSparseCsr, kSparseF32, 1, 1, 0, 0, 0},   {kSparseCsr, kSparseBf16, 1, 1, 0, 0, 1},  {kSparseBlock, kSparseF32, 4, 1, 0, 0, 0},
      {kSparseNm, kSparseF32, 1, 1, 2, 4, 1},    {kSparseNm, kSparseBf16, 1, 1, 2, 4, 0},   {kSparseCsr, kSparseInt8, 1, 1, 0, 0, 0},
      {kSparseBlock, kSparseInt8, 4, 1, 0, 0, 0}, {kSparseNm, kSparseInt8, 1, 1, 2, 4, 1}, {kSparseNm, kSparseInt8, 1, 1, 2, 4, 0},
      {kSparseDense, kSparseF32, 1, 1, 0, 0, 0},
  };
  const int64_t rows = 70, cols = 260, most = 90;
  Rng rng = h.rng();
  std::vector<float> w(static_cast<size_t>(rows * cols)), x(static_cast<size_t>(cols * most)), y(static_cast<size_t>(rows * most));
  for (size_t i = 0; i < w.size(); i++) w[i] = i % 4 < 2 ? rng.normal() : 0;
  for (const Layout& l : layouts) {
    SparseBuild b = {};
    b.rows = rows, b.cols = cols, b.w = w.data(), b.source_type = kSparseF32;
    b.format = l.format, b.type = l.type, b.r = l.r, b.c = l.c, b.n = l.n, b.m = l.m, b.columns = l.hint;
    SparseMatrix matrix;
    if (!h.expect(sparse_build(b, &matrix) == WHITTLE_OK, "build")) return;
    for (const int64_t columns : {int64_t(1), most})
      for (const bool by_rows : {false, true}) {
        SparseArgs a = {};
        a.w = &matrix, a.x = x.data(), a.by_rows = by_rows, a.batch = 1, a.columns = columns, a.out = y.data(), a.threads = 1;
        a.x_scale = a.out_scale = 1;
        for (int i = 0; i < 2; i++) sparse_multiply(a);
        const int64_t count = g_allocations, bytes = bytes_in_use();
        for (int i = 0; i < 3; i++) sparse_multiply(a);
        const int64_t more = g_allocations - count, taken = bytes_in_use() - bytes;
        h.expect(more == 0 && taken == 0, "format %d type %d %dx%d hint %d N %d rows %d: %d allocations, %d bytes", int(l.format), int(l.type), int(l.r), int(l.c),
                 int(l.hint), int(columns), int(by_rows), int(more), int(taken));
      }
  }
}

WHITTLE_CHECK(sparse) {
  each_variant(h, sparse_variants(), [&](const SparseKernels&, const SparseKernels& got) {
    if (std::string(h.variant()) == "scalar") h.row("a product allocates nothing", [&] { allocates_nothing(h); });
    h.row("sizes and formats", [&] {
      Rng rng = h.rng();
      for (const auto& block : kBlocks)
        for (const int32_t type : {kSparseF32, kSparseBf16})
          for (const int64_t columns : {0, 1, 2, 3, 15, 16, 31, 48, 64, 79, 80, 96, 97, 130})
            for (int q = 0; q < 2; q++) {
              if (h.lean() && (q || rng.below(2))) continue;
              Case c = {};
              c.rows = rng.between(1, 90), c.cols = rng.between(1, 150), c.columns = columns;
              c.format = block[0] * block[1] > 1 ? kSparseBlock : kSparseCsr;
              c.r = block[0], c.c = block[1], c.type = type;
              c.hint = rng.below(3) == 0 ? rng.between(1, 2) : rng.below(2) ? columns : 0;
              c.by_rows = rng.below(2);
              c.bias = rng.below(2);
              c.batch = rng.below(4) == 0 ? 3 : 1;
              const int32_t acts[] = {kActivationNone, kActivationClip, kActivationGelu, kActivationHardswish};
              c.act = {acts[rng.below(4)], -0.5f, 1.5f};
              c.threads = static_cast<int>(rng.between(1, 3));
              verify(h, got, c, rng);
            }
    });
    h.row("many blocks of columns and panels", [&] {
      Rng rng = h.rng();
      for (int q = 0; q < (h.lean() ? 2 : 6); q++) {
        Case c = {};
        c.rows = rng.between(300, 500), c.cols = rng.between(700, 1500), c.columns = q % 2 ? 70 : 20;
        if (q == 2) c.r = 4, c.format = kSparseBlock;
        c.hint = q == 3 ? 1 : q == 4 ? 128 : 0;
        c.density = q < 3 ? 0.5f : 0.05f;
        c.by_rows = q & 1;
        c.threads = 1 + q % 3;
        verify(h, got, c, rng);
      }
    });
    for (int threads : {2, 1})
      for (float s : {0.8f, 0.9f, 0.95f}) {
        bench(h, got, "768x768x128", 768, 768, 128, s, threads);
        bench(h, got, "3072x768x128", 3072, 768, 128, s, threads);
        bench(h, got, "4096x4096x16", 4096, 4096, 16, s, threads);
        bench(h, got, "4096x4096x1", 4096, 4096, 1, s, threads);
        bench(h, got, "512x4608x196", 512, 4608, 196, s, threads);
        if (threads == 1) continue;
        bench(h, got, "768x768x128", 768, 768, 128, s, threads, 1, 1, true);
        bench(h, got, "768x768x128", 768, 768, 128, s, threads, 1, 1, false, kSparseBf16);
        for (const auto& b : {kBlocks[1], kBlocks[2], kBlocks[3], kBlocks[4], kBlocks[6]}) bench(h, got, "768x768x128", 768, 768, 128, s, threads, b[0], b[1]);
      }
  });
}
