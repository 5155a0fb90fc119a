// Slice: bounds as attributes up to opset 9, as inputs from 10. Bounds clamp, steps may be negative.
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

struct Bounds {
  bool known = true;                                   // starts, ends and steps
  bool axes_known = true;
  std::vector<std::int64_t> starts, ends, axes, steps;  // axes empty: the first ones
};

template <typename Integers>
Bounds read_bounds(const NodeView& node, bool has_axes, bool has_steps, Integers&& integers) {
  Bounds bounds;
  if (node.version() < 10) {
    const auto copy = [&](std::string_view name) {
      const auto values = node.integers(name);
      return std::vector<std::int64_t>(values.begin(), values.end());
    };
    bounds.starts = copy("starts");
    bounds.ends = copy("ends");
    bounds.axes = copy("axes");
    return bounds;
  }
  bool known[4] = {true, true, true, true};
  bounds.starts = integers(1, &known[0]);
  bounds.ends = integers(2, &known[1]);
  if (has_axes) bounds.axes = integers(3, &known[2]);
  if (has_steps) bounds.steps = integers(4, &known[3]);
  bounds.known = known[0] && known[1] && known[3];
  bounds.axes_known = known[2];
  return bounds;
}

// First index and number of elements taken from an axis of `dim`.
struct Range {
  std::int64_t first = 0, count = 0, step = 1;
};
Range clamp_range(std::int64_t dim, std::int64_t start, std::int64_t end, std::int64_t step) {
  if (start < 0) start += dim;
  if (end < 0) end += dim;
  if (step > 0) {
    start = std::clamp<std::int64_t>(start, 0, dim);
    end = std::clamp<std::int64_t>(end, 0, dim);
    return {start, end > start ? (end - start - 1) / step + 1 : 0, step};
  }
  if (dim == 0) return {0, 0, step};
  // The specification clamps the start to the first element here, where numpy would take nothing.
  start = std::clamp<std::int64_t>(start, 0, dim - 1);
  end = std::clamp<std::int64_t>(end, -1, dim - 1);
  // The lowest step has no negative; either takes one element at most.
  const std::int64_t stride = step == INT64_MIN ? INT64_MAX : -step;
  return {start, start > end ? (start - end - 1) / stride + 1 : 0, step};
}

// A range for each axis; needs known bounds.
Result<std::vector<Range>> ranges_of(const NodeView& node, std::span<const std::int64_t> dims, const Bounds& bounds) {
  const std::size_t count = bounds.starts.size();
  if (bounds.ends.size() != count || (!bounds.axes.empty() && bounds.axes.size() != count) ||
      (!bounds.steps.empty() && bounds.steps.size() != count)) {
    return node.invalid("starts, ends, axes and steps differ in length");
  }
  if (count > dims.size()) return node.invalid("there are more bounds than axes");
  std::vector<std::int64_t> axes = bounds.axes;
  for (std::size_t i = axes.size(); i < count; ++i) axes.push_back(static_cast<std::int64_t>(i));
  FB_ASSIGN(const std::vector<int> normal, normalize_axes(node, axes, static_cast<int>(dims.size())));
  std::vector<Range> ranges;
  for (const std::int64_t dim : dims) ranges.push_back({0, dim, 1});
  for (std::size_t i = 0; i < count; ++i) {
    const std::int64_t step = bounds.steps.empty() ? 1 : bounds.steps[i];
    if (step == 0) return node.invalid("a step is 0");
    const auto axis = static_cast<std::size_t>(normal[i]);
    const std::int64_t dim = dims[axis];
    if (dim >= 0) {
      ranges[axis] = clamp_range(dim, bounds.starts[i], bounds.ends[i], step);
    } else if (bounds.starts[i] != 0 || bounds.ends[i] != INT64_MAX || step != 1) {
      ranges[axis].count = -1;
    }
  }
  return ranges;
}

Status infer_slice(InferContext& ctx) {
  FB_TRY(need_arity(ctx, 1, 5));
  FB_TRY(need_input(ctx, 0, kAny));
  if (ctx.node().version() >= 10) {
    FB_TRY(need_input(ctx, 1, kIndices));
    FB_TRY(need_input(ctx, 2, kIndices));
    FB_TRY(allow_input(ctx, 3, kIndices));
    FB_TRY(allow_input(ctx, 4, kIndices));
  }
  const TypeShape& data = ctx.input(0);
  if (!data.has_rank) {
    ctx.set_output_unranked(0, data.dtype);
    return {};
  }
  const Bounds bounds = read_bounds(ctx.node(), ctx.input(3).present(), ctx.input(4).present(),
                                    [&](std::size_t i, bool* known) { return ctx.integers(i, known); });
  std::vector<std::int64_t> dims = data.dims;
  if (bounds.known && bounds.axes_known) {
    FB_ASSIGN(const std::vector<Range> ranges, ranges_of(ctx.node(), dims, bounds));
    for (std::size_t i = 0; i < dims.size(); ++i) dims[i] = ranges[i].count;
  } else if (bounds.axes_known && ctx.input(3).present()) {
    FB_ASSIGN(const std::vector<int> axes, normalize_axes(ctx.node(), bounds.axes, static_cast<int>(dims.size())));
    for (const int axis : axes) dims[static_cast<std::size_t>(axis)] = -1;
  } else {
    std::fill(dims.begin(), dims.end(), -1);
  }
  ctx.set_output(0, data.dtype, std::move(dims));
  return {};
}

class SliceKernel final : public NamedKernel {
 public:
  explicit SliceKernel(int bytes) : NamedKernel("cpu.Slice." + std::to_string(bytes)), bytes_(bytes) {}
  Status prepare(const PrepareContext& context) override {
    const auto present = [&](std::size_t i) { return i < context.values.size() && context.values[i] != nullptr; };
    const Bounds bounds = read_bounds(context.node, present(3), present(4),
                                      [&](std::size_t i, bool*) { return host_integers(*context.values[i]); });
    const auto& dims = context.inputs[0].dims;
    FB_ASSIGN(const std::vector<Range> ranges, ranges_of(context.node, dims, bounds));
    const auto strides = dense_strides(dims);
    std::vector<std::int64_t> out_dims, in;
    std::int64_t offset = 0;
    for (std::size_t i = 0; i < dims.size(); ++i) {
      out_dims.push_back(ranges[i].count);
      // With one element or none the stride is never used, and a huge step must not overflow.
      in.push_back(ranges[i].count > 1 ? ranges[i].step * strides[i] : strides[i]);
      if (ranges[i].count > 0) offset += ranges[i].first * strides[i];
    }
    const auto out = dense_strides(out_dims);
    copy_.plan(bytes_, out_dims, in, std::span(out).first(out_dims.size()), offset, 0);
    return {};
  }
  Status run(const KernelCall& call) override {
    copy_.run(call.inputs[0].data, call.outputs[0].data, *call.pool);
    return {};
  }

 private:
  int bytes_;
  StridedCopy copy_;
};

Result<std::unique_ptr<Kernel>> create_slice(const NodeView&, std::span<const TypeShape> inputs, std::span<const TypeShape>) {
  return std::unique_ptr<Kernel>(std::make_unique<SliceKernel>(element_bytes(inputs[0].dtype)));
}

constexpr OpSpec kSpecs[] = {
    {.name = "Slice", .until = 9, .infer = infer_slice, .create = with_subbyte<create_slice>},
    {.name = "Slice", .since = 10, .host_inputs = 0b11110, .infer = infer_slice, .create = with_subbyte<create_slice>},
};

}  // namespace

std::span<const OpSpec> slice_ops() { return kSpecs; }

}  // namespace forebay::ops
