#include "builder/graph_ir.h"

#include <algorithm>

namespace forebay::builder {

ValueId Ir::add_value(std::string name, TypeShape type) {
  IrValue value;
  value.name = std::move(name);
  value.type = std::move(type);
  values.push_back(std::move(value));
  return static_cast<ValueId>(values.size() - 1);
}

ValueId Ir::add_constant(std::string name, std::shared_ptr<const HostTensor> contents, std::vector<std::uint32_t> from_sources) {
  TypeShape type;
  type.dtype = contents->dtype();
  type.has_rank = true;
  const auto dims = contents->shape().dims();
  type.dims.assign(dims.begin(), dims.end());
  const ValueId id = add_value(std::move(name), std::move(type));
  IrValue& value = values[id];
  value.origin = Origin::constant;
  value.knowledge = IrValue::Knowledge::known;
  value.known = std::move(contents);
  value.known_sources = std::move(from_sources);
  return id;
}

std::uint32_t Ir::add_attribute_tensor(HostTensor tensor) {
  plan::Constant constant;
  constant.dtype = tensor.dtype();
  constant.shape = tensor.shape();
  constant.data.assign(tensor.data(), tensor.data() + tensor.bytes());
  attributes.constants.push_back(std::move(constant));
  return static_cast<std::uint32_t>(attributes.constants.size() - 1);
}

std::unique_ptr<IrNode> Ir::make_node(std::uint32_t graph, std::string name, std::string op, std::int32_t version,
                                      std::vector<ValueId> inputs, std::vector<ValueId> outputs) const {
  auto node = std::make_unique<IrNode>();
  node->graph = graph;
  node->name = std::move(name);
  node->op = std::move(op);
  node->version = version;
  node->inputs = std::move(inputs);
  node->outputs = std::move(outputs);
  return node;
}

void Ir::set_producers() {
  for (IrValue& value : values) value.producer = nullptr;
  for (IrGraph& graph : graphs)
    for (const auto& node : graph.nodes)
      for (const ValueId output : node->outputs)
        if (output != kNone) values[output].producer = node.get();
}

void Ir::sweep() {
  for (IrGraph& graph : graphs) std::erase_if(graph.nodes, [](const std::unique_ptr<IrNode>& node) { return node->removed; });
  set_producers();
}

std::size_t Ir::node_count() const {
  std::size_t count = 0;
  for (const IrGraph& graph : graphs) count += graph.nodes.size();
  return count;
}

TypeShape input_type(const Ir& ir, const plan::Node& node, std::size_t i) {
  return i < node.inputs.size() && node.inputs[i] != kNone ? ir.values[node.inputs[i]].type : TypeShape();
}

std::vector<TypeShape> input_types(const Ir& ir, const plan::Node& node) {
  std::vector<TypeShape> types;
  types.reserve(node.inputs.size());
  for (const ValueId id : node.inputs) types.push_back(id != kNone ? ir.values[id].type : TypeShape());
  return types;
}

std::vector<TypeShape> output_types(const Ir& ir, const plan::Node& node) {
  std::vector<TypeShape> types;
  types.reserve(node.outputs.size());
  for (const ValueId id : node.outputs) types.push_back(id != kNone ? ir.values[id].type : TypeShape());
  return types;
}

std::vector<std::uint32_t> bodies_of(const plan::Node& node) {
  std::vector<std::uint32_t> bodies;
  for (const plan::Attribute& attribute : node.attributes)
    if (const auto* body = std::get_if<plan::BodyRef>(&attribute.value)) bodies.push_back(body->graph);
  return bodies;
}

namespace {

void visit_graph(Ir& ir, std::uint32_t graph, const std::function<void(IrNode&)>& visit) {
  for (std::size_t i = 0; i < ir.graphs[graph].nodes.size(); ++i) {
    IrNode& node = *ir.graphs[graph].nodes[i];
    for (const std::uint32_t body : bodies_of(node)) visit_graph(ir, body, visit);
    visit(node);
  }
}

}  // namespace

void for_each_node(Ir& ir, const std::function<void(IrNode&)>& visit) { visit_graph(ir, 0, visit); }

std::vector<IrNode*> execution_order(Ir& ir) {
  std::vector<IrNode*> order;
  for_each_node(ir, [&](IrNode& node) { order.push_back(&node); });
  return order;
}

UseIndex::UseIndex(Ir& ir) : uses_(ir.values.size()), output_(ir.values.size(), 0) {
  for (IrGraph& graph : ir.graphs) {
    for (const auto& node : graph.nodes)
      for (std::uint32_t i = 0; i < node->inputs.size(); ++i)
        if (node->inputs[i] != kNone) uses_[node->inputs[i]].push_back({node.get(), i});
    for (const ValueId output : graph.outputs)
      if (output != kNone) output_[output] = 1;
  }
}

ValueId Substitution::resolve(ValueId value) const {
  for (auto at = map_.find(value); at != map_.end(); at = map_.find(value)) value = at->second;
  return value;
}

void Substitution::apply(Ir& ir) const {
  if (map_.empty()) return;
  for (IrGraph& graph : ir.graphs) {
    for (const auto& node : graph.nodes)
      for (ValueId& input : node->inputs) input = resolve(input);
    for (ValueId& output : graph.outputs) output = resolve(output);
  }
}

void Insertions::apply(Ir& ir) {
  if (map_.empty()) return;
  for (IrGraph& graph : ir.graphs) {
    std::vector<std::unique_ptr<IrNode>> nodes;
    nodes.reserve(graph.nodes.size());
    for (auto& node : graph.nodes) {
      if (const auto at = map_.find(node.get()); at != map_.end())
        for (auto& added : at->second) nodes.push_back(std::move(added));
      nodes.push_back(std::move(node));
    }
    graph.nodes = std::move(nodes);
  }
  map_.clear();
  ir.set_producers();
}

std::string op_label(const plan::Node& node) { return node.domain.empty() ? node.op : node.domain + "." + node.op; }

Problem node_problem(const IrNode& node, std::string code, std::string message) {
  Problem problem;
  problem.code = std::move(code);
  problem.node = node.name;
  problem.op = op_label(node);
  problem.message = op_label(node) + " (opset " + std::to_string(node.version) + ")";
  if (!node.name.empty()) problem.message += " '" + node.name + "'";
  problem.message += ": " + std::move(message);
  if (!node.function_stack.empty()) {
    problem.message += "; inside function";
    for (const std::string& function : node.function_stack) problem.message += " " + function;
  }
  return problem;
}

}  // namespace forebay::builder
