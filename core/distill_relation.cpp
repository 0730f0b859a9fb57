// Relations inside a batch. Every gradient here is M*X with M a samples x samples matrix made from Gram matrices, X the
// student's features: no loss forms a tensor of samples^2 x size or samples^3.
//
// Distances and angles do not move with the origin, so their features are centred first and the Gram matrix is in
// double: |x|^2 + |y|^2 - 2xy in float32 would lose the distances of close points.
#include <float.h>
#include <math.h>

#include <atomic>

#include "core/distill.h"
#include "core/gemm.h"
#include "core/scratch.h"
#include "core/threads.h"

namespace whittle {
namespace {

constexpr int64_t kPanel = 48;  // columns of a product that one task owns: a multiple of every variant's tile
constexpr int64_t kRows = 8;    // rows of a samples x samples matrix that one task owns
constexpr int32_t kMostOrder = 16;
constexpr int64_t kBand = 64;   // rows of a float Gram matrix that are computed at a time

int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// The memory of one call, in parts: kept by the thread up to kKept bytes, since fresh pages cost more than the arithmetic.
class Room {
 public:
  // What `parts` arrays of together `bytes` take.
  Room(int64_t bytes, int64_t parts) {
    constexpr int64_t kKept = 16 << 20;
    static thread_local Scratch kept;
    bytes += parts * 64;
    at_ = static_cast<char*>(bytes <= kKept ? kept.take(bytes) : once_.take(bytes));
  }
  bool ok() const { return at_ != nullptr; }
  double* doubles(int64_t n) { return reinterpret_cast<double*>(cut(n * 8)); }
  float* floats(int64_t n) { return reinterpret_cast<float*>(cut(n * 4)); }

 private:
  char* cut(int64_t bytes) {
    char* p = at_;
    at_ += (bytes + 63) & ~int64_t(63);
    return p;
  }
  Scratch once_;
  char* at_;
};

// body(i) for every row; answers the sum of what it answers, added in order. `parts` has room for n.
template <class Body>
double each(int64_t n, int threads, double* parts, const Body& body) {
  parallel_for(n, kRows, threads, [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; i++) parts[i] = body(i);
  });
  double sum = 0;
  for (int64_t i = 0; i < n; i++) sum += parts[i];
  return sum;
}

// x*xT in double: only panels on and above the diagonal are computed, the largest first; the rest is mirrored.
void gram64(const double* x, int64_t n, int64_t size, double* g, int threads) {
  const int64_t panels = (n + kPanel - 1) / kPanel;
  parallel_for(panels, 1, threads, [&](int64_t from, int64_t to) {
    for (; from < to; from++) {
      const int64_t j = (panels - 1 - from) * kPanel, end = least(j + kPanel, n);
      distill_kernels().matmul64(end, end - j, size, x, size, x + j * size, 1, size, g + j, n, false);
    }
  });
  parallel_for(n, kRows, threads, [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; i++)
      for (int64_t j = 0; j < i / kPanel * kPanel; j++) g[i * n + j] = g[j * n + i];
  });
}

// x*xT: bands of rows from the diagonal on, the longest first, each in one thread; the rest is mirrored.
WhittleStatus gram32(const float* x, int64_t n, int64_t size, float* g, int threads) {
  std::atomic<int> failed{WHITTLE_OK};
  parallel_for((n + kBand - 1) / kBand, 1, threads, [&](int64_t from, int64_t to) {
    for (int64_t i = from * kBand; from < to; from++, i += kBand) {
      GemmProblem p;
      p.m = least(kBand, n - i);
      p.n = n - i;
      p.k = size;
      p.a = p.b = x + i * size;
      p.a_row = size;
      p.b_row = 1;
      p.b_col = size;
      p.c = g + i * n + i;
      p.ldc = n;
      const WhittleStatus status = gemm_f32(p, 1);
      if (status != WHITTLE_OK) failed.store(status);
    }
  });
  parallel_for(n, kBand, threads, [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; i++)
      for (int64_t j = 0; j < i / kBand * kBand; j++) g[i * n + j] = g[j * n + i];
  });
  return static_cast<WhittleStatus>(failed.load());
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

