#include "builder/type_inference.h"

#include <algorithm>

#include "base/check.h"
#include "builder/partial_values.h"

namespace forebay::builder {
namespace {

const std::uint32_t* body_of(const plan::Node& node, std::string_view name) {
  for (const plan::Attribute& attribute : node.attributes)
    if (attribute.name == name)
      if (const auto* body = std::get_if<plan::BodyRef>(&attribute.value)) return &body->graph;
  return nullptr;
}

TypeShape scalar(DType dtype) {
  TypeShape type;
  type.dtype = dtype;
  type.has_rank = true;
  return type;
}

bool same_type(const TypeShape& a, const TypeShape& b) { return a.dtype == b.dtype && a.has_rank == b.has_rank && a.dims == b.dims; }

// `type` with one more dim at `axis`; without that dim for remove_dim.
TypeShape insert_dim(TypeShape type, std::size_t axis, std::int64_t size) {
  if (type.has_rank) type.dims.insert(type.dims.begin() + static_cast<std::ptrdiff_t>(axis), size);
  return type;
}

std::int64_t list_entry(const NodeView& view, std::string_view name, std::size_t i, std::int64_t otherwise) {
  const auto list = view.integers(name);
  return i < list.size() ? list[i] : otherwise;
}

}  // namespace

TypeShape widen(const TypeShape& a, const TypeShape& b) {
  TypeShape out = a;
  out.has_rank = a.has_rank && b.has_rank && a.dims.size() == b.dims.size();
  if (!out.has_rank) {
    out.dims.clear();
    return out;
  }
  for (std::size_t i = 0; i < out.dims.size(); ++i)
    if (a.dims[i] != b.dims[i]) out.dims[i] = -1;
  return out;
}

void TypeInference::run() { graph(0); }

void TypeInference::graph(std::uint32_t index) {
  for (std::size_t i = 0; i < ir_.graphs[index].nodes.size(); ++i) node(*ir_.graphs[index].nodes[i]);
}

void TypeInference::collect(const IrNode& node, const Status& status) {
  const bool is_unsupported = status.code() == Code::unsupported;
  for (Problem problem : status.problems()) {
    if (problem.node.empty()) problem.node = node.name;
    if (problem.op.empty()) problem.op = op_label(node);
    if (!node.function_stack.empty()) {
      problem.message += "; inside function";
      for (const std::string& function : node.function_stack) problem.message += " " + function;
    }
    (is_unsupported ? unsupported : invalid).push_back(std::move(problem));
  }
  poison(node);
}

void TypeInference::poison(const IrNode& node) {
  for (const ValueId output : node.outputs)
    if (output != kNone) ir_.values[output].poisoned = true;
}

bool TypeInference::poisoned_input(const IrNode& node) const {
  return std::any_of(node.inputs.begin(), node.inputs.end(), [&](ValueId id) { return id != kNone && ir_.values[id].poisoned; });
}

void TypeInference::node(IrNode& node) {
  const OpSpec* spec = registry_.find(node.domain, node.op, node.version);
  if (spec == nullptr && node.refused) return poison(node);
  if (spec == nullptr) {
    const std::string why = node.version < 0 ? "the model imports no opset for domain '" + node.domain + "'"
                                             : registry_.why_missing(node.domain, node.op, node.version);
    unsupported.push_back(node_problem(node, "unsupported_operator", why));
    unsupported.back().hint = registry_.hint_for(node.domain, node.op);
    poison(node);
    // Bodies are looked at even so, that every problem is told; their inputs have no types.
    for (const std::uint32_t body : bodies_of(node)) {
      for (const ValueId input : ir_.graphs[body].inputs) ir_.values[input].poisoned = true;
      graph(body);
    }
    return;
  }
  if ((spec->flags & kOpControl) != 0) {
    if (const Status status = control(node); !status.ok()) collect(node, status);
    return;
  }
  if (node.refused || poisoned_input(node)) return poison(node);
  if (const Status status = ordinary(node, *spec); !status.ok()) collect(node, status);
}

Status TypeInference::infer_added(IrNode& node) {
  const OpSpec* spec = registry_.find(node.domain, node.op, node.version);
  if (spec == nullptr) return Status(Code::internal, "a pass made a node that no operator serves: " + op_label(node));
  return ordinary(node, *spec);
}

Status TypeInference::ordinary(IrNode& node, const OpSpec& spec) {
  const NodeView view = ir_.view(node);
  const std::vector<TypeShape> inputs = input_types(ir_, node);
  const std::vector<const HostTensor*> values = host_.of_node(node, spec);
  std::vector<TypeShape> outputs(node.outputs.size());
  InferContext context(view, inputs, values, outputs);
  FB_TRY(spec.infer(context));
  if (outputs.size() == 1) {
    refine_type(ir_, host_, node, outputs[0]);
    std::vector<std::int64_t> symbols = inferred_symbols(ir_, host_, node, outputs[0]);
    if (!symbols.empty()) host_.set_symbols(node.outputs[0], std::move(symbols));
  }
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    if (node.outputs[i] == kNone) continue;
    if (!outputs[i].present()) return view.invalid("has no output " + std::to_string(i));
    if (outputs[i].dims.size() > static_cast<std::size_t>(kMaxRank)) return view.unsupported("an output has a rank above 8");
    if (outputs[i].known() && !checked_bytes(outputs[i].dtype, outputs[i].dims)) return view.invalid("an output is larger than 2^63 bytes");
    set_type(node.outputs[i], outputs[i]);
  }
  if (spec.create != nullptr) {
    const auto kernel = spec.create(view, inputs, outputs);
    if (!kernel.ok()) return kernel.status();
  }
  return {};
}

