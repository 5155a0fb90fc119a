// ConvInteger, QLinearConv and forebay.QLinearConv, with the bits of the CPU's kernel. Weights may come in slabs of filters.
#include <algorithm>
#include <string>

#include "runtime/cuda/integer_conv_task.h"
#include "runtime/cuda/integer_roles.h"
#include "runtime/cuda/window_task.h"

namespace forebay::cuda {
namespace {

struct Roles {  // among the inputs
  std::size_t x = 0, x_scale = kAbsent, x_zero = 2, w = 1, w_scale = kAbsent, w_zero = 3, y_scale = kAbsent, y_zero = kAbsent,
              bias = kAbsent;
};
Roles roles_of(const NodeView& node) {
  return node.op() == "QLinearConv" ? Roles{0, 1, 2, 3, 4, 5, 6, 7, 8} : Roles();
}
class IntegerConvKernel final : public Kernel {
 public:
  IntegerConvKernel(const Roles& roles, StatePtr state) : roles_(roles), state_(std::move(state)) {}
  std::string_view id() const override { return "cuda.conv.i8"; }

  Status prepare(const PrepareContext& context) override {
    const NodeView& node = context.node;
    const auto &x = context.inputs[roles_.x].dims, &w = context.inputs[roles_.w].dims;
    sliced_ = context.sliced_input != plan::kNone;
    if (sliced_ && context.sliced_input != roles_.w) return node.unsupported("only the weight may come in slabs");
    FB_ASSIGN(const ops::WindowSpec spec, ops::window_spec(node, x.size() - 2, std::span(w).subspan(2)));
    FB_ASSIGN(const ops::Window window, ops::resolve_window(node, spec, std::span(x).subspan(2)));
    const std::int64_t groups = node.integer("group", 1);
    if (groups > 65535 || w[0] > 65535 * 64) return node.unsupported("more groups or filters than a launch takes");
    FB_TRY(parameters_fit(context, w[0]));
    task_ = IntegerConv();
    FB_TRY(set_conv(context.node, window, x, w[0], task_));
    task_.x_type = context.inputs[roles_.x].dtype;
    task_.w_type = context.inputs[roles_.w].dtype;
    task_.y_type = context.outputs[0].dtype;
    task_.channels = static_cast<int>(w[1]);
    task_.float_bias = node.domain() == "forebay";
    return {};
  }

  Status run(const KernelCall& call) override {
    IntegerConv task = task_;
    task.x = call.inputs[roles_.x].data;
    task.w = call.inputs[roles_.w].data;
    task.y = call.outputs[0].data;
    task.first = sliced_ ? static_cast<int>(call.row_begin) : 0;
    task.filters = sliced_ ? static_cast<int>(call.inputs[roles_.w].shape[0]) : task.all_filters;
    task.x_zero = parameter_of(call, roles_.x_zero);
    task.w_zero = parameter_of(call, roles_.w_zero);
    task.x_scale = parameter_of(call, roles_.x_scale);
    task.w_scale = parameter_of(call, roles_.w_scale);
    task.y_scale = parameter_of(call, roles_.y_scale);
    task.y_zero = parameter_of(call, roles_.y_zero);
    task.bias = parameter_of(call, roles_.bias);
    const cudaError_t error = launch_integer_conv(task, queue_stream());
    return error == cudaSuccess ? Status() : state_->errors.check(error, id());
  }

 private:
  // What does not fit is left to the CPU's kernel, which says so.
  Status parameters_fit(const PrepareContext& context, std::int64_t filters) const {
    const auto count = [&](std::size_t i) { return there(context.inputs, i) ? context.inputs[i].shape().elements() : 1; };
    bool fits = true;
    for (const std::size_t i : {roles_.w_scale, roles_.w_zero}) fits = fits && (count(i) == 1 || count(i) == filters);
    for (const std::size_t i : {roles_.x_scale, roles_.x_zero, roles_.y_scale, roles_.y_zero}) fits = fits && count(i) == 1;
    const DType bias = context.node.domain() == "forebay" ? DType::f32 : DType::i32;
    if (there(context.inputs, roles_.bias)) fits = fits && context.inputs[roles_.bias].dtype == bias && count(roles_.bias) == filters;
    return fits ? Status() : context.node.unsupported("parameters of these sizes");
  }

  const Roles roles_;
  const StatePtr state_;
  IntegerConv task_;
  bool sliced_ = false;
};

KernelPtr make_integer_conv(const NodeView& node, std::span<const TypeShape> inputs, std::span<const TypeShape>, const StatePtr& state) {
  const Roles roles = roles_of(node);
  const auto code = [&](std::size_t i) { return there(inputs, i) && (inputs[i].dtype == DType::i8 || inputs[i].dtype == DType::u8); };
  if (!code(roles.x) || !code(roles.w)) return nullptr;
  for (const std::size_t i : {roles.x_scale, roles.w_scale, roles.y_scale})
    if (i != kAbsent && (!there(inputs, i) || !float_type(inputs[i].dtype))) return nullptr;
  for (const std::size_t i : {roles.x_zero, roles.w_zero})
    if (there(inputs, i) && !code(i)) return nullptr;
  return std::make_unique<IntegerConvKernel>(roles, state);
}

}  // namespace

std::span<const TableEntry> integer_conv_table() {
  static constexpr TableEntry kTable[] = {
      {"", "ConvInteger", make_integer_conv}, {"", "QLinearConv", make_integer_conv}, {"forebay", "QLinearConv", make_integer_conv}};
  return kTable;
}

}  // namespace forebay::cuda
