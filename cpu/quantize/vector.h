// The quantize kernels once, over the vector operations O of an ISA; each ISA's file includes this and installs them.
// Work goes by groups of kGroup vectors, as many as one store of bytes takes; a tail is padded with 0 and scale 1.
// All arithmetic is that of scalar.cpp, in the same order, so codes and values agree bit for bit.
#pragma once
#include <stdint.h>
#include <string.h>

#include "core/quantize.h"

namespace whittle {
namespace {

// `floats` from p on will be read soon: one stream of loads alone does not get all that memory gives.
static inline void read_soon(const float* p, int floats) {
#if defined(__GNUC__) || defined(__clang__)
  // As a number: the address may lie beyond the array.
  const uintptr_t ahead = reinterpret_cast<uintptr_t>(p) + 768 * sizeof(float);
  for (int i = 0; i < floats; i += 16) __builtin_prefetch(reinterpret_cast<const void*>(ahead + static_cast<uintptr_t>(i) * sizeof(float)));
#else
  (void)p;
  (void)floats;
#endif
}

template <class O>
struct Quantizer {
  typedef typename O::F F;
  typedef typename O::I I;
  static constexpr int kWidth = O::kWidth, kGroup = O::kGroup, kElements = kWidth * kGroup;

  // Scale, bounds and zero point of a vector of elements.
  struct Bounds {
    F scale, lo, hi;
    I zero;
  };

  static inline Bounds bounds(const QuantizeStep& s, int64_t r) {
    const int32_t zero = s.zero ? s.zero[r] : 0;
    return {O::set(s.scale[r]), O::set(static_cast<float>(s.qmin - zero)), O::set(static_cast<float>(s.qmax - zero)), O::seti(zero)};
  }
  static inline Bounds bounds_of(const QuantizeStep& s, const float* scale, const int32_t* zero) {
    const I z = zero ? O::loadi(zero) : O::seti(0);
    return {O::load(scale), O::to_float(O::sub(O::seti(s.qmin), z)), O::to_float(O::sub(O::seti(s.qmax), z)), z};
  }

  static inline I mix(I h) {
    h = O::exclusive(h, O::template right<16>(h));
    h = O::mul(h, O::seti(0x7feb352d));
    h = O::exclusive(h, O::template right<15>(h));
    h = O::mul(h, O::seti(static_cast<int32_t>(0x846ca68bu)));
    return O::exclusive(h, O::template right<16>(h));
  }

  template <int kRounding>
  static inline I rounded(F x, const Bounds& b, const QuantizeStep& s, uint32_t index) {
    return clipped<kRounding>(O::div(x, b.scale), b.lo, b.hi, s, index);
  }

  template <int kRounding>
  static inline I clipped(F ratio, F lo, F hi, const QuantizeStep& s, uint32_t index) {
    const F v = O::min(O::max(ratio, lo), hi);
    if (kRounding == kNearestEven) return O::nearest(v);
    I i = O::truncate(v);
    if (kRounding == kStochastic) {
      i = O::add(i, O::greater(O::to_float(i), v));
      const I at = O::add(O::seti(static_cast<int32_t>(index)), O::iota());
      const I h = mix(O::exclusive(mix(O::add(O::mul(at, O::seti(static_cast<int32_t>(0x9e3779b9u))), O::seti(static_cast<int32_t>(s.key0)))),
                                   O::seti(static_cast<int32_t>(s.key1))));
      const F u = O::mul(O::to_float(O::template right<8>(h)), O::set(0x1p-24f));
      i = O::sub(i, O::greater(O::sub(v, O::to_float(i)), u));
    }
    return i;
  }

  // What a kernel does with a group of rounded values.
  struct StoreCodes {
    typedef uint8_t Out;
    static inline void put(const I* rounded, const Bounds* b, Out* q) {
      I c[kGroup];
      for (int g = 0; g < kGroup; g++) c[g] = O::add(rounded[g], b[g].zero);
      O::store_bytes(c, q);
    }
  };
  struct StoreValues {
    typedef float Out;
    static inline void put(const I* rounded, const Bounds* b, Out* y) {
      for (int g = 0; g < kGroup; g++) O::store(y + g * kWidth, O::mul(b[g].scale, O::to_float(rounded[g])));
    }
  };

  template <class Store, int kRounding>
  static inline void group(const float* x, const Bounds* b, const QuantizeStep& s, uint32_t index, typename O::Bad* bad,
                           typename Store::Out* out) {
    I r[kGroup];
    read_soon(x, kElements);
    for (int g = 0; g < kGroup; g++) {
      const F v = O::load(x + g * kWidth);
      O::watch(bad, v);
      r[g] = rounded<kRounding>(v, b[g], s, index + static_cast<uint32_t>(g * kWidth));
    }
    Store::put(r, b, out);
  }

