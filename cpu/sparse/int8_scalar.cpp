// Sparse int8 products: the reference epilogue.
#define TILE_COLUMNS 16
#include "cpu/gemm/int8_epilogue.h"

#include "core/sparse_int8.h"

namespace whittle {
namespace {

void finish(const GemmInt8Epilogue* e, int64_t column, int32_t* acc, int64_t n, void* out) {
  const int64_t size = e->out_type == kOutInt32 || e->out_type == kOutFloat32 ? 4 : 1;
  for (int64_t j = 0; j < n; j += TILE_COLUMNS)
    epilogue_columns(e, column + j, 0, acc + j, n - j < TILE_COLUMNS ? n - j : TILE_COLUMNS, static_cast<uint8_t*>(out) + j * size);
}

}  // namespace
}  // namespace whittle

extern "C" void sparse_int8_install_scalar(whittle::SparseInt8Kernels* t) { t->finish = whittle::finish; }
