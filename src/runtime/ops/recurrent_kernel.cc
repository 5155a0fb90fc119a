// X*W' of all steps is one product; H*R' of a step is one, followed by the cell row by row. Rows that have ended keep their state.
#include "runtime/ops/recurrent_kernel.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "base/check.h"
#include "runtime/cpu/gemm_blocked.h"
#include "runtime/cpu/gemv.h"
#include "runtime/ops/call_data.h"
#include "runtime/ops/nn_support.h"
#include "runtime/ops/recurrent_cell.h"

namespace forebay::ops {
namespace {

// Inputs: X W R B sequence_lens initial_h initial_c P. Outputs: Y Y_h Y_c.
constexpr std::size_t kX = 0, kW = 1, kR = 2, kB = 3, kLens = 4, kH0 = 5, kC0 = 6, kP = 7;

class Recurrent final : public FloatKernel {
 public:
  explicit Recurrent(CellKind kind) : kind_(kind) {}
  std::string_view id() const override { return "cpu.recurrent"; }

 protected:
  Status setup(const PrepareContext& context) override;
  Status compute(const KernelCall& call) override {
    return call.inputs[0].dtype == DType::f64 ? run_all<double>(call) : run_all<float>(call);
  }

 private:
  template <typename T>
  struct Buffers {
    T *x_gates, *gates, *recurrent, *h, *c, *spare, *reset;
    float* scratch;
  };
  template <typename T>
  Buffers<T> buffers(const KernelCall& call) const;
  template <typename T>
  Status run_all(const KernelCall& call) const;
  template <typename T>
  void run_direction(const KernelCall& call, int direction, const Buffers<T>& b) const;
  template <typename T>
  void step(const KernelCall& call, int direction, std::int64_t s, const CellParameters& cell, const Buffers<T>& b) const;
  // y[m, n] = x[m, k] * w[n, k]'.
  void multiply(const KernelCall& call, const float* x, std::int64_t m, const float* w, std::int64_t n, std::int64_t k, float* y, float* scratch) const;
  void multiply(const KernelCall& call, const double* x, std::int64_t m, const double* w, std::int64_t n, std::int64_t k, double* y, float*) const;

  bool reversed(int direction) const { return reverse_ || direction == 1; }
  std::int64_t length(const KernelCall& call, std::int64_t batch) const {
    const auto* lens = in<std::int32_t>(call, kLens);
    return lens != nullptr ? lens[batch] : steps_;
  }
  // Row of X (and of the products) for step s of a batch row; layout 1 has the batch outermost.
  std::int64_t x_row(std::int64_t time, std::int64_t batch) const { return batch_first_ ? batch * steps_ + time : time * batch_ + batch; }
  std::int64_t y_row(std::int64_t time, std::int64_t batch, int direction) const {
    return batch_first_ ? (batch * steps_ + time) * directions_ + direction : (time * directions_ + direction) * batch_ + batch;
  }
  std::int64_t state_row(std::int64_t batch, int direction) const { return batch_first_ ? batch * directions_ + direction : direction * batch_ + batch; }

