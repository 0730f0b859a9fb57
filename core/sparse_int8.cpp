#include <string.h>

#include <algorithm>
#include <atomic>

#include "core/scratch.h"
#include "core/sparse_int8_image.h"
#include "core/sparse_int8_layout.h"
#include "core/threads.h"

#define WHITTLE_VARIANT(tier) extern "C" void sparse_int8_install_##tier(whittle::SparseInt8Kernels*);
#include "cpu/sparse/int8_variants.inc"
#undef WHITTLE_VARIANT

namespace whittle {

VariantList<SparseInt8Kernels> sparse_int8_variants() {
  static const Variant<SparseInt8Kernels> list[] = {
#define WHITTLE_VARIANT(tier) {Tier::tier, sparse_int8_install_##tier},
#include "cpu/sparse/int8_variants.inc"
#undef WHITTLE_VARIANT
  };
  return {list, static_cast<int>(sizeof list / sizeof *list)};
}

namespace {

const Resolved<SparseInt8Kernels>& resolved() {
  static const Resolved<SparseInt8Kernels> r = resolve(sparse_int8_variants());
  return r;
}

// Every sum of cols products of (x - zero) w plus the bias must fit 32 bits, whatever the data: gemmInt8's rule.
bool sums_fit(const SparseArgs& a) {
  const SparseMatrix& w = *a.w;
  const int64_t lo_x = (a.x_signed ? -128 : 0) - a.x_zero, hi_x = (a.x_signed ? 127 : 255) - a.x_zero;
  int64_t lo = std::min<int64_t>(0, std::min(std::min(lo_x * -128, lo_x * 127), std::min(hi_x * -128, hi_x * 127))) * w.cols;
  int64_t hi = std::max<int64_t>(0, std::max(std::max(lo_x * -128, lo_x * 127), std::max(hi_x * -128, hi_x * 127))) * w.cols;
  if (a.bias_int && w.rows > 0) {
    lo += *std::min_element(a.bias_int, a.bias_int + w.rows);
    hi += *std::max_element(a.bias_int, a.bias_int + w.rows);
  }
  return lo >= INT32_MIN && hi <= INT32_MAX;
}

constexpr int64_t kPackedBytes = int64_t(8) << 20;  // of X packed at a time
constexpr int64_t kPackRows = 256;                  // of X in one piece of packing

// How N columns are cut: whole strips, then a narrower one.
struct Strips {
  int64_t whole, units, count, last;
  Strips(int64_t columns, int64_t most) : whole(columns / (most * kSparseUnit)), units(most), count(whole), last(0) {
    const int64_t left = columns - whole * most * kSparseUnit;
    if (left == 0) return;
    for (last = 1; last * kSparseUnit < left; last *= 2) continue;
    count++;
  }
  int64_t units_of(int64_t s) const { return s < whole ? units : last; }
};

// The epilogue of one product and where its results lie.
struct Product {
  const SparseInt8Kernels* kernels;
  const SparseArgs* args;
  GemmInt8Epilogue epilogue;
  int64_t size;
  int threads;
};

uint8_t* out_at(const Product& p, int64_t product, int64_t row, int64_t column) {
  const SparseArgs& a = *p.args;
  const int64_t at = a.by_rows ? column * a.w->rows + row : (product * a.w->rows + row) * a.columns + column;
  return static_cast<uint8_t*>(a.out) + at * p.size;
}

// Asks for the lines of out that a tile's results will be written to: `rows` pieces of so many bytes. Left to the stores, each
// piece begins with a miss that no hardware prefetcher foresees (3072x768, 128 columns by rows: a quarter of the time).
void bring_near(const uint8_t* at, int64_t rows, int64_t bytes, int64_t stride) {
#if defined(__GNUC__)
  for (int64_t i = 0; i < rows; i++, at += stride)
    for (int64_t j = 0; j < bytes; j += 64) __builtin_prefetch(at + j, 1, 2);
#else
  (void)at, (void)rows, (void)bytes, (void)stride;
#endif
}

// n sums of neighbours in out, of rows from `row` on or all of that row if `same`.
void finish(const Product& p, int64_t row, bool same, int32_t* acc, int64_t n, uint8_t* out) {
  if (p.epilogue.out_type == kOutInt32) memcpy(out, acc, static_cast<size_t>(n) * 4);
  else p.kernels->finish(&p.epilogue, row, same, acc, n, out);
}

// One column of X at a time; by_rows.
WhittleStatus multiply_vector(const Product& p) {
  const SparseArgs& a = *p.args;
  const SparseMatrix& w = *a.w;
  const SparseInt8Data& d = *w.int8;
  const SparseInt8Kernels& k = *p.kernels;
  static thread_local Scratch scratch;
  const int64_t bytes = round_up(w.cols, 16) * k.x_bytes + 2 * kSparseInt8Near;
  uint8_t* base = static_cast<uint8_t*>(scratch.take(bytes + w.cols));
  if (!base) return WHITTLE_OUT_OF_MEMORY;
  memset(base, 0, static_cast<size_t>(bytes));
  uint8_t* x = base + kSparseInt8Near;
  for (int64_t j = 0; j < a.columns; j++) {
    const uint8_t* from = a.fill_bytes ? base + bytes : static_cast<const uint8_t*>(a.x) + j * w.cols;
    if (a.fill_bytes) a.fill_bytes(a.fill_context, j, 1, base + bytes, w.cols);
    k.widen(from, w.cols, a.x_signed, x);
    parallel_for(d.panels, d.panels >= 32 ? 4 : 1, p.threads, [&](int64_t begin, int64_t end) {
      int32_t acc[kSparseInt8Panel];
      for (int64_t q = begin; q < end; q++) {
        for (int64_t b = 0; b < d.blocks; b++) {
          SparseInt8Tile t = tile_of(d, q, b, p.epilogue.offset);
          t.x = x + b * d.block * k.x_bytes;
          t.acc = acc;
          k.vector(&t);
        }
        const int64_t row = q * kSparseInt8Panel;
        finish(p, row, false, acc, std::min(kSparseInt8Panel, w.rows - row), out_at(p, 0, row, j));
      }
    });
  }
  return WHITTLE_OK;
}

// Weights packed for one column: one column after the other, gathered where it does not lie by itself.
template <class Prepare, class Rows>
WhittleStatus each_column(const Product& p, int64_t x_bytes, int64_t pieces, int64_t piece_rows, int64_t grain, const Prepare& prepare, const Rows& rows) {
  const SparseArgs& a = *p.args;
  const SparseMatrix& w = *a.w;
  static thread_local Scratch scratch;
  const int64_t room = round_up(x_bytes, 64), padded = round_up(w.rows, kSparseInt8Panel);
  uint8_t* x = static_cast<uint8_t*>(scratch.take(room + padded * 8 + w.cols));
  if (!x) return WHITTLE_OUT_OF_MEMORY;
  int32_t* acc = reinterpret_cast<int32_t*>(x + room);
  uint8_t* line = reinterpret_cast<uint8_t*>(acc + padded);
  uint8_t* column = line + padded * 4;
  for (int64_t j = 0; j < a.batch * a.columns; j++) {
    const int64_t product = j / a.columns, place = j % a.columns;
    const uint8_t* from = static_cast<const uint8_t*>(a.x) + (a.by_rows ? j * w.cols : product * w.cols * a.columns + place);
    const bool apart = !a.by_rows && a.columns > 1;
    for (int64_t i = 0; apart && i < w.cols; i++) column[i] = from[i * a.columns];
    prepare(apart ? column : from, x);
    parallel_for(pieces, grain, p.threads, [&](int64_t begin, int64_t end) {
      const int64_t row = begin * piece_rows, count = std::min(end * piece_rows, w.rows) - row;
      rows(x, begin, end, acc + row);
      finish(p, row, false, acc + row, count, apart ? line + row * p.size : out_at(p, 0, row, j));
    });
    for (int64_t i = 0; apart && i < w.rows; i++) memcpy(out_at(p, product, i, place), line + i * p.size, static_cast<size_t>(p.size));
  }
  return WHITTLE_OK;
}

WhittleStatus multiply_pairs(const Product& p) {
  const SparseMatrix& w = *p.args->w;
  const SparseInt8Data& d = *w.int8;
  const SparseInt8Kernels& k = *p.kernels;
  const auto prepare = [&](const uint8_t* from, uint8_t* x) { k.spread(from, w.cols, p.args->x_signed, d.steps, x); };
  return each_column(p, d.steps * 2 * kSparseInt8Step, w.rows, 1, std::max<int64_t>(16, 131072 / (w.cols + 1) / 16 * 16), prepare,
                     [&](const uint8_t* x, int64_t begin, int64_t end, int32_t* acc) {
                       SparseInt8Pairs t = {};
                       t.rows = end - begin;
                       t.steps = d.steps;
                       t.values = d.values.data() + begin * d.steps * kSparseInt8Step;
                       t.places = d.places.data() + begin * d.steps * (kSparseInt8Step / 4);
                       t.x = x;
                       t.acc = acc;
                       k.pairs(&t);
                       for (int64_t i = 0; i < end - begin; i++)
                         acc[i] = static_cast<int32_t>(static_cast<uint32_t>(acc[i]) + static_cast<uint32_t>(p.epilogue.offset[begin + i]));
                     });
}

WhittleStatus multiply_lanes(const Product& p) {
  const SparseMatrix& w = *p.args->w;
  const SparseInt8Data& d = *w.int8;
  const SparseInt8Kernels& k = *p.kernels;
  const uint8_t flip = p.args->x_signed == k.lanes_signed ? 0 : 0x80;
  const auto prepare = [&](const uint8_t* from, uint8_t* x) {
    for (int64_t i = 0; i < w.cols; i++) x[i] = from[i] ^ flip;
    memset(x + w.cols, 0, static_cast<size_t>(kSparseInt8Lane));
  };
  return each_column(p, w.cols + kSparseInt8Lane, d.panels, kSparseInt8Panel, d.panels >= 32 ? 4 : 1, prepare,
                     [&](const uint8_t* x, int64_t begin, int64_t end, int32_t* acc) {
                       for (int64_t q = begin; q < end; q++, acc += kSparseInt8Panel)
                         for (int64_t b = 0; b < d.blocks; b++) {
                           SparseInt8Tile t = tile_of(d, q, b, p.epilogue.offset);
                           t.x = x + b * d.block;
                           t.acc = acc;
                           k.lanes(&t);
                         }
                     });
}

WhittleStatus multiply_strips(const Product& p) {
  const SparseArgs& a = *p.args;
  const SparseMatrix& w = *a.w;
  const SparseInt8Data& d = *w.int8;
  const SparseInt8Kernels& k = *p.kernels;
  const Strips strips(a.columns, k.units);
  const int64_t padded = round_up(std::max<int64_t>(w.cols, 1), 16), total = strips.count * a.batch;
  const int64_t strip_bytes = padded * k.units * kSparseUnit * k.x_bytes;
  const int64_t together = std::max<int64_t>(1, std::min(total, kPackedBytes / strip_bytes));
  const uint8_t* x = static_cast<const uint8_t*>(a.x);
  std::atomic<bool> failed{false};
  // Rows [row, row + kPackRows) of strip `which` to the strip at `to`; x, or the strip's filled rows if there are some.
  const auto pack = [&](int64_t which, int64_t row, const uint8_t* filled, uint8_t* to) {
    const int64_t s = which % strips.count, product = which / strips.count, column = s * k.units * kSparseUnit;
    SparseInt8Pack c = {};
    c.units = static_cast<int32_t>(strips.units_of(s));
    c.stride = a.by_rows ? w.cols : a.columns;
    c.transposed = a.by_rows;
    c.is_signed = a.x_signed;
    c.aligned = d.aligned;
    c.padded = std::min(kPackRows, padded - row);
    c.k = std::max<int64_t>(0, std::min(c.padded, w.cols - row));
    c.columns = std::min(a.columns - column, c.units * kSparseUnit);
    c.x = filled ? filled + row : a.by_rows ? x + column * w.cols + row : x + (product * w.cols + row) * a.columns + column;
    c.out = to + row * c.units * kSparseUnit * k.x_bytes;
    k.pack(&c);
  };
  const int64_t most = kSparseInt8Panel * k.units * kSparseUnit;
  // Panel q times strip `which`; acc for 2 * most sums.
  const auto multiply = [&](int64_t which, int64_t q, const uint8_t* strip, int32_t* acc) {
    const int64_t s = which % strips.count, product = which / strips.count;
    const int64_t units = strips.units_of(s), wide = units * kSparseUnit, column = s * k.units * kSparseUnit;
    const int64_t row = q * kSparseInt8Panel, rows = std::min(kSparseInt8Panel, w.rows - row);
    const int64_t columns = std::min(a.columns - column, wide);
    const bool coded = k.codes && a.by_rows && p.size == 1 && rows == kSparseInt8Panel && wide == 4 * kSparseUnit && !p.epilogue.residual;
    for (int64_t b = 0; b < d.blocks; b++) {
      SparseInt8Tile t = tile_of(d, q, b, p.epilogue.offset);
      t.units = static_cast<int32_t>(units);
      t.x = strip + b * d.block * wide * k.x_bytes;
      t.acc = acc;
      if (b == d.blocks - 1) {
        if (coded) return k.codes(&t, &p.epilogue, row, columns, out_at(p, 0, row, column), w.rows);
        bring_near(out_at(p, product, row, column), a.by_rows ? columns : rows, (a.by_rows ? rows : columns) * p.size, (a.by_rows ? w.rows : a.columns) * p.size);
        if (a.added.codes) bring_near(a.added.codes + column * w.rows + row, columns, rows, w.rows);
      }
      k.tile(&t);
    }
    if (!a.by_rows) {
      for (int64_t r = 0; r < rows; r++)
        finish(p, row + r, true, acc + r * wide, columns, out_at(p, product, row + r, column));
      return;
    }
    // Whole tiles of 32-bit results go where they belong at once.
    const int64_t direct = p.epilogue.out_type == kOutInt32 ? columns / 8 * 8 : 0, even = rows / 8 * 8;
    if (direct > 0 && even == rows) {
      k.turn(acc, rows, wide, direct, reinterpret_cast<int32_t*>(out_at(p, 0, row, column)), w.rows);
      if (direct == columns) return;
    }
    int32_t* turned = acc + most;
    k.turn(acc, round_up(rows, 8), wide, wide, turned, kSparseInt8Panel);
    const int64_t j = even == rows ? direct : 0;
    k.finish_rows(&p.epilogue, row, rows, columns - j, turned + j * kSparseInt8Panel, kSparseInt8Panel, out_at(p, 0, row, column + j), w.rows);
  };
  const int64_t chunks = (padded + kPackRows - 1) / kPackRows, team = p.threads > 0 ? p.threads : thread_limit();
  const bool many = total >= 4 * team;
  const bool image = ImageStrips::fits(k, d, a.image);
  const int64_t most_columns = k.units * kSparseUnit;
  if (a.fill_bytes && !many && !image) {
    static thread_local Scratch whole;
    uint8_t* rows = static_cast<uint8_t*>(whole.take(a.columns * w.cols));
    if (!rows) return WHITTLE_OUT_OF_MEMORY;
    parallel_for(a.columns, 16, p.threads, [&](int64_t begin, int64_t end) {
      a.fill_bytes(a.fill_context, begin, end - begin, rows + begin * w.cols, w.cols);
    });
    x = rows;
  }
  // Many columns: a strip at a time from packing to result, while it and the results are near, where weights stay near too.
  const int64_t half = cache_sizes().l2 / 2, weights = static_cast<int64_t>(d.values.size() + d.index.size() * 2);
  if (a.by_rows && many && (a.fill_bytes || total * strip_bytes > half || weights < half)) {
    ImageStrips whole(k, image ? *a.image : SparseInt8Image(), a.x_signed, a.x_zero, most_columns);
    const int64_t room = image ? whole.bytes() : a.fill_bytes ? most_columns * w.cols + 64 : 0;
    // Strips beside each other share pixels.
    const int64_t grain = image ? (team == 1 ? total : total / (4 * team)) : total / (8 * team);
    parallel_for(total, std::max<int64_t>(1, grain), p.threads, [&](int64_t begin, int64_t end) {
      static thread_local Scratch own;
      uint8_t* strip = static_cast<uint8_t*>(own.take(strip_bytes + most * 8 + room));
      if (!strip) {
        failed = true;
        return;
      }
      int32_t* acc = reinterpret_cast<int32_t*>(strip + strip_bytes);
      uint8_t* filled = !image && a.fill_bytes ? strip + strip_bytes + most * 8 : nullptr;
      ImageStrips pixels = whole;
      pixels.use(strip + strip_bytes + most * 8);
      for (int64_t i = begin; i < end; i++) {
        const int64_t column = i * most_columns, columns = std::min(a.columns - column, most_columns);
        if (image) {
          pixels.turn(column, column + columns);
          pixels.put(column, columns, strips.units_of(i), 0, w.cols / 4, strip);
        } else {
          if (filled) a.fill_bytes(a.fill_context, column, columns, filled, w.cols);
          for (int64_t c = 0; c < chunks; c++) pack(i, c * kPackRows, filled, strip);
        }
        for (int64_t q = 0; q < d.panels; q++) multiply(i, q, strip, acc);
      }
    });
    return failed ? WHITTLE_OUT_OF_MEMORY : WHITTLE_OK;
  }
  // So many strips lie in the second-level cache beside each other, and a panel's weights that meet all of them are read once.
  const int64_t beside = std::max<int64_t>(1, cache_sizes().l2 / 4 / strip_bytes);
  static thread_local Scratch packed;
  // Pixels of an image for all strips at once: few columns have few.
  ImageStrips pixels(k, image ? *a.image : SparseInt8Image(), a.x_signed, a.x_zero, image ? a.columns : 1);
  uint8_t* near = static_cast<uint8_t*>(packed.take(together * strip_bytes + (image ? pixels.bytes() : 0)));
  if (!near) return WHITTLE_OUT_OF_MEMORY;
  if (image) {
    pixels.use(near + together * strip_bytes);
    pixels.turn(0, a.columns);
  }
  for (int64_t base = 0; base < total; base += together) {
    const int64_t now = std::min(together, total - base);
    parallel_for(now * chunks, 1, p.threads, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) {
        const int64_t which = base + i / chunks, row = i % chunks * kPackRows, column = which * most_columns;
        uint8_t* strip = near + i / chunks * strip_bytes;
        if (!image) pack(which, row, nullptr, strip);
        else pixels.put(column, std::min(a.columns - column, most_columns), strips.units_of(which), row / 4, std::min(w.cols, row + kPackRows) / 4, strip);
      }
    });
    parallel_for(now * d.panels, std::max<int64_t>(1, std::min(beside, now * d.panels / (4 * team))), p.threads, [&](int64_t begin, int64_t end) {
      static thread_local Scratch sums;
      int32_t* acc = static_cast<int32_t*>(sums.take(most * 8));
      if (!acc) {
        failed = true;
        return;
      }
      for (int64_t i = begin; i < end; i++) {
        // Panel after panel for some strips, then the next strips.
        const int64_t first = i / (beside * d.panels) * beside, wide = std::min(beside, now - first), left = i - first * d.panels;
        const int64_t strip = first + left % wide;
        multiply(base + strip, left / wide, near + strip * strip_bytes, acc);
      }
    });
  }
  return failed ? WHITTLE_OUT_OF_MEMORY : WHITTLE_OK;
}

}  // namespace

