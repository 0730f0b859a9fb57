// int8 weights in and out of the layouts of core/sparse_int8.h.
#include <string.h>

#include <algorithm>

#include "core/features.h"
#include "core/sparse_blocks.h"
#include "core/sparse_int8_layout.h"
#include "core/sparse_nm.h"

namespace whittle {
namespace {

int32_t height_of(int32_t r) { return r % 16 == 0 ? 16 : r % 8 == 0 ? 8 : r % 4 == 0 ? 4 : r % 2 == 0 ? 2 : 1; }

// Columns of a block: a strip of X stays in the first-level cache where a group of rows finds enough bundles in it, since every
// block loads and stores the sums once; else in the second. One column is small whatever its length.
int64_t block_columns(const SparseMatrix& w, int64_t columns, int64_t bundles) {
  const CacheSizes& cache = cache_sizes();
  const SparseInt8Kernels& k = sparse_int8_kernels();
  int64_t most = 32768;
  if (columns == 0 || columns > 2) {
    int64_t units = 1;
    while (units < k.units && (columns == 0 || units * kSparseUnit < columns)) units *= 2;
    const int64_t row = units * kSparseUnit * k.x_bytes;
    most = std::max<int64_t>(16, cache.l1d * 3 / 4 / row);
    while (most < w.cols && most * row < cache.l2 / 4 && bundles * most < 32 * w.cols) most *= 2;
    most = std::min<int64_t>(most, 32768);
  }
  const int64_t blocks = std::max<int64_t>(1, (w.cols + most - 1) / most);
  return std::max<int64_t>(16, round_up((w.cols + blocks - 1) / blocks, 16));
}

WhittleStatus build_pairs(const SparseSource& source, SparseMatrix* out) {
  SparseInt8Data* d = out->int8.get();
  const int64_t rows = out->rows, cols = out->cols;
  d->steps = (cols / 2 + kSparseInt8Step - 1) / kSparseInt8Step;
  d->sums.resize(static_cast<size_t>(rows));
  d->values.resize(static_cast<size_t>(rows * d->steps * kSparseInt8Step));
  d->places.resize(static_cast<size_t>(rows * d->steps * 16));
  std::vector<int8_t> row(static_cast<size_t>(cols));
  uint8_t position[2];
  for (int64_t i = 0; i < rows; i++) {
    source.row_int8(i, row.data());
    for (int64_t g = 0; g < cols / 4; g++) {
      if (!sparse_nm_group(row.data() + g * 4, 2, 4, position)) return WHITTLE_RANGE;
      for (int64_t e = 0; e < 2; e++) {
        const int64_t at = i * d->steps * kSparseInt8Step + g * 2 + e;
        const int8_t v = row[static_cast<size_t>(g * 4 + position[e])];
        d->values[static_cast<size_t>(at)] = v;
        d->places[sparse_pair_byte(at)] |= static_cast<uint8_t>(position[e] << sparse_pair_bit(at));
        d->sums[static_cast<size_t>(i)] += v;
        out->nnz += v != 0;
      }
    }
  }
  out->bytes += static_cast<int64_t>(sizeof *d + d->values.size() + d->places.size() + d->sums.size() * 4);
  return WHITTLE_OK;
}

// An entry of a group of rows: its column, and where its values lie in the blocks.
struct Entry {
  int64_t column;
  const int8_t* values;
};

// How many of the entries [e, end), at most 4, lie within a lane of the first.
size_t within_reach(const std::vector<Entry>& list, size_t e, size_t end) {
  size_t n = 1;
  while (n < 4 && e + n < end && list[e + n].column - list[e].column < kSparseInt8Lane) n++;
  return n;
}

}  // namespace

WhittleStatus sparse_int8_build(const SparseSource& source, SparseMatrix* out) {
  out->int8.reset(new SparseInt8Data);
  SparseInt8Data* d = out->int8.get();
  // n:m weights have no group of columns without a value in 16 rows: they lie as the dense matrix does, in blocks of 16 x 4.
  const bool dense = out->format == kSparseNm;
  const int64_t r = dense ? 16 : out->r, c = dense ? 4 : out->c, rows = out->rows, cols = out->cols;
  if (dense && out->n == 2 && out->m == 4 && (source.build.columns == 1 || source.build.columns == 2) && cols > 0)
    return build_pairs(source, out);
  SparseBlocks<int8_t> blocks;
  blocks.collect(source, r, c);
  if (out->format == kSparseNm) {
    std::vector<uint8_t> position(static_cast<size_t>(out->n));
    std::vector<int8_t> row(static_cast<size_t>(cols));
    for (int64_t i = 0; i < rows; i++) {
      source.row_int8(i, row.data());
      for (int64_t g = 0; g < cols; g += out->m)
        if (!sparse_nm_group(row.data() + g, out->n, out->m, position.data())) return WHITTLE_RANGE;
    }
  }
  out->nnz = blocks.nnz;
  d->height = height_of(static_cast<int32_t>(r));
  d->aligned = c % 4 == 0;
  // Bundles of an average group.
  const int64_t each = static_cast<int64_t>(blocks.column.size()) * c / 4 / std::max<int64_t>(1, static_cast<int64_t>(blocks.first.size()) - 1);
  d->block = block_columns(*out, source.build.columns, each);
  d->blocks = std::max<int64_t>(1, (cols + d->block - 1) / d->block);
  d->panels = (rows + kSparseInt8Panel - 1) / kSparseInt8Panel;
  d->sums.resize(static_cast<size_t>(rows));

  const int64_t height = d->height, groups = kSparseInt8Panel / height;
  if (source.build.columns == 1 || source.build.columns == 2) d->lanes = height == 1 ? c % kSparseInt8Lane == 0 : (height == 4 || height == 8) && !d->aligned;
  const bool windows = d->lanes && height > 1, alone = !d->aligned && !d->lanes;
  const int64_t step = d->lanes && height == 1 ? kSparseInt8Lane : d->aligned ? 4 : 1;
  std::vector<std::vector<Entry>> entries(static_cast<size_t>(groups));
  std::vector<size_t> at(static_cast<size_t>(groups));
  std::vector<SparseRun> runs;
  for (int64_t p = 0; p < d->panels; p++) {
    for (int64_t g = 0; g < groups; g++) {
      std::vector<Entry>& list = entries[static_cast<size_t>(g)];
      list.clear();
      at[static_cast<size_t>(g)] = 0;
      const int64_t row = p * kSparseInt8Panel + g * height;
      if (row >= rows) continue;
      const int64_t b = row / r;
      for (int64_t e = blocks.first[static_cast<size_t>(b)]; e < blocks.first[static_cast<size_t>(b) + 1]; e++) {
        const int8_t* v = &blocks.values[static_cast<size_t>((e * r + row % r) * c)];
        for (int64_t j = 0; j < c; j += step) {
          if (blocks.column[static_cast<size_t>(e)] + j >= cols) break;
          bool some = false;
          for (int64_t i = 0; i < height; i++)
            for (int64_t q = 0; q < step; q++) some |= v[i * c + j + q] != 0;
          if (some) list.push_back({blocks.column[static_cast<size_t>(e)] + j, v + j});
        }
      }
      for (const Entry& e : list)
        for (int64_t i = 0; i < height && row + i < rows; i++)
          for (int64_t q = 0; q < step; q++) d->sums[static_cast<size_t>(row + i)] += e.values[i * c + q];
    }
    for (int64_t b = 0; b < d->blocks; b++) {
      const int64_t limit = (b + 1) * d->block;
      runs.clear();
      std::vector<size_t> begin = at;
      for (int64_t g = 0; g < groups; g++) {
        const std::vector<Entry>& list = entries[static_cast<size_t>(g)];
        size_t& cursor = at[static_cast<size_t>(g)];
        while (cursor < list.size() && list[cursor].column < limit) cursor++;
        const size_t count = cursor - begin[static_cast<size_t>(g)];
        // The first tile begins sums, the last makes results of them.
        if (count == 0 && b > 0 && b + 1 < d->blocks) continue;
        int64_t bundles = static_cast<int64_t>(alone ? (count + 3) / 4 : count);
        if (windows) {
          bundles = 0;
          for (size_t e = begin[static_cast<size_t>(g)]; e < cursor; bundles++) e += within_reach(list, e, cursor);
        }
        runs.push_back({static_cast<uint16_t>(g), static_cast<uint16_t>(bundles)});
      }
      std::stable_sort(runs.begin(), runs.end(), [](const SparseRun& x, const SparseRun& y) { return x.count > y.count; });
      d->cells.push_back({static_cast<int64_t>(d->runs.size()), static_cast<int64_t>(runs.size()),
                          static_cast<int64_t>(d->values.size()) / bundle_values(*d)});
      for (const SparseRun& run : runs) {
        const std::vector<Entry>& list = entries[run.group];
        const size_t from = begin[run.group], until = at[run.group];
        const size_t value = d->values.size();
        d->values.resize(value + static_cast<size_t>(run.count * bundle_values(*d)));
        int8_t* to = d->values.data() + value;
        for (size_t e = from; windows && e < until; to += height * 4) {
          const size_t some = within_reach(list, e, until);
          d->index.push_back(static_cast<uint16_t>(list[e].column - b * d->block));
          for (size_t q = 0; q < 4; q++) d->places.push_back(static_cast<uint8_t>(q < some ? list[e + q].column - list[e].column : 0));
          for (int64_t i = 0; i < height; i++)
            for (size_t q = 0; q < some; q++) to[static_cast<size_t>(i) * 4 + q] = list[e + q].values[i * c];
          e += some;
        }
        for (size_t e = from; !windows && e < until; e++) {
          const int64_t place = static_cast<int64_t>(e - from) * step;
          const int64_t column = list[e].column - b * d->block;
          d->index.push_back(static_cast<uint16_t>(d->lanes ? column : column / step));
          for (int64_t i = 0; i < height; i++)
            for (int64_t q = 0; q < step; q++) to[(place / 4 * height + i) * 4 + place % 4 + q] = list[e].values[i * c + q];
        }
        // Weights of 0 fill the last bundle up; they read a column that the group reads anyway.
        for (size_t e = until - from; alone && e % 4 != 0; e++) d->index.push_back(d->index.back());
      }
      d->runs.insert(d->runs.end(), runs.begin(), runs.end());
    }
  }
  for (const int8_t v : d->values) d->lowest |= v == -128;
  d->index.resize(d->index.size() + 32);
  if (windows) d->places.resize(d->places.size() + 64);
  d->values.resize(d->values.size() + 64);
  d->index.shrink_to_fit();
  d->values.shrink_to_fit();
  out->bytes += static_cast<int64_t>(sizeof *d + d->cells.size() * sizeof(SparseCell) + d->runs.size() * sizeof(SparseRun) +
                                     d->index.size() * 2 + d->values.size() + d->places.size() + d->sums.size() * 4);
  return WHITTLE_OK;
}

void sparse_int8_each(const SparseMatrix& w, const SparseSeen& see) {
  const SparseInt8Data& d = *w.int8;
  if (d.steps > 0) {
    for (int64_t i = 0; i < w.rows; i++)
      for (int64_t e = 0; e < w.cols / 2; e++) {
        const int64_t place = d.places[sparse_pair_byte(i * d.steps * kSparseInt8Step + e)] >> sparse_pair_bit(e) & 3;
        see(i, e / 2 * 4 + place, &d.values[static_cast<size_t>(i * d.steps * kSparseInt8Step + e)]);
      }
    return;
  }
  for (int64_t p = 0; p < d.panels; p++)
    for (int64_t b = 0; b < d.blocks; b++) {
      SparseInt8Tile t = tile_of(d, p, b);
      const int8_t* v = t.values;
      const uint16_t* index = t.index;
      const int64_t each = bundle_values(d) / d.height;
      for (int64_t g = 0; g < t.groups; g++)
        for (int64_t e = 0; e < t.runs[g].count; e++, index += d.aligned || d.lanes ? 1 : 4, t.places += 4)
          for (int64_t i = 0; i < d.height; i++, v += each)
            for (int64_t c = 0; c < each; c++) {
              if (v[c] == 0) continue;
              const int64_t row = p * kSparseInt8Panel + t.runs[g].group * d.height + i;
              const int64_t column = d.lanes ? index[0] + (d.height > 1 ? t.places[c] : c) : d.aligned ? index[0] * 4 + c : index[c];
              see(row, b * d.block + column, v + c);
            }
    }
}

}  // namespace whittle
