#include "builder/lower_scan.h"

#include <algorithm>
#include <string>

#include "base/check.h"

namespace forebay::builder {
namespace {

bool is_scan(const IrNode& node) {
  return node.domain.empty() && node.op == "Scan";
}

std::vector<ValueId> fresh(Ir& ir, const std::string& prefix, std::size_t count, Origin origin) {
  std::vector<ValueId> values;
  for (std::size_t i = 0; i < count; ++i) {
    values.push_back(ir.add_value(prefix + std::to_string(i), TypeShape()));
    ir.values.back().origin = origin;
  }
  return values;
}

void over_the_batch(Ir& ir, IrNode& node) {
  const auto index = static_cast<std::uint32_t>(ir.graphs.size());
  std::string label = node.name;
  for (const ValueId output : node.outputs)
    if (label.empty() && output != kNone) label = ir.values[output].name;
  node.inputs.erase(node.inputs.begin());  // sequence_lens
  IrGraph one;
  one.name = label + "/sequence";
  one.inputs = fresh(ir, label + "/sequence/input_", node.inputs.size(), Origin::input);
  one.outputs = fresh(ir, label + "/sequence/output_", node.outputs.size(), Origin::computed);
  auto inner = ir.make_node(index, label + "/sequence", "Scan", 9, one.inputs, one.outputs);
  inner->attributes = std::move(node.attributes);
  inner->function_stack = node.function_stack;
  for (plan::Attribute& attribute : inner->attributes)
    if (attribute.name == "directions") attribute.name = "scan_input_directions";
  one.nodes.push_back(std::move(inner));
  node.version = 9;
  node.attributes.clear();
  node.attributes.push_back({"body", plan::BodyRef{index}});
  node.attributes.push_back({"num_scan_inputs", static_cast<std::int64_t>(node.inputs.size())});
  ir.graphs.push_back(std::move(one));
}

// Entry i of a list of axes, in [0, rank); 0 where there is none.
Result<int> axis_of(const NodeView& view, std::string_view list, std::size_t i, std::size_t rank) {
  const auto axes = view.integers(list);
  if (i >= axes.size()) return 0;
  return normalize_axis(view, axes[i], static_cast<int>(rank));
}

Status add_transpose(PassContext& context, const IrNode& scan, ValueId from, ValueId to, std::vector<std::int64_t> perm,
                     std::vector<std::unique_ptr<IrNode>>& nodes) {
  auto node = context.ir.make_node(scan.graph, scan.name + "/" + context.ir.values[to].name, "Transpose", kPassOpset, {from}, {to});
  node->attributes.push_back({"perm", std::move(perm)});
  node->fused_from = {scan.name};
  FB_TRY(context.types.infer_added(*node));
  nodes.push_back(std::move(node));
  return {};
}

// The scanned axis of an input comes first.
Status turn_inputs(PassContext& context, IrNode& scan, std::size_t states, std::vector<std::unique_ptr<IrNode>>& nodes) {
  Ir& ir = context.ir;
  for (std::size_t i = states; i < scan.inputs.size(); ++i) {
    const std::vector<std::int64_t> dims = ir.values[scan.inputs[i]].type.dims;
    FB_ASSIGN(const int axis, axis_of(ir.view(scan), "scan_input_axes", i - states, dims.size()));
    if (axis == 0) continue;
    std::vector<std::int64_t> perm{axis};
    for (std::int64_t d = 0; d < static_cast<std::int64_t>(dims.size()); ++d)
      if (d != axis) perm.push_back(d);
    const ValueId turned = ir.add_value(ir.values[scan.inputs[i]].name + "/" + scan.name + "#" + std::to_string(i), TypeShape());
    FB_TRY(add_transpose(context, scan, scan.inputs[i], turned, std::move(perm), nodes));
    scan.inputs[i] = turned;
  }
  return {};
}

// The node makes an output with the scanned axis first, which then goes to its place.
Status turn_outputs(PassContext& context, IrNode& scan, std::size_t states, std::vector<std::unique_ptr<IrNode>>& nodes) {
  Ir& ir = context.ir;
  for (std::size_t i = states; i < scan.outputs.size(); ++i) {
    if (scan.outputs[i] == kNone) continue;
    TypeShape type = ir.values[scan.outputs[i]].type;
    FB_ASSIGN(const int axis, axis_of(ir.view(scan), "scan_output_axes", i - states, type.dims.size()));
    if (axis == 0) continue;
    std::rotate(type.dims.begin(), type.dims.begin() + axis, type.dims.begin() + axis + 1);
    std::vector<std::int64_t> perm;
    for (std::int64_t d = 0; d < static_cast<std::int64_t>(type.dims.size()); ++d) perm.push_back(d < axis ? d + 1 : d == axis ? 0 : d);
    const ValueId to = scan.outputs[i];
    scan.outputs[i] = ir.add_value(ir.values[to].name + "/scanned", std::move(type));
    ir.values[scan.outputs[i]].producer = &scan;
    FB_TRY(add_transpose(context, scan, scan.outputs[i], to, std::move(perm), nodes));
  }
  return {};
}

}  // namespace

void lower_batched_scans(Ir& ir) {
  for (std::size_t g = 0; g < ir.graphs.size(); ++g) {  // grows while this runs
    for (std::size_t n = 0; n < ir.graphs[g].nodes.size(); ++n) {
      IrNode& node = *ir.graphs[g].nodes[n];
      if (is_scan(node) && node.version == 8 && !node.refused && node.inputs.size() > 1 && node.inputs[0] == kNone)
        over_the_batch(ir, node);
    }
  }
  ir.set_producers();
}

Status lower_scan_axes(PassContext& context) {
  for (std::size_t g = 0; g < context.ir.graphs.size(); ++g) {
    std::vector<std::unique_ptr<IrNode>> old = std::move(context.ir.graphs[g].nodes), nodes;
    for (std::unique_ptr<IrNode>& node : old) {
      if (!is_scan(*node)) {
        nodes.push_back(std::move(node));
        continue;
      }
      IrNode& scan = *node;
      const std::size_t states = scan.inputs.size() - static_cast<std::size_t>(context.ir.view(scan).integer("num_scan_inputs", 0));
      FB_TRY(turn_inputs(context, scan, states, nodes));
      nodes.push_back(std::move(node));
      FB_TRY(turn_outputs(context, scan, states, nodes));
      std::erase_if(scan.attributes, [](const plan::Attribute& a) { return a.name == "scan_input_axes" || a.name == "scan_output_axes"; });
    }
    context.ir.graphs[g].nodes = std::move(nodes);
  }
  context.ir.set_producers();
  return {};
}

}  // namespace forebay::builder
