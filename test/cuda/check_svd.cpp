// Decompositions are checked by what they are: factors that make up the matrix, orthonormal, in order, signs as promised, and
// the spectrum that the matrix was made with.
#include <dlfcn.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>

#include "check.h"

struct FakeCusolver {
  int calls, fail_at, failure, unconverged, spoiled;
  double perturbed;
  int counts[6];
};

namespace whittle {
namespace {

enum Which { kGesvdj, kGesvdp, kGesvd, kGesvda, kGeqrf, kOrgqr };

FakeCusolver* fake_library() {
  const char* path = getenv("WHITTLE_CUSOLVER_LIBRARY");
  void* library = path && *path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : nullptr;
  return library ? static_cast<FakeCusolver*>(dlsym(library, "fake_cusolver")) : nullptr;
}

typedef std::vector<double> Numbers;

double at(const Numbers& x, int64_t i) { return x[static_cast<size_t>(i)]; }

// Orthonormal columns, rows x columns row-major.
Numbers basis(Rng& rng, int64_t rows, int64_t columns) {
  Numbers q(static_cast<size_t>(rows * columns));
  for (int64_t k = 0; k < columns; k++)
    for (int again = 0; again < 3; again++) {
      double norm = 0;
      for (int64_t i = 0; i < rows; i++)
        if (again == 0) q[size_t(i * columns + k)] = rng.normal();
      for (int64_t j = 0; j < k; j++) {
        double dot = 0;
        for (int64_t i = 0; i < rows; i++) dot += at(q, i * columns + j) * at(q, i * columns + k);
        for (int64_t i = 0; i < rows; i++) q[size_t(i * columns + k)] -= dot * at(q, i * columns + j);
      }
      for (int64_t i = 0; i < rows; i++) norm += at(q, i * columns + k) * at(q, i * columns + k);
      for (int64_t i = 0; i < rows; i++) q[size_t(i * columns + k)] /= sqrt(norm);
    }
  return q;
}

Numbers with_spectrum(Rng& rng, int64_t m, int64_t n, const Numbers& s) {
  const int64_t k = static_cast<int64_t>(s.size());
  const Numbers u = basis(rng, m, k), v = basis(rng, n, k);
  Numbers a(static_cast<size_t>(m * n));
  for (int64_t i = 0; i < m; i++)
    for (int64_t j = 0; j < n; j++)
      for (int64_t p = 0; p < k; p++) a[size_t(i * n + j)] += at(u, i * k + p) * at(s, p) * at(v, j * k + p);
  return a;
}

Numbers normals(Rng& rng, int64_t count) {
  Numbers x(static_cast<size_t>(count));
  for (double& v : x) v = rng.normal();
  return x;
}

// A call with its memory, and what came back as float64.
class Call {
 public:
  Call(const Numbers& a, bool wide, int64_t batch, int64_t m, int64_t n) : a_(a), narrow_(a.begin(), a.end()) {
    p.wide = wide;
    p.batch = batch;
    p.m = m;
    p.n = n;
    p.max_rank = std::min(m, n);
    if (!wide) a_.assign(narrow_.begin(), narrow_.end());
  }
  WhittleStatus run(Check& c) {
    WhittleStatus status;
    if (p.wide) status = typed<double>(c, a_);
    else status = typed<float>(c, narrow_);
    return status;
  }
  // By definition.
  void verify(Check& c, const char* what) {
    const int64_t m = p.m, n = p.n, r = o.rank;
    const double unit = p.wide ? 0x1p-50 : 0x1p-22, slack = unit * sqrt(double(m + n));
    double error2 = 0, norm2 = 0;
    for (int64_t b = 0; b < p.batch; b++) {
      double most = 0;
      for (int64_t k = 0; k < r; k++) {
        most = std::max(most, at(s, b * r + k));
        c.expect(at(s, b * r + k) >= 0 && (k == 0 || at(s, b * r + k) <= at(s, b * r + k - 1)), "%s: value %d out of order", what, int(k));
      }
      for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
          double rest = at(a_, (b * m + i) * n + j);
          norm2 += rest * rest;
          for (int64_t k = 0; p.vectors && k < r; k++) rest -= at(u, (b * m + i) * r + k) * at(s, b * r + k) * at(v, (b * n + j) * r + k);
          error2 += rest * rest;
        }
      if (!p.vectors) continue;
      for (int64_t k = 0; k < r; k++) {
        int64_t place = 0;
        for (int64_t i = 1; i < m; i++)
          if (fabs(at(u, (b * m + i) * r + k)) > fabs(at(u, (b * m + place) * r + k))) place = i;
        c.expect(at(u, (b * m + place) * r + k) >= 0, "%s: the sign of column %d", what, int(k));
        for (int64_t l = 0; l <= k; l++) {
          double x = 0, y = 0;
          for (int64_t i = 0; i < m; i++) x += at(u, (b * m + i) * r + k) * at(u, (b * m + i) * r + l);
          for (int64_t j = 0; j < n; j++) y += at(v, (b * n + j) * r + k) * at(v, (b * n + j) * r + l);
          const bool beyond = x == 0 && y == 0 && l == k && at(s, b * r + k) == 0;  // of a stack's matrix of lower rank
          const double one = l == k ? 1 : 0;
          if (!beyond)
            c.expect(fabs(x - one) <= 8 * slack && fabs(y - one) <= 8 * slack, "%s: columns %d and %d: %g, %g", what, int(k), int(l), x, y);
        }
      }
    }
    if (p.vectors)
      c.expect(fabs(o.error - sqrt(error2)) <= 8 * slack * sqrt(norm2) + 1e-9 * sqrt(error2), "%s: error %g, said to be %g", what, sqrt(error2), o.error);
    c.expect(fabs(o.norm - sqrt(norm2)) <= 1e-6 * sqrt(norm2), "%s: norm %g, said to be %g", what, sqrt(norm2), o.norm);
  }

