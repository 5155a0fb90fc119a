// Mixtures of experts: forebay.ExpertRoute, ExpertLinear, ExpertQuantLinear, SwiGlu and ExpertCombine. Matrices may come in slabs of whole
// experts.
#include <algorithm>
#include <limits>

#include "runtime/cuda/expert_task.h"
#include "runtime/cuda/kernel_base.h"

namespace forebay::cuda {
namespace {

const std::byte* data_of(const KernelCall& call, std::size_t i) {
  return i < call.inputs.size() && call.inputs[i].present() ? call.inputs[i].data : nullptr;
}

class RouteKernel final : public CudaKernel {
 public:
  explicit RouteKernel(StatePtr state) : CudaKernel("cuda.expert_route", std::move(state)) {}
  Status run(const KernelCall& call) override {
    RouteTask task = task_;
    task.scores = call.inputs[0].data;
    task.given = data_of(call, 1);
    task.chosen = reinterpret_cast<std::int32_t*>(call.outputs[0].data);
    task.weights = reinterpret_cast<float*>(call.outputs[1].data);
    return check(launch_expert_route(task, queue_stream()));
  }

 private:
  Status setup(const PrepareContext& context) override {
    task_.type = context.inputs[0].dtype;
    if (there(context.inputs, 1)) task_.given_type = context.inputs[1].dtype;
    if (!context.outputs[0].present() || !context.outputs[1].present()) return context.node.unsupported("one of the results alone");
    task_.rows = context.inputs[0].dims[0];
    task_.experts = context.inputs[0].dims[1];
    task_.k = context.outputs[0].dims[1];
    task_.normalize = context.node.integer("normalize", 0) != 0;
    return task_.experts < (std::int64_t{1} << 31) ? Status() : context.node.unsupported("so many experts");
  }
  RouteTask task_;
};

// Inputs X, W, indices, bias; with codes X, codes, scales, zero points, indices, bias.
class ExpertProduct final : public Kernel {
 public:
  ExpertProduct(bool packed, StatePtr state) : packed_(packed), state_(std::move(state)) {}
  std::string_view id() const override {
    if (grouped_) return packed_ ? "cuda.expert_packed_mma" : "cuda.expert_mma";
    return packed_ ? "cuda.expert_packed" : "cuda.expert_linear";
  }
  std::uint64_t workspace_bytes() const override {
    return grouped_ ? static_cast<std::uint64_t>(experts_ + 1 + task_.pairs) * sizeof(std::int32_t) : 0;
  }

  Status prepare(const PrepareContext& context) override {
    const NodeView& node = context.node;
    if (context.sliced_input != plan::kNone && context.sliced_input != 1) return node.unsupported("only the matrices may come in slabs");
    const auto &w = context.inputs[1].dims, &y = context.outputs[0].dims;
    const std::int64_t bits = packed_ ? node.integer("bits", 4) : 8, block = packed_ ? node.integer("block_size", 0) : 0;
    task_ = ExpertTask();
    task_.type = context.inputs[0].dtype;
    task_.out = w[1];
    task_.in = w[2] * 8 / bits;
    task_.pairs = y[0] * y[1];
    const std::int64_t rows = task_.in > 0 ? context.inputs[0].shape().elements() / task_.in : task_.pairs;
    if (rows != task_.pairs && rows != y[0]) return node.unsupported("rows that differ from the indices in number");
    task_.per_row = rows == task_.pairs ? 1 : y[1];
    experts_ = w[0];
    if (experts_ > 65535 || task_.pairs >= (std::int64_t{1} << 31)) return node.unsupported("so many experts or rows");
    if (packed_) set_codes(context, bits, block);
    grouped_ = task_.type != DType::f32 && task_.pairs >= kManyPairs && task_.in % 8 == 0 && task_.in > 0 && experts_ <= kMostGrouped &&
               task_.pairs <= 65535 * 32;
    return {};
  }

  Status run(const KernelCall& call) override {
    ExpertTask task = task_;
    const std::size_t indices = packed_ ? 4 : 2;
    task.x = call.inputs[0].data;
    task.w = call.inputs[1].data;
    task.indices = reinterpret_cast<const std::int32_t*>(call.inputs[indices].data);
    task.bias = data_of(call, indices + 1);
    if (task.bias != nullptr) task.bias_type = call.inputs[indices + 1].dtype;
    task.y = call.outputs[0].data;
    task.first = call.row_begin;
    task.experts = call.inputs[1].shape[0];
    if (packed_) {
      task.scales = of_slab(call, 2);
      task.zeros = data_of(call, 3) == nullptr ? nullptr : of_slab(call, 3);
    }
    if (call.slab == 0) {  // rows of no expert
      const auto bytes = static_cast<std::size_t>(call.outputs[0].shape.elements() * dtype_bits(task.type) / 8);
      FB_TRY(check(cudaMemsetAsync(task.y, 0, bytes, queue_stream())));
    }
    task.groups = reinterpret_cast<std::int32_t*>(call.workspace);
    return check(grouped_ ? launch_grouped_experts(task, queue_stream()) : launch_expert_linear(task, queue_stream()));
  }

