// Relations inside a batch. Every gradient here is M*X with M a samples x samples matrix made from Gram matrices, X the
// student's features: no loss forms a tensor of samples^2 x size or samples^3.
//
// Distances and angles do not move with the origin, so their features are centred first and the Gram matrix is in
// double: |x|^2 + |y|^2 - 2xy in float32 would lose the distances of close points.
#include <float.h>
#include <math.h>

#include <memory>
#include <new>

#include "core/distill.h"
#include "core/gemm.h"
#include "core/threads.h"

namespace whittle {
namespace {

constexpr int64_t kPanel = 48;  // columns of a product that one task owns: a multiple of every variant's tile
constexpr int64_t kRows = 8;    // rows of a samples x samples matrix that one task owns

typedef std::unique_ptr<double[]> Doubles;
typedef std::unique_ptr<float[]> Floats;
Doubles doubles(int64_t n) { return Doubles(new (std::nothrow) double[static_cast<size_t>(n)]); }
Floats floats(int64_t n) { return Floats(new (std::nothrow) float[static_cast<size_t>(n)]); }
int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// body(i) for every row; answers the sum of what it answers, added in order.
template <class Body>
bool each(int64_t n, int threads, double* sum, const Body& body) {
  Doubles parts = doubles(n);
  if (!parts) return false;
  parallel_for(n, kRows, threads, [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; i++) parts[static_cast<size_t>(i)] = body(i);
  });
  *sum = 0;
  for (int64_t i = 0; i < n; i++) *sum += parts[static_cast<size_t>(i)];
  return true;
}

// x*xT in double: only panels on and above the diagonal are computed, the rest is mirrored.
void gram64(const double* x, int64_t n, int64_t size, double* g, int threads) {
  parallel_for((n + kPanel - 1) / kPanel, 1, threads, [&](int64_t from, int64_t to) {
    for (; from < to; from++) {
      const int64_t j = from * kPanel, end = least(j + kPanel, n);
      distill_kernels().matmul64(end, end - j, size, x, size, x + j * size, 1, size, g + j, n, false);
    }
  });
  parallel_for(n, kRows, threads, [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; i++)
      for (int64_t j = 0; j < i / kPanel * kPanel; j++) g[i * n + j] = g[j * n + i];
  });
}

WhittleStatus gram32(const float* x, int64_t n, int64_t size, float* g, int threads) {
  GemmProblem p;
  p.m = p.n = n;
  p.k = size;
  p.a = p.b = x;
  p.a_row = size;
  p.b_row = 1;
  p.b_col = size;
  p.c = g;
  p.ldc = n;
  return gemm_f32(p, threads);
}

// grad = m*x
WhittleStatus pull_back(const float* m, const float* x, int64_t n, int64_t size, float* grad, int threads) {
  GemmProblem p;
  p.m = p.k = n;
  p.n = size;
  p.a = m;
  p.a_row = n;
  p.b = x;
  p.b_row = size;
  p.b_col = 1;
  p.c = grad;
  p.ldc = size;
  return gemm_f32(p, threads);
}

bool all_finite(const float* x, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    if (!(fabsf(x[i]) <= FLT_MAX)) return false;
  return true;
}

// Features less their mean, in double and (where wanted) in float, and their Gram matrix.
struct Centred {
  Doubles wide, gram;
  Floats narrow;
};
bool centre(const float* x, int64_t n, int64_t size, int threads, bool narrow, Centred* out) {
  out->wide = doubles(n * size);
  out->gram = doubles(n * n);
  if (narrow) out->narrow = floats(n * size);
  Doubles mean = doubles(size);
  if (!out->wide || !out->gram || !mean || (narrow && !out->narrow)) return false;
  for (int64_t d = 0; d < size; d++) mean[static_cast<size_t>(d)] = 0;
  for (int64_t i = 0; i < n; i++)
    for (int64_t d = 0; d < size; d++) mean[static_cast<size_t>(d)] += x[i * size + d];
  for (int64_t d = 0; d < size; d++) mean[static_cast<size_t>(d)] /= static_cast<double>(n);
  parallel_for(n, kRows, threads, [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; i++)
      for (int64_t d = 0; d < size; d++) {
        const double v = x[i * size + d] - mean[static_cast<size_t>(d)];
        out->wide[static_cast<size_t>(i * size + d)] = v;
        if (narrow) out->narrow[static_cast<size_t>(i * size + d)] = static_cast<float>(v);
      }
  });
  gram64(out->wide.get(), n, size, out->gram.get(), threads);
  return true;
}

