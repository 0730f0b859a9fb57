// Lloyd's algorithm in one dimension, on sorted values.
#include <math.h>
#include <string.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <new>
#include <vector>

#include "core/codebook.h"
#include "core/threads.h"

namespace whittle {
namespace {

typedef std::unique_ptr<float[]> Floats;
typedef std::unique_ptr<double[]> Doubles;

uint64_t random64(uint64_t* state) {
  uint64_t z = *state += 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}
double random01(uint64_t* state) { return static_cast<double>(random64(state) >> 11) * 0x1p-53; }

uint32_t key_of(float x) {
  uint32_t u;
  x += 0.0f;  // -0 becomes +0
  memcpy(&u, &x, 4);
  return u ^ (static_cast<uint32_t>(-static_cast<int32_t>(u >> 31)) | 0x80000000u);
}
float value_of(uint32_t key) {
  const uint32_t u = key & 0x80000000u ? key ^ 0x80000000u : ~key;
  float x;
  memcpy(&x, &u, 4);
  return x;
}

constexpr int64_t kSmall = 2048;    // up to this: comparison sort
constexpr int64_t kSlices = 32;     // of the first pass, at most
constexpr int64_t kSlice = 8192;    // values of one, at least
constexpr int kBits = 11;           // of a digit
constexpr int64_t kBuckets = 1 << kBits;
constexpr int64_t kSpare = 1 << 18; // keys that one thread sorts by way of another place, in cache
constexpr int64_t kFew = 192;       // keys that are sorted by comparing: counting digits of fewer costs more

int bits_of(uint32_t range) {
  int bits = 0;
  while (bits < 32 && range >> bits) bits++;
  return bits;
}

// The floats that keys above `least` stand for, in their place.
void write_values(uint32_t* keys, int64_t n, uint32_t least) {
  for (int64_t i = 0; i < n; i++) {
    const float v = value_of(keys[i] + least);
    memcpy(keys + i, &v, 4);
  }
}

// Stable passes over the low `bits` bits, from the lowest; kSpare keys at most.
void sort_low_bits(uint32_t* keys, int64_t n, int bits, uint32_t* spare) {
  uint32_t *from = keys, *to = spare;
  for (int done = 0; done < bits; done += kBits) {
    const uint32_t mask = (1u << std::min(kBits, bits - done)) - 1;
    int32_t at[kBuckets];
    memset(at, 0, (mask + 1) * sizeof *at);
    for (int64_t i = 0; i < n; i++) at[from[i] >> done & mask]++;
    int32_t sum = 0;
    for (uint32_t d = 0; d <= mask; d++) {
      const int32_t count = at[d];
      at[d] = sum;
      sum += count;
    }
    for (int64_t i = 0; i < n; i++) to[at[from[i] >> done & mask]++] = from[i];
    std::swap(from, to);
  }
  if (from != keys) memcpy(keys, from, size_t(n) * sizeof *keys);
}

// Sorts keys that differ in their low `bits` bits only. Many are put into buckets by exchanging them (American flag sort: McIlroy,
// Bostic and McIlroy 1993), so that no second array of their length is held.
void sort_keys(uint32_t* keys, int64_t n, int bits, uint32_t* spare) {
  if (n < 2 || bits == 0) return;
  if (n <= kFew) {
    std::sort(keys, keys + n);
    return;
  }
  if (n <= kSpare) {
    sort_low_bits(keys, n, bits, spare);
    return;
  }
  const int shift = std::max(0, bits - kBits);
  const uint32_t mask = (1u << (bits - shift)) - 1;
  int64_t starts[kBuckets + 1] = {}, at[kBuckets];
  for (int64_t i = 0; i < n; i++) starts[(keys[i] >> shift & mask) + 1]++;
  for (int64_t d = 0; d < kBuckets; d++) {
    starts[d + 1] += starts[d];
    at[d] = starts[d];
  }
  for (int64_t d = 0; d < kBuckets; d++)
    while (at[d] < starts[d + 1]) {
      uint32_t key = keys[at[d]];
      for (int64_t to = key >> shift & mask; to != d; to = key >> shift & mask) std::swap(key, keys[at[to]++]);
      keys[at[d]++] = key;
    }
  for (int64_t d = 0; d < kBuckets; d++) sort_keys(keys + starts[d], starts[d + 1] - starts[d], shift, spare);
}

// Sums of consecutive values and of their squares, about `middle`: blocks of 64, 64 blocks, and so on. A range is added
// up from the parts inside it, so nothing cancels however small it is beside the rest.
class SumTree {
 public:
  bool build(const float* s, int64_t n, int threads) {
    s_ = s;
    n_ = n;
    double total = 0;
    Doubles first(new (std::nothrow) double[size_t(n / kFan + 1)]);
    if (!first) return false;
    parallel_for((n + kFan - 1) / kFan, 1024, threads, [&](int64_t b, int64_t e) {
      for (; b < e; b++) {
        double sum = 0;
        for (int64_t i = b * kFan; i < std::min(n, (b + 1) * kFan); i++) sum += s[i];
        first[size_t(b)] = sum;
      }
    });
    for (int64_t b = 0; b < (n + kFan - 1) / kFan; b++) total += first[size_t(b)];
    middle_ = total / static_cast<double>(n);
    int64_t count = n / kFan;  // whole blocks only
    for (int level = 0; count > 0 && level < kLevels; level++, count /= kFan) {
      sums_[level].reset(new (std::nothrow) double[size_t(2 * count)]);
      if (!sums_[level]) return false;
      double* to = sums_[level].get();
      const double* from = level > 0 ? sums_[level - 1].get() : nullptr;
      parallel_for(count, 1024, threads, [&](int64_t b, int64_t e) {
        for (; b < e; b++) {
          double one = 0, two = 0;
          for (int64_t i = b * kFan; i < (b + 1) * kFan; i++) {
            if (from) {
              one += from[2 * i];
              two += from[2 * i + 1];
            } else {
              const double d = s[i] - middle_;
              one += d;
              two += d * d;
            }
          }
          to[2 * b] = one;
          to[2 * b + 1] = two;
        }
      });
      levels_ = level + 1;
    }
    return true;
  }

