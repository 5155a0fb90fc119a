#include <numeric>

#include "builder/passes.h"

namespace forebay::builder {
namespace {

bool moves_nothing(const NodeView& view, const TypeShape& input) {
  const auto perm = view.integers("perm");
  if (perm.empty()) return input.has_rank && input.dims.size() <= 1;
  for (std::size_t i = 0; i < perm.size(); ++i)
    if (perm[i] != static_cast<std::int64_t>(i)) return false;
  return true;
}

bool dropout_at_inference(PassContext& context, const IrNode& node, const NodeView& view) {
  if (node.version < 7) return view.integer("is_test", 0) != 0;
  if (node.inputs.size() < 3 || node.inputs[2] == kNone) return true;
  const HostTensor* training = context.host.get(node.inputs[2]);
  return training != nullptr && training->bytes() == 1 && training->data()[0] == std::byte{0};
}

// Output 0 has the bits of input 0 whatever they are.
bool is_copy(PassContext& context, const IrNode& node) {
  if (!node.domain.empty() || node.inputs.empty() || node.inputs[0] == kNone || node.outputs.empty() || node.outputs[0] == kNone)
    return false;
  const NodeView view = context.ir.view(node);
  const TypeShape input = input_type(context.ir, node, 0);
  if (node.op == "Identity") return true;
  if (node.op == "Dropout") return dropout_at_inference(context, node, view);
  if (node.op == "Cast") return input.dtype == context.ir.values[node.outputs[0]].type.dtype;
  if (node.op == "Transpose") return moves_nothing(view, input);
  if (node.op == "Sum" || node.op == "Max" || node.op == "Min" || node.op == "Mean" || node.op == "Concat") return node.inputs.size() == 1;
  return false;
}

}  // namespace

Result<std::size_t> pass_identity(PassContext& context) {
  Ir& ir = context.ir;
  const UseIndex uses(ir);
  Substitution substitution;
  std::size_t removed = 0;
  for (IrGraph& graph : ir.graphs) {
    for (const auto& node : graph.nodes) {
      if (!is_copy(context, *node)) continue;
      // A graph's output keeps its name and stays apart from what it copies.
      if (uses.is_graph_output(node->outputs[0])) continue;
      bool mask_used = false;
      for (std::size_t i = 1; i < node->outputs.size(); ++i)
        mask_used =
            mask_used || (node->outputs[i] != kNone && (!uses.uses(node->outputs[i]).empty() || uses.is_graph_output(node->outputs[i])));
      if (mask_used) continue;
      if (node->op == "Dropout" && node->inputs.size() > 2 && node->inputs[2] != kNone) {
        const std::vector<std::uint32_t>& from = ir.values[node->inputs[2]].known_sources;
        ir.decided_by.insert(ir.decided_by.end(), from.begin(), from.end());
      }
      substitution.replace(node->outputs[0], node->inputs[0]);
      node->removed = true;
      ++removed;
    }
  }
  substitution.apply(ir);
  ir.sweep();
  return removed;
}

}  // namespace forebay::builder
