#include <algorithm>

#include "builder/passes.h"

namespace forebay::builder {
namespace {

std::uint32_t taken_body(const plan::Node& node, bool condition) {
  for (const plan::Attribute& attribute : node.attributes)
    if (attribute.name == (condition ? "then_branch" : "else_branch")) return std::get<plan::BodyRef>(attribute.value).graph;
  return kNone;
}

// Moves the nodes of `body` to the place of `at` in its graph.
void splice(Ir& ir, IrNode& at, std::uint32_t body) {
  IrGraph& graph = ir.graphs[at.graph];
  IrGraph& from = ir.graphs[body];
  const auto place = std::find_if(graph.nodes.begin(), graph.nodes.end(), [&](const auto& node) { return node.get() == &at; });
  for (const auto& node : from.nodes) node->graph = at.graph;
  graph.nodes.insert(place, std::make_move_iterator(from.nodes.begin()), std::make_move_iterator(from.nodes.end()));
  from.nodes.clear();
}

// The branch that is not taken is left without a node pointing at it.
void clear_graph(Ir& ir, std::uint32_t graph) {
  for (const auto& node : ir.graphs[graph].nodes)
    for (const std::uint32_t body : bodies_of(*node)) clear_graph(ir, body);
  ir.graphs[graph] = IrGraph();
}

}  // namespace

Result<std::size_t> pass_branch(PassContext& context) {
  Ir& ir = context.ir;
  std::size_t replaced = 0;
  for (bool again = true; again;) {
    again = false;
    for (IrNode* node : execution_order(ir)) {
      if (!node->domain.empty() || node->op != "If") continue;
      const HostTensor* condition = context.host.get(node->inputs[0]);
      if (condition == nullptr || condition->bytes() != 1) continue;
      const bool truth = condition->data()[0] != std::byte{0};
      const std::uint32_t body = taken_body(*node, truth);
      const std::vector<std::uint32_t>& from = ir.values[node->inputs[0]].known_sources;
      ir.decided_by.insert(ir.decided_by.end(), from.begin(), from.end());
      const UseIndex uses(ir);
      Substitution substitution;
      const std::vector<ValueId> outputs = ir.graphs[body].outputs;
      for (std::size_t i = 0; i < node->outputs.size(); ++i) {
        if (node->outputs[i] == kNone) continue;
        if (!uses.is_graph_output(node->outputs[i])) {
          substitution.replace(node->outputs[i], outputs[i]);
          continue;
        }
        auto copy = ir.make_node(node->graph, node->name, "Identity", kPassOpset, {outputs[i]}, {node->outputs[i]});
        ir.values[node->outputs[i]].type = ir.values[outputs[i]].type;
        ir.graphs[body].nodes.push_back(std::move(copy));
      }
      clear_graph(ir, taken_body(*node, !truth));
      splice(ir, *node, body);
      ir.graphs[body] = IrGraph();
      node->removed = true;
      substitution.apply(ir);
      ir.sweep();
      ++replaced;
      again = true;  // positions have changed
      break;
    }
  }
  return replaced;
}

}  // namespace forebay::builder
