#include "core/gemm_weight.h"

#include <math.h>
#include <string.h>

#include <algorithm>
#include <atomic>
#include <new>

#include "core/aligned.h"
#include "core/scratch.h"
#include "core/threads.h"

#define WHITTLE_VARIANT(tier) extern "C" void gemm_weight_install_##tier(whittle::WeightKernels*);
#include "cpu/gemm/weight_variants.inc"
#undef WHITTLE_VARIANT

namespace whittle {

VariantList<WeightKernels> gemm_weight_variants() {
  static const Variant<WeightKernels> list[] = {
#define WHITTLE_VARIANT(tier) {Tier::tier, gemm_weight_install_##tier},
#include "cpu/gemm/weight_variants.inc"
#undef WHITTLE_VARIANT
  };
  return {list, static_cast<int>(sizeof list / sizeof *list)};
}

namespace {

const Resolved<WeightKernels>& resolved() {
  static const Resolved<WeightKernels> r = [] {
    Resolved<WeightKernels> found = resolve(gemm_weight_variants());
    if (!(cpu_features() & kAmxBf16)) found.table.split = nullptr, found.table.tile = nullptr;
    return found;
  }();
  return r;
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

float from_half(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16, exponent = (h >> 10) & 31, fraction = h & 1023;
  uint32_t bits;
  if (exponent == 31) bits = sign | 0x7f800000 | fraction << 13;
  else if (exponent) bits = sign | (exponent + 112) << 23 | fraction << 13;
  else {
    const float v = static_cast<float>(fraction) * 0x1p-24f;
    memcpy(&bits, &v, 4);
    bits |= sign;
  }
  float f;
  memcpy(&f, &bits, 4);
  return f;
}

uint16_t to_bf16(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// A float32 of an array that may have any alignment.
float float_at(const void* p, int64_t i, bool half) {
  if (half) {
    uint16_t h;
    memcpy(&h, static_cast<const uint8_t*>(p) + 2 * i, 2);
    return from_half(h);
  }
  float f;
  memcpy(&f, static_cast<const uint8_t*>(p) + 4 * i, 4);
  return f;
}

int nibble_at(const uint8_t* p, int64_t i) { return i & 1 ? p[i >> 1] >> 4 : p[i >> 1] & 15; }

void fill_int4(const WeightSource& s, const PackedWeight& w, int64_t group) {
  uint8_t* out = w.data + group * w.group_bytes;
  const int flip = s.is_signed ? 8 : 0;
  const int64_t first = group * kWeightLanes, columns = std::min(kWeightLanes, w.n - first);
  for (int64_t b = 0; b < w.blocks; b++) {
    const int64_t end = std::min((b + 1) * w.block, w.k);
    for (int64_t p = b * w.block; p < end; p += 8, out += 4 * kWeightLanes) {
      memset(out, 0x88, 4 * kWeightLanes);
      const int64_t rows = std::min<int64_t>(8, end - p);
      for (int64_t j = 0; j < columns; j++) {
        int64_t at = p * s.row + (first + j) * s.col;
        int q[8] = {8, 8, 8, 8, 8, 8, 8, 8};
        for (int64_t i = 0; i < rows; i++, at += s.row) q[i] = nibble_at(s.codes, at) ^ flip;
        for (int i = 0; i < 4; i++) out[4 * j + i] = static_cast<uint8_t>(q[i] | q[i + 4] << 4);
      }
    }
  }
}

void fill_int8(const WeightSource& s, const PackedWeight& w, int64_t group) {
  uint8_t* out = w.data + group * w.group_bytes;
  const uint8_t flip = s.is_signed ? 0 : 0x80;
  const int64_t first = group * kWeightLanes, columns = std::min(kWeightLanes, w.n - first);
  memset(out, 0, static_cast<size_t>(w.group_bytes));
  if (s.row == 1) {
    for (int64_t j = 0; j < columns; j++) {
      const uint8_t* from = s.codes + (first + j) * s.col;
      for (int64_t p = 0; p < w.k; p++) out[p * kWeightLanes + j] = from[p] ^ flip;
    }
    return;
  }
  for (int64_t p = 0; p < w.k; p++)
    for (int64_t j = 0; j < columns; j++) out[p * kWeightLanes + j] = s.codes[p * s.row + (first + j) * s.col] ^ flip;
}

void fill_bf16(const WeightSource& s, const PackedWeight& w, int64_t group) {
  uint16_t* out = reinterpret_cast<uint16_t*>(w.data + group * w.group_bytes);
  const int64_t first = group * kWeightLanes, columns = std::min(kWeightLanes, w.n - first);
  memset(out, 0, static_cast<size_t>(w.group_bytes));
  for (int64_t j = 0; j < columns; j++)
    for (int64_t p = 0; p < w.k; p++) {
      const int64_t at = p * s.row + (first + j) * s.col;
      uint16_t v;
      if (s.is_float) v = to_bf16(float_at(s.codes, at, false));
      else memcpy(&v, s.codes + 2 * at, 2);
      out[p / 2 * 2 * kWeightLanes + 2 * j + p % 2] = v;
    }
}

WhittleStatus fill_scales(const WeightSource& s, const PackedWeight& w, int64_t group) {
  const bool int4 = w.format == kWeightInt4;
  const float middle = s.is_signed ? 0.0f : int4 ? 8.0f : 128.0f;
  const int64_t first = group * kWeightLanes, columns = std::min(kWeightLanes, w.n - first);
  for (int64_t b = 0; b < w.blocks; b++) {
    float* scale = w.scale + (group * w.blocks + b) * kWeightLanes;
    float* offset = w.offset ? w.offset + (group * w.blocks + b) * kWeightLanes : nullptr;
    for (int64_t j = 0; j < kWeightLanes; j++) {
      scale[j] = 0;
      if (offset) offset[j] = 0;
      if (j >= columns) continue;
      const int64_t at = b * s.scale_block + (first + j) * s.scale_col, z = b * s.zero_block + (first + j) * s.zero_col;
      const float v = float_at(s.scales, at, s.half_scales);
      if (v - v != 0) return WHITTLE_NONFINITE;
      if (s.positive && !(v > 0)) return WHITTLE_RANGE;
      float zero = s.zero_default;
      if (s.zero_kind == 1 && int4) {
        const int code = nibble_at(static_cast<const uint8_t*>(s.zeros), z);
        zero = static_cast<float>(s.is_signed ? (code ^ 8) - 8 : code);
      } else if (s.zero_kind == 1) {
        const uint8_t code = static_cast<const uint8_t*>(s.zeros)[z];
        zero = s.is_signed ? static_cast<float>(static_cast<int8_t>(code)) : static_cast<float>(code);
      } else if (s.zero_kind >= 2) {
        zero = float_at(s.zeros, at, s.zero_kind == 3);
      }
      const float shift = v * (middle - zero), top = v * (int4 ? 8.0f : 128.0f);
      if (shift - shift != 0 || top - top != 0 || fabsf(shift) + fabsf(top) > 3.402823466e38f) return WHITTLE_NONFINITE;
      scale[j] = v;
      if (offset) offset[j] = shift;
    }
  }
  return WHITTLE_OK;
}

// What a product's threads share.
struct Product {
  const WeightKernels* table;
  const WeightArgs* g;
  const GemmEngine* engine;
  const int8_t* digits;
  const int32_t* heads;
  const float* sums;
  int64_t sum_row;
};

float sum_of(const float* a, int64_t n) {
  float part[16] = {0};
  int64_t i = 0;
  for (; i + 16 <= n; i += 16)
    for (int j = 0; j < 16; j++) part[j] += a[i + j];
  for (; i < n; i++) part[i % 16] += a[i];
  float sum = 0;
  for (float x : part) sum += x;
  return sum;
}

// Sums of one row of a, by chunk for int4 and by block for int8.
void row_sums(const PackedWeight& w, const float* a, float* out) {
  for (int64_t b = 0; b < w.blocks; b++) {
    const int64_t end = std::min((b + 1) * w.block, w.k), step = w.format == kWeightInt4 ? kWeightChunk : w.block;
    for (int64_t p = b * w.block; p < end; p += step) *out++ = sum_of(a + p, std::min(step, end - p));
  }
}

bool plain(const WeightArgs& g) { return !g.bias && g.activation.kind == kActivationNone; }

// Groups [group, group + groups) of all rows.
void run_stream(const Product& p, int64_t group, int64_t groups) {
  const WeightArgs& g = *p.g;
  const PackedWeight& w = *g.w;
  const int64_t most = p.table->tile_rows[w.format], tiles = ceil_div(g.m, most), column = group * kWeightLanes;
  WeightStream s = {};
  s.w = &w;
  s.lda = w.k;
  s.sum_row = p.sum_row;
  s.group = group;
  s.groups = groups;
  s.ldc = w.n;
  for (int64_t t = 0; t < tiles; t++) {
    const int64_t row = g.m * t / tiles;
    s.rows = g.m * (t + 1) / tiles - row;
    s.a = g.a + row * w.k;
    if (p.digits) s.digits = p.digits + row * w.chunks * 96, s.heads = p.heads + row * w.chunks * 4;
    if (p.sums) s.sums = p.sums + row * p.sum_row;
    s.c = g.out + row * w.n + column;
    p.table->stream[w.format](&s);
  }
  const int64_t columns = std::min(groups * kWeightLanes, w.n - column);
  if (!plain(g))
    p.engine->kernels.finish(g.m, columns, g.out + column, w.n, g.bias ? g.bias + column : nullptr, &g.activation);
}

struct PanelContext {
  const WeightKernels* table;
  const PackedWeight* w;
  int64_t nr;
};

// The hook of core/gemm.h: panels of float32 from compressed weights. nr is 8 or a multiple of 16.
void unpack_panels(const void* context, int64_t k, int64_t length, int64_t col, int64_t cols, float* out,
                   int64_t panel) {
  const PanelContext& c = *static_cast<const PanelContext*>(context);
  const PackedWeight& w = *c.w;
  const int64_t nr = c.nr;
  float* spare = nullptr;
  if (col % kWeightLanes != 0 || (nr < kWeightLanes && ceil_div(cols, nr) % 2)) {
    static thread_local Scratch scratch;  // half a group at either end
    spare = static_cast<float*>(scratch.take(length * kWeightLanes * 4));
  }
  for (int64_t j = 0; j < ceil_div(cols, nr) * nr;) {
    const int64_t at = (col + j) % kWeightLanes, group = (col + j) / kWeightLanes;
    float* to = out + j / nr * panel + j % nr;
    const int64_t width = std::min(kWeightLanes - at, ceil_div(cols, nr) * nr - j);
    if (group >= w.groups) {
      for (int64_t p = 0; p < length; p++)
        for (int64_t i = 0; i < width; i++) to[p * nr + i] = 0;
    } else {
      WeightUnpack u = {&w, group, k, length, to, nr, nr < kWeightLanes ? panel : 8};
      if (width < kWeightLanes && spare) {
        u.out = spare;
        u.row = kWeightLanes;
        u.half = 8;
        c.table->unpack[w.format](&u);
        for (int64_t p = 0; p < length; p++) memcpy(to + p * nr, spare + p * kWeightLanes + at, static_cast<size_t>(width) * 4);
      } else {
        c.table->unpack[w.format](&u);
      }
    }
    j += width;
  }
}

WhittleStatus run_panels(const WeightKernels& table, const WeightArgs& g, const GemmEngine& engine) {
  const PanelContext context = {&table, g.w, engine.kernels.nr};
  GemmProblem f;
  if (g.w->format == kWeightF32) f.packed = reinterpret_cast<const float*>(g.w->data);
  else f.pack = unpack_panels, f.pack_context = &context;
  f.m = g.m, f.n = g.w->n, f.k = g.w->k;
  f.a = g.a, f.a_row = g.w->k;
  f.c = g.out, f.ldc = g.w->n;
  f.bias = g.bias, f.activation = g.activation;
  return gemm_f32(f, g.threads, engine);
}

bool finite(const float* a, int64_t count) {
  uint32_t top = 0;
  for (int64_t i = 0; i < count; i++) {
    uint32_t bits;
    memcpy(&bits, a + i, 4);
    bits &= 0x7fffffff;
    top = bits > top ? bits : top;
  }
  return top < 0x7f800000;
}

// bfloat16 by tiles: bands of rows whose terms stay in L2 while pairs of groups pass by.
WhittleStatus run_tiles(const WeightKernels& table, const WeightArgs& g, const GemmEngine& engine, int threads) {
  static thread_local Scratch scratch;
  constexpr int64_t kBand = 64, kSteps = 32;
  const PackedWeight& w = *g.w;
  const int64_t steps = ceil_div(w.k, 32), part = steps * 3 * 1024, pairs = ceil_div(w.groups, 2);
  uint16_t* terms = static_cast<uint16_t*>(scratch.take(kBand / 32 * part * 2));
  if (!terms) return WHITTLE_OUT_OF_MEMORY;
  for (int64_t first = 0; first < g.m; first += kBand) {
    const int64_t rows = std::min(kBand, g.m - first), parts = ceil_div(rows, 32);
    parallel_for(parts, 1, threads, [&](int64_t b, int64_t e) {
      for (int64_t i = b; i < e; i++) {
        const WeightSplit s = {std::min<int64_t>(32, rows - 32 * i), w.k, g.a + (first + 32 * i) * w.k, w.k, terms + i * part};
        table.split(&s);
      }
    });
    parallel_for(pairs, 1, threads, [&](int64_t b, int64_t e) {
      for (int64_t q = b; q < e; q++) {
        const int64_t column = q * 2 * kWeightLanes, columns = std::min(2 * kWeightLanes, w.n - column);
        float* c = g.out + first * w.n + column;
        for (int64_t s = 0; s < steps; s += kSteps)
          for (int64_t i = 0; i < parts; i++) {
            const WeightTile t = {&w, std::min<int64_t>(32, rows - 32 * i), s, std::min(kSteps, steps - s),
                                  terms + i * part + s * 3 * 1024, 2 * q, columns, s > 0, c + 32 * i * w.n, w.n};
            table.tile(&t);
          }
        if (!plain(g)) engine.kernels.finish(rows, columns, c, w.n, g.bias ? g.bias + column : nullptr, &g.activation);
      }
    });
  }
  return WHITTLE_OK;
}

}  // namespace

const WeightKernels& gemm_weight_kernels() { return resolved().table; }
Tier gemm_weight_tier() { return resolved().tier; }

PackedWeight* new_packed_weight(const WeightKernels& table, int32_t format, int64_t k, int64_t n, int64_t block, bool with_offset,
                                const GemmEngine& engine) {
  PackedWeight* w = new (std::nothrow) PackedWeight();
  if (!w) return nullptr;
  const bool plain = format == kWeightBf16 || format == kWeightF32;
  w->format = format;
  w->k = k;
  w->n = n;
  w->block = plain || block > k ? std::max<int64_t>(k, 1) : block;
  w->blocks = ceil_div(k, w->block);
  w->groups = ceil_div(n, kWeightLanes);
  if (format == kWeightInt4) {
    const int64_t full = w->blocks ? w->blocks - 1 : 0, last = k - full * w->block;
    w->group_bytes = (full * ceil_div(w->block, 8) + ceil_div(last, 8)) * 4 * kWeightLanes;
    w->chunks = full * ceil_div(w->block, kWeightChunk) + ceil_div(last, kWeightChunk);
  } else if (format == kWeightInt8) {
    w->group_bytes = k * kWeightLanes;
  } else if (format == kWeightBf16) {
    w->group_bytes = ceil_div(k, table.bf16_rows) * table.bf16_rows * 2 * kWeightLanes;
  }
  const size_t data = static_cast<size_t>(format == kWeightF32 ? gemm_packed_size(k, n, engine) * 4 : w->groups * w->group_bytes);
  const size_t scales = plain ? 0 : static_cast<size_t>(w->groups * w->blocks * kWeightLanes) * 4;
  w->bytes = static_cast<int64_t>(data + scales * (with_offset ? 2 : 1));
  w->data = static_cast<uint8_t*>(aligned_new(data));
  if (!plain) w->scale = static_cast<float*>(aligned_new(scales));
  if (!plain && with_offset) w->offset = static_cast<float*>(aligned_new(scales));
  if (!w->data || (!plain && (!w->scale || (with_offset && !w->offset)))) {
    free_packed_weight(w);
    return nullptr;
  }
  return w;
}

void free_packed_weight(PackedWeight* w) {
  if (!w) return;
  aligned_delete(w->data);
  aligned_delete(w->scale);
  aligned_delete(w->offset);
  delete w;
}

WhittleStatus fill_packed_weight(const WeightSource& source, int threads, PackedWeight* w, const GemmEngine& engine) {
  if (w->format == kWeightF32)
    return gemm_pack_b(w->k, w->n, reinterpret_cast<const float*>(source.codes), source.row, source.col,
                       reinterpret_cast<float*>(w->data), threads, engine);
  std::atomic<int> status{WHITTLE_OK};
  if (w->k * w->n < 65536) threads = 1;
  parallel_for(w->groups, 4, threads, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i++) {
      if (w->format != kWeightBf16) {
        const WhittleStatus s = fill_scales(source, *w, i);
        if (s != WHITTLE_OK) status = s;
      }
      (w->format == kWeightInt4 ? fill_int4 : w->format == kWeightInt8 ? fill_int8 : fill_bf16)(source, *w, i);
    }
  });
  return static_cast<WhittleStatus>(status.load());
}

WhittleStatus gemm_weight(const WeightKernels& table, const WeightArgs& g, const GemmEngine& engine) {
  const PackedWeight& w = *g.w;
  if (g.m == 0 || w.n == 0) return WHITTLE_OK;
  const double work = static_cast<double>(g.m) * static_cast<double>(w.n) * static_cast<double>(w.k);
  const int threads = work < 400e3 ? 1 : g.threads > 0 ? g.threads : thread_limit();
  if (w.k == 0 || w.format == kWeightF32) return run_panels(table, g, engine);
  if (w.format == kWeightBf16 && table.tile && g.m >= 16 && finite(g.a, g.m * w.k)) return run_tiles(table, g, engine, threads);
  if (g.m > table.stream_rows[w.format]) return run_panels(table, g, engine);

  static thread_local Scratch scratch;
  const bool digits = w.format == kWeightInt4 && table.digits;
  const int64_t sum_row = !w.offset ? 0 : w.format == kWeightInt4 ? w.chunks : w.blocks;
  const int64_t row_bytes = (digits ? w.chunks * (96 + 16) : 0) + sum_row * 4;
  uint8_t* room = nullptr;
  Product p = {&table, &g, &engine, nullptr, nullptr, nullptr, sum_row};
  if (row_bytes) {
    room = static_cast<uint8_t*>(scratch.take(row_bytes * g.m));
    if (!room) return WHITTLE_OUT_OF_MEMORY;
    int8_t* digit = reinterpret_cast<int8_t*>(room);
    int32_t* heads = reinterpret_cast<int32_t*>(room + (digits ? g.m * w.chunks * 96 : 0));
    float* sums = reinterpret_cast<float*>(heads + (digits ? g.m * w.chunks * 4 : 0));
    if (digits) p.digits = digit, p.heads = heads;
    if (sum_row) p.sums = sums;
    std::atomic<bool> good{true};
    parallel_for(g.m, 1, g.m * w.k < 32768 ? 1 : threads, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; i++) {
        const WeightDigits d = {&w, g.a + i * w.k, digit + i * w.chunks * 96, heads + i * w.chunks * 4};
        if (digits && !table.digits(&d)) good = false;
        if (sum_row) row_sums(w, g.a + i * w.k, sums + i * sum_row);
      }
    });
    if (!good) return run_panels(table, g, engine);
  }
  // Pieces of a size that does not depend on the threads, of whole panels of every kernel.
  const int64_t piece = std::max<int64_t>(4, (128 << 10) / std::max<int64_t>(1, w.group_bytes) / 4 * 4);
  parallel_for(ceil_div(w.groups, piece), 1, threads, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i++) run_stream(p, i * piece, std::min(piece, w.groups - i * piece));
  });
  return WHITTLE_OK;
}

}  // namespace whittle