  template <class Store, int kRounding>
  static inline void padded(const float* x, int64_t n, const Bounds* b, const QuantizeStep& s, uint32_t index, typename O::Bad* bad,
                            typename Store::Out* out) {
    float t[kElements] = {0};
    typename Store::Out o[kElements];
    for (int64_t i = 0; i < n; i++) t[i] = x[i];
    group<Store, kRounding>(t, b, s, index, bad, o);
    for (int64_t i = 0; i < n; i++) out[i] = o[i];
  }

  template <class Store, int kRounding>
  static int runs_of(const float* x, int64_t runs, int64_t length, const QuantizeStep& s, typename Store::Out* out) {
    typename O::Bad bad = O::good();
    for (int64_t r = 0; r < runs; r++) {
      const Bounds one = bounds(s, r);
      Bounds b[kGroup];
      for (int g = 0; g < kGroup; g++) b[g] = one;
      const int64_t first = r * length;
      int64_t i = 0;
      for (; i + kElements <= length; i += kElements)
        group<Store, kRounding>(x + first + i, b, s, s.index + static_cast<uint32_t>(first + i), &bad, out + first + i);
      if (i < length)
        padded<Store, kRounding>(x + first + i, length - i, b, s, s.index + static_cast<uint32_t>(first + i), &bad, out + first + i);
    }
    return O::is_bad(bad);
  }

  template <class Store, int kRounding>
  static int columns_of(const float* x, int64_t rows, int64_t columns, int64_t stride, const QuantizeStep& s, typename Store::Out* out) {
    typename O::Bad bad = O::good();
    const int64_t whole = columns - columns % kElements, rest = columns - whole;
    Bounds tail[kGroup];
    if (rest) {
      float scale[kElements];
      int32_t zero[kElements];
      for (int64_t i = 0; i < kElements; i++) {
        scale[i] = i < rest ? s.scale[whole + i] : 1.f;
        zero[i] = i < rest && s.zero ? s.zero[whole + i] : 0;
      }
      for (int g = 0; g < kGroup; g++) tail[g] = bounds_of(s, scale + g * kWidth, zero + g * kWidth);
    }
    for (int64_t r = 0; r < rows; r++) {
      const int64_t first = r * stride;
      for (int64_t c = 0; c < whole; c += kElements) {
        Bounds b[kGroup];
        for (int g = 0; g < kGroup; g++)
          b[g] = bounds_of(s, s.scale + c + g * kWidth, s.zero ? s.zero + c + g * kWidth : nullptr);
        group<Store, kRounding>(x + first + c, b, s, s.index + static_cast<uint32_t>(first + c), &bad, out + first + c);
      }
      if (rest)
        padded<Store, kRounding>(x + first + whole, rest, tail, s, s.index + static_cast<uint32_t>(first + whole), &bad, out + first + whole);
    }
    return O::is_bad(bad);
  }

  template <class Store>
  static int runs(const float* x, int64_t runs, int64_t length, const QuantizeStep* s, typename Store::Out* out) {
    return s->rounding == kNearestEven  ? runs_of<Store, kNearestEven>(x, runs, length, *s, out)
           : s->rounding == kTowardZero ? runs_of<Store, kTowardZero>(x, runs, length, *s, out)
                                        : runs_of<Store, kStochastic>(x, runs, length, *s, out);
  }
  template <class Store>
  static int columns(const float* x, int64_t rows, int64_t columns, int64_t stride, const QuantizeStep* s, typename Store::Out* out) {
    return s->rounding == kNearestEven  ? columns_of<Store, kNearestEven>(x, rows, columns, stride, *s, out)
           : s->rounding == kTowardZero ? columns_of<Store, kTowardZero>(x, rows, columns, stride, *s, out)
                                        : columns_of<Store, kStochastic>(x, rows, columns, stride, *s, out);
  }

  static inline void values_group(const uint8_t* q, int sign, const F* scale, const I* zero, float* y) {
    I c[kGroup];
    O::load_bytes(q, sign, c);
    for (int g = 0; g < kGroup; g++) O::store(y + g * kWidth, O::mul(scale[g], O::to_float(O::sub(c[g], zero[g]))));
  }

