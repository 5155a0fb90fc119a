#include "builder/weight_recipes.h"

#include <algorithm>
#include <map>

#include "builder/node_key.h"
#include "builder/value_needs.h"

namespace forebay::builder {
namespace {

constexpr std::uint64_t kAlwaysSmallBytes = 4096;

class Planner {
 public:
  Planner(Ir& ir, const OpRegistry& registry) : ir_(ir), registry_(registry), needs_(ir, registry) {}

  WeightPlan run() {
    for (IrNode* node : execution_order(ir_)) {
      const bool fixed =
          std::all_of(node->outputs.begin(), node->outputs.end(), [&](ValueId id) { return id == kNone || needs_.fixed(id); });
      if (!fixed || node->outputs.empty()) keep(*node);
    }
    std::vector<std::uint32_t> graphs{0};
    for (IrNode* node : execution_order(ir_))
      for (const std::uint32_t body : bodies_of(*node)) graphs.push_back(body);
    for (const std::uint32_t graph : graphs)
      for (const ValueId output : ir_.graphs[graph].outputs) pending_.push_back(output);
    while (!pending_.empty()) {
      const ValueId id = pending_.back();
      pending_.pop_back();
      request(id);
    }
    order(0);
    join_equal();
    return std::move(out_);
  }

 private:
  void keep(const IrNode& node) {
    if (!out_.in_graph.insert(&node).second) return;
    for (const ValueId input : node.inputs)
      if (input != kNone) pending_.push_back(input);
  }

  void request(ValueId id) {
    const IrValue& value = ir_.values[id];
    if (value.origin == Origin::input || value.origin == Origin::constant || found_.contains(id)) return;
    if (value.origin == Origin::source) {
      PlannedWeight weight;
      weight.value = id;
      weight.sources = {value.source};
      found_[id] = std::move(weight);
      return;
    }
    if (value.producer == nullptr || out_.in_graph.contains(value.producer)) return;
    PlannedWeight weight;
    if (recipe(id, weight)) {
      found_[id] = std::move(weight);
    } else {
      keep(*value.producer);
    }
  }

  static bool stays(const IrNode& node, const OpSpec* spec) {
    if (spec == nullptr || (spec->flags & (kOpControl | kOpRandom)) != 0) return true;
    return node.op == "DequantizeLinear" || node.op == "MatMulNBits" || node.op == "GatherBlockQuantized";
  }

  // The closure of `id` in execution order. False when some node of it must stay in the graph, a size is not known, or it grows too much.
  bool recipe(ValueId id, PlannedWeight& weight) const {
    weight.value = id;
    std::set<const IrNode*> done;
    std::set<std::uint32_t> sources;
    std::vector<std::pair<const IrNode*, std::size_t>> stack{{ir_.values[id].producer, 0}};
    if (!takes(*stack.back().first)) return false;
    std::uint64_t source_bytes = 0;
    while (!stack.empty()) {
      const IrNode* node = stack.back().first;
      if (stack.back().second == node->inputs.size()) {
        if (done.insert(node).second) weight.nodes.push_back(node);
        stack.pop_back();
        continue;
      }
      const ValueId input = node->inputs[stack.back().second++];
      if (input == kNone) continue;
      const IrValue& value = ir_.values[input];
      if (value.origin == Origin::source && sources.insert(value.source).second) {
        weight.sources.push_back(value.source);
        source_bytes += ir_.sources[value.source].bytes();
      }
      if (value.origin != Origin::computed || done.contains(value.producer)) continue;
      if (value.producer == nullptr || !takes(*value.producer)) return false;
      stack.emplace_back(value.producer, 0);
    }
    const TypeShape& type = ir_.values[id].type;
    const auto bytes = checked_bytes(type.dtype, type.dims);
    if (weight.sources.empty() || !bytes || *bytes == 0) return false;
    if (*bytes > kAlwaysSmallBytes && *bytes / kMaxRecipeGrowth > source_bytes) return false;
    simplify(weight);
    return true;
  }

  bool takes(const IrNode& node) const {
    if (stays(node, registry_.find(node.domain, node.op, node.version))) return false;
    return std::all_of(node.outputs.begin(), node.outputs.end(), [&](ValueId id) { return id == kNone || ir_.values[id].type.known(); });
  }

