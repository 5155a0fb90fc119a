// Conv, forebay.Conv, ConvTranspose and pools: which kernel does a node, and how a sum is split. Weights may come in slabs of filters.
#include <algorithm>

#include "runtime/cuda/activation_names.h"
#include "runtime/cuda/conv_task.h"
#include "runtime/cuda/kernel_base.h"
#include "runtime/cuda/split_sums.h"
#include "runtime/cuda/window_task.h"
#include "runtime/merged_kernel.h"
#include "runtime/ops/conv_transpose.h"

namespace forebay::cuda {
namespace {

class ConvKernel final : public MergedKernel {
 public:
  ConvKernel(bool transposed, const NamedActivation& activation, StatePtr state) : state_(std::move(state)) {
    task_.transposed = transposed;
    task_.activation = activation.activation;
    task_.alpha = activation.alpha;
    task_.beta = activation.beta;
  }

  Status prepare(const PrepareContext& context) override {
    const auto& x = context.inputs[0].dims;
    const auto& w = context.inputs[1].dims;
    if (context.sliced_input != plan::kNone && context.sliced_input != 1)
      return context.node.unsupported("only the weight may come in slabs");
    sliced_ = context.sliced_input != plan::kNone;
    FB_ASSIGN(const ops::Window window, window_of(context.node, x, w));
    const std::int64_t groups = context.node.integer("group", 1);
    const std::int64_t filters = context.outputs[0].dims[1];
    FB_TRY(set_conv(context.node, window, x, filters, task_));
    task_.type = context.inputs[0].dtype;
    const bool single = groups > 1 && x[1] == groups && !task_.transposed;
    if (sliced_ && groups > 1 && !single) return context.node.unsupported("groups in slabs");
    if ((filters / groups + 63) / 64 > 65535 || groups > 4095) {
      if (!single) return context.node.unsupported("more groups or filters than a launch takes");
    }
    task_.channels = static_cast<int>(x[1] / groups);
    task_.masked = false;
    task_.dense = window.taps() == 1 && window.stride == std::array<std::int64_t, 3>{1, 1, 1} &&
                  window.pad == std::array<std::int64_t, 3>{0, 0, 0} && window.in == window.out;
    for (std::size_t d = 0; d < 3; ++d) {
      const std::int64_t last = (window.out[d] - 1) * window.stride[d] - window.pad[d] + (window.kernel[d] - 1) * window.dilation[d];
      task_.masked = task_.masked || window.pad[d] > 0 || last >= window.in[d];
    }
    const bool tensor = task_.type != DType::f32 && !task_.transposed && task_.taps <= (task_.masked ? kMostMaskTaps : kMostTaps);
    way_ = single ? Way::depthwise : tensor ? Way::mma : Way::plain;
    const std::span<const std::int64_t> rows = context.slab_rows;
    even_slabs_ = !rows.empty() && rows.back() <= rows[0];
    for (std::size_t i = 0; i + 1 < rows.size(); ++i) even_slabs_ = even_slabs_ && rows[i] == rows[0];
    // Of the whole node: a sum must not depend on what else a call holds.
    task_.splits = way_ == Way::mma ? splits_of(static_cast<int>(filters / groups)) : 1;
    const auto sums = static_cast<std::uint64_t>(task_.splits) * static_cast<std::uint64_t>(filters * task_.batch * task_.out_size);
    task_.clusters = task_.splits > 1 && has_clusters(state_->capability);
    sums_bytes_ = task_.splits > 1 && !task_.clusters ? sums * sizeof(float) : 0;
    return {};
  }

  std::uint64_t workspace_bytes() const override { return sums_bytes_; }
  std::string_view id() const override {
    constexpr std::string_view kNames[] = {"cuda.conv.mma", "cuda.conv.plain", "cuda.conv.depthwise"};
    return kNames[static_cast<int>(way_)];
  }

  Status run(const KernelCall& call) override { return run_merged({&call, 1}); }
  bool merges() const override { return sliced_ && even_slabs_; }
  Status run_merged(std::span<const KernelCall> calls) override {
    const KernelCall& call = calls[0];
    ConvTask task = task_;
    task.x = call.inputs[0].data;
    task.bias = call.inputs.size() > 2 && call.inputs[2].present() ? call.inputs[2].data : nullptr;
    task.sum = call.inputs.size() > 3 && call.inputs[3].present() ? call.inputs[3].data : nullptr;
    task.y = call.outputs[0].data;
    task.sums = reinterpret_cast<float*>(call.workspace);
    task.first = sliced_ ? static_cast<int>(call.row_begin) : 0;
    task.w.rows = sliced_ ? call.inputs[1].shape[0] : task.all_filters;
    std::int64_t rows = sliced_ ? 0 : task.all_filters;
    for (std::size_t i = 0; i < calls.size(); ++i) {
      task.w.slabs[i] = calls[i].inputs[1].data;
      if (sliced_) rows += calls[i].inputs[1].shape[0];
    }
    task.filters = static_cast<int>(way_ == Way::depthwise || sliced_ ? rows : rows / task.groups);
    switch (way_) {
      case Way::depthwise:
        return check(launch_conv_depthwise(task, queue_stream()));
      case Way::plain:
        return check(launch_conv_plain(task, queue_stream()));
      case Way::mma:
        break;
    }
    return check(launch_conv_mma(task, tile_of(task.filters), queue_stream()));
  }

