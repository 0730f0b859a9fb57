// What follows the sums of a depthwise convolution of codes: the epilogue of integer products.
#pragma once
#define TILE_COLUMNS 64
#define WHITTLE_ISA_FILE
#include "core/conv.h"
#include "cpu/gemm/int8_epilogue.h"

static void finish_sums(const whittle::GemmInt8Epilogue* e, int64_t rows, int64_t column, int64_t columns, int32_t* sums, void* out,
                        int64_t out_stride) {
  const int64_t size = e->out_type == whittle::kOutInt32 || e->out_type == whittle::kOutFloat32 ? 4 : 1;
  const whittle::CodeStep step = whittle::epilogue_step(e);
  whittle::epilogue_rows(e, column, columns, 0, rows, sums, columns, out, out_stride * size, &step);
}

static void install_codes(whittle::ConvKernels* t) { t->finish_sums = finish_sums; }
