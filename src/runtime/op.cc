#include "runtime/op.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/check.h"

namespace forebay {

bool TypeShape::known() const {
  return has_rank && std::all_of(dims.begin(), dims.end(), [](std::int64_t dim) { return dim >= 0; });
}

Shape TypeShape::shape() const {
  FB_CHECK(known());
  return Shape(dims);
}

NodeView::NodeView(const plan::Node& node, const plan::Plan& plan)
    : NodeView(node.name, node.domain, node.op, node.version, node.attributes, plan, node.inputs.size(), node.outputs.size()) {}

NodeView::NodeView(std::string_view name, std::string_view domain, std::string_view op, std::int32_t version,
                   std::span<const plan::Attribute> attributes, const plan::Plan& plan, std::size_t inputs, std::size_t outputs)
    : name_(name), domain_(domain), op_(op), version_(version), attributes_(attributes), plan_(&plan), inputs_(inputs), outputs_(outputs) {}

const plan::Attribute* NodeView::find(std::string_view attribute) const {
  for (const plan::Attribute& candidate : attributes_) {
    if (candidate.name == attribute) return &candidate;
  }
  return nullptr;
}

bool NodeView::has(std::string_view attribute) const { return find(attribute) != nullptr; }

std::int64_t NodeView::integer(std::string_view attribute, std::int64_t otherwise) const {
  const plan::Attribute* found = find(attribute);
  const auto* value = found != nullptr ? std::get_if<std::int64_t>(&found->value) : nullptr;
  return value != nullptr ? *value : otherwise;
}

float NodeView::real(std::string_view attribute, float otherwise) const {
  const plan::Attribute* found = find(attribute);
  const auto* value = found != nullptr ? std::get_if<float>(&found->value) : nullptr;
  return value != nullptr ? *value : otherwise;
}

std::string_view NodeView::text(std::string_view attribute, std::string_view otherwise) const {
  const plan::Attribute* found = find(attribute);
  const auto* value = found != nullptr ? std::get_if<std::string>(&found->value) : nullptr;
  return value != nullptr ? std::string_view(*value) : otherwise;
}

std::span<const std::int64_t> NodeView::integers(std::string_view attribute) const {
  const plan::Attribute* found = find(attribute);
  const auto* value = found != nullptr ? std::get_if<std::vector<std::int64_t>>(&found->value) : nullptr;
  return value != nullptr ? std::span<const std::int64_t>(*value) : std::span<const std::int64_t>();
}

std::span<const float> NodeView::reals(std::string_view attribute) const {
  const plan::Attribute* found = find(attribute);
  const auto* value = found != nullptr ? std::get_if<std::vector<float>>(&found->value) : nullptr;
  return value != nullptr ? std::span<const float>(*value) : std::span<const float>();
}

std::span<const std::string> NodeView::texts(std::string_view attribute) const {
  const plan::Attribute* found = find(attribute);
  const auto* value = found != nullptr ? std::get_if<std::vector<std::string>>(&found->value) : nullptr;
  return value != nullptr ? std::span<const std::string>(*value) : std::span<const std::string>();
}

const plan::Constant* NodeView::tensor(std::string_view attribute) const {
  const plan::Attribute* found = find(attribute);
  const auto* value = found != nullptr ? std::get_if<plan::TensorRef>(&found->value) : nullptr;
  if (value == nullptr || value->constant >= plan_->constants.size()) return nullptr;
  return &plan_->constants[value->constant];
}

namespace {

Problem node_problem(const NodeView& node, std::string_view code, std::string message) {
  Problem problem;
  problem.code = code;
  problem.node = node.name();
  problem.op = node.domain().empty() ? std::string(node.op()) : std::string(node.domain()) + "." + std::string(node.op());
  problem.message = problem.op + (problem.node.empty() ? "" : " '" + problem.node + "'") + ": " + std::move(message);
  return problem;
}

}  // namespace

Status NodeView::invalid(std::string message) const {
  return Status(Code::invalid_model, node_problem(*this, "invalid_node", std::move(message)));
}

Status NodeView::unsupported(std::string message) const {
  return Status(Code::unsupported, node_problem(*this, "unsupported_node", std::move(message)));
}

const TypeShape& InferContext::input(std::size_t i) const {
  static const TypeShape kAbsent;
  return i < inputs_.size() ? inputs_[i] : kAbsent;
}

const HostTensor* InferContext::value(std::size_t i) const { return i < values_.size() ? values_[i] : nullptr; }

std::vector<std::int64_t> InferContext::integers(std::size_t i, bool* known) const {
  const HostTensor* tensor = value(i);
  *known = tensor != nullptr && (tensor->dtype() == DType::i64 || tensor->dtype() == DType::i32);
  if (!*known) return {};
  if (tensor->dtype() == DType::i64) {
    const auto contents = tensor->as<std::int64_t>();
    return {contents.begin(), contents.end()};
  }
  const auto contents = tensor->as<std::int32_t>();
  return {contents.begin(), contents.end()};
}

void InferContext::set_output(std::size_t i, DType dtype, std::vector<std::int64_t> dims) {
  if (i >= outputs_.size()) return;
  outputs_[i].dtype = dtype;
  outputs_[i].has_rank = true;
  outputs_[i].dims = std::move(dims);
}

void InferContext::set_output_unranked(std::size_t i, DType dtype) {
  if (i >= outputs_.size()) return;
  outputs_[i].dtype = dtype;
  outputs_[i].has_rank = false;
  outputs_[i].dims.clear();
}

namespace {

// Not through Shape: untrusted dims may be unknown or of a rank above kMaxRank.
std::string dims_text(std::span<const std::int64_t> dims) {
  std::string text = "[";
  for (std::size_t i = 0; i < dims.size(); ++i) text += (i > 0 ? "," : "") + (dims[i] < 0 ? std::string("?") : std::to_string(dims[i]));
  return text + "]";
}

}  // namespace

Result<std::vector<std::int64_t>> broadcast_dims(const NodeView& node, std::span<const std::int64_t> a, std::span<const std::int64_t> b) {
  const std::size_t rank = std::max(a.size(), b.size());
  std::vector<std::int64_t> out(rank, 1);
  for (std::size_t i = 0; i < rank; ++i) {
    const std::int64_t x = i + a.size() >= rank ? a[i + a.size() - rank] : 1;
    const std::int64_t y = i + b.size() >= rank ? b[i + b.size() - rank] : 1;
    if (x == y || y == 1) {
      out[i] = x;
    } else if (x == 1) {
      out[i] = y;
    } else if (x < 0 || y < 0) {
      out[i] = std::max(x, y);  // the known one is not 1, so the unknown one must be 1 or equal to it
    } else {
      return node.invalid("sizes " + std::to_string(x) + " and " + std::to_string(y) + " of axis " +
                          std::to_string(static_cast<std::int64_t>(i) - static_cast<std::int64_t>(rank)) + " do not broadcast (" +
                          dims_text(a) + " and " + dims_text(b) + ")");
    }
  }
  return out;
}

Result<int> normalize_axis(const NodeView& node, std::int64_t axis, int rank) {
  if (axis < -rank || axis >= rank) {
    return node.invalid("axis " + std::to_string(axis) + " is outside of rank " + std::to_string(rank));
  }
  return static_cast<int>(axis < 0 ? axis + rank : axis);
}

}  // namespace forebay
