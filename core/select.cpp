#include "core/select.h"

#include <math.h>
#include <string.h>

#include <atomic>
#include <memory>
#include <new>

#include "core/threads.h"

#define WHITTLE_VARIANT(tier) extern "C" void select_install_##tier(whittle::SelectKernels*);
#include "cpu/select/variants.inc"
#undef WHITTLE_VARIANT

namespace whittle {
namespace {

const Variant<SelectKernels> kVariants[] = {
#define WHITTLE_VARIANT(tier) {Tier::tier, select_install_##tier},
#include "cpu/select/variants.inc"
#undef WHITTLE_VARIANT
};

const Resolved<SelectKernels>& resolved() {
  static const Resolved<SelectKernels> r = resolve(select_variants());
  return r;
}

constexpr int64_t kPiece = 65536;     // elements a task; fixed, so that sums do not depend on the thread count
constexpr int64_t kColumnTile = 2048; // doubles of a column accumulator that stay in the first-level cache

double finish(int norm, double s) { return norm == kSelectL2 ? sqrt(s) : norm == kSelectTaylor ? s * s : s; }

double join(int norm, double acc, double t) {
  if (norm != kSelectMax) return acc + t;
  return t > acc || t != t ? t : acc;
}

template <class T>
std::unique_ptr<T[]> room(int64_t n) {
  return std::unique_ptr<T[]>(new (std::nothrow) T[static_cast<size_t>(n > 0 ? n : 1)]);
}

// Wide groups: each is cut into pieces of its flat [outer, inner] index.
WhittleStatus groups_by_rows(int norm, const float* x, const float* g, int64_t outer, int64_t axis, int64_t inner,
                             float* out) {
  const SelectKernels& k = select_kernels();
  const int64_t length = outer * inner, pieces = (length + kPiece - 1) / kPiece;
  std::unique_ptr<double[]> partial = room<double>(axis * pieces);
  if (!partial) return WHITTLE_OUT_OF_MEMORY;
  const int64_t grain = length >= kPiece ? 1 : (kPiece + length) / (length + 1);
  parallel_for(axis * pieces, grain, 0, [&](int64_t first, int64_t last) {
    for (int64_t t = first; t < last; t++) {
      const int64_t a = t / pieces, begin = t % pieces * kPiece;
      const int64_t end = begin + kPiece < length ? begin + kPiece : length;
      double sum = 0;
      for (int64_t at = begin; at < end;) {
        const int64_t o = at / inner, i = at % inner;
        const int64_t n = inner - i < end - at ? inner - i : end - at;
        const int64_t offset = (o * axis + a) * inner + i;
        sum = join(norm, sum, k.reduce(norm, x + offset, g ? g + offset : nullptr, n));
        at += n;
      }
      partial[t] = sum;
    }
  });
  int nan = 0;
  for (int64_t a = 0; a < axis; a++) {
    double sum = 0;
    for (int64_t p = 0; p < pieces; p++) sum = join(norm, sum, partial[a * pieces + p]);
    out[a] = static_cast<float>(finish(norm, sum));
    nan |= out[a] != out[a];
  }
  return nan ? WHITTLE_NONFINITE : WHITTLE_OK;
}

// Narrow groups: whole rows of [axis, inner] are added into an accumulator, and that is folded.
WhittleStatus groups_by_columns(int norm, const float* x, const float* g, int64_t outer, int64_t axis, int64_t inner,
                                float* out) {
  const SelectKernels& k = select_kernels();
  const int64_t per_tile = kColumnTile / inner, width = axis * inner;
  const int64_t tiles = (axis + per_tile - 1) / per_tile, tile_width = per_tile * inner;
  const int64_t slab = kPiece / (width < tile_width ? width : tile_width), slabs = (outer + slab - 1) / slab;
  std::unique_ptr<double[]> partial = room<double>(slabs * width);
  if (!partial) return WHITTLE_OUT_OF_MEMORY;
  parallel_for(tiles * slabs, 1, 0, [&](int64_t first, int64_t last) {
    for (int64_t t = first; t < last; t++) {
      const int64_t from = t % tiles * tile_width, n = width - from < tile_width ? width - from : tile_width;
      const int64_t s = t / tiles, o1 = (s + 1) * slab < outer ? (s + 1) * slab : outer;
      double* acc = partial.get() + s * width + from;
      memset(acc, 0, static_cast<size_t>(n) * sizeof(double));
      for (int64_t o = s * slab; o < o1; o++)
        k.columns(norm, x + o * width + from, g ? g + o * width + from : nullptr, n, acc);
    }
  });
  int nan = 0;
  for (int64_t a = 0; a < axis; a++) {
    double sum = 0;
    for (int64_t s = 0; s < slabs; s++)
      for (int64_t i = 0; i < inner; i++) sum = join(norm, sum, partial[s * width + a * inner + i]);
    out[a] = static_cast<float>(finish(norm, sum));
    nan |= out[a] != out[a];
  }
  return nan ? WHITTLE_NONFINITE : WHITTLE_OK;
}

}  // namespace

VariantList<SelectKernels> select_variants() {
  return {kVariants, static_cast<int>(sizeof kVariants / sizeof kVariants[0])};
}
const SelectKernels& select_kernels() { return resolved().table; }
Tier select_tier() { return resolved().tier; }

WhittleStatus select_scores(int norm, const float* x, const float* g, int64_t n, float* out) {
  const SelectKernels& k = select_kernels();
  std::atomic<int> nan{0};
  parallel_for(n, kPiece, 0, [&](int64_t b, int64_t e) {
    if (k.scores(norm, x + b, g ? g + b : nullptr, e - b, out + b)) nan = 1;
  });
  return nan ? WHITTLE_NONFINITE : WHITTLE_OK;
}

void select_random(uint64_t seed, int64_t n, float* out) {
  parallel_for(n, kPiece, 0, [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; i++) {
      uint64_t z = seed + (static_cast<uint64_t>(i) + 1) * 0x9e3779b97f4a7c15ull;
      z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
      z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
      z ^= z >> 31;
      out[i] = static_cast<float>(z >> 40) * 0x1p-24f;
    }
  });
}

