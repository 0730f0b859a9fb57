// The CUDA backend as the rest sees it: one struct of functions, from a shared library (cuda/, built apart) that is opened at
// the first request and never closed. The package holds no CUDA otherwise: without that library, a driver or a device
// there is a reason, and everything else works.
//
// The operations take the argument structs of the CPU's drivers (core/<family>.h) with one difference: pointers to data
// are memory of `device`, but for those that a comment calls host memory. They answer when their work is done. Calls may
// come from any thread; those of one device run one after the other, but for allocate, release and copies, which wait for none, and
// for turns of a plan (CudaNet), which have streams of their own.
#pragma once
#include <stdint.h>

#include "core/activation.h"
#include "core/cuda_net.h"
#include "core/distill.h"
#include "core/gemm_int8.h"
#include "core/quantize.h"
#include "core/select.h"
#include "core/sparse.h"
#include "core/status.h"
#include "core/svd_solve.h"

namespace whittle {

// Raised by any change of this header or of a struct that it passes on.
constexpr uint32_t kCudaContract = 15;

// Why nothing can run. The names cross into lib/kernels/devices.ts.
enum CudaState : int32_t {
  kCudaReady = 0,
  kCudaHidden = 1,           // WHITTLE_CUDA=0
  kCudaPlatform = 2,         // not on this operating system
  kCudaLibraryMissing = 3,   // whittle_cuda.so is not there
  kCudaLibraryBroken = 4,    // it cannot be loaded, or is none
  kCudaLibraryVersion = 5,   // of another contract
  kCudaNoDriver = 6,
  kCudaDriverTooOld = 7,
  kCudaNoDevice = 8,
  kCudaFailed = 9,           // the runtime reports another error
};

struct CudaProbe {
  int32_t state;             // CudaState, of those from kCudaNoDriver on, or kCudaReady
  int32_t devices;
  int32_t driver, runtime;   // CUDA versions as 1000*major + 10*minor; 0: unknown
  char text[192];            // the runtime's words where state is not kCudaReady
};

struct CudaDevice {
  char name[256];
  int32_t major, minor, multiprocessors;
  int64_t memory;            // bytes
};

// One of NVIDIA's libraries.
struct CudaLibrary {
  char name[48];     // with its major version
  char serves[96];   // what goes through it
  char path[1024];   // of the file that was opened, "" where none was
  char why[1024];    // why none was; else of the last call that it refused and that was answered otherwise, or ""
};

// y = activation(alpha * op(a) * op(b) + bias): row-major matrices of one type, sums in float32, rounded to the type once.
struct CudaGemm {
  FloatType type;
  const void *a, *b;             // [m][k] and [k][n], or transposed [k][m] and [n][k]
  bool transpose_a, transpose_b;
  int64_t m, n, k;
  int64_t batch;                 // products
  int64_t a_batch, b_batch;      // elements from one matrix to the next; 0: the same one
  float alpha;
  const void* bias;              // [n] of the type, or null
  Activation activation;
  void* y;                       // [batch][m][n]
};

// Weights of gemm_int8 on a device: signed bytes (unsigned ones less 128), an output channel a row, zeros beyond n and k.
inline int64_t cuda_int8_rows(int64_t n) { return (n + 3) / 4 * 4; }
inline int64_t cuda_int8_row(int64_t k) { return (k + 15) / 16 * 16; }

// A decomposition as svd_solve() of core/svd_solve.h has it, with `u` and `v` of outcome.rank columns also in a stack, out of
// room for max_rank, and no `spectrum`.
struct CudaSvd : SvdProblem {
  bool factors = false;  // u diag(s)^1/2, m x rank, and diag(s)^1/2 v^T, rank x n, in place of u and v; one matrix
  int64_t large = 0;     // the shorter side from which the method for large matrices serves; 0: the library's own choice
};

// A loss as distill_linear_kl() has it. Scratch is two blocks of logits, of `rows` samples by `columns` classes: multiples of 64,
// 0 for the library's own choice (1024 and 4096).
struct CudaLinear : LinearLoss {
  int64_t rows = 0, columns = 0;
};

// A sparse matrix on a device, rows x cols. CSR: `stored` entries, a row's from first[i] on by rising column. Blocks of any shape
// become panels of kCudaPanel rows, which list the columns where any of their rows has a non-zero, cuda_sparse_step(type) of them a
// step: `stored` steps, a panel's from first[p] on. n:m: n entries for every m columns of a row.
constexpr int64_t kCudaPanel = 16;
inline int64_t cuda_sparse_step(int32_t type) { return type == kSparseInt8 ? 32 : 8; }
inline int64_t cuda_sparse_panels(int64_t rows) { return (rows + kCudaPanel - 1) / kCudaPanel; }

struct CudaSparse {
  int32_t format;   // kSparseCsr, kSparseBlock, kSparseNm
  int32_t type;     // SparseType
  int64_t rows, cols;
  int32_t n, m;     // of n:m
  int64_t stored;
  int32_t* first;   // [rows + 1] or [panels + 1]; null for n:m
  int32_t* column;  // [stored], or a panel's [stored][step], -1 where there is none; null for n:m
  uint8_t* places;  // n:m, [rows][cols / m][n]: the place in the group
  // CSR and n:m: beside these. Panels: what lane 4g + t of a warp holds of a step in mma's order, rows g and g + 8 (word p: row
  // g + 8 (p % 2)) of columns t + 4 (p / 2), or for bytes 4t + 16 (p / 2) and the three next: [stored][32][4] words.
  void* values;
  float* scales;    // int8: [rows]
  int32_t* sums;    // int8: of the values of each row
  // The same matrix in a library's own form beside it, which sparse_compress() makes: then products go through that library. Or null.
  void* compressed;
  int64_t compressed_bytes;
};

struct CudaSparseBuild {
  const void* w;           // rows x cols
  int32_t source_type;     // SparseType
  const uint8_t* mask;     // or null
  const float* scales;     // of int8 w, or null: 1
  bool empty_rows;         // a mask may leave nothing of a row
};

// As SparseArgs has it, with these pointers on the device.
struct CudaSpmm {
  const void* x;
  bool by_rows;
  int64_t batch, columns;
  const float* bias;
  const int32_t* bias_int;
  Activation activation;
  void* out;
  bool x_signed;
  int32_t x_zero;
  float x_scale;
  int32_t out_type;
  float out_scale;
  int32_t out_zero;
};

struct CudaBackend {
  uint32_t contract, bytes;  // kCudaContract, sizeof(CudaBackend)
  bool emulated;             // compiled for this CPU, for tests

