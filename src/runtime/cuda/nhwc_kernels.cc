// The forebay.Nhwc operators on images of f16 and bf16: which kernel and tile does a node, and how a sum is split.
#include <algorithm>
#include <array>

#include "runtime/choosing_kernel.h"
#include "runtime/cuda/activation_names.h"
#include "runtime/cuda/kernel_base.h"
#include "runtime/cuda/nhwc_library.h"
#include "runtime/cuda/nhwc_task.h"
#include "runtime/cuda/nhwc_tma.h"
#include "runtime/cuda/split_sums.h"
#include "runtime/merged_kernel.h"
#include "runtime/ops/nhwc.h"

namespace forebay::cuda {
namespace {

constexpr std::int64_t kMost = std::int64_t{1} << 31;      // elements that kernels count in 32 bits
constexpr std::int64_t kMostAxis = std::int64_t{1} << 28;  // so that places far outside an image stay outside of it
constexpr std::int64_t kMostLaunch = 65535;                // blocks but on the first axis

bool half_type(DType type) {
  return type == DType::f16 || type == DType::bf16;
}

Result<NhwcWindow> window_of(const PrepareContext& context) {
  const auto& x = context.inputs[0].dims;
  FB_ASSIGN(const ops::Window from, ops::nhwc_window(context.node, x));
  for (const auto& shape : {x, context.outputs[0].dims}) {
    if (Shape(shape).elements() >= kMost) return context.node.unsupported("sizes beyond 32 bits");
  }
  NhwcWindow to;
  for (std::size_t d = 0; d < 2; ++d) {
    const std::int64_t most =
        std::max({from.kernel[d + 1], from.stride[d + 1], from.dilation[d + 1], from.pad[d + 1], from.pad_end[d + 1]});
    if (most >= kMost) return context.node.unsupported("a kernel, stride, dilation or pad of " + std::to_string(most) + ", beyond 31 bits");
    const std::int64_t padded = from.in[d + 1] + from.pad[d + 1] + from.pad_end[d + 1],
                       reach = (from.kernel[d + 1] - 1) * from.dilation[d + 1];
    if (std::max(padded, reach) >= kMostAxis)
      return context.node.unsupported("an axis of " + std::to_string(std::max(padded, reach)) + " places with its pads, beyond 28 bits");
    to.in[d] = static_cast<int>(from.in[d + 1]);
    to.out[d] = static_cast<int>(from.out[d + 1]);
    to.kernel[d] = static_cast<int>(from.kernel[d + 1]);
    to.stride[d] = static_cast<int>(from.stride[d + 1]);
    to.dilation[d] = static_cast<int>(from.dilation[d + 1]);
    to.pad[d] = static_cast<int>(from.pad[d + 1]);
    to.pad_end[d] = static_cast<int>(from.pad_end[d + 1]);
  }
  return to;
}

class NhwcConvKernel final : public MergedKernel, public ChoosingKernel {
 public:
  NhwcConvKernel(const NamedActivation& activation, StatePtr state) : state_(std::move(state)) {
    task_.activation = activation.activation;
    task_.alpha = activation.alpha;
    task_.beta = activation.beta;
  }

  Status prepare(const PrepareContext& context) override {
    const auto& x = context.inputs[0].dims;
    if (context.sliced_input != plan::kNone && context.sliced_input != 1)
      return context.node.unsupported("only the weight may come in slabs");
    sliced_ = context.sliced_input != plan::kNone;
    FB_ASSIGN(task_.window, window_of(context));
    const std::int64_t groups = context.node.integer("group", 1), channels = x[3] / groups, filters = context.outputs[0].dims[3];
    task_.type = context.inputs[0].dtype;
    task_.batch = static_cast<int>(x[0]);
    task_.groups = static_cast<int>(groups);
    task_.channels = static_cast<int>(channels);
    task_.all_filters = static_cast<int>(filters);
    depthwise_ = channels == 1 && groups > 1;
    const std::int64_t taps = static_cast<std::int64_t>(task_.window.kernel[0]) * task_.window.kernel[1];
    rows_ = {context.slab_rows.begin(), context.slab_rows.end()};
    even_ = !rows_.empty() && std::all_of(rows_.begin(), rows_.end() - 1, [&](std::int64_t rows) { return rows == rows_[0]; });
    even_ = even_ && rows_.back() <= rows_[0];
    if (depthwise_) {
      const bool eights = std::all_of(rows_.begin(), rows_.end(), [](std::int64_t rows) { return rows % 8 == 0; });
      if (filters != groups || groups % 8 != 0 || !eights || taps > kNhwcMostTaps) return context.node.unsupported("this form");
      return {};
    }
    const bool scales = context.inputs.size() > 4 && context.inputs[4].present();
    const bool fits = channels % 8 == 0 || (channels == 4 && groups == 1 && !scales);
    if (!fits || (sliced_ && groups > 1) || groups * 8 > kMostLaunch || taps * channels >= kMost)
      return context.node.unsupported("this form");
    copied_in_tiles_ = fits_tensor_maps();
    // Of the whole node: a sum must not depend on what else a call holds.
    way_ = usual_way();
    return {};
  }

