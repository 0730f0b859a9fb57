#include "core/distill.h"

#include "binding/call.h"
#include "binding/families.h"

namespace whittle {
namespace {

// Every call: (numbers, student, teacher, ..., grad, ..., result). The numbers are listed in lib/kernels/distill; the
// two lists must agree.

enum LogitNumber {
  kSamples, kClasses, kTeachers, kHasIgnore, kIgnore, kTemperature, kAlpha, kBeta, kSmoothing, kReduction, kLogitThreads,
  kLosses, kStudentHalf, kTeacherHalf, kLogitNumbers,
};

Logits logits(Args& args, int64_t count, bool half, bool needed) {
  if (!needed) return {args.optional<float>(0), false};
  if (half) return {args.array<uint16_t>(count), true};
  return {args.array<float>(count), false};
}

// (numbers, student, teacher?, mix?, labels?, weights?, grad, losses?, result)
template <WhittleStatus (*Loss)(const LogitLoss&), bool kTeacher>
struct LogitCall {
  LogitLoss l;

  bool parse(Args& args) {
    const double* p = args.array<double>(kLogitNumbers);
    if (!p) return false;
    l.samples = static_cast<int64_t>(p[kSamples]);
    l.classes = static_cast<int64_t>(p[kClasses]);
    l.teachers = static_cast<int64_t>(p[kTeachers]);
    l.has_ignore = p[kHasIgnore] != 0;
    l.ignore = static_cast<int32_t>(p[kIgnore]);
    l.temperature = p[kTemperature];
    l.alpha = p[kAlpha];
    l.beta = p[kBeta];
    l.smoothing = p[kSmoothing];
    l.reduction = static_cast<int32_t>(p[kReduction]);
    l.threads = static_cast<int32_t>(p[kLogitThreads]);
    const int64_t count = l.samples * l.classes;
    l.student = logits(args, count, p[kStudentHalf] != 0, true);
    l.teacher = logits(args, count * l.teachers, p[kTeacherHalf] != 0, kTeacher);
    l.mix = args.optional<float>(l.teachers);
    l.labels = args.optional<int32_t>(l.samples);
    l.class_weights = args.optional<float>(l.classes);
    l.grad = args.array<float>(count);
    l.losses = args.optional<float>(static_cast<int64_t>(p[kLosses]));
    l.result = args.array<double>(3);
    return args.ok();
  }

  WhittleStatus run() { return Loss(l); }
};

enum FeatureNumber { kBatch, kStudentChannels, kTeacherChannels, kPositions, kPower, kMeanForm, kFeatureThreads, kFeatureNumbers };

// (numbers, student, teacher, regressor?, grad, gradRegressor?, result)
struct FeatureCall {
  FeatureLoss l;

  bool parse(Args& args) {
    const double* p = args.array<double>(kFeatureNumbers);
    if (!p) return false;
    l.batch = static_cast<int64_t>(p[kBatch]);
    l.student_channels = static_cast<int64_t>(p[kStudentChannels]);
    l.teacher_channels = static_cast<int64_t>(p[kTeacherChannels]);
    l.positions = static_cast<int64_t>(p[kPositions]);
    l.threads = static_cast<int32_t>(p[kFeatureThreads]);
    const int64_t own = l.batch * l.student_channels * l.positions, weights = l.student_channels * l.teacher_channels;
    l.student = args.array<float>(own);
    l.teacher = args.array<float>(l.batch * l.teacher_channels * l.positions);
    l.regressor = args.optional<float>(weights);
    l.grad = args.array<float>(own);
    l.grad_regressor = args.optional<float>(weights);
    l.result = args.array<double>(1);
    return args.ok() && (l.regressor ? l.grad_regressor != nullptr : l.student_channels == l.teacher_channels);
  }

  WhittleStatus run() { return distill_feature(l); }
};

// (numbers, student, teacher, grad, result)
struct AttentionCall {
  AttentionLoss l;

  bool parse(Args& args) {
    const double* p = args.array<double>(kFeatureNumbers);
    if (!p) return false;
    l.batch = static_cast<int64_t>(p[kBatch]);
    l.student_channels = static_cast<int64_t>(p[kStudentChannels]);
    l.teacher_channels = static_cast<int64_t>(p[kTeacherChannels]);
    l.positions = static_cast<int64_t>(p[kPositions]);
    l.power = static_cast<int32_t>(p[kPower]);
    l.mean_form = p[kMeanForm] != 0;
    l.threads = static_cast<int32_t>(p[kFeatureThreads]);
    const int64_t own = l.batch * l.student_channels * l.positions;
    l.student = args.array<float>(own);
    l.teacher = args.array<float>(l.batch * l.teacher_channels * l.positions);
    l.grad = args.array<float>(own);
    l.result = args.array<double>(1);
    return args.ok();
  }

  WhittleStatus run() { return distill_attention(l); }
};

enum RelationNumber { kKind, kRelationSamples, kStudentSize, kTeacherSize, kDelta, kGamma, kOrder, kRelationThreads, kRelationNumbers };

// (numbers, student, teacher, grad, result)
struct RelationCall {
  RelationLoss l;

  bool parse(Args& args) {
    const double* p = args.array<double>(kRelationNumbers);
    if (!p) return false;
    l.kind = static_cast<int32_t>(p[kKind]);
    l.samples = static_cast<int64_t>(p[kRelationSamples]);
    l.student_size = static_cast<int64_t>(p[kStudentSize]);
    l.teacher_size = static_cast<int64_t>(p[kTeacherSize]);
    l.delta = p[kDelta];
    l.gamma = p[kGamma];
    l.order = static_cast<int32_t>(p[kOrder]);
    l.threads = static_cast<int32_t>(p[kRelationThreads]);
    l.student = args.array<float>(l.samples * l.student_size);
    l.teacher = args.array<float>(l.samples * l.teacher_size);
    l.grad = args.array<float>(l.samples * l.student_size);
    l.result = args.array<double>(1);
    return args.ok();
  }

  WhittleStatus run() { return distill_relation(l); }
};

}  // namespace

void init_distill(napi_env env, napi_value exports) {
  expose<LogitCall<distill_cross_entropy, false>>(env, exports, "distillCrossEntropy", "distillCrossEntropyAsync");
  expose<LogitCall<distill_kl, true>>(env, exports, "distillKl", "distillKlAsync");
  expose<LogitCall<distill_js, true>>(env, exports, "distillJs", "distillJsAsync");
  expose<LogitCall<distill_dkd, true>>(env, exports, "distillDkd", "distillDkdAsync");
  expose<LogitCall<distill_multi_teacher, true>>(env, exports, "distillMultiTeacher", "distillMultiTeacherAsync");
  expose<FeatureCall>(env, exports, "distillFeature", "distillFeatureAsync");
  expose<AttentionCall>(env, exports, "distillAttention", "distillAttentionAsync");
  expose<RelationCall>(env, exports, "distillRelation", "distillRelationAsync");
}

}  // namespace whittle
