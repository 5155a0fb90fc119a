// forebay.Linear with more than a few rows and a weight in several slabs: one launch for the slabs that wait for nothing, where the
// library would be called for each. All else is the products' of product_kernels.cc.
#include <algorithm>

#include "runtime/cuda/activation_names.h"
#include "runtime/cuda/kernel_base.h"
#include "runtime/cuda/linear_task.h"
#include "runtime/cuda/split_sums.h"
#include "runtime/merged_kernel.h"

namespace forebay::cuda {
namespace {

constexpr std::int64_t kFewRows = 8;              // the matrix-vector kernels'
constexpr std::int64_t kMostSlabBytes = 2 << 20;  // larger slabs fill the library's kernels
constexpr std::int64_t kMost = std::int64_t{1} << 30;

class LinearKernel final : public MergedKernel {
 public:
  LinearKernel(const NamedActivation& activation, std::unique_ptr<Kernel> other, StatePtr state)
      : other_(std::move(other)), state_(std::move(state)) {
    merged_other_ = dynamic_cast<MergedKernel*>(other_.get());
    task_.activation = activation.activation;
    task_.alpha = activation.alpha;
    task_.beta = activation.beta;
  }

  Status prepare(const PrepareContext& context) override {
    own_ = fits(context);
    if (!own_) return other_->prepare(context);
    const std::vector<std::int64_t>& w = context.inputs[1].dims;
    task_.type = context.inputs[1].dtype;
    task_.depth = static_cast<int>(w[1]);
    task_.all_columns = static_cast<int>(w[0]);
    task_.rows = static_cast<int>(context.inputs[0].shape().elements() / w[1]);
    const std::int64_t blocks = tiles(task_.all_columns, large(task_.all_columns) ? 128 : 64),
                       steps = (task_.depth + kLinearDepth - 1) / kLinearDepth;
    // Of the whole node: a sum must not depend on what else a call holds.
    task_.splits = split_count(blocks, steps);
    task_.clusters = task_.splits > 1 && has_clusters(state_->ordinal);
    return {};
  }
  std::uint64_t workspace_bytes() const override {
    if (!own_) return other_->workspace_bytes();
    return task_.splits == 1 || task_.clusters ? 0
                                               : static_cast<std::uint64_t>(task_.splits) * static_cast<std::uint64_t>(task_.rows) *
                                                     static_cast<std::uint64_t>(task_.all_columns) * sizeof(float);
  }
  std::string_view id() const override { return own_ ? "cuda.linear_mma" : other_->id(); }
  bool merges() const override { return own_ || (merged_other_ != nullptr && merged_other_->merges()); }
  Status run(const KernelCall& call) override { return own_ ? run_merged({&call, 1}) : other_->run(call); }
  Status run_merged(std::span<const KernelCall> calls) override {
    if (!own_) return merged_other_->run_merged(calls);
    const KernelCall& call = calls[0];
    LinearTask task = task_;
    task.x = call.inputs[0].data;
    task.bias = call.inputs.size() > 2 && call.inputs[2].present() ? call.inputs[2].data : nullptr;
    task.y = call.outputs[0].data;
    task.sums = reinterpret_cast<float*>(call.workspace);
    task.first = static_cast<int>(call.row_begin);
    task.w.rows = call.inputs[1].shape[0];
    for (std::size_t i = 0; i < calls.size(); ++i) {
      task.w.slabs[i] = calls[i].inputs[1].data;
      task.columns += static_cast<int>(calls[i].inputs[1].shape[0]);
    }
    const cudaError_t error = launch_linear_mma(task, large(task.columns), queue_stream());
    return error == cudaSuccess ? Status() : state_->errors.check(error, id());
  }

 private:
  bool fits(const PrepareContext& context) const {
    const TypeShape &x = context.inputs[0], &w = context.inputs[1];
    if (context.consumption != plan::Consumption::by_output || context.slab_rows.size() < 2 || context.sliced_input != 1) return false;
    if ((w.dtype != DType::f16 && w.dtype != DType::bf16) || x.dtype != w.dtype || context.outputs[0].dtype != w.dtype ||
        w.dims.size() != 2)
      return false;
    const std::int64_t rows = w.dims[1] > 0 ? x.shape().elements() / w.dims[1] : 0;
    if (w.dims[1] % 8 != 0 || rows <= kFewRows || std::max({rows, w.dims[0], w.dims[1]}) > kMost / 64) return false;
    const bool biased = context.inputs.size() > 2 && context.inputs[2].present();
    if (biased && (context.inputs[2].dtype != w.dtype || context.inputs[2].dims != std::vector<std::int64_t>{w.dims[0]})) return false;
    const std::span<const std::int64_t> slabs = context.slab_rows;
    for (std::size_t i = 0; i + 1 < slabs.size(); ++i) {
      if (slabs[i] != slabs[0]) return false;
    }
    return slabs.back() <= slabs[0] && slabs[0] * w.dims[1] * 2 <= kMostSlabBytes;
  }
  std::int64_t tiles(std::int64_t columns, std::int64_t size) const {
    return (task_.rows + size - 1) / size * ((columns + size - 1) / size);
  }
  bool large(std::int64_t columns) const { return tiles(columns, 128) >= kFullBlocks; }

  const std::unique_ptr<Kernel> other_;
  const StatePtr state_;
  MergedKernel* merged_other_ = nullptr;
  LinearTask task_;
  bool own_ = false;
};
static_assert(SlabTable::kMost >= kMostMerged);

KernelPtr make_linear_mma(const NodeView& node, std::span<const TypeShape> inputs, std::span<const TypeShape> outputs,
                          const StatePtr& state) {
  const auto activation = node_activation(node);
  for (const TableEntry& entry : product_table()) {
    if (entry.op != node.op() || entry.domain != node.domain()) continue;
    KernelPtr other = entry.make(node, inputs, outputs, state);
    if (other == nullptr || !activation || node.integer("transB", 1) == 0) return other;
    return std::make_unique<LinearKernel>(*activation, std::move(other), state);
  }
  return nullptr;
}

}  // namespace

std::span<const TableEntry> linear_table() {
  static constexpr TableEntry kTable[] = {{"forebay", "Linear", make_linear_mma}};
  return kTable;
}

}  // namespace forebay::cuda
