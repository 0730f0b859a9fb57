// What the drivers of the losses over logits share: rows in either format, labels and reductions.
#pragma once
#include <float.h>

#include "core/distill.h"

namespace whittle {

constexpr SoftSums kNoSums = {-FLT_MAX, 0};

// A row of logits as floats: itself, or widened block by block into `room`.
struct Row {
  Logits of;
  int64_t start;
  float* room;
  // Elements [at, at + n); valid until the next call. `room` holds them where they are bfloat16.
  const float* block(const DistillKernels& k, int64_t at, int64_t n) const {
    if (!of.half) return static_cast<const float*>(of.data) + start + at;
    k.widen(static_cast<const uint16_t*>(of.data) + start + at, n, room);
    return room;
  }
  float element(const DistillKernels& k, int64_t at) const {
    if (!of.half) return static_cast<const float*>(of.data)[start + at];
    float x;
    k.widen(static_cast<const uint16_t*>(of.data) + start + at, 1, &x);
    return x;
  }
};

// What the reduction makes of one sample's terms.
struct Scales {
  double hard, soft;  // of w_y*CE and of the divergence
};

inline bool ignored(const LogitLoss& l, int64_t row) { return l.labels && l.has_ignore && l.labels[row] == l.ignore; }

// Checks the labels and answers the factors; nothing to average gives factors of 0.
inline WhittleStatus reduce(const LogitLoss& l, Scales* scales) {
  double weight = 0, count = static_cast<double>(l.samples);
  if (l.labels) {
    count = 0;
    for (int64_t i = 0; i < l.samples; i++) {
      if (ignored(l, i)) continue;
      if (l.labels[i] < 0 || l.labels[i] >= l.classes) return WHITTLE_RANGE;
      count++;
      weight += l.class_weights ? l.class_weights[l.labels[i]] : 1.0;
    }
  }
  const bool mean = l.reduction == kDistillMean || l.reduction == kDistillBatchMean;
  if (l.reduction == kDistillMean && !l.labels) count *= static_cast<double>(l.classes);
  scales->hard = !mean ? 1 : weight > 0 ? 1 / weight : 0;
  scales->soft = !mean ? 1 : count > 0 ? 1 / count : 0;
  return WHITTLE_OK;
}

inline double total_weight(const LogitLoss& l) {
  if (!l.class_weights) return static_cast<double>(l.classes);
  double sum = 0;
  for (int64_t c = 0; c < l.classes; c++) sum += l.class_weights[c];
  return sum;
}

}  // namespace whittle
