// Patches of an image that do not overlap, as vision transformers begin: a Conv whose windows lie side by side, its places made rows
// (Reshape and Transpose), is a product of rows. The image is turned once, the products need no gathering, and the rows come out as they
// are read.
#include <algorithm>

#include "base/check.h"
#include "builder/partial_values.h"
#include "builder/pattern.h"
#include "builder/value_needs.h"

namespace forebay::builder {
namespace {

using Dims = std::vector<std::int64_t>;

constexpr std::int64_t kRun = 8;  // elements that kernels read at once
constexpr int kMostSteps = 8;     // of shape arithmetic

class PatchesPass {
 public:
  explicit PatchesPass(PassContext& context)
      : ir_(context.ir), host_(context.host), needs_(context.ir, context.registry), uses_(context.ir), pattern_(context) {}

  Result<std::size_t> run() {
    std::size_t made = 0;
    for (IrNode* node : execution_order(ir_)) {
      if (node->removed || !node->domain.empty() || node->op != "Transpose" || !equal(*node, "perm", {0, 2, 1})) continue;
      pattern_.begin(*node);
      const IrNode* const flat = pattern_.take(node->inputs[0], "Reshape");
      const IrNode* const conv = flat != nullptr ? pattern_.take(flat->inputs[0], "Conv") : nullptr;
      if (conv == nullptr || !fits(*conv, *flat) || !take_shapes(conv->outputs[0], *flat, kMostSteps) || !pattern_.closed(*node)) continue;
      FB_TRY(rewrite(*node, *conv));
      ++made;
    }
    pattern_.apply();
    ir_.sweep();
    return made;
  }

 private:
  bool equal(const IrNode& node, std::string_view name, const Dims& wanted) const {
    const auto values = ir_.view(node).integers(name);
    return std::equal(values.begin(), values.end(), wanted.begin(), wanted.end());
  }
  bool all(const IrNode& conv, std::string_view name, std::int64_t wanted) const {
    const auto values = ir_.view(conv).integers(name);
    return std::all_of(values.begin(), values.end(), [&](std::int64_t value) { return value == wanted; });
  }

  // Windows side by side that fill the image, of which `flat`, a Reshape, makes [N, filters, places].
  bool fits(const IrNode& conv, const IrNode& flat) const {
    const NodeView view = ir_.view(conv);
    const TypeShape &x = pattern_.type(conv.inputs[0]), &w = pattern_.type(conv.inputs[1]);
    if ((w.dtype != DType::f16 && w.dtype != DType::bf16) || !needs_.fixed(conv.inputs[1]) || !w.known() || w.dims.size() != 4)
      return false;
    if (view.integer("group", 1) != 1 || view.text("auto_pad", "NOTSET") != "NOTSET" || !all(conv, "pads", 0) || !all(conv, "dilations", 1))
      return false;
    const Dims window{w.dims[2], w.dims[3]};
    if (!equal(conv, "strides", window) || window[0] <= 0 || window[1] <= 0 || conv.inputs.size() > 3) return false;
    if (!x.has_rank || x.dims.size() != 4 || x.dims[1] != w.dims[1] || x.dims[2] <= 0 || x.dims[3] <= 0) return false;
    if (x.dims[2] % window[0] != 0 || x.dims[3] % window[1] != 0 || w.dims[1] * window[0] * window[1] % kRun != 0) return false;
    const std::int64_t places = x.dims[2] / window[0] * (x.dims[3] / window[1]);
    const TypeShape& rows = pattern_.type(flat.outputs[0]);
    if (!rows.has_rank || rows.dims.size() != 3 || rows.dims[1] != w.dims[0]) return false;
    return rows.dims[2] == places || symbolic_dims(ir_, host_, flat.outputs[0])[0] == symbolic_dims(ir_, host_, conv.outputs[0])[0];
  }

  // Exporters ask for the shape of what is made rows: that arithmetic goes, too, where it leads to `flat` alone.
  bool take_shapes(ValueId id, const IrNode& flat, int steps) {
    for (const Use& use : uses_.uses(id)) {
      if (use.node == &flat) continue;
      const std::string& op = use.node->op;
      const bool arithmetic = op == "Shape" || op == "Slice" || op == "Gather" || op == "Unsqueeze" || op == "Concat" || op == "Cast";
      if (!arithmetic || steps == 0) return false;
      pattern_.add(*use.node);
      if (!take_shapes(use.node->outputs[0], flat, steps - 1)) return false;
    }
    return true;
  }

  Result<ValueId> viewed(const IrNode& root, ValueId id, const std::string& name, const Dims& dims) {
    HostTensor shape(DType::i64, Shape{static_cast<std::int64_t>(dims.size())});
    std::copy(dims.begin(), dims.end(), shape.as<std::int64_t>().begin());
    const ValueId to = ir_.add_constant(name + "_shape", std::make_shared<const HostTensor>(std::move(shape)), {});
    return pattern_.insert(root, name, "Reshape", kPassOpset, {id, to});
  }

  Status rewrite(IrNode& root, const IrNode& conv) {
    const Dims x = pattern_.type(conv.inputs[0]).dims, w = pattern_.type(conv.inputs[1]).dims;  // copies: values are added below
    const std::int64_t down = x[2] / w[2], across = x[3] / w[3], depth = w[1] * w[2] * w[3];
    const std::string name = ir_.values[root.outputs[0]].name;
    std::vector<ValueId> inputs = conv.inputs;
    // A zero keeps the batch's dimension, whatever it is.
    FB_ASSIGN(const ValueId cut, viewed(root, inputs[0], name + "/cut", {0, x[1], down, w[2], across, w[3]}));
    FB_ASSIGN(const ValueId turned,
              pattern_.insert(root, name + "/patches", "Transpose", kPassOpset, {cut}, {{"perm", Dims{0, 2, 4, 1, 3, 5}}}));
    FB_ASSIGN(inputs[0], viewed(root, turned, name + "/rows", {0, down * across, depth}));
    FB_ASSIGN(inputs[1], viewed(root, inputs[1], ir_.values[inputs[1]].name + "/rows", {w[0], depth}));
    return pattern_.become(root, "forebay", "Linear", 1, std::move(inputs), {});
  }

  Ir& ir_;
  HostValues& host_;
  ValueNeeds needs_;
  UseIndex uses_;
  Pattern pattern_;
};

}  // namespace

Result<std::size_t> pass_patches(PassContext& context) {
  return PatchesPass(context).run();
}

}  // namespace forebay::builder
