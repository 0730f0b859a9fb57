// Products with n:m weights in plain loops: the reference and the portable fallback.
#include <string.h>

#define WHITTLE_ISA_FILE
#include "core/sparse_nm.h"

using namespace whittle;

static void pairs(const SparsePairs* p) {
  for (int64_t i = 0; i < p->rows; i++) {
    float sum = 0;
    for (int64_t e = 0; e < p->steps * kSparseNmStep; e++) {
      const int64_t at = i * p->steps * kSparseNmStep + e;
      float v;
      if (p->type == kSparseF32) {
        v = static_cast<const float*>(p->values)[at];
      } else {
        const uint32_t bits = static_cast<uint32_t>(static_cast<const uint16_t*>(p->values)[at]) << 16;
        memcpy(&v, &bits, 4);
      }
      sum += v * p->x[e / 2 * 4 + (p->places[at / 16] >> (at % 16 * 2) & 3)];
    }
    p->acc[i] = sum;
  }
}

extern "C" void sparse_nm_install_scalar(SparseNmKernels* t) { t->pairs = pairs; }
