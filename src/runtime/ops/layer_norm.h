// Normalisation of rows: LayerNormalization, RMSNormalization and ONNX Runtime's simplified and skip forms.
#pragma once

#include "runtime/op.h"

namespace forebay::ops {

Status infer_layer_norm(InferContext& context);
Result<std::unique_ptr<Kernel>> create_layer_norm(const NodeView& node, std::span<const TypeShape> inputs, std::span<const TypeShape> outputs);

}  // namespace forebay::ops
