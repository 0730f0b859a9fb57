// Selection of the k largest, exact, without sorting, and the masks of thresholds.
//
// A sample tells between which two values the threshold lies (nearly always). One pass then marks what is above them,
// and lists what is between: the answer is chosen from that short list. Where the sample misled, or the list does not
// fit because many scores are equal, histograms over the bits of the keys narrow the range until it does, or until
// the threshold itself is left.
#include <math.h>
#include <string.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#include "core/select_keys.h"
#include "core/threads.h"

namespace whittle {

using namespace select_detail;

namespace {

constexpr int64_t kSmall = 65536;         // up to here the keys are copied and nothing is sampled
constexpr int64_t kLines = 8192;          // places to sample, a cache line each
constexpr int64_t kLine = 16;
constexpr int64_t kSample = kLines * kLine;
constexpr double kDeviations = 3.3;        // half-width of the sampled range, in standard deviations of a rank

inline void prefetch(const void* at) {
#if defined(__GNUC__) || defined(__clang__)
  __builtin_prefetch(at);
#else
  (void)at;
#endif
}

struct Chunk {
  const float* scores;
  uint8_t* mask;
  int64_t n;
};

// Several ranks of the same keys: one histogram, then each rank within its bin.
class Ranks {
 public:
  bool read(const uint32_t* keys, int64_t n) {
    keys_ = keys;
    n_ = n;
    bin_keys_ = room<uint32_t>(n);
    if (!bin_keys_) return false;
    uint32_t hi = lo_ = keys[0];
    for (int64_t i = 1; i < n; i++) {
      lo_ = keys[i] < lo_ ? keys[i] : lo_;
      hi = keys[i] > hi ? keys[i] : hi;
    }
    while ((hi - lo_) >> shift_ >= static_cast<uint32_t>(kSelectBins)) shift_++;
    for (int64_t i = 0; i < n; i++) counts_[(keys[i] - lo_) >> shift_]++;
    return true;
  }

  // The k-th largest, 1 <= k <= n.
  uint32_t at(int64_t k) {
    uint32_t bin = kSelectBins - 1;
    while (counts_[bin] < k) k -= counts_[bin--];
    int64_t n = 0, ignored;
    for (int64_t i = 0; i < n_; i++) {
      bin_keys_[n] = keys_[i];
      n += (keys_[i] - lo_) >> shift_ == bin;
    }
    return kth_key(bin_keys_.get(), n, k, &ignored);
  }

 private:
  const uint32_t* keys_;
  int64_t n_, counts_[kSelectBins] = {};
  uint32_t lo_;
  int shift_ = 0;
  std::unique_ptr<uint32_t[]> bin_keys_;
};

// mask = x > t and the first `equal` of those that equal t, over all chunks in order.
WhittleStatus write_masks(const Chunk* chunks, int64_t count, float t, int64_t equal) {
  const SelectKernels& k = select_kernels();
  std::unique_ptr<int64_t[]> ties = room<int64_t>(count);
  if (!ties) return WHITTLE_OUT_OF_MEMORY;
  std::atomic<int> nan{0};
  parallel_for(count, 1, 0, [&](int64_t b, int64_t e) {
    for (int64_t c = b; c < e; c++)
      if (k.above(chunks[c].scores, chunks[c].n, t, equal == 0, chunks[c].mask, &ties[c])) nan = 1;
  });
  if (nan) return WHITTLE_NONFINITE;
  if (equal == 0) return WHITTLE_OK;
  // From here ties[c] says how many of its ties chunk c keeps, or -1 for all.
  for (int64_t c = 0; c < count; c++) {
    const int64_t has = ties[c];
    ties[c] = has <= equal ? -1 : equal;
    equal -= has <= equal ? has : equal;
  }
  parallel_for(count, 1, 0, [&](int64_t b, int64_t e) {
    for (int64_t c = b; c < e; c++) {
      int64_t ignored;
      if (ties[c] == 0) k.above(chunks[c].scores, chunks[c].n, t, true, chunks[c].mask, &ignored);
      else if (ties[c] > 0) drop_ties(chunks[c].scores, chunks[c].n, t, ties[c], chunks[c].mask);
    }
  });
  return WHITTLE_OK;
}

class Selection {
 public:
  Selection(const SelectPart* parts, int64_t count, int64_t keep) : keep_(keep) {
    for (int64_t p = 0; p < count; p++) {
      total_ += parts[p].n;
      for (int64_t at = 0; at < parts[p].n; at += kChunk)
        chunks_.push_back({parts[p].scores + at, parts[p].mask ? parts[p].mask + at : nullptr,
                           parts[p].n - at < kChunk ? parts[p].n - at : kChunk});
    }
    masks_ = count > 0 && parts[0].mask;
  }

