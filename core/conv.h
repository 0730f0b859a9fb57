// Convolution of float32 channels-last images, [n, h, w, c] -> [n, oh, ow, oc], or of maps of three axes, [n, d, h, w, c] ->
// [n, od, oh, ow, oc], whose kernels have a slice for each step in depth.
//
// A product without an im2col matrix, in one of two ways. `by_rows`: for each row of the kernel the taps of neighbouring
// output pixels lie at a constant distance in the image, so that the product's kernel reads them in place (rows of the
// image are copied once, with their padding, where there is padding; of a dilated kernel every dilation-th pixel side by side). Otherwise rows of A are filled from the image as the
// product asks for them (core/gemm.h), k over (ky, kx, channel). One channel a group has kernels of its own. Other groups
// are products of their own, each with its columns of the output.
//
// A third way for 3x3 windows of stride 1, `winograd`: F(4x4, 3x3) of Lavin and Gray, 2015, a quarter of the multiplications.
// Tiles of 6 x 6 inputs become 36 numbers a channel, 36 products sum over channels, and their results become 4 x 4 outputs.
// F(2x2, 3x3) takes 16 of 36 of the multiplications, and of the weights 16 numbers for 9 instead of 36: for few pixels.
//
// A fourth for few outputs, `narrow`, of which a product's kernels would leave most lanes empty: pieces of the image become planes
// in cache, and vectors hold neighbouring pixels of one output.
//
// Numbers: gemm's bound with k = kh * kw * c / groups. winograd: within 1e-5 of the largest sum of |x| |weight| of any window,
// as measured; NaN and infinities spread over their tile of 4 x 4.
#pragma once
#include <stdint.h>

#include "core/activation.h"