// Squared distance of two points from the Gram matrix; what rounding leaves of a distance of 0 is 0.
double squared_distance(const double* g, int64_t n, int64_t i, int64_t j) {
  const double sum = g[i * n + i] + g[j * n + j], d = sum - 2 * g[i * n + j];
  return d > sum * 0x1p-48 ? d : 0;
}

WhittleStatus answer(double loss, double* result) {
  if (!(fabs(loss) <= FLT_MAX)) return WHITTLE_NONFINITE;
  *result = loss;
  return WHITTLE_OK;
}

double clip(double x, double delta) { return x > delta ? delta : x < -delta ? -delta : x; }

// Distances in place of a Gram matrix; answers the mean of the positive ones (0 if there are none) and their number.
bool distances(double* g, int64_t n, int threads, double* mean, double* count) {
  Doubles out = doubles(n * n), counts = doubles(n);
  if (!out || !counts) return false;
  double sum = 0;
  if (!each(n, threads, &sum, [&](int64_t i) {
        double row = 0, positive = 0;
        for (int64_t j = 0; j < n; j++) {
          const double d = i == j ? 0 : sqrt(squared_distance(g, n, i, j));
          out[static_cast<size_t>(i * n + j)] = d;
          row += d;
          positive += d > 0;
        }
        counts[static_cast<size_t>(i)] = positive;
        return row;
      }))
    return false;
  *count = 0;
  for (int64_t i = 0; i < n; i++) *count += counts[static_cast<size_t>(i)];
  *mean = *count > 0 ? sum / *count : 0;
  for (int64_t i = 0; i < n * n; i++) g[i] = out[static_cast<size_t>(i)];
  return true;
}

// L = 1/n^2 sum huber(d_ij/mean - d'_ij/mean'), the mean differentiated too; dL/dx_i = sum_j 2 w_ij (x_i - x_j).
WhittleStatus distance_loss(const RelationLoss& l) {
  const int64_t n = l.samples;
  Centred s, t;
  double s_mean, t_mean, s_count, t_count;
  Floats m = floats(n * n);
  Doubles along = doubles(n);
  if (!m || !along || !centre(l.student, n, l.student_size, l.threads, true, &s) ||
      !centre(l.teacher, n, l.teacher_size, l.threads, false, &t) ||
      !distances(s.gram.get(), n, l.threads, &s_mean, &s_count) || !distances(t.gram.get(), n, l.threads, &t_mean, &t_count))
    return WHITTLE_OUT_OF_MEMORY;
  const double entries = static_cast<double>(n) * static_cast<double>(n);
  const double fs = s_mean > 0 ? 1 / s_mean : 0, ft = t_mean > 0 ? 1 / t_mean : 0;
  const double *ds = s.gram.get(), *dt = t.gram.get();
  double loss = 0, shift = 0;
  if (!each(n, l.threads, &loss, [&](int64_t i) {
        double sum = 0, by_mean = 0;
        for (int64_t j = 0; j < n; j++) {
          const double a = ds[i * n + j] * fs, d = a - dt[i * n + j] * ft, h = clip(d, l.delta);
          sum += h * (d - 0.5 * h);
          by_mean += h * a;
        }
        along[static_cast<size_t>(i)] = by_mean;
        return sum;
      }))
    return WHITTLE_OUT_OF_MEMORY;
  for (int64_t i = 0; i < n; i++) shift += along[static_cast<size_t>(i)];
  if (s_count > 0) shift /= s_count;
  parallel_for(n, kRows, l.threads, [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; i++) {
      double total = 0;
      for (int64_t j = 0; j < n; j++) {
        const double d = ds[i * n + j], h = clip(d * fs - dt[i * n + j] * ft, l.delta);
        const double w = d > 0 ? 2 * fs * (h - shift) / (d * entries) : 0;
        total += w;
        m[static_cast<size_t>(i * n + j)] = static_cast<float>(-w);
      }
      m[static_cast<size_t>(i * n + i)] = static_cast<float>(total);
    }
  });
  if (const WhittleStatus status = pull_back(m.get(), s.narrow.get(), n, l.student_size, l.grad, l.threads)) return status;
  return answer(loss / entries, l.result);
}

// inverse[i][j] = 1/|x_i - x_j|, 0 where they coincide
void inverse_distances(const double* g, int64_t n, double* inverse, int threads) {
  parallel_for(n, kRows, threads, [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; i++)
      for (int64_t j = 0; j < n; j++) {
        const double d = i == j ? 0 : squared_distance(g, n, i, j);
        inverse[i * n + j] = d > 0 ? 1 / sqrt(d) : 0;
      }
  });
}

