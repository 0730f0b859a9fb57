// Integer products: every variant against a plain triple loop in 64-bit integers, on full-range data, all type pairs, zero
// points, outputs and activations, to the bit; shapes around each tile; then the same for the tiers that this CPU lacks,
// by emulation (gemm_int8_emulated.cpp).
#include "core/gemm_int8.h"

#include <math.h>
#include <string.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <vector>

#include "core/threads.h"
#include "test/native/gemm_int8_emulated.h"
#include "test/native/harness.h"

using namespace whittle;

namespace {

struct Case {
  int64_t m, n, k, batch = 1;
  bool a_signed, b_unsigned, transposed, packed;
  int32_t a_zero = 0, b_zero = 0;
  bool zeros = false, scales = false;
  int bias = 0;  // 0 none, 1 integer, 2 float
  int32_t activation = kActivationNone, out_type = kOutInt32, out_zero = 0;
  float lo = -0.5f, hi = 6, out_scale = 0.037f;
  int values = 0;  // 0 random, 1 corners, 2 the extreme product
  int threads = 1;
};

std::string describe(const Case& c) {
  char text[300];
  snprintf(text, sizeof text, "m %lld n %lld k %lld batch %lld %s%s%s%s za %d zb %d%s bias %d act %d out %d zo %d values %d t %d",
           static_cast<long long>(c.m), static_cast<long long>(c.n), static_cast<long long>(c.k),
           static_cast<long long>(c.batch), c.a_signed ? "s8" : "u8", c.b_unsigned ? "u8" : "s8", c.transposed ? " T" : "",
           c.packed ? " packed" : "", c.a_zero, c.b_zero, c.zeros ? " per column" : "", c.bias, c.activation, c.out_type,
           c.out_zero, c.values, c.threads);
  return text;
}

void fill(Rng& rng, uint8_t* x, int64_t n, int values, bool is_signed, bool low) {
  for (int64_t i = 0; i < n; i++) {
    if (values == 0) x[i] = static_cast<uint8_t>(rng.next());
    else if (values == 1) {
      const uint8_t corners[6] = {0x80, 0x7f, 0xff, 0x00, 0x81, 0x01};
      x[i] = corners[rng.below(6)];
    } else x[i] = is_signed ? (low ? 0x80 : 0x7f) : (low ? 0 : 0xff);
  }
}

PackedInt8* pack_int8(const GemmInt8Kernels& table, const uint8_t* w, bool is_unsigned, bool transposed, int64_t k, int64_t n,
                      int threads) {
  PackedInt8* p = new_packed_int8(table, is_unsigned, k, n);
  if (p) fill_packed_int8(table, w, transposed, threads, p);
  return p;
}

// Runs one case on `table` and compares with plain 64-bit arithmetic (exact outputs) and with the reference variant.
void run_case(Harness& h, const GemmInt8Kernels& reference, const GemmInt8Kernels& table, const Case& c) {
  Rng rng(static_cast<uint64_t>(c.m * 1315423911 + c.n * 2654435761 + c.k * 97 + c.out_type * 7 + c.activation) ^ h.rng().next());
  const int64_t mis = rng.below(16);
  Guarded<uint8_t> a(c.batch * c.m * c.k, mis), b((c.packed ? 1 : c.batch) * c.n * c.k, rng.below(16));
  fill(rng, a.data(), a.size(), c.values, c.a_signed, false);
  fill(rng, b.data(), b.size(), c.values, !c.b_unsigned, true);
  std::vector<uint8_t> zeros(static_cast<size_t>(c.n));
  std::vector<float> scales(static_cast<size_t>(c.n)), bias_float(static_cast<size_t>(c.n));
  std::vector<int32_t> bias_int(static_cast<size_t>(c.n));
  for (int64_t j = 0; j < c.n; j++) {
    zeros[j] = static_cast<uint8_t>(rng.next());
    scales[j] = rng.uniform(0.001f, 0.02f);
    bias_float[j] = rng.uniform(-3, 3);
    bias_int[j] = static_cast<int32_t>(rng.between(-1000000, 1000000));
  }
  const int64_t size = c.out_type == kOutInt32 || c.out_type == kOutFloat32 ? 4 : 1;
  Guarded<uint8_t> want(c.batch * c.m * c.n * size, 0), got(c.batch * c.m * c.n * size, size * rng.below(4));
  GemmInt8Args g = {};
  g.a = a.data();
  g.a_signed = c.a_signed;
  g.m = c.m;
  g.n = c.n;
  g.k = c.k;
  g.b_unsigned = c.b_unsigned;
  g.b_transposed = c.transposed;
  g.batch = c.batch;
  g.a_zero = c.a_zero;
  g.b_zero = c.b_zero;
  g.b_zeros = c.zeros ? zeros.data() : nullptr;
  g.a_scale = 0.013f;
  g.b_scale = 0.007f;
  g.b_scales = c.scales ? scales.data() : nullptr;
  g.bias_int = c.bias == 1 ? bias_int.data() : nullptr;
  g.bias_float = c.bias == 2 ? bias_float.data() : nullptr;
  g.activation = {c.activation, c.activation == kActivationClip ? c.lo : -INFINITY, c.activation == kActivationClip ? c.hi : INFINITY};
  g.out_type = c.out_type;
  g.out_scale = c.out_scale;
  g.out_zero = c.out_zero;
  g.threads = c.threads;
  auto go = [&](const GemmInt8Kernels& t, uint8_t* out, int threads) {
    PackedInt8* packed = c.packed ? pack_int8(t, b.data(), c.b_unsigned, c.transposed, c.k, c.n, threads) : nullptr;
    g.packed = packed;
    g.b = c.packed ? nullptr : b.data();
    g.out = out;
    g.threads = threads;
    const WhittleStatus s = gemm_int8(t, g);
    free_packed_int8(packed);
    return s;
  };
  const WhittleStatus s1 = go(reference, want.data(), 1), s2 = go(table, got.data(), c.threads);
  if (!h.expect(s1 == WHITTLE_OK && s2 == WHITTLE_OK, "%s: status %d %d", describe(c).c_str(), s1, s2)) return;
  h.expect(got.intact(), "%s: wrote outside out", describe(c).c_str());
  h.expect(a.intact() && b.intact(), "%s: wrote into an input", describe(c).c_str());
  for (int64_t i = 0; i < c.batch; i++)
    for (int64_t r = 0; r < c.m; r++)
      for (int64_t j = 0; j < c.n; j++) {
        const int64_t at = (i * c.m + r) * c.n + j;
        if (c.activation > kActivationClip) {
          if (!h.expect(memcmp(got.data() + at * size, want.data() + at * size, static_cast<size_t>(size)) == 0,
                        "%s: [%d,%d,%d] differs from scalar", describe(c).c_str(), int(i), int(r), int(j)))
            return;
          continue;
        }
        int64_t sum = c.bias == 1 ? bias_int[j] : 0;
        const int64_t zb = !c.zeros ? c.b_zero : c.b_unsigned ? zeros[j] : static_cast<int8_t>(zeros[j]);
        const uint8_t* bm = b.data() + (c.packed ? 0 : i * c.n * c.k);
        for (int64_t k = 0; k < c.k; k++) {
          const uint8_t av = a[(i * c.m + r) * c.k + k], bv = c.transposed ? bm[j * c.k + k] : bm[k * c.n + j];
          sum += ((c.a_signed ? static_cast<int8_t>(av) : int64_t(av)) - c.a_zero) *
                 ((c.b_unsigned ? int64_t(bv) : static_cast<int8_t>(bv)) - zb);
        }
        volatile float scale = 0.013f * (c.scales ? scales[j] : 0.007f);
        volatile float f = static_cast<float>(sum);
        f = f * scale;
        if (c.bias == 2) f = f + bias_float[j];
        if (c.activation == kActivationClip) f = f < c.lo ? c.lo : f > c.hi ? c.hi : f;
        if (c.out_type == kOutInt32) {
          int32_t y;
          memcpy(&y, got.data() + at * 4, 4);
          if (!h.expect(y == sum, "%s: [%d,%d,%d] = %d, want %lld", describe(c).c_str(), int(i), int(r), int(j), y,
                        static_cast<long long>(sum)))
            return;
        } else if (c.out_type == kOutFloat32) {
          float y;
          memcpy(&y, got.data() + at * 4, 4);
          if (!h.expect(y == f, "%s: [%d,%d,%d] = %.9g, want %.9g", describe(c).c_str(), int(i), int(r), int(j), y, f)) return;
        } else {
          const bool s8 = c.out_type == kOutInt8;
          volatile float q = f / c.out_scale;
          double y = nearbyint(static_cast<double>(q)) + c.out_zero;
          y = y < (s8 ? -128 : 0) ? (s8 ? -128 : 0) : y > (s8 ? 127 : 255) ? (s8 ? 127 : 255) : y;
          const int v = s8 ? static_cast<int8_t>(got[at]) : got[at];
          if (!h.expect(v == y, "%s: [%d,%d,%d] = %d, want %g", describe(c).c_str(), int(i), int(r), int(j), v, y)) return;
        }
      }
}

Case random_case(Rng& rng, const GemmInt8Kernels& t) {
  Case c = {};
  c.m = rng.between(1, 3 * t.rows + 2);
  c.n = rng.between(1, 2 * t.columns + 5);
  c.k = rng.between(1, 70);
  c.batch = rng.below(5) == 0 ? rng.between(2, 5) : 1;
  c.a_signed = rng.below(2);
  c.b_unsigned = rng.below(2);
  c.transposed = rng.below(2);
  c.packed = c.batch == 1 && rng.below(2);
  c.a_zero = static_cast<int32_t>(c.a_signed ? rng.between(-128, 127) : rng.between(0, 255));
  c.b_zero = static_cast<int32_t>(c.b_unsigned ? rng.between(0, 255) : rng.between(-128, 127));
  if (rng.below(3) == 0) c.a_zero = 0;
  if (rng.below(2) == 0) c.b_zero = 0;
  c.zeros = rng.below(3) == 0;
  c.scales = rng.below(2);
  c.out_type = static_cast<int32_t>(rng.below(4));
  c.bias = static_cast<int>(rng.below(c.out_type == kOutInt32 ? 2 : 3));
  c.activation = c.out_type == kOutInt32 ? 0 : static_cast<int32_t>(rng.below(2));
  if (rng.below(2)) c.lo = 0, c.hi = INFINITY;
  c.out_zero = static_cast<int32_t>(c.out_type == kOutInt8 ? rng.between(-128, 127) : rng.between(0, 255));
  // Mostly usual steps; some beyond the range in which a reciprocal serves.
  c.out_scale = rng.uniform(0.001f, 0.1f) * (rng.below(4) ? 1 : rng.below(2) ? 1e-25f : 1e25f);
  c.values = static_cast<int>(rng.below(3));
  c.threads = static_cast<int>(rng.between(1, 3));
  return c;
}

// A 3 x 3 convolution of stride 2 with padding, rows of a taken from the image piece by piece, against plain loops.
void check_convolution(Harness& h, const GemmInt8Kernels& table) {
  for (int variation = 0; variation < 8; variation += h.lean() ? 3 : 1) {
    Rng rng = h.rng();
    const int64_t height = h.lean() ? 9 : 23, width = 19, channels = variation & 1 ? 5 : variation & 4 ? 40 : 16, n = table.columns + 3, k = 9 * channels;
    const int64_t out_height = (height + 1) / 2, out_width = (width + 1) / 2, m = out_height * out_width;
    const bool is_signed = variation & 2;
    const int32_t a_zero = is_signed ? -7 : 131, b_zero = variation & 4 ? -3 : 0;
    Guarded<uint8_t> image(height * width * channels, 3), w(k * n, 1);
    fill(rng, image.data(), image.size(), 0, is_signed, false);
    fill(rng, w.data(), w.size(), 0, true, false);
    std::vector<int64_t> offset;
    for (int64_t y = 0; y < out_height; y++)
      for (int64_t x = 0; x < out_width; x++)
        for (int64_t i = 0; i < 9; i++) {
          const int64_t iy = 2 * y + i / 3 - 1, ix = 2 * x + i % 3 - 1;
          const bool inside = iy >= 0 && iy < height && ix >= 0 && ix < width;
          offset.push_back(inside ? (iy * width + ix) * channels : -1);
        }
    const GemmInt8Indirect source = {image.data(), offset.data(), 9, channels, static_cast<uint8_t>(a_zero)};
    PackedInt8* packed = pack_int8(table, w.data(), false, false, k, n, 1);
    std::vector<int32_t> got(static_cast<size_t>(m * n), -1);
    GemmInt8Args g = {};
    g.fill = gemm_int8_fill_indirect, g.fill_context = &source;
    g.a_signed = is_signed, g.m = m, g.n = n, g.k = k, g.batch = 1, g.packed = packed, g.a_zero = a_zero, g.b_zero = b_zero;
    g.out = got.data(), g.threads = 1 + variation % 3;
    const WhittleStatus s = gemm_int8(table, g);
    g.batch = 2;
    const WhittleStatus refused = gemm_int8(table, g);
    free_packed_int8(packed);
    if (!h.expect(s == WHITTLE_OK && refused == WHITTLE_SHAPE, "status %d, of a batch %d", s, refused)) return;
    for (int64_t r = 0; r < m; r++)
      for (int64_t j = 0; j < n; j++) {
        int64_t sum = 0;
        for (int64_t i = 0; i < 9; i++)
          for (int64_t c = 0; c < channels; c++) {
            const int64_t y = 2 * (r / out_width) + i / 3 - 1, x = 2 * (r % out_width) + i % 3 - 1;
            if (y < 0 || y >= height || x < 0 || x >= width) continue;
            const uint8_t v = image[(y * width + x) * channels + c];
            sum += ((is_signed ? static_cast<int8_t>(v) : int64_t(v)) - a_zero) *
                   (static_cast<int8_t>(w[(i * channels + c) * n + j]) - b_zero);
          }
        if (!h.expect(got[static_cast<size_t>(r * n + j)] == sum, "variation %d: [%d,%d] = %d, want %lld", variation, int(r), int(j),
                      got[static_cast<size_t>(r * n + j)], static_cast<long long>(sum)))
          return;
      }
  }
}

void check_table(Harness& h, const GemmInt8Kernels& reference, const GemmInt8Kernels& table) {
  h.row("exact sums around the tile", [&] {
    const int64_t r = table.rows, n = table.columns, v = table.vector;
    std::vector<int64_t> ms = {0, 1, 2, 3, 5, r - 1, r, r + 1, 2 * r + 1, 37}, ks = {0, 1, 2, 3, 4, 5, 15, 16, 17, 63, 64, 65, 131};
    std::vector<int64_t> ns = {0, 1, 7, n - 1, n, n + 1, table.widest, 2 * n + v, 2 * n + v + 1};
    if (h.lean()) ms = {0, 1, r, 2 * r + 1}, ns = {0, n, table.widest, 2 * n + v + 1}, ks = {0, 3, 17, 64};
    for (int64_t m : ms)
      for (int64_t columns : ns)
        for (int64_t k : ks) {
          Case c = {};
          c.m = m, c.n = columns, c.k = k;
          c.a_signed = (m + columns + k) & 1;
          c.b_unsigned = (m + k) & 2;
          c.transposed = columns & 1;
          c.packed = k & 1;
          c.values = static_cast<int>((m + k) % 3);
          run_case(h, reference, table, c);
        }
  });
  h.row("no pair saturates", [&] {
    for (int a_signed = 0; a_signed < 2; a_signed++)
      for (int b_unsigned = 0; b_unsigned < 2; b_unsigned++)
        for (int64_t k : {2, 8, 64, 257, 1024}) {
          if (h.lean() && k != 2 && k != 257) continue;
          Case c = {};
          c.m = 7, c.n = table.columns + 3, c.k = k;
          c.a_signed = a_signed, c.b_unsigned = b_unsigned;
          c.values = 2;
          run_case(h, reference, table, c);
          c.values = 1;
          run_case(h, reference, table, c);
        }
  });
  h.row("zero points, scales, biases and outputs", [&] {
    Rng rng = h.rng();
    for (int i = 0; i < (h.lean() ? 30 : 300); i++) run_case(h, reference, table, random_case(rng, table));
  });
  h.row("activations agree to the bit", [&] {
    for (int act = kActivationClip; act <= kActivationGeluTanh; act++)
      for (int out = kOutFloat32; out <= kOutUint8; out++) {
        Case c = {};
        c.m = h.lean() ? 3 : 11, c.n = table.columns + 9, c.k = 40;
        c.a_signed = act & 1;
        c.bias = 2, c.scales = true, c.activation = act, c.out_type = out, c.out_zero = 3;
        run_case(h, reference, table, c);
      }
  });
  h.row("codes round as correctly rounded quotients do, half to even", [&] {
    // Steps around even multiples of a sum's worth: quotients lie at a middle between integers or next to it.
    for (int multiple : {2, 6, 50, 254})
      for (int ulps = -2; ulps <= 2; ulps++) {
        volatile float one = 0.013f * 0.007f;
        Case c = {};
        c.m = h.lean() ? 20 : 130, c.n = table.columns + 9, c.k = 1;
        c.out_scale = one * static_cast<float>(multiple);
        for (int i = 0; i < abs(ulps); i++) c.out_scale = nextafterf(c.out_scale, ulps < 0 ? 0.0f : 1.0f);
        c.out_type = ulps & 1 ? kOutInt8 : kOutUint8;
        c.out_zero = ulps & 1 ? -9 : 130;
        run_case(h, reference, table, c);
      }
  });
  h.row("residuals and the range of results", [&] {
    Rng rng = h.rng();
    for (int i = 0; i < (h.lean() ? 20 : 120); i++) {
      const int64_t m = rng.between(1, 3 * table.rows + 2), n = rng.between(1, 2 * table.columns + 5), k = rng.between(1, 90);
      Guarded<uint8_t> a(m * k), w(k * n);
      fill(rng, a.data(), a.size(), 0, false, false);
      fill(rng, w.data(), w.size(), 0, true, true);
      std::vector<float> scales(static_cast<size_t>(n)), bias(static_cast<size_t>(n));
      for (float& s : scales) s = rng.uniform(0.001f, 0.02f);
      for (float& b : bias) b = rng.uniform(-3, 3);
      Guarded<float> residual(m * n), want(m * n), got(m * n, rng.below(4));
      for (int64_t j = 0; j < m * n; j++) residual[j] = rng.normal();
      float ranges[2][2];
      const bool add = i % 3 != 0, in_place = i % 3 == 2, watch = i % 4 != 0;
      for (int side = 0; side < 2; side++) {
        const GemmInt8Kernels& t = side ? table : reference;
        Guarded<float>& out = side ? got : want;
        if (in_place) memcpy(out.data(), residual.data(), static_cast<size_t>(m * n) * 4);
        PackedInt8* packed = pack_int8(t, w.data(), false, false, k, n, 1);
        GemmInt8Args g = {};
        g.a = a.data(), g.m = m, g.n = n, g.k = k, g.batch = 1, g.packed = packed, g.a_zero = 117, g.a_scale = 0.02f;
        g.b_scales = scales.data(), g.bias_float = bias.data(), g.out_type = kOutFloat32, g.out_scale = 1;
        g.activation = {i % (kActivationGeluTanh + 1), -0.7f, 2};
        g.residual = !add ? nullptr : in_place ? out.data() : residual.data();
        g.range = watch ? ranges[side] : nullptr;
        g.out = out.data();
        g.threads = side ? 1 + i % 3 : 1;
        const WhittleStatus s = gemm_int8(t, g);
        free_packed_int8(packed);
        if (!h.expect(s == WHITTLE_OK, "status %d", s)) return;
      }
      if (!h.expect(got.intact() && memcmp(want.data(), got.data(), static_cast<size_t>(m * n) * 4) == 0, "case %d differs from scalar", i)) return;
      float lo = 0, hi = 0;
      for (int64_t j = 0; j < m * n; j++) {
        lo = std::min(lo, want[j]);
        hi = std::max(hi, want[j]);
      }
      if (watch)
        for (const auto& r : ranges)
          if (!h.expect(r[0] == lo && r[1] == hi, "case %d: range %g to %g, want %g to %g", i, r[0], r[1], lo, hi)) return;
      if (!add || i % (kActivationGeluTanh + 1) != kActivationNone) continue;
      // Without the activation it is three roundings.
      for (int64_t r = 0; r < m; r++)
        for (int64_t j = 0; j < n; j++) {
          int32_t sum = 0;
          for (int64_t p = 0; p < k; p++) sum += (a[r * k + p] - 117) * static_cast<int8_t>(w[p * n + j]);
          volatile float scale = 0.02f * scales[static_cast<size_t>(j)], y = static_cast<float>(sum) * scale;
          y = y + bias[static_cast<size_t>(j)];
          y = y + residual[r * n + j];
          if (!h.expect(want[r * n + j] == y, "case %d: %g, want %g", i, want[r * n + j], y)) return;
        }
    }
  });
  h.row("residuals of floats and codes under results of floats and codes", [&] {
    Rng rng = h.rng();
    for (int i = 0; i < (h.lean() ? 24 : 144); i++) {
      const int64_t m = rng.between(1, 3 * table.rows + 2), n = rng.between(1, 2 * table.columns + 5), k = rng.between(1, 90);
      const int32_t out_type = kOutFloat32 + i % 3, added = kOutFloat32 + i / 3 % 3;
      const int64_t size = out_type == kOutFloat32 ? 4 : 1;
      Guarded<uint8_t> a(m * k), w(k * n), codes(m * n, rng.below(16)), want(m * n * size), got(m * n * size, size * rng.below(4));
      Guarded<float> floats(m * n);
      fill(rng, a.data(), a.size(), 0, false, false);
      fill(rng, w.data(), w.size(), 0, true, true);
      fill(rng, codes.data(), codes.size(), 0, false, false);
      std::vector<float> scales(static_cast<size_t>(n), 0.004f), bias(static_cast<size_t>(n));
      for (float& b : bias) b = rng.uniform(-3, 3);
      const GemmInt8Added plus = {codes.data(), added == kOutInt8, added == kOutInt8 ? -9 : 77, 0.031f};
      for (int64_t j = 0; j < m * n; j++) {
        const int32_t code = plus.is_signed ? static_cast<int8_t>(codes[j]) : codes[j];
        floats[j] = static_cast<float>(code - plus.zero) * plus.scale;
      }
      const bool in_place = added == out_type && i % 2;
      // The reference adds floats, and makes codes in a step of its own.
      for (int side = 0; side < 2; side++) {
        const GemmInt8Kernels& t = side ? table : reference;
        Guarded<uint8_t>& out = side ? got : want;
        PackedInt8* packed = pack_int8(t, w.data(), false, false, k, n, 1);
        std::vector<float> apart(static_cast<size_t>(m * n));
        GemmInt8Args g = {};
        g.a = a.data(), g.m = m, g.n = n, g.k = k, g.batch = 1, g.packed = packed, g.a_zero = 117, g.a_scale = 0.02f;
        g.b_scales = scales.data(), g.bias_float = bias.data(), g.out_scale = 0.05f, g.out_zero = out_type == kOutInt8 ? 3 : 120;
        g.activation = {i / 9 % (kActivationGeluTanh + 1), -0.7f, 2};
        g.threads = side ? 1 + i % 3 : 1;
        g.out_type = side ? out_type : kOutFloat32;
        g.out = side || size == 4 ? static_cast<void*>(out.data()) : apart.data();
        if (side && in_place) memcpy(out.data(), size == 4 ? static_cast<const void*>(floats.data()) : codes.data(), static_cast<size_t>(m * n * size));
        if (!side || added == kOutFloat32) {
          g.residual = side && in_place ? reinterpret_cast<const float*>(out.data()) : floats.data();
        } else {
          g.added = plus;
          if (in_place) g.added.codes = out.data();
        }
        const WhittleStatus s = gemm_int8(t, g);
        free_packed_int8(packed);
        if (!h.expect(s == WHITTLE_OK, "status %d", s)) return;
        for (int64_t j = 0; !side && size == 1 && j < m * n; j++) {
          const int32_t least = out_type == kOutInt8 ? -128 : 0;
          volatile float q = apart[static_cast<size_t>(j)] / g.out_scale;
          const float code = nearbyintf(q) + static_cast<float>(out_type == kOutInt8 ? 3 : 120);
          want[j] = static_cast<uint8_t>(static_cast<int32_t>(std::min(static_cast<float>(least + 255), std::max(static_cast<float>(least), code))));
        }
      }
      if (!h.expect(got.intact() && memcmp(want.data(), got.data(), static_cast<size_t>(m * n * size)) == 0, "case %d (results %d, residual %d) differs", i, out_type, added)) return;
    }
  });
  h.row("floats to codes", [&] {
    Rng rng = h.rng();
    for (int i = 0; i < (h.lean() ? 30 : 200); i++) {
      const int64_t n = rng.between(0, 150);
      float step = i % 5 == 4 ? 0x1p-90f : rng.uniform(1e-3f, 1e-1f);
      const int32_t zero = static_cast<int32_t>(rng.below(256));
      Guarded<float> x(n, i % 4);
      Guarded<uint8_t> out(n, i % 3);
      for (int64_t j = 0; j < n; j++) {
        // Middles between integers and their neighbours too, but not among the vectors of every row.
        x[j] = i % 3 && rng.below(3) == 0 ? (static_cast<float>(rng.between(-300, 300)) + 0.5f) * step : rng.uniform(-390, 390) * step;
        if (rng.below(20) == 0) x[j] = rng.normal() * 1e30f;
        if (rng.below(30) == 0) x[j] = rng.below(3) == 0 ? NAN : rng.below(2) ? INFINITY : -INFINITY;
        if (rng.below(4) == 0) x[j] = nextafterf(x[j], rng.below(2) ? 1e9f : -1e9f);
      }
      table.codes(x.data(), n, step, zero, out.data());
      h.expect(out.intact(), "wrote outside of out");
      for (int64_t j = 0; j < n; j++) {
        volatile float q = x[j] / step;
        const float code = isnan(x[j]) ? 0 : std::min(255.0f, std::max(0.0f, nearbyintf(q) + static_cast<float>(zero)));
        if (!h.expect(out[j] == static_cast<uint8_t>(code), "%a / %a + %d: %d, want %g", x[j], step, zero, out[j], code)) return;
      }
    }
  });
  h.row("the longest k that fits, and not one more", [&] {
    const int64_t k = 65536;
    Case c = {};
    c.m = 2, c.n = 3, c.k = k, c.values = 2, c.packed = true;
    run_case(h, reference, table, c);
    c.a_signed = true;
    run_case(h, reference, table, c);
    struct { bool a_signed, b_unsigned; int64_t most; } bounds[] = {
        {false, false, 65793}, {true, false, 131071}, {false, true, 33025}, {true, true, 65793}};
    for (const auto& b : bounds)
      for (int64_t extra : {0, 1}) {
        std::vector<uint8_t> a(static_cast<size_t>(b.most + extra)), w(a.size());
        // The extreme product: 255 or -128 against -128 or 255.
        memset(a.data(), b.a_signed ? 0x80 : 0xff, a.size());
        memset(w.data(), b.b_unsigned ? 0xff : 0x80, w.size());
        int32_t y = 1;
        GemmInt8Args g = {};
        g.a = a.data(), g.a_signed = b.a_signed, g.m = g.n = g.batch = 1, g.k = b.most + extra;
        g.b = w.data(), g.b_unsigned = b.b_unsigned, g.out = &y, g.threads = 1;
        const WhittleStatus s = gemm_int8(table, g);
        const int64_t product = (b.a_signed ? -128 : 255) * (b.b_unsigned ? 255 : -128);
        if (extra) h.expect(s == WHITTLE_RANGE && y == 1, "k %lld was not refused", static_cast<long long>(g.k));
        else h.expect(s == WHITTLE_OK && y == product * b.most, "k %lld: status %d, %d", static_cast<long long>(g.k), s, y);
      }
  });
  if (std::string(h.variant()) == "amx in C")
    h.row("leaves no tile state behind", [&] { h.expect(amx_released(), "tiles are still configured"); });
  h.row("k in blocks", [&] {
    Case c = {};
    // More steps than the longest block, and so many tiles of rows that blocks are made.
    c.m = table.rows > 16 ? table.rows + 3 : 3 * table.rows + 2, c.n = table.columns + 5;
    c.k = (table.rows > 16 ? 1 : 4) * kGemmInt8Block / table.step_bytes * table.k_step + 37;
    for (int out = kOutInt32; out <= (h.lean() ? kOutFloat32 : kOutUint8); out++) {
      c.out_type = out, c.a_signed = out & 1, c.packed = out & 2, c.b_zero = out == kOutInt8 ? 9 : 0;
      run_case(h, reference, table, c);
      c.n = table.columns;
    }
  });
  h.row("a convolution fills rows from where they lie", [&] { check_convolution(h, table); });
  h.row("larger products, blocked and threaded", [&] {
    for (int threads : {1, 2, 3}) {
      Case c = {};
      c.m = h.lean() ? 101 : 203, c.n = h.lean() ? 70 : 150, c.k = h.lean() ? 130 : 700, c.threads = threads, c.a_signed = threads & 1, c.b_zero = threads - 2;
      run_case(h, reference, table, c);
      c.m = 1, c.n = 1000, c.packed = true;
      run_case(h, reference, table, c);
      c.m = 16, c.out_type = kOutFloat32, c.bias = 2;
      run_case(h, reference, table, c);
    }
  });
}

struct Bench {
  const char* name;
  int64_t m, n, k;
  bool a_signed;
};

double thread_seconds() {
#if defined(CLOCK_THREAD_CPUTIME_ID)
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
#else
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
#endif
}

// Best of interleaved rounds, in the calling thread's own time: other load only ever adds.
std::vector<double> seconds(const std::vector<std::function<void()>>& bodies) {
  std::vector<double> best(bodies.size(), 1e9);
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < 300; i++) {
    for (size_t b = 0; b < bodies.size(); b++) {
      const double t = thread_seconds();
      bodies[b]();
      best[b] = std::min(best[b], thread_seconds() - t);
    }
    if (i >= 7 && std::chrono::steady_clock::now() - start > std::chrono::milliseconds(700)) break;
  }
  return best;
}

