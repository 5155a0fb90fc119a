// Norms over rows.
#include "runtime/cuda/kernel_base.h"
#include "runtime/cuda/row_around.h"
#include "runtime/merged_kernel.h"

namespace forebay::cuda {
namespace {

// LayerNormalization and its kin: which input and output is what, as in runtime/ops/layer_norm.cc. kNone: none.
struct NormForm {
  bool centred = true, skip = false;
  std::uint32_t scale = 1, shift = 2, bias = plan::kNone, sum = plan::kNone;
};

NormForm norm_form(std::string_view op) {
  if (op == "LayerNormalization") return {};
  if (op == "SkipLayerNormalization") return {true, true, 2, 3, 4, 3};
  if (op == "SkipSimplifiedLayerNormalization") return {false, true, 2, plan::kNone, 3, 3};
  return {false, false, 1, plan::kNone, plan::kNone, plan::kNone};
}

class NormKernel final : public CudaKernel, public WeightReader, public RowNorm {
 public:
  NormKernel(const NormForm& form, StatePtr state) : CudaKernel("cuda.norm", std::move(state)), form_(form) {}
  Status setup(const PrepareContext& context) override {
    const NodeView& node = context.node;
    const Shape x = context.inputs[0].shape();
    FB_ASSIGN(const int axis, normalize_axis(node, form_.skip ? -1 : node.integer("axis", -1), x.rank()));
    task_ = NormTask();
    task_.type = context.inputs[0].dtype;
    task_.scale_type = context.inputs[form_.scale].dtype;
    task_.rows = x.elements(0, axis);
    task_.length = x.elements(axis, x.rank());
    task_.epsilon = node.real("epsilon", form_.skip ? 1e-12f : 1e-5f);
    task_.centred = form_.centred;
    if (context.outputs[0].dtype != task_.scale_type) return node.unsupported("a type of the output");
    for (const std::uint32_t i : {form_.scale, form_.shift, form_.bias}) {
      const bool there = i < context.inputs.size() && context.inputs[i].present();
      const bool row = there && context.inputs[i].shape().elements() == task_.length && (context.inputs[i].dims.size() <= 1 || task_.rows == 1);
      if (there && (!row || (i != form_.bias && context.inputs[i].dtype != task_.scale_type))) return node.unsupported("a scale that is not one row");
    }
    if (form_.skip) {
      task_.skip_count = context.inputs[1].shape().elements();
      if (task_.length == 0 || task_.skip_count == 0 || x.elements() % task_.skip_count != 0 || task_.skip_count % task_.length != 0) {
        return node.unsupported("a skip of another shape");
      }
    }
    // Means and deviations are for training: nobody asks for them in a pass.
    for (std::uint32_t o = 1; o < context.outputs.size(); ++o) {
      if (context.outputs[o].present() && o != form_.sum) return node.unsupported("moments as outputs");
    }
    return {};
  }
  void reads_weight(std::size_t input) override { task_.constant_scale = task_.constant_scale || input == form_.scale; }
  Status run(const KernelCall& call) override { return check(launch_norm(norm_task(call), queue_stream())); }
  NormTask norm_task(const KernelCall& call) const override {
    NormTask task = task_;
    const auto in = [&](std::uint32_t i) -> const void* { return i < call.inputs.size() && call.inputs[i].present() ? call.inputs[i].data : nullptr; };
    task.x = in(0);
    task.skip = form_.skip ? in(1) : nullptr;
    task.scale = in(form_.scale);
    task.shift = in(form_.shift);
    task.bias = in(form_.bias);
    task.y = call.outputs[0].data;
    task.sum = form_.sum < call.outputs.size() ? call.outputs[form_.sum].data : nullptr;
    return task;
  }

 private:
  const NormForm form_;
  NormTask task_;
};

KernelPtr make_norm(const NodeView& node, std::span<const TypeShape> inputs, std::span<const TypeShape>, const StatePtr& state) {
  for (const TypeShape& input : inputs) {
    if (input.present() && !float_type(input.dtype)) return nullptr;
  }
  return std::make_unique<NormKernel>(norm_form(node.op()), state);
}

}  // namespace

std::span<const TableEntry> reduce_table() {
  static constexpr TableEntry kTable[] = {
      {"", "LayerNormalization", make_norm}, {"", "RMSNormalization", make_norm}, {"", "SimplifiedLayerNormalization", make_norm},
      {"com.microsoft", "SimplifiedLayerNormalization", make_norm},
      {"com.microsoft", "SkipLayerNormalization", make_norm}, {"com.microsoft", "SkipSimplifiedLayerNormalization", make_norm},
  };
  return kTable;
}

}  // namespace forebay::cuda
