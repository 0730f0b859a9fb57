// Weights for the checks of sparse matrices: dense ones, and what the device makes of them.
#pragma once
#include <math.h>
#include <string.h>

#include <memory>

#include "check.h"

namespace whittle {

// What the fakes of cuSPARSE and cuSPARSELt begin with: their calls, and the one that fails.
struct FakeSparse {
  int calls, fail_at, failure, products;
};
// Null where the real one is, or none.
FakeSparse* fake_sparse(const char* name);

inline uint16_t bf16(float v) {
  uint32_t b;
  memcpy(&b, &v, 4);
  return static_cast<uint16_t>((b + 0x7fff + (b >> 16 & 1)) >> 16);
}
inline float wide(uint16_t h) {
  const uint32_t b = static_cast<uint32_t>(h) << 16;
  float v;
  memcpy(&v, &b, 4);
  return v;
}

struct Dense {
  int64_t rows, cols;
  int32_t from, type;
  std::vector<uint8_t> source, mask;
  std::vector<float> values;  // as stored: floats, or codes
  std::vector<float> scales;
};

// Weights of which about `share` stay; rows of zeros among them. Values of bytes reach their ends.
inline Dense dense(Rng& rng, int64_t rows, int64_t cols, int32_t from, int32_t type, float share, bool masked) {
  Dense d = {rows, cols, from, type, {}, {}, {}, {}};
  const size_t count = static_cast<size_t>(rows * cols);
  d.source.resize(count * (from == kSparseF32 ? 4 : from == kSparseBf16 ? 2 : 1));
  std::vector<float> plain(count);
  for (size_t i = 0; i < count; i++) {
    const bool zero = rng.uniform(0, 1) >= share || rng.below(7) == 0;
    float v = zero && !(masked && rng.below(2)) ? 0.0f : rng.normal();
    if (from == kSparseInt8) {
      const int8_t q = static_cast<int8_t>(v == 0 ? 0 : rng.below(256) - 128);
      d.source[i] = static_cast<uint8_t>(q);
      plain[i] = q;
    } else if (from == kSparseBf16) {
      const uint16_t h = bf16(v);
      memcpy(&d.source[2 * i], &h, 2);
      plain[i] = wide(h);
    } else {
      memcpy(&d.source[4 * i], &v, 4);
      plain[i] = type == kSparseBf16 ? wide(bf16(v)) : v;
    }
  }
  if (masked)
    for (size_t i = 0; i < count; i++) {
      d.mask.push_back(rng.uniform(0, 1) < share ? static_cast<uint8_t>(1 + rng.below(255)) : 0);
      if (!d.mask[i]) plain[i] = 0;
    }
  for (int64_t i = 0; i < rows && type == kSparseInt8; i++) {
    float top = 0;
    for (int64_t j = 0; j < cols; j++) top = fmaxf(top, fabsf(plain[static_cast<size_t>(i * cols + j)]));
    const float scale = from == kSparseInt8 ? rng.uniform(0.01f, 1) : top > 0 ? top / 127.0f : 1;
    d.scales.push_back(scale);
    if (from != kSparseInt8)
      for (int64_t j = 0; j < cols; j++) {
        float& v = plain[static_cast<size_t>(i * cols + j)];
        v = fmaxf(-127, fminf(127, nearbyintf(v / scale)));
      }
  }
  d.values = plain;
  return d;
}

// Leaves at most n of every m.
inline void thin(Dense& d, int64_t n, int64_t m) {
  const size_t size = d.from == kSparseF32 ? 4 : d.from == kSparseBf16 ? 2 : 1;
  for (size_t g = 0; g < d.values.size(); g += static_cast<size_t>(m))
    for (int64_t j = 0, some = 0; j < m; j++) {
      const size_t i = g + static_cast<size_t>(j);
      if (d.values[i] != 0 && ++some > n) {
        d.values[i] = 0;
        memset(&d.source[i * size], 0, size);
      }
    }
}

inline std::vector<uint8_t> stored(const Dense& d) {
  std::vector<uint8_t> out;
  for (float v : d.values) {
    uint8_t bytes[4];
    const uint16_t h = bf16(v);
    if (d.type == kSparseF32) memcpy(bytes, &v, 4);
    else if (d.type == kSparseBf16) memcpy(bytes, &h, 2);
    else bytes[0] = static_cast<uint8_t>(static_cast<int8_t>(v));
    out.insert(out.end(), bytes, bytes + (d.type == kSparseF32 ? 4 : d.type == kSparseBf16 ? 2 : 1));
  }
  return out;
}

// On the device, with what it is made of.
struct Matrix {
  CudaSparse w = {};
  std::unique_ptr<Device<int32_t>> first, column, sums;
  std::unique_ptr<Device<uint8_t>> places, values, compressed;
  std::unique_ptr<Device<float>> scales;
  int64_t counts[3] = {};
  WhittleStatus status = WHITTLE_OK;

