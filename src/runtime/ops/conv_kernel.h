// Convolution in f32 on dense NCHW data, as Conv and QLinearConv's float relatives use it.
#pragma once

#include <memory>

#include "runtime/op.h"
#include "runtime/ops/window.h"

namespace forebay::ops {

std::unique_ptr<Kernel> create_conv_kernel(DType dtype);  // reads group and the window from the node; inputs X, W and optionally B

}  // namespace forebay::ops