  WhittleStatus run(float* threshold) {
    const WhittleStatus status = keep_ == 0 ? nothing() : total_ <= kSmall ? small() : large();
    *threshold = threshold_;
    return status;
  }

 private:
  int64_t count() const { return static_cast<int64_t>(chunks_.size()); }

  WhittleStatus exact(float t, int64_t equal) {
    threshold_ = t;
    return masks_ ? write_masks(chunks_.data(), count(), t, equal) : WHITTLE_OK;
  }

  WhittleStatus nothing() { return exact(INFINITY, 0); }

  WhittleStatus small() {
    std::unique_ptr<uint32_t[]> keys = room<uint32_t>(total_);
    if (!keys) return WHITTLE_OUT_OF_MEMORY;
    int64_t at = 0;
    int nan = 0;
    for (const Chunk& c : chunks_) {
      nan |= to_keys(c.scores, c.n, keys.get() + at);
      at += c.n;
    }
    if (nan) return WHITTLE_NONFINITE;
    int64_t larger = 0;
    const uint32_t key = kth_key(keys.get(), total_, keep_, &larger);
    return exact(select_value(key), keep_ - larger);
  }

  WhittleStatus large() {
    room_ = total_ / 16;
    values_ = room<float>(room_);
    index_ = room<uint16_t>(room_);
    lists_ = room<List>(count());
    if (!values_ || !index_ || !lists_) return WHITTLE_OUT_OF_MEMORY;
    float lo = 0, hi = 0;
    if (!sample(&lo, &hi)) return WHITTLE_OUT_OF_MEMORY;
    bool done = false;
    WhittleStatus status = between(lo, hi, &done);
    if (done || status != WHITTLE_OK) return status;

    // Bits 31..21, 20..10 and 9..0 of the keys.
    uint32_t base = 0;
    int64_t rank = keep_;
    for (int shift = 21;; shift = shift == 21 ? 10 : 0) {
      int64_t counts[kSelectBins] = {};
      const int64_t bins = shift == 0 ? 1024 : kSelectBins;
      status = histogram(base, shift, counts);
      if (status != WHITTLE_OK) return status;
      int64_t bin = bins - 1;
      while (bin > 0 && counts[bin] < rank) rank -= counts[bin--];
      base += static_cast<uint32_t>(bin) << shift;
      if (shift == 0) return exact(select_value(base), rank);
      if (counts[bin] <= room_) {
        float lowest = select_value(base), highest = select_value(base + (1u << shift) - 1);
        // The outermost bins reach into the bit patterns of NaN.
        if (lowest != lowest) lowest = -INFINITY;
        if (highest != highest) highest = INFINITY;
        status = between(lowest, highest, &done);
        if (done || status != WHITTLE_OK) return status;
      }
    }
  }

  // Values that enclose the threshold unless the sample is unlucky: the sample's threshold, and ranks some standard
  // deviations to either side of it. A place is a whole cache line, since the others in it cost nothing; neighbours
  // are alike in many tensors, so that the deviation is taken from line to line. Places are spread by a hash within
  // equal steps, so that a period in the data cannot fool them; they are the same at every run.
  bool sample(float* lo, float* hi) {
    std::unique_ptr<uint32_t[]> keys = room<uint32_t>(kSample);
    if (!keys) return false;
    const double step = static_cast<double>(total_) / kLines;
    parallel_for(kLines, kLines / 8, 0, [&](int64_t b, int64_t e) {
      // The lines are far apart: ask for all of a batch before the first is read.
      constexpr int64_t kBatch = 32;
      const float* from[kBatch];
      int64_t length[kBatch];
      size_t c = 0;
      int64_t start = 0;  // of chunk c
      for (int64_t first = b; first < e; first += kBatch) {
        const int64_t batch = e - first < kBatch ? e - first : kBatch;
        for (int64_t i = 0; i < batch; i++) {
          const uint32_t noise = static_cast<uint32_t>(first + i) * 2654435761u;
          int64_t at = static_cast<int64_t>((static_cast<double>(first + i) + noise * 0x1p-32) * step);
          if (at >= total_) at = total_ - 1;
          while (at - start >= chunks_[c].n) start += chunks_[c++].n;
          const Chunk& chunk = chunks_[c];
          at -= start;
          if (at + kLine > chunk.n) at = chunk.n > kLine ? chunk.n - kLine : 0;
          from[i] = chunk.scores + at;
          length[i] = chunk.n - at < kLine ? chunk.n - at : kLine;
          prefetch(from[i]);
        }
        for (int64_t i = 0; i < batch; i++)
          for (int64_t j = 0; j < kLine; j++)
            keys[(first + i) * kLine + j] = select_key(from[i][j < length[i] ? j : length[i] - 1]);
      }
    });
    Ranks ranks;
    if (!ranks.read(keys.get(), kSample)) return false;
    const double rank = static_cast<double>(keep_) / static_cast<double>(total_) * kSample;
    const uint32_t middle = ranks.at(rank < 1 ? 1 : static_cast<int64_t>(rank));
    double squares = 0, sum = 0;
    for (int64_t i = 0; i < kLines; i++) {
      int above = 0;
      for (int64_t j = 0; j < kLine; j++) above += keys[i * kLine + j] > middle;
      sum += above;
      squares += above * above;
    }
    const double margin = kDeviations * sqrt(squares - sum * sum / kLines) + 4;
    const int64_t upper = static_cast<int64_t>(rank - margin), lower = static_cast<int64_t>(rank + margin) + 1;
    *hi = upper < 1 ? INFINITY : select_value(ranks.at(upper));
    *lo = lower > kSample ? -INFINITY : select_value(ranks.at(lower));
    // A NaN in the sample: the pass that follows meets it too and says so.
    if (*hi != *hi) *hi = INFINITY;
    if (*lo != *lo) *lo = -INFINITY;
    return true;
  }

