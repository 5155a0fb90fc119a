#include "builder/passes.h"

namespace forebay::builder {

Result<std::size_t> pass_dead_code(PassContext& context) {
  Ir& ir = context.ir;
  std::vector<char> live(ir.values.size(), 0);
  std::vector<ValueId> work;
  const auto mark = [&](ValueId id) {
    if (id == kNone || live[id] != 0) return;
    live[id] = 1;
    work.push_back(id);
  };
  for (const ValueId output : ir.graphs[0].outputs) mark(output);
  while (!work.empty()) {
    const IrNode* node = ir.values[work.back()].producer;
    work.pop_back();
    if (node == nullptr) continue;
    for (const ValueId input : node->inputs) mark(input);
    for (const std::uint32_t body : bodies_of(*node))
      for (const ValueId output : ir.graphs[body].outputs) mark(output);
  }
  std::size_t removed = 0;
  for (IrGraph& graph : ir.graphs) {
    for (const auto& node : graph.nodes) {
      bool used = false;
      for (const ValueId output : node->outputs) used = used || (output != kNone && live[output] != 0);
      if (used) continue;
      node->removed = true;
      ++removed;
    }
  }
  ir.sweep();
  return removed;
}

}  // namespace forebay::builder
