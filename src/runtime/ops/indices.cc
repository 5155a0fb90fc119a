#include "runtime/ops/indices.h"

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

}  // namespace forebay::ops