  std::string_view id() const override { return depthwise_ ? "cuda.nhwc.depthwise" : id_of(way_.tile); }
  Status run(const KernelCall& call) override { return run_merged({&call, 1}); }
  bool merges() const override { return sliced_ && even_; }
  Status run_merged(std::span<const KernelCall> calls) override {
    const KernelCall& call = calls[0];
    NhwcConvTask task = task_;
    task.splits = way_.splits;
    task.x = call.inputs[0].data;
    task.bias = call.inputs.size() > 2 && call.inputs[2].present() ? call.inputs[2].data : nullptr;
    task.sum = call.inputs.size() > 3 && call.inputs[3].present() ? call.inputs[3].data : nullptr;
    if (call.inputs.size() > 4 && call.inputs[4].present()) {
      task.scale = call.inputs[4].data;
      task.scale_image = call.inputs[4].shape[0] == 1 ? 0 : task.channels;
    }
    task.y = call.outputs[0].data;
    task.first = sliced_ ? static_cast<int>(call.row_begin) : 0;
    task.w.rows = sliced_ ? call.inputs[1].shape[0] : task.all_filters;
    std::int64_t rows = sliced_ ? 0 : task.all_filters;
    for (std::size_t i = 0; i < calls.size(); ++i) {
      task.w.slabs[i] = calls[i].inputs[1].data;
      if (sliced_) rows += calls[i].inputs[1].shape[0];
    }
    task.filters = static_cast<int>(depthwise_ || sliced_ ? rows : rows / task.groups);
    const cudaError_t error =
        depthwise_ ? launch_nhwc_depthwise(task, queue_stream()) : launch_nhwc_conv(task, way_.tile, queue_stream());
    return error == cudaSuccess ? Status() : state_->errors.check(error, id());
  }

  std::string problem() const override {
    if (depthwise_) return {};
    const NhwcWindow& w = task_.window;
    std::string text = "nhwc_conv " + std::string(dtype_name(task_.type));
    for (const int number : {task_.batch, w.in[0], w.in[1], task_.channels, task_.groups, task_.all_filters, w.kernel[0], w.kernel[1],
                             w.stride[0], w.stride[1], w.dilation[0], w.dilation[1], w.pad[0], w.pad[1], w.out[0], w.out[1]})
      text += " " + std::to_string(number);
    for (const std::int64_t rows : rows_) text += "," + std::to_string(rows);
    return text;
  }
  std::vector<KernelWay> ways() const override {
    if (depthwise_) return {};
    const Way first = usual_way();
    std::vector<KernelWay> all{name_of(first)};
    for (const Way& way : every_way()) {
      if (way != first) all.push_back(name_of(way));
    }
    return all;
  }
  Status take(const KernelWay& wanted) override {
    for (const Way& way : every_way()) {
      if (wanted != name_of(way)) continue;
      way_ = way;
      return {};
    }
    return Status(Code::unsupported, "no such way of a convolution: " + wanted.config);
  }

 private:
  struct Way {
    NhwcTile tile = NhwcTile::small;
    int splits = 1;
    friend bool operator==(const Way&, const Way&) = default;
  };

