// What depthwise convolutions of codes do beside the float32 kernel: codes to numbers, sums to results. Plain C that the
// compiler vectorizes under each variant's flags, and the epilogue of integer products.
#pragma once
#define TILE_COLUMNS 64
#define WHITTLE_ISA_FILE
#include "core/conv.h"
#include "cpu/gemm/int8_epilogue.h"

static void widen(int64_t rows, int64_t columns, const uint8_t* in, int64_t in_stride, bool is_signed, int32_t zero, float* out) {
  if (in_stride == columns) {
    columns *= rows;
    rows = 1;
  }
  for (int64_t r = 0; r < rows; r++, in += in_stride, out += columns) {
    if (is_signed)
      for (int64_t j = 0; j < columns; j++) out[j] = (float)((int32_t)(int8_t)in[j] - zero);
    else
      for (int64_t j = 0; j < columns; j++) out[j] = (float)((int32_t)in[j] - zero);
  }
}

static void finish_sums(const whittle::GemmInt8Epilogue* e, int64_t rows, int64_t column, int64_t columns, const float* sums, int32_t* whole,
                        void* out, int64_t out_stride) {
  const int64_t size = e->out_type == whittle::kOutInt32 || e->out_type == whittle::kOutFloat32 ? 4 : 1;
  for (int64_t i = 0; i < rows * columns; i++) whole[i] = (int32_t)sums[i];
  whittle::epilogue_rows(e, column, columns, 0, rows, whole, columns, out, out_stride * size);
}

static void install_codes(whittle::ConvKernels* t) {
  t->widen = widen;
  t->finish_sums = finish_sums;
}
