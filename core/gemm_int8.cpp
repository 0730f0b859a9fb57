#include "core/gemm_int8.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <atomic>
#include <initializer_list>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(_WIN32)
#include <malloc.h>
#endif

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

void* aligned_new(size_t bytes) {
  bytes = (bytes + 63) / 64 * 64 + 64;
#if defined(_WIN32)
  return _aligned_malloc(bytes, 64);
#else
  // Large blocks start on a huge page where the system can give one: reading weights then misses the TLB far less.
  const size_t huge = size_t(2) << 20;
  void* p = nullptr;
  if (posix_memalign(&p, bytes >= 2 * huge ? huge : 64, bytes) != 0) return nullptr;
#if defined(__linux__)
  if (bytes >= 2 * huge) madvise(p, bytes, MADV_HUGEPAGE);
#endif
  return p;
#endif
}

void aligned_delete(void* p) {
#if defined(_WIN32)
  _aligned_free(p);
#else
  free(p);
#endif
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

// Fills the epilogue for one product. `sums` are the column sums of b'.
WhittleStatus prepare(const GemmInt8Kernels& table, const GemmInt8Args& g, const int32_t* sums, Scratch* scratch,
                      GemmInt8Epilogue* e) {
  const int64_t n = g.n, padded = round_up(n, table.columns);
  const bool floats = g.out_type != kOutInt32;
  const bool zeros = g.b_zeros || g.b_zero != (g.b_unsigned ? 128 : 0);
  int32_t* at = static_cast<int32_t*>(scratch->need(static_cast<size_t>(padded) * 16));
  if (!at) return WHITTLE_OUT_OF_MEMORY;
  int32_t* offset = at;
  int32_t* b_zero = zeros ? at + padded : nullptr;
  float* scale = reinterpret_cast<float*>(at + 2 * padded);
  float* bias = reinterpret_cast<float*>(at + 3 * padded);
  const uint32_t a_zero = static_cast<uint32_t>(g.a_zero + (g.a_signed ? table.shift_s8 : table.shift_u8));
  if (zeros) {
    const int32_t shift = g.b_unsigned ? 128 : 0;
    for (int64_t j = 0; j < n; j++)
      b_zero[j] = (!g.b_zeros ? g.b_zero : g.b_unsigned ? g.b_zeros[j] : static_cast<int8_t>(g.b_zeros[j])) - shift;
    for (int64_t j = 0; j < n; j++)
      offset[j] = static_cast<int32_t>(a_zero * (static_cast<uint32_t>(g.k) * static_cast<uint32_t>(b_zero[j]) -
                                                 static_cast<uint32_t>(sums[j])));
  } else {
    for (int64_t j = 0; j < n; j++) offset[j] = static_cast<int32_t>(0u - a_zero * static_cast<uint32_t>(sums[j]));
  }
  if (g.bias_int)
    for (int64_t j = 0; j < n; j++)
      offset[j] = static_cast<int32_t>(static_cast<uint32_t>(offset[j]) + static_cast<uint32_t>(g.bias_int[j]));
  if (floats) {
    bool good = true;
    for (int64_t j = 0; j < n; j++) {
      scale[j] = g.a_scale * (g.b_scales ? g.b_scales[j] : g.b_scale);
      good &= scale[j] > 0 && scale[j] <= 3.402823466e38f;
    }
    if (!good) return WHITTLE_RANGE;
    if (g.bias_float) {
      for (int64_t j = 0; j < n; j++) {
        bias[j] = g.bias_float[j];
        good &= bias[j] - bias[j] == 0;
      }
      if (!good) return WHITTLE_NONFINITE;
    } else {
      for (int64_t j = 0; j < n; j++) bias[j] = -0.0f;
    }
  }
  e->offset = offset;
  e->b_zero = b_zero;
  e->scale = scale;
  e->bias = bias;
  e->out_scale = g.out_scale;
  e->out_zero = g.out_zero;
  e->activation = g.activation;
  e->out_type = g.out_type;
  return WHITTLE_OK;
}

int64_t packed_bytes(const GemmInt8Kernels& table, int64_t k, int64_t n) {
  return round_up(n, table.vector) * round_up(k, table.k_step);
}

void pack_all(const GemmInt8Kernels& table, const uint8_t* w, bool is_unsigned, bool transposed, int64_t k, int64_t n,
              int threads, int8_t* data, int32_t* sums) {
  const int64_t panels = (n + table.columns - 1) / table.columns;
  const int64_t panel_bytes = table.columns * round_up(k, table.k_step);
  if (k * n < 65536) threads = 1;
  parallel_for(panels, 1, threads, [&](int64_t first, int64_t last) {
    for (int64_t p = first; p < last; p++) {
      GemmInt8Pack pack = {};
      pack.w = w;
      pack.k = k;
      pack.n = n;
      pack.stride = transposed ? k : n;
      pack.transposed = transposed;
      pack.flip = is_unsigned ? 0x80 : 0;
      pack.panel = p;
      pack.out = data + p * panel_bytes;
      pack.sums = sums + p * table.columns;
      table.pack(&pack);
    }
  });
}

struct Product {
  const GemmInt8Kernels* table;
  const GemmInt8Epilogue* epilogue;
  const uint8_t* a;
  bool a_signed;
  int64_t m, n, k, padded_k, panels, panel_bytes, size;
  const int8_t* data;
  uint8_t* out;
  // How the work is cut: blocks of rows times groups of panels.
  int64_t block_rows, blocks, group_panels, groups, stride;
  bool direct;  // the caller's rows serve as they are
  uint64_t call;
  std::atomic<bool>* short_of_memory;
};

void run_piece(const Product& p, int64_t block, int64_t group) {
  const GemmInt8Kernels& table = *p.table;
  const int64_t first = block * p.block_rows;
  const int64_t rows = p.m - first < p.block_rows ? p.m - first : p.block_rows;
  ThreadState& state = t_state;
  const uint8_t* source = p.a + first * p.k;
  GemmInt8Panel panel = {};
  if (p.direct) {
    panel.a = source;
    panel.a_stride = p.k;
  } else {
    const size_t bytes = static_cast<size_t>(rows) * static_cast<size_t>(p.stride);
    if (state.call != p.call || state.block != block) {
      state.call = 0;
      if (!state.rows.need(bytes + static_cast<size_t>(rows) * 4)) {
        p.short_of_memory->store(true);
        return;
      }
      GemmInt8Convert convert = {};
      convert.a = source;
      convert.stride = p.k;
      convert.rows = rows;
      convert.k = p.k;
      convert.padded = p.padded_k;
      convert.is_signed = p.a_signed;
      convert.out = state.rows.data;
      convert.out_stride = p.stride;
      convert.sums = p.epilogue->b_zero
                         ? reinterpret_cast<int32_t*>(static_cast<uint8_t*>(state.rows.data) + bytes)
                         : nullptr;
      table.convert(&convert);
      state.call = p.call;
      state.block = block;
    }
    panel.a = state.rows.data;
    panel.a_stride = p.stride;
    if (p.epilogue->b_zero)
      panel.a_sums = reinterpret_cast<const int32_t*>(static_cast<const uint8_t*>(state.rows.data) + bytes);
  }
  panel.rows = rows;
  panel.steps = p.padded_k / table.k_step;
  panel.epilogue = p.epilogue;
  panel.out = p.out + first * p.n * p.size;
  panel.out_stride = p.n;
  const int64_t end = (group + 1) * p.group_panels < p.panels ? (group + 1) * p.group_panels : p.panels;
  for (int64_t i = group * p.group_panels; i < end; i++) {
    panel.b = p.data + i * p.panel_bytes;
    panel.column = i * table.columns;
    panel.columns = p.n - panel.column < table.columns ? p.n - panel.column : table.columns;
    table.panel(&panel);
  }
}

// Rows per block so that a block of a' stays in half the second-level cache while all panels pass by; then enough pieces
// that threads finish together.
void cut(Product* p, int threads) {
  const GemmInt8Kernels& t = *p->table;
  p->stride = round_up(p->padded_k * t.a_bytes, 64) + 64;  // never a multiple of 4096 bytes: rows spread over cache sets
  int64_t most = cache_sizes().l2 / 2 / p->stride / t.rows * t.rows;
  if (most < t.rows) most = t.rows;
  p->blocks = (p->m + most - 1) / most;
  const int64_t want = threads > 1 ? 8 * static_cast<int64_t>(threads) : 1;
  if (p->blocks * p->panels < want) {
    const int64_t finest = (p->m + 4 * t.rows - 1) / (4 * t.rows);
    const int64_t blocks = (want + p->panels - 1) / p->panels;
    p->blocks = blocks > finest ? (finest > p->blocks ? finest : p->blocks) : blocks;
  }
  p->block_rows = round_up((p->m + p->blocks - 1) / p->blocks, t.rows);
  p->blocks = (p->m + p->block_rows - 1) / p->block_rows;
  int64_t groups = (want + p->blocks - 1) / p->blocks;
  if (groups > p->panels) groups = p->panels;
  p->group_panels = (p->panels + groups - 1) / groups;
  p->groups = (p->panels + p->group_panels - 1) / p->group_panels;
}

WhittleStatus run_product(const GemmInt8Kernels& table, const GemmInt8Args& g, const uint8_t* a, const int8_t* data,
                          const GemmInt8Epilogue& e, uint8_t* out, int threads) {
  std::atomic<bool> short_of_memory{false};
  Product p = {};
  p.table = &table;
  p.epilogue = &e;
  p.a = a;
  p.a_signed = g.a_signed;
  p.m = g.m;
  p.n = g.n;
  p.k = g.k;
  p.padded_k = round_up(g.k, table.k_step);
  p.panels = (g.n + table.columns - 1) / table.columns;
  p.panel_bytes = table.columns * p.padded_k;
  p.size = g.out_type == kOutInt32 || g.out_type == kOutFloat32 ? 4 : 1;
  p.data = data;
  p.out = out;
  p.call = g_call.fetch_add(1, std::memory_order_relaxed) + 1;
  p.short_of_memory = &short_of_memory;
  p.direct = table.a_bytes == 1 && (g.a_signed ? table.shift_s8 : table.shift_u8) == 0 && p.padded_k == g.k && !e.b_zero &&
             (g.k % 1024 != 0 || g.m <= 4);
  const double work = static_cast<double>(g.m) * static_cast<double>(g.n) * static_cast<double>(g.k);
  if (work < 400e3) threads = 1;
  else if (threads <= 0) threads = thread_limit();
  cut(&p, threads);
  parallel_for(p.blocks * p.groups, 1, threads, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i++) run_piece(p, i / p.groups, i % p.groups);
  });
  return short_of_memory ? WHITTLE_OUT_OF_MEMORY : WHITTLE_OK;
}

}  // namespace