  static const NhwcTileSize& size_of(NhwcTile tile) { return kNhwcTiles[static_cast<std::size_t>(tile)]; }
  static std::string_view id_of(NhwcTile tile) {
    if (tile == NhwcTile::stem) return "cuda.nhwc.stem";
    if (tile >= NhwcTile::flow) return "cuda.nhwc.flow";
    if (tile >= NhwcTile::tma_wide) return "cuda.nhwc.tma";
    return tile >= NhwcTile::hopper_wide ? "cuda.nhwc.wgmma" : "cuda.nhwc.mma";
  }
  static KernelWay name_of(const Way& way) {
    const NhwcTileSize& size = size_of(way.tile);
    return {std::string(id_of(way.tile)), std::to_string(size.pixels) + "x" + std::to_string(size.filters) + "x" +
                                              std::to_string(size.depth) + "/" + std::to_string(way.splits)};
  }
  bool serves(NhwcTile tile) const {
    if (tile == NhwcTile::stem) return has_nhwc_stem(task_);
    if (task_.channels % 8 != 0) return tile == NhwcTile::small || tile == NhwcTile::wide;
    if (tile >= NhwcTile::tma_wide) return copied_in_tiles_;
    return tile < NhwcTile::hopper_wide || has_nhwc_hopper(state_->capability);
  }
  // What nhwc_tma.h asks for.
  bool fits_tensor_maps() const {
    const NhwcWindow& window = task_.window;
    const bool one_tap = window.kernel[0] * window.kernel[1] == 1;
    if (!has_nhwc_hopper(state_->capability) || task_.groups > 1 || task_.channels % (one_tap ? 8 : 64) != 0) return false;
    if (even_ && rows_.size() > 1 && rows_[0] % 8 != 0) return false;
    const int reach[2] = {(window.kernel[0] - 1) * window.dilation[0], (window.kernel[1] - 1) * window.dilation[1]};
    return has_tensor_map(nhwc_image_map(task_, 0), reach) && driver_has_tensor_maps();
  }
  std::int64_t blocks(NhwcTile tile) const {
    const NhwcTileSize& size = size_of(tile);
    const std::int64_t pixels = static_cast<std::int64_t>(task_.batch) * task_.window.out[0] * task_.window.out[1];
    const std::int64_t filters = task_.all_filters / task_.groups;
    return (pixels + size.pixels - 1) / size.pixels * ((filters + size.filters - 1) / size.filters) * task_.groups;
  }
  std::int64_t steps(NhwcTile tile) const {
    const std::int64_t depth = static_cast<std::int64_t>(task_.window.kernel[0]) * task_.window.kernel[1] * task_.channels;
    return (depth + size_of(tile).depth - 1) / size_of(tile).depth;
  }
  // Splits as far as they are needed for so many blocks.
  Way filled(NhwcTile tile, std::int64_t wanted) const {
    Way way{tile, 1};
    const bool clusters = has_clusters(state_->capability);
    while (clusters && way.splits < 8 && blocks(tile) * way.splits < wanted && steps(tile) / (way.splits * 2) >= 2) way.splits *= 2;
    return way;
  }
  // What was fastest, or close to it, for ResNet-50 at batch 1, 8 and 32 on an H200.
  Way usual_way() const {
    if (serves(NhwcTile::stem)) return {NhwcTile::stem, 1};
    if (task_.channels % 8 != 0) return {blocks(NhwcTile::wide) >= 2 * kFullBlocks ? NhwcTile::wide : NhwcTile::small, 1};
    const std::int64_t depth = static_cast<std::int64_t>(task_.window.kernel[0]) * task_.window.kernel[1] * task_.channels;
    const std::int64_t outputs = static_cast<std::int64_t>(task_.batch) * task_.window.out[0] * task_.window.out[1] * task_.all_filters;
    if (outputs * depth < std::int64_t{256} << 20) return filled(NhwcTile::narrow, 3 * kFullBlocks / 2);
    const bool hopper = serves(NhwcTile::hopper_wide) && depth > kNhwcTiles[0].depth;
    const NhwcTile large = copied_in_tiles_ ? NhwcTile::tma_large : hopper ? NhwcTile::hopper_large : NhwcTile::large;
    const NhwcTile wide = copied_in_tiles_ ? NhwcTile::tma_wide : hopper ? NhwcTile::hopper_wide : NhwcTile::wide;
    if (task_.all_filters / task_.groups > 64) {
      if (blocks(large) >= kFullBlocks) return {large, 1};
      const Way split = filled(large, kFullBlocks);
      if (blocks(large) >= 50 && steps(large) / split.splits >= 8) return split;
    }
    return filled(wide, kFullBlocks);
  }
  // Where one tile keeps the device busy its sums are not split; where it cannot, larger ones are of no use.
  std::vector<Way> every_way() const {
    std::vector<Way> all;
    const int most = has_clusters(state_->capability) ? 8 : 1;
    for (std::size_t i = 0; i < std::size(kNhwcTiles); ++i) {
      const auto tile = static_cast<NhwcTile>(i);
      for (int splits = 1; serves(tile) && splits <= most; splits *= 2) {
        const std::int64_t launched = blocks(tile) * splits;
        const bool fits = splits == 1 || (launched <= 4 * kFullBlocks && steps(tile) / splits >= 2 && tile < NhwcTile::flow);
        if (fits && (launched >= kFullBlocks / 4 || tile <= NhwcTile::narrow || tile == NhwcTile::stem)) all.push_back({tile, splits});
      }
    }
    return all;
  }

