// Products of 8-bit integers (MatMulInteger, QLinearMatMul) and the conversions around them, with the bits of the CPU's kernels.
#include <algorithm>
#include <optional>
#include <string>

#include "runtime/cuda/integer_roles.h"
#include "runtime/merged_kernel.h"
#include "runtime/ops/nn_support.h"
#include "runtime/ops/product_plain.h"

namespace forebay::cuda {
namespace {

struct Roles {  // among the inputs
  std::size_t a = 0, a_scale = kAbsent, a_zero = 2, b = 1, b_scale = kAbsent, b_zero = 3, y_scale = kAbsent, y_zero = kAbsent;
};

// Integers as the kernels read them: whole bytes.
bool byte_code(DType type) {
  return type == DType::i8 || type == DType::u8;
}

class IntegerMatmul final : public Kernel {
 public:
  IntegerMatmul(const Roles& roles, StatePtr state) : roles_(roles), state_(std::move(state)) {}
  std::string_view id() const override { return "cuda.product.i8"; }
  std::uint64_t workspace_bytes() const override { return scaled() ? ops::float_bytes(task_.batches * task_.m * task_.n) : 0; }

  Status prepare(const PrepareContext& context) override {
    FB_ASSIGN(layout_, ops::product_layout(context.node, context.inputs[roles_.a], context.inputs[roles_.b], nullptr, {}));
    if (context.sliced_input != plan::kNone && (context.sliced_input != roles_.b || context.consumption != plan::Consumption::by_reduction))
      return context.node.unsupported("only the second operand may come in slabs");
    sliced_ = context.sliced_input != plan::kNone;
    task_ = IntegerProduct();
    task_.m = layout_.m;
    task_.n = layout_.n;
    task_.batches = static_cast<std::int64_t>(layout_.a_offsets.size());
    if (layout_.a_col != 1 || layout_.b_col != 1 || task_.batches > 65535 || task_.m > 65535 * 64)
      return context.node.unsupported("operands that lie otherwise");
    const auto a_step = step_of(layout_.a_offsets), b_step = step_of(layout_.b_offsets);
    if (!a_step || !b_step) return context.node.unsupported("uneven batches");
    task_.a_batch = *a_step;
    task_.b_batch = *b_step;
    task_.a_row = layout_.a_row;
    task_.b_row = layout_.b_row;
    task_.a_type = context.inputs[roles_.a].dtype;
    task_.b_type = context.inputs[roles_.b].dtype;
    task_.y_type = context.outputs[0].dtype;
    for (const std::size_t i : {roles_.a_zero, roles_.a_scale, roles_.y_scale, roles_.y_zero})
      FB_TRY(fits(context, i, task_.batches * task_.m));
    for (const std::size_t i : {roles_.b_zero, roles_.b_scale}) FB_TRY(fits(context, i, task_.n));
    return {};
  }

  Status run(const KernelCall& call) override {
    IntegerProduct task = task_;
    task.a = call.inputs[roles_.a].data + layout_.a_offsets[0] + (sliced_ ? call.row_begin : 0);
    task.b = call.inputs[roles_.b].data + layout_.b_offsets[0];
    task.k = sliced_ ? call.inputs[roles_.b].shape[0] : layout_.k;
    task.first = !sliced_ || call.slab == 0;
    task.last = !sliced_ || call.slab + 1 == call.slab_count;
    task.sums = reinterpret_cast<std::int32_t*>(scaled() ? call.workspace : call.outputs[0].data);
    task.y = scaled() ? call.outputs[0].data : nullptr;
    task.a_zero = parameter_of(call, roles_.a_zero);
    task.b_zero = parameter_of(call, roles_.b_zero);
    task.a_scale = parameter_of(call, roles_.a_scale);
    task.b_scale = parameter_of(call, roles_.b_scale);
    task.y_scale = parameter_of(call, roles_.y_scale);
    task.y_zero = parameter_of(call, roles_.y_zero);
    const cudaError_t error = launch_integer_product(task, queue_stream());
    return error == cudaSuccess ? Status() : state_->errors.check(error, id());
  }

