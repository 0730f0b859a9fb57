#include "core/elementwise.h"

#include <string.h>

#include <algorithm>
#include <atomic>

#include "core/codes.h"
#include "core/quantize.h"
#include "core/scratch.h"
#include "core/threads.h"

#define WHITTLE_VARIANT(tier) extern "C" void elementwise_install_##tier(whittle::ElementwiseKernels*);
#include "cpu/elementwise/variants.inc"
#undef WHITTLE_VARIANT

namespace whittle {

VariantList<ElementwiseKernels> elementwise_variants() {
  static const Variant<ElementwiseKernels> list[] = {
#define WHITTLE_VARIANT(tier) {Tier::tier, elementwise_install_##tier},
#include "cpu/elementwise/variants.inc"
#undef WHITTLE_VARIANT
  };
  return {list, static_cast<int>(sizeof list / sizeof *list)};
}

namespace {

const Resolved<ElementwiseKernels>& resolved() {
  static const Resolved<ElementwiseKernels> r = resolve(elementwise_variants());
  return r;
}

// Floats of one register: with a handful of them a strip stays in L1.
constexpr int64_t kStrip = 1024;
// A chunk of work that pays for waking a thread, in elements.
constexpr int64_t kChunk = 32 << 10;

// How an operand lies within a block of `rows` x `columns`, the last two axes (or the last one alone: rows 1).
enum class Walk { direct, repeated_row, constant, gathered };

struct Block {
  int64_t columns, rows;  // of the whole block
  int64_t strip_rows, strip_columns;
  int outer;              // axes before the block
  int64_t outer_count;
  Walk walk[kElementwiseRegisters];
};

Block plan_block(const ElementwiseProgram& p) {
  Block b = {};
  const int r = p.rank;
  b.columns = r > 0 ? p.dims[r - 1] : 1;
  // A short last axis takes the one before it along.
  const bool two = r > 1 && b.columns < kStrip / 2;
  b.rows = two ? p.dims[r - 2] : 1;
  b.outer = std::max(0, r - (two ? 2 : 1));
  b.strip_columns = std::min(b.columns, kStrip);
  b.strip_rows = two ? std::max<int64_t>(1, std::min(b.rows, kStrip / std::max<int64_t>(1, b.columns))) : 1;
  b.outer_count = 1;
  for (int i = 0; i < b.outer; i++) b.outer_count *= p.dims[i];
  for (int i = 0; i < p.inputs; i++) {
    const int64_t in = r > 0 ? p.strides[i][r - 1] : 0, across = two && r > 1 ? p.strides[i][r - 2] : 0;
    if (in == 1 && (b.rows == 1 || across == b.columns)) b.walk[i] = Walk::direct;
    else if (in == 1 && across == 0) b.walk[i] = Walk::repeated_row;
    else if (in == 0 && across == 0) b.walk[i] = Walk::constant;
    else b.walk[i] = Walk::gathered;
  }
  return b;
}

// Brings `rows` x `columns` of an operand that lies neither in one piece nor still.
void gather(const float* x, int64_t rows, int64_t columns, int64_t across, int64_t in, float* out) {
  for (int64_t i = 0; i < rows; i++, x += across, out += columns) {
    if (in == 1) {
      memcpy(out, x, static_cast<size_t>(columns) * 4);
    } else if (in == 0) {
      std::fill(out, out + columns, *x);
    } else {
      for (int64_t j = 0; j < columns; j++) out[j] = x[j * in];
    }
  }
}

// Element `offset` of an operand, wherever it lies.
const void* moved(const void* x, const ElementwiseCode& code, int64_t offset) {
  return static_cast<const uint8_t*>(x) + (code.kind ? offset : offset * 4);
}

void widen_run(const ElementwiseCode& code, const uint8_t* x, int64_t n, float* out) {
  QuantizeStep step = {};
  step.scale = &code.scale;
  step.zero = &code.zero;
  quantize_kernels().values8(x, code.kind == 1, 1, n, &step, out);
}

void gather_codes(const ElementwiseCode& code, const uint8_t* x, int64_t rows, int64_t columns, int64_t across, int64_t in, float* out) {
  uint8_t line[kStrip];
  for (int64_t i = 0; i < rows; i++, x += across, out += columns) {
    if (in == 1) {
      widen_run(code, x, columns, out);
      continue;
    }
    for (int64_t j = 0; j < columns; j++) line[j] = x[j * in];
    widen_run(code, line, columns, out);
  }
}

void bring(const ElementwiseCode& code, const void* x, int64_t rows, int64_t columns, int64_t across, int64_t in, float* out) {
  if (code.kind) gather_codes(code, static_cast<const uint8_t*>(x), rows, columns, across, in, out);
  else gather(static_cast<const float*>(x), rows, columns, across, in, out);
}

}  // namespace

const ElementwiseKernels& elementwise_kernels() { return resolved().table; }
Tier elementwise_tier() { return resolved().tier; }

void elementwise_simplify(ElementwiseProgram* p) {
  int rank = 0;
  for (int k = 0; k < p->rank; k++) {
    if (p->dims[k] == 1) continue;
    bool merge = rank > 0;
    for (int i = 0; merge && i < p->inputs; i++) merge = p->strides[i][rank - 1] == p->strides[i][k] * p->dims[k];
    const int to = merge ? rank - 1 : rank++;
    p->dims[to] = merge ? p->dims[to] * p->dims[k] : p->dims[k];
    for (int i = 0; i < p->inputs; i++) p->strides[i][to] = p->strides[i][k];
  }
  p->rank = rank;
}

WhittleStatus elementwise_run(const ElementwiseProgram& p, const void* const* inputs, void* out, int threads) {
  const ElementwiseKernels& kernels = elementwise_kernels();
  const Block b = plan_block(p);
  const int64_t block = b.rows * b.columns;
  if (block == 0 || b.outer_count == 0) return WHITTLE_OK;
  const int64_t row_strips = (b.rows + b.strip_rows - 1) / b.strip_rows;
  const int64_t column_strips = (b.columns + b.strip_columns - 1) / b.strip_columns;
  const int64_t strips = row_strips * column_strips, total = strips * b.outer_count;
  const int64_t strip = b.strip_rows * b.strip_columns;
  const int across_axis = b.outer, in_axis = p.rank - 1;
  std::atomic<bool> failed{false};
  const auto body = [&](int64_t begin, int64_t end) {
    static thread_local Scratch scratch;
    float* registers = static_cast<float*>(scratch.take((kElementwiseRegisters + 1) * kStrip * 4));
    if (!registers) {
      failed = true;
      return;
    }
    const float* at[kElementwiseRegisters];
    const void* base[kElementwiseRegisters];
    int64_t known = -1;  // the outer index whose still operands the registers hold
    for (int64_t t = begin; t < end; t++) {
      const int64_t outer = t / strips, s = t % strips;
      const int64_t row = s / column_strips * b.strip_rows, column = s % column_strips * b.strip_columns;
      const int64_t rows = std::min(b.strip_rows, b.rows - row), columns = std::min(b.strip_columns, b.columns - column);
      const int64_t n = rows * columns;
      if (outer != known) {
        for (int i = 0; i < p.inputs; i++) {
          int64_t offset = 0, rest = outer;
          for (int k = b.outer - 1; k >= 0; k--) {
            offset += rest % p.dims[k] * p.strides[i][k];
            rest /= p.dims[k];
          }
          base[i] = moved(inputs[i], p.code[i], offset);
          float* mine = registers + i * kStrip;
          // A repeated row is as short as a strip's columns, so every strip sees it alike: filled once.
          if (b.walk[i] == Walk::constant) {
            bring(p.code[i], base[i], 1, 1, 0, 0, mine);
            std::fill(mine + 1, mine + strip, *mine);
          } else if (b.walk[i] == Walk::repeated_row) {
            bring(p.code[i], base[i], b.strip_rows, b.columns, 0, 1, mine);
          }
        }
        known = outer;
      }
      for (int i = 0; i < p.inputs; i++) {
        float* mine = registers + i * kStrip;
        const int64_t in = p.rank > 0 ? p.strides[i][in_axis] : 0;
        const int64_t across = b.rows > 1 ? p.strides[i][across_axis] : 0;
        at[i] = mine;
        if (b.walk[i] == Walk::direct) {
          const void* from = moved(base[i], p.code[i], row * b.columns + column);
          if (p.code[i].kind) widen_run(p.code[i], static_cast<const uint8_t*>(from), n, mine);
          else at[i] = static_cast<const float*>(from);
        } else if (b.walk[i] == Walk::gathered) {
          bring(p.code[i], moved(base[i], p.code[i], row * across + column * in), rows, columns, across, in, mine);
        }
      }
      const int64_t place = outer * block + row * b.columns + column;
      float* to = p.out_code.kind ? registers + kElementwiseRegisters * kStrip : static_cast<float*>(out) + place;
      for (size_t k = 0; k < p.steps.size(); k++) {
        const ElementwiseStep& e = p.steps[k];
        float* result = k + 1 == p.steps.size() ? to : registers + e.out * kStrip;
        kernels.apply[e.op](n, at[e.a], at[e.b], e.p, e.q, result);
        at[e.out] = result;
      }
      if (p.out_code.kind) {
        bytes_of_floats(to, n, p.out_code.scale, p.out_code.zero, p.out_code.kind == 1, static_cast<uint8_t*>(out) + place);
      }
    }
  };
  const int64_t grain = std::max<int64_t>(1, kChunk / strip);
  parallel_for(total, grain, threads, body);
  return failed ? WHITTLE_OUT_OF_MEMORY : WHITTLE_OK;
}

}  // namespace whittle