  double middle() const { return middle_; }

  // Sums of d = s - middle and of d * d over [b, e).
  void range(int64_t b, int64_t e, double* one, double* two) const {
    double s1 = 0, s2 = 0;
    climb(-1, b, e, &s1, &s2);
    *one = s1;
    *two = s2;
  }

 private:
  static constexpr int64_t kFan = 64;
  static constexpr int kLevels = 6;

  void leaf(int level, int64_t i, double* one, double* two) const {
    if (level < 0) {
      const double d = s_[i] - middle_;
      *one += d;
      *two += d * d;
    } else {
      *one += sums_[level][size_t(2 * i)];
      *two += sums_[level][size_t(2 * i + 1)];
    }
  }
  void climb(int level, int64_t b, int64_t e, double* one, double* two) const {
    const int64_t up = (b + kFan - 1) / kFan, down = e / kFan;
    if (level + 1 < levels_ && up < down) {
      for (; b < up * kFan; b++) leaf(level, b, one, two);
      climb(level + 1, up, down, one, two);
      b = down * kFan;
    }
    for (; b < e; b++) leaf(level, b, one, two);
  }

  const float* s_ = nullptr;
  int64_t n_ = 0;
  double middle_ = 0;
  int levels_ = 0;
  Doubles sums_[kLevels];
};

class Lloyd {
 public:
  Lloyd(const float* s, int64_t n, const SumTree& tree, int64_t k) : s_(s), n_(n), tree_(tree), k_(k), c_(size_t(k)), p_(size_t(k) + 1) {}

  const std::vector<double>& centroids() const { return c_; }
  int64_t iterations() const { return iterations_; }
  bool converged() const { return converged_; }

  void run(const Kmeans& p, uint64_t* random) {
    start(p, random);
    const double limit = p.tolerance * (static_cast<double>(s_[n_ - 1]) - s_[0]);
    for (iterations_ = 0; iterations_ < p.iterations && !converged_; iterations_++) {
      const double moved = step();
      converged_ = moved <= limit;
    }
  }

  // sum (s - centroid)^2 over the partition that belongs to the centroids; good to about 1e-9 of the data's variance.
  double cost() {
    partition();
    double sum = 0;
    for (int64_t j = 0; j < k_; j++) sum += cost_of(p_[size_t(j)], p_[size_t(j) + 1], c_[size_t(j)]);
    return sum;
  }

 private:
  double cost_of(int64_t b, int64_t e, double c) const {
    double one, two;
    tree_.range(b, e, &one, &two);
    const double d = c - tree_.middle(), sum = two - 2 * d * one + d * d * static_cast<double>(e - b);
    return sum > 0 ? sum : 0;
  }

