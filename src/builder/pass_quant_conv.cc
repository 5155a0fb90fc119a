// A convolution by a dequantised weight reads the packed weight: forebay.QuantConv takes the place of Conv and forebay.Conv over
// DequantizeLinear. After pass_epilogue, which gives a convolution its sum and activation.
#include "base/check.h"
#include "builder/passes.h"
#include "builder/value_needs.h"
#include "runtime/cpu/quant_rows.h"

namespace forebay::builder {
namespace {

class QuantConvPass {
 public:
  explicit QuantConvPass(PassContext& context) : context_(context), ir_(context.ir), needs_(context.ir, context.registry) {}

  Result<std::size_t> run() {
    std::size_t made = 0;
    for (IrNode* node : execution_order(ir_)) {
      if (node->removed || node->op != "Conv" || node->inputs.size() < 2 || node->inputs[1] == kNone) continue;
      const IrNode* packed = ir_.values[node->inputs[1]].producer;
      if (packed == nullptr || !fits(*packed, type(node->inputs[0]).dtype)) continue;
      FB_TRY(become(*node, *packed));
      ++made;
    }
    return made;
  }

 private:
  const TypeShape& type(ValueId id) const { return ir_.values[id].type; }
  bool fixed(ValueId id) const { return id != kNone && needs_.fixed(id) && type(id).known(); }

  // Codes, scales and zero points of the file, whose values are of the images' type.
  bool fits(const IrNode& packed, DType value) const {
    if (!packed.domain.empty() || packed.op != "DequantizeLinear" || packed.inputs.size() < 2) return false;
    const bool narrow = value == DType::f32 || value == DType::f16 || value == DType::bf16;
    if (!narrow || type(packed.outputs[0]).dtype != value || !fixed(packed.inputs[0]) || !fixed(packed.inputs[1])) return false;
    const bool shifted = packed.inputs.size() > 2 && packed.inputs[2] != kNone;
    return cpu::quant_code_dtype(type(packed.inputs[0]).dtype) && (!shifted || fixed(packed.inputs[2]));
  }

  Status become(IrNode& conv, const IrNode& packed) {
    const auto at = [](const IrNode& node, std::size_t i) { return i < node.inputs.size() ? node.inputs[i] : kNone; };
    const NodeView view = ir_.view(packed);
    std::vector<plan::Attribute> attributes = conv.attributes;
    attributes.push_back({"axis", view.integer("axis", 1)});
    attributes.push_back({"block_size", view.integer("block_size", 0)});
    std::vector<ValueId> inputs{conv.inputs[0], packed.inputs[0], packed.inputs[1], at(packed, 2), at(conv, 2), at(conv, 3)};
    while (inputs.back() == kNone) inputs.pop_back();
    if (conv.fused_from.empty()) conv.fused_from = {conv.name};
    conv.fused_from.insert(conv.fused_from.begin(), packed.name);
    conv.domain = "forebay";
    conv.op = "QuantConv";
    conv.version = 1;
    conv.inputs = std::move(inputs);
    conv.attributes = std::move(attributes);
    return context_.types.infer_added(conv);
  }

  PassContext& context_;
  Ir& ir_;
  ValueNeeds needs_;
};

}  // namespace

Result<std::size_t> pass_quant_conv(PassContext& context) {
  return QuantConvPass(context).run();
}

}  // namespace forebay::builder
