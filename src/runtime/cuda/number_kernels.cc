// What the fast elementwise kernels have no types for: f64, small and unsigned integers, bool; casts between all of them; remainders and
// bits; products of f64.
#include <array>
#include <string>

#include "runtime/cuda/kernel_base.h"
#include "runtime/cuda/number_task.h"
#include "runtime/ops/product_plain.h"

namespace forebay::cuda {
namespace {

using Types = std::span<const TypeShape>;

class NumberPair final : public CudaKernel {
 public:
  NumberPair(NumberOp op, StatePtr state) : CudaKernel("cuda.numbers", std::move(state)), op_(op) {}
  Status run(const KernelCall& call) override {
    return check(launch_numbers(op_, call.inputs[0].dtype, call.outputs[0].dtype, walk_, call.outputs[0].data, call.inputs[0].data,
                                call.inputs[1].data, queue_stream()));
  }

 private:
  Status setup(const PrepareContext& context) override {
    const auto& dims = context.outputs[0].dims;
    const std::array<std::vector<std::int64_t>, 3> strides{dense_strides(dims), broadcast_strides(context.inputs[0].dims, dims.size()),
                                                           broadcast_strides(context.inputs[1].dims, dims.size())};
    walk_ = make_walk(dims, strides);
    return {};
  }
  const NumberOp op_;
  Walk walk_;
};

class NumberUnary final : public CudaKernel {
 public:
  NumberUnary(UnaryOp op, StatePtr state) : CudaKernel("cuda.number_unary", std::move(state)), op_(op) {}
  Status run(const KernelCall& call) override {
    return check(launch_number_unary(op_, call.inputs[0].dtype, call.outputs[0].shape.elements(), call.outputs[0].data, call.inputs[0].data,
                                     queue_stream()));
  }

 private:
  Status setup(const PrepareContext&) override { return {}; }
  const UnaryOp op_;
};

class NumberCast final : public CudaKernel {
 public:
  explicit NumberCast(StatePtr state) : CudaKernel("cuda.number_cast", std::move(state)) {}
  Status run(const KernelCall& call) override {
    return check(launch_number_cast(call.inputs[0].dtype, call.outputs[0].dtype, call.outputs[0].shape.elements(), call.outputs[0].data,
                                    call.inputs[0].data, queue_stream()));
  }

 private:
  Status setup(const PrepareContext&) override { return {}; }
};

class DoubleProduct final : public CudaKernel {
 public:
  explicit DoubleProduct(StatePtr state) : CudaKernel("cuda.product.f64", std::move(state)) {}
  Status run(const KernelCall& call) override {
    ProductTask task = task_;
    for (std::size_t i = 0; i < layout_.a_offsets.size(); ++i) {
      task.a = call.inputs[0].data + layout_.a_offsets[i] * 8;
      task.b = call.inputs[1].data + layout_.b_offsets[i] * 8;
      task.y = call.outputs[0].data + static_cast<std::int64_t>(i) * task.m * task.n * 8;
      FB_TRY(check(launch_double_product(task, queue_stream())));
    }
    return {};
  }

