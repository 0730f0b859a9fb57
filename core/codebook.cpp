#include "core/codebook.h"

#include <math.h>
#include <string.h>

#include <atomic>
#include <memory>
#include <new>

#include "core/threads.h"

#define WHITTLE_VARIANT(tier) extern "C" void codebook_install_##tier(whittle::CodebookKernels*);
#include "cpu/codebook/variants.inc"
#undef WHITTLE_VARIANT

namespace whittle {
namespace {

const Variant<CodebookKernels> kVariants[] = {
#define WHITTLE_VARIANT(tier) {Tier::tier, codebook_install_##tier},
#include "cpu/codebook/variants.inc"
#undef WHITTLE_VARIANT
};

const Resolved<CodebookKernels>& resolved() {
  static const Resolved<CodebookKernels> r = resolve(codebook_variants());
  return r;
}

constexpr int64_t kPiece = 65536;

template <class T>
std::unique_ptr<T[]> room(int64_t n) {
  return std::unique_ptr<T[]>(new (std::nothrow) T[static_cast<size_t>(n > 0 ? n : 1)]);
}

// The largest float that is not beyond the middle; the middle of two floats is exact in double.
float threshold(float low, float high) {
  const double middle = (static_cast<double>(low) + high) / 2;
  const float t = static_cast<float>(middle);
  return static_cast<double>(t) > middle ? nextafterf(t, -INFINITY) : t;
}

template <class Index>
bool below(const Index* index, int64_t n, int64_t count) {
  Index top = 0;
  for (int64_t i = 0; i < n; i++) top = index[i] > top ? index[i] : top;
  return n == 0 || static_cast<int64_t>(top) < count;
}

}  // namespace

VariantList<CodebookKernels> codebook_variants() {
  return {kVariants, static_cast<int>(sizeof kVariants / sizeof kVariants[0])};
}
const CodebookKernels& codebook_kernels() { return resolved().table; }
Tier codebook_tier() { return resolved().tier; }

int64_t codebook_room(int64_t count) {
  int64_t size = 64;
  while (size < count) size *= 2;
  return size;
}

CodebookTable codebook_table(const float* centroids, int64_t count, float* nodes, float* padded) {
  const int64_t size = codebook_room(count);
  int32_t levels = 0;
  while (int64_t(1) << levels < count) levels++;
  for (int64_t i = 0; i < size; i++) nodes[i] = INFINITY;
  const int64_t leaves = int64_t(1) << levels;
  // padded[at]: the threshold between `at` and what follows it. Equal centroids share one, so that the lowest is found.
  float above = INFINITY;
  for (int64_t at = count - 2; at >= 0; at--) {
    if (centroids[at] != centroids[at + 1]) above = threshold(centroids[at], centroids[at + 1]);
    padded[at] = above;
  }
  // Node i of level l stands for the threshold at (2 * place + 1) * leaves / 2^(l+1) - 1.
  for (int32_t l = 0; l < levels; l++)
    for (int64_t place = 0; place < int64_t(1) << l; place++) {
      const int64_t at = (2 * place + 1) * (leaves >> (l + 1)) - 1;
      if (at + 1 < count) nodes[(int64_t(1) << l) - 1 + place] = padded[at];
    }
  memcpy(padded, centroids, static_cast<size_t>(count) * sizeof(float));
  for (int64_t i = count; i < size; i++) padded[i] = centroids[count - 1];
  return {nodes, padded, levels};
}

WhittleStatus codebook_assign(const float* x, int64_t n, const float* centroids, int64_t count, void* index,
                              double* squares, int threads) {
  const int64_t size = codebook_room(count), pieces = (n + kPiece - 1) / kPiece;
  std::unique_ptr<float[]> memory = room<float>(2 * size);
  std::unique_ptr<double[]> partial = room<double>(pieces);
  if (!memory || !partial) return WHITTLE_OUT_OF_MEMORY;
  const CodebookTable table = codebook_table(centroids, count, memory.get(), memory.get() + size);
  const CodebookKernels& k = codebook_kernels();
  parallel_for(n, kPiece, threads, [&](int64_t b, int64_t e) {
    for (; b < e; b += kPiece) {
      const int64_t m = e - b < kPiece ? e - b : kPiece;
      partial[b / kPiece] = count <= 256 ? k.assign8(&table, x + b, m, static_cast<uint8_t*>(index) + b)
                                         : k.assign16(&table, x + b, m, static_cast<uint16_t*>(index) + b);
    }
  });
  *squares = 0;
  for (int64_t p = 0; p < pieces; p++) *squares += partial[p];
  if (isinf(*squares)) {
    // A difference beyond float32, or an infinite x.
    *squares = 0;
    for (int64_t i = 0; i < n; i++) {
      const int64_t at = count <= 256 ? static_cast<uint8_t*>(index)[i] : static_cast<uint16_t*>(index)[i];
      const double d = static_cast<double>(x[i]) - centroids[at];
      *squares += d * d;
    }
  }
  return WHITTLE_OK;
}

WhittleStatus codebook_gather(const void* index, bool wide, int64_t n, const float* values, int64_t count, float* out,
                              int threads) {
  std::unique_ptr<float[]> padded = room<float>(codebook_room(count));
  if (!padded) return WHITTLE_OUT_OF_MEMORY;
  memcpy(padded.get(), values, static_cast<size_t>(count) * sizeof(float));
  for (int64_t i = count; i < codebook_room(count); i++) padded[i] = 0;
  const CodebookKernels& k = codebook_kernels();
  std::atomic<bool> ok{true};
  parallel_for(n, kPiece, threads, [&](int64_t b, int64_t e) {
    // Checked a little ahead, while the indices stay in the nearest cache.
    for (int64_t m; b < e && ok.load(std::memory_order_relaxed); b += m) {
      m = e - b < 4096 ? e - b : 4096;
      if (wide) {
        const uint16_t* at = static_cast<const uint16_t*>(index) + b;
        if (below(at, m, count)) k.gather16(at, m, padded.get(), count, out + b);
        else ok = false;
      } else {
        const uint8_t* at = static_cast<const uint8_t*>(index) + b;
        if (below(at, m, count)) k.gather8(at, m, padded.get(), count, out + b);
        else ok = false;
      }
    }
  });
  return ok ? WHITTLE_OK : WHITTLE_RANGE;
}

WhittleStatus codebook_sums(const void* index, bool wide, const float* g, int64_t n, int64_t count, float* sums,
                            int threads) {
  // Pieces are at least 16 times as long as their table of sums.
  int64_t piece = kPiece;
  while (piece < 16 * count) piece *= 2;
  const int64_t pieces = (n + piece - 1) / piece;
  std::unique_ptr<double[]> partial = room<double>(pieces * count);
  if (!partial) return WHITTLE_OUT_OF_MEMORY;
  const CodebookKernels& k = codebook_kernels();
  std::atomic<bool> ok{true};
  parallel_for(pieces, 1, threads, [&](int64_t first, int64_t last) {
    for (int64_t p = first; p < last; p++) {
      const int64_t b = p * piece, m = n - b < piece ? n - b : piece;
      double* to = partial.get() + p * count;
      memset(to, 0, static_cast<size_t>(count) * sizeof(double));
      if (wide) {
        const uint16_t* at = static_cast<const uint16_t*>(index) + b;
        if (below(at, m, count)) k.sum16(at, g + b, m, count, to);
        else ok = false;
      } else {
        const uint8_t* at = static_cast<const uint8_t*>(index) + b;
        if (below(at, m, count)) k.sum8(at, g + b, m, count, to);
        else ok = false;
      }
    }
  });
  if (!ok) return WHITTLE_RANGE;
  bool finite = true;
  for (int64_t c = 0; c < count; c++) {
    double sum = 0;
    for (int64_t p = 0; p < pieces; p++) sum += partial[p * count + c];
    sums[c] = static_cast<float>(sum);
    finite = finite && isfinite(sums[c]);
  }
  return finite ? WHITTLE_OK : WHITTLE_NONFINITE;
}

}  // namespace whittle