WhittleStatus select_groups(int norm, const float* x, const float* g, int64_t outer, int64_t axis, int64_t inner,
                            float* out) {
  if (axis == 0) return WHITTLE_OK;
  if (outer == 0 || inner == 0) {
    memset(out, 0, static_cast<size_t>(axis) * sizeof(float));
    return WHITTLE_OK;
  }
  return inner < 32 ? groups_by_columns(norm, x, g, outer, axis, inner, out)
                    : groups_by_rows(norm, x, g, outer, axis, inner, out);
}

WhittleStatus select_median(const float* x, int64_t outer, int64_t axis, int64_t inner, float* out) {
  const SelectKernels& k = select_kernels();
  const int64_t length = outer * inner;
  std::unique_ptr<float[]> copy;
  if (outer > 1) {
    copy = room<float>(axis * length);
    if (!copy) return WHITTLE_OUT_OF_MEMORY;
    for (int64_t o = 0; o < outer; o++)
      for (int64_t a = 0; a < axis; a++)
        memcpy(copy.get() + a * length + o * inner, x + (o * axis + a) * inner,
               static_cast<size_t>(inner) * sizeof(float));
    x = copy.get();
  }
  std::atomic<int> nan{0};
  parallel_for(axis, 1, 0, [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; i++) {
      double sum = 0;
      for (int64_t j = 0; j < axis; j++)
        if (j != i) sum += sqrt(k.distance(x + i * length, x + j * length, length));
      out[i] = static_cast<float>(sum);
      if (out[i] != out[i]) nan = 1;
    }
  });
  return nan ? WHITTLE_NONFINITE : WHITTLE_OK;
}

WhittleStatus select_blocks(int norm, const float* x, const float* g, int64_t rows, int64_t cols, int64_t r, int64_t c,
                            float* out) {
  const SelectKernels& k = select_kernels();
  if (rows == 0 || cols == 0) return WHITTLE_OK;
  const int64_t across = cols / c, down = rows / r;
  std::atomic<int> nan{0};
  if (c > kColumnTile) {
    parallel_for(down * across, 1, 0, [&](int64_t first, int64_t last) {
      for (int64_t t = first; t < last; t++) {
        double sum = 0;
        for (int64_t i = 0; i < r; i++) {
          const int64_t offset = (t / across * r + i) * cols + t % across * c;
          sum = join(norm, sum, k.reduce(norm, x + offset, g ? g + offset : nullptr, c));
        }
        out[t] = static_cast<float>(finish(norm, sum));
        if (out[t] != out[t]) nan = 1;
      }
    });
    return nan ? WHITTLE_NONFINITE : WHITTLE_OK;
  }
  const int64_t per_tile = kColumnTile / c, tiles = (across + per_tile - 1) / per_tile;
  const int64_t work = r * (per_tile < across ? per_tile : across) * c;
  parallel_for(down * tiles, work >= kPiece ? 1 : kPiece / work, 0, [&](int64_t first, int64_t last) {
    double acc[kColumnTile];
    int bad = 0;
    for (int64_t t = first; t < last; t++) {
      const int64_t from = t % tiles * per_tile, blocks = across - from < per_tile ? across - from : per_tile;
      memset(acc, 0, static_cast<size_t>(blocks * c) * sizeof(double));
      for (int64_t i = 0; i < r; i++) {
        const int64_t offset = (t / tiles * r + i) * cols + from * c;
        k.columns(norm, x + offset, g ? g + offset : nullptr, blocks * c, acc);
      }
      float* to = out + t / tiles * across + from;
      for (int64_t b = 0; b < blocks; b++) {
        double sum = acc[b * c];
        for (int64_t i = 1; i < c; i++) sum = join(norm, sum, acc[b * c + i]);
        to[b] = static_cast<float>(finish(norm, sum));
        bad |= to[b] != to[b];
      }
    }
    if (bad) nan = 1;
  });
  return nan ? WHITTLE_NONFINITE : WHITTLE_OK;
}

void select_expand(const uint8_t* flags, int64_t groups, int64_t repeat, int64_t count, int64_t width, uint8_t* mask) {
  const SelectKernels& k = select_kernels();
  const int64_t row = count * width;
  if (row == 0) return;
  parallel_for(groups * repeat, row >= kPiece ? 1 : kPiece / row, 0, [&](int64_t first, int64_t last) {
    int64_t done = -1;
    for (int64_t t = first; t < last; t++) {
      const int64_t group = t / repeat;
      if (group == done) {
        memcpy(mask + t * row, mask + (t - 1) * row, static_cast<size_t>(row));
      } else {
        k.expand(flags + group * count, count, width, mask + t * row);
        done = group;
      }
    }
  });
}

void select_apply(const float* x, const uint8_t* mask, int64_t n, float* out) {
  const SelectKernels& k = select_kernels();
  parallel_for(n, kPiece, 0, [&](int64_t b, int64_t e) { k.apply(x + b, mask + b, e - b, out + b); });
}

}  // namespace whittle
