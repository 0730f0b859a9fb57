// What the operations of this library stand on: a device's stream and memory, one call's scratch and flags.
#pragma once
#include "cuda/device.h"

namespace whittle {

// Bits that kernels raise for what they find in the data.
enum Flag : int { kFlagNonfinite = 1, kFlagScale = 2, kFlagLabel = 4, kFlagSum = 8 };

constexpr int kBlock = 256;  // threads of a block, everywhere
constexpr int64_t kMostElements = 2147483647;

inline dim3 blocks_for(int64_t threads) { return dim3(static_cast<unsigned>((threads + kBlock - 1) / kBlock)); }

// One operation: a turn on the device's stream, scratch that goes with it, flags. The first error stays and makes the rest
// do nothing.
class Work {
 public:
  explicit Work(int32_t device) : Work(device, nullptr, false) {}
  // On a stream beside the device's, with flags in memory of the caller's.
  Work(int32_t device, int* flags) : Work(device, flags, true) {}
  ~Work();
  Work(const Work&) = delete;
  Work& operator=(const Work&) = delete;

  // Scratch for `count` of T, not initialized; null once something failed. At most kPieces at a time.
  template <class T>
  T* scratch(int64_t count) {
    return static_cast<T*>(take(count * static_cast<int64_t>(sizeof(T))));
  }
  // Scratch of at least so many bytes for a library's call, which the next such call gets again: it is of use in the order of
  // the stream only.
  void* workspace(int64_t bytes);
  // scratch() and workspace() that a caller can do without: null where there is no memory, and the work goes on.
  void* spare_piece(int64_t bytes);
  void* spare(int64_t bytes);
  // Gives back the scratch that was taken since mark(), in the order of the stream.
  int mark() const { return count_; }
  void release_to(int mark);
  // Device memory, 0 at first: bits of Flag, and behind them words that one launch may leave for the next.
  int* flags() { return flags_; }

  template <class... P, class... A>
  void launch(dim3 grid, dim3 block, void (*kernel)(P...), const A&... arguments) {
    if (status_ == WHITTLE_OK) check(whittle::launch(stream_, grid, block, kernel, arguments...));
  }
  void fill(void* memory, int value, int64_t bytes);
  // From host memory, which stays until finish() has answered.
  void send(void* memory, const void* host, int64_t bytes);
  void copy(void* to, const void* from, int64_t bytes);
  // To host memory, there once finish() has answered.
  void fetch(void* host, const void* memory, int64_t bytes);

  void wait();

  // Between these, work is recorded instead of queued; see CudaNet. Whatever cannot be part of a recording makes recorded() answer
  // false, and does nothing.
  bool record();
  bool recorded(cudaGraphExec_t* out);
  void replay(cudaGraphExec_t graph);

  // Ends the operation with WHITTLE_DEVICE and these words, or for want of memory.
  void refuse(const char* words);
  void refuse_memory();
  // Takes in what a library's call on the stream came to.
  void check(cudaError_t e);
  bool good() const { return status_ == WHITTLE_OK; }
  int32_t device() const { return device_; }
  cudaStream_t stream() const { return stream_; }

  // Waits. Then flags say what kernels found; the first of range, label and finiteness that is raised is the answer. What
  // follows may go on after WHITTLE_OK.
  WhittleStatus finish();
  bool raised(Flag flag) const { return seen_ & flag; }

 private:
  static constexpr int kPieces = 40, kWords = 16;
  Work(int32_t device, int* flags, bool beside);
  void* take(int64_t bytes);
  // Whether what cannot be recorded may go on.
  bool unrecorded() {
    if (recording_) spoilt_ = true;
    return status_ == WHITTLE_OK && !recording_;
  }

