// Sparse weights times dense activations: Y = activation(W X + bias), W [rows x cols] sparse, X [cols x N] dense.
//
// One matrix object for every format; what it holds inside depends on value type and format:
//   float32, bfloat16                    SparseTiles (below), or SparseSlices where one or two columns are expected
//   the same in 2:4 for such columns     SparseNmData (core/sparse_nm.h)
//   int8 in any format                   SparseInt8 (core/sparse_int8.h)
//   'dense' (what 'auto' may choose)     the plain matrix, multiplied by the dense kernels
//
// Tiles. Rows are cut into panels of about equal numbers of non-zeros, columns into blocks that keep a strip of X near
// (L1 where enough non-zeros share it, else L2). A cell (panel, block) lists its row groups by falling number of entries,
// so that loop counts repeat and branches are predicted. A group is `height` rows that share their entries; an entry is
// a column of the block (one byte if the block is that narrow, else two) and `width` x `height` values, column by column.
// CSR is 1 x 1; a block of r x c is r / height groups of entries c wide.
//
// Numbers: an element of Y is a sum of products in an order that depends on variant, layout and N, never on threads.
// |error| <= gamma_(nnz+4) (|W||X| + |bias|), gamma_n = n u / (1 - n u), u = 2^-24, then the activation's own. Zeros that a
// block or packed 2:4 group stores are multiplied (0 * inf is NaN); those left out are not.
#pragma once
#include <stdint.h>

#include "core/activation.h"
#include "core/status.h"

namespace whittle {

// The numbers of both enums cross into lib/kernels/sparse.ts.
enum SparseFormat : int32_t { kSparseDense = 0, kSparseCsr = 1, kSparseBlock = 2, kSparseNm = 3, kSparseAuto = 4 };
enum SparseType : int32_t { kSparseF32 = 0, kSparseBf16 = 1, kSparseInt8 = 2 };

constexpr int64_t kSparseUnit = 16;     // a strip of X is a multiple of this many columns wide
constexpr int64_t kSparseMaxUnits = 8;  // and at most this multiple

struct SparseRun {
  uint16_t group;  // of the panel: rows [group * height, (group + 1) * height)
  uint16_t count;  // entries
};

// acc[group * height + i][j] += sum over entries and c of values[entry][c][i] * x[index[entry] + c][j].
struct SparseTile {
  int32_t type;           // SparseType, not int8
  int32_t height, width;  // height 1, 2, 4 or 8
  int32_t units;          // j < units * kSparseUnit
  const SparseRun* runs;
  int64_t groups;
  int32_t index_size;     // bytes of an index, 1 or 2; 1 only for entries of 1 x 1
  const void* index;      // entries of the first run, then of the next; 16 bytes past the last may be read
  const void* values;
  const float* x;         // rows units * kSparseUnit apart
  float* acc;             // the same
  bool fresh;             // acc = instead of acc +=; also for runs of no entries
  const float* ahead;     // what the next tile reads of X, to be brought near meanwhile (a hint): ahead_lines of 64 bytes
  int64_t ahead_lines;
};

// The same for one column: acc[group * height + i] += ..., x[column].
// Slices: rows in groups of kSparseUnit, entry e of row i at values[e * kSparseUnit + i]; shorter rows are filled up with
// column `cols`, where x holds a zero.
struct SparseSlice {
  int32_t type;
  const int32_t* counts;  // entries of each slice
  int64_t slices;
  const uint16_t* index;
  const void* values;
  const float* x;
  float* acc;             // kSparseUnit a slice, written
};

// out[p][j] for p < k, j < units * kSparseUnit: x[p][j], or x[j][p] if transposed; 0 for j >= columns and p >= valid.
struct SparsePack {
  const float* x;
  int64_t stride;   // between rows of x as it lies
  int32_t transposed;
  int64_t k, valid, columns;
  int32_t units;
  float* out;
};

// out[i][j] = activation(acc[i][j] + bias[i]) for i < rows, j < columns; out[j][i] if transposed.
struct SparseFinish {
  const float* acc;
  int64_t acc_stride;
  int64_t rows, columns;
  const float* bias;     // of row 0, or null
  Activation activation;
  float* out;
  int64_t out_stride;
  int32_t transposed;
};

struct SparseKernels {
  int32_t units;  // widest strip for which `tile` passes over the entries of single rows once, at most kSparseMaxUnits
  void (*tile)(const SparseTile*);
  void (*vector)(const SparseTile*);
  void (*slice)(const SparseSlice*);
  void (*pack)(const SparsePack*);
  void (*finish)(const SparseFinish*);
};

}  // namespace whittle

#ifndef WHITTLE_ISA_FILE
#include <functional>
#include <memory>
#include <vector>

#include "core/gemm.h"
#include "core/gemm_int8.h"
#include "core/variants.h"

