// From a dense matrix to the layouts of core/sparse.h, and back.
#include <math.h>
#include <string.h>

#include <algorithm>
#include <new>
#include <numeric>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "core/features.h"
#include "core/sparse.h"
#include "core/sparse_blocks.h"
#include "core/sparse_int8.h"
#include "core/sparse_nm.h"
#include "core/threads.h"

namespace whittle {
namespace {

float from_bf16(uint16_t h) {
  const uint32_t bits = static_cast<uint32_t>(h) << 16;
  float v;
  memcpy(&v, &bits, 4);
  return v;
}

// Half to even. A finite value may become infinite.
uint16_t to_bf16(float v) {
  uint32_t bits;
  memcpy(&bits, &v, 4);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// Room for `count` elements; large arrays on huge pages where the system gives them: reading weights then misses the TLB less.
template <class T>
void make_room(std::vector<T>& v, size_t count) {
  v.reserve(count);
#if defined(__linux__)
  const uintptr_t huge = uintptr_t(2) << 20, first = (reinterpret_cast<uintptr_t>(v.data()) + huge - 1) / huge * huge;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(v.data()) + count * sizeof(T)) / huge * huge;
  if (end > first) madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
#endif
}

// Rows of a group: entries are shared by 8, 4, 2 or 1.
int32_t height_of(int32_t r) { return r % 8 == 0 ? 8 : r % 4 == 0 ? 4 : r % 2 == 0 ? 2 : 1; }

void put_value(int32_t type, float v, uint8_t* to) {
  if (type == kSparseF32) {
    memcpy(to, &v, 4);
  } else {
    const uint16_t h = to_bf16(v);
    memcpy(to, &h, 2);
  }
}

// Whether a strip of X of so many units is read where it lies, and stays in L2 while all of W passes by.
bool strip_near(const SparseBuild& b, int64_t units) {
  return !b.by_rows && b.cols * units * kSparseUnit * 4 <= cache_sizes().l2 / 2;
}

// Widest strip of X: few passes over the values, and a strip that is all of X need not be copied. Single rows have an accumulator
// for each vector; where X is long or has to be turned, a longer block of it in L1 is worth more to them than a wide one.
int64_t most_units(const SparseBuild& b, int64_t height) {
  if (height > 1) return kSparseMaxUnits;
  const int64_t widest = sparse_kernels().units;
  return strip_near(b, widest) ? widest : std::min<int64_t>(4, widest);
}

// Columns of a block of the tile layout. A block that L1 nearly holds feeds products fastest, but every block loads and stores
// the accumulators once, so with few non-zeros larger blocks from L2 win. Costs in cycles, fitted to AVX-512; the choice is
// flat, and relations are alike elsewhere.
int64_t block_columns(const SparseBuild& b, int64_t height, int64_t width, int64_t entries) {
  const CacheSizes& cache = cache_sizes();
  const int64_t most_wide = most_units(b, height);
  int64_t units = b.columns <= 0 ? 4 : std::max<int64_t>(1, (b.columns + 15) / 16);
  units = (units + (units + most_wide - 1) / most_wide - 1) / ((units + most_wide - 1) / most_wide);
  const int64_t row_bytes = units * kSparseUnit * 4, most = std::max(width, std::min<int64_t>(32768, b.cols + width - 1) / width * width);
  const double loads = static_cast<double>(entries * width), u = static_cast<double>(units), h = static_cast<double>(height);
  const double groups = static_cast<double>((b.rows + height - 1) / height) + 1;
  struct Level { int64_t bytes; double load; };
  const Level many[] = {{cache.l1d * 3 / 2, 1.45}, {cache.l2 / 8, 1.6}, {cache.l2 / 2, 1.75}, {cache.l2 / 2, 1.75}};
  const bool near = strip_near(b, units);
  const Level single[] = {{cache.l1d, 0.68}, {cache.l1d * 3 / 2, near ? 0.87 : 0.83}, {cache.l2 / 8, near ? 1.22 : 1.2}, {cache.l2 / 2, 1.4}};
  const double again = near ? 2.6 : 1.6;
  int64_t best = 0;
  double least = 0;
  for (const Level& level : height * width == 1 ? single : many) {
    int64_t columns = std::max(width, std::min(most, level.bytes / row_bytes / width * width));
    // With one byte an index while L1 is the aim.
    if (height * width == 1 && level.bytes <= cache.l1d * 3 / 2) columns = std::min<int64_t>(columns, 256);
    const double full = std::min(static_cast<double>((b.cols + columns - 1) / columns), loads / groups);
    const double cost = height * width == 1 ? loads * (1.1 + level.load * u) + groups * full * (again * u + 4)
                                            : loads * std::max(0.55 * u * h, level.load * u + 0.5 * h) + groups * full * (4 * u * h + 5);
    if (best == 0 || cost < least) best = columns, least = cost;
  }
  // Equal blocks rather than a thin last one.
  const int64_t blocks = std::max<int64_t>(1, (b.cols + best - 1) / best);
  const int64_t even = (b.cols + blocks - 1) / blocks;
  return std::min(most, std::max(width, (even + width - 1) / width * width));
}

void build_tiles(const SparseSource& source, const SparseBlocks<float>& blocks, SparseMatrix* out) {
  const SparseBuild& b = source.build;
  out->tiles.reset(new SparseTiles);
  SparseTiles* t = out->tiles.get();
  const int64_t r = out->r, width = out->c, height = height_of(out->r), split = r / height;
  const int64_t block_rows = static_cast<int64_t>(blocks.first.size()) - 1;
  const int64_t entries = blocks.first.back() * split;
  const int64_t size = out->type == kSparseF32 ? 4 : 2;
  t->height = static_cast<int32_t>(height);
  t->width = static_cast<int32_t>(width);
  t->units = static_cast<int32_t>(most_units(b, height));
  t->block = block_columns(b, height, width, entries);
  t->index_size = height * width == 1 && t->block <= 256 ? 1 : 2;
  t->blocks = std::max<int64_t>(1, (b.cols + t->block - 1) / t->block);
  // Panels of about equal numbers of entries, enough of them that threads finish together: every panel reads all of X anew.
  // They only cut rows apart, so their number may depend on the machine without changing a bit of any result.
  const int64_t least_rows = std::max<int64_t>(1, 32 / r), most_rows = std::max<int64_t>(1, 1024 / r);
  const int64_t strips = b.columns <= 0 ? 2 : (b.columns + t->units * kSparseUnit - 1) / (t->units * kSparseUnit);
  const int64_t want = std::max<int64_t>(1, std::min<int64_t>((4 * thread_limit() + strips - 1) / strips, block_rows / least_rows));
  t->panel_rows.push_back(0);
  int64_t row = 0;
  // A block row costs its entries and a little for itself.
  const double weight = static_cast<double>(blocks.first.back()) / static_cast<double>(std::max<int64_t>(1, block_rows)) * 0.1 + 1;
  const double total = static_cast<double>(blocks.first.back()) + weight * static_cast<double>(block_rows);
  for (int64_t p = 0; row < block_rows; p++) {
    const double until = total * static_cast<double>(p + 1) / static_cast<double>(want);
    int64_t end = row + 1;
    while (end < block_rows && end - row < most_rows &&
           (end - row < least_rows / 2 || static_cast<double>(blocks.first[static_cast<size_t>(end)]) + weight * static_cast<double>(end) < until))
      end++;
    row = end;
    t->panel_rows.push_back(row * r);
  }
  t->panels = static_cast<int64_t>(t->panel_rows.size()) - 1;
  make_room(t->index, static_cast<size_t>(entries * t->index_size) + 16);
  make_room(t->values, static_cast<size_t>(entries * height * width * size) + 64);
  t->index.resize(static_cast<size_t>(entries * t->index_size) + 16);
  t->values.resize(static_cast<size_t>(entries * height * width * size) + 64);
  int64_t entry = 0;
  std::vector<int64_t> at(static_cast<size_t>(block_rows));
  for (int64_t i = 0; i < block_rows; i++) at[static_cast<size_t>(i)] = blocks.first[static_cast<size_t>(i)];
  std::vector<SparseRun> runs;
  std::vector<int64_t> begin;
  for (int64_t p = 0; p < t->panels; p++) {
    const int64_t first = t->panel_rows[static_cast<size_t>(p)] / r, last = t->panel_rows[static_cast<size_t>(p) + 1] / r;
    begin.assign(static_cast<size_t>(last - first), 0);
    for (int64_t q = 0; q < t->blocks; q++) {
      const int64_t limit = (q + 1) * t->block;
      runs.clear();
      for (int64_t i = first; i < last; i++) {
        int64_t& cursor = at[static_cast<size_t>(i)];
        begin[static_cast<size_t>(i - first)] = cursor;
        while (cursor < blocks.first[static_cast<size_t>(i) + 1] && blocks.column[static_cast<size_t>(cursor)] < limit) cursor++;
        const uint16_t count = static_cast<uint16_t>(cursor - begin[static_cast<size_t>(i - first)]);
        if (count == 0 && q > 0) continue;
        for (int64_t s = 0; s < split; s++) runs.push_back({static_cast<uint16_t>((i - first) * split + s), count});
      }
      std::stable_sort(runs.begin(), runs.end(), [](const SparseRun& x, const SparseRun& y) { return x.count > y.count; });
      t->cells.push_back({static_cast<int64_t>(t->runs.size()), static_cast<int64_t>(runs.size()), entry});
      for (const SparseRun& run : runs) {
        const int64_t from = begin[static_cast<size_t>(run.group / split)], s = run.group % split;
        for (int64_t e = 0; e < run.count; e++, entry++) {
          const uint32_t column = static_cast<uint32_t>(blocks.column[static_cast<size_t>(from + e)] - q * t->block);
          for (int64_t i = 0; i < t->index_size; i++)
            t->index[static_cast<size_t>(entry * t->index_size + i)] = static_cast<uint8_t>(column >> (8 * i));
          const float* v = &blocks.values[static_cast<size_t>((from + e) * r * width)];
          uint8_t* to = &t->values[static_cast<size_t>(entry * height * width * size)];
          for (int64_t c = 0; c < width; c++)
            for (int64_t i = 0; i < height; i++) put_value(out->type, v[(s * height + i) * width + c], to + (c * height + i) * size);
        }
      }
      t->runs.insert(t->runs.end(), runs.begin(), runs.end());
    }
  }
  out->bytes += static_cast<int64_t>(sizeof *t + t->index.size() + t->values.size() + t->runs.size() * sizeof(SparseRun) +
                                     t->cells.size() * sizeof(SparseCell) + t->panel_rows.size() * 8);
}

void build_slices(const SparseSource& source, const SparseBlocks<float>& blocks, SparseMatrix* out) {
  const SparseBuild& b = source.build;
  out->slices.reset(new SparseSlices);
  SparseSlices* s = out->slices.get();
  const auto count = [&](int64_t i) { return blocks.first[static_cast<size_t>(i) + 1] - blocks.first[static_cast<size_t>(i)]; };
  std::vector<int32_t> order(static_cast<size_t>(b.rows));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t x, int32_t y) { return count(x) > count(y); });
  const int64_t slices = (b.rows + kSparseUnit - 1) / kSparseUnit;
  order.resize(static_cast<size_t>(slices * kSparseUnit), -1);
  s->rows = slices * kSparseUnit;
  int64_t total = 0;
  for (int64_t q = 0; q < slices; q++) {
    s->counts.push_back(static_cast<int32_t>(count(order[static_cast<size_t>(q * kSparseUnit)])));
    total += s->counts.back();
  }
  const int64_t size = out->type == kSparseF32 ? 4 : 2;
  make_room(s->index, static_cast<size_t>(total * kSparseUnit) + 8);
  make_room(s->values, static_cast<size_t>(total * kSparseUnit * size) + 64);
  s->index.assign(static_cast<size_t>(total * kSparseUnit) + 8, static_cast<uint16_t>(b.cols));
  s->values.assign(static_cast<size_t>(total * kSparseUnit * size) + 64, 0);
  const int64_t want = std::max<int64_t>(1, std::min<int64_t>(64, slices / 2));
  int64_t at = 0;
  for (int64_t q = 0; q < slices; q++) {
    if (at + q >= (total + slices) * static_cast<int64_t>(s->piece.size()) / want) {
      s->piece.push_back(q);
      s->first.push_back(at);
    }
    for (int64_t i = 0; i < kSparseUnit; i++) {
      const int32_t row = order[static_cast<size_t>(q * kSparseUnit + i)];
      if (row < 0) continue;
      const int64_t from = blocks.first[static_cast<size_t>(row)];
      for (int64_t e = 0; e < count(row); e++) {
        const size_t place = static_cast<size_t>((at + e) * kSparseUnit + i);
        s->index[place] = static_cast<uint16_t>(blocks.column[static_cast<size_t>(from + e)]);
        put_value(out->type, blocks.values[static_cast<size_t>(from + e)], &s->values[place * static_cast<size_t>(size)]);
      }
    }
    at += s->counts[static_cast<size_t>(q)];
  }
  s->pieces = static_cast<int64_t>(s->piece.size());
  s->piece.push_back(slices);
  s->first.push_back(at);
  s->order = order;
  out->bytes += static_cast<int64_t>(sizeof *s + s->index.size() * 2 + s->values.size() + s->order.size() * 4 + s->counts.size() * 4 +
                                     (s->piece.size() + s->first.size()) * 8);
}

