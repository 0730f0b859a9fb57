#include "core/gemm_paths.h"

#include <math.h>
#include <string.h>

#include <algorithm>

#include "core/scratch.h"

namespace whittle {
namespace {

// Brings the source of beta into C, so that kernels read and write one place.
void load_source(const GemmProblem& g, const float* source, float* c, const GemmRect& r) {
  if (!source || g.beta == 0) return;
  for (int64_t i = r.row; i < r.row + r.rows; i++) {
    float* to = c + i * g.ldc + r.col;
    const float* from = source + i * g.source_row + r.col * g.source_col;
    if (g.source_col == 1) memcpy(to, from, static_cast<size_t>(r.cols) * 4);
    else if (g.source_col == 0) std::fill(to, to + r.cols, *from);
    else
      for (int64_t j = 0; j < r.cols; j++) to[j] = from[j * g.source_col];
  }
}

bool is_clip(const Activation& a) { return a.kind == kActivationClip || a.kind == kActivationNone; }

// The bounds that `tile` applies after the last block of k.
void set_clip(const Activation& a, GemmTile* t) {
  t->lo = a.kind == kActivationClip ? a.lo : -INFINITY;
  t->hi = a.kind == kActivationClip ? a.hi : INFINITY;
}

float* scratch_floats(int64_t count) {
  static thread_local Scratch scratch;
  return static_cast<float*>(scratch.take(count * 4));
}

void fill_rows(const GemmMatrix& m, int64_t row, int64_t rows, int64_t k, int64_t length, float* out) {
  const GemmProblem& g = *m.g;
  if (g.fill) g.fill(g.fill_context, row, rows, k, length, out);
  else m.e->kernels.pack_a(rows, length, m.a + row * g.a_row + k * g.a_col, g.a_row, g.a_col, out);
}

// True where rows of A may be read as they lie: the lines that a tile reads at a time must leave room in each set of L1
// (64 sets of 8 or 12 lines nearly everywhere).
bool rows_apart(int64_t stride, int64_t rows) {
  constexpr int64_t kSets = 64, kRoom = 4;
  const int64_t most = std::max(kRoom, cache_sizes().l1d / (kSets * 64) - kRoom);
  uint8_t used[kSets] = {0};
  for (int64_t i = 0; i < rows; i++)
    if (++used[i * stride / 16 % kSets] > most) return false;
  return true;
}

constexpr int64_t kPanelGap = 16;  // floats

// One rectangle's run over packed panels, block of columns by block of columns.
struct Panels {
  const GemmMatrix* m;
  GemmRect r;
  int64_t step, tiles, blocks;
  bool in_place;  // rows of A are read as they lie
  bool near_b;    // packed B is brought near a block ahead
};

void block_columns(const Panels& p, int64_t q, int64_t* col, int64_t* cols);

// Names what to bring near while a tile is computed: of packed B a part of the block after this one, else the rows of A
// that the next tile reads or copies.
void look_ahead(const Panels& p, int64_t q, int64_t i, int64_t k, int64_t length, GemmTile* t) {
  const GemmProblem& g = *p.m->g;
  t->ahead = nullptr;
  t->ahead_stride = 0;
  if (p.near_b) {
    k += length;
    q += k >= g.k;
    k = k >= g.k ? 0 : k;
    if (q == p.blocks) return;
    const int64_t nr = p.m->e->kernels.nr;
    int64_t col, cols;
    block_columns(p, q, &col, &cols);
    length = std::min(p.step, g.k - k);
    const int64_t floats = gemm_ceil_div(cols, nr) * nr * length, first = floats * i / p.tiles / 16 * 16;
    t->ahead = g.packed + k * gemm_ceil_div(g.n, nr) * nr + col / nr * nr * length + first;
    t->ahead_strips = 1;
    t->ahead_length = floats * (i + 1) / p.tiles / 16 * 16 - first;
    return;
  }
  if (g.fill) return;
  if (++i == p.tiles) {
    i = 0;
    k += length;
    length = std::min(p.step, g.k - k);
    if (length <= 0) return;
  }
  const int64_t row = p.r.row + p.r.rows * i / p.tiles, rows = p.r.row + p.r.rows * (i + 1) / p.tiles - row;
  t->ahead = p.m->a + row * g.a_row + k * g.a_col;
  t->ahead_stride = g.a_col == 1 ? g.a_row : g.a_col;
  t->ahead_strips = g.a_col == 1 ? rows : length;
  t->ahead_length = g.a_col == 1 ? length : rows;
}

void block_columns(const Panels& p, int64_t q, int64_t* col, int64_t* cols) {
  gemm_piece(p.r.cols, p.m->e->kernels.nr, p.blocks, q, col, cols);
  *col += p.r.col;
}

// General product of one rectangle, whose columns begin at a panel.
bool run_packed(const GemmMatrix& m, const GemmRect& r) {
  const GemmProblem& g = *m.g;
  const GemmKernels& kernels = m.e->kernels;
  const int64_t nr = kernels.nr;
  // Few rows against packed B are one tile, so that each panel is read once from memory.
  const bool few = g.packed && g.m <= std::min<int64_t>(2 * kernels.mr, kGemmMaxRows);
  Panels p = {&m, r, gemm_k_block(g.k, *m.e), few ? 1 : gemm_ceil_div(r.rows, kernels.mr), 1, false, false};
  p.in_place = !g.fill && g.a_col == 1 && rows_apart(g.a_row, kernels.mr);
  // Rows to be copied need it more, unless all of them stay in L2. What fills rows knows best itself.
  p.near_b = g.packed && p.tiles > 1 && (p.in_place || g.fill || r.rows * g.k * 4 <= cache_sizes().l2 / 2);
  // Where the next block of packed B comes near while this one is used, two must fit.
  const int64_t most = p.near_b ? std::max(nr, m.e->block_cols / 2) : m.e->block_cols;
  p.blocks = gemm_ceil_div(r.cols, most);
  const int64_t a_floats = (few ? kGemmMaxRows : kernels.mr) * kGemmRowStride;
  float* a = scratch_floats(a_floats + (g.packed ? 0 : gemm_ceil_div(std::min(r.cols, most), nr) * (nr * p.step + kPanelGap)));
  if (!a) return false;
  float* b = a + a_floats;
  load_source(g, m.source, m.c, r);
  GemmTile t = {};
  t.a_row = p.in_place ? g.a_row : kGemmRowStride;
  t.b_row = nr;
  t.b_padded = true;
  t.ldc = g.ldc;
  t.alpha = g.alpha;
  for (int64_t q = 0; q < p.blocks; q++) {
    int64_t col;
    block_columns(p, q, &col, &t.cols);
    t.bias = nullptr;
    t.lo = -INFINITY;
    t.hi = INFINITY;
    for (int64_t k = 0; k < g.k; k += p.step) {
      t.k = std::min(p.step, g.k - k);
      t.b_panel = t.k * nr;
      if (g.packed) {
        t.b = g.packed + k * gemm_ceil_div(g.n, nr) * nr + col / nr * t.b_panel;
      } else {
        // Panels a power of two apart would be written into one set of L1.
        t.b_panel += kPanelGap;
        if (g.pack) g.pack(g.pack_context, k, t.k, col, t.cols, b, t.b_panel);
        else kernels.pack_b(t.k, t.cols, m.b + k * g.b_row + col * g.b_col, g.b_row, g.b_col, b, t.b_panel);
        t.b = b;
      }
      t.beta = k == 0 ? g.beta : 1;
      const bool last = k + t.k == g.k;
      if (last) {
        t.bias = g.bias ? g.bias + col : nullptr;
        set_clip(g.activation, &t);
      }
      for (int64_t i = 0; i < p.tiles; i++) {
        const int64_t row = r.row + r.rows * i / p.tiles;
        t.rows = r.row + r.rows * (i + 1) / p.tiles - row;
        t.c = m.c + row * g.ldc + col;
        t.a = p.in_place ? m.a + row * g.a_row + k : a;
        if (!p.in_place) fill_rows(m, row, t.rows, k, t.k, a);
        look_ahead(p, q, i, k, t.k, &t);
        t.cold = g.packed && i == 0;
        kernels.tile(&t);
        if (!last || is_clip(g.activation)) continue;
        if (g.ldc == t.cols) kernels.finish(1, t.rows * t.cols, t.c, 0, nullptr, &g.activation);
        else kernels.finish(t.rows, t.cols, t.c, g.ldc, nullptr, &g.activation);
      }
    }
  }
  return true;
}

// Row-major B used where it lies. With few rows of A a band of B rows goes by while the strip of C stays in L2 (a taller
// one where rows are short: 8x1024x1024 x1.15); with many, B is small enough (kGemmSmallB floats) to stay there itself.
constexpr int64_t kBand = 32, kNearRow = 1024;

bool run_direct(const GemmMatrix& m, const GemmRect& r) {
  const GemmProblem& g = *m.g;
  const GemmKernels& kernels = m.e->kernels;
  const int64_t step = gemm_k_block(g.k, *m.e), most = std::min<int64_t>(2 * kernels.mr, kGemmMaxRows);
  const bool few = g.m <= most;  // not r.rows: where bands end must not depend on the cutting
  const int64_t band = !few ? step : g.n <= kNearRow ? 4 * kBand : kBand, height = few ? r.rows : kernels.mr;
  const bool in_place = g.a_col == 1 && rows_apart(g.a_row, std::min<int64_t>(height, kernels.mr));
  float* a = in_place ? nullptr : scratch_floats(height * kGemmRowStride);
  if (!a && !in_place) return false;
  load_source(g, m.source, m.c, r);
  GemmTile t = {};
  t.cols = r.cols;
  t.a_row = in_place ? g.a_row : kGemmRowStride;
  t.b_row = g.b_row;
  t.b_panel = kernels.nr;
  t.ldc = g.ldc;
  t.alpha = g.alpha;
  for (int64_t i = 0; i < r.rows; i += height) {
    t.rows = std::min(height, r.rows - i);
    t.c = m.c + (r.row + i) * g.ldc + r.col;
    t.beta = g.beta;
    t.bias = nullptr;
    t.lo = -INFINITY;
    t.hi = INFINITY;
    for (int64_t k = 0; k < g.k; k += step) {
      const int64_t block = std::min(step, g.k - k);
      const float* rows = in_place ? m.a + (r.row + i) * g.a_row + k : a;
      if (!in_place) fill_rows(m, r.row + i, t.rows, k, block, a);
      for (int64_t p = 0; p < block; p += band) {
        t.a = rows + p;
        t.k = std::min(band, block - p);
        t.b = m.b + (k + p) * g.b_row + r.col;
        if (k + p + t.k == g.k) {
          t.bias = g.bias ? g.bias + r.col : nullptr;
          set_clip(g.activation, &t);
        }
        kernels.tile(&t);
        t.beta = 1;
      }
    }
    if (!is_clip(g.activation)) kernels.finish(t.rows, r.cols, t.c, g.ldc, nullptr, &g.activation);
  }
  return true;
}

// The rows of a small matrix made contiguous: itself where it is already.
const float* contiguous_rows(const float* x, int64_t rows, int64_t k, int64_t row, int64_t col, float* scratch) {
  if (col == 1) return x;
  for (int64_t i = 0; i < rows; i++)
    for (int64_t p = 0; p < k; p++) scratch[i * k + p] = x[i * row + p * col];
  return scratch;
}

// A few rows of A against rows of transposed B, or rows of A against a few columns of B: at most four for `dot`, more
// for `narrow`.
bool run_dot(const GemmMatrix& m, const GemmRect& r, bool few_rows, bool narrow) {
  const GemmProblem& g = *m.g;
  const GemmKernels& kernels = m.e->kernels;
  const bool pairs = narrow && kernels.pairs && (few_rows ? g.m : g.n) <= kGemmPairs;
  float* scratch = scratch_floats((narrow ? kGemmNarrow : kGemmMaxFew) * (g.k + 1));
  if (!scratch) return false;
  load_source(g, m.source, m.c, r);
  GemmDot d = {};
  d.k = g.k;
  d.alpha = g.alpha;
  d.beta = g.beta;
  d.c = m.c + r.row * g.ldc + r.col;
  const float* few = few_rows ? m.a + r.row * g.a_row : m.b + r.col * g.b_col;
  const int64_t few_row = few_rows ? g.a_row : g.b_col, few_col = few_rows ? g.a_col : g.b_row;
  d.few = few_rows ? r.rows : r.cols;
  if (pairs) {
    for (int64_t p = 0; p < g.k + g.k % 2; p++)
      for (int64_t i = 0; i < kGemmPairs; i++)
        scratch[p / 2 * (2 * kGemmPairs) + 2 * i + p % 2] = p < g.k && i < d.few ? few[i * few_row + p * few_col] : 0;
    d.x = scratch;
  } else if (narrow) {
    for (int64_t p = 0; p < g.k; p++)
      for (int64_t i = 0; i < kGemmNarrow; i++) scratch[p * kGemmNarrow + i] = i < d.few ? few[i * few_row + p * few_col] : 0;
    d.x = scratch;
  } else {
    d.x = contiguous_rows(few, d.few, g.k, few_row, few_col, scratch);
    d.x_row = few_col == 1 ? few_row : g.k;
  }
  if (few_rows) {
    d.many = r.cols;
    d.y = m.b + r.col * g.b_col;
    d.y_row = g.b_col;
    d.c_i = g.ldc;
    d.c_j = 1;
  } else {
    d.many = r.rows;
    d.y = m.a + r.row * g.a_row;
    d.y_row = g.a_row;
    d.c_i = 1;
    d.c_j = g.ldc;
  }
  (pairs ? kernels.pairs : narrow ? kernels.narrow : kernels.dot)(&d);
  if (g.bias || g.activation.kind != kActivationNone) {
    // One column is one long row to `finish` where C allows it.
    if (r.cols == 1 && g.ldc == 1) {
      if (g.bias)
        for (int64_t i = 0; i < r.rows; i++) d.c[i] += g.bias[r.col];
      kernels.finish(1, r.rows, d.c, r.rows, nullptr, &g.activation);
    } else {
      kernels.finish(r.rows, r.cols, d.c, g.ldc, g.bias ? g.bias + r.col : nullptr, &g.activation);
    }
  }
  return true;
}

// A vector times a row-major matrix, or a transposed matrix times a vector.
bool run_axpy(const GemmMatrix& m, const GemmRect& r, bool one_row) {
  const GemmProblem& g = *m.g;
  const GemmKernels& kernels = m.e->kernels;
  const int64_t count = one_row ? r.cols : r.rows;
  float* y = scratch_floats(count + g.k);
  if (!y) return false;
  load_source(g, m.source, m.c, r);
  GemmAxpy p = {};
  p.k = g.k;
  p.cols = count;
  p.y = y;
  if (one_row) {
    p.x = contiguous_rows(m.a, 1, g.k, 0, g.a_col, y + count);
    p.b = m.b + r.col;
    p.b_row = g.b_row;
  } else {
    p.x = contiguous_rows(m.b, 1, g.k, 0, g.b_row, y + count);
    p.b = m.a + r.row;
    p.b_row = g.a_col;
  }
  kernels.axpy(&p);
  const int64_t stride = one_row ? 1 : g.ldc;
  float* c = m.c + r.row * g.ldc + r.col;
  for (int64_t j = 0; j < count; j++) {
    float v = g.alpha * y[j];
    if (g.beta != 0) v += g.beta * c[j * stride];
    if (g.bias) v += one_row ? g.bias[r.col + j] : g.bias[0];
    y[j] = v;
  }
  if (g.activation.kind != kActivationNone) kernels.finish(1, count, y, count, nullptr, &g.activation);
  for (int64_t j = 0; j < count; j++) c[j * stride] = y[j];
  return true;
}

// An empty sum: only beta * C, bias and activation are left.
bool run_empty(const GemmMatrix& m, const GemmRect& r) {
  const GemmProblem& g = *m.g;
  load_source(g, m.source, m.c, r);
  for (int64_t i = r.row; i < r.row + r.rows; i++) {
    float* c = m.c + i * g.ldc;
    for (int64_t j = r.col; j < r.col + r.cols; j++) c[j] = g.beta != 0 ? g.beta * c[j] : 0;
  }
  m.e->kernels.finish(r.rows, r.cols, m.c + r.row * g.ldc + r.col, g.ldc, g.bias ? g.bias + r.col : nullptr,
                            &g.activation);
  return true;
}

}  // namespace

bool gemm_run_path(GemmPath path, const GemmMatrix& m, const GemmRect& r) {
  switch (path) {
    case GemmPath::empty: return run_empty(m, r);
    case GemmPath::direct: return run_direct(m, r);
    case GemmPath::dot_rows: return run_dot(m, r, true, false);
    case GemmPath::dot_cols: return run_dot(m, r, false, false);
    case GemmPath::narrow_rows: return run_dot(m, r, true, true);
    case GemmPath::narrow_cols: return run_dot(m, r, false, true);
    case GemmPath::axpy_row: return run_axpy(m, r, true);
    case GemmPath::axpy_col: return run_axpy(m, r, false);
    default: return run_packed(m, r);
  }
}

}  // namespace whittle
