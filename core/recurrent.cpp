#include "core/recurrent.h"

#include <math.h>
#include <string.h>

#include <algorithm>

#include "core/gemm.h"
#include "core/scratch.h"

namespace whittle {
namespace {

float gate_one(const Gate& a, float x) {
  switch (a.kind) {
    case GateKind::relu: return x > 0 ? x : 0;
    case GateKind::affine: return a.alpha * x + a.beta;
    case GateKind::leaky: return x < 0 ? a.alpha * x : x;
    case GateKind::thresholded: return x >= a.alpha ? x : 0;
    case GateKind::scaled_tanh: return a.alpha * tanhf(a.beta * x);
    case GateKind::hard_sigmoid: return std::min(std::max(a.alpha * x + a.beta, 0.0f), 1.0f);
    case GateKind::elu: return x < 0 ? a.alpha * expm1f(x) : x;
    case GateKind::softsign: return x / (1 + fabsf(x));
    case GateKind::softplus: return x > 0 ? x + log1pf(expf(-x)) : log1pf(expf(x));
    default: return x;
  }
}

// In place over `rows` rows of n floats, `stride` apart; clipped before.
void gate(const Gate& a, float clip, int64_t rows, int64_t n, float* x, int64_t stride) {
  if (clip < INFINITY)
    for (int64_t i = 0; i < rows; i++)
      for (int64_t j = 0; j < n; j++) x[i * stride + j] = std::min(std::max(x[i * stride + j], -clip), clip);
  if (a.kind == GateKind::tanh || a.kind == GateKind::sigmoid) {
    Activation act;
    act.kind = a.kind == GateKind::tanh ? kActivationTanh : kActivationSigmoid;
    act.lo = act.hi = 0;
    gemm_default().kernels.finish(rows, n, x, stride, nullptr, &act);
    return;
  }
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < n; j++) x[i * stride + j] = gate_one(a, x[i * stride + j]);
}

// c (ldc apart) += state * r
WhittleStatus add_product(const RecurrentProblem& p, const float* state, const float* r, int64_t n, float* c, int64_t ldc, int threads) {
  GemmProblem g;
  g.m = p.batch;
  g.n = n;
  g.k = p.hidden;
  g.a = state;
  g.a_row = p.hidden;
  g.a_col = 1;
  if (p.packed) g.packed = r;
  else g.b = r;
  g.b_row = 1;
  g.b_col = p.hidden;
  g.c = c;
  g.ldc = ldc;
  g.beta = 1;
  g.source = c;
  g.source_row = ldc;
  g.source_col = 1;
  return gemm_f32(g, threads);
}

}  // namespace

