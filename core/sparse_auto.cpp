// Which format a matrix gets under 'auto': the least by a model of the kernels' time, or by the clock where that is asked for.
// Costs are cycles of one product, fitted to AVX-512 on one thread; they stand in fixed relations to the vector's width.
#include <math.h>
#include <string.h>

#include <algorithm>
#include <chrono>

#include "core/sparse_blocks.h"
#include "core/sparse_int8.h"
#include "core/sparse_weights.h"

namespace whittle {
namespace {

struct Candidate {
  int32_t format, r, c, n, m;
  double cost;
};

int64_t occupied(const std::vector<uint8_t>& flags, size_t width) {
  int64_t count = 0;
  for (size_t j = 0; j < flags.size(); j += width) {
    bool some = false;
    for (size_t q = j; q < std::min(flags.size(), j + width); q++) some |= flags[q] != 0;
    count += some;
  }
  return count;
}

}  // namespace

SparseCensus sparse_census(const SparseSource& source, bool is_int8) {
  const SparseBuild& b = source.build;
  SparseCensus census;
  const size_t cols = static_cast<size_t>(b.cols);
  std::vector<float> row(cols);
  std::vector<int8_t> codes(cols);
  std::vector<uint8_t> flags(cols), any[4];  // any: of the last 4, 8, 16, 32 rows
  for (auto& a : any) a.assign(cols, 0);
  for (int64_t i = 0; i < b.rows; i++) {
    if (is_int8) {
      source.row_int8(i, codes.data());
      for (size_t j = 0; j < cols; j++) flags[j] = codes[j] != 0;
    } else {
      source.row_f32(i, row.data());
      for (size_t j = 0; j < cols; j++) flags[j] = row[j] != 0;
    }
    for (size_t j = 0; j < cols; j++) census.nnz += flags[j];
    census.blocks[1] += occupied(flags, 4);
    census.blocks[2] += occupied(flags, 16);
    for (int p = 0; p < 3; p++) {
      const size_t m = static_cast<size_t>(kSparsePatterns[p][1]);
      census.pattern[p] = census.pattern[p] && cols % m == 0;
      for (size_t j = 0; census.pattern[p] && j < cols; j += m) {
        int32_t used = 0;
        for (size_t q = j; q < j + m; q++) used += flags[q];
        census.pattern[p] = used <= kSparsePatterns[p][0];
      }
    }
    for (int a = 0; a < 4; a++) {
      for (size_t j = 0; j < cols; j++) any[a][j] |= flags[j];
      if ((i + 1) % (4 << a) != 0 && i + 1 != b.rows) continue;
      census.blocks[3 + a] += occupied(any[a], a == 3 ? 32 : 1);
      std::fill(any[a].begin(), any[a].end(), uint8_t(0));
    }
  }
  census.blocks[0] = census.nnz;
  return census;
}

namespace {

// Bytes over 1 MB come from beyond L2, where a core gets about 8 a cycle.
double reading(double bytes) { return bytes > 1e6 ? bytes / 8 : bytes / 24; }

// int8: cycles of a stored value with one column, by kSparseShapes.
constexpr double kInt8Value[7] = {1.6, 1.3, 0.25, 0.45, 0.2, 0.17, 0.12};

// The same with more of them: bundles of four columns and up to 16 rows, of which those with VNNI interleave rows of X only
// where their columns are no neighbours; then the ends of each group's sums.
double int8_cost(double blocks, double r, double c, double rows, double cols, double u) {
  const double h = std::min(16.0, r), bundles = blocks * c / 4 * r / h;
  const bool vnni = sparse_int8_tier() == Tier::avx512vnni;
  const bool aligned = fmod(c, 4) == 0;
  const double each = !vnni ? 1.5 + 3 * h : aligned ? 0.7 + 0.53 * h : std::max(2.7, 0.5 + 0.75 * h);
  return bundles * (each * u + (aligned ? 1.5 : 4)) + rows * std::max(1.0, cols / 768) * 3 * u;
}

std::vector<Candidate> rank(const SparseSource& source, int32_t type) {
  const SparseBuild& b = source.build;
  const SparseCensus census = sparse_census(source, type == kSparseInt8);
  const double rows = static_cast<double>(b.rows), cols = static_cast<double>(b.cols);
  const double columns = b.columns > 0 ? static_cast<double>(b.columns) : 64;
  const double size = type == kSparseF32 ? 4 : type == kSparseBf16 ? 2 : 1;
  // Lanes that a vector of this tier holds, against 16: the same products take so many times the instructions.
  const Tier tier = sparse_tier();
  const double narrow = tier == Tier::scalar ? 12 : tier == Tier::avx2 ? 2 : tier == Tier::neon ? 4 : 1;
  const double u = static_cast<double>(static_cast<int64_t>((columns + 15) / 16)) * narrow;
  std::vector<Candidate> list;
  for (int s = 0; s < 7; s++) {
    const double r = kSparseShapes[s][0], c = kSparseShapes[s][1], blocks = static_cast<double>(census.blocks[s]);
    const double h = std::min(8.0, r), loads = blocks * c * r / h, groups = rows / h;
    double cost;
    if (type == kSparseInt8 && columns <= 2) cost = columns * std::max(reading(blocks * (r * c + 2)), blocks * r * c * kInt8Value[s] + groups * 4);
    else if (type == kSparseInt8) cost = int8_cost(blocks, r, c, rows, cols, u);
    else if (columns <= 2) cost = columns * std::max(reading(blocks * (r * c * size + 2)), blocks * r * c * (s == 0 ? 1.6 : s == 2 ? 0.2 : 0.5) + groups * 4);
    else if (s == 0) cost = loads * (1.1 + 0.75 * u) + groups * std::max(1.0, cols / 192) * (1.6 * u + 6);
    else cost = loads * std::max(0.55 * u * h, 1.6 * u + 0.5 * h) + groups * (8 * u * h + 10);
    list.push_back({s == 0 ? kSparseCsr : kSparseBlock, kSparseShapes[s][0], kSparseShapes[s][1], 0, 0, cost});
  }
  for (int p = 0; p < 3; p++) {
    if (!census.pattern[p]) continue;
    const double stored = rows * cols * kSparsePatterns[p][0] / kSparsePatterns[p][1];
    // Float n:m lies as CSR where more than two columns are to come.
    if (columns > 2 && type != kSparseInt8) continue;
    // With more columns, int8 n:m lies as the dense matrix does, in blocks of 16 x 4.
    const double cost = columns <= 2 ? columns * std::max(reading(stored * (size + 0.25)), stored * 0.3) : int8_cost(rows * cols / 64, 16, 4, rows, cols, u);
    list.push_back({kSparseNm, 1, 1, kSparsePatterns[p][0], kSparsePatterns[p][1], cost});
  }
  if (type != kSparseInt8) {
    const double cost = columns <= 2 ? columns * std::max(reading(rows * cols * 4), rows * cols * 0.07 * narrow) : rows * cols * u * 0.56;
    list.push_back({kSparseDense, 1, 1, 0, 0, cost});
  }
  std::stable_sort(list.begin(), list.end(), [](const Candidate& x, const Candidate& y) { return x.cost < y.cost; });
  return list;
}

// Best of several products of `columns`; a negative number where the format cannot be had.
double time_of(const SparseSource& source, const Candidate& c, int64_t columns, SparseMatrix* out) {
  SparseBuild b = source.build;
  b.format = c.format;
  b.r = c.r;
  b.c = c.c;
  b.n = c.n;
  b.m = c.m;
  if (sparse_build(b, out) != WHITTLE_OK) return -1;
  const bool bytes = out->type == kSparseInt8;
  std::vector<float> x(static_cast<size_t>(b.cols * columns), 1.0f), y(static_cast<size_t>(b.rows * columns));
  SparseArgs a = {};
  a.w = out;
  a.x = x.data();
  a.batch = 1;
  a.columns = columns;
  a.out = y.data();
  a.threads = b.threads;
  a.x_scale = a.out_scale = 1;
  a.x_signed = bytes;
  double best = 1e30;
  for (int i = 0; i < 6; i++) {
    const auto start = std::chrono::steady_clock::now();
    if (sparse_multiply(a) != WHITTLE_OK) return -1;
    const double time = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (i > 0) best = std::min(best, time);
  }
  return best;
}

}  // namespace

WhittleStatus sparse_choose(const SparseSource& source, SparseMatrix* out) {
  Candidate best = {kSparseCsr, 1, 1, 0, 0, 0};
  if (source.build.rows > 0 && source.build.cols > 0) {
    const std::vector<Candidate> list = rank(source, out->type);
    best = list.front();
    if (source.build.measure) {
      // The three that the model likes best, and the two that need no structure.
      const int64_t columns = source.build.columns > 0 ? source.build.columns : 64;
      double least = -1;
      for (size_t i = 0; i < list.size(); i++) {
        if (i >= 3 && list[i].format != kSparseCsr && list[i].format != kSparseDense) continue;
        SparseMatrix trial;
        const double time = time_of(source, list[i], columns, &trial);
        if (time >= 0 && (least < 0 || time < least)) least = time, best = list[i];
      }
    }
  }
  out->format = best.format;
  out->r = best.r;
  out->c = best.c;
  out->n = best.n;
  out->m = best.m;
  return WHITTLE_OK;
}

}  // namespace whittle
