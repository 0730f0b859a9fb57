// Losses on a device, as binding/cuda.cpp has the other operations: the device and the numbers, then tensors.
#include "binding/device.h"
#include "binding/families.h"
#include "binding/numbers.h"

namespace whittle {
namespace {

constexpr int64_t kLogitNumbers = 14;

// What every loss over logits begins with.
struct LogitNumbers {
  int64_t losses = 0;
  bool student_half = false, teacher_half = false;
  void read(Numbers& n, int32_t* device, LogitLoss* l) {
    n >> *device >> l->samples >> l->classes >> l->teachers >> l->has_ignore >> l->ignore >> l->temperature >> l->alpha >> l->beta >>
        l->smoothing >> l->reduction >> losses >> student_half >> teacher_half;
  }
};

// (numbers, student, teacher?, mix?, labels?, weights?, grad, losses?, result)
typedef WhittleStatus (*CudaBackend::*LogitSlot)(int32_t device, const LogitLoss& loss);
template <LogitSlot kSlot, bool kTeacher>
struct CudaLogits {
  int32_t device;
  LogitLoss l = {};
  DeviceUse student, teacher, mix, labels, weights, grad, losses;
  bool parse(Args& args) {
    Numbers n(args, kLogitNumbers);
    LogitNumbers more;
    more.read(n, &device, &l);
    const int64_t count = l.samples * l.classes;
    if (!args.ok() || !student.read(args, device, count * (more.student_half ? 2 : 4)) ||
        !teacher.read(args, device, l.teachers * count * (more.teacher_half ? 2 : 4), !kTeacher) || !mix.read(args, device, 4 * l.teachers, true) ||
        !labels.read(args, device, 4 * l.samples, true) || !weights.read(args, device, 4 * l.classes, true) ||
        !grad.read(args, device, 4 * count) || !losses.read(args, device, 4 * more.losses, more.losses == 0))
      return false;
    l.student = {student.as<void>(), more.student_half};
    l.teacher = {teacher.as<void>(), more.teacher_half};
    l.mix = mix.as<float>();
    l.labels = labels.as<int32_t>();
    l.class_weights = weights.as<float>();
    l.grad = grad.as<float>();
    l.losses = losses.as<float>();
    l.result = args.array<double>(3);
    return args.ok();
  }
  WhittleStatus run() { return remember_device_error((cuda().backend->*kSlot)(device, l)); }
};

// (numbers, hidden, weight, bias?, teacher's hidden?, weight?, bias?, logits?, labels?, weights?, grad, losses?, gradWeight?,
// gradBias?, result)
struct CudaLinearKl {
  int32_t device;
  CudaLinear l;
  DeviceUse own[3], other[3], given, labels, weights, grad, losses, by_weight, by_bias;
  static bool head(Args& args, int32_t device, int64_t samples, int64_t classes, DeviceUse* uses, Head* out) {
    if (!uses[0].read(args, device, 4 * samples * out->size, out->size == 0) || !uses[1].read(args, device, 4 * classes * out->size, out->size == 0) ||
        !uses[2].read(args, device, 4 * classes, true))
      return false;
    out->hidden = uses[0].as<float>();
    out->weight = uses[1].as<float>();
    out->bias = uses[2].as<float>();
    return true;
  }
  bool parse(Args& args) {
    Numbers n(args, kLogitNumbers + 4);
    LogitNumbers more;
    LogitLoss& o = l.loss;
    o = {};
    more.read(n, &device, &o);
    bool wanted = false, biased = false;
    n >> l.student.size >> l.teacher.size >> wanted >> biased;
    if (!args.ok() || l.student.size < 1 || l.teacher.size < 0 || !head(args, device, o.samples, o.classes, own, &l.student) ||
        !head(args, device, o.samples, o.classes, other, &l.teacher) ||
        !given.read(args, device, o.samples * o.classes * (more.teacher_half ? 2 : 4), l.teacher.size > 0) || !labels.read(args, device, 4 * o.samples, true) ||
        !weights.read(args, device, 4 * o.classes, true) || !grad.read(args, device, 4 * o.samples * l.student.size) ||
        !losses.read(args, device, 4 * more.losses, more.losses == 0) || !by_weight.read(args, device, 4 * o.classes * l.student.size, !wanted) ||
        !by_bias.read(args, device, 4 * o.classes, !wanted || !biased))
      return false;
    o.teacher = {given.as<void>(), more.teacher_half};
    o.labels = labels.as<int32_t>();
    o.class_weights = weights.as<float>();
    o.grad = grad.as<float>();
    o.losses = losses.as<float>();
    l.grad_weight = by_weight.as<float>();
    l.grad_bias = by_bias.as<float>();
    o.result = args.array<double>(3);
    return args.ok();
  }
  WhittleStatus run() { return remember_device_error(cuda().backend->linear_kl(device, l)); }
};

// (numbers, student, teacher, regressor?, grad, gradRegressor?, result)
struct CudaFeature {
  int32_t device;
  bool regressed;
  FeatureLoss l = {};
  DeviceUse student, teacher, regressor, grad, by_regressor;
  bool parse(Args& args) {
    Numbers n(args, 6);
    n >> device >> l.batch >> l.student_channels >> l.teacher_channels >> l.positions >> regressed;
    const int64_t own = 4 * l.batch * l.student_channels * l.positions, weights = 4 * l.student_channels * l.teacher_channels;
    if (!args.ok() || !student.read(args, device, own) || !teacher.read(args, device, 4 * l.batch * l.teacher_channels * l.positions) ||
        !regressor.read(args, device, weights, !regressed) || !grad.read(args, device, own) || !by_regressor.read(args, device, weights, !regressed))
      return false;
    l.student = student.as<float>();
    l.teacher = teacher.as<float>();
    l.regressor = regressor.as<float>();
    l.grad = grad.as<float>();
    l.grad_regressor = by_regressor.as<float>();
    l.result = args.array<double>(1);
    return args.ok();
  }
  WhittleStatus run() { return remember_device_error(cuda().backend->feature(device, l)); }
};

// (numbers, student, teacher, grad, result)
template <class Loss>
struct CudaPair {
  int32_t device;
  Loss l = {};
  DeviceUse student, teacher, grad;
  bool read(Args& args, int64_t own, int64_t other) {
    if (!args.ok() || !student.read(args, device, 4 * own) || !teacher.read(args, device, 4 * other) || !grad.read(args, device, 4 * own)) return false;
    l.student = student.as<float>();
    l.teacher = teacher.as<float>();
    l.grad = grad.as<float>();
    l.result = args.array<double>(1);
    return args.ok();
  }
};

struct CudaAttention : CudaPair<AttentionLoss> {
  bool parse(Args& args) {
    Numbers n(args, 7);
    n >> device >> l.batch >> l.student_channels >> l.teacher_channels >> l.positions >> l.power >> l.mean_form;
    return read(args, l.batch * l.student_channels * l.positions, l.batch * l.teacher_channels * l.positions);
  }
  WhittleStatus run() { return remember_device_error(cuda().backend->attention(device, l)); }
};

struct CudaRelation : CudaPair<RelationLoss> {
  bool parse(Args& args) {
    Numbers n(args, 8);
    n >> device >> l.kind >> l.samples >> l.student_size >> l.teacher_size >> l.delta >> l.gamma >> l.order;
    return read(args, l.samples * l.student_size, l.samples * l.teacher_size);
  }
  WhittleStatus run() { return remember_device_error(cuda().backend->relation(device, l)); }
};

}  // namespace

void init_cuda_distill(napi_env env, napi_value exports) {
  expose<CudaLogits<&CudaBackend::cross_entropy, false>>(env, exports, "cudaCrossEntropy", "cudaCrossEntropyAsync");
  expose<CudaLogits<&CudaBackend::kl, true>>(env, exports, "cudaKl", "cudaKlAsync");
  expose<CudaLogits<&CudaBackend::js, true>>(env, exports, "cudaJs", "cudaJsAsync");
  expose<CudaLogits<&CudaBackend::dkd, true>>(env, exports, "cudaDkd", "cudaDkdAsync");
  expose<CudaLogits<&CudaBackend::multi_teacher, true>>(env, exports, "cudaMultiTeacher", "cudaMultiTeacherAsync");
  expose<CudaLinearKl>(env, exports, "cudaLinearKl", "cudaLinearKlAsync");
  expose<CudaFeature>(env, exports, "cudaFeature", "cudaFeatureAsync");
  expose<CudaAttention>(env, exports, "cudaAttention", "cudaAttentionAsync");
  expose<CudaRelation>(env, exports, "cudaRelation", "cudaRelationAsync");
}

}  // namespace whittle