 private:
  enum class Way : std::uint8_t { mma, plain, depthwise };

  Status check(cudaError_t error) const { return error == cudaSuccess ? Status() : state_->errors.check(error, id()); }

  Result<ops::Window> window_of(const NodeView& node, std::span<const std::int64_t> x, std::span<const std::int64_t> w) const {
    if (task_.transposed) return ops::conv_transpose_window(node, x, w);
    FB_ASSIGN(const ops::WindowSpec spec, ops::window_spec(node, x.size() - 2, w.subspan(2)));
    return ops::resolve_window(node, spec, x.subspan(2));
  }

  std::int64_t tiles(int filters, ConvTile tile) const {
    const std::int64_t size = conv_tile_size(tile), columns = static_cast<std::int64_t>(task_.batch) * task_.out_size;
    return (columns + size - 1) / size * ((filters + size - 1) / size) * task_.groups;
  }
  ConvTile tile_of(int filters) const {
    return filters > 64 && tiles(filters, ConvTile::large) >= kFullBlocks ? ConvTile::large : ConvTile::small;
  }
  int splits_of(int filters) const {
    const std::int64_t steps = (static_cast<std::int64_t>(task_.channels) * task_.taps + kConvDepth - 1) / kConvDepth;
    return split_count(std::max<std::int64_t>(1, tiles(filters, tile_of(filters))), steps);
  }

  const StatePtr state_;
  ConvTask task_;
  Way way_ = Way::plain;
  bool sliced_ = false, even_slabs_ = false;
  std::uint64_t sums_bytes_ = 0;
};
static_assert(SlabTable::kMost >= kMostMerged);

class PoolKernel final : public CudaKernel {
 public:
  PoolKernel(PoolKind kind, DType type, StatePtr state) : CudaKernel("cuda.pool", std::move(state)) {
    task_.kind = kind;
    task_.type = type;
  }
  Status setup(const PrepareContext& context) override {
    const NodeView& node = context.node;
    const auto& x = context.inputs[0].dims;
    FB_ASSIGN(const ops::WindowSpec spec, ops::window_spec(node, x.size() - 2, {}));
    FB_ASSIGN(const ops::Window window, ops::resolve_window(node, spec, std::span(x).subspan(2)));
    task_.planes = x[0] * x[1];
    task_.spatial = window.spatial;
    task_.count_pads = node.integer("count_include_pad", 0) != 0;
    task_.column_major = node.integer("storage_order", 0) != 0;
    task_.p = static_cast<float>(node.integer("p", 2));
    return set_window(node, window, task_);
  }
  Status run(const KernelCall& call) override {
    PoolTask task = task_;
    task.x = call.inputs[0].data;
    task.y = call.outputs[0].data;
    if (call.outputs.size() > 1 && call.outputs[1].present()) task.indices = reinterpret_cast<std::int64_t*>(call.outputs[1].data);
    return check(launch_pool(task, queue_stream()));
  }

 private:
  PoolTask task_;
};

template <PoolKind kind>
KernelPtr make_pool(const NodeView&, std::span<const TypeShape> inputs, std::span<const TypeShape>, const StatePtr& state) {
  const DType type = inputs[0].dtype;
  const bool small = kind == PoolKind::max && (type == DType::i8 || type == DType::u8);
  return float_type(type) || small ? std::make_unique<PoolKernel>(kind, type, state) : nullptr;
}

KernelPtr make_conv(const NodeView& node, std::span<const TypeShape> inputs, std::span<const TypeShape>, const StatePtr& state) {
  const auto activation = node_activation(node);
  if (!activation || !float_type(inputs[0].dtype)) return nullptr;
  for (const TypeShape& input : inputs) {
    if (input.present() && input.dtype != inputs[0].dtype) return nullptr;
  }
  return std::make_unique<ConvKernel>(node.op() == "ConvTranspose", *activation, state);
}

}  // namespace

std::span<const TableEntry> conv_table() {
  static constexpr TableEntry kTable[] = {{"", "Conv", make_conv},
                                          {"forebay", "Conv", make_conv},
                                          {"", "ConvTranspose", make_conv},
                                          {"", "MaxPool", make_pool<PoolKind::max>},
                                          {"", "AveragePool", make_pool<PoolKind::average>},
                                          {"", "LpPool", make_pool<PoolKind::lp>}};
  return kTable;
}

}  // namespace forebay::cuda