  static inline void values_padded(const uint8_t* q, int sign, int64_t n, const F* scale, const I* zero, float* y) {
    uint8_t t[kElements] = {0};
    float o[kElements];
    for (int64_t i = 0; i < n; i++) t[i] = q[i];
    values_group(t, sign, scale, zero, o);
    for (int64_t i = 0; i < n; i++) y[i] = o[i];
  }

  static void values8(const uint8_t* q, int sign, int64_t runs, int64_t length, const QuantizeStep* s, float* y) {
    for (int64_t r = 0; r < runs; r++) {
      F scale[kGroup];
      I zero[kGroup];
      for (int g = 0; g < kGroup; g++) {
        scale[g] = O::set(s->scale[r]);
        zero[g] = O::seti(s->zero ? s->zero[r] : 0);
      }
      int64_t i = r * length;
      const int64_t end = i + length;
      for (; i + kElements <= end; i += kElements) values_group(q + i, sign, scale, zero, y + i);
      if (i < end) values_padded(q + i, sign, end - i, scale, zero, y + i);
    }
  }

  static void values8_columns(const uint8_t* q, int sign, int64_t rows, int64_t columns, int64_t stride, const QuantizeStep* s, float* y) {
    const int64_t whole = columns - columns % kElements;
    for (int64_t r = 0; r < rows; r++) {
      for (int64_t c = 0; c < whole; c += kElements) {
        F scale[kGroup];
        I zero[kGroup];
        for (int g = 0; g < kGroup; g++) {
          scale[g] = O::load(s->scale + c + g * kWidth);
          zero[g] = s->zero ? O::loadi(s->zero + c + g * kWidth) : O::seti(0);
        }
        values_group(q + r * stride + c, sign, scale, zero, y + r * stride + c);
      }
      for (int64_t c = whole; c < columns; c++) {
        const int32_t code = sign ? static_cast<int8_t>(q[r * stride + c]) : q[r * stride + c];
        y[r * stride + c] = s->scale[c] * static_cast<float>(code - (s->zero ? s->zero[c] : 0));
      }
    }
  }

  static int range(const float* x, int64_t runs, int64_t length, float* lo, float* hi) {
    typename O::Bad bad = O::good();
    for (int64_t r = 0; r < runs; r++) {
      const float* p = x + r * length;
      F a[kGroup], b[kGroup];
      for (int g = 0; g < kGroup; g++) {
        a[g] = O::set(lo[r]);
        b[g] = O::set(hi[r]);
      }
      int64_t i = 0;
      for (; i + kElements <= length; i += kElements) {
        read_soon(p + i, kElements);
        for (int g = 0; g < kGroup; g++) {
          const F v = O::load(p + i + g * kWidth);
          O::watch(&bad, v);
          a[g] = O::min(v, a[g]);
          b[g] = O::max(v, b[g]);
        }
      }
      for (; i + kWidth <= length; i += kWidth) {
        const F v = O::load(p + i);
        O::watch(&bad, v);
        a[0] = O::min(v, a[0]);
        b[0] = O::max(v, b[0]);
      }
      if (i < length) {
        float t[kWidth];
        for (int k = 0; k < kWidth; k++) t[k] = p[i + k < length ? i + k : i];
        const F v = O::load(t);
        O::watch(&bad, v);
        a[0] = O::min(v, a[0]);
        b[0] = O::max(v, b[0]);
      }
      for (int g = 1; g < kGroup; g++) {
        a[0] = O::min(a[0], a[g]);
        b[0] = O::max(b[0], b[g]);
      }
      lo[r] = O::least(a[0]);
      hi[r] = O::most(b[0]);
    }
    return O::is_bad(bad);
  }

  // Four rows at a time, so that bounds are read and written once for four values.
  static int range_columns(const float* x, int64_t rows, int64_t columns, int64_t stride, float* lo, float* hi) {
    typename O::Bad bad = O::good();
    const int64_t whole = columns - columns % kWidth;
    for (int64_t r = 0; r < rows;) {
      const int64_t n = rows - r < 4 ? rows - r : 4;
      const float* p = x + r * stride;
      for (int64_t c = 0; c < whole; c += kWidth) {
        F a = O::load(lo + c), b = O::load(hi + c);
        for (int64_t k = 0; k < n; k++) {
          const F v = O::load(p + k * stride + c);
          O::watch(&bad, v);
          a = O::min(v, a);
          b = O::max(v, b);
        }
        O::store(lo + c, a);
        O::store(hi + c, b);
      }
      for (int64_t k = 0; k < n && whole < columns; k++)
        for (int64_t c = whole; c < columns; c++) {
          const float v = p[k * stride + c];
          O::watch(&bad, O::set(v));
          lo[c] = v < lo[c] ? v : lo[c];
          hi[c] = v > hi[c] ? v : hi[c];
        }
      r += n;
    }
    return O::is_bad(bad);
  }