const SparseInt8Kernels& sparse_int8_kernels() { return resolved().table; }
Tier sparse_int8_tier() { return resolved().tier; }

WhittleStatus sparse_int8_multiply(const SparseInt8Kernels& kernels, const SparseArgs& args) {
  SparseArgs a = args;
  const SparseMatrix& w = *a.w;
  const SparseInt8Data& d = *w.int8;
  if (!sums_fit(a)) return WHITTLE_RANGE;
  static thread_local Scratch arrays;
  const size_t rows = static_cast<size_t>(w.rows);
  const int64_t padded = round_up(w.rows, kSparseInt8Panel);
  int32_t* offset = static_cast<int32_t*>(arrays.take(padded * 12 + 4));
  if (!offset) return WHITTLE_OUT_OF_MEMORY;
  float* scale = reinterpret_cast<float*>(offset + padded);
  float* bias = scale + padded;
  const bool bytes_signed = d.lanes && kernels.lanes_signed;
  const int32_t shift = d.lanes || d.steps > 0 ? (a.x_signed == bytes_signed ? 0 : bytes_signed ? -128 : 128) : a.x_signed ? kernels.shift_s8 : 0;
  const uint32_t zero = static_cast<uint32_t>(a.x_zero) + static_cast<uint32_t>(shift);
  for (size_t i = 0; i < rows; i++) {
    offset[i] = static_cast<int32_t>((a.bias_int ? static_cast<uint32_t>(a.bias_int[i]) : 0u) - zero * static_cast<uint32_t>(d.sums[i]));
    if (a.out_type == kOutInt32) continue;
    scale[i] = a.x_scale * (a.row_scales ? a.row_scales[i] : w.scales[i]);
    if (!(scale[i] > 0 && scale[i] <= 3.402823466e38f)) return WHITTLE_RANGE;
    bias[i] = a.bias ? a.bias[i] : -0.0f;
    if (bias[i] - bias[i] != 0) return WHITTLE_NONFINITE;
  }
  if (a.columns <= 0 || a.batch <= 0 || w.rows <= 0) return WHITTLE_OK;
  if (!a.by_rows && a.columns == 1) {
    a.by_rows = true;
    a.columns = a.batch;
    a.batch = 1;
  }
  Product p = {};
  p.kernels = &kernels;
  p.args = &a;
  p.epilogue.offset = offset;
  p.epilogue.scale = scale;
  p.epilogue.bias = bias;
  p.epilogue.activation = a.activation;
  p.epilogue.out_scale = a.out_scale;
  p.epilogue.out_zero = a.out_zero;
  p.epilogue.out_type = a.out_type;
  p.epilogue.residual = a.residual;
  p.epilogue.added = a.added;
  p.epilogue.out_base = a.out;
  p.size = a.out_type == kOutInt32 || a.out_type == kOutFloat32 ? 4 : 1;
  const double work = static_cast<double>(w.nnz + w.rows) * static_cast<double>(a.columns) * static_cast<double>(a.batch);
  p.threads = work < 400e3 ? 1 : a.threads;
  if (d.steps > 0) return multiply_pairs(p);
  if (d.lanes) return multiply_lanes(p);
  return a.by_rows && a.columns == 1 ? multiply_vector(p) : multiply_strips(p);
}

}  // namespace whittle
