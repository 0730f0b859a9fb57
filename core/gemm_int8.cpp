#include "core/gemm_int8.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <atomic>
#include <initializer_list>
#include <mutex>
#include <new>

#include "core/aligned.h"
#include "core/codes.h"
#include "core/quantize.h"
#include "core/threads.h"

extern "C" {
#define WHITTLE_VARIANT(tier) void gemm_int8_install_##tier(whittle::GemmInt8Kernels*);
#include "cpu/gemm/int8_variants.inc"
#undef WHITTLE_VARIANT
}

namespace whittle {
namespace {

#define WHITTLE_VARIANT(tier) {Tier::tier, gemm_int8_install_##tier},
const Variant<GemmInt8Kernels> kVariants[] = {
#include "cpu/gemm/int8_variants.inc"
};
#undef WHITTLE_VARIANT

const Resolved<GemmInt8Kernels>& resolved() {
  static const Resolved<GemmInt8Kernels> r = resolve(gemm_int8_variants());
  return r;
}

// Memory of one thread for one purpose: grows, is kept for the next call, ends with the thread.
struct Scratch {
  void* data = nullptr;
  size_t size = 0;
  ~Scratch() { aligned_delete(data); }
  void* need(size_t bytes) {
    if (data && bytes <= size) return data;
    aligned_delete(data);
    data = aligned_new(bytes);
    size = data ? bytes : 0;
    return data;
  }
};

struct ThreadState {
  Scratch rows;      // converted rows of a, then their sums
  Scratch columns;   // the epilogue's arrays
  Scratch sums;      // between blocks of k
  Scratch raw;       // what a fill wrote, before its conversion
  Scratch weights;   // packed for this call only
  uint64_t call = 0; // whose rows these are
  int64_t block = -1;
};
thread_local ThreadState t_state;
std::atomic<uint64_t> g_call{0};

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

struct Range {
  int64_t lo, hi;
};

Range zero_range(const GemmInt8Args& g) {
  if (!g.b_zeros) return {g.b_zero, g.b_zero};
  Range z = {255, -128};
  for (int64_t j = 0; j < g.n; j++) {
    const int64_t v = g.b_unsigned ? static_cast<int64_t>(g.b_zeros[j]) : static_cast<int8_t>(g.b_zeros[j]);
    if (v < z.lo) z.lo = v;
    if (v > z.hi) z.hi = v;
  }
  return z;
}

// Every sum of k products of (a - aZero)(b - bZero) plus the bias must fit 32 bits, whatever the data.
bool sums_fit(const GemmInt8Args& g) {
  const Range a = g.a_signed ? Range{-128 - g.a_zero, 127 - g.a_zero} : Range{-g.a_zero, 255 - g.a_zero};
  const Range z = zero_range(g);
  const Range b = g.b_unsigned ? Range{-z.hi, 255 - z.lo} : Range{-128 - z.hi, 127 - z.lo};
  int64_t lo = 0, hi = 0;
  for (const int64_t x : {a.lo, a.hi})
    for (const int64_t y : {b.lo, b.hi}) {
      if (x * y < lo) lo = x * y;
      if (x * y > hi) hi = x * y;
    }
  lo *= g.k;
  hi *= g.k;
  if (g.bias_int && g.n > 0) {
    int32_t least = g.bias_int[0], most = g.bias_int[0];
    for (int64_t j = 1; j < g.n; j++) {
      if (g.bias_int[j] < least) least = g.bias_int[j];
      if (g.bias_int[j] > most) most = g.bias_int[j];
    }
    lo += least;
    hi += most;
  }
  return lo >= INT32_MIN && hi <= INT32_MAX;
}

struct Columns {
  int32_t *offset, *b_zero;
  float *scale, *bias;
};

// What the columns [first, last) start at. `sums` are column sums of b', from `first` on.
void set_offsets(const GemmInt8Kernels& table, const GemmInt8Args& g, const Columns& c, const int32_t* sums, int64_t first,
                 int64_t last) {
  const uint32_t a_zero = static_cast<uint32_t>(g.a_zero + (g.a_signed ? table.shift_s8 : table.shift_u8));
  for (int64_t j = first; j < last; j++) {
    uint32_t v = 0u - static_cast<uint32_t>(sums[j - first]);
    if (c.b_zero) v += static_cast<uint32_t>(g.k) * static_cast<uint32_t>(c.b_zero[j]);
    v *= a_zero;
    if (g.bias_int) v += static_cast<uint32_t>(g.bias_int[j]);
    c.offset[j] = static_cast<int32_t>(v);
  }
}

// The columns' arrays but for the offsets.
WhittleStatus prepare(const GemmInt8Kernels& table, const GemmInt8Args& g, Columns* c) {
  const int64_t n = g.n, padded = round_up(n, table.columns);
  int32_t* at = static_cast<int32_t*>(t_state.columns.need(static_cast<size_t>(padded) * 16 + 64));
  if (!at) return WHITTLE_OUT_OF_MEMORY;
  c->offset = at;
  c->b_zero = g.b_zeros || g.b_zero != (g.b_unsigned ? 128 : 0) ? at + padded : nullptr;
  c->scale = reinterpret_cast<float*>(at + 2 * padded);
  c->bias = reinterpret_cast<float*>(at + 3 * padded);
  for (int64_t j = n; j < padded; j++) c->offset[j] = 0;
  if (c->b_zero) {
    const int32_t shift = g.b_unsigned ? 128 : 0;
    for (int64_t j = 0; j < n; j++)
      c->b_zero[j] = (!g.b_zeros ? g.b_zero : g.b_unsigned ? g.b_zeros[j] : static_cast<int8_t>(g.b_zeros[j])) - shift;
  }
  if (g.out_type == kOutInt32) return WHITTLE_OK;
  // Loops that become vectors: a dynamic product comes here at each run.
  float* __restrict scale = c->scale;
  float* __restrict bias = c->bias;
  if (g.b_scales)
    for (int64_t j = 0; j < n; j++) scale[j] = g.a_scale * g.b_scales[j];
  else
    for (int64_t j = 0; j < n; j++) scale[j] = g.a_scale * g.b_scale;
  int32_t bad = 0;
  for (int64_t j = 0; j < n; j++) bad |= !(scale[j] > 0) | !(scale[j] <= 3.402823466e38f);
  if (bad) return WHITTLE_RANGE;
  if (g.bias_float) {
    memcpy(bias, g.bias_float, static_cast<size_t>(n) * 4);
    for (int64_t j = 0; j < n; j++) bad |= !(bias[j] - bias[j] == 0);
    if (bad) return WHITTLE_NONFINITE;
  } else {
    for (int64_t j = 0; j < n; j++) c->bias[j] = -0.0f;
  }
  return WHITTLE_OK;
}

GemmInt8Epilogue epilogue_of(const GemmInt8Args& g, const Columns& c) {
  GemmInt8Epilogue e = {};
  e.offset = c.offset;
  e.b_zero = c.b_zero;
  e.scale = c.scale;
  e.bias = c.bias;
  e.out_scale = g.out_scale;
  e.out_zero = g.out_zero;
  e.activation = g.activation;
  e.out_type = g.out_type;
  e.residual = g.residual;
  e.added = g.added;
  e.out_base = g.out;
  return e;
}

// A call of memcpy costs more than a few dozen bytes do.
void copy_short(uint8_t* to, const uint8_t* from, int64_t n) {
  if (n < 16 || n > 512) {
    memcpy(to, from, static_cast<size_t>(n));
    return;
  }
  for (int64_t i = 0; i + 16 < n; i += 16) memcpy(to + i, from + i, 16);
  memcpy(to + n - 16, from + n - 16, 16);
}

int64_t packed_bytes(const GemmInt8Kernels& table, int64_t k, int64_t n) {
  return round_up(n, table.vector) * round_up(k, table.k_step);
}

void pack_one(const GemmInt8Kernels& table, const uint8_t* w, bool is_unsigned, bool transposed, int64_t k, int64_t n,
              int64_t panel, int8_t* out, int32_t* sums) {
  GemmInt8Pack pack = {};
  pack.w = w;
  pack.k = k;
  pack.n = n;
  pack.stride = transposed ? k : n;
  pack.transposed = transposed;
  pack.flip = is_unsigned ? 0x80 : 0;
  pack.panel = panel;
  pack.columns = gemm_int8_panel_columns(table, n, panel);
  pack.out = out;
  pack.sums = sums;
  table.pack(&pack);
}

void pack_all(const GemmInt8Kernels& table, const uint8_t* w, bool is_unsigned, bool transposed, int64_t k, int64_t n,
              int threads, int8_t* data, int32_t* sums) {
  const int64_t panels = gemm_int8_panels(table, n);
  const int64_t panel_bytes = table.columns * round_up(k, table.k_step);
  if (k * n < 65536) threads = 1;
  parallel_for(panels, 1, threads, [&](int64_t first, int64_t last) {
    for (int64_t p = first; p < last; p++)
      pack_one(table, w, is_unsigned, transposed, k, n, p, data + p * panel_bytes, sums + p * table.columns);
  });
}

// One matrix product.
struct Product {
  const GemmInt8Kernels* table;
  const GemmInt8Args* args;
  const GemmInt8Epilogue* epilogue;
  const Columns* columns;
  const uint8_t* a;
  const int8_t* data;  // packed, or null: `weights`, which a piece packs a panel at a time
  const uint8_t* weights;
  uint8_t* out;
  int64_t padded_k, panels, panel_bytes, size;
  // How the work is cut: blocks of rows times groups of panels.
  int64_t block_rows, blocks, group_panels, groups, stride;
  bool direct;  // the caller's rows serve as they are
  int64_t threads;
  uint64_t call;
  std::mutex* range;  // of the results: held by who adds to it; null where nobody asks
};

// Rows [first, first + rows) of a', into this thread's memory. False where there is none.
bool load_rows(const Product& p, int64_t first, int64_t rows, size_t bytes, ThreadState* state) {
  const GemmInt8Kernels& table = *p.table;
  const GemmInt8Args& g = *p.args;
  uint8_t* to = static_cast<uint8_t*>(state->rows.need(bytes + static_cast<size_t>(rows) * 4));
  if (!to) return false;
  GemmInt8Convert convert = {};
  convert.stride = g.k;
  convert.k = g.k;
  convert.padded = p.padded_k;
  convert.is_signed = g.a_signed;
  convert.out_stride = p.stride;
  int32_t* sums = p.epilogue->b_zero ? reinterpret_cast<int32_t*>(to + bytes) : nullptr;
  if (!g.fill) {
    convert.a = p.a + first * g.k;
    convert.rows = rows;
    convert.out = to;
    convert.sums = sums;
    table.convert(&convert);
    return true;
  }
  const bool same = table.a_bytes == 1 && (g.a_signed ? table.shift_s8 : table.shift_u8) == 0 && !sums;
  if (same) {
    g.fill(g.fill_context, first, rows, to, p.stride);
    if (p.padded_k > g.k)
      for (int64_t r = 0; r < rows; r++) memset(to + r * p.stride + g.k, 0, static_cast<size_t>(p.padded_k - g.k));
    return true;
  }
  // A few rows at a time, which are still in the first-level cache when they are converted.
  const int64_t strip = g.k > 0 && g.k < 8192 ? 16384 / g.k + 1 : 2;
  uint8_t* raw = static_cast<uint8_t*>(state->raw.need(static_cast<size_t>(strip * g.k) + 64));
  if (!raw) return false;
  convert.a = raw;
  for (int64_t r = 0; r < rows; r += strip) {
    convert.rows = rows - r < strip ? rows - r : strip;
    convert.out = to + r * p.stride;
    convert.sums = sums ? sums + r : nullptr;
    g.fill(g.fill_context, first + r, convert.rows, raw, g.k);
    table.convert(&convert);
  }
  return true;
}

bool run_piece(const Product& p, int64_t block, int64_t group) {
  const GemmInt8Kernels& table = *p.table;
  const GemmInt8Args& g = *p.args;
  const int64_t first = block * p.block_rows;
  const int64_t rows = g.m - first < p.block_rows ? g.m - first : p.block_rows;
  ThreadState& state = t_state;
  GemmInt8Panel panel = {};
  if (p.direct) {
    panel.a = p.a + first * g.k;
    panel.a_stride = g.k;
  } else {
    const size_t bytes = static_cast<size_t>(rows) * static_cast<size_t>(p.stride);
    if (state.call != p.call || state.block != block) {
      state.call = 0;
      if (!load_rows(p, first, rows, bytes, &state)) return false;
      state.call = p.call;
      state.block = block;
    }
    panel.a = state.rows.data;
    panel.a_stride = p.stride;
    if (p.epilogue->b_zero)
      panel.a_sums = reinterpret_cast<const int32_t*>(static_cast<const uint8_t*>(state.rows.data) + bytes);
  }
  int8_t* fresh = nullptr;
  int32_t* fresh_sums = nullptr;
  if (!p.data) {
    const int64_t bytes = table.widest * p.padded_k;
    fresh = static_cast<int8_t*>(state.weights.need(static_cast<size_t>(bytes + table.widest * 4)));
    if (!fresh) return false;
    fresh_sums = reinterpret_cast<int32_t*>(fresh + bytes);
  }
  panel.rows = rows;
  panel.steps = p.padded_k / table.k_step;
  panel.epilogue = p.epilogue;
  panel.out = p.out + first * g.n * p.size;
  panel.out_stride = g.n;
  const int64_t share = cache_sizes().l1d;
  panel.block = (share < kGemmInt8Block ? share : kGemmInt8Block) / table.step_bytes;
  if (panel.block < 1) panel.block = 1;
  if (panel.steps > panel.block) {
    panel.sums = static_cast<int32_t*>(state.sums.need(static_cast<size_t>((rows + kGemmInt8Spare) * table.widest) * 4));
    if (!panel.sums) return false;
  }
  const int64_t end = (group + 1) * p.group_panels < p.panels ? (group + 1) * p.group_panels : p.panels;
  const int64_t next_block = (block * p.groups + group + p.threads) / p.groups;
  float range[2 * kGemmInt8Lanes] = {0};
  panel.range = p.range ? range : nullptr;
  if (table.begin) table.begin();
  for (int64_t i = group * p.group_panels; i < end; i++) {
    panel.column = i * table.columns;
    panel.columns = gemm_int8_panel_columns(table, g.n, i);
    if (p.data) {
      panel.b = p.data + i * p.panel_bytes;
    } else {
      pack_one(table, p.weights, g.b_unsigned, g.b_transposed, g.k, g.n, i, fresh, fresh_sums);
      set_offsets(table, g, *p.columns, fresh_sums, panel.column, panel.column + panel.columns);
      panel.b = fresh;
    }
    // The next panel; at the last, the caller's rows that this thread will probably be given next.
    panel.ahead = nullptr;
    panel.ahead_bytes = 0;
    if (i + 1 < end) {
      if (p.data) panel.ahead = p.data + (i + 1) * p.panel_bytes;
      panel.ahead_bytes = p.data ? gemm_int8_panel_columns(table, g.n, i + 1) * p.padded_k : 0;
    } else if (p.a && next_block < p.blocks && next_block != block) {
      panel.ahead = p.a + next_block * p.block_rows * g.k;
      panel.ahead_bytes = (g.m - next_block * p.block_rows < p.block_rows ? g.m - next_block * p.block_rows : p.block_rows) * g.k;
    }
    table.panel(&panel);
  }
  if (table.end) table.end();
  if (p.range) {
    std::lock_guard<std::mutex> hold(*p.range);
    for (int i = 0; i < kGemmInt8Lanes; i++) {
      g.range[0] = std::min(g.range[0], range[i]);
      g.range[1] = std::max(g.range[1], range[kGemmInt8Lanes + i]);
    }
  }
  return true;
}

// Rows per block so that a block of a' stays in three eighths of the second-level cache (neighbours may share it) while all panels pass by; then enough pieces
// that threads finish together, along the longer side: what the other side brings, every thread reads.
void cut(const GemmInt8Args& g, Product* p, int threads) {
  const GemmInt8Kernels& t = *p->table;
  p->stride = round_up(p->padded_k * t.a_bytes, 64) + 64;  // never a multiple of 4096 bytes: rows spread over cache sets
  int64_t most = cache_sizes().l2 * 3 / 8 / p->stride / t.rows * t.rows;
  if (most < t.rows) most = t.rows;
  p->blocks = (g.m + most - 1) / most;
  const int64_t want = threads > 1 ? 8 * static_cast<int64_t>(threads) : 1;
  const int64_t finest = (g.m + 4 * t.rows - 1) / (4 * t.rows), across = g.n >= g.m ? p->panels : 1;
  if (p->blocks * across < want) {
    int64_t blocks = (want + across - 1) / across;
    if (blocks > finest) blocks = finest;
    if (blocks > p->blocks) p->blocks = blocks;
  }
  p->block_rows = round_up((g.m + p->blocks - 1) / p->blocks, t.rows);
  p->blocks = (g.m + p->block_rows - 1) / p->block_rows;
  const int64_t groups = (want + p->blocks - 1) / p->blocks;
  p->group_panels = groups < p->panels ? p->panels / groups : 1;
  p->groups = (p->panels + p->group_panels - 1) / p->group_panels;
}

// `data` are packed weights and `sums` their sums; or data is null, and `weights` are packed here.
WhittleStatus run_product(const GemmInt8Kernels& table, const GemmInt8Args& g, const uint8_t* a, const int8_t* data,
                          const int32_t* sums, const uint8_t* weights, const Columns& columns, uint8_t* out, int threads) {
  std::atomic<bool> short_of_memory{false};
  const GemmInt8Epilogue e = epilogue_of(g, columns);
  std::mutex range;
  Product p = {};
  p.range = g.range ? &range : nullptr;
  p.table = &table;
  p.args = &g;
  p.epilogue = &e;
  p.columns = &columns;
  p.a = a;
  p.data = data;
  p.weights = weights;
  p.out = out;
  p.padded_k = round_up(g.k, table.k_step);
  p.panels = gemm_int8_panels(table, g.n);
  p.panel_bytes = table.columns * p.padded_k;
  p.size = g.out_type == kOutInt32 || g.out_type == kOutFloat32 ? 4 : 1;
  p.call = g_call.fetch_add(1, std::memory_order_relaxed) + 1;
  p.direct = !g.fill && table.a_bytes == 1 && (g.a_signed ? table.shift_s8 : table.shift_u8) == 0 && p.padded_k == g.k &&
             !e.b_zero && (g.k % 4096 != 0 || g.m <= 4);
  const double work = static_cast<double>(g.m) * static_cast<double>(g.n) * static_cast<double>(g.k);
  if (work < 400e3) threads = 1;
  else if (threads <= 0) threads = thread_limit();
  p.threads = threads;
  cut(g, &p, threads);
  Scratch large;
  if (data) {
    set_offsets(table, g, columns, sums, 0, g.n);
  } else if (p.blocks > 1) {
    // Several blocks of rows read each panel: pack all of them first. Memory beyond 8 MB is given back.
    const int64_t bytes = round_up(packed_bytes(table, g.k, g.n), 64), sum_bytes = round_up(g.n, table.columns) * 4;
    Scratch& memory = bytes > (8 << 20) ? large : t_state.weights;
    int8_t* fresh = static_cast<int8_t*>(memory.need(static_cast<size_t>(bytes + sum_bytes)));
    if (!fresh) return WHITTLE_OUT_OF_MEMORY;
    int32_t* fresh_sums = reinterpret_cast<int32_t*>(fresh + bytes);
    pack_all(table, weights, g.b_unsigned, g.b_transposed, g.k, g.n, threads, fresh, fresh_sums);
    set_offsets(table, g, columns, fresh_sums, 0, g.n);
    p.data = fresh;
  }
  parallel_for(p.blocks * p.groups, 1, threads, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i++)
      if (!run_piece(p, i / p.groups, i % p.groups)) short_of_memory = true;
  });
  return short_of_memory ? WHITTLE_OUT_OF_MEMORY : WHITTLE_OK;
}

}  // namespace

