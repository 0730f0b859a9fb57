// The pass over a finished block of C: bias and activation, written once for every ISA over activation_<isa>.h, which the
// including file has chosen. One loop for each kind, so that nothing but its arithmetic is in it.
#pragma once
#include "core/activation.h"

template <int32_t kKind>
static void finish_kind(int64_t rows, int64_t cols, float* c, int64_t ldc, const float* bias, vf lo, vf hi) {
  const vf none = v_set(0.0f);
  for (int64_t i = 0; i < rows; i++, c += ldc) {
    int64_t j = 0;
    for (; j + VF_LANES <= cols; j += VF_LANES) {
      vf x = v_load(c + j);
      if (bias) x = v_add(x, v_load(bias + j));
      v_store(c + j, act_apply(x, kKind, lo, hi));
    }
    if (j == cols) continue;
    vf x = v_load_part(c + j, cols - j, none);
    if (bias) x = v_add(x, v_load_part(bias + j, cols - j, none));
    v_store_part(c + j, act_apply(x, kKind, lo, hi), cols - j);
  }
}

static void finish(int64_t rows, int64_t cols, float* c, int64_t ldc, const float* bias, const whittle::Activation* act) {
  const vf lo = v_set(act->lo), hi = v_set(act->hi);
  switch (act->kind) {
#define KIND(kind) \
  case whittle::kind: return finish_kind<whittle::kind>(rows, cols, c, ldc, bias, lo, hi);
    KIND(kActivationClip)
    KIND(kActivationHardswish)
    KIND(kActivationHardswishAffine)
    KIND(kActivationSigmoid)
    KIND(kActivationTanh)
    KIND(kActivationSilu)
    KIND(kActivationGelu)
    KIND(kActivationGeluTanh)
#undef KIND
    default: return finish_kind<whittle::kActivationNone>(rows, cols, c, ldc, bias, lo, hi);
  }
}