// A sum of squares of finite floats stays finite in double.
bool all_finite(const float* x, int64_t n) { return distill_kernels().square_sum(x, n) <= DBL_MAX; }

// Features less their mean, in double and (where wanted) in float, and their Gram matrix.
struct Centred {
  double *wide, *gram;
  float* narrow;
};
int64_t centred_bytes(int64_t n, int64_t size) { return 8 * (n * size + n * n + size) + 4 * n * size; }

Centred centre(const float* x, int64_t n, int64_t size, int threads, bool narrow, Room* room) {
  const Centred out = {room->doubles(n * size), room->doubles(n * n), narrow ? room->floats(n * size) : nullptr};
  double* mean = room->doubles(size);
  for (int64_t d = 0; d < size; d++) mean[d] = 0;
  for (int64_t i = 0; i < n; i++)
    for (int64_t d = 0; d < size; d++) mean[d] += x[i * size + d];
  for (int64_t d = 0; d < size; d++) mean[d] /= static_cast<double>(n);
  parallel_for(n, kRows, threads, [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; i++) {
      const float* from = x + i * size;
      double* wide = out.wide + i * size;
      for (int64_t d = 0; d < size; d++) wide[d] = from[d] - mean[d];
      if (!narrow) continue;
      float* to = out.narrow + i * size;
      for (int64_t d = 0; d < size; d++) to[d] = static_cast<float>(wide[d]);
    }
  });
  gram64(out.wide, n, size, out.gram, threads);
  return out;
}

WhittleStatus answer(double loss, double* result) {
  if (!(fabs(loss) <= FLT_MAX)) return WHITTLE_NONFINITE;
  *result = loss;
  return WHITTLE_OK;
}

// Distances in place of a Gram matrix; answers the mean of the positive ones (0 if there are none) and their number.
double distances(double* g, int64_t n, int threads, double* diagonal, double* parts, double* counts, double* count) {
  const DistillKernels& k = distill_kernels();
  for (int64_t i = 0; i < n; i++) diagonal[i] = g[i * n + i];
  const double sum = each(n, threads, parts, [&](int64_t i) {
    double sums[2];
    k.distance_row(g + i * n, diagonal, diagonal[i], n, sums);
    counts[i] = sums[1];
    return sums[0];
  });
  *count = 0;
  for (int64_t i = 0; i < n; i++) *count += counts[i];
  return *count > 0 ? sum / *count : 0;
}

// L = 1/n^2 sum huber(d_ij/mean - d'_ij/mean'), the mean differentiated too; dL/dx_i = sum_j 2 w_ij (x_i - x_j).
WhittleStatus distance_loss(const RelationLoss& l) {
  const int64_t n = l.samples;
  const DistillKernels& k = distill_kernels();
  Room room(centred_bytes(n, l.student_size) + centred_bytes(n, l.teacher_size) + 4 * n * n + 8 * 3 * n, 12);
  if (!room.ok()) return WHITTLE_OUT_OF_MEMORY;
  const Centred s = centre(l.student, n, l.student_size, l.threads, true, &room);
  const Centred t = centre(l.teacher, n, l.teacher_size, l.threads, false, &room);
  float* m = room.floats(n * n);
  double *parts = room.doubles(n), *along = room.doubles(n), *diagonal = room.doubles(n), s_count, t_count;
  const double s_mean = distances(s.gram, n, l.threads, diagonal, parts, along, &s_count);
  const double t_mean = distances(t.gram, n, l.threads, diagonal, parts, along, &t_count);
  const double entries = static_cast<double>(n) * static_cast<double>(n);
  const double fs = s_mean > 0 ? 1 / s_mean : 0, ft = t_mean > 0 ? 1 / t_mean : 0;
  const double loss = each(n, l.threads, parts, [&](int64_t i) {
    double sums[2];
    k.huber_row(s.gram + i * n, t.gram + i * n, n, fs, ft, l.delta, sums);
    along[i] = sums[1];
    return sums[0];
  });
  double shift = 0;
  for (int64_t i = 0; i < n; i++) shift += along[i];
  if (s_count > 0) shift /= s_count;
  const double scale = 2 * fs / entries;
  parallel_for(n, kRows, l.threads, [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; i++) {
      float* row = m + i * n;
      const double sum = k.distance_pull(s.gram + i * n, t.gram + i * n, n, fs, ft, l.delta, shift, scale, row);
      row[i] = static_cast<float>(sum);
    }
  });
  if (const WhittleStatus status = pull_back(m, s.narrow, n, l.student_size, l.grad, l.threads)) return status;
  return answer(loss / entries, l.result);
}

