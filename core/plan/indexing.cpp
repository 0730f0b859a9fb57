// Steps that move elements to and from places that other tensors name, and the k best of each line. Indices count from the
// end where they are negative; one that lies outside ends the run with WHITTLE_RANGE.
#include <math.h>
#include <string.h>

#include <algorithm>
#include <atomic>
#include <numeric>

#include "core/cuda.h"
#include "core/indexing.h"
#include "core/plan/reader.h"
#include "core/scratch.h"
#include "core/threads.h"

namespace whittle {
namespace {

constexpr int kRank = kIndexRank;
constexpr int64_t kPiece = 16 << 10;

int64_t index_at(const void* p, bool wide, int64_t i) {
  return wide ? static_cast<const int64_t*>(p)[i] : static_cast<const int32_t*>(p)[i];
}

// From the front, or -1.
int64_t settled(int64_t i, int64_t size) {
  if (i < 0) i += size;
  return i >= 0 && i < size ? i : -1;
}

float joined(ScatterJoin join, float a, float b) {
  switch (join) {
    case kScatterAdd: return a + b;
    case kScatterMul: return a * b;
    case kScatterMax: return a > b || a != a ? a : b;
    case kScatterMin: return a < b || a != a ? a : b;
    default: return b;
  }
}

// Numbers by which one element of a tensor of indices, shaped `at`, names one of a tensor shaped `dims`, its own
// coordinate along `axis` replaced.
struct Elements {
  int rank;
  int64_t axis;
  int64_t dims[kRank], at[kRank], strides[kRank];
  int64_t bytes;  // of an element
  bool wide;
  int64_t size() const { return std::accumulate(dims, dims + rank, int64_t(1), [](int64_t a, int64_t b) { return a * b; }); }
  int64_t count() const { return std::accumulate(at, at + rank, int64_t(1), [](int64_t a, int64_t b) { return a * b; }); }
  int64_t lines() const { return at[rank - 1] ? count() / at[rank - 1] : 0; }
  // Where line `line` of the indices begins, the coordinate along the axis left out.
  int64_t start(int64_t line) const {
    int64_t base = 0;
    for (int k = rank - 2; k >= 0; k--) {
      if (k != axis) base += line % at[k] * strides[k];
      line /= at[k];
    }
    return base;
  }
  CudaElements there(ScatterJoin join, const void* x, const void* index, const void* updates, void* out) const {
    CudaElements p = {rank, static_cast<int32_t>(axis), {}, {}, static_cast<int32_t>(bytes), wide, join, x, index, updates, out};
    std::copy(dims, dims + rank, p.dims);
    std::copy(at, at + rank, p.at);
    return p;
  }
  const char* lacking() const { return (bytes & (bytes - 1)) == 0 ? nullptr : "has elements of an odd size"; }
  bool read(PlanReader& r) {
    const std::vector<int64_t> d = r.list(kRank), i = r.list(kRank);
    rank = static_cast<int>(d.size());
    if (!r.ok() || !r.require(rank > 0 && i.size() == d.size(), "ranks that differ")) return false;
    axis = r.within(0, rank - 1);
    bytes = r.within(1, 8);
    wide = r.within(0, 1) != 0;
    int64_t all = 1, some = 1;
    for (int k = rank - 1; k >= 0; k--) {
      dims[k] = d[static_cast<size_t>(k)];
      at[k] = i[static_cast<size_t>(k)];
      strides[k] = all;
      all = plan_product({all, dims[k]});
      some = plan_product({some, at[k]});
      if (!r.require(all >= 0 && some >= 0 && (k == axis || at[k] <= dims[k]), "indices beyond the data")) return false;
    }
    return r.ok();
  }
};

struct GatherElements final : Step {
  Elements e;
  Operand x, index, out;
  WhittleStatus run(const RunContext& c) const override {
    const uint8_t* from = c.at<const uint8_t>(x);
    const void* picks = c.at<const void>(index);
    uint8_t* to = c.at<uint8_t>(out);
    const int64_t length = e.at[e.rank - 1], along = e.strides[e.axis], own = e.axis == e.rank - 1 ? 0 : 1;
    std::atomic<bool> bad{false};
    parallel_for(e.lines(), std::max<int64_t>(1, kPiece / (length + 1)), c.threads, [&](int64_t b, int64_t n) {
      for (int64_t line = b; line < n; line++) {
        const int64_t base = e.start(line);
        for (int64_t j = 0; j < length; j++) {
          const int64_t i = line * length + j, p = settled(index_at(picks, e.wide, i), e.dims[e.axis]);
          if (p < 0) return bad.store(true);
          const uint8_t* place = from + (base + p * along + j * own) * e.bytes;
          if (e.bytes == 4) memcpy(to + 4 * i, place, 4);
          else if (e.bytes == 8) memcpy(to + 8 * i, place, 8);
          else memcpy(to + e.bytes * i, place, static_cast<size_t>(e.bytes));
        }
      }
    });
    return bad ? WHITTLE_RANGE : WHITTLE_OK;
  }
  const char* lacking() const override { return e.lacking(); }
  void queue(const CudaNet& net, CudaTurn* turn, const RunContext& c) const override {
    net.gather_elements(turn, e.there(kScatterPut, c.at<const void>(x), c.at<const void>(index), nullptr, c.at<void>(out)));
  }
};

struct ScatterElements final : Step {
  Elements e;
  ScatterJoin join;
  Operand x, index, updates, out;
  WhittleStatus run(const RunContext& c) const override {
    const void* picks = c.at<const void>(index);
    const uint8_t* from = c.at<const uint8_t>(updates);
    uint8_t* to = c.at<uint8_t>(out);
    memcpy(to, c.at<const uint8_t>(x), static_cast<size_t>(e.size() * e.bytes));
    const int64_t length = e.at[e.rank - 1], along = e.strides[e.axis], own = e.axis == e.rank - 1 ? 0 : 1;
    for (int64_t line = 0; line < e.lines(); line++) {
      const int64_t base = e.start(line);
      for (int64_t j = 0; j < length; j++) {
        const int64_t i = line * length + j, p = settled(index_at(picks, e.wide, i), e.dims[e.axis]);
        if (p < 0) return WHITTLE_RANGE;
        const int64_t at = base + p * along + j * own;
        if (join == kScatterPut) memcpy(to + at * e.bytes, from + i * e.bytes, static_cast<size_t>(e.bytes));
        else reinterpret_cast<float*>(to)[at] = joined(join, reinterpret_cast<float*>(to)[at], reinterpret_cast<const float*>(from)[i]);
      }
    }
    return WHITTLE_OK;
  }
  const char* lacking() const override { return e.lacking(); }
  void queue(const CudaNet& net, CudaTurn* turn, const RunContext& c) const override {
    net.scatter_elements(turn, e.there(join, c.at<const void>(x), c.at<const void>(index), c.at<const void>(updates), c.at<void>(out)));
  }
};

// Slices of `bytes`, each named by `depth` coordinates.
struct Slices {
  int64_t rows, depth, bytes;
  int64_t dims[kRank];
  bool wide;
  // In bytes, or -1.
  int64_t place(const void* picks, int64_t row) const {
    int64_t at = 0;
    for (int64_t k = 0; k < depth; k++) {
      const int64_t p = settled(index_at(picks, wide, row * depth + k), dims[k]);
      if (p < 0) return -1;
      at = at * dims[k] + p;
    }
    return at * bytes;
  }
  int64_t whole() const {
    int64_t n = bytes;
    for (int64_t k = 0; k < depth; k++) n = plan_product({n, dims[k]});
    return n;
  }
  CudaSlices there(int64_t each, ScatterJoin join, const void* x, const void* index, const void* updates, void* out) const {
    CudaSlices p = {rows, depth, bytes, {}, each, wide, join, x, index, updates, out};
    std::copy(dims, dims + depth, p.dims);
    return p;
  }
  bool read(PlanReader& r) {
    rows = r.size();
    const std::vector<int64_t> d = r.list(kRank);
    depth = static_cast<int64_t>(d.size());
    std::copy(d.begin(), d.end(), dims);
    bytes = r.size();
    wide = r.within(0, 1) != 0;
    return r.ok() && r.require(whole() >= 0 && plan_product({rows, depth, 8}) >= 0 && plan_product({rows, bytes}) >= 0, "sizes too large");
  }
};

struct GatherNd final : Step {
  Slices s;
  int64_t batches;
  Operand x, index, out;
  WhittleStatus run(const RunContext& c) const override {
    const void* picks = c.at<const void>(index);
    const int64_t each = batches ? s.rows / batches : 0, whole = s.whole();
    std::atomic<bool> bad{false};
    parallel_for(s.rows, std::max<int64_t>(1, kPiece / (s.bytes + 1)), c.threads, [&](int64_t b, int64_t n) {
      for (int64_t row = b; row < n; row++) {
        const int64_t at = s.place(picks, row);
        if (at < 0) return bad.store(true);
        memcpy(c.at<uint8_t>(out) + row * s.bytes, c.at<const uint8_t>(x) + row / each * whole + at, static_cast<size_t>(s.bytes));
      }
    });
    return bad ? WHITTLE_RANGE : WHITTLE_OK;
  }
  const char* lacking() const override { return nullptr; }
  void queue(const CudaNet& net, CudaTurn* turn, const RunContext& c) const override {
    net.gather_slices(turn, s.there(batches ? s.rows / batches : 0, kScatterPut, c.at<const void>(x), c.at<const void>(index), nullptr, c.at<void>(out)));
  }
};

struct ScatterNd final : Step {
  Slices s;
  ScatterJoin join;
  Operand x, index, updates, out;
  WhittleStatus run(const RunContext& c) const override {
    const void* picks = c.at<const void>(index);
    const uint8_t* from = c.at<const uint8_t>(updates);
    uint8_t* to = c.at<uint8_t>(out);
    memcpy(to, c.at<const uint8_t>(x), static_cast<size_t>(s.whole()));
    for (int64_t row = 0; row < s.rows; row++) {
      const int64_t at = s.place(picks, row);
      if (at < 0) return WHITTLE_RANGE;
      if (join == kScatterPut) {
        memcpy(to + at, from + row * s.bytes, static_cast<size_t>(s.bytes));
        continue;
      }
      float* a = reinterpret_cast<float*>(to + at);
      const float* b = reinterpret_cast<const float*>(from + row * s.bytes);
      for (int64_t i = 0; i < s.bytes / 4; i++) a[i] = joined(join, a[i], b[i]);
    }
    return WHITTLE_OK;
  }
  const char* lacking() const override { return nullptr; }
  void queue(const CudaNet& net, CudaTurn* turn, const RunContext& c) const override {
    net.scatter_slices(turn, s.there(0, join, c.at<const void>(x), c.at<const void>(index), c.at<const void>(updates), c.at<void>(out)));
  }
};

template <class T>
bool better(T a, T b, bool largest) {
  return largest ? a > b : a < b;
}
// NaN is worse than any number.
template <>
bool better<float>(float a, float b, bool largest) {
  if (a != a || b != b) return a == a && b != b;
  return largest ? a > b : a < b;
}

// The k best of each line, best first, the earlier of equals first.
struct TopK final : Step {
  int64_t outer, n, inner, k;
  int type;  // 0 float32, 1 int64, 2 int32
  bool largest;
  Operand x, values, index;

