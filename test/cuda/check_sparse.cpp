// Sparse matrices against plain loops: what is stored to the bit, bytes to gemmInt8's bit on the dense matrix, floats within
// the bounds of docs/cuda.md of sums in float64.
#include <dlfcn.h>
#include <stdlib.h>

#include "check_sparse.h"
#include "core/gemm_int8.h"

namespace whittle {

FakeSparse* fake_sparse(const char* name) {
  const char* path = getenv(strcmp(name, "fake_cusparse") == 0 ? "WHITTLE_CUSPARSE_LIBRARY" : "WHITTLE_CUSPARSELT_LIBRARY");
  void* library = path && *path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : nullptr;
  return library ? static_cast<FakeSparse*>(dlsym(library, name)) : nullptr;
}

namespace {

// Lets the next product's library fail at a call, or not.
void refuse_some(Rng& rng) {
  for (const char* name : {"fake_cusparse", "fake_cusparselt"})
    if (FakeSparse* fake = fake_sparse(name)) fake->fail_at = rng.below(2) ? -1 : fake->calls + static_cast<int>(rng.below(9));
}

// Products of floats. `refuses`: what is asked of NVIDIA's libraries first.
bool float_product(Check& c, Rng& rng, const Shape& shape, int64_t rows, int64_t cols, int64_t n, int32_t type, int turn, const std::function<void()>& refuses) {
  const CudaBackend& cuda = c.cuda();
  Dense d = dense(rng, rows, cols, type, type, rng.uniform(0, 1), false);
  if (shape.m) thin(d, shape.n, shape.m);
  const Matrix w(cuda, d, shape.format, shape.n, shape.m);
  const bool by_rows = rng.below(2);
  const int64_t batch = by_rows ? 1 : rng.between(1, 2);
  std::vector<float> x = rng.normals(batch * cols * n, 3), bias = rng.normals(rows);
  const Device<float> dx(x), dbias(bias), out(std::vector<float>(static_cast<size_t>(batch * rows * n), 7.0f));
  CudaSpmm a = spmm_of(dx, n, out);
  a.by_rows = by_rows;
  a.batch = batch;
  const bool biased = rng.below(2);
  const Activation activations[] = {{kActivationNone, -INFINITY, INFINITY}, {kActivationClip, 0, INFINITY}, {kActivationGelu, -INFINITY, INFINITY}};
  a.activation = activations[rng.below(3)];
  a.bias = biased ? static_cast<float*>(dbias) : nullptr;
  int32_t fault = 0;
  refuses();
  const WhittleStatus status = cuda.sparse_multiply(0, w.w, a, &fault);
  if (!c.expect(w.status == WHITTLE_OK && status == WHITTLE_OK, "turn %d: status %d", turn, status)) return false;
  const std::vector<float> got = out.host();
  for (int64_t b = 0; b < a.batch; b++)
    for (int64_t i = 0; i < rows; i++)
      for (int64_t j = 0; j < n; j++) {
        double sum = biased ? bias[static_cast<size_t>(i)] : 0, size = fabs(sum);
        for (int64_t p = 0; p < cols; p++) {
          const double product = static_cast<double>(d.values[static_cast<size_t>(i * cols + p)]) *
                                 x[static_cast<size_t>(a.by_rows ? j * cols + p : (b * cols + p) * n + j)];
          sum += product;
          size += fabs(product);
        }
        double want = sum;
        if (a.activation.kind == kActivationClip) want = sum > 0 ? sum : 0;
        if (a.activation.kind == kActivationGelu) want = 0.5 * sum * erfc(-sum / sqrt(2.0));
        const double y = got[static_cast<size_t>(a.by_rows ? j * rows + i : (b * rows + i) * n + j)];
        const double bound = size * (2 * static_cast<double>(cols) + 16) * 0x1p-24 * 1.2 + 0x1p-21 * fmax(1, fabs(sum));
        if (!c.expect(fabs(y - want) <= bound, "turn %d (%d x %d x %d, format %d, type %d, rows %d): [%d, %d] is %g, want %g", turn, int(rows), int(cols),
                      int(n), shape.format, type, a.by_rows, int(i), int(j), y, want))
          return false;
      }
  // The same bits again.
  const Device<float> again(static_cast<int64_t>(got.size()));
  a.out = static_cast<float*>(again);
  c.expect(cuda.sparse_multiply(0, w.w, a, &fault) == WHITTLE_OK && differs(again.host(), got) < 0, "turn %d: other bits", turn);
  return true;
}

}  // namespace

void check_sparse(Check& c) {
  const CudaBackend& cuda = c.cuda();

  c.row("sparse: what is stored", [&](Rng& rng) {
    for (int turn = 0; turn < (c.lean() ? 5 : 60); turn++) {
      const Shape shape = kShapes[turn % 5];
      const int64_t sizes[] = {1, 3, 15, 16, 17, 33, 40, 70}, unit = shape.m ? shape.m : 1;
      const int64_t rows = turn == 5 ? 0 : sizes[rng.below(8)], cols = turn == 6 ? 0 : (sizes[rng.below(8)] + unit - 1) / unit * unit;
      const int32_t from = static_cast<int32_t>(rng.below(3));
      const int32_t type = from == kSparseInt8 ? kSparseInt8 : static_cast<int32_t>(rng.below(3));
      Dense d = dense(rng, rows, cols, from, type, rng.uniform(0, 1), shape.format != kSparseNm && rng.below(2));
      if (shape.m) thin(d, shape.n, shape.m);
      if (shape.m && from != kSparseInt8 && type == kSparseInt8) continue;  // thinning may change scales
      const Matrix w(cuda, d, shape.format, shape.n, shape.m);
      if (!c.expect(w.status == WHITTLE_OK, "turn %d: status %d", turn, w.status)) return;
      int64_t some = 0;
      for (float v : d.values) some += v != 0;
      c.expect(w.counts[1] == some, "turn %d: %d non-zeros, %d are there", turn, int(w.counts[1]), int(some));
      if (shape.format == kSparseCsr) c.expect(w.counts[0] == some, "turn %d: %d entries", turn, int(w.counts[0]));
      const std::vector<uint8_t> want = stored(d);
      const Device<uint8_t> back(std::vector<uint8_t>(want.size(), 0xcc));
      c.expect(cuda.sparse_dense(0, w.w, back) == WHITTLE_OK, "turn %d: dense", turn);
      const int64_t at = differs(back.host(), want);
      if (!c.expect(at < 0, "turn %d (%d x %d, format %d, %d to %d): byte %d", turn, int(rows), int(cols), shape.format, from, type, int(at))) return;
      if (type != kSparseInt8) continue;
      c.expect(differs(w.scales->host(), d.scales) < 0, "turn %d: scales", turn);
      std::vector<int32_t> sums;
      for (int64_t i = 0; i < rows; i++) {
        sums.push_back(0);
        for (int64_t j = 0; j < cols; j++) sums.back() += static_cast<int32_t>(d.values[static_cast<size_t>(i * cols + j)]);
      }
      c.expect(differs(w.sums->host(), sums) < 0, "turn %d: sums", turn);
    }
  });

  c.row("sparse: every format of every type", [&](Rng& rng) {
    for (const Shape& shape : {kShapes[0], kShapes[1], kShapes[2]})
      for (const int32_t type : {kSparseF32, kSparseBf16, kSparseInt8}) {
        Dense d = dense(rng, 33, 40, type, type, 0.5f, false);
        if (shape.m) thin(d, shape.n, shape.m);
        const Matrix w(cuda, d, shape.format, shape.n, shape.m);
        const std::vector<uint8_t> want = stored(d);
        const Device<uint8_t> back(std::vector<uint8_t>(want.size(), 0xcc));
        c.expect(w.status == WHITTLE_OK && cuda.sparse_dense(0, w.w, back) == WHITTLE_OK && differs(back.host(), want) < 0, "format %d, type %d", shape.format, type);
      }
  });

  c.row("sparse: more rows than one pass of the counts", [&](Rng& rng) {
    const Dense d = dense(rng, c.lean() ? 2100 : 4500, 2, kSparseF32, kSparseF32, 0.5f, false);
    const Matrix w(cuda, d, kSparseCsr, 0, 0);
    const Device<uint8_t> back(static_cast<int64_t>(d.source.size()));
    c.expect(w.status == WHITTLE_OK && cuda.sparse_dense(0, w.w, back) == WHITTLE_OK && differs(back.host(), stored(d)) < 0, "entries");
  });

  c.row("sparse: products of floats", [&](Rng& rng) {
    for (int turn = 0; turn < (c.lean() ? 5 : 40); turn++) {
      const Shape shape = kShapes[turn % 5];
      const int64_t sizes[] = {1, 2, 4, 5, 8, 31, 40, 64, 133}, unit = shape.m ? shape.m : 1;
      const int64_t rows = sizes[rng.below(8)], cols = turn == 7 ? 0 : (sizes[rng.below(9)] + unit - 1) / unit * unit, n = sizes[rng.below(9)];
      const int32_t type = turn % 2;
      if (!float_product(c, rng, shape, rows, cols, n, type, turn, [&] { refuse_some(rng); })) return;
    }
  });

  c.row("sparse: own kernels where a library refuses", [&](Rng& rng) {
    const auto refuse = [] {
      for (const char* name : {"fake_cusparse", "fake_cusparselt"})
        if (FakeSparse* fake = fake_sparse(name)) fake->fail_at = fake->calls;
    };
    int turn = 0;
    for (const int32_t type : {0, 1})
      for (const int64_t n : {2, 133})
        if (!float_product(c, rng, kShapes[0], 33, 40, n, type, turn++, refuse)) return;
  });

  c.row("sparse: products of floats by mma keep digits that TF32 has not, infinities and NaN", [&](Rng& rng) {
    const int64_t n = 32;
    Dense d = {1, 8, kSparseF32, kSparseF32, std::vector<uint8_t>(32), {}, rng.normals(8), {}};
    d.values[5] = 0;
    memcpy(d.source.data(), d.values.data(), 32);
    const Matrix w(cuda, d, kSparseBlock, 0, 0);
    std::vector<float> x = rng.normals(8 * n, 100);
    x[5 * n] = NAN;                 // meets nothing that is stored
    x[2 * n + 1] = INFINITY;
    x[3 * n + 2] = NAN;
    x[4 * n + 3] = 3.4028235e38f;   // not beyond the largest TF32 number
    for (int64_t p = 0; p < 8; p++) x[static_cast<size_t>(p * n + 4)] = p == 6 ? 1e-30f : 0;
    const Device<float> dx(x), out(n);
    const CudaSpmm a = spmm_of(dx, n, out);
    int32_t fault = 0;
    c.expect(cuda.sparse_multiply(0, w.w, a, &fault) == WHITTLE_OK, "status");
    const std::vector<float> y = out.host();
    for (int64_t j = 0; j < n; j++) {
      double sum = 0, size = 0;
      for (int64_t p = 0; p < 8; p++)
        if (p != 5) {
          sum += static_cast<double>(d.values[static_cast<size_t>(p)]) * x[static_cast<size_t>(p * n + j)];
          size += fabs(static_cast<double>(d.values[static_cast<size_t>(p)]) * x[static_cast<size_t>(p * n + j)]);
        }
      const double got = y[static_cast<size_t>(j)];
      if (j == 1) c.expect(got == (d.values[2] > 0 ? INFINITY : -INFINITY), "an infinity: %g", got);
      else if (j == 2) c.expect(got != got, "NaN: %g", got);
      else if (j == 3) c.expect(fabs(sum) > 3.4e38 || fabs(got - sum) <= size * 0x1p-20, "the largest float: %g, want %g", got, sum);
      else c.expect(fabs(got - sum) <= size * 32 * 0x1p-24, "column %d: %.9g, want %.9g", int(j), got, sum);
    }
  });

  c.row("sparse: products of bytes have the bits of dense ones on the CPU", [&](Rng& rng) {
    for (int turn = 0; turn < (c.lean() ? 6 : 40); turn++) {
      const Shape shape = kShapes[turn % 5];
      const int64_t sizes[] = {1, 2, 4, 5, 8, 31, 40, 64, 133}, unit = shape.m ? shape.m : 1;
      const int64_t rows = sizes[rng.below(8)], cols = (sizes[rng.below(9)] + unit - 1) / unit * unit, n = turn == 0 ? 133 : turn == 5 ? 2 : sizes[rng.below(9)];
      Dense d = dense(rng, rows, cols, kSparseInt8, kSparseInt8, rng.uniform(0, 1), false);
      if (shape.m) thin(d, shape.n, shape.m);
      const Matrix w(cuda, d, shape.format, shape.n, shape.m);
      CudaSpmm a = {};
      a.by_rows = true;
      a.batch = 1;
      a.columns = n;
      a.x_signed = rng.below(2);
      a.x_zero = static_cast<int32_t>(rng.between(a.x_signed ? -128 : 0, a.x_signed ? 127 : 255));
      a.x_scale = rng.uniform(1e-4f, 1e-2f);
      a.out_type = static_cast<int32_t>(rng.below(4));
      a.out_scale = rng.uniform(0.001f, 0.2f);
      a.out_zero = static_cast<int32_t>(a.out_type == kOutInt8 ? rng.between(-128, 127) : rng.between(0, 255));
      a.activation = {a.out_type == kOutInt32 ? kActivationNone : static_cast<int32_t>(rng.below(8)), -1, 6};
      std::vector<uint8_t> x(static_cast<size_t>(cols * n));
      for (uint8_t& v : x) v = static_cast<uint8_t>(rng.next());
      const std::vector<float> bias = rng.normals(rows);
      std::vector<int32_t> bias_int;
      for (int64_t i = 0; i < rows; i++) bias_int.push_back(static_cast<int32_t>(rng.between(-100000, 100000)));
      const int64_t kind = rng.below(3), size = a.out_type == kOutInt32 || a.out_type == kOutFloat32 ? 4 : 1;
      const bool floats = kind == 2 && a.out_type != kOutInt32;
      std::vector<uint8_t> want(static_cast<size_t>(n * rows * size));
      GemmInt8Args g = {};
      g.m = n;
      g.n = rows;
      g.k = cols;
      g.batch = 1;
      g.threads = 1;
      g.a = x.data();
      g.b = d.source.data();
      g.a_signed = a.x_signed;
      g.b_transposed = true;
      g.a_zero = a.x_zero;
      g.a_scale = a.x_scale;
      g.b_scales = d.scales.data();
      g.bias_int = kind == 1 ? bias_int.data() : nullptr;
      g.bias_float = floats ? bias.data() : nullptr;
      g.activation = a.activation;
      g.out_type = a.out_type;
      g.out_scale = a.out_scale;
      g.out_zero = a.out_zero;
      g.out = want.data();
      const WhittleStatus expected = gemm_int8(gemm_int8_kernels(), g);
      // The same as columns, half of the time: operand and result are turned.
      a.by_rows = rng.below(2);
      if (!a.by_rows) {
        std::vector<uint8_t> turned(x.size()), result(want.size());
        for (int64_t p = 0; p < cols; p++)
          for (int64_t j = 0; j < n; j++) turned[static_cast<size_t>(p * n + j)] = x[static_cast<size_t>(j * cols + p)];
        for (int64_t i = 0; i < rows; i++)
          for (int64_t j = 0; j < n; j++)
            memcpy(&result[static_cast<size_t>((i * n + j) * size)], &want[static_cast<size_t>((j * rows + i) * size)], static_cast<size_t>(size));
        x = turned;
        want = result;
      }
      const Device<uint8_t> dx(x), out(static_cast<int64_t>(want.size()));
      const Device<float> dbias(bias);
      const Device<int32_t> dbias_int(bias_int);
      a.x = static_cast<uint8_t*>(dx);
      a.bias = floats ? static_cast<float*>(dbias) : nullptr;
      a.bias_int = kind == 1 ? static_cast<int32_t*>(dbias_int) : nullptr;
      a.out = static_cast<uint8_t*>(out);
      int32_t fault = 0;
      refuse_some(rng);
      const WhittleStatus status = cuda.sparse_multiply(0, w.w, a, &fault);
      if (!c.expect(w.status == WHITTLE_OK && status == expected, "turn %d: status %d, %d on the CPU", turn, status, expected)) return;
      const int64_t at = differs(out.host(), want);
      if (!c.expect(at < 0, "turn %d (%d x %d x %d, format %d, out %d, rows %d): byte %d", turn, int(rows), int(cols), int(n), shape.format, a.out_type, a.by_rows,
                    int(at)))
        return;
    }
  });

  c.row("sparse: weights and sums out of range are refused", [&](Rng& rng) {
    Dense d = dense(rng, 20, 40, kSparseF32, kSparseF32, 0.5f, false);
    const float bad[] = {NAN, INFINITY, 3.4028235e38f};
    for (int i = 0; i < 3; i++) {
      Dense broken = d;
      broken.type = i == 2 ? kSparseBf16 : kSparseF32;
      memcpy(&broken.source[4 * 19 * 40 + 4 * 39], &bad[i], 4);
      c.expect(Matrix(cuda, broken, kSparseCsr, 0, 0).status == WHITTLE_NONFINITE, "value %d", i);
    }
    const Matrix crowded(cuda, d, kSparseNm, 1, 4);
    c.expect(crowded.status == WHITTLE_RANGE && crowded.counts[2] == 1, "a crowded group: %d", crowded.status);
    Dense codes = dense(rng, 3, 400, kSparseInt8, kSparseInt8, 0.01f, false);
    codes.scales[2] = -1;
    const Matrix scaled(cuda, codes, kSparseCsr, 0, 0);
    c.expect(scaled.status == WHITTLE_RANGE && scaled.counts[2] == 0, "a scale: %d", scaled.status);
    codes.scales[2] = 3e38f;
    const Matrix w(cuda, codes, kSparseCsr, 0, 0);
    const Device<uint8_t> x(std::vector<uint8_t>(400, 1));
    const Device<float> out(3);
    CudaSpmm a = spmm_of(x, 1, out);
    int32_t fault = 0;
    c.expect(cuda.sparse_multiply(0, w.w, a, &fault) == WHITTLE_OK, "int8 rows");
    const Device<int32_t> bias(std::vector<int32_t>{0, 0, 2147483647});
    a.bias_int = bias;
    c.expect(cuda.sparse_multiply(0, w.w, a, &fault) == WHITTLE_RANGE && fault == 1, "a bias: fault %d", fault);
    a.bias_int = nullptr;
    a.out_type = kOutFloat32;
    a.x_scale = 10;
    c.expect(cuda.sparse_multiply(0, w.w, a, &fault) == WHITTLE_RANGE && fault == 2, "a scale: fault %d", fault);
  });

  if (!c.real())
    c.row("sparse: every allocation fails once", [&](Rng& rng) {
      const Dense d = dense(rng, 20, 40, kSparseInt8, kSparseInt8, 0.5f, false);
      Dense thinned = d;
      thin(thinned, 2, 4);
      const Matrix w(cuda, thinned, kSparseNm, 2, 4);
      const Device<uint8_t> x(std::vector<uint8_t>(40 * 9, 1));
      const Device<int32_t> out(20 * 9), first(21), sums(20);
      const Device<float> scales(20);
      const Device<uint8_t> source(d.source);
      CudaSpmm a = spmm_of(x, 9, out);
      a.by_rows = true;
      CudaSparse target = {};
      target.format = kSparseBlock;
      target.type = kSparseInt8;
      target.rows = 20;
      target.cols = 40;
      target.first = first;
      target.sums = sums;
      target.scales = scales;
      const CudaSparseBuild build = {source, kSparseInt8, nullptr, nullptr, false};
      int64_t counts[3];
      int32_t fault = 0;
      int failures = 0;
      for (int call = 0; call < 20; call++) {
        fake::options().fail_allocation = fake::allocations() + call;
        const WhittleStatus made = cuda.sparse_count(0, build, target, counts);
        fake::options().fail_allocation = fake::allocations() + call;
        const WhittleStatus product = cuda.sparse_multiply(0, w.w, a, &fault);
        fake::options().fail_allocation = -1;
        for (const WhittleStatus s : {made, product}) {
          failures += s == WHITTLE_OUT_OF_MEMORY;
          c.expect(s == WHITTLE_OK || s == WHITTLE_OUT_OF_MEMORY, "call %d: status %d", call, s);
        }
      }
      c.expect(failures >= 4, "%d failures", failures);  // less what the operation does without
      c.expect(cuda.sparse_multiply(0, w.w, a, &fault) == WHITTLE_OK, "afterwards");
    });
}

}  // namespace whittle