  CudaSvd p;
  SvdOutcome o;
  Numbers u, s, v;

 private:
  template <class T>
  WhittleStatus typed(Check& c, const std::vector<T>& a) {
    const Device<T> da(a), du(std::vector<T>(size_t(p.batch * p.m * p.max_rank), T(77))), ds(std::vector<T>(size_t(p.batch * p.max_rank), T(77))),
        dv(std::vector<T>(size_t(p.batch * p.n * p.max_rank), T(77)));
    p.a = static_cast<T*>(da);
    p.u = p.vectors ? static_cast<T*>(du) : nullptr;
    p.s = static_cast<T*>(ds);
    p.v = p.vectors ? static_cast<T*>(dv) : nullptr;
    const WhittleStatus status = c.cuda().svd(0, p, &o);
    const std::vector<T> hu = du.host(), hs = ds.host(), hv = dv.host();
    u.assign(hu.begin(), hu.end());
    s.assign(hs.begin(), hs.end());
    v.assign(hv.begin(), hv.end());
    return status;
  }

  Numbers a_;
  std::vector<float> narrow_;
};

}  // namespace

void check_svd(Check& c) {
  FakeCusolver* solver = c.real() ? nullptr : fake_library();
  const char* products = getenv("WHITTLE_CUBLASLT_LIBRARY");
  if (!c.real() && (!solver || !products || !*products)) return;
  const FakeCusolver clean = solver ? *solver : FakeCusolver();
  // What takes long runs under one schedule where little time is given.
  const auto spared = [&] { return c.lean() && !c.real() && emulator::settings().order != emulator::Order::random; };
  const auto again = [&] {
    if (solver) *solver = clean;
  };

  c.row("svd: factors make up the matrix, of both types, tall and wide, in stacks, by every way", [&](Rng& rng) {
    for (int turn = 0; turn < (c.lean() ? 6 : 60); turn++) {
      again();
      const int64_t m = turn == 0 ? 1 : rng.between(1, 18), n = turn == 1 ? 1 : turn % 5 == 2 ? m : rng.between(1, 18), batch = turn % 3 == 2 ? 3 : 1;
      Call call(normals(rng, batch * m * n), rng.below(2), batch, m, n);
      call.p.vectors = rng.below(4) != 0;
      call.p.large = turn % 4 == 3 ? 1 : 0;
      if (rng.below(3) == 0) call.p.max_rank = rng.between(1, std::min(m, n));
      const WhittleStatus status = call.run(c);
      if (!c.expect(status == WHITTLE_OK, "turn %d: status %d, %s", turn, status, c.cuda().error())) return;
      c.expect(call.o.full && call.o.converged && call.o.rank == call.p.max_rank, "turn %d: rank %d of %d", turn, int(call.o.rank), int(call.p.max_rank));
      call.verify(c, "full");
      if (!solver) continue;
      const int way = call.p.vectors && batch > 1 && !call.p.wide ? kGesvda : call.p.large ? kGesvdp : kGesvdj;
      c.expect(solver->counts[way] >= 1, "turn %d: not by way %d", turn, way);
      c.expect(way == kGesvda || solver->counts[kGesvd] == 0, "turn %d: had to fall back", turn);
      c.expect(way != kGesvdj || call.o.iterations >= 1, "turn %d: no sweeps", turn);
    }
    again();
  });

  c.row("svd: the spectrum, ranks by energy and tolerance, a stack's own ranks", [&](Rng& rng) {
    const Numbers spectrum = {8, 4, 2, 1, 0.5};
    for (int turn = 0; turn < (c.lean() ? 3 : 24); turn++) {
      const bool wide = turn % 2, tall = turn % 3;
      const Numbers a = with_spectrum(rng, tall ? 14 : 7, tall ? 7 : 14, spectrum);
      Call call(a, wide, 1, tall ? 14 : 7, tall ? 7 : 14);
      // Squares: 64 16 4 1 0.25 of 85.25.
      const double shares[] = {0.74, 0.76, 0.94, 0.99, 1};
      const int64_t ranks[] = {1, 2, 3, 4, 5};
      const int64_t which = rng.below(5);
      if (turn % 4 < 2) call.p.energy = shares[which];
      else call.p.tolerance = sqrt(1 - shares[which]);
      if (!c.expect(call.run(c) == WHITTLE_OK, "turn %d: %s", turn, c.cuda().error())) return;
      c.expect(call.o.rank == ranks[which], "turn %d: rank %d, not %d", turn, int(call.o.rank), int(ranks[which]));
      for (int64_t k = 0; k < call.o.rank; k++)
        c.expect(fabs(at(call.s, k) - at(spectrum, k)) <= 8 * (wide ? 1e-15 : 1e-7) * 8, "turn %d: value %d is %.9g", turn, int(k), at(call.s, k));
      call.verify(c, "by energy");
    }
    // Three matrices whose ranks are 1, 3, 2.
    Numbers stack = with_spectrum(rng, 9, 6, {5});
    for (const Numbers& s : {Numbers{5, 4, 3}, Numbers{5, 4}}) {
      const Numbers more = with_spectrum(rng, 9, 6, s);
      stack.insert(stack.end(), more.begin(), more.end());
    }
    for (const bool wide : {false, true}) {
      Call call(stack, wide, 3, 9, 6);
      call.p.tolerance = 1e-4;
      if (!c.expect(call.run(c) == WHITTLE_OK && call.o.rank == 3, "a stack's rank %d: %s", int(call.o.rank), c.cuda().error())) return;
      call.verify(c, "stack");
      c.expect(at(call.s, 1) == 0 && at(call.s, 2) == 0 && at(call.s, 5) > 2 && at(call.s, 8) == 0, "zeros beyond a matrix's own rank");
      for (int64_t i = 0; i < 9; i++) c.expect(at(call.u, i * 3 + 1) == 0 && at(call.u, i * 3 + 2) == 0, "columns beyond a matrix's own rank");
    }
  });

  c.row("svd: of low rank, of zeros, very large and very small; not finite", [&](Rng& rng) {
    if (spared()) return;
    for (const bool wide : {false, true})
      for (const int64_t batch : {1, 2}) {
        Numbers a = with_spectrum(rng, 10, 6, {3, 2});
        if (batch == 2) a.resize(a.size() * 2);  // the other one is zero
        Call call(a, wide, batch, 10, 6);
        if (!c.expect(call.run(c) == WHITTLE_OK, "of low rank: %s", c.cuda().error())) return;
        c.expect(call.o.rank == 6, "rank %d", int(call.o.rank));
        call.verify(c, "of low rank");
      }
    for (const double scale : {1e300, 1e-300}) {
      Numbers a = with_spectrum(rng, 6, 9, {3, 2, 1});
      Call one(a, true, 1, 6, 9);
      for (double& x : a) x *= scale;
      Call call(a, true, 1, 6, 9);
      if (!c.expect(one.run(c) == WHITTLE_OK && call.run(c) == WHITTLE_OK, "scaled: %s", c.cuda().error())) return;
      for (int64_t k = 0; k < 3; k++)
        c.expect(fabs(at(call.s, k) / scale - at(one.s, k)) <= 1e-14, "value %d of %g: %.17g", int(k), scale, at(call.s, k) / scale);
      c.expect(fabs(call.o.norm / scale - one.o.norm) <= 1e-14 * one.o.norm, "norm %g", call.o.norm);
    }
    Call large(Numbers(6, 3e38), false, 1, 2, 3);
    c.expect(large.run(c) == WHITTLE_RANGE, "a value beyond float32");
    for (const double bad : {double(NAN), double(INFINITY), double(-INFINITY)})
      for (const bool wide : {false, true}) {
        Numbers a = normals(rng, 40);
        a[size_t(rng.below(40))] = bad;
        Call call(a, wide, 2, 4, 5);
        c.expect(call.run(c) == WHITTLE_NONFINITE, "%g", bad);
      }
  });

  c.row("svd: leading triplets by search, their steps and what they report", [&](Rng& rng) {
    if (spared()) return;
    const int64_t m = 110, n = 84;
    Numbers spectrum;
    for (int k = 0; k < 60; k++) spectrum.push_back(pow(0.8, k));
    const Numbers a = with_spectrum(rng, m, n, spectrum);
    for (int turn = 0; turn < (c.lean() ? 2 : 6); turn++) {
      const bool wide = turn % 2;
      Call call(a, wide, 1, turn % 3 ? m : n, turn % 3 ? n : m);
      call.p.method = kSvdRandomized;
      call.p.max_rank = 6;
      call.p.seed = static_cast<uint64_t>(turn);
      call.p.vectors = turn != 4;
      if (!c.expect(call.run(c) == WHITTLE_OK, "turn %d: %s", turn, c.cuda().error())) return;
      c.expect(!call.o.full && call.o.converged && call.o.iterations >= 2 && call.o.rank == 6, "turn %d: full %d, %d steps", turn, call.o.full, int(call.o.iterations));
      if (turn % 3)
        for (int64_t k = 0; k < 6; k++)
          c.expect(fabs(at(call.s, k) - at(spectrum, k)) <= 1e-3 * at(spectrum, k), "turn %d: value %d is %g", turn, int(k), at(call.s, k));
      call.verify(c, "randomized");
      const Numbers first = call.s;
      c.expect(call.run(c) == WHITTLE_OK && call.s == first, "turn %d: another answer", turn);
    }
    // What a rank asks for, found by doubling; and a space as large as the matrix.
    Call adaptive(a, true, 1, m, n);
    adaptive.p.method = kSvdRandomized;
    adaptive.p.max_rank = 40;
    adaptive.p.tolerance = 0.1;
    if (!c.expect(adaptive.run(c) == WHITTLE_OK, "adaptive: %s", c.cuda().error())) return;
    // 0.8^(2 r) <= 0.01 of the whole: r = 11
    c.expect(adaptive.o.rank == 11, "rank %d by tolerance", int(adaptive.o.rank));
    adaptive.verify(c, "adaptive");
    Call small(normals(rng, 20 * 12), false, 1, 20, 12);
    small.p.method = kSvdRandomized;
    small.p.max_rank = 4;
    c.expect(small.run(c) == WHITTLE_OK && small.o.full && small.o.rank == 4, "a small one");
    small.verify(c, "small");
    // Of exact low rank: the space closes, and what it leaves is rounding.
    Call low(with_spectrum(rng, 120, 100, {3, 2, 1}), true, 1, 120, 100);
    low.p.method = kSvdRandomized;
    low.p.max_rank = 8;
    if (!c.expect(low.run(c) == WHITTLE_OK, "of low rank: %s", c.cuda().error())) return;
    c.expect(low.o.converged && at(low.s, 3) <= 1e-14 && low.o.error <= 1e-13, "of low rank: %g, error %g", at(low.s, 3), low.o.error);
    low.verify(c, "of low rank");
    // Few steps asked for, a flat spectrum: not converged, and said so.
    Call flat(normals(rng, 120 * 110), false, 1, 120, 110);
    flat.p.method = kSvdRandomized;
    flat.p.max_rank = 30;
    flat.p.iterations = 1;
    flat.p.oversampling = 2;
    c.expect(flat.run(c) == WHITTLE_OK && !flat.o.converged && flat.o.iterations == 1 && flat.o.improvement > 0.01, "flat: converged %d, %d steps, %g",
             flat.o.converged, int(flat.o.iterations), flat.o.improvement);
    flat.verify(c, "flat");
  });

  c.row("svd: factors of low rank, balanced", [&](Rng& rng) {
    for (const bool wide : {false, true}) {
      const Numbers a = with_spectrum(rng, 8, 11, {4, 1, 0.25});
      Call call(a, wide, 1, 8, 11);
      call.p.max_rank = 2;
      call.p.factors = true;
      if (!c.expect(call.run(c) == WHITTLE_OK, "%s", c.cuda().error())) return;
      double error2 = 0, length[2][2] = {};
      for (int64_t i = 0; i < 8; i++)
        for (int64_t j = 0; j < 11; j++) {
          const double rest = at(a, i * 11 + j) - at(call.u, i * 2) * at(call.v, j) - at(call.u, i * 2 + 1) * at(call.v, 11 + j);
          error2 += rest * rest;
        }
      for (int64_t k = 0; k < 2; k++) {
        for (int64_t i = 0; i < 8; i++) length[k][0] += at(call.u, i * 2 + k) * at(call.u, i * 2 + k);
        for (int64_t j = 0; j < 11; j++) length[k][1] += at(call.v, k * 11 + j) * at(call.v, k * 11 + j);
        c.expect(fabs(length[k][0] - at(call.s, k)) < 1e-5 && fabs(length[k][1] - at(call.s, k)) < 1e-5, "column %d: %g, %g", int(k), length[k][0], length[k][1]);
      }
      c.expect(fabs(sqrt(error2) - 0.25) < 1e-5 && fabs(call.o.error - 0.25) < 1e-5, "error %g", sqrt(error2));
    }
  });

  if (!solver) return;

  c.row("svd: what did not converge or does not make up the matrix goes another way, and none is refused", [&](Rng& rng) {
    if (spared()) return;
    struct {
      int unconverged, spoiled;
      double perturbed;
      bool vectors;
      int64_t batch, large;
      bool fine;
    } const turns[] = {{1, 0, 0, true, 1, 0, true},  {0, 1, 0, true, 1, 0, true},  {0, 1, 0, false, 1, 0, true}, {2, 0, 0, true, 1, 1, true},
                       {0, 2, 0, true, 1, 1, true},  {0, 0, 0.1, true, 1, 1, true}, {8, 0, 0, true, 3, 0, true}, {0, 8, 0, true, 3, 0, true},
                       {1, 4, 0, true, 1, 0, false}, {5, 0, 0, true, 1, 0, false}, {0, 5, 0, false, 1, 0, false}};
    for (const auto& t : turns) {
      again();
      const int index = static_cast<int>(&t - turns);
      Call call(normals(rng, t.batch * 9 * 7), false, t.batch, 9, 7);
      call.p.vectors = t.vectors;
      call.p.large = t.large;
      solver->unconverged = t.unconverged;
      solver->spoiled = t.spoiled;
      solver->perturbed = t.perturbed;
      const WhittleStatus status = call.run(c);
      if (!c.expect(status == (t.fine ? WHITTLE_OK : WHITTLE_DEVICE), "turn %d: status %d, %s", index, status, c.cuda().error())) break;
      if (!t.fine) {
        c.expect(c.cuda().error()[0] != 0, "turn %d: no words", index);
        continue;
      }
      call.verify(c, "another way");
      // A stack's one bad matrix alone goes on by rotations.
      c.expect(t.batch > 1 ? solver->counts[kGesvda] == 1 && solver->counts[kGesvdj] == 1 : solver->counts[kGesvd] == 1, "turn %d: calls %d %d %d %d", index,
               solver->counts[0], solver->counts[1], solver->counts[2], solver->counts[3]);
    }
    // Bases that are none.
    again();
    Call call(normals(rng, 100 * 80), false, 1, 100, 80);
    call.p.method = kSvdRandomized;
    call.p.max_rank = 4;
    solver->spoiled = 16;
    c.expect(call.run(c) == WHITTLE_DEVICE && strstr(c.cuda().error(), "orthonormal"), "a spoiled basis: %s", c.cuda().error());
    again();
  });

  c.row("svd: failures of the library and of memory, at every place", [&](Rng& rng) {
    for (int kind = 0; kind < (spared() ? 0 : 3); kind++) {
      const auto make = [&](const Numbers& a) {
        Call call(a, false, kind == 1 ? 2 : 1, kind == 2 ? 70 : 6, kind == 2 ? 60 : 5);
        if (kind == 2) {
          call.p.method = kSvdRandomized;
          call.p.max_rank = 2;
        }
        return call;
      };
      again();
      const Numbers a = normals(rng, kind == 1 ? 60 : kind == 2 ? 4200 : 30);
      Call whole = make(a);
      if (!c.expect(whole.run(c) == WHITTLE_OK, "kind %d: %s", kind, c.cuda().error())) return;
      const int calls = solver->calls, step = c.lean() ? std::max(1, calls / 3) : 1;
      for (int at_call = 0; at_call < calls; at_call += step)
        for (const int failure : {6, 2}) {
          again();
          solver->fail_at = at_call;
          solver->failure = failure;
          Call call = make(a);
          const WhittleStatus status = call.run(c);
          const bool memory = failure == 2;
          c.expect(memory ? status == WHITTLE_OUT_OF_MEMORY : status == WHITTLE_OK || status == WHITTLE_DEVICE, "kind %d, call %d: status %d", kind, at_call, status);
          if (status == WHITTLE_OK) call.verify(c, "after a failed call");
          else if (!memory) c.expect(strstr(c.cuda().error(), "cusolver") != nullptr, "kind %d, call %d: %s", kind, at_call, c.cuda().error());
        }
      again();
      int failures = 0;
      for (int64_t i = 0; i < 400; i += c.lean() && i > 8 ? 29 : 1) {
        Call call = make(a);
        fake::options().fail_allocation = fake::allocations() + 4 + i;  // after those of the call's own memory
        const int64_t last = fake::options().fail_allocation;
        const WhittleStatus status = call.run(c);
        fake::options().fail_allocation = -1;
        if (fake::allocations() <= last) break;
        failures++;
        c.expect(status == WHITTLE_OUT_OF_MEMORY, "kind %d, allocation %d: status %d", kind, int(i), status);
      }
      c.expect(failures >= 10, "kind %d: %d allocations failed", kind, failures);
      Call after = make(a);
      c.expect(after.run(c) == WHITTLE_OK, "kind %d, afterwards: %s", kind, c.cuda().error());
    }
  });
}

}  // namespace whittle
