#include <cstring>
#include <unordered_map>

#include "builder/passes.h"

namespace forebay::builder {
namespace {

void put(std::string& key, const void* data, std::size_t bytes) {
  const std::uint64_t length = bytes;
  key.append(reinterpret_cast<const char*>(&length), sizeof length);
  key.append(static_cast<const char*>(data), bytes);
}
void put(std::string& key, std::string_view text) { put(key, text.data(), text.size()); }
template <typename T>
void put_list(std::string& key, const std::vector<T>& list) {
  put(key, list.data(), list.size() * sizeof(T));
}

void put_attribute(std::string& key, const Ir& ir, const plan::Attribute& attribute) {
  put(key, attribute.name);
  key += static_cast<char>('a' + attribute.value.index());
  std::visit(
      [&](const auto& value) {
        using T = std::decay_t<decltype(value)>;
        if constexpr (std::is_same_v<T, std::string>) {
          put(key, value);
        } else if constexpr (std::is_same_v<T, std::vector<std::string>>) {
          for (const std::string& text : value) put(key, text);
        } else if constexpr (std::is_same_v<T, std::vector<std::int64_t>> || std::is_same_v<T, std::vector<float>>) {
          put_list(key, value);
        } else if constexpr (std::is_same_v<T, plan::TensorRef>) {
          const plan::Constant& tensor = ir.attributes.constants[value.constant];
          put(key, tensor.shape.to_string());
          key += static_cast<char>(tensor.dtype);
          put_list(key, tensor.data);
        } else {
          put(key, &value, sizeof value);
        }
      },
      attribute.value);
}

std::string node_key(const Ir& ir, const IrNode& node) {
  std::string key;
  put(key, &node.graph, sizeof node.graph);
  put(key, node.domain);
  put(key, node.op);
  put(key, &node.version, sizeof node.version);
  put_list(key, node.inputs);
  for (const ValueId output : node.outputs) key += output == kNone ? '-' : '+';
  for (const plan::Attribute& attribute : node.attributes) put_attribute(key, ir, attribute);
  return key;
}

// Empty for tensors that lie in no file of their own: small ones inside the model have their own names and may differ in the next file.
std::string extent_key(const SourceTensor& source) {
  if (source.file == nullptr || source.encoding != Encoding::raw || source.bytes() == 0) return {};
  std::string key;
  put(key, source.open_folder);
  put(key, source.open_name);
  put(key, &source.offset, sizeof source.offset);
  put(key, source.shape.to_string());
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
