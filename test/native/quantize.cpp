// Every variant of the quantize family against scalar, bit for bit.
#include "core/quantize.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "core/threads.h"
#include "test/native/harness.h"

using namespace whittle;

namespace {

// Values that break careless kernels, between ordinary ones.
void fill(Rng& rng, float* x, int64_t n, float scale) {
  const float odd[] = {0.f,     -0.f,    0.5f,     -0.5f,   1.5f * scale, 2.5f * scale, -2.5f * scale, FLT_MAX,
                       -FLT_MAX, FLT_MIN, 1e-45f,  -1e-40f, 127.5f * scale, -128.5f * scale, 254.5f * scale};
  for (int64_t i = 0; i < n; i++)
    x[i] = rng.below(6) == 0 ? odd[rng.below(sizeof odd / sizeof *odd)] : rng.normal() * scale * 60;
}

struct Range {
  int32_t qmin, qmax;
};
const Range kRanges[] = {{-128, 127}, {0, 255}, {-127, 127}, {-8, 7}, {0, 15}, {-1, 1}};

template <class T>
bool equal(Harness& h, const Guarded<T>& a, const Guarded<T>& want, const char* what, int64_t n) {
  bool ok = h.expect(a.intact(), "%s: wrote outside of [0, %lld)", what, static_cast<long long>(n));
  for (int64_t i = 0; i < n && ok; i++)
    ok = h.expect(memcmp(&a[i], &want[i], sizeof(T)) == 0, "%s: element %lld of %lld differs: %g, want %g", what,
                  static_cast<long long>(i), static_cast<long long>(n), static_cast<double>(a[i]), static_cast<double>(want[i]));
  return ok;
}

// Calls body with sizes around the tile, both forms of the kernel, every rounding, every range of codes.
template <class Body>
void cases(Harness& h, const Body& body) {
  Rng rng = h.rng();
  for (int64_t length : sizes_around(32))
    for (int columns = 0; columns < 2; columns++)
      for (int rounding = 0; rounding < 3; rounding++) {
        const int64_t groups = rng.between(1, 4), stride = columns ? length + rng.below(3) : length;
        const int64_t scales = columns ? length : groups, n = columns ? (groups - 1) * stride + length : groups * length;
        Guarded<float> x(n, rng.below(16)), scale(scales, rng.below(16));
        Guarded<int32_t> zero(scales, rng.below(16));
        const Range range = kRanges[rng.below(sizeof kRanges / sizeof *kRanges)];
        for (int64_t i = 0; i < scales; i++) {
          scale[i] = rng.below(8) == 0 ? 1e-40f : ldexpf(rng.uniform(0.5f, 1.f), static_cast<int>(rng.between(-20, 20)));
          zero[i] = static_cast<int32_t>(rng.between(range.qmin, range.qmax));
        }
        fill(rng, x.data(), n, scales ? scale[0] : 1.f);
        QuantizeStep step = {scale.data(), rng.below(3) ? zero.data() : nullptr, range.qmin, range.qmax, rounding,
                             static_cast<uint32_t>(rng.next()), static_cast<uint32_t>(rng.next()), static_cast<uint32_t>(rng.next())};
        body(rng, x, columns != 0, groups, length, stride, n, step);
      }
}

}  // namespace

