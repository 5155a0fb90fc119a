// LRN and LpNormalization.
#include "runtime/cuda/kernel_base.h"
#include "runtime/cuda/response_task.h"

namespace forebay::cuda {
namespace {

class ResponseKernel final : public CudaKernel {
 public:
  explicit ResponseKernel(StatePtr state) : CudaKernel("cuda.response_norm", std::move(state)) {}
  Status run(const KernelCall& call) override {
    ResponseTask task = task_;
    task.x = call.inputs[0].data;
    task.y = call.outputs[0].data;
    return check(launch_response_norm(task, queue_stream()));
  }

 private:
  Status setup(const PrepareContext& context) override {
    const NodeView& node = context.node;
    const Shape x = context.inputs[0].shape();
    task_.window = node.integer("size", 0);
    if (x.rank() < 2 || task_.window < 1) return node.unsupported("this form");  // the CPU's kernel says what is wrong
    task_.type = context.inputs[0].dtype;
    task_.images = x[0];
    task_.channels = x[1];
    task_.size = x.elements(2, x.rank());
    task_.alpha = static_cast<double>(node.real("alpha", 1e-4f)) / static_cast<double>(task_.window);
    task_.beta = static_cast<double>(node.real("beta", 0.75f));
    task_.bias = static_cast<double>(node.real("bias", 1.0f));
    return {};
  }
  ResponseTask task_;
};

class LineNormKernel final : public CudaKernel {
 public:
  explicit LineNormKernel(StatePtr state) : CudaKernel("cuda.line_norm", std::move(state)) {}
  Status run(const KernelCall& call) override {
    AxisTask task = task_;
    task.a = call.inputs[0].data;
    task.y = call.outputs[0].data;
    return check(launch_line_norm(task, magnitudes_, queue_stream()));
  }

 private:
  Status setup(const PrepareContext& context) override {
    const NodeView& node = context.node;
    const Shape x = context.inputs[0].shape();
    FB_ASSIGN(const int axis, normalize_axis(node, node.integer("axis", -1), x.rank()));
    const std::int64_t p = node.integer("p", 2);
    if (p != 1 && p != 2) return node.unsupported("this form");  // the CPU's kernel says what is wrong
    task_.type = context.inputs[0].dtype;
    task_.outer = x.elements(0, axis);
    task_.length = x[axis];
    task_.inner = x.elements(axis + 1, x.rank());
    magnitudes_ = p == 1;
    return {};
  }
  AxisTask task_;
  bool magnitudes_ = false;
};

template <typename K>
KernelPtr make_floats(const NodeView&, std::span<const TypeShape> inputs, std::span<const TypeShape>, const StatePtr& state) {
  return float_type(inputs[0].dtype) ? std::make_unique<K>(state) : nullptr;
}

}  // namespace

std::span<const TableEntry> response_table() {
  static constexpr TableEntry kTable[] = {{"", "LRN", make_floats<ResponseKernel>}, {"", "LpNormalization", make_floats<LineNormKernel>}};
  return kTable;
}

}  // namespace forebay::cuda
