#include <set>
#include <utility>

#include "check.h"

namespace whittle {
namespace {

struct Case {
  QuantizeShape shape;
  const char* name;
};

const Case kCases[] = {
    {{1, 1, 1, 0}, "one"},           {{1, 1, 777, 0}, "whole"},        {{1, 1, 5000, 0}, "whole, several warps"},
    {{1, 7, 33, 0}, "first axis"},   {{3, 5, 17, 0}, "middle axis"},   {{67, 13, 1, 0}, "last axis"},
    {{200, 3, 1, 0}, "tall"},        {{5, 70, 1, 32}, "blocks, ragged"}, {{2, 64, 1, 16}, "blocks"},
    {{2, 21, 9, 4}, "blocks abreast"}, {{1, 300, 1, 7}, "odd blocks"}, {{0, 4, 3, 0}, "empty"},
};

const CodeType kTypes[] = {{8, true}, {8, false}, {4, true}, {4, false}, {2, true}, {2, false}, {16, true}, {16, false}};

int64_t bytes_of(int bits, int64_t n) { return (n * bits + 7) / 8; }

// Floats of a type, as bytes.
std::vector<uint8_t> floats(Rng& rng, FloatType type, int64_t n) {
  std::vector<uint8_t> out(static_cast<size_t>(n * (type == kFloat32 ? 4 : 2)));
  const float spread = rng.below(4) == 0 ? 1e-38f : rng.below(4) == 0 ? 3e37f : 1;
  for (int64_t i = 0; i < n; i++) {
    // Ties and zeros are where roundings differ.
    const float v = rng.below(8) == 0 ? 0.f : rng.below(4) == 0 ? 0.5f * float(rng.between(-9, 9)) : rng.normal() * spread;
    if (type == kFloat32) memcpy(&out[size_t(4 * i)], &v, 4);
    else quantize_kernels().narrow_f16(&v, 1, reinterpret_cast<uint16_t*>(&out[size_t(2 * i)]));
    uint16_t* h = reinterpret_cast<uint16_t*>(out.data());
    if (type == kFloat16 && (h[i] & 0x7c00) == 0x7c00) h[i] = 0x7bff;
    if (type == kBfloat16) quantize_kernels().narrow_bf16(&v, 1, h + i);
  }
  return out;
}

}  // namespace

void check_quantize(Check& c) {
  const CudaBackend& cuda = c.cuda();

  c.row("quantize: codes, scales, zero points and values as on the CPU, to the bit", [&](Rng& rng) {
    // Every type of floats meets codes of every width, also where most is left out.
    std::set<std::pair<int, int>> met;
    int turn = 0;
    for (const Case& one : kCases)
      for (const CodeType code : kTypes) {
        const FloatType type = static_cast<FloatType>(turn++ % 3);
        if (c.lean() && !met.emplace(type, code.bits).second && rng.below(4)) continue;
        const QuantizeShape& shape = one.shape;
        const int64_t n = shape.size(), scales = shape.scales();
        const bool symmetric = rng.below(2), torch = rng.below(4) == 0, power = rng.below(5) == 0, given = rng.below(4) == 0;
        const int32_t half = 1 << (code.bits - 1);
        QuantizeOptions o = {code, code.sign ? (symmetric && !torch ? 1 - half : -half) : 0, code.sign ? half - 1 : 2 * half - 1,
                             static_cast<int>(rng.below(3)), static_cast<uint32_t>(rng.next()), static_cast<uint32_t>(rng.next()), 1};
        const QuantizeRule rule = {o.qmin, o.qmax, symmetric, code.sign ? 0 : half, torch, power};
        const std::vector<uint8_t> x = floats(rng, type, n);
        std::vector<float> scale(static_cast<size_t>(scales)), got_scale;
        std::vector<uint8_t> zero(static_cast<size_t>(bytes_of(code.bits, scales))), q(static_cast<size_t>(bytes_of(code.bits, n))), got;
        const bool with_zero = !given || rng.below(3);
        if (given) {
          for (float& s : scale) s = rng.uniform(0.01f, 0.5f);
          for (uint8_t& z : zero) z = static_cast<uint8_t>(rng.next());
          if (scales > 0 && code.bits < 8 && (scales * code.bits) % 8)
            zero.back() = static_cast<uint8_t>(zero.back() & ((1 << (scales * code.bits) % 8) - 1));
        }
        const Device<uint8_t> dx(x), dq(static_cast<int64_t>(q.size()));
        const Device<float> dscale(scale);
        const Device<uint8_t> dzero(zero);
        const WhittleStatus want =
            quantize(x.data(), type, shape, given ? nullptr : &rule, scale.data(), with_zero ? zero.data() : nullptr, o, q.data());
        const WhittleStatus status =
            cuda.quantize(0, dx, type, shape, given ? nullptr : &rule, dscale, with_zero ? static_cast<uint8_t*>(dzero) : nullptr, o, dq);
        const auto where = [&] { return std::string(one.name) + ", " + std::to_string(code.bits) + (code.sign ? " signed" : " unsigned") +
                                        " of type " + std::to_string(type) + (given ? ", given" : "") + ", rounding " + std::to_string(o.rounding); };
        if (!c.expect(status == want, "%s: status %d, want %d", where().c_str(), status, want) || want != WHITTLE_OK) continue;
        got = dq.host();
        got_scale = dscale.host();
        int64_t at = differs(got_scale, scale);
        c.expect(at < 0, "%s: scale %d is %g, want %g", where().c_str(), int(at), at < 0 ? 0 : got_scale[size_t(at)], at < 0 ? 0 : scale[size_t(at)]);
        at = with_zero ? differs(dzero.host(), zero) : -1;
        c.expect(at < 0, "%s: zero points differ at byte %d", where().c_str(), int(at));
        at = differs(got, q);
        c.expect(at < 0, "%s: codes differ at byte %d: %d, want %d", where().c_str(), int(at), at < 0 ? 0 : got[size_t(at)], at < 0 ? 0 : q[size_t(at)]);

        const FloatType back = static_cast<FloatType>(rng.below(3));
        std::vector<uint8_t> y(static_cast<size_t>(n * (back == kFloat32 ? 4 : 2)));
        const Device<uint8_t> dy(static_cast<int64_t>(y.size()));
        const WhittleStatus want_back = dequantize(q.data(), shape, scale.data(), with_zero ? zero.data() : nullptr, o, back, y.data());
        const WhittleStatus got_back = cuda.dequantize(0, dq, shape, dscale, with_zero ? static_cast<uint8_t*>(dzero) : nullptr, o, back, dy);
        if (!c.expect(got_back == want_back, "%s: back, status %d, want %d", where().c_str(), got_back, want_back) || want_back != WHITTLE_OK) continue;
        at = differs(dy.host(), y);
        c.expect(at < 0, "%s: values differ at byte %d", where().c_str(), int(at));
      }
  });

  c.row("quantize: finds NaN, infinities and scales that are none", [&](Rng& rng) {
    const QuantizeShape shape = {3, 5, 17, 0};
    const QuantizeOptions o = {{8, true}, -127, 127, kNearestEven, 0, 0, 1};
    const QuantizeRule rule = {-127, 127, true, 0, false, false};
    for (const float bad : {NAN, INFINITY, -INFINITY}) {
      std::vector<float> x = rng.normals(shape.size());
      x[static_cast<size_t>(rng.below(shape.size()))] = bad;
      const Device<float> dx(x), scale(std::vector<float>(5, 0.1f));
      const Device<uint8_t> q(shape.size());
      c.expect(cuda.quantize(0, dx, kFloat32, shape, &rule, scale, nullptr, o, q) == WHITTLE_NONFINITE, "%g with a rule", bad);
      const Device<float> fresh(std::vector<float>(5, 0.1f));
      c.expect(cuda.quantize(0, dx, kFloat32, shape, nullptr, fresh, nullptr, o, q) == WHITTLE_NONFINITE, "%g, scales given", bad);
    }
    for (const float bad : {0.f, -1.f, float(NAN), float(INFINITY)}) {
      std::vector<float> s(5, 0.1f);
      s[static_cast<size_t>(rng.below(5))] = bad;
      const Device<float> dx(rng.normals(shape.size())), scale(s), y(shape.size());
      const Device<uint8_t> q(std::vector<uint8_t>(static_cast<size_t>(shape.size()), 1));
      c.expect(cuda.quantize(0, dx, kFloat32, shape, nullptr, scale, nullptr, o, q) == WHITTLE_RANGE, "scale %g", bad);
      c.expect(cuda.dequantize(0, q, shape, scale, nullptr, o, kFloat32, y) == WHITTLE_RANGE, "scale %g, back", bad);
    }
    const QuantizeShape huge = {1, 1, int64_t(1) << 31, 0};
    c.expect(cuda.quantize(0, nullptr, kFloat32, huge, &rule, nullptr, nullptr, o, nullptr) == WHITTLE_SHAPE, "2^31 elements");
  });

  c.row("quantize: ranges and histograms of observers", [&](Rng& rng) {
    const QuantizeShape shapes[] = {{1, 1, 4100, 0}, {3, 5, 17, 0}, {1, 7, 300, 0}, {129, 6, 1, 0}, {1, 1, 1, 0}, {2, 3, 0, 0}, {1, 1, 20011, 0}, {2, 10, 3, 4}};
    for (const QuantizeShape& shape : shapes)
      for (const int type : {kFloat32, kFloat16, kBfloat16}) {
        const FloatType t = static_cast<FloatType>(type);
        const int64_t n = shape.size(), scales = shape.scales();
        std::vector<uint8_t> x(static_cast<size_t>(n * (t == kFloat32 ? 4 : 2)));
        for (int64_t i = 0; i < n; i++) {
          const float v = rng.below(9) ? rng.normal() : rng.below(2) ? 0.0f : -0.0f;
          uint32_t bits;
          memcpy(&bits, &v, 4);
          // float16 of the same exponents: 5 bits of them, 10 of the fraction; what is too small is 0.
          const int32_t e = static_cast<int32_t>(bits >> 23 & 255) - 112;
          const uint16_t narrow = static_cast<uint16_t>(t == kBfloat16 ? bits >> 16 : (bits >> 16 & 0x8000) | (e > 0 ? static_cast<uint32_t>(e) << 10 | (bits >> 13 & 1023) : 0));
          if (t == kFloat32) memcpy(&x[static_cast<size_t>(4 * i)], &v, 4);
          else memcpy(&x[static_cast<size_t>(2 * i)], &narrow, 2);
        }
        const Device<uint8_t> dx(x);
        const size_t count = static_cast<size_t>(scales);
        std::vector<float> lo(count), hi(count), want_lo(count), want_hi(count);
        const WhittleStatus want = quantize_ranges(x.data(), t, shape, want_lo.data(), want_hi.data(), 1);
        if (!c.expect(cuda.ranges(0, dx, t, shape, lo.data(), hi.data()) == want, "ranges: status")) return;
        for (size_t i = 0; i < count; i++)
          c.expect(lo[i] == want_lo[i] && hi[i] == want_hi[i], "[%d, %d, %d] type %d: range %d is %g to %g, want %g to %g", int(shape.outer), int(shape.axis),
                   int(shape.inner), type, int(i), lo[i], hi[i], want_lo[i], want_hi[i]);
        if (shape.block) continue;
        for (const int bins : {256, 16384}) {
          std::vector<float> factor;
          for (int64_t i = 0; i < shape.axis; i++) factor.push_back(static_cast<float>(bins / 2) / (i % 2 ? 8.0f : 16.0f));
          // They add to what is there.
          std::vector<double> counts(static_cast<size_t>(shape.axis * bins), 3), want_counts = counts;
          c.expect(quantize_histogram(x.data(), t, shape, factor.data(), bins, want_counts.data(), 1) == WHITTLE_OK, "the CPU's");
          c.expect(cuda.histogram(0, dx, t, shape, factor.data(), bins, counts.data()) == WHITTLE_OK, "histogram: status");
          const int64_t at = differs(counts, want_counts);
          if (!c.expect(at < 0, "[%d, %d, %d] type %d, %d bins: count %d", int(shape.outer), int(shape.axis), int(shape.inner), type, bins, int(at))) return;
        }
      }
    const Device<float> x(std::vector<float>{1, 2, NAN}), y(std::vector<float>{1, 2, 4});
    float lo, hi, factor = 64;
    std::vector<double> counts(256, 1);
    c.expect(cuda.ranges(0, x, kFloat32, {1, 1, 3, 0}, &lo, &hi) == WHITTLE_NONFINITE, "NaN");
    c.expect(cuda.histogram(0, y, kFloat32, {1, 1, 3, 0}, &factor, 256, counts.data()) == WHITTLE_RANGE, "a value outside");
    c.expect(counts == std::vector<double>(256, 1), "counts of a call that was refused");
    for (const float bad : {0.0f, -2.0f, 3.0f, float(NAN), float(INFINITY)})
      c.expect(cuda.histogram(0, y, kFloat32, {1, 1, 3, 0}, &bad, 256, counts.data()) == WHITTLE_RANGE, "factor %g", bad);
  });

  c.row("quantize: fake quantization and its gradients; sums within the bound of their order", [&](Rng& rng) {
    for (const QuantizeShape shape : {QuantizeShape{1, 1, 1, 0}, {1, 1, 5000, 0}, {3, 7, 11, 0}, {9, 40, 1, 0}, {2, 37, 3, 8}, {5, 64, 1, 32}, {2, 3, 0, 0}})
      for (int rounding = 0; rounding < 3; rounding++) {
        const int64_t n = shape.size(), scales = shape.scales();
        const QuantizeOptions o = {{4, true}, -8, 7, rounding, static_cast<uint32_t>(rng.next()), static_cast<uint32_t>(rng.next()), 1};
        const std::vector<float> x = rng.normals(n), dy = rng.normals(n);
        std::vector<float> scale(static_cast<size_t>(scales)), y(x.size()), dx(x.size()), dscale(scale.size()), dzero(scale.size());
        std::vector<int32_t> zero(scale.size());
        for (size_t i = 0; i < scale.size(); i++) {
          scale[i] = rng.uniform(0.05f, 0.3f);
          zero[i] = static_cast<int32_t>(rng.between(-3, 3));
        }
        const Device<float> gx(x), gdy(dy), gscale(scale), gy(n), gdx(n), gds(scales), gdz(scales);
        const Device<int32_t> gzero(zero);
        FakeGradient here = {dy.data(), dx.data(), dscale.data(), dzero.data(), 0.25}, there = {gdy, gdx, gds, gdz, 0.25};
        fake_quantize(x.data(), shape, scale.data(), zero.data(), o, y.data(), &here);
        c.expect(c.cuda().fake_quantize(0, gx, shape, gscale, gzero, o, gy, &there) == WHITTLE_OK, "status");
        c.expect(differs(gy.host(), y) < 0 && differs(gdx.host(), dx) < 0, "values, [%d %d %d] by %d, rounding %d", int(shape.outer), int(shape.axis), int(shape.inner),
                 int(shape.block), rounding);
        const std::vector<float> ds = gds.host(), dz = gdz.host();
        const double room = double(n) * 0x1p-45;
        for (size_t i = 0; i < ds.size(); i++)
          c.expect(fabs(double(ds[i]) - double(dscale[i])) <= 0x1p-22 * fabs(double(dscale[i])) + room && fabs(double(dz[i]) - double(dzero[i])) <= 0x1p-22 * fabs(double(dzero[i])) + room,
                   "sums of scale %d: %.9g %.9g, want %.9g %.9g", int(i), ds[i], dz[i], dscale[i], dzero[i]);
        c.expect(c.cuda().fake_quantize(0, gx, shape, gscale, nullptr, o, gy, nullptr) == WHITTLE_OK, "values alone");
        fake_quantize(x.data(), shape, scale.data(), nullptr, o, y.data(), nullptr);
        c.expect(differs(gy.host(), y) < 0, "values alone, zero points 0");
        if (n == 0) continue;
        std::vector<float> bad = x;
        bad[static_cast<size_t>(rng.below(n))] = NAN;
        c.expect(c.cuda().fake_quantize(0, Device<float>(bad), shape, gscale, gzero, o, gy, nullptr) == WHITTLE_NONFINITE, "NaN");
        c.expect(c.cuda().fake_quantize(0, gx, shape, Device<float>(std::vector<float>(scale.size())), gzero, o, gy, nullptr) == WHITTLE_RANGE, "a scale of 0");
      }
  });
}

}  // namespace whittle
