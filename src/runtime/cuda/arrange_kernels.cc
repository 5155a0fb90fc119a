// DepthToSpace, SpaceToDepth, Trilu, OneHot, TensorScatter; Sum, Mean, Min, Max and PRelu over up to three operands.
#include <algorithm>
#include <array>
#include <string>

#include "runtime/cuda/arrange_task.h"
#include "runtime/cuda/kernel_base.h"
#include "runtime/ops/indices.h"
#include "runtime/ops/infer.h"

namespace forebay::cuda {
namespace {

using Ints = std::vector<std::int64_t>;
using Types = std::span<const TypeShape>;

// Elements that move whole.
bool whole_bytes(DType type) {
  return dtype_bits(type) >= 8 && dtype_bits(type) <= 64;
}
int bytes_of(DType type) {
  return dtype_bits(type) / 8;
}

// Six axes for four, one of which is split twice, in another order.
class BlocksKernel final : public CudaKernel {
 public:
  explicit BlocksKernel(StatePtr state) : CudaKernel("cuda.blocks", std::move(state)) {}
  Status run(const KernelCall& call) override {
    return check(launch_copy(bytes_, walk_, call.outputs[0].data, call.inputs[0].data, queue_stream()));
  }

 private:
  Status setup(const PrepareContext& context) override {
    const NodeView& node = context.node;
    const Ints& d = context.inputs[0].dims;
    const std::int64_t b = node.integer("blocksize", 1);
    bytes_ = bytes_of(context.inputs[0].dtype);
    if (node.op() == "SpaceToDepth") {
      move({d[0], d[1], d[2] / b, b, d[3] / b, b}, {0, 3, 5, 1, 2, 4});
    } else if (node.text("mode", "DCR") == "DCR") {
      move({d[0], b, b, d[1] / (b * b), d[2], d[3]}, {0, 3, 4, 1, 5, 2});
    } else {
      move({d[0], d[1] / (b * b), b, b, d[2], d[3]}, {0, 1, 4, 2, 5, 3});
    }
    return {};
  }
  void move(const Ints& from, const std::array<std::size_t, 6>& order) {
    const Ints dense = dense_strides(from);
    Ints dims, strides;
    for (const std::size_t axis : order) {
      dims.push_back(from[axis]);
      strides.push_back(dense[axis]);
    }
    walk_ = make_walk(dims, std::array<Ints, 2>{dense_strides(dims), strides});
  }
  Walk walk_;
  int bytes_ = 1;
};

class TriluKernel final : public CudaKernel {
 public:
  explicit TriluKernel(StatePtr state) : CudaKernel("cuda.trilu", std::move(state)) {}
  Status run(const KernelCall& call) override {
    return check(launch_trilu(bytes_of(call.inputs[0].dtype), task_, call.outputs[0].data, call.inputs[0].data, queue_stream()));
  }

 private:
  Status setup(const PrepareContext& context) override {
    const Ints& dims = context.inputs[0].dims;
    task_.rows = dims[dims.size() - 2];
    task_.columns = dims.back();
    task_.all_rows = 1;
    for (std::size_t d = 0; d + 1 < dims.size(); ++d) task_.all_rows *= dims[d];
    task_.upper = context.node.integer("upper", 1) != 0;
    const bool given = context.values.size() > 1 && context.values[1] != nullptr;
    task_.k = given ? std::clamp(ops::host_integers(*context.values[1])[0], -task_.rows - 1, task_.columns) : 0;
    return {};
  }
  TriluTask task_;
};

class OneHotKernel final : public CudaKernel {
 public:
  explicit OneHotKernel(StatePtr state) : CudaKernel("cuda.one_hot", std::move(state)) {}
  Status run(const KernelCall& call) override {
    return check(launch_one_hot(bytes_of(call.inputs[2].dtype), task_, call.outputs[0].data, call.inputs[0].data, call.inputs[2].data,
                                queue_stream()));
  }

 private:
  Status setup(const PrepareContext& context) override {
    const Ints& dims = context.outputs[0].dims;
    FB_ASSIGN(const int axis, normalize_axis(context.node, context.node.integer("axis", -1), static_cast<int>(dims.size())));
    const auto at = static_cast<std::size_t>(axis);
    task_ = OneHotTask();
    task_.total = context.outputs[0].shape().elements();
    task_.depth = dims[at];
    for (std::size_t d = at + 1; d < dims.size(); ++d) task_.inner *= dims[d];
    task_.wide = context.inputs[0].dtype == DType::i64;
    return {};
  }
  OneHotTask task_;
};

// Positions are checked on the device before a row is written; 8 bytes come back.
class CacheKernel final : public CudaKernel {
 public:
  CacheKernel(bool positions, StatePtr state)
      : CudaKernel(positions ? "host.indices+cuda.cache_rows" : "cuda.cache_rows", std::move(state)), positions_(positions) {}
  std::uint64_t workspace_bytes() const override { return positions_ ? 64 : 0; }
  Status run(const KernelCall& call) override {
    CacheTask task = task_;
    if (positions_) {
      task.positions = reinterpret_cast<const std::int64_t*>(call.inputs[2].data);
      FB_TRY(check_positions(task, call.workspace));
    }
    const int bytes = bytes_of(call.inputs[0].dtype);
    const auto size = static_cast<std::size_t>(call.inputs[0].shape.elements() * bytes);
    if (size > 0 && call.outputs[0].data != call.inputs[0].data)
      FB_TRY(check(cudaMemcpyAsync(call.outputs[0].data, call.inputs[0].data, size, cudaMemcpyDeviceToDevice, queue_stream())));
    return check(launch_cache_rows(bytes, task, call.outputs[0].data, call.inputs[1].data, queue_stream()));
  }

