// Distillation losses: every function answers a loss and its gradient with respect to the student.
//
// Kernels (cpu/distill) work on one contiguous row or a small matrix in one thread and know nothing of reductions;
// the drivers below walk the rows over the pool. Softmax statistics are "online": they may be fed piece by piece.
// Reductions follow torch: for kl "mean" divides by samples*classes, "batchmean" by samples.
#pragma once
#include <stdint.h>

namespace whittle {

// Statistics of exp((x - max) / T): max of what was seen (start: -FLT_MAX), sum relative to it (start: 0).
struct SoftSums {
  float max;
  double sum;
};

// The same for a student and a teacher, and cross = sum of exp((t - t_max)/T) * ((t - t_max) - (s - s_max)) / T.
struct PairSums {
  float s_max, t_max;
  double s_sum, t_sum, cross;
};

// One row of the angle loss: anchor i, first point j; the kernel runs over the second point k.
// cosine = (g_j[k] - (g_i[k] + q)) * r_i[k] * r_ij, g the Gram matrix, q = g_i[j] - g_i[i], r the inverse distances.
struct AngleRow {
  const double *gs_j, *gs_i, *rs_i;
  const double *gt_j, *gt_i, *rt_i;
  double qs, qt, rs_ij, rt_ij;
  double delta;  // where Huber turns linear
};

// Sums over k: Huber losses, h * cosine, h * rs_i[k] (h the derivative of Huber by the student's cosine).
struct AngleSums {
  double loss, cosine, pull;
};

// Exponentials below exp(kDistillExpCut) count as 0 in the SIMD variants.
constexpr float kDistillExpCut = -86.5f;

// A probability exp((x - max)/T) / sum of the SIMD variants differs from the exact one by at most
// (10 + 4*|x - max|/T) * 2^-24 * itself, plus 2^-124 / sum; Scalar computes in double and rounds once.
constexpr double kDistillError = 0x1p-24;

// Every slot takes any n >= 0 and unaligned pointers; inputs and outputs do not overlap unless said so.
struct DistillKernels {
  // Fold x[0..n) in. False if an element is NaN or infinite (the sums are then worthless).
  bool (*soft_sums)(const float* x, int64_t n, float inv_t, SoftSums* sums);
  bool (*pair_sums)(const float* s, const float* t, int64_t n, float inv_t, PairSums* sums);
  // g = a*exp((s - s_max)*inv_t) - b*exp((t - t_max)*inv_t)
  void (*pair_grad)(const float* s, const float* t, int64_t n, float inv_t, float s_max, float t_max, float a, float b,
                    float* g);
  // out = k * p * (log p - log q), p = exp((t - t_max)*inv_t - t_log), q likewise
  void (*pair_terms)(const float* s, const float* t, int64_t n, float inv_t, float s_max, float t_max, float s_log,
                     float t_log, float k, float* out);
  // g (+)= a*exp((x - max)*inv_t) - k*w; w null stands for ones. `add` adds to what g holds.
  void (*soft_grad)(const float* x, int64_t n, float inv_t, float max, float a, const float* w, float k, bool add, float* g);
  // Sum of w * (x - max); w null stands for ones.
  double (*soft_dot)(const float* x, int64_t n, float max, const float* w);
  // Jensen-Shannon, p and q scaled by 1/sum: *q_log = sum q*log(q/m), *p_log = sum p*log(p/m).
  void (*js_sums)(const float* s, const float* t, int64_t n, float inv_t, float s_max, float t_max, float s_scale,
                  float t_scale, double* q_log, double* p_log);
  // g = k * q * (log(q/m) - centre)
  void (*js_grad)(const float* s, const float* t, int64_t n, float inv_t, float s_max, float t_max, float s_scale,
                  float t_scale, float centre, float k, float* g);
  // p (+)= k*exp((x - max)*inv_t)
  void (*mix)(const float* x, int64_t n, float inv_t, float max, float k, bool add, float* p);
  // Answers sum of p*(log p - (s - max)*inv_t + log_sum), 0*log 0 = 0; g = k*(exp((s - max)*inv_t - log_sum) - p);
  // terms (may be null) = term_scale times the summands.
  double (*mix_grad)(const float* p, const float* s, int64_t n, float inv_t, float max, float log_sum, float k,
                     float term_scale, float* terms, float* g);
  // Answers sum of (s - t)^2; g = k*(s - t). g may be s or t.
  double (*squared_error)(const float* s, const float* t, int64_t n, float k, float* g);
  // q[i] = sum over channels of |a[c][i]|^power; power 1 to 8.
  void (*attention_map)(const float* a, int64_t channels, int64_t n, int32_t power, float* q);
  // g[c][i] = power * |a|^(power-1) * sign(a) * dq[i]
  void (*attention_grad)(const float* a, int64_t channels, int64_t n, int32_t power, const float* dq, float* g);
  // c[m][n] (+)= a[m][k] * b, b's element (k, n) at b[k*b_row + n*b_column]. Sums run over k in the same order for every
  // element, whatever its place, so equal rows give equal results.
  void (*matmul64)(int64_t m, int64_t n, int64_t k, const double* a, int64_t lda, const double* b, int64_t b_row,
                   int64_t b_column, double* c, int64_t ldc, bool add);
  // out[i] = the bfloat16 x[i], exactly
  void (*widen)(const uint16_t* x, int64_t n, float* out);
  // Rows of the other relations, in double. sums[0..2) are answered, not added to.
  // g[j] = d = sqrt(g_ii + diagonal[j] - 2*g[j]), 0 where rounding may have made it; sums: of d, and how many d > 0.
  void (*distance_row)(double* g, const double* diagonal, double g_ii, int64_t n, double* sums);
  // e = s*fs - t*ft, h its Huber derivative: sums of the loss h*(e - h/2) and of h*s*fs.
  void (*huber_row)(const double* s, const double* t, int64_t n, double fs, double ft, double delta, double* sums);
  // w = s > 0 ? k*(h - shift)/s : 0; m[j] = -w; answers the sum of w. h as above.
  double (*distance_pull)(const double* s, const double* t, int64_t n, double fs, double ft, double delta, double shift, double k,
                          float* m);
  // e = s*fs - t*ft: sums of e^2 and of e*s*fs.
  void (*gap_row)(const float* s, const float* t, int64_t n, double fs, double ft, double* sums);
  // v(x) = base*sum_(p <= order) f_1...f_p x^p, d = v(s) - v(t): answers the sum of d^2; s = k*d*v'(s).
  double (*series_row)(float* s, const float* t, int64_t n, const double* factors, int32_t order, double base, double k);
  // Sum of x^2.
  double (*square_sum)(const float* x, int64_t n);
  // out = fs*s + ft*t, rounded once; out may be s or t.
  void (*blend_row)(const float* s, const float* t, int64_t n, double fs, double ft, float* out);
  // p[k] += h*rs_i[k]*rs_ij
  void (*angle_row)(const AngleRow* row, int64_t n, double* p, AngleSums* sums);
};

}  // namespace whittle

