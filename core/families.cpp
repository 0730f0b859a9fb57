// The list of kernel families; a new family adds its line here.
#include "core/binary.h"
#include "core/codebook.h"
#include "core/conv.h"
#include "core/distill.h"
#include "core/elementwise.h"
#include "core/factor.h"
#include "core/gemm.h"
#include "core/gemm_int8.h"
#include "core/norm.h"
#include "core/gemm_weight.h"
#include "core/quantize.h"
#include "core/select.h"
#include "core/svd.h"
#include "core/sparse.h"
#include "core/sparse_int8.h"
#include "core/sparse_nm.h"
#include "core/variants.h"

namespace whittle {

int families(const FamilyInfo** out) {
  static const FamilyInfo rows[] = {
      {"binary", binary_tier()},
      {"codebook", codebook_tier()},
      {"conv", conv_tier()},
      {"distill", distill_tier()},
      {"elementwise", elementwise_tier()},
      {"factor", factor_tier()},
      {"gemm", gemm_tier()},
      {"norm", norm_tier()},
      {"quantize", quantize_tier()},
      {"select", select_tier()},
      {"gemm_int8", gemm_int8_tier()},
      {"svd", svd_tier()},
      {"sparse", sparse_tier()},
      {"sparse_int8", sparse_int8_tier()},
      {"sparse_nm", sparse_nm_tier()},
      {"gemm_weight", gemm_weight_tier()},
  };
  *out = rows;
  return static_cast<int>(sizeof rows / sizeof rows[0]);
}

}  // namespace whittle
