// How large a block Krylov space a rank asks for, and the search for the rank that an energy or a tolerance asks for.
#include <math.h>
#include <string.h>

#include <algorithm>

#include "core/svd_krylov.h"
#include "core/threads.h"

namespace whittle {

namespace {

constexpr int64_t kMostSteps = 14;    // where the number of steps is ours to choose
constexpr int64_t kFirstRank = 32;    // of the search for energy or tolerance
constexpr int64_t kRankOfBlock = 64;  // ranks for each 16 columns of a block
constexpr int64_t kAlone = 128 << 10;  // elements up to which waking threads for each of many short steps costs more than they take over
constexpr int64_t kWide = 4;          // a matrix wider than so many times its height is searched as its transpose

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

SvdSpace space_of(const SvdProblem& p, int64_t rank) {
  SvdSpace s = {rank, kSvdPanel * ceil_div(rank, kRankOfBlock), 0, 0, p.seed};
  // Two blocks beyond the rank, for the estimate of what further ones would bring.
  const int64_t wanted = p.oversampling >= 0 ? rank + p.oversampling : std::max(rank + 2 * s.block, ceil_div(7 * rank, 4));
  if (p.iterations > 0) s.block = kSvdPanel * ceil_div(wanted, kSvdPanel * (p.iterations + 1));
  s.steps = p.iterations > 0 ? p.iterations : std::max<int64_t>(1, ceil_div(wanted, s.block) - 1);
  s.most_steps = p.iterations > 0 ? p.iterations : std::max(kMostSteps, s.steps + 1);
  return s;
}

template <class T>
void transpose(const SvdKrylov<T>& a, T* out) {
  constexpr int64_t kTile = 32;
  parallel_for(ceil_div(a.n, kTile), 1, a.threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = 0; i < a.m; i += kTile)
      for (int64_t j = begin * kTile; j < std::min(end * kTile, a.n); j++)
        for (int64_t r = i; r < std::min(i + kTile, a.m); r++) out[j * a.m + r] = a.base[r * a.n + j];
  });
}

}  // namespace

template <class T>
WhittleStatus svd_randomized(const SvdProblem& p, const SvdView<T>& view, Workspace* work, SvdTriplets* t, double* spectrum,
                             double norm2, double* improvement, bool* full) {
  const bool adaptive = p.energy >= 0 || p.tolerance >= 0;
  const int64_t thin = view.thin, tall = view.tall;
  *full = false;
  const auto whole = [&] {
    double ignored;
    *full = true;
    *improvement = 0;
    return svd_full(p, view, work, t, spectrum, &ignored);
  };
  // The matrix as it lies in memory.
  SvdKrylov<T> a = {view.x.col == 1 ? tall : thin, view.x.col == 1 ? thin : tall, view.x.base, tall * thin <= kAlone ? 1 : view.threads};
  Workspace copies;
  if (a.n > kWide * a.m) {
    T* copy = static_cast<T*>(copies.bytes(tall * thin * static_cast<int64_t>(sizeof(T))));
    if (!copies.ok()) return WHITTLE_OUT_OF_MEMORY;
    transpose(a, copy);
    a = {a.n, a.m, copy, a.threads};
  }
  for (int64_t rank = adaptive ? std::min(p.max_rank, kFirstRank) : p.max_rank;; rank = std::min(p.max_rank, 2 * rank)) {
    const SvdSpace space = space_of(p, rank);
    // A space as large as the matrix: there is nothing to search.
    if (space.block * (space.steps + 1) >= thin) return whole();
    Workspace local;
    // Of a given rank all triplets are answered, where they lie.
    Workspace* home = adaptive ? &local : work;
    SvdTriplets found;
    found.values = home->take(rank);
    found.left = home->take(rank * a.m);
    found.right = home->take(rank * a.n);
    if (!home->ok()) return WHITTLE_OUT_OF_MEMORY;
    bool exhausted;
    const WhittleStatus s = svd_krylov(a, space, norm2, &found, improvement, &exhausted);
    if (s != WHITTLE_OK) return s;
    if (exhausted) return whole();
    if (a.m != tall) std::swap(found.left, found.right);
    std::fill(spectrum, spectrum + thin, 0.0);
    std::copy(found.values, found.values + rank, spectrum);
    int64_t keep = rank;
    if (adaptive) {
      // Squared errors by rank: what the norm holds beyond the values found.
      double* tail = local.take(rank + 1);
      if (!local.ok()) return WHITTLE_OUT_OF_MEMORY;
      tail[0] = norm2;
      for (int64_t i = 0; i < rank; i++) tail[i + 1] = std::max(0.0, tail[i] - spectrum[i] * spectrum[i]);
      SvdProblem capped = p;
      capped.max_rank = rank + 1;
      keep = svd_rank(capped, rank + 1, tail, norm2);
      if (keep > rank && rank < p.max_rank) continue;
      keep = std::min(keep, rank);
    }
    t->converged = found.converged;
    t->iterations = found.iterations;
    t->count = keep;
    if (!adaptive) {
      t->values = found.values;
      t->left = found.left;
      t->right = found.right;
      return WHITTLE_OK;
    }
    t->values = work->take(keep);
    t->left = work->take(keep * tall);
    t->right = work->take(keep * thin);
    if (!work->ok()) return WHITTLE_OUT_OF_MEMORY;
    std::copy(found.values, found.values + keep, t->values);
    memcpy(t->left, found.left, static_cast<size_t>(keep * tall) * 8);
    memcpy(t->right, found.right, static_cast<size_t>(keep * thin) * 8);
    return WHITTLE_OK;
  }
}

template WhittleStatus svd_randomized(const SvdProblem&, const SvdView<float>&, Workspace*, SvdTriplets*, double*, double, double*, bool*);
template WhittleStatus svd_randomized(const SvdProblem&, const SvdView<double>&, Workspace*, SvdTriplets*, double*, double, double*, bool*);

}  // namespace whittle
