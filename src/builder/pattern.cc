#include "builder/pattern.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/half.h"

namespace forebay::builder {
namespace {

bool narrow_float(DType dtype) {
  return dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16;
}

}  // namespace

bool same_number(double a, double b, DType dtype) {
  const double relative = dtype == DType::f16 ? 1e-3 : dtype == DType::bf16 ? 8e-3 : 1e-5;
  return std::abs(a - b) <= relative * std::max(std::abs(a), std::abs(b));
}

void Pattern::begin(IrNode& root) {
  graph_ = root.graph;
  matched_.clear();
  read_.clear();
}

IrNode* Pattern::maker(ValueId id) const {
  if (id == kNone) return nullptr;
  IrNode* node = ir_.values[id].producer;
  if (node == nullptr || node->removed || node->graph != graph_ || !node->domain.empty() ||
      node->outputs[0] != id)
    return nullptr;
  return std::all_of(node->outputs.begin() + 1, node->outputs.end(),
                     [](ValueId other) { return other == kNone; })
             ? node
             : nullptr;
}

IrNode* Pattern::maker(ValueId id, std::string_view op, std::int32_t since) const {
  IrNode* node = maker(id);
  return node != nullptr && node->op == op && node->version >= since ? node : nullptr;
}

IrNode* Pattern::take(ValueId id, std::string_view op, std::int32_t since) {
  IrNode* node = maker(id, op, since);
  if (node != nullptr) matched_.push_back(node);
  return node;
}

ValueId Pattern::through_casts(ValueId id) {
  while (IrNode* cast = maker(id, "Cast")) {
    const ValueId from = cast->inputs[0];
    if (from == kNone || !narrow_float(type(from).dtype) || !narrow_float(type(id).dtype)) break;
    matched_.push_back(cast);
    id = from;
  }
  return id;
}

IrNode* Pattern::sole_reader(ValueId id) const {
  if (id >= known_count_ || !uses_.single_use(id)) return nullptr;
  IrNode* node = uses_.uses(id)[0].node;
  return node->removed || node->graph != graph_ || !node->domain.empty() ? nullptr : node;
}

std::optional<double> Pattern::number(ValueId id) const {
  if (id == kNone || ir_.values[id].origin != Origin::constant) return std::nullopt;
  const IrValue& value = ir_.values[id];
  if (!value.type.known() || value.type.shape().elements() != 1) return std::nullopt;
  double found = 0;
  switch (value.type.dtype) {
    case DType::f64:
      found = value.known->as<double>()[0];
      break;
    case DType::f32:
      found = static_cast<double>(value.known->as<float>()[0]);
      break;
    case DType::f16:
      found = static_cast<double>(f16_to_f32(value.known->as<std::uint16_t>()[0]));
      break;
    case DType::bf16:
      found = static_cast<double>(bf16_to_f32(value.known->as<std::uint16_t>()[0]));
      break;
    default:
      return std::nullopt;
  }
  read_.insert(value.known_sources.begin(), value.known_sources.end());
  return found;
}

bool Pattern::is_number(ValueId id, double wanted) const {
  const std::optional<double> found = number(id);
  return found && same_number(*found, wanted, type(id).dtype);
}

std::optional<std::vector<std::int64_t>> Pattern::integers(ValueId id) const {
  if (id == kNone || ir_.values[id].origin != Origin::constant ||
      ir_.values[id].type.dtype != DType::i64)
    return std::nullopt;
  const IrValue& value = ir_.values[id];
  read_.insert(value.known_sources.begin(), value.known_sources.end());
  const auto found = value.known->as<std::int64_t>();
  return std::vector<std::int64_t>(found.begin(), found.end());
}

bool Pattern::closed(const IrNode& root) const {
  const auto inside = [&](const IrNode* node) {
    return node == &root || std::find(matched_.begin(), matched_.end(), node) != matched_.end();
  };
  for (const IrNode* node : matched_) {
    if (node == &root) continue;
    for (const ValueId output : node->outputs) {
      if (output == kNone) continue;
      if (output >= known_count_) return false;
      if (uses_.is_graph_output(output)) return false;
      for (const Use& use : uses_.uses(output))
        if (!inside(use.node)) return false;
    }
  }
  return true;
}

Status Pattern::become(IrNode& root, std::string_view domain, std::string_view op,
                       std::int32_t version, std::vector<ValueId> inputs,
                       std::vector<plan::Attribute> attributes) {
  std::vector<std::string> names;
  std::set<const IrNode*> seen;
  const auto list = [&](const IrNode& node) {
    if (!seen.insert(&node).second) return;
    if (node.fused_from.empty()) names.push_back(node.name);
    names.insert(names.end(), node.fused_from.begin(), node.fused_from.end());
  };
  for (auto node = matched_.rbegin(); node != matched_.rend(); ++node)
    if (*node != &root) list(**node);
  list(root);
  root.fused_from = std::move(names);
  root.domain = domain;
  root.op = op;
  root.version = version;
  root.inputs = std::move(inputs);
  root.attributes = std::move(attributes);
  for (IrNode* node : matched_)
    if (node != &root) node->removed = true;
  ir_.decided_by.insert(ir_.decided_by.end(), read_.begin(), read_.end());
  return context_.types.infer_added(root);
}

Result<ValueId> Pattern::insert(const IrNode& root, std::string_view name, std::string_view op,
                                std::int32_t version, std::vector<ValueId> inputs,
                                std::vector<plan::Attribute> attributes, std::string_view domain) {
  const ValueId out = ir_.add_value(std::string(name), TypeShape());
  auto node = ir_.make_node(root.graph, std::string(name), std::string(op), version,
                            std::move(inputs), {out});
  node->domain = domain;
  node->attributes = std::move(attributes);
  FB_TRY(context_.types.infer_added(*node));
  insertions_.before(root, std::move(node));
  return out;
}

}  // namespace forebay::builder
