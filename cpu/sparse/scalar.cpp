// Sparse products in plain loops: the reference and the portable fallback. One product after the other in the order of the
// entries, without fused steps.
#include <stdint.h>
#include <string.h>

#define WHITTLE_ISA_FILE
#include "core/sparse.h"
#include "cpu/gemm/activation_scalar.h"

using namespace whittle;

static inline float value_at(int32_t type, const void* values, int64_t i) {
  if (type == kSparseF32) return static_cast<const float*>(values)[i];
  const uint32_t bits = static_cast<uint32_t>(static_cast<const uint16_t*>(values)[i]) << 16;
  float v;
  memcpy(&v, &bits, 4);
  return v;
}

// Both kernels: `columns` of x and acc side by side.
static void multiply(const SparseTile* t, int64_t columns) {
  const int64_t height = t->height, width = t->width;
  const uint8_t* narrow = static_cast<const uint8_t*>(t->index);
  const uint16_t* wide = static_cast<const uint16_t*>(t->index);
  int64_t entry = 0;
  int64_t at = 0;
  for (int64_t g = 0; g < t->groups; g++) {
    float* acc = t->acc + t->runs[g].group * height * columns;
    if (t->fresh) memset(acc, 0, static_cast<size_t>(height * columns) * sizeof(float));
    for (int64_t e = 0; e < t->runs[g].count; e++, entry++)
      for (int64_t c = 0; c < width; c++) {
        const float* x = t->x + ((t->index_size == 1 ? narrow[entry] : wide[entry]) + c) * columns;
        for (int64_t i = 0; i < height; i++) {
          const float v = value_at(t->type, t->values, at++);
          for (int64_t j = 0; j < columns; j++) acc[i * columns + j] += v * x[j];
        }
      }
  }
}

static void tile(const SparseTile* t) { multiply(t, t->units * kSparseUnit); }
static void vector(const SparseTile* t) { multiply(t, 1); }

static void slice(const SparseSlice* s) {
  int64_t at = 0;
  for (int64_t q = 0; q < s->slices; q++) {
    float* acc = s->acc + q * kSparseUnit;
    for (int64_t i = 0; i < kSparseUnit; i++) acc[i] = 0;
    for (int64_t e = 0; e < s->counts[q]; e++)
      for (int64_t i = 0; i < kSparseUnit; i++, at++) acc[i] += value_at(s->type, s->values, at) * s->x[s->index[at]];
  }
}

static void pack(const SparsePack* p) {
  const int64_t columns = p->units * kSparseUnit;
  for (int64_t i = 0; i < p->k; i++)
    for (int64_t j = 0; j < columns; j++)
      p->out[i * columns + j] = i >= p->valid || j >= p->columns ? 0.0f
                                : p->transposed ? p->x[j * p->stride + i] : p->x[i * p->stride + j];
}

static void finish(const SparseFinish* f) {
  const Activation& a = f->activation;
  for (int64_t i = 0; i < f->rows; i++)
    for (int64_t j = 0; j < f->columns; j++) {
      const float x = f->acc[i * f->acc_stride + j];
      f->out[f->transposed ? j * f->out_stride + i : i * f->out_stride + j] =
          act_apply_scalar(f->bias ? x + f->bias[i] : x, a.kind, a.lo, a.hi);
    }
}

extern "C" void sparse_install_scalar(SparseKernels* t) {
  t->units = 4;
  t->tile = tile;
  t->vector = vector;
  t->slice = slice;
  t->pack = pack;
  t->finish = finish;
}
