#include "core/cuda_sparse.h"

#include <string.h>

#include <algorithm>
#include <new>

namespace whittle {
namespace {

// What is not 0, by rows and rising columns.
struct Rows {
  std::vector<int64_t> first;
  std::vector<int32_t> column;
  std::vector<uint8_t> values;
};

bool is_zero(const void* value, int32_t type) {
  uint32_t bits = 0;
  memcpy(&bits, value, static_cast<size_t>(sparse_value_size(type)));
  return (type == kSparseInt8 ? bits : type == kSparseBf16 ? bits & 0x7fffu : bits & 0x7fffffffu) == 0;
}

Rows rows_of(const SparseMatrix& w) {
  const size_t size = static_cast<size_t>(sparse_value_size(w.type)), rows = static_cast<size_t>(w.rows);
  Rows r;
  r.first.assign(rows + 1, 0);
  sparse_each(w, [&](int64_t row, int64_t, const void* value) { r.first[static_cast<size_t>(row) + 1] += !is_zero(value, w.type); });
  for (size_t i = 0; i < rows; i++) r.first[i + 1] += r.first[i];
  struct Entry {
    int32_t column;
    uint8_t value[4];
  };
  std::vector<Entry> entries(static_cast<size_t>(r.first[rows]));
  std::vector<int64_t> at(r.first.begin(), r.first.end() - 1);
  sparse_each(w, [&](int64_t row, int64_t column, const void* value) {
    if (is_zero(value, w.type)) return;
    Entry& e = entries[static_cast<size_t>(at[static_cast<size_t>(row)]++)];
    e.column = static_cast<int32_t>(column);
    memcpy(e.value, value, size);
  });
  r.column.resize(entries.size());
  r.values.resize(entries.size() * size);
  for (size_t i = 0; i < rows; i++)
    std::sort(entries.begin() + r.first[i], entries.begin() + r.first[i + 1], [](const Entry& a, const Entry& b) { return a.column < b.column; });
  for (size_t e = 0; e < entries.size(); e++) {
    r.column[e] = entries[e].column;
    memcpy(&r.values[e * size], entries[e].value, size);
  }
  return r;
}

// Where mma wants the value of row `row` and column place `q` of a panel.
int64_t panel_place(bool bytes, int64_t row, int64_t q) {
  const int64_t g = row % 8, lower = row / 8;
  if (!bytes) return q / 8 * 128 + (4 * g + q % 4) * 4 + lower + q % 8 / 4 * 2;
  return q / 32 * 512 + (4 * g + q % 16 / 4) * 16 + (lower + q % 32 / 16 * 2) * 4 + q % 4;
}

void lay_panels(const SparseMatrix& w, const Rows& r, CudaSparseLaid* out) {
  const int64_t panels = cuda_sparse_panels(w.rows), step = cuda_sparse_step(w.type), size = sparse_value_size(w.type);
  out->first.push_back(0);
  std::vector<int32_t> columns;
  for (int64_t p = 0; p < panels; p++) {
    const int64_t begin = p * kCudaPanel, end = std::min(w.rows, begin + kCudaPanel);
    columns.assign(r.column.begin() + r.first[static_cast<size_t>(begin)], r.column.begin() + r.first[static_cast<size_t>(end)]);
    std::sort(columns.begin(), columns.end());
    columns.erase(std::unique(columns.begin(), columns.end()), columns.end());
    const int64_t steps = (static_cast<int64_t>(columns.size()) + step - 1) / step, base = out->stored * step;
    out->stored += steps;
    out->first.push_back(static_cast<int32_t>(out->stored));
    out->column.insert(out->column.end(), columns.begin(), columns.end());
    out->column.resize(static_cast<size_t>(out->stored * step), -1);
    out->values.resize(static_cast<size_t>(out->stored * step * kCudaPanel * size));
    for (int64_t row = begin; row < end; row++)
      for (int64_t e = r.first[static_cast<size_t>(row)]; e < r.first[static_cast<size_t>(row) + 1]; e++) {
        const int64_t q = std::lower_bound(columns.begin(), columns.end(), r.column[static_cast<size_t>(e)]) - columns.begin();
        const int64_t place = base * kCudaPanel + panel_place(w.type == kSparseInt8, row - begin, q);
        memcpy(&out->values[static_cast<size_t>(place * size)], &r.values[static_cast<size_t>(e * size)], static_cast<size_t>(size));
      }
  }
}

bool lay_groups(const SparseMatrix& w, const Rows& r, int64_t n, int64_t m, CudaSparseLaid* out) {
  const int64_t groups = w.cols / m, size = sparse_value_size(w.type);
  out->stored = w.rows * groups * n;
  out->places.resize(static_cast<size_t>(out->stored));
  out->values.resize(static_cast<size_t>(out->stored * size));
  int64_t to = 0;
  for (int64_t row = 0; row < w.rows; row++) {
    int64_t e = r.first[static_cast<size_t>(row)];
    const int64_t end = r.first[static_cast<size_t>(row) + 1];
    for (int64_t group = 0; group < groups; group++) {
      const int64_t base = group * m;
      int64_t count = 0;
      while (e + count < end && r.column[static_cast<size_t>(e + count)] < base + m) count++;
      if (count > n) return false;
      // The first zeros fill up what is left.
      int64_t spare = n - count;
      for (int64_t j = 0; j < m && (count > 0 || spare > 0); j++) {
        const bool here = count > 0 && r.column[static_cast<size_t>(e)] == base + j;
        if (!here && spare == 0) continue;
        out->places[static_cast<size_t>(to)] = static_cast<uint8_t>(j);
        if (here) {
          memcpy(&out->values[static_cast<size_t>(to * size)], &r.values[static_cast<size_t>(e++ * size)], static_cast<size_t>(size));
          count--;
        } else {
          spare--;
        }
        to++;
      }
    }
  }
  return true;
}

}  // namespace

WhittleStatus cuda_sparse_lay(const SparseMatrix& w, int32_t format, int32_t n, int32_t m, CudaSparseLaid* out) {
  if (w.cols > 0 && w.rows > 2147483647 / w.cols) return WHITTLE_SHAPE;
  if (format == kSparseNm && (n < 1 || n > m || m > 128 || w.cols % m != 0)) return WHITTLE_SHAPE;
  try {
    *out = {};
    const Rows r = rows_of(w);
    for (int64_t i = 0; i < w.rows && w.type == kSparseInt8; i++) {
      int32_t sum = 0;
      for (int64_t e = r.first[static_cast<size_t>(i)]; e < r.first[static_cast<size_t>(i) + 1]; e++) sum += static_cast<int8_t>(r.values[static_cast<size_t>(e)]);
      out->sums.push_back(sum);
    }
    if (format == kSparseBlock) lay_panels(w, r, out);
    else if (format == kSparseNm) return lay_groups(w, r, n, m, out) ? WHITTLE_OK : WHITTLE_RANGE;
    else if (format == kSparseCsr) {
      out->first.assign(r.first.begin(), r.first.end());
      out->stored = r.first.back();
      out->column = r.column;
      out->values = r.values;
    } else return WHITTLE_DTYPE;
    return WHITTLE_OK;
  } catch (const std::bad_alloc&) {
    return WHITTLE_OUT_OF_MEMORY;
  }
}

}  // namespace whittle
