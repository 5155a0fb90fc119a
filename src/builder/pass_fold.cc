#include <algorithm>
#include <cstring>

#include "builder/passes.h"
#include "builder/value_needs.h"

namespace forebay::builder {
namespace {

// Data made from scalars and shapes alone (a mask, positions) is kept when small; larger results are made anew in each pass.
constexpr std::uint64_t kMaxFoldedDataBytes = 4096;

class Folder {
 public:
  explicit Folder(PassContext& context) : context_(context), ir_(context.ir), needs_(context.ir, context.registry) {}

  std::size_t run() {
    for (IrNode* node : execution_order(ir_)) {
      for (std::uint32_t i = 0; i < node->inputs.size(); ++i) {
        const ValueId id = node->inputs[i];
        if (id == kNone || ir_.values[id].origin == Origin::constant) continue;
        const EdgeNeed need = needs_.edge(*node, i);
        if (need != EdgeNeed::none && foldable(id, need)) fold(id, node->inputs[i]);
      }
    }
    for (IrGraph& graph : ir_.graphs) {
      for (ValueId& output : graph.outputs) {
        if (output == kNone || ir_.values[output].origin == Origin::constant || ir_.values[output].origin == Origin::input) continue;
        const bool host_only = needs_.wanted_on_host(output) && !needs_.wanted_as_data(output);
        if (foldable(output, host_only ? EdgeNeed::host : EdgeNeed::data)) fold(output, output);
      }
    }
    return constants_.size();
  }

 private:
  bool foldable(ValueId id, EdgeNeed need) {
    if (constants_.contains(id)) return true;
    const IrValue& value = ir_.values[id];
    if (value.poisoned) return false;
    if (need == EdgeNeed::data) {
      if (id >= known_count_ || !value.type.known()) return false;
      if (needs_.fixed(id) ? !needs_.weightless(id) : !made_of_shapes(id)) return false;
      const auto bytes = checked_bytes(value.type.dtype, value.type.dims);
      if (!bytes || *bytes > kMaxFoldedDataBytes) return false;
    }
    return context_.host.get(id) != nullptr;
  }

  // Known though not all of the shapes it was made from are: the size of one head. No float tensor may hide in it.
  bool made_of_shapes(ValueId id) {
    if (ir_.values[id].origin != Origin::computed || context_.host.get(id) == nullptr) return false;
    const std::vector<std::uint32_t>& from = ir_.values[id].known_sources;
    return std::all_of(from.begin(), from.end(), [&](std::uint32_t source) {
      const SourceTensor& tensor = ir_.sources[source];
      return tensor.shape.elements() <= 1 || dtype_is_integer(tensor.dtype);
    });
  }

  void fold(ValueId id, ValueId& place) {
    if (const auto at = constants_.find(id); at != constants_.end()) {
      place = at->second;
      return;
    }
    // Copies: adding a value moves the values.
    const std::string name = ir_.values[id].name;
    const auto contents = ir_.values[id].known;
    place = ir_.add_constant(name, contents, ir_.values[id].known_sources);
    constants_[id] = place;
  }

  PassContext& context_;
  Ir& ir_;
  ValueNeeds needs_;
  std::size_t known_count_ = ir_.values.size();
  std::map<ValueId, ValueId> constants_;
};

// Nothing was computed on the way.
bool same_contents(const IrValue& constant, const SourceTensor& source) {
  const auto contents = load_source_tensor(source, 64);
  return contents.ok() && contents->bytes() == constant.known->bytes() &&
         std::memcmp(contents->data(), constant.known->data(), contents->bytes()) == 0;
}

// A float initializer of one element: a bias, a slope, the scale of a quantisation. A Constant node is part of the graph as written.
std::map<std::uint32_t, ValueId> one_element_parameters(const Ir& ir) {
  std::map<std::uint32_t, ValueId> found;
  for (std::size_t i = 0; i < ir.values.size(); ++i) {
    const IrValue& value = ir.values[i];
    if (value.origin != Origin::source || value.literal) continue;
    const SourceTensor& source = ir.sources[value.source];
    if (dtype_is_float(source.dtype) && source.shape.elements() == 1) found.emplace(value.source, static_cast<ValueId>(i));
  }
  for (const std::uint32_t source : ir.decided_by) found.erase(source);
  return found;
}

}  // namespace

std::size_t pass_parameters(PassContext& context) {
  Ir& ir = context.ir;
  const std::map<std::uint32_t, ValueId> parameters = one_element_parameters(ir);
  const ValueNeeds needs(ir, context.registry);
  std::size_t count = 0;
  for (IrNode* node : execution_order(ir)) {
    for (std::uint32_t i = 0; i < node->inputs.size(); ++i) {
      const ValueId id = node->inputs[i];
      if (id == kNone || ir.values[id].origin != Origin::constant || ir.values[id].known_sources.size() != 1) continue;
      const auto at = parameters.find(ir.values[id].known_sources[0]);
      if (at == parameters.end() || needs.edge(*node, i) != EdgeNeed::data) continue;
      const TypeShape &type = ir.values[id].type, &own = ir.values[at->second].type;
      if (type.dtype != own.dtype || type.dims != own.dims || !same_contents(ir.values[id], ir.sources[at->first])) continue;
      node->inputs[i] = at->second;
      ++count;
    }
  }
  return count;
}

Result<std::size_t> pass_fold(PassContext& context) {
  const std::size_t folded = Folder(context).run();
  if (!context.host.first_failure().ok()) return Status(context.host.first_failure()).with_context("reading a shape constant");
  return folded;
}

}  // namespace forebay::builder
