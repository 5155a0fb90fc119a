// Operators that only change or tell a shape: Reshape, Flatten, Squeeze, Unsqueeze, Identity, Dropout, Shape, Size.
#include <algorithm>
#include <cstring>
#include <memory>

#include "runtime/ops/dispatch.h"
#include "runtime/ops/elementwise.h"
#include "runtime/ops/families.h"
#include "runtime/ops/indices.h"
#include "runtime/ops/infer.h"
#include "runtime/ops/random_words.h"

namespace forebay::ops {
namespace {

Status infer_reshape(InferContext& ctx) {
  FB_TRY(need_arity(ctx, 2, 2));
  FB_TRY(need_input(ctx, 0, kAny));
  FB_TRY(need_input(ctx, 1, kIndices));
  const TypeShape& data = ctx.input(0);
  bool known = false;
  std::vector<std::int64_t> dims = ctx.integers(1, &known);
  if (!known) {
    const TypeShape& shape = ctx.input(1);
    if (!shape.has_rank || shape.dims.size() != 1 || shape.dims[0] < 0 || shape.dims[0] > kMaxRank) {
      ctx.set_output_unranked(0, data.dtype);
    } else {
      ctx.set_output(0, data.dtype, std::vector<std::int64_t>(static_cast<std::size_t>(shape.dims[0]), -1));
    }
    return {};
  }
  const bool allow_zero = ctx.node().integer("allowzero", 0) != 0;
  std::ptrdiff_t free_axis = -1;
  for (std::size_t i = 0; i < dims.size(); ++i) {
    if (dims[i] < -1) return ctx.node().invalid("shape holds " + std::to_string(dims[i]));
    if (dims[i] == -1) {
      if (free_axis >= 0) return ctx.node().invalid("shape holds -1 twice");
      free_axis = static_cast<std::ptrdiff_t>(i);
    } else if (dims[i] == 0 && !allow_zero) {
      if (data.has_rank && i >= data.dims.size()) return ctx.node().invalid("shape copies an axis that the input does not have");
      dims[i] = data.has_rank ? data.dims[i] : -2;
    }
  }
  // What is not known yet is marked -2 above, so that it is told apart from the free axis.
  for (std::size_t i = 0; i < dims.size(); ++i) {
    if (dims[i] == -1 && static_cast<std::ptrdiff_t>(i) != free_axis) dims[i] = -2;
  }
  if (free_axis >= 0 && data.known() && std::find(dims.begin(), dims.end(), -2) == dims.end()) {
    dims[static_cast<std::size_t>(free_axis)] = 1;
    FB_ASSIGN(const std::int64_t others, element_count(ctx.node(), dims));
    FB_ASSIGN(const std::int64_t total, element_count(ctx.node(), data.dims));
    if (others == 0 ? total != 0 : total % others != 0) {
      return ctx.node().invalid(std::to_string(total) + " elements cannot be reshaped: " + std::to_string(others) +
                                " does not divide them");
    }
    dims[static_cast<std::size_t>(free_axis)] = others == 0 ? 0 : total / others;
  }
  std::replace(dims.begin(), dims.end(), std::int64_t{-2}, std::int64_t{-1});
  if (data.known()) {
    FB_ASSIGN(const std::int64_t total, element_count(ctx.node(), data.dims));
    FB_ASSIGN(const std::int64_t made, element_count(ctx.node(), dims));
    if (made >= 0 && made != total) {
      return ctx.node().invalid(std::to_string(total) + " elements cannot be reshaped to " + std::to_string(made));
    }
  }
  ctx.set_output(0, data.dtype, std::move(dims));
  return {};
}

Status infer_flatten(InferContext& ctx) {
  FB_TRY(need_arity(ctx, 1, 1));
  FB_TRY(need_input(ctx, 0, kAny));
  const TypeShape& data = ctx.input(0);
  if (!data.has_rank) {
    ctx.set_output(0, data.dtype, {-1, -1});
    return {};
  }
  const auto rank = static_cast<std::int64_t>(data.dims.size());
  std::int64_t axis = ctx.node().integer("axis", 1);
  if (axis < -rank || axis > rank)
    return ctx.node().invalid("axis " + std::to_string(axis) + " is outside of rank " + std::to_string(rank));
  if (axis < 0) axis += rank;
  const std::span<const std::int64_t> dims(data.dims);
  FB_ASSIGN(const std::int64_t outer, element_count(ctx.node(), dims.first(static_cast<std::size_t>(axis))));
  FB_ASSIGN(const std::int64_t inner, element_count(ctx.node(), dims.subspan(static_cast<std::size_t>(axis))));
  ctx.set_output(0, data.dtype, {outer, inner});
  return {};
}

// Axes of Squeeze and Unsqueeze: an attribute up to opset 12, input 1 from 13. `given` tells whether there are any.
std::vector<std::int64_t> axes_of(const InferContext& ctx, bool* given, bool* known) {
  *known = true;
  if (ctx.node().version() < 13) {
    *given = ctx.node().has("axes");
    const auto axes = ctx.node().integers("axes");
    return {axes.begin(), axes.end()};
  }
  *given = ctx.input(1).present();
  if (!*given) return {};
  return ctx.integers(1, known);
}

Status infer_squeeze(InferContext& ctx) {
  FB_TRY(need_arity(ctx, 1, 2));
  FB_TRY(need_input(ctx, 0, kAny));
  FB_TRY(allow_input(ctx, 1, kIndices));
  const TypeShape& data = ctx.input(0);
  bool given = false, known = false;
  const std::vector<std::int64_t> axes = axes_of(ctx, &given, &known);
  if (!data.has_rank || !known || (!given && !data.known())) {
    ctx.set_output_unranked(0, data.dtype);
    return {};
  }
  FB_ASSIGN(const std::vector<int> normal, normalize_axes(ctx.node(), axes, static_cast<int>(data.dims.size())));
  std::vector<std::int64_t> dims;
  for (std::size_t i = 0; i < data.dims.size(); ++i) {
    const bool named = std::find(normal.begin(), normal.end(), static_cast<int>(i)) != normal.end();
    if (named && data.dims[i] != 1 && data.dims[i] >= 0) {
      return ctx.node().invalid("axis " + std::to_string(i) + " has size " + std::to_string(data.dims[i]) + " and cannot be squeezed");
    }
    if (given ? !named : data.dims[i] != 1) dims.push_back(data.dims[i]);
  }
  ctx.set_output(0, data.dtype, std::move(dims));
  return {};
}

Status infer_unsqueeze(InferContext& ctx) {
  FB_TRY(need_arity(ctx, 1, 2));
  FB_TRY(need_input(ctx, 0, kAny));
  FB_TRY(allow_input(ctx, 1, kIndices));
  const TypeShape& data = ctx.input(0);
  bool given = false, known = false;
  const std::vector<std::int64_t> axes = axes_of(ctx, &given, &known);
  if (!given) return ctx.node().invalid("axes are missing");
  if (!data.has_rank || !known) {
    ctx.set_output_unranked(0, data.dtype);
    return {};
  }
  const std::size_t rank = data.dims.size() + axes.size();
  FB_ASSIGN(const std::vector<int> normal, normalize_axes(ctx.node(), axes, static_cast<int>(rank)));
  std::vector<std::int64_t> dims(rank, 1);
  std::size_t next = 0;
  for (std::size_t i = 0; i < rank; ++i) {
    if (std::find(normal.begin(), normal.end(), static_cast<int>(i)) == normal.end()) dims[i] = data.dims[next++];
  }
  ctx.set_output(0, data.dtype, std::move(dims));
  return {};
}

Status infer_identity(InferContext& ctx) {
  FB_TRY(need_arity(ctx, 1, 1));
  FB_TRY(need_input(ctx, 0, kAny));
  set_like(ctx, 0, 0, ctx.input(0).dtype);
  return {};
}

Status infer_dropout(InferContext& ctx) {
  FB_TRY(need_arity(ctx, 1, 3));
  FB_TRY(need_input(ctx, 0, kFloats | kNarrow));
  FB_TRY(allow_input(ctx, 1, kFloats));
  FB_TRY(allow_input(ctx, 2, kBool));
  const HostTensor* training = ctx.value(2);
  if (training != nullptr && training->bytes() == 1 && training->data()[0] != std::byte{0} && !in_set(kFloats, ctx.input(0).dtype)) {
    return ctx.node().unsupported("training mode in " + std::string(dtype_name(ctx.input(0).dtype)));
  }
  set_like(ctx, 0, 0, ctx.input(0).dtype);
  // The mask had the data's dtype before opset 10 (and 7 to 9 name it so too).
  set_like(ctx, 1, 0, ctx.node().version() < 10 ? ctx.input(0).dtype : DType::boolean);
  return {};
}

// At inference Dropout copies; the mask says that everything was kept. In training element i is dropped where word i of the generator falls below
// the ratio, the same elements in every pass.
class DropoutKernel final : public NamedKernel {
 public:
  DropoutKernel() : NamedKernel("cpu.dropout") {}
  Status prepare(const PrepareContext& context) override {
    const HostTensor* training = context.values.size() > 2 ? context.values[2] : nullptr;
    training_ = training != nullptr && training->bytes() == 1 && training->data()[0] != std::byte{0};
    generator_ = generator_of(context.node);
    label_ = node_label(context.node);
    return {};
  }
  Status run(const KernelCall& call) override {
    if (training_) {
      const double ratio = call.inputs.size() > 1 && call.inputs[1].present() && call.inputs[1].shape.elements() == 1 ? real_at(call.inputs[1], 0) : 0.5;
      if (!(ratio >= 0 && ratio < 1)) return Status(Code::invalid_argument, label_ + ": the ratio " + std::to_string(ratio) + " is not in [0, 1)");
      if (ratio > 0) return drop(call, ratio), Status();
    }
    const std::uint64_t bytes = *checked(call.inputs[0]);
    if (call.outputs[0].present() && call.outputs[0].data != call.inputs[0].data && bytes > 0) {
      std::memcpy(call.outputs[0].data, call.inputs[0].data, bytes);
    }
    if (call.outputs.size() > 1 && call.outputs[1].present()) fill_ones(call.outputs[1]);
    return {};
  }