void build_dense(const SparseSource& source, SparseMatrix* out) {
  const SparseBuild& b = source.build;
  out->dense.resize(static_cast<size_t>(b.rows * b.cols));
  for (int64_t i = 0; i < b.rows; i++) source.row_f32(i, out->dense.data() + i * b.cols);
  for (float v : out->dense) out->nnz += v != 0;
  out->bytes += b.rows * b.cols * 4;
}

WhittleStatus build(const SparseBuild& b, SparseMatrix* out) {
  SparseSource source = {b, {}};
  WhittleStatus status = source.prepare();
  if (status != WHITTLE_OK) return status;
  out->rows = b.rows;
  out->cols = b.cols;
  out->type = b.type;
  out->format = b.format;
  out->bytes = sizeof *out;
  if (b.format == kSparseAuto) {
    status = sparse_choose(source, out);
    if (status != WHITTLE_OK) return status;
  } else {
    out->r = b.format == kSparseBlock ? b.r : 1;
    out->c = b.format == kSparseBlock ? b.c : 1;
    out->n = b.format == kSparseNm ? b.n : 0;
    out->m = b.format == kSparseNm ? b.m : 0;
  }
  if (out->type == kSparseInt8) {
    out->scales = source.scales;
    out->bytes += b.rows * 4;
    return sparse_int8_build(source, out);
  }
  if (out->format == kSparseDense) {
    build_dense(source, out);
    return WHITTLE_OK;
  }
  const bool few = b.columns == 1 || b.columns == 2;
  if (out->format == kSparseNm) {
    source.build.n = out->n;
    source.build.m = out->m;
    status = sparse_nm_check(source);
    if (status != WHITTLE_OK) return status;
    if (out->n == 2 && out->m == 4 && few) {
      sparse_nm_build(source, out);
      return WHITTLE_OK;
    }
  }
  SparseBlocks<float> blocks;
  blocks.collect(source, out->r, out->c);
  out->nnz = blocks.nnz;
  if (out->format != kSparseBlock && few && b.cols < 65535) build_slices(source, blocks, out);
  else build_tiles(source, blocks, out);
  return WHITTLE_OK;
}

