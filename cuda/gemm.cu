// Float products through cuBLASLt, activations by an own kernel: the library's turn NaN into 0, and its gelu is another one.
// Row-major operands are the transposes of column-major ones, so y^T = b^T a^T and a bias along n is the library's.
#include "cuda/activation.h"
#include "cuda/cublaslt.h"
#include "cuda/half.h"

namespace whittle {
namespace {

template <FloatType kType>
__global__ void finish_kernel(const float* x, uint32_t size, uint32_t n, const void* bias, Activation activation, void* y) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= size) return;
  float v = x[i];
  if (bias) v = __fadd_rn(v, load<kType>(bias, i % n));
  store<kType>(y, i, act_apply(v, activation.kind, activation.lo, activation.hi));
}

}  // namespace

WhittleStatus cuda_gemm(int32_t device, const CudaGemm& g) {
  if (g.m < 0 || g.n < 0 || g.k < 0 || g.batch < 0 || (g.m && g.n && g.batch > kMostElements / g.m / g.n)) return WHITTLE_SHAPE;
  const int64_t size = g.batch * g.m * g.n;
  Work work(device);
  if (size == 0) return work.finish();
  const bool active = g.activation.kind != kActivationNone, narrow = g.type != kFloat32;
  // Sums that an own kernel finishes: in y itself where that is float32.
  const bool own = active || g.k == 0;
  float* sums = !own ? nullptr : narrow ? work.scratch<float>(size) : static_cast<float*>(g.y);
  if (g.k == 0) {
    work.fill(sums, 0, size * static_cast<int64_t>(sizeof(float)));
  } else {
    LtProduct p = {};
    p.type = g.type;
    p.d_type = own ? kFloat32 : g.type;
    p.transpose_a = g.transpose_b;
    p.transpose_b = g.transpose_a;
    p.m = g.n;
    p.n = g.m;
    p.k = g.k;
    p.a = g.b;
    p.b = g.a;
    p.lda = g.transpose_b ? g.k : g.n;
    p.ldb = g.transpose_a ? g.m : g.k;
    p.ldd = g.n;
    p.batch = g.batch;
    p.a_batch = g.b_batch;
    p.b_batch = g.a_batch;
    p.d_batch = g.m * g.n;
    p.alpha = g.alpha;
    p.bias = own ? nullptr : g.bias;
    p.d = own ? static_cast<void*>(sums) : g.y;
    const char* why = "";
    if (!lt_product(work, p, &why)) work.refuse(why);
  }
  if (own)
    by_type(g.type, [&](auto t) {
      work.launch(blocks_for(size), kBlock, finish_kernel<decltype(t)::value>, sums, size, g.n, g.bias, g.activation, g.y);
    });
  return work.finish();
}

}  // namespace whittle
