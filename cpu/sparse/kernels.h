// The kernels of core/sparse.h once for every ISA; the including file has chosen cpu/common/lanes_<isa>.h and says by macros
// how many accumulators it has. A run keeps its accumulators (height x vectors) in registers while its entries pass: one
// index, the entry's values broadcast, rows of X from L1 or L2. Limits: SPARSE_VECTORS_<height> vectors at a time, wider
// strips in parts. Bound by loads: V + 2 for V multiply-adds of a single row.
#pragma once
#include <stdint.h>
#include <string.h>

#if defined(__GNUC__)
#define SPARSE_INLINE static inline __attribute__((always_inline))
#define SPARSE_UNROLL _Pragma("GCC unroll 16")
#else
#define SPARSE_INLINE static __forceinline
#define SPARSE_UNROLL
#endif

using namespace whittle;

template <bool kWide>
struct Values;
template <>
struct Values<true> {
  typedef float T;
  SPARSE_INLINE vf broadcast(const float* p) { return v_set(*p); }
  SPARSE_INLINE float one(const float* p) { return *p; }
  SPARSE_INLINE vf load(const float* p) { return v_load(p); }
};
template <>
struct Values<false> {
  typedef uint16_t T;
  SPARSE_INLINE vf broadcast(const uint16_t* p) { return v_broadcast_bf16(p); }
  SPARSE_INLINE float one(const uint16_t* p) {
    const uint32_t bits = (uint32_t)*p << 16;
    float v;
    memcpy(&v, &bits, 4);
    return v;
  }
  SPARSE_INLINE vf load(const uint16_t* p) { return v_widen(p); }
};

// A register for the address: with an index register every multiply-add would be two operations.
SPARSE_INLINE const float* row_at(const float* x, int64_t i) {
  const float* p = x + i;
#if defined(__GNUC__)
  __asm__("" : "+r"(p));
#endif
  return p;
}

template <bool kWide, int H, int V>
static void tile_part(const SparseTile* t, int64_t stride, int64_t offset) {
  typedef Values<kWide> O;
  const uint16_t* index = static_cast<const uint16_t*>(t->index);
  const typename O::T* values = static_cast<const typename O::T*>(t->values);
  const float* x = t->x + offset;
  float* const base = t->acc + offset;
  const int64_t width = t->width, group = H * stride;
  const char* ahead = reinterpret_cast<const char*>(t->ahead);
  const int64_t ahead_each = offset > 0 || t->groups == 0 ? 0 : (t->ahead_lines + t->groups - 1) / t->groups;
  int64_t ahead_left = t->ahead_lines;
  for (int64_t g = 0; g < t->groups; g++) {
    float* acc = base + t->runs[g].group * group;
    for (int64_t n = ahead_each < ahead_left ? ahead_each : ahead_left; n > 0; n--, ahead_left--, ahead += 64) V_PREFETCH_FAR(ahead);
    vf sum[H][V];
    SPARSE_UNROLL for (int i = 0; i < H; i++)
      SPARSE_UNROLL for (int v = 0; v < V; v++) sum[i][v] = t->fresh ? v_set(0.0f) : v_load(acc + i * stride + v * VF_LANES);
    for (int64_t left = t->runs[g].count; left > 0; left--, index++) {
      const float* row = row_at(x, *index * stride);
      int64_t c = width;
      do {
        vf in[V];
        SPARSE_UNROLL for (int v = 0; v < V; v++) in[v] = v_load(row + v * VF_LANES);
        SPARSE_UNROLL for (int i = 0; i < H; i++) {
          const vf w = O::broadcast(values + i);
          SPARSE_UNROLL for (int v = 0; v < V; v++) v_fma_into(sum[i][v], w, in[v]);
        }
        row += stride;
        values += H;
      } while (--c > 0);
    }
    SPARSE_UNROLL for (int i = 0; i < H; i++)
      SPARSE_UNROLL for (int v = 0; v < V; v++) v_store(acc + i * stride + v * VF_LANES, sum[i][v]);
  }
}

