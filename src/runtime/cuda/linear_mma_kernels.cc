// forebay.Linear of more than a few rows by a weight of moderate size: one launch for the slabs that wait for nothing, where the library
// would be called for each. All else is the products' of product_kernels.cc.
#include <algorithm>

#include "runtime/cuda/activation_names.h"
#include "runtime/cuda/kernel_base.h"
#include "runtime/cuda/linear_task.h"
#include "runtime/cuda/split_sums.h"
#include "runtime/merged_kernel.h"

namespace forebay::cuda {
namespace {

constexpr std::int64_t kFewRows = 8;                 // the matrix-vector kernels'
constexpr std::int64_t kMostWeightBytes = 6 << 20;  // slabs of larger ones fill the library's kernels
constexpr std::int64_t kMostRows = 1 << 22;

class LinearKernel final : public MergedKernel {
 public:
  LinearKernel(const NamedActivation& activation, StatePtr state) : state_(std::move(state)) {
    task_.activation = activation.activation;
    task_.alpha = activation.alpha;
    task_.beta = activation.beta;
  }

  Status prepare(const PrepareContext& context) override {
    if (context.sliced_input != plan::kNone && context.sliced_input != 1)
      return context.node.unsupported("only the second operand may come in slabs");
    sliced_ = context.sliced_input != plan::kNone;
    even_slabs_ = true;
    const std::span<const std::int64_t> slabs = context.slab_rows;
    for (std::size_t i = 0; i < slabs.size(); ++i)
      even_slabs_ = even_slabs_ && (slabs[i] == slabs[0] || (i + 1 == slabs.size() && slabs[i] < slabs[0]));
    const std::vector<std::int64_t>& w = context.inputs[1].dims;
    task_.type = context.inputs[1].dtype;
    task_.turned = context.node.integer("transB", 1) == 0;
    for (std::size_t i = 0; task_.turned && i + 1 < slabs.size(); ++i) {
      if (slabs[i] % 16 != 0) return context.node.unsupported("slabs that are not whole blocks");
    }
    task_.depth = static_cast<int>(w[task_.turned ? 0 : 1]);
    task_.all_columns = static_cast<int>(w[task_.turned ? 1 : 0]);
    task_.x_row = task_.depth;
    task_.rows = static_cast<int>(context.inputs[0].shape().elements() / task_.depth);
    task_.splits = 1;
    task_.clusters = false;
    if (task_.turned) return {};  // slabs are parts of the sums themselves
    // Of the whole node: a sum must not depend on what else a call holds.
    const std::int64_t blocks = tiles(task_.all_columns, large(task_.all_columns) ? 128 : 64);
    task_.splits = split_count(blocks, (task_.depth + kLinearDepth - 1) / kLinearDepth);
    task_.clusters = task_.splits > 1 && has_clusters(state_->capability);
    return {};
  }
  std::uint64_t workspace_bytes() const override {
    if (task_.turned ? !sliced_ : task_.splits == 1 || task_.clusters) return 0;
    const std::int64_t sums = std::int64_t{task_.splits} * task_.rows * task_.all_columns;
    return static_cast<std::uint64_t>(sums) * sizeof(float);
  }
  std::string_view id() const override { return "cuda.linear_mma"; }
  bool merges() const override { return sliced_ && even_slabs_; }
  Status run(const KernelCall& call) override { return run_merged({&call, 1}); }
  Status run_merged(std::span<const KernelCall> calls) override {
    const KernelCall& call = calls[0];
    LinearTask task = task_;
    task.x = call.inputs[0].data;
    task.bias = call.inputs.size() > 2 && call.inputs[2].present() ? call.inputs[2].data : nullptr;
    task.y = call.outputs[0].data;
    task.sums = reinterpret_cast<float*>(call.workspace);
    task.first = static_cast<int>(sliced_ && !task.turned ? call.row_begin : 0);
    if (task.turned) {
      task.columns = task.all_columns;
      task.depth = 0;
      task.x = call.inputs[0].data + (sliced_ ? call.row_begin : 0) * 2;
      task.first_part = call.slab == 0;
      task.last_part = calls.back().slab + 1 == calls.back().slab_count;
    }
    task.w.rows = call.inputs[1].shape[0];
    for (std::size_t i = 0; i < calls.size(); ++i) {
      task.w.slabs[i] = calls[i].inputs[1].data;
      (task.turned ? task.depth : task.columns) += static_cast<int>(calls[i].inputs[1].shape[0]);
    }
    const cudaError_t error = launch_linear_mma(task, large(task.columns), queue_stream());
    return error == cudaSuccess ? Status() : state_->errors.check(error, id());
  }

 private:
  std::int64_t tiles(std::int64_t columns, std::int64_t size) const {
    return (task_.rows + size - 1) / size * ((columns + size - 1) / size);
  }
  bool large(std::int64_t columns) const { return task_.splits == 1 && tiles(columns, 128) >= kFullBlocks; }

  const StatePtr state_;
  LinearTask task_;
  bool sliced_ = false, even_slabs_ = false;
};
static_assert(SlabTable::kMost >= kMostMerged);

bool fits(const NodeView& node, std::span<const TypeShape> inputs, std::span<const TypeShape> outputs) {
  const TypeShape &x = inputs[0], &w = inputs[1];
  const std::size_t inner = node.integer("transB", 1) == 0 ? 0 : 1;
  if ((w.dtype != DType::f16 && w.dtype != DType::bf16) || x.dtype != w.dtype) return false;
  if (outputs[0].dtype != w.dtype || !x.known() || !w.known() || w.dims.size() != 2) return false;
  const std::int64_t depth = w.dims[inner], columns = w.dims[1 - inner];
  if (depth <= 0 || depth % 8 != 0 || (inner == 0 && columns % 8 != 0)) return false;
  const std::int64_t rows = x.shape().elements() / depth;
  if (rows <= kFewRows || rows > kMostRows || columns > kMostWeightBytes / 2 / depth) return false;
  const bool biased = inputs.size() > 2 && inputs[2].present();
  return !biased || (inputs[2].dtype == w.dtype && inputs[2].dims == std::vector<std::int64_t>{columns});
}

KernelPtr make_linear_mma(const NodeView& node, std::span<const TypeShape> inputs, std::span<const TypeShape> outputs,
                          const StatePtr& state) {
  const auto activation = node_activation(node);
  if (!activation || !fits(node, inputs, outputs)) return nullptr;
  return std::make_unique<LinearKernel>(*activation, state);
}

}  // namespace

std::span<const TableEntry> linear_table() {
  static constexpr TableEntry kTable[] = {{"forebay", "Linear", make_linear_mma}};
  return kTable;
}

}  // namespace forebay::cuda
