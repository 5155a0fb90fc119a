// LSTM, GRU and RNN: shapes, workspace, and the product of all steps' inputs by the float product's kernels.
#include <array>
#include <optional>

#include "runtime/cuda/cuda_kernels.h"
#include "runtime/cuda/kernel_base.h"
#include "runtime/cuda/recurrent_task.h"
#include "runtime/ops/nn_support.h"
#include "runtime/ops/recurrent_cell.h"

namespace forebay::cuda {
namespace {

// Inputs: X W R B sequence_lens initial_h initial_c P. Outputs: Y Y_h Y_c.
constexpr std::size_t kX = 0, kW = 1, kR = 2, kB = 3, kLens = 4, kH0 = 5, kC0 = 6, kP = 7;
constexpr std::int64_t kMostRows = 65535 * 8;  // of the batch

std::optional<CellFunction> function_of(const ops::CellActivation& from) {
  CellFunction made{CellMap::sigmoid, static_cast<float>(from.alpha), static_cast<float>(from.beta)};
  using Kind = ops::CellActivation::Kind;
  if (from.kind != Kind::loop) {
    made.map = from.kind == Kind::affine ? CellMap::affine : CellMap::scaled_tanh;
    return made;
  }
  static constexpr std::pair<ops::FloatUnary, CellMap> kMaps[] = {{ops::FloatUnary::sigmoid, CellMap::sigmoid},
                                                                  {ops::FloatUnary::tanh, CellMap::tanh},
                                                                  {ops::FloatUnary::relu, CellMap::relu},
                                                                  {ops::FloatUnary::leaky_relu, CellMap::leaky_relu},
                                                                  {ops::FloatUnary::thresholded_relu, CellMap::thresholded_relu},
                                                                  {ops::FloatUnary::hard_sigmoid, CellMap::hard_sigmoid},
                                                                  {ops::FloatUnary::elu, CellMap::elu},
                                                                  {ops::FloatUnary::softsign, CellMap::softsign},
                                                                  {ops::FloatUnary::softplus, CellMap::softplus}};
  for (const auto& [loop, map] : kMaps) {
    if (loop != from.loop) continue;
    made.map = map;
    return made;
  }
  return std::nullopt;
}

class RecurrentKernel final : public CudaKernel {
 public:
  explicit RecurrentKernel(StatePtr state) : CudaKernel("cuda.recurrent", std::move(state)) {}
  std::uint64_t workspace_bytes() const override { return product_at_ + product_bytes_; }

  Status run(const KernelCall& call) override {
    const auto in = [&](std::size_t i) { return i < call.inputs.size() && call.inputs[i].present() ? call.inputs[i].data : nullptr; };
    const auto out = [&](std::size_t i) { return i < call.outputs.size() && call.outputs[i].present() ? call.outputs[i].data : nullptr; };
    const std::int64_t size = dtype_bits(task_.type) / 8, hidden = task_.hidden, gate_rows = gates_ * hidden;
    if (out(0) != nullptr) {
      const auto bytes = static_cast<std::size_t>(call.outputs[0].shape.elements() * size);
      FB_TRY(check(cudaMemsetAsync(out(0), 0, bytes, queue_stream())));
    }
    for (std::int64_t d = 0; d < directions_; ++d) {
      RecurrentTask task = task_;
      FB_TRY(multiply(call, in(kW) + d * gate_rows * inputs_ * size));
      const auto of = [&](const std::byte* data, std::int64_t each) { return data == nullptr ? nullptr : data + d * each * size; };
      const auto to = [&](std::byte* data, std::int64_t each) { return data == nullptr ? nullptr : data + d * each * size; };
      task.r = of(in(kR), gate_rows * hidden);
      task.bias = of(in(kB), 2 * gate_rows);
      task.peepholes = of(in(kP), 3 * hidden);
      task.h0 = of(in(kH0), state_step_);
      task.c0 = of(in(kC0), state_step_);
      task.lengths = reinterpret_cast<const std::int32_t*>(in(kLens));
      task.y = to(out(0), y_step_);
      task.y_h = to(out(1), state_step_);
      task.y_c = to(out(2), state_step_);
      task.x_gates = reinterpret_cast<const float*>(call.workspace);
      float* states = reinterpret_cast<float*>(call.workspace + ops::float_bytes(rows_ * gate_rows));
      for (float** state : {&task.h, &task.next_h, &task.c, &task.reset, &task.update}) {
        *state = states;
        states += ops::float_bytes(task.batch * hidden) / sizeof(float);
      }
      const std::size_t each = functions_.size() / static_cast<std::size_t>(directions_);
      for (std::size_t i = 0; i < each; ++i) task.functions[i] = functions_[static_cast<std::size_t>(d) * each + i];
      task.reversed = task_.reversed || d == 1;
      FB_TRY(check(launch_recurrent(task, queue_stream())));
    }
    return {};
  }

