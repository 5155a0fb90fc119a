// The matrix product behind MatMul, FusedMatMul, Gemm and Linear: Y = alpha * A' * B' (+ beta * C), A and B batched with broadcasting.
//
// A constant B of two dimensions comes in slabs: [K,N] by reduction (fp32 sums of all of Y are kept over the slabs of the node and added
// in slab order), [N,K] (trans_b) by output (a slab is a range of Y's columns). Up to kGemvRows rows of A our matrix-vector kernels
// run at memory speed; above that a blocked product does. Both accumulate in fp32.
#pragma once

#include <memory>

#include "runtime/op.h"
#include "runtime/ops/epilogue.h"
#include "runtime/ops/quant_layout.h"

namespace forebay::ops {

struct ProductSpec {
  bool trans_a = false, trans_b = false;
  float alpha = 1.0f, beta = 1.0f;  // beta: of C, when present
  std::size_t c_input = 2;
  bool packed = false;  // B is made of the codes of input 1 in registers and tiles (quant_layout.h)
  Epilogue epilogue;    // floats of at most 32 bits only
};

// Output dims of A * B (numpy rules, one-dimensional operands included), unknown dims as -1.
Result<std::vector<std::int64_t>> product_dims(const NodeView& node, const TypeShape& a, const TypeShape& b, const ProductSpec& spec);
plan::Consumption product_consumption(const TypeShape& b, bool trans_b);
// Dtypes of the inputs decide the kernel: floats of at most 32 bits in any mixture, else all the same of f64 and the integers.
Result<std::unique_ptr<Kernel>> create_product(const NodeView& node, const ProductSpec& spec, std::span<const TypeShape> inputs,
                                               std::span<const TypeShape> outputs);

}  // namespace forebay::ops
