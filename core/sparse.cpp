#include "core/sparse.h"

#include <string.h>

#include <algorithm>
#include <atomic>

#include "core/features.h"
#include "core/gemm.h"
#include "core/scratch.h"
#include "core/sparse_int8.h"
#include "core/sparse_nm.h"
#include "core/threads.h"

#define WHITTLE_VARIANT(tier) extern "C" void sparse_install_##tier(whittle::SparseKernels*);
#include "cpu/sparse/variants.inc"
#undef WHITTLE_VARIANT

namespace whittle {

VariantList<SparseKernels> sparse_variants() {
  static const Variant<SparseKernels> list[] = {
#define WHITTLE_VARIANT(tier) {Tier::tier, sparse_install_##tier},
#include "cpu/sparse/variants.inc"
#undef WHITTLE_VARIANT
  };
  return {list, static_cast<int>(sizeof list / sizeof *list)};
}

namespace {

const Resolved<SparseKernels>& resolved() {
  static const Resolved<SparseKernels> r = resolve(sparse_variants());
  return r;
}

constexpr int64_t kPackedBytes = int64_t(8) << 20;  // of X packed at a time
constexpr int64_t kPackRows = 256;                  // of X in one piece of packing

// Strips of about equal width: units of strip s of `strips`.
struct Strips {
  int64_t units, count;
  int64_t begin(int64_t s) const { return units * s / count; }
};

Strips strips_of(int64_t columns, int64_t most) {
  const int64_t units = (columns + kSparseUnit - 1) / kSparseUnit;
  return {units, (units + most - 1) / most};
}

int64_t value_size(const SparseMatrix& w) { return w.type == kSparseF32 ? 4 : 2; }

SparseTile tile_of(const SparseMatrix& w, int64_t panel, int64_t block) {
  const SparseTiles& t = *w.tiles;
  const SparseCell& cell = t.cells[static_cast<size_t>(panel * t.blocks + block)];
  SparseTile k = {};
  k.type = w.type;
  k.height = t.height;
  k.width = t.width;
  k.runs = t.runs.data() + cell.run;
  k.groups = cell.groups;
  k.index_size = t.index_size;
  k.index = t.index.data() + cell.entry * t.index_size;
  k.values = t.values.data() + cell.entry * t.height * t.width * value_size(w);
  k.fresh = block == 0;
  return k;
}

// Few columns: one product of matrix and vector after the other.
WhittleStatus multiply_vector(const SparseKernels& kernels, const SparseArgs& a, int threads) {
  const SparseMatrix& w = *a.w;
  static thread_local Scratch columns, sums;
  const int64_t slack = w.tiles ? w.tiles->width : 1;
  float* x = static_cast<float*>(columns.take((w.cols + slack) * 4));
  if (!x) return WHITTLE_OUT_OF_MEMORY;
  SparseFinish f = {};
  f.acc_stride = 1;
  f.columns = 1;
  f.activation = a.activation;
  f.transposed = 1;
  std::atomic<bool> failed{false};
  for (int64_t j = 0; j < a.columns; j++) {
    const float* from = static_cast<const float*>(a.x) + (a.by_rows ? j * w.cols : j);
    float* out = static_cast<float*>(a.out) + (a.by_rows ? j * w.rows : j);
    if (a.fill)
      for (int64_t p = 0; p < w.cols; p += kGemmMaxK) a.fill(a.fill_context, j, 1, p, std::min(kGemmMaxK, w.cols - p), x + p);
    else if (a.by_rows) memcpy(x, from, static_cast<size_t>(w.cols) * 4);
    else
      for (int64_t p = 0; p < w.cols; p++) x[p] = from[p * a.columns];
    memset(x + w.cols, 0, static_cast<size_t>(slack) * 4);
    const bool spread = !a.by_rows && a.columns > 1;
    const float* residual = a.residual ? a.residual + j * w.rows : nullptr;
    const auto finish = [&](const float* acc, int64_t row, int64_t rows) {
      SparseFinish g = f;
      g.acc = acc;
      g.rows = rows;
      g.bias = a.bias ? a.bias + row : nullptr;
      g.out = out + (spread ? row * a.columns : row);
      g.transposed = spread ? 0 : 1;
      g.out_stride = spread ? a.columns : 1;
      kernels.finish(&g);
    };
    if (w.slices) {
      const SparseSlices& s = *w.slices;
      float* y = static_cast<float*>(sums.take((s.rows + w.rows) * 4));
      if (!y) return WHITTLE_OUT_OF_MEMORY;
      float* ordered = y + s.rows;
      parallel_for(s.pieces, 1, threads, [&](int64_t begin, int64_t end) {
        for (int64_t p = begin; p < end; p++) {
          const int64_t first = s.piece[static_cast<size_t>(p)], last = s.piece[static_cast<size_t>(p) + 1];
          SparseSlice k = {};
          k.type = w.type;
          k.counts = s.counts.data() + first;
          k.slices = last - first;
          k.index = s.index.data() + s.first[static_cast<size_t>(p)] * kSparseUnit;
          k.values = s.values.data() + s.first[static_cast<size_t>(p)] * kSparseUnit * value_size(w);
          k.x = x;
          k.acc = y + first * kSparseUnit;
          kernels.slice(&k);
          for (int64_t i = first * kSparseUnit; i < last * kSparseUnit; i++)
            if (s.order[static_cast<size_t>(i)] >= 0) ordered[s.order[static_cast<size_t>(i)]] = y[i];
        }
      });
      for (int64_t i = 0; residual && i < w.rows; i++) ordered[i] += residual[i];
      finish(ordered, 0, w.rows);
      continue;
    }
    const SparseTiles& t = *w.tiles;
    parallel_for(t.panels, 1, threads, [&](int64_t begin, int64_t end) {
      static thread_local Scratch panel;
      for (int64_t p = begin; p < end; p++) {
        const int64_t row = t.panel_rows[static_cast<size_t>(p)], padded = t.panel_rows[static_cast<size_t>(p) + 1] - row;
        float* acc = static_cast<float*>(panel.take(padded * 4));
        if (!acc) {
          failed = true;
          return;
        }
        for (int64_t b = 0; b < t.blocks; b++) {
          SparseTile k = tile_of(w, p, b);
          k.x = x + b * t.block;
          k.acc = acc;
          kernels.vector(&k);
        }
        for (int64_t i = 0; residual && i < std::min(padded, w.rows - row); i++) acc[i] += residual[row + i];
        finish(acc, row, std::min(padded, w.rows - row));
      }
    });
  }
  return failed ? WHITTLE_OUT_OF_MEMORY : WHITTLE_OK;
}

// One strip of X for one panel of rows of a sliced matrix: a column at a time would read W too often, so it is not offered
// many columns; this keeps the answer right when it is.
WhittleStatus multiply_slices(const SparseKernels& kernels, const SparseArgs& a, int threads) {
  const SparseMatrix& w = *a.w;
  SparseArgs one = a;
  if (a.by_rows) return multiply_vector(kernels, a, threads);
  for (int64_t i = 0; i < a.batch; i++) {
    one.batch = 1;
    one.x = static_cast<const float*>(a.x) + i * w.cols * a.columns;
    one.out = static_cast<float*>(a.out) + i * w.rows * a.columns;
    const WhittleStatus s = multiply_vector(kernels, one, threads);
    if (s != WHITTLE_OK) return s;
  }
  return WHITTLE_OK;
}

// Rows [p, p + most) of strip `which` of all products' strips, `to` where the strip's first row goes. False if memory is short.
bool pack_rows(const SparseKernels& kernels, const SparseArgs& a, const Strips& strips, int64_t which, int64_t p, int64_t most, float* to) {
  const SparseMatrix& w = *a.w;
  const float* x = static_cast<const float*>(a.x);
  const int64_t s = which % strips.count, product = which / strips.count, column = strips.begin(s) * kSparseUnit;
  SparsePack k = {};
  k.units = static_cast<int32_t>(strips.begin(s + 1) - strips.begin(s));
  k.k = std::min(most, w.tiles->blocks * w.tiles->block + w.tiles->width - p);
  k.valid = std::max<int64_t>(0, std::min(k.k, w.cols - p));
  k.columns = std::min(a.columns - column, k.units * kSparseUnit);
  k.stride = a.by_rows ? w.cols : a.columns;
  k.transposed = a.by_rows;
  if (k.valid > 0 && a.fill) {
    static_assert(kPackRows <= kGemmMaxK, "a filled row holds a piece");
    static thread_local Scratch scratch;
    float* rows = static_cast<float*>(scratch.take(kSparseMaxUnits * kSparseUnit * kGemmRowStride * 4));
    if (!rows) return false;
    a.fill(a.fill_context, column, k.columns, p, k.valid, rows);
    k.stride = kGemmRowStride;
    k.x = rows;
  } else {
    k.x = k.valid == 0 ? nullptr : a.by_rows ? x + column * w.cols + p : x + (product * w.cols + p) * a.columns + column;
  }
  k.out = to + p * k.units * kSparseUnit;
  kernels.pack(&k);
  return true;
}

// Panel p of W times a packed strip; acc for its sums.
void multiply_panel(const SparseKernels& kernels, const SparseArgs& a, const Strips& strips, int64_t which, int64_t p, const float* strip, float* acc) {
  const SparseMatrix& w = *a.w;
  const SparseTiles& t = *w.tiles;
  float* out = static_cast<float*>(a.out);
  const int64_t s = which % strips.count, product = which / strips.count;
  const int64_t units = strips.begin(s + 1) - strips.begin(s), wide = units * kSparseUnit, column = strips.begin(s) * kSparseUnit;
  const int64_t row = t.panel_rows[static_cast<size_t>(p)], padded = t.panel_rows[static_cast<size_t>(p) + 1] - row;
  if (a.residual) {
    // Sums begin at what is to be added.
    SparsePack k = {};
    k.units = static_cast<int32_t>(units);
    k.k = padded;
    k.valid = std::min(padded, w.rows - row);
    k.columns = std::min(a.columns - column, wide);
    k.stride = w.rows;
    k.transposed = 1;
    k.x = a.residual + column * w.rows + row;
    k.out = acc;
    kernels.pack(&k);
  }
  for (int64_t b = 0; b < t.blocks; b++) {
    SparseTile k = tile_of(w, p, b);
    if (k.groups == 0) continue;
    if (a.residual) k.fresh = false;
    k.units = static_cast<int32_t>(units);
    k.x = strip + b * t.block * wide;
    k.acc = acc;
    if (b + 1 < t.blocks) {
      k.ahead = k.x + t.block * wide;
      k.ahead_lines = t.block * units;
    }
    kernels.tile(&k);
  }
  SparseFinish f = {};
  f.acc = acc;
  f.acc_stride = wide;
  f.rows = std::min(padded, w.rows - row);
  f.columns = std::min(a.columns - column, wide);
  f.bias = a.bias ? a.bias + row : nullptr;
  f.activation = a.activation;
  f.transposed = a.by_rows;
  f.out_stride = a.by_rows ? w.rows : a.columns;
  f.out = a.by_rows ? out + column * w.rows + row : out + (product * w.rows + row) * a.columns + column;
  kernels.finish(&f);
}

WhittleStatus multiply_tiles(const SparseKernels& kernels, const SparseArgs& a, int threads) {
  const SparseMatrix& w = *a.w;
  const SparseTiles& t = *w.tiles;
  // Columns that have to be turned go by in narrower strips: what is written back in rows of them stays near.
  const int64_t units = a.by_rows && t.height == 1 ? std::min<int64_t>(4, t.units) : t.units;
  const Strips strips = strips_of(a.columns, units);
  const int64_t padded_k = t.blocks * t.block + t.width, total = strips.count * a.batch;
  const float* x = static_cast<const float*>(a.x);
  // X serves as it lies where one strip takes exactly its columns; off a cache line every load would touch two.
  const bool direct = !a.by_rows && strips.count == 1 && a.columns % kSparseUnit == 0 && w.cols % t.width == 0 &&
                      reinterpret_cast<uintptr_t>(x) % 64 == 0 && (a.batch == 1 || w.cols * a.columns % 16 == 0);
  static thread_local Scratch packed;
  const int64_t strip_floats = padded_k * units * kSparseUnit, chunks = (padded_k + kPackRows - 1) / kPackRows;
  std::atomic<bool> failed{false};
  // Many columns: a strip at a time from packing to result, while it is near.
  const int64_t team = threads > 0 ? threads : thread_limit();
  if (a.by_rows && total >= 4 * team && total * strip_floats * 4 > cache_sizes().l2 / 2) {
    int64_t most_rows = 0;
    for (int64_t p = 0; p < t.panels; p++)
      most_rows = std::max(most_rows, t.panel_rows[static_cast<size_t>(p) + 1] - t.panel_rows[static_cast<size_t>(p)]);
    const int64_t sums = most_rows * units * kSparseUnit;
    parallel_for(total, std::max<int64_t>(1, total / (8 * team)), threads, [&](int64_t begin, int64_t end) {
      static thread_local Scratch own;
      float* strip = static_cast<float*>(own.take((strip_floats + sums) * 4));
      bool good = strip != nullptr;
      for (int64_t i = begin; i < end && good; i++) {
        for (int64_t c = 0; c < chunks && good; c++) good = pack_rows(kernels, a, strips, i, c * kPackRows, kPackRows, strip);
        for (int64_t p = 0; p < t.panels && good; p++) multiply_panel(kernels, a, strips, i, p, strip, strip + strip_floats);
      }
      if (!good) failed = true;
    });
    return failed ? WHITTLE_OUT_OF_MEMORY : WHITTLE_OK;
  }
  const int64_t together = direct ? total : std::max<int64_t>(1, std::min(total, kPackedBytes / (strip_floats * 4)));
  float* near = direct ? nullptr : static_cast<float*>(packed.take(together * strip_floats * 4));
  if (!direct && !near) return WHITTLE_OUT_OF_MEMORY;
  for (int64_t base = 0; base < total; base += together) {
    const int64_t now = std::min(together, total - base);
    if (!direct) {
      parallel_for(now * chunks, 1, threads, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++)
          if (!pack_rows(kernels, a, strips, base + i / chunks, i % chunks * kPackRows, kPackRows, near + i / chunks * strip_floats)) failed = true;
      });
      if (failed) return WHITTLE_OUT_OF_MEMORY;
    }
    // All strips of one panel in turn, so that its weights come from far away once.
    parallel_for(now * t.panels, now, threads, [&](int64_t begin, int64_t end) {
      static thread_local Scratch sums;
      for (int64_t i = begin; i < end; i++) {
        const int64_t which = i % now, p = i / now;
        const int64_t rows = t.panel_rows[static_cast<size_t>(p) + 1] - t.panel_rows[static_cast<size_t>(p)];
        float* acc = static_cast<float*>(sums.take(rows * units * kSparseUnit * 4));
        if (!acc) {
          failed = true;
          return;
        }
        multiply_panel(kernels, a, strips, base + which, p, direct ? x + (base + which) * w.cols * a.columns : near + which * strip_floats, acc);
      }
    });
  }
  return failed ? WHITTLE_OUT_OF_MEMORY : WHITTLE_OK;
}

