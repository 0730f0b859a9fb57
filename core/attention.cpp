#include "core/attention.h"

#include <math.h>

#include <algorithm>
#include <atomic>

#include "core/gemm.h"
#include "core/norm.h"
#include "core/quantize.h"
#include "core/scratch.h"
#include "core/threads.h"

namespace whittle {
namespace {

// Scores that a block of rows may take: half of a common L2.
constexpr int64_t kScores = 128 << 10;
constexpr int64_t kMostRows = 128;

// From so many rows on K and V are packed for a head.
constexpr int64_t kPackedRows = 16;
// Between panels, so that no two lie in one set of L1; and the same between rows of scores.
constexpr int64_t kGap = 16;

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// A matrix k x n in panels, block of k by block of k, as GemmKernels::tile reads them.
struct Packed {
  int64_t k, n, step, panels, nr;
  float* data;
  Packed(int64_t rows, int64_t cols, const GemmEngine& e)
      : k(rows), n(cols), step(gemm_k_block(rows, e)), panels((cols + e.kernels.nr - 1) / e.kernels.nr), nr(e.kernels.nr), data(nullptr) {}
  int64_t size() const { return panels * (round_up(k, step) * nr + (k + step - 1) / step * kGap); }
  int64_t length(int64_t at) const { return std::min(step, k - at); }
  int64_t panel() const { return step * nr + kGap; }
  const float* block(int64_t at) const { return data + at / step * panels * panel(); }
  void fill(const GemmKernels& kernels, const float* b, int64_t row, int64_t col) {
    for (int64_t at = 0; at < k; at += step)
      kernels.pack_b(length(at), n, b + at * row, row, col, data + at / step * panels * panel(), panel());
  }
};

// c = alpha * a b + beta * c + bias for a tile's rows of a, a block of k at a time; `a` answers where one lies.
template <class A>
void product(const GemmKernels& kernels, const Packed& b, GemmTile t, const A& a) {
  const float* bias = t.bias;
  t.cols = b.n;
  t.b_row = b.nr;
  t.b_panel = b.panel();
  t.b_padded = true;
  t.lo = -INFINITY;
  t.hi = INFINITY;
  for (int64_t at = 0; at < b.k; at += b.step, t.beta = 1) {
    t.k = b.length(at);
    t.a = a(at, t.k);
    t.b = b.block(at);
    t.bias = at + t.k == b.k ? bias : nullptr;
    kernels.tile(&t);
  }
}

// Masks from here on hide a key where any other lies at kSeen or above: its exponential is 0 for every score between.
constexpr float kHidden = -1e30f, kSeen = -1e20f;

bool all_finite(const float* x, int64_t row, int64_t col, int64_t rows, int64_t cols) {
  if (col != 1) {
    std::swap(row, col);
    std::swap(rows, cols);
  }
  float lo = 0, hi = 0;
  for (int64_t i = 0; cols > 0 && i < rows; i++)
    if (quantize_kernels().range(x + i * row, 1, cols, &lo, &hi)) return false;
  return true;
}

struct Keys {
  int64_t first, last;
};

// The keys that a mask of all rows leaves: those hidden at both ends, as padding is, are passed over where their numbers are finite.
Keys seen_keys(const AttentionProblem& p, const float* mask, const float* k, const float* v) {
  Keys s = {0, p.keys};
  float top = mask[0];
  for (int64_t j = 1; j < p.keys; j++) top = std::max(top, mask[j]);
  if (!(top >= kSeen)) return s;
  while (mask[s.last - 1] <= kHidden) s.last--;
  while (mask[s.first] <= kHidden) s.first++;
  const Keys hidden[] = {{0, s.first}, {s.last, p.keys}};
  for (const Keys& h : hidden) {
    const int64_t n = h.last - h.first;
    if (!all_finite(k + h.first * p.k.col, p.k.row, p.k.col, p.depth, n) || !all_finite(v + h.first * p.v.row, p.v.row, p.v.col, n, p.wide))
      return {0, p.keys};
  }
  return s;
}

// Rows [first, last) of one head: K and V are packed, then scores, softmax and what V makes of them follow each other while a
// tile's rows are in L1.
bool packed_rows(const AttentionProblem& p, int64_t b, int64_t h, int64_t first, int64_t last) {
  static thread_local Scratch scratch;
  const GemmEngine& e = gemm_default();
  const GemmKernels& kernels = e.kernels;
  const float *from_k = p.k.data + b * p.k.batch + h * p.k.head, *from_v = p.v.data + b * p.v.batch + h * p.v.head;
  const float* q = p.q.data + b * p.q.batch + h * p.q.head;
  const float* mask = p.mask.data ? p.mask.data + b * p.mask.batch + h * p.mask.head : nullptr;
  const bool shared = mask && p.mask.row == 0 && p.mask.col == 1;  // by all rows
  int64_t keys = p.keys;
  if (shared) {
    const Keys seen = seen_keys(p, mask, from_k, from_v);
    keys = seen.last - seen.first;
    from_k += seen.first * p.k.col;
    from_v += seen.first * p.v.row;
    mask += seen.first;
  }
  const int64_t block = std::max<int64_t>(1, 16 / kernels.mr) * kernels.mr, stride = round_up(keys, 16) + kGap;
  Packed k(p.depth, keys, e), v(keys, p.wide, e);
  const int64_t parts[] = {round_up(k.size(), 16), round_up(v.size(), 16), round_up(block * kGemmRowStride, 16)};
  k.data = static_cast<float*>(scratch.take((parts[0] + parts[1] + parts[2] + block * stride) * 4));
  if (!k.data) return false;
  v.data = k.data + parts[0];
  float *a = v.data + parts[1], *scores = a + parts[2];
  k.fill(kernels, from_k, p.k.row, p.k.col);
  v.fill(kernels, from_v, p.v.row, p.v.col);
  const int64_t tiles = (last - first + block - 1) / block;
  for (int64_t i = 0; i < tiles; i++) {
    const int64_t row = first + (last - first) * i / tiles;
    GemmTile t = {};
    t.rows = first + (last - first) * (i + 1) / tiles - row;
    t.c = scores;
    t.ldc = stride;
    t.alpha = p.scale;
    t.bias = shared ? mask : nullptr;
    if (mask && !shared) {
      t.beta = 1;
      for (int64_t r = 0; r < t.rows; r++)
        for (int64_t j = 0; j < keys; j++) scores[r * stride + j] = mask[(row + r) * p.mask.row + j * p.mask.col];
    }
    t.a_row = kGemmRowStride;
    product(kernels, k, t, [&](int64_t at, int64_t length) {
      kernels.pack_a(t.rows, length, q + row * p.q.row + at * p.q.col, p.q.row, p.q.col, a);
      return a;
    });
    float factors[kGemmMaxRows];
    norm_kernels().softmax_rows(t.rows, keys, scores, stride, factors);
    t.c = p.out + b * p.out_batch + h * p.out_head + row * p.out_row;
    t.ldc = p.out_row;
    t.alpha = 1;
    t.beta = 0;
    t.bias = nullptr;
    t.a_row = stride;
    product(kernels, v, t, [&](int64_t at, int64_t) { return scores + at; });
    norm_kernels().scale_rows(t.rows, p.wide, t.c, t.ldc, factors);
    for (int64_t r = 0; p.forgiving && r < t.rows; r++)
      if (isnan(factors[r])) std::fill_n(t.c + r * t.ldc, p.wide, 0.0f);
  }
  return true;
}

WhittleStatus attention_packed(const AttentionProblem& p, int threads) {
  const int64_t heads = p.batch * p.heads, team = threads > 0 ? threads : thread_limit();
  // Where heads are few, threads share one and each packs its own copy.
  const int64_t parts = team == 1 ? 1 : std::max<int64_t>(1, std::min(p.rows / (2 * kPackedRows), 4 * team / heads));
  std::atomic<bool> failed{false};
  parallel_for(heads * parts, 1, threads, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      const int64_t at = t / parts, part = t % parts;
      if (!packed_rows(p, at / p.heads, at % p.heads, p.rows * part / parts, p.rows * (part + 1) / parts)) failed = true;
    }
  });
  return failed ? WHITTLE_OUT_OF_MEMORY : WHITTLE_OK;
}

}  // namespace

WhittleStatus attention_f32(const AttentionProblem& p, int threads) {
  if (p.batch * p.heads * p.rows * p.wide == 0) return WHITTLE_OK;
  if (p.rows >= kPackedRows && p.keys > 0 && p.depth > 0) return attention_packed(p, threads);
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
      for (int64_t i = 0; i < rows && p.keys > 0; i++) {
        float* row = scores + i * p.keys;
        norm.softmax(p.keys, row, 0, row);
        if (p.forgiving && isnan(row[0])) std::fill_n(row, p.keys, 0.0f);
      }
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