// Height 1, width 1: V vectors of X for each entry, two chains where few vectors would wait for their own sums. kWhole: the part is
// the whole strip.
template <bool kWide, class Index, int V, bool kWhole>
static void rows_part(const SparseTile* t, int64_t given_stride, int64_t offset) {
  const int64_t stride = kWhole ? V * VF_LANES : given_stride;
  typedef Values<kWide> O;
  constexpr int kChains = V > SPARSE_SINGLE_CHAIN ? 1 : 2;
  const Index* index = static_cast<const Index*>(t->index);
  const typename O::T* values = static_cast<const typename O::T*>(t->values);
  const float* x = t->x + offset;
  float* const base = t->acc + offset;
  const char* ahead = reinterpret_cast<const char*>(t->ahead);
  const int64_t ahead_each = offset > 0 || t->groups == 0 ? 0 : (t->ahead_lines + t->groups - 1) / t->groups;
  int64_t ahead_left = t->ahead_lines;
  for (int64_t g = 0; g < t->groups; g++) {
    float* acc = base + t->runs[g].group * stride;
    int64_t left = t->runs[g].count;
    for (int64_t n = ahead_each < ahead_left ? ahead_each : ahead_left; n > 0; n--, ahead_left--, ahead += 64) V_PREFETCH_FAR(ahead);
    // Weights come from beyond L2.
    for (int64_t b = 0; b < left; b += 64 / (int64_t)sizeof *values) V_PREFETCH(values + b + 1024 / sizeof *values);
    V_PREFETCH(index + 512 / sizeof *index);
    vf sum[kChains][V];
    SPARSE_UNROLL for (int v = 0; v < V; v++) {
      sum[0][v] = t->fresh ? v_set(0.0f) : v_load(acc + v * VF_LANES);
      SPARSE_UNROLL for (int c = 1; c < kChains; c++) sum[c][v] = v_set(0.0f);
    }
    for (; left >= kChains; left -= kChains, index += kChains, values += kChains)
      SPARSE_UNROLL for (int c = 0; c < kChains; c++) {
        const float* row = row_at(x, index[c] * stride);
        const vf w = O::broadcast(values + c);
        SPARSE_UNROLL for (int v = 0; v < V; v++) v_fma_into(sum[c][v], w, v_load(row + v * VF_LANES));
      }
    if (kChains > 1 && left > 0) {
      const float* row = row_at(x, *index++ * stride);
      const vf w = O::broadcast(values++);
      SPARSE_UNROLL for (int v = 0; v < V; v++) v_fma_into(sum[0][v], w, v_load(row + v * VF_LANES));
    }
    SPARSE_UNROLL for (int v = 0; v < V; v++)
      v_store(acc + v * VF_LANES, kChains > 1 ? v_add(sum[0][v], sum[kChains - 1][v]) : sum[0][v]);
  }
}

// A strip in parts of at most `most` vectors; parts[v - 1] takes v of them.
typedef void (*SparsePart)(const SparseTile*, int64_t stride, int64_t offset);
SPARSE_INLINE void by_parts(const SparseTile* t, int64_t most, const SparsePart* parts) {
  const int64_t stride = t->units * kSparseUnit, vectors = stride / VF_LANES, count = (vectors + most - 1) / most;
  for (int64_t p = 0; p < count; p++) {
    const int64_t first = vectors * p / count, end = vectors * (p + 1) / count;
    parts[end - first - 1](t, stride, first * VF_LANES);
  }
}

#define SPARSE_PARTS(part) {part(1), part(2), part(3), part(4), part(5), part(6), part(7), part(8)}

template <bool kWide, class Index, bool kWhole>
SPARSE_INLINE void rows_parts(const SparseTile* t) {
  constexpr int kMost = SPARSE_VECTORS_1;
#define SPARSE_ROWS(v) rows_part<kWide, Index, kMost < v ? kMost : v, kWhole>
  static const SparsePart parts[] = SPARSE_PARTS(SPARSE_ROWS);
#undef SPARSE_ROWS
  by_parts(t, kMost, parts);
}

template <bool kWide, class Index>
SPARSE_INLINE void rows_any(const SparseTile* t) {
  if (t->units * kSparseUnit / VF_LANES <= SPARSE_VECTORS_1) rows_parts<kWide, Index, true>(t);
  else rows_parts<kWide, Index, false>(t);
}

template <bool kWide, int H, int kMost>
SPARSE_INLINE void tile_by(const SparseTile* t) {
  static_assert(kMost <= 8, "more vectors than parts");
#define SPARSE_TILE(v) tile_part<kWide, H, kMost < v ? kMost : v>
  static const SparsePart parts[] = SPARSE_PARTS(SPARSE_TILE);
#undef SPARSE_TILE
  by_parts(t, kMost, parts);
}

