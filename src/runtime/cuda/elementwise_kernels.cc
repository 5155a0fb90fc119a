// Add to Where: element by element with broadcasting.
#include <algorithm>
#include <array>

#include "runtime/cuda/attention_around.h"
#include "runtime/cuda/kernel_base.h"
#include "runtime/cuda/rotate_group.h"
#include "runtime/cuda/row_around.h"
#include "runtime/merged_kernel.h"

namespace forebay::cuda {
namespace {

class BinaryKernel final : public CudaKernel, public PairProduct {
 public:
  BinaryKernel(BinaryOp op, DType type, StatePtr state)
      : CudaKernel("cuda.binary", std::move(state)), op_(op), type_(type) {}
  Status setup(const PrepareContext& context) override {
    const auto& dims = context.outputs[0].dims;
    const std::array<std::vector<std::int64_t>, 3> strides{
        dense_strides(dims), broadcast_strides(context.inputs[0].dims, dims.size()),
        broadcast_strides(context.inputs[1].dims, dims.size())};
    walk_ = make_walk(dims, strides);
    return {};
  }
  Status run(const KernelCall& call) override {
    return check(launch_binary(op_, type_, walk_, call.outputs[0].data, call.inputs[0].data,
                               call.inputs[1].data, queue_stream()));
  }

  void* product_of(const KernelCall& call, DType type, const void* a, const void* b, std::int64_t n) const override {
    const std::byte *left = call.inputs[0].data, *right = call.inputs[1].data;
    const bool these = (left == a && right == b) || (left == b && right == a);
    const bool alike =
        walk_.rank == 1 && walk_.total == n && walk_.strides[0][0] == 1 && walk_.strides[1][0] == 1 && walk_.strides[2][0] == 1;
    return op_ == BinaryOp::mul && type_ == type && these && alike ? call.outputs[0].data : nullptr;
  }

 private:
  const BinaryOp op_;
  const DType type_;
  Walk walk_;
};

template <BinaryOp op>
KernelPtr make_binary(const NodeView&, std::span<const TypeShape> inputs,
                      std::span<const TypeShape>, const StatePtr& state) {
  if (inputs.size() != 2 || inputs[0].dtype != inputs[1].dtype) return nullptr;
  const DType type = inputs[0].dtype;
  const bool integers = type == DType::i64 || type == DType::i32,
             logic = op == BinaryOp::logical_and || op == BinaryOp::logical_or;
  // Integers: no division, which may trap, and no powers.
  const bool served =
      logic ? type == DType::boolean
            : float_type(type) || (integers && op != BinaryOp::div && op != BinaryOp::pow);
  return served ? std::make_unique<BinaryKernel>(op, type, state) : nullptr;
}

class UnaryKernel final : public CudaKernel {
 public:
  UnaryKernel(UnaryOp op, DType type, StatePtr state)
      : CudaKernel("cuda.unary", std::move(state)), op_(op), type_(type) {}
  Status setup(const PrepareContext&) override { return {}; }
  Status run(const KernelCall& call) override {
    return check(launch_unary(op_, type_, call.outputs[0].shape.elements(), call.outputs[0].data,
                              call.inputs[0].data, queue_stream()));
  }

 private:
  const UnaryOp op_;
  const DType type_;
};

template <UnaryOp op>
KernelPtr make_unary(const NodeView&, std::span<const TypeShape> inputs, std::span<const TypeShape>,
                     const StatePtr& state) {
  return inputs.size() == 1 && float_type(inputs[0].dtype)
             ? std::make_unique<UnaryKernel>(op, inputs[0].dtype, state)
             : nullptr;
}

class ActivationKernel final : public CudaKernel {
 public:
  ActivationKernel(Activation activation, float alpha, float beta, DType type, StatePtr state)
      : CudaKernel("cuda.activation", std::move(state)), activation_(activation), alpha_(alpha), beta_(beta), type_(type) {}
  Status setup(const PrepareContext&) override { return {}; }
  Status run(const KernelCall& call) override {
    return check(launch_activation(activation_, alpha_, beta_, type_, call.outputs[0].shape.elements(), call.outputs[0].data, call.inputs[0].data, queue_stream()));
  }

