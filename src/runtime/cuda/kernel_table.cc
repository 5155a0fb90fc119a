#include "runtime/cuda/cuda_kernels.h"
#include "runtime/cuda/kernel_base.h"

namespace forebay::cuda {

Walk make_walk(std::span<const std::int64_t> dims,
               std::span<const std::vector<std::int64_t>> strides) {
  Walk walk;
  const std::size_t operands = strides.size();
  for (std::size_t d = 0; d < dims.size(); ++d) {
    walk.total *= dims[d];
    if (dims[d] == 1) continue;
    bool merges = walk.rank > 0;
    for (std::size_t o = 0; o < operands && merges; ++o)
      merges = walk.strides[o][walk.rank - 1] == strides[o][d] * dims[d];
    const int at = merges ? walk.rank - 1 : walk.rank++;
    walk.dims[at] = merges ? walk.dims[at] * dims[d] : dims[d];
    for (std::size_t o = 0; o < operands; ++o) walk.strides[o][at] = strides[o][d];
  }
  if (walk.rank == 0) {
    walk.rank = 1;
    walk.dims[0] = 1;
  }
  return walk;
}

std::vector<std::int64_t> dense_strides(std::span<const std::int64_t> dims) {
  std::vector<std::int64_t> strides(dims.size(), 1);
  for (std::size_t d = dims.size(); d-- > 1;) strides[d - 1] = strides[d] * dims[d];
  return strides;
}

std::vector<std::int64_t> broadcast_strides(std::span<const std::int64_t> own, std::size_t rank) {
  const std::vector<std::int64_t> dense = dense_strides(own);
  std::vector<std::int64_t> strides(rank, 0);
  for (std::size_t d = 0; d < own.size(); ++d)
    strides[rank - own.size() + d] = own[d] == 1 ? 0 : dense[d];
  return strides;
}

Result<std::unique_ptr<Kernel>> make_cuda_kernel(const NodeView& node,
                                                 std::span<const TypeShape> inputs,
                                                 std::span<const TypeShape> outputs,
                                                 const StatePtr& state) {
  for (const auto& table : {elementwise_table(), movement_table(), reduce_table(), linear_table(), batched_table(), product_table(),
                            attention_table(), vendor_attention_table(), packed_table(), gather_table(), integer_table(), integer_conv_table(),
                            conv_table(), nhwc_table(), quant_conv_table(), sort_table(), axis_table(), map_table(), index_table(), recurrent_table(),
                            expert_table(), arrange_table(), response_table(), number_table()}) {
    for (const TableEntry& entry : table) {
      if (entry.op != node.op() || entry.domain != node.domain()) continue;
      if (KernelPtr kernel = entry.make(node, inputs, outputs, state); kernel != nullptr) return kernel;
    }
  }
  return std::unique_ptr<Kernel>();
}

}  // namespace forebay::cuda