  CellKind kind_;
  cpu::InstructionSet set_ = cpu::cpu_instruction_set();
  std::vector<CellActivation> activations_;
  CellParameters cell_;
  std::int64_t steps_ = 0, batch_ = 0, inputs_ = 0, hidden_ = 0, gates_ = 1;
  int directions_ = 1;
  bool reverse_ = false, batch_first_ = false, separate_ = false;
  std::int64_t scratch_floats_ = 0;
  std::string name_;
};

Status Recurrent::setup(const PrepareContext& context) {
  const NodeView& node = context.node;
  name_ = std::string(node.op()) + " '" + std::string(node.name()) + "'";
  const auto& x = context.inputs[kX].dims;
  batch_first_ = node.integer("layout", 0) != 0;
  steps_ = x[batch_first_ ? 1 : 0];
  batch_ = x[batch_first_ ? 0 : 1];
  inputs_ = x[2];
  const auto& r = context.inputs[kR].dims;
  directions_ = static_cast<int>(r[0]);
  hidden_ = r[2];
  gates_ = cell_gates(kind_);
  reverse_ = node.text("direction", "forward") == "reverse";
  FB_ASSIGN(activations_, cell_activations(node, kind_, directions_));
  cell_ = {kind_, hidden_, static_cast<double>(node.real("clip", 0.0f)), node.integer("input_forget", 0) != 0,
           node.integer("linear_before_reset", 0) != 0, nullptr};
  separate_ = kind_ == CellKind::gru;  // H*R' is kept apart from X*W'
  const auto& in_types = context.inputs;
  const auto fits = [&](std::size_t i, std::initializer_list<std::int64_t> dims) {
    return i >= in_types.size() || !in_types[i].present() || std::equal(dims.begin(), dims.end(), in_types[i].dims.begin(), in_types[i].dims.end());
  };
  const std::int64_t d = directions_, g = gates_ * hidden_;
  const bool states = batch_first_ ? fits(kH0, {batch_, d, hidden_}) && fits(kC0, {batch_, d, hidden_})
                                   : fits(kH0, {d, batch_, hidden_}) && fits(kC0, {d, batch_, hidden_});
  if (!fits(kW, {d, g, inputs_}) || !fits(kR, {d, g, hidden_}) || !fits(kB, {d, 2 * g}) || !fits(kLens, {batch_}) || !fits(kP, {d, 3 * hidden_}) || !states) {
    return node.invalid("the shapes of the weights, states or sequence_lens do not fit X " + dims_text(x) + " and hidden size " + std::to_string(hidden_));
  }
  const std::int64_t rows = steps_ * batch_;
  scratch_floats_ = std::max(cpu::gemm_scratch_floats(set_, rows, g, inputs_), cpu::gemm_scratch_floats(set_, batch_, g, hidden_)) * context.pool->threads();
  const std::uint64_t size = context.inputs[kX].dtype == DType::f64 ? 8 : 4;
  set_scratch(float_bytes(rows * g, size) + 2 * float_bytes(batch_ * g, size) + 4 * float_bytes(batch_ * hidden_, size) + float_bytes(scratch_floats_));
  return {};
}

template <typename T>
Recurrent::Buffers<T> Recurrent::buffers(const KernelCall& call) const {
  std::byte* at = call.workspace;
  const auto take = [&at](std::int64_t count) {
    T* made = reinterpret_cast<T*>(at);
    at += float_bytes(count, sizeof(T));
    return made;
  };
  Buffers<T> b{};
  b.x_gates = take(steps_ * batch_ * gates_ * hidden_);
  b.gates = take(batch_ * gates_ * hidden_);
  b.recurrent = take(batch_ * gates_ * hidden_);
  b.h = take(batch_ * hidden_);
  b.c = take(batch_ * hidden_);
  b.spare = take(batch_ * hidden_);
  b.reset = take(batch_ * hidden_);
  b.scratch = reinterpret_cast<float*>(at);
  return b;
}

void Recurrent::multiply(const KernelCall& call, const float* x, std::int64_t m, const float* w, std::int64_t n, std::int64_t k, float* y,
                         float* scratch) const {
  if (m == 0) return;
  if (m <= cpu::kGemvRows) {
    cpu::GemvTask task{reinterpret_cast<const std::byte*>(w), DType::f32, n, k, x, k, m, y, n};
    const std::int64_t grain = std::max<std::int64_t>(32, 65536 / std::max<std::int64_t>(1, k));
    call.pool->parallel_for(n, grain, [&](std::int64_t begin, std::int64_t end) { cpu::gemv_row_dot(set_, task, begin, end); });
    return;
  }
  cpu::GemmTask task;
  task.m = m;
  task.n = n;
  task.k = k;
  task.a = {reinterpret_cast<const std::byte*>(x), DType::f32, k, 1};
  task.b = {reinterpret_cast<const std::byte*>(w), DType::f32, 1, k};
  task.c = y;
  task.c_stride = n;
  cpu::gemm_parallel(set_, task, cpu::gemm_grid(set_, m, n, k, call.pool->threads()), *call.pool, scratch);
}

void Recurrent::multiply(const KernelCall& call, const double* x, std::int64_t m, const double* w, std::int64_t n, std::int64_t k, double* y, float*) const {
  call.pool->parallel_for(m * n, 64, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const double *a = x + i / n * k, *b = w + i % n * k;
      double sum = 0;
      for (std::int64_t j = 0; j < k; ++j) sum += a[j] * b[j];
      y[i] = sum;
    }
  });
}

template <typename T>
Status Recurrent::run_all(const KernelCall& call) const {
  for (std::int64_t batch = 0; batch < batch_; ++batch) {
    const std::int64_t given = length(call, batch);
    if (given < 0 || given > steps_) {
      return Status(Code::invalid_argument, name_ + ": sequence length " + std::to_string(given) + " of batch row " + std::to_string(batch) +
                                                " is outside of 0 to " + std::to_string(steps_));
    }
  }
  const Buffers<T> b = buffers<T>(call);
  if (T* y = out<T>(call, 0); y != nullptr) std::fill(y, y + call.outputs[0].shape.elements(), T(0));
  for (int direction = 0; direction < directions_; ++direction) run_direction(call, direction, b);
  return {};
}

