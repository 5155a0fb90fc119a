#include "builder/value_needs.h"

#include <algorithm>

namespace forebay::builder {

ValueNeeds::ValueNeeds(Ir& ir, const OpRegistry& registry) : ir_(ir), registry_(registry) {
  const std::size_t count = ir.values.size();
  for (auto* flags : {&fixed_, &weightless_, &derived_, &host_, &data_}) flags->assign(count, 0);
  for (std::size_t i = 0; i < count; ++i) {
    const IrValue& value = ir.values[i];
    if (value.origin == Origin::constant) fixed_[i] = weightless_[i] = derived_[i] = 1;
    if (value.origin == Origin::source) {
      fixed_[i] = derived_[i] = 1;
      weightless_[i] = ir.sources[value.source].shape.elements() <= 1 ? 1 : 0;
    }
    // Small integers from the caller (a new size, a sampling rate) take part in shape arithmetic.
    if (value.origin == Origin::input) derived_[i] = dtype_is_integer(value.type.dtype) || value.type.dtype == DType::boolean;
  }
  const std::vector<IrNode*> order = execution_order(ir);
  for (const IrNode* node : order) forward(*node);
  for (const ValueId output : ir.graphs[0].outputs) want(output, EdgeNeed::data);
  for (auto node = order.rbegin(); node != order.rend(); ++node) backward(**node);
}

void ValueNeeds::forward(const IrNode& node) {
  const OpSpec* spec = registry_.find(node.domain, node.op, node.version);
  bool fixed = false, weightless = false, derived = false;
  if (spec != nullptr && (spec->flags & kOpShapeOnly) != 0) {
    derived = true;
    // The sizes of what the file holds are fixed; so are others once they are all known (the value is then known, too).
    fixed = weightless =
        std::all_of(node.inputs.begin(), node.inputs.end(), [&](ValueId id) { return id == kNone || ir_.values[id].type.known(); });
  } else if (spec != nullptr && (spec->flags & (kOpControl | kOpRandom)) == 0) {
    fixed = derived = weightless = true;
    for (std::size_t i = 0; i < node.inputs.size(); ++i) {
      const ValueId id = node.inputs[i];
      if (id == kNone) continue;
      fixed = fixed && fixed_[id] != 0;
      derived = derived && derived_[id] != 0;
      const bool by_host = i < 32 && (spec->host_inputs & (1u << i)) != 0;
      weightless = weightless && (by_host || weightless_[id] != 0);
    }
  }
  for (const ValueId id : node.outputs) {
    if (id == kNone) continue;
    fixed_[id] = fixed;
    weightless_[id] = fixed && weightless;
    derived_[id] = derived;
  }
}

bool ValueNeeds::output_on_host(const plan::Node& node) const {
  return std::any_of(node.outputs.begin(), node.outputs.end(), [&](ValueId id) { return id != kNone && host_[id] != 0; });
}

bool ValueNeeds::output_as_data(const plan::Node& node) const {
  return std::any_of(node.outputs.begin(), node.outputs.end(), [&](ValueId id) { return id != kNone && data_[id] != 0; });
}

EdgeNeed ValueNeeds::edge(const IrNode& node, std::uint32_t i) const {
  const ValueId id = node.inputs[i];
  const OpSpec* spec = registry_.find(node.domain, node.op, node.version);
  if (id == kNone) return EdgeNeed::none;
  if (spec == nullptr) return EdgeNeed::data;
  if ((spec->flags & kOpShapeOnly) != 0) return EdgeNeed::none;
  if ((spec->flags & kOpControl) != 0) {
    const bool condition = (node.op == "If" && i == 0) || (node.op == "Loop" && i < 2);
    return condition ? EdgeNeed::host : EdgeNeed::data;
  }
  if (i < 32 && (spec->host_inputs & (1u << i)) != 0) return EdgeNeed::host;
  if (output_as_data(node) || !output_on_host(node)) return EdgeNeed::data;
  // Shape arithmetic that depends on the pass: integers take part in it; floats only when all else is known from shapes, so that a
  // matrix whose product decides a size stays a weight.
  const DType dtype = ir_.values[id].type.dtype;
  const bool whole_number = dtype_is_integer(dtype) || dtype == DType::boolean;
  const bool derived = std::all_of(node.inputs.begin(), node.inputs.end(), [&](ValueId other) {
    // Values added since (folded constants) are known.
    return other == kNone || (other < derived_.size() ? derived_[other] != 0 : ir_.values[other].origin == Origin::constant);
  });
  return whole_number || derived ? EdgeNeed::host : EdgeNeed::data;
}

void ValueNeeds::want(ValueId value, EdgeNeed need) {
  if (value == kNone) return;
  if (need == EdgeNeed::host) host_[value] = 1;
  if (need == EdgeNeed::data) data_[value] = 1;
}

void ValueNeeds::backward(const IrNode& node) {
  for (std::uint32_t i = 0; i < node.inputs.size(); ++i) want(node.inputs[i], edge(node, i));
  // The outputs of a branch are wanted as the node's are; the carried values of loops are data.
  for (const std::uint32_t body : bodies_of(node)) {
    const std::vector<ValueId>& outputs = ir_.graphs[body].outputs;
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      if (node.op == "If") {
        const ValueId to = i < node.outputs.size() ? node.outputs[i] : kNone;
        if (to == kNone) continue;
        if (host_[to] != 0) want(outputs[i], EdgeNeed::host);
        if (data_[to] != 0 || host_[to] == 0) want(outputs[i], EdgeNeed::data);
      } else {
        want(outputs[i], EdgeNeed::data);
      }
    }
  }
}

}  // namespace forebay::builder
