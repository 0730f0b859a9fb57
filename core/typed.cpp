#include "core/typed.h"

#include <math.h>

#include <algorithm>
#include <limits>
#include <type_traits>

#include "core/threads.h"

namespace whittle {
namespace {

// Calls f(T()) for the C++ type of a kind; boolean is one byte, 0 or 1.
template <class F>
auto with_type(ElementKind kind, const F& f) {
  switch (kind) {
    case ElementKind::float32: return f(float());
    case ElementKind::float64: return f(double());
    case ElementKind::int8: return f(int8_t());
    case ElementKind::int16: return f(int16_t());
    case ElementKind::uint16: return f(uint16_t());
    case ElementKind::int32: return f(int32_t());
    case ElementKind::uint32: return f(uint32_t());
    case ElementKind::int64: return f(int64_t());
    case ElementKind::uint64: return f(uint64_t());
    default: return f(uint8_t());
  }
}

// Arithmetic that wraps: on the unsigned type of the same width.
template <class T>
using Wrap = std::conditional_t<std::is_floating_point<T>::value, T, std::make_unsigned_t<std::conditional_t<std::is_floating_point<T>::value, int, T>>>;

template <class T>
T power(T a, T b) {
  if constexpr (std::is_floating_point<T>::value) {
    return static_cast<T>(pow(static_cast<double>(a), static_cast<double>(b)));
  } else {
    if (std::is_signed<T>::value && b < T(0)) return a == T(1) ? T(1) : T(0);
    uint64_t r = 1, x = static_cast<uint64_t>(a), e = static_cast<uint64_t>(b);
    for (; e; e >>= 1, x *= x)
      if (e & 1) r *= x;
    return static_cast<T>(r);
  }
}

template <class T>
T binary(TypedOp op, T a, T b) {
  switch (op) {
    case kTyped_add: return static_cast<T>(static_cast<Wrap<T>>(a) + static_cast<Wrap<T>>(b));
    case kTyped_sub: return static_cast<T>(static_cast<Wrap<T>>(a) - static_cast<Wrap<T>>(b));
    case kTyped_mul: {
      if constexpr (std::is_floating_point<T>::value) return a * b;
      else return static_cast<T>(static_cast<uint64_t>(a) * static_cast<uint64_t>(b));
    }
    case kTyped_min: return a < b || a != a ? a : b;
    case kTyped_max: return a > b || a != a ? a : b;
    case kTyped_pow: return power(a, b);
    default: break;
  }
  if constexpr (std::is_floating_point<T>::value) {
    if (op == kTyped_div) return a / b;
    const double r = fmod(static_cast<double>(a), static_cast<double>(b));
    return static_cast<T>(op == kTyped_mod && r != 0 && (r < 0) != (b < 0) ? r + static_cast<double>(b) : r);
  } else {
    using U = std::make_unsigned_t<T>;
    constexpr int kBits = static_cast<int>(sizeof(T) * 8);
    // The one quotient that does not fit is minus the smallest value: it wraps.
    const bool wraps = std::is_signed<T>::value && b == static_cast<T>(-1);
    switch (op) {
      case kTyped_div: return b == 0 ? T(0) : wraps ? static_cast<T>(U(0) - static_cast<U>(a)) : static_cast<T>(a / b);
      case kTyped_mod: {
        if (b == 0 || wraps) return T(0);
        const T r = static_cast<T>(a % b);
        return r != 0 && (r < 0) != (b < 0) ? static_cast<T>(r + b) : r;
      }
      case kTyped_fmod: return b == 0 || wraps ? T(0) : static_cast<T>(a % b);
      case kTyped_shift_left: return b < 0 || b >= static_cast<T>(kBits) ? T(0) : static_cast<T>(static_cast<uint64_t>(a) << b);
      case kTyped_shift_right: return b < 0 || b >= static_cast<T>(kBits) ? T(0) : static_cast<T>(static_cast<U>(a) >> b);
      case kTyped_bit_and: return static_cast<T>(a & b);
      case kTyped_bit_or: return static_cast<T>(a | b);
      default: return static_cast<T>(a ^ b);
    }
  }
}

template <class T>
uint8_t compare(TypedOp op, T a, T b) {
  switch (op) {
    case kTyped_equal: return a == b;
    case kTyped_less: return a < b;
    case kTyped_less_equal: return a <= b;
    case kTyped_greater: return a > b;
    default: return a >= b;
  }
}

template <class T>
T unary(TypedOp op, T a) {
  switch (op) {
    case kTyped_neg: return static_cast<T>(static_cast<Wrap<T>>(0) - static_cast<Wrap<T>>(a));
    case kTyped_abs:
      if constexpr (std::is_floating_point<T>::value) return static_cast<T>(fabs(static_cast<double>(a)));
      else return a < T(0) ? static_cast<T>(static_cast<Wrap<T>>(0) - static_cast<Wrap<T>>(a)) : a;
    case kTyped_sign: return a > T(0) ? T(1) : a < T(0) ? static_cast<T>(-1) : a;
    default:
      if constexpr (std::is_floating_point<T>::value) return a;
      else return static_cast<T>(~a);
  }
}

template <class From, class To>
To convert(From v) {
  if constexpr (std::is_floating_point<From>::value && !std::is_floating_point<To>::value) {
    if (!(v == v)) return To(0);
    const double d = static_cast<double>(v), low = static_cast<double>(std::numeric_limits<To>::min());
    // 2^bits is exact in double where the largest integer is not.
    const double high = 2.0 * static_cast<double>(std::numeric_limits<To>::max() / 2 + 1);
    return d <= low ? std::numeric_limits<To>::min() : d >= high ? std::numeric_limits<To>::max() : static_cast<To>(d);
  } else {
    return static_cast<To>(v);
  }
}

int64_t offset_of(const TypedProblem& p, int input, int64_t index) {
  int64_t at = 0;
  for (int k = p.rank - 1; k >= 0; k--) {
    at += index % p.dims[k] * p.strides[input][k];
    index /= p.dims[k];
  }
  return at;
}

// One run of elements along the last axis: `at` and `step` of each operand in elements.
using Row = void (*)(const TypedProblem& p, const void* const* in, const int64_t* at, const int64_t* step, void* out, int64_t t, int64_t n);

// The walk is compiled once; only rows know the types.
void walk(const TypedProblem& p, int operands, int64_t begin, int64_t end, Row row, const void* const* in, void* out) {
  const int64_t n = p.rank ? p.dims[p.rank - 1] : 1;
  int64_t step[3] = {0, 0, 0};
  for (int i = 0; i < operands && p.rank; i++) step[i] = p.strides[i][p.rank - 1];
  for (int64_t t = begin; t < end;) {
    int64_t at[3] = {0, 0, 0};
    for (int i = 0; i < operands; i++) at[i] = offset_of(p, i, t);
    const int64_t stop = std::min(end, t - t % n + n);
    row(p, in, at, step, out, t, stop - t);
    t = stop;
  }
}

#define WHITTLE_ROW const TypedProblem &p, const void *const *in, const int64_t *at, const int64_t *step, void *out, int64_t t, int64_t n

template <class T>
const T* operand(const void* const* in, const int64_t* at, int i) {
  return static_cast<const T*>(in[i]) + at[i];
}

template <class T, class O, class F>
void each(WHITTLE_ROW, const F& f) {
  (void)p;
  const T* a = operand<T>(in, at, 0);
  O* o = static_cast<O*>(out) + t;
  for (int64_t i = 0; i < n; i++) o[i] = f(a[i * step[0]]);
}

template <class T, class O, class F>
void pairs(WHITTLE_ROW, const F& f) {
  (void)p;
  const T *a = operand<T>(in, at, 0), *b = operand<T>(in, at, 1);
  O* o = static_cast<O*>(out) + t;
  for (int64_t i = 0; i < n; i++) o[i] = f(a[i * step[0]], b[i * step[1]]);
}

template <class T>
void where_row(WHITTLE_ROW) {
  (void)p;
  const uint8_t* c = operand<uint8_t>(in, at, 0);
  const T *a = operand<T>(in, at, 1), *b = operand<T>(in, at, 2);
  T* o = static_cast<T*>(out) + t;
  for (int64_t i = 0; i < n; i++) o[i] = c[i * step[0]] ? a[i * step[1]] : b[i * step[2]];
}

template <class T, class U>
void cast_row(WHITTLE_ROW) {
  each<T, U>(p, in, at, step, out, t, n, [](T v) { return convert<T, U>(v); });
}
template <class T>
void truth_row(WHITTLE_ROW) {
  each<T, uint8_t>(p, in, at, step, out, t, n, [](T v) { return static_cast<uint8_t>(v != T(0)); });
}
template <class T>
void not_row(WHITTLE_ROW) {
  each<T, uint8_t>(p, in, at, step, out, t, n, [](T v) { return static_cast<uint8_t>(v == T(0)); });
}
template <class T>
void compare_row(WHITTLE_ROW) {
  pairs<T, uint8_t>(p, in, at, step, out, t, n, [op = p.op](T a, T b) { return compare(op, a, b); });
}
template <class T>
void class_row(WHITTLE_ROW) {
  each<T, uint8_t>(p, in, at, step, out, t, n, [op = p.op](T a) -> uint8_t {
    const double v = static_cast<double>(a);
    return op == kTyped_is_nan ? v != v : op == kTyped_is_positive_inf ? v == INFINITY : v == -INFINITY;
  });
}
template <class T>
void unary_row(WHITTLE_ROW) {
  each<T, T>(p, in, at, step, out, t, n, [op = p.op](T v) { return unary(op, v); });
}
template <class T>
void binary_row(WHITTLE_ROW) {
  pairs<T, T>(p, in, at, step, out, t, n, [op = p.op](T a, T b) { return binary(op, a, b); });
}
#undef WHITTLE_ROW

bool is_comparison(TypedOp op) { return op >= kTyped_equal && op <= kTyped_greater_equal; }
bool is_class(TypedOp op) { return op >= kTyped_is_nan && op <= kTyped_is_negative_inf; }

Row row_of(const TypedProblem& p) {
  return with_type(p.type, [&](auto sample) -> Row {
    using T = decltype(sample);
    if (p.op == kTyped_where) return where_row<T>;
    if (p.op == kTyped_cast) {
      if (p.to == ElementKind::boolean) return truth_row<T>;
      return with_type(p.to, [](auto target) -> Row { return cast_row<T, decltype(target)>; });
    }
    if (is_comparison(p.op)) return compare_row<T>;
    if constexpr (std::is_floating_point<T>::value)
      if (is_class(p.op)) return class_row<T>;
    if (p.op == kTyped_logical_not) return not_row<T>;
    return typed_operands(p.op) == 1 ? unary_row<T> : binary_row<T>;
  });
}

}  // namespace

int64_t element_bytes(ElementKind kind) {
  return with_type(kind, [](auto v) { return static_cast<int64_t>(sizeof v); });
}

int typed_operands(TypedOp op) {
  static const int kOperands[] = {
#define WHITTLE_TYPED(name, operands) operands,
#include "core/typed.inc"
#undef WHITTLE_TYPED
  };
  return kOperands[op];
}

ElementKind typed_result(const TypedProblem& p) {
  if (p.op == kTyped_cast) return p.to;
  return is_comparison(p.op) || is_class(p.op) ? ElementKind::boolean : p.type;
}

bool typed_exists(TypedOp op, ElementKind type) {
  const bool real = type == ElementKind::float32 || type == ElementKind::float64;
  if (op >= kTyped_shift_left && op <= kTyped_bit_xor) return !real;
  if (op == kTyped_bit_not || op == kTyped_logical_not) return !real;
  if (is_class(op)) return real;
  return true;
}

void typed_run(const TypedProblem& p, const void* const* in, void* out, int threads) {
  int64_t count = 1;
  for (int k = 0; k < p.rank; k++) count *= p.dims[k];
  const int operands = typed_operands(p.op);
  const Row row = row_of(p);
  parallel_for(count, 16 << 10, threads, [&](int64_t begin, int64_t end) { walk(p, operands, begin, end, row, in, out); });
}

}  // namespace whittle