template <typename T>
void Recurrent::run_direction(const KernelCall& call, int direction, const Buffers<T>& b) const {
  const std::int64_t g = gates_ * hidden_, rows = steps_ * batch_;
  multiply(call, in<T>(call, kX), rows, in<T>(call, kW) + direction * g * inputs_, g, inputs_, b.x_gates, b.scratch);
  if (const T* bias = in<T>(call, kB); bias != nullptr) {
    const T *wb = bias + direction * 2 * g, *rb = wb + g;
    // The h gate's recurrent bias of a GRU belongs inside of the reset product when linear_before_reset is set.
    const std::int64_t both = separate_ && cell_.linear_before_reset ? 2 * hidden_ : g;
    for (std::int64_t row = 0; row < rows; ++row) {
      T* to = b.x_gates + row * g;
      for (std::int64_t i = 0; i < both; ++i) to[i] += wb[i] + rb[i];
      for (std::int64_t i = both; i < g; ++i) to[i] += wb[i];
    }
  }
  for (std::int64_t batch = 0; batch < batch_; ++batch) {
    const std::int64_t from = state_row(batch, direction) * hidden_, to = batch * hidden_;
    for (const auto& [input, state] : {std::pair{kH0, b.h}, std::pair{kC0, b.c}}) {
      const T* initial = in<T>(call, input);
      for (std::int64_t i = 0; i < hidden_; ++i) state[to + i] = initial != nullptr ? initial[from + i] : T(0);
    }
  }
  CellParameters cell = cell_;
  cell.activations = activations_.data() + static_cast<std::size_t>(direction) * (activations_.size() / static_cast<std::size_t>(directions_));
  for (std::int64_t s = 0; s < steps_; ++s) step(call, direction, s, cell, b);
  T *y_h = out<T>(call, 1), *y_c = out<T>(call, 2);
  for (std::int64_t batch = 0; batch < batch_; ++batch) {
    const std::int64_t from = batch * hidden_, to = state_row(batch, direction) * hidden_;
    if (y_h != nullptr) std::copy(b.h + from, b.h + from + hidden_, y_h + to);
    if (y_c != nullptr) std::copy(b.c + from, b.c + from + hidden_, y_c + to);
  }
}

template <typename T>
void Recurrent::step(const KernelCall& call, int direction, std::int64_t s, const CellParameters& cell, const Buffers<T>& b) const {
  const std::int64_t g = gates_ * hidden_;
  const T* r = in<T>(call, kR) + direction * g * hidden_;
  const std::int64_t used = separate_ && !cell.linear_before_reset ? 2 * hidden_ : g;  // a plain GRU needs r before its last product
  multiply(call, b.h, batch_, r, used, hidden_, b.recurrent, b.scratch);
  const T* bias = in<T>(call, kB);
  const auto time_of = [&](std::int64_t batch) { return reversed(direction) ? length(call, batch) - 1 - s : s; };
  const auto row_of = [&](std::int64_t batch) {
    CellRow<T> row;
    row.gates = b.gates + batch * g;
    row.recurrent = b.recurrent + batch * g + 2 * hidden_;
    row.peepholes = in<T>(call, kP) != nullptr ? in<T>(call, kP) + direction * 3 * hidden_ : nullptr;
    row.h = b.h + batch * hidden_;
    row.c = b.c + batch * hidden_;
    row.spare = b.spare + batch * hidden_;
    return row;
  };
  for (std::int64_t batch = 0; batch < batch_; ++batch) {
    if (s >= length(call, batch)) continue;
    const T *x = b.x_gates + x_row(time_of(batch), batch) * g, *h = b.recurrent + batch * used;
    T* to = b.gates + batch * g;
    const std::int64_t summed = separate_ ? 2 * hidden_ : g;
    for (std::int64_t i = 0; i < summed; ++i) to[i] = x[i] + h[i];
    for (std::int64_t i = summed; i < g; ++i) to[i] = x[i];
    CellRow<T> row = row_of(batch);
    if (kind_ == CellKind::rnn) rnn_step(cell, row);
    if (kind_ == CellKind::lstm) lstm_step(cell, row);
    if (kind_ != CellKind::gru) continue;
    if (cell.linear_before_reset && bias != nullptr) {
      T* recurrent = b.recurrent + batch * g + 2 * hidden_;
      const T* rb = bias + direction * 2 * g + g + 2 * hidden_;
      for (std::int64_t i = 0; i < hidden_; ++i) recurrent[i] += rb[i];
    }
    gru_gates(cell, row);
  }
  if (kind_ == CellKind::gru) {
    if (!cell.linear_before_reset) multiply(call, b.spare, batch_, r + 2 * hidden_ * hidden_, hidden_, hidden_, b.reset, b.scratch);
    const T* added = cell.linear_before_reset ? b.spare : b.reset;
    for (std::int64_t batch = 0; batch < batch_; ++batch) {
      if (s >= length(call, batch)) continue;
      T* h_gate = b.gates + batch * g + 2 * hidden_;
      for (std::int64_t i = 0; i < hidden_; ++i) h_gate[i] += added[batch * hidden_ + i];
      gru_step(cell, row_of(batch));
    }
  }
  T* y = out<T>(call, 0);
  if (y == nullptr) return;
  for (std::int64_t batch = 0; batch < batch_; ++batch) {
    if (s >= length(call, batch)) continue;
    std::copy(b.h + batch * hidden_, b.h + (batch + 1) * hidden_, y + y_row(time_of(batch), batch, direction) * hidden_);
  }
}

}  // namespace

int cell_gates(CellKind kind) { return kind == CellKind::lstm ? 4 : kind == CellKind::gru ? 3 : 1; }
CellKind cell_kind(const NodeView& node) { return node.op() == "LSTM" ? CellKind::lstm : node.op() == "GRU" ? CellKind::gru : CellKind::rnn; }

std::unique_ptr<Kernel> create_recurrent_kernel(CellKind kind) { return std::make_unique<Recurrent>(kind); }

}  // namespace forebay::ops