VariantList<GemmInt8Kernels> gemm_int8_variants() {
  return {kVariants, static_cast<int>(sizeof kVariants / sizeof kVariants[0])};
}
const GemmInt8Kernels& gemm_int8_kernels() { return resolved().table; }
Tier gemm_int8_tier() { return resolved().tier; }

double gemm_int8_peak(int64_t iterations, int threads) {
  const GemmInt8Kernels& table = gemm_int8_kernels();
  std::atomic<double> operations{0};
  parallel_for(threads, 1, threads, [&](int64_t, int64_t) { operations = table.peak(iterations); });
  return operations;
}

PackedInt8* new_packed_int8(const GemmInt8Kernels& table, bool is_unsigned, int64_t k, int64_t n) {
  PackedInt8* p = new (std::nothrow) PackedInt8;
  if (!p) return nullptr;
  const int64_t bytes = packed_bytes(table, k, n);
  const int64_t columns = round_up(n, table.columns);
  p->k = k;
  p->n = n;
  p->padded_k = round_up(k, table.k_step);
  p->is_unsigned = is_unsigned;
  p->bytes = bytes + columns * 4;
  p->data = static_cast<int8_t*>(aligned_new(static_cast<size_t>(bytes)));
  p->sums = static_cast<int32_t*>(aligned_new(static_cast<size_t>(columns) * 4));
  if (!p->data || !p->sums) {
    free_packed_int8(p);
    return nullptr;
  }
  return p;
}

