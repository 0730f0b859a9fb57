// Geometry of quantized tensors: cutting a range of elements into what kernels take. Shared by the drivers.
#pragma once
#include <float.h>
#include <stdint.h>

#include <memory>
#include <new>

#include "core/quantize.h"

namespace whittle {
namespace quantize_detail {

// Elements that a thread takes at once, and those that pass through scratch in L1 where codes are packed or floats are
// short. Both are multiples of 4 codes, so that no two pieces share a byte.
constexpr int64_t kGrain = 1 << 16;
constexpr int64_t kPiece = 1 << 12;
// Zero points that are widened at once.
constexpr int64_t kZeros = 1 << 10;

template <class T>
std::unique_ptr<T[]> allocate(int64_t n) {
  return std::unique_ptr<T[]>(new (std::nothrow) T[static_cast<size_t>(n > 0 ? n : 1)]);
}

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

inline int64_t bytes_of(int bits, int64_t n) { return bits == 16 ? 2 * n : bits == 8 ? n : bits == 4 ? (n + 1) / 2 : (n + 3) / 4; }

inline int32_t load_code(const void* codes, CodeType type, int64_t i) {
  if (type.bits == 16)
    return type.sign ? static_cast<const int16_t*>(codes)[i] : static_cast<const uint16_t*>(codes)[i];
  const uint8_t* bytes = static_cast<const uint8_t*>(codes);
  if (type.bits == 8) return type.sign ? static_cast<int8_t>(bytes[i]) : bytes[i];
  // Shifts: a division would cost more than all else that is done for a block.
  const int to_byte = type.bits == 4 ? 1 : 2, within = (1 << to_byte) - 1;
  const uint32_t mask = (1u << type.bits) - 1, top = 1u << (type.bits - 1);
  const uint32_t v = bytes[i >> to_byte] >> ((i & within) * type.bits) & mask;
  return static_cast<int32_t>(type.sign ? (v ^ top) - top : v);
}

// Writes codes [begin, begin + n); begin is a multiple of 4.
inline void store_codes(void* codes, CodeType type, int64_t begin, int64_t n, const int32_t* from) {
  if (type.bits == 16) {
    for (int64_t i = 0; i < n; i++) static_cast<uint16_t*>(codes)[begin + i] = static_cast<uint16_t>(from[i]);
    return;
  }
  uint8_t* bytes = static_cast<uint8_t*>(codes);
  if (type.bits == 8) {
    for (int64_t i = 0; i < n; i++) bytes[begin + i] = static_cast<uint8_t>(from[i]);
    return;
  }
  const int to_byte = type.bits == 4 ? 1 : 2, each = 1 << to_byte;
  const int32_t mask = (1 << type.bits) - 1;
  bytes += begin >> to_byte;
  for (int64_t i = 0; i < n; i += each) {
    int32_t byte = 0;
    for (int j = 0; j < each && i + j < n; j++) byte |= (from[i + j] & mask) << (j * type.bits);
    *bytes++ = static_cast<uint8_t>(byte);
  }
}

// Cuts the elements [begin, end) of a shape into what kernels take:
//   on_runs(at, runs, length, scale): `runs` runs of `length` elements from element `at`, scales from `scale` on
//   on_rows(at, rows, columns, stride, scale): rows that share the scales from `scale` on
template <class Runs, class Rows>
void walk(const QuantizeShape& s, int64_t begin, int64_t end, const Runs& on_runs, const Rows& on_rows) {
  if (!s.block && s.axis == 1) return on_runs(begin, 1, end - begin, 0);
  if (!s.block && s.inner > 1) {
    for (int64_t e = begin; e < end;) {
      const int64_t run = e / s.inner, into = e % s.inner, scale = run % s.axis;
      if (into || end - e < s.inner) {
        const int64_t n = least(s.inner - into, end - e);
        on_runs(e, 1, n, scale);
        e += n;
      } else {
        const int64_t runs = least(s.axis - scale, (end - e) / s.inner);
        on_runs(e, runs, s.inner, scale);
        e += runs * s.inner;
      }
    }
    return;
  }
  if (s.block && s.inner == 1) {
    const int64_t blocks = s.blocks();
    for (int64_t e = begin; e < end;) {
      const int64_t row = e / s.axis, a = e % s.axis, into = a % s.block, scale = row * blocks + a / s.block;
      const int64_t room = least(least(s.block - into, s.axis - a), end - e);
      if (into || room < s.block) {
        on_runs(e, 1, room, scale);
        e += room;
      } else {
        const int64_t runs = least(s.axis - a, end - e) / s.block;
        on_runs(e, runs, s.block, scale);
        e += runs * s.block;
      }
    }
    return;
  }
  // One scale a column: rows of `width`, the first `deep` of which share their scales.
  const int64_t width = s.block ? s.inner : s.axis;
  for (int64_t e = begin; e < end;) {
    const int64_t row = e / width, into = e % width, a = s.block ? row % s.axis : 0;
    const int64_t scale = s.block ? ((row / s.axis) * s.blocks() + a / s.block) * s.inner : 0;
    const int64_t deep = s.block ? least(s.block - a % s.block, s.axis - a) : end;
    if (into || end - e < width) {
      const int64_t n = least(width - into, end - e);
      on_rows(e, 1, n, width, scale + into);
      e += n;
    } else {
      const int64_t rows = least(deep, (end - e) / width);
      on_rows(e, rows, width, width, scale);
      e += rows * width;
    }
  }
}

// Zero points as int32: all of them at once where the axis has one each, else piece by piece in scratch.
class Zeros {
 public:
  // False where memory is out.
  bool init(const QuantizeShape& shape, const void* codes, CodeType type) {
    codes_ = codes;
    type_ = type;
    if (!codes || shape.block) return true;
    all_ = allocate<int32_t>(shape.scales());
    if (!all_) return false;
    for (int64_t i = 0; i < shape.scales(); i++) all_[static_cast<size_t>(i)] = load_code(codes, type, i);
    return true;
  }
  void set(const int32_t* wide) { wide_ = wide; }
  // At most kZeros from `first` on; null where all are 0.
  const int32_t* at(int64_t first, int64_t n, int32_t* scratch) const {
    if (wide_) return wide_ + first;
    if (!codes_) return nullptr;
    if (all_) return all_.get() + first;
    for (int64_t i = 0; i < n; i++) scratch[i] = load_code(codes_, type_, first + i);
    return scratch;
  }

