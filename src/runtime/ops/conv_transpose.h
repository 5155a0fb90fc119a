// ConvTranspose: a product per filter block whose columns are added into the output.
#pragma once

#include "runtime/op.h"
#include "runtime/ops/window.h"

namespace forebay::ops {

// Sizes and pads of a node whose shapes are known: `out` is larger than `in`.
Result<Window> conv_transpose_window(const NodeView& node, std::span<const std::int64_t> x, std::span<const std::int64_t> w);
Status infer_conv_transpose(InferContext& context);
Result<std::unique_ptr<Kernel>> create_conv_transpose(const NodeView& node, std::span<const TypeShape> inputs, std::span<const TypeShape> outputs);

}  // namespace forebay::ops