void bench_table(Harness& h, const GemmInt8Kernels& table) {
  if (!h.benching()) return;
  const Bench list[] = {{"128x768x768", 128, 768, 768, true},   {"128x3072x768", 128, 3072, 768, true},
                        {"512x512x512", 512, 512, 512, true},   {"1024x1024x1024", 1024, 1024, 1024, true},
                        {"2048x2048x2048", 2048, 2048, 2048, true},  {"3136x64x576", 3136, 64, 576, false},
                        {"128x768x768 u8", 128, 768, 768, false},
                        {"16x4096x4096", 16, 4096, 4096, true}, {"1x4096x4096", 1, 4096, 4096, true}};
  const int64_t spins = 20000;
  const double peak_ops = table.peak(spins), peak = peak_ops / seconds({[&] { table.peak(spins); }})[0];
  printf("TIME %s/%s peak %.1f GOP/s\n", h.family(), h.variant(), peak / 1e9);
  for (const Bench& b : list) {
    if (peak < 60e9 && b.m * b.n * b.k > 1000000000) continue;
    Rng rng(1);
    std::vector<uint8_t> a(static_cast<size_t>(b.m * b.k)), w(static_cast<size_t>(b.n * b.k)), y(static_cast<size_t>(b.m * b.n * 4));
    std::vector<float> scales(static_cast<size_t>(b.n), 0.01f);
    for (auto& v : a) v = static_cast<uint8_t>(rng.next());
    for (auto& v : w) v = static_cast<uint8_t>(rng.next());
    PackedInt8* p = pack_int8(table, w.data(), false, false, b.k, b.n, 1);
    GemmInt8Args g = {};
    g.a = a.data(), g.a_signed = b.a_signed, g.m = b.m, g.n = b.n, g.k = b.k, g.packed = p, g.batch = 1, g.out = y.data();
    g.threads = 1;
    const double ops = 2.0 * static_cast<double>(b.m) * static_cast<double>(b.n) * static_cast<double>(b.k);
    GemmInt8Args gf = g;
    gf.out_type = kOutFloat32, gf.a_scale = 0.01f, gf.b_scales = scales.data(), gf.bias_float = scales.data();
    gf.activation = {kActivationClip, 0, INFINITY};
    std::vector<double> t = seconds({[&] { table.peak(spins); }, [&] { gemm_int8(table, g); }, [&] { gemm_int8(table, gf); }});
    const double now = peak_ops / t[0], one = t[1], floats = t[2];
    printf("TIME %s/%s %s: %.3f ms, %.1f GOP/s, %.0f %% of peak, %.1f GB/s of b; float epilogue %+.1f %%\n", h.family(),
           h.variant(), b.name, one * 1e3, ops / one / 1e9, 100 * ops / one / now, static_cast<double>(b.n * b.k) / one / 1e9,
           100 * (floats / one - 1));
    fflush(stdout);
    free_packed_int8(p);
  }
}

}  // namespace

WHITTLE_CHECK(gemm_int8) {
  each_variant(h, gemm_int8_variants(), [&](const GemmInt8Kernels& reference, const GemmInt8Kernels& table) {
    check_table(h, reference, table);
    bench_table(h, table);
  });
  const GemmInt8Kernels reference = overlay(gemm_int8_variants(), Tier::scalar);
  for (const EmulatedInt8& e : emulated_int8()) {
    if (!e.supported || !h.begin_emulated("gemm_int8", e.name)) continue;
    GemmInt8Kernels table = reference;
    e.install(&table);
    check_table(h, reference, table);
    if (e.worth_timing) bench_table(h, table);
  }
}