WhittleStatus recurrent_f32(const RecurrentProblem& p, int threads) {
  const int64_t N = p.batch, H = p.hidden, G = recurrent_gates(p.kind) * H, state = N * H;
  static thread_local Scratch scratch;
  float* room = static_cast<float*>(scratch.take((N * G + G + 5 * state + 16) * 4));
  if (!room) return WHITTLE_OUT_OF_MEMORY;
  float* gates = room;
  float* bias = gates + N * G;
  float* h = bias + G;
  float* c = h + state;
  float* reset = c + state;
  float* part = reset + state;
  if (p.h0) memcpy(h, p.h0, static_cast<size_t>(state) * 4);
  else std::fill(h, h + state, 0.0f);
  if (p.c0) memcpy(c, p.c0, static_cast<size_t>(state) * 4);
  else std::fill(c, c + state, 0.0f);
  // The bias of R's last gate stays apart where the reset gate takes it too.
  const bool apart = p.kind == RecurrentKind::gru && p.before_reset;
  for (int64_t j = 0; j < G; j++) bias[j] = p.bias ? p.bias[j] + (apart && j >= 2 * H ? 0 : p.bias[G + j]) : 0;

  for (int64_t s = 0; s < p.steps; s++) {
    // Each row of the batch is at its own place of the series where their lengths differ.
    const auto place = [&](int64_t b) -> int64_t {
      const int64_t length = p.lengths ? std::min<int64_t>(p.lengths[b], p.steps) : p.steps;
      return s >= length ? -1 : p.reverse ? length - 1 - s : s;
    };
    for (int64_t b = 0; b < N; b++) {
      const int64_t t = place(b);
      float* to = gates + b * G;
      if (t < 0) {
        std::fill(to, to + G, 0.0f);
        continue;
      }
      const float* from = p.xw + (t * N + b) * G;
      if (p.bias)
        for (int64_t j = 0; j < G; j++) to[j] = from[j] + bias[j];
      else memcpy(to, from, static_cast<size_t>(G) * 4);
    }
    WhittleStatus status;
    if (p.kind == RecurrentKind::gru) {
      status = add_product(p, h, p.r, 2 * H, gates, G, threads);
      gate(p.f, p.clip, N, 2 * H, gates, G);
      if (p.before_reset) {
        std::fill(part, part + state, 0.0f);
        if (status == WHITTLE_OK) status = add_product(p, h, p.r_h, H, part, H, threads);
        for (int64_t b = 0; b < N; b++)
          for (int64_t j = 0; j < H; j++)
            gates[b * G + 2 * H + j] += gates[b * G + H + j] * (part[b * H + j] + (p.bias ? p.bias[G + 2 * H + j] : 0));
      } else {
        for (int64_t b = 0; b < N; b++)
          for (int64_t j = 0; j < H; j++) reset[b * H + j] = gates[b * G + H + j] * h[b * H + j];
        if (status == WHITTLE_OK) status = add_product(p, reset, p.r_h, H, gates + 2 * H, G, threads);
      }
      gate(p.g, p.clip, N, H, gates + 2 * H, G);
    } else {
      status = add_product(p, h, p.r, G, gates, G, threads);
      if (p.kind == RecurrentKind::lstm) {
        if (p.peephole)
          for (int64_t b = 0; b < N; b++)
            for (int64_t j = 0; j < H; j++) {
              gates[b * G + j] += p.peephole[j] * c[b * H + j];
              gates[b * G + 2 * H + j] += p.peephole[2 * H + j] * c[b * H + j];
            }
        if (p.peephole || p.clip < INFINITY) {
          gate(p.f, p.clip, N, H, gates, G);
          gate(p.f, p.clip, N, H, gates + 2 * H, G);
        } else {
          gate(p.f, p.clip, N, 3 * H, gates, G);
        }
        gate(p.g, p.clip, N, H, gates + 3 * H, G);
      } else {
        gate(p.f, p.clip, N, H, gates, G);
      }
    }
    if (status != WHITTLE_OK) return status;

    if (p.kind == RecurrentKind::lstm) {
      // The new cell goes to `reset`, its activation to `part`; both are taken where the row is not at its end.
      for (int64_t b = 0; b < N; b++) {
        float* a = gates + b * G;
        for (int64_t j = 0; j < H; j++) {
          const float forget = p.input_forget ? 1 - a[j] : a[2 * H + j];
          const float v = forget * c[b * H + j] + a[j] * a[3 * H + j];
          reset[b * H + j] = part[b * H + j] = v;
          if (p.peephole) a[H + j] += p.peephole[H + j] * v;
        }
      }
      if (p.peephole || p.clip < INFINITY) gate(p.f, p.clip, N, H, gates + H, G);
      gate(p.h, INFINITY, N, H, part, H);
    }
    for (int64_t b = 0; b < N; b++) {
      const int64_t t = place(b);
      if (t < 0) continue;
      const float* a = gates + b * G;
      float* hb = h + b * H;
      for (int64_t j = 0; j < H; j++) {
        if (p.kind == RecurrentKind::rnn) hb[j] = a[j];
        else if (p.kind == RecurrentKind::gru) hb[j] = (1 - a[j]) * a[2 * H + j] + a[j] * hb[j];
        else hb[j] = a[H + j] * part[b * H + j];
      }
      if (p.kind == RecurrentKind::lstm) memcpy(c + b * H, reset + b * H, static_cast<size_t>(H) * 4);
      if (p.y) memcpy(p.y + t * p.y_step + b * H, hb, static_cast<size_t>(H) * 4);
    }
    for (int64_t b = 0; p.y && p.lengths && b < N; b++)
      if (s >= p.lengths[b]) std::fill(p.y + s * p.y_step + b * H, p.y + s * p.y_step + (b + 1) * H, 0.0f);
  }
  if (p.y_h) memcpy(p.y_h, h, static_cast<size_t>(state) * 4);
  if (p.y_c) memcpy(p.y_c, c, static_cast<size_t>(state) * 4);
  return WHITTLE_OK;
}

}  // namespace whittle