void TypeInference::set_type(ValueId value, TypeShape type) {
  if (value != kNone) ir_.values[value].type = std::move(type);
}

Status TypeInference::control(IrNode& node) {
  if (node.op == "If") return branch(node);
  if (node.op == "Loop") return loop(node);
  if (node.op == "Scan") return scan(node);
  return ir_.view(node).unsupported("this build cannot infer the types of this control-flow operator");
}

Status TypeInference::branch(IrNode& node) {
  const NodeView view = ir_.view(node);
  const std::uint32_t* then_body = body_of(node, "then_branch");
  const std::uint32_t* else_body = body_of(node, "else_branch");
  if (then_body == nullptr || else_body == nullptr) return view.invalid("wants the bodies then_branch and else_branch");
  if (node.inputs.size() != 1 || node.inputs[0] == kNone) return view.invalid("wants one input, the condition");
  for (const std::uint32_t body : {*then_body, *else_body}) {
    graph(body);
    if (ir_.graphs[body].outputs.size() < node.outputs.size())
      return view.invalid("a branch has " + std::to_string(ir_.graphs[body].outputs.size()) + " outputs, the node " +
                          std::to_string(node.outputs.size()));
  }
  const IrValue& condition = ir_.values[node.inputs[0]];
  if (!condition.poisoned && condition.type.dtype != DType::boolean) return view.invalid("the condition is not of type bool");
  for (std::size_t i = 0; i < node.outputs.size(); ++i) {
    if (node.outputs[i] == kNone) continue;
    const IrValue& a = ir_.values[ir_.graphs[*then_body].outputs[i]];
    const IrValue& b = ir_.values[ir_.graphs[*else_body].outputs[i]];
    if (a.poisoned || b.poisoned || condition.poisoned) {
      ir_.values[node.outputs[i]].poisoned = true;
      continue;
    }
    if (a.type.dtype != b.type.dtype)
      return view.invalid("output " + std::to_string(i) + " is " + std::string(dtype_name(a.type.dtype)) + " in one branch and " +
                          std::string(dtype_name(b.type.dtype)) + " in the other");
    set_type(node.outputs[i], widen(a.type, b.type));
  }
  return {};
}

Status TypeInference::iterate(IrNode& node, std::uint32_t body, const std::vector<std::pair<ValueId, ValueId>>& carried) {
  const std::size_t problems_before[2] = {invalid.size(), unsupported.size()};
  // Each round leaves fewer known dims, so this ends; the bound is for safety.
  for (int round = 0; round < 64; ++round) {
    invalid.resize(problems_before[0]);
    unsupported.resize(problems_before[1]);
    host_.forget_computed(body);
    graph(body);
    bool changed = false;
    for (const auto& [input, output] : carried) {
      IrValue& in = ir_.values[input];
      const IrValue& out = ir_.values[output];
      if (in.poisoned || out.poisoned) continue;
      if (in.type.dtype != out.type.dtype)
        return ir_.view(node).invalid("carried value '" + in.name + "' is " + std::string(dtype_name(in.type.dtype)) + " going in and " +
                                      std::string(dtype_name(out.type.dtype)) + " coming out");
      TypeShape wide = widen(in.type, out.type);
      if (same_type(wide, in.type)) continue;
      in.type = std::move(wide);
      changed = true;
    }
    if (!changed) return {};
  }
  return ir_.view(node).unsupported("the types of the values carried by the body do not settle");
}

