// Leading triplets from a block Krylov space of x^T x (Musco & Musco 2015), by the rules of core/svd_randomized.cpp and
// core/svd_krylov.cpp, so that steps and convergence mean the same; here in float64 throughout, with bases by reflections and
// the space solved through R of x k = q R, whose leading blocks belong to the smaller spaces before. NVIDIA's own randomized
// method (Xgesvdr) iterates a single subspace and says nothing of how far it came.
#include <math.h>

#include <algorithm>

#include "cuda/svd.h"

namespace whittle {
namespace {

constexpr int64_t kPanel = 16, kRankOfBlock = 64, kFirstRank = 32, kMostSteps = 14;
constexpr double kEmpty = 1e-26;  // squared share: what a projection leaves of a block that the space holds
constexpr int kRounds = 3;        // of projection
constexpr double kSkew = 1e-9;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// SplitMix64 of the place, to [-1, 1).
__global__ void random_kernel(uint64_t seed, uint64_t first, int64_t count, double* out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (i >= count) return;
  uint64_t z = seed + (first + static_cast<uint64_t>(i) + 1) * 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  z ^= z >> 31;
  out[i] = static_cast<double>(static_cast<int64_t>(z)) * 0x1p-63;
}

// The leading e x e of R, which lies above the reflections in z (rows long), with zeros below.
__global__ void upper_kernel(const double* z, int64_t rows, int64_t e, double* out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (i >= e * e) return;
  const int64_t row = i % e, column = i / e;
  out[i] = row <= column ? z[column * rows + row] : 0;
}

// Whether of the descending values about a block's width lie so close that there may be more of them.
bool crowded(int64_t rank, int64_t b, const double* values) {
  const int64_t run = b - kCrowdSpare;
  for (int64_t i = rank - 1; i - run >= 0; i--)
    if (values[i] > kClosed * values[0] && values[i] >= (1 - kCrowd) * values[i - run + 1]) return true;
  return false;
}

struct Space {
  int64_t rank, block, steps, most_steps;
};

Space space_of(const CudaSvd& p, int64_t rank) {
  Space s = {rank, kPanel * ceil_div(rank, kRankOfBlock), 0, 0};
  const int64_t wanted = p.oversampling >= 0 ? rank + p.oversampling : std::max(rank + 2 * s.block, ceil_div(7 * rank, 4));
  if (p.iterations > 0) s.block = kPanel * ceil_div(wanted, kPanel * (p.iterations + 1));
  s.steps = p.iterations > 0 ? p.iterations : std::max<int64_t>(1, ceil_div(wanted, s.block) - 1);
  s.most_steps = p.iterations > 0 ? p.iterations : std::max(kMostSteps, s.steps + 1);
  return s;
}

class Krylov {
 public:
  Krylov(SvdTask& task, int64_t tall, int64_t thin, const double* x, double norm2, const Space& space)
      : t_(task), w_(task.work), tall_(tall), thin_(thin), x_(x), norm2_(norm2), space_(space), b_(space.block) {}

