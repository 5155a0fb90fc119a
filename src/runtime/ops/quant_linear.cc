// Products by a packed weight: forebay.QuantLinear and com.microsoft.MatMulNBits (accuracy_level is
// not read: sums are f32 always).
#include <string>

#include "base/check.h"
#include "runtime/ops/families.h"
#include "runtime/ops/nn_support.h"
#include "runtime/ops/product_kernel.h"
#include "runtime/ops/quant_conv.h"
#include "runtime/ops/quant_layout.h"

namespace forebay::ops {
namespace {

ProductSpec spec_of(const NodeView& node) {
  ProductSpec spec;
  spec.packed = true;
  spec.trans_b = node.op() == "MatMulNBits" || node.integer("transB", 0) != 0;
  spec.alpha = node.real("alpha", 1.0f);
  spec.beta = node.real("beta", 1.0f);
  spec.c_input = node.op() == "MatMulNBits" ? 5 : 4;
  return spec;
}

std::vector<TypeShape> all_inputs(const InferContext& context) {
  std::vector<TypeShape> inputs;
  for (std::size_t i = 0; i < context.input_count(); ++i) inputs.push_back(context.input(i));
  return inputs;
}

Status infer_product(InferContext& context) {
  const NodeView& node = context.node();
  const TypeShape& a = context.input(0);
  FB_ASSIGN(const QuantLayout layout, quant_layout(node, all_inputs(context)));
  const TypeShape& c = context.input(layout.c_input);
  if (c.present() && (c.dtype != a.dtype || (c.known() && c.dims.size() > 2)))
    return node.invalid("the addend " + dims_text(c.dims) + " does not fit");
  if (!a.has_rank) {
    context.set_output_unranked(0, a.dtype);
    return {};
  }
  FB_ASSIGN(std::vector<std::int64_t> dims, product_dims(node, a, layout.matrix(), spec_of(node)));
  context.set_output(0, a.dtype, std::move(dims));
  return {};
}

plan::Consumption consume_product(const NodeView& node, std::uint32_t input,
                                  std::span<const TypeShape> inputs) {
  if (input == 0 || input > 3 || !quant_layout(node, inputs).ok()) return plan::Consumption::whole;
  const bool trans_b = spec_of(node).trans_b;
  const QuantCut cut = quant_cut(node, inputs);
  const bool rows =
      input == 1 || (input == 2 && cut.scale_follows) || (input == 3 && cut.zero_follows);
  if (!rows) return plan::Consumption::whole;
  return trans_b ? plan::Consumption::by_output : plan::Consumption::by_reduction;
}

Result<std::unique_ptr<Kernel>> create_packed(const NodeView& node,
                                              std::span<const TypeShape> inputs,
                                              std::span<const TypeShape> outputs) {
  return create_product(node, spec_of(node), inputs, outputs);
}

}  // namespace

std::span<const OpSpec> quant_linear_ops() {
  static const OpSpec specs[] = {
      {"forebay", "QuantLinear", 1, 1, kOpNone, 0, infer_product, consume_product, create_packed},
      {"com.microsoft", "MatMulNBits", 1, 0x7fffffff, kOpNone, 0, infer_product, consume_product,
       create_packed},
      quant_conv_spec(),
  };
  return specs;
}

}  // namespace forebay::ops
