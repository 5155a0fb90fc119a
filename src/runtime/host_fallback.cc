#include "runtime/host_fallback.h"

#include <algorithm>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/checked.h"

namespace forebay {
namespace {

class HostFallback final : public Kernel {
 public:
  HostFallback(std::unique_ptr<Kernel> kernel, Device& device)
      : kernel_(std::move(kernel)), device_(device) {}

  Status prepare(const PrepareContext& context) override {
    FB_TRY(kernel_->prepare(context));
    id_ = "host." + std::string(kernel_->id());
    sliced_ = context.sliced_input;
    inputs_.clear();
    outputs_.clear();
    known_.assign(context.values.begin(), context.values.end());
    for (std::size_t i = 0; i < context.inputs.size(); ++i) {
      const TypeShape& type = context.inputs[i];
      inputs_.emplace_back();
      if (!type.present() || known_[i] != nullptr) continue;
      Shape shape = type.shape();
      if (i == sliced_)
        shape[0] = context.slab_rows.empty()
                       ? 0
                       : *std::max_element(context.slab_rows.begin(), context.slab_rows.end());
      inputs_.back() = HostTensor(type.dtype, shape);
    }
    for (const TypeShape& type : context.outputs)
      outputs_.push_back(type.present() ? HostTensor(type.dtype, type.shape()) : HostTensor());
    workspace_ = HostTensor(DType::u8, {static_cast<std::int64_t>(kernel_->workspace_bytes())});
    input_views_.resize(inputs_.size());
    output_views_.resize(outputs_.size());
    return {};
  }

  Status run(const KernelCall& call) override {
    for (std::size_t i = 0; i < call.inputs.size(); ++i) {
      const ConstTensorView& from = call.inputs[i];
      input_views_[i] = from;
      if (!from.present()) continue;
      if (known_[i] != nullptr) {
        input_views_[i].data = known_[i]->data();
        continue;
      }
      input_views_[i].data = inputs_[i].data();
      // What comes whole came with the first slab; scales may be cut where their weight is.
      if (call.slab > 0 && i != sliced_ && from.shape == inputs_[i].shape()) continue;
      const std::uint64_t bytes = dtype_bytes(from.dtype, from.shape.elements()).value_or(0);
      if (bytes > 0) FB_TRY(device_.copy_now(inputs_[i].data(), from.data, bytes));
    }
    for (std::size_t o = 0; o < call.outputs.size(); ++o) {
      output_views_[o] = call.outputs[o];
      // An output that nobody wants has no place in the arena.
      output_views_[o].data = call.outputs[o].present() ? outputs_[o].data() : nullptr;
    }
    KernelCall host = call;
    host.inputs = input_views_;
    host.outputs = output_views_;
    host.workspace = workspace_.data();
    host.workspace_bytes = workspace_.bytes();
    FB_TRY(kernel_->run(host));
    if (call.slab + 1 < call.slab_count) return {};
    for (std::size_t o = 0; o < call.outputs.size(); ++o) {
      if (call.outputs[o].present() && outputs_[o].bytes() > 0)
        FB_TRY(device_.copy_now(call.outputs[o].data, outputs_[o].data(), outputs_[o].bytes()));
    }
    return {};
  }

  std::string_view id() const override { return id_; }

 private:
  const std::unique_ptr<Kernel> kernel_;
  Device& device_;
  std::string id_;
  std::uint32_t sliced_ = plan::kNone;
  std::vector<const HostTensor*>
      known_;  // contents known when prepared; they live as long as the pass
  std::vector<HostTensor> inputs_, outputs_;
  HostTensor workspace_;
  std::vector<ConstTensorView> input_views_;
  std::vector<TensorView> output_views_;
};

}  // namespace

std::unique_ptr<Kernel> run_on_host(std::unique_ptr<Kernel> kernel, Device& device) {
  return std::make_unique<HostFallback>(std::move(kernel), device);
}

}  // namespace forebay
