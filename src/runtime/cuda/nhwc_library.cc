// cuDNN computes a node's filters in one call of the whole node's shape, whatever the budget: slabs are copied behind each other in the
// workspace as they come, and the last one's call computes. A call a slab would leave most of the device idle, and give rows of y that no
// engine is made for.
#include "runtime/cuda/nhwc_library.h"

#include <algorithm>

#include "runtime/choosing_kernel.h"
#include "runtime/cuda/cudnn_conv.h"
#include "runtime/merged_kernel.h"
#include "runtime/ops/nhwc.h"

namespace forebay::cuda {
namespace {

constexpr std::string_view kId = "cuda.cudnn";
constexpr std::uint64_t kAlign = 256;

class CudnnNhwcConv final : public MergedKernel, public ChoosingKernel, public WeightReader {
 public:
  CudnnNhwcConv(const NamedActivation& activation, KernelPtr own, StatePtr state)
      : state_(std::move(state)),
        own_(std::move(own)),
        merged_(dynamic_cast<MergedKernel&>(*own_)),
        choosing_(dynamic_cast<ChoosingKernel&>(*own_)) {
    shape_.activation = activation.activation;
    shape_.alpha = activation.alpha;
    shape_.beta = activation.beta;
  }

  Status prepare(const PrepareContext& context) override {
    library_.reset();
    taken_ = excluded_ = false;
    FB_TRY(own_->prepare(context));
    const auto given = [&](std::size_t i) { return i < context.inputs.size() && context.inputs[i].present(); };
    const auto &x = context.inputs[0].dims, &y = context.outputs[0].dims;
    FB_ASSIGN(const ops::Window window, ops::nhwc_window(context.node, x));
    for (std::size_t d = 0; d < 2; ++d) {
      shape_.window.in[d] = static_cast<int>(window.in[d + 1]);
      shape_.window.out[d] = static_cast<int>(window.out[d + 1]);
      shape_.window.kernel[d] = static_cast<int>(window.kernel[d + 1]);
      shape_.window.stride[d] = static_cast<int>(window.stride[d + 1]);
      shape_.window.dilation[d] = static_cast<int>(window.dilation[d + 1]);
      shape_.window.pad[d] = static_cast<int>(window.pad[d + 1]);
      shape_.window.pad_end[d] = static_cast<int>(window.pad_end[d + 1]);
    }
    shape_.type = context.inputs[0].dtype;
    shape_.batch = static_cast<int>(x[0]);
    shape_.groups = static_cast<int>(context.node.integer("group", 1));
    shape_.channels = static_cast<int>(x[3]) / shape_.groups;
    shape_.filters = static_cast<int>(y[3]);
    shape_.biased = given(2);
    shape_.added = given(3);
    row_bytes_ = std::int64_t{2} * window.kernel[1] * window.kernel[2] * shape_.channels;
    const std::size_t slabs = context.slab_rows.size();
    gathers_ = context.sliced_input != plan::kNone && slabs > 1;
    serves_ = !choosing_.problem().empty() && !given(4) && cudnn_describes(shape_) && Shape(y).elements() > 0 &&
              slabs <= std::min<std::size_t>(kMostMerged, GatherSlabsTask::kMost);
    return {};
  }
  void reads_weight(std::size_t input) override {
    if (auto* const reader = dynamic_cast<WeightReader*>(own_.get()); reader != nullptr) reader->reads_weight(input);
  }

  void exclude(const std::function<bool(std::string_view)>& excluded) override {
    choosing_.exclude(excluded);
    excluded_ = excluded(kId);
  }

