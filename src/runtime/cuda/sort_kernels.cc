// TopK, and ArgMax, ArgMin and CumSum along long axes: short ones are a thread's (axis_kernels.cc).
#include <algorithm>

#include "runtime/cuda/kernel_base.h"
#include "runtime/cuda/sort_task.h"
#include "runtime/ops/infer.h"
#include "runtime/ops/nn_support.h"

namespace forebay::cuda {
namespace {

constexpr std::int64_t kLong = 256;  // from here on a block takes a line
constexpr std::int64_t kMostPlaces = std::int64_t{1} << 31;
constexpr std::int64_t kMostKeyBytes = 32ll << 20;  // of the lines that are sorted together

Result<AxisTask> axis_of(const NodeView& node, const TypeShape& input, std::int64_t axis) {
  FB_ASSIGN(const int at, normalize_axis(node, axis, static_cast<int>(input.dims.size())));
  AxisTask task;
  task.type = input.dtype;
  for (int d = 0; d < static_cast<int>(input.dims.size()); ++d)
    (d < at ? task.outer : d == at ? task.length : task.inner) *= input.dims[static_cast<std::size_t>(d)];
  return task;
}

class TopKKernel final : public CudaKernel {
 public:
  explicit TopKKernel(StatePtr state) : CudaKernel("cuda.topk", std::move(state)) {}
  std::uint64_t workspace_bytes() const override { return static_cast<std::uint64_t>(together_ * padded_) * sizeof(std::uint64_t); }

  Status run(const KernelCall& call) override {
    TopKTask task = task_;
    const auto place = [&](std::size_t i) { return i < call.outputs.size() && call.outputs[i].present() ? call.outputs[i].data : nullptr; };
    task.axis.a = call.inputs[0].data;
    task.axis.y = place(0);
    task.places = reinterpret_cast<std::int64_t*>(place(1));
    task.keys = reinterpret_cast<std::uint64_t*>(call.workspace);
    for (; task.first < lines_; task.first += together_) {
      task.lines = std::min(together_, lines_ - task.first);
      FB_TRY(check(launch_top_k(task, queue_stream())));
    }
    return {};
  }

 private:
  Status setup(const PrepareContext& context) override {
    const NodeView& node = context.node;
    const TypeShape& x = context.inputs[0];
    const std::int64_t axis = node.integer("axis", -1);
    FB_ASSIGN(const int at, normalize_axis(node, axis, static_cast<int>(x.dims.size())));
    FB_ASSIGN(task_.axis, axis_of(node, x, axis));
    for (const TypeShape& out : context.outputs)
      if (out.present()) task_.k = out.dims[static_cast<std::size_t>(at)];
    task_.largest = node.integer("largest", 1) != 0;
    if (task_.axis.length >= kMostPlaces) return node.unsupported("an axis of that length");
    lines_ = task_.k == 0 ? 0 : task_.axis.outer * task_.axis.inner;
    padded_ = sorted_length(task_.axis.length);
    together_ = std::max<std::int64_t>(1, std::min(lines_, kMostKeyBytes / 8 / padded_));
    return {};
  }

  TopKTask task_;
  std::int64_t lines_ = 0, padded_ = 2, together_ = 1;
};

KernelPtr make_top_k(const NodeView&, std::span<const TypeShape> inputs, std::span<const TypeShape>, const StatePtr& state) {
  return orders(inputs[0].dtype) ? std::make_unique<TopKKernel>(state) : nullptr;
}

bool long_axis(const NodeView& node, const TypeShape& input, std::int64_t axis) {
  if (!input.known() || input.dims.empty()) return false;
  const auto task = axis_of(node, input, axis);
  return task.ok() && task->length >= kLong && task->length < kMostPlaces;
}

class LongArg final : public CudaKernel {
 public:
  explicit LongArg(StatePtr state) : CudaKernel("cuda.arg_long", std::move(state)) {}
  Status run(const KernelCall& call) override {
    AxisTask task = task_;
    task.a = call.inputs[0].data;
    task.y = call.outputs[0].data;
    return check(launch_long_arg(task, most_, last_, queue_stream()));
  }

 private:
  Status setup(const PrepareContext& context) override {
    most_ = context.node.op() == "ArgMax";
    last_ = context.node.integer("select_last_index", 0) != 0;
    FB_ASSIGN(task_, axis_of(context.node, context.inputs[0], context.node.integer("axis", 0)));
    return {};
  }
  AxisTask task_;
  bool most_ = true, last_ = false;
};

KernelPtr make_long_arg(const NodeView& node, std::span<const TypeShape> inputs, std::span<const TypeShape>, const StatePtr& state) {
  const bool serves = orders(inputs[0].dtype) && long_axis(node, inputs[0], node.integer("axis", 0));
  return serves ? std::make_unique<LongArg>(state) : nullptr;
}

class LongCumSum final : public CudaKernel {
 public:
  explicit LongCumSum(StatePtr state) : CudaKernel("cuda.cumsum_long", std::move(state)) {}
  Status run(const KernelCall& call) override {
    AxisTask task = task_;
    task.a = call.inputs[0].data;
    task.y = call.outputs[0].data;
    return check(launch_long_cumsum(task, exclusive_, reverse_, queue_stream()));
  }

 private:
  Status setup(const PrepareContext& context) override {
    exclusive_ = context.node.integer("exclusive", 0) != 0;
    reverse_ = context.node.integer("reverse", 0) != 0;
    FB_ASSIGN(task_, axis_of(context.node, context.inputs[0], ops::host_integers(*context.values[1])[0]));
    return {};
  }
  AxisTask task_;
  bool exclusive_ = false, reverse_ = false;
};

// Which axis it is, is known when the kernel is prepared.
KernelPtr make_long_cumsum(const NodeView& node, std::span<const TypeShape> inputs, std::span<const TypeShape>, const StatePtr& state) {
  const TypeShape& x = inputs[0];
  bool serves = false;
  for (std::size_t d = 0; x.known() && d < x.dims.size(); ++d) serves = serves || long_axis(node, x, static_cast<std::int64_t>(d));
  return serves && (orders(x.dtype) || x.dtype == DType::i64) ? std::make_unique<LongCumSum>(state) : nullptr;
}

}  // namespace

std::span<const TableEntry> sort_table() {
  static constexpr TableEntry kTable[] = {
      {"", "TopK", make_top_k}, {"", "ArgMax", make_long_arg}, {"", "ArgMin", make_long_arg}, {"", "CumSum", make_long_cumsum}};
  return kTable;
}

}  // namespace forebay::cuda
