#include <unordered_set>

#include "base/check.h"
#include "base/printable.h"
#include "plan/plan_format.h"
#include "plan/plan_sections.h"

namespace forebay::plan {
namespace {

// Walks graph 0 and the bodies below it in execution order, keeping which values are visible.
class GraphWalk {
 public:
  explicit GraphWalk(const Plan& plan)
      : plan_(plan), visible_(plan.values.size(), false), defined_(plan.values.size(), false), visited_(plan.graphs.size(), false) {}
  Status run();

 private:
  Status enter(std::uint32_t graph, int depth);
  Status node(const Node& node, int depth, std::vector<ValueId>& scope);
  Status define(ValueId id, const std::string& by, std::vector<ValueId>& scope);
  Status use(ValueId id, const std::string& by) const;
  std::string value_name(ValueId id) const { return "value " + std::to_string(id) + " ('" + printable(plan_.values[id].name) + "')"; }

  const Plan& plan_;
  std::vector<bool> visible_, defined_, visited_;
  std::unordered_set<std::string_view> node_names_;
};

Status GraphWalk::define(ValueId id, const std::string& by, std::vector<ValueId>& scope) {
  if (id >= plan_.values.size()) return invalid_plan(by + " defines value " + std::to_string(id) + ", which is not there");
  if (defined_[id]) return invalid_plan(by + " defines " + value_name(id) + " a second time");
  const ValueKind kind = plan_.values[id].kind;
  if (kind == ValueKind::weight || kind == ValueKind::constant)
    return invalid_plan(by + " defines " + value_name(id) + ", a weight or constant");
  defined_[id] = true;
  visible_[id] = true;
  scope.push_back(id);
  return {};
}

Status GraphWalk::use(ValueId id, const std::string& by) const {
  if (id >= plan_.values.size()) return invalid_plan(by + " uses value " + std::to_string(id) + ", which is not there");
  const ValueKind kind = plan_.values[id].kind;
  if (kind == ValueKind::weight || kind == ValueKind::constant || visible_[id]) return {};
  return invalid_plan(by + " uses " + value_name(id) + " before it is defined, or outside of its graph");
}

Status GraphWalk::node(const Node& node, int depth, std::vector<ValueId>& scope) {
  const std::string what = "node '" + printable(node.name) + "' (" + printable(node.op) + ")";
  if (node.name.empty() || node.op.empty()) return invalid_plan(what + " has no name or no operator");
  if (node.name.size() > kMaxNameBytes || node.op.size() > kMaxNameBytes || node.domain.size() > kMaxNameBytes) {
    return invalid_plan("a node's name, operator or domain is above 64 KiB");
  }
  if (!node_names_.insert(node.name).second) return invalid_plan(what + ": another node has the same name");
  if (node.version < 0) return invalid_plan(what + " has operator version " + std::to_string(node.version));
  for (const ValueId input : node.inputs) {
    if (input != kNone) FB_TRY(use(input, what));
  }
  std::unordered_set<std::string_view> attribute_names;
  for (const Attribute& attribute : node.attributes) {
    if (!attribute_names.insert(attribute.name).second)
      return invalid_plan(what + ": attribute '" + printable(attribute.name) + "' is there twice");
    FB_TRY(validate_attribute(plan_, attribute, true, what));
    if (const auto* body = std::get_if<BodyRef>(&attribute.value)) FB_TRY(enter(body->graph, depth + 1));
  }
  for (const ValueId output : node.outputs) {
    if (output == kNone) continue;
    FB_TRY(define(output, what, scope));
    if (plan_.values[output].kind != ValueKind::intermediate)
      return invalid_plan(what + " writes " + value_name(output) + ", a graph input");
  }
  return {};
}

Status GraphWalk::enter(std::uint32_t index, int depth) {
  const std::string what = "graph " + std::to_string(index);
  if (depth > kMaxBodyDepth) return invalid_plan(what + " is nested deeper than " + std::to_string(kMaxBodyDepth));
  if (visited_[index]) return invalid_plan(what + " is used as a body twice");
  visited_[index] = true;
  const Graph& graph = plan_.graphs[index];
  std::vector<ValueId> scope;
  for (const ValueId input : graph.inputs) {
    FB_TRY(define(input, what, scope));
    if (index == 0 && plan_.values[input].kind != ValueKind::input)
      return invalid_plan("graph 0 takes " + value_name(input) + ", which is no input");
  }
  for (const Node& one : graph.nodes) FB_TRY(node(one, depth, scope));
  for (const ValueId output : graph.outputs) FB_TRY(use(output, what + " (outputs)"));
  for (const ValueId id : scope) visible_[id] = false;
  return {};
}

Status GraphWalk::run() {
  FB_TRY(enter(0, 0));
  for (std::size_t i = 0; i < visited_.size(); ++i) {
    if (!visited_[i]) return invalid_plan("graph " + std::to_string(i) + " is the body of no node");
  }
  return {};
}

Status check_values(const Plan& plan) {
  for (std::size_t i = 0; i < plan.values.size(); ++i) {
    const Value& value = plan.values[i];
    const std::string what = "value " + std::to_string(i);
    if (static_cast<int>(value.dtype) >= kDTypeCount) return invalid_plan(what + " has an unknown element type");
    if (value.name.size() > kMaxNameBytes) return invalid_plan(what + " has a name of " + std::to_string(value.name.size()) + " bytes");
    if (!value.has_rank && !value.dims.empty()) return invalid_plan(what + " has dimensions and no rank");
    if (value.dims.size() > static_cast<std::size_t>(kMaxRank))
      return invalid_plan(what + " has rank " + std::to_string(value.dims.size()));
    for (const Dim& dim : value.dims) {
      if (dim.size < -1 || dim.name.size() > kMaxNameBytes) return invalid_plan(what + " has a dimension of " + std::to_string(dim.size));
    }
    if (value.kind == ValueKind::weight) {
      if (value.index >= plan.weights.size() || plan.weights[value.index].value != i)
        return invalid_plan(what + " names a weight that is not its own");
    } else if (value.kind == ValueKind::constant) {
      if (value.index >= plan.constants.size() || plan.constants[value.index].value != i) {
        return invalid_plan(what + " names a constant that is not its own");
      }
    } else if (value.index != kNone) {
      return invalid_plan(what + " is neither weight nor constant, and has an index");
    } else if (static_cast<std::uint8_t>(value.kind) > 3) {
      return invalid_plan(what + " is of an unknown kind");
    }
  }
  return {};
}

Status check_boundary(const Plan& plan) {
  const Graph& main = plan.graphs[0];
  for (const auto* list : {&main.inputs, &main.outputs}) {
    std::unordered_set<std::string_view> names;
    for (const ValueId id : *list) {
      const Value& value = plan.values[id];
      if (value.name.empty() || !names.insert(value.name).second) {
        return invalid_plan("input or output '" + printable(value.name) + "' has no name, or another has the same");
      }
    }
  }
  const std::unordered_set<ValueId> inputs(main.inputs.begin(), main.inputs.end()), outputs(main.outputs.begin(), main.outputs.end());
  std::unordered_set<ValueId> used;
  for (const StatePair& pair : plan.state_pairs) {
    if (!inputs.contains(pair.input) || !outputs.contains(pair.output))
      return invalid_plan("a state pair names what is no output or input of the model");
    const Value &input = plan.values[pair.input], &output = plan.values[pair.output];
    const std::string what = "state pair '" + printable(output.name) + "', '" + printable(input.name) + "'";
    if (!used.insert(pair.input).second || (pair.input != pair.output && !used.insert(pair.output).second)) {
      return invalid_plan(what + ": one of them is in another pair too");
    }
    if (input.dtype != output.dtype) return invalid_plan(what + ": the element types differ");
  }
  return {};
}

}  // namespace

Status validate_attribute(const Plan& plan, const Attribute& attribute, bool allow_body, const std::string& where) {
  const std::string what = where + ": attribute '" + printable(attribute.name) + "'";
  if (attribute.name.empty() || attribute.name.size() > kMaxNameBytes)
    return invalid_plan(where + ": an attribute without a name, or with one above 64 KiB");
  if (const auto* tensor = std::get_if<TensorRef>(&attribute.value)) {
    if (tensor->constant >= plan.constants.size()) return invalid_plan(what + " names constant " + std::to_string(tensor->constant));
  } else if (const auto* body = std::get_if<BodyRef>(&attribute.value)) {
    if (!allow_body) return invalid_plan(what + " is a body; recipes have none");
    if (body->graph == 0 || body->graph >= plan.graphs.size()) return invalid_plan(what + " names graph " + std::to_string(body->graph));
  }
  return {};
}

Status validate_graphs(const Plan& plan) {
  if (plan.graphs.empty()) return invalid_plan("it has no graph");
  FB_TRY(check_values(plan));
  FB_TRY(GraphWalk(plan).run());
  return check_boundary(plan);
}

}  // namespace forebay::plan
