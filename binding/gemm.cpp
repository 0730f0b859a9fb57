#include "core/gemm.h"

#include "binding/call.h"
#include "binding/families.h"

namespace whittle {
namespace {

// gemm(a, b, out, source | null, bias | null, map | null). Indices into the call's numbers, which lib/kernels/gemm.ts
// fills; the two lists must agree.
enum Param {
  kM, kN, kK, kTransposeA, kTransposeB, kAlpha, kBeta, kKind, kLo, kHi, kBatch, kABatch, kBBatch,
  kSourceRow, kSourceCol, kSourceBatch, kALength, kBLength, kSourceLength, kHasBias, kHasMap, kLda, kLdb, kLdc, kCBatch, kCLength,
  kParams,
};

struct Gemm {
  GemmProblem g;

  bool parse(Args& args) {
    static_assert(kParams <= kCallNumbers, "a call's numbers");
    const double* p = args.numbers();
    const auto integer = [&](Param i) { return static_cast<int64_t>(p[i]); };
    g.m = integer(kM);
    g.n = integer(kN);
    g.k = integer(kK);
    const bool ta = p[kTransposeA] != 0, tb = p[kTransposeB] != 0;
    g.a_row = ta ? 1 : integer(kLda);
    g.a_col = ta ? integer(kLda) : 1;
    g.b_row = tb ? 1 : integer(kLdb);
    g.b_col = tb ? integer(kLdb) : 1;
    g.alpha = static_cast<float>(p[kAlpha]);
    g.beta = static_cast<float>(p[kBeta]);
    g.activation = {static_cast<int32_t>(p[kKind]), static_cast<float>(p[kLo]), static_cast<float>(p[kHi])};
    g.batch = integer(kBatch);
    g.a_batch = integer(kABatch);
    g.b_batch = integer(kBBatch);
    g.source_row = integer(kSourceRow);
    g.source_col = integer(kSourceCol);
    g.source_batch = integer(kSourceBatch);
    g.c_batch = integer(kCBatch);
    g.ldc = integer(kLdc);
    g.a = args.array<float>(integer(kALength));
    g.b = args.array<float>(integer(kBLength));
    g.c = args.array<float>(integer(kCLength));
    g.source = args.array_if<float>(integer(kSourceLength) >= 0, integer(kSourceLength));
    g.bias = args.array_if<float>(p[kHasBias] != 0, g.n);
    g.map = args.array_if<int32_t>(p[kHasMap] != 0, 3 * g.batch);
    return args.ok();
  }

  WhittleStatus run() { return gemm_f32(g, 0); }
};

}  // namespace

void init_gemm(napi_env env, napi_value exports) { expose<Gemm>(env, exports, "gemm", "gemmAsync"); }

}  // namespace whittle