#ifndef WHITTLE_ISA_FILE
#include "core/status.h"
#include "core/variants.h"

namespace whittle {

VariantList<DistillKernels> distill_variants();
const DistillKernels& distill_kernels();
Tier distill_tier();

// The numbers cross into lib/kernels/distill/call.ts and must not change.
enum DistillReduction : int32_t { kDistillMean = 0, kDistillBatchMean = 1, kDistillSum = 2, kDistillNone = 3 };

// Logits in float32 or bfloat16.
struct Logits {
  const void* data;
  bool half;
};

// Losses over logits, [samples][classes] each; samples and classes at least 1. Fields that a loss does not use are
// ignored. WHITTLE_NONFINITE: a NaN or infinite logit, or a loss beyond float32. WHITTLE_RANGE: a label that is neither
// a class nor ignored. After a failure the outputs hold rubbish.
struct LogitLoss {
  int64_t samples, classes;
  Logits student;
  Logits teacher;               // multi_teacher: [teachers][samples][classes]
  int64_t teachers;
  const float* mix;             // [teachers]
  const int32_t* labels;        // [samples], or null
  const float* class_weights;   // [classes], or null
  bool has_ignore;
  int32_t ignore;               // samples with this label count nowhere: no loss, no gradient, not in the mean
  double temperature, alpha, beta, smoothing;
  int32_t reduction;
  int32_t threads;
  float* grad;                  // [samples][classes]
  float* losses;                // for kDistillNone: [samples], or [samples][classes] of kl and multi_teacher without labels
  double* result;               // [3]: loss (sum for kDistillNone); dkd: target and non-target terms
};

// mean of w_y*CE over sum w_y, of logits divided by the temperature; grad.
WhittleStatus distill_cross_entropy(const LogitLoss& l);
// (1 - alpha)*CE + alpha*T^2*KL(teacher || student); without labels alpha is taken as 1 and CE left out.
WhittleStatus distill_kl(const LogitLoss& l);
WhittleStatus distill_js(const LogitLoss& l);
// T^2*(alpha*TCKD + beta*NCKD); classes at least 2.
WhittleStatus distill_dkd(const LogitLoss& l);
WhittleStatus distill_multi_teacher(const LogitLoss& l);

// kl of logits that are never held as a whole: student = hidden*weightT + bias, the teacher likewise or given. Scratch is
// a few [256 samples][2048 classes] blocks at most, less for few samples. The gradient of the weights needs a second
// pass over the vocabulary. In `loss` student and teacher are ignored but for given teacher logits; grad is
// [samples][student_size]; reduction none answers one loss a sample.
struct Head {
  int64_t size;
  const float* hidden;          // [samples][size]
  const float* weight;          // [classes][size]
  const float* bias;            // [classes], or null
};
struct LinearLoss {
  LogitLoss loss;
  Head student;
  Head teacher;                 // hidden null: loss.teacher holds its logits
  float* grad_weight;           // or null
  float* grad_bias;             // or null
};
WhittleStatus distill_linear_kl(const LinearLoss& l);

// mean((r(s) - t)^2); with a regressor [teacher_channels][student_channels] applied to [batch][channels][positions],
// without one over batch*channels*positions elements (student_channels == teacher_channels).
struct FeatureLoss {
  int64_t batch, student_channels, teacher_channels, positions;
  const float* student;
  const float* teacher;
  const float* regressor;       // or null
  int32_t threads;
  float* grad;                  // of student's shape
  float* grad_regressor;        // with regressor
  double* result;               // [1]
};
WhittleStatus distill_feature(const FeatureLoss& l);

// Attention maps of [batch][channels][positions]; `mean_form` takes the mean of squares (the authors' code) instead of
// the mean of norms (the paper). A map of zeros counts as zeros, with gradient 0.
struct AttentionLoss {
  int64_t batch, student_channels, teacher_channels, positions;
  const float* student;
  const float* teacher;
  int32_t power;
  bool mean_form;
  int32_t threads;
  float* grad;
  double* result;               // [1]
};
WhittleStatus distill_attention(const AttentionLoss& l);

enum RelationKind : int32_t { kRelationDistance = 0, kRelationAngle = 1, kRelationSimilarity = 2, kRelationCorrelation = 3 };

// Losses over relations inside a batch: student [samples][student_size], teacher [samples][teacher_size]. Scratch is a
// few samples^2 matrices and copies of the features, never samples^3. Points that coincide have distance 0 and no
// direction: they add nothing to the gradient.
struct RelationLoss {
  int32_t kind;
  int64_t samples, student_size, teacher_size;
  const float* student;
  const float* teacher;
  double delta;                 // Huber, of distance and angle
  double gamma;                 // correlation: the kernel's width
  int32_t order;                // correlation: of the Taylor series
  int32_t threads;
  float* grad;                  // [samples][student_size]
  double* result;               // [1]
};
WhittleStatus distill_relation(const RelationLoss& l);

}  // namespace whittle
#endif
