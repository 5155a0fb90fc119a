#include "runtime/shape_bounds.h"

#include <algorithm>

namespace forebay {
namespace {

std::int64_t elements(const TypeShape& type) {
  if (!type.known() || !checked_bytes(DType::u8, type.dims)) return -1;
  return type.shape().elements();
}

// Size of the axis that an attribute names; without the attribute the number of elements.
std::int64_t axis_or_all(const NodeView& node, const TypeShape& type) {
  if (!node.has("axis")) return elements(type);
  const auto rank = static_cast<std::int64_t>(type.dims.size());
  std::int64_t axis = node.integer("axis", 0);
  if (axis < 0) axis += rank;
  return axis >= 0 && axis < rank ? type.dims[static_cast<std::size_t>(axis)] : -1;
}

std::int64_t most_boxes(std::span<const TypeShape> inputs, std::span<const HostTensor* const> values) {
  if (inputs.size() < 2 || inputs[1].dims.size() != 3) return -1;
  std::int64_t each = inputs[1].dims[2];
  if (values.size() > 2 && values[2] != nullptr && values[2]->bytes() == 8) {
    each = std::clamp<std::int64_t>(values[2]->as<std::int64_t>()[0], 0, std::max<std::int64_t>(0, each));
  } else if (values.size() < 3 || values[2] == nullptr) {
    if (inputs.size() < 3 || !inputs[2].present()) each = 0;
  }
  TypeShape all;
  all.dtype = DType::u8;
  all.has_rank = true;
  all.dims = {inputs[1].dims[0], inputs[1].dims[1], each};
  return elements(all);
}

void fill(TypeShape& type, std::int64_t most) {
  for (std::int64_t& dim : type.dims) {
    if (dim < 0) dim = most;
  }
}

void fill_like(TypeShape& type, const TypeShape& from) {
  for (std::size_t i = 0; i < type.dims.size() && i < from.dims.size(); ++i) {
    if (type.dims[i] < 0) type.dims[i] = from.dims[i];
  }
}

}  // namespace

void bound_outputs(const NodeView& node, std::span<const TypeShape> inputs, std::span<const HostTensor* const> values,
                   std::span<TypeShape> outputs) {
  if (!node.domain().empty() || inputs.empty()) return;
  const std::string_view op = node.op();
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    TypeShape& output = outputs[i];
    if (!output.present() || !output.has_rank) continue;
    if (op == "NonZero") fill(output, elements(inputs[0]));
    if (op == "Unique" || op == "Compress") fill(output, axis_or_all(node, inputs[0]));
    if (op == "NonMaxSuppression") fill(output, most_boxes(inputs, values));
    if (op == "Slice" || op == "TopK") fill_like(output, inputs[0]);
  }
}

std::string bound_name(std::string_view value, std::size_t axis) {
  return "bound(" + std::string(value) + ")." + std::to_string(axis);
}

std::vector<std::vector<std::int64_t>> declared_bounds(const plan::Plan& plan) {
  std::vector<std::vector<std::int64_t>> bounds(plan.values.size());
  for (std::size_t v = 0; v < plan.values.size() && !plan.dim_ranges.empty(); ++v) {
    const plan::Value& value = plan.values[v];
    for (std::size_t axis = 0; axis < value.dims.size(); ++axis) {
      if (value.dims[axis].name != bound_name(value.name, axis)) continue;
      for (const plan::DimRange& range : plan.dim_ranges) {
        if (range.name != value.dims[axis].name) continue;
        bounds[v].resize(value.dims.size(), -1);
        bounds[v][axis] = range.max;
      }
    }
  }
  return bounds;
}

}  // namespace forebay
