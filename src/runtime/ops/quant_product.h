// Products and convolutions of 8-bit integers: MatMulInteger, QLinearMatMul, ConvInteger,
// QLinearConv. 32-bit sums, exact. forebay.QLinearConv, which the builder makes between
// DequantizeLinear and QuantizeLinear, has an f32 bias.
#pragma once

#include "runtime/op.h"

namespace forebay::ops {

Status infer_integer_matmul(InferContext& context);
plan::Consumption consume_integer_matmul(const NodeView& node, std::uint32_t input,
                                         std::span<const TypeShape> inputs);
Result<std::unique_ptr<Kernel>> create_integer_matmul(const NodeView& node, std::span<const TypeShape> inputs, std::span<const TypeShape> outputs);
Status infer_integer_conv(InferContext& context);
plan::Consumption consume_integer_conv(const NodeView& node, std::uint32_t input, std::span<const TypeShape> inputs);
Result<std::unique_ptr<Kernel>> create_integer_conv(const NodeView& node, std::span<const TypeShape> inputs, std::span<const TypeShape> outputs);

}  // namespace forebay::ops