 private:
  const Activation activation_;
  const float alpha_, beta_;
  const DType type_;
};

KernelPtr make_activation(const NodeView& node, std::span<const TypeShape> inputs, std::span<const TypeShape>, const StatePtr& state) {
  if (inputs.size() != 1 || !float_type(inputs[0].dtype)) return nullptr;
  const auto make = [&](Activation activation, float alpha, float beta) -> KernelPtr {
    return std::make_unique<ActivationKernel>(activation, alpha, beta, inputs[0].dtype, state);
  };
  const std::string_view op = node.op();
  if (op == "LeakyRelu") return make(Activation::leaky_relu, node.real("alpha", 0.01f), 0);
  if (op == "HardSigmoid") return make(Activation::hard_sigmoid, node.real("alpha", 0.2f), node.real("beta", 0.5f));
  if (op == "HardSwish") return make(Activation::hard_swish, 0, 0);
  if (op == "Mish") return make(Activation::mish, 0, 0);
  if (op == "Swish") return make(Activation::swish, node.real("alpha", 1.0f), 0);
  return make(node.text("approximate", "none") == "tanh" ? Activation::gelu_tanh : Activation::gelu, 0, 0);
}

// forebay.RotateHalf: [a, b] along the last axis becomes [a cos - b sin, b cos + a sin]; halves, or even and odd elements.
class RotateKernel final : public CudaKernel, public GroupedKernel, public RowTurner {
 public:
  RotateKernel(DType type, DType table_type, StatePtr state) : CudaKernel("cuda.rotate_half", std::move(state)), type_(type), table_type_(table_type) {}
  Status setup(const PrepareContext& context) override {
    std::vector<std::int64_t> dims = context.inputs[0].dims;
    task_ = RotateTask();
    const bool pairs = context.node.integer("pairs", 0) != 0;
    const std::int64_t half = dims.back() / 2;
    task_.half = pairs ? 1 : half;  // from a to b
    std::array<std::vector<std::int64_t>, 3> strides{dense_strides(dims), broadcast_strides(context.inputs[1].dims, dims.size()),
                                                     broadcast_strides(context.inputs[2].dims, dims.size())};
    for (std::size_t table : {1u, 2u}) {
      const std::int64_t width = context.inputs[table].dims.back();
      if (width != dims.back() && width != half) return context.node.unsupported("a table of another width");
      (table == 1 ? task_.cos_step : task_.sin_step) = width == dims.back() ? task_.half : 0;
      if (width == 1) strides[table].back() = 0;
      if (pairs && width == dims.back()) strides[table].back() = 2;
    }
    if (pairs) strides[0].back() = 2;
    dims.back() = half;
    task_.walk = make_walk(dims, strides);
    return {};
  }
  Status run(const KernelCall& call) override {
    RotateGroup group;
    add(call, &group);
    return check(launch_rotates(type_, table_type_, group, queue_stream()));
  }
  Result<std::size_t> run_group(std::span<const Member> members) override {
    RotateGroup group;
    for (const Member& member : members.first(std::min(members.size(), std::size_t{RotateGroup::kMost}))) {
      const auto* const kernel = dynamic_cast<const RotateKernel*>(member.kernel);
      if (kernel == nullptr || kernel->type_ != type_ || kernel->table_type_ != table_type_) break;
      kernel->add(member.calls[0], &group);
    }
    if (group.count < 2) return std::size_t{0};
    FB_TRY(check(launch_rotates(type_, table_type_, group, queue_stream())));
    return static_cast<std::size_t>(group.count);
  }
  bool turned_rows(const KernelCall& call, TurnedRows* rows) const override {
    const Walk& walk = task_.walk;
    const bool simple = walk.rank == 2 && walk.dims[1] == task_.half && walk.strides[0][0] == 2 * task_.half && walk.strides[0][1] == 1 &&
                        walk.strides[1][0] == 0 && walk.strides[1][1] == 1 && walk.strides[2][0] == 0 && walk.strides[2][1] == 1;
    if (!simple) return false;
    *rows = {call.inputs[0].data, call.inputs[1].data, call.inputs[2].data, call.outputs[0].data, type_, table_type_,
             walk.dims[0],        task_.half,          task_.cos_step,      task_.sin_step};
    return true;
  }