void each_of_tiles(const SparseMatrix& w, const SparseSeen& see, size_t size) {
  const SparseTiles& t = *w.tiles;
  for (int64_t p = 0; p < t.panels; p++)
    for (int64_t q = 0; q < t.blocks; q++) {
      const SparseCell& cell = t.cells[static_cast<size_t>(p * t.blocks + q)];
      int64_t entry = cell.entry;
      for (int64_t g = 0; g < cell.groups; g++) {
        const SparseRun run = t.runs[static_cast<size_t>(cell.run + g)];
        for (int64_t e = 0; e < run.count; e++, entry++)
          for (int64_t c = 0; c < t.width; c++)
            for (int64_t i = 0; i < t.height; i++) {
              const int64_t row = t.panel_rows[static_cast<size_t>(p)] + run.group * t.height + i;
              const int64_t column = q * t.block + t.column(entry) + c;
              if (row < w.rows && column < w.cols) see(row, column, &t.values[static_cast<size_t>((entry * t.width + c) * t.height + i) * size]);
            }
      }
    }
}

void each_of_slices(const SparseMatrix& w, const SparseSeen& see, size_t size) {
  const SparseSlices& s = *w.slices;
  int64_t at = 0;
  for (size_t q = 0; q < s.counts.size(); q++)
    for (int64_t e = 0; e < s.counts[q]; e++)
      for (int64_t i = 0; i < kSparseUnit; i++, at++) {
        const int32_t row = s.order[q * kSparseUnit + static_cast<size_t>(i)];
        const int64_t column = s.index[static_cast<size_t>(at)];
        if (row >= 0 && column < w.cols) see(row, column, &s.values[static_cast<size_t>(at) * size]);
      }
}

}  // namespace

