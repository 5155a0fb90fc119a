// forebay.Linear, which the builder makes: activation(x * W' + bias). W is [N,K], or [K,N] with
// transB = 0; the bias has N values.
#include <string>

#include "base/check.h"
#include "runtime/ops/families.h"
#include "runtime/ops/nn_support.h"
#include "runtime/ops/product_kernel.h"

namespace forebay::ops {
namespace {

ProductSpec spec_of(const NodeView& node) {
  ProductSpec spec;
  spec.trans_b = node.integer("transB", 1) != 0;
  return spec;
}

Status infer_linear(InferContext& context) {
  const NodeView& node = context.node();
  const TypeShape &x = context.input(0), &w = context.input(1), &bias = context.input(2);
  if (!x.present() || !w.present()) return node.invalid("an input and a weight are needed");
  if (x.dtype != w.dtype || (bias.present() && bias.dtype != x.dtype))
    return node.invalid("the inputs have different types");
  FB_TRY(epilogue_of(node).status());
  if (!x.has_rank || !w.has_rank) {
    context.set_output_unranked(0, x.dtype);
    return {};
  }
  if (w.dims.size() != 2) return node.invalid("the weight " + dims_text(w.dims) + " is no matrix");
  FB_ASSIGN(std::vector<std::int64_t> dims, product_dims(node, x, w, spec_of(node)));
  if (bias.present() && bias.known() &&
      (bias.dims.size() != 1 || (dims.back() >= 0 && bias.dims[0] != dims.back()))) {
    return node.invalid("the bias " + dims_text(bias.dims) + " has not one value for each of " +
                        std::to_string(dims.back()) + " columns");
  }
  context.set_output(0, x.dtype, std::move(dims));
  return {};
}

plan::Consumption consume_linear(const NodeView& node, std::uint32_t input,
                                 std::span<const TypeShape> inputs) {
  if (input != 1 || inputs.size() < 2) return plan::Consumption::whole;
  return product_consumption(inputs[1], spec_of(node).trans_b);
}

Result<std::unique_ptr<Kernel>> create_linear(const NodeView& node,
                                              std::span<const TypeShape> inputs,
                                              std::span<const TypeShape> outputs) {
  ProductSpec spec = spec_of(node);
  FB_ASSIGN(spec.epilogue, epilogue_of(node));
  if (spec.epilogue.loop != nullptr && !narrow_float(inputs[0].dtype))
    return node.unsupported("an activation of this type");
  return create_product(node, spec, inputs, outputs);
}

}  // namespace

std::span<const OpSpec> linear_ops() {
  static const OpSpec specs[] = {{"forebay", "Linear", 1, 0x7fffffff, kOpNone, 0, infer_linear,
                                  consume_linear, create_linear}};
  return specs;
}

}  // namespace forebay::ops
