#include "runtime/ops/indices.h"

#include "base/check.h"
#include "runtime/ops/infer.h"
#include "runtime/ops/strided_copy.h"

namespace forebay::ops {

std::string node_label(const NodeView& node) {
  std::string label(node.op());
  if (!node.name().empty()) label += " '" + std::string(node.name()) + "'";
  return label;
}

Status index_error(const std::string& who, std::int64_t position, std::int64_t index, std::int64_t dim) {
  return Status(Code::invalid_argument, who + ": index " + std::to_string(index) + " at position " + std::to_string(position) +
                                            " is outside of an axis of size " + std::to_string(dim));
}

Status check_indices(const std::string& who, const IndexReader& indices, std::int64_t count, std::int64_t dim) {
  for (std::int64_t i = 0; i < count; ++i) {
    if (indices[i] < -dim || indices[i] >= dim) return index_error(who, i, indices[i], dim);
  }
  return {};
}

Status ElementsAxis::prepare(const PrepareContext& context) {
  const auto& dims = context.inputs[0].dims;
  FB_ASSIGN(const int axis, normalize_axis(context.node, context.node.integer("axis", 0), static_cast<int>(dims.size())));
  axis_ = static_cast<std::size_t>(axis);
  dim_ = dims[axis_];
  strides_ = dense_strides(dims);
  label_ = node_label(context.node);
  return {};
}

Status ElementsAxis::check(const KernelCall& call) const {
  return check_indices(label_, IndexReader(call.inputs[1]), call.inputs[1].shape.elements(), dim_);
}

std::int64_t ElementsAxis::offset(const IndexReader& indices, const Shape& shape, std::int64_t i) const {
  std::int64_t offset = indices.at(i, dim_) * strides_[axis_];
  for (int d = shape.rank() - 1; d >= 0; --d) {
    if (static_cast<std::size_t>(d) != axis_) offset += (i % shape[d]) * strides_[static_cast<std::size_t>(d)];
    i /= shape[d];
  }
  return offset;
}

}  // namespace forebay::ops
