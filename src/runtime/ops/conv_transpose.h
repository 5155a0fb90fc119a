// ConvTranspose: a product per filter block whose columns are added into the output.
#pragma once

#include "runtime/op.h"

namespace forebay::ops {

Status infer_conv_transpose(InferContext& context);
Result<std::unique_ptr<Kernel>> create_conv_transpose(const NodeView& node, std::span<const TypeShape> inputs, std::span<const TypeShape> outputs);

}  // namespace forebay::ops
