// Sparse int8 products in plain loops: the reference and the portable fallback. x' is x in 16 bits, [column of W][column of X].
#define WHITTLE_ISA_FILE
#include "cpu/sparse/int8_finish.h"
#include "cpu/sparse/int8_plain.h"

namespace whittle {
namespace {

void multiply(const SparseInt8Tile* t, int64_t columns) {
  const int16_t* x = static_cast<const int16_t*>(t->x);
  const int8_t* v = t->values;
  const uint16_t* index = t->index;
  for (int64_t g = 0; g < t->groups; g++) {
    int32_t* acc = t->acc + t->runs[g].group * t->height * columns;
    if (t->start)
      for (int64_t i = 0; i < t->height; i++)
        for (int64_t j = 0; j < columns; j++) acc[i * columns + j] = t->start[t->runs[g].group * t->height + i];
    for (int64_t b = 0; b < t->runs[g].count; b++, index += t->aligned ? 1 : 4)
      for (int64_t i = 0; i < t->height; i++, v += 4)
        for (int64_t c = 0; c < 4; c++) {
          const int16_t* from = x + (t->aligned ? index[0] * 4 + c : index[c]) * columns;
          for (int64_t j = 0; j < columns; j++)
            acc[i * columns + j] = static_cast<int32_t>(static_cast<uint32_t>(acc[i * columns + j]) + static_cast<uint32_t>(v[c] * from[j]));
        }
  }
}

void lanes(const SparseInt8Tile* t) {
  const int64_t height = t->height, each = height > 1 ? 4 : 16;
  const uint8_t *x = static_cast<const uint8_t*>(t->x), *places = t->places;
  const int8_t* v = t->values;
  const uint16_t* index = t->index;
  for (int64_t g = 0; g < t->groups; g++) {
    int32_t* acc = t->acc + t->runs[g].group * height;
    for (int64_t i = 0; t->start && i < height; i++) acc[i] = t->start[t->runs[g].group * height + i];
    for (int64_t b = 0; b < t->runs[g].count; b++, index++, places += 4)
      for (int64_t i = 0; i < height; i++)
        for (int64_t c = 0; c < each; c++)
          acc[i] = static_cast<int32_t>(static_cast<uint32_t>(acc[i]) + static_cast<uint32_t>(*v++ * x[*index + (height > 1 ? places[c] : c)]));
  }
}

void pairs(const SparseInt8Pairs* p) {
  const uint8_t* x = static_cast<const uint8_t*>(p->x);
  for (int64_t i = 0; i < p->rows; i++) {
    int32_t sum = 0;
    for (int64_t s = 0; s < p->steps; s++) {
      const int8_t* v = p->values + (i * p->steps + s) * kSparseInt8Step;
      const uint8_t* places = p->places + (i * p->steps + s) * 16;
      for (int64_t e = 0; e < kSparseInt8Step; e++) sum += v[e] * x[s * 2 * kSparseInt8Step + e / 2 * 4 + (places[e % 16] >> (e / 16 * 2) & 3)];
    }
    p->acc[i] = sum;
  }
}

void tile(const SparseInt8Tile* t) { multiply(t, t->units * kSparseUnit); }
void vector(const SparseInt8Tile* t) { multiply(t, 1); }

}  // namespace
}  // namespace whittle

extern "C" void sparse_int8_install_scalar(whittle::SparseInt8Kernels* t) {
  using namespace whittle;
  t->units = 4;
  t->x_bytes = 2;
  t->shift_s8 = 0;
  t->pack = pack_plain;
  t->tile = tile;
  t->widen = widen_plain;
  t->vector = vector;
  t->lanes_signed = false;
  t->lanes = lanes;
  t->spread = spread_plain;
  t->pairs = pairs;
  t->finish = finish;
  t->finish_rows = finish_rows;
  t->turn = turn_plain;
  t->codes = nullptr;
}