WhittleStatus multiply_dense(const SparseArgs& a) {
  const SparseMatrix& w = *a.w;
  GemmProblem g;
  g.activation = a.activation;
  g.k = w.cols;
  g.c = static_cast<float*>(a.out);
  const float* x = static_cast<const float*>(a.x);
  if (a.by_rows) {
    g.m = a.columns;
    g.n = w.rows;
    g.a = x;
    g.a_row = w.cols;
    g.b = w.dense.data();
    g.b_row = 1;
    g.b_col = w.cols;
    g.bias = a.bias;
    g.ldc = w.rows;
    return gemm_f32(g, a.threads);
  }
  g.m = w.rows;
  g.n = a.columns;
  g.a = w.dense.data();
  g.a_row = w.cols;
  g.b = x;
  g.b_row = a.columns;
  g.ldc = a.columns;
  g.batch = a.batch;
  g.b_batch = w.cols * a.columns;
  g.c_batch = w.rows * a.columns;
  if (a.bias) {
    g.source = a.bias;
    g.source_row = 1;
    g.beta = 1;
  }
  return gemm_f32(g, a.threads);
}

}  // namespace

const SparseKernels& sparse_kernels() { return resolved().table; }
Tier sparse_tier() { return resolved().tier; }

WhittleStatus sparse_multiply_f32(const SparseKernels& kernels, const SparseArgs& args) {
  SparseArgs a = args;
  const SparseMatrix& w = *a.w;
  if (a.columns <= 0 || a.batch <= 0 || w.rows <= 0) return WHITTLE_OK;
  if (!a.by_rows && a.columns == 1) {
    a.by_rows = true;
    a.columns = a.batch;
    a.batch = 1;
  }
  if (w.format == kSparseDense) return multiply_dense(a);
  const double work = static_cast<double>(w.nnz + w.rows) * static_cast<double>(a.columns) * static_cast<double>(a.batch);
  const int threads = work < 200e3 ? 1 : a.threads;
  if (w.slices) return multiply_slices(kernels, a, threads);
  if (a.batch == 1 && a.columns <= 2) return multiply_vector(kernels, a, threads);
  return multiply_tiles(kernels, a, threads);
}

WhittleStatus sparse_multiply(const SparseArgs& args) {
  if (args.w->type == kSparseInt8) return sparse_int8_multiply(sparse_int8_kernels(), args);
  if (args.w->nm) return sparse_nm_multiply(sparse_nm_kernels(), args);
  return sparse_multiply_f32(resolved().table, args);
}

}  // namespace whittle