template <bool kWide>
SPARSE_INLINE void tile_any(const SparseTile* t) {
  if (t->height == 1 && t->width == 1) return t->index_size == 1 ? rows_any<kWide, uint8_t>(t) : rows_any<kWide, uint16_t>(t);
  switch (t->height) {
    case 1: return tile_by<kWide, 1, SPARSE_VECTORS_1>(t);
    case 2: return tile_by<kWide, 2, SPARSE_VECTORS_2>(t);
    case 4: return tile_by<kWide, 4, SPARSE_VECTORS_4>(t);
    default: return tile_by<kWide, 8, SPARSE_VECTORS_8>(t);
  }
}

static void tile(const SparseTile* t) {
  if (t->type == kSparseF32) tile_any<true>(t);
  else tile_any<false>(t);
}

// ---------- one column ----------

// Height 1, width 1: as many columns as lanes at a time.
template <bool kWide, class Index>
static void vector_gather(const SparseTile* t) {
  typedef Values<kWide> O;
  const Index* index = static_cast<const Index*>(t->index);
  const typename O::T* values = static_cast<const typename O::T*>(t->values);
  for (int64_t g = 0; g < t->groups; g++) {
    const int64_t count = t->runs[g].count;
    vf a = v_set(0.0f), b = a;
    int64_t e = 0;
    for (; e + 2 * VF_LANES <= count; e += 2 * VF_LANES) {
      a = v_fma(O::load(values + e), v_gather(t->x, index + e), a);
      b = v_fma(O::load(values + e + VF_LANES), v_gather(t->x, index + e + VF_LANES), b);
    }
    if (e + VF_LANES <= count) {
      a = v_fma(O::load(values + e), v_gather(t->x, index + e), a);
      e += VF_LANES;
    }
    float sum = v_sum(v_add(a, b));
    for (; e < count; e++) sum += O::one(values + e) * t->x[index[e]];
    float* acc = t->acc + t->runs[g].group;
    *acc = t->fresh ? sum : *acc + sum;
    index += count;
    values += count;
  }
}

// Entries of H x width, a column's H values side by side: H sums in one chain a parity.
template <bool kWide, int H>
static void vector_block(const SparseTile* t) {
  typedef Values<kWide> O;
  const uint16_t* index = static_cast<const uint16_t*>(t->index);
  const typename O::T* values = static_cast<const typename O::T*>(t->values);
  const int64_t width = t->width;
  for (int64_t g = 0; g < t->groups; g++) {
    float sum[2][H];
    for (int i = 0; i < H; i++) sum[0][i] = sum[1][i] = 0;
    for (int64_t e = 0; e < t->runs[g].count; e++) {
      const float* x = t->x + *index++;
      for (int64_t c = 0; c < width; c++, values += H)
        SPARSE_UNROLL for (int i = 0; i < H; i++) sum[(e + c) & 1][i] += O::one(values + i) * x[c];
    }
    float* acc = t->acc + t->runs[g].group * H;
    SPARSE_UNROLL for (int i = 0; i < H; i++) acc[i] = (t->fresh ? 0.0f : acc[i]) + (sum[0][i] + sum[1][i]);
  }
}

// Height 1, width a multiple of the lanes: no gathering.
template <bool kWide>
static void vector_wide(const SparseTile* t) {
  typedef Values<kWide> O;
  const uint16_t* index = static_cast<const uint16_t*>(t->index);
  const typename O::T* values = static_cast<const typename O::T*>(t->values);
  const int64_t width = t->width;
  for (int64_t g = 0; g < t->groups; g++) {
    vf a = v_set(0.0f), b = a;
    int64_t e = t->runs[g].count;
    for (; e >= 2; e -= 2, index += 2, values += 2 * width)
      for (int64_t c = 0; c < width; c += VF_LANES) {
        a = v_fma(O::load(values + c), v_load(t->x + index[0] + c), a);
        b = v_fma(O::load(values + width + c), v_load(t->x + index[1] + c), b);
      }
    for (; e > 0; e--, index++, values += width)
      for (int64_t c = 0; c < width; c += VF_LANES) a = v_fma(O::load(values + c), v_load(t->x + *index + c), a);
    const float sum = v_sum(v_add(a, b));
    float* acc = t->acc + t->runs[g].group;
    *acc = t->fresh ? sum : *acc + sum;
  }
}

template <bool kWide>
SPARSE_INLINE void vector_any(const SparseTile* t) {
  switch (t->height) {
    case 1:
      if (t->width == 1) return t->index_size == 1 ? vector_gather<kWide, uint8_t>(t) : vector_gather<kWide, uint16_t>(t);
      if (t->width % VF_LANES == 0) return vector_wide<kWide>(t);
      return vector_block<kWide, 1>(t);
    case 2: return vector_block<kWide, 2>(t);
    case 4: return vector_block<kWide, 4>(t);
    default: return vector_block<kWide, 8>(t);
  }
}