  template <class T>
  bool line(const RunContext& c, int64_t i) const {
    static thread_local Scratch scratch;
    uint8_t* spare = static_cast<uint8_t*>(scratch.take(n * 12 + 64));
    if (!spare) return false;
    T* all = reinterpret_cast<T*>(spare);
    int32_t* order = reinterpret_cast<int32_t*>(spare + n * 8);
    const T* from = c.at<const T>(x) + i / inner * n * inner + i % inner;
    for (int64_t j = 0; j < n; j++) {
      all[j] = from[j * inner];
      order[j] = static_cast<int32_t>(j);
    }
    const bool most = largest;
    std::partial_sort(order, order + k, order + n, [all, most](int32_t a, int32_t b) {
      if (better<T>(all[a], all[b], most)) return true;
      return !better<T>(all[b], all[a], most) && a < b;
    });
    const int64_t to = i / inner * k * inner + i % inner;
    for (int64_t j = 0; j < k; j++) {
      c.at<T>(values)[to + j * inner] = all[order[j]];
      c.at<int64_t>(index)[to + j * inner] = order[j];
    }
    return true;
  }

  WhittleStatus run(const RunContext& c) const override {
    std::atomic<bool> short_of{false};
    parallel_for(outer * inner, std::max<int64_t>(1, kPiece / (n + 1)), c.threads, [&](int64_t b, int64_t e) {
      for (int64_t i = b; i < e; i++) {
        const bool done = type == 0 ? line<float>(c, i) : type == 1 ? line<int64_t>(c, i) : line<int32_t>(c, i);
        if (!done) return short_of.store(true);
      }
    });
    return short_of ? WHITTLE_OUT_OF_MEMORY : WHITTLE_OK;
  }
  const char* lacking() const override { return nullptr; }
  void queue(const CudaNet& net, CudaTurn* turn, const RunContext& c) const override {
    net.top_k(turn, {outer, n, inner, k, type, largest, c.at<const void>(x), c.at<void>(values), c.at<int64_t>(index)});
  }
};

}  // namespace

// dims, dims of the indices, axis, bytes of an element, whether indices are int64 | x, index, out
Step* make_gather_elements(PlanReader& r) {
  auto s = std::make_unique<GatherElements>();
  if (!s->e.read(r)) return nullptr;
  s->x = r.operand(plan_product({s->e.size(), s->e.bytes}));
  s->index = r.operand(plan_product({s->e.count(), s->e.wide ? 8 : 4}));
  s->out = r.operand(plan_product({s->e.count(), s->e.bytes}));
  return s.release();
}

// as gather_elements | how they join (of float32, unless they replace) | x, index, updates, out
Step* make_scatter_elements(PlanReader& r) {
  auto s = std::make_unique<ScatterElements>();
  if (!s->e.read(r)) return nullptr;
  s->join = static_cast<ScatterJoin>(r.within(0, kScatterJoins - 1));
  r.require(s->join == kScatterPut || s->e.bytes == 4, "sums of other than float32");
  s->x = r.operand(plan_product({s->e.size(), s->e.bytes}));
  s->index = r.operand(plan_product({s->e.count(), s->e.wide ? 8 : 4}));
  s->updates = r.operand(plan_product({s->e.count(), s->e.bytes}));
  s->out = r.operand(plan_product({s->e.size(), s->e.bytes}));
  return s.release();
}

// rows, sizes of the axes that they name, bytes of a slice, whether indices are int64 | batches | x, index, out
Step* make_gather_nd(PlanReader& r) {
  auto s = std::make_unique<GatherNd>();
  if (!s->s.read(r)) return nullptr;
  s->batches = r.size();
  if (!r.require(s->batches > 0 ? s->s.rows % s->batches == 0 : s->s.rows == 0, "rows that do not fill batches")) return nullptr;
  s->x = r.operand(plan_product({s->batches, s->s.whole()}));
  s->index = r.operand(plan_product({s->s.rows, s->s.depth, s->s.wide ? 8 : 4}));
  s->out = r.operand(plan_product({s->s.rows, s->s.bytes}));
  return s.release();
}

// as gather_nd | how they join | x, index, updates, out
Step* make_scatter_nd(PlanReader& r) {
  auto s = std::make_unique<ScatterNd>();
  if (!s->s.read(r)) return nullptr;
  s->join = static_cast<ScatterJoin>(r.within(0, kScatterJoins - 1));
  r.require(s->join == kScatterPut || s->s.bytes % 4 == 0, "sums of other than float32");
  s->x = r.operand(s->s.whole());
  s->index = r.operand(plan_product({s->s.rows, s->s.depth, s->s.wide ? 8 : 4}));
  s->updates = r.operand(plan_product({s->s.rows, s->s.bytes}));
  s->out = r.operand(s->s.whole());
  return s.release();
}

// outer, n, inner, k, largest, type (0 float32, 1 int64, 2 int32) | x, values, index
Step* make_top_k(PlanReader& r) {
  auto s = std::make_unique<TopK>();
  s->outer = r.size();
  s->n = r.within(0, INT32_MAX);
  s->inner = r.size();
  s->k = r.within(0, s->n);
  s->largest = r.within(0, 1) != 0;
  s->type = static_cast<int>(r.within(0, 2));
  const int64_t bytes = s->type == 1 ? 8 : 4;
  s->x = r.operand(plan_product({s->outer, s->n, s->inner, bytes}));
  s->values = r.operand(plan_product({s->outer, s->k, s->inner, bytes}));
  s->index = r.operand(plan_product({s->outer, s->k, s->inner, 8}));
  return s.release();
}

}  // namespace whittle
