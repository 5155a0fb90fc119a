// Gemm in all its versions: C is broadcast to [M,N] one way (until opset 6 only when asked), optional from 11.
#include <string>

#include "base/check.h"
#include "runtime/ops/families.h"
#include "runtime/ops/nn_support.h"
#include "runtime/ops/product_kernel.h"

namespace forebay::ops {
namespace {

ProductSpec spec_of(const NodeView& node) {
  ProductSpec spec;
  spec.trans_a = node.integer("transA", 0) != 0;
  spec.trans_b = node.integer("transB", 0) != 0;
  spec.alpha = node.real("alpha", 1.0f);
  spec.beta = node.real("beta", 1.0f);
  return spec;
}

Status infer_gemm(InferContext& context) {
  const NodeView& node = context.node();
  const TypeShape& a = context.input(0);
  const TypeShape& b = context.input(1);
  if (context.input_count() < 2 || !a.present() || !b.present()) return node.invalid("inputs A and B are needed");
  if (node.version() < 11 && !context.input(2).present()) return node.invalid("input C is needed before opset 11");
  if (a.dtype != b.dtype || (context.input(2).present() && context.input(2).dtype != a.dtype)) return node.invalid("the inputs have different types");
  TypeShape plain_a = a, plain_b = b;
  for (TypeShape* side : {&plain_a, &plain_b}) {
    if (!side->has_rank) {
      side->has_rank = true;
      side->dims = {-1, -1};
    }
    if (side->dims.size() != 2) return node.invalid("A and B must have two dimensions, not " + std::to_string(side->dims.size()));
  }
  FB_ASSIGN(std::vector<std::int64_t> dims, product_dims(node, plain_a, plain_b, spec_of(node)));
  const TypeShape& c = context.input(2);
  if (c.present() && c.has_rank) {
    FB_ASSIGN(const std::vector<std::int64_t> met, broadcast_dims(node, c.dims, dims));
    if (met.size() > 2) return node.invalid("C has more than two dimensions");
    for (std::size_t i = 0; i < 2; ++i) {
      if (dims[i] >= 0 && met[i] >= 0 && met[i] != dims[i]) return node.invalid("C " + dims_text(c.dims) + " is larger than the product");
    }
  }
  context.set_output(0, a.dtype, std::move(dims));
  return {};
}

plan::Consumption consume_gemm(const NodeView& node, std::uint32_t input, std::span<const TypeShape> inputs) {
  if (input != 1 || inputs.size() < 2) return plan::Consumption::whole;
  return product_consumption(inputs[1], spec_of(node).trans_b);
}

Result<std::unique_ptr<Kernel>> create_gemm(const NodeView& node, std::span<const TypeShape> inputs, std::span<const TypeShape> outputs) {
  return create_product(node, spec_of(node), inputs, outputs);
}

}  // namespace

std::span<const OpSpec> gemm_ops() {
  static const OpSpec specs[] = {{"", "Gemm", 1, 0x7fffffff, kOpNone, 0, infer_gemm, consume_gemm, create_gemm}};
  return specs;
}

}  // namespace forebay::ops