namespace whittle {

struct SparseCell {
  int64_t run, groups;  // in runs
  int64_t entry;        // in index; times height * width in values
};

struct SparseTiles {
  int32_t height, width;
  int32_t units;        // most in a strip of X
  int32_t index_size;
  int64_t block;        // columns of a block; a multiple of width
  int64_t blocks, panels;
  std::vector<int64_t> panel_rows;  // first row of each, and the end; multiples of height
  std::vector<SparseCell> cells;    // [panel][block]
  std::vector<SparseRun> runs;
  std::vector<uint8_t> index;
  std::vector<uint8_t> values;
  int64_t column(int64_t entry) const {
    if (index_size == 1) return index[static_cast<size_t>(entry)];
    return index[static_cast<size_t>(2 * entry)] | index[static_cast<size_t>(2 * entry + 1)] << 8;
  }
};

struct SparseSlices {
  int64_t rows, pieces;             // slices * kSparseUnit; pieces of about equal work
  std::vector<int32_t> counts;      // a slice
  std::vector<int64_t> piece;       // first slice of each piece, and the end
  std::vector<int64_t> first;       // of each piece: its first entry group
  std::vector<int32_t> order;       // row of each place, -1 for none
  std::vector<uint16_t> index;
  std::vector<uint8_t> values;
};

struct SparseNmData;
struct SparseInt8Data;

struct SparseMatrix {
  int64_t rows = 0, cols = 0;
  int32_t format = kSparseCsr, type = kSparseF32;
  int32_t r = 1, c = 1;     // of a block
  int32_t n = 0, m = 0;     // of n:m
  int64_t nnz = 0;          // values that are not 0
  int64_t bytes = 0;        // of native memory
  std::vector<float> scales;  // int8: one a row
  std::unique_ptr<SparseTiles> tiles;
  std::unique_ptr<SparseSlices> slices;
  std::unique_ptr<SparseNmData> nm;
  std::unique_ptr<SparseInt8Data> int8;
  std::vector<float> dense;
  SparseMatrix();
  SparseMatrix(SparseMatrix&&) noexcept;
  SparseMatrix& operator=(SparseMatrix&&) noexcept;
  ~SparseMatrix();
};

struct SparseBuild {
  int64_t rows, cols;
  const void* w;          // rows x cols of source_type
  int32_t source_type;    // SparseType of w
  const uint8_t* mask;    // rows x cols, 0 leaves an element out; or null
  int32_t format, type;   // wanted; format may be kSparseAuto
  int32_t r, c, n, m;
  const float* scales;    // int8 from int8: rows of them, or null (then all are 1); int8 from float: null
  int64_t columns;        // expected N, 0: unknown
  bool by_rows;           // expected form of X (a hint)
  bool measure;           // auto: by time instead of the model
  int32_t threads;
};

// Fills `out`. WHITTLE_NONFINITE: w holds NaN or an infinity, or a value that `type` cannot hold. WHITTLE_RANGE: a group of m
// has more than n non-zeros.
WhittleStatus sparse_build(const SparseBuild& build, SparseMatrix* out);

inline int64_t sparse_value_size(int32_t type) { return type == kSparseF32 ? 4 : type == kSparseBf16 ? 2 : 1; }

// Every value that is stored, zeros that fill something up among them or not, in the order in which they lie.
typedef std::function<void(int64_t row, int64_t column, const void* value)> SparseSeen;
void sparse_each(const SparseMatrix& w, const SparseSeen& see);

// What was stored, as rows x cols of the matrix's type.
void sparse_to_dense(const SparseMatrix& w, void* out);

// Where rows of x are what windows of stride 1 find in images [n, h, w, c] of codes: row (image * oh + oy) * ow + ox, column
// (ky * kw + kx) * c + channel, the zero point outside.
struct SparseInt8Image {
  const uint8_t* x;
  int64_t n, h, w, c, oh, ow, kh, kw, dilation_h, dilation_w, pad_top, pad_left;
};

struct SparseArgs {
  const SparseMatrix* w;
  const void* x;            // float32, or 8-bit integers where w is int8
  bool by_rows;             // x is [columns, cols] and out [columns, rows]; else batch matrices [cols, columns]
  int64_t batch, columns;   // batch 1 if by_rows
  const float* bias;        // w->rows, or null
  Activation activation;
  void* out;
  int32_t threads;          // 0: the limit
  // Instead of x where by_rows: rows of x as they are asked for, any of them from any thread (core/gemm.h, core/gemm_int8.h).
  GemmFill fill;
  GemmInt8Fill fill_bytes;  // for int8
  const SparseInt8Image* image;  // what fill_bytes reads, where it is one; or null
  const void* fill_context;
  // Like out, added before the activation, where x goes by rows and results are not int32 (float weights: in tiles only); or null.
  const float* residual;
  GemmInt8Added added;      // int8: codes instead of the residual
  const float* row_scales;  // int8: instead of the matrix's own; or null
  // int8 only, as in core/gemm_int8.h
  bool x_signed;
  int32_t x_zero;
  float x_scale;
  const int32_t* bias_int;
  int32_t out_type;
  float out_scale;
  int32_t out_zero;
};

WhittleStatus sparse_multiply(const SparseArgs& args);

VariantList<SparseKernels> sparse_variants();
const SparseKernels& sparse_kernels();
Tier sparse_tier();

// The product by a given table, for the native check; w is not int8 and has no `nm`.
WhittleStatus sparse_multiply_f32(const SparseKernels& kernels, const SparseArgs& args);

// A reader of the source: element (i, j) in the target type after mask and rounding.
struct SparseSource {
  SparseBuild build;
  std::vector<float> scales;  // int8 from float

  // Checks every element and settles the scales.
  WhittleStatus prepare();
  // One row to floats (f32, bf16 values) or codes (int8); each is what will be stored.
  void row_f32(int64_t i, float* out) const;
  void row_int8(int64_t i, int8_t* out) const;
};

}  // namespace whittle
#endif
