// How rows of a packed table lie at com.microsoft.GatherBlockQuantized and forebay.DequantRows.
#pragma once

#include "runtime/op.h"

namespace forebay::ops {

struct PackedTable {
  bool gathers = true;              // input 1 holds indices
  std::size_t scale = 2, zero = 3;  // inputs
  DType code = DType::none;
  std::int64_t table = 0, each = 1;  // indices, and rows an index stands for
  std::int64_t columns = 0, blocks = 0, block = 0, zero_stride = 0;
  float zero_default = 0.0f;
};
// Checks types and shapes, which must be known.
Result<PackedTable> packed_table(const NodeView& node, std::span<const TypeShape> inputs);

}  // namespace forebay::ops
