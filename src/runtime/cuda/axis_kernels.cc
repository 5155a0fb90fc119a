// Reductions over any axes, Softmax and LogSoftmax of inner axes, ArgMax, CumSum, norms over channels and groups.
#include <algorithm>
#include <array>

#include "runtime/cuda/axis_task.h"
#include "runtime/cuda/kernel_base.h"
#include "runtime/cuda/number_task.h"
#include "runtime/ops/infer.h"

namespace forebay::cuda {
namespace {

using Ints = std::vector<std::int64_t>;

bool line_type(DType type) {
  return float_type(type) || type == DType::i32 || type == DType::i64;
}

class AxisReduceKernel final : public CudaKernel {
 public:
  // From opset `since` on the axes are an input.
  AxisReduceKernel(AxisReduce op, std::int32_t since, DType type, StatePtr state)
      : CudaKernel("cuda.reduce_axes", std::move(state)), since_(since) {
    task_.op = op;
    task_.type = type;
  }
  Status setup(const PrepareContext& context) override {
    const NodeView& node = context.node;
    const Ints& dims = context.inputs[0].dims;
    Ints axes;
    bool none = false;
    if (node.op().starts_with("Global")) {
      for (std::size_t d = 2; d < dims.size(); ++d) axes.push_back(static_cast<std::int64_t>(d));
      none = axes.empty();
    } else if (node.version() < since_) {
      axes.assign(node.integers("axes").begin(), node.integers("axes").end());
    } else if (context.inputs.size() > 1 && context.inputs[1].present()) {
      if (context.values[1] == nullptr) return node.unsupported("axes that are computed");
      axes = ops::host_integers(*context.values[1]);
    }
    if (axes.empty() && node.version() >= since_ && node.integer("noop_with_empty_axes", 0) != 0) none = true;
    std::vector<bool> reduced(dims.size(), axes.empty() && !none);
    for (const std::int64_t axis : axes) {
      FB_ASSIGN(const int at, normalize_axis(node, axis, static_cast<int>(dims.size())));
      reduced[static_cast<std::size_t>(at)] = true;
    }
    const Ints dense = dense_strides(dims);
    Ints kept_dims, kept, inner_dims, inner;
    for (std::size_t d = 0; d < dims.size(); ++d) {
      (reduced[d] ? inner_dims : kept_dims).push_back(dims[d]);
      (reduced[d] ? inner : kept).push_back(dense[d]);
    }
    task_.outer = make_walk(kept_dims, std::array<Ints, 2>{dense_strides(kept_dims), kept});
    task_.inner = make_walk(inner_dims, std::array<Ints, 2>{dense_strides(inner_dims), inner});
    // Wrapping 64 bits would not do for what comes out of logarithms and means of integers.
    const bool exact = task_.op == AxisReduce::sum || task_.op == AxisReduce::max || task_.op == AxisReduce::min ||
                       task_.op == AxisReduce::l1 || task_.op == AxisReduce::prod || task_.op == AxisReduce::sum_square;
    if (!float_type(task_.type) && task_.type != DType::f64 && (!exact || task_.inner.total == 0)) return node.unsupported("integers here");
    return {};
  }
  Status run(const KernelCall& call) override {
    AxisReduceTask task = task_;
    task.a = call.inputs[0].data;
    task.y = call.outputs[0].data;
    return check(task.type == DType::f64 ? launch_double_reduce(task, queue_stream()) : launch_axis_reduce(task, queue_stream()));
  }

 private:
  const std::int32_t since_;
  AxisReduceTask task_;
};

template <AxisReduce op>
KernelPtr make_axis_reduce(const NodeView&, std::span<const TypeShape> inputs, std::span<const TypeShape>, const StatePtr& state) {
  // Of f64 what needs no exponents.
  const bool wide = inputs[0].dtype == DType::f64 && op != AxisReduce::log_sum && op != AxisReduce::log_sum_exp;
  return wide || line_type(inputs[0].dtype) ? std::make_unique<AxisReduceKernel>(op, op == AxisReduce::sum ? 13 : 18, inputs[0].dtype, state)
                                      : nullptr;
}

AxisTask axis_task(DType type, const Ints& dims, int first, int last) {
  AxisTask task;
  task.type = type;
  for (int d = 0; d < static_cast<int>(dims.size()); ++d)
    (d < first ? task.outer : d < last ? task.length : task.inner) *= dims[static_cast<std::size_t>(d)];
  return task;
}

// What works on lines along one axis.
class LineKernel : public CudaKernel {
 public:
  LineKernel(std::string id, DType type, StatePtr state) : CudaKernel(std::move(id), std::move(state)), type_(type) {}
  Status setup(const PrepareContext& context) override {
    const Ints& dims = context.inputs[0].dims;
    const auto rank = static_cast<int>(dims.size());
    FB_ASSIGN(const int axis, normalize_axis(context.node, axis_of(context), rank));
    task_ = axis_task(type_, dims, axis, joins(context.node) ? rank : axis + 1);
    return {};
  }
  Status run(const KernelCall& call) override {
    AxisTask task = task_;
    task.a = call.inputs[0].data;
    task.y = call.outputs[0].data;
    return check(start(task));
  }