 private:
  static double real_at(const ConstTensorView& view, std::int64_t i) {
    if (is_half(view.dtype)) {
      float value = 0;
      load_half(view.dtype, view.data + i * 2, &value, 1);
      return static_cast<double>(value);
    }
    return view.dtype == DType::f64 ? reinterpret_cast<const double*>(view.data)[i] : static_cast<double>(reinterpret_cast<const float*>(view.data)[i]);
  }
  static void put(const TensorView& to, std::int64_t i, double value) {
    const auto narrow = static_cast<float>(value);
    if (is_half(to.dtype)) store_half(to.dtype, &narrow, to.data + i * 2, 1);
    if (to.dtype == DType::f32) reinterpret_cast<float*>(to.data)[i] = narrow;
    if (to.dtype == DType::f64) reinterpret_cast<double*>(to.data)[i] = value;
    if (to.dtype == DType::boolean) to.data[i] = value != 0 ? std::byte{1} : std::byte{0};
  }
  void drop(const KernelCall& call, double ratio) const {
    const bool masked = call.outputs.size() > 1 && call.outputs[1].present();
    call.pool->parallel_for(call.inputs[0].shape.elements(), 4096, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const bool kept = generator_.unit53(i) >= ratio;
        if (call.outputs[0].present()) put(call.outputs[0], i, kept ? real_at(call.inputs[0], i) / (1 - ratio) : 0);
        if (masked) put(call.outputs[1], i, kept ? 1 : 0);
      }
    });
  }
  static std::optional<std::uint64_t> checked(const ConstTensorView& view) { return dtype_bytes(view.dtype, view.shape.elements()); }
  static void fill_ones(const TensorView& mask) {
    const auto count = static_cast<std::size_t>(mask.shape.elements());
    if (mask.dtype == DType::boolean) std::fill_n(reinterpret_cast<std::uint8_t*>(mask.data), count, std::uint8_t{1});
    if (mask.dtype == DType::f32) std::fill_n(reinterpret_cast<float*>(mask.data), count, 1.0f);
    if (mask.dtype == DType::f64) std::fill_n(reinterpret_cast<double*>(mask.data), count, 1.0);
    if (mask.dtype == DType::f16) std::fill_n(reinterpret_cast<std::uint16_t*>(mask.data), count, std::uint16_t{0x3c00});
    if (mask.dtype == DType::bf16) std::fill_n(reinterpret_cast<std::uint16_t*>(mask.data), count, std::uint16_t{0x3f80});
  }

