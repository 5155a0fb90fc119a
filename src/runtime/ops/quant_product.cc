#include "runtime/ops/quant_product.h"

#include <cmath>
#include <string>

#include "base/check.h"
#include "runtime/ops/nn_support.h"
#include "runtime/ops/product_plain.h"
#include "runtime/ops/quant_values.h"
#include "runtime/ops/window.h"

namespace forebay::ops {
namespace {

constexpr std::size_t kAbsent = 99;

// Where operands, their scales and zero points stand among the inputs.
struct Roles {
  std::size_t a = 0, a_scale = kAbsent, a_zero = 2, b = 1, b_scale = kAbsent, b_zero = 3, y_scale = kAbsent, y_zero = kAbsent, bias = kAbsent;
};
constexpr Roles kInteger{};
constexpr Roles kScaled{0, 1, 2, 3, 4, 5, 6, 7, 8};
const Roles& roles_of(const NodeView& node) { return node.op() == "QLinearMatMul" || node.op() == "QLinearConv" ? kScaled : kInteger; }

bool byte_type(DType dtype) { return dtype == DType::i8 || dtype == DType::u8; }
bool has(std::span<const TypeShape> inputs, std::size_t i) { return i < inputs.size() && inputs[i].present(); }

std::int32_t byte_at(DType dtype, const std::byte* data, std::int64_t i) {
  return dtype == DType::i8 ? reinterpret_cast<const std::int8_t*>(data)[i] : reinterpret_cast<const std::uint8_t*>(data)[i];
}

// Value i of an optional parameter of one or many values.
double parameter(const KernelCall& call, std::size_t input, std::int64_t i, double otherwise) {
  if (input >= call.inputs.size() || !call.inputs[input].present()) return otherwise;
  const ConstTensorView& view = call.inputs[input];
  return load_number(view.dtype, view.data, view.shape.elements() == 1 ? 0 : i);
}

void put_result(const KernelCall& call, const Roles& roles, std::int64_t at, std::int32_t sum, std::int64_t row, std::int64_t column) {
  const TensorView& y = call.outputs[0];
  if (roles.y_scale == kAbsent) {
    reinterpret_cast<std::int32_t*>(y.data)[at] = sum;
    return;
  }
  const float scale = static_cast<float>(parameter(call, roles.a_scale, row, 1)) * static_cast<float>(parameter(call, roles.b_scale, column, 1)) /
                      static_cast<float>(parameter(call, roles.y_scale, row, 1));
  const float value = std::nearbyint(static_cast<float>(sum) * scale);
  store_number(y.dtype, y.data, at, static_cast<double>(value) + parameter(call, roles.y_zero, row, 0));
}

Status check_types(const NodeView& node, const Roles& roles, std::span<const TypeShape> inputs) {
  for (const std::size_t i : {roles.a, roles.b}) {
    if (!has(inputs, i)) return node.invalid("input " + std::to_string(i) + " is needed");
    if (!byte_type(inputs[i].dtype)) return node.unsupported("an operand of type " + std::string(dtype_name(inputs[i].dtype)));
  }
  if (roles.y_scale != kAbsent && (!has(inputs, roles.y_scale) || !has(inputs, roles.y_zero) || !byte_type(inputs[roles.y_zero].dtype))) {
    return node.invalid("the scale and 8-bit zero point of the output are needed");
  }
  return {};
}

class IntegerMatmul final : public Kernel {
 public:
  explicit IntegerMatmul(const Roles& roles) : roles_(roles) {}
  std::string_view id() const override { return "cpu.product.i8"; }
  Status prepare(const PrepareContext& context) override {
    FB_ASSIGN(layout_, product_layout(context.node, context.inputs[roles_.a], context.inputs[roles_.b], nullptr, {}));
    const std::int64_t batches = static_cast<std::int64_t>(layout_.a_offsets.size());
    const auto fits = [&](std::size_t i, std::int64_t whole) {
      return !has(context.inputs, i) || context.inputs[i].shape().elements() == 1 || context.inputs[i].shape().elements() == whole;
    };
    rows_ = batches * layout_.m;
    for (const std::size_t i : {roles_.a_scale, roles_.a_zero, roles_.y_scale, roles_.y_zero}) {
      if (!fits(i, rows_)) return context.node.invalid("input " + std::to_string(i) + " has neither one value nor one a row");
    }
    for (const std::size_t i : {roles_.b_scale, roles_.b_zero}) {
      if (!fits(i, layout_.n)) return context.node.invalid("input " + std::to_string(i) + " has neither one value nor one a column");
    }
    return {};
  }
  Status run(const KernelCall& call) override {
    const ConstTensorView &a = call.inputs[roles_.a], &b = call.inputs[roles_.b];
    call.pool->parallel_for(rows_, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        const auto batch = static_cast<std::size_t>(row / layout_.m);
        const std::int64_t a_at = layout_.a_offsets[batch] + row % layout_.m * layout_.a_row;
        const auto a_zero = static_cast<std::int32_t>(parameter(call, roles_.a_zero, row, 0));
        for (std::int64_t n = 0; n < layout_.n; ++n) {
          const auto b_zero = static_cast<std::int32_t>(parameter(call, roles_.b_zero, n, 0));
          std::uint32_t sum = 0;  // wraps like i32
          for (std::int64_t k = 0; k < layout_.k; ++k) {
            const std::int32_t product = (byte_at(a.dtype, a.data, a_at + k) - a_zero) *
                                         (byte_at(b.dtype, b.data, layout_.b_offsets[batch] + k * layout_.b_row + n) - b_zero);
            sum += static_cast<std::uint32_t>(product);
          }
          put_result(call, roles_, row * layout_.n + n, static_cast<std::int32_t>(sum), row, n);
        }
      }
    });
    return {};
  }

