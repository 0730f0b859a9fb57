#include "core/factor.h"

#include <math.h>

#define WHITTLE_VARIANT(tier) extern "C" void factor_install_##tier(whittle::FactorKernels*);
#include "cpu/factor/variants.inc"
#undef WHITTLE_VARIANT

namespace whittle {
namespace {

const Variant<FactorKernels> kVariants[] = {
#define WHITTLE_VARIANT(tier) {Tier::tier, factor_install_##tier},
#include "cpu/factor/variants.inc"
#undef WHITTLE_VARIANT
};

const Resolved<FactorKernels>& resolved() {
  static const Resolved<FactorKernels> r = resolve(factor_variants());
  return r;
}

// x = square / (columns * variance) of a value that is kept -> its share of signal
double tau(double x, double alpha) {
  const double b = x - (1 + alpha), d = b * b - 4 * alpha;
  return 0.5 * (b + sqrt(d > 0 ? d : 0));
}

}  // namespace

VariantList<FactorKernels> factor_variants() {
  return {kVariants, static_cast<int>(sizeof kVariants / sizeof kVariants[0])};
}
const FactorKernels& factor_kernels() { return resolved().table; }
Tier factor_tier() { return resolved().tier; }

int64_t factor_energy(const double* squares, int64_t count, double energy) {
  double total = 0, sum = 0;
  for (int64_t i = 0; i < count; i++) total += squares[i] > 0 ? squares[i] : 0;
  for (int64_t i = 0; i < count; i++) {
    sum += squares[i] > 0 ? squares[i] : 0;
    if (sum >= energy * total) return i + 1;
  }
  return count;
}

// Corollary 2 and theorem 2 of the paper: the free energy of the noise variance is a sum of one term for each singular
// value, after which the rank is a threshold. The energy has several minima, so a grid comes before the refinement.
int64_t factor_vbmf(const double* squares, int64_t count, int64_t rows, int64_t columns, double* noise) {
  *noise = 0;
  if (count < 1 || !(squares[0] > 0)) return 0;
  const double m = static_cast<double>(rows > columns ? rows : columns), l = static_cast<double>(count), alpha = l / m;
  const double tau_bar = 2.5129 * sqrt(alpha), x_bar = (1 + tau_bar) * (1 + alpha / tau_bar);
  const double least = squares[0] * 1e-14;
  const auto square = [&](int64_t i) { return squares[i] > least ? squares[i] : least; };
  double total = 0, tail = 0;
  const int64_t most = static_cast<int64_t>(ceil(l / (1 + alpha))) - 1;  // components that the model can explain
  for (int64_t i = 0; i < count; i++) {
    total += square(i);
    if (i >= most) tail += square(i);
  }
  const double upper = total / (l * m);
  double lower = tail / (static_cast<double>(count - most) * m);
  const double other = square(most) / (m * x_bar);
  if (other > lower) lower = other;
  if (lower > upper) lower = upper;

  const auto energy = [&](double variance) {
    double sum = 0;
    for (int64_t i = 0; i < count; i++) {
      const double x = square(i) / (m * variance);
      if (x > x_bar) {
        const double t = tau(x, alpha);
        sum += x - t + log((t + 1) / x) + alpha * log(t / alpha + 1);
      } else {
        sum += x - log(x);
      }
    }
    return sum;
  };
  constexpr int kGrid = 400;
  const double span = log(upper / lower);
  int best = 0;
  double lowest = INFINITY;
  for (int i = 0; i <= kGrid; i++) {
    const double e = energy(lower * exp(span * i / kGrid));
    if (e < lowest) {
      lowest = e;
      best = i;
    }
  }
  double a = span * (best > 0 ? best - 1 : 0) / kGrid, b = span * (best < kGrid ? best + 1 : kGrid) / kGrid;
  const double golden = 0.6180339887498949;
  for (int i = 0; i < 80; i++) {
    const double c = b - golden * (b - a), d = a + golden * (b - a);
    if (energy(lower * exp(c)) < energy(lower * exp(d))) b = d;
    else a = c;
  }
  double variance = lower * exp((a + b) / 2);
  if (energy(variance) > lowest) variance = lower * exp(span * best / kGrid);
  *noise = variance;
  int64_t rank = 0;
  while (rank < count && squares[rank] > m * variance * x_bar) rank++;
  return rank;
}

}  // namespace whittle
