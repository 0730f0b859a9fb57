// The quantize kernels once, over the vector operations O of an ISA; each ISA's file includes this and installs them.
// Work goes by groups of kGroup vectors, as many as one store of bytes takes; a tail is padded with 0 and scale 1.
// All arithmetic is that of scalar.cpp, in the same order, so codes and values agree bit for bit.
#pragma once
#include <string.h>

#include "core/quantize.h"

namespace whittle {
namespace {

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
    const F v = O::min(O::max(O::div(x, b.scale), b.lo), b.hi);
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
      for (; i + kElements <= length; i += kElements)
        for (int g = 0; g < kGroup; g++) {
          const F v = O::load(p + i + g * kWidth);
          O::watch(&bad, v);
          a[g] = O::min(v, a[g]);
          b[g] = O::max(v, b[g]);
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

  static void install(QuantizeKernels* t) {
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