static void vector(const SparseTile* t) {
  if (t->type == kSparseF32) vector_any<true>(t);
  else vector_any<false>(t);
}

template <bool kWide>
SPARSE_INLINE void slices(const SparseSlice* s) {
  typedef Values<kWide> O;
  constexpr int kVectors = kSparseUnit / VF_LANES;
  const uint16_t* index = s->index;
  const typename O::T* values = static_cast<const typename O::T*>(s->values);
  for (int64_t q = 0; q < s->slices; q++) {
    vf a[kVectors], b[kVectors];
    SPARSE_UNROLL for (int v = 0; v < kVectors; v++) a[v] = b[v] = v_set(0.0f);
    int64_t left = s->counts[q];
    for (; left >= 2; left -= 2, index += 2 * kSparseUnit, values += 2 * kSparseUnit) {
      V_PREFETCH(index + 512);
      V_PREFETCH(values + 512);
      if (kWide) V_PREFETCH(values + 528);
      SPARSE_UNROLL for (int v = 0; v < kVectors; v++) {
        a[v] = v_fma(O::load(values + v * VF_LANES), v_gather(s->x, index + v * VF_LANES), a[v]);
        b[v] = v_fma(O::load(values + kSparseUnit + v * VF_LANES), v_gather(s->x, index + kSparseUnit + v * VF_LANES), b[v]);
      }
    }
    if (left > 0) {
      SPARSE_UNROLL for (int v = 0; v < kVectors; v++)
        a[v] = v_fma(O::load(values + v * VF_LANES), v_gather(s->x, index + v * VF_LANES), a[v]);
      index += kSparseUnit;
      values += kSparseUnit;
    }
    SPARSE_UNROLL for (int v = 0; v < kVectors; v++) v_store(s->acc + q * kSparseUnit + v * VF_LANES, v_add(a[v], b[v]));
  }
}

static void slice(const SparseSlice* s) {
  if (s->type == kSparseF32) slices<true>(s);
  else slices<false>(s);
}

// ---------- in and out ----------

// to[j * to_stride + i] = from[i * from_stride + j], i < rows, j < columns.
SPARSE_INLINE void turn(const float* from, int64_t from_stride, int64_t rows, int64_t columns, float* to, int64_t to_stride) {
  int64_t i = 0;
  for (; i + 8 <= rows; i += 8) {
    int64_t j = 0;
    for (; j + 8 <= columns; j += 8) v_turn8(from + i * from_stride + j, from_stride, to + j * to_stride + i, to_stride);
    for (; j < columns; j++)
      for (int64_t q = i; q < i + 8; q++) to[j * to_stride + q] = from[q * from_stride + j];
  }
  for (; i < rows; i++)
    for (int64_t j = 0; j < columns; j++) to[j * to_stride + i] = from[i * from_stride + j];
}

static void pack(const SparsePack* p) {
  const int64_t wide = p->units * kSparseUnit;
  float* out = p->out;
  if (p->transposed) {
#if defined(V_TURN16)
    // Sixteen rows of x at a time, along their length.
    const int64_t full = p->columns / 16 * 16, deep = p->valid / 16 * 16;
    for (int64_t j = 0; j < full; j += 16) {
      const float* x = p->x + j * p->stride;
      for (int64_t i = 0; i < deep; i += 16) {
        SPARSE_UNROLL for (int r = 0; r < 16; r++) V_PREFETCH(x + r * p->stride + i + 48);
        v_turn16(x + i, p->stride, out + i * wide + j, wide);
      }
      if (deep < p->valid) turn(x + deep, p->stride, 16, p->valid - deep, out + deep * wide + j, wide);
    }
    if (full < p->columns) turn(p->x + full * p->stride, p->stride, p->columns - full, p->valid, out + full, wide);
#else
    // A bounded piece at a time, so that lines of x are used up while they are near.
    for (int64_t i = 0; i < p->valid; i += 64) {
      const int64_t k = p->valid - i < 64 ? p->valid - i : 64;
      turn(p->x + i, p->stride, p->columns, k, out + i * wide, wide);
    }
#endif
    if (p->columns < wide)
      for (int64_t i = 0; i < p->valid; i++)
        for (int64_t j = p->columns; j < wide; j++) out[i * wide + j] = 0;
  } else {
    const int64_t full = p->columns / VF_LANES * VF_LANES, rest = p->columns - full;
    for (int64_t i = 0; i < p->valid; i++) {
      const float* x = p->x + i * p->stride;
      float* to = out + i * wide;
      int64_t j = 0;
      for (; j < full; j += VF_LANES) v_store(to + j, v_load(x + j));
      if (rest > 0) {
        v_store(to + j, v_load_part(x + j, rest, v_set(0.0f)));
        j += VF_LANES;
      }
      for (; j < wide; j += VF_LANES) v_store(to + j, v_set(0.0f));
    }
  }
  memset(out + p->valid * wide, 0, (size_t)((p->k - p->valid) * wide) * 4);
}

