// Integer matrix products: y = epilogue((a - aZero) (b - bZero[n])), 8-bit operands, exact 32-bit sums.
//
// One definition for every variant. With w = the exact integer sum plus the integer bias (it fits 32 bits, or the call is
// refused), s[n] = fl(aScale * bScale[n]) and fl() one rounding to float32:
//   int32   y = w
//   float32 y = act(fl(fl(fl(float(w) * s[n]) + bias[n]) + residual)), a residual of codes fl(float(code - its zero) * its scale)
//   int8/uint8 y = saturate(roundHalfEven(fl(that / outScale)) + outZero)
// Each product, sum and division rounds separately. Activations are those of cpu/gemm/activation_math.h with a true division,
// the scalar variant's too (core/activation.h describes the functions and their errors): all variants agree to the bit.
//
// Inside, operands live in a canonical domain: b' is signed (unsigned b minus 128), a' is a plus the table's shift. Sums are
// taken modulo 2^32 and corrected by column and row sums, so only the final value has to fit.
#pragma once
#include <stdint.h>

#include "core/activation.h"
#include "core/status.h"
#include "core/variants.h"

namespace whittle {

enum GemmInt8Out { kOutInt32 = 0, kOutFloat32 = 1, kOutInt8 = 2, kOutUint8 = 3 };
// A residual that lies as 8-bit codes, one for each of the result; or null.
struct GemmInt8Added {
  const uint8_t* codes;
  bool is_signed;
  int32_t zero;
  float scale;
};
// What happens to a sum. Arrays are indexed by column.
struct GemmInt8Epilogue {
  // What sums start at: zero points times column sums, integer bias (modulo 2^32). Padded to whole panels.
  const int32_t* offset;
  const int32_t* b_zero;  // zero points in the canonical domain, times the row's sum subtracted; null if all are 0
  const float* scale;     // not read for int32 output
  const float* bias;      // -0 where there is none
  Activation activation;
  float out_scale;
  int32_t out_zero;
  int32_t out_type;
  // Not for int32 results: added before the activation, one float for each of the result, which begins at out_base; or null. Or
  // codes instead.
  const float* residual;
  GemmInt8Added added;
  const void* out_base;
};

// Rows of a' against one panel of b'. `a` holds `rows` rows of steps * k_step elements, `a_stride` bytes apart; b' may be
// prefetched beyond its end.
struct GemmInt8Panel {
  const void* a;
  int64_t a_stride;
  const int32_t* a_sums;  // per row, null unless the epilogue has b_zero
  int64_t rows;
  const int8_t* b;
  int64_t steps;
  int64_t column;   // first column of the panel in the epilogue's arrays and in out
  int64_t columns;  // valid ones, 1 to the table's widest
  const GemmInt8Epilogue* epilogue;
  void* out;           // row 0, column 0
  int64_t out_stride;  // elements
  int64_t block;       // steps whose share of the panel stays in the first-level cache
  int32_t* sums;       // working memory: the widest panel's columns for each of rows + kGemmInt8Spare
  float* range;        // null, or kGemmInt8Lanes lowest and as many highest results so far, by lane; float32 results only
  const void* ahead;   // what the next call reads, to be prefetched meanwhile
  int64_t ahead_bytes;
};

// k x n weights, or n x k if `transposed`, to panels [n / columns][k / k_step][columns][k_step], zero padded; the last
// panel is as narrow as its vectors allow, or up to `widest` where that saves one. `flip` is 0x80 to take unsigned weights to
// the signed domain.
struct GemmInt8Pack {
  const uint8_t* w;
  int64_t k, n, stride;  // stride: elements between rows of w as it lies
  int32_t transposed;
  uint8_t flip;
  int64_t panel;   // which one
  int64_t columns; // valid ones of it
  int8_t* out;     // its place
  int32_t* sums;   // its column sums, of b'
};

// Rows of a to a'. Reads k bytes a row, writes `padded` elements (zeros beyond k).
struct GemmInt8Convert {
  const uint8_t* a;
  int64_t stride, rows, k, padded;
  int32_t is_signed;
  void* out;
  int64_t out_stride;  // bytes
  int32_t* sums;       // of a', or null
};

constexpr int64_t kGemmInt8Block = 32768;  // most bytes of a panel in GemmInt8Panel::block
constexpr int64_t kGemmInt8Lanes = 16;    // of the widest vector of floats
constexpr int64_t kGemmInt8Spare = 32;     // at least the rows of any register tile

struct GemmInt8Kernels {
  int32_t rows;          // of the register tile
  int32_t columns;       // of a panel
  int32_t widest;        // columns of the last panel at most: `columns`, or more where a narrow rest would be slow
  int32_t vector;        // a panel's width is a multiple of this
  int32_t k_step;        // values of k side by side in a panel; k is padded to a multiple
  int32_t a_bytes;       // of one element of a': 1 or 2
  int32_t step_bytes;    // of a step of a panel as the loop reads it: says how many steps a cache holds
  int32_t shift_u8, shift_s8;  // a' - a by the type of a
  void (*pack)(const GemmInt8Pack*);
  void (*convert)(const GemmInt8Convert*);
  void (*panel)(const GemmInt8Panel*);
  // Around a run of `panel` calls on one thread (AMX holds its tiles configured meanwhile); null: nothing to do.
  void (*begin)();
  void (*end)();
  // Bytes of n floats: saturate(roundHalfEven(x / step) + zero), NaN as 0; 2^-100 < step < 2^100.
  void (*codes)(const float* x, int64_t n, float step, int32_t zero, uint8_t* out);
  // A register-only loop of this variant's multiply-add: the ceiling that benchmarks quote. Answers operations (2 a MAC).
  double (*peak)(int64_t iterations);
};

struct PackedInt8 {
  int64_t k, n, padded_k;
  bool is_unsigned;
  int64_t bytes;
  int8_t* data;
  int32_t* sums;  // per column, of b'
};

// Panels of n columns, and the valid columns of one.
inline int64_t gemm_int8_panels(const GemmInt8Kernels& t, int64_t n) {
  return n <= t.widest ? n > 0 : (n - t.widest + t.columns - 1) / t.columns + 1;
}
inline int64_t gemm_int8_panel_columns(const GemmInt8Kernels& t, int64_t n, int64_t panel) {
  return panel + 1 < gemm_int8_panels(t, n) ? t.columns : n - panel * t.columns;
}

// Copies rows [row, row + rows) of a, k bytes each, to out, `stride` bytes apart: whoever can do that gets a product without
// an a in memory. A convolution copies pieces of its input rows, and its padding is a's zero point.
typedef void (*GemmInt8Fill)(const void* context, int64_t row, int64_t rows, uint8_t* out, int64_t stride);

// A fill by indirection: row r of a is `pieces` runs of `length` bytes, at data + offset[r * pieces + i], or of the byte `pad`
// where that offset is negative.
struct GemmInt8Indirect {
  const uint8_t* data;
  const int64_t* offset;
  int64_t pieces, length;
  uint8_t pad;
};
void gemm_int8_fill_indirect(const void* indirect, int64_t row, int64_t rows, uint8_t* out, int64_t stride);

struct GemmInt8Args {
  const uint8_t* a;
  GemmInt8Fill fill;  // instead of a, where batch is 1; called from any of the threads
  const void* fill_context;
  bool a_signed;
  int64_t m, n, k;
  // Either packed weights (one for every product of the batch) or k x n bytes (n x k if transposed).
  const PackedInt8* packed;
  const uint8_t* b;
  bool b_unsigned, b_transposed;
  int64_t batch;            // products
  const int32_t* a_index;   // [batch] which matrix of a, null: the product's own number
  const int32_t* b_index;   // the same for b
  int32_t a_zero;
  int32_t b_zero;               // for all columns where b_zeros is null
  const uint8_t* b_zeros;       // [n], of b's type, or null
  float a_scale, b_scale;
  const float* b_scales;        // [n] or null
  const int32_t* bias_int;      // [n] or null; not both
  const float* bias_float;
  Activation activation;
  int32_t out_type;
  float out_scale;
  int32_t out_zero;
  void* out;                    // batch x m x n
  // For a batch of 1: m x n floats or codes added before the activation (out may be they where it is of their type), not for int32
  // results; and two floats that become the lowest and the highest of float32 results, 0 among them. Null: neither.
  const float* residual;
  GemmInt8Added added;
  float* range;
  int32_t threads;              // 0: the limit
};

// Panels for k x n weights, empty; null if memory is short. Then filled, all threads on one matrix.
PackedInt8* new_packed_int8(const GemmInt8Kernels& table, bool is_unsigned, int64_t k, int64_t n);
void fill_packed_int8(const GemmInt8Kernels& table, const uint8_t* w, bool transposed, int threads, PackedInt8* packed);
void free_packed_int8(PackedInt8* packed);

// WHITTLE_RANGE: a sum could leave 32 bits (k * largest product + bias), or a scale product is not a finite number > 0.
// WHITTLE_NONFINITE: bias holds NaN or an infinity. `out` is untouched in either case.
WhittleStatus gemm_int8(const GemmInt8Kernels& table, const GemmInt8Args& args);

// The active variant's `peak` on so many threads at once; operations of one.
double gemm_int8_peak(int64_t iterations, int threads);

VariantList<GemmInt8Kernels> gemm_int8_variants();
const GemmInt8Kernels& gemm_int8_kernels();
Tier gemm_int8_tier();
}  // namespace whittle
