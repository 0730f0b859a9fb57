// Sparse products, NEON: kernels.h with 32 registers of four floats: up to 8 vectors for one row, 24 accumulators for more.
#include <arm_neon.h>

#define WHITTLE_ISA_FILE
#include "core/sparse.h"
#include "cpu/common/lanes_neon.h"
#include "cpu/gemm/activation_neon.h"

#define SPARSE_VECTORS_1 8
#define SPARSE_SINGLE_CHAIN 8
#define SPARSE_VECTORS_2 8
#define SPARSE_VECTORS_4 6
#define SPARSE_VECTORS_8 3
#if defined(__GNUC__)
#define V_PREFETCH(p) __builtin_prefetch(p)
#define V_PREFETCH_FAR(p) __builtin_prefetch(p, 0, 2)
#else
#define V_PREFETCH(p)
#define V_PREFETCH_FAR(p)
#endif

static inline void v_fma_into(vf& sum, vf w, vf x) { sum = v_fma(w, x, sum); }
static inline vf v_broadcast_bf16(const uint16_t* p) { return vreinterpretq_f32_u32(vdupq_n_u32((uint32_t)*p << 16)); }
template <class Index>
static inline vf v_gather(const float* x, const Index* index) {
  const float lanes[4] = {x[index[0]], x[index[1]], x[index[2]], x[index[3]]};
  return vld1q_f32(lanes);
}
static inline void turn4(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
  const float32x4_t a = vld1q_f32(from), b = vld1q_f32(from + from_stride);
  const float32x4_t c = vld1q_f32(from + 2 * from_stride), d = vld1q_f32(from + 3 * from_stride);
  const float32x4x2_t p = vtrnq_f32(a, b), q = vtrnq_f32(c, d);
  vst1q_f32(to, vcombine_f32(vget_low_f32(p.val[0]), vget_low_f32(q.val[0])));
  vst1q_f32(to + to_stride, vcombine_f32(vget_low_f32(p.val[1]), vget_low_f32(q.val[1])));
  vst1q_f32(to + 2 * to_stride, vcombine_f32(vget_high_f32(p.val[0]), vget_high_f32(q.val[0])));
  vst1q_f32(to + 3 * to_stride, vcombine_f32(vget_high_f32(p.val[1]), vget_high_f32(q.val[1])));
}
static inline void v_turn8(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
  for (int i = 0; i < 8; i += 4)
    for (int j = 0; j < 8; j += 4) turn4(from + i * from_stride + j, from_stride, to + j * to_stride + i, to_stride);
}

#include "cpu/sparse/kernels.h"

extern "C" void sparse_install_neon(SparseKernels* t) { install(t); }