  // One pass for a threshold in [lo, hi]. *done stays false where it is not there, or the lists do not fit.
  WhittleStatus between(float lo, float hi, bool* done) {
    const SelectKernels& k = select_kernels();
    std::atomic<int64_t> used{0}, greater{0}, inside{0};
    std::atomic<int> nan{0}, full{0};
    const int64_t grain = count() >= 64 ? 8 : 1;
    parallel_for(count(), grain, 0, [&](int64_t b, int64_t e) {
      // Bounds that met: all that lies between is equal, and needs no list.
      const int64_t most = lo == hi ? 0 : kChunk;
      std::unique_ptr<float[]> values = room<float>(most + kSelectSlack);
      std::unique_ptr<uint16_t[]> index = room<uint16_t>(most + kSelectSlack);
      if (!values || !index) {
        full = 1;
        return;
      }
      for (int64_t c = b; c < e; c++) {
        SelectScan scan;
        k.scan(chunks_[c].scores, chunks_[c].n, lo, hi, chunks_[c].mask, values.get(), index.get(), most, &scan);
        if (scan.nan) nan = 1;
        greater += scan.greater;
        inside += scan.inside;
        if (most == 0) continue;
        const int64_t at = used.fetch_add(scan.inside);
        lists_[c] = {at, scan.inside};
        if (at + scan.inside > room_) continue;
        memcpy(values_.get() + at, values.get(), static_cast<size_t>(scan.inside) * sizeof(float));
        memcpy(index_.get() + at, index.get(), static_cast<size_t>(scan.inside) * sizeof(uint16_t));
      }
    });
    if (nan) return WHITTLE_NONFINITE;
    if (full) return WHITTLE_OUT_OF_MEMORY;
    if (keep_ <= greater || keep_ > greater + inside) return WHITTLE_OK;
    if (lo == hi) {
      *done = true;
      return exact(lo, keep_ - greater);
    }
    if (used > room_) return WHITTLE_OK;
    *done = true;
    return settle(select_key(lo), select_key(hi), inside, keep_ - greater);
  }

