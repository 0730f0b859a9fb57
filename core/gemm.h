// float32 products: C = activation(alpha * A * B + beta * C + bias).
//
// Blocking (see gemm.cpp): a task owns a rectangle of C. For each block of k it packs its columns of B into panels that
// stay in L2, then takes A a few rows at a time: `fill` copies them into a small buffer of fixed row stride that stays
// in L1, and `tile` multiplies them with all panels. Whoever can fill that buffer gets a product without materialising
// A: a convolution copies pieces of its input rows (no im2col matrix).
//
// Numbers: every element of C is a chain of fused multiply-adds over k in order, cut at k blocks (see gemm_k_block) and
// combined in order, or for `dot` and `pairs` a fixed tree; so a result depends on the variant and the shape, never on the number
// of threads. |error| <= gamma_(k+4) * (|alpha| |A||B| + |beta C| + |bias|), gamma_n = n u / (1 - n u), u = 2^-24, then
// the activation's own (core/activation.h). NaN and infinities follow IEEE arithmetic; 0 * inf is NaN. beta == 0 never
// reads C. alpha is an ordinary factor, so alpha == 0 lets NaN of A and B through.
#pragma once
#include <stdint.h>

#include "core/activation.h"

namespace whittle {

constexpr int64_t kGemmMaxK = 384;       // longest block of k that `tile` sees
constexpr int64_t kGemmRowStride = 400;  // floats between rows of the A buffer: no two of 16 rows share a cache set
constexpr int64_t kGemmMaxRows = 32;     // most rows in one call of `tile`

// c[i,j] = alpha * sum_p a[i,p] b[p,j] + beta * c[i,j], then + bias[j], then clip to [lo, hi].
struct GemmTile {
  int64_t rows, cols, k;             // rows <= kGemmMaxRows, k <= kGemmMaxK, all >= 1
  const float* a;                    // a[i * a_row + p]
  int64_t a_row;
  const float* b;                    // columns in panels of nr: panel q, row p at b[q * b_panel + p * b_row]
  int64_t b_row, b_panel;
  bool b_padded;                     // every panel may be read to its full width
  bool cold;                         // packed b comes from memory: worth prefetching (a hint)
  float* c;
  int64_t ldc;
  float alpha, beta;                 // beta 0: c is not read
  const float* bias;                 // per column, or null
  float lo, hi;                      // -inf and inf: no clip
  // What the caller reads next, to be brought near meanwhile (a hint; null: nothing): strips of floats.
  const float* ahead;
  int64_t ahead_stride, ahead_strips, ahead_length;
};

// c[i * c_i + j * c_j] = alpha * x_i . y_j + beta * c[...]: few rows of x (kept in cache), many of y (streamed once).
struct GemmDot {
  int64_t few, many, k;              // 1 <= few <= kGemmMaxFew
  const float* x;                    // few rows, x_row apart
  int64_t x_row;
  const float* y;
  int64_t y_row;
  float* c;
  int64_t c_i, c_j;
  float alpha, beta;
};
constexpr int64_t kGemmMaxFew = 4;
// `narrow` takes the same with 1 <= few <= kGemmNarrow; its x is interleaved and padded: x[p * kGemmNarrow + i].
constexpr int64_t kGemmNarrow = 16;
// `pairs` takes 1 <= few <= kGemmPairs and two elements of each row of x side by side: x[p / 2 * 16 + 2 * i + p % 2], zeros
// past the last element and row.
constexpr int64_t kGemmPairs = 8;

// y[j] = sum_p x[p] b[p, j]; b streamed once, in order.
struct GemmAxpy {
  int64_t k, cols;
  const float* x;
  const float* b;
  int64_t b_row;
  float* y;
};

struct GemmKernels {
  int32_t mr, nr;  // rows and columns of the register tile; nr is also the width of a panel of packed B
  // out[i * kGemmRowStride + p] = a[i * row + p * col]; one of the strides is 1.
  void (*pack_a)(int64_t rows, int64_t k, const float* a, int64_t row, int64_t col, float* out);
  // out[q * panel + p * nr + j] = b[p * row + (q * nr + j) * col], zeros past the last column; one of the strides is 1.
  void (*pack_b)(int64_t k, int64_t cols, const float* b, int64_t row, int64_t col, float* out, int64_t panel);
  void (*tile)(const GemmTile*);
  void (*dot)(const GemmDot*);
  void (*narrow)(const GemmDot*);
  void (*pairs)(const GemmDot*);  // or null: then `narrow` serves
  void (*axpy)(const GemmAxpy*);
  // c = activation(c + bias), in place; bias may be null.
  void (*finish)(int64_t rows, int64_t cols, float* c, int64_t ldc, const float* bias, const Activation* activation);
};

}  // namespace whittle

