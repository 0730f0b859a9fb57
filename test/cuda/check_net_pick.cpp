// Steps that move elements by indices, sum along an axis, sort, and the arithmetic of every type.
#include <math.h>

#include <algorithm>
#include <numeric>

#include "check_net.h"

namespace whittle {
namespace {

float joined(ScatterJoin join, float a, float b) {
  switch (join) {
    case kScatterAdd: return a + b;
    case kScatterMul: return a * b;
    case kScatterMax: return std::max(a, b);
    case kScatterMin: return std::min(a, b);
    default: return b;
  }
}

std::vector<int64_t> indices(Rng& rng, int64_t n, int64_t size) {
  std::vector<int64_t> out(static_cast<size_t>(n));
  for (int64_t& i : out) i = rng.between(-size, size - 1);
  return out;
}

void elements(Check& c, Rng& rng) {
  // Dims of the data, of the indices, the axis.
  const struct {
    std::vector<int64_t> dims, at;
    int axis;
  } shapes[] = {{{1}, {1}, 0}, {{7}, {300}, 0}, {{5, 9}, {3, 20}, 1}, {{5, 9}, {40, 7}, 0}, {{3, 4, 5}, {2, 9, 5}, 1}, {{2, 3, 4}, {2, 3, 4}, 2}, {{4, 3}, {0, 3}, 0}};
  for (const auto& s : shapes)
    for (const bool wide : {true, false})
      for (int join = 0; join < kScatterJoins; join++) {
        CudaElements p = {};
        p.rank = static_cast<int32_t>(s.dims.size());
        p.axis = s.axis;
        std::copy(s.dims.begin(), s.dims.end(), p.dims);
        std::copy(s.at.begin(), s.at.end(), p.at);
        const auto size = [](const std::vector<int64_t>& d) { return std::accumulate(d.begin(), d.end(), int64_t(1), [](int64_t a, int64_t b) { return a * b; }); };
        const int64_t whole = size(s.dims), count = size(s.at);
        const std::vector<int64_t> index = indices(rng, count, s.dims[size_t(s.axis)]);
        const std::vector<int32_t> narrow(index.begin(), index.end());
        const std::vector<float> x = rng.normals(whole), updates = rng.normals(count);
        const Device<float> dx(x), du(updates), picked(count), scattered(whole);
        const Device<int64_t> di(index);
        const Device<int32_t> dn(narrow);
        p.bytes = 4;
        p.wide = wide;
        p.x = dx;
        p.index = wide ? static_cast<const void*>(di) : dn;
        p.updates = du;
        p.join = static_cast<ScatterJoin>(join);
        const WhittleStatus status = in_turn(c, [&](const CudaNet& net, CudaTurn* t) {
          p.out = picked;
          net.gather_elements(t, p);
          p.out = scattered;
          net.scatter_elements(t, p);
        });
        std::vector<float> taken(static_cast<size_t>(count)), put = x;
        for (int64_t i = 0; i < count; i++) {
          int64_t rest = i, at = 0, stride = 1;
          for (int k = p.rank - 1; k >= 0; k--) {
            int64_t own = rest % p.at[k];
            rest /= p.at[k];
            if (k == p.axis) own = index[size_t(i)] < 0 ? index[size_t(i)] + p.dims[k] : index[size_t(i)];
            at += own * stride;
            stride *= p.dims[k];
          }
          taken[size_t(i)] = x[size_t(at)];
          put[size_t(at)] = joined(p.join, put[size_t(at)], updates[size_t(i)]);
        }
        c.expect(status == WHITTLE_OK && differs(picked.host(), taken) < 0, "gathered, rank %d axis %d", p.rank, p.axis);
        c.expect(differs(scattered.host(), put) < 0, "scattered, rank %d axis %d join %d: at %d", p.rank, p.axis, join, int(differs(scattered.host(), put)));
      }
  // Elements of other sizes, and an index that is none.
  for (const int bytes : {1, 2, 8}) {
    std::vector<uint8_t> x(size_t(6 * bytes));
    for (uint8_t& v : x) v = static_cast<uint8_t>(rng.next());
    const std::vector<int64_t> index = {5, -6, 2, 2};
    const Device<uint8_t> dx(x), out(4 * bytes);
    const Device<int64_t> di(index);
    CudaElements p = {1, 0, {6}, {4}, bytes, true, kScatterPut, dx, di, nullptr, out};
    std::vector<uint8_t> want;
    for (const int64_t i : {5, 0, 2, 2}) want.insert(want.end(), x.begin() + i * bytes, x.begin() + (i + 1) * bytes);
    c.expect(in_turn(c, [&](const CudaNet& net, CudaTurn* t) { net.gather_elements(t, p); }) == WHITTLE_OK && differs(out.host(), want) < 0, "%d bytes", bytes);
    p.dims[0] = 5;
    c.expect(in_turn(c, [&](const CudaNet& net, CudaTurn* t) { net.gather_elements(t, p); }) == WHITTLE_RANGE, "an index too far");
  }
}

void slices(Check& c, Rng& rng) {
  for (const auto& [rows, depth, bytes, each] : {std::tuple<int64_t, int64_t, int64_t, int64_t>(1, 1, 4, 1), {9, 2, 12, 3}, {300, 1, 40, 100}, {40, 3, 4, 40}, {6, 2, 3, 2}, {0, 1, 8, 1}})
    for (int join = 0; join < (bytes % 4 ? 1 : kScatterJoins); join++) {
      const int64_t all[] = {5, 3, 2}, batches = rows ? rows / each : 0;
      int64_t count = 1;
      CudaSlices p = {};
      p.rows = rows;
      p.depth = depth;
      p.bytes = bytes;
      p.each = each;
      p.wide = true;
      p.join = static_cast<ScatterJoin>(join);
      for (int k = 0; k < depth; k++) count *= p.dims[k] = all[k];
      std::vector<int64_t> index(static_cast<size_t>(rows * depth)), place(static_cast<size_t>(rows));
      for (int64_t r = 0; r < rows; r++)
        for (int64_t k = 0; k < depth; k++) {
          const int64_t i = rng.below(p.dims[k]);
          place[size_t(r)] = place[size_t(r)] * p.dims[k] + i;
          index[size_t(r * depth + k)] = rng.below(2) ? i : i - p.dims[k];
        }
      // Bytes of floats, so that every join is one of numbers.
      const int64_t words = (bytes + 3) / 4;
      const auto bytes_of = [&](int64_t n) {
        const std::vector<float> f = rng.normals(n * words + 1);
        const uint8_t* from = reinterpret_cast<const uint8_t*>(f.data());
        return std::vector<uint8_t>(from, from + n * bytes);
      };
      const std::vector<uint8_t> x = bytes_of(std::max<int64_t>(batches, 1) * count), updates = bytes_of(rows);
      const Device<uint8_t> dx(x), du(updates), picked(rows * bytes), scattered(count * bytes);
      const Device<int64_t> di(index);
      p.x = dx;
      p.index = di;
      p.updates = du;
      const WhittleStatus status = in_turn(c, [&](const CudaNet& net, CudaTurn* t) {
        p.out = picked;
        net.gather_slices(t, p);
        p.out = scattered;
        net.scatter_slices(t, p);
      });
      std::vector<uint8_t> taken(static_cast<size_t>(rows * bytes)), put(x.begin(), x.begin() + count * bytes);
      for (int64_t r = 0; r < rows; r++) {
        memcpy(taken.data() + r * bytes, x.data() + (r / each * count + place[size_t(r)]) * bytes, static_cast<size_t>(bytes));
        uint8_t* to = put.data() + place[size_t(r)] * bytes;
        const uint8_t* from = updates.data() + r * bytes;
        if (join == kScatterPut) memcpy(to, from, static_cast<size_t>(bytes));
        else
          for (int64_t i = 0; i < words; i++) reinterpret_cast<float*>(to)[i] = joined(p.join, reinterpret_cast<float*>(to)[i], reinterpret_cast<const float*>(from)[i]);
      }
      c.expect(status == WHITTLE_OK && differs(picked.host(), taken) < 0, "gathered, %d rows of %d bytes", int(rows), int(bytes));
      c.expect(differs(scattered.host(), put) < 0, "scattered, %d rows of %d bytes, join %d", int(rows), int(bytes), join);
    }
}

template <class T>
void best(Check& c, Rng& rng, int type, bool nan) {
  for (const auto& [outer, n, inner, k] : {std::tuple<int64_t, int64_t, int64_t, int64_t>(1, 1, 1, 1), {2, 300, 1, 7}, {3, 9, 4, 9}, {1, 257, 2, 5}, {2, 5, 3, 0}})
    for (const bool largest : {true, false}) {
      std::vector<T> x(static_cast<size_t>(outer * n * inner));
      for (T& v : x) v = nan && rng.below(8) == 0 ? static_cast<T>(NAN) : static_cast<T>(rng.between(-20, 20));
      const Device<T> dx(x), values(outer * k * inner);
      const Device<int64_t> places(outer * k * inner);
      const CudaTopK p = {outer, n, inner, k, type, largest, dx, values, places};
      c.expect(in_turn(c, [&](const CudaNet& net, CudaTurn* t) { net.top_k(t, p); }) == WHITTLE_OK, "status");
      const std::vector<T> got = values.host();
      const std::vector<int64_t> at = places.host();
      for (int64_t o = 0; o < outer; o++)
        for (int64_t i = 0; i < inner; i++) {
          std::vector<int64_t> order(static_cast<size_t>(n));
          std::iota(order.begin(), order.end(), 0);
          const auto value = [&](int64_t j) { return x[size_t((o * n + j) * inner + i)]; };
          std::stable_sort(order.begin(), order.end(), [&, largest = largest](int64_t a, int64_t b) {
            const T u = value(a), v = value(b);
            if (u != u || v != v) return u == u && v != v;
            return largest ? u > v : u < v;
          });
          for (int64_t r = 0; r < k; r++) {
            const size_t to = size_t((o * k + r) * inner + i);
            const T want = value(order[size_t(r)]);
            c.expect(at[to] == order[size_t(r)] && memcmp(&got[to], &want, sizeof(T)) == 0, "type %d, rank %d of %d: %d, want %d", type, int(r), int(n), int(at[to]), int(order[size_t(r)]));
          }
        }
    }
}

void sums(Check& c, Rng& rng) {
  for (const auto& [outer, n, inner] : {std::tuple<int64_t, int64_t, int64_t>(1, 1, 1), {3, 40, 1}, {2, 7, 300}, {2, 0, 3}})
    for (int way = 0; way < 4; way++) {
      const bool exclusive = way & 1, reverse = way & 2;
      const std::vector<float> x = rng.normals(outer * n * inner);
      const Device<float> dx(x), out(outer * n * inner);
      c.expect(in_turn(c, [&, outer = outer, n = n, inner = inner](const CudaNet& net, CudaTurn* t) { net.cumulate(t, outer, n, inner, exclusive, reverse, dx, out); }) == WHITTLE_OK, "status");
      std::vector<float> want(x.size());
      for (int64_t l = 0; l < outer * inner; l++) {
        float sum = 0;
        for (int64_t i = 0; i < n; i++) {
          const size_t at = size_t((l / inner * n + (reverse ? n - 1 - i : i)) * inner + l % inner);
          want[at] = exclusive ? sum : sum + x[at];
          sum += x[at];
        }
      }
      c.expect(differs(out.host(), want) < 0, "[%d %d %d] way %d", int(outer), int(n), int(inner), way);
    }
}

// Every operation on every type, with the numbers at the ends of ranges among the operands.
void typed(Check& c, Rng& rng) {
  for (int op = 0; op < kTypedOps; op++)
    for (int kind = 0; kind < static_cast<int>(ElementKind::count); kind++) {
      TypedProblem p = {};
      p.op = static_cast<TypedOp>(op);
      p.type = static_cast<ElementKind>(kind);
      p.to = static_cast<ElementKind>(rng.below(static_cast<int64_t>(ElementKind::count)));
      if (!typed_exists(p.op, p.type) || !cuda_typed_exists(p.op, p.type) || (p.op == kTyped_logical_not && p.type != ElementKind::boolean)) continue;
      const int64_t n = 203, bytes = element_bytes(p.type);
      p.rank = 1;
      p.dims[0] = n;
      for (auto& s : p.strides) s[0] = 1;
      std::vector<uint8_t> in[3];
      for (auto& x : in) {
        x.resize(size_t(n * 8));
        for (int64_t i = 0; i < n; i++) {
          const int64_t v = rng.below(4) ? rng.between(-9, 9) : static_cast<int64_t>(rng.next()) >> rng.below(56);
          const float f = rng.below(9) ? static_cast<float>(v) / 4 : rng.below(2) ? INFINITY : -0.0f;
          const double d = static_cast<double>(f);
          if (p.type == ElementKind::boolean) x[size_t(i)] = v & 1;
          else if (p.type == ElementKind::float32) memcpy(&x[size_t(4 * i)], &f, 4);
          else if (p.type == ElementKind::float64) memcpy(&x[size_t(8 * i)], &d, 8);
          else memcpy(&x[size_t(bytes * i)], &v, static_cast<size_t>(bytes));
        }
      }
      if (p.op == kTyped_where)
        for (uint8_t& v : in[0]) v &= 1;
      const Device<uint8_t> a(in[0]), b(in[1]), d(in[2]);
      const int64_t out_bytes = n * element_bytes(typed_result(p));
      const Device<uint8_t> out(out_bytes);
      std::vector<uint8_t> want(static_cast<size_t>(out_bytes));
      const void *there[] = {a, b, d}, *here[] = {in[0].data(), in[1].data(), in[2].data()};
      typed_run(p, here, want.data(), 1);
      c.expect(in_turn(c, [&](const CudaNet& net, CudaTurn* t) { net.typed(t, p, there, out); }) == WHITTLE_OK, "status");
      const std::vector<uint8_t> got = out.host();
      const bool real = p.type == ElementKind::float32 || p.type == ElementKind::float64;
      for (int64_t i = 0; i < n; i++) {
        const int64_t size = out_bytes / n;
        if (real && size == bytes) {  // of NaN the bits are nobody's
          const double u = size == 4 ? double(reinterpret_cast<const float*>(got.data())[i]) : reinterpret_cast<const double*>(got.data())[i];
          const double v = size == 4 ? double(reinterpret_cast<const float*>(want.data())[i]) : reinterpret_cast<const double*>(want.data())[i];
          if (u != u && v != v) continue;
        }
        if (!c.expect(memcmp(&got[size_t(i * size)], &want[size_t(i * size)], static_cast<size_t>(size)) == 0, "operation %d of type %d to %d at %d", op, kind, int(p.to), int(i))) return;
      }
    }
}

}  // namespace

void check_net_pick(Check& c) {
  c.row("net: elements gathered and scattered, meeting ones in their order", [&](Rng& rng) { elements(c, rng); });
  c.row("net: slices gathered and scattered", [&](Rng& rng) { slices(c, rng); });
  c.row("net: the k best of lines", [&](Rng& rng) {
    best<float>(c, rng, 0, true);
    best<int64_t>(c, rng, 1, false);
    best<int32_t>(c, rng, 2, false);
  });
  c.row("net: running sums, the CPU's bits", [&](Rng& rng) { sums(c, rng); });
  c.row("net: every operation on every type, the CPU's bits", [&](Rng& rng) { typed(c, rng); });
}

}  // namespace whittle
