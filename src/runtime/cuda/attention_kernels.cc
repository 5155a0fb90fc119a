// Attention and forebay.Attention, as runtime/ops/attention.cc has them, but for the scores as an output.
#include <algorithm>
#include <cmath>
#include <limits>

#include "runtime/cuda/attention_around.h"
#include "runtime/cuda/attention_base.h"
#include "runtime/merged_kernel.h"
#include "runtime/ops/attention_dims.h"
#include "runtime/plane_reader.h"

namespace forebay::cuda {
namespace {

class AttentionKernel final : public AttentionBase, public PlaneReader, public GatheringKernel {
 public:
  AttentionKernel(DType type, StatePtr state) : AttentionBase("cuda.attention", std::move(state)), type_(type) {}

  Status setup(const PrepareContext& context) override {
    const NodeView& node = context.node;
    FB_ASSIGN(const ops::AttentionDims d, ops::attention_dims(node, context.inputs));
    FB_ASSIGN(const ops::AttentionMask mask, ops::check_attention(node, context.inputs, d));
    task_ = AttentionTask();
    task_.type = type_;
    task_.batch = d.batch;
    packed_ = d.packed;
    task_.q_heads = d.q_heads;
    task_.kv_heads = d.kv_heads;
    task_.queries = d.queries;
    task_.keys = d.keys;
    task_.past = d.past;
    task_.head = d.head;
    task_.value_head = d.value_head;
    set_strides(task_.q_strides, d.packed, d.q_heads, d.queries, d.head);
    set_strides(task_.k_strides, d.packed, d.kv_heads, d.keys, d.head);
    set_strides(task_.v_strides, d.packed, d.kv_heads, d.keys, d.value_head);
    set_strides(task_.y_strides, d.packed, d.q_heads, d.queries, d.value_head);
    task_.mask_length = mask.length;
    std::copy(mask.strides.begin(), mask.strides.end(), task_.mask_strides);
    task_.scale = node.has("scale") ? node.real("scale", 1) : static_cast<float>(1.0 / std::sqrt(static_cast<double>(d.head)));
    task_.softcap = node.real("softcap", 0);
    task_.mask_fill = node.real("mask_fill", -std::numeric_limits<float>::infinity());
    task_.causal = node.integer("is_causal", 0) != 0;
    if (node.domain() == "forebay") task_.empty_rows = node.integer("nan_rows", 0) != 0 ? EmptyRows::zero_when_nan : EmptyRows::as_softmax;
    return plan(node);
  }

  // Keys and values that come whole.
  bool set_pitch(std::size_t input, std::int64_t elements) override {
    if ((input != 1 && input != 2) || packed_ || task_.past > 0) return false;
    const std::int64_t width = input == 1 ? task_.head : task_.value_head;
    auto& strides = input == 1 ? task_.k_strides : task_.v_strides;
    set_strides(strides, false, task_.kv_heads, task_.keys, width);
    if (elements > 0) strides[1] = elements;
    if (elements > 0) strides[0] = task_.kv_heads * elements;
    return true;
  }

  Status run(const KernelCall& call) override {
    AttentionTask task = task_of(call);
    const std::byte *k = input_of(call, 1), *v = input_of(call, 2), *past_key = input_of(call, ops::kAttentionPastKey),
                    *past_value = input_of(call, ops::kAttentionPastValue);
    FB_TRY(append(output_of(call, 1), k, past_key, task.k_strides, task.head));
    FB_TRY(append(output_of(call, 2), v, past_value, task.v_strides, task.value_head));
    task.k = k;
    task.v = v;
    task.past_key = past_key;
    task.past_value = past_value;
    return attend(task, call);
  }

  // Decoding: the Concats that put a row behind the caches, and the rotations of that row and of the queries.
  Result<bool> run_with(std::span<const GroupedKernel::Member> ahead, const KernelCall& own) override {
    AttentionAround around;
    if (task_.way != AttentionWay::one || output_of(own, 1) != nullptr || output_of(own, 2) != nullptr) return false;
    std::size_t found = 0;
    for (const GroupedKernel::Member& member : ahead) {
      const auto* const appender = dynamic_cast<const RowAppender*>(member.kernel);
      AppendedRow row;
      if (appender == nullptr || !appender->appended_row(member.calls[0], &row)) continue;
      if (row.present == input_of(own, 1)) around.keys = row, ++found;
      if (row.present == input_of(own, 2)) around.values = row, ++found;
    }
    for (const GroupedKernel::Member& member : ahead) {
      const auto* const turner = dynamic_cast<const RowTurner*>(member.kernel);
      TurnedRows rows;
      if (turner == nullptr || !turner->turned_rows(member.calls[0], &rows)) continue;
      if (rows.y == input_of(own, 0)) around.turned_queries = rows, ++found;
      if (rows.y == around.keys.now) around.turned_keys = rows, ++found;
    }
    const AttentionTask task = task_of(own);
    if (found != ahead.size() || !read_once(ahead, own) || !serves_attention_around(task, around)) return false;
    FB_TRY(check(launch_attention_around(task, around, queue_stream())));
    return true;
  }

 private:
  // What each of these makes is read by one launch, as one operand: nobody else of them needs it, though it is written all the same.
  static bool read_once(std::span<const GroupedKernel::Member> ahead, const KernelCall& own) {
    for (const GroupedKernel::Member& writer : ahead) {
      const auto reads = [&](const KernelCall& call) {
        return std::count_if(call.inputs.begin(), call.inputs.end(), [&](const ConstTensorView& input) {
          return input.present() && input.data == writer.calls[0].outputs[0].data;
        });
      };
      std::ptrdiff_t readers = reads(own);
      for (const GroupedKernel::Member& reader : ahead) readers += &reader != &writer ? reads(reader.calls[0]) : 0;
      if (readers != 1) return false;
    }
    return true;
  }
  AttentionTask task_of(const KernelCall& call) const {
    AttentionTask task = task_;
    task.q = input_of(call, 0);
    task.mask = input_of(call, ops::kAttentionMask);
    if (task.mask != nullptr) task.mask_type = call.inputs[ops::kAttentionMask].dtype;
    task.lengths = reinterpret_cast<const std::int64_t*>(input_of(call, ops::kAttentionLengths));
    task.y = call.outputs[0].data;
    return task;
  }

  const DType type_;
  bool packed_ = false;
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