 private:
  static constexpr std::int64_t kManyPairs = 64;  // from here on tensor cores are worth the grouping
  Status check(cudaError_t error) const { return error == cudaSuccess ? Status() : state_->errors.check(error, id()); }

  void set_codes(const PrepareContext& context, std::int64_t bits, std::int64_t block) {
    task_.code = bits == 2 ? DType::u2 : bits == 4 ? DType::u4 : DType::u8;
    task_.scale_type = context.inputs[2].dtype;
    task_.block = block != 0 ? block : std::max<std::int64_t>(1, task_.in);
    task_.blocks = block != 0 ? task_.in / block : 1;
    if (!there(context.inputs, 3)) return;
    const auto& zeros = context.inputs[3].dims;
    const std::int64_t per_byte = 8 / bits;
    task_.zero_row = block != 0 ? zeros[2] * per_byte : 1;
    task_.zero_expert = block != 0 ? zeros[1] * task_.zero_row : zeros[1] * per_byte;
  }
  // Scales and zero points are cut where the matrices are, or lie whole beside the slabs.
  const std::byte* of_slab(const KernelCall& call, std::size_t i) const {
    const ConstTensorView& from = call.inputs[i];
    const std::int64_t each = from.shape.elements() / std::max<std::int64_t>(1, from.shape[0]) * dtype_bits(from.dtype) / 8;
    return from.data + (from.shape[0] == experts_ ? call.row_begin * each : 0);
  }

  const bool packed_;
  const StatePtr state_;
  ExpertTask task_;
  std::int64_t experts_ = 0;
  bool grouped_ = false;
};

class SwiGluKernel final : public CudaKernel {
 public:
  explicit SwiGluKernel(StatePtr state) : CudaKernel("cuda.swiglu", std::move(state)) {}
  Status run(const KernelCall& call) override {
    SwiGluTask task = task_;
    task.x = call.inputs[0].data;
    task.second = data_of(call, 1);
    task.y = call.outputs[0].data;
    return check(launch_swiglu(task, queue_stream()));
  }

 private:
  Status setup(const PrepareContext& context) override {
    const NodeView& node = context.node;
    const auto& y = context.outputs[0].dims;
    task_.type = context.inputs[0].dtype;
    task_.form = node.integer("form", 0);
    task_.alpha = node.real("alpha", 1.0f);
    task_.beta = node.real("beta", 0.0f);
    task_.limit = node.real("limit", std::numeric_limits<float>::infinity());
    task_.count = context.outputs[0].shape().elements();
    task_.width = y.empty() || y.back() < 1 ? 1 : y.back();
    return {};
  }
  SwiGluTask task_;
};

class CombineKernel final : public CudaKernel {
 public:
  explicit CombineKernel(StatePtr state) : CudaKernel("cuda.expert_combine", std::move(state)) {}
  Status run(const KernelCall& call) override {
    CombineTask task = task_;
    task.y = call.inputs[0].data;
    task.weights = call.inputs[1].data;
    task.sum = call.outputs[0].data;
    return check(launch_expert_combine(task, queue_stream()));
  }

 private:
  // The CPU's kernel says what does not fit.
  Status setup(const PrepareContext& context) override {
    const auto &y = context.inputs[0].dims, &weights = context.inputs[1].dims;
    const bool fits = y.size() == 3 && weights.size() == 2 && weights[0] == y[0] && weights[1] == y[1] &&
                      context.outputs[0].shape().elements() == y[0] * y[2];
    if (!fits) return context.node.unsupported("shapes that do not fit");
    task_.y_type = context.inputs[0].dtype;
    task_.weight_type = context.inputs[1].dtype;
    task_.sum_type = context.outputs[0].dtype;
    task_.rows = y[0];
    task_.k = y[1];
    task_.out = y[2];
    return {};
  }
  CombineTask task_;
};

using Types = std::span<const TypeShape>;
template <typename K>
KernelPtr make_plain(const NodeView&, Types inputs, Types, const StatePtr& state) {
  return float_type(inputs[0].dtype) ? std::make_unique<K>(state) : nullptr;
}
KernelPtr make_product(const NodeView&, Types inputs, Types outputs, const StatePtr& state) {
  const bool same = float_type(inputs[0].dtype) && inputs[1].dtype == inputs[0].dtype && outputs[0].dtype == inputs[0].dtype;
  return same ? std::make_unique<ExpertProduct>(false, state) : nullptr;
}
KernelPtr make_packed_product(const NodeView&, Types inputs, Types outputs, const StatePtr& state) {
  return float_type(inputs[0].dtype) && outputs[0].dtype == inputs[0].dtype ? std::make_unique<ExpertProduct>(true, state) : nullptr;
}

}  // namespace

std::span<const TableEntry> expert_table() {
  static constexpr TableEntry kTable[] = {{"forebay", "ExpertRoute", make_plain<RouteKernel>},
                                          {"forebay", "ExpertLinear", make_product},
                                          {"forebay", "ExpertQuantLinear", make_packed_product},
                                          {"forebay", "SwiGlu", make_plain<SwiGluKernel>},
                                          {"forebay", "ExpertCombine", make_plain<CombineKernel>}};
  return kTable;
}

}  // namespace forebay::cuda
