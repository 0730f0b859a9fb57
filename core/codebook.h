// Codebooks: weights that share `clusters` values, stored as indices.
//
// A value belongs to the nearest centroid, of two equally near to the lower. With centroids ascending that is a search
// among thresholds: index = number of thresholds below x, thresholds[j] the largest float that is not beyond the middle
// of centroids j and j + 1. The comparison is exact, so indices are the same on every variant.
#pragma once
#include <stdint.h>

namespace whittle {

constexpr int64_t kCodebookMax = 65536;  // centroids

// What a search reads. `nodes` holds the thresholds as an implicit binary tree, children of node i at 2i + 1 and 2i + 2,
// 2^levels - 1 of them, the missing ones +infinity; a leaf's number less 2^levels - 1 is the index.
// nodes and centroids must be readable to a multiple of 64 floats.
struct CodebookTable {
  const float* nodes;
  const float* centroids;
  int32_t levels;  // 0 to 16
};

// Single-threaded pieces, any alignment, any n >= 0; inputs and outputs do not overlap.
struct CodebookKernels {
  // index[i] of every finite x[i]. Answers sum (x - centroid)^2 to 2^-22 of itself;
  // infinite where a difference leaves float32.
  double (*assign8)(const CodebookTable* table, const float* x, int64_t n, uint8_t* index);
  double (*assign16)(const CodebookTable* table, const float* x, int64_t n, uint16_t* index);
  // out[i] = values[index[i]]; every index is below `count`, and values readable as in CodebookTable.
  void (*gather8)(const uint8_t* index, int64_t n, const float* values, int64_t count, float* out);
  void (*gather16)(const uint16_t* index, int64_t n, const float* values, int64_t count, float* out);
  // sums[index[i]] += g[i], in double, in any order.
  void (*sum8)(const uint8_t* index, const float* g, int64_t n, int64_t count, double* sums);
  void (*sum16)(const uint16_t* index, const float* g, int64_t n, int64_t count, double* sums);
};

}  // namespace whittle

#ifndef WHITTLE_ISA_FILE
#include "core/status.h"
#include "core/variants.h"

namespace whittle {

VariantList<CodebookKernels> codebook_variants();
const CodebookKernels& codebook_kernels();
Tier codebook_tier();

// Fills a table's arrays from ascending centroids. Both need codebook_room(count) floats.
int64_t codebook_room(int64_t count);
CodebookTable codebook_table(const float* centroids, int64_t count, float* nodes, float* padded);

// index is uint8_t where count <= 256, else uint16_t. *squares = sum (x - centroid)^2.
WhittleStatus codebook_assign(const float* x, int64_t n, const float* centroids, int64_t count, void* index,
                              double* squares, int threads);
// WHITTLE_RANGE where an index is not below count.
WhittleStatus codebook_gather(const void* index, bool wide, int64_t n, const float* values, int64_t count, float* out,
                              int threads);
// sums[c] = sum of g over the elements of cluster c, in double, rounded once. WHITTLE_RANGE as above.
WhittleStatus codebook_sums(const void* index, bool wide, const float* g, int64_t n, int64_t count, float* sums,
                            int threads);

// The numbers cross into lib/kernels/codebook.ts.
enum CodebookInit : int32_t {
  kCodebookPlusPlus = 0,  // k-means++: each next one drawn by its squared distance (Arthur, Vassilvitskii 2007)
  kCodebookLinear = 1,    // evenly from the least to the largest value
  kCodebookDensity = 2,   // at even shares of the sorted values
  kCodebookGiven = 3,     // `centroids` holds them
};

// Lloyd's algorithm on numbers. The values are sorted once; a cluster is then a range of them, its sum comes from a tree
// of partial sums, and one iteration costs O(clusters * log n). A cluster that loses all its values moves to the value
// that is farthest from its centroid. Extra memory: 8 bytes a value.
struct Kmeans {
  const float* x;
  int64_t n, clusters;  // 1 <= clusters <= kCodebookMax
  int32_t init;
  uint64_t seed;
  int32_t starts;       // best of so many k-means++ starts
  int64_t iterations;   // of each start at most
  double tolerance;     // converged when no centroid moved by more than this share of the range of x
  int threads;
  float* centroids;     // ascending
  void* index;          // uint8_t where clusters <= 256, else uint16_t; null: not wanted
  int32_t* counts;      // members of each cluster
  // squared error, iterations, converged, distinct values (up to `clusters`)
  double* result;
};
// WHITTLE_NONFINITE; WHITTLE_RANGE where x has fewer distinct values than clusters (result[3] says how many).
WhittleStatus codebook_kmeans(const Kmeans& problem);

// Ascending copy of finite x in `out`, with a megabyte a thread beside it. WHITTLE_NONFINITE leaves rubbish.
WhittleStatus codebook_sort(const float* x, int64_t n, float* out, int threads);

}  // namespace whittle
#endif