  void (*probe)(CudaProbe* out);
  WhittleStatus (*describe)(int32_t device, CudaDevice* out);
  // The words of the last WHITTLE_DEVICE that a call on this thread answered; valid until the next call.
  const char* (*error)();

  // Number `at` of NVIDIA's libraries, which is opened to answer; false where there are no more.
  bool (*nth_library)(int32_t at, CudaLibrary* out);

  // 256-byte aligned; bytes >= 0. WHITTLE_OUT_OF_MEMORY leaves the device usable.
  WhittleStatus (*allocate)(int32_t device, int64_t bytes, void** memory);
  void (*release)(int32_t device, void* memory);
  // `from` and `to` respectively are host memory.
  WhittleStatus (*upload)(int32_t device, void* to, const void* from, int64_t bytes);
  WhittleStatus (*download)(int32_t device, void* to, const void* from, int64_t bytes);
  // Both lie on the device and do not overlap.
  WhittleStatus (*copy)(int32_t device, void* to, const void* from, int64_t bytes);

  // As quantize() and dequantize() of core/quantize.h; rule is host memory or null, and with it zero is not null. At most 2^31 - 1 elements here and below.
  WhittleStatus (*quantize)(int32_t device, const void* x, FloatType type, const QuantizeShape& shape, const QuantizeRule* rule,
                            float* scale, void* zero, const QuantizeOptions& options, void* q);
  WhittleStatus (*dequantize)(int32_t device, const void* q, const QuantizeShape& shape, const float* scale, const void* zero,
                              const QuantizeOptions& options, FloatType type, void* y);