 protected:
  virtual std::int64_t axis_of(const PrepareContext& context) const = 0;
  virtual bool joins(const NodeView&) const { return false; }  // all axes from it on are one
  virtual cudaError_t start(const AxisTask& task) const = 0;

 private:
  const DType type_;
  AxisTask task_;
};

class SoftmaxLines final : public LineKernel {
 public:
  SoftmaxLines(bool log, DType type, StatePtr state) : LineKernel("cuda.softmax_lines", type, std::move(state)), log_(log) {}

 protected:
  std::int64_t axis_of(const PrepareContext& context) const override {
    return context.node.integer("axis", context.node.version() < 13 ? 1 : -1);
  }
  bool joins(const NodeView& node) const override { return node.version() < 13; }
  cudaError_t start(const AxisTask& task) const override {
    if (task.inner == 1 && !log_) return launch_softmax(task.type, task.outer, task.length, task.y, task.a, queue_stream());
    return launch_axis_softmax(task, log_, queue_stream());
  }

 private:
  const bool log_;
};
template <bool log>
KernelPtr make_softmax_lines(const NodeView&, std::span<const TypeShape> inputs, std::span<const TypeShape>, const StatePtr& state) {
  return float_type(inputs[0].dtype) ? std::make_unique<SoftmaxLines>(log, inputs[0].dtype, state) : nullptr;
}

class ArgLines final : public LineKernel {
 public:
  ArgLines(const NodeView& node, DType type, StatePtr state)
      : LineKernel("cuda.arg", type, std::move(state)), most_(node.op() == "ArgMax"), last_(node.integer("select_last_index", 0) != 0) {}

 protected:
  std::int64_t axis_of(const PrepareContext& context) const override { return context.node.integer("axis", 0); }
  cudaError_t start(const AxisTask& task) const override { return launch_axis_arg(task, most_, last_, queue_stream()); }

 private:
  const bool most_, last_;
};
KernelPtr make_arg(const NodeView& node, std::span<const TypeShape> inputs, std::span<const TypeShape>, const StatePtr& state) {
  return line_type(inputs[0].dtype) ? std::make_unique<ArgLines>(node, inputs[0].dtype, state) : nullptr;
}

class CumSumLines final : public LineKernel {
 public:
  CumSumLines(const NodeView& node, DType type, StatePtr state)
      : LineKernel("cuda.cumsum", type, std::move(state)),
        exclusive_(node.integer("exclusive", 0) != 0),
        reverse_(node.integer("reverse", 0) != 0) {}

 protected:
  std::int64_t axis_of(const PrepareContext& context) const override { return ops::host_integers(*context.values[1])[0]; }
  cudaError_t start(const AxisTask& task) const override { return launch_axis_cumsum(task, exclusive_, reverse_, queue_stream()); }