  // First place in [from, n) whose value is beyond x.
  int64_t beyond(int64_t from, double x) const {
    return std::upper_bound(s_ + from, s_ + n_, x, [](double v, float f) { return v < static_cast<double>(f); }) - s_;
  }

  void partition() {
    p_[0] = 0;
    for (int64_t j = 1; j < k_; j++) p_[size_t(j)] = beyond(p_[size_t(j) - 1], (c_[size_t(j) - 1] + c_[size_t(j)]) / 2);
    p_[size_t(k_)] = n_;
  }

  // Of cluster j the value farthest from the centroid, an end of the range; false where all lie on it.
  bool farthest(int64_t j, double* distance, double* value) const {
    const int64_t b = p_[size_t(j)], e = p_[size_t(j) + 1];
    if (b == e) return false;
    const double c = c_[size_t(j)], low = fabs(s_[b] - c), high = fabs(s_[e - 1] - c);
    *distance = std::max(low, high);
    *value = low >= high ? s_[b] : s_[e - 1];
    return *distance > 0;
  }

  // Centroids that serve nobody move to the values that are farthest from theirs, one a cluster, until none is left.
  // Each move lowers the cost, so this ends: there are as many distinct values as centroids.
  void fill_empty() {
    struct Candidate {
      double distance, value;
    };
    std::vector<Candidate> candidates;
    for (;;) {
      int64_t empty = 0;
      for (int64_t j = 0; j < k_; j++) empty += p_[size_t(j)] == p_[size_t(j) + 1];
      if (empty == 0) return;
      candidates.clear();
      for (int64_t j = 0; j < k_; j++) {
        Candidate one;
        if (farthest(j, &one.distance, &one.value)) candidates.push_back(one);
      }
      std::stable_sort(candidates.begin(), candidates.end(), [](const Candidate& a, const Candidate& b) { return a.distance > b.distance; });
      size_t next = 0;
      for (int64_t j = 0; j < k_ && next < candidates.size(); j++)
        if (p_[size_t(j)] == p_[size_t(j) + 1]) c_[size_t(j)] = candidates[next++].value;
      std::sort(c_.begin(), c_.end());
      partition();
    }
  }

  double step() {
    partition();
    fill_empty();
    double moved = 0;
    for (int64_t j = 0; j < k_; j++) {
      double one, two;
      const int64_t b = p_[size_t(j)], e = p_[size_t(j) + 1];
      tree_.range(b, e, &one, &two);
      // A mean lies among its values; rounding must not put it outside.
      double mean = tree_.middle() + one / static_cast<double>(e - b);
      mean = std::min(std::max(mean, static_cast<double>(s_[b])), static_cast<double>(s_[e - 1]));
      moved = std::max(moved, fabs(mean - c_[size_t(j)]));
      c_[size_t(j)] = mean;
    }
    return moved;
  }

  void start(const Kmeans& p, uint64_t* random) {
    const double low = s_[0], high = s_[n_ - 1];
    converged_ = false;
    if (p.init == kCodebookGiven) {
      for (int64_t j = 0; j < k_; j++) c_[size_t(j)] = p.centroids[j];
      std::sort(c_.begin(), c_.end());
    } else if (p.init == kCodebookLinear) {
      for (int64_t j = 0; j < k_; j++)
        c_[size_t(j)] = k_ > 1 ? low + (high - low) * static_cast<double>(j) / static_cast<double>(k_ - 1) : (low + high) / 2;
    } else if (p.init == kCodebookDensity) {
      for (int64_t j = 0; j < k_; j++)
        c_[size_t(j)] = s_[std::min(n_ - 1, static_cast<int64_t>((static_cast<double>(j) + 0.5) * static_cast<double>(n_) / static_cast<double>(k_)))];
    } else {
      plus_plus(random);
    }
  }

