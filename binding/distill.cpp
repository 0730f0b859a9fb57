#include "core/distill.h"

#include "binding/call.h"
#include "binding/families.h"

namespace whittle {
namespace {

// Every call: (numbers, student, teacher, ..., grad, ..., result). The numbers come in the order in which lib/kernels/distill
// lists them; the two must agree.
class Numbers {
 public:
  Numbers(Args& args, int64_t count) : at_(args.array<double>(count)), end_(at_ ? at_ + count : nullptr) {}
  bool ok() const { return at_ != nullptr; }
  template <class T>
  Numbers& operator>>(T& to) {
    to = at_ < end_ ? static_cast<T>(*at_++) : T();
    return *this;
  }

 private:
  const double* at_;
  const double* end_;
};

Logits logits(Args& args, int64_t count, bool half) {
  if (half) return {args.array<uint16_t>(count), true};
  return {args.array<float>(count), false};
}

// The numbers that every loss over logits begins with.
struct LogitNumbers {
  static constexpr int64_t kCount = 14;
  int64_t losses = 0;
  bool student_half = false, teacher_half = false;

  void read(Numbers& n, LogitLoss* l) {
    n >> l->samples >> l->classes >> l->teachers >> l->has_ignore >> l->ignore >> l->temperature >> l->alpha >> l->beta >>
        l->smoothing >> l->reduction >> l->threads >> losses >> student_half >> teacher_half;
  }
};

// (numbers, student, teacher?, mix?, labels?, weights?, grad, losses?, result)
template <WhittleStatus (*Loss)(const LogitLoss&), bool kTeacher>
struct LogitCall {
  LogitLoss l;

  bool parse(Args& args) {
    Numbers n(args, LogitNumbers::kCount);
    if (!n.ok()) return false;
    LogitNumbers more;
    more.read(n, &l);
    const int64_t count = l.samples * l.classes;
    l.student = logits(args, count, more.student_half);
    l.teacher = kTeacher ? logits(args, count * l.teachers, more.teacher_half) : Logits{args.optional<float>(0), false};
    l.mix = args.optional<float>(l.teachers);
    l.labels = args.optional<int32_t>(l.samples);
    l.class_weights = args.optional<float>(l.classes);
    l.grad = args.array<float>(count);
    l.losses = args.optional<float>(more.losses);
    l.result = args.array<double>(3);
    return args.ok();
  }

  WhittleStatus run() { return Loss(l); }
};

// (numbers, hidden, weight, bias?, teacher's hidden?, weight?, bias?, logits?, labels?, weights?, grad, losses?, gradWeight?,
// gradBias?, result)
struct LinearCall {
  LinearLoss l;

  bool parse(Args& args) {
    Numbers n(args, LogitNumbers::kCount + 3);
    if (!n.ok()) return false;
    LogitNumbers more;
    LogitLoss& o = l.loss;
    more.read(n, &o);
    bool given = false;
    n >> given >> l.student.size >> l.teacher.size;
    l.student.hidden = args.array<float>(o.samples * l.student.size);
    l.student.weight = args.array<float>(o.classes * l.student.size);
    l.student.bias = args.optional<float>(o.classes);
    l.teacher.hidden = args.optional<float>(o.samples * l.teacher.size);
    l.teacher.weight = args.optional<float>(o.classes * l.teacher.size);
    l.teacher.bias = args.optional<float>(o.classes);
    o.teacher = given ? logits(args, o.samples * o.classes, more.teacher_half) : Logits{args.optional<float>(0), false};
    o.labels = args.optional<int32_t>(o.samples);
    o.class_weights = args.optional<float>(o.classes);
    o.grad = args.array<float>(o.samples * l.student.size);
    o.losses = args.optional<float>(more.losses);
    l.grad_weight = args.optional<float>(o.classes * l.student.size);
    l.grad_bias = args.optional<float>(o.classes);
    o.result = args.array<double>(3);
    return args.ok() && (given ? !l.teacher.hidden : l.teacher.hidden && l.teacher.weight);
  }

  WhittleStatus run() { return distill_linear_kl(l); }
};

// (numbers, student, teacher, regressor?, grad, gradRegressor?, result)
struct FeatureCall {
  FeatureLoss l;

  bool parse(Args& args) {
    Numbers n(args, 5);
    if (!n.ok()) return false;
    n >> l.batch >> l.student_channels >> l.teacher_channels >> l.positions >> l.threads;
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
template <class Loss>
bool parse_pair(Args& args, int64_t own, int64_t other, Loss* l) {
  l->student = args.array<float>(own);
  l->teacher = args.array<float>(other);
  l->grad = args.array<float>(own);
  l->result = args.array<double>(1);
  return args.ok();
}

struct AttentionCall {
  AttentionLoss l;

  bool parse(Args& args) {
    Numbers n(args, 7);
    if (!n.ok()) return false;
    n >> l.batch >> l.student_channels >> l.teacher_channels >> l.positions >> l.power >> l.mean_form >> l.threads;
    return parse_pair(args, l.batch * l.student_channels * l.positions, l.batch * l.teacher_channels * l.positions, &l);
  }

  WhittleStatus run() { return distill_attention(l); }
};

struct RelationCall {
  RelationLoss l;

  bool parse(Args& args) {
    Numbers n(args, 8);
    if (!n.ok()) return false;
    n >> l.kind >> l.samples >> l.student_size >> l.teacher_size >> l.delta >> l.gamma >> l.order >> l.threads;
    return parse_pair(args, l.samples * l.student_size, l.samples * l.teacher_size, &l);
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
  expose<LinearCall>(env, exports, "distillLinearKl", "distillLinearKlAsync");
  expose<FeatureCall>(env, exports, "distillFeature", "distillFeatureAsync");
  expose<AttentionCall>(env, exports, "distillAttention", "distillAttentionAsync");
  expose<RelationCall>(env, exports, "distillRelation", "distillRelationAsync");
}

}  // namespace whittle