// Squared distance of two points from the Gram matrix; what rounding leaves of a distance of 0 is 0.
double squared_distance(const double* g, int64_t n, int64_t i, int64_t j) {
  const double sum = g[i * n + i] + g[j * n + j], d = sum - 2 * g[i * n + j];
  return d > sum * 0x1p-48 ? d : 0;
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
  Room room(centred_bytes(n, l.student_size) + centred_bytes(n, l.teacher_size) + 8 * 4 * n * n + 4 * n * n + 8 * n, 16);
  if (!room.ok()) return WHITTLE_OUT_OF_MEMORY;
  const Centred s = centre(l.student, n, l.student_size, l.threads, true, &room);
  const Centred t = centre(l.teacher, n, l.teacher_size, l.threads, false, &room);
  double *rs = room.doubles(n * n), *rt = room.doubles(n * n), *p = room.doubles(n * n), *pulls = room.doubles(n * n);
  double* parts = room.doubles(n);
  float* m = room.floats(n * n);
  const double *gs = s.gram, *gt = t.gram;
  inverse_distances(gs, n, rs, l.threads);
  inverse_distances(gt, n, rt, l.threads);
  // pulls[j][i] = E_ij
  const double loss = each(n, l.threads, parts, [&](int64_t j) {
    double* row = p + j * n;
    double sum = 0;
    for (int64_t i = 0; i < n; i++) row[i] = 0;
    for (int64_t i = 0; i < n; i++) {
      const double r_ij = rs[i * n + j];
      const AngleRow a = {gs + j * n, gs + i * n, rs + i * n, gt + j * n, gt + i * n, rt + i * n,
                          gs[i * n + j] - gs[i * n + i], gt[i * n + j] - gt[i * n + i], r_ij, rt[i * n + j], l.delta};
      AngleSums sums;
      k.angle_row(&a, n, row, &sums);
      sum += sums.loss;
      pulls[j * n + i] = r_ij * (r_ij * sums.cosine - sums.pull);
    }
    return sum;
  });
  const double entries = static_cast<double>(n) * static_cast<double>(n) * static_cast<double>(n), scale = 2 / entries;
  parallel_for(n, kRows, l.threads, [&](int64_t b, int64_t e) {
    for (int64_t j = b; j < e; j++) {
      double rest = 0;
      for (int64_t i = 0; i < n; i++) {
        if (i == j) continue;
        const double v = p[j * n + i] + pulls[j * n + i] + pulls[i * n + j];
        m[j * n + i] = static_cast<float>(scale * v);
        rest += v;
      }
      m[j * n + j] = static_cast<float>(-scale * rest);
    }
  });
  if (const WhittleStatus status = pull_back(m, s.narrow, n, l.student_size, l.grad, l.threads)) return status;
  return answer(loss / entries, l.result);
}

