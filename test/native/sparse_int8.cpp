// Sparse int8 products: every variant, block, width of a strip and orientation against 64-bit sums of the dense matrix, the
// epilogue against gemm_int8 on it, to the bit; then times against the dense product of the same tier.
#include "core/sparse_int8.h"

#include <math.h>
#include <string.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <string>

#include "test/native/harness.h"

using namespace whittle;

namespace {

struct Case {
  int64_t rows, cols, columns, hint = 0, batch = 1;
  int32_t r = 1, c = 1, n = 0, m = 0;
  double density = 0.3;
  bool by_rows = false, x_signed = false, extreme = false;
  int32_t lowest = -128;  // weight, of extreme ones
  int32_t x_zero = 0, out_type = kOutInt32, bias = 0;
  int32_t added = -1;  // type of a residual
  float out_scale = 0.037f;
  Activation act = {kActivationNone, 0, 0};
  int threads = 1;
};

std::string describe(const Case& c) {
  char text[240];
  snprintf(text, sizeof text, "%dx%d N %d batch %d block %dx%d n:m %d:%d hint %d rows %d %s zero %d out %d act %d residual %d threads %d", int(c.rows), int(c.cols),
           int(c.columns), int(c.batch), int(c.r), int(c.c), int(c.n), int(c.m), int(c.hint), int(c.by_rows), c.x_signed ? "s8" : "u8", int(c.x_zero),
           int(c.out_type), int(c.act.kind), int(c.added), c.threads);
  return text;
}

std::vector<int8_t> weights(const Case& c, Rng& rng) {
  std::vector<int8_t> w(static_cast<size_t>(c.rows * c.cols));
  const auto value = [&] { return static_cast<int8_t>(c.extreme ? (rng.below(4) ? c.lowest : 127) : rng.between(-128, 127)); };
  for (int64_t i = 0; i < c.rows; i += c.r) {
    // Rows of very different length, some empty.
    const double density = rng.below(8) == 0 ? 0 : c.density * static_cast<double>(rng.uniform(0.2f, 1.8f));
    for (int64_t j = 0; j < c.cols; j += c.m ? c.m : c.c) {
      if (c.m) {
        for (int64_t q = 0; q < c.n; q++) w[static_cast<size_t>(i * c.cols + j + rng.below(c.m))] = value();
        continue;
      }
      if (static_cast<double>(rng.uniform(0, 1)) >= density) continue;
      for (int64_t a = i; a < std::min(c.rows, i + c.r); a++)
        for (int64_t b = j; b < std::min(c.cols, j + c.c); b++) w[static_cast<size_t>(a * c.cols + b)] = value();
    }
  }
  return w;
}

WhittleStatus make(const Case& c, const std::vector<int8_t>& w, const std::vector<float>& scales, SparseMatrix* out) {
  SparseBuild b = {};
  b.rows = c.rows, b.cols = c.cols;
  b.w = w.data();
  b.source_type = b.type = kSparseInt8;
  b.format = c.m ? kSparseNm : c.r * c.c > 1 ? kSparseBlock : kSparseCsr;
  b.r = c.r, b.c = c.c, b.n = c.n, b.m = c.m;
  b.scales = scales.data();
  b.columns = c.hint;
  return sparse_build(b, out);
}

void verify(Harness& h, const SparseInt8Kernels& kernels, const Case& c, Rng& rng) {
  const std::vector<int8_t> w = weights(c, rng);
  std::vector<float> scales(static_cast<size_t>(c.rows)), bias(static_cast<size_t>(c.rows));
  std::vector<int32_t> bias_int(static_cast<size_t>(c.rows));
  for (auto& s : scales) s = rng.uniform(0.001f, 0.02f);
  for (auto& s : bias) s = rng.uniform(-3, 3);
  for (auto& s : bias_int) s = static_cast<int32_t>(rng.between(-1000000, 1000000));
  SparseMatrix matrix;
  if (!h.expect(make(c, w, scales, &matrix) == WHITTLE_OK, "%s: build", describe(c).c_str())) return;
  std::vector<int8_t> back(w.size());
  sparse_to_dense(matrix, back.data());
  h.expect(back == w, "%s: to dense and back", describe(c).c_str());
  const int64_t size = c.out_type == kOutInt32 || c.out_type == kOutFloat32 ? 4 : 1, many = c.batch * c.columns;
  Guarded<uint8_t> x(c.cols * many, rng.below(16)), y(c.rows * many * size, size * rng.below(4));
  for (int64_t i = 0; i < x.size(); i++) x[i] = c.extreme ? static_cast<uint8_t>(c.x_signed ? (rng.below(4) ? 0x80 : 0x7f) : 0xff) : static_cast<uint8_t>(rng.next());
  SparseArgs a = {};
  a.w = &matrix;
  a.x = x.data();
  a.by_rows = c.by_rows;
  a.batch = c.by_rows ? 1 : c.batch;
  a.columns = c.by_rows ? many : c.columns;
  a.bias = c.bias == 2 ? bias.data() : nullptr;
  a.bias_int = c.bias == 1 ? bias_int.data() : nullptr;
  a.activation = c.act;
  a.out = y.data();
  a.threads = c.threads;
  a.x_signed = c.x_signed;
  a.x_zero = c.x_zero;
  a.x_scale = 0.013f;
  a.out_type = c.out_type;
  a.out_scale = c.out_scale;
  a.out_zero = 3;
  Guarded<uint8_t> codes(c.rows * many, rng.below(16));
  std::vector<float> floats(static_cast<size_t>(c.rows * many));
  for (int64_t i = 0; i < codes.size(); i++) codes[i] = static_cast<uint8_t>(rng.next()), floats[static_cast<size_t>(i)] = rng.normal();
  if (c.added == kOutFloat32) a.residual = floats.data();
  else if (c.added > 0) a.added = {codes.data(), c.added == kOutInt8, 40, 0.023f};
  if (!h.expect(sparse_int8_multiply(kernels, a) == WHITTLE_OK, "%s: status", describe(c).c_str())) return;
  h.expect(y.intact() && x.intact(), "%s: wrote outside", describe(c).c_str());
  // [product][column][row] as gemm_int8 has it.
  std::vector<uint8_t> rows(static_cast<size_t>(c.cols * many)), dense(static_cast<size_t>(c.rows * many * size));
  const auto x_at = [&](int64_t j, int64_t p) { return c.by_rows ? x[j * c.cols + p] : x[(j / c.columns * c.cols + p) * c.columns + j % c.columns]; };
  for (int64_t j = 0; j < many; j++)
    for (int64_t p = 0; p < c.cols; p++) rows[static_cast<size_t>(j * c.cols + p)] = x_at(j, p);
  if (c.out_type != kOutInt32) {
    GemmInt8Args g = {};
    g.a = rows.data(), g.a_signed = c.x_signed, g.m = many, g.n = c.rows, g.k = c.cols, g.batch = 1;
    g.b = reinterpret_cast<const uint8_t*>(w.data()), g.b_transposed = true;
    g.a_zero = c.x_zero, g.a_scale = a.x_scale, g.b_scales = scales.data(), g.b_scale = 1;
    g.bias_int = a.bias_int, g.bias_float = a.bias, g.activation = c.act;
    g.out_type = c.out_type, g.out_scale = a.out_scale, g.out_zero = a.out_zero, g.out = dense.data(), g.threads = 1;
    g.residual = a.residual, g.added = a.added;
    if (!h.expect(gemm_int8(overlay(gemm_int8_variants(), Tier::scalar), g) == WHITTLE_OK, "dense")) return;
  }
  std::vector<int16_t> centred(static_cast<size_t>(c.cols));
  for (int64_t j = 0; j < many; j++) {
    for (int64_t p = 0; p < c.cols; p++) {
      const uint8_t v = rows[static_cast<size_t>(j * c.cols + p)];
      centred[static_cast<size_t>(p)] = static_cast<int16_t>((c.x_signed ? static_cast<int8_t>(v) : v) - c.x_zero);
    }
    for (int64_t i = 0; i < c.rows; i++) {
      const int64_t at = c.by_rows ? j * c.rows + i : (j / c.columns * c.rows + i) * c.columns + j % c.columns;
      if (c.out_type != kOutInt32) {
        if (memcmp(y.data() + at * size, dense.data() + (j * c.rows + i) * size, static_cast<size_t>(size)) == 0) continue;
        h.expect(false, "%s: [%d,%d] differs from the dense product", describe(c).c_str(), int(i), int(j));
        return;
      }
      // |centred w| <= 255 * 128: 32 bits hold the sums of this file's sizes (at most 40000 terms).
      int32_t products = 0;
      const int8_t* weight = w.data() + i * c.cols;
      for (int64_t p = 0; p < c.cols; p++) products += centred[static_cast<size_t>(p)] * weight[p];
      const int64_t sum = int64_t(products) + (c.bias == 1 ? bias_int[static_cast<size_t>(i)] : 0);
      int32_t got;
      memcpy(&got, y.data() + at * 4, 4);
      if (got == sum) continue;
      h.expect(false, "%s: [%d,%d] = %d, want %lld", describe(c).c_str(), int(i), int(j), got, static_cast<long long>(sum));
      return;
    }
  }
}

const int32_t kBlocks[][2] = {{1, 1}, {4, 1}, {1, 4}, {8, 1}, {1, 16}, {16, 1}, {32, 32}, {2, 3}, {2, 4}, {4, 4}, {8, 8}, {3, 5}, {12, 7}, {48, 12}};
const int32_t kPatterns[][2] = {{2, 4}, {4, 8}, {1, 4}, {3, 5}, {8, 16}};

// Rows of an im2col matrix, a byte at a time.
void fill_rows(const void* context, int64_t row, int64_t rows, uint8_t* out, int64_t stride) {
  const auto& [m, zero] = *static_cast<const std::pair<SparseInt8Image, int32_t>*>(context);
  for (int64_t i = 0; i < rows; i++, out += stride)
    for (int64_t k = 0; k < m.kh * m.kw * m.c; k++) {
      const int64_t at = row + i, tap = k / m.c;
      const int64_t y = at / m.ow % m.oh - m.pad_top + tap / m.kw * m.dilation_h, x = at % m.ow - m.pad_left + tap % m.kw * m.dilation_w;
      const bool inside = y >= 0 && y < m.h && x >= 0 && x < m.w;
      out[k] = inside ? m.x[((at / (m.ow * m.oh) * m.h + y) * m.w + x) * m.c + k % m.c] : static_cast<uint8_t>(zero);
    }
}

// The product over an image against that with its rows written out.
void verify_windows(Harness& h, const SparseInt8Kernels& kernels, Rng& rng) {
  SparseInt8Image m = {};
  const int64_t channels[] = {16, 32, 80, 20};
  m.n = rng.between(1, 4), m.h = rng.between(1, 16), m.w = rng.between(1, rng.below(2) ? 80 : 12), m.c = channels[rng.below(4)];
  m.kh = rng.between(1, 5), m.kw = rng.between(1, 5), m.dilation_h = rng.between(1, 2), m.dilation_w = rng.between(1, 2);
  m.pad_top = rng.between(0, 5), m.pad_left = rng.between(0, 5);
  m.oh = std::max<int64_t>(1, m.h + m.pad_top + rng.between(0, 5) - (m.kh - 1) * m.dilation_h);
  m.ow = std::max<int64_t>(1, m.w + m.pad_left + rng.between(0, 5) - (m.kw - 1) * m.dilation_w);
  Case c = {};
  c.rows = rng.below(2) ? 128 : rng.between(1, 100), c.cols = m.kh * m.kw * m.c, c.r = rng.below(4) ? 1 : 4, c.c = 4, c.density = 0.1;
  c.columns = c.hint = m.n * m.oh * m.ow;
  const std::vector<int8_t> w = weights(c, rng);
  std::vector<float> scales(static_cast<size_t>(c.rows), 0.01f);
  SparseMatrix matrix;
  if (!h.expect(make(c, w, scales, &matrix) == WHITTLE_OK, "build")) return;
  Guarded<uint8_t> x(m.n * m.h * m.w * m.c, rng.below(16)), plain(c.rows * c.columns, 0), y(c.rows * c.columns, rng.below(16));
  for (int64_t i = 0; i < x.size(); i++) x[i] = static_cast<uint8_t>(rng.next());
  m.x = x.data();
  const bool is_signed = rng.below(2);
  const std::pair<SparseInt8Image, int32_t> context(m, static_cast<int32_t>(rng.between(is_signed ? -128 : 0, is_signed ? 127 : 255)));
  std::vector<uint8_t> rows(static_cast<size_t>(c.columns * c.cols));
  fill_rows(&context, 0, c.columns, rows.data(), c.cols);
  SparseArgs a = {};
  a.w = &matrix, a.x = rows.data(), a.by_rows = true, a.batch = 1, a.columns = c.columns, a.threads = static_cast<int>(rng.between(1, 3));
  a.x_signed = is_signed, a.x_zero = context.second, a.x_scale = 0.013f, a.out_type = kOutUint8, a.out_scale = 0.9f, a.out_zero = 100, a.out = plain.data();
  if (!h.expect(sparse_int8_multiply(kernels, a) == WHITTLE_OK, "rows")) return;
  a.x = nullptr, a.fill_bytes = fill_rows, a.fill_context = &context, a.image = &m, a.out = y.data();
  if (!h.expect(sparse_int8_multiply(kernels, a) == WHITTLE_OK, "windows")) return;
  h.expect(y.intact() && memcmp(y.data(), plain.data(), static_cast<size_t>(y.size())) == 0,
           "image %dx%dx%dx%d window %dx%d dilations %d %d pads %d %d results %dx%dx%d threads %d", int(m.n), int(m.h), int(m.w), int(m.c), int(m.kh), int(m.kw),
           int(m.dilation_h), int(m.dilation_w), int(m.pad_top), int(m.pad_left), int(m.oh), int(m.ow), int(c.rows), a.threads);
}

void check_table(Harness& h, const SparseInt8Kernels& kernels) {
  h.row("blocks, widths and orientations", [&] {
    Rng rng = h.rng();
    for (const auto& block : kBlocks)
      for (const int64_t columns : {1, 2, 3, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 100, 130})
        for (int q = 0; q < (h.lean() ? 1 : 2); q++) {
          Case c = {};
          c.rows = rng.between(1, 140), c.cols = rng.between(1, 120), c.columns = columns;
          c.r = block[0], c.c = block[1];
          c.hint = rng.below(2) ? columns : 0;
          c.by_rows = rng.below(2), c.x_signed = rng.below(2);
          c.bias = static_cast<int32_t>(rng.below(2));
          c.x_zero = static_cast<int32_t>(rng.below(3) == 0 ? 0 : c.x_signed ? rng.between(-128, 127) : rng.between(0, 255));
          c.batch = rng.below(4) == 0 ? 3 : 1;
          c.threads = static_cast<int>(rng.between(1, 3));
          verify(h, kernels, c, rng);
        }
  });
  h.row("n:m", [&] {
    Rng rng = h.rng();
    for (const auto& pattern : kPatterns)
      for (const int64_t columns : {1, 2, 16, 17, 64, 100})
        for (int q = 0; q < (h.lean() ? 1 : 2); q++) {
          Case c = {};
          c.n = pattern[0], c.m = pattern[1];
          c.rows = rng.between(1, 100), c.cols = c.m * rng.between(1, 70), c.columns = columns;
          c.hint = rng.below(2) ? columns : rng.below(2);
          c.by_rows = rng.below(2), c.x_signed = rng.below(2);
          c.batch = rng.below(4) == 0 ? 2 : 1;
          c.x_zero = static_cast<int32_t>(c.x_signed ? rng.between(-128, 127) : rng.between(0, 255));
          c.threads = static_cast<int>(rng.between(1, 3));
          verify(h, kernels, c, rng);
        }
  });
  h.row("extremes do not saturate", [&] {
    Rng rng = h.rng();
    for (const auto& block : kBlocks)
      for (const int64_t columns : {1, 16, 32, 64})
        for (int q = 0; q < (h.lean() ? 1 : 2); q++) {
          Case c = {};
          c.rows = 70, c.cols = 300, c.columns = columns, c.density = 1;
          c.r = block[0], c.c = block[1];
          c.extreme = true, c.x_signed = h.lean() ? columns % 3 == 1 : q;
          verify(h, kernels, c, rng);
          if (columns > 1) continue;
          // Packed for one column, where the lowest weight decides the way.
          c.hint = 1;
          for (const int32_t lowest : {-127, -128}) c.lowest = lowest, verify(h, kernels, c, rng);
        }
    for (const bool x_signed : {false, true}) {
      Case c = {};
      c.rows = 20, c.cols = 1200, c.columns = c.hint = 1, c.n = 2, c.m = 4;
      c.extreme = true, c.x_signed = x_signed;
      verify(h, kernels, c, rng);
    }
  });
  h.row("several blocks of columns", [&] {
    Rng rng = h.rng();
    for (const auto& block : kBlocks)
      for (const int64_t columns : {1, 20, 64}) {
        Case c = {};
        c.rows = 40, c.cols = 1500, c.columns = columns, c.density = 0.1;
        c.r = block[0], c.c = block[1];
        c.hint = columns == 20 ? 64 : columns;
        c.by_rows = columns == 20;
        verify(h, kernels, c, rng);
        if (columns == 1 && block[0] * block[1] < 17) c.cols = 40000, c.rows = 3, verify(h, kernels, c, rng);
      }
  });
  h.row("more strips than lie beside each other", [&] {
    Rng rng = h.rng();
    for (const bool by_rows : {false, true})
      for (const int32_t out : {kOutInt32, kOutInt8}) {
        Case c = {};
        c.rows = 130, c.cols = by_rows ? 400 : 2000, c.columns = 300, c.density = 0.05, c.r = 4;
        c.by_rows = by_rows, c.out_type = out, c.threads = by_rows ? 1 : 2;
        verify(h, kernels, c, rng);
      }
  });
  h.row("windows over images", [&] {
    Rng rng = h.rng();
    for (int i = 0; i < (h.lean() ? 20 : 60); i++) verify_windows(h, kernels, rng);
  });
  h.row("residuals of floats and codes", [&] {
    Rng rng = h.rng();
    int round = 0;
    for (const auto& block : {kBlocks[0], kBlocks[1], kBlocks[2], kBlocks[3]})
      for (const int64_t columns : {1, 20, 64, 130, 500})
        for (const int32_t added : {-1, 1, 2, 3})
          for (const int32_t out : {1, 2, 3}) {
            if (added < 0 && columns < 100) continue;
            Case c = {};
            c.rows = rng.between(1, 140), c.cols = columns == 500 ? rng.between(600, 1300) : rng.between(1, 120), c.columns = c.hint = columns;
            c.r = block[0], c.c = block[1], c.by_rows = true, c.x_signed = rng.below(2), c.bias = 2;
            c.out_type = out, c.added = added, c.threads = static_cast<int>(rng.between(1, 3));
            const int32_t kinds[] = {kActivationNone, kActivationClip, kActivationClip, kActivationHardswish};
            c.act = {kinds[round++ % 4], -0.5f, 600.0f};
            // Bounds beyond those of the codes, and sums thousands of steps away from them.
            if (rng.below(3) == 0) c.act.lo = rng.below(2) ? -INFINITY : -2.0f, c.act.hi = rng.below(2) ? INFINITY : 7.0f;
            if (rng.below(3) == 0) c.out_scale = rng.below(2) ? 0.0004f : 0.9f;
            verify(h, kernels, c, rng);
          }
  });
  h.row("scales, biases, activations and outputs", [&] {
    Rng rng = h.rng();
    for (int act = kActivationNone; act <= kActivationGeluTanh; act++)
      for (int out = kOutFloat32; out <= kOutUint8; out++)
        for (const bool by_rows : {false, true}) {
          Case c = {};
          c.rows = 75, c.cols = 90, c.columns = act % 3 == 0 ? 1 : 70, c.r = 4, c.by_rows = by_rows;
          c.x_signed = act & 1, c.x_zero = 5, c.bias = 2 - act % 3, c.out_type = out;
          c.act = {act, act == kActivationClip ? -0.5f : -INFINITY, act == kActivationClip ? 6.0f : INFINITY};
          verify(h, kernels, c, rng);
        }
  });
}

double thread_seconds() {
#if defined(CLOCK_THREAD_CPUTIME_ID)
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
#else
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
#endif
}

// Best of interleaved rounds of both, one thread.
void compare(Harness& h, const SparseInt8Kernels& kernels, const GemmInt8Kernels& table, int64_t rows, int64_t cols, int64_t columns, const Case& shape, double sparsity) {
  Case c = shape;
  c.rows = rows, c.cols = cols, c.columns = c.hint = columns, c.by_rows = true;
  Rng rng(7);
  std::vector<int8_t> w(static_cast<size_t>(rows * cols));
  for (int64_t i = 0; i < rows; i += c.r)
    for (int64_t j = 0; j < cols; j += c.m ? c.m : c.c) {
      if (c.m) {
        for (int64_t q = 0; q < c.n; q++) w[static_cast<size_t>(i * cols + j + rng.below(c.m))] = static_cast<int8_t>(rng.next());
        continue;
      }
      if (static_cast<double>(rng.uniform(0, 1)) < sparsity) continue;
      for (int64_t a = i; a < std::min(rows, i + c.r); a++)
        for (int64_t b = j; b < std::min(cols, j + c.c); b++) w[static_cast<size_t>(a * cols + b)] = static_cast<int8_t>(rng.between(-127, 127));
    }
  const std::vector<float> scales(static_cast<size_t>(rows), 1.0f);
  SparseMatrix matrix;
  if (make(c, w, scales, &matrix) != WHITTLE_OK) return;
  std::vector<uint8_t> x(static_cast<size_t>(cols * columns)), y(static_cast<size_t>(rows * columns * 4));
  for (auto& v : x) v = static_cast<uint8_t>(rng.next());
  PackedInt8* packed = new_packed_int8(table, false, cols, rows);
  fill_packed_int8(table, reinterpret_cast<const uint8_t*>(w.data()), true, 1, packed);
  GemmInt8Args g = {};
  g.a = x.data(), g.m = columns, g.n = rows, g.k = cols, g.packed = packed, g.batch = 1, g.out = y.data(), g.threads = 1;
  SparseArgs a = {};
  a.w = &matrix, a.x = x.data(), a.by_rows = true, a.batch = 1, a.columns = columns, a.out = y.data(), a.threads = 1;
  double best[2] = {1e9, 1e9};
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < 200; i++) {
    double t = thread_seconds();
    gemm_int8(table, g);
    best[0] = std::min(best[0], thread_seconds() - t);
    t = thread_seconds();
    sparse_int8_multiply(kernels, a);
    best[1] = std::min(best[1], thread_seconds() - t);
    if (i >= 5 && std::chrono::steady_clock::now() - start > std::chrono::milliseconds(150)) break;
  }
  free_packed_int8(packed);
  char name[40];
  if (c.m) snprintf(name, sizeof name, "%d:%d", c.n, c.m);
  else snprintf(name, sizeof name, "%dx%d", c.r, c.c);
  const double weights = static_cast<double>(matrix.nnz);
  printf("TIME %s/%s %s %.0f %% of %dx%d N %d: %.4f ms, dense %.4f ms, x%.2f; %.1f GB/s of non-zeros, %.1f GMAC/s\n", h.family(), h.variant(), name,
         c.m ? 100.0 - 100.0 * c.n / c.m : sparsity * 100, int(rows), int(cols), int(columns), best[1] * 1e3, best[0] * 1e3, best[0] / best[1],
         weights / best[1] / 1e9, weights * static_cast<double>(columns) / best[1] / 1e9);
  fflush(stdout);
}