  // As fake_quantize(); all that the gradient names lies on the device.
  WhittleStatus (*fake_quantize)(int32_t device, const float* x, const QuantizeShape& shape, const float* scale, const int32_t* zero,
                                 const QuantizeOptions& options, float* y, const FakeGradient* gradient);

  // As quantize_ranges and quantize_histogram, for observers: lo, hi, factor and counts are host memory.
  WhittleStatus (*ranges)(int32_t device, const void* x, FloatType type, const QuantizeShape& shape, float* lo, float* hi);
  WhittleStatus (*histogram)(int32_t device, const void* x, FloatType type, const QuantizeShape& shape, const float* factor, int32_t bins,
                             double* counts);

  // As select_scores, select_groups, select_largest (of one part; threshold is host memory), select_nm and select_apply.
  WhittleStatus (*scores)(int32_t device, int norm, const float* x, const float* g, int64_t n, float* out);
  WhittleStatus (*groups)(int32_t device, int norm, const float* x, const float* g, int64_t outer, int64_t axis, int64_t inner,
                          float* out);
  WhittleStatus (*largest)(int32_t device, const float* scores, int64_t n, int64_t keep, uint8_t* mask, float* threshold);
  WhittleStatus (*nm)(int32_t device, const float* scores, int64_t outer, int64_t axis, int64_t inner, int keep, int m,
                      uint8_t* mask);
  WhittleStatus (*apply)(int32_t device, const float* x, const uint8_t* mask, int64_t n, float* out);

  // As select_above, select_histogram (counts is host memory; shift is 21, 10 or 0, and keys that do not share the bits of `base`
  // above the bins are not counted), select_balanced, select_blocks, select_median, select_random and select_expand.
  WhittleStatus (*above)(int32_t device, const float* scores, int64_t n, float threshold, int64_t equal, uint8_t* mask);
  WhittleStatus (*count)(int32_t device, const float* scores, int64_t n, uint32_t base, int shift, int64_t* counts);
  WhittleStatus (*balanced)(int32_t device, const float* scores, int64_t outer, int64_t axis, int64_t inner, int64_t keep, uint8_t* mask);
  WhittleStatus (*blocks)(int32_t device, int norm, const float* x, const float* g, int64_t rows, int64_t cols, int64_t r, int64_t c,
                          float* out);
  WhittleStatus (*median)(int32_t device, const float* x, int64_t outer, int64_t axis, int64_t inner, float* out);
  WhittleStatus (*random)(int32_t device, uint64_t seed, int64_t n, float* out);
  WhittleStatus (*expand)(int32_t device, const uint8_t* chosen, int64_t groups, int64_t repeat, int64_t count, int64_t width, uint8_t* mask);

  // As distill_cross_entropy and distill_kl; `result` is host memory. WHITTLE_RANGE: a label that is no class, or where
  // result[0] is 1 a class weight that is negative or not finite.
  WhittleStatus (*cross_entropy)(int32_t device, const LogitLoss& loss);
  WhittleStatus (*kl)(int32_t device, const LogitLoss& loss);
  // As distill_js.
  WhittleStatus (*js)(int32_t device, const LogitLoss& loss);

