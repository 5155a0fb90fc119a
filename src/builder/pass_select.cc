// What picks a part of a value goes in front of a Transpose of the whole: packed projections of Q, K and V are written as [B,S,3*N] seen as
// [B,S,3,N], transposed to [3,B,S,N] and picked apart. Picked first, three parts are moved, or nothing at all.
#include <algorithm>

#include "base/check.h"
#include "builder/pattern.h"

namespace forebay::builder {
namespace {

class SelectPass {
 public:
  explicit SelectPass(PassContext& context) : ir_(context.ir), pattern_(context) {}

  Result<std::size_t> run() {
    std::size_t made = 0;
    for (IrNode* node : execution_order(ir_)) {
      if (node->removed || !node->domain.empty() || node->inputs.empty() || node->inputs[0] == kNone) continue;
      const bool squeeze = node->op == "Squeeze";
      if (!squeeze && node->op != "Gather") continue;
      pattern_.begin(*node);
      FB_ASSIGN(const bool moved, squeeze ? squeeze_first(*node) : gather_first(*node));
      made += moved ? 1 : 0;
    }
    pattern_.apply();
    ir_.sweep();
    return made;
  }

 private:
  using Axes = std::vector<std::int64_t>;

  // Where each axis of the transposed value comes from; empty when `id` is no such value.
  Axes turned(ValueId id) const {
    const IrNode* turn = pattern_.maker(id, "Transpose");
    if (turn == nullptr) return {};
    const auto perm = ir_.view(*turn).integers("perm");
    return perm.size() == pattern_.type(id).dims.size() ? Axes(perm.begin(), perm.end()) : Axes();
  }

  // The same order with one source axis gone.
  static Axes without(Axes perm, std::int64_t axis) {
    perm.erase(std::find(perm.begin(), perm.end(), axis));
    for (std::int64_t& from : perm) from -= from > axis ? 1 : 0;
    return perm;
  }

  // Axes of Squeeze and Unsqueeze, none negative; empty when they are not known.
  Axes axes_of(const IrNode& node, std::size_t rank) const {
    Axes axes;
    if (node.version < 13) {
      const auto listed = ir_.view(node).integers("axes");
      axes.assign(listed.begin(), listed.end());
    } else if (node.inputs.size() > 1) {
      axes = pattern_.integers(node.inputs[1]).value_or(Axes());
    }
    for (std::int64_t& axis : axes) axis += axis < 0 ? static_cast<std::int64_t>(rank) : 0;
    return axes;
  }

  ValueId integers(const std::string& name, const Axes& values) {
    HostTensor tensor(DType::i64, Shape{static_cast<std::int64_t>(values.size())});
    std::copy(values.begin(), values.end(), tensor.as<std::int64_t>().begin());
    return ir_.add_constant(name, std::make_shared<const HostTensor>(std::move(tensor)), {});
  }

  // `picked` of the value behind the Transpose, and what is left of that; just `picked` when nothing is left.
  Result<bool> finish(IrNode& node, std::string_view op, std::int32_t version, std::vector<ValueId> inputs,
                      std::vector<plan::Attribute> attributes, const Axes& perm) {
    if (std::is_sorted(perm.begin(), perm.end())) {
      FB_TRY(pattern_.become(node, "", op, version, std::move(inputs), std::move(attributes)));
      return true;
    }
    const std::string name = ir_.values[node.outputs[0]].name + "/part";
    FB_ASSIGN(const ValueId part, pattern_.insert(node, name, op, version, std::move(inputs), std::move(attributes)));
    FB_TRY(pattern_.become(node, "", "Transpose", kPassOpset, {part}, {{"perm", perm}}));
    return true;
  }

  // One element of an axis.
  Result<bool> gather_first(IrNode& node) {
    const Axes perm = turned(node.inputs[0]);
    const TypeShape& index = pattern_.type(node.inputs[1]);
    if (perm.empty() || !index.has_rank || !index.dims.empty()) return false;
    std::int64_t axis = ir_.view(node).integer("axis", 0);
    axis += axis < 0 ? static_cast<std::int64_t>(perm.size()) : 0;
    const std::int64_t from = perm[static_cast<std::size_t>(axis)];
    const ValueId whole = pattern_.maker(node.inputs[0])->inputs[0];
    return finish(node, "Gather", kPassOpset, {whole, node.inputs[1]}, {{"axis", from}}, without(perm, from));
  }

  // One axis of one element; when it was put there just before, nothing is left of both.
  Result<bool> squeeze_first(IrNode& node) {
    const Axes perm = turned(node.inputs[0]), axes = axes_of(node, perm.size());
    if (perm.empty() || axes.size() != 1) return false;
    const std::int64_t from = perm[static_cast<std::size_t>(axes[0])];
    const ValueId whole = pattern_.maker(node.inputs[0])->inputs[0];
    const Axes rest = without(perm, from);
    const IrNode* added = pattern_.maker(whole, "Unsqueeze");
    if (added != nullptr && axes_of(*added, perm.size()) == Axes{from} && !std::is_sorted(rest.begin(), rest.end())) {
      FB_TRY(pattern_.become(node, "", "Transpose", kPassOpset, {added->inputs[0]}, {{"perm", rest}}));
      return true;
    }
    const ValueId where = integers(ir_.values[node.outputs[0]].name + "/axis", {from});
    return finish(node, "Squeeze", kPassOpset, {whole, where}, {}, rest);
  }

  Ir& ir_;
  Pattern pattern_;
};

}  // namespace

Result<std::size_t> pass_select(PassContext& context) {
  return SelectPass(context).run();
}

}  // namespace forebay::builder
