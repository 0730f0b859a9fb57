// The select kernels that need nothing of an ISA but its arithmetic, once, over the operations O; each ISA's file
// includes this and adds what its shuffles and masks do better (scans, runs of 2, 4 and 8).
// Sums: eight accumulators of doubles. N:M for any m: one run a lane, each member's rank counted against the others on
// integer keys in the order of the floats, where "greater or equal" is "greater" than the key less one.
#pragma once
#include <string.h>

#include "cpu/select/one.h"

namespace whittle {
namespace {

template <class O>
struct Selector {
  typedef typename O::F F;
  typedef typename O::D D;
  typedef typename O::I I;
  static constexpr int kWidth = O::kWidth, kDoubles = O::kWidth / 2;

  template <int kNorm>
  static inline F score(F x, F g) {
    switch (kNorm) {
      case kSelectSum: return x;
      case kSelectSquare: return O::mul(x, x);
      case kSelectSensitivity: return O::abs(O::mul(g, x));
      case kSelectTaylor: {
        const F p = O::mul(g, x);
        return O::mul(p, p);
      }
      default: return O::abs(x);
    }
  }

  template <int kNorm>
  static int scores_of(const float* x, const float* g, int64_t n, float* out) {
    const bool grad = select_uses_grad(kNorm);
    typename O::Bad bad = O::good();
    int64_t i = 0;
    for (; i + kWidth <= n; i += kWidth) {
      const F s = score<kNorm>(O::load(x + i), grad ? O::load(g + i) : O::set(0));
      O::watch(&bad, s);
      O::store(out + i, s);
    }
    return O::is_bad(bad) | select_scores_tail(kNorm, x, g, i, n, out);
  }
  static int scores(int norm, const float* x, const float* g, int64_t n, float* out) {
    switch (norm) {
      case kSelectSum: return scores_of<kSelectSum>(x, g, n, out);
      case kSelectSquare: return scores_of<kSelectSquare>(x, g, n, out);
      case kSelectSensitivity: return scores_of<kSelectSensitivity>(x, g, n, out);
      case kSelectTaylor: return scores_of<kSelectTaylor>(x, g, n, out);
      default: return scores_of<kSelectL1>(x, g, n, out);
    }
  }

  // acc + term, or the maximum, NaN on top. The products are exact.
  template <int kNorm>
  static inline D joined(D acc, D x, D g) {
    switch (kNorm) {
      case kSelectSum: return O::dadd(acc, x);
      case kSelectL2:
      case kSelectSquare: return O::dfma(x, x, acc);
      case kSelectSensitivity: return O::dadd(acc, O::dabs(O::dmul(g, x)));
      case kSelectTaylor: return O::dfma(g, x, acc);
      case kSelectMax: return O::dmax(acc, O::dabs(x));
      default: return O::dadd(acc, O::dabs(x));
    }
  }

  template <int kNorm>
  static double reduce_of(const float* x, const float* g, int64_t n) {
    const bool grad = select_uses_grad(kNorm);
    const D zero = O::dset(0);
    D a[8] = {zero, zero, zero, zero, zero, zero, zero, zero};
    int64_t i = 0;
    for (; i + 8 * kDoubles <= n; i += 8 * kDoubles)
      for (int j = 0; j < 8; j++)
        a[j] = joined<kNorm>(a[j], O::wide(x + i + kDoubles * j), grad ? O::wide(g + i + kDoubles * j) : zero);
    for (; i + kDoubles <= n; i += kDoubles) a[0] = joined<kNorm>(a[0], O::wide(x + i), grad ? O::wide(g + i) : zero);
    double lanes[kDoubles], sum = 0;
    for (int j = 0; j < 8; j++) {
      O::dstore(lanes, a[j]);
      for (int l = 0; l < kDoubles; l++) sum = select_join(kNorm, sum, lanes[l]);
    }
    return select_reduce_tail(kNorm, x, g, i, n, sum);
  }
  static double reduce(int norm, const float* x, const float* g, int64_t n) {
    switch (norm) {
      case kSelectSum: return reduce_of<kSelectSum>(x, g, n);
      case kSelectL1: return reduce_of<kSelectL1>(x, g, n);
      case kSelectMax: return reduce_of<kSelectMax>(x, g, n);
      case kSelectSensitivity: return reduce_of<kSelectSensitivity>(x, g, n);
      case kSelectTaylor: return reduce_of<kSelectTaylor>(x, g, n);
      default: return reduce_of<kSelectSquare>(x, g, n);
    }
  }

  template <int kNorm>
  static void columns_of(const float* x, const float* g, int64_t n, double* acc) {
    const bool grad = select_uses_grad(kNorm);
    int64_t i = 0;
    for (; i + kDoubles <= n; i += kDoubles)
      O::dstore(acc + i, joined<kNorm>(O::dload(acc + i), O::wide(x + i), grad ? O::wide(g + i) : O::dset(0)));
    select_columns_tail(kNorm, x, g, i, n, acc);
  }
  static void columns(int norm, const float* x, const float* g, int64_t n, double* acc) {
    switch (norm) {
      case kSelectSum: return columns_of<kSelectSum>(x, g, n, acc);
      case kSelectL1: return columns_of<kSelectL1>(x, g, n, acc);
      case kSelectMax: return columns_of<kSelectMax>(x, g, n, acc);
      case kSelectSensitivity: return columns_of<kSelectSensitivity>(x, g, n, acc);
      case kSelectTaylor: return columns_of<kSelectTaylor>(x, g, n, acc);
      default: return columns_of<kSelectSquare>(x, g, n, acc);
    }
  }

