// Concat and Split: copies of rows between one tensor and its pieces along an axis.
#include <algorithm>
#include <memory>
#include <vector>

#include "runtime/ops/dispatch.h"
#include "runtime/ops/families.h"
#include "runtime/ops/infer.h"
#include "runtime/ops/strided_copy.h"
#include "runtime/ops/subbyte.h"

namespace forebay::ops {
namespace {

Status infer_concat(InferContext& ctx) {
  FB_TRY(need_arity(ctx, 1, 1u << 20));
  FB_TRY(need_input(ctx, 0, kAny));
  const DType dtype = ctx.input(0).dtype;
  if (!ctx.node().has("axis") && ctx.node().version() >= 4) return ctx.node().invalid("axis is missing");
  bool unranked = false;
  for (std::size_t i = 0; i < ctx.input_count(); ++i) {
    FB_TRY(need_input(ctx, i, kAny));
    FB_TRY(same_dtype(ctx, 0, i));
    unranked = unranked || !ctx.input(i).has_rank;
  }
  if (unranked) {
    ctx.set_output_unranked(0, dtype);
    return {};
  }
  std::vector<std::int64_t> dims = ctx.input(0).dims;
  FB_ASSIGN(const int axis, normalize_axis(ctx.node(), ctx.node().integer("axis", 1), static_cast<int>(dims.size())));
  for (std::size_t i = 1; i < ctx.input_count(); ++i) {
    const auto& other = ctx.input(i).dims;
    if (other.size() != dims.size()) return ctx.node().invalid("inputs 0 and " + std::to_string(i) + " differ in rank");
    for (std::size_t d = 0; d < dims.size(); ++d) {
      if (static_cast<int>(d) == axis) {
        if (dims[d] >= 0 && other[d] > INT64_MAX - dims[d]) return ctx.node().invalid("the sizes along the axis overflow");
        dims[d] = dims[d] < 0 || other[d] < 0 ? -1 : dims[d] + other[d];
      } else if (dims[d] < 0) {
        dims[d] = other[d];
      } else if (other[d] >= 0 && other[d] != dims[d]) {
        return ctx.node().invalid("inputs 0 and " + std::to_string(i) + " have sizes " + std::to_string(dims[d]) + " and " +
                                  std::to_string(other[d]) + " on axis " + std::to_string(d));
      }
    }
  }
  ctx.set_output(0, dtype, std::move(dims));
  return {};
}

// Copies between whole[outer][at..at+piece) and piece[outer][piece).
void plan_pieces(int bytes, std::span<const std::int64_t> whole, std::span<const TypeShape> pieces, int axis, bool to_whole,
                 std::vector<StridedCopy>& copies) {
  const auto at_axis = static_cast<std::size_t>(axis);
  std::int64_t outer = 1, inner = 1;
  for (std::size_t d = 0; d < at_axis; ++d) outer *= whole[d];
  for (std::size_t d = at_axis + 1; d < whole.size(); ++d) inner *= whole[d];
  const std::int64_t whole_row = whole[at_axis] * inner;
  copies.assign(pieces.size(), {});
  std::int64_t at = 0;
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    if (!pieces[i].present()) continue;
    const std::int64_t row = pieces[i].dims[at_axis] * inner;
    const std::int64_t dims[] = {outer, row}, whole_strides[] = {whole_row, 1}, piece_strides[] = {row, 1};
    if (to_whole) {
      copies[i].plan(bytes, dims, piece_strides, whole_strides, 0, at);
    } else {
      copies[i].plan(bytes, dims, whole_strides, piece_strides, at, 0);
    }
    at += row;
  }
}

class ConcatKernel final : public NamedKernel {
 public:
  explicit ConcatKernel(int bytes) : NamedKernel("cpu.Concat." + std::to_string(bytes)), bytes_(bytes) {}
  Status prepare(const PrepareContext& context) override {
    const auto& dims = context.outputs[0].dims;
    FB_ASSIGN(const int axis, normalize_axis(context.node, context.node.integer("axis", 1), static_cast<int>(dims.size())));
    plan_pieces(bytes_, dims, context.inputs, axis, true, copies_);
    return {};
  }
  Status run(const KernelCall& call) override {
    for (std::size_t i = 0; i < copies_.size(); ++i) copies_[i].run(call.inputs[i].data, call.outputs[0].data, *call.pool);
    return {};
  }

