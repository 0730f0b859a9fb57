// Products of float32 rows with packed weights: C = activation(A * W + bias), W held as 4-bit or 8-bit integers with
// scales, as bfloat16, or as float32 (panels of core/gemm.h; the kernels here know only the other three). Nothing rounds the activations to fewer bits than float32 has.
//
//   int4, int8   W[p, j] = scale[b, j] * q[p, j] + offset[b, j], b the block of `block` rows that p lies in
//   bfloat16     W[p, j] as it is
// q is signed (-8 … 7, -128 … 127); offset[b, j] = fl(scale * (middle - zero point)) and absent where that is always 0.
//
// Numbers: with S = sum_p |a_p| (|scale q_p| + |offset|), X = the same with each |a_p| replaced by the largest |a| of the
// 32 elements (counted from the start of the block) that p lies among, u = 2^-24:
//   |error before the activation| <= gamma_(k+8) * S + 2u * X + u |bias|    X only for int4
// Variants differ within it: few rows of int4 are multiplied as exact integers of 24 bits that share an exponent, other
// products as float32. Results that would be smaller than 2^-124 times the sum of |W| may lose all digits, and a * q beyond
// float32 overflows. A row that holds NaN or an infinity follows IEEE arithmetic on the values of W. Results depend on the
// variant and the shape, never on threads.
//
// Layout, the same for all variants: groups of 16 columns, the last one padded with zeros, each contiguous.
//   int4      per block, per 8 rows (the last of a block padded): 16 dwords, one a column; byte i holds rows i and i + 4
//             as q + 8, low half first
//   int8      per row: 16 bytes
//   bfloat16  per 2 rows (padded to `bf16_rows`): 16 dwords, the even row low
// scale and offset: [group][block][16].
#pragma once
#include <stdint.h>

#include "core/activation.h"

namespace whittle {

enum WeightFormat : int32_t { kWeightInt4 = 0, kWeightInt8 = 1, kWeightBf16 = 2, kWeightF32 = 3 };
constexpr int32_t kWeightFormats = 3;     // that WeightKernels have
constexpr int32_t kWeightAllFormats = 4;
constexpr int64_t kWeightLanes = 16;  // columns of a group
constexpr int64_t kWeightChunk = 32;  // rows of int4 whose activations share an exponent

struct PackedWeight {
  int32_t format;
  int64_t k, n;
  int64_t block, blocks;       // bfloat16, float32: k, 1
  int64_t groups, group_bytes;
  int64_t chunks;              // int4: chunks of all blocks
  int64_t bytes;
  uint8_t* data;
  float* scale;                // null for bfloat16 and float32
  float* offset;               // or null
};

// Activations of one row for int4: a_p = e[c] * (65536 d2 + 256 d1 + d0) for each chunk c. `digits` is [chunk][3][32], least
// digit first, zero past the end of a block; `heads` is [chunk][4]: -8 times the sum of each digit, then the bits of e.
struct WeightDigits {
  const PackedWeight* w;
  const float* a;
  int8_t* digits;
  int32_t* heads;
};

// Up to `rows` rows against some groups. `c` is the first column of the first group; columns past w->n are not touched.
struct WeightStream {
  const PackedWeight* w;
  int64_t rows;
  const float* a;        // int8, bfloat16, and int4 where the table has no `digits`
  int64_t lda;
  const int8_t* digits;  // chunks * 96 a row
  const int32_t* heads;  // chunks * 4 a row
  const float* sums;     // of a: per row and chunk (int4) or block (int8); null where there is no offset
  int64_t sum_row;
  int64_t group, groups;
  float* c;
  int64_t ldc;
};

// Rows [k, k + length) of one group as float32: row p at out + p * row, its columns 8 to 15 `half` past column 0.
struct WeightUnpack {
  const PackedWeight* w;
  int64_t group, k, length;
  float* out;
  int64_t row, half;
};

// Up to 32 rows of a as three bfloat16 terms each, exact: out [step of 32 k][term][32][32], zero past rows and k.
struct WeightSplit {
  int64_t rows, k;
  const float* a;
  int64_t lda;
  uint16_t* out;
};

// Those terms times one or two groups, steps [step, step + steps) of k: c = (add ? c : 0) + …, `columns` of them.
struct WeightTile {
  const PackedWeight* w;
  int64_t rows, step, steps;
  const uint16_t* terms;
  int64_t group, columns;
  bool add;
  float* c;
  int64_t ldc;
};

struct WeightKernels {
  int32_t tile_rows[kWeightFormats];    // most rows of one call of `stream`
  int32_t stream_rows[kWeightFormats];  // products of up to so many rows are faster streamed than through float32 panels
  int32_t bf16_rows;                    // a group's rows of bfloat16 are a multiple: 2, or 32 for `tile`
  void (*stream[kWeightFormats])(const WeightStream*);
  bool (*digits)(const WeightDigits*);  // false: a is not finite. Null: `stream` reads a
  void (*unpack[kWeightFormats])(const WeightUnpack*);
  void (*split)(const WeightSplit*);    // both null but on amx
  void (*tile)(const WeightTile*);
};

}  // namespace whittle

#ifndef WHITTLE_ISA_FILE
#include "core/gemm.h"
#include "core/status.h"
#include "core/variants.h"

namespace whittle {

VariantList<WeightKernels> gemm_weight_variants();
const WeightKernels& gemm_weight_kernels();
Tier gemm_weight_tier();

// Where codes, scales and zero points lie; all of them are numbered from 0 in units of one element.
struct WeightSource {
  const uint8_t* codes;        // int4: nibbles, low half first; int8: bytes; bfloat16: its bits, or float32; float32
  int64_t row, col;            // code of (p, j) at p * row + j * col
  bool is_signed;              // of integer codes
  bool is_float;               // bfloat16 from float32: rounded half to even
  const void* scales;          // float32, or float16 if half_scales
  bool half_scales, positive;  // positive: scales <= 0 are refused
  int64_t scale_block, scale_col;
  int32_t zero_kind;           // 0 none: zero_default; 1 codes; 2 float32; 3 float16
  const void* zeros;           // codes have strides of their own, floats lie as scales do
  int64_t zero_block, zero_col;
  float zero_default;          // as codes have it
};

// Null if memory is short. with_offset: some zero point is not in the middle of the codes. Whoever packs float32 for an engine
// multiplies by that engine.
PackedWeight* new_packed_weight(const WeightKernels& table, int32_t format, int64_t k, int64_t n, int64_t block, bool with_offset,
                                const GemmEngine& engine = gemm_default());
void free_packed_weight(PackedWeight* w);
// WHITTLE_NONFINITE: a scale or zero point is NaN or infinite, or scale * offset overflows; WHITTLE_RANGE: a scale <= 0.
WhittleStatus fill_packed_weight(const WeightSource& source, int threads, PackedWeight* w,
                                 const GemmEngine& engine = gemm_default());

struct WeightArgs {
  const PackedWeight* w = nullptr;
  int64_t m = 0;
  const float* a = nullptr;  // m x k
  const float* bias = nullptr;
  Activation activation = {kActivationNone, 0, 0};
  float* out = nullptr;      // m x n
  int threads = 0;
};
WhittleStatus gemm_weight(const WeightKernels& table, const WeightArgs& args, const GemmEngine& engine = gemm_default());

}  // namespace whittle
#endif
