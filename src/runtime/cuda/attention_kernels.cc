// Attention and forebay.Attention, as runtime/ops/attention.cc has them, but for the scores as an output.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "runtime/cuda/attention_task.h"
#include "runtime/cuda/kernel_base.h"
#include "runtime/ops/attention_dims.h"

namespace forebay::cuda {
namespace {

class AttentionKernel final : public CudaKernel {
 public:
  AttentionKernel(DType type, StatePtr state) : CudaKernel("cuda.attention", std::move(state)), type_(type) {}

  Status setup(const PrepareContext& context) override {
    const NodeView& node = context.node;
    FB_ASSIGN(const ops::AttentionDims d, ops::attention_dims(node, context.inputs));
    FB_ASSIGN(const ops::AttentionMask mask, ops::check_attention(node, context.inputs, d));
    if (d.head > kMostAttentionHead) return node.unsupported("heads that large");
    if (d.kv_heads == 0) return node.unsupported("no heads");
    task_ = AttentionTask();
    task_.type = type_;
    task_.batch = d.batch;
    task_.q_heads = d.q_heads;
    task_.kv_heads = d.kv_heads;
    task_.queries = d.queries;
    task_.keys = d.keys;
    task_.past = d.past;
    task_.head = d.head;
    task_.value_head = d.value_head;
    task_.packed = d.packed;
    task_.mask_length = mask.length;
    std::copy(mask.strides.begin(), mask.strides.end(), task_.mask_strides);
    task_.scale = node.has("scale") ? node.real("scale", 1) : static_cast<float>(1.0 / std::sqrt(static_cast<double>(d.head)));
    task_.softcap = node.real("softcap", 0);
    task_.mask_fill = node.real("mask_fill", -std::numeric_limits<float>::infinity());
    task_.causal = node.integer("is_causal", 0) != 0;
    if (node.domain() == "forebay") task_.empty_rows = node.integer("nan_rows", 0) != 0 ? EmptyRows::zero_when_nan : EmptyRows::as_softmax;
    space_ = plan_attention(&task_);
    if (d.batch * d.q_heads * d.queries > std::numeric_limits<int>::max()) return node.unsupported("that many rows");
    return {};
  }
  std::uint64_t workspace_bytes() const override { return kinds_at() + static_cast<std::uint64_t>(space_.kinds); }

  Status run(const KernelCall& call) override {
    const auto in = [&](std::size_t i) -> const void* {
      return i < call.inputs.size() && call.inputs[i].present() ? call.inputs[i].data : nullptr;
    };
    FB_TRY(append(call, 1, 1, ops::kAttentionPastKey, task_.head));
    FB_TRY(append(call, 2, 2, ops::kAttentionPastValue, task_.value_head));
    AttentionTask task = task_;
    task.q = in(0);
    task.k = in(1);
    task.v = in(2);
    task.mask = in(ops::kAttentionMask);
    if (task.mask != nullptr) task.mask_type = call.inputs[ops::kAttentionMask].dtype;
    task.past_key = in(ops::kAttentionPastKey);
    task.past_value = in(ops::kAttentionPastValue);
    task.lengths = static_cast<const std::int64_t*>(in(ops::kAttentionLengths));
    task.y = call.outputs[0].data;
    task.parts = reinterpret_cast<float*>(call.workspace);
    if (space_.kinds > 0) task.kinds = reinterpret_cast<const std::uint8_t*>(call.workspace + kinds_at());
    return check(launch_attention(task, queue_stream()));
  }

 private:
  std::uint64_t kinds_at() const { return static_cast<std::uint64_t>(space_.parts) * sizeof(float); }

  // An output that has the new keys or values behind the past ones.
  Status append(const KernelCall& call, std::size_t output, std::size_t input, std::size_t past, std::int64_t width) const {
    if (output >= call.outputs.size() || !call.outputs[output].present()) return {};
    const std::int64_t size = dtype_bits(type_) / 8, total = task_.past + task_.keys;
    for (const bool old : {true, false}) {
      const std::int64_t count = old ? task_.past : task_.keys;
      if (count == 0) continue;
      const std::vector<std::int64_t> dims{task_.batch, task_.kv_heads, count, width};
      std::array<std::vector<std::int64_t>, 2> strides{std::vector<std::int64_t>{task_.kv_heads * total * width, total * width, width, 1},
                                                       dense_strides(dims)};
      if (!old && task_.packed) strides[1] = {count * task_.kv_heads * width, width, task_.kv_heads * width, 1};
      const Walk walk = make_walk(dims, strides);
      if (walk.total == 0) continue;
      std::byte* const to = call.outputs[output].data + (old ? 0 : task_.past * width * size);
      FB_TRY(check(launch_copy(static_cast<int>(size), walk, to, call.inputs[old ? past : input].data, queue_stream())));
    }
    return {};
  }

  const DType type_;
  AttentionTask task_;
  AttentionSpace space_;
};

KernelPtr make_attention(const NodeView&, std::span<const TypeShape> inputs, std::span<const TypeShape> outputs, const StatePtr& state) {
  if (outputs.size() > 3 && outputs[3].present()) return nullptr;  // scores as an output
  const DType type = inputs[0].dtype;
  if (!float_type(type)) return nullptr;
  for (const std::size_t i : {std::size_t{1}, std::size_t{2}, ops::kAttentionPastKey, ops::kAttentionPastValue}) {
    if (i < inputs.size() && inputs[i].present() && inputs[i].dtype != type) return nullptr;
  }
  if (inputs.size() > ops::kAttentionMask && inputs[ops::kAttentionMask].present()) {
    const DType mask = inputs[ops::kAttentionMask].dtype;
    if (mask != DType::boolean && !float_type(mask)) return nullptr;
  }
  return std::make_unique<AttentionKernel>(type, state);
}

}  // namespace

std::span<const TableEntry> attention_table() {
  static constexpr TableEntry kTable[] = {{"", "Attention", make_attention}, {"forebay", "Attention", make_attention}};
  return kTable;
}

}  // namespace forebay::cuda
