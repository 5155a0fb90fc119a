#pragma once

#include <memory>

#include "runtime/op.h"
#include "runtime/ops/resize_axis.h"

namespace forebay::ops {

// Output sizes (unknown: -1) and, where known, the geometry of every axis. Serves Upsample and all versions of Resize.
Result<std::vector<ResizeAxis>> resize_geometry(const NodeView& node, const TypeShape& x, std::span<const HostTensor* const> values, bool* known);
std::unique_ptr<Kernel> create_resize_nearest();
std::unique_ptr<Kernel> create_resize_interpolated();

}  // namespace forebay::ops
