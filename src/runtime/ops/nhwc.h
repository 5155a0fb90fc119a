// The forebay.Nhwc operators: convolutions, pools and products of images whose channels lie together, [N,H,W,C]. The builder puts them in
// place of the ONNX ones where a device reads channels in runs (builder/pass_nhwc.cc).
#pragma once

#include "runtime/op.h"
#include "runtime/ops/window.h"

namespace forebay::ops {

// Of an image of known dims; kernel_shape is an attribute always. The two spatial axes are the window's second and third.
Result<Window> nhwc_window(const NodeView& node, std::span<const std::int64_t> x);

std::span<const OpSpec> nhwc_ops();

}  // namespace forebay::ops