SparseMatrix::SparseMatrix() = default;
SparseMatrix::SparseMatrix(SparseMatrix&&) noexcept = default;
SparseMatrix& SparseMatrix::operator=(SparseMatrix&&) noexcept = default;
SparseMatrix::~SparseMatrix() = default;

WhittleStatus SparseSource::prepare() {
  const SparseBuild& b = build;
  const int64_t count = b.rows * b.cols;
  if (b.source_type == kSparseInt8) {
    if (b.type != kSparseInt8) return WHITTLE_DTYPE;
    if (b.scales) scales.assign(b.scales, b.scales + b.rows);
    else scales.assign(static_cast<size_t>(b.rows), 1.0f);
    for (float s : scales)
      if (!(s > 0 && s <= 3.402823466e38f)) return WHITTLE_RANGE;
    return WHITTLE_OK;
  }
  bool good = true;
  if (b.source_type == kSparseF32) {
    const float* w = static_cast<const float*>(b.w);
    if (b.type == kSparseBf16)
      for (int64_t i = 0; i < count; i++) good &= (to_bf16(w[i]) & 0x7f80) != 0x7f80;
    else
      for (int64_t i = 0; i < count; i++) good &= w[i] - w[i] == 0;
  } else {
    const uint16_t* w = static_cast<const uint16_t*>(b.w);
    for (int64_t i = 0; i < count; i++) good &= (w[i] & 0x7f80) != 0x7f80;
  }
  if (!good) return WHITTLE_NONFINITE;
  if (b.type == kSparseInt8) {
    std::vector<float> row(static_cast<size_t>(b.cols));
    for (int64_t i = 0; i < b.rows; i++) {
      row_f32(i, row.data());
      float top = 0;
      for (float v : row) top = std::max(top, fabsf(v));
      // A scale of an absmax near the smallest floats would vanish: such a row is as good as zero.
      const float scale = top / 127.0f;
      scales.push_back(scale > 0 ? scale : 1.0f);
    }
  }
  return WHITTLE_OK;
}