 private:
  int bytes_;
  std::vector<StridedCopy> copies_;
};

Result<std::unique_ptr<Kernel>> create_concat(const NodeView&, std::span<const TypeShape> inputs, std::span<const TypeShape>) {
  return std::unique_ptr<Kernel>(std::make_unique<ConcatKernel>(element_bytes(inputs[0].dtype)));
}

// Sizes of the pieces. `known` false: they are not known yet.
Result<std::vector<std::int64_t>> split_sizes(const NodeView& node, std::int64_t dim, std::size_t outputs, bool given, bool* known,
                                              std::vector<std::int64_t> sizes) {
  if (given) {
    if (!*known) return sizes;
    std::int64_t sum = 0;
    for (const std::int64_t size : sizes) {
      if (size < 0 || __builtin_add_overflow(sum, size, &sum)) return node.invalid("a size in split is negative or too large");
    }
    if (sizes.size() != outputs) {
      return node.invalid("split has " + std::to_string(sizes.size()) + " sizes for " + std::to_string(outputs) + " outputs");
    }
    if (dim >= 0 && sum != dim) return node.invalid("split adds up to " + std::to_string(sum) + ", the axis has " + std::to_string(dim));
    return sizes;
  }
  *known = dim >= 0;
  if (!*known) return sizes;
  const auto count = static_cast<std::int64_t>(outputs);
  if (node.version() < 18 && dim % count != 0) {
    return node.invalid("an axis of " + std::to_string(dim) + " does not split into " + std::to_string(count) + " equal pieces");
  }
  const std::int64_t each = (dim + count - 1) / count;
  std::int64_t left = dim;
  for (std::int64_t i = 0; i < count; ++i) {
    sizes.push_back(std::min(each, left));
    left -= sizes.back();
  }
  return sizes;
}

Status infer_split(InferContext& ctx) {
  FB_TRY(need_arity(ctx, 1, 2));
  FB_TRY(need_input(ctx, 0, kAny));
  const TypeShape& data = ctx.input(0);
  if (ctx.output_count() == 0) return ctx.node().invalid("there is no output");
  if (!data.has_rank) {
    for (std::size_t i = 0; i < ctx.output_count(); ++i) ctx.set_output_unranked(i, data.dtype);
    return {};
  }
  FB_ASSIGN(const int axis, normalize_axis(ctx.node(), ctx.node().integer("axis", 0), static_cast<int>(data.dims.size())));
  const std::int64_t dim = data.dims[static_cast<std::size_t>(axis)];
  bool given = false, known = true;
  std::vector<std::int64_t> sizes;
  if (ctx.node().version() < 13) {
    given = ctx.node().has("split");
    const auto attribute = ctx.node().integers("split");
    sizes.assign(attribute.begin(), attribute.end());
  } else if (ctx.input(1).present()) {
    FB_TRY(need_input(ctx, 1, kIndices));
    given = true;
    sizes = ctx.integers(1, &known);
  }
  const std::int64_t asked = ctx.node().integer("num_outputs", static_cast<std::int64_t>(ctx.output_count()));
  if (!given && asked != static_cast<std::int64_t>(ctx.output_count())) return ctx.node().invalid("num_outputs differs from the outputs");
  FB_ASSIGN(sizes, split_sizes(ctx.node(), dim, ctx.output_count(), given, &known, std::move(sizes)));
  for (std::size_t i = 0; i < ctx.output_count(); ++i) {
    std::vector<std::int64_t> dims = data.dims;
    dims[static_cast<std::size_t>(axis)] = known ? sizes[i] : -1;
    ctx.set_output(i, data.dtype, std::move(dims));
  }
  return {};
}

class SplitKernel final : public NamedKernel {
 public:
  explicit SplitKernel(int bytes) : NamedKernel("cpu.Split." + std::to_string(bytes)), bytes_(bytes) {}
  Status prepare(const PrepareContext& context) override {
    const auto& dims = context.inputs[0].dims;
    FB_ASSIGN(const int axis, normalize_axis(context.node, context.node.integer("axis", 0), static_cast<int>(dims.size())));
    plan_pieces(bytes_, dims, context.outputs, axis, false, copies_);
    return {};
  }
  Status run(const KernelCall& call) override {
    for (std::size_t i = 0; i < copies_.size(); ++i) {
      if (call.outputs[i].present() && call.outputs[i].data != nullptr)
        copies_[i].run(call.inputs[0].data, call.outputs[i].data, *call.pool);
    }
    return {};
  }

 private:
  int bytes_;
  std::vector<StridedCopy> copies_;
};

Result<std::unique_ptr<Kernel>> create_split(const NodeView&, std::span<const TypeShape> inputs, std::span<const TypeShape>) {
  return std::unique_ptr<Kernel>(std::make_unique<SplitKernel>(element_bytes(inputs[0].dtype)));
}

constexpr OpSpec kSpecs[] = {
    {.name = "Concat", .infer = infer_concat, .create = with_subbyte<create_concat>},
    {.name = "Split", .since = 2, .until = 12, .infer = infer_split, .create = with_subbyte<create_split>},
    {.name = "Split", .since = 13, .host_inputs = 1u << 1, .infer = infer_split, .create = with_subbyte<create_split>},
};

}  // namespace

std::span<const OpSpec> concat_split_ops() { return kSpecs; }

}  // namespace forebay::ops
