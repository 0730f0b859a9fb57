// Scores and masks on a GPU for JavaScript; see cuda.cpp.
#include "binding/device.h"
#include "binding/families.h"
#include "binding/numbers.h"

namespace whittle {
namespace {

// (numbers, x, g?, out): one score per element where axis is 0, else one per group
struct CudaScores {
  int32_t device, norm;
  int64_t outer, axis, inner;
  DeviceUse x, g, out;
  bool parse(Args& args) {
    Numbers n(args, 5);
    n >> device >> norm >> outer >> axis >> inner;
    const int64_t size = outer * (axis ? axis : 1) * inner;
    return args.ok() && norm >= 0 && norm < kSelectNorms && x.read(args, device, 4 * size) &&
           g.read(args, device, 4 * size, !select_uses_grad(norm)) && out.read(args, device, 4 * (axis ? axis : size));
  }
  WhittleStatus run() {
    const CudaBackend& b = *cuda().backend;
    return remember_device_error(axis ? b.groups(device, norm, x.as<float>(), g.as<float>(), outer, axis, inner, out.as<float>())
                                      : b.scores(device, norm, x.as<float>(), g.as<float>(), outer * inner, out.as<float>()));
  }
};

// (numbers, scores, mask)
struct CudaLargest {
  int32_t device;
  int64_t n, keep;
  float threshold;
  DeviceUse scores, mask;
  bool parse(Args& args) {
    Numbers numbers(args, 3);
    numbers >> device >> n >> keep;
    return args.ok() && scores.read(args, device, 4 * n) && mask.read(args, device, n);
  }
  WhittleStatus run() {
    return remember_device_error(cuda().backend->largest(device, scores.as<float>(), n, keep, mask.as<uint8_t>(), &threshold));
  }
};

struct CudaRuns {
  int32_t device, keep, m;
  int64_t outer, axis, inner;
  DeviceUse scores, mask;
  bool parse(Args& args) {
    Numbers n(args, 6);
    n >> device >> outer >> axis >> inner >> keep >> m;
    const int64_t size = outer * axis * inner;
    return args.ok() && scores.read(args, device, 4 * size) && mask.read(args, device, size);
  }
  WhittleStatus run() {
    return remember_device_error(cuda().backend->nm(device, scores.as<float>(), outer, axis, inner, keep, m, mask.as<uint8_t>()));
  }
};

// (numbers, x, mask, out); out may be x
struct CudaApply {
  int32_t device;
  int64_t n;
  DeviceUse x, mask, out;
  bool parse(Args& args) {
    Numbers numbers(args, 2);
    numbers >> device >> n;
    return args.ok() && x.read(args, device, 4 * n) && mask.read(args, device, n) && out.read(args, device, 4 * n);
  }
  WhittleStatus run() {
    return remember_device_error(cuda().backend->apply(device, x.as<float>(), mask.as<uint8_t>(), n, out.as<float>()));
  }
};

// (numbers, scores, mask): what is above the threshold
struct CudaAbove {
  int32_t device;
  int64_t n, equal;
  double threshold;
  DeviceUse scores, mask;
  bool parse(Args& args) {
    Numbers numbers(args, 4);
    numbers >> device >> n >> threshold >> equal;
    return args.ok() && scores.read(args, device, 4 * n) && mask.read(args, device, n);
  }
  WhittleStatus run() {
    return remember_device_error(cuda().backend->above(device, scores.as<float>(), n, static_cast<float>(threshold), equal, mask.as<uint8_t>()));
  }
};

// (numbers, scores, result): counts are added to
struct CudaCount {
  int32_t device, shift;
  int64_t n, base;
  double* result;
  DeviceUse scores;
  bool parse(Args& args) {
    Numbers numbers(args, 4);
    numbers >> device >> n >> base >> shift;
    if (!args.ok() || !scores.read(args, device, 4 * n)) return false;
    result = args.array<double>(kSelectBins);
    return args.ok();
  }
  WhittleStatus run() {
    int64_t counts[kSelectBins] = {};
    const WhittleStatus status = remember_device_error(cuda().backend->count(device, scores.as<float>(), n, static_cast<uint32_t>(base), shift, counts));
    for (int i = 0; i < kSelectBins; i++) result[i] += static_cast<double>(counts[i]);
    return status;
  }
};

// (numbers, scores, mask)
struct CudaBalanced {
  int32_t device;
  int64_t outer, axis, inner, keep;
  DeviceUse scores, mask;
  bool parse(Args& args) {
    Numbers n(args, 5);
    n >> device >> outer >> axis >> inner >> keep;
    const int64_t size = outer * axis * inner;
    return args.ok() && scores.read(args, device, 4 * size) && mask.read(args, device, size);
  }
  WhittleStatus run() {
    return remember_device_error(cuda().backend->balanced(device, scores.as<float>(), outer, axis, inner, keep, mask.as<uint8_t>()));
  }
};

// (numbers, x, g?, out)
struct CudaBlocks {
  int32_t device, norm;
  int64_t rows, cols, r, c;
  DeviceUse x, g, out;
  bool parse(Args& args) {
    Numbers n(args, 6);
    n >> device >> norm >> rows >> cols >> r >> c;
    return args.ok() && norm >= 0 && norm < kSelectNorms && r > 0 && c > 0 && x.read(args, device, 4 * rows * cols) &&
           g.read(args, device, 4 * rows * cols, !select_uses_grad(norm)) && out.read(args, device, 4 * (rows / r) * (cols / c));
  }
  WhittleStatus run() {
    return remember_device_error(cuda().backend->blocks(device, norm, x.as<float>(), g.as<float>(), rows, cols, r, c, out.as<float>()));
  }
};

// (numbers, x, out)
struct CudaMedian {
  int32_t device;
  int64_t outer, axis, inner;
  DeviceUse x, out;
  bool parse(Args& args) {
    Numbers n(args, 4);
    n >> device >> outer >> axis >> inner;
    return args.ok() && x.read(args, device, 4 * outer * axis * inner) && out.read(args, device, 4 * axis);
  }
  WhittleStatus run() { return remember_device_error(cuda().backend->median(device, x.as<float>(), outer, axis, inner, out.as<float>())); }
};

// (numbers, out)
struct CudaRandom {
  int32_t device;
  int64_t n, seed;
  DeviceUse out;
  bool parse(Args& args) {
    Numbers numbers(args, 3);
    numbers >> device >> seed >> n;
    return args.ok() && out.read(args, device, 4 * n);
  }
  WhittleStatus run() { return remember_device_error(cuda().backend->random(device, static_cast<uint64_t>(seed), n, out.as<float>())); }
};

// (numbers, chosen, mask)
struct CudaExpand {
  int32_t device;
  int64_t groups, repeat, count, width;
  DeviceUse chosen, mask;
  bool parse(Args& args) {
    Numbers n(args, 5);
    n >> device >> groups >> repeat >> count >> width;
    return args.ok() && repeat > 0 && width > 0 && chosen.read(args, device, groups * count) && mask.read(args, device, groups * repeat * count * width);
  }
  WhittleStatus run() {
    return remember_device_error(cuda().backend->expand(device, chosen.as<uint8_t>(), groups, repeat, count, width, mask.as<uint8_t>()));
  }
};

}  // namespace

void init_cuda_select(napi_env env, napi_value exports) {
  expose<CudaScores>(env, exports, "cudaScores", "cudaScoresAsync");
  expose<CudaLargest>(env, exports, "cudaLargest", "cudaLargestAsync");
  expose<CudaRuns>(env, exports, "cudaRuns", "cudaRunsAsync");
  expose<CudaApply>(env, exports, "cudaApply", "cudaApplyAsync");
  expose<CudaAbove>(env, exports, "cudaAbove", "cudaAboveAsync");
  expose<CudaCount>(env, exports, "cudaCount", "cudaCountAsync");
  expose<CudaBalanced>(env, exports, "cudaBalanced", "cudaBalancedAsync");
  expose<CudaBlocks>(env, exports, "cudaBlocks", "cudaBlocksAsync");
  expose<CudaMedian>(env, exports, "cudaMedian", "cudaMedianAsync");
  expose<CudaRandom>(env, exports, "cudaRandom", "cudaRandomAsync");
  expose<CudaExpand>(env, exports, "cudaExpand", "cudaExpandAsync");
}

}  // namespace whittle
