// How a packed weight lies at the operators that multiply by one: forebay.QuantLinear, which the
// builder makes of DequantizeLinear and a product, and com.microsoft.MatMulNBits.
//
// forebay.QuantLinear: A, W, scale, zero points?, C?; W is a matrix of codes as DequantizeLinear
// takes it (attributes axis, block_size), [N,K] with transB, else [K,N]; alpha and beta are Gemm's.
// The result is that of DequantizeLinear followed by the product, bit by bit.
#pragma once

#include <memory>

#include "runtime/cpu/quant_rows.h"
#include "runtime/op.h"

namespace forebay::ops {

struct QuantLayout {
  DType code = DType::none,
        value = DType::f32;  // of the codes, whatever holds them; what a value is rounded to
  bool trans_b = false;      // rows are outputs
  std::int64_t rows = 0, columns = 0, stride = 0, row_block = 1, col_block = 1;
  std::int64_t scale_row = 0, scale_col = 0, zero_row = 0, zero_col = 0;
  float zero_default = 0.0f;
  std::size_t c_input = 4;

  // Scales and zero points change from row to row and can be cut where the weight is.
  bool rows_have_scales() const { return scale_row != 0; }
  TypeShape matrix() const;  // what the product sees
  // Slabs: `whole` holds the shapes of all inputs uncut.
  cpu::QuantView view(const KernelCall& call, std::span<const TypeShape> whole) const;
};

// Checks types and shapes of W, scales and zero points, which must be known; infer functions call
// it once they are.
Result<QuantLayout> quant_layout(const NodeView& node, std::span<const TypeShape> inputs);
bool is_quant_product(std::string_view domain, std::string_view op);

// Which operands are cut together with the weight (input 1), and the rows that a cut must be a
// multiple of.
struct QuantCut {
  std::int64_t row_unit = 1;
  bool scale_follows = false, zero_follows = false;
};
QuantCut quant_cut(const NodeView& node, std::span<const TypeShape> inputs);

}  // namespace forebay::ops