 private:
  Status setup(const PrepareContext& context) override {
    FB_ASSIGN(layout_, ops::product_layout(context.node, context.inputs[0], context.inputs[1], nullptr, {}));
    task_.m = layout_.m;
    task_.n = task_.y_row = layout_.n;
    task_.k = layout_.k;
    task_.a_row = layout_.a_row;
    task_.a_col = layout_.a_col;
    task_.b_row = layout_.b_row;
    task_.b_col = layout_.b_col;
    return {};
  }
  ops::ProductLayout layout_;
  ProductTask task_;
};

bool same_pair(Types inputs) {
  return inputs.size() == 2 && inputs[0].dtype == inputs[1].dtype && number_type(inputs[0].dtype);
}
// Powers of integers have rules of their own.
template <NumberOp op>
KernelPtr make_pair(const NodeView&, Types inputs, Types, const StatePtr& state) {
  if (!same_pair(inputs) || (op == NumberOp::pow && inputs[0].dtype != DType::f64)) return nullptr;
  return std::make_unique<NumberPair>(op, state);
}
KernelPtr make_mod(const NodeView& node, Types inputs, Types, const StatePtr& state) {
  if (!same_pair(inputs)) return nullptr;
  return std::make_unique<NumberPair>(node.integer("fmod", 0) != 0 ? NumberOp::mod_truncate : NumberOp::mod_floor, state);
}
KernelPtr make_shift(const NodeView& node, Types inputs, Types, const StatePtr& state) {
  if (!same_pair(inputs) || !whole_number(inputs[0].dtype)) return nullptr;
  return std::make_unique<NumberPair>(node.text("direction", "") == "LEFT" ? NumberOp::shift_left : NumberOp::shift_right, state);
}
template <UnaryOp op>
KernelPtr make_unary(const NodeView&, Types inputs, Types, const StatePtr& state) {
  const bool whole = whole_number(inputs[0].dtype) && (op == UnaryOp::neg || op == UnaryOp::abs || op == UnaryOp::relu);
  return inputs[0].dtype == DType::f64 || (whole && inputs[0].dtype != DType::u64) ? std::make_unique<NumberUnary>(op, state) : nullptr;
}
KernelPtr make_cast(const NodeView&, Types inputs, Types outputs, const StatePtr& state) {
  return number_type(inputs[0].dtype) && number_type(outputs[0].dtype) ? std::make_unique<NumberCast>(state) : nullptr;
}
KernelPtr make_product(const NodeView&, Types inputs, Types, const StatePtr& state) {
  return inputs.size() == 2 && inputs[0].dtype == DType::f64 && inputs[1].dtype == DType::f64 ? std::make_unique<DoubleProduct>(state)
                                                                                              : nullptr;
}

}  // namespace

std::span<const TableEntry> number_table() {
  static constexpr TableEntry kTable[] = {
      {"", "Add", make_pair<NumberOp::add>},
      {"", "Sub", make_pair<NumberOp::sub>},
      {"", "Mul", make_pair<NumberOp::mul>},
      {"", "Div", make_pair<NumberOp::div>},
      {"", "Pow", make_pair<NumberOp::pow>},
      {"", "Min", make_pair<NumberOp::min>},
      {"", "Max", make_pair<NumberOp::max>},
      {"", "Equal", make_pair<NumberOp::equal>},
      {"", "Less", make_pair<NumberOp::less>},
      {"", "LessOrEqual", make_pair<NumberOp::less_equal>},
      {"", "Greater", make_pair<NumberOp::greater>},
      {"", "GreaterOrEqual", make_pair<NumberOp::greater_equal>},
      {"", "And", make_pair<NumberOp::logical_and>},
      {"", "Or", make_pair<NumberOp::logical_or>},
      {"", "Xor", make_pair<NumberOp::logical_xor>},
      {"", "BitwiseAnd", make_pair<NumberOp::bit_and>},
      {"", "BitwiseOr", make_pair<NumberOp::bit_or>},
      {"", "BitwiseXor", make_pair<NumberOp::bit_xor>},
      {"", "BitShift", make_shift},
      {"", "Mod", make_mod},
      {"", "Sqrt", make_unary<UnaryOp::sqrt>},
      {"", "Reciprocal", make_unary<UnaryOp::reciprocal>},
      {"", "Sigmoid", make_unary<UnaryOp::sigmoid>},
      {"", "Cos", make_unary<UnaryOp::cos>},
      {"", "Sin", make_unary<UnaryOp::sin>},
      {"", "Exp", make_unary<UnaryOp::exp>},
      {"", "Log", make_unary<UnaryOp::log>},
      {"", "Tanh", make_unary<UnaryOp::tanh>},
      {"", "Neg", make_unary<UnaryOp::neg>},
      {"", "Abs", make_unary<UnaryOp::abs>},
      {"", "Relu", make_unary<UnaryOp::relu>},
      {"", "Erf", make_unary<UnaryOp::erf>},
      {"", "Floor", make_unary<UnaryOp::floor>},
      {"", "Ceil", make_unary<UnaryOp::ceil>},
      {"", "Cast", make_cast},
      {"", "CastLike", make_cast},
      {"", "MatMul", make_product},
  };
  return kTable;
}

}  // namespace forebay::cuda