  // The gradient of one vector: dx, and what dy is multiplied by for the scale's, as a difference of two vectors, since it
  // is taken in double; `far` is dy where the code is clipped.
  struct Slope {
    F dx, a, b, far;
  };
  template <int kRounding>
  static inline Slope slope(F x, F dy, const Bounds& bounds, const QuantizeStep& s, uint32_t index) {
    const F v = O::div(x, bounds.scale), one = O::set(1.f), zero = O::set(0.f);
    // One step of room on either side tells a value that rounds onto a bound from one that is clipped by it.
    const F r = O::to_float(clipped<kRounding>(v, O::sub(bounds.lo, one), O::sub(bounds.hi, O::set(-1.f)), s, index));
    const I below = O::greater(bounds.lo, r), above = O::greater(r, bounds.hi), out = O::either(below, above);
    return {O::pick(out, zero, dy), O::pick(below, bounds.lo, O::pick(above, bounds.hi, r)), O::pick(out, zero, v), O::pick(out, dy, zero)};
  }

  // Adds one vector's terms to two half vectors of doubles each.
  static inline void take(const Slope& g, F dy, typename O::D* scale, typename O::D* zero) {
    for (int h = 0; h < 2; h++) {
      scale[h] = O::dfma(O::half(dy, h), O::dsub(O::half(g.a, h), O::half(g.b, h)), scale[h]);
      zero[h] = O::dadd(zero[h], O::half(g.far, h));
    }
  }

  template <int kRounding>
  static int gradient_runs(const float* x, const float* dy, int64_t runs, int64_t length, const QuantizeStep& s, float* dx, double* dscale,
                           double* dzero) {
    typename O::Bad bad = O::good();
    for (int64_t r = 0; r < runs; r++) {
      const Bounds b = bounds(s, r);
      typename O::D scale[2] = {O::dset(0), O::dset(0)}, zero[2] = {O::dset(0), O::dset(0)};
      const int64_t end = (r + 1) * length;
      for (int64_t i = r * length; i < end; i += kWidth) {
        const int64_t n = end - i < kWidth ? end - i : kWidth;
        const uint32_t index = s.index + static_cast<uint32_t>(i);
        if (n == kWidth) {
          const F v = O::load(x + i), d = O::load(dy + i);
          O::watch(&bad, v);
          O::watch(&bad, d);
          const Slope g = slope<kRounding>(v, d, b, s, index);
          O::store(dx + i, g.dx);
          take(g, d, scale, zero);
          continue;
        }
        float tx[kWidth] = {0}, td[kWidth] = {0}, to[kWidth];
        for (int64_t k = 0; k < n; k++) {
          tx[k] = x[i + k];
          td[k] = dy[i + k];
        }
        const F v = O::load(tx), d = O::load(td);
        O::watch(&bad, v);
        O::watch(&bad, d);
        const Slope g = slope<kRounding>(v, d, b, s, index);
        O::store(to, g.dx);
        take(g, d, scale, zero);
        for (int64_t k = 0; k < n; k++) dx[i + k] = to[k];
      }
      dscale[r] += O::dsum(O::dadd(scale[0], scale[1]));
      dzero[r] -= O::dsum(O::dadd(zero[0], zero[1])) * static_cast<double>(s.scale[r]);
    }
    return O::is_bad(bad);
  }

  // As take, to sums in memory, one a column.
  static inline void spread(const Slope& g, F dy, F scale, double* dscale, double* dzero) {
    for (int h = 0; h < 2; h++) {
      const int at = h * (kWidth / 2);
      O::dstore(dscale + at, O::dfma(O::half(dy, h), O::dsub(O::half(g.a, h), O::half(g.b, h)), O::dload(dscale + at)));
      O::dstore(dzero + at, O::dsub(O::dload(dzero + at), O::dmul(O::half(g.far, h), O::half(scale, h))));
    }
  }