  // Needs cuBLASLt: WHITTLE_DEVICE where it cannot be had or has no algorithm. Two calls have the same bits.
  WhittleStatus (*gemm)(int32_t device, const CudaGemm& gemm);
  // As gemm_int8, of one product. args.packed: data and sums of pack_int8, and k and n. *fault, host memory, says what
  // WHITTLE_RANGE means: 1 a sum that could leave 32 bits, 2 a scale. cuBLASLt serves where it can, an own kernel elsewhere.
  WhittleStatus (*gemm_int8)(int32_t device, const GemmInt8Args& args, int32_t* fault);
  // data: cuda_int8_rows(n) * cuda_int8_row(k) bytes, sums: cuda_int8_rows(n), of the signed bytes.
  WhittleStatus (*pack_int8)(int32_t device, const uint8_t* w, bool is_unsigned, bool transposed, int64_t k, int64_t n, int8_t* data,
                             int32_t* sums);

  // Needs cuSOLVER and cuBLASLt: WHITTLE_DEVICE where they cannot be had, or where no method of theirs gives factors that make
  // up the matrix again; WHITTLE_RANGE where a value leaves the type. `outcome` is host memory.
  WhittleStatus (*svd)(int32_t device, const CudaSvd& problem, SvdOutcome* outcome);

  // As distill_dkd and distill_multi_teacher, with the statuses of kl; `mix` is the device's or null (all the same). Where
  // result[0] is 2, `mix` is negative somewhere, not finite or all 0.
  WhittleStatus (*dkd)(int32_t device, const LogitLoss& loss);
  WhittleStatus (*multi_teacher)(int32_t device, const LogitLoss& loss);
  // As the functions of core/distill.h; `result` is host memory. Regressors and relations need cuBLASLt.
  WhittleStatus (*feature)(int32_t device, const FeatureLoss& loss);
  WhittleStatus (*attention)(int32_t device, const AttentionLoss& loss);
  WhittleStatus (*relation)(int32_t device, const RelationLoss& loss);
  // As distill_linear_kl, with the statuses of kl. Needs cuBLASLt.
  WhittleStatus (*linear_kl)(int32_t device, const CudaLinear& loss);

  // The first half of making `out` of a dense matrix: writes first, scales and sums. counts, host memory: what `stored` will be,
  // non-zeros, and what WHITTLE_RANGE means: 1 a group of more than n of them, 2 a row that the mask empties, 0 a scale.
  // WHITTLE_NONFINITE as sparse_build().
  WhittleStatus (*sparse_count)(int32_t device, const CudaSparseBuild& build, const CudaSparse& out, int64_t* counts);
  // The other half, with `stored` set: column, places, values.
  WhittleStatus (*sparse_fill)(int32_t device, const CudaSparseBuild& build, const CudaSparse& out);
  // With `compressed` null: the bytes of a library's own form of a whole matrix, 0 where there is none. Else writes that form, and
  // answers 0 where the library does not, whose products are not to be asked of it then.
  WhittleStatus (*sparse_compress)(int32_t device, const CudaSparse& w, int64_t* bytes);
  // rows x cols of the matrix's type.
  WhittleStatus (*sparse_dense)(int32_t device, const CudaSparse& w, void* out);
  // As sparse_multiply(); int8 has its bits. Floats: products of pairs of TF32 numbers for panels and n:m, float32's for the rest.
  // The same bits from call to call. *fault as gemm_int8's.
  WhittleStatus (*sparse_multiply)(int32_t device, const CudaSparse& w, const CudaSpmm& args, int32_t* fault);

  // Steps of plans, many in one turn.
  CudaNet net;
};

// The one symbol that the library exports under this name.
typedef const CudaBackend* (*CudaEntry)();
constexpr const char kCudaEntry[] = "whittle_cuda";

// What opening came to; the same answer for the life of the process.
struct CudaLoaded {
  CudaState state;
  const CudaBackend* backend;  // null unless kCudaReady
  const char* file;            // the file that was opened or looked for, "" where none was
  const char* text;            // the system's words for what went wrong, or ""
  int32_t devices, driver, runtime;
};
// Opens the library at the first call: WHITTLE_CUDA_LIBRARY (an absolute path), else whittle_cuda.so beside the addon.
const CudaLoaded& cuda();

}  // namespace whittle