  const StatePtr state_;
  NhwcConvTask task_;
  Way way_;
  std::vector<std::int64_t> rows_;
  bool sliced_ = false, even_ = false, depthwise_ = false, copied_in_tiles_ = false;
};

class NhwcPoolKernel final : public CudaKernel {
 public:
  NhwcPoolKernel(std::string_view op, DType type, StatePtr state)
      : CudaKernel("cuda.nhwc.pool", std::move(state)), global_(op.find("Global") != op.npos) {
    task_.type = type;
    task_.average = op.find("Average") != op.npos;
  }
  Status setup(const PrepareContext& context) override {
    const auto& x = context.inputs[0].dims;
    if (x[3] % 8 != 0 || x[0] > kMostLaunch) return context.node.unsupported("this form");
    task_.batch = static_cast<int>(x[0]);
    task_.channels = static_cast<int>(x[3]);
    task_.count_pads = context.node.integer("count_include_pad", 0) != 0;
    if (global_) {
      if (Shape(x).elements() >= kMost) return context.node.unsupported("sizes beyond 32 bits");
      task_.window.in[0] = static_cast<int>(x[1]);
      task_.window.in[1] = static_cast<int>(x[2]);
      return {};
    }
    FB_ASSIGN(task_.window, window_of(context));
    return {};
  }
  Status run(const KernelCall& call) override {
    NhwcPoolTask task = task_;
    task.x = call.inputs[0].data;
    task.y = call.outputs[0].data;
    return check(global_ ? launch_nhwc_mean(task, queue_stream()) : launch_nhwc_pool(task, queue_stream()));
  }

 private:
  const bool global_;
  NhwcPoolTask task_;
};

class NhwcSqueezeKernel final : public CudaKernel {
 public:
  NhwcSqueezeKernel(const std::array<NamedActivation, 2>& activations, DType type, StatePtr state)
      : CudaKernel("cuda.nhwc.squeeze", std::move(state)) {
    task_.type = type;
    for (std::size_t i = 0; i < 2; ++i) {
      task_.activation[i] = activations[i].activation;
      task_.alpha[i] = activations[i].alpha;
      task_.beta[i] = activations[i].beta;
    }
  }
  Status setup(const PrepareContext& context) override {
    const auto& x = context.inputs[0].dims;
    const std::int64_t squeezed = context.inputs[1].dims[0], factors = context.outputs[0].dims[3];
    if (x[3] % 8 != 0 || x[3] > kNhwcMostSqueezed || squeezed > kNhwcMostSqueezed || factors * squeezed >= kMost || x[0] > kMostLaunch ||
        Shape(x).elements() >= kMost)
      return context.node.unsupported("this form");
    task_.batch = static_cast<int>(x[0]);
    task_.pixels = static_cast<int>(x[1] * x[2]);
    task_.channels = static_cast<int>(x[3]);
    task_.squeezed = static_cast<int>(squeezed);
    task_.factors = static_cast<int>(factors);
    // One block a multiprocessor: each reads the first weight.
    while (has_clusters(state_->capability) && task_.splits < 8 && task_.batch * task_.splits * 2 <= kFullBlocks) task_.splits *= 2;
    return {};
  }
  Status run(const KernelCall& call) override {
    NhwcSqueezeTask task = task_;
    const auto given = [&](std::size_t i) { return i < call.inputs.size() && call.inputs[i].present() ? call.inputs[i].data : nullptr; };
    task.x = given(0);
    for (std::size_t i = 0; i < 2; ++i) {
      task.w[i] = given(1 + 2 * i);
      task.bias[i] = given(2 + 2 * i);
    }
    task.y = call.outputs[0].data;
    return check(launch_nhwc_squeeze(task, queue_stream()));
  }

