// The device's own kernels, by operator: a table in kernel_table.cc. What is not in it runs on the
// host.
#pragma once

#include <memory>
#include <span>

#include "runtime/cuda/cuda_status.h"
#include "runtime/op.h"

namespace forebay::cuda {

// Null when there is none for this operator and these types. A kernel's prepare may still say
// unsupported, for shapes or slabs.
Result<std::unique_ptr<Kernel>> make_cuda_kernel(const NodeView& node,
                                                 std::span<const TypeShape> inputs,
                                                 std::span<const TypeShape> outputs,
                                                 const std::shared_ptr<CudaState>& state);

}  // namespace forebay::cuda
