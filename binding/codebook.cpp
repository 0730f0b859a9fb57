#include "core/codebook.h"

#include "binding/call.h"
#include "binding/families.h"

namespace whittle {
namespace {

// Reads indices of either width; sizes are checked against the arrays.
void* indices(Args& args, bool wide, int64_t n) {
  return wide ? static_cast<void*>(args.array<uint16_t>(n)) : static_cast<void*>(args.array<uint8_t>(n));
}

bool sane(int64_t n, int64_t clusters) { return n >= 0 && clusters >= 1 && clusters <= kCodebookMax; }

// (n, clusters, init, seed, starts, iterations, tolerance, threads, x, centroids, index, counts, result)
struct KmeansCall {
  Kmeans p;
  bool parse(Args& a) {
    p.n = a.integer();
    p.clusters = a.integer();
    p.init = a.small();
    p.seed = static_cast<uint64_t>(a.integer());
    p.starts = a.small();
    p.iterations = a.integer();
    p.tolerance = a.number();
    p.threads = a.small();
    if (!sane(p.n, p.clusters) || p.n < 1 || p.starts < 1) return false;
    p.x = a.array<float>(p.n);
    p.centroids = a.array<float>(p.clusters);
    p.index = indices(a, p.clusters > 256, p.n);
    p.counts = a.array<int32_t>(p.clusters);
    p.result = a.array<double>(4);
    return a.ok();
  }
  WhittleStatus run() { return codebook_kmeans(p); }
};

// (n, clusters, threads, x, centroids, index, result)
struct AssignCall {
  int64_t n, clusters;
  int32_t threads;
  const float *x, *centroids;
  void* index;
  double* squares;
  bool parse(Args& a) {
    n = a.integer();
    clusters = a.integer();
    threads = a.small();
    if (!sane(n, clusters)) return false;
    x = a.array<float>(n);
    centroids = a.array<float>(clusters);
    index = indices(a, clusters > 256, n);
    squares = a.array<double>(1);
    return a.ok();
  }
  WhittleStatus run() { return codebook_assign(x, n, centroids, clusters, index, squares, threads); }
};

// (n, clusters, wide, threads, index, values or gradients, out)
template <bool kSums>
struct IndexedCall {
  int64_t n, clusters;
  bool wide;
  int32_t threads;
  const void* index;
  const float* from;
  float* out;
  bool parse(Args& a) {
    n = a.integer();
    clusters = a.integer();
    wide = a.flag();
    threads = a.small();
    if (!sane(n, clusters)) return false;
    index = indices(a, wide, n);
    from = a.array<float>(kSums ? n : clusters);
    out = a.array<float>(kSums ? clusters : n);
    return a.ok();
  }
  WhittleStatus run() {
    return kSums ? codebook_sums(index, wide, from, n, clusters, out, threads)
                 : codebook_gather(index, wide, n, from, clusters, out, threads);
  }
};

}  // namespace

void init_codebook(napi_env env, napi_value exports) {
  expose<KmeansCall>(env, exports, "codebookKmeans", "codebookKmeansAsync");
  expose<AssignCall>(env, exports, "codebookAssign", "codebookAssignAsync");
  expose<IndexedCall<false>>(env, exports, "codebookGather", "codebookGatherAsync");
  expose<IndexedCall<true>>(env, exports, "codebookSums", "codebookSumsAsync");
}

}  // namespace whittle
