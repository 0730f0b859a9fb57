// What rank a problem asks for and when a block Krylov search is done: the same rules on every device. Plain arithmetic on the host.
#pragma once
#include <math.h>
#include <stdint.h>

#include <algorithm>

namespace whittle {

constexpr double kLeft = 0.03;    // what further steps may still lower the error by, as a share
constexpr double kNoise = 1e-6;   // of the norm: errors of the order of float32's rounding are all the same
constexpr double kClosed = 1e-5;  // of the norm: an invariant space that leaves less is the answer
// A last step that gained less is the last whatever came before; the ratio of two steps where only one is known.
constexpr double kStill = 1e-4, kUnknownRatio = 0.7;
// A block finds of equal values at most as many as it has columns. Where almost so many lie so close (as a share), fresh random
// blocks and steps from them look for more, until such a chain gains less than kChainGain.
constexpr double kCrowd = 0.02, kChainGain = 0.01;
constexpr int64_t kCrowdSpare = 2, kChainBlocks = 16;

// Smallest rank, at least 1, that the problem's energy and tolerance ask for, at most max_rank. tail[r]: squares past the r-th.
template <class Problem>
inline int64_t svd_rank(const Problem& p, int64_t count, const double* tail, double total) {
  const int64_t rank = std::min<int64_t>(count, p.max_rank);
  if (p.energy < 0 && p.tolerance < 0) return rank;
  double limit = total;
  if (p.energy >= 0) limit = std::min(limit, (1 - p.energy) * total);
  if (p.tolerance >= 0) limit = std::min(limit, p.tolerance * p.tolerance * total);
  // What the input's own precision cannot tell from zero asks for no rank.
  const double unit = p.wide ? 0x1p-50 : 0x1p-23;
  limit += unit * unit * total;
  for (int64_t r = 1; r < rank; r++)
    if (tail[r] <= limit) return r;
  return rank;
}

// What the last step gained, and what going by the last two further steps may gain, as shares of the error.
struct Progress {
  double last, left;
};
inline Progress progress_of(double norm2, double now, double before, double earlier) {
  const double floor = kNoise * kNoise * norm2;
  if (norm2 - now <= floor) return {0, 0};
  if (before < 0) return {1, 1};
  const auto gain = [&](double less, double more) {
    return std::max(0.0, 1 - sqrt(std::max(norm2 - more, floor) / std::max(norm2 - less, floor)));
  };
  const double last = gain(before, now), previous = earlier < 0 ? 0 : gain(earlier, before);
  if (last <= kStill) return {last, last};
  const double ratio = previous > 0 ? last / previous : kUnknownRatio;
  return {last, ratio < 1 ? std::min(1.0, last * ratio / (1 - ratio)) : 1};
}

}  // namespace whittle
