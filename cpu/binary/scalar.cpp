// binary, the reference: bits counted by halves, no library call where a CPU lacks the instruction.
#include "cpu/binary/rest.h"

namespace whittle {
namespace {

int32_t count(uint32_t v) {
  v = v - ((v >> 1) & 0x55555555u);
  v = (v & 0x33333333u) + ((v >> 2) & 0x33333333u);
  return static_cast<int32_t>((((v + (v >> 4)) & 0x0f0f0f0fu) * 0x01010101u) >> 24);
}

double pack(const float* x, int64_t k, uint32_t* words) {
  double sum[8] = {0, 0, 0, 0, 0, 0, 0, 0};
  const int64_t all = binary_words(k);
  for (int64_t i = 0; i < all; i++) words[i] = 0;
  return binary_rest(x, 0, k, words, sum);
}

void multiply(const BinaryTile* t) {
  for (int64_t i = 0; i < t->rows; i++) {
    const uint32_t* a = t->a + i * t->words;
    for (int64_t j = 0; j < t->columns; j++) {
      int64_t differ = 0;
      for (int64_t w = 0; w < t->words; w++) differ += count(a[w] ^ t->group[w * kBinaryLanes + j]);
      const int32_t sum = static_cast<int32_t>(t->k - 2 * differ);
      if (!t->is_float) {
        static_cast<int32_t*>(t->c)[i * t->ldc + j] = sum;
        continue;
      }
      float v = static_cast<float>(sum);
      if (t->scale) v = v * t->scale[j];
      if (t->row_scale) v = v * t->row_scale[i];
      static_cast<float*>(t->c)[i * t->ldc + j] = v;
    }
  }
}

}  // namespace
}  // namespace whittle

extern "C" void binary_install_scalar(whittle::BinaryKernels* table) {
  table->pack = whittle::pack;
  table->multiply = whittle::multiply;
}