// cos_i(j,k) = (G_jk - G_ij - G_ik + G_ii) / (d_ij d_ik). With h the derivative of Huber, W_i(j,k) = 2 h / (d_ij d_ik),
// c_ij = 2/d_ij^2 sum_k h cos_i(j,k) and R_ij = sum_k W_i(j,k) the gradient is M*X,
// M = P + E + ET + diag, P = sum_i W_i, E = c - R, every row of M adding up to 0.
WhittleStatus angle_loss(const RelationLoss& l) {
  const int64_t n = l.samples;
  const DistillKernels& k = distill_kernels();
  Centred s, t;
  Doubles rs = doubles(n * n), rt = doubles(n * n), p = doubles(n * n), pulls = doubles(n * n);
  Floats m = floats(n * n);
  if (!rs || !rt || !p || !pulls || !m || !centre(l.student, n, l.student_size, l.threads, true, &s) ||
      !centre(l.teacher, n, l.teacher_size, l.threads, false, &t))
    return WHITTLE_OUT_OF_MEMORY;
  const double *gs = s.gram.get(), *gt = t.gram.get();
  inverse_distances(gs, n, rs.get(), l.threads);
  inverse_distances(gt, n, rt.get(), l.threads);
  double loss = 0;
  // pulls[j][i] = E_ij
  if (!each(n, l.threads, &loss, [&](int64_t j) {
        double* row = p.get() + j * n;
        double sum = 0;
        for (int64_t i = 0; i < n; i++) row[i] = 0;
        for (int64_t i = 0; i < n; i++) {
          const double r_ij = rs[static_cast<size_t>(i * n + j)];
          const AngleRow a = {gs + j * n, gs + i * n, rs.get() + i * n, gt + j * n, gt + i * n, rt.get() + i * n,
                              gs[i * n + j] - gs[i * n + i], gt[i * n + j] - gt[i * n + i],
                              r_ij, rt[static_cast<size_t>(i * n + j)], l.delta};
          AngleSums sums;
          k.angle_row(&a, n, row, &sums);
          sum += sums.loss;
          pulls[static_cast<size_t>(j * n + i)] = r_ij * (r_ij * sums.cosine - sums.pull);
        }
        return sum;
      }))
    return WHITTLE_OUT_OF_MEMORY;
  const double entries = static_cast<double>(n) * static_cast<double>(n) * static_cast<double>(n), scale = 2 / entries;
  parallel_for(n, kRows, l.threads, [&](int64_t b, int64_t e) {
    for (int64_t j = b; j < e; j++) {
      double rest = 0;
      for (int64_t i = 0; i < n; i++) {
        if (i == j) continue;
        const double v = p[static_cast<size_t>(j * n + i)] + pulls[static_cast<size_t>(j * n + i)] +
                         pulls[static_cast<size_t>(i * n + j)];
        m[static_cast<size_t>(j * n + i)] = static_cast<float>(scale * v);
        rest += v;
      }
      m[static_cast<size_t>(j * n + j)] = static_cast<float>(-scale * rest);
    }
  });
  if (const WhittleStatus status = pull_back(m.get(), s.narrow.get(), n, l.student_size, l.grad, l.threads)) return status;
  return answer(loss / entries, l.result);
}

// G = F*FT with rows divided by their norms; L = |G_t - G_s|^2 / n^2.
WhittleStatus similarity_loss(const RelationLoss& l) {
  const int64_t n = l.samples;
  Floats gs = floats(n * n), gt = floats(n * n), m = floats(n * n);
  if (!gs || !gt || !m) return WHITTLE_OUT_OF_MEMORY;
  if (const WhittleStatus status = gram32(l.student, n, l.student_size, gs.get(), l.threads)) return status;
  if (const WhittleStatus status = gram32(l.teacher, n, l.teacher_size, gt.get(), l.threads)) return status;
  const double entries = static_cast<double>(n) * static_cast<double>(n);
  double loss = 0;
  if (!each(n, l.threads, &loss, [&](int64_t i) {
        float *a = gs.get() + i * n, *b = gt.get() + i * n;
        double sa = 0, sb = 0, sum = 0, along = 0;
        for (int64_t j = 0; j < n; j++) {
          sa += double(a[j]) * a[j];
          sb += double(b[j]) * b[j];
        }
        const double fa = sa > 0 ? 1 / sqrt(sa) : 0, fb = sb > 0 ? 1 / sqrt(sb) : 0;
        if (!(sa <= DBL_MAX) || !(sb <= DBL_MAX)) return double(NAN);
        for (int64_t j = 0; j < n; j++) {
          const double d = a[j] * fa - b[j] * fb;
          sum += d * d;
          along += d * a[j] * fa;
        }
        for (int64_t j = 0; j < n; j++) {
          const double d = a[j] * fa - b[j] * fb;
          b[j] = static_cast<float>(2 / entries * fa * (d - a[j] * fa * along));
        }
        return sum;
      }))
    return WHITTLE_OUT_OF_MEMORY;
  for (int64_t i = 0; i < n; i++)
    for (int64_t j = 0; j < n; j++)
      m[static_cast<size_t>(i * n + j)] = gt[static_cast<size_t>(i * n + j)] + gt[static_cast<size_t>(j * n + i)];
  if (const WhittleStatus status = pull_back(m.get(), l.student, n, l.student_size, l.grad, l.threads)) return status;
  return answer(loss / entries, l.result);
}

