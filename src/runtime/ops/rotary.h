// RotaryEmbedding (opset 23).
#pragma once

#include "runtime/op.h"

namespace forebay::ops {

Status infer_rotary(InferContext& context);
Result<std::unique_ptr<Kernel>> create_rotary(const NodeView& node, std::span<const TypeShape> inputs, std::span<const TypeShape> outputs);

}  // namespace forebay::ops