void SparseSource::row_f32(int64_t i, float* out) const {
  const int64_t n = build.cols;
  if (build.source_type == kSparseF32) {
    memcpy(out, static_cast<const float*>(build.w) + i * n, static_cast<size_t>(n) * 4);
    if (build.type == kSparseBf16)
      for (int64_t j = 0; j < n; j++) out[j] = from_bf16(to_bf16(out[j]));
  } else {
    const uint16_t* w = static_cast<const uint16_t*>(build.w) + i * n;
    for (int64_t j = 0; j < n; j++) out[j] = from_bf16(w[j]);
  }
  if (build.mask)
    for (int64_t j = 0; j < n; j++) out[j] = build.mask[i * n + j] ? out[j] : 0.0f;
}

void SparseSource::row_int8(int64_t i, int8_t* out) const {
  const int64_t n = build.cols;
  if (build.source_type == kSparseInt8) {
    const int8_t* w = static_cast<const int8_t*>(build.w) + i * n;
    for (int64_t j = 0; j < n; j++) out[j] = build.mask && !build.mask[i * n + j] ? static_cast<int8_t>(0) : w[j];
    return;
  }
  std::vector<float> row(static_cast<size_t>(n));
  row_f32(i, row.data());
  for (int64_t j = 0; j < n; j++) {
    const float q = nearbyintf(row[static_cast<size_t>(j)] / scales[static_cast<size_t>(i)]);
    out[j] = static_cast<int8_t>(std::max(-127.0f, std::min(127.0f, q)));
  }
}

WhittleStatus sparse_build(const SparseBuild& b, SparseMatrix* out) {
  try {
    return build(b, out);
  } catch (const std::bad_alloc&) {
    return WHITTLE_OUT_OF_MEMORY;
  } catch (const std::length_error&) {
    return WHITTLE_OUT_OF_MEMORY;
  }
}

void sparse_each(const SparseMatrix& w, const SparseSeen& see) {
  const size_t size = static_cast<size_t>(sparse_value_size(w.type));
  if (w.int8) return sparse_int8_each(w, see);
  for (size_t i = 0; i < w.dense.size(); i++) {
    uint8_t value[4];
    put_value(w.type, w.dense[i], value);
    see(static_cast<int64_t>(i) / w.cols, static_cast<int64_t>(i) % w.cols, value);
  }
  if (w.nm) sparse_nm_each(w, see);
  else if (w.slices) each_of_slices(w, see, size);
  else if (w.tiles) each_of_tiles(w, see, size);
}

void sparse_to_dense(const SparseMatrix& w, void* out) {
  const int64_t size = sparse_value_size(w.type);
  uint8_t* const to = static_cast<uint8_t*>(out);
  memset(out, 0, static_cast<size_t>(w.rows * w.cols * size));
  sparse_each(w, [&](int64_t row, int64_t column, const void* value) { memcpy(to + (row * w.cols + column) * size, value, static_cast<size_t>(size)); });
}

}  // namespace whittle