void fill_packed_int8(const GemmInt8Kernels& table, const uint8_t* w, bool transposed, int threads, PackedInt8* p) {
  pack_all(table, w, p->is_unsigned, transposed, p->k, p->n, threads, p->data, p->sums);
}

void free_packed_int8(PackedInt8* packed) {
  if (!packed) return;
  aligned_delete(packed->data);
  aligned_delete(packed->sums);
  delete packed;
}

void gemm_int8_fill_indirect(const void* indirect, int64_t row, int64_t rows, uint8_t* out, int64_t stride) {
  const GemmInt8Indirect& x = *static_cast<const GemmInt8Indirect*>(indirect);
  const int64_t* offset = x.offset + row * x.pieces;
  for (int64_t r = 0; r < rows; r++, offset += x.pieces) {
    uint8_t* to = out + r * stride;
    for (int64_t i = 0; i < x.pieces;) {
      // Pieces that lie one after the other, as a window's row does in a channels-last image, are one copy.
      const int64_t at = offset[i++];
      int64_t length = x.length;
      if (at >= 0) {
        for (; i < x.pieces && offset[i] == at + length; i++) length += x.length;
        copy_short(to, x.data + at, length);
      } else {
        for (; i < x.pieces && offset[i] < 0; i++) length += x.length;
        memset(to, x.pad, static_cast<size_t>(length));
      }
      to += length;
    }
  }
}