Status TypeInference::loop(IrNode& node) {
  const NodeView view = ir_.view(node);
  const std::uint32_t* body = body_of(node, "body");
  if (body == nullptr) return view.invalid("has no body");
  const std::size_t carried_count = node.inputs.size() > 2 ? node.inputs.size() - 2 : 0;
  const std::vector<ValueId> body_inputs = ir_.graphs[*body].inputs, body_outputs = ir_.graphs[*body].outputs;
  if (body_inputs.size() != carried_count + 2 || body_outputs.size() < carried_count + 1)
    return view.invalid("the body has " + std::to_string(body_inputs.size()) + " inputs and " + std::to_string(body_outputs.size()) +
                        " outputs for " + std::to_string(carried_count) + " carried values");
  if (node.outputs.size() > body_outputs.size() - 1) return view.invalid("has more outputs than its body");
  ir_.values[body_inputs[0]].type = scalar(DType::i64);
  ir_.values[body_inputs[1]].type = scalar(DType::boolean);
  std::vector<std::pair<ValueId, ValueId>> carried;
  for (std::size_t i = 0; i < carried_count; ++i) {
    if (node.inputs[i + 2] == kNone) return view.invalid("carried value " + std::to_string(i) + " has no initial value");
    IrValue& input = ir_.values[body_inputs[i + 2]];
    input.type = ir_.values[node.inputs[i + 2]].type;
    input.poisoned = ir_.values[node.inputs[i + 2]].poisoned;
    carried.emplace_back(body_inputs[i + 2], body_outputs[i + 1]);
  }
  FB_TRY(iterate(node, *body, carried));
  const HostTensor* trips = node.inputs.empty() ? nullptr : host_.get(node.inputs[0]);
  const bool counted = node.inputs.size() < 2 || node.inputs[1] == kNone;
  for (std::size_t i = 0; i < node.outputs.size(); ++i) {
    if (node.outputs[i] == kNone) continue;
    const IrValue& from = i < carried_count ? ir_.values[body_inputs[i + 2]] : ir_.values[body_outputs[i + 1]];
    ir_.values[node.outputs[i]].poisoned = from.poisoned;
    if (from.poisoned) continue;
    if (i < carried_count) {
      set_type(node.outputs[i], from.type);
      continue;
    }
    // A scan output has one slice an iteration; the body's own condition may end the loop early, so only a copied condition counts.
    const bool keeps_going = body_outputs[0] == body_inputs[1];
    const bool exact = trips != nullptr && trips->dtype() == DType::i64 && trips->bytes() == 8 && counted && keeps_going;
    set_type(node.outputs[i], insert_dim(from.type, 0, exact ? std::max<std::int64_t>(0, trips->as<std::int64_t>()[0]) : -1));
  }
  return {};
}

Status TypeInference::scan(IrNode& node) {
  const NodeView view = ir_.view(node);
  if (node.version < 9) return view.unsupported("sequence_lens; sequences of one length, without it, are served");
  const std::uint32_t* body = body_of(node, "body");
  if (body == nullptr) return view.invalid("has no body");
  const std::vector<ValueId> body_inputs = ir_.graphs[*body].inputs, body_outputs = ir_.graphs[*body].outputs;
  const auto scans = static_cast<std::size_t>(std::max<std::int64_t>(0, view.integer("num_scan_inputs", 0)));
  if (scans < 1 || scans > node.inputs.size() || body_inputs.size() != node.inputs.size() || body_outputs.size() < node.outputs.size() ||
      body_outputs.size() < node.inputs.size() - scans)
    return view.invalid("num_scan_inputs and the body's inputs and outputs do not fit the node");
  const std::size_t states = node.inputs.size() - scans;
  std::int64_t length = -1;
  for (std::size_t i = 0; i < node.inputs.size(); ++i) {
    if (node.inputs[i] == kNone) return view.invalid("input " + std::to_string(i) + " is absent");
    const IrValue& from = ir_.values[node.inputs[i]];
    IrValue& input = ir_.values[body_inputs[i]];
    input.type = from.type;
    input.poisoned = from.poisoned;
    if (i < states || from.poisoned) continue;
    if (!from.type.has_rank && list_entry(view, "scan_input_axes", i - states, 0) != 0)
      return view.unsupported("an axis other than 0 of input " + std::to_string(i) + ", whose rank is not known");
    if (!from.type.has_rank) continue;
    FB_ASSIGN(const int axis,
              normalize_axis(view, list_entry(view, "scan_input_axes", i - states, 0), static_cast<int>(from.type.dims.size())));
    length = std::max(length, from.type.dims[static_cast<std::size_t>(axis)]);
    input.type.dims.erase(input.type.dims.begin() + axis);
  }
  std::vector<std::pair<ValueId, ValueId>> carried;
  for (std::size_t i = 0; i < states; ++i) carried.emplace_back(body_inputs[i], body_outputs[i]);
  FB_TRY(iterate(node, *body, carried));
  for (std::size_t i = 0; i < node.outputs.size(); ++i) {
    if (node.outputs[i] == kNone) continue;
    const IrValue& from = i < states ? ir_.values[body_inputs[i]] : ir_.values[body_outputs[i]];
    ir_.values[node.outputs[i]].poisoned = from.poisoned;
    if (from.poisoned) continue;
    if (i >= states && !from.type.has_rank && list_entry(view, "scan_output_axes", i - states, 0) != 0)
      return view.unsupported("an axis other than 0 of output " + std::to_string(i) + ", whose rank is not known");
    if (i < states || !from.type.has_rank) {
      set_type(node.outputs[i], from.type);
      continue;
    }
    const auto rank = static_cast<int>(from.type.dims.size()) + 1;
    FB_ASSIGN(const int axis, normalize_axis(view, list_entry(view, "scan_output_axes", i - states, 0), rank));
    set_type(node.outputs[i], insert_dim(from.type, static_cast<std::size_t>(axis), length));
  }
  return {};
}

}  // namespace forebay::builder