 private:
  const bool exclusive_, reverse_;
};
KernelPtr make_cumsum(const NodeView& node, std::span<const TypeShape> inputs, std::span<const TypeShape>, const StatePtr& state) {
  return line_type(inputs[0].dtype) ? std::make_unique<CumSumLines>(node, inputs[0].dtype, state) : nullptr;
}

// BatchNormalization as in use, not in training; InstanceNormalization is a group a channel.
class ChannelNormKernel final : public CudaKernel {
 public:
  ChannelNormKernel(bool batch, StatePtr state)
      : CudaKernel(batch ? "cuda.batch_norm" : "cuda.group_norm", std::move(state)), batch_(batch) {}
  Status setup(const PrepareContext& context) override {
    const NodeView& node = context.node;
    const Shape x = context.inputs[0].shape();
    if (x.rank() < 2) return node.unsupported("an input without channels");
    task_.type = context.inputs[0].dtype;
    task_.parameter_type = context.inputs[1].dtype;
    for (std::size_t i = 1; i < context.inputs.size(); ++i) {
      if (context.inputs[i].dtype != task_.parameter_type) return node.unsupported("parameters of several types");
    }
    if (task_.parameter_type != task_.type && task_.parameter_type != DType::f32) return node.unsupported("parameters of that type");
    task_.images = x[0];
    task_.channels = x[1];
    task_.size = x.elements(2, x.rank());
    task_.epsilon = node.real("epsilon", 1e-5f);
    task_.parameters = context.inputs[1].shape().elements();
    if (batch_) {
      const bool trains = node.integer("training_mode", 0) != 0 || (node.version() < 7 && node.integer("is_test", 0) == 0);
      if (trains || node.integer("spatial", 1) == 0) return node.unsupported("training");
      for (std::size_t o = 1; o < context.outputs.size(); ++o) {
        if (context.outputs[o].present()) return node.unsupported("statistics as outputs");
      }
    } else {
      task_.groups = node.op() == "InstanceNormalization" ? task_.channels : node.integer("num_groups", 1);
      if (task_.groups < 1 || task_.channels % task_.groups != 0) return node.unsupported("uneven groups");
      if (task_.parameters == task_.groups) return parameters_fit(context);
    }
    if (task_.parameters != task_.channels) return node.unsupported("parameters that are not one a channel");
    return parameters_fit(context);
  }
  Status run(const KernelCall& call) override {
    ChannelNormTask task = task_;
    task.x = call.inputs[0].data;
    task.scale = call.inputs[1].data;
    task.shift = call.inputs[2].data;
    if (batch_) {
      task.mean = call.inputs[3].data;
      task.variance = call.inputs[4].data;
    }
    task.y = call.outputs[0].data;
    return check(launch_channel_norm(task, queue_stream()));
  }

 private:
  Status parameters_fit(const PrepareContext& context) const {
    for (std::size_t i = 1; i < context.inputs.size(); ++i) {
      if (context.inputs[i].shape().elements() != task_.parameters) return context.node.unsupported("parameters of several sizes");
    }
    return {};
  }
  const bool batch_;
  ChannelNormTask task_;
};
template <bool batch>
KernelPtr make_channel_norm(const NodeView&, std::span<const TypeShape> inputs, std::span<const TypeShape>, const StatePtr& state) {
  for (const TypeShape& input : inputs) {
    if (!float_type(input.dtype)) return nullptr;
  }
  return inputs.size() == (batch ? 5u : 3u) ? std::make_unique<ChannelNormKernel>(batch, state) : nullptr;
}

}  // namespace

std::span<const TableEntry> axis_table() {
  static constexpr TableEntry kTable[] = {
      {"", "GlobalAveragePool", make_axis_reduce<AxisReduce::mean>},
      {"", "GlobalMaxPool", make_axis_reduce<AxisReduce::max>},
      {"", "ReduceSum", make_axis_reduce<AxisReduce::sum>},
      {"", "ReduceMean", make_axis_reduce<AxisReduce::mean>},
      {"", "ReduceMax", make_axis_reduce<AxisReduce::max>},
      {"", "ReduceMin", make_axis_reduce<AxisReduce::min>},
      {"", "ReduceProd", make_axis_reduce<AxisReduce::prod>},
      {"", "ReduceL1", make_axis_reduce<AxisReduce::l1>},
      {"", "ReduceL2", make_axis_reduce<AxisReduce::l2>},
      {"", "ReduceLogSum", make_axis_reduce<AxisReduce::log_sum>},
      {"", "ReduceLogSumExp", make_axis_reduce<AxisReduce::log_sum_exp>},
      {"", "ReduceSumSquare", make_axis_reduce<AxisReduce::sum_square>},
      {"", "Softmax", make_softmax_lines<false>},
      {"", "LogSoftmax", make_softmax_lines<true>},
      {"", "ArgMax", make_arg},
      {"", "ArgMin", make_arg},
      {"", "CumSum", make_cumsum},
      {"", "BatchNormalization", make_channel_norm<true>},
      {"", "InstanceNormalization", make_channel_norm<false>},
      {"", "GroupNormalization", make_channel_norm<false>},
  };
  return kTable;
}

}  // namespace forebay::cuda
