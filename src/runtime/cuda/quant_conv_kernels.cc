// forebay.QuantConv: a slab's values are written into the workspace, and the float convolution takes them from there.
#include "runtime/cuda/cuda_kernels.h"
#include "runtime/cuda/kernel_base.h"
#include "runtime/ops/quant_conv.h"

namespace forebay::cuda {
namespace {

KernelPtr make_packed_conv(const NodeView&, std::span<const TypeShape> inputs, std::span<const TypeShape>, const StatePtr& state) {
  if (!float_type(inputs[0].dtype)) return nullptr;
  return ops::make_quant_conv("cuda.packed+", [state](const NodeView& node, std::span<const TypeShape> in, std::span<const TypeShape> out) {
    return make_cuda_kernel(node, in, out, state);
  });
}

}  // namespace

std::span<const TableEntry> quant_conv_table() {
  static constexpr TableEntry kTable[] = {{"forebay", "QuantConv", make_packed_conv}};
  return kTable;
}

}  // namespace forebay::cuda