static void finish(const SparseFinish* f) {
  const Activation a = f->activation;
  const vf lo = v_set(a.lo), hi = v_set(a.hi);
  if (f->columns == 1 && f->acc_stride == 1 && f->transposed) {
    for (int64_t i = 0; i < f->rows; i += VF_LANES) {
      const int64_t n = f->rows - i;
      vf y = n >= VF_LANES ? v_load(f->acc + i) : v_load_part(f->acc + i, n, v_set(0.0f));
      if (f->bias) y = v_add(y, n >= VF_LANES ? v_load(f->bias + i) : v_load_part(f->bias + i, n, v_set(0.0f)));
      y = act_apply(y, a.kind, lo, hi);
      if (n >= VF_LANES) v_store(f->out + i, y);
      else v_store_part(f->out + i, y, n);
    }
    return;
  }
#if defined(V_TURN16)
  if (f->transposed) {
    float block[16 * 16], turned[16 * 16];
    for (int64_t j = 0; j < f->columns; j += 16) {
      const int64_t n = f->columns - j < 16 ? f->columns - j : 16;
      for (int64_t i = 0; i < f->rows; i += 16) {
        const int64_t m = f->rows - i < 16 ? f->rows - i : 16;
        for (int64_t r = 0; r < m; r++) {
          const float* acc = f->acc + (i + r) * f->acc_stride + j;
          const vf y = v_add(n == 16 ? v_load(acc) : v_load_part(acc, n, v_set(0.0f)), v_set(f->bias ? f->bias[i + r] : -0.0f));
          v_store(block + r * 16, act_apply(y, a.kind, lo, hi));
        }
        float* out = f->out + j * f->out_stride + i;
        if (m == 16 && n == 16) {
          v_turn16(block, 16, out, f->out_stride);
          continue;
        }
        for (int64_t r = m; r < 16; r++) v_store(block + r * 16, v_set(0.0f));
        v_turn16(block, 16, turned, 16);
        for (int64_t c = 0; c < n; c++) v_store_part(out + c * f->out_stride, v_load(turned + c * 16), m);
      }
    }
    return;
  }
#endif
  float strip[8 * kSparseMaxUnits * kSparseUnit];
  for (int64_t i = 0; i < f->rows; i++) {
    const float* acc = f->acc + i * f->acc_stride;
    const vf bias = v_set(f->bias ? f->bias[i] : -0.0f);
    // Wider than a strip only where nothing is turned.
    float* to = f->transposed && f->acc_stride <= kSparseMaxUnits * kSparseUnit ? strip + (i & 7) * f->acc_stride : nullptr;
    if (f->transposed && !to) {
      for (int64_t j = 0; j < f->columns; j++) {
        float lane[VF_LANES] = {acc[j]};
        v_store(lane, act_apply(v_add(v_load(lane), bias), a.kind, lo, hi));
        f->out[j * f->out_stride + i] = lane[0];
      }
      continue;
    }
    if (!to) to = f->out + i * f->out_stride;
    int64_t j = 0;
    for (; j + VF_LANES <= f->columns; j += VF_LANES) v_store(to + j, act_apply(v_add(v_load(acc + j), bias), a.kind, lo, hi));
    if (j < f->columns) {
      const int64_t n = f->columns - j;
      v_store_part(to + j, act_apply(v_add(v_load_part(acc + j, n, v_set(0.0f)), bias), a.kind, lo, hi), n);
    }
    if (f->transposed && ((i & 7) == 7 || i + 1 == f->rows))
      turn(strip, f->acc_stride, (i & 7) + 1, f->columns, f->out + (i & ~int64_t(7)), f->out_stride);
  }
}

SPARSE_INLINE void install(SparseKernels* t) {
  t->units = SPARSE_VECTORS_1 * VF_LANES / kSparseUnit < kSparseMaxUnits ? SPARSE_VECTORS_1 * VF_LANES / kSparseUnit : kSparseMaxUnits;
  t->tile = tile;
  t->vector = vector;
  t->slice = slice;
  t->pack = pack;
  t->finish = finish;
}
