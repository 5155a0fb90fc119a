// GatherND, GatherElements, ScatterND, ScatterElements: indices are checked on the device, and 8 bytes come back that name the first one
// that is wrong, before anything is read or written by them.
#include <array>
#include <string>

#include "runtime/cuda/index_task.h"
#include "runtime/cuda/kernel_base.h"
#include "runtime/cuda/sort_task.h"
#include "runtime/ops/indices.h"
#include "runtime/ops/nn_support.h"

namespace forebay::cuda {
namespace {

using Ints = std::vector<std::int64_t>;
constexpr std::int64_t kMostSlices = std::int64_t{1} << 32;

class IndexKernel : public CudaKernel {
 public:
  // Ids of kernels that wait for the host begin with "host.".
  IndexKernel(std::string_view name, StatePtr state) : CudaKernel("host.indices+cuda." + std::string(name), std::move(state)) {}
  std::uint64_t workspace_bytes() const override { return kWorstBytes + extra_bytes_; }
  Status run(const KernelCall& call) override {
    IndexTask task = task_;
    task.indices = call.inputs[1].data;
    auto* const worst = reinterpret_cast<std::uint64_t*>(call.workspace);
    FB_TRY(check(launch_check_indices(task, worst, queue_stream())));
    std::uint64_t first = 0;
    FB_TRY(fetch(&first, worst, sizeof first));
    if (first == ~std::uint64_t{0}) return start(task, call);
    std::int64_t index = 0;
    std::int32_t narrow = 0;
    const auto* const from = call.inputs[1].data + first * (task.wide ? 8u : 4u);
    FB_TRY(task.wide ? fetch(&index, from, sizeof index) : fetch(&narrow, from, sizeof narrow));
    return ops::index_error(label_, static_cast<std::int64_t>(first), task.wide ? index : narrow,
                            task.dims[first % static_cast<std::uint64_t>(task.depth)]);
  }

 protected:
  static constexpr std::uint64_t kWorstBytes = 64;
  virtual Status start(const IndexTask& task, const KernelCall& call) = 0;

  Status setup(const PrepareContext& context) override {
    const NodeView& node = context.node;
    const Ints &data = context.inputs[0].dims, &indices = context.inputs[1].dims;
    const Ints dense = dense_strides(data);
    task_ = IndexTask();
    task_.wide = context.inputs[1].dtype == DType::i64;
    label_ = ops::node_label(node);
    type_ = context.inputs[0].dtype;
    if (!node.op().ends_with("ND")) {
      FB_ASSIGN(const int axis, normalize_axis(node, node.integer("axis", 0), static_cast<int>(data.size())));
      const auto at = static_cast<std::size_t>(axis);
      Ints others = dense;
      others[at] = 0;
      task_.dims[0] = data[at];
      task_.strides[0] = dense[at];
      task_.base = make_walk(indices, std::array<Ints, 1>{others});
      return {};
    }
    const auto batch = static_cast<std::size_t>(node.op() == "GatherND" ? node.integer("batch_dims", 0) : 0);
    task_.depth = static_cast<int>(indices.back());
    const std::size_t end = batch + static_cast<std::size_t>(task_.depth);
    for (std::size_t d = batch; d < end; ++d) {
      task_.dims[d - batch] = data[d];
      task_.strides[d - batch] = dense[d];
    }
    for (std::size_t d = end; d < data.size(); ++d) task_.inner *= data[d];
    Ints tuples(indices.begin(), indices.end() - 1), steps(tuples.size(), 0);
    for (std::size_t d = 0; d < batch; ++d) steps[d] = dense[d];
    task_.base = make_walk(tuples, std::array<Ints, 1>{steps});
    return {};
  }
  Status fetch(void* to, const void* from, std::size_t bytes) const {
    FB_TRY(check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, queue_stream())));
    return check(cudaStreamSynchronize(queue_stream()));
  }

  IndexTask task_;
  DType type_ = DType::none;
  std::uint64_t extra_bytes_ = 0;

 private:
  std::string label_;
};

class GatherTuples final : public IndexKernel {
 public:
  explicit GatherTuples(StatePtr state) : IndexKernel("gather_tuples", std::move(state)) {}

 private:
  Status start(const IndexTask& task, const KernelCall& call) override {
    return check(launch_gather_tuples(dtype_bits(type_) / 8, task, call.outputs[0].data, call.inputs[0].data, queue_stream()));
  }
};

class ScatterTuples final : public IndexKernel {
 public:
  ScatterTuples(Scatter reduction, StatePtr state) : IndexKernel("scatter_tuples", std::move(state)), reduction_(reduction) {}

 private:
  Status setup(const PrepareContext& context) override {
    FB_TRY(IndexKernel::setup(context));
    const std::int64_t slices = task_.inner == 0 ? 0 : context.inputs[0].shape().elements() / task_.inner;
    if (slices >= kMostSlices || task_.base.total >= kMostSlices) return context.node.unsupported("so many places");
    extra_bytes_ = static_cast<std::uint64_t>(sorted_length(task_.base.total)) * sizeof(std::uint64_t);
    return {};
  }
  Status start(const IndexTask& task, const KernelCall& call) override {
    const std::uint64_t bytes =
        static_cast<std::uint64_t>(call.inputs[0].shape.elements()) * static_cast<std::uint64_t>(dtype_bits(type_) / 8);
    if (bytes > 0 && call.outputs[0].data != call.inputs[0].data)
      FB_TRY(check(cudaMemcpyAsync(call.outputs[0].data, call.inputs[0].data, bytes, cudaMemcpyDeviceToDevice, queue_stream())));
    auto* const keys = reinterpret_cast<std::uint64_t*>(call.workspace + kWorstBytes);
    return check(launch_scatter_tuples(reduction_, type_, task, call.outputs[0].data, call.inputs[2].data, keys, queue_stream()));
  }
  const Scatter reduction_;
};

bool whole_bytes(DType type) {
  return dtype_bits(type) >= 8 && dtype_bits(type) <= 64;
}
KernelPtr make_gather_tuples(const NodeView&, std::span<const TypeShape> inputs, std::span<const TypeShape>, const StatePtr& state) {
  return whole_bytes(inputs[0].dtype) ? std::make_unique<GatherTuples>(state) : nullptr;
}
KernelPtr make_scatter_tuples(const NodeView& node, std::span<const TypeShape> inputs, std::span<const TypeShape>, const StatePtr& state) {
  static constexpr std::string_view kNames[] = {"none", "add", "mul", "min", "max"};
  for (std::size_t i = 0; i < std::size(kNames); ++i) {
    const auto reduction = static_cast<Scatter>(i);
    if (node.text("reduction", "none") != kNames[i] || !whole_bytes(inputs[0].dtype) || !scatters(reduction, inputs[0].dtype)) continue;
    return std::make_unique<ScatterTuples>(reduction, state);
  }
  return nullptr;
}

}  // namespace

std::span<const TableEntry> index_table() {
  static constexpr TableEntry kTable[] = {{"", "GatherND", make_gather_tuples},
                                          {"", "GatherElements", make_gather_tuples},
                                          {"", "ScatterND", make_scatter_tuples},
                                          {"", "ScatterElements", make_scatter_tuples},
                                          {"", "Scatter", make_scatter_tuples}};
  return kTable;
}

}  // namespace forebay::cuda