 private:
  bool scaled() const { return roles_.y_scale != kAbsent; }
  static std::optional<std::int64_t> step_of(std::span<const std::int64_t> offsets) {
    const std::int64_t step = offsets.size() > 1 ? offsets[1] - offsets[0] : 0;
    for (std::size_t i = 0; i < offsets.size(); ++i) {
      if (offsets[i] != offsets[0] + static_cast<std::int64_t>(i) * step) return std::nullopt;
    }
    return step;
  }
  static Status fits(const PrepareContext& context, std::size_t i, std::int64_t whole) {
    if (!there(context.inputs, i)) return {};
    const std::int64_t count = context.inputs[i].shape().elements();
    return count == 1 || count == whole
               ? Status()
               : context.node.invalid("input " + std::to_string(i) + " has neither one value nor one for each row or column");
  }

  const Roles roles_;
  const StatePtr state_;
  ops::ProductLayout layout_;
  IntegerProduct task_;
  bool sliced_ = false;
};

KernelPtr make_matmul(const NodeView& node, std::span<const TypeShape> inputs, std::span<const TypeShape>, const StatePtr& state) {
  const Roles roles = node.op() == "QLinearMatMul" ? Roles{0, 1, 2, 3, 4, 5, 6, 7} : Roles();
  if (!there(inputs, roles.a) || !there(inputs, roles.b) || !byte_code(inputs[roles.a].dtype) || !byte_code(inputs[roles.b].dtype))
    return nullptr;
  for (const std::size_t i : {roles.a_scale, roles.b_scale, roles.y_scale}) {
    if (i != kAbsent && (!there(inputs, i) || !float_type(inputs[i].dtype))) return nullptr;
  }
  return std::make_unique<IntegerMatmul>(roles, state);
}

class LinearQuant final : public MergedKernel {
 public:
  LinearQuant(bool quantizes, StatePtr state) : quantizes_(quantizes), state_(std::move(state)) {}
  std::string_view id() const override { return quantizes_ ? "cuda.quantize" : "cuda.dequantize"; }

  Status prepare(const PrepareContext& context) override {
    const Shape x = context.inputs[0].shape(), scale = context.inputs[1].shape();
    // The CPU's kernel says what does not fit.
    FB_TRY(set_places(context.node, x, scale));
    if (there(context.inputs, 2) && context.inputs[2].shape().elements() != scale.elements())
      return context.node.unsupported("zero points of another size");
    if (context.sliced_input != plan::kNone && (quantizes_ || context.sliced_input != 0))
      return context.node.unsupported("this operand in slabs");
    per_row_ = x.rank() > 0 && x[0] > 0 ? x.elements() / x[0] : x.elements();
    const std::span<const std::int64_t> rows = context.slab_rows;
    merges_ = context.sliced_input != plan::kNone && !rows.empty() && rows.back() <= rows[0];
    for (std::size_t i = 0; i + 1 < rows.size(); ++i) merges_ = merges_ && rows[i] == rows[0];
    return {};
  }
  bool merges() const override { return merges_; }
  Status run_merged(std::span<const KernelCall> calls) override {
    LinearQuantTask task = task_of(calls[0]);
    task.each = task.count;
    task.count = 0;
    for (std::size_t i = 0; i < calls.size(); ++i) {
      task.slabs.slabs[i] = calls[i].inputs[0].data;
      task.count += calls[i].inputs[0].shape.elements();
    }
    return check(launch_dequantize(task, queue_stream()));
  }
  Status run(const KernelCall& call) override {
    const LinearQuantTask task = task_of(call);
    return check(quantizes_ ? launch_quantize(task, queue_stream()) : launch_dequantize(task, queue_stream()));
  }

