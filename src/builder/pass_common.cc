#include <unordered_map>

#include "builder/node_key.h"
#include "builder/passes.h"

namespace forebay::builder {
namespace {

std::string node_key(const Ir& ir, const IrNode& node) {
  std::string key;
  append_bytes(key, &node.graph, sizeof node.graph);
  append_bytes(key, node.inputs.data(), node.inputs.size() * sizeof(ValueId));
  for (const ValueId output : node.outputs) key += output == kNone ? '-' : '+';
  append_operation(key, ir, node);
  return key;
}

// Empty for tensors that lie in no file of their own: small ones inside the model have their own names and may differ in the next file.
std::string extent_key(const SourceTensor& source) {
  if (source.file == nullptr || source.encoding != Encoding::raw || source.bytes() == 0) return {};
  std::string key;
  append_text(key, source.open_folder);
  append_text(key, source.open_name);
  append_bytes(key, &source.offset, sizeof source.offset);
  append_text(key, source.shape.to_string());
  key += static_cast<char>(source.dtype);
  return key;
}

void join_sources(Ir& ir, Substitution& substitution) {
  std::unordered_map<std::string, ValueId> first;
  for (ValueId id = 0; id < ir.values.size(); ++id) {
    const IrValue& value = ir.values[id];
    if (value.origin != Origin::source) continue;
    const std::string key = extent_key(ir.sources[value.source]);
    if (key.empty()) continue;
    const auto [at, added] = first.emplace(key, id);
    if (!added) substitution.replace(id, at->second);
  }
}

}  // namespace

Result<std::size_t> pass_common(PassContext& context) {
  Ir& ir = context.ir;
  Substitution sources;
  join_sources(ir, sources);
  sources.apply(ir);
  const UseIndex uses(ir);
  Substitution substitution;
  std::unordered_map<std::string, const IrNode*> first;
  std::size_t removed = 0;
  for (IrNode* node : execution_order(ir)) {
    for (ValueId& input : node->inputs) input = substitution.resolve(input);
    const OpSpec* spec = context.registry.find(node->domain, node->op, node->version);
    if (spec == nullptr || (spec->flags & (kOpControl | kOpRandom)) != 0) continue;
    const auto [at, added] = first.emplace(node_key(ir, *node), node);
    if (added) continue;
    bool is_output = false;
    for (const ValueId output : node->outputs) is_output = is_output || (output != kNone && uses.is_graph_output(output));
    if (is_output) continue;
    for (std::size_t i = 0; i < node->outputs.size(); ++i)
      if (node->outputs[i] != kNone) substitution.replace(node->outputs[i], at->second->outputs[i]);
    node->removed = true;
    ++removed;
  }
  substitution.apply(ir);
  ir.sweep();
  return removed;
}

}  // namespace forebay::builder