 private:
  Roles roles_;
  ProductLayout layout_;
  std::int64_t rows_ = 0;
};

class IntegerConv final : public Kernel {
 public:
  explicit IntegerConv(const Roles& roles) : roles_(roles) {}
  std::string_view id() const override { return "cpu.conv.i8"; }
  Status prepare(const PrepareContext& context) override {
    const auto &x = context.inputs[roles_.a].dims, &w = context.inputs[roles_.b].dims;
    FB_ASSIGN(const WindowSpec spec, window_spec(context.node, x.size() - 2, std::span(w).subspan(2)));
    FB_ASSIGN(window_, resolve_window(context.node, spec, std::span(x).subspan(2)));
    batch_ = x[0];
    channels_ = x[1];
    filters_ = w[0];
    inner_ = w[1];
    for (const std::size_t i : {roles_.b_scale, roles_.b_zero}) {
      if (has(context.inputs, i) && context.inputs[i].shape().elements() != 1 && context.inputs[i].shape().elements() != filters_) {
        return context.node.invalid("input " + std::to_string(i) + " has neither one value nor one a filter");
      }
    }
    for (const std::size_t i : {roles_.a_scale, roles_.a_zero, roles_.y_scale, roles_.y_zero}) {
      if (has(context.inputs, i) && context.inputs[i].shape().elements() != 1) return context.node.invalid("input " + std::to_string(i) + " must be one value");
    }
    if (has(context.inputs, roles_.bias) && (context.inputs[roles_.bias].dtype != DType::i32 || context.inputs[roles_.bias].shape().elements() != filters_)) {
      return context.node.invalid("the bias must be i32 with one value a filter");
    }
    return {};
  }
  Status run(const KernelCall& call) override {
    call.pool->parallel_for(batch_ * filters_, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) run_plane(call, i / filters_, i % filters_);
    });
    return {};
  }

 private:
  void run_plane(const KernelCall& call, std::int64_t batch, std::int64_t filter) const {
    const ConstTensorView &x = call.inputs[roles_.a], &w = call.inputs[roles_.b];
    const std::int64_t groups = channels_ / inner_, group = filter / (filters_ / groups);
    const auto x_zero = static_cast<std::int32_t>(parameter(call, roles_.a_zero, 0, 0)), w_zero = static_cast<std::int32_t>(parameter(call, roles_.b_zero, filter, 0));
    const auto bias = static_cast<std::int32_t>(parameter(call, roles_.bias, filter, 0));
    for (std::int64_t i = 0; i < window_.out_size(); ++i) {
      std::uint32_t sum = static_cast<std::uint32_t>(bias);
      for (std::int64_t c = 0; c < inner_; ++c) {
        const std::int64_t plane = (batch * channels_ + group * inner_ + c) * window_.in_size(), taps = (filter * inner_ + c) * window_.taps();
        for (std::int64_t t = 0; t < window_.taps(); ++t) {
          const std::int64_t at = position(i, t);
          if (at < 0) continue;  // padding is the zero point: adds nothing
          sum += static_cast<std::uint32_t>((byte_at(x.dtype, x.data, plane + at) - x_zero) * (byte_at(w.dtype, w.data, taps + t) - w_zero));
        }
      }
      put_result(call, roles_, (batch * filters_ + filter) * window_.out_size() + i, static_cast<std::int32_t>(sum), 0, filter);
    }
  }
  std::int64_t position(std::int64_t out, std::int64_t tap) const {
    const Window& w = window_;
    const std::int64_t d = out / (w.out[1] * w.out[2]) * w.stride[0] + tap / (w.kernel[1] * w.kernel[2]) * w.dilation[0] - w.pad[0];
    const std::int64_t h = out / w.out[2] % w.out[1] * w.stride[1] + tap / w.kernel[2] % w.kernel[1] * w.dilation[1] - w.pad[1];
    const std::int64_t v = out % w.out[2] * w.stride[2] + tap % w.kernel[2] * w.dilation[2] - w.pad[2];
    if (d < 0 || d >= w.in[0] || h < 0 || h >= w.in[1] || v < 0 || v >= w.in[2]) return -1;
    return (d * w.in[1] + h) * w.in[2] + v;
  }
  Roles roles_;
  Window window_;
  std::int64_t batch_ = 0, channels_ = 0, filters_ = 0, inner_ = 1;
};

