// Upper bounds of shapes that depend on data: what memory is planned for before a pass.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/op.h"

namespace forebay {

// Replaces unknown dims of `outputs` by the most that the operator can give for these inputs, where that follows from their shapes
// (NonZero: the number of elements; Slice: the axis). What it cannot bound (Range, Reshape) stays -1.
void bound_outputs(const NodeView& node, std::span<const TypeShape> inputs, std::span<const HostTensor* const> values,
                   std::span<TypeShape> outputs);

// Bounds that the user declared: per value of the plan, the largest size of each dimension; empty where none was declared.
std::vector<std::vector<std::int64_t>> declared_bounds(const plan::Plan& plan);
// The name under which a plan keeps the bound of an axis among its ranges of dimensions.
std::string bound_name(std::string_view value, std::size_t axis);

}  // namespace forebay