  static double distance(const float* a, const float* b, int64_t n) {
    D s[4] = {O::dset(0), O::dset(0), O::dset(0), O::dset(0)};
    int64_t i = 0;
    for (; i + 4 * kDoubles <= n; i += 4 * kDoubles)
      for (int j = 0; j < 4; j++) {
        const D d = O::dsub(O::wide(a + i + kDoubles * j), O::wide(b + i + kDoubles * j));
        s[j] = O::dfma(d, d, s[j]);
      }
    double lanes[kDoubles], sum = 0;
    O::dstore(lanes, O::dadd(O::dadd(s[0], s[1]), O::dadd(s[2], s[3])));
    for (int l = 0; l < kDoubles; l++) sum += lanes[l];
    return select_distance_tail(a, b, i, n, sum);
  }

  // Four tables of 16-bit counters, by position: equal neighbours do not wait for each other's store.
  static int histogram(const float* x, int64_t n, uint32_t base, int shift, uint32_t* counts) {
    constexpr int kTable = kSelectBins + 32;  // the last entries take what is out of range
    constexpr int64_t kMost = 65520;          // the counters' limit, a multiple of every width
    uint16_t tables[4][kTable];
    const I offset = O::iset(static_cast<int32_t>(0x80000000u - base)), last = O::iset(kSelectBins);
    const typename O::Shift by = O::shift(shift);
    typename O::Bad bad = O::good();
    int nan = 0;
    for (int64_t from = 0; from < n; from += 4 * kMost) {
      const int64_t end = n - from < 4 * kMost ? n : from + 4 * kMost;
      memset(tables, 0, sizeof tables);
      int64_t i = from;
      for (; i + kWidth <= end; i += kWidth) {
        const F v = O::load(x + i);
        O::watch(&bad, v);
        alignas(64) uint32_t b[kWidth];
        O::istore(reinterpret_cast<int32_t*>(b), O::least(O::right(O::iadd(O::keys(v), offset), by), last));
        for (int j = 0; j < kWidth; j += 4) {
          tables[0][b[j]]++;
          tables[1][b[j + 1]]++;
          tables[2][b[j + 2]]++;
          tables[3][b[j + 3]]++;
        }
      }
      for (; i < end; i++) {
        nan |= x[i] != x[i];
        const uint32_t bin = (select_key(x[i]) - base) >> shift;
        if (bin < static_cast<uint32_t>(kSelectBins)) tables[0][bin]++;
      }
      for (int b = 0; b < kSelectBins; b++)
        counts[b] += static_cast<uint32_t>(tables[0][b]) + tables[1][b] + tables[2][b] + tables[3][b];
    }
    return nan | O::is_bad(bad);
  }

  // m a multiple of 16, up to kSelectRun: each member is broadcast and compared with the whole run.
  static int broadcast(const float* x, int64_t groups, int keep, int m, uint8_t* mask) {
    static const int32_t lower[32] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    const I limit = O::iset(keep), one = O::iset(1);
    typename O::Bad bad = O::good();
    for (int64_t group = 0; group < groups; group++, x += m, mask += m) {
      alignas(64) int32_t keys[kSelectRun];
      for (int v = 0; v < m; v += kWidth) {
        const F f = O::load(x + v);
        O::watch(&bad, f);
        O::istore(keys + v, O::keys(f));
      }
      for (int v = 0; v < m; v += kWidth) {
        const I key = O::iload(keys + v), less = O::isub(key, one);
        I before = O::iset(0);
        for (int j = 0; j < v; j++) before = O::count(before, O::iset(keys[j]), less);
        for (int j = v; j < v + kWidth; j++)
          before = O::count(before, O::iset(keys[j]), O::isub(key, O::iload(lower + 15 - (j - v))));
        for (int j = v + kWidth; j < m; j++) before = O::count(before, O::iset(keys[j]), key);
        O::store_flags(mask + v, before, limit);
      }
    }
    return O::is_bad(bad);
  }

  // Any m up to kSelectRun: kWidth runs side by side.
  static int abreast(const float* x, int64_t groups, int keep, int m, uint8_t* mask) {
    alignas(64) int32_t keys[kSelectRun * kWidth];
    alignas(64) float turned[kSelectRun * kWidth];
    uint8_t flags[kSelectRun * kWidth];
    const I limit = O::iset(keep), one = O::iset(1);
    typename O::Bad bad = O::good();
    int64_t group = 0;
    for (; group + kWidth <= groups; group += kWidth, x += kWidth * m, mask += kWidth * m) {
      for (int lane = 0; lane < kWidth; lane++)
        for (int j = 0; j < m; j++) turned[j * kWidth + lane] = x[lane * m + j];
      for (int j = 0; j < m; j++) {
        const F f = O::load(turned + j * kWidth);
        O::watch(&bad, f);
        O::istore(keys + j * kWidth, O::keys(f));
      }
      for (int i = 0; i < m; i++) {
        const I key = O::iload(keys + i * kWidth), less = O::isub(key, one);
        I before = O::iset(0);
        for (int j = 0; j < i; j++) before = O::count(before, O::iload(keys + j * kWidth), less);
        for (int j = i + 1; j < m; j++) before = O::count(before, O::iload(keys + j * kWidth), key);
        O::store_flags(flags + i * kWidth, before, limit);
      }
      for (int lane = 0; lane < kWidth; lane++)
        for (int j = 0; j < m; j++) mask[lane * m + j] = flags[j * kWidth + lane];
    }
    int nan = O::is_bad(bad);
    for (; group < groups; group++, x += m, mask += m) nan |= select_run(x, keep, m, mask);
    return nan;
  }

  static void install(SelectKernels* table) {
    table->scores = scores;
    table->reduce = reduce;
    table->columns = columns;
    table->distance = distance;
    table->histogram = histogram;
  }
};

}  // namespace
}  // namespace whittle