  Matrix(const CudaBackend& cuda, const Dense& d, int32_t format, int32_t n, int32_t m) {
    w.format = format;
    w.type = d.type;
    w.rows = d.rows;
    w.cols = d.cols;
    w.n = n;
    w.m = m;
    const bool csr = format == kSparseCsr, nm = format == kSparseNm;
    first.reset(new Device<int32_t>((csr ? d.rows : cuda_sparse_panels(d.rows)) + 1));
    scales.reset(new Device<float>(d.rows));
    sums.reset(new Device<int32_t>(d.rows));
    if (!nm) w.first = *first;
    if (d.type == kSparseInt8) {
      w.scales = *scales;
      w.sums = *sums;
    }
    const Device<uint8_t> source(d.source), mask(d.mask);
    const Device<float> given(d.scales);
    const CudaSparseBuild build = {source, d.from, d.mask.empty() ? nullptr : static_cast<uint8_t*>(mask),
                                   d.from == kSparseInt8 ? static_cast<float*>(given) : nullptr, true};
    status = cuda.sparse_count(0, build, w, counts);
    if (status != WHITTLE_OK) return;
    w.stored = counts[0];
    const int64_t size = d.type == kSparseF32 ? 4 : d.type == kSparseBf16 ? 2 : 1, step = cuda_sparse_step(d.type);
    column.reset(new Device<int32_t>(csr ? w.stored : nm ? 0 : w.stored * step));
    places.reset(new Device<uint8_t>(nm ? w.stored : 0));
    values.reset(new Device<uint8_t>(size * (csr || nm ? w.stored : w.stored * step * kCudaPanel)));
    w.column = nm ? nullptr : static_cast<int32_t*>(*column);
    w.places = nm ? static_cast<uint8_t*>(*places) : nullptr;
    w.values = static_cast<uint8_t*>(*values);
    status = cuda.sparse_fill(0, build, w);
    if (status == WHITTLE_OK) status = compress(cuda);
  }

  // Takes the library's form beside it, where there is one.
  WhittleStatus compress(const CudaBackend& cuda) {
    w.compressed = nullptr;
    int64_t bytes = 0;
    WhittleStatus made = cuda.sparse_compress(0, w, &bytes);
    if (made != WHITTLE_OK || bytes == 0) return made;
    compressed.reset(new Device<uint8_t>(bytes));
    CudaSparse with = w;
    with.compressed = static_cast<uint8_t*>(*compressed);
    with.compressed_bytes = bytes;
    made = cuda.sparse_compress(0, with, &bytes);
    if (made == WHITTLE_OK && bytes) w = with;
    return made;
  }
};

// One product of `columns` columns, as they came and with scales of 1.
inline CudaSpmm spmm_of(const void* x, int64_t columns, void* out) {
  CudaSpmm a = {};
  a.x = x;
  a.batch = 1;
  a.columns = columns;
  a.out = out;
  a.x_signed = true;
  a.x_scale = a.out_scale = 1;
  return a;
}

struct Shape {
  int32_t format, n, m;
};
constexpr Shape kShapes[] = {{kSparseCsr, 0, 0}, {kSparseBlock, 0, 0}, {kSparseNm, 2, 4}, {kSparseNm, 1, 4}, {kSparseNm, 3, 7}};

}  // namespace whittle