  // Only the clusters beside a new centroid change; their costs come from the tree.
  void plus_plus(uint64_t* random) {
    std::vector<double> costs(1);
    c_.assign(1, s_[static_cast<int64_t>(random01(random) * static_cast<double>(n_))]);
    p_ = {0, n_};
    costs[0] = cost_of(0, n_, c_[0]);
    for (int64_t t = 1; t < k_; t++) {
      double total = 0;
      for (double c : costs) total += c;
      double left = random01(random) * total;
      size_t j = 0;
      for (; j + 1 < costs.size() && left >= costs[j]; j++) left -= costs[j];
      // Within the cluster: the first place whose running cost is beyond what is left.
      int64_t b = p_[j], e = p_[j + 1];
      while (b + 1 < e) {
        const int64_t m = b + (e - b) / 2;
        if (cost_of(p_[j], m, c_[j]) > left) e = m;
        else b = m;
      }
      double next = s_[std::min(b, n_ - 1)];
      if (std::binary_search(c_.begin(), c_.end(), next)) {
        // Rounding led to a value that is a centroid already.
        double best = 0, distance, value;
        for (int64_t i = 0; i < t; i++)
          if (farthest(i, &distance, &value) && distance > best) {
            best = distance;
            next = value;
          }
      }
      const size_t at = size_t(std::upper_bound(c_.begin(), c_.end(), next) - c_.begin());
      c_.insert(c_.begin() + static_cast<ptrdiff_t>(at), next);
      costs.insert(costs.begin() + static_cast<ptrdiff_t>(at), 0.0);
      p_.insert(p_.begin() + static_cast<ptrdiff_t>(at), p_[at]);
      if (at > 0) p_[at] = beyond(p_[at - 1], (c_[at - 1] + c_[at]) / 2);
      if (at + 1 < c_.size()) p_[at + 1] = beyond(p_[at], (c_[at] + c_[at + 1]) / 2);
      for (size_t i = at > 0 ? at - 1 : 0; i < std::min(at + 2, c_.size()); i++) costs[i] = cost_of(p_[i], p_[i + 1], c_[i]);
    }
  }