 private:
  Status setup(const PrepareContext& context) override {
    const NodeView& node = context.node;
    const ops::CellKind kind = ops::cell_kind(node);
    const auto &x = context.inputs[kX].dims, &r = context.inputs[kR].dims;
    const bool batch_first = node.integer("layout", 0) != 0;
    task_ = RecurrentTask();
    task_.cell = kind == ops::CellKind::lstm ? Cell::lstm : kind == ops::CellKind::gru ? Cell::gru : Cell::rnn;
    task_.type = context.inputs[kX].dtype;
    task_.steps = x[batch_first ? 1 : 0];
    task_.batch = x[batch_first ? 0 : 1];
    task_.hidden = r[2];
    inputs_ = x[2];
    directions_ = r[0];
    gates_ = ops::cell_gates(kind);
    rows_ = task_.steps * task_.batch;
    FB_TRY(shapes_fit(context, batch_first));
    const std::int64_t d = directions_, b = task_.batch, h = task_.hidden;
    task_.x_time = batch_first ? 1 : b;
    task_.x_batch = batch_first ? task_.steps : 1;
    task_.y_time = d * (batch_first ? h : b * h);
    task_.y_batch = batch_first ? task_.steps * d * h : h;
    y_step_ = batch_first ? h : b * h;
    task_.state_batch = batch_first ? d * h : h;
    state_step_ = batch_first ? h : b * h;
    task_.clip = node.real("clip", 0.0f);
    task_.reversed = node.text("direction", "forward") == "reverse";
    task_.input_forget = node.integer("input_forget", 0) != 0;
    task_.linear_before_reset = node.integer("linear_before_reset", 0) != 0;
    FB_ASSIGN(const auto named, ops::cell_activations(node, kind, static_cast<int>(directions_)));
    functions_.clear();
    for (const ops::CellActivation& one : named) {
      const auto function = function_of(one);
      if (!function) return node.unsupported("one of the activations");
      functions_.push_back(*function);
    }
    return prepare_product(context);
  }

  // The CPU's kernel says what does not fit.
  Status shapes_fit(const PrepareContext& context, bool batch_first) const {
    using Dims = std::vector<std::int64_t>;
    const std::int64_t d = directions_, g = gates_ * task_.hidden, b = task_.batch, h = task_.hidden;
    const Dims state = batch_first ? Dims{b, d, h} : Dims{d, b, h};
    const std::pair<std::size_t, Dims> wanted[] = {{kW, {d, g, inputs_}}, {kR, {d, g, h}}, {kB, {d, 2 * g}}, {kLens, {b}},
                                                   {kH0, state},          {kC0, state},    {kP, {d, 3 * h}}};
    for (const auto& [input, dims] : wanted)
      if (input < context.inputs.size() && context.inputs[input].present() && context.inputs[input].dims != dims)
        return context.node.unsupported("shapes that do not fit");
    return b <= kMostRows ? Status() : context.node.unsupported("a batch of that size");
  }

  // X [rows, inputs] by W [gates * hidden, inputs], in f32.
  Status prepare_product(const PrepareContext& context) {
    const std::int64_t columns = gates_ * task_.hidden;
    const std::vector<plan::Attribute> attributes{{"transB", std::int64_t{1}}};
    const plan::Plan none;
    product_inputs_ = {matrix(task_.type, rows_, inputs_), matrix(task_.type, columns, inputs_)};
    const std::vector<TypeShape> outputs{matrix(DType::f32, rows_, columns)};
    const std::vector<const HostTensor*> values(2, nullptr);
    const NodeView node(context.node.name(), "", "Gemm", 13, attributes, none, 2, 1);
    FB_ASSIGN(product_, make_cuda_kernel(node, product_inputs_, outputs, state_));
    if (product_ == nullptr) return context.node.unsupported("a product of these types");
    FB_TRY(
        product_->prepare(PrepareContext{node, product_inputs_, values, outputs, context.pool, plan::kNone, plan::Consumption::whole, {}}));
    product_at_ = ops::float_bytes(rows_ * columns) + 5 * ops::float_bytes(task_.batch * task_.hidden);
    product_bytes_ = product_->workspace_bytes();
    return {};
  }
  static TypeShape matrix(DType type, std::int64_t rows, std::int64_t columns) {
    TypeShape made;
    made.dtype = type;
    made.has_rank = true;
    made.dims = {rows, columns};
    return made;
  }
  Status multiply(const KernelCall& call, const std::byte* w) const {
    if (rows_ == 0) return {};
    const std::array<ConstTensorView, 2> operands{ConstTensorView(call.inputs[kX].data, task_.type, product_inputs_[0].shape()),
                                                  ConstTensorView(w, task_.type, product_inputs_[1].shape())};
    const std::array<TensorView, 1> sums{TensorView{call.workspace, DType::f32, Shape{rows_, gates_ * task_.hidden}}};
    KernelCall inner = call;
    inner.inputs = operands;
    inner.outputs = sums;
    inner.workspace = call.workspace + product_at_;
    inner.workspace_bytes = product_bytes_;
    return product_->run(inner);
  }

  RecurrentTask task_;
  std::vector<CellFunction> functions_;
  std::vector<TypeShape> product_inputs_;
  KernelPtr product_;
  std::int64_t inputs_ = 0, directions_ = 1, gates_ = 1, rows_ = 0, y_step_ = 0, state_step_ = 0;
  std::uint64_t product_at_ = 0, product_bytes_ = 0;
};

KernelPtr make_recurrent(const NodeView&, std::span<const TypeShape> inputs, std::span<const TypeShape>, const StatePtr& state) {
  return float_type(inputs[0].dtype) ? std::make_unique<RecurrentKernel>(state) : nullptr;
}

}  // namespace

std::span<const TableEntry> recurrent_table() {
  static constexpr TableEntry kTable[] = {{"", "LSTM", make_recurrent}, {"", "GRU", make_recurrent}, {"", "RNN", make_recurrent}};
  return kTable;
}

}  // namespace forebay::cuda
