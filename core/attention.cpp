#include "core/attention.h"

#include <math.h>

#include <algorithm>
#include <atomic>

#include "core/gemm.h"
#include "core/norm.h"
#include "core/scratch.h"
#include "core/threads.h"

namespace whittle {
namespace {

// Scores that a block of rows may take: half of a common L2.
constexpr int64_t kScores = 128 << 10;
constexpr int64_t kMostRows = 128;

}  // namespace

WhittleStatus attention_f32(const AttentionProblem& p, int threads) {
  if (p.batch * p.heads * p.rows * p.wide == 0) return WHITTLE_OK;
  const int64_t fit = kScores / 4 / std::max<int64_t>(1, p.keys);
  const int64_t block = std::min<int64_t>(p.rows, std::max<int64_t>(8, std::min(kMostRows, fit)));
  const int64_t blocks = (p.rows + block - 1) / block;
  std::atomic<int> status{WHITTLE_OK};
  const NormKernels& norm = norm_kernels();
  parallel_for(p.batch * p.heads * blocks, 1, threads, [&](int64_t begin, int64_t end) {
    static thread_local Scratch scratch;
    float* scores = static_cast<float*>(scratch.take(block * p.keys * 4));
    if (!scores) {
      status.store(WHITTLE_OUT_OF_MEMORY);
      return;
    }
    for (int64_t t = begin; t < end; t++) {
      const int64_t b = t / blocks / p.heads, h = t / blocks % p.heads, first = t % blocks * block;
      const int64_t rows = std::min(block, p.rows - first);
      GemmProblem g;
      g.m = rows;
      g.n = p.keys;
      g.k = p.depth;
      g.a = p.q.data + b * p.q.batch + h * p.q.head + first * p.q.row;
      g.a_row = p.q.row;
      g.a_col = p.q.col;
      g.b = p.k.data + b * p.k.batch + h * p.k.head;
      g.b_row = p.k.row;
      g.b_col = p.k.col;
      g.c = scores;
      g.ldc = p.keys;
      g.alpha = p.scale;
      if (p.mask.data) {
        const float* mask = p.mask.data + b * p.mask.batch + h * p.mask.head + first * p.mask.row;
        if (p.mask.row == 0 && p.mask.col == 1) {
          g.bias = mask;
        } else {
          g.beta = 1;
          g.source = mask;
          g.source_row = p.mask.row;
          g.source_col = p.mask.col;
        }
      }
      WhittleStatus s = gemm_f32(g, 1);
      for (int64_t i = 0; i < rows && p.keys > 0; i++) norm.softmax(p.keys, scores + i * p.keys, 0, scores + i * p.keys);
      GemmProblem o;
      o.m = rows;
      o.n = p.wide;
      o.k = p.keys;
      o.a = scores;
      o.a_row = p.keys;
      o.a_col = 1;
      o.b = p.v.data + b * p.v.batch + h * p.v.head;
      o.b_row = p.v.row;
      o.b_col = p.v.col;
      o.c = p.out + b * p.out_batch + h * p.out_head + first * p.out_row;
      o.ldc = p.out_row;
      if (s == WHITTLE_OK) s = gemm_f32(o, 1);
      if (s != WHITTLE_OK) status.store(s);
    }
  });
  return static_cast<WhittleStatus>(status.load());
}

}  // namespace whittle
