// forebay.QuantConv: X, W, scale, zero points?, B?, sum?; W holds codes as DequantizeLinear takes them (attributes axis, block_size), the
// other attributes are those of forebay.Conv. The result is that of DequantizeLinear followed by the convolution: the values of one slab
// of filters lie in the workspace at a time, or of a few that share a launch.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "runtime/op.h"

namespace forebay::ops {

// Makes a kernel for a node of DequantizeLinear or forebay.Conv; null where there is none.
using MakeKernel = std::function<Result<std::unique_ptr<Kernel>>(const NodeView&, std::span<const TypeShape>, std::span<const TypeShape>)>;

// The same on every device: its kernels for the two nodes, one after the other. Ids begin with `prefix`.
std::unique_ptr<Kernel> make_quant_conv(std::string prefix, MakeKernel make);
OpSpec quant_conv_spec();

}  // namespace forebay::ops