  bool training_ = false;
  Generator generator_;
  std::string label_;
};

Result<std::unique_ptr<Kernel>> create_dropout(const NodeView&, std::span<const TypeShape>, std::span<const TypeShape>) {
  return std::unique_ptr<Kernel>(std::make_unique<DropoutKernel>());
}

// Shape's start and end, clamped as the specification says.
void shape_range(const NodeView& node, std::int64_t rank, std::int64_t* begin, std::int64_t* end) {
  std::int64_t from = node.integer("start", 0), to = node.integer("end", rank);
  if (from < 0) from += rank;
  if (to < 0) to += rank;
  *begin = std::clamp<std::int64_t>(from, 0, rank);
  *end = std::max(*begin, std::clamp<std::int64_t>(to, 0, rank));
}

Status infer_shape(InferContext& ctx) {
  FB_TRY(need_arity(ctx, 1, 1));
  FB_TRY(need_input(ctx, 0, kAny));
  if (!ctx.input(0).has_rank) {
    ctx.set_output(0, DType::i64, {-1});
    return {};
  }
  std::int64_t begin = 0, end = 0;
  shape_range(ctx.node(), static_cast<std::int64_t>(ctx.input(0).dims.size()), &begin, &end);
  ctx.set_output(0, DType::i64, {end - begin});
  return {};
}