 private:
  void add(const KernelCall& call, RotateGroup* group) const {
    group->parts[group->count++] = {task_, call.outputs[0].data, call.inputs[0].data, call.inputs[1].data, call.inputs[2].data};
  }
  const DType type_, table_type_;
  RotateTask task_;
};

KernelPtr make_rotate(const NodeView&, std::span<const TypeShape> inputs, std::span<const TypeShape>, const StatePtr& state) {
  if (inputs.size() != 3 || !float_type(inputs[0].dtype) || !float_type(inputs[1].dtype) || inputs[1].dtype != inputs[2].dtype) return nullptr;
  if (inputs[0].dims.empty() || inputs[1].dims.empty() || inputs[2].dims.empty()) return nullptr;
  return std::make_unique<RotateKernel>(inputs[0].dtype, inputs[1].dtype, state);
}

class CastKernel final : public CudaKernel {
 public:
  CastKernel(DType from, DType to, StatePtr state)
      : CudaKernel("cuda.cast", std::move(state)), from_(from), to_(to) {}
  Status setup(const PrepareContext&) override { return {}; }
  Status run(const KernelCall& call) override {
    return check(launch_cast(from_, to_, call.outputs[0].shape.elements(), call.outputs[0].data,
                             call.inputs[0].data, queue_stream()));
  }

 private:
  const DType from_, to_;
};

KernelPtr make_cast(const NodeView&, std::span<const TypeShape> inputs,
                    std::span<const TypeShape> outputs, const StatePtr& state) {
  return castable(inputs[0].dtype, outputs[0].dtype)
             ? std::make_unique<CastKernel>(inputs[0].dtype, outputs[0].dtype, state)
             : nullptr;
}

class WhereKernel final : public CudaKernel {
 public:
  WhereKernel(int element_bytes, StatePtr state)
      : CudaKernel("cuda.where", std::move(state)), element_bytes_(element_bytes) {}
  Status setup(const PrepareContext& context) override {
    const auto& dims = context.outputs[0].dims;
    std::array<std::vector<std::int64_t>, 4> strides{dense_strides(dims), {}, {}, {}};
    for (std::size_t i = 0; i < 3; ++i)
      strides[i + 1] = broadcast_strides(context.inputs[i].dims, dims.size());
    walk_ = make_walk(dims, strides);
    return {};
  }
  Status run(const KernelCall& call) override {
    return check(launch_where(element_bytes_, walk_, call.outputs[0].data, call.inputs[0].data,
                              call.inputs[1].data, call.inputs[2].data, queue_stream()));
  }

 private:
  const int element_bytes_;
  Walk walk_;
};

KernelPtr make_where(const NodeView&, std::span<const TypeShape>,
                     std::span<const TypeShape> outputs, const StatePtr& state) {
  const int bits = dtype_bits(outputs[0].dtype);
  return bits >= 8 && bits <= 64 ? std::make_unique<WhereKernel>(bits / 8, state) : nullptr;
}

}  // namespace

std::span<const TableEntry> elementwise_table() {
  static constexpr TableEntry kTable[] = {
      {"", "Add", make_binary<BinaryOp::add>},
      {"", "Sub", make_binary<BinaryOp::sub>},
      {"", "Mul", make_binary<BinaryOp::mul>},
      {"", "Div", make_binary<BinaryOp::div>},
      {"", "Pow", make_binary<BinaryOp::pow>},
      {"", "Min", make_binary<BinaryOp::min>},
      {"", "Max", make_binary<BinaryOp::max>},
      {"", "Equal", make_binary<BinaryOp::equal>},
      {"", "Less", make_binary<BinaryOp::less>},
      {"", "LessOrEqual", make_binary<BinaryOp::less_equal>},
      {"", "Greater", make_binary<BinaryOp::greater>},
      {"", "GreaterOrEqual", make_binary<BinaryOp::greater_equal>},
      {"", "And", make_binary<BinaryOp::logical_and>},
      {"", "Or", make_binary<BinaryOp::logical_or>},
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
      {"", "LeakyRelu", make_activation}, {"", "HardSigmoid", make_activation}, {"", "HardSwish", make_activation},
      {"", "Mish", make_activation}, {"", "Swish", make_activation}, {"", "Gelu", make_activation}, {"forebay", "RotateHalf", make_rotate},
      {"", "Cast", make_cast},
      {"", "Where", make_where},
  };
  return kTable;
}

}  // namespace forebay::cuda