  // p tall x rank, q thin x rank, null for values only. `exhausted`: it would take a space close to the whole, and nothing was answered.
  bool run(double* p, double* q, double* values, bool* exhausted) {
    const int64_t rank = space_.rank;
    const bool free_steps = space_.most_steps > space_.steps;
    const int64_t room = std::min(thin_ / b_, space_.most_steps + 1 + (free_steps && rank > b_ - kCrowdSpare ? kChainBlocks : 0)) * b_;
    *exhausted = false;
    k_ = w_.scratch<double>(thin_ * room);
    y_ = w_.scratch<double>(tall_ * room);
    shares_ = w_.scratch<double>(room * b_);
    tau_ = w_.scratch<double>(room);
    info_ = w_.scratch<int>(1);
    bool closed = false;
    if (!begin_chain(room)) return false;
    std::vector<double> found(static_cast<size_t>(room));
    Progress gained = {1, 1};
    int64_t chain = 0, enough = space_.steps;
    for (int64_t step = 0;; step++) {
      if (d_ == room) {
        *exhausted = true;
        return w_.good();
      }
      if (!orthonormalize(k_ + d_ * thin_, &closed)) return false;
      t_.product(tall_, b_, thin_, {x_, tall_, false, 0}, {k_ + d_ * thin_, thin_, false, 0}, y_ + d_ * tall_, tall_);
      d_ += b_;
      steps_ = step;
      if (step < enough) {
        if (d_ < room) next_block();
        continue;
      }
      const int mark = w_.mark();
      double* z = w_.scratch<double>(tall_ * d_);
      double* r = w_.scratch<double>(d_ * d_);
      double* left = p ? w_.scratch<double>(d_ * d_) : nullptr;
      double* right = p ? w_.scratch<double>(d_ * d_) : nullptr;
      w_.copy(z, y_, tall_ * d_ * 8);
      if (!householder(t_.solver.reflections(tall_, d_, z, tau_, info_))) return false;
      if (!solve(z, d_, r, left, right, found.data())) return false;
      const double now = captured(found.data());
      const double before = captured_by(d_ - b_, z, r), earlier = captured_by(d_ - 2 * b_, z, r);
      gained = progress_of(norm2_, now, before, earlier);
      if (closed && norm2_ - now > kClosed * kClosed * norm2_) {
        *exhausted = true;
        return w_.good();
      }
      const bool settled = gained.left <= kLeft, crowd = settled && crowded(rank, b_, found.data());
      const double ago = crowd && chain > 0 ? captured_by(chain, z, r) : -1;
      const double rest = std::max(norm2_ - now, kClosed * kClosed * norm2_);
      if (!w_.good()) return false;
      if (crowd && free_steps && (ago < 0 || now - ago > 2 * kChainGain * rest)) {
        w_.release_to(mark);
        chain = d_;
        enough = step + 1;
        if (d_ < room && !begin_chain(room)) return false;
        continue;
      }
      if (crowd && !free_steps) t_.converged = false;
      if (settled || (chain == 0 && step >= space_.most_steps)) {
        std::copy(found.begin(), found.begin() + rank, values);
        if (p) {
          if (!householder(t_.solver.basis(tall_, d_, z, tau_, info_))) return false;
          t_.product(tall_, rank, d_, {z, tall_, false, 0}, {left, d_, false, 0}, p, tall_);
          t_.product(thin_, rank, d_, {k_, thin_, false, 0}, {right, d_, false, 0}, q, thin_);
        }
        w_.release_to(mark);
        break;
      }
      w_.release_to(mark);
      enough = step + (gained.left > 2 * kLeft && chain == 0 ? 2 : 1);
      if (chain == 0) enough = std::min(space_.most_steps, enough);
      if (d_ < room) next_block();
    }
    t_.improvement = std::max(t_.improvement, gained.last);
    if (gained.left > kLeft) t_.converged = false;
    t_.iterations = std::max(t_.iterations, steps_);
    if (!p) return w_.good();
    double skew = 0, other = 0;
    if (!t_.skewness(tall_, rank, p, 1, &skew) || !t_.skewness(thin_, rank, q, 1, &other)) return false;
    if (skew > kSkew || other > kSkew) w_.refuse("cuSOLVER's bases are not orthonormal");
    return w_.good();
  }

 private:
  bool householder(bool done) {
    if (!done && w_.good()) w_.refuse(t_.solver.why());
    return done && w_.good();
  }

  // k's block at d becomes x^T (x k) of the one before.
  void next_block() {
    t_.product(thin_, b_, tall_, {x_, tall_, true, 0}, {y_ + (d_ - b_) * tall_, tall_, false, 0}, k_ + d_ * thin_, thin_);
  }

  // The next block from a random one, of which only what the space lacks is multiplied.
  bool begin_chain(int64_t room) {
    double* block = k_ + d_ * thin_;
    if (d_ >= room) return w_.good();
    w_.launch(blocks_for(thin_ * b_), kBlock, random_kernel, t_.problem.seed, drawn_, thin_ * b_, block);
    drawn_ += static_cast<uint64_t>(thin_ * b_);
    bool ignored = false;
    if (d_ > 0 && !orthonormalize(block, &ignored)) return false;
    double* through = y_ + d_ * tall_;
    t_.product(tall_, b_, thin_, {x_, tall_, false, 0}, {block, thin_, false, 0}, through, tall_);
    t_.product(thin_, b_, tall_, {x_, tall_, true, 0}, {through, tall_, false, 0}, block, thin_);
    return w_.good();
  }

