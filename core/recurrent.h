// LSTM, GRU and RNN over a series whose products with W are there already: what is left to each step is the product of the
// state with R and the gates. One direction of one layer; ONNX's equations, gate order (iofc, zrh) and activations.
//
// Numbers: products as gemm_f32, sigmoid and tanh as core/activation.h, other activations in float by the C library.
#pragma once
#include <stdint.h>

#include "core/status.h"

namespace whittle {

enum class RecurrentKind : int32_t { rnn = 0, gru, lstm, count };
enum class GateKind : int32_t {
  relu = 0, tanh, sigmoid, affine, leaky, thresholded, scaled_tanh, hard_sigmoid, elu, softsign, softplus, count
};
struct Gate {
  GateKind kind = GateKind::tanh;
  float alpha = 0, beta = 0;
};
constexpr int recurrent_gates(RecurrentKind k) { return k == RecurrentKind::lstm ? 4 : k == RecurrentKind::gru ? 3 : 1; }

struct RecurrentProblem {
  RecurrentKind kind;
  int64_t steps, batch, hidden;
  bool reverse;
  bool input_forget;   // lstm: the forget gate is 1 - input gate
  bool before_reset;   // gru: linear_before_reset
  float clip;          // infinity: none
  Gate f, g, h;
  const float* xw;     // [steps][batch][gates * hidden]
  // R transposed, hidden x n: packed by gemm_pack_b, or as it lies (row stride 1, column stride `hidden`).
  const float* r;      // all gates; of gru z and r
  const float* r_h;    // gru: the last gate
  bool packed;
  const float* bias;   // [2][gates * hidden], or null
  const float* peephole;  // lstm [3][hidden], or null
  const int32_t* lengths; // [batch], or null
  const float* h0;     // [batch][hidden], or null: zeros
  const float* c0;
  float* y;            // y + t * y_step: [batch][hidden], or null
  int64_t y_step;
  float* y_h;          // [batch][hidden], or null
  float* y_c;
};

WhittleStatus recurrent_f32(const RecurrentProblem& p, int threads);

}  // namespace whittle