  // Views alone move no byte: the weight is its source under another shape, and can be read in place.
  void simplify(PlannedWeight& weight) const {
    std::vector<ValueId> shapes;
    for (const IrNode* node : weight.nodes) {
      const OpSpec* spec = registry_.find(node->domain, node->op, node->version);
      if ((spec->flags & kOpView) == 0 || node->outputs[0] == kNone) return;
      for (std::size_t i = 1; i < node->inputs.size(); ++i) {
        if (node->inputs[i] == kNone) continue;
        if (ir_.values[node->inputs[i]].origin != Origin::constant) return;
        shapes.push_back(node->inputs[i]);
      }
    }
    if (weight.sources.size() != 1 || ir_.values[weight.value].type.dtype != ir_.sources[weight.sources[0]].dtype) return;
    weight.nodes.clear();
    weight.shape_constants = std::move(shapes);
  }

  void list(ValueId id) {
    const auto at = found_.find(id);
    if (at == found_.end()) return;
    const IrNode* producer = ir_.values[id].producer;
    if (producer == nullptr || !out_.in_graph.contains(producer)) out_.weights.push_back(std::move(at->second));
    found_.erase(at);
  }

  // As a pass uses them: the operands of a node, then its bodies, and the outputs of a graph at its end.
  void order(std::uint32_t graph) {
    for (const auto& node : ir_.graphs[graph].nodes) {
      if (!out_.in_graph.contains(node.get())) continue;
      for (const ValueId input : node->inputs) list(input);
      for (const std::uint32_t body : bodies_of(*node)) order(body);
    }
    for (const ValueId output : ir_.graphs[graph].outputs) list(output);
  }

  // Equal for weights whose bytes are equal whatever the sources hold.
  std::string recipe_key(const PlannedWeight& weight) const {
    std::string key;
    std::map<ValueId, std::uint32_t> slots;
    append_bytes(key, weight.sources.data(), weight.sources.size() * sizeof(std::uint32_t));
    append_text(key, ir_.values[weight.value].type.shape().to_string());
    for (const IrNode* node : weight.nodes) {
      append_operation(key, ir_, *node);
      for (const ValueId input : node->inputs) {
        const Origin origin = input == kNone ? Origin::input : ir_.values[input].origin;
        key += static_cast<char>('A' + static_cast<int>(origin));
        if (origin == Origin::constant) append_tensor(key, *ir_.values[input].known);
        if (origin == Origin::source) append_bytes(key, &ir_.values[input].source, sizeof(std::uint32_t));
        if (origin == Origin::computed) append_bytes(key, &slots[input], sizeof(std::uint32_t));
      }
      for (const ValueId output : node->outputs)
        if (output != kNone) slots.emplace(output, static_cast<std::uint32_t>(slots.size()));
    }
    // Which output of the last node it is.
    return weight.nodes.empty() ? key : key + std::to_string(slots[weight.value]);
  }

  void join_equal() {
    std::map<std::string, ValueId> first;
    std::map<ValueId, ValueId> joined;
    std::vector<PlannedWeight> kept;
    const std::vector<ValueId>& main_outputs = ir_.graphs[0].outputs;
    for (PlannedWeight& weight : out_.weights) {
      const bool named = std::find(main_outputs.begin(), main_outputs.end(), weight.value) != main_outputs.end();
      const auto [at, added] = first.emplace(recipe_key(weight), weight.value);
      if (added || named) {
        kept.push_back(std::move(weight));
        continue;
      }
      joined[weight.value] = at->second;
      for (const ValueId shape : weight.shape_constants) decided_by(shape);
      for (const IrNode* node : weight.nodes)
        for (const ValueId input : node->inputs)
          if (input != kNone && ir_.values[input].origin == Origin::constant) decided_by(input);
    }
    out_.weights = std::move(kept);
    const auto redirect = [&](ValueId& id) {
      if (const auto at = joined.find(id); at != joined.end()) id = at->second;
    };
    for (IrGraph& graph : ir_.graphs) {
      for (const auto& node : graph.nodes)
        if (out_.in_graph.contains(node.get())) std::for_each(node->inputs.begin(), node->inputs.end(), redirect);
      std::for_each(graph.outputs.begin(), graph.outputs.end(), redirect);
    }
  }

  void decided_by(ValueId constant) {
    const std::vector<std::uint32_t>& from = ir_.values[constant].known_sources;
    ir_.decided_by.insert(ir_.decided_by.end(), from.begin(), from.end());
  }

  Ir& ir_;
  const OpRegistry& registry_;
  ValueNeeds needs_;
  WeightPlan out_;
  std::map<ValueId, PlannedWeight> found_;
  std::vector<ValueId> pending_;
};

}  // namespace

WeightPlan plan_weights(Ir& ir, const OpRegistry& registry) { return Planner(ir, registry).run(); }

}  // namespace forebay::builder