  cudaStream_t stream_ = nullptr;
  int32_t device_;
  int lane_ = -1;           // the stream's number, -1: the device's own
  int* found_ = nullptr;    // pinned: what flags were at the end
  int* flags_ = nullptr;
  int seen_ = 0;
  bool recording_ = false, spoilt_ = false;
  WhittleStatus status_ = WHITTLE_OK;
  void* pieces_[kPieces];
  int count_ = 0;
  int shared_ = -1;  // the piece that workspace() answers
  int64_t shared_bytes_ = 0;
};

// The operations, by file.
WhittleStatus cuda_quantize(int32_t device, const void* x, FloatType type, const QuantizeShape& shape, const QuantizeRule* rule,
                            float* scale, void* zero, const QuantizeOptions& options, void* q);
WhittleStatus cuda_dequantize(int32_t device, const void* q, const QuantizeShape& shape, const float* scale, const void* zero,
                              const QuantizeOptions& options, FloatType type, void* y);
WhittleStatus cuda_fake_quantize(int32_t device, const float* x, const QuantizeShape& shape, const float* scale, const int32_t* zero,
                                 const QuantizeOptions& options, float* y, const FakeGradient* gradient);
WhittleStatus cuda_ranges(int32_t device, const void* x, FloatType type, const QuantizeShape& shape, float* lo, float* hi);
WhittleStatus cuda_histogram(int32_t device, const void* x, FloatType type, const QuantizeShape& shape, const float* factor, int32_t bins, double* counts);
WhittleStatus cuda_scores(int32_t device, int norm, const float* x, const float* g, int64_t n, float* out);
WhittleStatus cuda_groups(int32_t device, int norm, const float* x, const float* g, int64_t outer, int64_t axis, int64_t inner,
                          float* out);
WhittleStatus cuda_largest(int32_t device, const float* scores, int64_t n, int64_t keep, uint8_t* mask, float* threshold);
WhittleStatus cuda_nm(int32_t device, const float* scores, int64_t outer, int64_t axis, int64_t inner, int keep, int m, uint8_t* mask);
WhittleStatus cuda_apply(int32_t device, const float* x, const uint8_t* mask, int64_t n, float* out);
WhittleStatus cuda_above(int32_t device, const float* scores, int64_t n, float threshold, int64_t equal, uint8_t* mask);
WhittleStatus cuda_count(int32_t device, const float* scores, int64_t n, uint32_t base, int shift, int64_t* counts);
WhittleStatus cuda_balanced(int32_t device, const float* scores, int64_t outer, int64_t axis, int64_t inner, int64_t keep, uint8_t* mask);
WhittleStatus cuda_blocks(int32_t device, int norm, const float* x, const float* g, int64_t rows, int64_t cols, int64_t r, int64_t c, float* out);
WhittleStatus cuda_median(int32_t device, const float* x, int64_t outer, int64_t axis, int64_t inner, float* out);
WhittleStatus cuda_random(int32_t device, uint64_t seed, int64_t n, float* out);
WhittleStatus cuda_expand(int32_t device, const uint8_t* chosen, int64_t groups, int64_t repeat, int64_t count, int64_t width, uint8_t* mask);
WhittleStatus cuda_cross_entropy(int32_t device, const LogitLoss& loss);
WhittleStatus cuda_kl(int32_t device, const LogitLoss& loss);
WhittleStatus cuda_js(int32_t device, const LogitLoss& loss);
WhittleStatus cuda_dkd(int32_t device, const LogitLoss& loss);
WhittleStatus cuda_multi_teacher(int32_t device, const LogitLoss& loss);
WhittleStatus cuda_feature(int32_t device, const FeatureLoss& loss);
WhittleStatus cuda_attention(int32_t device, const AttentionLoss& loss);
WhittleStatus cuda_relation(int32_t device, const RelationLoss& loss);
WhittleStatus cuda_linear_kl(int32_t device, const CudaLinear& loss);
WhittleStatus cuda_gemm(int32_t device, const CudaGemm& gemm);
WhittleStatus cuda_gemm_int8(int32_t device, const GemmInt8Args& args, int32_t* fault);
WhittleStatus cuda_svd(int32_t device, const CudaSvd& problem, SvdOutcome* outcome);
WhittleStatus cuda_sparse_count(int32_t device, const CudaSparseBuild& build, const CudaSparse& out, int64_t* counts);
WhittleStatus cuda_sparse_fill(int32_t device, const CudaSparseBuild& build, const CudaSparse& out);
WhittleStatus cuda_sparse_compress(int32_t device, const CudaSparse& w, int64_t* bytes);
WhittleStatus cuda_sparse_dense(int32_t device, const CudaSparse& w, void* out);
WhittleStatus cuda_sparse_multiply(int32_t device, const CudaSparse& w, const CudaSpmm& args, int32_t* fault);
WhittleStatus cuda_pack_int8(int32_t device, const uint8_t* w, bool is_unsigned, bool transposed, int64_t k, int64_t n, int8_t* data,
                             int32_t* sums);

}  // namespace whittle
