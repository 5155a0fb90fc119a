// Packed 4- and 2-bit tensors for kernels that only move elements: unpacked to bytes in the workspace, moved, packed again.
#pragma once

#include <memory>

#include "runtime/op.h"

namespace forebay::ops {

using CreateFn = Result<std::unique_ptr<Kernel>> (*)(const NodeView&, std::span<const TypeShape>, std::span<const TypeShape>);

bool any_subbyte(std::span<const TypeShape> types);
// A kernel around the one that `create` makes for the same node with u8 in place of the packed dtypes.
Result<std::unique_ptr<Kernel>> wrap_subbyte(CreateFn create, const NodeView& node, std::span<const TypeShape> inputs,
                                             std::span<const TypeShape> outputs);

template <CreateFn kCreate>
Result<std::unique_ptr<Kernel>> with_subbyte(const NodeView& node, std::span<const TypeShape> inputs, std::span<const TypeShape> outputs) {
  return any_subbyte(inputs) || any_subbyte(outputs) ? wrap_subbyte(kCreate, node, inputs, outputs) : kCreate(node, inputs, outputs);
}

}  // namespace forebay::ops