 private:
  Status setup(const PrepareContext& context) override {
    const Ints& cache = context.inputs[0].dims;
    FB_ASSIGN(const int axis, normalize_axis(context.node, context.node.integer("axis", -2), static_cast<int>(cache.size())));
    const auto at = static_cast<std::size_t>(axis);
    task_ = CacheTask();
    task_.batch = cache[0];
    for (std::size_t d = 1; d < cache.size(); ++d)
      if (d != at) (d < at ? task_.outer : task_.inner) *= cache[d];
    task_.length = cache[at];
    task_.updates = context.inputs[1].dims[at];
    task_.circular = context.node.text("mode", "linear") == "circular";
    label_ = ops::node_label(context.node);
    return {};
  }
  Status check_positions(const CacheTask& task, std::byte* workspace) const {
    auto* const worst = reinterpret_cast<std::uint64_t*>(workspace);
    FB_TRY(check(launch_check_positions(task, worst, queue_stream())));
    std::uint64_t first = 0;
    FB_TRY(fetch(&first, worst, sizeof first));
    if (first == ~std::uint64_t{0}) return {};
    std::int64_t position = 0;
    FB_TRY(fetch(&position, task.positions + first, sizeof position));
    return ops::index_error(label_, static_cast<std::int64_t>(first), position, task.length);
  }
  Status fetch(void* to, const void* from, std::size_t bytes) const {
    FB_TRY(check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, queue_stream())));
    return check(cudaStreamSynchronize(queue_stream()));
  }
  const bool positions_;
  CacheTask task_;
  std::string label_;
};

class FoldKernel final : public CudaKernel {
 public:
  FoldKernel(Fold fold, DType type, StatePtr state) : CudaKernel("cuda.fold", std::move(state)) {
    task_.fold = fold;
    task_.type = type;
  }
  Status run(const KernelCall& call) override {
    FoldTask task = task_;
    for (int i = 0; i < task.count; ++i) task.from[i] = call.inputs[static_cast<std::size_t>(i)].data;
    task.y = call.outputs[0].data;
    return check(launch_fold(task, queue_stream()));
  }

 private:
  Status setup(const PrepareContext& context) override {
    const Ints& y = context.outputs[0].dims;
    task_.count = static_cast<int>(context.inputs.size());
    std::vector<Ints> strides{dense_strides(y)};
    for (const TypeShape& input : context.inputs) strides.push_back(broadcast_strides(input.dims, y.size()));
    task_.walk = make_walk(y, strides);
    return {};
  }
  FoldTask task_;
};

template <typename K>
KernelPtr make_moved(const NodeView&, Types inputs, Types, const StatePtr& state) {
  return whole_bytes(inputs[0].dtype) ? std::make_unique<K>(state) : nullptr;
}
KernelPtr make_one_hot(const NodeView&, Types inputs, Types, const StatePtr& state) {
  const bool counted = inputs[0].dtype == DType::i64 || inputs[0].dtype == DType::i32;
  return counted && whole_bytes(inputs[2].dtype) ? std::make_unique<OneHotKernel>(state) : nullptr;
}
KernelPtr make_cache(const NodeView&, Types inputs, Types, const StatePtr& state) {
  return whole_bytes(inputs[0].dtype) ? std::make_unique<CacheKernel>(inputs.size() > 2 && inputs[2].present(), state) : nullptr;
}
template <Fold fold>
KernelPtr make_fold(const NodeView& node, Types inputs, Types, const StatePtr& state) {
  const bool serves = float_type(inputs[0].dtype) && inputs.size() <= FoldTask::kMost && node.version() >= 7;
  return serves ? std::make_unique<FoldKernel>(fold, inputs[0].dtype, state) : nullptr;
}

}  // namespace

std::span<const TableEntry> arrange_table() {
  static constexpr TableEntry kTable[] = {{"", "DepthToSpace", make_moved<BlocksKernel>},
                                          {"", "SpaceToDepth", make_moved<BlocksKernel>},
                                          {"", "Trilu", make_moved<TriluKernel>},
                                          {"", "OneHot", make_one_hot},
                                          {"", "TensorScatter", make_cache},
                                          {"", "Sum", make_fold<Fold::sum>},
                                          {"", "Mean", make_fold<Fold::mean>},
                                          {"", "Min", make_fold<Fold::min>},
                                          {"", "Max", make_fold<Fold::max>},
                                          {"", "PRelu", make_fold<Fold::prelu>}};
  return kTable;
}

}  // namespace forebay::cuda
