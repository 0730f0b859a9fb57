// Drivers of the losses on features: hints, attention maps and relations inside a batch.
#include <float.h>
#include <math.h>
#include <string.h>

#include <atomic>
#include <memory>
#include <new>

#include "core/distill.h"
#include "core/gemm.h"
#include "core/threads.h"

namespace whittle {
namespace {

constexpr int64_t kChunk = 16384;  // elements that are worth a thread's attention

template <class T>
std::unique_ptr<T[]> scratch(int64_t count) {
  return std::unique_ptr<T[]>(new (std::nothrow) T[static_cast<size_t>(count > 0 ? count : 1)]);
}

int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

WhittleStatus answer(double loss, double* result) {
  if (!(fabs(loss) <= FLT_MAX)) return WHITTLE_NONFINITE;
  *result = loss;
  return WHITTLE_OK;
}

// c[m][n] (+)= a*b, b's element (k, n) at b[k*b_row + n*b_column].
WhittleStatus matmul(int64_t m, int64_t n, int64_t k, const float* a, const float* b, int64_t b_row, int64_t b_column,
                     float* c, bool add, int threads) {
  GemmProblem p;
  p.m = m;
  p.n = n;
  p.k = k;
  p.a = a;
  p.a_row = k;
  p.b = b;
  p.b_row = b_row;
  p.b_col = b_column;
  p.c = c;
  p.ldc = n;
  p.beta = add ? 1 : 0;
  return gemm_f32(p, threads);
}

// The sum over a flat range, in pieces whose sums are added in order.
template <class Body>
bool piecewise(int64_t count, int64_t grain, int threads, double* sum, const Body& body) {
  const int64_t pieces = (count + grain - 1) / grain;
  std::unique_ptr<double[]> sums = scratch<double>(pieces);
  if (!sums) return false;
  parallel_for(count, grain, threads, [&](int64_t b, int64_t e) {
    for (; b < e; b += grain) sums[static_cast<size_t>(b / grain)] = body(b, least(b + grain, e));
  });
  *sum = 0;
  for (int64_t i = 0; i < pieces; i++) *sum += sums[static_cast<size_t>(i)];
  return true;
}

}  // namespace

WhittleStatus distill_feature(const FeatureLoss& l) {
  const DistillKernels& k = distill_kernels();
  const int64_t cs = l.student_channels, ct = l.teacher_channels, n = l.positions, outputs = l.batch * ct * n;
  const float scale = static_cast<float>(2 / static_cast<double>(outputs));
  double sum = 0;
  if (!l.regressor) {
    if (!piecewise(outputs, kChunk, l.threads, &sum, [&](int64_t b, int64_t e) {
          return k.squared_error(l.student + b, l.teacher + b, e - b, scale, l.grad + b);
        }))
      return WHITTLE_OUT_OF_MEMORY;
    return answer(sum / static_cast<double>(outputs), l.result);
  }
  // r(s) and then, in the same place, the derivative by it.
  std::unique_ptr<float[]> r = scratch<float>(outputs);
  if (!r) return WHITTLE_OUT_OF_MEMORY;
  WhittleStatus status = WHITTLE_OK;
  const auto run = [&](WhittleStatus s) {
    if (status == WHITTLE_OK) status = s;
  };
  // One position: the batch takes the place of the positions, [batch][channels] is one matrix.
  if (n == 1) run(matmul(l.batch, ct, cs, l.student, l.regressor, 1, cs, r.get(), false, l.threads));
  else
    for (int64_t b = 0; b < l.batch; b++)
      run(matmul(ct, n, cs, l.regressor, l.student + b * cs * n, n, 1, r.get() + b * ct * n, false, l.threads));
  if (!piecewise(outputs, kChunk, l.threads, &sum, [&](int64_t b, int64_t e) {
        return k.squared_error(r.get() + b, l.teacher + b, e - b, scale, r.get() + b);
      }))
    return WHITTLE_OUT_OF_MEMORY;
  std::unique_ptr<float[]> turned = scratch<float>(n == 1 ? outputs : cs * ct);
  if (!turned) return WHITTLE_OUT_OF_MEMORY;
  if (n == 1) {
    run(matmul(l.batch, cs, ct, r.get(), l.regressor, cs, 1, l.grad, false, l.threads));
    for (int64_t b = 0; b < l.batch; b++)
      for (int64_t c = 0; c < ct; c++) turned[static_cast<size_t>(c * l.batch + b)] = r[static_cast<size_t>(b * ct + c)];
    run(matmul(ct, cs, l.batch, turned.get(), l.student, cs, 1, l.grad_regressor, false, l.threads));
  } else {
    for (int64_t c = 0; c < ct; c++)
      for (int64_t d = 0; d < cs; d++) turned[static_cast<size_t>(d * ct + c)] = l.regressor[c * cs + d];
    for (int64_t b = 0; b < l.batch; b++) {
      run(matmul(cs, n, ct, turned.get(), r.get() + b * ct * n, n, 1, l.grad + b * cs * n, false, l.threads));
      run(matmul(ct, cs, n, r.get() + b * ct * n, l.student + b * cs * n, 1, n, l.grad_regressor, b > 0, l.threads));
    }
  }
  if (status != WHITTLE_OK) return status;
  return answer(sum / static_cast<double>(outputs), l.result);
}

namespace {

// Divides a map by its norm; answers the norm, 0 for a map of zeros, or NaN.
double normalize(float* q, int64_t n) {
  double square = 0;
  for (int64_t i = 0; i < n; i++) square += double(q[i]) * q[i];
  const double norm = sqrt(square), inverse = norm > 0 ? 1 / norm : 0;
  for (int64_t i = 0; i < n; i++) q[i] = static_cast<float>(q[i] * inverse);
  return fabs(norm) <= DBL_MAX ? norm : NAN;
}

}  // namespace

WhittleStatus distill_attention(const AttentionLoss& l) {
  const DistillKernels& k = distill_kernels();
  const int64_t n = l.positions, samples = l.batch;
  std::unique_ptr<float[]> maps = scratch<float>(2 * n * samples);
  std::unique_ptr<double[]> losses = scratch<double>(samples);
  if (!maps || !losses) return WHITTLE_OUT_OF_MEMORY;
  const int64_t work = (l.student_channels + l.teacher_channels) * n;
  parallel_for(samples, work >= kChunk ? 1 : kChunk / work, l.threads, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; b++) {
      float* qs = maps.get() + 2 * b * n;
      float* qt = qs + n;
      const float* a = l.student + b * l.student_channels * n;
      k.attention_map(a, l.student_channels, n, l.power, qs);
      k.attention_map(l.teacher + b * l.teacher_channels * n, l.teacher_channels, n, l.power, qt);
      const double norm = normalize(qs, n), teacher_norm = normalize(qt, n);
      double square = 0, along = 0;
      for (int64_t i = 0; i < n; i++) {
        const double d = double(qs[i]) - qt[i];
        square += d * d;
        along += d * qs[i];
      }
      const double gap = sqrt(square), count = static_cast<double>(samples);
      losses[static_cast<size_t>(b)] = norm == norm && teacher_norm == teacher_norm
                                           ? l.mean_form ? square / (count * static_cast<double>(n)) : gap / count
                                           : NAN;
      // dL/dq = f*(d - q*(q.d))/norm, d = q - q_teacher; where d vanishes so does the derivative.
      const double f = l.mean_form ? 2 / (count * static_cast<double>(n)) : gap > 0 ? 1 / (gap * count) : 0;
      for (int64_t i = 0; i < n; i++) {
        const double d = double(qs[i]) - qt[i];
        qt[i] = static_cast<float>(norm > 0 ? f * (d - qs[i] * along) / norm : 0);
      }
      k.attention_grad(a, l.student_channels, n, l.power, qt, l.grad + b * l.student_channels * n);
    }
  });
  double loss = 0;
  for (int64_t b = 0; b < samples; b++) loss += losses[static_cast<size_t>(b)];
  return answer(loss, l.result);
}

}  // namespace whittle
