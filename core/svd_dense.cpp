#include "core/svd_dense.h"

#include <stdlib.h>

#include <algorithm>
#include <atomic>

#include "core/scratch.h"
#include "core/threads.h"

#define WHITTLE_VARIANT(tier) extern "C" void svd_install_##tier(whittle::SvdKernels*);
#include "cpu/svd/variants.inc"
#undef WHITTLE_VARIANT

namespace whittle {

VariantList<SvdKernels> svd_variants() {
  static const Variant<SvdKernels> list[] = {
#define WHITTLE_VARIANT(tier) {Tier::tier, svd_install_##tier},
#include "cpu/svd/variants.inc"
#undef WHITTLE_VARIANT
  };
  return {list, static_cast<int>(sizeof list / sizeof *list)};
}

namespace {

const Resolved<SvdKernels>& resolved() {
  static const Resolved<SvdKernels> r = resolve(svd_variants());
  return r;
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Full panels whose lines lie side by side, of a width that the compiler knows.
template <int W, class T>
void pack_side(int64_t k, const T* from, int64_t along, double* out) {
  for (int64_t p = 0; p < k; p++, from += along, out += W)
    for (int q = 0; q < W; q++) out[q] = from[q];
}

// Panels of `width` lines of X: line i of the panel at out[p * width + i], p along the other side; zeros past the last.
template <class T>
void pack(int64_t lines, int64_t k, const T* x, int64_t line, int64_t along, int64_t width, double* out) {
  for (int64_t i = 0; i < lines; i += width, out += k * width) {
    const int64_t n = std::min(width, lines - i);
    const T* from = x + i * line;
    if (line == 1 && n == width && (width == 16 || width == 14 || width == 8 || width == 6)) {
      if (width == 16) pack_side<16>(k, from, along, out);
      else if (width == 14) pack_side<14>(k, from, along, out);
      else if (width == 8) pack_side<8>(k, from, along, out);
      else pack_side<6>(k, from, along, out);
      continue;
    }
    if (line == 1) {
      for (int64_t p = 0; p < k; p++) {
        const T* at = from + p * along;
        double* to = out + p * width;
        for (int64_t q = 0; q < n; q++) to[q] = at[q];
        for (int64_t q = n; q < width; q++) to[q] = 0;
      }
      continue;
    }
    // Four lines together, so that the writes of one p share a cache line.
    int64_t q = 0;
    for (; q + 4 <= n; q += 4) {
      const T *a = from + q * line, *b = a + line, *c = b + line, *d = c + line;
      for (int64_t p = 0; p < k; p++) {
        double* to = out + p * width + q;
        to[0] = a[p * along];
        to[1] = b[p * along];
        to[2] = c[p * along];
        to[3] = d[p * along];
      }
    }
    for (; q < width; q++)
      for (int64_t p = 0; p < k; p++) out[p * width + q] = q < n ? static_cast<double>(from[q * line + p * along]) : 0;
  }
}

constexpr int64_t kPieceRows = 84;  // rows of A that a task packs: a multiple of every mr, and 84 x 192 doubles stay in L2

template <class A, class B>
WhittleStatus product(const DenseProduct& d, Strided<A> a, Strided<B> b, double* c, int64_t ldc, int threads) {
  static thread_local Scratch shared, own;
  if (d.m <= 0 || d.n <= 0) return WHITTLE_OK;
  if (d.k <= 0) {
    if (!d.add)
      for (int64_t i = 0; i < d.m; i++) std::fill(c + i * ldc, c + i * ldc + d.n, 0.0);
    return WHITTLE_OK;
  }
  const SvdKernels& kernels = svd_kernels();
  const int64_t mr = kernels.mr, nr = kernels.nr, panels = ceil_div(d.n, nr), most = std::min(d.k, kSvdMaxK);
  // Even blocks, so that none is a sliver.
  const int64_t blocks = ceil_div(d.k, kSvdMaxK);
  double* packed = static_cast<double*>(shared.take(panels * nr * most * 8));
  if (!packed) return WHITTLE_OUT_OF_MEMORY;
  const int64_t pieces = ceil_div(d.m, kPieceRows);
  // A product this small is done before another thread has woken up.
  // A product this small is done before another thread has woken up.
  const int use = d.m * d.n * d.k < (int64_t(1) << 20) ? 1 : threads;
  std::atomic<bool> short_of_memory{false};
  for (int64_t block = 0; block < blocks; block++) {
    const int64_t from = d.k * block / blocks, k = d.k * (block + 1) / blocks - from;
    parallel_for(panels, 8, use, [&](int64_t begin, int64_t end) {
      const int64_t j = begin * nr, n = std::min(end * nr, d.n) - j;
      pack(n, k, b.base + from * b.row + j * b.col, b.col, b.row, nr, packed + j * k);
    });
    const bool add = d.add || block > 0;
    parallel_for(pieces, 1, use, [&](int64_t begin, int64_t end) {
      double* rows = static_cast<double*>(own.take(ceil_div(kPieceRows, mr) * mr * most * 8));
      if (!rows) {
        short_of_memory = true;
        return;
      }
      for (int64_t piece = begin; piece < end; piece++) {
        // The longest pieces of a triangle first, so that threads end together.
        const int64_t i = (d.lower ? pieces - 1 - piece : piece) * kPieceRows, m = std::min(kPieceRows, d.m - i);
        pack(m, k, a.base + i * a.row + from * a.col, a.row, a.col, mr, rows);
        for (int64_t j = 0; j < d.n; j += nr) {
          if (d.lower && j > i + m - 1) break;
          for (int64_t r = 0; r < m; r += mr)
            if (!d.lower || j <= i + r + mr - 1)
              kernels.tile(k, rows + r * k, packed + j * k, d.alpha, add, std::min(mr, m - r), std::min(nr, d.n - j),
                           c + (i + r) * ldc + j, ldc);
        }
      }
    });
    if (short_of_memory) return WHITTLE_OUT_OF_MEMORY;
  }
  return WHITTLE_OK;
}

}  // namespace

Tier svd_tier() { return resolved().tier; }
const SvdKernels& svd_kernels() { return resolved().table; }

WhittleStatus dense_gemm(const DenseProduct& p, Strided<double> a, Strided<double> b, double* c, int64_t ldc, int threads) {
  return product(p, a, b, c, ldc, threads);
}
WhittleStatus dense_gemm(const DenseProduct& p, Strided<float> a, Strided<float> b, double* c, int64_t ldc, int threads) {
  return product(p, a, b, c, ldc, threads);
}
WhittleStatus dense_gemm(const DenseProduct& p, Strided<float> a, Strided<double> b, double* c, int64_t ldc, int threads) {
  return product(p, a, b, c, ldc, threads);
}
WhittleStatus dense_gemm(const DenseProduct& p, Strided<double> a, Strided<float> b, double* c, int64_t ldc, int threads) {
  return product(p, a, b, c, ldc, threads);
}

namespace {

constexpr int64_t kKept = 16 << 20, kLarge = 4 << 20;
constexpr int kPlaces = 48;

// Blocks of this thread that no call uses.
struct Shelf {
  void* blocks[kPlaces];
  int64_t sizes[kPlaces];
  int count = 0;
  int64_t bytes = 0;
  ~Shelf() {
    for (int i = 0; i < count; i++) free(blocks[i]);
  }
  // The smallest that is large enough, unless that would waste more than it holds.
  void* find(int64_t want, int64_t* size) {
    int best = -1;
    for (int i = 0; i < count; i++)
      if (sizes[i] >= want && sizes[i] <= 2 * want + 4096 && (best < 0 || sizes[i] < sizes[best])) best = i;
    if (best < 0) return nullptr;
    void* block = blocks[best];
    *size = sizes[best];
    bytes -= sizes[best];
    blocks[best] = blocks[--count];
    sizes[best] = sizes[count];
    return block;
  }
  bool keep(void* block, int64_t size) {
    if (count == kPlaces || size > kLarge || bytes + size > kKept) return false;
    blocks[count] = block;
    sizes[count++] = size;
    bytes += size;
    return true;
  }
};

thread_local Shelf t_shelf;

}  // namespace

Workspace::~Workspace() {
  for (int i = 0; i < count_; i++)
    if (!t_shelf.keep(blocks_[i], sizes_[i])) free(blocks_[i]);
}

void* Workspace::bytes(int64_t count) {
  void* block = nullptr;
  if (ok_ && count_ < kMost && count >= 0) {
    block = t_shelf.find(count + 64, &sizes_[count_]);
    if (!block) {
      sizes_[count_] = count + 64;
      block = malloc(static_cast<size_t>(count) + 64);
    }
  }
  if (!block) {
    ok_ = false;
    return nullptr;
  }
  blocks_[count_++] = block;
  return reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(block) + 63) & ~static_cast<uintptr_t>(63));
}

}  // namespace whittle