  template <int kRounding>
  static int gradient_columns_of(const float* x, const float* dy, int64_t rows, int64_t columns, int64_t stride, const QuantizeStep& s,
                                 float* dx, double* dscale, double* dzero) {
    typename O::Bad bad = O::good();
    const int64_t whole = columns - columns % kWidth, rest = columns - whole;
    float scale[kWidth], tx[kWidth] = {0}, td[kWidth] = {0}, to[kWidth];
    int32_t zero[kWidth];
    double by_scale[kWidth] = {0}, by_zero[kWidth] = {0};
    for (int64_t i = 0; i < kWidth; i++) {
      scale[i] = i < rest ? s.scale[whole + i] : 1.f;
      zero[i] = i < rest && s.zero ? s.zero[whole + i] : 0;
    }
    const Bounds tail = bounds_of(s, scale, zero);
    for (int64_t r = 0; r < rows; r++) {
      const int64_t first = r * stride;
      for (int64_t c = 0; c < whole; c += kWidth) {
        const Bounds b = bounds_of(s, s.scale + c, s.zero ? s.zero + c : nullptr);
        const F v = O::load(x + first + c), d = O::load(dy + first + c);
        O::watch(&bad, v);
        O::watch(&bad, d);
        const Slope g = slope<kRounding>(v, d, b, s, s.index + static_cast<uint32_t>(first + c));
        O::store(dx + first + c, g.dx);
        spread(g, d, b.scale, dscale + c, dzero + c);
      }
      if (!rest) continue;
      for (int64_t k = 0; k < rest; k++) {
        tx[k] = x[first + whole + k];
        td[k] = dy[first + whole + k];
      }
      const F v = O::load(tx), d = O::load(td);
      O::watch(&bad, v);
      O::watch(&bad, d);
      const Slope g = slope<kRounding>(v, d, tail, s, s.index + static_cast<uint32_t>(first + whole));
      O::store(to, g.dx);
      spread(g, d, tail.scale, by_scale, by_zero);
      for (int64_t k = 0; k < rest; k++) dx[first + whole + k] = to[k];
    }
    for (int64_t k = 0; k < rest; k++) {
      dscale[whole + k] += by_scale[k];
      dzero[whole + k] += by_zero[k];
    }
    return O::is_bad(bad);
  }

  static int gradient(const float* x, const float* dy, int64_t runs, int64_t length, const QuantizeStep* s, float* dx, double* dscale,
                      double* dzero) {
    const auto of = s->rounding == kNearestEven  ? gradient_runs<kNearestEven>
                    : s->rounding == kTowardZero ? gradient_runs<kTowardZero>
                                                 : gradient_runs<kStochastic>;
    return of(x, dy, runs, length, *s, dx, dscale, dzero);
  }
  static int gradient_columns(const float* x, const float* dy, int64_t rows, int64_t columns, int64_t stride, const QuantizeStep* s,
                              float* dx, double* dscale, double* dzero) {
    const auto of = s->rounding == kNearestEven  ? gradient_columns_of<kNearestEven>
                    : s->rounding == kTowardZero ? gradient_columns_of<kTowardZero>
                                                 : gradient_columns_of<kStochastic>;
    return of(x, dy, rows, columns, stride, *s, dx, dscale, dzero);
  }

  // Places by vectors, counts one by one.
  static int histogram(const float* x, int64_t n, float factor, int32_t bins, uint32_t* counts) {
    const float half = static_cast<float>(bins / 2);
    const F by = O::set(factor), lo = O::set(-half), hi = O::set(half);
    int bad = 0;
    int32_t at[kWidth];
    for (int64_t i = 0; i < n; i += kWidth) {
      const int64_t m = n - i < kWidth ? n - i : kWidth;
      float t[kWidth] = {0};
      if (m < kWidth)
        for (int64_t k = 0; k < m; k++) t[k] = x[i + k];
      const F v = O::mul(O::load(m < kWidth ? t : x + i), by);
      const I places = O::truncate(v);
      O::storei(at, O::add(O::add(places, O::greater(O::to_float(places), v)), O::seti(bins / 2)));
      if (O::all_within(v, lo, hi)) {
        for (int64_t k = 0; k < m; k++) counts[at[k]]++;
        continue;
      }
      bad = 1;
      for (int64_t k = 0; k < m; k++) {
        const float one = x[i + k] * factor;
        if (one >= -half && one < half) counts[at[k]]++;
      }
    }
    return bad;
  }

  static void install(QuantizeKernels* t) {
    t->gradient = gradient;
    t->gradient_columns = gradient_columns;
    t->histogram = histogram;
    t->codes8 = runs<StoreCodes>;
    t->codes8_columns = columns<StoreCodes>;
    t->values8 = values8;
    t->values8_columns = values8_columns;
    t->fake = runs<StoreValues>;
    t->fake_columns = columns<StoreValues>;
    t->range = range;
    t->range_columns = range_columns;
  }
};

}  // namespace
}  // namespace whittle
