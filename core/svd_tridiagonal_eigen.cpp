// Eigenvalues and eigenvectors of a symmetric tridiagonal matrix by divide and conquer (Cuppen 1981) with vectors from
// recomputed weights (Gu & Eisenstat 1995), which are orthogonal without extra precision. Halves are joined by a matrix
// product of what deflation left; leaves are solved by implicit QL. Eigenvectors are rows throughout.
#include <float.h>
#include <math.h>
#include <string.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "core/scratch.h"
#include "core/svd_dense.h"
#include "core/threads.h"

namespace whittle {

namespace {

constexpr double kEps = DBL_EPSILON / 2;
constexpr int64_t kLeaf = 32;
constexpr int64_t kQlLimit = 60;       // steps for one eigenvalue; 2 to 3 are usual
constexpr int64_t kSecularLimit = 100;  // steps for one root, bisections included; 3 to 5 are usual
constexpr int64_t kRootsPiece = 16, kWeightsPiece = 64;

// What the parts of a solution have met: written by several threads.
struct Progress {
  std::atomic<int64_t> iterations{0};
  std::atomic<bool> converged{true};
  void met(int64_t count) {
    int64_t old = iterations.load();
    while (old < count && !iterations.compare_exchange_weak(old, count)) {
    }
  }
};

double norm_of(int64_t n, const double* d, const double* e) {
  double norm = 0;
  for (int64_t i = 0; i < n; i++) norm = std::max(norm, std::max(fabs(d[i]), i + 1 < n ? fabs(e[i]) : 0.0));
  return norm;
}

// Implicit QL; z may be null. e[n - 1] is not touched. Values in no order.
void implicit_ql(int64_t n, double* d, double* e, double* z, int64_t ldz, Progress* progress) {
  const SvdKernels& kernels = svd_kernels();
  const double small = norm_of(n, d, e) * kEps / 8;
  const auto beside = [&](int64_t i) { return i + 1 < n ? e[i] : 0; };
  for (int64_t l = 0; l < n; l++) {
    for (int64_t step = 0;; step++) {
      int64_t m = l;
      while (m + 1 < n && !(fabs(e[m]) <= small || fabs(e[m]) <= kEps * (fabs(d[m]) + fabs(d[m + 1])))) m++;
      if (m + 1 < n) e[m] = 0;
      if (m == l) break;
      if (step == kQlLimit) {
        progress->converged = false;
        break;
      }
      progress->met(step + 1);
      double g = (d[l + 1] - d[l]) / (2 * e[l]), r = hypot(g, 1);
      g = d[m] - d[l] + e[l] / (g + copysign(r, g));
      double s = 1, c = 1, p = 0;
      int64_t i = m - 1;
      for (; i >= l; i--) {
        const double f = s * e[i], b = c * e[i];
        r = sqrt(f * f + g * g);
        if (i + 1 < m) e[i + 1] = r;
        if (r == 0) {
          // The rotation is undefined where both vanish: the matrix splits here.
          d[i + 1] -= p;
          e[m] = m + 1 < n ? 0 : beside(m);
          break;
        }
        s = f / r;
        c = g / r;
        g = d[i + 1] - p;
        const double t = (d[i] - g) * s + 2 * c * b;
        p = s * t;
        d[i + 1] = g + p;
        g = c * t - b;
        if (z) kernels.rotate(n, c, s, z + (i + 1) * ldz, z + i * ldz);
      }
      if (i >= l) continue;
      d[l] -= p;
      e[l] = g;
    }
  }
}

// QL without vectors and, within a step, without square roots (Reinsch 1973): e holds squares.
void root_free_ql(int64_t n, double* d, double* e, Progress* progress) {
  const double norm = norm_of(n, d, e), small = norm * kEps / 8;
  for (int64_t i = 0; i + 1 < n; i++) e[i] *= e[i];
  int64_t begin = 0;
  while (begin < n) {
    int64_t end = begin;
    while (end + 1 < n && !(sqrt(e[end]) <= small)) end++;
    // Converges from its small end.
    if (fabs(d[end]) < fabs(d[begin])) {
      std::reverse(d + begin, d + end + 1);
      std::reverse(e + begin, e + end);
    }
    for (int64_t l = begin; l <= end; l++) {
      for (int64_t step = 0;; step++) {
        int64_t m = l;
        while (m < end && !(e[m] <= small * small || e[m] <= kEps * kEps * fabs(d[m] * d[m + 1]))) m++;
        if (m < end) e[m] = 0;
        if (m == l) break;
        if (step == kQlLimit) {
          progress->converged = false;
          break;
        }
        progress->met(step + 1);
        const double root = sqrt(e[l]);
        double sigma = (d[l + 1] - d[l]) / (2 * root);
        sigma = d[l] - root / (sigma + copysign(hypot(sigma, 1), sigma));
        double c = 1, s = 0, gamma = d[m] - sigma, p = gamma * gamma;
        for (int64_t i = m - 1; i >= l; i--) {
          const double b = e[i], r = p + b;
          if (i + 1 < m) e[i + 1] = s * r;
          const double old_c = c, old_gamma = gamma, alpha = d[i];
          if (r == 0) {
            c = 1;
            s = 0;
          } else {
            c = p / r;
            s = b / r;
          }
          gamma = c * (alpha - sigma) - s * old_gamma;
          d[i + 1] = old_gamma + (alpha - gamma);
          p = c != 0 ? gamma * gamma / c : old_c * b;
        }
        e[l] = s * p;
        d[l] = sigma + gamma;
      }
    }
    begin = end + 1;
  }
}

// 1/rho + sum_j z2[j] / (d[j] - x) at x = d[origin] + tau.
struct Secular {
  int64_t n;
  const double *d, *z2;
  double inverse_rho;  // of the weights' sum of squares 1
  const SvdKernels& kernels;
};

struct Sums {
  double value, below, above;  // and the derivatives of the terms up to the root's left pole, and beyond
  double size;
};

Sums evaluate(const Secular& f, int64_t left, const double* gap, double tau) {
  double below[2], above[2];
  f.kernels.poles(left + 1, gap, f.z2, tau, below);
  f.kernels.poles(f.n - left - 1, gap + left + 1, f.z2 + left + 1, tau, above);
  return {f.inverse_rho + below[0] + above[0], below[1], above[1], f.inverse_rho + fabs(below[0]) + fabs(above[0])};
}

// Root `i`, between d[i] and d[i + 1] (the last: beyond d[n - 1]). Leaves d[j] - root in gap and answers the root.
// Rational interpolation through the two nearest poles (Li 1993, the middle way), kept inside a bracket.
double solve_secular(const Secular& f, int64_t i, double* gap, Progress* progress) {
  const int64_t n = f.n;
  const bool last = i == n - 1;
  const double rho = 1 / f.inverse_rho;
  if (n == 1) {
    gap[0] = -rho * f.z2[0];
    return f.d[0] + rho * f.z2[0];
  }
  const int64_t left = last ? n - 2 : i;  // the interpolation's poles are left and left + 1
  const double width = last ? rho : f.d[i + 1] - f.d[i];
  // The nearer pole becomes the origin, so that the small difference is computed without cancellation.
  int64_t origin = i;
  for (int64_t j = 0; j < n; j++) gap[j] = f.d[j] - f.d[origin];
  double lo = 0, hi = width, tau = width / 2;
  Sums s = evaluate(f, left, gap, tau);
  if (s.value <= 0) {
    if (!last) {
      origin = i + 1;
      for (int64_t j = 0; j < n; j++) gap[j] = f.d[j] - f.d[origin];
      lo = -width / 2;
      hi = 0;
      tau = lo;
      s = evaluate(f, left, gap, tau);
    } else {
      lo = tau;
    }
  } else {
    hi = tau;
  }
  int64_t step = 0;
  for (;; step++) {
    if (s.value > 0) hi = tau;
    else lo = tau;
    const double slope = s.below + s.above;
    if (fabs(s.value) <= kEps * (8 * s.size + fabs(tau) * slope) || hi - lo <= 2 * kEps * std::max(fabs(lo), fabs(hi))) break;
    if (step == kSecularLimit) {
      progress->converged = false;
      break;
    }
    const double p = gap[left] - tau, q = gap[left + 1] - tau;
    const double c = s.value - p * s.below - q * s.above;
    const double a = (p + q) * s.value - p * q * slope, b = p * q * s.value;
    const double root = sqrt(std::max(0.0, a * a - 4 * b * c));
    double eta;
    if (last) eta = a >= 0 ? (a + root) / (2 * c) : 2 * b / (a - root);
    else eta = a <= 0 ? (a - root) / (2 * c) : 2 * b / (a + root);
    // It must go down the slope.
    if (!(s.value * eta < 0)) eta = -s.value / slope;
    double next = tau + eta;
    if (!(next > lo && next < hi)) {
      next = lo + (hi - lo) / 2;
      // Towards a pole by factors: the root may be many orders closer to it than the bracket's middle.
      if (lo == 0 && hi > 0) next = hi / 16;
      else if (hi == 0 && lo < 0) next = lo / 16;
    }
    if (next == tau) break;
    tau = next;
    s = evaluate(f, left, gap, tau);
  }
  progress->met(step);
  const double at = f.d[origin];
  for (int64_t j = 0; j < n; j++) gap[j] -= tau;
  return at + tau;
}

struct Part {
  int64_t begin, size, left;  // left: elements of the first half; 0 for a leaf
};

struct Solver {
  int64_t n, wanted;
  double *d, *e, *z;
  int64_t ldz;
  int threads;
  int64_t* order;  // of a solved part: order[begin + r] is its r-th smallest, as offset from begin
  double *rows, *weights;  // n x n each
  double* vectors;         // 7 n
  int64_t* indices;        // 4 n
  Progress progress;
  std::atomic<int32_t> status{WHITTLE_OK};