std::vector<TypeShape> all_inputs(InferContext& context) {
  std::vector<TypeShape> inputs;
  for (std::size_t i = 0; i < context.input_count(); ++i) inputs.push_back(context.input(i));
  return inputs;
}

}  // namespace

Status infer_integer_matmul(InferContext& context) {
  const NodeView& node = context.node();
  const Roles& roles = roles_of(node);
  FB_TRY(check_types(node, roles, all_inputs(context)));
  const TypeShape &a = context.input(roles.a), &b = context.input(roles.b);
  const DType y = roles.y_scale == kAbsent ? DType::i32 : context.input(roles.y_zero).dtype;
  if (!a.has_rank || !b.has_rank) {
    context.set_output_unranked(0, y);
    return {};
  }
  FB_ASSIGN(std::vector<std::int64_t> dims, product_dims(node, a, b, {}));
  context.set_output(0, y, std::move(dims));
  return {};
}

Status infer_integer_conv(InferContext& context) {
  const NodeView& node = context.node();
  const Roles& roles = roles_of(node);
  FB_TRY(check_types(node, roles, all_inputs(context)));
  const TypeShape &x = context.input(roles.a), &w = context.input(roles.b);
  const DType y = roles.y_scale == kAbsent ? DType::i32 : context.input(roles.y_zero).dtype;
  if (!x.has_rank || !w.has_rank) {
    context.set_output_unranked(0, y);
    return {};
  }
  const std::int64_t group = node.integer("group", 1);
  const bool known = x.dims.size() > 2 && x.dims.size() == w.dims.size() && group >= 1;
  if (!known || (x.dims[1] >= 0 && w.dims[1] >= 0 && x.dims[1] != w.dims[1] * group) || (w.dims[0] >= 0 && w.dims[0] % group != 0)) {
    return node.invalid("X " + dims_text(x.dims) + " does not fit W " + dims_text(w.dims) + " with group " + std::to_string(group));
  }
  FB_ASSIGN(const WindowSpec spec, window_spec(node, x.dims.size() - 2, std::span(w.dims).subspan(2)));
  std::vector<std::int64_t> dims = {x.dims[0], w.dims[0]};
  for (std::size_t i = 0; i < spec.kernel.size(); ++i) dims.push_back(window_output(spec, i, x.dims[i + 2]));
  context.set_output(0, y, std::move(dims));
  return {};
}

Result<std::unique_ptr<Kernel>> create_integer_matmul(const NodeView& node, std::span<const TypeShape>, std::span<const TypeShape>) {
  return std::unique_ptr<Kernel>(std::make_unique<IntegerMatmul>(roles_of(node)));
}
Result<std::unique_ptr<Kernel>> create_integer_conv(const NodeView& node, std::span<const TypeShape>, std::span<const TypeShape>) {
  return std::unique_ptr<Kernel>(std::make_unique<IntegerConv>(roles_of(node)));
}

}  // namespace forebay::ops