  // Columns become orthonormal, and orthogonal to those of the space. `closed` where the space held them all.
  bool orthonormalize(double* block, bool* closed) {
    double before = 0, after = 0;
    if (d_ > 0 && !t_.squares(block, thin_ * b_, 1, &before)) return false;
    for (int round = 0; round < (d_ > 0 ? kRounds : 1); round++) {
      if (d_ > 0) {
        t_.product(d_, b_, thin_, {k_, thin_, true, 0}, {block, thin_, false, 0}, shares_, d_);
        t_.product(thin_, b_, d_, {k_, thin_, false, 0}, {shares_, d_, false, 0}, block, thin_, -1, 1);
        if (round == 0) {
          if (!t_.squares(block, thin_ * b_, 1, &after)) return false;
          *closed |= after <= kEmpty * before;
        }
      }
      if (!householder(t_.solver.reflections(thin_, b_, block, tau_, info_) && t_.solver.basis(thin_, b_, block, tau_, info_))) return false;
    }
    return true;
  }

  // Singular values, and vectors where asked for, of the leading e x e of R.
  bool solve(const double* z, int64_t e, double* r, double* left, double* right, double* values) {
    w_.launch(blocks_for(e * e), kBlock, upper_kernel, z, tall_, e, r);
    double norm = 0;
    const int64_t kept = t_.iterations;
    const bool done = t_.squares(r, e * e, 1, &norm) && t_.full(e, e, r, norm, left, right, values);
    t_.iterations = kept;
    return done;
  }

  double captured(const double* values) const {
    double sum = 0;
    for (int64_t i = space_.rank; i-- > 0;) sum += values[i] * values[i];
    return sum;
  }

  // What the first e dimensions capture; negative where they are too few to say.
  double captured_by(int64_t e, const double* z, double* r) {
    if (e < space_.rank) return -1;
    std::vector<double> values(static_cast<size_t>(e));
    return solve(z, e, r, nullptr, nullptr, values.data()) ? captured(values.data()) : -1;
  }

  SvdTask& t_;
  Work& w_;
  const int64_t tall_, thin_;
  const double* x_;
  const double norm2_;
  const Space space_;
  const int64_t b_;
  int64_t d_ = 0, steps_ = 0;
  uint64_t drawn_ = 0;
  double *k_ = nullptr, *y_ = nullptr, *shares_ = nullptr, *tau_ = nullptr;
  int* info_ = nullptr;
};

}  // namespace

bool SvdTask::randomized(int64_t tall, int64_t thin, const double* x, double norm2, double* p, double* q, std::vector<double>* values, bool* all) {
  const CudaSvd& o = problem;
  const bool adaptive = o.energy >= 0 || o.tolerance >= 0;
  const int mark = work.mark();
  *all = false;
  const auto whole = [&] {
    *all = true;
    values->resize(static_cast<size_t>(thin));
    double* left = p ? work.scratch<double>(tall * thin) : nullptr;
    double* right = p ? work.scratch<double>(thin * thin) : nullptr;
    const bool done = work.good() && full(tall, thin, x, norm2, left, right, values->data());
    if (p) {
      work.copy(p, left, tall * o.max_rank * 8);
      work.copy(q, right, thin * o.max_rank * 8);
    }
    work.release_to(mark);
    return done;
  };
  for (int64_t rank = adaptive ? std::min(o.max_rank, kFirstRank) : o.max_rank;; rank = std::min(o.max_rank, 2 * rank)) {
    const Space space = space_of(o, rank);
    // A space as large as the matrix: there is nothing to search.
    if (space.block * (space.steps + 1) >= thin) return whole();
    values->resize(static_cast<size_t>(rank));
    bool exhausted = false;
    Krylov search(*this, tall, thin, x, norm2, space);
    const bool done = search.run(p, q, values->data(), &exhausted);
    work.release_to(mark);
    if (!done) return false;
    if (exhausted) return whole();
    if (!adaptive) return true;
    // Squared errors by rank: what the norm holds beyond the values found.
    std::vector<double> tail(static_cast<size_t>(rank + 1));
    tail[0] = norm2;
    for (int64_t i = 0; i < rank; i++) {
      const size_t at = static_cast<size_t>(i);
      tail[at + 1] = std::max(0.0, tail[at] - (*values)[at] * (*values)[at]);
    }
    CudaSvd capped = o;
    capped.max_rank = rank + 1;
    const int64_t keep = svd_rank(capped, rank + 1, tail.data(), norm2);
    if (keep > rank && rank < o.max_rank) continue;
    values->resize(static_cast<size_t>(std::min(keep, rank)));
    return true;
  }
}

}  // namespace whittle