  void leaf(const Part& p) {
    for (int64_t i = 0; i < p.size; i++) {
      double* row = z + (p.begin + i) * ldz + p.begin;
      std::fill(row, row + p.size, 0.0);
      row[i] = 1;
      order[p.begin + i] = i;
    }
    implicit_ql(p.size, d + p.begin, e + p.begin, z + p.begin * ldz + p.begin, ldz, &progress);
    const double* values = d + p.begin;
    std::sort(order + p.begin, order + p.begin + p.size,
              [&](int64_t x, int64_t y) { return values[x] < values[y] || (values[x] == values[y] && x < y); });
  }

  void join(const Part& p);
};

void Solver::join(const Part& p) {
  const SvdKernels& kernels = svd_kernels();
  const int64_t n1 = p.left, m = p.size, n2 = m - n1;
  double* const dp = d + p.begin;
  double* const zp = z + p.begin * ldz + p.begin;
  double* const base = vectors + 7 * p.begin;
  double *weight = base, *kept_d = base + m, *kept_z = base + 2 * m, *kept_z2 = base + 3 * m, *roots = base + 4 * m,
         *hat = base + 5 * m, *dropped_d = base + 6 * m;
  int64_t* const index = indices + 4 * p.begin;
  int64_t *by_value = index, *kept = index + m, *dropped = index + 2 * m, *slot = index + 3 * m;
  const double beta = e[p.begin + n1 - 1];
  double rho = 2 * fabs(beta);

  // The joining vector in terms of the halves' eigenvectors: a last and a first component, scaled to norm 1.
  const double half = sqrt(0.5);
  for (int64_t i = 0; i < n1; i++) weight[i] = half * zp[i * ldz + n1 - 1];
  for (int64_t i = n1; i < m; i++) weight[i] = (beta < 0 ? -half : half) * zp[i * ldz + n1];
  {
    const int64_t *a = order + p.begin, *b = a + n1;
    int64_t i = 0, j = 0;
    while (i < n1 || j < n2) {
      const bool first = j == n2 || (i < n1 && dp[a[i]] <= dp[n1 + b[j]]);
      by_value[i + j] = first ? a[i] : n1 + b[j];
      if (first) i++;
      else j++;
    }
  }

  // Deflation: a negligible weight leaves its eigenvector as it is; of two close values one rotation empties a weight.
  double largest_d = 0, largest_z = 0;
  for (int64_t i = 0; i < m; i++) {
    largest_d = std::max(largest_d, fabs(dp[i]));
    largest_z = std::max(largest_z, fabs(weight[i]));
  }
  const double tolerance = 8 * kEps * std::max(largest_d, largest_z);
  // By where an eigenvector is not zero: 0 first half, 1 both, 2 second half.
  int64_t* const kind = slot;
  for (int64_t i = 0; i < m; i++) kind[i] = i < n1 ? 0 : 2;
  int64_t count = 0, out = 0, previous = -1;
  for (int64_t r = 0; r < m; r++) {
    const int64_t j = by_value[r];
    if (rho * fabs(weight[j]) <= tolerance) {
      dropped[out++] = j;
      continue;
    }
    if (previous >= 0) {
      double s = weight[previous], c = weight[j];
      const double norm = hypot(c, s), gap = dp[j] - dp[previous];
      c /= norm;
      s = -s / norm;
      if (fabs(gap * c * s) <= tolerance) {
        weight[j] = norm;
        weight[previous] = 0;
        if (kind[j] != kind[previous]) kind[j] = kind[previous] = 1;
        kernels.rotate(m, c, s, zp + previous * ldz, zp + j * ldz);
        const double x = dp[previous], y = dp[j];
        dp[previous] = x * c * c + y * s * s;
        dp[j] = x * s * s + y * c * c;
        dropped[out++] = previous;
        previous = j;
        continue;
      }
      kept[count++] = previous;
    }
    previous = j;
  }
  if (previous >= 0) kept[count++] = previous;

  // Kept eigenvectors by kind: their rows are copied without the half that is zero.
  int64_t ends[4] = {0, 0, 0, 0};
  for (int64_t i = 0; i < count; i++) ends[kind[kept[i]] + 1]++;
  for (int k = 0; k < 3; k++) ends[k + 1] += ends[k];
  const int64_t upper = ends[2], lower = count - ends[1];  // rows with a first half, with a second
  double* first_rows = rows + p.begin * n;
  double* second_rows = first_rows + upper * n1;
  double* dropped_rows = second_rows + lower * n2;
  {
    int64_t at[3] = {ends[0], ends[1], ends[2]};
    for (int64_t i = 0; i < count; i++) {
      const int64_t j = kept[i], k = kind[j], to = at[k]++;
      kept_d[i] = dp[j];
      kept_z[i] = weight[j];
      by_value[i] = to;  // column of the i-th kept pole among the rows
      const double* row = zp + j * ldz;
      if (k < 2) memcpy(first_rows + to * n1, row, static_cast<size_t>(n1) * 8);
      if (k > 0) memcpy(second_rows + (to - ends[1]) * n2, row + n1, static_cast<size_t>(n2) * 8);
    }
  }
  for (int64_t i = 0; i < out; i++) {
    memcpy(dropped_rows + i * m, zp + dropped[i] * ldz, static_cast<size_t>(m) * 8);
    dropped_d[i] = dp[dropped[i]];
  }

  // Roots, the gaps to all poles (one root a row), and from them the weights for which the roots are exact.
  double norm2 = 0;
  for (int64_t i = 0; i < count; i++) norm2 += kept_z[i] * kept_z[i];
  for (int64_t i = 0; i < count; i++) kept_z2[i] = kept_z[i] * kept_z[i] / norm2;
  rho *= norm2;
  double* gaps = weights + p.begin * n;
  // The last join need not make vectors that nobody wants.
  const int64_t low = m == n ? std::max<int64_t>(0, count - wanted) : 0;
  const Secular f = {count, kept_d, kept_z2, 1 / rho, kernels};
  if (count > 0) {
    parallel_for(count, kRootsPiece, threads, [&](int64_t b, int64_t end) {
      for (int64_t i = b; i < end; i++) roots[i] = solve_secular(f, i, gaps + i * count, &progress);
    });
    parallel_for(count, kWeightsPiece, threads, [&](int64_t b, int64_t end) {
      for (int64_t j = b; j < end; j++) hat[j] = 1;
      for (int64_t i = 0; i < count; i++) {
        const double* g = gaps + i * count;
        const double di = kept_d[i];
        for (int64_t j = b; j < std::min(end, i); j++) hat[j] *= g[j] / (kept_d[j] - di);
        if (i >= b && i < end) hat[i] *= g[i];
        for (int64_t j = std::max(b, i + 1); j < end; j++) hat[j] *= g[j] / (kept_d[j] - di);
      }
      for (int64_t j = b; j < end; j++) hat[j] = copysign(sqrt(fabs(hat[j])), kept_z[j]);
    });
    parallel_for(count - low, kRootsPiece, threads, [&](int64_t b, int64_t end) {
      static thread_local Scratch scratch;
      double* line = static_cast<double*>(scratch.take(count * 8));
      if (!line) {
        status = WHITTLE_OUT_OF_MEMORY;
        return;
      }
      for (int64_t i = low + b; i < low + end; i++) {
        double* g = gaps + i * count;
        double sum = 0;
        for (int64_t j = 0; j < count; j++) {
          g[j] = hat[j] / g[j];
          sum += g[j] * g[j];
        }
        const double scale = 1 / sqrt(sum);
        for (int64_t j = 0; j < count; j++) line[by_value[j]] = g[j] * scale;
        memcpy(g, line, static_cast<size_t>(count) * 8);
      }
    });
    const Strided<double> s = rows_of<double>(gaps + low * count, count);
    WhittleStatus ok = dense_gemm({count - low, n1, upper}, s, rows_of<double>(first_rows, n1), zp + low * ldz, ldz, threads);
    if (ok == WHITTLE_OK)
      ok = dense_gemm({count - low, n2, lower}, {s.base + ends[1], count, 1}, rows_of<double>(second_rows, n2), zp + low * ldz + n1, ldz,
                      threads);
    if (ok != WHITTLE_OK) status = ok;
  }
  for (int64_t i = 0; i < out; i++) memcpy(zp + (count + i) * ldz, dropped_rows + i * m, static_cast<size_t>(m) * 8);
  for (int64_t i = 0; i < count; i++) dp[i] = roots[i];
  for (int64_t i = 0; i < out; i++) dp[count + i] = dropped_d[i];
  for (int64_t i = 0; i < m; i++) order[p.begin + i] = i;
  std::sort(order + p.begin, order + p.begin + m,
            [&](int64_t x, int64_t y) { return dp[x] < dp[y] || (dp[x] == dp[y] && x < y); });
}

// Cuts [begin, begin + size) in halves down to leaves, tearing the matrix at each cut.
void cut(int64_t begin, int64_t size, size_t depth, double* d, const double* e, std::vector<std::vector<Part>>* levels) {
  if (levels->size() <= depth) levels->resize(depth + 1);
  if (size <= kLeaf) {
    (*levels)[depth].push_back({begin, size, 0});
    return;
  }
  const int64_t left = size / 2, at = begin + left;
  (*levels)[depth].push_back({begin, size, left});
  d[at - 1] -= fabs(e[at - 1]);
  d[at] -= fabs(e[at - 1]);
  cut(begin, left, depth + 1, d, e, levels);
  cut(at, size - left, depth + 1, d, e, levels);
}

}  // namespace

Eigen tridiagonal_values(int64_t n, double* d, double* e) {
  Progress progress;
  const double norm = norm_of(n, d, e);
  if (n > 1 && norm > 0) {
    int exponent;
    frexp(norm, &exponent);
    for (int64_t i = 0; i < n; i++) {
      d[i] = ldexp(d[i], -exponent);
      if (i + 1 < n) e[i] = ldexp(e[i], -exponent);
    }
    root_free_ql(n, d, e, &progress);
    for (int64_t i = 0; i < n; i++) d[i] = ldexp(d[i], exponent);
  }
  std::sort(d, d + std::max<int64_t>(n, 0));
  return {WHITTLE_OK, progress.iterations, progress.converged};
}

Eigen tridiagonal_eigen(int64_t n, double* d, double* e, int64_t wanted, double* vectors, int64_t ldv, int threads) {
  if (n <= 0) return {WHITTLE_OK, 0, true};
  const double norm = norm_of(n, d, e);
  int exponent = 0;
  if (norm > 0) frexp(norm, &exponent);
  for (int64_t i = 0; i < n; i++) {
    d[i] = ldexp(d[i], -exponent);
    if (i + 1 < n) e[i] = ldexp(e[i], -exponent);
  }
  Workspace work;
  Solver s;
  s.n = n;
  s.d = d;
  s.e = e;
  s.ldz = n;
  s.threads = threads;
  s.z = work.take(n * n);
  s.weights = work.take(n * n);
  s.wanted = wanted;
  s.rows = ldv == n && wanted == n ? vectors : work.take(n * n);
  s.vectors = work.take(7 * n);
  s.indices = static_cast<int64_t*>(work.bytes(4 * n * 8));
  s.order = static_cast<int64_t*>(work.bytes(n * 8));
  if (!work.ok()) return {WHITTLE_OUT_OF_MEMORY, 0, false};
  std::fill(s.z, s.z + n * n, 0.0);
  std::vector<std::vector<Part>> levels;
  cut(0, n, 0, d, e, &levels);
  for (size_t l = levels.size(); l-- > 0;) {
    const std::vector<Part>& parts = levels[l];
    const auto solve = [&](const Part& p) {
      if (p.left) s.join(p);
      else s.leaf(p);
    };
    // Few large joins use the threads inside, many small ones use them side by side.
    const int64_t count = static_cast<int64_t>(parts.size());
    if (count < 4)
      for (const Part& p : parts) solve(p);
    else
      parallel_for(count, 1, threads, [&](int64_t b, int64_t end) {
        for (int64_t i = b; i < end; i++) solve(parts[static_cast<size_t>(i)]);
      });
    if (s.status != WHITTLE_OK) return {static_cast<WhittleStatus>(s.status.load()), 0, false};
  }
  for (int64_t i = 0; i < n; i++) e[i] = d[s.order[i]];
  for (int64_t i = 0; i < n; i++) d[i] = ldexp(e[i], exponent);
  for (int64_t i = 0; i < wanted; i++)
    memcpy(vectors + i * ldv, s.z + s.order[n - wanted + i] * n, static_cast<size_t>(n) * 8);
  return {WHITTLE_OK, s.progress.iterations, s.progress.converged};
}

}  // namespace whittle
