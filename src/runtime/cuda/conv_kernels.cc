// Conv, forebay.Conv and ConvTranspose: which kernel does a node, and how a sum is split. Weights may come in slabs of filters.
#include <algorithm>

#include "runtime/cuda/activation_names.h"
#include "runtime/cuda/conv_task.h"
#include "runtime/cuda/kernel_base.h"
#include "runtime/ops/conv_transpose.h"
#include "runtime/ops/window.h"

namespace forebay::cuda {
namespace {

constexpr std::int64_t kMost = std::int64_t{1} << 30;  // elements that kernels count in 32 bits

class ConvKernel final : public Kernel {
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
    if (context.sliced_input != plan::kNone && context.sliced_input != 1) return context.node.unsupported("only the weight may come in slabs");
    sliced_ = context.sliced_input != plan::kNone;
    FB_ASSIGN(const ops::Window window, window_of(context.node, x, w));
    const std::int64_t groups = context.node.integer("group", 1);
    const std::int64_t filters = context.outputs[0].dims[1];
    for (const std::int64_t count : {x[0] * window.out_size(), filters * window.taps(), x[1] * window.taps(), window.in_size()}) {
      if (count > kMost) return context.node.unsupported("sizes beyond 32 bits");
    }
    task_.type = context.inputs[0].dtype;
    task_.batch = static_cast<int>(x[0]);
    task_.groups = static_cast<int>(groups);
    task_.all_filters = static_cast<int>(filters);
    for (std::size_t d = 0; d < 3; ++d) {
      task_.in[d] = static_cast<int>(window.in[d]);
      task_.out[d] = static_cast<int>(window.out[d]);
      task_.kernel[d] = static_cast<int>(window.kernel[d]);
      task_.stride[d] = static_cast<int>(window.stride[d]);
      task_.dilation[d] = static_cast<int>(window.dilation[d]);
      task_.pad[d] = static_cast<int>(window.pad[d]);
    }
    task_.taps = static_cast<int>(window.taps());
    task_.in_size = static_cast<int>(window.in_size());
    task_.out_size = static_cast<int>(window.out_size());
    const bool single = groups > 1 && x[1] == groups && !task_.transposed;
    if (sliced_ && groups > 1 && !single) return context.node.unsupported("groups in slabs");
    if ((filters / groups + 63) / 64 > 65535 || groups > 4095) {
      if (!single) return context.node.unsupported("more groups or filters than a launch takes");
    }
    task_.channels = static_cast<int>(x[1] / groups);
    const bool tensor = task_.type != DType::f32 && !task_.transposed && task_.taps <= kMostMaskTaps;
    way_ = single ? Way::depthwise : tensor ? Way::mma : Way::plain;
    sums_bytes_ = 0;
    if (way_ != Way::mma) return {};
    std::vector<std::int64_t> sizes(context.slab_rows.begin(), context.slab_rows.end());
    if (!sliced_) sizes = {filters / groups};
    for (const std::int64_t size : sizes) {
      const auto rows = static_cast<int>(size);
      const int splits = splits_of(rows);
      if (splits == 1) continue;
      const auto count = static_cast<std::uint64_t>(splits) * static_cast<std::uint64_t>(groups * size * task_.batch * task_.out_size);
      sums_bytes_ = std::max(sums_bytes_, count * sizeof(float));
    }
    return {};
  }

  std::uint64_t workspace_bytes() const override { return sums_bytes_; }
  std::string_view id() const override {
    constexpr std::string_view kNames[] = {"cuda.conv.mma", "cuda.conv.plain", "cuda.conv.depthwise"};
    return kNames[static_cast<int>(way_)];
  }

  Status run(const KernelCall& call) override {
    ConvTask task = task_;
    task.x = call.inputs[0].data;
    task.w = call.inputs[1].data;
    task.bias = call.inputs.size() > 2 && call.inputs[2].present() ? call.inputs[2].data : nullptr;
    task.y = call.outputs[0].data;
    task.first = sliced_ ? static_cast<int>(call.row_begin) : 0;
    const int rows = sliced_ ? static_cast<int>(call.inputs[1].shape[0]) : task_.all_filters;
    task.filters = way_ == Way::depthwise || sliced_ ? rows : rows / task_.groups;
    switch (way_) {
      case Way::depthwise: return check(launch_conv_depthwise(task, queue_stream()));
      case Way::plain: return check(launch_conv_plain(task, queue_stream()));
      case Way::mma: break;
    }
    task.splits = splits_of(task.filters);
    task.sums = reinterpret_cast<float*>(call.workspace);
    return check(launch_conv_mma(task, tile_of(task.filters), queue_stream()));
  }

 private:
  enum class Way : std::uint8_t { mma, plain, depthwise };
  // A full turn of a large device. Fixed: what depends on the device would give other bits on another.
  static constexpr std::int64_t kBlocks = 128;

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
  ConvTile tile_of(int filters) const { return filters > 64 && tiles(filters, ConvTile::large) >= kBlocks ? ConvTile::large : ConvTile::small; }
  // Few outputs and long sums: several blocks share a sum, each with four steps or more.
  int splits_of(int filters) const {
    const std::int64_t blocks = std::max<std::int64_t>(1, tiles(filters, tile_of(filters)));
    const std::int64_t steps = (static_cast<std::int64_t>(task_.channels) * task_.taps + kConvDepth - 1) / kConvDepth;
    if (blocks >= kBlocks) return 1;
    return static_cast<int>(std::clamp<std::int64_t>(std::min(2 * kBlocks / blocks, steps / 4), 1, 16));
  }

  const StatePtr state_;
  ConvTask task_;
  Way way_ = Way::plain;
  bool sliced_ = false;
  std::uint64_t sums_bytes_ = 0;
};

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
  static constexpr TableEntry kTable[] = {{"", "Conv", make_conv}, {"forebay", "Conv", make_conv}, {"", "ConvTranspose", make_conv}};
  return kTable;
}

}  // namespace forebay::cuda