WHITTLE_CHECK(quantize) {
  each_variant(h, quantize_variants(), [&](const QuantizeKernels& ref, const QuantizeKernels& got) {
    h.row("codes8", [&] {
      cases(h, [&](Rng& rng, const Guarded<float>& x, bool columns, int64_t groups, int64_t length, int64_t stride, int64_t n,
                   const QuantizeStep& step) {
        Guarded<uint8_t> a(n, rng.below(64)), b(n);
        // What lies between columns stays as it was, in both.
        for (int64_t i = 0; i < n; i++) a[i] = b[i] = 77;
        const int bad_a = columns ? got.codes8_columns(x.data(), groups, length, stride, &step, a.data())
                                  : got.codes8(x.data(), groups, length, &step, a.data());
        const int bad_b = columns ? ref.codes8_columns(x.data(), groups, length, stride, &step, b.data())
                                  : ref.codes8(x.data(), groups, length, &step, b.data());
        h.expect(bad_a == 0 && bad_b == 0, "finite values called bad");
        equal(h, a, b, columns ? "columns" : "runs", n);
      });
    });
    h.row("codes16", [&] {
      cases(h, [&](Rng& rng, const Guarded<float>& x, bool columns, int64_t groups, int64_t length, int64_t stride, int64_t n,
                   const QuantizeStep& base) {
        QuantizeStep step = base;
        step.qmin = -32768;
        step.qmax = 32767;
        Guarded<uint16_t> a(n, rng.below(32)), b(n);
        for (int64_t i = 0; i < n; i++) a[i] = b[i] = 77;
        if (columns) {
          got.codes16_columns(x.data(), groups, length, stride, &step, a.data());
          ref.codes16_columns(x.data(), groups, length, stride, &step, b.data());
        } else {
          got.codes16(x.data(), groups, length, &step, a.data());
          ref.codes16(x.data(), groups, length, &step, b.data());
        }
        equal(h, a, b, columns ? "columns" : "runs", n);
      });
    });
    h.row("values8", [&] {
      cases(h, [&](Rng& rng, const Guarded<float>&, bool columns, int64_t groups, int64_t length, int64_t stride, int64_t n,
                   const QuantizeStep& step) {
        Guarded<uint8_t> q(n, rng.below(64));
        Guarded<float> a(n, rng.below(16)), b(n);
        const int sign = static_cast<int>(rng.below(2));
        for (int64_t i = 0; i < n; i++) {
          q[i] = static_cast<uint8_t>(rng.next());
          a[i] = b[i] = 3.f;
        }
        if (columns) {
          got.values8_columns(q.data(), sign, groups, length, stride, &step, a.data());
          ref.values8_columns(q.data(), sign, groups, length, stride, &step, b.data());
        } else {
          got.values8(q.data(), sign, groups, length, &step, a.data());
          ref.values8(q.data(), sign, groups, length, &step, b.data());
        }
        equal(h, a, b, columns ? "columns" : "runs", n);
      });
    });
    h.row("fake", [&] {
      cases(h, [&](Rng& rng, const Guarded<float>& x, bool columns, int64_t groups, int64_t length, int64_t stride, int64_t n,
                   const QuantizeStep& step) {
        Guarded<float> a(n, rng.below(16)), b(n);
        for (int64_t i = 0; i < n; i++) a[i] = b[i] = 3.f;
        if (columns) {
          got.fake_columns(x.data(), groups, length, stride, &step, a.data());
          ref.fake_columns(x.data(), groups, length, stride, &step, b.data());
        } else {
          got.fake(x.data(), groups, length, &step, a.data());
          ref.fake(x.data(), groups, length, &step, b.data());
        }
        equal(h, a, b, columns ? "columns" : "runs", n);
      });
    });
    h.row("gradient", [&] {
      cases(h, [&](Rng& rng, const Guarded<float>& x, bool columns, int64_t groups, int64_t length, int64_t stride, int64_t n,
                   const QuantizeStep& step) {
        const int64_t scales = columns ? length : groups;
        Guarded<float> dy(n, rng.below(16)), a(n, rng.below(16)), b(n);
        Guarded<double> sa(2 * scales), sb(2 * scales);
        for (int64_t i = 0; i < n; i++) {
          dy[i] = rng.normal();
          a[i] = b[i] = 3.f;
        }
        for (int64_t i = 0; i < 2 * scales; i++) sa[i] = sb[i] = 1;
        if (columns) {
          got.gradient_columns(x.data(), dy.data(), groups, length, stride, &step, a.data(), sa.data(), sa.data() + scales);
          ref.gradient_columns(x.data(), dy.data(), groups, length, stride, &step, b.data(), sb.data(), sb.data() + scales);
        } else {
          got.gradient(x.data(), dy.data(), groups, length, &step, a.data(), sa.data(), sa.data() + scales);
          ref.gradient(x.data(), dy.data(), groups, length, &step, b.data(), sb.data(), sb.data() + scales);
        }
        equal(h, a, b, "dx", n);
        // Sums of doubles in another order.
        const double codes = fabs(double(step.qmax) - step.qmin) + 1;
        for (int64_t i = 0; i < 2 * scales; i++) {
          const int64_t one = i % scales;
          const double size = codes + fabs(double(step.zero ? step.zero[one] : 0)) + double(step.scale[one]);
          h.expect(fabs(sa[i] - sb[i]) <= 1e-14 * static_cast<double>(n + 1) * size, "sums[%lld]: %.17g, want %.17g",
                   static_cast<long long>(i), sa[i], sb[i]);
        }
      });
    });
    h.row("range", [&] {
      cases(h, [&](Rng& rng, const Guarded<float>& x, bool columns, int64_t groups, int64_t length, int64_t stride, int64_t,
                   const QuantizeStep&) {
        const int64_t scales = columns ? length : groups;
        Guarded<float> a(2 * scales, rng.below(16)), b(2 * scales);
        for (int64_t i = 0; i < scales; i++) {
          a[i] = b[i] = INFINITY;
          a[scales + i] = b[scales + i] = -INFINITY;
        }
        if (columns) {
          got.range_columns(x.data(), groups, length, stride, a.data(), a.data() + scales);
          ref.range_columns(x.data(), groups, length, stride, b.data(), b.data() + scales);
        } else {
          got.range(x.data(), groups, length, a.data(), a.data() + scales);
          ref.range(x.data(), groups, length, b.data(), b.data() + scales);
        }
        // Which of −0 and 0 is kept may differ; the drivers make both 0.
        for (int64_t i = 0; i < 2 * scales; i++) {
          a[i] += 0.f;
          b[i] += 0.f;
        }
        equal(h, a, b, columns ? "columns" : "runs", 2 * scales);
      });
    });
    h.row("NaN and infinity are seen wherever they stand", [&] {
      Rng rng = h.rng();
      for (int64_t n = 1; n < 140; n++)
        for (float odd : {NAN, -NAN, INFINITY, -INFINITY}) {
          Guarded<float> x(n, rng.below(16)), y(n), scale(n), lo(n), hi(n);
          Guarded<uint8_t> q(n);
          for (int64_t i = 0; i < n; i++) {
            x[i] = rng.normal();
            scale[i] = 1;
            lo[i] = hi[i] = 0;
          }
          const int64_t at = rng.below(n);
          const auto all = [&] {
            const QuantizeStep step = {scale.data(), nullptr, -128, 127, static_cast<int>(rng.below(3)), 1, 2, 3};
            int seen = 0;
            seen += got.codes8(x.data(), 1, n, &step, q.data());
            seen += got.codes8_columns(x.data(), 1, n, n, &step, q.data());
            seen += got.fake(x.data(), 1, n, &step, y.data());
            seen += got.fake_columns(x.data(), 1, n, n, &step, y.data());
            seen += got.range(x.data(), 1, n, lo.data(), hi.data());
            seen += got.range_columns(x.data(), 1, n, n, lo.data(), hi.data());
            return seen;
          };
          h.expect(all() == 0, "%lld finite values: a kernel called them bad", static_cast<long long>(n));
          x[at] = odd;
          h.expect(all() == 6, "%g at %lld of %lld: only %d of 6 kernels saw it", static_cast<double>(odd),
                   static_cast<long long>(at), static_cast<long long>(n), all());
        }
    });
    h.row("histogram", [&] {
      Rng rng = h.rng();
      for (int64_t n : sizes_around(32)) {
        Guarded<float> x(n, rng.below(16));
        for (int64_t i = 0; i < n; i++) x[i] = rng.uniform(-1, 1) * 0.999f;
        Guarded<uint32_t> a(256), b(256);
        for (int i = 0; i < 256; i++) a[i] = b[i] = 0;
        h.expect(got.histogram(x.data(), n, 128.f, 256, a.data()) == 0, "values inside called outside");
        ref.histogram(x.data(), n, 128.f, 256, b.data());
        equal(h, a, b, "counts", 256);
        if (n == 0) continue;
        x[n - 1] = n % 2 ? 1.f : NAN;
        h.expect(got.histogram(x.data(), n, 128.f, 256, a.data()) == 1, "a value outside was not seen");
      }
    });
    h.row("packing", [&] {
      Rng rng = h.rng();
      for (int64_t n : sizes_around(64))
        for (int bits : {2, 4})
          for (int sign = 0; sign < 2; sign++) {
            const int64_t bytes = (n * bits + 7) / 8;
            Guarded<uint8_t> codes(n, rng.below(64)), a(bytes, rng.below(64)), b(bytes), c(n, rng.below(64)), d(n);
            for (int64_t i = 0; i < n; i++) codes[i] = static_cast<uint8_t>(rng.next());
            (bits == 4 ? got.pack4 : got.pack2)(codes.data(), n, a.data());
            (bits == 4 ? ref.pack4 : ref.pack2)(codes.data(), n, b.data());
            equal(h, a, b, "packed", bytes);
            (bits == 4 ? got.unpack4 : got.unpack2)(a.data(), sign, n, c.data());
            (bits == 4 ? ref.unpack4 : ref.unpack2)(a.data(), sign, n, d.data());
            equal(h, c, d, "unpacked", n);
            for (int64_t i = 0; i < n; i++)
              h.expect(((c[i] ^ codes[i]) & ((1 << bits) - 1)) == 0, "code %lld did not come back", static_cast<long long>(i));
          }
    });
    h.row("half precision", [&] {
      Guarded<uint16_t> all(65536), a(65536), b(65536);
      Guarded<float> x(65536), y(65536);
      for (int i = 0; i < 65536; i++) all[i] = static_cast<uint16_t>(i);
      got.widen_f16(all.data(), 65536, x.data());
      ref.widen_f16(all.data(), 65536, y.data());
      equal(h, x, y, "float16 to float32", 65536);
      got.widen_bf16(all.data(), 65536, x.data());
      ref.widen_bf16(all.data(), 65536, y.data());
      equal(h, x, y, "bfloat16 to float32", 65536);
      Rng rng = h.rng();
      for (int r = 0; r < 8; r++) {
        const int64_t n = 65536 - rng.below(40);
        for (int64_t i = 0; i < n; i++) {
          uint32_t bits = static_cast<uint32_t>(rng.next());
          if (r == 1) bits = (bits & 0x87ffffffu) | 0x38000000u;         // around float16's least
          if (r == 2) bits = (bits & 0x800fe000u) | 0x47700000u | 0x1000;  // ties around its greatest
          if (r == 3) bits = (bits & 0xbfffe000u) | 0x1000;              // ties
          memcpy(&x[i], &bits, 4);
        }
        got.narrow_f16(x.data(), n, a.data());
        ref.narrow_f16(x.data(), n, b.data());
        equal(h, a, b, "float32 to float16", n);
        got.narrow_bf16(x.data(), n, a.data());
        ref.narrow_bf16(x.data(), n, b.data());
        equal(h, a, b, "float32 to bfloat16", n);
      }
    });
    if (h.benching()) {
      const int64_t n = 1 << 24;
      std::vector<float> x(n), y(n), scales(4096, 0.02f);
      const std::vector<int32_t> zeros(4096, 3);
      std::vector<uint8_t> q(n);
      Rng rng = h.rng();
      for (float& v : x) v = rng.normal();
      for (const int64_t size : {int64_t{1} << 13, n}) {
        char name[48];
        const auto timed = [&](const char* what, double bytes, const std::function<void()>& body) {
          snprintf(name, sizeof name, "%s_%s", what, size == n ? "dram" : "l1");
          h.bench(name, bytes * static_cast<double>(size), body, static_cast<double>(size));
        };
        const QuantizeStep step = {scales.data(), nullptr, -128, 127, kNearestEven, 1, 2, 0};
        QuantizeStep dither = step, asymmetric = step;
        dither.rounding = kStochastic;
        asymmetric.zero = zeros.data();
        const int64_t cols = size == n ? 4096 : 1024, rows = size / cols;
        float lo[4096], hi[4096];
        // The floor of codes8: as many bytes read and written, no arithmetic to speak of.
        timed("floor", 5, [&] {
          const uint64_t* from = reinterpret_cast<const uint64_t*>(x.data());
          uint64_t* to = reinterpret_cast<uint64_t*>(q.data());
          for (int64_t i = 0; i < size / 8; i++) to[i] = from[4 * i] ^ from[4 * i + 1] ^ from[4 * i + 2] ^ from[4 * i + 3];
        });
        timed("codes8", 5, [&] { got.codes8(x.data(), 1, size, &step, q.data()); });
        timed("codes8_stochastic", 5, [&] { got.codes8(x.data(), 1, size, &dither, q.data()); });
        timed("codes8_runs32", 5, [&] {
          for (int64_t i = 0; i < size; i += 131072) {
            const int64_t m = size - i < 131072 ? size - i : 131072;
            got.codes8(x.data() + i, m / 32, 32, &step, q.data() + i);
          }
        });
        timed("codes8_columns", 5, [&] { got.codes8_columns(x.data(), rows, cols, cols, &asymmetric, q.data()); });
        timed("values8", 5, [&] { got.values8(q.data(), 1, 1, size, &step, y.data()); });
        timed("values8_columns", 5, [&] { got.values8_columns(q.data(), 1, rows, cols, cols, &asymmetric, y.data()); });
        timed("range", 4, [&] { got.range(x.data(), 1, size, lo, hi); });
        timed("range_columns", 4, [&] { got.range_columns(x.data(), rows, cols, cols, lo, hi); });
        std::vector<double> sums(8192);
        timed("gradient", 12, [&] { got.gradient(x.data(), x.data(), 1, size, &step, y.data(), sums.data(), sums.data() + 1); });
        timed("gradient_columns", 12, [&] {
          got.gradient_columns(x.data(), x.data(), rows, cols, cols, &asymmetric, y.data(), sums.data(), sums.data() + 4096);
        });
        std::vector<uint32_t> counts(2048);
        timed("histogram", 4, [&] { got.histogram(x.data(), size, 64, 2048, counts.data()); });
        timed("pack2", 1.25, [&] { got.pack2(q.data(), size, reinterpret_cast<uint8_t*>(y.data())); });
        timed("pack4", 1.5, [&] { got.pack4(q.data(), size, reinterpret_cast<uint8_t*>(y.data())); });
        timed("unpack4", 1.5, [&] { got.unpack4(reinterpret_cast<uint8_t*>(y.data()), 1, size, q.data()); });
      }
    }
  });

  h.begin_variant("quantize", Tier::scalar);
  h.row("drivers answer the same on any number of threads", [&] {
    Rng rng = h.rng();
    for (int r = 0; r < (h.lean() ? 20 : 60); r++) {
      const QuantizeShape shape = {rng.between(1, 5), rng.between(1, 300), rng.below(2) ? 1 : rng.between(1, 200),
                                   rng.below(2) ? 0 : rng.between(1, 70)};
      const int64_t n = shape.size(), scales = shape.scales();
      const int bits = rng.below(2) ? 4 : 8;
      Guarded<float> x(n), scale(scales), again(scales), y(n), z(n);
      Guarded<uint8_t> zero(scales), nil(scales), q(n), p(n);
      for (int64_t i = 0; i < n; i++) x[i] = rng.normal();
      QuantizeRule rule = {bits == 4 ? -8 : -128, bits == 4 ? 7 : 127, false, 0, false, false};
      QuantizeOptions o = {{bits, true}, rule.qmin, rule.qmax, static_cast<int>(rng.below(3)), 5, 6, 1};
      h.expect(quantize(x.data(), kFloat32, shape, &rule, scale.data(), zero.data(), o, q.data()) == WHITTLE_OK, "failed");
      o.threads = 4;
      h.expect(quantize(x.data(), kFloat32, shape, &rule, again.data(), nil.data(), o, p.data()) == WHITTLE_OK, "failed");
      equal(h, again, scale, "scale", scales);
      equal(h, nil, zero, "zero", (scales * bits + 7) / 8);
      equal(h, p, q, "codes", (n * bits + 7) / 8);
      h.expect(dequantize(p.data(), shape, scale.data(), zero.data(), o, kFloat32, y.data()) == WHITTLE_OK, "failed");
      o.threads = 1;
      h.expect(dequantize(p.data(), shape, scale.data(), zero.data(), o, kFloat32, z.data()) == WHITTLE_OK, "failed");
      equal(h, y, z, "values", n);
      for (int64_t i = 0; i < n && o.rounding == kNearestEven && !shape.block && shape.axis == 1; i++)
        h.expect(fabsf(y[i] - x[i]) <= scale[0], "element %lld strays", static_cast<long long>(i));
    }
  });
}
