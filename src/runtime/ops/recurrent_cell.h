// Activations of recurrent cells and one step of a cell for one row of the batch.
#pragma once

#include <string>
#include <vector>

#include "runtime/op.h"
#include "runtime/ops/recurrent_kernel.h"
#include "runtime/ops/vector_loops.h"

namespace forebay::ops {

struct CellActivation {
  enum class Kind : std::uint8_t { loop, affine, scaled_tanh };
  Kind kind = Kind::loop;
  FloatUnary loop = FloatUnary::sigmoid;
  double alpha = 0, beta = 0;
};
// The three (LSTM), two (GRU) or one (RNN) functions of each direction, in the order f, g, h.
Result<std::vector<CellActivation>> cell_activations(const NodeView& node, CellKind kind, int directions);

struct CellParameters {
  CellKind kind = CellKind::rnn;
  std::int64_t hidden = 0;
  double clip = 0;  // 0: none
  bool input_forget = false, linear_before_reset = false;
  const CellActivation* activations = nullptr;  // of this direction
};

// Pointers of one row: `gates` holds X*W' + H*R' + biases (for the h gate of a GRU see recurrent_cell.cc) and is overwritten.
template <typename T>
struct CellRow {
  T* gates = nullptr;            // [gates * hidden]
  const T* recurrent = nullptr;  // GRU: H*Rh' + Rbh of linear_before_reset
  const T* peepholes = nullptr;  // LSTM: [3 * hidden] i, o, f, or null
  T* h = nullptr;                // [hidden], updated
  T* c = nullptr;                // LSTM, updated
  T* spare = nullptr;            // [hidden]
};
template <typename T>
void rnn_step(const CellParameters& cell, const CellRow<T>& row);
template <typename T>
void lstm_step(const CellParameters& cell, const CellRow<T>& row);
// GRU in two parts: the gates z and r, then (with the h gate complete) the new state. reset_state writes r * h to `spare`.
template <typename T>
void gru_gates(const CellParameters& cell, const CellRow<T>& row);
template <typename T>
void gru_step(const CellParameters& cell, const CellRow<T>& row);

}  // namespace forebay::ops
