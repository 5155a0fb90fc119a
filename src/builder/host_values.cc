#include "builder/host_values.h"

#include <algorithm>

#include "base/check.h"
#include "builder/partial_values.h"

namespace forebay::builder {
namespace {

using Knowledge = IrValue::Knowledge;

// The dims that Shape or Size reports, when the operator has known ones.
std::shared_ptr<const HostTensor> dims_result(const NodeView& view, const TypeShape& type) {
  if (!type.present() || !type.has_rank) return nullptr;
  if (view.op() == "Size") {
    if (!type.known()) return nullptr;
    HostTensor tensor(DType::i64, Shape{});
    tensor.as<std::int64_t>()[0] = type.shape().elements();
    return std::make_shared<const HostTensor>(std::move(tensor));
  }
  const auto rank = static_cast<std::int64_t>(type.dims.size());
  const auto place = [&](std::int64_t axis) { return std::clamp<std::int64_t>(axis < 0 ? axis + rank : axis, 0, rank); };
  const std::int64_t begin = place(view.integer("start", 0));
  const std::int64_t end = std::max(begin, place(view.integer("end", rank)));
  HostTensor tensor(DType::i64, Shape{end - begin});
  for (std::int64_t i = begin; i < end; ++i) {
    if (type.dims[static_cast<std::size_t>(i)] < 0) return nullptr;
    tensor.as<std::int64_t>()[static_cast<std::size_t>(i - begin)] = type.dims[static_cast<std::size_t>(i)];
  }
  return std::make_shared<const HostTensor>(std::move(tensor));
}

void merge(std::vector<std::uint32_t>& into, const std::vector<std::uint32_t>& from) {
  std::vector<std::uint32_t> merged;
  std::set_union(into.begin(), into.end(), from.begin(), from.end(), std::back_inserter(merged));
  into = std::move(merged);
}

}  // namespace

const HostTensor* HostValues::get(ValueId value) {
  if (value == kNone) return nullptr;
  settle(value);
  const IrValue& settled = ir_.values[value];
  return settled.knowledge == Knowledge::known ? settled.known.get() : nullptr;
}

std::vector<const HostTensor*> HostValues::of_node(const IrNode& node, const OpSpec& spec) {
  std::vector<const HostTensor*> values(node.inputs.size(), nullptr);
  for (std::size_t i = 0; i < node.inputs.size(); ++i) {
    if (node.inputs[i] == kNone) continue;
    if (i < 32 && (spec.host_inputs & (1u << i)) != 0) {
      values[i] = get(node.inputs[i]);
    } else if (const IrValue& value = ir_.values[node.inputs[i]]; value.knowledge == Knowledge::known) {
      values[i] = value.known.get();
    }
  }
  return values;
}

// Depth first with a stack of its own: chains of shape arithmetic may be as long as the model.
void HostValues::settle(ValueId wanted) {
  std::vector<ValueId> stack{wanted};
  while (!stack.empty()) {
    const ValueId id = stack.back();
    IrValue& value = ir_.values[id];
    if (value.knowledge != Knowledge::untried) {
      stack.pop_back();
      continue;
    }
    if (value.origin == Origin::source) {
      load(value);
      continue;
    }
    if (value.producer == nullptr || value.poisoned) {
      value.knowledge = Knowledge::unknown;
      continue;
    }
    const IrNode& node = *value.producer;
    const OpSpec* spec = registry_.find(node.domain, node.op, node.version);
    if (spec == nullptr || (spec->flags & (kOpControl | kOpRandom)) != 0) {
      set_unknown(node);
    } else if ((spec->flags & kOpShapeOnly) != 0) {
      if (!shape_only(node)) set_unknown(node);
    } else if (!evaluable(node, *spec)) {
      set_partly(node);
    } else if (std::vector<ValueId> pending; ready_inputs(node, pending)) {
      evaluate(node);
    } else if (pending.empty()) {
      set_partly(node);
    } else {
      stack.insert(stack.end(), pending.begin(), pending.end());
    }
  }
}

// True when every input is known; else `pending` holds those still to be tried (empty: one of them can never be known).
bool HostValues::ready_inputs(const IrNode& node, std::vector<ValueId>& pending) {
  bool ready = true;
  for (const ValueId input : node.inputs) {
    if (input == kNone) continue;
    const Knowledge knowledge = ir_.values[input].knowledge;
    if (knowledge == Knowledge::unknown) {
      pending.clear();
      return false;
    }
    if (knowledge == Knowledge::untried) {
      pending.push_back(input);
      ready = false;
    }
  }
  return ready;
}

void HostValues::load(IrValue& value) {
  value.knowledge = Knowledge::unknown;
  const SourceTensor& source = ir_.sources[value.source];
  if (source.bytes() > kMaxHostValueBytes) return;
  Result<HostTensor> loaded = load_source_tensor(source, kMaxHostValueBytes);
  if (!loaded.ok()) {
    if (failure_.ok()) failure_ = loaded.status();
    return;
  }
  value.known = std::make_shared<const HostTensor>(std::move(loaded).value());
  value.known_sources = {value.source};
  value.knowledge = Knowledge::known;
}

bool HostValues::shape_only(const IrNode& node) {
  if ((node.op != "Shape" && node.op != "Size") || node.inputs.empty() || node.outputs.empty() || node.outputs[0] == kNone) return false;
  IrValue& output = ir_.values[node.outputs[0]];
  output.known = dims_result(ir_.view(node), input_type(ir_, node, 0));
  output.known_sources.clear();
  output.knowledge = output.known ? Knowledge::known : Knowledge::unknown;
  return output.known != nullptr;
}

// Only small results of small inputs are made on the host; a model may ask for terabytes by one ConstantOfShape.
bool HostValues::evaluable(const IrNode& node, const OpSpec& spec) {
  std::uint64_t in_bytes = 0;
  for (const ValueId id : node.inputs) {
    if (id == kNone) continue;
    const TypeShape& type = ir_.values[id].type;
    if (ir_.values[id].poisoned || !type.known()) return false;
    const auto bytes = checked_bytes(type.dtype, type.dims);
    if (!bytes || *bytes > kMaxHostValueBytes) return false;
    in_bytes += *bytes;
  }
  for (const ValueId id : node.outputs) {
    if (id == kNone) continue;
    const TypeShape& type = ir_.values[id].type;
    if (!type.present()) return false;
    if (type.known()) {
      const auto bytes = checked_bytes(type.dtype, type.dims);
      if (!bytes || *bytes > kMaxHostValueBytes) return false;
    } else if (spec.host_inputs == 0 && in_bytes > kMaxHostValueBytes / 16) {
      return false;  // sizes that depend on the contents (NonZero) are bounded by the input
    }
  }
  return true;
}

void HostValues::evaluate(const IrNode& node) {
  std::vector<const HostTensor*> inputs;
  std::vector<std::uint32_t> from;
  std::vector<TypeShape> types = input_types(ir_, node);
  for (const ValueId id : node.inputs) {
    inputs.push_back(id != kNone ? ir_.values[id].known.get() : nullptr);
    if (id != kNone) merge(from, ir_.values[id].known_sources);
  }
  // The sizes are inferred once more with every input known, before anything is allocated.
  const OpSpec* spec = registry_.find(node.domain, node.op, node.version);
  std::vector<TypeShape> outputs(node.outputs.size());
  InferContext context(ir_.view(node), types, inputs, outputs);
  if (!spec->infer(context).ok()) return set_unknown(node);
  for (const TypeShape& type : outputs) {
    if (!type.present()) continue;
    const auto bytes = type.known() ? checked_bytes(type.dtype, type.dims) : std::nullopt;
    if (!bytes || *bytes > kMaxHostValueBytes) return set_unknown(node);
  }
  Result<std::vector<HostTensor>> made = evaluate_node(ir_.view(node), inputs, pool_);
  if (!made.ok()) return set_unknown(node);  // it fails in the pass instead, if it ever runs
  for (std::size_t i = 0; i < node.outputs.size(); ++i) {
    if (node.outputs[i] == kNone) continue;
    IrValue& output = ir_.values[node.outputs[i]];
    output.known = std::make_shared<const HostTensor>(std::move((*made)[i]));
    output.known_sources = from;
    output.knowledge = Knowledge::known;
  }
}

// An element or a few of a shape may be known where the whole is not.
void HostValues::set_partly(const IrNode& node) {
  set_unknown(node);
  constexpr int kMostNesting = 8;
  if (!node.domain.empty() || (node.op != "Gather" && node.op != "Slice") || node.outputs[0] == kNone || nesting_ >= kMostNesting) return;
  IrValue& output = ir_.values[node.outputs[0]];
  ++nesting_;
  const PartialValue found = partial_value(ir_, *this, node.outputs[0]);
  --nesting_;
  if (output.type.dtype != DType::i64 || !found.complete()) return;
  HostTensor tensor(DType::i64, output.type.shape());
  if (tensor.bytes() != found.elements.size() * sizeof(std::int64_t)) return;
  std::copy(found.elements.begin(), found.elements.end(), tensor.as<std::int64_t>().begin());
  output.known = std::make_shared<const HostTensor>(std::move(tensor));
  output.known_sources.assign(found.sources.begin(), found.sources.end());
  output.knowledge = Knowledge::known;
}

void HostValues::set_unknown(const IrNode& node) {
  for (const ValueId output : node.outputs)
    if (output != kNone && ir_.values[output].knowledge == Knowledge::untried) ir_.values[output].knowledge = Knowledge::unknown;
}

void HostValues::forget_computed(std::uint32_t graph) {
  for (const auto& node : ir_.graphs[graph].nodes) {
    for (const ValueId output : node->outputs) {
      if (output == kNone) continue;
      symbols_.erase(output);
      ir_.values[output].knowledge = Knowledge::untried;
      ir_.values[output].known.reset();
      ir_.values[output].known_sources.clear();
      ir_.values[output].poisoned = false;
    }
    for (const std::uint32_t body : bodies_of(*node)) forget_computed(body);
  }
}

}  // namespace forebay::builder