// Rows divided by their norms; the norms' inverses, 0 for a row of zeros.
bool unit_rows(const float* x, int64_t n, int64_t size, int threads, Floats* out, Doubles* inverse) {
  *out = floats(n * size);
  *inverse = doubles(n);
  if (!*out || !*inverse) return false;
  parallel_for(n, kRows, threads, [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; i++) {
      double square = 0;
      for (int64_t d = 0; d < size; d++) square += double(x[i * size + d]) * x[i * size + d];
      const double f = square > 0 ? 1 / sqrt(square) : 0;
      (*inverse)[static_cast<size_t>(i)] = f;
      for (int64_t d = 0; d < size; d++) (*out)[static_cast<size_t>(i * size + d)] = static_cast<float>(x[i * size + d] * f);
    }
  });
  return true;
}

// Gaussian kernel of unit rows, exp(-gamma |a - b|^2) = e^(-2 gamma) sum_p (2 gamma)^p/p! (a.b)^p up to `order`;
// L = 1/n^2 sum (C_s - C_t)^2.
WhittleStatus correlation_loss(const RelationLoss& l) {
  const int64_t n = l.samples, size = l.student_size;
  Floats us, ut, gs = floats(n * n), gt = floats(n * n);
  Doubles fs, ft;
  if (!gs || !gt || !unit_rows(l.student, n, size, l.threads, &us, &fs) ||
      !unit_rows(l.teacher, n, l.teacher_size, l.threads, &ut, &ft))
    return WHITTLE_OUT_OF_MEMORY;
  if (const WhittleStatus status = gram32(us.get(), n, size, gs.get(), l.threads)) return status;
  if (const WhittleStatus status = gram32(ut.get(), n, l.teacher_size, gt.get(), l.threads)) return status;
  const double entries = static_cast<double>(n) * static_cast<double>(n), base = exp(-2 * l.gamma);
  // Horner on sum_p (2 gamma)^p/p! x^p and its derivative.
  const auto series = [&](double x, double* slope) {
    double value = 1, derivative = 0;
    for (int32_t p = l.order; p >= 1; p--) {
      const double f = 2 * l.gamma / p;
      derivative = f * (value + x * derivative);
      value = 1 + f * x * value;
    }
    *slope = base * derivative;
    return base * value;
  };
  double loss = 0;
  if (!each(n, l.threads, &loss, [&](int64_t i) {
        double sum = 0, slope, unused;
        for (int64_t j = 0; j < n; j++) {
          const double d = series(gs[static_cast<size_t>(i * n + j)], &slope) - series(gt[static_cast<size_t>(i * n + j)], &unused);
          sum += d * d;
          gs[static_cast<size_t>(i * n + j)] = static_cast<float>(4 / entries * d * slope);
        }
        return sum;
      }))
    return WHITTLE_OUT_OF_MEMORY;
  if (const WhittleStatus status = pull_back(gs.get(), us.get(), n, size, l.grad, l.threads)) return status;
  parallel_for(n, kRows, l.threads, [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; i++) {
      float* g = l.grad + i * size;
      const float* u = us.get() + i * size;
      double along = 0;
      for (int64_t d = 0; d < size; d++) along += double(g[d]) * u[d];
      for (int64_t d = 0; d < size; d++) g[d] = static_cast<float>((g[d] - along * u[d]) * fs[static_cast<size_t>(i)]);
    }
  });
  return answer(loss / entries, l.result);
}

}  // namespace

WhittleStatus distill_relation(const RelationLoss& l) {
  if (!all_finite(l.student, l.samples * l.student_size) || !all_finite(l.teacher, l.samples * l.teacher_size))
    return WHITTLE_NONFINITE;
  switch (l.kind) {
    case kRelationDistance:
      return distance_loss(l);
    case kRelationAngle:
      return angle_loss(l);
    case kRelationSimilarity:
      return similarity_loss(l);
    default:
      return correlation_loss(l);
  }
}

}  // namespace whittle
