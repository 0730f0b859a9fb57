#include "core/factor.h"

#include "binding/call.h"
#include "binding/families.h"

namespace whittle {
namespace {

// (m, n, rank, hals, given, seed, iterations, tolerance, threads, a, w, h, result)
struct NmfCall {
  Nmf p;
  bool parse(Args& a) {
    p.m = a.integer();
    p.n = a.integer();
    p.rank = a.integer();
    p.hals = a.flag();
    p.given = a.flag();
    p.seed = static_cast<uint64_t>(a.integer());
    p.iterations = a.integer();
    p.tolerance = a.number();
    p.threads = a.small();
    if (p.m < 1 || p.n < 1 || p.rank < 1) return false;
    p.a = a.array<float>(p.m * p.n);
    p.w = a.array<float>(p.m * p.rank);
    p.h = a.array<float>(p.rank * p.n);
    p.result = a.array<double>(4);
    return a.ok();
  }
  WhittleStatus run() { return factor_nmf(p); }
};

// Dims in an Int32Array; false where there are too many or one is below 1.
bool read_dims(Args& a, int* order, int64_t* dims) {
  *order = a.small();
  const int32_t* from = a.array<int32_t>(*order);
  if (!from || *order < 1 || *order > kFactorOrder) return false;
  for (int k = 0; k < *order; k++) {
    dims[k] = from[k];
    if (from[k] < 1) return false;
  }
  return true;
}

int64_t size_of(const int64_t* dims, int order) {
  int64_t n = 1;
  for (int k = 0; k < order; k++) n *= dims[k];
  return n;
}

// (order, dims, rank, leading, given, seed, iterations, tolerance, regularization, threads, x, weights, result, factors...)
struct CpCall {
  Cp p;
  bool parse(Args& a) {
    if (!read_dims(a, &p.order, p.dims)) return false;
    p.rank = a.integer();
    p.leading = a.flag();
    p.given = a.flag();
    p.seed = static_cast<uint64_t>(a.integer());
    p.iterations = a.integer();
    p.tolerance = a.number();
    p.regularization = a.number();
    p.threads = a.small();
    if (p.rank < 1) return false;
    p.x = a.array<float>(size_of(p.dims, p.order));
    p.weights = a.array<float>(p.rank);
    p.result = a.array<double>(6);
    for (int k = 0; k < p.order; k++) p.factors[k] = a.array<float>(p.dims[k] * p.rank);
    return a.ok();
  }
  WhittleStatus run() { return factor_cp(p); }
};

// (order, dims, modes, mode, choice, energy, hooi, iterations, tolerance, threads, x, ranks, core, result, factors...)
struct TuckerCall {
  Tucker p;
  int64_t ranks[kFactorOrder];
  int32_t* out;
  bool parse(Args& a) {
    if (!read_dims(a, &p.order, p.dims)) return false;
    p.modes = a.small();
    const int32_t* mode = a.array<int32_t>(p.modes);
    if (!mode || p.modes < 1 || p.modes > p.order) return false;
    for (int i = 0; i < p.modes; i++) {
      p.mode[i] = mode[i];
      if (mode[i] < (i ? mode[i - 1] + 1 : 0) || mode[i] >= p.order) return false;
    }
    p.choice = a.small();
    p.energy = a.number();
    p.hooi = a.flag();
    p.iterations = a.integer();
    p.tolerance = a.number();
    p.threads = a.small();
    const int64_t size = size_of(p.dims, p.order);
    p.x = a.array<float>(size);
    out = a.array<int32_t>(p.modes);
    if (!out) return false;
    int64_t core = size;
    for (int i = 0; i < p.modes; i++) {
      const int64_t d = p.dims[p.mode[i]];
      ranks[i] = p.choice == kRanksGiven ? out[i] : d;
      if (ranks[i] < 1 || ranks[i] > d) return false;
      core = core / d * ranks[i];
    }
    p.core = a.array<float>(core);
    p.result = a.array<double>(4);
    for (int i = 0; i < p.modes; i++) p.factors[i] = a.array<float>(p.dims[p.mode[i]] * ranks[i]);
    return a.ok();
  }
  WhittleStatus run() {
    p.ranks = ranks;
    const WhittleStatus s = factor_tucker(p);
    for (int i = 0; i < p.modes; i++) out[i] = static_cast<int32_t>(ranks[i]);
    return s;
  }
};

// (out, in, height, width, channel, choice, energy, threads, x, rank, vertical, horizontal, result)
struct SeparableCall {
  Separable p;
  int64_t rank;
  int32_t* written;
  bool parse(Args& a) {
    p.out = a.integer();
    p.in = a.integer();
    p.height = a.integer();
    p.width = a.integer();
    p.channel = a.flag();
    p.choice = a.small();
    p.energy = a.number();
    p.threads = a.small();
    if (p.out < 1 || p.in < 1 || p.height < 1 || p.width < 1) return false;
    p.x = a.array<float>(p.out * p.in * p.height * p.width);
    written = a.array<int32_t>(1);
    if (!written) return false;
    const int64_t rows = p.channel ? p.height : p.in * p.height, cols = p.channel ? p.width : p.out * p.width;
    const int64_t most = rows < cols ? rows : cols, copies = p.channel ? p.out * p.in : 1;
    rank = p.choice == kRanksGiven ? *written : most;
    if (rank < 1 || rank > most) return false;
    p.vertical = a.array<float>(copies * rank * rows);
    p.horizontal = a.array<float>(copies * rank * cols);
    p.result = a.array<double>(2);
    return a.ok();
  }
  WhittleStatus run() {
    p.rank = &rank;
    const WhittleStatus s = factor_separable(p);
    *written = static_cast<int32_t>(rank);
    return s;
  }
};

// (count, rows, columns, squares, result): result = rank, variance of the noise
struct VbmfCall {
  int64_t count, rows, columns;
  const double* squares;
  double* result;
  bool parse(Args& a) {
    count = a.integer();
    rows = a.integer();
    columns = a.integer();
    squares = a.array<double>(count);
    result = a.array<double>(2);
    return a.ok();
  }
  WhittleStatus run() {
    result[0] = static_cast<double>(factor_vbmf(squares, count, rows, columns, result + 1));
    return WHITTLE_OK;
  }
};

}  // namespace

void init_factor(napi_env env, napi_value exports) {
  expose<NmfCall>(env, exports, "factorNmf", "factorNmfAsync");
  expose<CpCall>(env, exports, "factorCp", "factorCpAsync");
  expose<TuckerCall>(env, exports, "factorTucker", "factorTuckerAsync");
  expose<SeparableCall>(env, exports, "factorSeparable", "factorSeparableAsync");
  expose<VbmfCall>(env, exports, "factorVbmf", "factorVbmfAsync");
}

}  // namespace whittle