  // The rank-th largest of the listed candidates, whose keys lie in [lo, hi], is the threshold; marks those above it,
  // and of those that equal it as many as are wanted.
  WhittleStatus settle(uint32_t lo, uint32_t hi, int64_t inside, int64_t rank) {
    int shift = 0;
    while ((hi - lo) >> shift >= static_cast<uint32_t>(kSelectBins)) shift++;
    int64_t counts[kSelectBins] = {};
    std::mutex mutex;
    constexpr int64_t kGrain = 1 << 16;
    parallel_for(inside, kGrain, 0, [&](int64_t b, int64_t e) {
      uint32_t local[kSelectBins] = {};
      // Bounded, since another thread may have changed shared memory between a comparison and the copy.
      for (int64_t i = b; i < e; i++) {
        const uint32_t bin = (select_key(values_[i]) - lo) >> shift;
        local[bin < static_cast<uint32_t>(kSelectBins) ? bin : kSelectBins - 1]++;
      }
      std::lock_guard<std::mutex> lock(mutex);
      for (int i = 0; i < kSelectBins; i++) counts[i] += local[i];
    });
    int64_t bin = kSelectBins - 1;
    while (bin > 0 && counts[bin] < rank) rank -= counts[bin--];
    std::unique_ptr<uint32_t[]> keys = room<uint32_t>(counts[bin]);
    if (!keys) return WHITTLE_OUT_OF_MEMORY;
    int64_t n = 0;
    for (int64_t i = 0; i < inside; i++) {
      const uint32_t key = select_key(values_[i]);
      if ((key - lo) >> shift == static_cast<uint32_t>(bin)) keys[n++] = key;
    }
    if (n < rank) return WHITTLE_OK;  // only where scores changed meanwhile: any mask will do
    int64_t larger = 0;
    const float t = threshold_ = select_value(kth_key(keys.get(), n, rank, &larger));
    if (!masks_) return WHITTLE_OK;
    int64_t equal = rank - larger;
    std::atomic<int64_t> ties{0};
    parallel_for(count(), 8, 0, [&](int64_t b, int64_t e) {
      int64_t same = 0;
      for (int64_t c = b; c < e; c++)
        for (int64_t i = lists_[c].at; i < lists_[c].at + lists_[c].n; i++) {
          chunks_[c].mask[index_[i]] = values_[i] >= t;
          same += values_[i] == t;
        }
      ties += same;
    });
    if (ties == equal) return WHITTLE_OK;
    for (int64_t c = 0; c < count(); c++)
      for (int64_t i = lists_[c].at; i < lists_[c].at + lists_[c].n; i++)
        if (values_[i] == t && equal-- <= 0) chunks_[c].mask[index_[i]] = 0;
    return WHITTLE_OK;
  }

  WhittleStatus histogram(uint32_t base, int shift, int64_t* counts) {
    const SelectKernels& k = select_kernels();
    std::mutex mutex;
    int nan = 0;
    parallel_for(count(), 4, 0, [&](int64_t b, int64_t e) {
      uint32_t local[kSelectBins] = {};
      int bad = 0;
      for (int64_t c = b; c < e; c++) bad |= k.histogram(chunks_[c].scores, chunks_[c].n, base, shift, local);
      std::lock_guard<std::mutex> lock(mutex);
      nan |= bad;
      for (int i = 0; i < kSelectBins; i++) counts[i] += local[i];
    });
    return nan ? WHITTLE_NONFINITE : WHITTLE_OK;
  }

  std::vector<Chunk> chunks_;
  int64_t total_ = 0, keep_;
  bool masks_;
  float threshold_ = 0;
  // Candidates of all chunks: a chunk's lie together and in order, the chunks in the order in which they were done.
  struct List {
    int64_t at, n;
  };
  int64_t room_ = 0;
  std::unique_ptr<float[]> values_;
  std::unique_ptr<uint16_t[]> index_;  // within the chunk
  std::unique_ptr<List[]> lists_;
};

}  // namespace

WhittleStatus select_largest(const SelectPart* parts, int64_t count, int64_t keep, float* threshold) {
  try {
    return Selection(parts, count, keep).run(threshold);
  } catch (const std::bad_alloc&) {
    return WHITTLE_OUT_OF_MEMORY;
  }
}

WhittleStatus select_above(const float* scores, int64_t n, float threshold, int64_t equal, uint8_t* mask) {
  const int64_t count = (n + kChunk - 1) / kChunk;
  std::unique_ptr<Chunk[]> chunks = room<Chunk>(count);
  if (!chunks) return WHITTLE_OUT_OF_MEMORY;
  for (int64_t c = 0; c < count; c++) {
    const int64_t at = c * kChunk;
    chunks[c] = {scores + at, mask + at, n - at < kChunk ? n - at : kChunk};
  }
  return write_masks(chunks.get(), count, threshold, equal);
}

WhittleStatus select_histogram(const float* x, int64_t n, uint32_t base, int shift, int64_t* counts) {
  const SelectKernels& k = select_kernels();
  std::mutex mutex;
  int nan = 0;
  parallel_for(n, 4 * kChunk, 0, [&](int64_t b, int64_t e) {
    uint32_t local[kSelectBins] = {};
    const int bad = k.histogram(x + b, e - b, base, shift, local);
    std::lock_guard<std::mutex> lock(mutex);
    nan |= bad;
    for (int i = 0; i < kSelectBins; i++) counts[i] += local[i];
  });
  return nan ? WHITTLE_NONFINITE : WHITTLE_OK;
}

}  // namespace whittle
