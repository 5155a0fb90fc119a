// A sum right before a normalisation over the last axis goes into it; the sum itself, which the
// next block reads, is its second result.
#include <algorithm>
#include <unordered_map>

#include "base/check.h"
#include "builder/pattern.h"

namespace forebay::builder {
namespace {

class SkipNormPass {
 public:
  explicit SkipNormPass(PassContext& context)
      : context_(context), ir_(context.ir), uses_(context.ir), pattern_(context) {}

  Result<std::size_t> run() {
    const std::vector<IrNode*> order = execution_order(ir_);
    for (std::size_t i = 0; i < order.size(); ++i) position_[order[i]] = i;
    std::size_t made = 0;
    for (IrNode* node : order) {
      const bool centred = node->op == "LayerNormalization";
      const std::string op =
          centred ? "SkipLayerNormalization" : "SkipSimplifiedLayerNormalization";
      if (node->removed || !node->domain.empty() || (!centred && node->op != "RMSNormalization"))
        continue;
      if (context_.registry.find("com.microsoft", op, 1) == nullptr) continue;
      pattern_.begin(*node);
      IrNode* sum = pattern_.take(node->inputs[0], "Add", 7);
      if (sum == nullptr || sum->removed || !fits(*node, *sum)) continue;
      FB_TRY(replace(*node, *sum, op));
      ++made;
    }
    ir_.sweep();
    return made;
  }

 private:
  bool fits(const IrNode& norm, const IrNode& sum) const {
    const ValueId total = sum.outputs[0];
    const TypeShape &x = ir_.values[total].type, &a = ir_.values[sum.inputs[0]].type,
                    &b = ir_.values[sum.inputs[1]].type;
    const NodeView view = ir_.view(norm);
    const std::int64_t axis = view.integer("axis", -1),
                       rank = static_cast<std::int64_t>(x.dims.size());
    if (!x.has_rank || rank < 2 || (axis != -1 && axis != rank - 1) ||
        view.integer("stash_type", 1) != 1)
      return false;
    for (std::size_t i = 1; i < norm.outputs.size(); ++i)
      if (norm.outputs[i] != kNone) return false;
    if (x.dtype == DType::f64 || x.dims.back() < 0 || (!serves(a, b, x) && !serves(b, a, x))) return false;
    for (std::size_t i = 1; i < norm.inputs.size(); ++i) {
      if (norm.inputs[i] == kNone) continue;
      const TypeShape& parameter = ir_.values[norm.inputs[i]].type;
      if (!parameter.known() || parameter.dims != std::vector<std::int64_t>{x.dims.back()} ||
          parameter.dtype != x.dtype)
        return false;
    }
    // The sum moves to the place of the normalisation: nothing may read it earlier.
    if (uses_.is_graph_output(total)) return false;
    const std::vector<Use>& readers = uses_.uses(total);
    return std::all_of(readers.begin(), readers.end(), [&](const Use& use) {
      return position_.at(use.node) >= position_.at(&norm);
    });
  }

  // The first has the whole shape, as far as it is known; the second, too, or it is the same for all batches, as embeddings of places are.
  static bool serves(const TypeShape& first, const TypeShape& skip, const TypeShape& x) {
    if (first.dims != x.dims || skip.dims == x.dims) return first.dims == x.dims;
    const std::vector<std::int64_t>& own = skip.dims;
    const auto lead = std::find_if(own.begin(), own.end(), [](std::int64_t size) { return size != 1; });
    const auto count = own.end() - lead;
    return skip.known() && count > 0 && own.back() == x.dims.back() && own.size() <= x.dims.size() &&
           std::equal(lead, own.end(), x.dims.end() - count);
  }

  Status replace(IrNode& norm, IrNode& sum, const std::string& op) {
    const float epsilon = ir_.view(norm).real("epsilon", 1e-5f);
    std::vector<ValueId> inputs{sum.inputs[0], sum.inputs[1]};
    const TypeShape& x = ir_.values[sum.outputs[0]].type;
    if (!serves(ir_.values[inputs[0]].type, ir_.values[inputs[1]].type, x)) std::swap(inputs[0], inputs[1]);
    inputs.insert(inputs.end(), norm.inputs.begin() + 1, norm.inputs.end());
    if (uses_.uses(sum.outputs[0]).size() > 1) {
      norm.outputs.resize(4, kNone);
      norm.outputs[3] = sum.outputs[0];
    }
    FB_TRY(
        pattern_.become(norm, "com.microsoft", op, 1, std::move(inputs), {{"epsilon", epsilon}}));
    for (const ValueId output : norm.outputs)
      if (output != kNone) ir_.values[output].producer = &norm;
    return {};
  }

  PassContext& context_;
  Ir& ir_;
  UseIndex uses_;
  Pattern pattern_;
  std::unordered_map<const IrNode*, std::size_t> position_;
};

}  // namespace

Result<std::size_t> pass_skip_norm(PassContext& context) {
  return SkipNormPass(context).run();
}

}  // namespace forebay::builder