#ifndef WHITTLE_ISA_FILE
#include "core/status.h"
#include "core/variants.h"

namespace whittle {

VariantList<GemmKernels> gemm_variants();
Tier gemm_tier();

// Kernels with the blocking that suits them and this machine's caches.
struct GemmEngine {
  GemmKernels kernels;
  int64_t max_k;       // longest block of k: a tile's rows of A take at most two thirds of L1
  int64_t block_cols;  // columns of packed B that stay in L2
};
GemmEngine gemm_engine(const GemmKernels& kernels);
const GemmEngine& gemm_default();  // the strongest variant allowed

// Copies rows [row, row + rows) and columns [k, k + length) of A to out, kGemmRowStride floats a row.
typedef void (*GemmFill)(const void* context, int64_t row, int64_t rows, int64_t k, int64_t length, float* out);

// Writes rows [k, k + length) and columns [col, col + cols) of B as `pack_b` does; col is a multiple of nr.
typedef void (*GemmPackB)(const void* context, int64_t k, int64_t length, int64_t col, int64_t cols, float* out,
                          int64_t panel);

struct GemmProblem {
  int64_t m = 0, n = 0, k = 0;
  const float* a = nullptr;              // a[i * a_row + p * a_col], one stride 1
  int64_t a_row = 0, a_col = 1;
  GemmFill fill = nullptr;               // instead of a; then batch must be 1
  const void* fill_context = nullptr;
  const float* b = nullptr;              // b[p * b_row + j * b_col], one stride 1
  int64_t b_row = 0, b_col = 1;
  GemmPackB pack = nullptr;              // instead of b, which lies in another form; then batch must be 1
  const void* pack_context = nullptr;
  const float* packed = nullptr;         // instead of b: what gemm_pack_b wrote for this k and n; batch must be 1
  float* c = nullptr;
  int64_t ldc = 0;
  const float* source = nullptr;         // not null: beta multiplies this instead of what c holds
  int64_t source_row = 0, source_col = 0;  // 0 repeats
  float alpha = 1, beta = 0;
  const float* bias = nullptr;           // n floats
  Activation activation = {kActivationNone, 0, 0};
  int64_t batch = 1;                     // products; c's lie c_batch apart
  int64_t a_batch = 0, b_batch = 0, source_batch = 0, c_batch = 0;
  const int32_t* map = nullptr;          // batch triples: which matrix of a, b, source; null: 0, 1, 2, … of each
};

// threads 0: the limit. c must not overlap any input (source may be null or distinct memory).
WhittleStatus gemm_f32(const GemmProblem& problem, int threads, const GemmEngine& engine = gemm_default());

// Where blocks of k end: every gemm_k_block(k) elements.
int64_t gemm_k_block(int64_t k, const GemmEngine& engine = gemm_default());

// Prepacked weights: floats needed, and the packing. The layout belongs to this process's variant; never store it.
int64_t gemm_packed_size(int64_t k, int64_t n, const GemmEngine& engine = gemm_default());
WhittleStatus gemm_pack_b(int64_t k, int64_t n, const float* b, int64_t row, int64_t col, float* out, int threads,
                          const GemmEngine& engine = gemm_default());

}  // namespace whittle
#endif