 private:
  NhwcSqueezeTask task_;
};

class NhwcScaleKernel final : public CudaKernel {
 public:
  NhwcScaleKernel(DType type, StatePtr state) : CudaKernel("cuda.nhwc.scale", std::move(state)) { task_.type = type; }
  Status setup(const PrepareContext& context) override {
    const auto& x = context.inputs[0].dims;
    task_.batch = x[0];
    task_.pixels = x[1] * x[2];
    task_.channels = x[3];
    task_.shared = context.inputs[1].dims[0] == 1;
    return x[3] % 8 == 0 && x[0] <= kMostLaunch && Shape(x).elements() < kMost ? Status() : context.node.unsupported("this form");
  }
  Status run(const KernelCall& call) override {
    NhwcScaleTask task = task_;
    task.x = call.inputs[0].data;
    task.scale = call.inputs[1].data;
    task.y = call.outputs[0].data;
    return check(launch_nhwc_scale(task, queue_stream()));
  }

 private:
  NhwcScaleTask task_;
};

class NhwcFromKernel final : public CudaKernel {
 public:
  explicit NhwcFromKernel(StatePtr state) : CudaKernel("cuda.nhwc.from", std::move(state)) {}
  Status setup(const PrepareContext& context) override {
    const auto& x = context.inputs[0].dims;
    const auto& y = context.outputs[0].dims;
    if (x[0] > kMostLaunch || y[3] > kMostLaunch || x[2] * x[3] >= kMost) return context.node.unsupported("this form");
    task_.batch = x[0];
    task_.channels = static_cast<int>(x[1]);
    task_.pixels = static_cast<int>(x[2] * x[3]);
    task_.wide = static_cast<int>(y[3]);
    return {};
  }
  Status run(const KernelCall& call) override {
    NhwcFromTask task = task_;
    task.x = call.inputs[0].data;
    task.y = call.outputs[0].data;
    return check(launch_nhwc_from(task, queue_stream()));
  }

 private:
  NhwcFromTask task_;
};

KernelPtr make_conv(const NodeView& node, std::span<const TypeShape> inputs, std::span<const TypeShape>, const StatePtr& state) {
  const auto activation = node_activation(node);
  if (!activation || !half_type(inputs[0].dtype)) return nullptr;
  return with_cudnn(*activation, std::make_unique<NhwcConvKernel>(*activation, state), state);
}
KernelPtr make_pool(const NodeView& node, std::span<const TypeShape> inputs, std::span<const TypeShape>, const StatePtr& state) {
  return half_type(inputs[0].dtype) ? std::make_unique<NhwcPoolKernel>(node.op(), inputs[0].dtype, state) : nullptr;
}
KernelPtr make_squeeze(const NodeView& node, std::span<const TypeShape> inputs, std::span<const TypeShape>, const StatePtr& state) {
  const auto down = node_activation(node, "squeeze_activation"), up = node_activation(node);
  if (!down || !up || !half_type(inputs[0].dtype)) return nullptr;
  return std::make_unique<NhwcSqueezeKernel>(std::array<NamedActivation, 2>{*down, *up}, inputs[0].dtype, state);
}
KernelPtr make_scale(const NodeView&, std::span<const TypeShape> inputs, std::span<const TypeShape>, const StatePtr& state) {
  return half_type(inputs[0].dtype) ? std::make_unique<NhwcScaleKernel>(inputs[0].dtype, state) : nullptr;
}
KernelPtr make_from(const NodeView&, std::span<const TypeShape> inputs, std::span<const TypeShape>, const StatePtr& state) {
  return half_type(inputs[0].dtype) ? std::make_unique<NhwcFromKernel>(state) : nullptr;
}

}  // namespace

std::span<const TableEntry> nhwc_table() {
  static constexpr TableEntry kTable[] = {{"forebay", "NhwcConv", make_conv},        {"forebay", "NhwcMaxPool", make_pool},
                                          {"forebay", "NhwcAveragePool", make_pool}, {"forebay", "NhwcGlobalAveragePool", make_pool},
                                          {"forebay", "NhwcSqueeze", make_squeeze},  {"forebay", "NhwcScale", make_scale},
                                          {"forebay", "NhwcFromNchw", make_from}};
  return kTable;
}

}  // namespace forebay::cuda