 private:
  const void* codes_ = nullptr;
  const int32_t* wide_ = nullptr;
  CodeType type_ = {8, true};
  std::unique_ptr<int32_t[]> all_;
};

// walk() with the scales and zero points of each piece in a QuantizeStep.
template <class Runs, class Rows>
void walk_steps(const QuantizeShape& shape, int64_t begin, int64_t end, const QuantizeStep& base, const float* scale,
                const Zeros& zeros, const Runs& on_runs, const Rows& on_rows) {
  int32_t scratch[kZeros];
  QuantizeStep step = base;
  walk(
      shape, begin, end,
      [&](int64_t at, int64_t runs, int64_t length, int64_t first) {
        for (int64_t r = 0; r < runs; r += kZeros) {
          const int64_t n = least(kZeros, runs - r);
          step.scale = scale + first + r;
          step.zero = zeros.at(first + r, n, scratch);
          step.index = static_cast<uint32_t>(at + r * length);
          on_runs(at + r * length, n, length, step, first + r);
        }
      },
      [&](int64_t at, int64_t rows, int64_t columns, int64_t stride, int64_t first) {
        for (int64_t c = 0; c < columns; c += kZeros) {
          const int64_t n = least(kZeros, columns - c);
          step.scale = scale + first + c;
          step.zero = zeros.at(first + c, n, scratch);
          step.index = static_cast<uint32_t>(at + c);
          on_rows(at + c, rows, n, stride, step, first + c);
        }
      });
}

inline const float* widen(const QuantizeKernels& k, const void* x, FloatType type, int64_t begin, int64_t n, float* scratch) {
  if (type == kFloat32) return static_cast<const float*>(x) + begin;
  const uint16_t* from = static_cast<const uint16_t*>(x) + begin;
  (type == kFloat16 ? k.widen_f16 : k.widen_bf16)(from, n, scratch);
  return scratch;
}

inline bool scales_fit(const float* scale, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    if (!(scale[i] > 0 && scale[i] <= FLT_MAX)) return false;
  return true;
}

// A unit is a contiguous piece of the tensor whose scales no other unit shares: a block (or the blocks abreast of it),
// or an index of a leading axis. The count is 0 where units are too large to be a thread's share.
struct Units {
  int64_t count = 0, scales = 0;  // scales a unit
  explicit Units(const QuantizeShape& s) : shape(s) {
    if (s.block) {
      count = s.outer * s.blocks();
      scales = s.inner;
    } else if (s.outer == 1 && s.axis > 1) {
      count = s.axis;
      scales = 1;
    }
    if (count && s.size() / count > kGrain) count = 0;  // too large for one thread
  }
  int64_t begin(int64_t u) const {
    if (!shape.block) return u * shape.inner;
    return (u / shape.blocks() * shape.axis + u % shape.blocks() * shape.block) * shape.inner;
  }
  // Units that a thread takes at once; a multiple of 4, so that packed zero points share no byte.
  int64_t grain(int64_t elements) const {
    const int64_t each = shape.size() / count > 0 ? shape.size() / count : 1;
    return (elements / each + 4) / 4 * 4;
  }
  const QuantizeShape shape;
};

}  // namespace quantize_detail
}  // namespace whittle
