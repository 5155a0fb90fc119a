#include <algorithm>

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

}  // namespace

Result<std::size_t> pass_fold(PassContext& context) {
  const std::size_t folded = Folder(context).run();
  if (!context.host.first_failure().ok()) return Status(context.host.first_failure()).with_context("reading a shape constant");
  return folded;
}

}  // namespace forebay::builder
