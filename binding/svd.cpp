#include "core/svd_solve.h"

#include "binding/call.h"
#include "binding/families.h"
#include "core/svd_dense.h"

namespace whittle {
namespace {

// In the order of lib/kernels/svd.ts.
enum Number {
  kBatch, kRows, kCols, kVectors, kMethod, kMaxRank, kEnergy, kTolerance, kIterations, kOversampling, kSeed, kNumbers,
};
enum Result { kRank, kError, kNorm, kImprovement, kSteps, kConverged, kFull, kResults };

// (numbers, a, u?, s, v?, result)
template <class T>
struct Svd {
  SvdProblem p;
  double* result;

  bool parse(Args& args) {
    const double* x = args.array<double>(kNumbers);
    if (!x) return false;
    p.batch = static_cast<int64_t>(x[kBatch]);
    p.m = static_cast<int64_t>(x[kRows]);
    p.n = static_cast<int64_t>(x[kCols]);
    p.wide = sizeof(T) == 8;
    p.vectors = x[kVectors] != 0;
    p.method = x[kMethod] == 1 ? kSvdRandomized : kSvdFull;
    p.max_rank = static_cast<int64_t>(x[kMaxRank]);
    p.energy = x[kEnergy];
    p.tolerance = x[kTolerance];
    p.iterations = static_cast<int64_t>(x[kIterations]);
    p.oversampling = static_cast<int64_t>(x[kOversampling]);
    p.seed = static_cast<uint64_t>(x[kSeed]);
    if (p.batch < 1 || p.m < 1 || p.n < 1 || p.max_rank < 1 || p.max_rank > p.m || p.max_rank > p.n) return false;
    p.a = args.array<T>(p.batch * p.m * p.n);
    p.u = args.optional<T>(p.vectors ? p.batch * p.m * p.max_rank : 0);
    p.s = args.array<T>(p.batch * p.max_rank);
    p.v = args.optional<T>(p.vectors ? p.batch * p.n * p.max_rank : 0);
    result = args.array<double>(kResults);
    return args.ok() && (!p.vectors || (p.u && p.v));
  }

  WhittleStatus run() {
    SvdOutcome o;
    const WhittleStatus s = svd_solve(p, &o);
    result[kRank] = static_cast<double>(o.rank);
    result[kError] = o.error;
    result[kNorm] = o.norm;
    result[kImprovement] = o.improvement;
    result[kSteps] = static_cast<double>(o.iterations);
    result[kConverged] = o.converged ? 1 : 0;
    result[kFull] = o.full ? 1 : 0;
    return s;
  }
};

enum WhitenNumber { kOutputs, kInputs, kTransposed, kDamping, kWhitenNumbers };

// (numbers, a, moments, l, out, used)
template <class T>
struct Whiten {
  SvdWhiten w;
  const T* a;
  T* out;

  bool parse(Args& args) {
    const double* x = args.array<double>(kWhitenNumbers);
    if (!x) return false;
    w.m = static_cast<int64_t>(x[kOutputs]);
    w.n = static_cast<int64_t>(x[kInputs]);
    const bool transposed = x[kTransposed] != 0;
    w.row = transposed ? 1 : w.n;
    w.col = transposed ? w.m : 1;
    w.damping = x[kDamping];
    if (w.m < 1 || w.n < 1) return false;
    a = args.array<T>(w.m * w.n);
    w.moments = args.array<double>(w.n * w.n);
    w.l = args.array<double>(w.n * w.n);
    out = args.array<T>(w.m * w.n);
    w.used = args.array<double>(1);
    return args.ok();
  }

  WhittleStatus run() { return svd_whiten(w, a, out, 0); }
};

// (rank, n, l, b)
struct Unwhiten {
  int64_t rank, n;
  const double* l;
  double* b;

  bool parse(Args& args) {
    rank = args.integer();
    n = args.integer();
    l = args.array<double>(n * n);
    b = args.array<double>(rank * n);
    return args.ok();
  }

  WhittleStatus run() { return svd_unwhiten(rank, n, l, b, 0); }
};

// (n, a, values, vectors)
struct SymmetricEigen {
  int64_t n;
  double *a, *values, *vectors;

  bool parse(Args& args) {
    n = args.integer();
    a = args.array<double>(n * n);
    values = args.array<double>(n);
    vectors = args.array<double>(n * n);
    return args.ok() && n >= 1;
  }

  WhittleStatus run() { return dense_eigen(n, a, n, values, vectors, n, 0).status; }
};

}  // namespace

void init_svd(napi_env env, napi_value exports) {
  expose<Svd<float>>(env, exports, "svdFloat32", "svdFloat32Async");
  expose<Svd<double>>(env, exports, "svdFloat64", "svdFloat64Async");
  expose<Whiten<float>>(env, exports, "svdWhitenFloat32", "svdWhitenFloat32Async");
  expose<Whiten<double>>(env, exports, "svdWhitenFloat64", "svdWhitenFloat64Async");
  expose<Unwhiten>(env, exports, "svdUnwhiten", "svdUnwhitenAsync");
  expose<SymmetricEigen>(env, exports, "symmetricEigen", "symmetricEigenAsync");
}

}  // namespace whittle