  // What the library's graph holds belongs to the problem, whether the library is here or not: a plan's times are found on either machine.
  std::string problem() const override {
    std::string text = choosing_.problem();
    if (!serves_) return text;
    if (shape_.biased) text += " +b";
    if (shape_.added) text += " +sum";
    if (shape_.activation == Activation::none) return text;
    text += " +activation=" + std::to_string(static_cast<int>(shape_.activation));
    if (shape_.alpha != 0 || shape_.beta != 0) text += "," + std::to_string(shape_.alpha) + "," + std::to_string(shape_.beta);
    return text;
  }
  std::vector<KernelWay> ways() const override {
    std::vector<KernelWay> all = choosing_.ways();
    if (!serves_ || excluded_) return all;
    for (std::string& config : cudnn_configs(shape_, *state_)) all.push_back({std::string(kId), std::move(config)});
    return all;
  }
  // On a device that has not started (a build that only writes down what it knows) nothing runs: the library is taken at its word.
  Status take(const KernelWay& way) override {
    if (way.kernel != kId) {
      FB_TRY(choosing_.take(way));
      library_.reset();
      taken_ = false;
      return {};
    }
    const std::optional<std::uint64_t> bytes = serves_ ? cudnn_workspace(cudnn_version(), way.config) : std::nullopt;
    auto made = bytes && state_->started() ? make_cudnn_conv(shape_, state_, way.config) : nullptr;
    if (!bytes || (made == nullptr && state_->started()))
      return Status(Code::unsupported, "'" + way.kernel + " " + way.config + "' is not to be had here");
    library_ = std::move(made);
    library_bytes_ = *bytes;
    taken_ = true;
    return {};
  }

  std::string_view id() const override { return taken_ ? kId : own_->id(); }
  std::uint64_t workspace_bytes() const override { return taken_ ? gathered_bytes() + library_bytes_ : own_->workspace_bytes(); }
  bool merges() const override { return taken_ ? gathers_ : merged_.merges(); }
  Status run(const KernelCall& call) override { return taken_ ? run_merged({&call, 1}) : own_->run(call); }

  Status run_merged(std::span<const KernelCall> calls) override {
    if (!taken_) return merged_.run_merged(calls);
    if (library_ == nullptr) return Status(Code::internal, "a convolution was prepared before the device started");
    const KernelCall& call = calls[0];
    const auto given = [&](std::size_t i) { return i < call.inputs.size() && call.inputs[i].present() ? call.inputs[i].data : nullptr; };
    CudnnOperands operands{given(0), given(1), given(2), given(3), call.outputs[0].data, call.workspace + gathered_bytes()};
    if (gathers_) {
      FB_TRY(gather(calls));
      if (calls.back().slab + 1 != calls.back().slab_count) return {};
      operands.w = call.workspace;
    }
    return library_->run(operands, queue_stream());
  }

 private:
  std::uint64_t gathered_bytes() const {
    const std::uint64_t bytes = gathers_ ? static_cast<std::uint64_t>(row_bytes_) * static_cast<std::uint64_t>(shape_.filters) : 0;
    return (bytes + kAlign - 1) / kAlign * kAlign;
  }
  Status gather(std::span<const KernelCall> calls) const {
    GatherSlabsTask task;
    task.to = calls[0].workspace + calls[0].row_begin * row_bytes_;
    for (const KernelCall& call : calls) {
      task.from[task.count] = call.inputs[1].data;
      task.begins[task.count + 1] = task.begins[task.count] + call.inputs[1].shape[0] * row_bytes_ / 8;
      ++task.count;
    }
    const cudaError_t error = launch_gather_slabs(task, queue_stream());
    return error == cudaSuccess ? Status() : state_->errors.check(error, kId);
  }

  const StatePtr state_;
  const KernelPtr own_;
  MergedKernel& merged_;  // own_
  ChoosingKernel& choosing_;
  CudnnShape shape_;
  std::int64_t row_bytes_ = 0;  // of a filter; a multiple of 8
  bool gathers_ = false, serves_ = false, excluded_ = false;
  bool taken_ = false;                  // the library's way, library_ null where the device has not started
  std::uint64_t library_bytes_ = 0;     // of its workspace
  std::unique_ptr<CudnnConv> library_;  // with taken_
};

}  // namespace

KernelPtr with_cudnn(const NamedActivation& activation, KernelPtr own, StatePtr state) {
  return std::make_unique<CudnnNhwcConv>(activation, std::move(own), std::move(state));
}

}  // namespace forebay::cuda
