// Two-dimensional convolution of float32 channels-last images: [n, h, w, c] -> [n, oh, ow, oc].
//
// groups == 1 is a product without an im2col matrix: rows are output pixels, k runs over (ky, kx, channel), and the rows of
// A are filled from the image as the product asks for them (core/gemm.h). One channel a group has kernels of its own. Other
// groups are products of their own, each with its columns of the output.
//
// Numbers: gemm's bound with k = kh * kw * c / groups.
#pragma once
#include <stdint.h>

#include "core/activation.h"

namespace whittle {

// One output row of a depthwise convolution, all channels, c == oc.
struct ConvDepthwise {
  int64_t h, w, c, ow;
  int64_t kh, kw, stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left;
  const float* x;       // image: x[(iy * w + ix) * c + channel]
  int64_t oy;
  const float* weight;  // [kh][kw][c]
  const float* bias;    // [c], or null
  Activation activation;
  float* out;           // the row: out[ox * c + channel]
};

struct ConvKernels {
  void (*depthwise)(const ConvDepthwise*);
};

}  // namespace whittle

#ifndef WHITTLE_ISA_FILE
#include "core/status.h"
#include "core/variants.h"

namespace whittle {

VariantList<ConvKernels> conv_variants();
const ConvKernels& conv_kernels();
Tier conv_tier();

struct ConvProblem {
  int64_t n, h, w, c, oh, ow, oc;
  int64_t kh, kw, stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left;
  int64_t groups;
  const float* x;
  // depthwise: [kh][kw][c]. Otherwise `groups` packed matrices of conv_packed_size floats, one after another.
  const float* weight;
  const float* bias;      // [oc], or null
  const float* residual;  // like out, added before the activation; or null
  Activation activation;
  float* out;
};

// True if weights are to be laid out for `depthwise`.
inline bool conv_is_depthwise(int64_t c, int64_t oc, int64_t groups) { return groups > 1 && groups == c && oc == c; }
// The k x n matrix of one group: weight[ky][kx][channel][output channel], packed by gemm_pack_b.
WhittleStatus conv_f32(const ConvProblem& problem, int threads);

}  // namespace whittle
#endif
