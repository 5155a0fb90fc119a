// Reductions and Softmax over the last axes.
#include <algorithm>

#include "runtime/cuda/kernel_base.h"
#include "runtime/ops/infer.h"

namespace forebay::cuda {
namespace {

class ReduceKernel final : public CudaKernel {
 public:
  ReduceKernel(ReduceOp op, DType type, StatePtr state)
      : CudaKernel("cuda.reduce", std::move(state)), op_(op), type_(type) {}
  Status setup(const PrepareContext& context) override {
    const auto& dims = context.inputs[0].dims;
    std::vector<std::int64_t> axes;
    if (context.inputs.size() > 1 && context.inputs[1].present()) {
      if (context.values[1] == nullptr) return context.node.unsupported("axes that are computed");
      axes = ops::host_integers(*context.values[1]);
    } else {
      const auto given = context.node.integers("axes");
      axes.assign(given.begin(), given.end());
    }
    if (axes.empty() && context.node.integer("noop_with_empty_axes", 0) != 0)
      return context.node.unsupported("no axes");
    std::vector<bool> reduced(dims.size(), axes.empty());
    for (const std::int64_t axis : axes) {
      FB_ASSIGN(const int at, normalize_axis(context.node, axis, static_cast<int>(dims.size())));
      reduced[static_cast<std::size_t>(at)] = true;
    }
    rows_ = length_ = 1;
    bool tail = false;
    for (std::size_t d = 0; d < dims.size(); ++d) {
      if (tail && !reduced[d] && dims[d] != 1)
        return context.node.unsupported("a reduction of inner axes");
      tail = tail || (reduced[d] && dims[d] != 1);
      (reduced[d] ? length_ : rows_) *= dims[d];
    }
    if (length_ == 0) return context.node.unsupported("a reduction of nothing");
    return {};
  }
  Status run(const KernelCall& call) override {
    return check(launch_reduce(op_, type_, rows_, length_, call.outputs[0].data,
                               call.inputs[0].data, queue_stream()));
  }

 private:
  const ReduceOp op_;
  const DType type_;
  std::int64_t rows_ = 1, length_ = 1;
};

template <ReduceOp op>
KernelPtr make_reduce(const NodeView&, std::span<const TypeShape> inputs,
                      std::span<const TypeShape>, const StatePtr& state) {
  return float_type(inputs[0].dtype) ? std::make_unique<ReduceKernel>(op, inputs[0].dtype, state)
                                     : nullptr;
}

class SoftmaxKernel final : public CudaKernel {
 public:
  SoftmaxKernel(DType type, StatePtr state)
      : CudaKernel("cuda.softmax", std::move(state)), type_(type) {}
  Status setup(const PrepareContext& context) override {
    const auto& dims = context.inputs[0].dims;
    const int rank = static_cast<int>(dims.size());
    FB_ASSIGN(
        const int axis,
        normalize_axis(context.node,
                       context.node.integer("axis", context.node.version() < 13 ? 1 : -1), rank));
    if (axis + 1 != rank) return context.node.unsupported("an inner axis");
    length_ = dims.back();
    rows_ = 1;
    for (int d = 0; d < axis; ++d) rows_ *= dims[static_cast<std::size_t>(d)];
    return {};
  }
  Status run(const KernelCall& call) override {
    return check(launch_softmax(type_, rows_, length_, call.outputs[0].data, call.inputs[0].data,
                                queue_stream()));
  }

 private:
  const DType type_;
  std::int64_t rows_ = 1, length_ = 1;
};

KernelPtr make_softmax(const NodeView&, std::span<const TypeShape> inputs,
                       std::span<const TypeShape>, const StatePtr& state) {
  return float_type(inputs[0].dtype) && !inputs[0].dims.empty()
             ? std::make_unique<SoftmaxKernel>(inputs[0].dtype, state)
             : nullptr;
}

}  // namespace

std::span<const TableEntry> reduce_table() {
  static constexpr TableEntry kTable[] = {
      {"", "ReduceMean", make_reduce<ReduceOp::mean>},
      {"", "ReduceSum", make_reduce<ReduceOp::sum>},
      {"", "ReduceMax", make_reduce<ReduceOp::max>},
      {"", "ReduceMin", make_reduce<ReduceOp::min>},
      {"", "Softmax", make_softmax},
  };
  return kTable;
}

}  // namespace forebay::cuda
