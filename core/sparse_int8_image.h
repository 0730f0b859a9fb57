// Strips of X for windows over images, without rows of an im2col matrix: pixels are turned once, and the taps of a strip copied from
// them as they lie turned.
#pragma once
#include <algorithm>

#include "core/sparse_int8_layout.h"

namespace whittle {

class ImageStrips {
 public:
  static bool fits(const SparseInt8Kernels& k, const SparseInt8Data& d, const SparseInt8Image* m) {
    return m && k.windows && d.aligned && m->c % 16 == 0 && m->kh * m->kw <= kSparseInt8Taps && m->n * m->h * m->w < (int64_t(1) << 30);
  }

  // For strips of `most` columns.
  ImageStrips(const SparseInt8Kernels& k, const SparseInt8Image& m, bool is_signed, int32_t zero, int64_t most)
      : k_(k), m_(m), is_signed_(is_signed), outside_(static_cast<uint8_t>(zero ^ (is_signed ? 0x80 : 0))) {
    const int64_t pixels = m.n * m.h * m.w, columns = m.n * m.oh * m.ow;
    int64_t widest = 0;
    for (int64_t j = 0; j < columns; j += most) {
      int64_t first, end;
      reach(j, std::min(columns, j + most), &first, &end);
      widest = std::max(widest, end - first);
    }
    // Room to go on in before what two strips share is turned again, within a part of the second-level cache.
    capacity_ = round_up(std::max(widest, std::min(pixels, std::min(4 * widest, (int64_t(256) << 10) / std::max<int64_t>(1, m.c)))), kSparseUnit);
    // An odd number of lines, so that bundles of a pixel lie in different sets of the cache.
    if (capacity_ % (2 * kSparseUnit) == 0) capacity_ += kSparseUnit;
  }

  int64_t bytes() const { return round_up(capacity_ * m_.c, 64) + 2 * 64; }
  void use(uint8_t* room) {
    turned_ = room + 64;
    base_ = filled_ = 0;
  }

  // Turns those pixels that columns [begin, end) read.
  void turn(int64_t begin, int64_t end) {
    int64_t first, last;
    reach(begin, end, &first, &last);
    if (first < base_ || first > filled_ || last - base_ > capacity_) base_ = filled_ = first;
    if (filled_ >= last) return;
    SparseInt8Pack c = {};
    c.x = m_.x + filled_ * m_.c;
    c.stride = c.k = c.padded = m_.c;
    c.transposed = c.aligned = true;
    c.is_signed = is_signed_;
    // Whole units from base_ on, but for the last pixels of all.
    c.columns = std::min(round_up(last - filled_, kSparseUnit), m_.n * m_.h * m_.w - filled_);
    c.units = static_cast<int32_t>((c.columns + kSparseUnit - 1) / kSparseUnit);
    c.pitch = capacity_;
    c.out = turned_ + (filled_ - base_) * 4;
    k_.pack(&c);
    filled_ += c.columns;
  }

  // Bundles [begin, end) of the strip of `columns` columns from `column` on, whose pixels are turned.
  void put(int64_t column, int64_t columns, int64_t units, int64_t begin, int64_t end, uint8_t* strip) const {
    const int64_t taps = m_.kh * m_.kw;
    SparseInt8Part parts[kSparseInt8Taps * 4 * kSparseUnit];
    int32_t counts[kSparseInt8Taps * 4] = {0};
    for (int64_t lane = 0; lane < columns;) {
      const int64_t at = column + lane, ox = at % m_.ow, oy = at / m_.ow % m_.oh, image = at / (m_.ow * m_.oh);
      const int64_t n = std::min(m_.ow - ox, columns - lane);
      for (int64_t t = 0; t < taps; t++) {
        const int64_t iy = oy - m_.pad_top + t / m_.kw * m_.dilation_h, ix = ox - m_.pad_left + t % m_.kw * m_.dilation_w;
        if (iy < 0 || iy >= m_.h) continue;
        const int64_t row = (image * m_.h + iy) * m_.w - base_, until = lane + std::min(n, m_.w - ix);
        for (int64_t j = lane + std::max<int64_t>(0, -ix); j < until;) {
          const int64_t u = j / kSparseUnit, some = std::min(until, (u + 1) * kSparseUnit) - j, first = j % kSparseUnit;
          parts[(t * units + u) * kSparseUnit + counts[t * units + u]++] = {static_cast<uint16_t>(((1u << some) - 1) << first),
                                                                            static_cast<int32_t>(row + ix + j - lane - first)};
          j += some;
        }
      }
      lane += n;
    }
    const SparseInt8Windows w = {turned_, capacity_, m_.c / 4, begin, end, static_cast<int32_t>(units), parts, counts, outside_, strip};
    k_.windows(&w);
  }

 private:
  // Pixels from the first to the last row that columns [begin, end) read.
  void reach(int64_t begin, int64_t end, int64_t* first, int64_t* last) const {
    const auto row = [&](int64_t at, int64_t below) {
      const int64_t oy = at / m_.ow % m_.oh, image = at / (m_.ow * m_.oh);
      return image * m_.h + std::min(m_.h, std::max<int64_t>(0, oy - m_.pad_top + below));
    };
    *first = row(begin, 0) * m_.w;
    *last = std::max(*first, row(end - 1, (m_.kh - 1) * m_.dilation_h + 1) * m_.w);
  }

  const SparseInt8Kernels& k_;
  SparseInt8Image m_;
  bool is_signed_;
  uint8_t outside_;
  int64_t capacity_ = 0, base_ = 0, filled_ = 0;  // pixels; those from base_ to filled_ are turned
  uint8_t* turned_ = nullptr;
};

}  // namespace whittle
