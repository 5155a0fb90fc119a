// Products of one value by weights of their own, as queries, keys and values are, follow each other: a device may give them one launch, and
// one pass over the value. Nothing but the order of execution changes.
#include <algorithm>

#include "builder/passes.h"

namespace forebay::builder {
namespace {

constexpr std::ptrdiff_t kNear = 16;  // nodes: results of those further away would only lie about

// Everything but the first input is there from the start.
bool product_by_weights(const Ir& ir, const IrNode& node) {
  const bool product = node.op == "MatMul" || node.op == "Gemm" || node.op == "Linear" || node.op == "QuantLinear" || node.op == "MatMulNBits";
  if (!product || node.inputs.size() < 2 || node.inputs[0] == kNone || ir.values[node.inputs[0]].origin != Origin::computed) return false;
  return std::all_of(node.inputs.begin() + 1, node.inputs.end(), [&](ValueId id) {
    return id == kNone || ir.values[id].origin == Origin::source || ir.values[id].origin == Origin::constant;
  });
}

}  // namespace

Result<std::size_t> pass_siblings(PassContext& context) {
  Ir& ir = context.ir;
  std::size_t moved = 0;
  for (IrGraph& graph : ir.graphs) {
    for (auto first = graph.nodes.begin(); first != graph.nodes.end(); ++first) {
      if (!product_by_weights(ir, **first)) continue;
      auto behind = first + 1;
      for (auto next = behind; next != graph.nodes.end() && next - first <= kNear; ++next) {
        if (!product_by_weights(ir, **next) || (*next)->inputs[0] != (*first)->inputs[0]) continue;
        moved += next != behind ? 1 : 0;
        std::rotate(behind, next, next + 1);
        ++behind;
      }
      first = behind - 1;
    }
  }
  return moved;
}

}  // namespace forebay::builder