void bench_table(Harness& h, const SparseInt8Kernels& kernels, const GemmInt8Kernels& dense) {
  if (!h.benching()) return;
  const int64_t shapes[][3] = {{4096, 4096, 1}, {4096, 4096, 16}, {768, 768, 128}, {3072, 768, 1}, {3072, 768, 128}, {512, 4608, 196}};
  const int32_t blocks[][2] = {{4, 1}, {1, 4}, {8, 1}, {16, 1}, {1, 16}, {32, 32}, {1, 1}};
  for (const auto& s : shapes) {
    for (const auto& b : blocks) {
      Case c = {};
      c.r = b[0], c.c = b[1];
      compare(h, kernels, dense, s[0], s[1], s[2], c, 0.8);
    }
    Case c = {};
    c.n = 2, c.m = 4;
    compare(h, kernels, dense, s[0], s[1], s[2], c, 0.5);
  }
}

}  // namespace

WHITTLE_CHECK(sparse_int8) {
  each_variant(h, sparse_int8_variants(), [&](const SparseInt8Kernels&, const SparseInt8Kernels& got) {
    check_table(h, got);
    for (const Variant<GemmInt8Kernels>& v : gemm_int8_variants())
      if (std::string(tier_name(v.tier)) == h.variant()) bench_table(h, got, overlay(gemm_int8_variants(), v.tier));
  });
}
