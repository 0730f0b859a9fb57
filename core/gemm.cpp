#include "core/gemm.h"

#include <algorithm>
#include <atomic>

#include "core/gemm_paths.h"
#include "core/threads.h"

#define WHITTLE_VARIANT(tier) extern "C" void gemm_install_##tier(whittle::GemmKernels*);
#include "cpu/gemm/f32_variants.inc"
#undef WHITTLE_VARIANT

namespace whittle {

VariantList<GemmKernels> gemm_variants() {
  static const Variant<GemmKernels> list[] = {
#define WHITTLE_VARIANT(tier) {Tier::tier, gemm_install_##tier},
#include "cpu/gemm/f32_variants.inc"
#undef WHITTLE_VARIANT
  };
  return {list, static_cast<int>(sizeof list / sizeof *list)};
}

namespace {

const Resolved<GemmKernels>& resolved() {
  static const Resolved<GemmKernels> r = resolve(gemm_variants());
  return r;
}

struct Offsets {
  int64_t a, b, source, c;
};

Offsets offsets(const GemmProblem& g, int64_t index) {
  const int64_t a = g.map ? g.map[3 * index] : index, b = g.map ? g.map[3 * index + 1] : index;
  const int64_t s = g.map ? g.map[3 * index + 2] : index;
  return {a * g.a_batch, b * g.b_batch, s * g.source_batch, index * g.c_batch};
}

GemmMatrix matrix_of(const GemmProblem& g, const GemmEngine& e, int64_t index) {
  if (g.batch == 1) return {&g, &e, g.a, g.b, g.source, g.c};
  const Offsets o = offsets(g, index);
  return {&g, &e, g.a + o.a, g.b + o.b, g.source ? g.source + o.source : nullptr, g.c + o.c};
}

GemmPath choose(const GemmProblem& g, const GemmKernels& kernels) {
  if (g.k == 0) return GemmPath::empty;
  if (g.packed || g.fill || g.pack) return GemmPath::packed;
  const bool long_k = g.k >= 16;
  if (g.m == 1 && g.b_col == 1 && g.n > 1) return GemmPath::axpy_row;
  if (g.n == 1 && g.a_row == 1 && g.a_col != 1) return GemmPath::axpy_col;
  if (g.n <= kGemmMaxFew && g.a_col == 1 && (long_k || g.n == 1)) return GemmPath::dot_cols;
  if (g.m <= kGemmMaxFew && g.b_row == 1 && (long_k || g.m == 1)) return GemmPath::dot_rows;
  // Interleaving the narrow side must be worth it.
  const bool long_side = g.k >= 64;
  if (g.n <= kGemmNarrow && g.a_col == 1 && long_side && g.m >= 64) return GemmPath::narrow_cols;
  if (g.m <= kGemmNarrow && g.b_row == 1 && g.b_col != 1 && long_side && g.n >= 64) return GemmPath::narrow_rows;
  // Few rows make no use of a packed copy, and a small B needs none.
  if (g.b_col == 1 && (g.m <= std::min<int64_t>(2 * kernels.mr, kGemmMaxRows) || g.k * g.n <= kGemmSmallB)) return GemmPath::direct;
  return GemmPath::packed;
}

// How C is cut: `rows` and `cols` pieces, columns at multiples of `unit`.
struct Grid {
  int64_t rows = 1, cols = 1, unit = 1;
};

Grid cut(const GemmProblem& g, const GemmEngine& r, GemmPath path, int64_t threads) {
  Grid grid;
  // Bytes that a piece of a bandwidth-bound product should stream at least.
  const int64_t piece_floats = 64 << 10;
  switch (path) {
    case GemmPath::packed: {
      const int64_t nr = r.kernels.nr, mr = r.kernels.mr, panels = gemm_ceil_div(g.n, nr);
      grid.unit = nr;
      // Columns first (they share nothing), rows where they are the longer side; a piece keeps 4 tiles a side.
      const int64_t want = g.batch >= threads ? 1 : threads;
      while (grid.rows * grid.cols < want) {
        const int64_t rows = g.m / grid.rows / mr, cols = panels / grid.cols;
        if (cols >= 8 && cols * nr >= rows * mr / 2) grid.cols++;
        else if (rows >= 2) grid.rows++;
        else if (cols >= 2) grid.cols++;
        else break;
      }
      break;
    }
    case GemmPath::direct:
      grid.unit = r.kernels.nr;
      if (g.m > kGemmMaxRows && g.m > 2 * r.kernels.mr) grid.rows = std::max<int64_t>(1, std::min(g.m / r.kernels.mr, threads));
      else grid.cols = std::max(gemm_ceil_div(g.n, 4096), std::min(gemm_ceil_div(g.n, 4 * grid.unit), threads));
      break;
    case GemmPath::axpy_row:
    case GemmPath::dot_rows:
    case GemmPath::narrow_rows:
      grid.unit = path == GemmPath::axpy_row ? 64 : 8;
      grid.cols = std::max<int64_t>(1, std::min(gemm_ceil_div(g.n, grid.unit), g.n * g.k / piece_floats));
      if (path == GemmPath::axpy_row) grid.cols = std::min(grid.cols, std::max(threads, gemm_ceil_div(g.n, 4096)));
      if (path == GemmPath::narrow_rows) grid.cols = std::min(grid.cols, threads == 1 ? 1 : 2 * threads);
      break;
    case GemmPath::axpy_col:
      grid.rows = std::max<int64_t>(1, std::min(gemm_ceil_div(g.m, 64), g.m * g.k / piece_floats));
      grid.rows = std::min(grid.rows, std::max(threads, gemm_ceil_div(g.m, 4096)));
      break;
    case GemmPath::dot_cols:
    case GemmPath::narrow_cols:
      grid.rows = std::max<int64_t>(1, std::min(gemm_ceil_div(g.m, 8), g.m * g.k / piece_floats));
      if (path == GemmPath::narrow_cols) grid.rows = std::min(grid.rows, threads == 1 ? 1 : 2 * threads);
      break;
    default:
      grid.rows = std::max<int64_t>(1, std::min(g.m, g.m * g.n / piece_floats));
  }
  return grid;
}

}  // namespace

const GemmEngine& gemm_default() {
  static const GemmEngine engine = gemm_engine(resolved().table);
  return engine;
}
Tier gemm_tier() { return resolved().tier; }

GemmEngine gemm_engine(const GemmKernels& kernels) {
  GemmEngine e;
  e.kernels = kernels;
  const CacheSizes& cache = cache_sizes();
  e.max_k = std::min(kGemmMaxK, std::max<int64_t>(64, cache.l1d * 2 / 3 / (kernels.mr * 4) / 16 * 16));
  e.block_cols = std::max<int64_t>(4 * kernels.nr, cache.l2 * 3 / 5 / (e.max_k * 4) / kernels.nr * kernels.nr);
  return e;
}

int64_t gemm_k_block(int64_t k, const GemmEngine& e) {
  if (k <= e.max_k) return k > 0 ? k : 1;
  return gemm_ceil_div(k, gemm_ceil_div(k, e.max_k));
}

WhittleStatus gemm_f32(const GemmProblem& g, int threads, const GemmEngine& engine) {
  if (g.m <= 0 || g.n <= 0 || g.batch <= 0) return WHITTLE_OK;
  if (g.m < 0 || g.k < 0 || g.ldc < (g.m > 1 ? g.n : 0)) return WHITTLE_SHAPE;
  const GemmPath path = choose(g, engine.kernels);
  // Work below this does not pay for waking a thread.
  const double work = static_cast<double>(g.m) * static_cast<double>(g.n) * static_cast<double>(g.k) * static_cast<double>(g.batch);
  const int64_t team = work < 400e3 ? 1 : threads > 0 ? threads : thread_limit();
  // One small product: no cutting, whose divisions would cost more than the work.
  if (g.batch == 1 && work < 64e3) return gemm_run_path(path, matrix_of(g, engine, 0), {0, g.m, 0, g.n}) ? WHITTLE_OK : WHITTLE_OUT_OF_MEMORY;
  const Grid grid = cut(g, engine, path, team);
  const int64_t pieces = grid.rows * grid.cols;
  std::atomic<bool> failed{false};
  const auto body = [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      GemmRect r;
      gemm_piece(g.m, 1, grid.rows, t % grid.rows, &r.row, &r.rows);
      gemm_piece(g.n, grid.unit, grid.cols, t / grid.rows % grid.cols, &r.col, &r.cols);
      if (r.rows > 0 && r.cols > 0 && !gemm_run_path(path, matrix_of(g, engine, t / pieces), r)) failed = true;
    }
  };
  // Many small products: a chunk of them costs as much as a piece of a large one.
  const int64_t total = pieces * g.batch, grain = std::max<int64_t>(1, std::min(total / (4 * team), static_cast<int64_t>(4e5 * static_cast<double>(total) / (work + 1))));
  if (team == 1) body(0, total);
  else parallel_for(total, grain, static_cast<int>(team), body);
  return failed ? WHITTLE_OUT_OF_MEMORY : WHITTLE_OK;
}

int64_t gemm_packed_size(int64_t k, int64_t n, const GemmEngine& e) {
  const int64_t nr = e.kernels.nr;
  return k * gemm_ceil_div(n, nr) * nr;
}

WhittleStatus gemm_pack_b(int64_t k, int64_t n, const float* b, int64_t row, int64_t col, float* out, int threads,
                          const GemmEngine& e) {
  const GemmKernels& kernels = e.kernels;
  const int64_t nr = kernels.nr, panels = gemm_ceil_div(n, nr), step = gemm_k_block(k, e);
  parallel_for(panels, std::max<int64_t>(1, 16384 / (k * nr + 1)), threads, [&](int64_t begin, int64_t end) {
    for (int64_t p = 0; p < k; p += step) {
      const int64_t length = std::min(step, k - p), first = begin * nr;
      kernels.pack_b(length, std::min(n, end * nr) - first, b + p * row + first * col, row, col,
                     out + p * panels * nr + begin * length * nr, length * nr);
    }
  });
  return WHITTLE_OK;
}

}  // namespace whittle