// G = F*FT with rows divided by their norms; L = |G_t - G_s|^2 / n^2.
WhittleStatus similarity_loss(const RelationLoss& l) {
  const int64_t n = l.samples;
  const DistillKernels& k = distill_kernels();
  Room room(3 * 4 * n * n + 8 * n, 4);
  if (!room.ok()) return WHITTLE_OUT_OF_MEMORY;
  float *gs = room.floats(n * n), *gt = room.floats(n * n), *m = room.floats(n * n);
  double* parts = room.doubles(n);
  if (const WhittleStatus status = gram32(l.student, n, l.student_size, gs, l.threads)) return status;
  if (const WhittleStatus status = gram32(l.teacher, n, l.teacher_size, gt, l.threads)) return status;
  const double entries = static_cast<double>(n) * static_cast<double>(n);
  const double loss = each(n, l.threads, parts, [&](int64_t i) {
    float *a = gs + i * n, *b = gt + i * n;
    const double sa = k.square_sum(a, n), sb = k.square_sum(b, n);
    const double fa = sa > 0 ? 1 / sqrt(sa) : 0, fb = sb > 0 ? 1 / sqrt(sb) : 0;
    if (!(sa <= DBL_MAX) || !(sb <= DBL_MAX)) return double(NAN);
    double sums[2];
    k.gap_row(a, b, n, fa, fb, sums);
    // the derivative by the row before it was divided by its norm: 2/n^2 * fa * (e - a*fa*along)
    const double by = 2 / entries * fa;
    k.blend_row(a, b, n, by * fa * (1 - sums[1]), -by * fb, b);
    return sums[0];
  });
  // m = gt + gtT, in tiles that stay in cache
  parallel_for((n + kBand - 1) / kBand, 1, l.threads, [&](int64_t from, int64_t to) {
    for (; from < to; from++)
      for (int64_t j0 = 0; j0 < n; j0 += kBand)
        for (int64_t i = from * kBand; i < least((from + 1) * kBand, n); i++)
          for (int64_t j = j0; j < least(j0 + kBand, n); j++) m[i * n + j] = gt[i * n + j] + gt[j * n + i];
  });
  if (const WhittleStatus status = pull_back(m, l.student, n, l.student_size, l.grad, l.threads)) return status;
  return answer(loss / entries, l.result);
}

// Rows divided by their norms; the norms' inverses, 0 for a row of zeros.
void unit_rows(const float* x, int64_t n, int64_t size, int threads, float* out, double* inverse) {
  const DistillKernels& k = distill_kernels();
  parallel_for(n, kRows, threads, [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; i++) {
      const double square = k.square_sum(x + i * size, size), f = square > 0 ? 1 / sqrt(square) : 0;
      inverse[i] = f;
      k.blend_row(x + i * size, x + i * size, size, f, 0, out + i * size);
    }
  });
}

// Gaussian kernel of unit rows, exp(-gamma |a - b|^2) = e^(-2 gamma) sum_p (2 gamma)^p/p! (a.b)^p up to `order`;
// L = 1/n^2 sum (C_s - C_t)^2.
WhittleStatus correlation_loss(const RelationLoss& l) {
  const int64_t n = l.samples, size = l.student_size;
  const DistillKernels& k = distill_kernels();
  Room room(4 * (n * size + n * l.teacher_size + 2 * n * n) + 8 * 3 * n, 7);
  if (!room.ok()) return WHITTLE_OUT_OF_MEMORY;
  float *us = room.floats(n * size), *ut = room.floats(n * l.teacher_size), *gs = room.floats(n * n), *gt = room.floats(n * n);
  double *fs = room.doubles(n), *ft = room.doubles(n), *parts = room.doubles(n);
  unit_rows(l.student, n, size, l.threads, us, fs);
  unit_rows(l.teacher, n, l.teacher_size, l.threads, ut, ft);
  if (const WhittleStatus status = gram32(us, n, size, gs, l.threads)) return status;
  if (const WhittleStatus status = gram32(ut, n, l.teacher_size, gt, l.threads)) return status;
  const double entries = static_cast<double>(n) * static_cast<double>(n), base = exp(-2 * l.gamma);
  if (l.order > kMostOrder) return WHITTLE_RANGE;
  double factors[kMostOrder];
  for (int32_t p = 1; p <= l.order; p++) factors[p - 1] = 2 * l.gamma / p;
  const double loss =
      each(n, l.threads, parts, [&](int64_t i) { return k.series_row(gs + i * n, gt + i * n, n, factors, l.order, base, 4 / entries); });
  if (const WhittleStatus status = pull_back(gs, us, n, size, l.grad, l.threads)) return status;
  parallel_for(n, kRows, l.threads, [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; i++) {
      float* g = l.grad + i * size;
      const float* u = us + i * size;
      double along = 0;
      for (int64_t d = 0; d < size; d++) along += double(g[d]) * u[d];
      k.blend_row(g, u, size, fs[i], -along * fs[i], g);
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
