// Full decomposition: eigenvectors of the Gram matrix of the short side, then the matrix times these.
#include <math.h>
#include <string.h>

#include <algorithm>

#include "core/svd_parts.h"
#include "core/threads.h"

namespace whittle {

namespace {

// Below this share of the largest value vectors of float32 input are orthogonalized: two at the limit are orthogonal to
// about u / kSmall^2 = 3e-7, as float32 stores them.
constexpr double kSmall = 2e-5;
constexpr double kLooseFloat = 1e-9;

}  // namespace

void svd_tails(int64_t count, const double* values, double* tail) {
  tail[count] = 0;
  for (int64_t i = count; i-- > 0;) tail[i] = tail[i + 1] + values[i] * values[i];
}

template <class T>
WhittleStatus svd_full(const SvdProblem& p, const SvdView<T>& view, Workspace* work, SvdTriplets* t, double* spectrum, double* norm2) {
  const SvdKernels& kernels = svd_kernels();
  const int64_t tall = view.tall, thin = view.thin, threads = view.threads;
  const bool wide = sizeof(T) == 8, need_rows = wide || p.vectors;
  Workspace local;
  const int64_t ldg = thin + (thin % 64 == 0 ? 8 : 0);
  double* gram = local.take(thin * ldg);
  double* values = local.take(thin + 1);
  double* tail = local.take(thin + 1);
  const int64_t wanted = wide ? thin : std::min(thin, p.max_rank);
  double* z = need_rows ? work->take(wanted * thin) : nullptr;
  if (!local.ok() || !work->ok()) return WHITTLE_OUT_OF_MEMORY;
  DenseProduct product = {thin, thin, tall};
  product.lower = true;
  WhittleStatus s = dense_gemm(product, transposed(view.x), view.x, gram, ldg, static_cast<int>(threads));
  if (s != WHITTLE_OK) return s;
  *norm2 = 0;
  for (int64_t i = 0; i < thin; i++) *norm2 += gram[i * ldg + i];
  const Eigen e = dense_eigen(thin, gram, ldg, values, wanted, z, thin, static_cast<int>(threads));
  if (e.status != WHITTLE_OK) return e.status;
  t->iterations = e.iterations;
  t->converged = e.converged;
  // Descending, as values of A.
  for (int64_t i = 0; i < thin; i++) spectrum[i] = sqrt(std::max(0.0, values[thin - 1 - i]));
  svd_tails(thin, spectrum, tail);
  // Squares of float64 input blur its small values, so that the rank waits for the real ones.
  t->count = wide ? thin : svd_rank(p, thin, tail, tail[0]);
  t->values = work->take(thin);
  if (!work->ok()) return WHITTLE_OUT_OF_MEMORY;
  std::copy(spectrum, spectrum + t->count, t->values);
  if (!need_rows) return WHITTLE_OK;
  t->left = work->take(t->count * tall);
  if (!work->ok()) return WHITTLE_OUT_OF_MEMORY;
  parallel_for(wanted / 2, 16, static_cast<int>(threads), [&](int64_t b, int64_t end) {
    for (int64_t i = b; i < end; i++) std::swap_ranges(z + i * thin, z + (i + 1) * thin, z + (wanted - 1 - i) * thin);
  });
  t->right = z;
  s = dense_gemm({t->count, tall, thin}, rows_of<double>(z, thin), transposed(view.x), t->left, tall, static_cast<int>(threads));
  if (s != WHITTLE_OK) return s;
  int64_t sound = 0;
  while (!wide && sound < t->count && spectrum[sound] > kSmall * spectrum[0]) sound++;
  parallel_for(sound, 8, static_cast<int>(threads), [&](int64_t b, int64_t end) {
    for (int64_t i = b; i < end; i++) {
      double* row = t->left + i * tall;
      const double norm = sqrt(kernels.dot(tall, row, row)), scale = 1 / norm;
      t->values[i] = norm;
      for (int64_t j = 0; j < tall; j++) row[j] *= scale;
    }
  });
  const double loose = wide ? 0x1p-52 * sqrt(static_cast<double>(thin)) : kLooseFloat;
  s = svd_refine(sound, spectrum[0], loose, tall, thin, t, static_cast<int>(threads));
  if (s == WHITTLE_OK) s = svd_sort(tall, thin, t);
  if (s != WHITTLE_OK) return s;
  std::copy(t->values, t->values + t->count, spectrum);
  if (wide) {
    svd_tails(thin, spectrum, tail);
    t->count = svd_rank(p, thin, tail, tail[0]);
  }
  return WHITTLE_OK;
}

template WhittleStatus svd_full(const SvdProblem&, const SvdView<float>&, Workspace*, SvdTriplets*, double*, double*);
template WhittleStatus svd_full(const SvdProblem&, const SvdView<double>&, Workspace*, SvdTriplets*, double*, double*);

}  // namespace whittle