 private:
  Status check(cudaError_t error) const { return error == cudaSuccess ? Status() : state_->errors.check(error, id()); }
  LinearQuantTask task_of(const KernelCall& call) const {
    LinearQuantTask task;
    task.places = places_;
    task.x_type = call.inputs[0].dtype;
    task.y_type = call.outputs[0].dtype;
    task.scale_type = call.inputs[1].dtype;
    task.x = call.inputs[0].data;
    task.scale = call.inputs[1].data;
    if (call.inputs.size() > 2 && call.inputs[2].present()) {
      task.zero = call.inputs[2].data;
      task.zero_type = call.inputs[2].dtype;
    }
    task.y = call.outputs[0].data;
    task.first = call.row_begin * per_row_;
    task.count = call.inputs[0].shape.elements();
    return task;
  }
  Status set_places(const NodeView& node, const Shape& x, const Shape& scale) {
    places_ = ScalePlaces();
    const std::int64_t block = node.integer("block_size", 0);
    if (block == 0 && scale.elements() == 1) return {};
    FB_ASSIGN(const int axis, normalize_axis(node, node.integer("axis", 1), x.rank()));
    places_.single = false;
    places_.axis = x[axis];
    places_.inner = x.elements(axis + 1, x.rank());
    places_.block = block;
    bool fits = block >= 0 && block <= (std::int64_t{1} << 30) &&
                (block == 0 ? scale.rank() == 1 && scale[0] == x[axis] : scale.rank() == x.rank());
    for (int i = 0; fits && block > 0 && i < x.rank(); ++i) fits = scale[i] == (i == axis ? (x[i] + block - 1) / block : x[i]);
    if (!fits) return node.unsupported("a scale of another shape");
    if (block > 0) places_.scale_axis = scale[axis];
    return {};
  }

  const bool quantizes_;
  const StatePtr state_;
  ScalePlaces places_;
  std::int64_t per_row_ = 0;
  bool merges_ = false;  // slabs of one size but for the last
};

KernelPtr make_quantize(const NodeView&, std::span<const TypeShape> inputs, std::span<const TypeShape> outputs, const StatePtr& state) {
  if (inputs.size() < 2 || !float_type(inputs[0].dtype) || !float_type(inputs[1].dtype) || !quantizes_to(outputs[0].dtype)) return nullptr;
  return std::make_unique<LinearQuant>(true, state);
}
KernelPtr make_dequantize(const NodeView&, std::span<const TypeShape> inputs, std::span<const TypeShape> outputs, const StatePtr& state) {
  if (inputs.size() < 2 || !dequantizes_from(inputs[0].dtype) || !float_type(inputs[1].dtype) || !float_type(outputs[0].dtype))
    return nullptr;
  return std::make_unique<LinearQuant>(false, state);
}

class DynamicQuant final : public CudaKernel {
 public:
  explicit DynamicQuant(StatePtr state) : CudaKernel("cuda.quantize.dynamic", std::move(state)) {}
  std::uint64_t workspace_bytes() const override { return 2 * kRangeBlocks * sizeof(float); }
  Status run(const KernelCall& call) override {
    const auto place = [&](std::size_t i) { return i < call.outputs.size() && call.outputs[i].present() ? call.outputs[i].data : nullptr; };
    return check(launch_dynamic_quantize(reinterpret_cast<const float*>(call.inputs[0].data), call.inputs[0].shape.elements(),
                                         reinterpret_cast<std::uint8_t*>(call.outputs[0].data), reinterpret_cast<float*>(place(1)),
                                         reinterpret_cast<std::uint8_t*>(place(2)), reinterpret_cast<float*>(call.workspace),
                                         queue_stream()));
  }

 private:
  Status setup(const PrepareContext& context) override {
    return context.outputs[0].present() ? Status() : context.node.unsupported("the scale alone");
  }
};
KernelPtr make_dynamic(const NodeView&, std::span<const TypeShape> inputs, std::span<const TypeShape>, const StatePtr& state) {
  return inputs[0].dtype == DType::f32 ? std::make_unique<DynamicQuant>(state) : nullptr;
}

}  // namespace

std::span<const TableEntry> integer_table() {
  static constexpr TableEntry kTable[] = {{"", "MatMulInteger", make_matmul},
                                          {"", "QLinearMatMul", make_matmul},
                                          {"", "QuantizeLinear", make_quantize},
                                          {"", "DequantizeLinear", make_dequantize},
                                          {"", "DynamicQuantizeLinear", make_dynamic}};
  return kTable;
}

}  // namespace forebay::cuda
