// Attention of the active variant against sums in double: tiles of rows, blocks of keys and of depth, masks of every shape.
#include "core/attention.h"

#include <math.h>

#include <vector>

#include "test/native/harness.h"

namespace whittle {

WHITTLE_CHECK(attention) {
  Rng rng(1);
  const auto fill = [&](std::vector<float>* v, int64_t n) {
    v->resize(static_cast<size_t>(n));
    for (float& x : *v) x = rng.normal();
  };
  h.row("against sums in double", [&] {
    rng = h.rng();
    for (int round = 0; round < (h.lean() ? 12 : 60); round++) {
      AttentionProblem p = {};
      p.batch = rng.between(1, 2);
      p.heads = rng.between(1, 3);
      p.rows = round % 3 == 0 ? rng.between(1, 20) : rng.between(14, 90);
      p.keys = round % 8 == 7 ? rng.between(380, 800) : rng.between(1, 150);
      p.depth = round % 8 == 3 ? rng.between(380, 500) : rng.between(1, 70);
      p.wide = rng.between(1, 70);
      p.scale = 0.2f;
      // Heads side by side in a row, as encoders have them; K by columns or by rows.
      std::vector<float> q, k, v, mask, out;
      const int64_t gap = rng.between(0, 2);
      const auto matrix = [&](AttentionMatrix* m, std::vector<float>* data, int64_t rows, int64_t cols, bool turned) {
        const int64_t inner = turned ? rows : cols, outer = turned ? cols : rows;
        const int64_t step = p.heads * inner + gap;
        fill(data, p.batch * outer * step);
        *m = {data->data(), outer * step, inner, turned ? 1 : step, turned ? step : 1};
      };
      matrix(&p.q, &q, p.rows, p.depth, rng.below(4) == 0);
      matrix(&p.k, &k, p.depth, p.keys, rng.below(4) != 0);
      matrix(&p.v, &v, p.keys, p.wide, rng.below(4) == 0);
      fill(&mask, p.batch * p.rows * p.keys);
      const bool hides = rng.below(2) == 0;
      if (hides)
        for (size_t i = 0; i < mask.size(); i += 3) mask[i] = -3.4e38f;
      switch (round % 5) {
        case 1:
          p.mask = {mask.data(), p.keys, 0, 0, 1};
          // As padding on either side is, or all of a sequence.
          for (int64_t b = 0; b < p.batch; b++) {
            const int64_t first = rng.between(0, p.keys), last = rng.below(4) == 0 ? first : rng.between(first, p.keys);
            for (int64_t j = 0; j < p.keys; j++)
              if (j < first || j >= last) mask[static_cast<size_t>(b * p.keys + j)] = -3.4e38f;
          }
          break;
        case 2: p.mask = {mask.data(), p.rows * p.keys, 0, p.keys, 1}; break;
        case 3: p.mask = {mask.data(), 0, 0, 1, 0}; break;
        // Heads innermost, as a table of relative positions has them.
        case 4:
          fill(&mask, p.batch * p.rows * p.keys * p.heads);
          p.mask = {mask.data(), p.rows * p.keys * p.heads, 1, p.keys * p.heads, p.heads};
          break;
        default: break;
      }
      p.out_row = p.heads * p.wide + gap;
      p.out_head = p.wide;
      p.out_batch = p.rows * p.out_row;
      out.assign(static_cast<size_t>(p.batch * p.out_batch), 7.0f);
      p.out = out.data();
      if (!h.expect(attention_f32(p, 1) == WHITTLE_OK, "no memory")) return;
      std::vector<float> shared(out.size(), 7.0f);
      p.out = shared.data();
      if (!h.expect(attention_f32(p, 3) == WHITTLE_OK && shared == out, "other numbers on three threads")) return;
      const auto at = [](const AttentionMatrix& m, int64_t b, int64_t g, int64_t i, int64_t j) {
        return static_cast<double>(m.data[b * m.batch + g * m.head + i * m.row + j * m.col]);
      };
      std::vector<double> s(static_cast<size_t>(p.keys));
      for (int64_t b = 0; b < p.batch; b++)
        for (int64_t g = 0; g < p.heads; g++)
          for (int64_t i = 0; i < p.rows; i++) {
            double top = -INFINITY, sum = 0;
            for (int64_t j = 0; j < p.keys; j++) {
              double x = 0;
              for (int64_t d = 0; d < p.depth; d++) x += at(p.q, b, g, i, d) * at(p.k, b, g, d, j);
              // What is hidden is so in floats: the lowest of them swallows a score.
              x = static_cast<float>(x * static_cast<double>(p.scale) + (p.mask.data ? at(p.mask, b, g, i, j) : 0));
              s[static_cast<size_t>(j)] = x;
              top = x > top ? x : top;
            }
            for (double& x : s) sum += x = exp(x - top);
            for (int64_t w = 0; w < p.wide; w++) {
              double y = 0, abs = 0;
              for (int64_t j = 0; j < p.keys; j++) {
                y += s[static_cast<size_t>(j)] / sum * at(p.v, b, g, j, w);
                abs += s[static_cast<size_t>(j)] / sum * fabs(at(p.v, b, g, j, w));
              }
              const double got = static_cast<double>(out[static_cast<size_t>(b * p.out_batch + i * p.out_row + g * p.wide + w)]);
              if (!h.expect(fabs(got - y) <= 2e-5 * abs, "round %d, row %lld of %lld: %g, want %g", round, static_cast<long long>(i), static_cast<long long>(p.rows), got, y)) return;
            }
          }
      bool intact = true;
      for (size_t i = 0; gap > 0 && i < out.size(); i++)
        if (static_cast<int64_t>(i) % p.out_row >= p.heads * p.wide) intact &= out[i] == 7.0f;
      if (!h.expect(intact, "wrote between rows")) return;
    }
  });
  h.row("hidden keys that are not finite", [&] {
    for (int which = 0; which < 4; which++) {
      constexpr int64_t kRows = 20, kKeys = 30, kDepth = 8;
      std::vector<float> q, k, v, mask(kKeys, 0.0f), out(kRows * kDepth);
      fill(&q, kRows * kDepth);
      fill(&k, kKeys * kDepth);
      fill(&v, kKeys * kDepth);
      for (size_t j = 24; j < kKeys; j++) mask[j] = -3.4e38f;
      if (which) (which == 1 ? k : v)[28 * kDepth + 3] = which == 3 ? INFINITY : NAN;
      AttentionProblem p = {1, 1, kRows, kKeys, kDepth, kDepth, 0.2f, false, {q.data(), 0, 0, kDepth, 1}, {k.data(), 0, 0, 1, kDepth},
                            {v.data(), 0, 0, kDepth, 1}, {mask.data(), 0, 0, 0, 1}, out.data(), 0, 0, kDepth};
      if (!h.expect(attention_f32(p, 1) == WHITTLE_OK, "no memory")) return;
      for (int64_t i = 0; i < kRows; i++)
        for (int64_t j = 0; j < kDepth; j++) {
          const bool nan = which == 1 || (which > 1 && j == 3);
          if (!h.expect(isnan(out[static_cast<size_t>(i * kDepth + j)]) == nan, "case %d: a NaN is missing or too many", which)) return;
        }
    }
  });
  h.row("rows without a softmax", [&] {
    // In a tile of rows, and in fewer than make one.
    for (const int64_t rows : {20, 5})
      for (const bool forgiving : {false, true}) {
        constexpr int64_t kKeys = 30, kDepth = 8;
        const size_t n = static_cast<size_t>(rows * kDepth);
        std::vector<float> q, k, v, mask(static_cast<size_t>(rows * kKeys), 0.0f), out(n);
        fill(&q, rows * kDepth);
        fill(&k, kKeys * kDepth);
        fill(&v, kKeys * kDepth);
        q[0 * kDepth + 2] = NAN;
        for (size_t j = 0; j < kKeys; j++) mask[1 * kKeys + j] = -INFINITY;
        mask[2 * kKeys + 17] = INFINITY;
        mask[3 * kKeys + 9] = -INFINITY;
        AttentionProblem p = {1, 1, rows, kKeys, kDepth, kDepth, 0.2f, forgiving, {q.data(), 0, 0, kDepth, 1}, {k.data(), 0, 0, 1, kDepth},
                              {v.data(), 0, 0, kDepth, 1}, {mask.data(), 0, 0, kKeys, 1}, out.data(), 0, 0, kDepth};
        if (!h.expect(attention_f32(p, 1) == WHITTLE_OK, "no memory")) return;
        for (size_t i = 0; i < n; i++) {
          const bool none = i < 3 * kDepth;
          const bool right = none ? (forgiving ? out[i] == 0 : isnan(out[i])) : isfinite(out[i]) && out[i] != 0;
          if (!h.expect(right, "%lld rows, forgiving %d: row %lld is %g", static_cast<long long>(rows), forgiving, static_cast<long long>(i / kDepth), static_cast<double>(out[i]))) return;
        }
      }
  });
}

}  // namespace whittle