class ShapeKernel final : public NamedKernel {
 public:
  ShapeKernel() : NamedKernel("cpu.shape") {}
  Status prepare(const PrepareContext& context) override {
    shape_range(context.node, static_cast<std::int64_t>(context.inputs[0].dims.size()), &begin_, &end_);
    return {};
  }
  Status run(const KernelCall& call) override {
    auto* out = reinterpret_cast<std::int64_t*>(call.outputs[0].data);
    for (std::int64_t i = begin_; i < end_; ++i) *out++ = call.inputs[0].shape[static_cast<int>(i)];
    return {};
  }

 private:
  std::int64_t begin_ = 0, end_ = 0;
};

Result<std::unique_ptr<Kernel>> create_shape(const NodeView&, std::span<const TypeShape>, std::span<const TypeShape>) {
  return std::unique_ptr<Kernel>(std::make_unique<ShapeKernel>());
}

Status infer_size(InferContext& ctx) {
  FB_TRY(need_arity(ctx, 1, 1));
  FB_TRY(need_input(ctx, 0, kAny));
  ctx.set_output(0, DType::i64, {});
  return {};
}

class SizeKernel final : public NamedKernel {
 public:
  SizeKernel() : NamedKernel("cpu.size") {}
  Status run(const KernelCall& call) override {
    *reinterpret_cast<std::int64_t*>(call.outputs[0].data) = call.inputs[0].shape.elements();
    return {};
  }
};

Result<std::unique_ptr<Kernel>> create_size(const NodeView&, std::span<const TypeShape>, std::span<const TypeShape>) {
  return std::unique_ptr<Kernel>(std::make_unique<SizeKernel>());
}

constexpr OpSpec kSpecs[] = {
    {.name = "Reshape", .since = 5, .flags = kOpView, .host_inputs = 1u << 1, .infer = infer_reshape},
    {.name = "Flatten", .flags = kOpView, .infer = infer_flatten},
    {.name = "Squeeze", .until = 12, .flags = kOpView, .infer = infer_squeeze},
    {.name = "Squeeze", .since = 13, .flags = kOpView, .host_inputs = 1u << 1, .infer = infer_squeeze},
    {.name = "Unsqueeze", .until = 12, .flags = kOpView, .infer = infer_unsqueeze},
    {.name = "Unsqueeze", .since = 13, .flags = kOpView, .host_inputs = 1u << 1, .infer = infer_unsqueeze},
    {.name = "Identity", .flags = kOpView, .infer = infer_identity},
    {.name = "Dropout", .flags = kOpElementwise, .host_inputs = 1u << 2, .infer = infer_dropout, .create = create_dropout},
    {.name = "Shape", .flags = kOpShapeOnly, .infer = infer_shape, .create = create_shape},
    {.name = "Size", .flags = kOpShapeOnly, .infer = infer_size, .create = create_size},
};

}  // namespace

std::span<const OpSpec> shape_ops() { return kSpecs; }

}  // namespace forebay::ops