namespace whittle {

// Output rows [oy, oy + rows) of a depthwise convolution, c channels of an image that may have more, c == oc.
struct ConvDepthwise {
  int64_t h, w, c, ow;
  int64_t kh, kw, stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left;
  const float* x;       // image: x[(iy * w + ix) * x_step + channel]
  int64_t oy, rows;
  const float* weight;  // weight[(ky * kw + kx) * weight_step + channel]
  const float* bias;    // [c], or null
  Activation activation;
  float* out;           // the first row: out[ox * c + channel]; rows follow each other
  int64_t x_step, weight_step;
  // Slices of the kernel that meet the map, elements of x between the images that they meet; in weight they follow each other.
  int64_t slices = 1, x_slice = 0;
};

// The same of codes, without bias and activation: sums of (code - zero) * weight, exact where they stay below 2^24.
struct ConvDepthwiseCodes {
  ConvDepthwise d;  // x, bias, activation and out are not used
  const uint8_t* x;
  bool x_signed;
  int32_t zero;
  int32_t* sums;  // like out
};

// One tile of winograd's input, all channels: v[p * point + channel] of 6 x 6 pixels (tile 4) or 4 x 4 (tile 2) from (iy, ix)
// on, zeros outside of the image.
struct ConvWinogradIn {
  int64_t tile;
  int64_t h, w, c;
  const float* x;  // image
  int64_t iy, ix;
  float* v;
  int64_t point;
};

// One tile of its output: rows x cols <= tile x tile pixels from m[p * point + output channel], bias and residual added, clipped.
struct ConvWinogradOut {
  int64_t tile;
  int64_t rows, cols, oc;
  const float* m;
  int64_t point;
  const float* bias;      // [oc]
  const float* residual;  // like out, or null
  float* out;             // first pixel; pixels of a row lie side by side
  int64_t line;           // floats between rows of out and of residual
  float lo, hi;
};
constexpr int64_t conv_winograd_points(int64_t tile) { return (tile + 2) * (tile + 2); }

// Pixels of a convolution that reads planes (an image as it comes, [c][h][w]): sums over taps of x[offset[tap] + pixel * stride] *
// weight[tap * padded + channel], each added in its turn by one multiply-add.
struct ConvPlanes {
  int64_t taps, pixels, stride;
  int64_t oc, padded;     // padded: oc, rounded up to a multiple of kConvPlanesPad
  const float* x;
  const int64_t* offset;  // [taps]
  const float* weight;    // zeros beyond oc
  const float* bias;      // [oc], or null
  float* out;             // out[pixel * out_step + channel]
  int64_t out_step;
};
constexpr int64_t kConvPlanesPad = 16;

// Inputs of a block of output channels that belong to narrow groups, for every one of its 16 lanes: out[(pixel * inputs + i) * 16 + lane] is
// x[pixel * x_step + index[i * 16 + lane]].
struct ConvSpread {
  int64_t pixels, x_step, inputs;
  int64_t span;  // channels from x on that there are, above every index; at most 16
  const float* x;
  const int32_t* index;  // [inputs][16], along lanes they do not fall
  float* out;
};

// Pixels of one row of such a block: sums over rows, taps and inputs of what was spread times weight[((row * kw + kx) * inputs + i) * 16 + lane].
struct ConvGrouped {
  int64_t rows, kw, dilation_w, stride_w, inputs, pixels;
  int64_t lanes;            // of 16, that are written
  const float* const* row;  // where the first pixel's window begins in what was spread of each row
  const float* weight;
  const float* bias;        // [16]
  float* out;
  int64_t out_step;
};

// Pixels of a convolution with few outputs, from planes to planes: sums over taps of x[offset[tap] + pixel] * weight[tap * oc + channel],
// as above.
struct ConvNarrow {
  int64_t taps, pixels, oc;  // pixels: a multiple of kConvNarrowPad
  const float* x;
  const int64_t* offset;  // [taps]
  const float* weight;
  const float* bias;      // [oc], or null
  float* out;             // out[channel * out_plane + pixel]
  int64_t out_plane;
};
constexpr int64_t kConvNarrowPad = 16;

struct GemmInt8Epilogue;
struct ConvKernels {
  void (*depthwise)(const ConvDepthwise*);
  void (*winograd_in)(const ConvWinogradIn*);
  void (*winograd_out)(const ConvWinogradOut*);
  void (*depthwise_codes)(const ConvDepthwiseCodes*);
  // What gemm_int8 does to its sums (core/gemm_int8.h), from sums[r * columns + j]; column j is the epilogue's column + j.
  // out is row 0 at that column, its rows out_stride elements apart.
  void (*finish_sums)(const GemmInt8Epilogue* epilogue, int64_t rows, int64_t column, int64_t columns, int32_t* sums, void* out,
                      int64_t out_stride);
  void (*planes)(const ConvPlanes*);
  void (*narrow)(const ConvNarrow*);
  // to[j * to_stride + i] = from[i * from_stride + j] for i < rows, j < columns: pixels of channels as planes, and back.
  void (*turn)(int64_t rows, int64_t columns, const float* from, int64_t from_stride, float* to, int64_t to_stride);
  void (*spread)(const ConvSpread*);
  void (*grouped)(const ConvGrouped*);
};

}  // namespace whittle

#ifndef WHITTLE_ISA_FILE
#include "core/gemm_int8.h"
#include "core/status.h"
#include "core/variants.h"