  const float* s_;
  int64_t n_;
  const SumTree& tree_;
  int64_t k_;
  std::vector<double> c_;   // ascending
  std::vector<int64_t> p_;  // cluster j holds s[p[j] .. p[j+1])
  int64_t iterations_ = 0;
  bool converged_ = false;
};

}  // namespace

WhittleStatus codebook_sort(const float* x, int64_t n, float* out, int threads) {
  if (n <= kSmall) {
    for (int64_t i = 0; i < n; i++) {
      if (!isfinite(x[i])) return WHITTLE_NONFINITE;
      out[i] = x[i] + 0.0f;
    }
    std::sort(out, out + n);
    return WHITTLE_OK;
  }
  const int64_t slices = std::min(kSlices, (n + kSlice - 1) / kSlice), slice = (n + slices - 1) / slices;
  uint32_t lows[kSlices], highs[kSlices];
  std::atomic<bool> finite{true};
  parallel_for(slices, 1, threads, [&](int64_t first, int64_t last) {
    for (int64_t t = first; t < last; t++) {
      uint32_t low = UINT32_MAX, high = 0;
      int bad = 0;
      for (int64_t i = t * slice; i < std::min(n, (t + 1) * slice); i++) {
        uint32_t u;
        memcpy(&u, x + i, 4);
        bad |= (u & 0x7f800000u) == 0x7f800000u;
        const uint32_t key = key_of(x[i]);
        low = std::min(low, key);
        high = std::max(high, key);
      }
      if (bad) finite = false;
      lows[t] = low;
      highs[t] = high;
    }
  });
  if (!finite) return WHITTLE_NONFINITE;
  const uint32_t least = *std::min_element(lows, lows + slices);
  const uint32_t range = *std::max_element(highs, highs + slices) - least;
  uint32_t* keys = reinterpret_cast<uint32_t*>(out);
  if (n <= kSpare) {
    const std::unique_ptr<uint32_t[]> spare(new (std::nothrow) uint32_t[size_t(n)]);
    if (!spare) return WHITTLE_OUT_OF_MEMORY;
    for (int64_t i = 0; i < n; i++) keys[i] = key_of(x[i]) - least;
    sort_low_bits(keys, n, bits_of(range), spare.get());
    write_values(keys, n, least);
    return WHITTLE_OK;
  }
  const int shift = std::max(0, bits_of(range) - kBits);

  // Into buckets by the highest bits that differ at all, straight from x; then each bucket where it lies.
  std::unique_ptr<int64_t[]> counts(new (std::nothrow) int64_t[size_t(slices * kBuckets)]);
  if (!counts) return WHITTLE_OUT_OF_MEMORY;
  memset(counts.get(), 0, size_t(slices * kBuckets) * sizeof(int64_t));
  parallel_for(slices, 1, threads, [&](int64_t first, int64_t last) {
    for (int64_t t = first; t < last; t++)
      for (int64_t i = t * slice; i < std::min(n, (t + 1) * slice); i++) counts[t * kBuckets + ((key_of(x[i]) - least) >> shift)]++;
  });
  std::vector<int64_t> starts(kBuckets + 1);
  int64_t at = 0;
  for (int64_t d = 0; d < kBuckets; d++) {
    starts[size_t(d)] = at;
    for (int64_t t = 0; t < slices; t++) {
      const int64_t count = counts[t * kBuckets + d];
      counts[t * kBuckets + d] = at;
      at += count;
    }
  }
  starts[kBuckets] = at;
  parallel_for(slices, 1, threads, [&](int64_t first, int64_t last) {
    for (int64_t t = first; t < last; t++)
      for (int64_t i = t * slice; i < std::min(n, (t + 1) * slice); i++) {
        const uint32_t key = key_of(x[i]) - least;
        keys[counts[t * kBuckets + (key >> shift)]++] = key;
      }
  });
  std::atomic<int64_t> next{0};
  std::atomic<bool> room{true};
  const int workers = threads > 0 ? threads : thread_limit();
  parallel_for(workers, 1, threads, [&](int64_t first, int64_t last) {
    for (int64_t w = first; w < last; w++) {
      // A second worker on the same thread finds nothing left to do.
      if (next.load() >= kBuckets) return;
      const std::unique_ptr<uint32_t[]> spare(new (std::nothrow) uint32_t[size_t(std::min(n, kSpare))]);
      if (!spare) {
        room = false;
        return;
      }
      for (int64_t d = next++; d < kBuckets; d = next++) {
        uint32_t* b = keys + starts[size_t(d)];
        const int64_t count = starts[size_t(d) + 1] - starts[size_t(d)];
        sort_keys(b, count, shift, spare.get());
        write_values(b, count, least);
      }
    }
  });
  return room ? WHITTLE_OK : WHITTLE_OUT_OF_MEMORY;
}

WhittleStatus codebook_kmeans(const Kmeans& p) {
  for (int i = 0; i < 4; i++) p.result[i] = 0;
  Floats sorted(new (std::nothrow) float[size_t(p.n)]);
  if (!sorted) return WHITTLE_OUT_OF_MEMORY;
  const WhittleStatus status = codebook_sort(p.x, p.n, sorted.get(), p.threads);
  if (status != WHITTLE_OK) return status;
  const float* s = sorted.get();
  int64_t distinct = 1;
  for (int64_t i = 1; i < p.n && distinct < p.clusters; i++) distinct += s[i] != s[i - 1];
  p.result[3] = static_cast<double>(distinct);
  if (distinct < p.clusters) return WHITTLE_RANGE;
  SumTree tree;
  if (!tree.build(s, p.n, p.threads)) return WHITTLE_OUT_OF_MEMORY;

  uint64_t random = p.seed;
  std::vector<double> best;
  double least = INFINITY;
  const int32_t starts = p.init == kCodebookPlusPlus ? p.starts : 1;
  for (int32_t t = 0; t < starts; t++) {
    Lloyd lloyd(s, p.n, tree, p.clusters);
    lloyd.run(p, &random);
    const double cost = starts > 1 ? lloyd.cost() : 0;
    if (cost < least) {
      least = cost;
      best = lloyd.centroids();
      p.result[1] = static_cast<double>(lloyd.iterations());
      p.result[2] = lloyd.converged();
    }
  }
  for (int64_t j = 0; j < p.clusters; j++) p.centroids[j] = static_cast<float>(best[size_t(j)]);
  int64_t last = 0;
  for (int64_t j = 0; j < p.clusters; j++) {
    int64_t end = p.n;
    if (j + 1 < p.clusters) {
      const double middle = (static_cast<double>(p.centroids[j]) + p.centroids[j + 1]) / 2;
      end = std::upper_bound(s + last, s + p.n, middle, [](double v, float f) { return v < static_cast<double>(f); }) - s;
    }
    p.counts[j] = static_cast<int32_t>(end - last);
    last = end;
  }
  return codebook_assign(p.x, p.n, p.centroids, p.clusters, p.index, &p.result[0], p.threads);
}

}  // namespace whittle