VariantList<GemmInt8Kernels> gemm_int8_variants() {
  return {kVariants, static_cast<int>(sizeof kVariants / sizeof kVariants[0])};
}
const GemmInt8Kernels& gemm_int8_kernels() { return resolved().table; }
Tier gemm_int8_tier() { return resolved().tier; }

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

WhittleStatus gemm_int8(const GemmInt8Kernels& table, const GemmInt8Args& g) {
  if (g.packed && (g.packed->k != g.k || g.packed->n != g.n || g.packed->is_unsigned != g.b_unsigned)) return WHITTLE_SHAPE;
  if (!sums_fit(g)) return WHITTLE_RANGE;
  const int64_t size = g.out_type == kOutInt32 || g.out_type == kOutFloat32 ? 4 : 1;
  uint8_t* out = static_cast<uint8_t*>(g.out);
  // Refuses bad scales and biases before anything is written, also where there is nothing to compute.
  GemmInt8Epilogue e;
  if (g.packed) {
    const WhittleStatus status = prepare(table, g, g.packed->sums, &t_state.columns, &e);
    if (status != WHITTLE_OK || g.m == 0 || g.n == 0) return status;
    for (int64_t i = 0; i < g.batch; i++) {
      const int64_t ai = g.a_index ? g.a_index[i] : i;
      const WhittleStatus s =
          run_product(table, g, g.a + ai * g.m * g.k, g.packed->data, e, out + i * g.m * g.n * size, g.threads);
      if (s != WHITTLE_OK) return s;
    }
    return WHITTLE_OK;
  }
  const int64_t bytes = round_up(packed_bytes(table, g.k, g.n), 64), columns = round_up(g.n, table.columns);
  {
    Scratch trial;
    int32_t* sums = static_cast<int32_t*>(trial.need(static_cast<size_t>(columns) * 4));
    if (!sums) return WHITTLE_OUT_OF_MEMORY;
    memset(sums, 0, static_cast<size_t>(columns) * 4);
    const WhittleStatus status = prepare(table, g, sums, &t_state.columns, &e);
    if (status != WHITTLE_OK || g.m == 0 || g.n == 0) return status;
  }
  // Many products: a thread each. Few: all threads on each.
  int threads = g.threads > 0 ? g.threads : thread_limit();
  const bool spread = threads > 1 && g.batch >= threads;
  std::atomic<int> status{WHITTLE_OK};
  parallel_for(g.batch, spread ? 1 : g.batch, spread ? threads : 1, [&](int64_t first, int64_t last) {
    Scratch weights;
    int8_t* data = static_cast<int8_t*>(weights.need(static_cast<size_t>(bytes + columns * 4)));
    if (!data) {
      status = WHITTLE_OUT_OF_MEMORY;
      return;
    }
    int32_t* sums = reinterpret_cast<int32_t*>(data + bytes);
    int64_t packed = -1;
    GemmInt8Epilogue own;
    for (int64_t i = first; i < last && status == WHITTLE_OK; i++) {
      const int64_t bi = g.b_index ? g.b_index[i] : i, ai = g.a_index ? g.a_index[i] : i;
      const int inner = spread ? 1 : threads;
      if (bi != packed) {
        pack_all(table, g.b + bi * g.k * g.n, g.b_unsigned, g.b_transposed, g.k, g.n, inner, data, sums);
        packed = bi;
        const WhittleStatus s = prepare(table, g, sums, &t_state.columns, &own);
        if (s != WHITTLE_OK) {
          status = s;
          return;
        }
      }
      const WhittleStatus s =
          run_product(table, g, g.a + ai * g.m * g.k, data, own, out + i * g.m * g.n * size, inner);
      if (s != WHITTLE_OK) status = s;
    }
  });
  return static_cast<WhittleStatus>(status.load());
}

}  // namespace whittle