void bytes_of_floats(const float* x, int64_t n, float step, int32_t zero, bool sign, uint8_t* out) {
  if (step > 0x1p-100f && step < 0x1p100f) {
    gemm_int8_kernels().codes(x, n, step, zero + (sign ? 128 : 0), out);
    if (sign)
      for (int64_t i = 0; i < n; i++) out[i] ^= 0x80;
    return;
  }
  QuantizeStep s = {};
  s.scale = &step;
  s.zero = &zero;
  s.qmin = sign ? -128 : 0;
  s.qmax = s.qmin + 255;
  quantize_kernels().codes8(x, 1, n, &s, out);
}

WhittleStatus gemm_int8(const GemmInt8Kernels& table, const GemmInt8Args& g) {
  if (g.packed && (g.packed->k != g.k || g.packed->n != g.n || g.packed->is_unsigned != g.b_unsigned)) return WHITTLE_SHAPE;
  if (g.fill && g.batch != 1) return WHITTLE_SHAPE;
  if (g.range && (g.batch != 1 || g.out_type != kOutFloat32)) return WHITTLE_SHAPE;
  if ((g.residual || g.added.codes) && (g.batch != 1 || g.out_type == kOutInt32)) return WHITTLE_SHAPE;
  if (!sums_fit(g)) return WHITTLE_RANGE;
  const int64_t size = g.out_type == kOutInt32 || g.out_type == kOutFloat32 ? 4 : 1;
  uint8_t* out = static_cast<uint8_t*>(g.out);
  // Refuses bad scales and biases before anything is written, also where there is nothing to compute.
  Columns columns;
  const WhittleStatus ready = prepare(table, g, &columns);
  if (ready == WHITTLE_OK && g.range) g.range[0] = g.range[1] = 0;
  if (ready != WHITTLE_OK || g.m == 0 || g.n == 0) return ready;
  auto product = [&](int64_t i, const Columns& c, int threads) {
    const int64_t ai = g.a_index ? g.a_index[i] : i, bi = g.b_index ? g.b_index[i] : i;
    const uint8_t* a = g.fill ? nullptr : g.a + ai * g.m * g.k;
    uint8_t* y = out + i * g.m * g.n * size;
    if (g.packed) return run_product(table, g, a, g.packed->data, g.packed->sums, nullptr, c, y, threads);
    return run_product(table, g, a, nullptr, nullptr, g.b + bi * g.k * g.n, c, y, threads);
  };
  // Many products: a thread each. Few: all threads on each.
  const int threads = g.threads > 0 ? g.threads : thread_limit();
  if (threads == 1 || g.batch < threads) {
    for (int64_t i = 0; i < g.batch; i++) {
      const WhittleStatus s = product(i, columns, g.threads);
      if (s != WHITTLE_OK) return s;
    }
    return WHITTLE_OK;
  }
  std::atomic<int> status{WHITTLE_OK};
  parallel_for(g.batch, 1, threads, [&](int64_t first, int64_t last) {
    Columns own;  // this thread's: the offsets are the product's
    WhittleStatus s = prepare(table, g, &own);
    for (int64_t i = first; i < last && s == WHITTLE_OK; i++) s = product(i, own, 1);
    if (s != WHITTLE_OK) status = s;
  });
  return static_cast<WhittleStatus>(status.load());
}

}  // namespace whittle
