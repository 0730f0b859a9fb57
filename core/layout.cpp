#include "core/layout.h"

#include <stdlib.h>
#include <string.h>

#include <algorithm>

#include "core/threads.h"

namespace whittle {
namespace {

template <class T>
void copy_line(const T* in, int64_t in_stride, T* out, int64_t out_stride, int64_t n) {
  if (in_stride == 1 && out_stride == 1) memcpy(out, in, static_cast<size_t>(n) * sizeof(T));
  else
    for (int64_t i = 0; i < n; i++) out[i * out_stride] = in[i * in_stride];
}

// Planes become the elements of pixels, as of an image [c, h, w] with few channels.
template <class T>
void interleave(int64_t rows, int64_t columns, const T* in, int64_t plane, T* out) {
  const T *a = in, *b = in + plane, *c = in + 2 * plane, *d = in + 3 * plane;
  if (columns == 3)
    for (int64_t i = 0; i < rows; i++) {
      out[3 * i] = a[i];
      out[3 * i + 1] = b[i];
      out[3 * i + 2] = c[i];
    }
  else if (columns == 2)
    for (int64_t i = 0; i < rows; i++) {
      out[2 * i] = a[i];
      out[2 * i + 1] = b[i];
    }
  else if (columns == 4)
    for (int64_t i = 0; i < rows; i++) {
      out[4 * i] = a[i];
      out[4 * i + 1] = b[i];
      out[4 * i + 2] = c[i];
      out[4 * i + 3] = d[i];
    }
  else memcpy(out, a, static_cast<size_t>(rows) * sizeof(T));
}

// The last two axes: a plane whose one side is contiguous in `in` and the other in `out` goes by squares, so that every
// line of cache brought in is used whole.
template <class T>
void copy_plane(const StridedCopy& c, const T* in, T* out) {
  const int r = c.rank;
  const int64_t rows = r > 1 ? c.dims[r - 2] : 1, columns = c.dims[r - 1];
  const int64_t ri = r > 1 ? c.in_strides[r - 2] : 0, ro = r > 1 ? c.out_strides[r - 2] : 0;
  const int64_t ci = c.in_strides[r - 1], co = c.out_strides[r - 1];
  if (ri == 1 && ro == columns && co == 1 && columns <= 4) {
    interleave(rows, columns, in, ci, out);
    return;
  }
  if (ri == 1 && ci != 1 && rows > 1) {
    constexpr int64_t kSquare = 16;
    for (int64_t i = 0; i < rows; i += kSquare)
      for (int64_t j = 0; j < columns; j += kSquare) {
        const int64_t ie = std::min(rows, i + kSquare), je = std::min(columns, j + kSquare);
        for (int64_t a = i; a < ie; a++)
          for (int64_t b = j; b < je; b++) out[a * ro + b * co] = in[a + b * ci];
      }
    return;
  }
  for (int64_t i = 0; i < rows; i++) copy_line(in + i * ri, ci, out + i * ro, co, columns);
}

template <class T>
void copy_all(const StridedCopy& c, const T* in, T* out, int threads) {
  const int planes_axes = std::max(0, c.rank - 2);
  int64_t planes = 1, inner = 1;
  for (int k = 0; k < c.rank; k++) (k < planes_axes ? planes : inner) *= c.dims[k];
  if (planes * inner == 0) return;
  // Tall planes go in pieces, so that all threads have some.
  constexpr int64_t kPiece = 32 << 10;
  const int64_t tall = c.rank > 1 ? c.dims[c.rank - 2] : 1, wide = c.dims[c.rank - 1];
  const int64_t height = std::max<int64_t>(16, kPiece / wide / 16 * 16);
  const int64_t pieces = (tall + height - 1) / height;
  const auto body = [&](int64_t begin, int64_t end) {
    for (int64_t u = begin; u < end; u++) {
      const int64_t t = u / pieces, first = u % pieces * height;
      int64_t rest = t, from = 0, to = 0;
      for (int k = planes_axes - 1; k >= 0; k--) {
        const int64_t i = rest % c.dims[k];
        rest /= c.dims[k];
        from += i * c.in_strides[k];
        to += i * c.out_strides[k];
      }
      if (pieces == 1) {
        copy_plane(c, in + from, out + to);
        continue;
      }
      StridedCopy part = c;
      part.dims[c.rank - 2] = std::min(height, tall - first);
      copy_plane(part, in + from + first * c.in_strides[c.rank - 2], out + to + first * c.out_strides[c.rank - 2]);
    }
  };
  parallel_for(planes * pieces, std::max<int64_t>(1, kPiece * pieces / inner), threads, body);
}

}  // namespace

void layout_simplify(StridedCopy* c) {
  struct Axis {
    int64_t n, in, out;
  };
  Axis axes[kLayoutRank];
  int count = 0;
  for (int k = 0; k < c->rank; k++)
    if (c->dims[k] != 1) axes[count++] = {c->dims[k], c->in_strides[k], c->out_strides[k]};
  // Order of `out`: its memory is written in order, the input is read as it comes.
  std::stable_sort(axes, axes + count, [](const Axis& a, const Axis& b) { return llabs(a.out) > llabs(b.out); });
  int rank = 0;
  for (int k = 0; k < count; k++) {
    if (rank > 0 && axes[rank - 1].in == axes[k].in * axes[k].n && axes[rank - 1].out == axes[k].out * axes[k].n)
      axes[rank - 1] = {axes[rank - 1].n * axes[k].n, axes[k].in, axes[k].out};
    else axes[rank++] = axes[k];
  }
  // The axis that is contiguous in `in` comes next to last, for squares.
  if (rank > 2 && axes[rank - 1].in != 1)
    for (int k = 0; k < rank - 2; k++)
      if (axes[k].in == 1) std::rotate(axes + k, axes + k + 1, axes + rank - 1);
  if (rank == 0) axes[rank++] = {1, 1, 1};
  c->rank = rank;
  for (int k = 0; k < rank; k++) {
    c->dims[k] = axes[k].n;
    c->in_strides[k] = axes[k].in;
    c->out_strides[k] = axes[k].out;
  }
}

void layout_copy(const StridedCopy& c, const void* in, void* out, int threads) {
  switch (c.size) {
    case 1: return copy_all(c, static_cast<const uint8_t*>(in), static_cast<uint8_t*>(out), threads);
    case 2: return copy_all(c, static_cast<const uint16_t*>(in), static_cast<uint16_t*>(out), threads);
    case 8: return copy_all(c, static_cast<const uint64_t*>(in), static_cast<uint64_t*>(out), threads);
    default: return copy_all(c, static_cast<const uint32_t*>(in), static_cast<uint32_t*>(out), threads);
  }
}

}  // namespace whittle
