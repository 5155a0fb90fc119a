// MatMul, and com.microsoft.FusedMatMul (transA, transB, alpha), which the builder uses for a transposed weight.
#include <string>

#include "base/check.h"
#include "runtime/ops/families.h"
#include "runtime/ops/product_kernel.h"

namespace forebay::ops {
namespace {

ProductSpec spec_of(const NodeView& node) {
  ProductSpec spec;
  spec.trans_a = node.integer("transA", 0) != 0;
  spec.trans_b = node.integer("transB", 0) != 0;
  spec.alpha = node.real("alpha", 1.0f);
  return spec;
}

Status infer_matmul(InferContext& context) {
  const NodeView& node = context.node();
  const TypeShape& a = context.input(0);
  const TypeShape& b = context.input(1);
  if (context.input_count() != 2 || !a.present() || !b.present()) return node.invalid("two inputs are needed");
  if (node.integer("transBatchA", 0) != 0 || node.integer("transBatchB", 0) != 0) return node.unsupported("transBatchA and transBatchB");
  if (a.dtype != b.dtype) {
    return node.invalid("the inputs have different types: " + std::string(dtype_name(a.dtype)) + " and " + std::string(dtype_name(b.dtype)));
  }
  if (!a.has_rank || !b.has_rank) {
    context.set_output_unranked(0, a.dtype);
    return {};
  }
  FB_ASSIGN(std::vector<std::int64_t> dims, product_dims(node, a, b, spec_of(node)));
  context.set_output(0, a.dtype, std::move(dims));
  return {};
}

plan::Consumption consume_matmul(const NodeView& node, std::uint32_t input, std::span<const TypeShape> inputs) {
  if (input != 1 || inputs.size() < 2) return plan::Consumption::whole;
  const ProductSpec spec = spec_of(node);
  if (spec.trans_a && inputs[0].has_rank && inputs[0].dims.size() > 2) return plan::Consumption::whole;
  if (!inputs[0].has_rank && spec.trans_a) return plan::Consumption::whole;
  return product_consumption(inputs[1], spec.trans_b);
}

Result<std::unique_ptr<Kernel>> create_matmul(const NodeView& node, std::span<const TypeShape> inputs, std::span<const TypeShape> outputs) {
  return create_product(node, spec_of(node), inputs, outputs);
}

}  // namespace

std::span<const OpSpec> matmul_ops() {
  static const OpSpec specs[] = {
      {"", "MatMul", 1, 0x7fffffff, kOpNone, 0, infer_matmul, consume_matmul, create_matmul},
      {"com.microsoft", "FusedMatMul", 1, 0x7fffffff, kOpNone, 0, infer_matmul, consume_matmul, create_matmul},
  };
  return specs;
}

}  // namespace forebay::ops