namespace whittle {

VariantList<ConvKernels> conv_variants();
const ConvKernels& conv_kernels();
Tier conv_tier();

struct SparseMatrix;
struct ConvProblem {
  int64_t n, h, w, c, oh, ow, oc;
  int64_t kh, kw, stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left;
  int64_t groups;
  bool by_rows;   // then groups is 1, and stride_w or dilation_w
  int64_t winograd;  // 4 or 2: outputs of a tile a side; then groups, strides and dilations are 1, the window 3 x 3
  bool narrow;    // few outputs; then groups and strides are 1, there are two axes and c is not 0
  const float* x;
  // depthwise: [kh][kw][c]. narrow: [c][kh][kw][oc]. Otherwise packed matrices (gemm_packed_size floats each), one after another: `groups` of
  // kh * kw * c / groups rows, or by_rows kh of kw * c, or winograd 36 (or 16) of c: point 6 i + j (4 i + j) is (G g G')[i][j] of the window g.
  const float* weight;
  const SparseMatrix* sparse;  // instead of weight where groups is 1 and by_rows is not set: oc rows of kh * kw * c; or null
  const float* bias;      // [oc], or null
  const float* residual;  // like out, or out itself; added before the activation; or null
  Activation activation;
  float* out;
  // Of three axes. k is then over (kz, ky, kx, channel); by_rows has kd * kh matrices, winograd's have kd * c rows.
  int64_t d = 1, od = 1, kd = 1, stride_d = 1, dilation_d = 1, pad_front = 0;
};

// The same of codes: integer sums as gemm_int8 makes them and its epilogue, so that results are the same on every CPU.
// Either groups == 1, or depthwise with kh * kw <= kConvInt8Taps, where a sum of products of 8-bit numbers stays below 2^24 and
// float32 kernels serve as they are.
constexpr int64_t kConvInt8Taps = 256;
struct PackedInt8;
struct ConvInt8Problem {
  int64_t n, h, w, c, oh, ow, oc;
  int64_t kh, kw, stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left;
  const uint8_t* x;
  bool x_signed;
  int32_t x_zero;
  float x_scale;
  const PackedInt8* packed;  // [ky][kx][channel] x oc, or null: depthwise
  const SparseMatrix* sparse;  // instead of packed, as in ConvProblem
  const float* depthwise;    // [ky][kx][channel], whole numbers
  const float* scales;       // [oc], of the weights; their zero points are 0
  const float* bias;         // [oc], or null
  const float* residual;     // not depthwise: as in ConvProblem
  GemmInt8Added added;       // instead of it, codes
  Activation activation;
  int32_t out_type, out_zero;  // GemmInt8Out
  float out_scale;
  void* out;
};
WhittleStatus conv_int8(const ConvInt8Problem& problem, int threads);

WhittleStatus conv_winograd(const ConvProblem& problem, int threads);
WhittleStatus conv_narrow(const ConvProblem& problem, int threads);
// A 1x1 convolution (stride 1, one group, no padding, packed weights) and the depthwise one behind it, a strip of rows at a time,
// so that what passes between them stays in cache; first.out is not used. Rows that two strips need are computed twice.
WhittleStatus conv_pair(const ConvProblem& first, const ConvProblem& second, int threads);
// A convolution of an image with few channels as it comes, [n, c, h, w] -> [n, oh, ow, oc]. Rows are copied with zeros around
// them, which is all that is copied. Codes are what bytes_of_floats makes of the results.
struct ConvPlanesProblem {
  int64_t n, c, h, w, oh, ow, oc;
  int64_t kh, kw, stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left;
  const float* x;
  const float* weight;  // [c][ky][kx][oc, padded]
  const float* bias;    // [oc], or null
  Activation activation;
  bool codes, codes_signed;
  float scale;
  int32_t zero;
  void* out;  // floats, or codes
};
WhittleStatus conv_planes(const ConvPlanesProblem& problem, int threads);

// A convolution of groups, more than one and not depthwise. A block of output channels belongs to conv_group_block groups at once: several
// where they are narrow. Rows of a block's inputs are copied, with zeros beside them, as they are needed; sums go over rows, taps and inputs.
struct ConvGroupedProblem {
  int64_t n, h, w, c, oh, ow, oc;
  int64_t kh, kw, stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left;
  int64_t groups;
  const float* x;
  const float* weight;  // [block][ky][kx][input of a group][output channels of a block, zeros up to a multiple of 16]
  const float* bias;    // [oc], or null
  Activation activation;
  float* out;
};
WhittleStatus conv_grouped(const ConvGroupedProblem& problem, int threads);
// Groups that a block of `c` inputs and `oc` outputs a group holds; lib/session/lower/grouped.ts lays weights out by the same rule.
inline int64_t conv_group_block(int64_t c, int64_t oc) { return c <= 8 && oc <= 8 ? 16 / (c > oc ? c : oc) : 1; }

// One of its matrices of `size` numbers from the nine of the window's taps, which lie one after another.
void conv_winograd_weights(int64_t tile, int64_t size, const float* taps, int point, float* out);

// True if weights are to be laid out for `depthwise`.
inline bool conv_is_depthwise(int64_t c, int64_t oc, int64_t groups) { return groups > 1 && groups == c && oc == c; }
// The k x n matrix of one group: weight[ky][kx][channel][output channel], packed by gemm_pack_b.
WhittleStatus conv_f32(const ConvProblem& problem, int threads);

}  // namespace whittle
#endif
