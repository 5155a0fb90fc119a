// LSTM, GRU and RNN: one kernel, the cell is a part. Weights are taken whole.
#pragma once

#include <memory>

#include "runtime/op.h"

namespace forebay::ops {

enum class CellKind : std::uint8_t { rnn, gru, lstm };
int cell_gates(CellKind kind);  // 1, 3, 4
CellKind cell_kind(const NodeView& node);

std::unique_ptr<Kernel> create_recurrent_kernel(CellKind kind);

}  // namespace forebay::ops
