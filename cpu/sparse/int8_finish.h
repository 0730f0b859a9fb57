// The epilogue of sparse int8 sums: cpu/gemm/int8_epilogue.h on up to 64 sums at a time. Plain C that the compiler vectorizes
// under each variant's flags.
#pragma once
#define TILE_COLUMNS 64
#include "cpu/gemm/int8_epilogue.h"

#include "core/sparse_int8.h"

namespace whittle {
namespace {

static void finish(const GemmInt8Epilogue* e, int64_t column, bool same, int32_t* acc, int64_t n, void* out) {
  const int64_t size = e->out_type == kOutInt32 || e->out_type == kOutFloat32 ? 4 : 1;
  float scale[TILE_COLUMNS], bias[TILE_COLUMNS];
  GemmInt8Epilogue spread = *e;
  const CodeStep step = epilogue_step(e);
  if (same) {
    const float s = e->scale[column], b = e->bias[column];
    WHITTLE_VECTOR_LOOP
    for (int64_t i = 0; i < TILE_COLUMNS; i++) scale[i] = s;
    WHITTLE_VECTOR_LOOP
    for (int64_t i = 0; i < TILE_COLUMNS; i++) bias[i] = b;
    spread.scale = scale;
    spread.bias = bias;
  }
  for (int64_t j = 0; j < n; j += TILE_COLUMNS) {
    const int64_t now = n - j < TILE_COLUMNS ? n - j : TILE_COLUMNS;
    int32_t* sums = acc + j;
    void* to = static_cast<uint8_t*>(out) + j * size;
    if (now == TILE_COLUMNS) epilogue_columns(same ? &spread : e, same ? 0 : column + j, 0, sums, TILE_COLUMNS, to, &step);
    else epilogue_columns(same ? &spread : e, same ? 0 : column + j, 0, sums, now, to, &step);
  }
}

static void finish_rows(const GemmInt8Epilogue* e, int64_t column, int64_t columns, int64_t rows, int32_t* acc, int64_t width, void* out,
                        int64_t out_stride) {
  const int64_t size = e->out_type == kOutInt32 || e->out_type == kOutFloat32 ? 4 : 1;
  const CodeStep step = epilogue_step(e);
  epilogue_rows(e, column, columns, nullptr, rows, acc, width, out, out_stride * size, &step);
}

}  // namespace
}  // namespace whittle
