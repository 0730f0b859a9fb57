// int8 weights in any sparse format; sums in 32 bits, exact, and the epilogue of core/gemm_int8.h: the result is that of
// gemmInt8 on the dense matrix to the bit.
//
// Weights lie in bundles of four columns: `height` rows x 4 values that meet four rows of X at a time, which are neighbours
// (aligned: one index, blocks whose width is a multiple of 4) or any four (four indices, every other format). Rows are cut
// into panels, columns into blocks that keep a strip of X near; a cell (panel, block) lists its groups of `height` rows by
// falling number of bundles, so that loop counts repeat. One layout serves all variants and any number of columns.
//
// Weights that are to meet one column lie otherwise where that is faster:
//   2:4                        steps of 64 values for 128 columns of W, 80 bytes a step (`pairs`)
//   blocks of 4 or 8 rows,     bundles of columns that lie within 16 of each other, so that one shuffle of sixteen bytes of X finds
//   columns unaligned          them: a bundle may hold fewer than four (`lanes`)
//   1 x 16 q                   sixteen neighbours of a row at a time, one index (`lanes`)
#pragma once
#include "core/gemm_int8.h"
#include "core/sparse.h"

namespace whittle {

constexpr int64_t kSparseInt8Panel = 64;  // rows of a panel, a multiple of every height
constexpr int64_t kSparseInt8Near = 16;   // bytes that may be read before and after a prepared vector

// acc[group * height + i][j] (+)= sum over bundles and c < 4 of values[bundle][i][c] * x'[column][j], column = index[bundle] * 4 + c
// if aligned, else index[bundle * 4 + c]. x' is x plus the table's shift, in the table's own arrangement (see `pack`).
struct SparseInt8Tile {
  int32_t height;         // 1, 2, 4, 8 or 16
  bool aligned;
  int32_t units;          // j < units * kSparseUnit; 1, 2 or 4, at most the table's
  const SparseRun* runs;
  int64_t groups;
  const uint16_t* index;
  const int8_t* values;
  const void* x;
  int32_t* acc;           // rows units * kSparseUnit apart
  const int32_t* start;   // of each row of the panel: what sums begin at instead of acc; or null
  const uint8_t* places;  // `lanes` alone, as the next
  bool lowest;            // some weight is -128
};

// The valid rows [0, k) of X, `columns` of each, to x' of `padded` rows (a multiple of 16) and units * kSparseUnit columns;
// zeros beyond. A row takes units * kSparseUnit * x_bytes bytes, so pieces of X that start at a multiple of 16 can be packed apart.
struct SparseInt8Pack {
  const uint8_t* x;
  int64_t stride;        // between rows of x as it lies
  bool transposed;       // X[p][j] is x[j * stride + p]
  bool is_signed, aligned;
  int64_t k, padded, columns;
  int32_t units;
  void* out;
  int64_t pitch;         // columns from four rows of x' to the next four, where it is transposed, aligned and in bytes; 0: as many as there are
};

constexpr int64_t kSparseInt8Taps = 25;  // of a window, at most

// Lanes of a vector of columns of x' that lie beside each other in an image: lane l is its pixel from + l.
struct SparseInt8Part {
  uint16_t lanes;
  int32_t from;
};

// Four rows at a time of x' for windows over images: bundle b of out is tap b / bundles, four channels b % bundles of it, of each column.
// `turned` holds pixels of images as `pack` makes columns of them (aligned); 64 bytes before and after it may be read.
struct SparseInt8Windows {
  const uint8_t* turned;        // [bundles][pitch][4]
  int64_t pitch, bundles;
  int64_t begin, end;           // bundles of out
  int32_t units;                // columns
  const SparseInt8Part* parts;  // [tap][unit][kSparseUnit]
  const int32_t* counts;        // [tap][unit], of the parts
  uint8_t outside;              // x' of what no part covers
  uint8_t* out;
};

constexpr int64_t kSparseInt8Step = 64;  // values of a row in a step; rows are padded to whole steps with zeros

// acc[i] = sum of values[i][e] * x'[column of e], x' what `spread` made. Value e of a row belongs to its group e / 2 of four
// columns; its place in there is in bits 2 (e % 64 / 16) and the next of byte e % 16 of the step's 16 bytes.
struct SparseInt8Pairs {
  int64_t rows, steps;
  const int8_t* values;   // [row][step][64]
  const uint8_t* places;  // [row][step][16]
  const void* x;
  int32_t* acc;
};

struct SparseInt8Kernels {
  int32_t units;       // most in a strip
  int32_t x_bytes;     // of an element of x'
  int32_t shift_s8;    // x' - x for signed x
  void (*pack)(const SparseInt8Pack*);
  void (*windows)(const SparseInt8Windows*);  // x_bytes 1; or null
  void (*tile)(const SparseInt8Tile*);
  // One column: acc[group * height + i]; x is what `widen` made, kSparseInt8Near bytes before and after readable.
  void (*widen)(const uint8_t* x, int64_t k, bool is_signed, void* out);
  void (*vector)(const SparseInt8Tile*);
  // The same where weights lie as lanes; x' in bytes, signed (x - 128 if unsigned) or unsigned (x + 128 if signed). height 4, 8:
  // column = index[bundle] + places[bundle * 4 + c], c < 4; height 1: column = index[lane] + c, c < 16, values[lane][c].
  bool lanes_signed;
  void (*lanes)(const SparseInt8Tile*);
  // x as unsigned bytes (plus 128 if signed) in the table's order for `pairs`: steps * 128 of them, zeros beyond k.
  void (*spread)(const uint8_t* x, int64_t k, bool is_signed, int64_t steps, uint8_t* out);
  void (*pairs)(const SparseInt8Pairs*);
  // n sums, offsets among them, which are overwritten, to out by elements [column, column + n) of the epilogue's arrays, or by
  // element `column` for all of them if `same`; not for int32 output; b_zero must be null.
  void (*finish)(const GemmInt8Epilogue* epilogue, int64_t column, bool same, int32_t* acc, int64_t n, void* out);
  // `rows` rows of at most kSparseInt8Panel sums, `width` apart, elements [column, column + columns) of the epilogue's arrays; out's
  // rows are out_stride elements apart.
  void (*finish_rows)(const GemmInt8Epilogue* epilogue, int64_t column, int64_t columns, int64_t rows, int32_t* acc, int64_t width, void* out,
                      int64_t out_stride);
  // out[j * out_stride + i] = acc[i * stride + j] for i < rows, j < columns; both multiples of 8.
  void (*turn)(const int32_t* acc, int64_t rows, int64_t stride, int64_t columns, int32_t* out, int64_t out_stride);
  // `tile` and what follows at once, where it is the last of a panel of kSparseInt8Panel rows (all of which it lists), X is 4 * kSparseUnit
  // columns wide, of which `columns` are wanted, results are codes and no floats are added: row j of out, out_stride bytes after the
  // one before, becomes the codes of column j. acc is overwritten. Or null.
  void (*codes)(const SparseInt8Tile*, const GemmInt8Epilogue* epilogue, int64_t column, int64_t columns, uint8_t* out, int64_t out_stride);
};

}  // namespace whittle

#ifndef WHITTLE_ISA_FILE
namespace whittle {

struct SparseInt8Data {
  int32_t height;
  bool aligned;
  int64_t block, blocks, panels;  // columns of a block, a multiple of 16
  std::vector<SparseCell> cells;  // [panel][block]; `entry` counts bundles
  std::vector<SparseRun> runs;
  std::vector<uint16_t> index;    // 64 bytes past the end may be read
  std::vector<int8_t> values;     // the same
  int64_t steps = 0;              // of a row if packed as pairs; `values` and `places` are all there is then
  bool lanes = false, lowest = false;
  std::vector<uint8_t> places;
  std::vector<int32_t> sums;      // of each row
};

WhittleStatus sparse_int8_build(const SparseSource& source, SparseMatrix* out);
void sparse_int8_each(const SparseMatrix& w, const SparseSeen& see);
// WHITTLE_RANGE and WHITTLE_NONFINITE as gemm_int8 has them.
WhittleStatus sparse_int8_multiply(const SparseInt8Kernels& kernels, const SparseArgs& args);

VariantList<SparseInt8Kernels> sparse_int8_variants();
const SparseInt8Kernels& sparse_int8_kernels();
Tier sparse_int8_tier();

}  // namespace whittle
#endif
