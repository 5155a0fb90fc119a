// LSTM, GRU and RNN: the product X * W' of all steps is made before, a step is a launch that multiplies by R and ends with the cell.
#pragma once

#include "runtime/cuda/cuda_launch.h"

namespace forebay::cuda {

enum class Cell : int { rnn, gru, lstm };
enum class CellMap : int { sigmoid, tanh, relu, affine, leaky_relu, thresholded_relu, scaled_tanh, hard_sigmoid, elu, softsign, softplus };
struct CellFunction {
  CellMap map = CellMap::sigmoid;
  float alpha = 0, beta = 0;
};

// Of one direction. Gates lie as in ONNX; what belongs to a gate is [hidden].
struct RecurrentTask {
  Cell cell = Cell::rnn;
  DType type = DType::f32;  // of everything but x_gates, states and lengths
  std::int64_t steps = 0, batch = 0, hidden = 0;
  std::int64_t x_time = 0, x_batch = 0;                   // rows of x_gates from step to step, from batch to batch
  std::int64_t y_time = 0, y_batch = 0, state_batch = 0;  // elements of y and of states from step to step, from batch to batch
  const float* x_gates = nullptr;                         // [row, gate, hidden]
  const void *r = nullptr, *bias = nullptr, *peepholes = nullptr, *h0 = nullptr, *c0 = nullptr;
  const std::int32_t* lengths = nullptr;                // null: `steps` of each; others than 0 to `steps` make not-a-numbers
  float *h = nullptr, *next_h = nullptr, *c = nullptr;  // [batch, hidden]
  float *reset = nullptr, *update = nullptr;            // a GRU's that resets before its product
  void *y = nullptr, *y_h = nullptr, *y_c = nullptr;
  CellFunction functions[3];
  float clip = 0;  // 0: none
  bool reversed = false, input_forget = false, linear_before_reset = false;
};
// All steps, states from h0 and c0 to y_h and y_c. y holds zeros.
cudaError_t launch_recurrent(const RecurrentTask& task, cudaStream_t stream);

}  // namespace forebay::cuda
